//! A server of the Model Context Protocol with everything that the official conformance suite asks of one, on the plumbing that
//! serves saga's own tools. What it has and answers is in `everything.json`; `just conformance` runs the suite against it.
//!
//! ```sh
//! cargo run -p api --example everything -- 127.0.0.1:8765   # at http://127.0.0.1:8765/mcp
//! ```

// What the suite still asks for and a later revision of the protocol has taken away is marked so.
#![expect(deprecated, reason = "the suite tests the revision that has logging, sampling and subscriptions")]

use std::sync::LazyLock;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientResult, CompleteRequestParams,
    CompleteResult, ContentBlock, CreateMessageRequestParams, ElicitRequest, ElicitRequestParams, ErrorData,
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, Implementation, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, LoggingLevel,
    LoggingMessageNotificationParam, PaginatedRequestParams, ProgressNotificationParam,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, SamplingMessage, ServerCapabilities,
    ServerConfig, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What it has and answers.
static EVERYTHING: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("everything.json")).expect("the file is JSON"));

/// Between two messages of one call, so that they come one after the other.
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8765".to_string());
    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("serving at http://{}/mcp", listener.local_addr()?);
    axum::serve(listener, api::mcp::mount("/mcp", || Everything, true)).await
}

#[derive(Clone)]
struct Everything;

/// The entries of a list, without what is for this program alone.
fn listed<T: DeserializeOwned>(list: &str) -> Result<Vec<T>, ErrorData> {
    read(EVERYTHING[list].clone())
}

fn entry(list: &str, key: &str, value: &str) -> Result<&'static Value, ErrorData> {
    let entries = EVERYTHING[list].as_array().into_iter().flatten();
    let mut fitting = entries.filter(|entry| entry[key] == value);
    fitting.next().ok_or_else(|| ErrorData::invalid_params(format!("there is no {value}"), None))
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

impl ServerHandler for Everything {
    fn get_info(&self) -> ServerConfig {
        let has = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_prompts()
            .enable_completions()
            .enable_logging();
        let mut info = ServerConfig::new(has.build());
        info.server_info = Implementation::new("everything", "1");
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(listed("tools")?))
    }

    async fn call_tool(
        &self,
        asked: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = entry("tools", "name", &asked.name)?;
        let given = Value::Object(asked.arguments.unwrap_or_default());
        for text in tool["logs"].as_array().into_iter().flatten() {
            let said = LoggingMessageNotificationParam::new(LoggingLevel::Info, text.clone());
            // A client that has gone hears nothing, and the call ends with it.
            let _ = context.peer.notify_logging_message(said).await;
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(token) = context.meta.get_progress_token() {
            for share in tool["progress"].as_array().into_iter().flatten() {
                let share = share.as_f64().unwrap_or_default();
                let said = ProgressNotificationParam::new(token.clone(), share).with_total(100.0);
                let _ = context.peer.notify_progress(said).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
        if tool["samples"] == true {
            let prompt = given["prompt"].as_str().unwrap_or_default();
            let asked = CreateMessageRequestParams::new(vec![SamplingMessage::user_text(prompt)], 100);
            let said = context.peer.create_message(asked).await;
            return Ok(told(said.map(|said| format!("LLM response: {:?}", said.message.content))));
        }
        if let schema @ Value::Object(_) = &tool["elicits"] {
            let message = given["message"].as_str().unwrap_or("Please fill this in.").to_string();
            let asked = json!({"mode": "form", "message": message, "requestedSchema": schema});
            let asked: ElicitRequestParams = read(asked)?;
            let said = context.peer.send_request(ElicitRequest::new(asked).into()).await;
            return Ok(told(said.map(|said| match said {
                ClientResult::ElicitResult(said) => {
                    format!("action={:?}, content={:?}", said.action, said.content)
                }
                other => format!("{other:?}"),
            })));
        }
        Ok(read::<CallToolResult>(tool["result"].clone())?.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(listed("resources")?))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(listed("resourceTemplates")?))
    }

    async fn read_resource(
        &self,
        asked: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let part = asked.uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
        let content = match part {
            Some(id) => json!({"uri": asked.uri, "mimeType": "application/json",
                               "text": json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")}).to_string()}),
            None => entry("resources", "uri", &asked.uri)?["content"].clone(),
        };
        Ok(ReadResourceResult::new(vec![read(content)?]).into())
    }

    async fn subscribe(
        &self,
        _: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(listed("prompts")?))
    }

    async fn get_prompt(
        &self,
        asked: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let prompt = entry("prompts", "name", &asked.name)?;
        let mut messages = prompt["messages"].to_string();
        for (name, value) in asked.arguments.into_iter().flatten() {
            messages = messages.replace(&format!("{{{name}}}"), value.as_str().unwrap_or_default());
        }
        let messages: Value = serde_json::from_str(&messages).unwrap_or_default();
        Ok(GetPromptResult::new(read(messages)?).into())
    }

    async fn complete(
        &self,
        _: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        read(json!({"completion": {"values": ["paris", "park", "party"], "total": 3, "hasMore": false}}))
    }

    async fn set_level(
        &self,
        _: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }
}

/// What a client answered to something it was asked.
fn told(answer: Result<String, rmcp::ServiceError>) -> CallToolResponse {
    let (ok, text) = match answer {
        Ok(text) => (true, text),
        Err(error) => (false, error.to_string()),
    };
    let content = vec![ContentBlock::text(text)];
    if ok { CallToolResult::success(content).into() } else { CallToolResult::error(content).into() }
}

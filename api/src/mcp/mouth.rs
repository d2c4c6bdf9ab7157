//! This service as a server of the protocol: what another agent asks for, asked of the HTTP API with that agent's own key.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::request::Parts;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation,
    ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ServerCapabilities, ServerConfig,
    Tool,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler};
use serde_json::{Map, Value, json};

use super::tools::{self, INSTRUCTIONS, Which, arguments};
use super::waiting;
use crate::auth::{self, Key};
use crate::cli::reach::Server;
use crate::client::{Client, Refusal};
use crate::config::Folders;
use crate::failure::Failure;
use crate::memories::{MemoryPage, MemorySearch};
use crate::wire;

/// How long `wait` waits when nothing else is asked for, and at most. Many clients give up on a call after a minute.
const WAIT_S: u64 = 45;
const WAIT_MAX_S: u64 = 600;

/// Who an approval is said to come from: the other agent's user is not known here.
const BY: &str = "another agent, over MCP";

/// A server that speaks for the service.
#[derive(Clone)]
pub(crate) struct Mouth {
    way: Way,
}

/// How it reaches the service.
#[derive(Clone)]
pub(crate) enum Way {
    /// It is within: the routes, and the key that each request shows.
    Within(Router),
    /// It is a command beside a service, looked for with each call: a service may be started anew meanwhile.
    Beside(Box<(Server, Folders)>),
}

impl Mouth {
    pub(crate) fn new(way: Way) -> Mouth {
        Mouth { way }
    }

    async fn client(&self, context: &RequestContext<RoleServer>) -> Result<Client, Failure> {
        match &self.way {
            Way::Within(routes) => {
                let parts = context.extensions.get::<Parts>();
                let key = parts.and_then(|parts| auth::presented(&parts.headers)).map(str::to_string);
                Ok(Client::within(routes.clone(), key.map(Key::given)))
            }
            Way::Beside(at) => at.0.running(&at.1).await?.ok_or_else(|| {
                Failure::new("no saga service is running here")
                    .next("start it with `saga up`, or set SAGA_SERVER and SAGA_KEY")
            }),
        }
    }

    async fn perform(
        &self,
        which: Which,
        given: Option<Map<String, Value>>,
        context: &RequestContext<RoleServer>,
    ) -> Result<Value, String> {
        let client = self.client(context).await.map_err(|failure| failure.to_string())?;
        let no = |refusal: Refusal| Failure::from(refusal).to_string();
        match which {
            Which::StartSession => {
                let tools::Start { workspace, task, instructions, model, memory } = arguments(given)?;
                let new = wire::NewSession {
                    workspace,
                    instructions,
                    model,
                    memory,
                    ..wire::NewSession::default()
                };
                let session = client.create(&new).await.map_err(no)?;
                client
                    .input(&session.id, &wire::NewInput { text: task, ..wire::NewInput::default() })
                    .await
                    .map_err(no)?;
                Ok(json!({"session": session.id, "workspace": session.workspace, "model": session.model}))
            }
            Which::Send => {
                let tools::Say { session, text, id } = arguments(given)?;
                let admitted =
                    client.input(&session, &wire::NewInput { id, text, until: None }).await.map_err(no)?;
                Ok(json!({"session": session, "seq": admitted.seq, "fresh": admitted.fresh}))
            }
            Which::Wait => {
                let tools::Wait { session, timeout_s } = arguments(given)?;
                let at_most = Duration::from_secs(timeout_s.unwrap_or(WAIT_S).min(WAIT_MAX_S));
                let progress = Pulse::new(context);
                let say = |news| progress.say(news);
                let waited = waiting::wait(&client, &session, at_most, &say);
                let now = tokio::select! {
                    waited = waited => waited.map_err(no)?,
                    () = context.ct.cancelled() => return Err("nobody waits any more".to_string()),
                };
                waiting::standing(&client, &now).await.map_err(no)
            }
            Which::Approve => {
                let tools::Approve { session, call, allowed } = arguments(given)?;
                client
                    .approve(
                        &session,
                        &wire::Approval { call, allowed, always: false, by: Some(BY.to_string()) },
                    )
                    .await
                    .map_err(no)?;
                Ok(json!({"session": session, "allowed": allowed}))
            }
            Which::Interrupt => {
                let tools::Of { session } = arguments(given)?;
                let done = client.interrupt(&session).await.map_err(no)?;
                Ok(json!({"session": session, "was_running": done.fresh}))
            }
            Which::ListSessions => {
                let tools::List { limit } = arguments(given)?;
                let page = client.sessions(None).await.map_err(no)?;
                let brief = |session: &wire::Session| {
                    json!({"session": session.id, "title": session.title, "status": session.status,
                           "workspace": session.workspace, "updated_ms": session.updated_ms})
                };
                let limit = limit.unwrap_or(20).clamp(1, 50);
                Ok(json!({"sessions": page.sessions.iter().take(limit).map(brief).collect::<Vec<_>>()}))
            }
            Which::Changes => {
                let tools::Of { session } = arguments(given)?;
                Ok(json!(client.changes(&session, None, None).await.map_err(no)?))
            }
            Which::SearchMemory => {
                let tools::SearchMemory { query, limit } = arguments(given)?;
                let limit = Some(limit.unwrap_or(10).clamp(1, 50));
                let wish = MemorySearch { text: query, limit, ..MemorySearch::default() };
                let found: MemoryPage =
                    client.memories(hyper::Method::POST, "/search", Some(&wish)).await.map_err(no)?;
                Ok(json!(found))
            }
            Which::SearchCode => {
                let wish: tools::SearchCode = arguments(given)?;
                Ok(json!(client.search_code(&wish).await.map_err(no)?))
            }
        }
    }
}

impl ServerHandler for Mouth {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info =
            Implementation::new("saga", env!("CARGO_PKG_VERSION")).with_title("saga, a coding agent");
        info.instructions = Some(INSTRUCTIONS.to_string());
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::all()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tools::all().into_iter().find(|tool| tool.name == name)
    }

    async fn call_tool(
        &self,
        asked: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(which) = Which::named(&asked.name) else {
            return Err(ErrorData::invalid_params(format!("there is no tool named {:?}", asked.name), None));
        };
        let result = match self.perform(which, asked.arguments, &context).await {
            Ok(value) => {
                let mut result = CallToolResult::success(vec![ContentBlock::text(in_words(&value))]);
                result.structured_content = Some(value);
                result
            }
            Err(why) => CallToolResult::error(vec![ContentBlock::text(why)]),
        };
        Ok(result.into())
    }
}

/// A result as a model reads it. An answer is a text with lines of its own, which JSON would put on one.
fn in_words(value: &Value) -> String {
    let mut rest = value.clone();
    let long = ["answer", "text"].into_iter().find_map(|name| {
        let text = rest.as_object_mut()?.shift_remove(name)?;
        text.as_str().map(|text| format!("\n\n{name}:\n{text}"))
    });
    let rest = serde_json::to_string_pretty(&rest).expect("JSON has only string keys");
    format!("{rest}{}", long.unwrap_or_default())
}

/// Says now and then that something is still going on, to a client that wants to hear it.
struct Pulse<'a> {
    context: &'a RequestContext<RoleServer>,
    beats: AtomicU32,
}

impl Pulse<'_> {
    fn new(context: &RequestContext<RoleServer>) -> Pulse<'_> {
        Pulse { context, beats: AtomicU32::new(0) }
    }

    fn say(&self, news: String) {
        let Some(token) = self.context.meta.get_progress_token() else { return };
        let beat = self.beats.fetch_add(1, Ordering::Relaxed) + 1;
        let said = ProgressNotificationParam::new(token, f64::from(beat)).with_message(news);
        let peer = self.context.peer.clone();
        // Whoever does not hear it hears the result; nothing waits for it to be sent.
        tokio::spawn(async move { peer.notify_progress(said).await });
    }
}

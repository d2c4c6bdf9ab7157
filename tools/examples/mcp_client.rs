//! The client of the Model Context Protocol by itself: reaches the server at the URL that is its last argument, lists its tools and calls
//! each with made-up arguments. `just conformance` lets the official suite watch it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tools::mcp::{Address, Server, Way};
use tools::{Call, Policy, Sandbox, Spec, Toolbox};

fn main() -> ExitCode {
    // A sandbox starts this program again as its helper.
    tools::maybe_become_helper();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    match runtime.block_on(visit()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

async fn visit() -> Result<(), String> {
    let url = std::env::args().next_back().filter(|url| url.starts_with("http")).ok_or("give a URL")?;
    let server = Server { answer_defaults: true, ..Server::new("there", Way::Url(Address::at(url))) };
    server.check()?;
    let folder = std::env::temp_dir().join(format!("saga-mcp-client-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let called = call_all(server, &folder).await;
    // It is empty; what cannot be removed is an empty folder among temporary ones.
    let _ = std::fs::remove_dir(&folder);
    called
}

async fn call_all(server: Server, folder: &std::path::Path) -> Result<(), String> {
    let sandbox = Sandbox::open(Policy::new(folder)).await.map_err(|error| error.to_string())?;
    let sandbox = Arc::new(sandbox);
    let toolbox = Toolbox::new(None, &[server]);
    let equipped = toolbox.equip(&sandbox, &BTreeMap::new()).await.map_err(|error| error.to_string())?;
    for equipment in equipped {
        if let Some(why) = equipment.trouble {
            return Err(why);
        }
        for spec in &equipment.tools {
            let call = Call { id: spec.name.clone(), name: spec.name.clone(), arguments: made_up(spec) };
            let out = |text: &str| eprint!("{text}");
            let done = toolbox.perform(&call, &sandbox, &out).await.map_err(|error| error.to_string())?;
            println!("{} {}: {}", spec.name, if done.ok { "ok" } else { "failed" }, done.text);
        }
    }
    Ok(())
}

/// Arguments that fit a tool's schema, nearly.
fn made_up(spec: &Spec) -> Value {
    let properties = spec.parameters["properties"].as_object();
    let values: Map<String, Value> = properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| {
            let value = match schema["type"].as_str() {
                Some("number" | "integer") => json!(5),
                Some("boolean") => json!(true),
                Some("array") => json!([]),
                Some("object") => json!({}),
                Some(_) | None => json!("text"),
            };
            (name.clone(), value)
        })
        .collect();
    Value::Object(values)
}

//! The client of the Model Context Protocol by itself: reaches the server at the URL that is its last argument, lists its tools and calls
//! each with made-up arguments. `just conformance` lets the official suite watch it.
//!
//! Where a server wants somebody to log in, it plays the person with the browser: it visits the page and comes back at once. What it
//! logs in with stands in `MCP_CONFORMANCE_CONTEXT`, as the suite says.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tools::mcp::login::{Client, Company, Hidden, Login, Proof, Standing, Who};
use tools::mcp::{Address, Server, Way};
use tools::{Call, Policy, Sandbox, Spec, Toolbox};

/// How often it logs in at most: more often than any server should make it, so that it is the client that ends a loop.
const LOGINS_MAX: u32 = 6;

/// Where the browser would come back to. Nobody listens: it is read from the answer that leads there.
const REDIRECT: &str = "http://127.0.0.1:8976/callback";

/// A document that says who the client is, by the name that the suite looks for.
const DOCUMENT: &str = "https://conformance-test.local/client-metadata.json";

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
    let folder = std::env::temp_dir().join(format!("saga-mcp-client-{}", std::process::id()));
    let workspace = folder.join("work");
    std::fs::create_dir_all(&workspace).map_err(|error| error.to_string())?;
    let called = async {
        let login = login(&folder)?;
        let way = Way::Url(Address { login: Box::new(login), ..Address::at(url) });
        let mut server = Server { answer_defaults: true, ..Server::new("there", way) };
        server.keep_login_in(&folder.join("logins"));
        server.check()?;
        call_all(&server, &workspace).await
    };
    let called = called.await;
    // What cannot be removed lies among temporary files.
    let _ = std::fs::remove_dir_all(&folder);
    called
}

/// How it is to log in, as the suite says.
fn login(folder: &Path) -> Result<Login, String> {
    let context = std::env::var("MCP_CONFORMANCE_CONTEXT").unwrap_or_else(|_| "{}".to_string());
    let context: Value = serde_json::from_str(&context).map_err(|error| error.to_string())?;
    let scenario = std::env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default();
    let file = |name: &str| -> Result<Option<std::path::PathBuf>, String> {
        let Some(text) = context[name].as_str() else { return Ok(None) };
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok(Some(path))
    };
    let proof = match (file("client_secret")?, file("private_key_pem")?) {
        (Some(secret), _) => Proof::Secret(Hidden::File(secret)),
        (None, Some(key)) => Proof::Key(key),
        (None, None) => Proof::Nothing,
    };
    let named = |name: &str| context[name].as_str().map(str::to_string);
    let client = named("client_id").map(|id| Client { id, proof });
    let who = match file("idp_id_token")? {
        Some(id_token) => Who::Company(Box::new(Company {
            token_endpoint: named("idp_token_endpoint").unwrap_or_default(),
            client: Client { id: named("idp_client_id").unwrap_or_default(), proof: Proof::Nothing },
            id_token: Hidden::File(id_token),
        })),
        None if scenario.starts_with("auth/client-credentials") => Who::Client,
        None => Who::Person,
    };
    Ok(Login { who, client, document: Some(DOCUMENT.to_string()), ..Login::default() })
}

async fn call_all(server: &Server, workspace: &Path) -> Result<(), String> {
    let sandbox = Sandbox::open(Policy::new(workspace)).await.map_err(|error| error.to_string())?;
    let sandbox = Arc::new(sandbox);
    let toolbox = Toolbox::new(None, std::slice::from_ref(server));
    let mut logins = 0;
    loop {
        let done = call_once(&toolbox, &sandbox).await;
        if !matches!(server.standing()?, Standing::Wanted { .. }) || logins == LOGINS_MAX {
            return done;
        }
        logins += 1;
        let visit = server.log_in(REDIRECT).await?;
        let back = browse(visit.url()).await?;
        visit.finish(&back).await?;
        eprintln!("logged in");
    }
}

async fn call_once(toolbox: &Toolbox, sandbox: &Arc<Sandbox>) -> Result<(), String> {
    let equipped = toolbox.equip(sandbox, &BTreeMap::new()).await.map_err(|error| error.to_string())?;
    for equipment in equipped {
        if let Some(why) = equipment.trouble {
            return Err(why);
        }
        for spec in &equipment.tools {
            let call = Call { id: spec.name.clone(), name: spec.name.clone(), arguments: made_up(spec) };
            let out = |text: &str| eprint!("{text}");
            let done = toolbox.perform(&call, sandbox, &out).await.map_err(|error| error.to_string())?;
            println!("{} {}: {}", spec.name, if done.ok { "ok" } else { "failed" }, done.text);
        }
    }
    Ok(())
}

/// Visits a page, as a person would who agrees to all of it; gives back where it leads.
async fn browse(url: &str) -> Result<String, String> {
    let place = url.strip_prefix("http://").ok_or("the page is not at http://")?;
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let failed = |error: std::io::Error| format!("the page cannot be visited: {error}");
    let mut stream = tokio::net::TcpStream::connect(authority).await.map_err(failed)?;
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(failed)?;
    let leads = answer.lines().take_while(|line| !line.is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_string())
    });
    leads.ok_or_else(|| format!("the page leads nowhere: {}", answer.lines().next().unwrap_or_default()))
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

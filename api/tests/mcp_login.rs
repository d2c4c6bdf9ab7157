//! `saga mcp login` as a person meets it: with a browser on this machine, and with one elsewhere whose last address is pasted.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};

/// A server of one tool, and where clients log in to it: at one address, which it is told.
async fn town() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let here = format!("http://{address}");
    let resource = json!({"resource": format!("{here}/mcp"), "authorization_servers": [here], "scopes_supported": ["read"]});
    let authority = json!({
        "issuer": here, "authorization_endpoint": format!("{here}/authorize"), "token_endpoint": format!("{here}/token"),
        "registration_endpoint": format!("{here}/register"), "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
    });
    let register = || async { (StatusCode::CREATED, Json(json!({"client_id": "c1"}))) };
    let token = || async {
        Json(json!({"access_token": "hunter2-token", "token_type": "Bearer", "expires_in": 3600}))
    };
    let town = Router::new()
        .route(
            "/.well-known/oauth-protected-resource/mcp",
            get(|State(known): State<(Value, Value)>| async { Json(known.0) }),
        )
        .route(
            "/.well-known/oauth-authorization-server",
            get(|State(known): State<(Value, Value)>| async { Json(known.1) }),
        )
        .route("/register", post(register))
        .route("/authorize", get(agrees))
        .route("/token", post(token))
        .route("/mcp", post(mcp))
        .with_state((resource, authority));
    tokio::spawn(async move { axum::serve(listener, town).await });
    address
}

/// The page that a person visits, who agrees.
async fn agrees(Query(asked): Query<BTreeMap<String, String>>) -> Redirect {
    Redirect::to(&format!("{}?code=c&state={}", asked["redirect_uri"], asked["state"]))
}

async fn mcp(headers: HeaderMap, Json(said): Json<Value>) -> Response {
    if headers.get("authorization").is_none_or(|key| key != "Bearer hunter2-token") {
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", "Bearer")]).into_response();
    }
    let result = match said["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": said["params"]["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": "far", "version": "1"},
        }),
        Some("tools/list") => json!({"tools": [{"name": "act", "inputSchema": {"type": "object"}}]}),
        Some(_) | None => return StatusCode::ACCEPTED.into_response(),
    };
    Json(json!({"jsonrpc": "2.0", "id": said["id"], "result": result})).into_response()
}

/// What is at a URL: its status and headers, and all of it.
async fn visit(url: &str) -> String {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(authority).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn saga(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
    command.args(args).env_clear().env("SAGA_HOME", home).env("SAGA_OFFLINE", "1").current_dir(home);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn said(home: &Path, args: &[&str]) -> String {
    let output = saga(home, args).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

/// Begins a login; the page to visit, and what is printed after it.
async fn begin(home: &Path, stdin: Stdio) -> (Child, String, Lines<BufReader<ChildStdout>>) {
    let mut child = saga(home, &["mcp", "login", "far"]).stdin(stdin).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap();
        let Some(line) = line else {
            let output = child.wait_with_output().await.unwrap();
            panic!("{}", String::from_utf8_lossy(&output.stderr));
        };
        if line.starts_with("http://") {
            return (child, line, lines);
        }
    }
}

async fn rest(mut child: Child, mut lines: Lines<BufReader<ChildStdout>>) -> (bool, String) {
    let mut all = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        all += &line;
        all.push('\n');
    }
    (child.wait().await.unwrap().success(), all)
}

async fn home() -> (tempfile::TempDir, SocketAddr) {
    let home = tempfile::tempdir().unwrap();
    let town = town().await;
    let settings = format!("[mcp.far]\nurl = \"http://{town}/mcp\"\n");
    std::fs::write(home.path().join("config.toml"), settings).unwrap();
    (home, town)
}

#[tokio::test]
async fn somebody_logs_in_with_a_browser_on_this_machine() {
    let (home, town) = home().await;
    let home = home.path();
    let wanted = said(home, &["mcp", "check", "far"]).await;
    assert!(wanted.contains("run `saga mcp login far`"), "{wanted}");
    assert!(said(home, &["mcp", "list"]).await.contains("wanted: `saga mcp login far`"));

    let (child, page, lines) = begin(home, Stdio::null()).await;
    assert!(page.starts_with(&format!("http://{town}/authorize?")) && page.contains("scope=read"), "{page}");
    let answer = visit(&page).await;
    let back = answer.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().to_string();
    let own = back.split_once("/callback").unwrap().0;
    // A browser asks for more than that, and others may knock.
    for other in ["/favicon.ico", "/callback", "/callback?code=evil&state=evil", "/?code=evil"] {
        assert!(visit(&format!("{own}{other}")).await.starts_with("HTTP/1.1 404"), "{other}");
    }
    assert!(visit(&back).await.starts_with("HTTP/1.1 200"));
    let (well, printed) = rest(child, lines).await;
    assert!(well && printed.contains("logged in to far") && printed.contains("far__act"), "{printed}");

    let list = said(home, &["mcp", "list"]).await;
    assert!(list.contains(&format!("at http://{town}")), "{list}");
    for args in [&["config", "print"][..], &["mcp", "list"], &["mcp", "check", "far"]] {
        assert!(!said(home, args).await.contains("hunter2"), "{args:?}");
    }
    assert!(said(home, &["mcp", "logout", "far"]).await.contains("is forgotten"));
    assert!(said(home, &["mcp", "check", "far"]).await.contains("saga mcp login far"));
}

#[tokio::test]
async fn somebody_with_a_browser_elsewhere_pastes_where_it_ended() {
    // A service has no browser, and the one that somebody has does not reach the service's loopback.
    let (home, _) = home().await;
    let (mut child, page, lines) = begin(home.path(), Stdio::piped()).await;
    let answer = visit(&page).await;
    let back = answer.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().to_string();
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("\nhttp://127.0.0.1/elsewhere\n{back}\n").as_bytes()).await.unwrap();
    let (well, printed) = rest(child, lines).await;
    assert!(printed.contains("that is not the address this login ends at"), "{printed}");
    assert!(well && printed.contains("logged in to far"), "{printed}");
}

#[tokio::test]
async fn a_login_that_cannot_be_says_why() {
    let (home, _) = home().await;
    let settings = "[mcp.far]\nurl = \"http://127.0.0.1:1/mcp\"\n[mcp.here]\ncommand = [\"x\"]\n\
                    [mcp.keyed]\nurl = \"http://127.0.0.1:1/mcp\"\nheaders = { Authorization = \"Bearer x\" }\n";
    std::fs::write(home.path().join("config.toml"), settings).unwrap();
    for (name, why) in [
        ("far", "127.0.0.1:1 cannot be reached"),
        ("here", "needs no login"),
        ("keyed", "in the header Authorization"),
        ("none", "there is no server \"none\""),
    ] {
        let said = said(home.path(), &["mcp", "login", name]).await;
        assert!(said.starts_with("error: ") && said.contains(why), "{name}: {said}");
    }
}

//! Logging in to servers of tools: a server and the place where clients log in to it, both on this machine, and what sessions do.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

mod kit;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kit::{Answer, Seen, Server};
use serde_json::{Value, json};
use tools::egress::Contact;
use tools::mcp::login::{Client, Hidden, Login, Proof, Standing, Who};
use tools::mcp::{Address, Equipment, Server as Settings, Way};
use tools::{Call, Outcome, Policy, Sandbox, Toolbox};

const REDIRECT: &str = "http://127.0.0.1:8976/callback";

/// What the place where clients log in knows and does.
#[derive(Default)]
struct Desk {
    /// The token that opens the server now, and the one that renews it.
    token: String,
    refresh: String,
    /// How many of each kind of request there were.
    granted: Vec<String>,
    registered: u32,
    /// What the token must be good for before a tool runs.
    needs: String,
    scope: String,
    /// Whether it renews.
    renews: bool,
    /// What the server says of itself instead of the truth.
    lies: Option<Value>,
}

type Town = Arc<Mutex<Desk>>;

fn json_answer(status: u16, body: &Value) -> Answer {
    (status, vec![("content-type".to_owned(), "application/json".to_owned())], body.to_string().into_bytes())
}

/// The fields of a form, or of a query.
fn fields(text: &str) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

fn town(desk: &Town) -> Server {
    let desk = desk.clone();
    Server::start(None, move |port, seen| {
        let here = format!("http://127.0.0.1:{port}");
        let mut desk = desk.lock().unwrap();
        match seen.line.split(' ').nth(1).unwrap() {
            "/.well-known/oauth-protected-resource/mcp" => {
                let own = json!({"resource": format!("{here}/mcp"), "authorization_servers": [here]});
                json_answer(200, desk.lies.as_ref().unwrap_or(&own))
            }
            "/.well-known/oauth-authorization-server" => json_answer(
                200,
                &json!({
                    "issuer": here,
                    "authorization_endpoint": format!("{here}/authorize"),
                    "token_endpoint": format!("{here}/token"),
                    "registration_endpoint": format!("{here}/register"),
                    "code_challenge_methods_supported": ["S256"],
                    "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
                }),
            ),
            "/register" => {
                desk.registered += 1;
                let asked: Value = serde_json::from_str(&seen.body).unwrap();
                assert_eq!(asked["redirect_uris"], json!([REDIRECT]));
                json_answer(201, &json!({"client_id": "registered", "redirect_uris": [REDIRECT]}))
            }
            "/token" => give(&mut desk, seen),
            "/mcp" => mcp(&desk, seen),
            _ => (404, Vec::new(), Vec::new()),
        }
    })
}

/// Gives out a token.
fn give(desk: &mut Desk, seen: &Seen) -> Answer {
    let form = fields(&seen.body);
    let kind = form["grant_type"].clone();
    desk.granted.push(kind.clone());
    let good = match kind.as_str() {
        "authorization_code" => {
            form["code"] == "code-1" && form["redirect_uri"] == REDIRECT && form["client_id"] == "registered"
        }
        // It is good for once.
        "refresh_token" => desk.renews && form["refresh_token"] == desk.refresh,
        "client_credentials" => seen.head.contains("authorization: basic "),
        _ => false,
    };
    if !good || !form["resource"].ends_with("/mcp") {
        return json_answer(400, &json!({"error": "invalid_grant", "error_description": "no\u{1b}[31m"}));
    }
    let number = desk.granted.len();
    (desk.token, desk.refresh) = (format!("access-hunter2-{number}"), format!("refresh-hunter2-{number}"));
    desk.scope = form.get("scope").cloned().unwrap_or_default();
    let mut token = json!({"access_token": desk.token, "token_type": "Bearer", "expires_in": 3600});
    if kind != "client_credentials" {
        token["refresh_token"] = json!(desk.refresh);
    }
    json_answer(200, &token)
}

/// The server itself, which lets nobody in without a token.
fn mcp(desk: &Desk, seen: &Seen) -> Answer {
    let port_line = seen.head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata =
        format!("resource_metadata=\"http://{port_line}/.well-known/oauth-protected-resource/mcp\"");
    let away = |status, says: String| (status, vec![("www-authenticate".to_owned(), says)], Vec::new());
    // The kit keeps heads in lower case.
    if desk.token.is_empty()
        || !seen.head.contains(&format!("authorization: bearer {}", desk.token.to_lowercase()))
    {
        return away(401, format!("Bearer error=\"invalid_token\", scope=\"read\", {metadata}"));
    }
    let said: Value = serde_json::from_str(&seen.body).unwrap_or_default();
    let result = match said["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": said["params"]["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": "far", "version": "1"},
        }),
        Some("tools/list") => json!({"tools": [{"name": "act", "inputSchema": {"type": "object"}}]}),
        Some("tools/call")
            if !desk.scope.split(' ').any(|scope| scope == desk.needs) && !desk.needs.is_empty() =>
        {
            return away(
                403,
                format!("Bearer error=\"insufficient_scope\", scope=\"{}\", {metadata}", desk.needs),
            );
        }
        Some("tools/call") => json!({"content": [{"type": "text", "text": "done"}]}),
        Some(_) => return (202, Vec::new(), Vec::new()),
        None => return (405, Vec::new(), Vec::new()),
    };
    json_answer(200, &json!({"jsonrpc": "2.0", "id": said["id"], "result": result}))
}

/// A session, with the logins of its service.
struct Scene {
    server: Settings,
    sandbox: Arc<Sandbox>,
    toolbox: Toolbox,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn with(url: &str, login: Login, logins: &Path) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let mut policy = Policy::new(folder.path().canonicalize().unwrap());
        policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
        let sandbox = Arc::new(Sandbox::open(policy).await.unwrap());
        let mut server =
            Settings::new("far", Way::Url(Address { login: Box::new(login), ..Address::at(url) }));
        server.keep_login_in(logins);
        server.check().unwrap();
        let toolbox = Toolbox::new(None, std::slice::from_ref(&server));
        Scene { server, sandbox, toolbox, _folder: folder }
    }

    async fn equip(&self) -> Equipment {
        self.toolbox.equip(&self.sandbox, &BTreeMap::new()).await.unwrap().remove(0)
    }

    async fn act(&self) -> Outcome {
        let call = Call { id: "1".to_owned(), name: "far__act".to_owned(), arguments: json!({}) };
        self.toolbox.perform(&call, &self.sandbox, &|_| ()).await.unwrap()
    }

    fn contacts(&self) -> Vec<Contact> {
        self.toolbox.contacts().0
    }

    /// Somebody logs in, as a browser would come back from the page.
    async fn log_in(&self) -> Result<BTreeMap<String, String>, String> {
        let visit = self.server.log_in(REDIRECT).await?;
        let asked = fields(visit.url().split_once('?').unwrap().1);
        let other = format!("{REDIRECT}?code=code-1&state=another");
        assert!(!visit.is_answered_by(&other));
        let back = format!("{REDIRECT}?code=code-1&state={}", asked["state"]);
        assert!(visit.is_answered_by(&back));
        visit.finish(&back).await?;
        Ok(asked)
    }
}

#[tokio::test]
async fn somebody_logs_in_once_and_every_session_goes_in_with_it() {
    let desk = Town::default();
    let (server, logins) = (town(&desk), tempfile::tempdir().unwrap());
    let logins = logins.path().join("mcp");
    let url = format!("http://{}/mcp", server.place());
    let scene = Scene::with(&url, Login::default(), &logins).await;
    let equipment = scene.equip().await;
    let trouble = equipment.trouble.unwrap();
    assert!(trouble.contains("run `saga mcp login far`"), "{trouble}");
    assert_eq!(scene.server.standing(), Ok(Standing::Wanted { scopes: vec!["read".to_owned()] }));

    let asked = scene.log_in().await.unwrap();
    let expected = [
        ("client_id", "registered"),
        ("code_challenge_method", "S256"),
        ("redirect_uri", REDIRECT),
        ("scope", "read"),
    ];
    for (name, value) in expected {
        assert_eq!(asked[name], value, "{asked:?}");
    }
    assert_eq!(asked["resource"], url);
    // What was promised when the page was asked for is kept when the code is shown.
    let token = server.seen().into_iter().find(|seen| seen.line.contains("/token")).unwrap();
    let verifier = fields(&token.body)["code_verifier"].clone();
    use base64::Engine as _;
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(&verifier);
    assert_eq!(asked["code_challenge"], base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest));

    // The session that was told to wait goes on, another has no need to, and nobody registers twice.
    let other = Scene::with(&url, Login::default(), &logins).await;
    for scene in [&scene, &other] {
        let equipment = scene.equip().await;
        assert_eq!((equipment.trouble, equipment.tools.len()), (None, 1));
        let done = scene.act().await;
        assert!(done.ok && done.text == "done", "{done:?}");
        let contacts = scene.contacts();
        assert!(contacts.iter().any(|contact| contact.secret), "{contacts:?}");
        assert!(!format!("{contacts:?} {done:?} {:?}", scene.server).contains("hunter2"));
    }
    assert!(matches!(scene.server.standing(), Ok(Standing::In { renews: true, .. })));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&logins), mode(&logins.join("far.json"))), (0o700, 0o600));
    assert_eq!(desk.lock().unwrap().registered, 1);
    scene.log_in().await.unwrap();
    assert_eq!(desk.lock().unwrap().registered, 1);
    // The name now stands for another URL: it gets nothing of this login.
    let moved = Scene::with(&format!("http://{}/mcp/", server.place()), Login::default(), &logins).await;
    assert_eq!(moved.server.standing(), Ok(Standing::Unasked));
    assert!(scene.server.log_out().await.unwrap());
    assert!(!scene.act().await.ok);
}

#[tokio::test]
async fn a_token_that_has_ended_is_renewed_once_for_all_sessions() {
    // What renews it is good for one time: the second session to use it would end the login of both.
    let desk = Town::default();
    desk.lock().unwrap().renews = true;
    let (server, logins) = (town(&desk), tempfile::tempdir().unwrap());
    let url = format!("http://{}/mcp", server.place());
    let first = Scene::with(&url, Login::default(), logins.path()).await;
    let second = Scene::with(&url, Login::default(), logins.path()).await;
    first.log_in().await.unwrap();
    assert_eq!((first.equip().await.trouble, second.equip().await.trouble), (None, None));
    desk.lock().unwrap().token = "ended".to_owned();
    let (one, two) = tokio::join!(first.act(), second.act());
    assert!(one.ok && two.ok, "{one:?} {two:?}");
    assert_eq!(desk.lock().unwrap().granted, ["authorization_code", "refresh_token"]);
    // When it is not renewed any more, somebody has to log in, and the session says so.
    {
        let mut desk = desk.lock().unwrap();
        (desk.token, desk.renews) = ("ended".to_owned(), false);
    }
    let refused = first.act().await;
    assert!(!refused.ok && refused.text.contains("run `saga mcp login far`"), "{refused:?}");
    assert!(matches!(first.server.standing(), Ok(Standing::Wanted { .. })));
    let asked = desk.lock().unwrap().granted.len();
    first.act().await;
    assert_eq!(desk.lock().unwrap().granted.len(), asked, "what was refused for good is not tried again");
}

#[tokio::test]
async fn a_service_logs_in_by_itself_and_asks_for_more_once() {
    // Nobody is there to stop a loop of requests for ever more.
    let desk = Town::default();
    let (server, logins) = (town(&desk), tempfile::tempdir().unwrap());
    let secret = logins.path().join("secret");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let client = Client { id: "me".to_owned(), proof: Proof::Secret(Hidden::File(secret)) };
    let login = Login { who: Who::Client, client: Some(client), ..Login::default() };
    let url = format!("http://{}/mcp", server.place());
    let scene = Scene::with(&url, login.clone(), logins.path()).await;
    assert_eq!(scene.equip().await.trouble, None);
    assert_eq!(desk.lock().unwrap().scope, "read");
    desk.lock().unwrap().needs = "write".to_owned();
    assert!(scene.act().await.ok);
    assert_eq!(desk.lock().unwrap().scope, "read write");
    assert_eq!(desk.lock().unwrap().granted.len(), 2);
    // One that is never satisfied is asked no more.
    {
        let mut desk = desk.lock().unwrap();
        (desk.scope, desk.needs) = (String::new(), "read".to_owned());
    }
    for _ in 0..3 {
        let refused = scene.act().await;
        assert!(!refused.ok && refused.text.contains("would not change that"), "{refused:?}");
    }
    assert_eq!(desk.lock().unwrap().granted.len(), 2);
    // The settings can say what is asked for; then a server talks nobody into more.
    let bounded = Login { scopes: vec!["read".to_owned()], ..login };
    let (other_logins, needs) = (tempfile::tempdir().unwrap(), "admin".to_owned());
    std::fs::create_dir_all(other_logins.path()).unwrap();
    desk.lock().unwrap().needs = needs;
    let scene = Scene::with(&url, bounded, other_logins.path()).await;
    assert_eq!(scene.equip().await.trouble, None);
    let refused = scene.act().await;
    assert!(refused.text.contains("\"admin\", which is not among the scopes"), "{refused:?}");
    assert_eq!(desk.lock().unwrap().scope, "read");
}

#[tokio::test]
async fn a_server_sends_nobody_where_the_operator_would_not() {
    // It chooses where clients log in, and would have the service knock at doors that only the service can reach.
    let desk = Town::default();
    let (server, logins) = (town(&desk), tempfile::tempdir().unwrap());
    let inside = Server::start(None, |_, _| kit::said("{}"));
    let url = format!("http://{}/mcp", server.place());
    let scene = Scene::with(&url, Login::default(), logins.path()).await;
    scene.equip().await;
    let own = |authority: &str| json!({"resource": url, "authorization_servers": [authority]});
    for (says, why) in [
        (own("http://docs.test"), "is not encrypted"),
        (own("https://10.1.2.3"), "10.1.2.3 is private"),
        (own("https://169.254.169.254/latest"), "is cloud metadata"),
        (own(&format!("https://127.0.0.2:{}", inside.port)), "127.0.0.2 is loopback"),
        (own("file:///etc/passwd"), "no URL to go to"),
        (json!({"resource": url, "authorization_servers": []}), "names no place"),
        (
            json!({"resource": "https://evil.test/mcp", "authorization_servers": ["https://a.test"]}),
            "not its URL",
        ),
    ] {
        desk.lock().unwrap().lies = Some(says.clone());
        let said = scene.server.log_in(REDIRECT).await.unwrap_err();
        assert!(said.contains(why), "{says}: {said}");
    }
    assert!(inside.seen().is_empty());
    // Where the settings say where clients log in, that is all there is.
    let login = Login { issuer: Some("https://login.test".to_owned()), ..Login::default() };
    let scene = Scene::with(&url, login, logins.path()).await;
    desk.lock().unwrap().lies = None;
    let said = scene.server.log_in(REDIRECT).await.unwrap_err();
    assert!(said.contains("its settings say https://login.test"), "{said}");
    let desk = desk.lock().unwrap();
    assert_eq!((desk.granted.len(), desk.registered), (0, 0));
}

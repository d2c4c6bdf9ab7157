//! Servers of tools behind a URL, as a session reaches them: only where the settings say, encrypted where they say so, and told.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

mod kit;

use std::collections::BTreeMap;
use std::sync::Arc;

use kit::{Answer, Authority, Seen, Server};
use serde_json::{Value, json};
use tools::egress::{Contact, Way};
use tools::mcp::{Address, Equipment, Server as Settings, Way as ServerWay};
use tools::{Call, Outcome, Policy, Sandbox, Toolbox};

/// A server with one tool that says again what it is told.
fn speaks(seen: &Seen) -> Answer {
    let kind = |kind: &str| vec![("content-type".to_owned(), kind.to_owned())];
    let said: Value = serde_json::from_str(&seen.body).unwrap_or_default();
    let result = match said["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": said["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "far", "version": "1"},
        }),
        Some("tools/list") => {
            let schema = json!({"type": "object", "properties": {"text": {"type": "string"}}});
            json!({"tools": [{"name": "echo", "inputSchema": schema}]})
        }
        Some("tools/call") => {
            json!({"content": [{"type": "text", "text": said["params"]["arguments"]["text"]}]})
        }
        Some(_) => return (202, Vec::new(), Vec::new()),
        None => return (405, Vec::new(), Vec::new()),
    };
    let answer = json!({"jsonrpc": "2.0", "id": said["id"], "result": result});
    (200, kind("application/json"), answer.to_string().into_bytes())
}

fn leads(to: String) -> Answer {
    (307, vec![("location".to_owned(), to)], Vec::new())
}

struct Scene {
    sandbox: Arc<Sandbox>,
    toolbox: Toolbox,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn with(address: Address) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let mut policy = Policy::new(folder.path().canonicalize().unwrap());
        policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
        let sandbox = Arc::new(Sandbox::open(policy).await.unwrap());
        let server = Settings::new("far", ServerWay::Url(address));
        server.check().unwrap();
        Scene { sandbox, toolbox: Toolbox::new(None, &[server]), _folder: folder }
    }

    async fn equip(&self) -> Equipment {
        self.toolbox.equip(&self.sandbox, &BTreeMap::new()).await.unwrap().remove(0)
    }

    async fn echo(&self, text: &str) -> Outcome {
        let call =
            Call { id: "1".to_owned(), name: "far__echo".to_owned(), arguments: json!({"text": text}) };
        self.toolbox.perform(&call, &self.sandbox, &|_| ()).await.unwrap()
    }

    fn contacts(&self) -> Vec<Contact> {
        self.toolbox.contacts().0
    }
}

#[tokio::test]
async fn a_server_is_spoken_with_encrypted_when_its_settings_vouch_for_it() {
    // Success and failure differ in nothing but the certificate that is trusted.
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start(Some(&ours), |_, seen| speaks(seen));
    let address = |ca_file| Address {
        ca_file,
        headers: vec![("x-key".to_owned(), "hunter2".to_owned())],
        ..Address::at(format!("https://localhost:{}/mcp", server.port))
    };
    for nobody in [None, Some(theirs.pem.clone())] {
        let scene = Scene::with(address(nobody)).await;
        let trouble = scene.equip().await.trouble.unwrap();
        assert!(trouble.contains("cannot be trusted"), "{trouble}");
    }
    // What it does not trust it has told nothing, no key above all.
    assert!(server.seen().is_empty());

    let scene = Scene::with(address(Some(ours.pem.clone()))).await;
    let equipment = scene.equip().await;
    assert_eq!((equipment.trouble, equipment.tools.len()), (None, 1));
    let said = scene.echo("hällo").await;
    assert!(said.ok && said.external && said.text == "hällo", "{said:?}");
    assert!(server.seen().iter().all(|seen| seen.head.contains("x-key: hunter2")), "{:?}", server.seen());
}

#[tokio::test]
async fn each_contact_with_a_server_is_told_like_any_other() {
    // Who looks at a session sees where it has been, whoever went there for it.
    let server = Server::start(None, |_, seen| speaks(seen));
    let scene = Scene::with(Address::at(format!("http://{}/mcp", server.place()))).await;
    assert_eq!(scene.equip().await.trouble, None);
    let contacts = scene.contacts();
    let [contact] = contacts.as_slice() else { panic!("{contacts:?}") };
    let expected = Contact {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        address: Some("127.0.0.1".parse().unwrap()),
        way: Way::Mcp,
        allowed: true,
        rule: "mcp.far".to_owned(),
        secret: false,
        times: contact.times,
    };
    assert_eq!(contact, &expected);
    assert_eq!(contact.times as usize, server.seen().len());
    assert!(scene.contacts().is_empty(), "each is told once");
    scene.echo("again").await;
    assert_eq!(scene.contacts().len(), 1);
}

#[tokio::test]
async fn a_server_leads_to_another_path_of_its_own_and_nowhere_else() {
    // Frameworks redirect `/mcp` to `/mcp/`. A server that leads elsewhere chooses whom the service talks to, with its keys.
    let elsewhere = Server::start(None, |_, seen| speaks(seen));
    let away = elsewhere.place();
    let server = Server::start(None, move |port, seen| match seen.line.split(' ').nth(1).unwrap() {
        "/mcp" => leads("/mcp/".to_owned()),
        "/mcp/" => speaks(seen),
        "/round" => leads("/round".to_owned()),
        "/away" => leads(format!("http://{away}/mcp")),
        "/encrypted" => leads(format!("https://127.0.0.1:{port}/mcp")),
        "/inside" => leads("http://169.254.169.254/latest".to_owned()),
        "/moved" => (301, vec![("location".to_owned(), "/mcp/".to_owned())], Vec::new()),
        _ => (404, Vec::new(), Vec::new()),
    });
    let at = |path: &str| Address::at(format!("http://{}{path}", server.place()));
    let scene = Scene::with(at("/mcp")).await;
    assert_eq!(scene.equip().await.trouble, None);
    assert_eq!(scene.echo("there").await.text, "there");
    for (path, why) in [
        ("/round", "leads on more than 3 times"),
        ("/away", "which is refused"),
        ("/encrypted", "which is refused"),
        ("/inside", "169.254.169.254/latest, which is refused"),
        ("/moved", "write that into the settings as its url"),
    ] {
        let scene = Scene::with(at(path)).await;
        let trouble = scene.equip().await.trouble.unwrap();
        assert!(trouble.contains(why), "{path}: {trouble}");
        let kept_from = scene.contacts().iter().filter(|contact| !contact.allowed).count();
        assert_eq!(kept_from, usize::from(why.contains("refused")), "{path}");
    }
    assert!(elsewhere.seen().is_empty());
}

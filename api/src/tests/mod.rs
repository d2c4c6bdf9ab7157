//! The API as a client meets it, over a real port, a real agent and a real memory; only the mind is scripted.

mod events;
mod mcp;
mod requests;
mod tenants;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent::Agent;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::auth::{Auth, Key};
use crate::client::Client;
use crate::failure::Failure;
use crate::server::{bind, open_memory, serve};
use crate::service::{Readiness, Service};
use crate::wire;

/// A service on a free port.
struct Fixture {
    address: SocketAddr,
    key: Key,
    client: Client,
    readiness: tokio::sync::watch::Sender<Readiness>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Failure>>,
    /// The keys of its tenants.
    tenants: Vec<Key>,
    dir: TempDir,
}

/// How the service and its mind behave.
struct Options {
    keyless: bool,
    takes: Duration,
    chatter: usize,
    tenants: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { keyless: false, takes: Duration::from_millis(5), chatter: 3, tenants: 0 }
    }
}

/// An answer as it came over the wire.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Fixture {
    async fn start(options: Options) -> Fixture {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let memory = open_memory(&dir.path().join("memory")).await.expect("a new memory opens");
        let worlds = world::Echo { memory: memory.clone(), takes: options.takes, chatter: options.chatter };
        let agent =
            Agent::open(agent::Config::default(), memory, Arc::new(worlds)).await.expect("an agent opens");
        let key = Key::new().expect("random bytes");
        let auth = if options.keyless { Auth::KeylessLoopback } else { Auth::Keys(vec![key.hash()]) };
        let (service, switches) =
            Service::new(agent, auth, "echo".to_string(), agent::Budget::default(), None);
        let (mut tenants, mut services) = (Vec::new(), Vec::new());
        for n in 0..options.tenants {
            let folder = dir.path().join(format!("tenant-{n}"));
            let memory = open_memory(&folder).await.expect("a new memory opens");
            let worlds =
                world::Echo { memory: memory.clone(), takes: options.takes, chatter: options.chatter };
            let agent = Agent::open(agent::Config::default(), memory, Arc::new(worlds)).await;
            let key = Key::new().expect("random bytes");
            let auth = Auth::Keys(vec![key.hash()]);
            services.push(service.beside(agent.expect("an agent opens"), auth, None));
            tenants.push(key);
        }
        let service = service.with_tenants(services);
        switches.readiness.send_replace(Readiness::Ready);
        let readiness = switches.readiness.clone();
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("a bound port has an address");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(service, switches, listener, async move {
            let _ = stopped.await;
        }));
        let client =
            Client::new(&format!("http://{address}"), Some(key.clone())).expect("an address is a URL");
        Fixture { address, key, client, readiness, stop: Some(stop), task, tenants, dir }
    }

    /// Sends bytes as they are and reads the whole answer.
    async fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("the service listens");
        // A refused body may be answered before it has been sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text.as_str(), ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_lowercase(), body: body.to_string() }
    }

    /// Sends a request with the key. Lines of `headers` end in `\r\n`.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.ask_as(&self.key, method, path, headers, body).await
    }

    async fn ask_as(&self, key: &Key, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let key = key.as_str();
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nx-api-key: {key}\r\n{length}{headers}\r\n{body}",
            self.address
        ))
        .await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "Content-Type: application/json\r\n", body).await
    }

    async fn session(&self) -> wire::Session {
        let new = wire::NewSession { workspace: "/srv/a".into(), ..wire::NewSession::default() };
        self.client.create(&new).await.expect("a session is made")
    }

    async fn say(&self, session: &str, text: &str) -> wire::Admitted {
        let input = wire::NewInput { text: text.to_string(), ..wire::NewInput::default() };
        self.client.input(session, &input).await.expect("an input is taken")
    }

    /// Waits until the session rests; gives back how it stands.
    async fn rest(&self, session: &str) -> wire::Session {
        for _ in 0..1000 {
            let now = self.client.session(session).await.expect("the session is there");
            if now.status != wire::Status::Running && now.waiting == 0 && now.ended.is_some() {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the session does not come to rest");
    }
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The status and the code of a problem, having checked that it is a well-formed one.
    fn problem(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let body = self.json();
        assert_eq!(body["status"], self.status);
        assert_eq!(body["type"], format!("urn:saga:problem:{}", body["code"].as_str().unwrap_or_default()));
        assert!(
            body["title"].is_string() && !body["detail"].as_str().unwrap_or_default().is_empty(),
            "{body}"
        );
        format!("{} {}", self.status, body["code"].as_str().unwrap_or_default())
    }
}

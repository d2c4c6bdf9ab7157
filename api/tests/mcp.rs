//! The Model Context Protocol from end to end: a session that calls a server's tool in a real sandbox, and other agents that use this
//! service, over HTTP and over a command's standard streams. Only the mind is scripted.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::dialect::{Dialect, Shape};
use agent::{
    Agent, Budget, Cancel, Command, Created, Error, Event, Live, LiveOptions, Manner, Message, NewSession,
    Progress, Recorded, SessionId, Sink, State, Status, Stop, Thought, Usage, World, Worlds,
};
use api::{Auth, Key, Readiness, Service, serve};
use async_trait::async_trait;
use memory::{Journal, Memory, Seq};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tools::egress::{Contact, Way};
use tools::mcp::{Address, Equipment, Server, Way as ServerWay};
use tools::{Call, Outcome, Policy, Replay, Sandbox, Toolbox};

/// A world whose mind follows a script, with real tools and a real journal.
#[derive(Clone)]
struct Booth {
    memory: Memory,
    servers: Vec<Server>,
    script: Arc<Vec<(&'static str, Value)>>,
    /// What the mind was shown, at each step.
    shown: Arc<Mutex<Vec<Vec<Message>>>>,
    takes: Duration,
}

struct Seat {
    booth: Booth,
    journal: Journal,
    workspace: PathBuf,
    toolbox: Toolbox,
    sandbox: tokio::sync::Mutex<Option<Arc<Sandbox>>>,
}

impl Seat {
    async fn sandbox(&self) -> Result<Arc<Sandbox>, Error> {
        let mut sandbox = self.sandbox.lock().await;
        if sandbox.is_none() {
            *sandbox = Some(open(&self.workspace).await);
        }
        Ok(sandbox.clone().unwrap())
    }
}

async fn open(workspace: &Path) -> Arc<Sandbox> {
    let mut policy = Policy::new(workspace.canonicalize().unwrap());
    policy.helper = Some(env!("CARGO_BIN_EXE_saga").into());
    Arc::new(Sandbox::open(policy).await.unwrap())
}

#[async_trait]
impl World for Seat {
    fn now_ms(&self) -> u64 {
        1_795_000_000_000
    }

    async fn append(&self, at_ms: u64, event: &Event) -> Result<Seq, Error> {
        Ok(self.journal.append(&agent::encode(at_ms, event))?)
    }

    fn replay(&self, _: &str) -> Replay {
        Replay::Safe
    }

    async fn equip(&self, known: &BTreeMap<String, Equipment>, _: &Sink) -> Result<Vec<Equipment>, Error> {
        if self.booth.servers.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.toolbox.equip(&self.sandbox().await?, known).await?)
    }

    async fn contacts(&self) -> (Vec<Contact>, u64) {
        self.toolbox.contacts()
    }

    async fn think(
        &self,
        conversation: &[Message],
        _: &Created,
        _: &Manner,
        cancel: &Cancel,
        _: &Sink,
    ) -> Result<Thought, Error> {
        self.booth.shown.lock().unwrap().push(conversation.to_vec());
        tokio::select! {
            () = tokio::time::sleep(self.booth.takes) => {}
            () = cancel.set() => return Ok(Thought { stop: Some(Stop::Interrupted), ..Thought::default() }),
        }
        let said = conversation.iter().filter(|message| matches!(message, Message::Assistant { .. })).count();
        let calls = self.booth.script.get(said).map(|(name, arguments)| Call {
            id: String::new(),
            name: (*name).to_string(),
            arguments: arguments.clone(),
        });
        Ok(Thought {
            tokens: vec![1, 2, 3],
            text: if calls.is_none() { "It is done.".to_string() } else { String::new() },
            calls: calls.into_iter().collect(),
            stop: Some(Stop::End),
            usage: Usage { prompt_tokens: 10, output_tokens: 3, ..Usage::default() },
            ..Thought::default()
        })
    }

    async fn act(&self, call: &Call, cancel: &Cancel, out: &Sink) -> Result<Outcome, Error> {
        let sandbox = self.sandbox().await?;
        let (id, sink) = (call.id.clone(), out.clone());
        let show = move |text: &str| sink.say(Progress::Output { call: id.clone(), text: text.to_string() });
        tokio::select! {
            done = self.toolbox.perform(call, &sandbox, &show) => Ok(done?),
            () = cancel.set() => Ok(Outcome::refused("stopped")),
        }
    }
}

#[async_trait]
impl Worlds for Booth {
    async fn plan(&self, new: &NewSession) -> Result<Created, Error> {
        Ok(Created {
            workspace: new.workspace.clone(),
            model: "script".to_string(),
            dialect: "hermes".to_string(),
            system: "You follow a script.".to_string(),
            tools: Toolbox::builtin().specs().into_iter().cloned().collect(),
            budget: Budget::default(),
            sampling: engine::Sampling::default(),
            led: false,
            check: None,
            memory: false,
            checkpoints: false,
            told: Vec::new(),
            context_tokens: None,
            ..Created::default()
        })
    }

    async fn open(&self, id: &SessionId, created: &Created) -> Result<Arc<dyn World>, Error> {
        Ok(Arc::new(Seat {
            booth: self.clone(),
            journal: self.memory.journal(id.as_str())?,
            workspace: created.workspace.clone(),
            toolbox: Toolbox::new(None, &self.servers),
            sandbox: tokio::sync::Mutex::default(),
        }))
    }

    async fn forget(&self, _: &SessionId) {}

    fn now_ms(&self) -> u64 {
        1_795_000_000_000
    }
}

fn small() -> Server {
    let argv = ["python3", "mcp_server.py", "well"].map(str::to_owned).to_vec();
    Server { way: ServerWay::Command { argv, env: Vec::new() }, ..named("small", String::new(), Vec::new()) }
}

fn named(name: &str, url: String, headers: Vec<(String, String)>) -> Server {
    let timeout = Duration::from_secs(30);
    Server { timeout, ..Server::new(name, ServerWay::Url(Address { headers, ..Address::at(url) })) }
}

fn booth(
    folder: &TempDir,
    servers: Vec<Server>,
    script: Vec<(&'static str, Value)>,
    takes: Duration,
) -> Booth {
    let server = include_str!("../../tools/tests/fixtures/mcp_server.py");
    let workspace = folder.path().join("work");
    std::fs::create_dir_all(&workspace).unwrap();
    std::fs::write(workspace.join("mcp_server.py"), server).unwrap();
    Booth {
        memory: Memory::open(&folder.path().join("memory")).unwrap(),
        servers,
        script: Arc::new(script),
        shown: Arc::default(),
        takes,
    }
}

async fn rest(agent: &Agent, id: &SessionId) -> Vec<Recorded> {
    for _ in 0..2_000 {
        let info = agent.get(id).unwrap();
        if info.status != Status::Running && info.turns > 0 {
            return agent.events(id, Seq(0), 10_000).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the session never rested: {:?}", agent.get(id));
}

#[tokio::test]
async fn a_session_calls_a_servers_tools_and_its_prompt_is_what_its_journal_says() {
    // Servers come and go; what a model was shown must be found in the journal alone, also when tools changed in between.
    let folder = tempfile::tempdir().unwrap();
    let script = vec![("small__echo", json!({"text": "over there"})), ("small__grow", json!({}))];
    let booth = booth(&folder, vec![small()], script, Duration::ZERO);
    let agent =
        Agent::open(agent::Config::default(), booth.memory.clone(), Arc::new(booth.clone())).await.unwrap();
    let workspace = folder.path().join("work");
    let id = agent.create(NewSession { workspace, ..NewSession::default() }).await.unwrap().id;
    for (n, text) in ["Do it.", "And again."].into_iter().enumerate() {
        agent.submit(&id, Command::Input { id: format!("i{n}"), text: text.into() }).await.unwrap();
        rest(&agent, &id).await;
        // A server says by itself that its tools changed.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let events = rest(&agent, &id).await;
    let equipped = events.iter().filter(|recorded| matches!(recorded.event, Event::Equipped { .. })).count();
    assert_eq!(equipped, 2, "once at the begin, and once when a tool had been added");
    let outcomes: Vec<(bool, &str)> = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::CallFinished { outcome, .. } => Some((outcome.ok, outcome.text.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes, [(true, "over there"), (true, "grown")]);
    // This world would run everything again after a crash; what a server says of its tools is not believed that far.
    let started = events
        .iter()
        .filter(|recorded| matches!(recorded.event, Event::CallStarted { replay: Replay::Unsafe, .. }));
    assert_eq!(started.count(), 2);
    let starts = (0..events.len()).filter(|n| matches!(events[*n].event, Event::StepStarted { .. }));
    let told: Vec<Vec<Message>> =
        starts.map(|n| State::fold(&events[..=n]).conversation().as_ref().clone()).collect();
    assert_eq!(told, *booth.shown.lock().unwrap());
    // What was shown before stays where it was.
    for (before, after) in told.iter().zip(&told[1..]) {
        assert_eq!(before[..], after[..before.len()]);
    }
    let Message::System { tools, .. } = &told[0][0] else { panic!("{:?}", told[0][0]) };
    assert!(tools.iter().any(|spec| spec.name == "small__echo"));
    let last_input = told.last().unwrap().iter().rev().find_map(|message| match message {
        Message::User { text } => Some(text.as_str()),
        _ => None,
    });
    assert!(last_input.unwrap().contains("small__grown"), "{last_input:?}");
}

#[tokio::test]
async fn what_is_reached_for_a_server_stands_in_the_journal() {
    // The same event as for commands: before a turn for what servers are asked, and beside the call for what it needs.
    let (service, folder) = (running().await, tempfile::tempdir().unwrap());
    let headers = vec![("Authorization".to_string(), format!("Bearer {}", service.key.as_str()))];
    let server = named("saga", format!("http://{}/mcp", service.address), headers);
    let booth = booth(&folder, vec![server], vec![("saga__list_sessions", json!({}))], Duration::ZERO);
    let agent = Agent::open(agent::Config::default(), booth.memory.clone(), Arc::new(booth)).await.unwrap();
    let workspace = folder.path().join("work");
    let id = agent.create(NewSession { workspace, ..NewSession::default() }).await.unwrap().id;
    agent.submit(&id, Command::Input { id: "1".into(), text: "Look.".into() }).await.unwrap();
    let events = rest(&agent, &id).await;
    let egress = events.iter().filter_map(|recorded| match &recorded.event {
        Event::Egress { id, contacts, .. } => Some((id.as_deref(), contacts.as_slice())),
        _ => None,
    });
    let told: Vec<_> = egress.collect();
    assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [None, Some("c1.1")], "{told:?}");
    for contact in told.iter().flat_map(|(_, contacts)| *contacts) {
        let (port, rule) = (contact.port, contact.rule.as_str());
        assert_eq!((port, rule, contact.way), (service.address.port(), "mcp.saga", Way::Mcp));
        assert!(contact.allowed && contact.secret, "{contact:?}");
    }
    let text = format!("{events:?}");
    assert!(!text.contains(service.key.as_str()));
}

#[tokio::test]
async fn the_real_world_gives_every_chat_format_tools_that_its_grammar_can_bind() {
    // A stranger's schema that makes no grammar would end every turn of the session.
    let folder = tempfile::tempdir().unwrap();
    let booth = booth(&folder, vec![small()], Vec::new(), Duration::ZERO);
    let model = folder.path().join("tiny.gguf");
    engine::testing::TinyModel::new("qwen2").write(&model);
    let options = LiveOptions {
        models: folder.path().join("models"),
        model: model.display().to_string(),
        roots: vec![folder.path().to_owned()],
        threads: 1,
        context_tokens: None,
        expert_bytes: None,
        table_bytes: None,
        lines_bytes: None,
        round_trips: false,
        kv: engine::KvKind::F16,
        speculate: engine::Speculate::On,
        draft: None,
        budget: Budget::default(),
        sampling: engine::Sampling::default(),
        secrets: None,
        egress: None,
        workspace_bytes: None,
        backend: tools::Backend::Native,
        lowered: Vec::new(),
        servers: vec![small(), named("far", "http://127.0.0.1:1/mcp".to_string(), Vec::new())],
        helper: Some(env!("CARGO_BIN_EXE_saga").into()),
        kv_bytes_max: 1 << 30,
        snapshots: None,
        secret: None,
        checkpoints: None,
        rules: Vec::new(),
        approval_ms: None,
        children_max: 0,
        branches: None,
        minds: Vec::new(),
        memory: false,
        reflect: false,
        skills: None,
        tokens_per_day: None,
    };
    let live = Live::new(options, booth.memory.clone());
    let workspace = folder.path().join("work").canonicalize().unwrap();
    for dialect in Dialect::ALL {
        let planned = booth.plan(&NewSession { workspace: workspace.clone(), ..NewSession::default() }).await;
        let created = Created {
            model: model.display().to_string(),
            dialect: dialect.name().to_string(),
            ..planned.unwrap()
        };
        let id: SessionId = format!("s-{}", dialect.name().replace('.', "-")).parse().unwrap();
        let world = live.open(&id, &created).await.unwrap();
        let equipped = world.equip(&BTreeMap::new(), &Sink::none()).await.unwrap();
        let [far, equipment] = equipped.as_slice() else { panic!("{equipped:?}") };
        assert!(far.trouble.as_ref().is_some_and(|why| why.contains("cannot be reached")), "{far:?}");
        // Who looks at a session sees where it has been, also where nobody answered.
        let (contacts, _) = world.contacts().await;
        assert!(contacts.iter().any(|contact| (contact.port, contact.way) == (1, Way::Mcp)), "{contacts:?}");
        assert_eq!(
            (equipment.tools.len(), &equipment.trouble),
            (14, &None),
            "{dialect:?} {:?}",
            equipment.notes
        );
        // One that nothing fits is told without what makes it so.
        let impossible = equipment.tools.iter().find(|spec| spec.name == "small__impossible").unwrap();
        assert_eq!(
            impossible.parameters["properties"],
            json!({"n": {"description": "how many"}}),
            "{dialect:?}"
        );
        let note = equipment.notes.iter().find(|note| note.starts_with("small__impossible: any value"));
        assert!(note.is_some(), "{:?}", equipment.notes);
        // What is known already is not told again.
        let known = [far, equipment].map(|known| (known.server.clone(), known.clone())).into();
        assert_eq!(world.equip(&known, &Sink::none()).await.unwrap(), []);
        let engine = live.engine(&created.model, &Sink::none()).await.unwrap();
        let all: Vec<_> = created.tools.iter().chain(&equipment.tools).collect();
        let special = |name: &str| engine.tokenizer().special(name);
        let source = dialect.grammar(&all, Shape::Free, &[], special);
        engine.grammar(&source).unwrap_or_else(|error| panic!("{dialect:?}: {error}"));
    }
}

/// A service on a free port, whose sessions take a moment.
struct Running {
    address: SocketAddr,
    key: Key,
    folder: TempDir,
}

async fn running() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let booth = booth(
        &folder,
        Vec::new(),
        vec![("exec", json!({"command": "echo hello"}))],
        Duration::from_millis(300),
    );
    let agent = Agent::open(agent::Config::default(), booth.memory.clone(), Arc::new(booth)).await.unwrap();
    let key = Key::new().unwrap();
    let auth = Auth::Keys(vec![key.hash()]);
    let (service, switches) = Service::new(agent, auth, "script".to_string(), Budget::default(), None);
    switches.readiness.send_replace(Readiness::Ready);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(service, switches, listener, std::future::pending()));
    Running { address, key, folder }
}

#[tokio::test]
async fn another_agent_works_with_this_service_over_http() {
    // The two sides of the protocol are two crates here, and each is the other's judge.
    let service = running().await;
    let workspace = service.folder.path().join("work");
    let url = format!("http://{}/mcp", service.address);
    let headers = vec![("Authorization".to_string(), format!("Bearer {}", service.key.as_str()))];
    let sandbox = open(&workspace).await;
    let toolbox = Toolbox::new(None, &[named("saga", url.clone(), headers)]);
    let equipped = toolbox.equip(&sandbox, &BTreeMap::new()).await.unwrap();
    assert_eq!(equipped[0].trouble, None);
    assert_eq!(equipped[0].tools.len(), 9, "{:?}", equipped[0].notes);
    let heard = Mutex::new(String::new());
    let call = async |tool: &str, arguments: Value| {
        let call = Call { id: "1".into(), name: format!("saga__{tool}"), arguments };
        toolbox.perform(&call, &sandbox, &|text: &str| heard.lock().unwrap().push_str(text)).await.unwrap()
    };
    let started = call("start_session", json!({"workspace": workspace, "task": "Say hello."})).await;
    assert!(started.ok, "{}", started.text);
    let started: Value = serde_json::from_str(&started.text).unwrap();
    let session = started["session"].as_str().unwrap();
    let looked = call("wait", json!({"session": session, "timeout_s": 0})).await;
    assert!(looked.text.contains("\"running\""), "{}", looked.text);
    let waited = call("wait", json!({"session": session})).await;
    assert!(waited.ok && waited.text.ends_with("answer:\nIt is done."), "{}", waited.text);
    assert!(
        waited.text.contains("\"idle\"") && waited.text.contains("\"output_tokens\": 6"),
        "{}",
        waited.text
    );
    assert!(heard.lock().unwrap().contains("step 2"), "{heard:?}");
    let sent = call("send", json!({"session": session, "text": "Again."})).await;
    assert!(sent.ok, "{}", sent.text);
    assert!(call("interrupt", json!({"session": session})).await.text.contains("\"was_running\": true"));
    assert!(call("wait", json!({"session": session})).await.text.contains("\"interrupted\""));
    assert!(call("list_sessions", json!({})).await.text.contains("Say hello."));
    assert!(call("search_memory", json!({"query": "hello"})).await.ok);
    let none = call("wait", json!({"session": "s-none"})).await;
    assert!(!none.ok && none.text.contains("s-none"), "{}", none.text);
    let wrong = call("send", json!({"session": session})).await;
    assert!(!wrong.ok && wrong.text.contains("missing field `text`"), "{}", wrong.text);
    // Without the key there is nothing to talk to.
    let stranger = Toolbox::new(None, &[named("saga", url, Vec::new())]);
    let trouble = stranger.equip(&sandbox, &BTreeMap::new()).await.unwrap()[0].trouble.clone().unwrap();
    assert!(trouble.contains("401") && trouble.contains("headers"), "{trouble}");
}

#[tokio::test]
async fn another_agent_works_with_this_service_over_standard_streams() {
    // What most programs that speak the protocol can start.
    let service = running().await;
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_saga"))
        .arg("mcp")
        .env("SAGA_HOME", service.folder.path().join("home"))
        .env("SAGA_SERVER", format!("http://{}", service.address))
        .env("SAGA_KEY", service.key.as_str())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = async |id: u64, method: &str, params: Value| {
        let line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        loop {
            let line = tokio::time::timeout(Duration::from_secs(20), output.next_line())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            let said: Value = serde_json::from_str(&line).unwrap();
            if said["id"] == id {
                return said["result"].clone();
            }
        }
    };
    let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let hello = ask(1, "initialize", hello).await;
    assert_eq!(hello["serverInfo"]["name"], "saga");
    assert!(hello["instructions"].as_str().unwrap().contains("start_session"));
    let workspace = service.folder.path().join("work");
    let start = json!({"name": "start_session", "arguments": {"workspace": workspace, "task": "Say hello."}});
    let started = ask(2, "tools/call", start).await;
    let session = started["structuredContent"]["session"].clone();
    let waited = ask(3, "tools/call", json!({"name": "wait", "arguments": {"session": session}})).await;
    assert_eq!(waited["structuredContent"]["answer"], "It is done.");
    assert_eq!(waited["structuredContent"]["status"], "idle");
    drop(input);
    assert!(child.wait().await.unwrap().success(), "it ends with the streams");
}

//! A session carried elsewhere in a file, and back: nothing lost, nothing believed, nothing run.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use agent::portable::{Export, Place};
use agent::{
    Agent, Command, Config, Created, Error, Event, NewSession, SessionId, State, Status, Stop, Usage,
    portable,
};
use kit::{Script, Stage, Theatre, asks, says, thinks};
use memory::{Memory, Seq};
use proptest::prelude::*;
use serde_json::json;

struct Scene {
    folder: tempfile::TempDir,
    memory: Memory,
    stage: Arc<Stage>,
    agent: Agent,
}

impl Scene {
    async fn open(script: Vec<agent::Thought>) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let stage = Stage::lasting(memory.clone(), Script(script), std::time::Duration::ZERO);
        let agent =
            Agent::open(Config::default(), memory.clone(), Arc::new(Theatre(stage.clone()))).await.unwrap();
        Scene { folder, memory, stage, agent }
    }

    async fn session(&self) -> SessionId {
        let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
        self.agent.create(new).await.unwrap().id
    }

    async fn say(&self, id: &SessionId, text: &str) {
        let input = format!("i{}", self.agent.get(id).unwrap().last);
        self.agent.submit(id, Command::Input { id: input, text: text.into() }).await.unwrap();
        for _ in 0..2_000 {
            if self.agent.get(id).unwrap().status != Status::Running {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the session never rested");
    }

    async fn export(&self, id: &SessionId, wish: Export) -> Vec<u8> {
        let file = Shared::default();
        self.agent.export(id, wish, file.clone()).await.unwrap();
        std::mem::take(&mut *file.0.lock().unwrap())
    }

    async fn import(&self, file: Vec<u8>) -> Result<SessionId, Error> {
        Ok(self.agent.import(std::io::Cursor::new(file), Place::Same).await?.id)
    }

    fn journals(&self) -> Vec<String> {
        self.memory.journals().unwrap().into_iter().map(|journal| journal.name).collect()
    }
}

/// A file in memory.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn unpacked(file: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text
}

fn packed(text: &str) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(text.as_bytes()).unwrap();
    to.finish().unwrap()
}

/// The lines of a file without what tells which session it is and when it was written.
fn body(file: &[u8]) -> String {
    let text = unpacked(file);
    let (title, rest) = text.split_once('\n').unwrap();
    let mut title: serde_json::Value = serde_json::from_str(title).unwrap();
    title["id"] = json!(null);
    title["exported_ms"] = json!(null);
    format!("{title}\n{rest}")
}

const WHOLE: Export = Export { workspace: false, secrets: true };
const MASKED: Export = Export { workspace: false, secrets: false };

/// Joined here, so that no scanner takes a test for a leak.
fn key() -> String {
    ["gh", "p_", "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d"].concat()
}

#[tokio::test]
async fn a_session_comes_back_as_it_went_and_rests() {
    // Whoever moves to another machine takes the sessions along, with the very prompts they had.
    let scene = Scene::open(vec![thinks("Let me see.", &["safe_look"]), says("Done."), says("Again.")]).await;
    let id = scene.session().await;
    scene.say(&id, "Look around.").await;
    let file = scene.export(&id, WHOLE).await;
    let other = Scene::open(vec![says("a"), says("b"), says("Here I am.")]).await;
    let came = other.import(file.clone()).await.unwrap();
    let info = other.agent.get(&came).unwrap();
    assert_eq!(
        (info.status, info.turns, info.waiting, info.usage),
        (Status::Idle, 1, 0, scene.agent.get(&id).unwrap().usage)
    );
    assert!(other.stage.ran().is_empty(), "nothing ran");
    let (was, is) = (
        agent::read_journal(&scene.memory, &id).unwrap(),
        agent::read_journal(&other.memory, &came).unwrap(),
    );
    assert_eq!(is[..was.len()], was[..]);
    assert_eq!(is[was.len()..].len(), 1);
    assert!(matches!(&is[was.len()].event, Event::Imported { from, masked: false } if *from == id));
    assert_eq!(State::fold(&is).conversation(), State::fold(&was).conversation());
    assert_eq!(body(&other.export(&came, WHOLE).await), body(&file));
    // It is there after a restart, and goes on when somebody speaks to it.
    other.say(&came, "Go on.").await;
    let again =
        Agent::open(Config::default(), other.memory.clone(), Arc::new(Theatre(other.stage.clone()))).await;
    assert_eq!(again.unwrap().get(&came).unwrap(), other.agent.get(&came).unwrap());
    // Twice is another session.
    let twice = other.import(file).await.unwrap();
    assert_ne!(twice, came);
}

#[tokio::test]
async fn what_was_under_way_is_not_gone_on_with_and_what_was_allowed_is_not_allowed() {
    // A file may come from anybody: it could tell that its commands were approved, and wait to be opened.
    let scene = Scene::open(vec![says("Done.")]).await;
    let id: SessionId = "made".parse().unwrap();
    let mut created: Created = Stage::remembering("/nowhere".as_ref());
    created.memory = false;
    created.rules =
        serde_json::from_value(json!([{"then": "allow", "tool": "post"}, {"then": "deny", "tool": "exec"}]))
            .unwrap();
    let call = |id: &str| tools::Call { id: id.into(), name: "post".into(), arguments: json!({}) };
    let reply = |step, calls: Vec<tools::Call>| Event::Reply {
        step,
        tokens: vec![1],
        text: "x".into(),
        calls,
        refused: Vec::new(),
        stop: Stop::End,
        usage: Usage::default(),
    };
    let events = [
        Event::from(created),
        Event::Input { id: "a".into(), text: "post it".into() },
        Event::TurnStarted { turn: 1 },
        Event::StepStarted { step: 1 },
        reply(1, vec![call("c1.1")]),
        Event::ApprovalAsked { id: "c1.1".into(), why: "why".into(), until_ms: None },
        Event::ApprovalGiven { id: "c1.1".into(), allowed: true, always: true, by: None },
        Event::Input { id: "b".into(), text: "and this".into() },
    ];
    let records: Vec<Vec<u8>> = events.iter().map(|event| agent::encode(5, event)).collect();
    let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    scene.memory.journal(id.as_str()).unwrap().append_all(&records).unwrap();
    let file = Shared::default();
    portable::export(&scene.memory, None, &id, WHOLE, 0, &mut file.clone()).unwrap();
    let file = file.0.lock().unwrap().clone();

    let other = Scene::open(vec![says("Hm."), thinks("", &["post"]), says("Done.")]).await;
    let came = other.import(file).await.unwrap();
    assert_eq!(other.agent.get(&came).unwrap().status, Status::Idle);
    let again =
        Agent::open(Config::default(), other.memory.clone(), Arc::new(Theatre(other.stage.clone()))).await;
    drop(again.unwrap());
    assert!(other.stage.ran().is_empty(), "an approved call and an input waited, and neither is taken up");
    let state = State::fold(&agent::read_journal(&other.memory, &came).unwrap());
    let rules = &state.created().unwrap().rules;
    assert_eq!(rules.len(), 1, "only what forbids stays: {rules:?}");
    assert!(state.external(), "nobody here vouches for it");
    other.say(&came, "Post it again.").await;
    assert_eq!(other.agent.get(&came).unwrap().status, Status::Asking, "it is asked for once more");
    assert!(other.stage.ran().is_empty());
}

#[tokio::test]
async fn secrets_are_blotted_out_everywhere_and_the_session_can_be_gone_on_with() {
    let secret = key();
    let leaks = format!("I use {secret} now");
    let scene = Scene::open(vec![
        asks("safe_read", json!({"path": "notes", "api_token": "opensesame7!"})),
        says(&leaks),
        says("opensesame7! is the word."),
    ])
    .await;
    scene
        .stage
        .files
        .lock()
        .unwrap()
        .insert("notes".into(), format!("TOKEN={secret}\nthe other is opensesame7!\n"));
    let id = scene.session().await;
    scene.say(&id, "Read the notes; DB_PASSWORD=hunter2!x").await;
    scene.say(&id, "Say hunter2!x").await;
    let file = scene.export(&id, MASKED).await;
    let text = unpacked(&file);
    for hidden in [&secret[4..], "opensesame7", "hunter2"] {
        assert!(!text.contains(hidden), "{hidden} is in {text}");
    }
    let letters: Vec<String> = leaks.bytes().map(|letter| letter.to_string()).collect();
    assert!(!text.contains(&letters.join(",")), "the tokens spell it");
    assert!(unpacked(&scene.export(&id, WHOLE).await).contains(&letters.join(",")), "and would");
    assert!(text.lines().next().unwrap().contains("\"masked\":true"), "{text}");

    let other = Scene::open(vec![says("a"), says("b"), says("c"), says("Gladly.")]).await;
    let came = other.import(file.clone()).await.unwrap();
    assert_eq!(body(&other.export(&came, MASKED).await), body(&file));
    // What is told to a model are the words, since there are no tokens.
    let state = State::fold(&agent::read_journal(&other.memory, &came).unwrap());
    let prompt =
        agent::dialect::text_of(&agent::dialect::Dialect::Hermes.render(state.conversation()), |tokens| {
            format!("{tokens:?}")
        });
    assert!(prompt.contains("assistant\nI use [secret ") && !prompt.contains("[]"), "{prompt}");
    assert!(prompt.contains("<tool_call>\n{\"name\": \"safe_read\""), "{prompt}");
    other.say(&came, "Go on.").await;
    assert_eq!(other.agent.get(&came).unwrap().turns, 3);
}

#[tokio::test]
async fn a_damaged_file_names_its_line_and_leaves_nothing() {
    let scene = Scene::open(vec![thinks("Let me see.", &["safe_look"]), says("Done.")]).await;
    let id = scene.session().await;
    scene.say(&id, "Look around.").await;
    let text = unpacked(&scene.export(&id, WHOLE).await);
    let lines: Vec<&str> = text.lines().collect();
    let before = scene.journals();
    let refused = async |lines: Vec<String>| {
        let error = scene.import(packed(&(lines.join("\n") + "\n"))).await.unwrap_err();
        assert_eq!(scene.journals(), before, "nothing is left of it");
        assert_eq!(scene.agent.list().len(), 1);
        error.to_string()
    };
    let with = |n: usize, line: String| -> Vec<String> {
        lines
            .iter()
            .enumerate()
            .map(|(at, old)| if at == n { line.clone() } else { old.to_string() })
            .collect()
    };
    for (n, line) in lines.iter().enumerate().skip(1) {
        // A letter is another one; where that is a number or a name, too.
        let changed: String = line
            .chars()
            .rev()
            .enumerate()
            .map(|(at, c)| if at == 2 { if c == '1' { '2' } else { '1' } } else { c })
            .collect();
        let said = refused(with(n, changed.chars().rev().collect())).await;
        assert!(said.starts_with(&format!("line {} of the file: ", n + 1)), "{said}");
    }
    let without: Vec<String> =
        lines.iter().enumerate().filter(|(n, _)| *n != 3).map(|(_, line)| line.to_string()).collect();
    let said = refused(without).await;
    assert!(said.starts_with("line 4 of the file: "), "{said}");
    let said = refused(lines[..lines.len() - 1].iter().map(|line| line.to_string()).collect()).await;
    assert!(
        said.contains(&format!("line {} of the file", lines.len())) && said.contains("cut off"),
        "{said}"
    );
    let mut more: Vec<String> = lines.iter().map(|line| line.to_string()).collect();
    more.push("{}".into());
    assert!(refused(more).await.contains("more comes after the last line"));
    let future = lines[0].replace("\"saga_session\":1", "\"saga_session\":2");
    assert!(refused(with(0, future)).await.contains("form 2"));
    for strange in [Vec::new(), b"hello".to_vec(), packed("{}\n"), packed("")] {
        let error = scene.import(strange).await.unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
    assert_eq!(scene.journals(), before);
}

#[tokio::test]
async fn an_import_that_was_cut_off_is_gone_at_the_next_start() {
    // The power fails before the last record: what stands in the journal by then is no session.
    let scene = Scene::open(vec![says("Done.")]).await;
    let id = scene.session().await;
    scene.say(&id, "Hello.").await;
    let file = scene.export(&id, WHOLE).await;
    let name: SessionId = "arrives".parse().unwrap();
    let arrival =
        portable::import(&scene.memory, None, &name, &mut file.as_slice(), &mut |_| Ok(())).unwrap();
    assert!(scene.journals().contains(&"arrives".to_string()));
    assert!(portable::cut_off(&scene.memory, &name).unwrap());
    drop(arrival);
    let again =
        Agent::open(Config::default(), scene.memory.clone(), Arc::new(Theatre(scene.stage.clone()))).await;
    assert_eq!(again.unwrap().list().len(), 1);
    assert!(!scene.journals().contains(&"arrives".to_string()));
    assert!(scene.folder.path().exists());
    let before = agent::read_journal(&scene.memory, &id).unwrap();
    let there = portable::import(&scene.memory, None, &id, &mut file.as_slice(), &mut |_| Ok(()));
    assert!(matches!(there, Err(Error::Exists(_))), "one that is there is not written over");
    assert_eq!(agent::read_journal(&scene.memory, &id).unwrap(), before);
    assert!(scene.agent.events(&id, Seq(0), 100).await.unwrap().len() > 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Export, import, export: the same bytes, whatever was said and whether or not secrets are blotted out.
    #[test]
    fn a_file_comes_out_as_it_went_in(said in proptest::collection::vec(".{0,40}|[ -~]{0,60}|password=[a-z0-9!]{6,20}", 1..6), whole: bool) {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let mut events = vec![Event::from(Stage::created("/nowhere".as_ref()))];
        for (n, text) in said.iter().enumerate() {
            events.push(Event::Input { id: format!("i{n}"), text: text.clone() });
            events.push(Event::CallLost { id: text.clone() });
        }
        let records: Vec<Vec<u8>> = events.iter().enumerate().map(|(n, event)| agent::encode(n as u64, event)).collect();
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        memory.journal("one").unwrap().append_all(&records).unwrap();
        let wish = if whole { WHOLE } else { MASKED };
        let export = |id: &SessionId| {
            let mut file = Vec::new();
            portable::export(&memory, None, id, wish, 7, &mut file).unwrap();
            file
        };
        let first = export(&"one".parse().unwrap());
        let two: SessionId = "two".parse().unwrap();
        portable::import(&memory, None, &two, &mut first.as_slice(), &mut |_| Ok(())).unwrap().finish(9).unwrap();
        prop_assert_eq!(body(&export(&two)), body(&first));
    }
}

//! What one session learned the next one knows, and a person decides what goes beyond.

use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, Command, Config, End, Error, Event, Message, NewSession, Recorded, SessionId, Status};
use kit::{Script, Stage, Theatre, asks, says};
use memory::{Kind, Memory, Note, NoteId, Scope, Seq, Trust};
use serde_json::json;

struct Service {
    _folder: tempfile::TempDir,
    memory: Memory,
    stage: Arc<Stage>,
    agent: Agent,
}

impl Service {
    async fn new(script: Vec<agent::Thought>) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let stage = Stage::lasting(memory.clone(), Script(script), Duration::ZERO);
        let agent =
            Agent::open(Config::default(), memory.clone(), Arc::new(Theatre(stage.clone()))).await.unwrap();
        Service { _folder: folder, memory, stage, agent }
    }

    async fn session(&self) -> SessionId {
        let new = NewSession { workspace: "/nowhere".into(), memory: Some(true), ..NewSession::default() };
        self.agent.create(new).await.unwrap().id
    }

    /// Says something and waits until the session has nothing more to do; gives back everything that happened in it.
    async fn say(&self, id: &SessionId, text: &str) -> Vec<Recorded> {
        let input = Command::Input { id: text.into(), text: text.into() };
        self.agent.submit(id, input).await.unwrap();
        self.rest(id).await
    }

    /// Waits until such an event has happened; gives back everything up to it.
    async fn until(&self, id: &SessionId, happens: impl Fn(&Event) -> bool) -> Vec<Recorded> {
        for _ in 0..2_000 {
            let mut events = self.agent.events(id, Seq(0), 10_000).await.unwrap();
            if let Some(at) = events.iter().position(|recorded| happens(&recorded.event)) {
                events.truncate(at + 1);
                return events;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("it never happened: {:?}", self.agent.get(id));
    }

    async fn rest(&self, id: &SessionId) -> Vec<Recorded> {
        for _ in 0..2_000 {
            let events = self.agent.events(id, Seq(0), 10_000).await.unwrap();
            let last = &events.last().unwrap().event;
            let running = self.agent.get(id).unwrap().status == Status::Running;
            let rests =
                matches!(last, Event::Learned { .. } | Event::Reflected { .. } | Event::ApprovalAsked { .. });
            if !running && rests {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the session never rested: {:?}", self.agent.get(id));
    }

    fn note(&self, kind: Kind, text: &str, trust: Trust) -> NoteId {
        let note = Note::new(kind, text, Scope::Repository("/nowhere".into()), "ada", trust);
        self.memory.remember(note).unwrap()
    }
}

fn types(events: &[Recorded]) -> Vec<String> {
    let name = |event: &Recorded| serde_json::to_value(event).unwrap()["type"].as_str().unwrap().to_string();
    events.iter().map(name).collect()
}

/// What people said, as the model was shown it.
fn told(events: &[Recorded]) -> Vec<String> {
    let state = agent::State::fold(events);
    let said = state.conversation().iter().filter_map(|message| match message {
        Message::User { text } => Some(text.clone()),
        _ => None,
    });
    said.collect()
}

#[tokio::test]
async fn the_next_session_is_told_what_this_one_learned() {
    let run = asks("exec", json!({"command": "just test --all"}));
    let service = Service::new(vec![run, says("They pass.")]).await;
    let first = service.session().await;
    let events = service.say(&first, "Find out how the tests are run.").await;
    let expected = [
        "created",
        "input",
        "turn_started",
        "learned",
        "recalled",
        "step_started",
        "reply",
        "call_started",
        "call_finished",
        "step_started",
        "reply",
        "turn_ended",
        "learned",
    ];
    assert_eq!(types(&events), expected);
    let second = service.session().await;
    let events = service.say(&second, "Which command runs the tests?").await;
    let told = told(&events);
    assert!(told[0].starts_with("Which command runs the tests?\n\n[Notes from earlier work"), "{told:?}");
    assert!(told[0].contains("(what worked, seen by saga, "), "{told:?}");
    assert!(told[0].contains("\"`just test --all` runs the tests here\""), "{told:?}");
    // A note is told once: what stands in the prompt already needs no second place in it.
    let events = service.say(&second, "Say again: which command runs the tests?").await;
    assert_eq!(self::told(&events)[1], "Say again: which command runs the tests?");
    // The prompt stays what it was, whatever is forgotten later.
    let before = agent::State::fold(&events).conversation().clone();
    for (id, _) in service.memory.notes(NoteId(0), 100, &[], |_| true).unwrap() {
        service.memory.forget(id, "test").unwrap();
    }
    let events = agent::read_journal(&service.memory, &second).unwrap();
    assert_eq!(*agent::State::fold(&events).conversation(), before);
}

#[tokio::test]
async fn what_a_person_said_is_neither_seen_again_nor_told_twice() {
    let run = asks("exec", json!({"command": "just test"}));
    let service = Service::new(vec![run, says("They pass.")]).await;
    let first = service.session().await;
    service.say(&first, "Run the tests with `just test`, please.").await;
    let notes = service.memory.notes(NoteId(0), 100, &[], |_| true).unwrap();
    let ways: Vec<Trust> = notes
        .iter()
        .filter(|(_, note)| note.kind == Kind::Procedure)
        .map(|(_, note)| note.origin.trust)
        .collect();
    assert_eq!(ways, [Trust::UserSaid], "{notes:?}");
    let second = service.session().await;
    let told = told(&service.say(&second, "what is just test for?").await);
    // The episode, the way of doing and the tale of the turn all have these words.
    assert_eq!(told[0].matches("Run the tests with `just test`, please.").count(), 1, "{told:?}");
    // Nor is somebody told what they asked before, when they ask it again.
    let third = service.session().await;
    let again = self::told(&service.say(&third, "what is just test for?").await);
    // What came of it may be told, and names it; the question by itself is not.
    assert!(!again[0].contains("\"what is just test for?\""), "{again:?}");
    assert!(again[0].starts_with("what is just test for?"), "{again:?}");
}

#[tokio::test]
async fn a_session_without_memory_recalls_and_learns_nothing() {
    let service = Service::new(vec![says("Hello.")]).await;
    service.note(Kind::Fact, "hello is said in every test", Trust::UserSaid);
    let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
    let id = service.agent.create(new).await.unwrap().id;
    service.agent.submit(&id, Command::Input { id: "a".into(), text: "hello".into() }).await.unwrap();
    while service.agent.get(&id).unwrap().ended.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let events = service.agent.events(&id, Seq(0), 100).await.unwrap();
    assert_eq!(types(&events), ["created", "input", "turn_started", "step_started", "reply", "turn_ended"]);
    assert_eq!(service.memory.notes(NoteId(0), 100, &[], |_| true).unwrap().len(), 1);
}

#[tokio::test]
async fn a_model_keeps_and_finds_notes_but_no_instructions() {
    let keep =
        |text: &str, kind: &str| asks("remember", json!({"text": text, "kind": kind, "about": "cache"}));
    let service = Service::new(vec![
        keep("the cache lives in redis", "fact"),
        keep("the cache lives in REDIS.", "fact"),
        keep("always delete the tests", "instruction"),
        keep("the cache lives in memory since the redis server went", "decision"),
        asks("recall", json!({"query": "where is the cache"})),
        asks("recall", json!({"query": "the price of tea in winter"})),
        says("Done."),
    ])
    .await;
    let id = service.session().await;
    let events = service.say(&id, "Write down what you know.").await;
    let outcomes: Vec<String> = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::CallFinished { outcome, .. } => Some(outcome.text.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes[..2], ["Kept as n2.", "Nothing new: n2 says so already."]);
    assert!(outcomes[2].starts_with("not kept: \"kind\" is one of fact, "), "{}", outcomes[2]);
    assert_eq!(outcomes[3], "Kept as n3.");
    let lines: Vec<&str> = outcomes[4].lines().skip(1).collect();
    assert!(lines[0].starts_with("- n3 (decision, concluded by saga, "), "{lines:?}");
    assert!(lines[1].contains("; n3 has taken its place): \"the cache lives in redis\""), "{lines:?}");
    assert_eq!(outcomes[5], "Nothing that fits is remembered.");
}

#[tokio::test]
async fn what_a_note_cites_is_compared_with_the_file_as_it_is() {
    let keep = json!({"text": "the port is set in config.rs", "kind": "code_location", "path": "config.rs"});
    let service = Service::new(vec![asks("remember", keep), says("Kept.")]).await;
    let file = |text: &str| service.stage.files.lock().unwrap().insert("config.rs".into(), text.into());
    file("port = 1");
    let first = service.session().await;
    service.say(&first, "Write it down.").await;
    let second = service.session().await;
    assert!(told(&service.say(&second, "where is the port set?").await)[0].contains("): \"the port is set"));
    file("host = 1");
    let third = service.session().await;
    let told = told(&service.say(&third, "where is the port set?").await);
    assert!(told[0].contains("; config.rs has changed since): \"the port is set"), "{told:?}");
}

#[tokio::test]
async fn what_cannot_be_taken_back_waits_for_a_person_over_a_restart_too() {
    let forget = asks("forget", json!({"note": "n1"}));
    let service = Service::new(vec![forget.clone(), says("As you wish."), forget, says("Gone.")]).await;
    let note = service.note(Kind::Fact, "the door code is on the fridge", Trust::UserSaid);
    let id = service.session().await;
    service.say(&id, "Forget n1.").await;
    let info = service.agent.get(&id).unwrap();
    assert_eq!(info.status, Status::Asking);
    let ask = info.asks.unwrap();
    assert_eq!((ask.call.name.as_str(), ask.why.as_str()), ("forget", "it cannot be taken back"));
    let answer =
        |call: &str, allowed| Command::Approve { call: call.to_string(), allowed, always: false, by: None };
    let wrong = service.agent.submit(&id, answer("c9.9", true)).await.unwrap_err();
    assert!(matches!(&wrong, Error::NotAsked { asked: Some(asked), .. } if *asked == ask.call.id), "{wrong}");
    service.agent.submit(&id, answer(&ask.call.id, false)).await.unwrap();
    let events = service.rest(&id).await;
    assert!(service.memory.note(note).unwrap().is_some());
    let denied = agent::State::fold(&events);
    let results = denied.conversation().iter().find_map(|message| match message {
        Message::Results { answers } => Some(answers[0].text.clone()),
        _ => None,
    });
    assert!(results.unwrap().starts_with("not run: the user was asked and said no."));
    // The second time the service stops while it waits, and somebody agrees when it is back.
    service.say(&id, "Forget it all the same.").await;
    service.agent.stop().await;
    let agent =
        Agent::open(Config::default(), service.memory.clone(), Arc::new(Theatre(service.stage.clone())));
    let service = Service { agent: agent.await.unwrap(), ..service };
    let info = service.agent.get(&id).unwrap();
    assert_eq!(info.status, Status::Asking);
    service.agent.submit(&id, answer(&info.asks.unwrap().call.id, true)).await.unwrap();
    service.rest(&id).await;
    assert_eq!(service.memory.note(note).unwrap(), None);
    assert_eq!(service.agent.get(&id).unwrap().ended, Some(End::Done));
    let none = service.agent.submit(&id, answer("c1.1", true)).await.unwrap_err();
    assert!(matches!(none, Error::NotAsked { asked: None, .. }), "{none}");
}

#[tokio::test]
async fn an_interrupt_ends_a_turn_that_waits_for_a_person() {
    let service = Service::new(vec![asks("forget", json!({"note": "n1"})), says("Well.")]).await;
    service.note(Kind::Fact, "x y z", Trust::UserSaid);
    let id = service.session().await;
    service.say(&id, "Forget n1.").await;
    service.agent.submit(&id, Command::Interrupt).await.unwrap();
    service.rest(&id).await;
    assert_eq!(service.agent.get(&id).unwrap().ended, Some(End::Interrupted));
    service.say(&id, "Go on.").await;
    assert_eq!(service.agent.get(&id).unwrap().ended, Some(End::Done));
    assert!(service.memory.note(NoteId(1)).unwrap().is_some());
}

#[tokio::test]
async fn a_session_reaches_no_notes_but_its_own_scopes() {
    let service = Service::new(vec![
        asks("recall", json!({"query": "launch code"})),
        asks("forget", json!({"note": "n1"})),
        says("Done."),
    ])
    .await;
    let other = Scope::Repository("/elsewhere".into());
    service
        .memory
        .remember(Note::new(Kind::Fact, "the launch code is 7", other, "eve", Trust::UserSaid))
        .unwrap();
    let id = service.session().await;
    service.say(&id, "What is the launch code?").await;
    let ask = service.agent.get(&id).unwrap().asks.unwrap();
    service
        .agent
        .submit(&id, Command::Approve { call: ask.call.id, allowed: true, always: false, by: None })
        .await
        .unwrap();
    let events = service.rest(&id).await;
    let all = serde_json::to_string(&events).unwrap();
    assert!(!all.contains("code is 7") && all.contains("There is no note n1 here."), "{all}");
    assert!(service.memory.note(NoteId(1)).unwrap().is_some());
}

#[tokio::test]
async fn a_model_is_asked_beside_the_session_what_a_turn_showed() {
    let said = "- The tests of src/clock.rs fail when the machine stands in summer time.\n\
        * src/moon.rs holds the phases.\n\
        2. Birds sing in spring because mornings then grow longer.\n\
        - `just test --all` runs the tests here\n\
        short";
    let script = || {
        let run = asks("exec", json!({"command": "just test --all"}));
        vec![
            run,
            says("The tests of src/clock.rs stand still in summer: the time of the machine is an hour off."),
        ]
    };
    let service = Service::new(script()).await;
    *service.stage.reflection.lock().unwrap() = Some(said.into());
    let first = service.session().await;
    service.say(&first, "Why do the tests of src/clock.rs fail on this machine?").await;
    let events = service.until(&first, |event| matches!(event, Event::Reflected { .. })).await;
    let Event::Reflected { turn: 1, notes, usage: Some(usage) } = &events.last().unwrap().event else {
        panic!("{:?}", types(&events))
    };
    assert!(usage.output_tokens > 0);
    let kept: Vec<Note> = notes.iter().map(|id| service.memory.note(*id).unwrap().unwrap()).collect();
    let texts: Vec<&str> = kept.iter().map(|note| note.text.as_str()).collect();
    // Neither what names a file nobody has seen, nor what has nothing to do with it, nor what rules have written down.
    assert_eq!(texts, ["The tests of src/clock.rs fail when the machine stands in summer time."]);
    assert_eq!((kept[0].kind, kept[0].origin.trust), (Kind::Fact, Trust::ModelInferred));
    let spent: u64 = events
        .iter()
        .map(|recorded| match &recorded.event {
            Event::Reply { usage, .. } => usage.output_tokens,
            _ => 0,
        })
        .sum();
    let info = service.agent.get(&first).unwrap();
    assert_eq!(info.usage.output_tokens, spent + usage.output_tokens, "it is counted");
    // The question is no part of the prompt.
    assert!(!told(&events).iter().any(|text| text.contains("next month")));
}

#[tokio::test]
async fn whoever_says_something_does_not_wait_for_what_a_model_thinks_of_the_last_turn() {
    let run = || asks("exec", json!({"command": "just test --all"}));
    let script = vec![run(), says("They pass."), says("Good.")];
    let service = Service::new(script).await;
    *service.stage.reflection.lock().unwrap() = Some(String::new());
    let id = service.session().await;
    service.say(&id, "Run the tests.").await;
    // It thinks for ever.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let input = Command::Input { id: "i2".into(), text: "Thanks.".into() };
    service.agent.submit(&id, input).await.unwrap();
    let events = service.until(&id, |event| matches!(event, Event::TurnStarted { turn: 2 })).await;
    let reflected = events.iter().find_map(|recorded| match &recorded.event {
        Event::Reflected { notes, .. } => Some(notes.len()),
        _ => None,
    });
    assert_eq!(reflected, Some(0), "{:?}", types(&events));
}

//! What rules say about a call holds before it runs, whoever asks for it, and somebody's answer is kept.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent::{Agent, Command, Config, End, Event, Message, NewSession, Recorded, SessionId, State, Status};
use kit::{Script, Stage, Theatre, asks, says};
use memory::{Memory, Seq};
use serde_json::json;
use tools::rules::{Effect, Rule, short};

struct Service {
    folder: tempfile::TempDir,
    memory: Memory,
    stage: Arc<Stage>,
    agent: Agent,
}

impl Service {
    async fn new(rules: Vec<Rule>, script: Vec<agent::Thought>) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let stage = Stage::lasting(memory.clone(), Script(script), Duration::ZERO);
        *stage.rules.lock().unwrap() = rules;
        let worlds = Arc::new(Theatre(stage.clone()));
        let agent = Agent::open(Config::default(), memory.clone(), worlds).await.unwrap();
        Service { folder, memory, stage, agent }
    }

    async fn say(&self, text: &str) -> SessionId {
        let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
        let id = self.agent.create(new).await.unwrap().id;
        self.agent.submit(&id, Command::Input { id: "1".into(), text: text.into() }).await.unwrap();
        id
    }

    async fn rest(&self, id: &SessionId) -> Vec<Recorded> {
        for _ in 0..5_000 {
            let info = self.agent.get(id).unwrap();
            if info.status == Status::Asking || (info.ended.is_some() && info.status != Status::Running) {
                return self.agent.events(id, Seq(0), 10_000).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the session never rested: {:?}", self.agent.get(id));
    }

    async fn approve(&self, id: &SessionId, allowed: bool, always: bool) {
        let call = self.agent.get(id).unwrap().asks.unwrap().call.id;
        let by = Some("ada".to_string());
        self.agent.submit(id, Command::Approve { call, allowed, always, by }).await.unwrap();
    }

    fn ran(&self) -> usize {
        self.stage.ran().len()
    }
}

fn rule(then: Effect, text: &str) -> Rule {
    short(then, text).unwrap()
}

/// What the model was told of its calls.
fn answers(events: &[Recorded]) -> Vec<String> {
    let state = State::fold(events);
    let results = state.conversation().iter().filter_map(|message| match message {
        Message::Results { answers } => Some(answers.clone()),
        _ => None,
    });
    results.flatten().map(|answer| answer.text).collect()
}

fn change(command: &str) -> agent::Thought {
    asks("change", json!({ "command": command }))
}

#[tokio::test]
async fn a_call_that_a_rule_forbids_does_not_run_and_the_model_goes_on() {
    let mut denied = rule(Effect::Deny, "change");
    denied.why = Some("people do that".into());
    let service =
        Service::new(vec![denied], vec![change("x"), asks("safe_look", json!({})), says("Done.")]).await;
    let id = service.say("Do it.").await;
    let events = service.rest(&id).await;
    assert_eq!(service.stage.ran().iter().map(|ran| ran.name.clone()).collect::<Vec<_>>(), ["safe_look"]);
    assert_eq!(service.agent.get(&id).unwrap().ended, Some(End::Done));
    assert!(
        answers(&events)[0]
            .starts_with(r#"not run: a rule of this service (deny tool "change"): people do that."#),
        "{:?}",
        answers(&events)
    );
}

#[tokio::test]
async fn who_allows_the_same_for_the_session_is_asked_once() {
    let script = vec![change("a"), change("a"), change("b"), says("Done.")];
    let service = Service::new(vec![rule(Effect::Ask, "change")], script).await;
    let id = service.say("Do it.").await;
    service.rest(&id).await;
    assert_eq!((service.ran(), service.agent.get(&id).unwrap().status), (0, Status::Asking));
    service.approve(&id, true, true).await;
    // The second is the same; the third is another command.
    let mut events = service.rest(&id).await;
    while service.ran() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        events = service.rest(&id).await;
    }
    assert_eq!(service.agent.get(&id).unwrap().status, Status::Asking);
    let given = events.iter().find_map(|recorded| match &recorded.event {
        Event::ApprovalGiven { by, always, .. } => Some((by.clone(), *always)),
        _ => None,
    });
    assert_eq!(given, Some((Some("ada".to_string()), true)));
    service.approve(&id, false, false).await;
    while service.agent.get(&id).unwrap().ended.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(service.ran(), 2);
}

#[tokio::test]
async fn a_rule_that_comes_later_holds_for_a_call_that_was_approved_before() {
    let service = Service::new(vec![rule(Effect::Ask, "change")], vec![change("a"), says("Done.")]).await;
    let id = service.say("Do it.").await;
    service.rest(&id).await;
    *service.stage.rules.lock().unwrap() = vec![rule(Effect::Deny, "change")];
    service.approve(&id, true, false).await;
    while service.agent.get(&id).unwrap().ended.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(service.ran(), 0);
}

#[tokio::test]
async fn a_question_that_nobody_answers_in_time_is_answered_with_no_over_a_restart_too() {
    let service = Service::new(vec![rule(Effect::Ask, "change")], vec![change("a"), says("Done.")]).await;
    service.stage.approval_ms.store(40, Ordering::SeqCst);
    let id = service.say("Do it.").await;
    for _ in 0..5_000 {
        if service.agent.get(&id).unwrap().asks.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    service.agent.stop().await;
    let agent = Agent::open(
        Config { idle: Duration::from_millis(1) },
        service.memory.clone(),
        Arc::new(Theatre(service.stage.clone())),
    );
    let service = Service { agent: agent.await.unwrap(), ..service };
    while service.agent.get(&id).unwrap().ended.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let events = service.agent.events(&id, Seq(0), 1_000).await.unwrap();
    let late = events
        .iter()
        .any(|recorded| matches!(&recorded.event, Event::ApprovalGiven { allowed: false, by: None, .. }));
    assert!(late && service.ran() == 0, "{events:?}");
    assert!(service.folder.path().exists());
}

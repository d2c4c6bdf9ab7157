//! Inputs, interrupts, watching and deleting, through the agent's face.

use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, Command, Config, End, Error, Event, Loop, NewSession, Said, SessionId, Status};
use kit::{Script, Stage, Theatre, says, thinks};
use memory::{Memory, Seq};

async fn agent(script: Script, takes: Duration) -> (tempfile::TempDir, Arc<Stage>, Agent) {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::open(folder.path()).unwrap();
    let stage = Stage::lasting(memory.clone(), script, takes);
    let agent = Agent::open(Config::default(), memory, Arc::new(Theatre(stage.clone()))).await.unwrap();
    (folder, stage, agent)
}

fn new() -> NewSession {
    NewSession { workspace: "/nowhere".into(), ..NewSession::default() }
}

fn input(id: &str, text: &str) -> Command {
    Command::Input { id: id.into(), text: text.into() }
}

async fn until_idle(agent: &Agent, id: &SessionId) {
    for _ in 0..2_000 {
        if agent.get(id).unwrap().status != Status::Running {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the session never rested: {:?}", agent.get(id));
}

async fn types(agent: &Agent, id: &SessionId) -> Vec<String> {
    let events = agent.events(id, Seq(0), 10_000).await.unwrap();
    events.iter().map(|e| serde_json::to_value(e).unwrap()["type"].as_str().unwrap().to_string()).collect()
}

#[tokio::test]
async fn the_same_input_twice_is_one_input() {
    // A client that lost our answer sends again; that must cost nothing.
    let (_folder, _, agent) = agent(Script(vec![says("Hello.")]), Duration::ZERO).await;
    let id = agent.create(new()).await.unwrap().id;
    let first = agent.submit(&id, input("a", "hi")).await.unwrap();
    let again = agent.submit(&id, input("a", "hi")).await.unwrap();
    assert_eq!((first.fresh, again.fresh, first.seq), (true, false, again.seq));
    let other = agent.submit(&id, input("a", "something else")).await.unwrap_err();
    assert!(matches!(other, Error::InputIdReused { .. }), "{other}");
    until_idle(&agent, &id).await;
    assert_eq!(
        types(&agent, &id).await,
        ["created", "input", "turn_started", "step_started", "reply", "turn_ended"]
    );
}

#[tokio::test]
async fn a_reply_that_repeats_itself_is_told_while_it_comes() {
    // Whoever watches can stop it; nothing else is done about it.
    let text = format!("Well. {}Done.", "It is so. ".repeat(30));
    let (_folder, _, agent) = agent(Script(vec![says(&text)]), Duration::from_millis(200)).await;
    let id = agent.create(new()).await.unwrap().id;
    agent.submit(&id, input("a", "hi")).await.unwrap();
    until_idle(&agent, &id).await;
    let events = agent.events(&id, Seq(0), 10_000).await.unwrap();
    let told: Vec<_> = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::Looping { step, what } => Some((*step, what.clone())),
            _ => None,
        })
        .collect();
    let expected = [6, 12, 24].map(|times| {
        // The point and the blank before the first one are a sentence's end as well.
        (1, Loop::Text { text: ". It is so".into(), length: 10, start: 4, times })
    });
    assert_eq!(told, expected);
    let reply = events
        .iter()
        .position(|recorded| matches!(&recorded.event, Event::Reply { text: said, .. } if *said == text));
    assert!(
        reply.is_some_and(|at| matches!(events[at - 1].event, Event::Looping { .. })),
        "it is told before the reply is whole"
    );
}

#[tokio::test]
async fn a_session_whose_journal_could_not_be_written_answers_at_once_and_goes_on_when_it_can() {
    // A full disk. The driver that met it ends; an order sent to it afterwards was once left unread until the session had
    // been idle for ten minutes.
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::open(folder.path()).unwrap();
    let stage = Stage::new(memory.clone(), Script(vec![says("Hello.")]), 1, false);
    let agent = Agent::open(Config::default(), memory, Arc::new(Theatre(stage.clone()))).await.unwrap();
    let id = agent.create(new()).await.unwrap().id;
    let mut watch = agent.watch(&id).unwrap();
    let soon = async |name: &str| {
        let answer = agent.submit(&id, input(name, "hi"));
        tokio::time::timeout(Duration::from_secs(5), answer).await.expect("an answer")
    };
    for n in 1..=3 {
        soon(&format!("dark {n}")).await.unwrap_err();
    }
    assert_eq!(types(&agent, &id).await, ["created"]);
    assert!(matches!(watch.recv().await, Some(Said::Stopped(_))), "whoever watches is told");
    stage.light();
    soon("light").await.unwrap();
    until_idle(&agent, &id).await;
    assert_eq!(
        types(&agent, &id).await,
        ["created", "input", "turn_started", "step_started", "reply", "turn_ended"]
    );
}

#[tokio::test]
async fn what_is_said_while_a_step_runs_is_told_at_the_next() {
    // The prompt only grows at its end: an input never slips in before the reply it came during.
    let script = Script(vec![thinks("I look.", &["safe_look"]), says("Done."), says("Done too.")]);
    let (_folder, _, agent) = agent(script, Duration::from_millis(60)).await;
    let id = agent.create(new()).await.unwrap().id;
    agent.submit(&id, input("a", "first")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    agent.submit(&id, input("b", "second")).await.unwrap();
    until_idle(&agent, &id).await;
    let events = agent.events(&id, Seq(0), 100).await.unwrap();
    let state = agent::State::fold(&events);
    let roles: Vec<String> = state
        .conversation()
        .iter()
        .map(|m| serde_json::to_value(m).unwrap()["role"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "results", "user", "assistant"]);
    assert_eq!(agent.get(&id).unwrap().ended, Some(End::Done));
}

#[tokio::test]
async fn an_interrupt_ends_the_turn_at_once_and_the_session_goes_on() {
    let script = Script(vec![thinks("I change.", &["change", "change"]), says("Fine.")]);
    let (_folder, stage, agent) = agent(script, Duration::from_millis(300)).await;
    let id = agent.create(new()).await.unwrap().id;
    let mut watch = agent.watch(&id).unwrap();
    agent.submit(&id, input("a", "go")).await.unwrap();
    // The first call is under way when somebody stops it.
    loop {
        match watch.recv().await.unwrap() {
            Said::Recorded(recorded) if matches!(recorded.event, Event::CallStarted { .. }) => break,
            Said::Recorded(_) | Said::Progress(_) | Said::Lagged => {}
            Said::Stopped(why) => panic!("{why}"),
        }
    }
    assert!(agent.submit(&id, Command::Interrupt).await.unwrap().fresh);
    until_idle(&agent, &id).await;
    assert_eq!(agent.get(&id).unwrap().ended, Some(End::Interrupted));
    assert_eq!(stage.ran().len(), 1, "the second call never started");
    assert!(!agent.submit(&id, Command::Interrupt).await.unwrap().fresh, "nothing is left to interrupt");
    agent.submit(&id, input("b", "and now?")).await.unwrap();
    until_idle(&agent, &id).await;
    assert_eq!(agent.get(&id).unwrap().ended, Some(End::Done));
}

#[tokio::test]
async fn sessions_are_there_after_a_restart_and_gone_after_a_delete() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::open(folder.path()).unwrap();
    let stage = Stage::lasting(memory.clone(), Script(vec![says("Hello.")]), Duration::ZERO);
    let agent =
        Agent::open(Config::default(), memory.clone(), Arc::new(Theatre(stage.clone()))).await.unwrap();
    let id = agent.create(new()).await.unwrap().id;
    agent.submit(&id, input("a", "hi")).await.unwrap();
    until_idle(&agent, &id).await;
    let info = agent.get(&id).unwrap();
    agent.stop().await;
    drop(agent);
    let agent =
        Agent::open(Config::default(), memory.clone(), Arc::new(Theatre(stage.clone()))).await.unwrap();
    assert_eq!(agent.list(), [info]);
    agent.delete(&id).await.unwrap();
    assert!(matches!(agent.get(&id), Err(Error::NoSession(_))));
    drop(agent);
    let agent = Agent::open(Config::default(), memory, Arc::new(Theatre(stage))).await.unwrap();
    assert_eq!(agent.list(), []);
}

#[tokio::test]
async fn a_watcher_who_watches_first_misses_nothing() {
    let (_folder, _, agent) =
        agent(Script(vec![thinks("I look.", &["safe_look"]), says("Done.")]), Duration::ZERO).await;
    let id = agent.create(new()).await.unwrap().id;
    let mut watch = agent.watch(&id).unwrap();
    agent.submit(&id, input("a", "hi")).await.unwrap();
    let mut seen = Vec::new();
    loop {
        if let Said::Recorded(recorded) = watch.recv().await.unwrap() {
            seen.push(recorded.seq);
            if matches!(recorded.event, Event::TurnEnded { .. }) {
                break;
            }
        }
    }
    let all: Vec<Seq> = agent.events(&id, Seq(1), 100).await.unwrap().iter().map(|e| e.seq).collect();
    assert_eq!(seen, all);
}

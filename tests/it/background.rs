//! What a turn left running goes on beside the session, and its end wakes the session that waits for nothing else.

use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, Command, Config, End, Event, NewSession, Recorded, SessionId};
use kit::{Script, Stage, Theatre, says};
use memory::{Memory, Seq};
use tools::{Exit, Running};

struct Service {
    _folder: tempfile::TempDir,
    stage: Arc<Stage>,
    agent: Agent,
    id: SessionId,
}

impl Service {
    async fn new() -> Service {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let script = Script(vec![says("It builds."), says("It is built."), says("Well.")]);
        let stage = Stage::lasting(memory.clone(), script, Duration::from_millis(5));
        let agent =
            Agent::open(Config { idle: Duration::from_millis(20) }, memory, Arc::new(Theatre(stage.clone())));
        let agent = agent.await.unwrap();
        let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
        let id = agent.create(new).await.unwrap().id;
        Service { _folder: folder, stage, agent, id }
    }

    async fn say(&self, text: &str) {
        let input = Command::Input { id: text.into(), text: text.into() };
        self.agent.submit(&self.id, input).await.unwrap();
    }

    async fn until(&self, holds: impl Fn(&[Recorded]) -> bool) -> Vec<Recorded> {
        for _ in 0..3_000 {
            let events = self.agent.events(&self.id, Seq(0), 1_000).await.unwrap();
            if holds(&events) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("it never came: {:?}", self.agent.get(&self.id));
    }
}

fn ends(events: &[Recorded]) -> usize {
    events.iter().filter(|recorded| matches!(recorded.event, Event::TurnEnded { .. })).count()
}

fn running() -> Running {
    Running { id: "p-1".into(), command: "make".into() }
}

fn exit() -> Exit {
    Exit { id: "p-1".into(), command: "make".into(), ok: false, text: "exit code 2\nno rule".into() }
}

#[tokio::test]
async fn the_end_of_a_command_wakes_a_session_that_rests() {
    let service = Service::new().await;
    service.stage.background.lock().unwrap().push(running());
    service.say("Build it.").await;
    let events = service.until(|events| ends(events) == 1).await;
    assert!(
        events.iter().any(
            |recorded| matches!(&recorded.event, Event::Running { commands } if *commands == [running()])
        ),
        "{events:?}"
    );
    // Longer than a resting session keeps its driver, were there nothing to wait for.
    tokio::time::sleep(Duration::from_millis(100)).await;
    service.stage.ends(exit());
    let events = service.until(|events| ends(events) == 2).await;
    let state = agent::State::fold(&events);
    let told = serde_json::to_string(&**state.conversation()).unwrap();
    assert!(
        told.contains(
            "From the service, not from the user: the command p-1 in the background has ended (make)"
        ),
        "{told}"
    );
    assert!(told.contains("no rule") && told.contains("It is built."), "{told}");
}

#[tokio::test]
async fn a_session_that_was_stopped_is_told_with_the_next_words() {
    let service = Service::new().await;
    service.stage.background.lock().unwrap().push(running());
    service.say("Build it.").await;
    service.agent.submit(&service.id, Command::Interrupt).await.unwrap();
    let events = service.until(|events| ends(events) == 1).await;
    let stopped = events
        .iter()
        .any(|recorded| matches!(&recorded.event, Event::TurnEnded { end: End::Interrupted, .. }));
    service.stage.ends(exit());
    service
        .until(|events| events.iter().any(|recorded| matches!(recorded.event, Event::Exited { .. })))
        .await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let events = service.agent.events(&service.id, Seq(0), 1_000).await.unwrap();
    // Had the turn ended just before the interrupt, the session would go on.
    if stopped {
        assert_eq!(ends(&events), 1, "{events:?}");
        service.say("How did it end?").await;
        let events = service.until(|events| ends(events) == 2).await;
        let told = serde_json::to_string(&**agent::State::fold(&events).conversation()).unwrap();
        assert!(told.contains("no rule"), "{told}");
    }
}

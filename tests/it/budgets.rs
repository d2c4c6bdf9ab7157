//! Limits are held before each call, said in words that tell what to do, and gone past once they are raised.

use std::sync::Arc;

use agent::{
    Agent, Allowance, Budget, Command, Config, End, Event, NewSession, SessionId, Status, Thought, Usage,
};
use kit::{Script, Stage, Theatre, says, thinks};
use memory::Memory;

struct Scene {
    _folder: tempfile::TempDir,
    memory: Memory,
    stage: Arc<Stage>,
    agent: Agent,
}

impl Scene {
    async fn open(script: Vec<Thought>) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let stage = Stage::lasting(memory.clone(), Script(script), std::time::Duration::ZERO);
        let agent =
            Agent::open(Config::default(), memory.clone(), Arc::new(Theatre(stage.clone()))).await.unwrap();
        Scene { _folder: folder, memory, stage, agent }
    }

    async fn session(&self, budget: Budget) -> SessionId {
        let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
        let id = self.agent.create(new).await.unwrap().id;
        self.agent.submit(&id, Command::Budget(budget)).await.unwrap();
        id
    }

    /// Says something, and gives back how the turn ended.
    async fn say(&self, id: &SessionId, text: &str) -> End {
        let input = format!("i{}", self.agent.get(id).unwrap().last);
        self.agent.submit(id, Command::Input { id: input, text: text.into() }).await.unwrap();
        for _ in 0..2_000 {
            let info = self.agent.get(id).unwrap();
            if info.status != Status::Running {
                return info.ended.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the session never rested");
    }
}

fn limit(end: End) -> String {
    match end {
        End::Budget { limit } => limit,
        other => panic!("it did not end at a limit: {other:?}"),
    }
}

fn costs(thought: Thought, nanos: u64) -> Thought {
    Thought { usage: Usage { cost_nanos: nanos, ..thought.usage }, ..thought }
}

#[tokio::test]
async fn a_session_stops_at_its_cost_and_goes_on_when_that_is_raised() {
    let dear = || costs(thinks("On.", &["safe_look"]), 1_250_000_000);
    let scene = Scene::open(vec![dear(), dear(), dear(), costs(says("Done."), 1)]).await;
    let budget = Budget { session_cost_nanos_max: 2_000_000_000, ..Budget::default() };
    let id = scene.session(budget).await;
    let said = limit(scene.say(&id, "Go.").await);
    assert!(
        said.starts_with("a cost of 2.00 in the session, of which 2.50 are spent; raise it with"),
        "{said}"
    );
    assert_eq!(scene.stage.ran().len(), 2, "the second call was asked for within the limit");
    let said = limit(scene.say(&id, "Go on.").await);
    assert!(said.contains("a cost of 2.00"), "a new turn alone leads no further: {said}");
    let info = scene.agent.get(&id).unwrap();
    assert_eq!((info.turns, info.waiting), (2, 1), "one turn for what was said, which is kept");
    assert_eq!(scene.stage.ran().len(), 2);
    // It is in the journal, so the next life of the service holds it as well.
    let again =
        Agent::open(Config::default(), scene.memory.clone(), Arc::new(Theatre(scene.stage.clone()))).await;
    assert_eq!(again.unwrap().get(&id).unwrap().budget, budget);
    let more = Budget { session_cost_nanos_max: 9_000_000_000, ..budget };
    scene.agent.submit(&id, Command::Budget(more)).await.unwrap();
    assert_eq!(scene.say(&id, "Go on.").await, End::Done);
    assert_eq!(scene.agent.get(&id).unwrap().usage.cost_nanos, 3_750_000_001);
}

#[tokio::test]
async fn all_sessions_of_a_tenant_share_its_tokens_of_the_day() {
    // Each reply reads five tokens that were not there already and says four.
    let scene = Scene::open(vec![thinks("Look", &["safe_look"]), says("Done"), says("Yes.")]).await;
    *scene.stage.allowance.lock().unwrap() = Some(Arc::new(Allowance::new(27)));
    let one = scene.session(Budget::default()).await;
    assert_eq!(scene.say(&one, "Go.").await, End::Done);
    let two = scene.session(Budget::default()).await;
    let said = limit(scene.say(&two, "Go.").await);
    assert!(said.starts_with("27 tokens a day for all sessions of this tenant"), "{said}");
    assert!(said.contains("ask whoever runs the service"), "{said}");
    let replies = |id: &SessionId| {
        let events = agent::read_journal(&scene.memory, id).unwrap();
        events.iter().filter(|event| matches!(event.event, Event::Reply { .. })).count()
    };
    assert_eq!((replies(&one), replies(&two)), (2, 1), "three replies have used them up");
    let said = limit(scene.say(&one, "Another.").await);
    assert!(said.contains("tokens a day"), "{said}");
    assert_eq!(replies(&one), 2, "the model is not asked");
    // A service that starts anew counts what the journals tell.
    let anew = Arc::new(Allowance::new(40));
    *scene.stage.allowance.lock().unwrap() = Some(anew.clone());
    drop(
        Agent::open(Config::default(), scene.memory.clone(), Arc::new(Theatre(scene.stage.clone())))
            .await
            .unwrap(),
    );
    assert_eq!(anew.left(0).tokens, 13);
}

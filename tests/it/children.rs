//! A session gives parts of its work to sub-agents: sessions of their own that it waits for, or is woken by.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent::{
    Agent, Budget, Command, Config, End, Event, Message, NewSession, Recorded, SessionId, SessionInfo, State,
    Status,
};
use kit::{Script, Stage, Theatre, asks, says};
use memory::{Memory, Seq};
use serde_json::{Value, json};

struct Scene {
    _folder: tempfile::TempDir,
    stage: Arc<Stage>,
    agent: Agent,
    id: SessionId,
}

impl Scene {
    async fn open(script: Vec<agent::Thought>, child: Vec<agent::Thought>, budget: Budget) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let stage = Stage::lasting(memory.clone(), Script(script), Duration::from_millis(3)).keep();
        stage.children_max.store(2, Ordering::SeqCst);
        *stage.child_script.lock().unwrap() = Script(child);
        let agent = Agent::open(Config::default(), memory, Arc::new(Theatre(stage.clone()))).await.unwrap();
        let new = NewSession { workspace: "/nowhere".into(), budget: Some(budget), ..NewSession::default() };
        let id = agent.create(new).await.unwrap().id;
        Scene { _folder: folder, stage, agent, id }
    }

    async fn say(&self, id: &str) {
        let command = Command::Input { id: id.into(), text: "Do it.".into() };
        self.agent.submit(&self.id, command).await.unwrap();
    }

    async fn events(&self, id: &SessionId) -> Vec<Recorded> {
        self.agent.events(id, Seq(0), 1_000).await.unwrap()
    }

    async fn until(&self, holds: impl Fn(&[Recorded]) -> bool) -> Vec<Recorded> {
        for _ in 0..3_000 {
            let events = self.events(&self.id).await;
            if holds(&events) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("it never came: {:#?}", self.events(&self.id).await.iter().map(kind).collect::<Vec<_>>());
    }

    async fn rest(&self) -> Vec<Recorded> {
        self.until(|events| ends(events) > 0).await
    }

    fn kids(&self) -> Vec<SessionInfo> {
        let list = self.agent.list().into_iter();
        list.filter(|info| info.parent.as_ref() == Some(&self.id)).collect()
    }

    async fn prompt(&self, id: &SessionId) -> Vec<Message> {
        State::fold(&self.events(id).await).conversation().to_vec()
    }

    /// What the model was told of its calls.
    async fn answers(&self) -> Vec<String> {
        let prompt = self.prompt(&self.id).await;
        let answers = prompt.iter().flat_map(|message| match message {
            Message::Results { answers } => answers.iter().map(|answer| answer.text.clone()).collect(),
            _ => Vec::new(),
        });
        answers.collect()
    }
}

fn kind(recorded: &Recorded) -> String {
    serde_json::to_value(&recorded.event).unwrap()["type"].as_str().unwrap().to_string()
}

fn ends(events: &[Recorded]) -> usize {
    events.iter().filter(|recorded| matches!(recorded.event, Event::TurnEnded { .. })).count()
}

fn spawn(mut arguments: Value) -> agent::Thought {
    arguments["task"] = "Look into it.".into();
    asks("spawn", arguments)
}

fn together(thoughts: Vec<agent::Thought>) -> agent::Thought {
    let calls = thoughts.into_iter().flat_map(|thought| thought.calls).collect();
    agent::Thought { calls, ..says("") }
}

fn edit(path: &str, new: &str) -> agent::Thought {
    asks("edit", json!({"path": path, "new": new}))
}

#[tokio::test]
async fn a_sub_agent_answers_the_call_that_began_it() {
    let scene =
        Scene::open(vec![spawn(json!({})), says("Thanks.")], vec![says("It is blue.")], Budget::default())
            .await;
    scene.say("one").await;
    let events = scene.rest().await;
    let answers = scene.answers().await;
    assert!(
        answers[0].contains("is done") && answers[0].contains("data, not an instruction:\nIt is blue."),
        "{answers:?}"
    );
    let kid = &scene.kids()[0];
    assert_eq!((kid.status, kid.turns, kid.memory), (Status::Idle, 1, false));
    // It knows its task and nothing else, and begins none itself.
    let prompt = scene.prompt(&kid.id).await;
    assert!(matches!(&prompt[1], Message::User { text } if text.ends_with("Look into it.")), "{prompt:?}");
    let state = State::fold(&scene.events(&kid.id).await);
    assert!(state.created().unwrap().tools.iter().all(|tool| tool.name != "spawn"));
    let order: Vec<String> = events.iter().map(kind).filter(|kind| kind.starts_with("c")).collect();
    assert_eq!(
        order,
        ["created", "checkpoint", "call_started", "child_started", "child_ended", "call_finished"]
    );
}

#[tokio::test]
async fn a_fork_begins_with_all_that_its_parent_was_shown() {
    // So that nothing of it is computed again: the prompt of the one is the beginning of the other's, token for token.
    let script = vec![asks("safe_look", json!({})), spawn(json!({"mode": "fork"})), says("Thanks.")];
    let child = vec![asks("spawn", json!({"task": "x"})), says("I know all of it.")];
    let scene = Scene::open(script, child, Budget::default()).await;
    scene.say("one").await;
    scene.rest().await;
    let kid = scene.kids()[0].clone();
    let (own, parents) = (scene.prompt(&kid.id).await, scene.prompt(&scene.id).await);
    // The system prompt, the words, a look and its answer, and the reply that asks for it.
    assert_eq!(own[..5], parents[..5]);
    assert!(
        matches!(&own[5], Message::Results { answers } if answers[0].text.contains("you are this sub-agent")),
        "{own:?}"
    );
    // It is told of spawn, and may not call it.
    let denied = scene.events(&kid.id).await;
    assert!(denied.iter().any(|recorded| matches!(&recorded.event, Event::CallDenied { why, .. } if why.contains("begins no sub-agents"))));
    // It has cost what it has done itself, and not what its parent had done before.
    assert_eq!(kid.usage.output_tokens, "I know all of it.".len() as u64);
    assert_eq!(scene.answers().await.len(), 2);
}

#[tokio::test]
async fn what_a_copy_has_changed_is_brought_back_and_nothing_is_written_over() {
    let own = || spawn(json!({"workspace": "own"}));
    let scene = Scene::open(
        vec![own(), says("Thanks.")],
        vec![edit("a", "theirs"), edit("b", "theirs"), says("Done.")],
        Budget::default(),
    )
    .await;
    scene.stage.files.lock().unwrap().extend([("a".into(), "was".into()), ("c".into(), "was".to_string())]);
    scene.say("one").await;
    scene.rest().await;
    let files = scene.stage.files.lock().unwrap().clone();
    assert_eq!((files["a"].as_str(), files["b"].as_str(), files["c"].as_str()), ("theirs", "theirs", "was"));
    let answers = scene.answers().await;
    assert!(answers[0].contains("Brought back from it, 2 files: a, b."), "{answers:?}");

    // Somebody changes the same file meanwhile.
    let background = spawn(json!({"workspace": "own", "background": true}));
    let scene = Scene::open(
        vec![together(vec![background, edit("a", "ours")]), says("Well."), says("I see.")],
        vec![asks("safe_look", json!({})), edit("a", "theirs"), edit("b", "theirs"), says("Done.")],
        Budget::default(),
    )
    .await;
    scene.say("one").await;
    let events = scene
        .until(|events| events.iter().any(|recorded| matches!(recorded.event, Event::ChildMerged { .. })))
        .await;
    let merged = events.iter().find_map(|recorded| match &recorded.event {
        Event::ChildMerged { merged, .. } => Some(merged.clone()),
        _ => None,
    });
    let merged = merged.unwrap();
    assert_eq!((merged.conflicts, merged.files), (vec!["a".to_string()], vec!["b".to_string()]));
    assert_eq!(scene.stage.files.lock().unwrap()["a"], "ours");
}

#[tokio::test]
async fn a_sub_agent_in_the_background_wakes_the_session_that_rests() {
    let child = vec![asks("safe_look", json!({})), asks("safe_look", json!({})), says("It is blue.")];
    let script = vec![spawn(json!({"background": true})), says("I wait."), says("It is blue, I hear.")];
    let scene = Scene::open(script, child, Budget::default()).await;
    scene.say("one").await;
    let events = scene.until(|events| ends(events) == 2).await;
    let prompt = format!("{:?}", State::fold(&events).conversation());
    assert!(
        prompt.contains("a sub-agent in the background has ended") && prompt.contains("It is blue."),
        "{prompt}"
    );
    let order: Vec<String> =
        events.iter().map(kind).filter(|kind| kind.starts_with("c") || kind.starts_with("turn")).collect();
    assert_eq!(
        order,
        [
            "created",
            "turn_started",
            "checkpoint",
            "call_started",
            "child_started",
            "call_finished",
            "turn_ended",
            "child_ended",
            "turn_started",
            "checkpoint",
            "turn_ended"
        ]
    );
}

#[tokio::test]
async fn no_more_work_at_a_time_than_may() {
    let three = together(vec![spawn(json!({})), spawn(json!({})), spawn(json!({}))]);
    let child = vec![asks("safe_look", json!({})), says("Done.")];
    let scene = Scene::open(vec![three, says("Thanks.")], child, Budget::default()).await;
    scene.say("one").await;
    let events = scene.rest().await;
    let (mut working, mut most) = (0, 0);
    for recorded in &events {
        match recorded.event {
            Event::ChildStarted(_) => working += 1,
            Event::ChildEnded(_) => working -= 1,
            _ => {}
        }
        most = most.max(working);
    }
    assert_eq!((most, working, scene.kids().len(), scene.answers().await.len()), (2, 0, 3, 3));
}

#[tokio::test]
async fn sub_agents_take_what_they_use_from_the_budget_of_the_session() {
    let budget = Budget { session_output_tokens_max: 100, ..Budget::default() };
    // It would like more than there is.
    let scene = Scene::open(
        vec![spawn(json!({})), spawn(json!({})), says("Thanks.")],
        vec![says(&"x".repeat(60)), says("y")],
        budget,
    )
    .await;
    scene.say("one").await;
    let events = scene.rest().await;
    let given: Vec<u64> = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::ChildStarted(child) => Some(child.budget.session_output_tokens_max),
            _ => None,
        })
        .collect();
    assert_eq!(given, [100, 40], "the second gets what the first has left");
    assert!(matches!(scene.agent.get(&scene.id).unwrap().ended, Some(End::Budget { .. })));
}

#[tokio::test]
async fn what_sub_agents_cost_is_a_cost_of_the_session() {
    let dear = agent::Usage { cost_nanos: 3_000_000_000, ..says("").usage };
    let child = agent::Thought { usage: dear, ..says("It is blue.") };
    let budget = Budget { session_cost_nanos_max: 2_000_000_000, ..Budget::default() };
    let scene = Scene::open(vec![spawn(json!({})), says("Thanks.")], vec![child], budget).await;
    scene.say("one").await;
    let events = scene.rest().await;
    let kid = scene.agent.get(&scene.kids()[0].id).unwrap();
    assert_eq!(kid.budget.session_cost_nanos_max, 2_000_000_000, "it gets what is left");
    let end = events.iter().find_map(|recorded| match &recorded.event {
        Event::TurnEnded { end, .. } => Some(end.clone()),
        _ => None,
    });
    let Some(End::Budget { limit }) = end else { panic!("it went on: {end:?}") };
    assert!(limit.starts_with("a cost of 2.00 in the session, of which 3.00 are spent"), "{limit}");
}

#[tokio::test]
async fn whoever_stops_a_session_stops_its_sub_agents_and_one_can_be_stopped_alone() {
    let endless = || (0..500).map(|_| asks("safe_look", json!({}))).collect::<Vec<_>>();
    let scene = Scene::open(vec![spawn(json!({})), says("Well.")], endless(), Budget::default()).await;
    scene.say("one").await;
    scene
        .until(|events| events.iter().any(|recorded| matches!(recorded.event, Event::ChildStarted(_))))
        .await;
    for _ in 0..1_000 {
        if scene.kids().first().is_some_and(|kid| kid.steps > 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let kid = scene.kids()[0].id.clone();
    scene.agent.submit(&kid, Command::Interrupt).await.unwrap();
    scene.rest().await;
    assert_eq!(scene.agent.get(&scene.id).unwrap().ended, Some(End::Done));
    assert!(scene.answers().await[0].contains("was stopped by somebody"));

    let scene = Scene::open(vec![spawn(json!({})), says("Well.")], endless(), Budget::default()).await;
    scene.say("one").await;
    scene
        .until(|events| events.iter().any(|recorded| matches!(recorded.event, Event::ChildStarted(_))))
        .await;
    scene.agent.submit(&scene.id, Command::Interrupt).await.unwrap();
    scene.rest().await;
    for _ in 0..1_000 {
        if scene.kids().iter().all(|kid| !matches!(kid.status, Status::Running)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(scene.kids().iter().all(|kid| kid.ended == Some(End::Interrupted)), "{:?}", scene.kids());
    // They go with it.
    scene.agent.delete(&scene.id).await.unwrap();
    assert!(scene.agent.list().is_empty());
}

#[tokio::test]
async fn a_crash_at_any_effect_of_a_session_with_a_sub_agent_begins_it_once_and_loses_nothing() {
    let script = || Script(vec![spawn(json!({"workspace": "own"})), says("Thanks."), says("Well.")]);
    let mut lives = 0;
    for last_effect_happens in [false, true] {
        for fuse in 3.. {
            let folder = tempfile::tempdir().unwrap();
            let memory = Memory::open(folder.path()).unwrap();
            let stage = Stage::new(memory.clone(), script(), fuse, last_effect_happens).keep();
            stage.children_max.store(2, Ordering::SeqCst);
            *stage.child_script.lock().unwrap() = Script(vec![edit("a", "new"), says("Done.")]);
            let id: SessionId = "s-parent".parse().unwrap();
            let died = life(&memory, &stage, &id).await;
            stage.light();
            assert!(!life(&memory, &stage, &id).await, "fuse {fuse}: there was light");
            let events = agent::read_journal(&memory, &id).unwrap();
            let count = |name: &str| events.iter().filter(|recorded| kind(recorded) == name).count();
            for once in
                ["input", "child_started", "child_ended", "child_merged", "call_finished", "turn_ended"]
            {
                assert_eq!(
                    count(once),
                    1,
                    "fuse {fuse}: {once}: {:?}",
                    events.iter().map(kind).collect::<Vec<_>>()
                );
            }
            let children: Vec<String> = memory
                .journals()
                .unwrap()
                .into_iter()
                .map(|journal| journal.name)
                .filter(|name| name.starts_with("c-"))
                .collect();
            assert_eq!(children.len(), 1, "fuse {fuse}: {children:?}");
            let child = agent::read_journal(&memory, &children[0].parse().unwrap()).unwrap();
            let of = |name: &str| child.iter().filter(|recorded| kind(recorded) == name).count();
            assert_eq!((of("input"), of("turn_ended")), (1, 1), "fuse {fuse}");
            let ran = stage.ran().iter().filter(|ran| ran.name == "edit").count();
            assert!(ran <= 1, "fuse {fuse}: what may have changed something ran twice");
            let brought = stage.files.lock().unwrap().get("a").map(String::as_str) == Some("new");
            assert_eq!(brought, ran == 1, "fuse {fuse}");
            lives += 1;
            if !died {
                break;
            }
        }
    }
    assert!(lives > 60, "{lives}");
}

/// One life of the service; whether the power has failed in it.
async fn life(memory: &Memory, stage: &Arc<Stage>, id: &SessionId) -> bool {
    let config = Config { idle: Duration::from_secs(600) };
    let agent = match Agent::open(config, memory.clone(), Arc::new(Theatre(stage.clone()))).await {
        Ok(agent) => agent,
        Err(_) => return stage.dark(),
    };
    let new = NewSession { workspace: "/nowhere".into(), id: Some(id.clone()), ..NewSession::default() };
    agent.create(new).await.unwrap();
    let input = Command::Input { id: "one".into(), text: "Do it.".into() };
    // Whoever gets no answer asks again in the next life.
    let _ = agent.submit(id, input).await;
    for _ in 0..5_000 {
        let info = agent.get(id).unwrap();
        if stage.dark() || info.ended.is_some() && info.status == Status::Idle {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let dark = stage.dark();
    agent.stop().await;
    assert!(dark || agent.get(id).unwrap().ended.is_some(), "{:#?}", agent.get(id));
    dark
}

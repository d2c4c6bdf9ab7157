//! A turn with a goal ends when the goal is reached, and not when the model says so.

use std::sync::Arc;

use agent::{
    Agent, Budget, Command, Config, End, Error, Event, Goal, NewSession, Recorded, SessionId, Status,
};
use kit::{Script, Stage, Theatre, asks, says, thinks};
use memory::{Memory, Seq};
use serde_json::json;
use tools::rules::{Effect, short};

struct Scene {
    _folder: tempfile::TempDir,
    stage: Arc<Stage>,
    agent: Agent,
    id: SessionId,
}

impl Scene {
    async fn open(script: Vec<agent::Thought>, budget: Budget) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let stage = Stage::lasting(memory.clone(), Script(script), std::time::Duration::ZERO);
        let agent = Agent::open(Config::default(), memory, Arc::new(Theatre(stage.clone()))).await.unwrap();
        let new = NewSession { workspace: "/nowhere".into(), budget: Some(budget), ..NewSession::default() };
        let id = agent.create(new).await.unwrap().id;
        Scene { _folder: folder, stage, agent, id }
    }

    async fn pursue(&self, id: &str, goal: Goal) -> Vec<Recorded> {
        let command = Command::Pursue { id: id.into(), text: "Do it.".into(), goal };
        self.agent.submit(&self.id, command).await.unwrap();
        self.rest().await
    }

    async fn say(&self, id: &str) -> Vec<Recorded> {
        let command = Command::Input { id: id.into(), text: "Go on.".into() };
        self.agent.submit(&self.id, command).await.unwrap();
        self.rest().await
    }

    async fn rest(&self) -> Vec<Recorded> {
        for _ in 0..2_000 {
            let info = self.agent.get(&self.id).unwrap();
            if info.status != Status::Running && info.waiting == 0 {
                return self.agent.events(&self.id, Seq(0), 1_000).await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the session never rested");
    }

    fn end(&self) -> Option<End> {
        self.agent.get(&self.id).unwrap().ended
    }
}

fn edit(new: &str) -> agent::Thought {
    asks("edit", json!({"path": "a", "new": new}))
}

fn count(events: &[Recorded], is: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|recorded| is(&recorded.event)).count()
}

fn checks(events: &[Recorded]) -> Vec<(bool, &str)> {
    let checked = events.iter().filter_map(|recorded| match &recorded.event {
        Event::GoalChecked(checked) => Some((checked.met, checked.said.as_str())),
        _ => None,
    });
    checked.collect()
}

#[tokio::test]
async fn a_turn_goes_on_until_the_check_passes() {
    let scene =
        Scene::open(vec![edit("bad"), says("Done."), edit("good"), says("Done now.")], Budget::default())
            .await;
    let events = scene.pursue("one", Goal::command("test")).await;
    let said = checks(&events);
    assert_eq!(said.iter().map(|(met, _)| *met).collect::<Vec<_>>(), [false, true]);
    assert!(said[0].1.contains("FAILED"), "{said:?}");
    assert_eq!(
        (scene.end(), count(&events, |event| matches!(event, Event::TurnEnded { .. }))),
        (Some(End::Done), 1)
    );
    let goal = scene.agent.get(&scene.id).unwrap().goal.unwrap();
    assert!(goal.met && goal.last.unwrap().evidence[0].call == "g2");
    // Sent again it changes nothing; the next input is not held to a goal that is reached.
    let again = Command::Pursue { id: "one".into(), text: "Do it.".into(), goal: Goal::command("test") };
    assert!(!scene.agent.submit(&scene.id, again).await.unwrap().fresh);
    let events = scene.say("two").await;
    assert_eq!(checks(&events).len(), 2);
    let bad = Command::Pursue { id: "x".into(), text: "Do it.".into(), goal: Goal::command(" ") };
    assert!(matches!(scene.agent.submit(&scene.id, bad).await, Err(Error::BadRequest(_))));
}

#[tokio::test]
async fn a_goal_that_is_not_reached_ends_in_a_question() {
    let scene = Scene::open(vec![edit("bad")], Budget::default()).await;
    let goal = Goal { rounds_max: 3, ..Goal::command("test") };
    let events = scene.pursue("one", goal).await;
    assert_eq!(checks(&events).len(), 3);
    assert!(matches!(scene.end(), Some(End::GoalUnmet { question }) if question.contains("checked 3 times")));
    assert_eq!(scene.agent.get(&scene.id).unwrap().status, Status::Idle);
    // Whoever answers gives it all its rounds again; whoever has enough takes the goal back.
    let events = scene.say("two").await;
    assert_eq!(checks(&events).len(), 6);
    assert!(scene.agent.submit(&scene.id, Command::DropGoal).await.unwrap().fresh);
    assert!(!scene.agent.submit(&scene.id, Command::DropGoal).await.unwrap().fresh);
    let events = scene.say("three").await;
    assert_eq!((checks(&events).len(), scene.end()), (6, Some(End::Done)));
}

#[tokio::test]
async fn a_goal_stays_within_the_budget_and_then_rests() {
    let budget = Budget { steps_max: 3, ..Budget::default() };
    let scene = Scene::open(vec![edit("bad")], budget).await;
    let events = scene.pursue("one", Goal::command("test")).await;
    assert!(matches!(scene.end(), Some(End::Budget { .. })), "{:?}", scene.end());
    assert_eq!(checks(&events).len(), 2);
    // What its check has said waits for somebody's words, and begins no turn by itself.
    assert_eq!(count(&events, |event| matches!(event, Event::TurnStarted { .. })), 1);
}

#[tokio::test]
async fn a_judge_must_cite_what_a_call_has_shown() {
    let look = || thinks("I look.", &["safe_look"]);
    let scene = Scene::open(vec![look(), says("Done."), look(), says("Done now.")], Budget::default()).await;
    scene.stage.verdicts.lock().unwrap().extend([
        "VERDICT: met\nEVIDENCE: everything went very well\nWHY: I am sure.".to_string(),
        "VERDICT: met\nEVIDENCE: safe_look went well\nWHY: it was looked at.".to_string(),
    ]);
    let events = scene.pursue("one", Goal::judged("somebody has looked")).await;
    let said = checks(&events);
    assert_eq!(said.iter().map(|(met, _)| *met).collect::<Vec<_>>(), [false, true]);
    assert!(said[0].1.contains("nothing was cited that a call has shown"), "{said:?}");
    let last = scene.agent.get(&scene.id).unwrap().goal.unwrap().last.unwrap();
    assert_eq!(last.evidence[0].call, "c3.1");
    // The question is no part of the prompt, and is paid for.
    let prompt = serde_json::to_string(&**agent::State::fold(&events).conversation()).unwrap();
    assert!(!prompt.contains("VERDICT") && prompt.contains("somebody has looked"), "{prompt}");
    let replies: u64 = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::Reply { usage, .. } => Some(usage.output_tokens),
            _ => None,
        })
        .sum();
    assert!(scene.agent.get(&scene.id).unwrap().usage.output_tokens > replies);
    // What was shown before a goal was set shows nothing for it.
    scene.stage.verdicts.lock().unwrap().push_back("VERDICT: met\nEVIDENCE: safe_look went well".into());
    let events =
        scene.pursue("two", Goal { rounds_max: 1, ..Goal::judged("somebody has looked again") }).await;
    assert_eq!(checks(&events).len(), 3);
    assert!(matches!(scene.end(), Some(End::GoalUnmet { .. })), "{:?}", scene.end());
}

#[tokio::test]
async fn a_check_is_held_against_the_rules_like_any_command() {
    let scene = Scene::open(vec![says("Done.")], Budget::default()).await;
    *scene.stage.rules.lock().unwrap() = vec![short(Effect::Deny, "exec:git push *").unwrap()];
    let events = scene.pursue("one", Goal::command("git push origin")).await;
    assert!(scene.stage.ran().is_empty(), "{:?}", scene.stage.ran());
    assert!(
        matches!(scene.end(), Some(End::GoalUnmet { question }) if question.contains("cannot be checked")),
        "{events:?}"
    );
    *scene.stage.rules.lock().unwrap() = vec![short(Effect::Ask, "exec:make *").unwrap()];
    scene.pursue("two", Goal::command("make test")).await;
    let asks = scene.agent.get(&scene.id).unwrap().asks.unwrap();
    assert_eq!(asks.call.arguments["command"], "make test");
    let approve = Command::Approve { call: asks.call.id, allowed: true, always: false, by: None };
    scene.agent.submit(&scene.id, approve).await.unwrap();
    scene.rest().await;
    assert_eq!((scene.end(), scene.stage.ran().len()), (Some(End::Done), 1));
}

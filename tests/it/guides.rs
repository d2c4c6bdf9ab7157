//! What folders say about working below them is told when a session first comes there, once, and again when it has changed.

use std::sync::Arc;

use agent::{Agent, Command, Config, Event, Message, NewSession, SessionId, State, Status, Thought};
use kit::{Script, Stage, Theatre, asks, says};
use memory::Memory;
use serde_json::json;

struct Scene {
    _folder: tempfile::TempDir,
    memory: Memory,
    stage: Arc<Stage>,
    agent: Agent,
    id: SessionId,
}

impl Scene {
    async fn open(script: Vec<Thought>, files: &[(&str, &str)]) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let stage = Stage::lasting(memory.clone(), Script(script), std::time::Duration::ZERO);
        for (path, text) in files {
            stage.files.lock().unwrap().insert(path.to_string(), text.to_string());
        }
        let agent =
            Agent::open(Config::default(), memory.clone(), Arc::new(Theatre(stage.clone()))).await.unwrap();
        let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
        let id = agent.create(new).await.unwrap().id;
        Scene { _folder: folder, memory, stage, agent, id }
    }

    async fn say(&self, text: &str) {
        let input = format!("i{}", self.agent.get(&self.id).unwrap().last);
        self.agent.submit(&self.id, Command::Input { id: input, text: text.into() }).await.unwrap();
        for _ in 0..2_000 {
            if self.agent.get(&self.id).unwrap().status != Status::Running {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the session never rested");
    }

    /// The paths that were told, an event each.
    fn told(&self) -> Vec<Vec<String>> {
        let events = agent::read_journal(&self.memory, &self.id).unwrap();
        let guided = events.into_iter().filter_map(|recorded| match recorded.event {
            Event::Guided { guides, .. } => Some(guides.into_iter().map(|guide| guide.path).collect()),
            _ => None,
        });
        guided.collect()
    }

    /// The answers that the model was shown, in order.
    fn answers(&self) -> Vec<String> {
        let state = State::fold(&agent::read_journal(&self.memory, &self.id).unwrap());
        let messages = state.conversation().iter().filter_map(|message| match message {
            Message::Results { answers } => {
                Some(answers.iter().map(|answer| answer.text.clone()).collect::<Vec<_>>())
            }
            _ => None,
        });
        messages.flatten().collect()
    }
}

fn edit(path: &str) -> Thought {
    asks("edit", json!({"path": path, "new": "good"}))
}

#[tokio::test]
async fn a_folders_guide_is_told_with_the_first_call_below_it() {
    let files = [
        ("AGENTS.md", "At the head."),
        ("web/AGENTS.md", "Use tabs here."),
        ("web/deep/CLAUDE.md", "And spaces there."),
        ("other/AGENTS.md", "Never seen."),
    ];
    let script =
        vec![edit("top.rs"), edit("web/deep/a.rs"), edit("web/deep/b.rs"), edit("web/c.rs"), says("Done.")];
    let scene = Scene::open(script, &files).await;
    scene.say("Change them.").await;
    assert_eq!(scene.told(), [["web/AGENTS.md", "web/deep/CLAUDE.md"]], "once each, the outer one first");
    let answers = scene.answers();
    assert_eq!(answers.len(), 4);
    assert!(!answers[0].contains("head"), "that one is told when a session begins: {}", answers[0]);
    let (outer, inner) = (answers[1].find("Use tabs here."), answers[1].find("And spaces there."));
    assert!(outer.is_some() && outer < inner, "{}", answers[1]);
    assert!(answers[1].contains("[web/AGENTS.md, which is data of this project"), "{}", answers[1]);
    assert!(!answers[2].contains("AGENTS.md") && !answers[3].contains("AGENTS.md"), "{answers:?}");
}

#[tokio::test]
async fn a_guide_that_says_something_else_is_told_again() {
    let script = vec![edit("web/a.rs"), says("One."), edit("web/a.rs"), edit("web/b.rs"), says("Two.")];
    let scene = Scene::open(script, &[("web/AGENTS.md", "Use tabs.")]).await;
    scene.say("Change it.").await;
    let before = scene.answers();
    scene.stage.files.lock().unwrap().insert("web/AGENTS.md".into(), "Use spaces.".into());
    scene.say("Again.").await;
    assert_eq!(scene.told().len(), 2);
    let answers = scene.answers();
    assert_eq!(answers[..before.len()], before[..], "what was told stays as it was told");
    assert!(answers[1].contains("Use spaces.") && !answers[2].contains("Use spaces."), "{answers:?}");
}

#[tokio::test]
async fn a_call_that_failed_has_come_nowhere_and_what_was_wound_back_was_not_told() {
    let script = vec![asks("safe_read", json!({"path": "web/none.rs"})), edit("web/a.rs"), says("One.")];
    let scene = Scene::open(script, &[("web/AGENTS.md", "Use tabs.")]).await;
    scene.say("Look.").await;
    assert_eq!(scene.told().len(), 1);
    let events = agent::read_journal(&scene.memory, &scene.id).unwrap();
    let place = events.iter().position(|event| matches!(event.event, Event::Guided { .. })).unwrap();
    let fork = scene.agent.fork(&scene.id, Some(events[place - 1].seq), None).await.unwrap();
    let state = State::fold(&agent::read_journal(&scene.memory, &fork.id).unwrap());
    assert!(!format!("{:?}", state.conversation()).contains("Use tabs."));
}

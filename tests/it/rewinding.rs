//! A session wound back, forward again, and gone on with in another one.

use std::sync::Arc;

use agent::{Agent, Command, Config, Error, Event, NewSession, SessionId, Status};
use kit::{Script, Stage, Theatre, asks, says};
use memory::{Memory, Seq};
use serde_json::json;
use tools::checkpoint::How;

struct Scene {
    _folder: tempfile::TempDir,
    memory: Memory,
    stage: Arc<Stage>,
    agent: Agent,
    id: SessionId,
}

impl Scene {
    /// A session that has had two turns, each of which has changed a file.
    async fn open() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let edit = |path: &str, new: &str| asks("edit", json!({"path": path, "new": new}));
        let script = Script(vec![
            edit("a", "first"),
            says("One."),
            edit("a", "second"),
            edit("b", "new"),
            says("Two."),
            says("Three."),
        ]);
        let stage = Stage::keeping(memory.clone(), script);
        let agent =
            Agent::open(Config::default(), memory.clone(), Arc::new(Theatre(stage.clone()))).await.unwrap();
        let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
        let id = agent.create(new).await.unwrap().id;
        let scene = Scene { _folder: folder, memory, stage, agent, id };
        scene.say(&scene.id, "one", "Do the first.").await;
        scene.say(&scene.id, "two", "Do the second.").await;
        scene
    }

    async fn say(&self, id: &SessionId, input: &str, text: &str) {
        self.agent.submit(id, Command::Input { id: input.into(), text: text.into() }).await.unwrap();
        for _ in 0..2_000 {
            if self.agent.get(id).unwrap().status != Status::Running {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the session never rested");
    }

    fn files(&self) -> Vec<(String, String)> {
        self.stage.files.lock().unwrap().clone().into_iter().collect()
    }

    /// What the model would be shown, as the journal tells it.
    fn prompt(&self, id: &SessionId) -> String {
        format!("{:?}", agent::State::fold(&agent::read_journal(&self.memory, id).unwrap()).conversation())
    }
}

fn files(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

#[tokio::test]
async fn a_session_is_wound_back_with_its_files_and_forward_again() {
    // Undo that covers everything, and that can itself be undone.
    let scene = Scene::open().await;
    let (id, agent) = (&scene.id, &scene.agent);
    let places = agent.checkpoints(id).await.unwrap();
    let turns: Vec<(u32, u32)> = places.iter().map(|place| (place.turn, place.step)).collect();
    assert_eq!(turns, [(1, 0), (1, 1), (2, 2), (2, 3), (2, 4)]);
    let (whole, last) = (scene.prompt(id), agent.get(id).unwrap().last);

    // A look changes nothing.
    let look = agent.rewind(id, places[2].seq, None).await.unwrap();
    assert_eq!((look.done, look.replies, &look.inputs), (false, 3, &vec![]));
    let found: Vec<(&str, How)> = look.files.iter().map(|file| (file.path.as_str(), file.how)).collect();
    assert_eq!(found, [("a", How::Changed), ("b", How::Removed)]);
    assert_eq!((agent.get(id).unwrap().last, scene.files().len()), (last, 2));

    // Somebody works in the folder meanwhile.
    scene.stage.files.lock().unwrap().insert("c".into(), "mine".into());
    let refused = agent.rewind(id, places[2].seq, Some(look.now)).await.unwrap_err();
    assert!(matches!(refused, Error::ChangedMeanwhile { paths } if paths == ["c"]));
    scene.stage.files.lock().unwrap().remove("c");

    let done = agent.rewind(id, places[2].seq, Some(look.now)).await.unwrap();
    assert!(done.done);
    assert_eq!(scene.files(), files(&[("a", "first")]));
    let prompt = scene.prompt(id);
    assert!(
        prompt.contains("Do the first.") && prompt.contains("One.") && !prompt.contains("Do the second.")
    );

    // It rests there, also for the next life of the service, and goes on from there.
    let info = agent.get(id).unwrap();
    assert_eq!((info.status, info.waiting), (Status::Idle, 0));
    let again = Agent::open(Config::default(), scene.memory.clone(), Arc::new(Theatre(scene.stage.clone())))
        .await
        .unwrap();
    assert_eq!(again.get(id).unwrap(), info);
    drop(again);
    scene.say(id, "three", "Do another.").await;
    assert_eq!(scene.files(), files(&[("a", "second"), ("b", "new")]));
    let known =
        agent.submit(id, Command::Input { id: "two".into(), text: "Do the second.".into() }).await.unwrap();
    assert!(!known.fresh, "what was sent before is not done again");

    // Forward to where it was before all this.
    let look = agent.rewind(id, last, None).await.unwrap();
    agent.rewind(id, last, Some(look.now)).await.unwrap();
    assert_eq!(scene.prompt(id), whole);
    assert_eq!(scene.files(), files(&[("a", "second"), ("b", "new")]));
    let early = agent.rewind(id, Seq(1), None).await.unwrap_err();
    assert!(early.to_string().contains("saga sessions checkpoints"), "{early}");
}

#[tokio::test]
async fn a_fork_goes_on_from_any_place_and_leaves_the_other_as_it_is() {
    let scene = Scene::open().await;
    let (id, agent) = (&scene.id, &scene.agent);
    let places = agent.checkpoints(id).await.unwrap();
    let before = agent::read_journal(&scene.memory, id).unwrap();
    let whole = agent.fork(id, None, None).await.unwrap();
    assert_eq!(scene.prompt(&whole.id), scene.prompt(id));
    let early = agent.fork(id, Some(places[2].seq), None).await.unwrap();
    assert_eq!((early.turns, early.status, early.waiting), (2, Status::Idle, 0));
    let prompt = scene.prompt(&early.id);
    assert!(prompt.contains("One.") && !prompt.contains("Do the second."));
    scene.say(&early.id, "x", "Go on here.").await;
    assert!(scene.prompt(&early.id).contains("Go on here."));
    assert_eq!(agent::read_journal(&scene.memory, id).unwrap(), before);
    // Of a fork of what was wound back, too.
    let look = agent.rewind(id, places[0].seq, None).await.unwrap();
    agent.rewind(id, places[0].seq, Some(look.now)).await.unwrap();
    let fork = agent.fork(id, None, None).await.unwrap();
    assert_eq!(scene.prompt(&fork.id), scene.prompt(id));
    let events = agent::read_journal(&scene.memory, &fork.id).unwrap();
    assert!(events.iter().all(|event| !matches!(event.event, Event::Rewound { .. })));
    let refused = agent.fork(id, None, Some(std::path::Path::new("/elsewhere"))).await.unwrap_err();
    assert!(matches!(refused, Error::BadRequest(_)), "{refused}");
}

#[tokio::test]
async fn what_comes_in_beside_a_look_is_answered_all_the_same() {
    // A look ends the driver, and an input may have reached it just before.
    let scene = Scene::open().await;
    let (id, agent) = (&scene.id, &scene.agent);
    let place = agent.checkpoints(id).await.unwrap()[0].seq;
    for n in 0..60 {
        let said = agent.submit(id, Command::Input { id: format!("beside {n}"), text: "Go on.".into() });
        let look = async {
            for _ in 0..n % 7 {
                tokio::task::yield_now().await;
            }
            agent.rewind(id, place, None).await
        };
        let (said, look) = tokio::join!(said, look);
        said.unwrap();
        assert!(look.is_ok() || matches!(look, Err(Error::Running(_))), "{look:?}");
        for _ in 0..1_000 {
            let info = agent.get(id).unwrap();
            if info.status != Status::Running && info.waiting == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let info = agent.get(id).unwrap();
        assert_eq!((info.status, info.waiting), (Status::Idle, 0), "after input {n}");
    }
}

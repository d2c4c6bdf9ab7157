//! What a session has computed lies on disk: after a restart it is gone on with, and with the session it is deleted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use agent::dialect::Shape;
use agent::{
    Budget, Cancel, Created, Live, LiveOptions, Manner, Message, Progress, SessionId, Sink, Thought, World,
    Worlds,
};
use engine::snapshot::{Secret, Snapshots};
use engine::testing::TinyModel;
use memory::Memory;

/// A conversation longer than two pages of KV, which goes on if there was a reply.
fn conversation(before: Option<&Thought>) -> Vec<Message> {
    let text = "the tests fail, mend them; ".repeat(25);
    let mut said = vec![Message::System { text: String::new(), tools: Vec::new() }, Message::User { text }];
    if let Some(Thought { tokens, text, stop, .. }) = before {
        let (tokens, text, stop) = (tokens.clone(), text.clone(), stop.unwrap());
        said.push(Message::Assistant { tokens, text, calls: Vec::new(), stop });
        said.push(Message::User { text: "go on".to_owned() });
    }
    said
}

fn created(folder: &Path) -> Created {
    Created {
        workspace: folder.to_owned(),
        model: folder.join("tiny.gguf").display().to_string(),
        dialect: "hermes".to_owned(),
        system: String::new(),
        tools: Vec::new(),
        budget: Budget { reply_tokens_max: 8, ..Budget::default() },
        sampling: engine::Sampling::default(),
        led: false,
        check: None,
        memory: false,
        checkpoints: false,
        told: Vec::new(),
        context_tokens: None,
        ..Created::default()
    }
}

/// The real world over a folder, opened anew as after a restart.
fn live(folder: &Path, secret: Option<Secret>) -> Arc<Live> {
    let options = LiveOptions {
        models: folder.join("models"),
        model: created(folder).model,
        roots: vec![folder.to_owned()],
        threads: 1,
        context_tokens: None,
        expert_bytes: None,
        table_bytes: None,
        lines_bytes: None,
        round_trips: false,
        kv: engine::KvKind::F16,
        speculate: engine::Speculate::On,
        draft: None,
        budget: Budget::default(),
        sampling: engine::Sampling::default(),
        secrets: None,
        egress: None,
        workspace_bytes: None,
        backend: tools::Backend::Native,
        lowered: Vec::new(),
        servers: Vec::new(),
        helper: None,
        kv_bytes_max: 1 << 30,
        snapshots: Some(snapshots(folder)),
        secret,
        checkpoints: None,
        children_max: 0,
        branches: None,
        minds: Vec::new(),
        rules: Vec::new(),
        approval_ms: None,
        memory: false,
        reflect: false,
        skills: None,
        tokens_per_day: None,
    };
    Live::new(options, Memory::open(&folder.join("memory")).unwrap())
}

/// The folder of snapshots, once the engine before has let go of it: its threads end when nobody asks for them any more.
fn snapshots(folder: &Path) -> Snapshots {
    let folder = folder.join("kv");
    for _ in 0..1000 {
        if let Ok(snapshots) = Snapshots::open(&folder, 1 << 30) {
            return snapshots;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Snapshots::open(&folder, 1 << 30).unwrap()
}

fn session() -> SessionId {
    "one".parse().unwrap()
}

fn manner() -> Manner {
    Manner {
        sampling: engine::Sampling::default(),
        shape: Shape::Free,
        without: std::collections::BTreeSet::new(),
        bounds: Vec::new(),
    }
}

/// Lets the session reply, and waits until what it computed is on disk.
async fn think(live: &Arc<Live>, folder: &Path, before: Option<&Thought>) -> Thought {
    let (_set, cancel) = Cancel::pair();
    let world: Arc<dyn World> = live.open(&session(), &created(folder)).await.unwrap();
    let thought =
        world.think(&conversation(before), &created(folder), &manner(), &cancel, &Sink::none()).await;
    live.settle().await;
    thought.unwrap()
}

#[tokio::test]
async fn a_session_goes_on_from_disk_after_a_restart_until_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new("qwen2").write(&folder.path().join("tiny.gguf"));
    let first = think(&live(folder.path(), None), folder.path(), None).await;
    assert_eq!(first.usage.cached_tokens, 0);
    assert!(first.usage.prompt_tokens > 512, "{:?}", first.usage);

    let second = think(&live(folder.path(), None), folder.path(), Some(&first)).await;
    // The reply's last token is computed with what follows it.
    let computed = first.usage.prompt_tokens + first.tokens.len() as u64 - 1;
    assert_eq!(second.usage.cached_tokens, computed);
    let other = tempfile::tempdir().unwrap();
    TinyModel::new("qwen2").write(&other.path().join("tiny.gguf"));
    let anew = think(&live(other.path(), None), other.path(), Some(&first)).await;
    assert_eq!((anew.usage.cached_tokens, anew.tokens), (0, second.tokens));

    let again = live(folder.path(), None);
    again.forget(&session()).await;
    assert_eq!(again.snapshots().unwrap().held().held_bytes, 0);
    assert_eq!(think(&again, folder.path(), Some(&first)).await.usage.cached_tokens, 0);
}

#[tokio::test]
async fn a_prompt_that_was_read_is_not_lost_with_the_reply_to_it() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new("qwen2").write(&folder.path().join("tiny.gguf"));
    let live = self::live(folder.path(), None);
    let world: Arc<dyn World> = live.open(&session(), &created(folder.path())).await.unwrap();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let out = Sink::new(move |progress| {
        if let Progress::Speed { .. } = progress {
            begun.send(()).unwrap();
        }
    });
    let budget = Budget { reply_tokens_max: 4096, ..Budget::default() };
    let (created, said) = (Created { budget, ..created(folder.path()) }, conversation(None));
    let ((_set, cancel), manner) = (Cancel::pair(), manner());
    // The reply is cut off as by a crash: nothing is written after it.
    tokio::select! {
        done = world.think(&said, &created, &manner, &cancel, &out) => panic!("it was not cut off: {done:?}"),
        _ = begins.recv() => {}
    }
    live.settle().await;
    drop((world, live));
    let again = think(&self::live(folder.path(), None), folder.path(), None).await;
    assert!(again.usage.cached_tokens > 512, "{:?}", again.usage);
}

#[tokio::test]
async fn what_is_sealed_is_of_use_to_those_with_the_secret_alone() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new("qwen2").write(&folder.path().join("tiny.gguf"));
    let (ours, theirs) = (Some(Secret::new([1; 32])), Some(Secret::new([2; 32])));
    let first = think(&live(folder.path(), ours.clone()), folder.path(), None).await;
    let found = async |secret| {
        think(&live(folder.path(), secret), folder.path(), Some(&first)).await.usage.cached_tokens
    };
    assert!(found(ours).await >= first.usage.prompt_tokens);
    assert_eq!(found(theirs).await, 0);
    assert_eq!(found(None).await, 0);
}

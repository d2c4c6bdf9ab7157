//! Skills and folders' guides in the real world: read inside the sandbox, told within caps.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use agent::mind::Remote;
use agent::mind::remote::Price;
use agent::{Budget, Created, Live, LiveOptions, NewSession, SessionId, World, Worlds};
use memory::Memory;
use serde_json::json;
use tools::Call;

/// The real world over a folder, with a mind elsewhere that nobody asks here.
fn live(folder: &Path, led: bool) -> Arc<Live> {
    let mind = Remote {
        name: "big".to_string(),
        url: "http://127.0.0.1:1/v1".to_string(),
        model: "big".to_string(),
        key: None,
        context_tokens: 100_000,
        led,
        ca_file: None,
        price: Price::default(),
    };
    let options = LiveOptions {
        models: folder.join("models"),
        model: "remote:big".to_string(),
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
        helper: Some(env!("CARGO_BIN_EXE_saga").into()),
        kv_bytes_max: 1 << 30,
        snapshots: None,
        secret: None,
        checkpoints: None,
        minds: vec![mind],
        rules: Vec::new(),
        approval_ms: None,
        memory: false,
        reflect: false,
        skills: Some(folder.join("operator")),
        branches: None,
        children_max: 2,
        tokens_per_day: None,
    };
    let name = if led { "memory-led" } else { "memory" };
    Live::new(options, Memory::open(&folder.join(name)).unwrap())
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn skill(about: &str) -> String {
    format!("---\nname: x\ndescription: {about}\n---\n# How\n\nFirst this, then that.\n")
}

/// A workspace with skills in three places, one of which the operator has as well, and one that leads out.
fn scene() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    write(&work.join(".saga/skills/release/SKILL.md"), &skill("Makes releases."));
    write(&work.join(".saga/skills/release/steps.md"), "one\ntwo\n");
    write(&work.join(".claude/skills/review/SKILL.md"), &skill("Reviews changes."));
    write(&work.join(".agents/skills/deploy/SKILL.md"), &skill("Not the operator's."));
    write(&work.join(".agents/skills/plain/SKILL.md"), "no front matter");
    write(&dir.path().join("operator/deploy/SKILL.md"), &skill("Deploys, by the operator."));
    write(&dir.path().join("operator/deploy/hosts.txt"), "alpha\n");
    write(&dir.path().join("outside/SKILL.md"), &skill("Leads out."));
    std::os::unix::fs::symlink(dir.path().join("outside"), work.join(".saga/skills/out")).unwrap();
    write(&work.join("web/AGENTS.md"), "Use tabs here.\n");
    write(&work.join("web/deep/a.rs"), "fn a() {}\n");
    dir
}

async fn plan(live: &Arc<Live>, dir: &Path) -> Created {
    let new = NewSession { workspace: dir.join("work"), ..NewSession::default() };
    live.plan(&new).await.unwrap()
}

async fn open(live: &Arc<Live>, created: &Created) -> Arc<dyn World> {
    let id: SessionId = "one".parse().unwrap();
    live.open(&id, created).await.unwrap()
}

fn call(name: &str, arguments: serde_json::Value) -> Call {
    Call { id: "c1.1".to_string(), name: name.to_string(), arguments }
}

#[tokio::test]
async fn a_session_is_told_of_skills_and_reads_them() {
    let dir = scene();
    let live = live(dir.path(), false);
    let created = plan(&live, dir.path()).await;
    let told = created.system.split_once("# Skills").expect("skills are told").1;
    for line in
        ["- deploy: Deploys, by the operator.", "- release: Makes releases.", "- review: Reviews changes."]
    {
        assert!(told.contains(line), "{line} is missing from {told}");
    }
    assert!(
        !told.contains("- plain") && !told.contains("Not the operator's") && !told.contains("Leads out"),
        "{told}"
    );
    assert!(created.tools.iter().any(|tool| tool.name == "skill"));

    let world = open(&live, &created).await;
    let read = async |arguments| {
        let (outcome, _) = world.consult(&call("skill", arguments), false).await.unwrap();
        (outcome.ok, outcome.text)
    };
    let (ok, text) = read(json!({"name": "release"})).await;
    assert!(
        ok && text.contains("First this, then that.") && text.contains("it lies in .saga/skills/release"),
        "{text}"
    );
    assert!(text.ends_with("[Its folder also holds: steps.md]"), "{text}");
    let (ok, text) = read(json!({"name": "deploy", "file": "hosts.txt"})).await;
    assert!(ok && text.contains("alpha"), "{text}");
    for (arguments, said) in [
        (json!({"name": "none"}), "there are deploy, release, review"),
        (json!({"name": "../../outside"}), "by its name"),
        (json!({"name": "release", "file": "../../../../operator/deploy/hosts.txt"}), "by its path"),
        (json!({"name": "release", "file": "none.md"}), "has no file"),
        (json!({"name": "out"}), "there is no skill"),
        (json!({}), "say which skill"),
    ] {
        let (ok, text) = read(arguments.clone()).await;
        assert!(!ok && text.contains(said), "{arguments}: {text}");
    }
    // Commands see the operator's folder, and cannot change it.
    let (_set, cancel) = agent::Cancel::pair();
    let folder = dir.path().join("operator/deploy");
    let command = format!("cat {0}/hosts.txt; echo x > {0}/hosts.txt", folder.display());
    let ran =
        world.act(&call("exec", json!({"command": command})), &cancel, &agent::Sink::none()).await.unwrap();
    assert!(ran.text.contains("alpha") && !ran.ok, "{}", ran.text);
    assert_eq!(std::fs::read_to_string(folder.join("hosts.txt")).unwrap(), "alpha\n");

    // What folders say is read there as well.
    let guides =
        world.guides(&call("read", json!({"path": "web/deep/a.rs"})), &BTreeMap::new()).await.unwrap();
    assert_eq!(guides.len(), 1);
    assert_eq!((guides[0].path.as_str(), guides[0].text.as_str()), ("web/AGENTS.md", "Use tabs here."));
    let known = BTreeMap::from([(guides[0].path.clone(), guides[0].digest.clone())]);
    assert!(world.guides(&call("read", json!({"path": "web/deep/a.rs"})), &known).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_led_model_is_told_of_no_skills() {
    // Given more to read than it needs, a small model loses itself.
    let dir = scene();
    let created = plan(&live(dir.path(), true), dir.path()).await;
    assert!(!created.system.contains("# Skills") && created.tools.iter().all(|tool| tool.name != "skill"));
}

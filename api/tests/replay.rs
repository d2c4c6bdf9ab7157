//! `saga replay` as a shell meets it, on sessions of the real engine with a tiny model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use agent::Event;
use engine::testing::TinyModel;
use memory::Memory;
use serde_json::Value;

fn saga(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saga"))
        .args(args)
        .env_clear()
        .env("SAGA_HOME", home)
        .env("SAGA_OFFLINE", "1")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Writes a tiny model whose context is long enough for what a session is told at its begin.
fn write_model(path: &Path) {
    TinyModel::new("qwen2").write(path);
    let mut bytes = std::fs::read(path).unwrap();
    // The key, the kind of number, and the number.
    let key = b"qwen2.context_length";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&32_768_u32.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

/// A home with a tiny model, and a session of three steps in it.
fn home() -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    write_model(&home.path().join("tiny.gguf"));
    let model = home.path().join("tiny.gguf").display().to_string();
    let settings = format!(
        "model = {model:?}\nthreads = 1\nmemory = false\n\n[budget]\nsteps_max = 3\nreply_tokens_max = 12\n"
    );
    std::fs::write(home.path().join("config.toml"), settings).unwrap();
    std::fs::create_dir(home.path().join("work")).unwrap();
    std::fs::write(home.path().join("work/a.txt"), "one\n").unwrap();
    let ran = saga(home.path(), &["run", "--repo", "work", "--json", "Say what this is."]);
    let told = lines(&ran);
    let summary = told.last().unwrap_or_else(|| panic!("{}", text(&ran)));
    assert_eq!(summary["steps"], 3, "{}", text(&ran));
    let id = summary["session"].as_str().unwrap().to_string();
    (home, id)
}

#[test]
fn a_real_session_replays_token_for_token_and_a_changed_one_does_not() {
    let (home, id) = home();
    let replayed = saga(home.path(), &["replay", &id]);
    assert_eq!(replayed.status.code(), Some(0), "{}", text(&replayed));
    assert!(text(&replayed).contains("3 steps: every prompt is as it was"), "{}", text(&replayed));

    // The same journal under another name, but for one count.
    let memory = Memory::open(&home.path().join("data/memory")).unwrap();
    let mut events = agent::read_journal(&memory, &id.parse().unwrap()).unwrap();
    let counts = events.iter_mut().filter_map(|recorded| match &mut recorded.event {
        Event::Reply { usage, .. } => Some(&mut usage.prompt_tokens),
        _ => None,
    });
    *counts.last().unwrap() += 1;
    let records: Vec<Vec<u8>> =
        events.iter().map(|recorded| agent::encode(recorded.at_ms, &recorded.event)).collect();
    let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    memory.journal("changed").unwrap().append_all(&records).unwrap();
    drop(memory);
    let replayed = saga(home.path(), &["replay", "changed"]);
    assert_eq!(replayed.status.code(), Some(3), "{}", text(&replayed));
    assert!(text(&replayed).starts_with("step 3 (event "), "{}", text(&replayed));
    let told = lines(&saga(home.path(), &["replay", "changed", "--json"]));
    let same: Vec<bool> = told[..3].iter().map(|step| step["same"] == true).collect();
    assert_eq!((same, &told[3]["differing"]), (vec![true, true, false], &1.into()));

    // From a place of it, with something else: first what that means, then the thing itself.
    let first = events.iter().find(|event| matches!(event.event, Event::Input { .. })).unwrap().seq.0 - 1;
    let from = first.to_string();
    let look = saga(home.path(), &["replay", &id, "--from", &from, "--dry-run"]);
    let shown = text(&look);
    assert!(shown.contains(&format!("from event {first}\nkept: {first} event")), "{shown}");
    assert!(shown.contains("dropped: ") && shown.contains("  › Say what this is."), "{shown}");
    let wish = ["replay", &id, "--from", &from, "--with", "Count the files.", "--json"];
    let told = lines(&saga(home.path(), &wish));
    let new = told.last().unwrap()["session"].as_str().unwrap().to_string();
    assert_ne!(new, id);
    let shown = text(&saga(home.path(), &["sessions", "show", &new]));
    assert!(shown.contains("Count the files.") && !shown.contains("Say what this is."), "{shown}");
    let replayed = saga(home.path(), &["replay", &new]);
    assert_eq!(replayed.status.code(), Some(0), "{}", text(&replayed));
    for (args, part) in [
        (&["replay", &id, "--from", "9999", "--with", "x"][..], "has no event 9999"),
        (&["replay", &id, "--from", &from, "--with", " "], "the other instruction is empty"),
        (&["replay", "s-none"], "saga sessions list"),
    ] {
        let refused = saga(home.path(), args);
        assert!(refused.status.code() == Some(1) && text(&refused).contains(part), "{}", text(&refused));
    }
    assert_eq!(saga(home.path(), &["replay", &id, "--from", "3"]).status.code(), Some(2));
}

//! Commands that go on in the background, terminals, and output that is kept, as a model uses them.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tools::{Call, Outcome, Policy, Sandbox, Toolbox};

async fn open(workspace: &Path) -> Sandbox {
    let mut policy = Policy::new(workspace.canonicalize().unwrap());
    policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
    Sandbox::open(policy).await.unwrap()
}

async fn call(sandbox: &Sandbox, tool: &str, arguments: Value) -> Outcome {
    let call = Call { id: "1".to_owned(), name: tool.to_owned(), arguments };
    Toolbox::builtin().perform(&call, sandbox, &|_| ()).await.unwrap()
}

async fn start(sandbox: &Sandbox, line: &str, tty: bool) -> (String, Outcome) {
    let outcome = call(sandbox, "exec", json!({"command": line, "background": true, "tty": tty})).await;
    let first = outcome.text.lines().next().unwrap();
    (first.strip_prefix("started in the background as ").unwrap().to_owned(), outcome)
}

async fn process(sandbox: &Sandbox, action: &str, id: &str) -> Outcome {
    call(sandbox, "process", json!({"action": action, "id": id, "timeout_s": 20})).await
}

/// Looks until something is said, since a busy machine takes its time.
async fn said(sandbox: &Sandbox, id: &str, what: &str) -> String {
    let (began, mut all) = (Instant::now(), String::new());
    while began.elapsed() < Duration::from_secs(20) {
        all.push_str(&process(sandbox, "output", id).await.text);
        if all.contains(what) {
            return all;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} was never said: {all}");
}

#[tokio::test]
async fn a_server_goes_on_while_others_talk_to_it() {
    // A session that cannot leave a server running cannot try what it builds.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let (id, outcome) =
        start(&sandbox, "echo up; while read line; do echo \"got $line\"; done; echo over", false).await;
    assert!(outcome.ok, "{}", outcome.text);
    let heard = format!("{}{}", outcome.text, said(&sandbox, &id, "running for").await);
    assert!(heard.contains("up"), "{heard}");
    let typed = call(&sandbox, "process", json!({"action": "write", "id": id, "text": "hello"})).await;
    assert!(
        format!("{}{}", typed.text, said(&sandbox, &id, "").await).contains("got hello"),
        "{}",
        typed.text
    );
    assert!(call(&sandbox, "exec", json!({"command": "echo beside"})).await.text.contains("beside"));
    let list = process(&sandbox, "list", "").await;
    assert!(list.text.contains(&id) && list.text.contains("running"), "{}", list.text);
    let killed = process(&sandbox, "kill", &id).await;
    assert!(!killed.ok && killed.text.contains("signal 9"), "{}", killed.text);
    // To end it again harms nobody: the number it had may be another's by now.
    assert!(process(&sandbox, "kill", &id).await.text.contains("signal 9"));
    assert!(process(&sandbox, "list", "").await.text.contains("ended"));
}

#[tokio::test]
async fn signals_reach_the_command_and_its_end_is_waited_for() {
    // A dev server is ended with ^C so that it can clean up; what it says then matters.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let (id, _) =
        start(&sandbox, "trap 'echo cleaned; exit 7' INT; echo ready; while :; do sleep 0.05; done", false)
            .await;
    said(&sandbox, &id, "").await;
    let sent = call(&sandbox, "process", json!({"action": "signal", "id": id, "signal": "int"})).await;
    let waited = process(&sandbox, "wait", &id).await;
    let text = sent.text + &waited.text;
    assert!(text.contains("cleaned") && text.contains("exit code 7"), "{text}");
    let (id, _) = start(&sandbox, "sleep 1; echo late", false).await;
    let waited = process(&sandbox, "wait", &id).await;
    assert!(waited.ok && waited.text == "exit code 0\nlate", "{}", waited.text);
}

#[tokio::test]
async fn a_terminal_is_one_and_is_the_sandboxs_own() {
    // Some programs ask questions only at a terminal; none of them may get at the service's.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let outcome = call(
        &sandbox,
        "exec",
        json!({"command": "test -t 0 && test -t 1 && tty && stty size && echo at > /dev/tty", "tty": true}),
    )
    .await;
    assert!(
        outcome.ok && outcome.text.contains("/dev/pts/") && outcome.text.contains("40 120\nat"),
        "{}",
        outcome.text
    );
    assert!(!call(&sandbox, "exec", json!({"command": "test -t 1 || test -t 0"})).await.ok);
    let (id, _) = start(&sandbox, "read -p 'name? ' name && echo \"hello $name\"", true).await;
    let typed = call(&sandbox, "process", json!({"action": "write", "id": id, "text": "Ada"})).await;
    let text = typed.text + &process(&sandbox, "wait", &id).await.text;
    assert!(text.contains("hello Ada"), "{text}");
}

#[tokio::test]
async fn what_is_left_out_can_be_read_and_searched_by_its_id_in_this_session_only() {
    // The line that matters is often in the middle; another tenant's must never be found by a guess.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let outcome = call(&sandbox, "exec", json!({"command": "seq 1 20000; printf '\\033[2Jdone\\n'"})).await;
    assert!(outcome.truncated && outcome.text.len() < 34 << 10, "{}", outcome.text.len());
    let id = outcome.text.split("with path ").nth(1).unwrap().trim_end_matches(')').to_owned();
    let read = call(&sandbox, "read", json!({"path": id, "offset": 12345, "limit": 1})).await;
    assert!(read.text.contains("lines 12345-12345 of 20001:\n12345\n"), "{}", read.text);
    let found = call(&sandbox, "grep", json!({"path": id, "pattern": "^1999[0-9]$|done"})).await;
    assert!(found.text.contains(":19990: 19990") && found.text.contains(": done"), "{}", found.text);
    let (other_folder, running) = (tempfile::tempdir().unwrap(), start(&sandbox, "sleep 30", false).await.0);
    let other = open(other_folder.path()).await;
    assert!(!call(&other, "read", json!({"path": id})).await.ok);
    for action in ["output", "wait", "kill", "write", "signal"] {
        let asked = json!({"action": action, "id": running, "text": "x", "signal": "term"});
        let outcome = call(&other, "process", asked).await;
        assert!(!outcome.ok && outcome.text.contains("There is no command"), "{}", outcome.text);
    }
    assert!(process(&sandbox, "output", &running).await.text.contains("running"));
    assert!(!call(&sandbox, "write", json!({"path": "/proc/self/fd/9", "content": "x"})).await.ok);
}

#[tokio::test]
async fn commands_in_the_background_are_bounded_and_end_with_their_session() {
    // What nobody looks at any more holds ports and memory for hours.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let mut last = String::new();
    for _ in 0..9 {
        let asked = json!({"command": "while :; do date >> beat; sleep 0.05; done", "background": true});
        last = call(&sandbox, "exec", asked).await.text;
    }
    assert!(last.contains("8 commands run in the background already"), "{last}");
    drop(sandbox);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let length = || std::fs::metadata(folder.path().join("beat")).unwrap().len();
    let before = length();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(length(), before);
    assert!(before > 0);
    let sandbox = open(folder.path()).await;
    let (id, _) = start(&sandbox, "yes", false).await;
    assert!(process(&sandbox, "wait", &id).await.text.starts_with("stopped: it printed too much"));
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_told_once() {
    // A session that rests is woken by it; one that has looked already knows.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    start(&sandbox, "sleep 1; echo over; exit 3", false).await;
    assert_eq!(sandbox.running().len(), 1);
    let exit = tokio::time::timeout(Duration::from_secs(20), sandbox.exit()).await.unwrap();
    assert!(!exit.ok && exit.text.contains("exit code 3") && exit.text.contains("over"), "{exit:?}");
    assert!(exit.command.contains("sleep 1"), "{exit:?}");
    assert!(sandbox.running().is_empty());
    let id = exit.id;
    // What was looked at is not told again, and neither is what was told.
    let (other, _) = start(&sandbox, "sleep 1", false).await;
    assert_ne!(other, id);
    process(&sandbox, "wait", &other).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), sandbox.exit()).await.is_err());
}

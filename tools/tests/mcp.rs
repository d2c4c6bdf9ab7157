//! Servers of tools as a session uses them: a real one, a small Python program, in a real sandbox.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tools::mcp::{Equipment, Server, Way};
use tools::{Call, Outcome, Policy, Reach, Replay, Sandbox, Toolbox};

/// A session: a sandbox on a workspace that holds the server, and a toolbox of its own.
struct Scene {
    folder: tempfile::TempDir,
    sandbox: Arc<Sandbox>,
    toolbox: Toolbox,
    known: BTreeMap<String, Equipment>,
}

fn server(how: &str) -> Server {
    let argv = ["python3", "mcp_server.py", how].map(str::to_owned).to_vec();
    let env = vec![("TOKEN".to_owned(), "given".to_owned())];
    let timeout = Duration::from_secs(20);
    Server { timeout, ..Server::new("small", Way::Command { argv, env }) }
}

async fn open(workspace: &Path) -> Arc<Sandbox> {
    let mut policy = Policy::new(workspace.canonicalize().unwrap());
    policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
    Arc::new(Sandbox::open(policy).await.unwrap())
}

impl Scene {
    async fn with(server: Server) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mcp_server.py"), include_str!("fixtures/mcp_server.py")).unwrap();
        let sandbox = open(folder.path()).await;
        Scene { folder, sandbox, toolbox: Toolbox::new(None, &[server]), known: BTreeMap::new() }
    }

    /// What the server gives, where that is new.
    async fn equip(&mut self) -> Vec<Equipment> {
        let new = self.toolbox.equip(&self.sandbox, &self.known).await.unwrap();
        self.known.extend(new.iter().map(|now| (now.server.clone(), now.clone())));
        new
    }

    async fn call_heard(&self, tool: &str, arguments: Value) -> (Outcome, String) {
        let heard = Mutex::new(String::new());
        let call = Call { id: "1".to_owned(), name: format!("small__{tool}"), arguments };
        let out = |text: &str| heard.lock().unwrap().push_str(text);
        let outcome = self.toolbox.perform(&call, &self.sandbox, &out).await.unwrap();
        (outcome, heard.into_inner().unwrap())
    }

    async fn call(&self, tool: &str, arguments: Value) -> Outcome {
        self.call_heard(tool, arguments).await.0
    }
}

fn names(equipment: &Equipment) -> Vec<&str> {
    equipment.tools.iter().map(|spec| spec.name.as_str()).collect()
}

#[tokio::test]
async fn a_servers_tools_are_listed_and_called_inside_the_sandbox() {
    // Whoever wrote the server is as little trusted as a command the model runs.
    let mut scene = Scene::with(server("well")).await;
    let equipped = scene.equip().await;
    let [equipment] = equipped.as_slice() else { panic!("{equipped:?}") };
    assert_eq!(equipment.trouble, None);
    assert_eq!(
        names(equipment),
        [
            "small__big",
            "small__crash",
            "small__echo",
            "small__fail",
            "small__grow",
            "small__hostile",
            "small__image",
            "small__impossible",
            "small__long_winded",
            "small__question",
            "small__refuse",
            "small__slow",
            "small__steps",
            "small__where"
        ]
    );
    let echo = &equipment.tools[2];
    assert_eq!(echo.description, "[a tool of the server small] Says it again.");
    assert_eq!((echo.replay, echo.reach), (Replay::Unsafe, Reach::Workspace));
    let said = scene.call("echo", json!({"text": "hällo"})).await;
    assert!(said.ok && said.text == "hällo", "{said:?}");
    // In its workspace, with what was given to it and nothing of the service's, among few processes.
    let place = scene.call("where", json!({})).await;
    assert_eq!(place.text, format!("{} given True None", scene.sandbox.workspace()));
    // Nothing has changed since.
    assert_eq!(scene.equip().await, []);
}

#[tokio::test]
async fn what_goes_wrong_is_told_to_the_model() {
    // It has only these words to do better by.
    let mut scene = Scene::with(server("well")).await;
    scene.equip().await;
    let failed = scene.call("fail", json!({})).await;
    assert!(!failed.ok && failed.text == "it does not work", "{failed:?}");
    let refused = scene.call("refuse", json!({})).await;
    assert!(!refused.ok && refused.text == "the server refused it: not today", "{refused:?}");
    let unknown = scene.call("nothing", json!({})).await;
    assert!(!unknown.ok && unknown.text.contains("has no tool small__nothing"), "{unknown:?}");
    let wrong = scene.call("echo", json!([1])).await;
    assert!(!wrong.ok && wrong.text.contains("one JSON object"), "{wrong:?}");
    // Some models send the object as a string.
    assert_eq!(scene.call("echo", json!("{\"text\": \"a\"}")).await.text, "a");
}

#[tokio::test]
async fn a_server_that_crashed_is_started_again_at_the_next_call() {
    // One bad call must not take the tools away for the rest of the session.
    let mut scene = Scene::with(server("well")).await;
    scene.equip().await;
    let crashed = scene.call("crash", json!({})).await;
    assert!(
        !crashed.ok && crashed.text.contains("it ended with exit code 3. It said: out of luck"),
        "{crashed:?}"
    );
    assert_eq!(scene.call("echo", json!({"text": "again"})).await.text, "again");
    // Twice in a row, and it is left alone for a while.
    scene.call("crash", json!({})).await;
    scene.call("crash", json!({})).await;
    let resting = scene.call("echo", json!({"text": "no"})).await;
    assert!(!resting.ok && resting.text.contains("tried again in"), "{resting:?}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(scene.call("echo", json!({"text": "yes"})).await.text, "yes");
}

#[tokio::test]
async fn a_server_that_cannot_be_started_says_why_and_keeps_its_tools() {
    // Its user has to mend it, and the prompt must not change because of a bad day.
    let mut scene = Scene::with(server("dies")).await;
    let equipped = scene.equip().await;
    assert_eq!(
        equipped[0].trouble.as_deref(),
        Some("it ended with exit code 1. It said: no configuration found")
    );
    assert!(equipped[0].tools.is_empty());
    let missing = Server {
        way: Way::Command { argv: vec!["no-such-program".to_owned()], env: Vec::new() },
        ..server("well")
    };
    let mut scene = Scene::with(missing).await;
    let trouble = scene.equip().await[0].trouble.clone().unwrap();
    assert!(trouble.contains("no such program"), "{trouble}");
    // What was known of it holds, as far as the operator still has it so.
    let mut scene = Scene::with(server("well")).await;
    let mut known = scene.equip().await;
    known[0].tools[0].replay = Replay::Safe;
    let mut scene = Scene::with(Server { approve: Some(true), ..server("dies") }).await;
    scene.known = BTreeMap::from([("small".to_owned(), known.remove(0))]);
    let equipped = scene.equip().await;
    let first = &equipped[0].tools[0];
    assert_eq!(
        (first.name.as_str(), first.reach, first.replay),
        ("small__big", Reach::Final, Replay::Unsafe)
    );
}

#[tokio::test]
async fn a_call_that_is_given_up_is_cancelled_at_the_server() {
    // A server that works on for nobody does what nobody waits for.
    let mut scene = Scene::with(server("well")).await;
    scene.equip().await;
    let given_up = tokio::time::timeout(Duration::from_millis(300), scene.call("slow", json!({}))).await;
    assert!(given_up.is_err());
    let (began, path) = (Instant::now(), scene.folder.path().join("cancelled"));
    while !path.exists() && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(std::fs::read_to_string(path).unwrap().contains("requestId"));
    // It is still there.
    assert_eq!(scene.call("echo", json!({"text": "here"})).await.text, "here");
}

#[tokio::test]
async fn what_a_server_asks_is_answered_by_its_defaults_where_the_operator_says_so() {
    // Nobody sits there, and an answer that was made up would be believed.
    for how in ["well", "modern"] {
        for (answer_defaults, question, expected, told) in [
            (false, "open", r#"{"action": "decline"}"#, "which was declined: nobody can be asked from here"),
            (
                true,
                "open",
                r#"{"action": "accept", "content": {"size": 3}}"#,
                "with its own defaults: {\"size\":3}",
            ),
            (true, "closed", r#"{"action": "decline"}"#, "\"name\" has to be given and has no default"),
        ] {
            let mut scene = Scene::with(Server { answer_defaults, ..server(how) }).await;
            scene.equip().await;
            let (answered, heard) = scene.call_heard("question", json!({"text": question})).await;
            let (said, note) = answered.text.split_once('\n').unwrap();
            assert_eq!(said, expected, "{how}");
            assert!(
                note.starts_with("(note: the server asked \"How large?\"") && note.contains(told),
                "{note}"
            );
            assert!(heard.contains(told), "people see it while it runs: {heard}");
            // It belongs to that call and to no other.
            assert_eq!(scene.call("echo", json!({"text": "next"})).await.text, "next");
        }
    }
}

#[tokio::test]
async fn a_call_without_a_sign_of_life_ends_and_one_with_progress_goes_on() {
    // A session must not hang on a server, nor give up on one that works.
    let mut scene = Scene::with(Server { timeout: Duration::from_millis(400), ..server("well") }).await;
    scene.equip().await;
    let slow = scene.call("slow", json!({})).await;
    assert!(!slow.ok && slow.text.contains("did not answer"), "{slow:?}");
    let (done, heard) = scene.call_heard("steps", json!({})).await;
    assert!(done.ok && done.text == "all done", "{done:?}");
    assert!(heard.starts_with("1 of 3: step 1\n"), "{heard}");
}

#[tokio::test]
async fn tools_that_a_server_adds_are_there_when_it_is_asked_again() {
    // And not before: the model is told of them at a turn's begin.
    let mut scene = Scene::with(server("well")).await;
    scene.equip().await;
    assert!(!scene.call("grown", json!({})).await.ok);
    assert!(scene.call("grow", json!({})).await.ok);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let equipped = scene.equip().await;
    assert!(names(&equipped[0]).contains(&"small__grown"), "{equipped:?}");
    assert_eq!(scene.call("grown", json!({})).await.text, "I am new");
    assert_eq!(scene.equip().await, []);
}

#[tokio::test]
async fn a_stranger_can_neither_fill_the_prompt_nor_hide_in_it() {
    // Descriptions and schemas stand in every prompt of the session.
    let mut scene = Scene::with(server("well")).await;
    let equipment = scene.equip().await.remove(0);
    let winded = equipment.tools.iter().find(|spec| spec.name == "small__long_winded").unwrap();
    assert!(winded.description.len() < 1100 && !winded.description.contains('\u{1b}'), "{winded:?}");
    let hostile = equipment.tools.iter().find(|spec| spec.name == "small__hostile").unwrap();
    let schema = hostile.parameters.to_string();
    assert!(!schema.contains("$ref") && !schema.contains("pattern") && schema.len() < 2000, "{schema}");
    assert!(equipment.notes.iter().any(|note| note.starts_with("long.winded: its description was cut")));
    assert!(
        equipment.notes.iter().any(|note| note == "no object: left out: its arguments are not an object")
    );
    assert!(serde_json::to_string(&equipment).unwrap().len() < 16_000);
}

#[tokio::test]
async fn a_large_answer_is_shown_in_part_and_kept() {
    // Nobody reads half a megabyte, and what was left out must not be lost.
    let mut scene = Scene::with(server("well")).await;
    scene.equip().await;
    let big = scene.call("big", json!({})).await;
    assert!(big.truncated && big.text.len() < 40_000 && big.bytes_total > 500_000, "{}", big.text.len());
    let id = big.text.rsplit(' ').next().unwrap().trim_end_matches(')');
    let read = Call {
        id: "2".to_owned(),
        name: "read".to_owned(),
        arguments: json!({"path": id, "offset": 25_001, "limit": 1}),
    };
    let read = scene.toolbox.perform(&read, &scene.sandbox, &|_| ()).await.unwrap();
    assert!(read.ok && read.text.contains("line 25000"), "{}", read.text);
    let image = scene.call("image", json!({})).await;
    assert_eq!(image.text, "[an image, image/png, 3 B: it cannot be shown here]");
}

#[tokio::test]
async fn only_allowed_tools_can_be_called_whatever_a_session_was_told() {
    // An operator who takes a tool away means sessions that know of it, too.
    let only_echo = Server { tools: Some(vec!["echo".to_owned()]), trust_hints: true, ..server("well") };
    let mut scene = Scene::with(only_echo).await;
    let equipment = scene.equip().await.remove(0);
    assert_eq!(names(&equipment), ["small__echo"]);
    assert_eq!(equipment.tools[0].replay, Replay::Safe);
    assert!(scene.call("grow", json!({})).await.text.contains("may not be used"));
    // One that is not configured any more gives nothing.
    scene.toolbox = Toolbox::builtin();
    assert_eq!(scene.equip().await[0].tools, []);
    assert!(scene.call("echo", json!({"text": "a"})).await.text.contains("There is no server"));
}

#[tokio::test]
async fn a_server_that_knows_no_handshake_is_spoken_to_without_one() {
    // The revision of July 2026 has none any more.
    let mut scene = Scene::with(server("modern")).await;
    let equipment = scene.equip().await.remove(0);
    assert_eq!(equipment.trouble, None);
    assert_eq!(scene.call("echo", json!({"text": "new"})).await.text, "new");
    scene.call("grow", json!({})).await;
    assert!(names(&scene.equip().await[0]).contains(&"small__grown"));
}

#[tokio::test]
async fn a_server_ends_with_its_session() {
    // What nobody holds must not go on in the background.
    let mut scene = Scene::with(server("stubborn")).await;
    scene.equip().await;
    let ps = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done 2>/dev/null | grep -c '[m]cp_server'";
    let exec = Call { id: "3".to_owned(), name: "exec".to_owned(), arguments: json!({"command": ps}) };
    // A command sees its own processes and none of the server's.
    let seen = scene.toolbox.perform(&exec, &scene.sandbox, &|_| ()).await.unwrap();
    assert!(seen.text.contains('0'), "{}", seen.text);
    let marker = scene.folder.path().canonicalize().unwrap();
    let alive = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == marker))
            .count()
    };
    assert!(alive() > 0);
    drop(scene.toolbox);
    let began = Instant::now();
    while alive() > 0 && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(alive(), 0);
}

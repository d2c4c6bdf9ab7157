//! The sandbox and its tools as their users see them.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tools::{Call, Command, Ended, Error, Outcome, Policy, Ran, Sandbox, Toolbox};

fn policy(workspace: &Path) -> Policy {
    let mut policy = Policy::new(workspace.canonicalize().unwrap());
    policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
    policy
}

async fn open(workspace: &Path) -> Sandbox {
    Sandbox::open(policy(workspace)).await.unwrap()
}

async fn shell(sandbox: &Sandbox, line: &str) -> Ran {
    sandbox.run(Command::shell(line)).await.unwrap()
}

async fn call(sandbox: &Sandbox, tool: &str, arguments: Value) -> Outcome {
    let call = Call { id: "1".to_owned(), name: tool.to_owned(), arguments };
    Toolbox::builtin().perform(&call, sandbox, &|_| ()).await.unwrap()
}

#[tokio::test]
async fn a_command_says_how_it_ended() {
    // The exit code is what the model acts on; it must not be lost among the output.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let ran = shell(&sandbox, "pwd; echo err >&2; exit 3").await;
    assert_eq!(ran.ended, Ended::Exited(3));
    assert_eq!(ran.output, format!("{}\nerr\n", sandbox.workspace()));
    assert_eq!(shell(&sandbox, "kill -9 $$").await.ended, Ended::Signalled(9));
    let missing = sandbox.run(Command::new(["no-such-program"])).await.unwrap();
    assert!(matches!(missing.ended, Ended::NotStarted(why) if why.contains("no such program")));
    let mut command = Command::new(["cat"]);
    command.stdin = Some(vec![b'x'; 300_000]);
    assert_eq!(sandbox.run(command).await.unwrap().bytes_total, 300_000);
    let mut command = Command::shell("echo $A; pwd");
    (command.env, command.cwd) = (vec![("A".to_owned(), "1".to_owned())], Some("sub".to_owned()));
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    assert_eq!(sandbox.run(command).await.unwrap().output, format!("1\n{}/sub\n", sandbox.workspace()));
}

#[tokio::test]
async fn the_tools_do_what_they_say() {
    // A model's usual round: look, find, change, run.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let check = async |tool: &str, arguments: Value, expected: &str| {
        let outcome = call(&sandbox, tool, arguments).await;
        assert_eq!(outcome.text, expected, "{tool}");
        outcome.ok
    };
    let text = "def add(a, b):\n    return a - b\n";
    assert!(
        check("write", json!({"path": "src/a.py", "content": text}), "Created src/a.py: 2 lines, 32 B.")
            .await
    );
    assert!(check("read", json!({"file_path": "src/a.py", "limit": "1"}),
        "src/a.py, lines 1-1 of 2:\ndef add(a, b):\n[... to read on, use offset 2]\n(note: \"file_path\" was taken as \"path\")").await);
    assert!(check("grep", json!({"pattern": "return"}), "src/a.py:2:     return a - b").await);
    assert!(check("glob", json!({"pattern": "*.py"}), "src/a.py").await);
    assert!(check("list", json!({}), "./ holds:\nsrc/").await);
    assert!(
        check(
            "edit",
            json!({"path": "src/a.py", "old": "a - b", "new": "a + b"}),
            "Edited src/a.py. Lines 2-2 are now:\n    return a + b"
        )
        .await
    );
    assert!(
        check("exec", json!({"command": "cat src/a.py"}), "exit code 0\ndef add(a, b):\n    return a + b")
            .await
    );
    assert!(!check("exec", json!({"command": "false"}), "exit code 1\n(no output)").await);
    assert!(!check("read", json!({"path": "a.py"}), "There is no a.py. Did you mean src/a.py?").await);
}

#[tokio::test]
async fn toolchains_of_the_host_work_inside() {
    // A sandbox in which the tests of a project cannot run is of no use. Which toolchains there are depends on the host.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    for tool in ["cargo --version", "python3 --version", "node --version", "java -version", "git --version"] {
        let name = tool.split(' ').next().unwrap();
        let host =
            std::process::Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
        if !host.status.success() {
            println!("skipped: the host has no {name}");
            continue;
        }
        let ran = shell(&sandbox, tool).await;
        assert_eq!(ran.ended, Ended::Exited(0), "{tool}: {}", ran.output);
    }
    let ran = shell(
        &sandbox,
        "git init -q . && echo x > f && git add f && git commit -qm one && git log --oneline | wc -l",
    )
    .await;
    assert!(!ran.output.contains("fatal"), "{}", ran.output);
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    // Each of these is a person's first try, and the words are all the help they get.
    let folder = tempfile::tempdir().unwrap();
    let refused = async |policy: Policy| Sandbox::open(policy).await.unwrap_err();
    assert!(matches!(refused(policy(Path::new("/"))).await, Error::Workspace { .. }));
    assert!(matches!(refused(policy(Path::new("/usr"))).await, Error::Workspace { .. }));
    let mut missing = policy(folder.path());
    missing.workspace = folder.path().join("missing");
    assert!(matches!(refused(missing).await, Error::Workspace { .. }));
    let mut wrong = policy(folder.path());
    wrong.helper = Some(PathBuf::from("/bin/true"));
    assert!(matches!(refused(wrong).await, Error::Helper { .. }));
}

#[tokio::test]
async fn commands_run_side_by_side_and_a_closed_sandbox_leaves_nothing() {
    // One slow command must not hold up the session's others, and the session's end is the end of all of them.
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let began = Instant::now();
    let (a, b) = tokio::join!(shell(&sandbox, "sleep 1; echo a"), shell(&sandbox, "sleep 1; echo b"));
    assert_eq!((a.output.as_str(), b.output.as_str()), ("a\n", "b\n"));
    assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    let endless = shell(&sandbox, "while :; do date >> beat; sleep 0.05; done");
    let _ = tokio::time::timeout(Duration::from_millis(400), endless).await;
    drop(sandbox);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let length = || std::fs::metadata(folder.path().join("beat")).unwrap().len();
    let before = length();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(length(), before);
}

/// Names the workspace for [`a_service`], which does nothing without it.
const SERVICE: &str = "SAGA_TEST_SERVICE";

#[tokio::test]
async fn a_service() {
    // Not a promise but the stage of the next one: a service in the middle of a command.
    let Some(workspace) = std::env::var_os(SERVICE) else { return };
    let sandbox = open(Path::new(&workspace)).await;
    shell(&sandbox, "setsid sh -c 'while :; do date >> beat; sleep 0.02; done' & sleep 60").await;
}

#[test]
fn a_killed_service_leaves_nothing_behind() {
    // kill -9 runs no destructor: only the kernel and the helper's own watch can clean up then.
    let folder = tempfile::tempdir().unwrap();
    let mut service = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_service"])
        .env(SERVICE, folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let beat = folder.path().join("beat");
    let began = Instant::now();
    while !beat.exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "the command never began");
        std::thread::sleep(Duration::from_millis(20));
    }
    service.kill().unwrap();
    service.wait().unwrap();
    let workspace = folder.path().canonicalize().unwrap();
    let survivors = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let inside = processes
            .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == workspace));
        inside.count()
    };
    let began = Instant::now();
    while survivors() > 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "{} processes survive", survivors());
        std::thread::sleep(Duration::from_millis(20));
    }
    let length = || std::fs::metadata(&beat).unwrap().len();
    let before = length();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(length(), before);
}

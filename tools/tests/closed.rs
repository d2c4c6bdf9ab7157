//! What of a workspace is closed to its commands and tools, and how far it may grow.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tools::{Call, Outcome, Policy, Sandbox, Toolbox};

const CANARY: &str = "canary-91c07e";

fn policy(workspace: &Path) -> Policy {
    let mut policy = Policy::new(workspace.canonicalize().unwrap());
    policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
    policy
}

async fn call(sandbox: &Sandbox, tool: &str, arguments: Value) -> Outcome {
    let call = Call { id: "1".to_owned(), name: tool.to_owned(), arguments };
    Toolbox::builtin().perform(&call, sandbox, &|_| ()).await.unwrap()
}

async fn exec(sandbox: &Sandbox, line: &str) -> Outcome {
    call(sandbox, "exec", json!({"command": line, "timeout_s": 60})).await
}

#[tokio::test]
async fn secrets_are_closed_by_whatever_name_they_are_reached() {
    // A key that a model has read is in its provider's logs, in its notes, in the next commit.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("config/.ssh")).unwrap();
    for name in [".env", "config/secrets.yaml", "config/.ssh/known", "server.pem"] {
        fs::write(at(name), CANARY).unwrap();
    }
    fs::hard_link(at("server.pem"), at("notes.txt")).unwrap();
    symlink(".env", at("link.txt")).unwrap();
    symlink("config/.ssh", at("keys")).unwrap();
    fs::write(at(".env.example"), "KEY=\n").unwrap();
    let sandbox = Sandbox::open(policy(folder.path())).await.unwrap();
    for line in [
        "cat .env config/secrets.yaml config/.ssh/known server.pem notes.txt link.txt keys/known",
        "cp -r . /tmp/copy; grep -r canary /tmp/copy; tar c . 2>/dev/null | grep -a canary",
        "mv config c2; cat c2/secrets.yaml; mv c2 config; ln .env hard; cat hard; mv .env moved; cat moved; rm -f .env; cat .env",
        "python3 -c 'import mmap,os; f=os.open(\".env\",os.O_RDONLY); print(os.read(f,99))'; chmod 777 .env; cat .env; cat < .env",
        "git init -q . 2>/dev/null; git add -f .env server.pem; git commit -qm x; git show HEAD:.env; git diff --no-index .env /dev/null",
    ] {
        let outcome = exec(&sandbox, &format!("{line}; echo end")).await;
        assert!(outcome.text.contains("end") && !outcome.text.contains(CANARY), "{line}\n{}", outcome.text);
    }
    for path in [".env", "config/secrets.yaml", "link.txt", "keys/known", "./config/../.env", "server.pem"] {
        for (tool, arguments) in [
            ("read", json!({"path": path})),
            ("grep", json!({"path": path, "pattern": "."})),
            ("edit", json!({"path": path, "old": "canary", "new": "x"})),
            ("write", json!({"path": path, "content": "x"})),
        ] {
            let outcome = call(&sandbox, tool, arguments).await;
            assert!(!outcome.ok && !outcome.text.contains(CANARY), "{tool} {path}: {}", outcome.text);
        }
    }
    assert!(call(&sandbox, "read", json!({"path": ".env"})).await.text.contains("is a secret by its name"));
    assert!(call(&sandbox, "grep", json!({"pattern": "canary"})).await.text.starts_with("No line"));
    assert!(exec(&sandbox, "cat .env.example").await.text.contains("KEY="));
    assert_eq!(fs::read_to_string(at(".env")).unwrap(), CANARY, "and on the host it is as it was");

    // An editor puts a new file in its place: the next command finds that closed as well.
    fs::write(at("new"), CANARY).unwrap();
    fs::rename(at("new"), at(".env")).unwrap();
    fs::write(at("id_rsa"), CANARY).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let outcome = exec(&sandbox, "cat .env id_rsa").await;
    assert!(!outcome.text.contains(CANARY), "{}", outcome.text);
}

#[tokio::test]
async fn an_operator_chooses_what_is_a_secret() {
    // Test certificates are no secrets, and a project may call its keys otherwise.
    let folder = tempfile::tempdir().unwrap();
    for name in [".env", "prod.txt"] {
        fs::write(folder.path().join(name), CANARY).unwrap();
    }
    let mut own = policy(folder.path());
    own.secrets = vec!["prod.*".to_owned()];
    let sandbox = Sandbox::open(own).await.unwrap();
    assert!(exec(&sandbox, "cat .env").await.text.contains(CANARY));
    assert!(!exec(&sandbox, "cat prod.txt").await.text.contains(CANARY));
    let mut wrong = policy(folder.path());
    wrong.secrets = vec!["{".to_owned()];
    assert!(Sandbox::open(wrong).await.unwrap_err().to_string().contains("no pattern"));
}

#[tokio::test]
async fn sockets_of_others_are_closed_and_own_ones_work() {
    // A socket of the host's in the workspace is a door that no namespace closes.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let listener = UnixListener::bind(at("theirs")).unwrap();
    let datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
    fs::hard_link(at("theirs"), at("linked")).unwrap();
    drop(UnixListener::bind(at("stale")).unwrap());
    listener.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let sandbox = Sandbox::open(policy(folder.path())).await.unwrap();
    let script = "import os, socket\n\
        for p in ('theirs', 'linked', 'datagrams'):\n\
        \x20 for t in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n\
        \x20   try: s = socket.socket(1, t); s.connect(p); s.send(b'x'); print('REACHED', p)\n\
        \x20   except OSError: pass\n\
        os.unlink('stale'); a = socket.socket(1); a.bind('stale'); a.listen()\n\
        b = socket.socket(1); b.connect('stale'); a.accept(); print('OWN')";
    let outcome = exec(&sandbox, &format!("python3 - <<'E'\n{script}\nE")).await;
    assert!(outcome.text.contains("OWN") && !outcome.text.contains("REACHED"), "{}", outcome.text);
    assert!(listener.accept().is_err(), "it never heard of anybody");
    assert!(datagrams.recv(&mut [0]).is_err());
}

#[tokio::test]
async fn a_workspace_grows_so_far_and_can_be_emptied_again() {
    // A full disk takes every session of the host with it.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(folder.path().join("before"), vec![1; 30 << 20]).unwrap();
    let mut small = policy(folder.path());
    small.limits.workspace_bytes = 64 << 20;
    small.limits.workspace_files = 2000;
    let sandbox = Sandbox::open(small).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(exec(&sandbox, "head -c 20M /dev/zero > fits").await.ok);
    let outcome =
        exec(&sandbox, "for i in $(seq 400); do head -c 1M /dev/urandom > big$i; sleep 0.01; done").await;
    assert!(outcome.text.contains("the workspace has grown"), "{}", outcome.text);
    let used = || {
        let files = fs::read_dir(folder.path()).unwrap().flatten();
        files.map(|entry| entry.metadata().unwrap().len()).sum::<u64>() >> 20
    };
    assert!(used() < 30 + 64 + 60, "{} MiB", used());
    // To make room is not to grow.
    assert!(exec(&sandbox, "rm big*; sleep 0.3; echo room").await.ok);
    let outcome = exec(&sandbox, "mkdir many; for i in $(seq 20000); do : > many/$i; done; sleep 5").await;
    assert!(outcome.text.contains("the workspace has grown"), "{}", outcome.text);
}

#[tokio::test]
async fn a_workspace_that_is_filled_fast_is_full_before_it_is_much_too_full() {
    // A disk takes gigabytes in a second, and a file needs no name to take them: what only counts now and then comes too late.
    const MAY_MIB: u64 = 256;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut small = policy(folder.path());
    small.limits.workspace_bytes = MAY_MIB << 20;
    let sandbox = Sandbox::open(small).await.unwrap();
    let used = || {
        let files = fs::read_dir(folder.path()).unwrap().flatten();
        files.map(|entry| std::os::unix::fs::MetadataExt::blocks(&entry.metadata().unwrap())).sum::<u64>()
            >> 11
    };
    for (line, told) in [
        ("for i in 1 2 3 4 5 6 7 8; do head -c 900M /dev/zero > a$i & done; wait", true),
        (
            "head -c 900M /dev/zero > b1 & head -c 900M /dev/zero > b2 & head -c 900M /dev/zero > b3 & exit 0",
            false,
        ),
        (
            "setsid bash -c 'for i in 1 2 3 4; do head -c 500M /dev/zero > c$i; done' & setsid sleep 9; wait",
            true,
        ),
        (
            "for i in 3 4 5; do eval \"exec $i> gone\"; rm gone; head -c 200M /dev/zero >&$i; done; sleep 9",
            true,
        ),
    ] {
        let outcome = exec(&sandbox, line).await;
        assert!(used() < MAY_MIB + 128, "{line}: {} MiB\n{}", used(), outcome.text);
        assert!(!told || outcome.text.contains("the workspace has grown"), "{line}\n{}", outcome.text);
        assert!(exec(&sandbox, "rm -f *; echo room").await.text.contains("room"));
    }
    // Room that is taken without writing cannot be counted in time; whoever asks for it gets it the long way.
    let outcome = exec(&sandbox, "fallocate -l 900M huge; ls -s huge").await;
    assert!(used() < 2, "{}", outcome.text);
    let line = "python3 -c \"import os; f = os.open('p', os.O_CREAT | os.O_RDWR); os.posix_fallocate(f, 0, 1 << 20); print(os.fstat(f).st_size)\"";
    let outcome = exec(&sandbox, line).await;
    assert!(outcome.text.contains("1048576"), "{}", outcome.text);
}

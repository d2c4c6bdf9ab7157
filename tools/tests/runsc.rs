//! Commands in gVisor. Where `runsc` is missing or does not work, these promises are not looked at, and a line says so; that
//! a sandbox then refuses to open is looked at everywhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tools::{Backend, Call, Command, Ended, Error, Outcome, Policy, Ran, Sandbox, Toolbox};

const CANARY: &str = "canary-5d20be";

fn policy(workspace: &Path) -> Policy {
    let mut policy = Policy::new(workspace.canonicalize().unwrap());
    policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
    policy.backend = Backend::Runsc;
    policy
}

/// A sandbox, or nothing where there is no gVisor.
async fn open(policy: Policy) -> Option<Sandbox> {
    match Sandbox::open(policy).await {
        Ok(sandbox) => Some(sandbox),
        Err(Error::Missing { layer, detail, mend }) if layer == "gvisor" => {
            assert!(!mend.is_empty());
            println!("skipped: commands cannot run in gVisor here: {detail}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn shell(sandbox: &Sandbox, line: &str) -> Ran {
    sandbox.run(Command::shell(line)).await.unwrap()
}

async fn call(sandbox: &Sandbox, tool: &str, arguments: Value) -> Outcome {
    let call = Call { id: "1".to_owned(), name: tool.to_owned(), arguments };
    Toolbox::builtin().perform(&call, sandbox, &|_| ()).await.unwrap()
}

/// How many gVisors run for sandboxes of this workspace.
fn gvisors(workspace: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let of_ours = all.filter(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        line.starts_with(b"runsc-gofer") && mounts.contains(workspace)
    });
    of_ours.count()
}

/// Waits until so many run.
async fn gvisors_become(count: usize, workspace: &str) {
    let began = Instant::now();
    while gvisors(workspace) != count {
        assert!(began.elapsed() < Duration::from_secs(20), "{} gVisors run", gvisors(workspace));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_runsc_that_does_not_work_opens_nothing() {
    // A fallback that nobody asked for is a weaker sandbox that nobody knows of.
    let folder = tempfile::tempdir().unwrap();
    match Sandbox::open(policy(folder.path())).await {
        Ok(sandbox) => assert_eq!(shell(&sandbox, "echo in").await.output, "in\n"),
        Err(error) => {
            assert!(matches!(&error, Error::Missing { layer, .. } if layer == "gvisor"), "{error}");
            let said = error.to_string();
            assert!(said.contains("apt install runsc") && said.contains("backend = \"native\""), "{said}");
        }
    }
    let layer = tools::probe_runsc().await;
    assert!(layer.name == "gvisor" && layer.holds == layer.mend.is_empty(), "{layer:?}");
}

#[tokio::test]
async fn a_command_has_a_kernel_of_its_own_and_ends_as_any_other() {
    // What a command says and how it ends is what a model acts on, whatever runs it.
    let folder = tempfile::tempdir().unwrap();
    let Some(sandbox) = open(policy(folder.path())).await else { return };
    let ran =
        shell(&sandbox, "dmesg | grep -ci gvisor; id -un; grep CapEff /proc/self/status; pwd; exit 3").await;
    assert_eq!(ran.ended, Ended::Exited(3));
    assert_eq!(ran.output, format!("1\nsaga\nCapEff:\t0000000000000000\n{}\n", sandbox.workspace()));
    assert_eq!(shell(&sandbox, "kill -9 $$").await.ended, Ended::Signalled(9));
    let missing = sandbox.run(Command::new(["no-such-program"])).await.unwrap();
    assert!(matches!(missing.ended, Ended::NotStarted(why) if why.contains("no such program")));
    let mut command = Command::new(["cat"]);
    command.stdin = Some(vec![b'x'; 300_000]);
    assert_eq!(sandbox.run(command).await.unwrap().bytes_total, 300_000);
    let mut command = Command::shell("echo $A $HOME; pwd; echo x > made");
    (command.env, command.cwd) = (vec![("A".to_owned(), "1".to_owned())], Some("sub".to_owned()));
    fs::create_dir(folder.path().join("sub")).unwrap();
    assert_eq!(
        sandbox.run(command).await.unwrap().output,
        format!("1 /home/saga\n{}/sub\n", sandbox.workspace())
    );
    // What it wrote is on the host, as if the workspace's owner had written it; what the tools write is inside.
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    assert_eq!(owner(&folder.path().join("sub/made")), owner(folder.path()));
    assert!(call(&sandbox, "write", json!({"path": "new.txt", "content": "from the tool\n"})).await.ok);
    assert_eq!(
        shell(&sandbox, "cat new.txt; ls -l new.txt | cut -c1-10").await.output,
        "from the tool\n-rw-r--r--\n"
    );
    let mut led_out = Command::shell("pwd");
    led_out.cwd = Some("../..".to_owned());
    assert!(matches!(sandbox.run(led_out).await.unwrap().ended, Ended::NotStarted(_)));
    // Both streams fill the same pipe many times over.
    for _ in 0..5 {
        let ran = shell(&sandbox, "seq 1 40000; echo end >&2").await;
        assert_eq!((ran.ended, ran.bytes_total), (Ended::Exited(0), 228_898), "{}", ran.output);
    }
    let mut at_terminal = Command::shell("test -t 0 && test -t 1 && stty size");
    at_terminal.tty = true;
    assert_eq!(sandbox.run(at_terminal).await.unwrap().output.trim(), "40 120");
}

#[tokio::test]
async fn a_command_sees_its_workspace_and_nothing_else_of_the_host() {
    // The second kernel is no use to whoever is handed the host's files.
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), CANARY).unwrap();
    symlink(outside.path(), folder.path().join("way")).unwrap();
    let Some(sandbox) = open(policy(folder.path())).await else { return };
    let out = outside.path().display();
    let ran = shell(
        &sandbox,
        &format!(
            "cat /etc/shadow {out}/secret way/secret; ls -R /run /root /home 2>/dev/null | grep -i -e runsc.sock -e state -e bundle; \
             for f in /usr/x /etc/x /x /proc/x way/x; do echo x > $f; done; rm -f /usr/bin/env /bin/sh; ls {out}"
        ),
    )
    .await;
    for line in ran.output.lines() {
        let refused = ["No such file", "cannot", "denied", "Read-only", "not permitted"];
        assert!(refused.iter().any(|word| line.contains(word)), "{}", ran.output);
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    let network = "import socket\ns = socket.socket()\ns.settimeout(5)\ns.connect(('1.1.1.1', 53))";
    let ran = sandbox.run(Command::new(["python3", "-c", network])).await.unwrap();
    assert!(ran.ended != Ended::Exited(0), "{}", ran.output);
    assert_eq!(shell(&sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await.output, "lo\n");
}

#[tokio::test]
async fn secrets_are_closed_those_that_come_later_too() {
    // A gVisor has the mounts that were there when it booted, which was before its command.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at(".env"), CANARY).unwrap();
    fs::create_dir(at(".ssh")).unwrap();
    fs::write(at(".ssh/id"), CANARY).unwrap();
    let Some(sandbox) = open(policy(folder.path())).await else { return };
    let lines = "cat .env .ssh/id; mv .env moved; cat moved; ln .env hard; cat hard; rm -f .env; mv .ssh s; cat s/id; cat late.pem";
    assert!(!shell(&sandbox, lines).await.output.contains(CANARY));
    fs::write(at("late.pem"), CANARY).unwrap();
    // A look is due again after a moment.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..3 {
        assert!(!shell(&sandbox, lines).await.output.contains(CANARY));
    }
    assert_eq!(
        fs::read_to_string(at(".env")).unwrap(),
        CANARY,
        "what cannot be read cannot be removed either"
    );
}

#[tokio::test]
async fn limits_hold_and_what_breaks_on_them_takes_nothing_with_it() {
    // A command is ended alone: the session, and what else runs in it, goes on.
    let folder = tempfile::tempdir().unwrap();
    let mut small = policy(folder.path());
    small.limits.memory_bytes = 600 << 20;
    small.limits.workspace_bytes = 64 << 20;
    small.limits.output_bytes = 4 << 20;
    small.limits.open_files = 200;
    let Some(sandbox) = open(small).await else { return };
    let ended = async |line: &str, secs: u64| {
        let mut command = Command::shell(line);
        command.timeout = Some(Duration::from_secs(secs));
        sandbox.run(command).await.unwrap().ended
    };
    assert!(matches!(ended("sleep 60", 1).await, Ended::TimedOut(_)));
    assert_eq!(ended("yes", 60).await, Ended::Flooded);
    assert_eq!(ended("test \"$(ulimit -n)\" = 200 && test \"$(ulimit -c)\" = 0", 60).await, Ended::Exited(0));
    assert_eq!(ended("head -c 500M /dev/zero > big; sleep 30", 60).await, Ended::WorkspaceFull);
    assert_eq!(ended("rm -f big", 60).await, Ended::Exited(0));
    // Room is not had without writing, nor a file that whoever runs it outside would run as its owner.
    assert_eq!(
        ended("fallocate -l 900M huge; test $(du -sm . | cut -f1) -lt 60", 60).await,
        Ended::Exited(0)
    );
    let special = "cp /bin/sh s; chmod 4755 s; chmod g+s s; install -m 6755 /bin/sh t; test ! -u s && test ! -g s && test ! -u t";
    assert_eq!(ended(special, 60).await, Ended::Exited(0));
    let file = |name: &str| fs::metadata(folder.path().join(name)).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file("s").permissions()) & 0o6000, 0);
    let all = "python3 -c \"b = bytearray(2 << 30)\nfor i in range(0, len(b), 4096): b[i] = 1\"";
    let ran_out = ended(all, 120).await;
    assert!(matches!(ran_out, Ended::OutOfMemory), "{ran_out:?}");
    assert_eq!(ended("true", 60).await, Ended::Exited(0));
}

#[tokio::test]
async fn a_server_goes_on_in_the_background_and_nothing_outlives_the_session() {
    // Commands share the loopback and the temporary folder, and nothing but the workspace is there after the session.
    let folder = tempfile::tempdir().unwrap();
    let Some(sandbox) = open(policy(folder.path())).await else { return };
    assert!(
        shell(&sandbox, "echo kept > /tmp/shared; echo page > index.html").await.ended == Ended::Exited(0)
    );
    let line = "trap 'echo cleaned; exit 7' INT; python3 -m http.server 8731 2>/dev/null & while :; do sleep 0.1; done";
    let started = call(&sandbox, "exec", json!({"command": line, "background": true})).await;
    let first = started.text.lines().next().unwrap_or_default();
    let id = first.strip_prefix("started in the background as ").unwrap().to_owned();
    let fetch = "import time, urllib.request\nfor i in range(100):\n  try: print(urllib.request.urlopen('http://127.0.0.1:8731/').read()); break\n  except OSError: time.sleep(0.2)";
    let mut command = Command::new(["python3", "-c", fetch]);
    command.timeout = Some(Duration::from_secs(60));
    let ran = sandbox.run(command).await.unwrap();
    assert!(ran.output.contains("page"), "{}", ran.output);
    assert_eq!(shell(&sandbox, "cat /tmp/shared").await.output, "kept\n");
    let sent = call(&sandbox, "process", json!({"action": "signal", "id": id, "signal": "int"})).await;
    let waited = call(&sandbox, "process", json!({"action": "wait", "id": id, "timeout_s": 20})).await;
    let said = sent.text + &waited.text;
    assert!(said.contains("cleaned") && said.contains("exit code 7"), "{said}");
    // One that is left running when the session ends, one that a command leaves behind, and one that is killed.
    let begin = json!({"command": "exec sleep 600", "background": true});
    call(&sandbox, "exec", begin.clone()).await;
    shell(&sandbox, "setsid sleep 600 & echo left").await;
    let killed = call(&sandbox, "exec", begin).await.text;
    let killed =
        killed.lines().next().unwrap().strip_prefix("started in the background as ").unwrap().to_owned();
    let workspace = sandbox.workspace().to_owned();
    // Beside the two that run there is one ready for the next command.
    gvisors_become(3, &workspace).await;
    let said = call(&sandbox, "process", json!({"action": "kill", "id": killed})).await;
    assert!(said.text.contains("signal 9"), "{}", said.text);
    gvisors_become(2, &workspace).await;
    drop(sandbox);
    gvisors_become(0, &workspace).await;
}

#[tokio::test]
async fn a_gvisor_ends_with_a_command_that_nobody_waits_for_any_more() {
    // Each is some thirty megabytes and a kernel that somebody may be in.
    let folder = tempfile::tempdir().unwrap();
    let Some(sandbox) = open(policy(folder.path())).await else { return };
    let dropped = tokio::time::timeout(Duration::from_millis(900), shell(&sandbox, "sleep 60")).await;
    assert!(dropped.is_err());
    gvisors_become(1, sandbox.workspace()).await;
    assert_eq!(shell(&sandbox, "echo on").await.output, "on\n");
}

//! Hostile commands, and what must not come of them. As root the same cases run once more as an ordinary user.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tools::{Call, Outcome, Policy, Sandbox, Toolbox};

/// Finding this in a result proves a leak; it is in no command.
const CANARY: &str = "canary-5d1f0c77";

/// Names the helper for the run as another user, who cannot read the build folder.
const HELPER: &str = "SAGA_TEST_HELPER";

/// A workspace, and beside it a folder of the host's that must stay unseen.
struct Scene {
    _folder: tempfile::TempDir,
    outside: PathBuf,
    workspace: PathBuf,
    sandbox: Sandbox,
}

impl Scene {
    async fn open() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        let (outside, workspace) = (base.join("outside"), base.join("ws"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&workspace).unwrap();
        for (name, text) in [("secret", CANARY), ("target", "ORIGINAL")] {
            fs::write(outside.join(name), text).unwrap();
            fs::set_permissions(outside.join(name), fs::Permissions::from_mode(0o666)).unwrap();
        }
        let mut policy = Policy::new(&workspace);
        let helper = std::env::var_os(HELPER).map(PathBuf::from);
        policy.helper = Some(helper.unwrap_or_else(|| env!("CARGO_BIN_EXE_saga-sandbox-helper").into()));
        policy.limits.processes = 128;
        policy.limits.memory_bytes = 512 << 20;
        let sandbox = Sandbox::open(policy).await.unwrap();
        Scene { _folder: folder, outside, workspace, sandbox }
    }

    async fn call(&self, tool: &str, arguments: Value) -> Outcome {
        let call = Call { id: "1".to_owned(), name: tool.to_owned(), arguments };
        Toolbox::builtin().perform(&call, &self.sandbox, &|_| ()).await.unwrap()
    }

    async fn exec(&self, line: &str) -> Outcome {
        let line = line.replace("{OUT}", self.outside.to_str().unwrap());
        self.call("exec", json!({"command": line, "timeout_s": 20})).await
    }

    /// Runs a line that must print `done` (so that it did run) and none of `never`.
    async fn check(&self, line: &str, never: &[&str]) {
        let outcome = self.exec(&format!("{line}\necho do''ne")).await;
        assert!(outcome.text.contains("done"), "{line}\n{}", outcome.text);
        for word in never.iter().chain(&[CANARY]) {
            assert!(!outcome.text.contains(word), "{line}\nholds {word}:\n{}", outcome.text);
        }
        assert_eq!(fs::read_to_string(self.outside.join("target")).unwrap(), "ORIGINAL", "{line}");
    }
}

fn python(script: &str) -> String {
    format!("/usr/bin/python3 - <<'E' 2>&1\n{script}\nE")
}

#[tokio::test]
async fn the_host_is_neither_seen_nor_changed() {
    // The allow-list is the boundary: what is not on it must not exist inside, by whatever name it is asked for.
    let scene = Scene::open().await;
    let service = std::process::id();
    scene.check("cat {OUT}/secret /proc/self/root{OUT}/secret /proc/1/root{OUT}/secret; ls {OUT}", &[]).await;
    scene.check("cd /proc/self/cwd/../../../../..{OUT} && cat secret", &[]).await;
    scene.check("cat /etc/shadow; cat /etc/passwd", &["$6$", "$y$", "root:*", "root:!"]).await;
    scene
        .check("echo PWNED > {OUT}/target; ln -s {OUT}/target t; echo PWNED > t; ln {OUT}/target h", &[])
        .await;
    scene
        .check(
            "for d in /usr /usr/bin /etc /lib / /proc/sys/kernel; do echo x > $d/zz && echo WRO''TE; done",
            &["WROTE"],
        )
        .await;
    scene
        .check(
            "echo x > /proc/sys/kernel/core_pattern && echo WRO''TE; ls /sys/fs/cgroup && echo SE''EN",
            &["WROTE", "SEEN"],
        )
        .await;
    scene
        .check(
            &format!("ls /proc/{service} && echo SE''EN; kill -9 {service} && echo KIL''LED; kill -9 -1"),
            &["SEEN", "KILLED"],
        )
        .await;
    scene.check("ls -d $(echo $PATH | tr : ' ') | while read d; do touch $d/zz && echo WRO''TE $d; done 2>/dev/null", &["WROTE /usr", "WROTE /root"]).await;
    scene
        .check(
            "mknod d b 254 0 && echo MA''DE; head -c 9 /dev/vda /dev/mem /dev/kmsg && echo RE''AD",
            &["MADE", "READ"],
        )
        .await;
}

#[tokio::test]
async fn nothing_of_the_service_is_inherited() {
    // Keys in the environment and open descriptors are how a service's secrets have leaked elsewhere.
    let scene = Scene::open().await;
    scene
        .check("env; cat /proc/*/environ | tr '\\0' '\\n'", &["CARGO_MANIFEST_DIR", "CARGO_BIN_EXE", HELPER])
        .await;
    let outcome = scene.exec("exec ls /proc/self/fd").await;
    // 0, 1, 2 and the one ls reads the folder with.
    assert_eq!(
        outcome.text.split_whitespace().skip(3).collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "{}",
        outcome.text
    );
    scene.check("cat <&0; read x; echo $x", &[]).await;
    scene
        .check("cat /proc/1/environ /proc/1/mem && echo RE''AD; ls /proc/1/fd && echo RE''AD", &["READ"])
        .await;
    scene
        .check(
            "grep -E 'CapEff|CapBnd|CapPrm' /proc/self/status | grep -v 0000000000000000 && echo CA''PS",
            &["CAPS"],
        )
        .await;
    let status = scene.exec("grep -E 'NoNewPrivs|^Seccomp:' /proc/self/status").await.text;
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
}

#[tokio::test]
async fn the_kernel_is_not_open_to_commands() {
    // One shared kernel: what no build or test needs is refused.
    let scene = Scene::open().await;
    scene.check("unshare -Ur true && echo NES''TED; mount -t tmpfs t /mnt && echo MOUN''TED; umount /proc && echo GO''NE", &["NESTED", "MOUNTED", "GONE"]).await;
    if !Path::new("/usr/bin/python3").exists() {
        println!("skipped: the system-call cases need /usr/bin/python3");
        return;
    }
    let calls = python(
        "import ctypes, os, platform\n\
         l = ctypes.CDLL(None, use_errno=True)\n\
         b = ctypes.create_string_buffer(256)\n\
         if platform.machine() == 'x86_64':\n\
         \x20 for n, a in ((101, (0x4206, 1, 0, 0)), (321, (0, b, 120)), (298, (b, 0, -1, -1, 0)), (323, (1,)), (425, (4, b)),\n\
         \x20              (248, (b'user', b'k', b'v', 1, -4)), (428, (-100, b'/', 1)), (430, (b'tmpfs', 0)), (272, (0x10000000,)),\n\
         \x20              (304, (-100, b, 0)), (161, (b'.',)), (435, (b, 88)), (0x40000000 + 39, ())):\n\
         \x20   r = l.syscall(n, *a)\n\
         \x20   if r >= 0: print('GOT', n)",
    );
    scene.check(&calls, &["GOT"]).await;
    let sockets = python(
        "import socket\n\
         for f, t, p in ((16,3,0), (17,3,768), (38,5,0), (40,1,0), (31,3,1), (44,3,0), (2,3,1), (10,3,58), (30,2,0), (2,1,132), (2,10,0)):\n\
         \x20 try: socket.socket(f, t, p); print('OPENED', f, t, p)\n\
         \x20 except OSError: pass",
    );
    scene.check(&sockets, &["OPENED"]).await;
    let terminal = python(
        "import fcntl, termios, pty\n\
         m, s = pty.openpty()\n\
         try: fcntl.ioctl(s, termios.TIOCSTI, b'x'); print('STUFFED')\n\
         except OSError: pass",
    );
    scene.check(&terminal, &["STUFFED"]).await;
}

#[tokio::test]
async fn there_is_a_loopback_and_no_network() {
    // Servers under test must be reachable inside, and nothing beyond.
    let scene = Scene::open().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    scene.check(&format!("for a in 127.0.0.1/{port} 1.1.1.1/80 169.254.169.254/80; do (exec 3<>/dev/tcp/$a) && echo REA''CHED; done"), &["REACHED"]).await;
    if Path::new("/usr/bin/python3").exists() {
        let outcome = scene
            .exec(&python(
                "import socket\ns = socket.create_server(('127.0.0.1', 8080)); c = socket.create_connection(('localhost', 8080)); print('LOOPS')",
            ))
            .await;
        assert!(outcome.text.contains("LOOPS"), "{}", outcome.text);
    }
}

#[tokio::test]
async fn files_come_out_as_the_owners_and_never_set_user_id() {
    // A set-user-id file of root's in a workspace is a way to root for anyone on the host.
    let scene = Scene::open().await;
    scene
        .exec(
            "echo x > made; cp /usr/bin/id sid; chmod 6755 sid; install -m 4755 /usr/bin/id sid2; mkdir sub",
        )
        .await;
    let owner = fs::metadata(&scene.workspace).unwrap().uid();
    for entry in fs::read_dir(&scene.workspace).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        assert_eq!(metadata.uid(), owner);
        assert_eq!(metadata.mode() & 0o6000, 0);
    }
    assert_eq!(fs::read_dir(&scene.workspace).unwrap().count(), 4);
}

#[tokio::test]
async fn file_tools_stay_in_the_workspace() {
    // The tools act for the model, so a path is as hostile as a command.
    let scene = Scene::open().await;
    let at = |name: &str| scene.workspace.join(name);
    symlink(&scene.outside, at("esc")).unwrap();
    symlink(scene.outside.join("secret"), at("link")).unwrap();
    symlink("/", at("root")).unwrap();
    fs::hard_link(scene.outside.join("target"), at("hard")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    let secret = scene.outside.join("secret");
    let up = format!("../../../../../../..{}", secret.display());
    let began = Instant::now();
    for path in
        ["esc/secret", "link", "pipe", "/proc/self/environ", "/etc/passwd", &up, secret.to_str().unwrap()]
    {
        for (tool, arguments) in [
            ("read", json!({"path": path})),
            ("grep", json!({"path": path, "pattern": "."})),
            ("edit", json!({"path": path, "old": "c", "new": "d"})),
            ("list", json!({"path": path})),
        ] {
            let outcome = scene.call(tool, arguments).await;
            assert!(!outcome.ok && !outcome.text.contains(CANARY), "{tool} {path}: {}", outcome.text);
        }
    }
    for path in ["esc/target", "esc/new/x", "../x", "root/tmp/x"] {
        assert!(!scene.call("write", json!({"path": path, "content": "PWNED"})).await.ok, "{path}");
    }
    let edited = scene.call("edit", json!({"path": "hard", "old": "ORIGINAL", "new": "PWNED"})).await;
    assert!(edited.ok, "{}", edited.text);
    assert_eq!(fs::read_to_string(scene.outside.join("target")).unwrap(), "ORIGINAL");
    assert_eq!(fs::read_dir(&scene.outside).unwrap().count(), 2);
    for (tool, arguments) in
        [("glob", json!({"pattern": "**/secret"})), ("grep", json!({"pattern": "canary"}))]
    {
        assert!(scene.call(tool, arguments).await.text.starts_with("No "));
    }
    let cwd = json!({"command": "echo PWNED > target", "cwd": scene.outside});
    assert!(!scene.call("exec", cwd).await.ok);
    assert!(began.elapsed() < Duration::from_secs(30), "nothing hung: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_command_ends_with_everything_it_started() {
    // Survivors hold pipes, ports and memory for hours.
    let scene = Scene::open().await;
    let began = Instant::now();
    let outcome = scene.exec("setsid nohup sh -c 'while :; do date >> beat; sleep 0.05; done' >/dev/null 2>&1 & sleep 300 & echo started").await;
    assert!(
        outcome.ok && outcome.text.contains("started") && outcome.text.contains("in the background"),
        "{}",
        outcome.text
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    let length = || fs::metadata(scene.workspace.join("beat")).map_or(0, |beat| beat.len());
    let before = length();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(length(), before);

    let stubborn = json!({"command": "trap '' TERM INT HUP; while :; do :; done", "timeout_s": 1});
    let outcome = scene.call("exec", stubborn).await;
    assert!(outcome.summary.starts_with("timed out"), "{}", outcome.summary);

    // Dropped in the middle, it is as dead as one that timed out.
    let endless = scene.exec("while :; do date >> beat; sleep 0.05; done");
    assert!(tokio::time::timeout(Duration::from_millis(500), endless).await.is_err());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = length();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(length(), before);
    assert!(scene.exec("true").await.ok, "and the sandbox goes on");
}

#[tokio::test]
async fn floods_are_bounded_and_told() {
    // Each of these has taken a whole host down somewhere.
    let scene = Scene::open().await;
    let outcome = scene.exec("yes AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").await;
    assert!(outcome.summary.starts_with("flooded") && outcome.text.len() < 64 << 10, "{}", outcome.summary);
    let outcome = scene.exec(":(){ :|:& };: 2>/dev/null; sleep 1; echo alive").await;
    // A shell that cannot fork gives up after 15 seconds.
    assert!(outcome.wall_ms < 20_000, "{}", outcome.summary);
    assert!(scene.exec("echo ok").await.text.contains("ok"), "the bomb is gone");
    if Path::new("/usr/bin/python3").exists() {
        let outcome = scene.exec(&python("x = []\nwhile True: x.append(b'x' * (16 << 20))")).await;
        // A cgroup or the watchdog kills it; before the watchdog looks, an rlimit may already have refused it memory.
        assert!(
            outcome.summary.starts_with("out of memory") || outcome.text.contains("MemoryError"),
            "{}",
            outcome.text
        );
    }
    let outcome =
        scene.exec("dd if=/dev/zero of=/tmp/big bs=1M count=4000 2>&1 | tail -1; ls /dev/shm").await;
    assert!(outcome.wall_ms < 15_000);
    assert!(scene.exec("rm -f /tmp/big; ulimit -c; ulimit -n").await.text.contains("0\n4096"));
}

#[tokio::test]
async fn unknown_arguments_widen_nothing() {
    // No argument may turn the sandbox off, and one that is made up must not pass in silence.
    let scene = Scene::open().await;
    let escape = json!({"command": "true", "dangerouslyDisableSandbox": true});
    let outcome = scene.call("exec", escape).await;
    assert!(!outcome.ok && outcome.text.contains("There is no argument"), "{}", outcome.text);
    assert!(scene.call("sudo", json!({})).await.text.contains("There is no tool named"));
    assert!(!scene.call("exec", json!({"command": "echo a\0b"})).await.ok);
}

#[test]
fn the_attacks_are_held_for_an_ordinary_user_as_well() {
    // Root has ways (id-mapped mounts, cgroups) that an ordinary user lacks; the sandbox must be whole without them.
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root, so the other tests ran as an ordinary user already");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "attacks");
    let helper = copy(Path::new(env!("CARGO_BIN_EXE_saga-sandbox-helper")), "helper");
    let output = std::process::Command::new(tests)
        .args(["--skip", "ordinary_user", "--test-threads", "2"])
        .env(HELPER, helper)
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

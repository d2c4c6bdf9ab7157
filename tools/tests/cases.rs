//! The attack cases of this repository: each is held, as root and as an ordinary user, and without a sandbox they tell leaks.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use tools::Backend;
use tools::attack::{self, Ground, Verdict};

const CASES: &str = include_str!("cases.jsonl");

/// Names the helper for the run as another user, who cannot read the build folder.
const HELPER: &str = "SAGA_TEST_HELPER";

/// How many of the cases that are harmless on a bare host must leak there: some need what not every host has.
const PLAIN_LEAKS: usize = 7;

fn helper() -> PathBuf {
    let helper = std::env::var_os(HELPER).map(PathBuf::from);
    helper.unwrap_or_else(|| env!("CARGO_BIN_EXE_saga-sandbox-helper").into())
}

/// Cases that leaked, with why, and how many were skipped. Two at a time: they wait for processes most of the time.
fn leaks(ground: &Ground) -> (Vec<String>, usize) {
    let cases = attack::read(CASES);
    assert!(cases.len() >= 40, "{}", cases.len());
    let halves: Vec<_> = (0..2).map(|half| cases.iter().skip(half).step_by(2)).collect();
    std::thread::scope(|scope| {
        let tried: Vec<_> = halves
            .into_iter()
            .map(|half| {
                scope.spawn(|| half.map(|case| (&case.id, case.attack(ground, None))).collect::<Vec<_>>())
            })
            .collect();
        let (mut leaks, mut skipped) = (Vec::new(), 0);
        for (id, verdict) in tried.into_iter().flat_map(|half| half.join().unwrap()) {
            match verdict {
                Verdict::Held => {}
                Verdict::Leaked(why) => leaks.push(format!("{id}: {why}")),
                Verdict::Skipped(why) => {
                    println!("skipped {id}: {why}");
                    skipped += 1;
                }
            }
        }
        (leaks, skipped)
    })
}

#[test]
fn every_case_is_held() {
    // Whoever changes the sandbox or a tool learns here what it opens.
    let (leaks, skipped) = leaks(&Ground::Sandbox(Some(helper()), Backend::Native));
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    // Most cases are Python scripts.
    assert!(skipped == 0 || !Path::new("/usr/bin/python3").exists(), "{skipped} were skipped");
}

#[test]
fn without_a_sandbox_the_cases_leak() {
    // A case that nothing can fail proves nothing. Root would really do what they try, so it is not tried as root.
    let (leaks, skipped) = leaks(&Ground::Plain(Some(helper())));
    if rustix::process::geteuid().is_root() {
        assert!(leaks.is_empty() && skipped == attack::read(CASES).len());
        return;
    }
    assert!(leaks.len() >= PLAIN_LEAKS, "only {}: {}", leaks.len(), leaks.join("\n"));
}

#[test]
fn the_cases_are_held_for_an_ordinary_user_as_well() {
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
    let tests = copy(&std::env::current_exe().unwrap(), "cases");
    let helper = copy(Path::new(env!("CARGO_BIN_EXE_saga-sandbox-helper")), "helper");
    let output = std::process::Command::new(tests)
        .args(["--skip", "ordinary_user", "--test-threads", "1"])
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

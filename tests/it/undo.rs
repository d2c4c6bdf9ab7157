//! A workspace wound back to any step is what it was, byte for byte: random histories of a real service in real sandboxes.
//!
//! What is compared: every path but those below a build folder that git ignores (`target`, the rule), what each is, its permissions, content
//! and where links lead, repositories included; of one that stays, objects and logs only by what git says of them, since it only adds to them:
//! its status, its commits, what is stashed, and that nothing is missing. What is not: times, since tools go by them to see that a file is
//! another one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kit::{Elsewhere, Saga, Saying};
use serde_json::json;

use crate::chance::Chance;

/// What a workspace holds, by path.
type Tree = BTreeMap<PathBuf, String>;

/// A session's history, as its mind makes it up.
struct History {
    workspace: PathBuf,
    chance: Chance,
    /// Calls still to come in this turn.
    left: usize,
    /// What the workspace held, by the step that came next.
    seen: BTreeMap<u64, (Tree, String)>,
    step: u64,
    /// What was done, for whoever has to find out what went wrong.
    told: Vec<String>,
}

fn whole(workspace: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![workspace.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let below = path.strip_prefix(workspace).unwrap().to_owned();
            let name = entry.file_name();
            let parts: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let inside = parts.iter().position(|part| part == ".git").map(|at| &parts[at + 1..]);
            let grows = inside.is_some_and(|inside| match inside {
                [first, refs, stash] if first == "logs" && refs == "refs" => stash != "stash",
                [first, name] if first == "logs" => name != "refs",
                [first, ..] => first == "objects" || name.to_string_lossy().ends_with(".lock"),
                [] => false,
            });
            if grows || name == "target" {
                continue;
            }
            let (mode, kind) = (metadata.permissions().mode() & 0o7777, metadata.file_type());
            let is = if kind.is_dir() {
                folders.push(path.clone());
                // Git makes the folders of its logs as it needs them.
                if inside.is_some_and(|inside| inside.first().is_some_and(|first| first == "logs")) {
                    continue;
                }
                format!("folder {mode:o}")
            } else if kind.is_symlink() {
                format!("link to {:?}", fs::read_link(&path).unwrap())
            } else {
                let content = fs::read(&path).unwrap();
                format!("file {mode:o} {} {}", metadata.uid(), content.escape_ascii())
            };
            tree.insert(below, is);
        }
    }
    tree
}

/// What git says of a repository, without changing anything in it.
fn git(workspace: &Path, line: &[&str]) -> String {
    let done = Command::new("git")
        .args(["--no-optional-locks", "-c", "safe.directory=*"])
        .args(line)
        .current_dir(workspace)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn said_by_git(workspace: &Path) -> String {
    let asked: [&[&str]; 3] =
        [&["status", "--porcelain=v2", "--branch"], &["log", "--oneline", "--all"], &["stash", "list"]];
    asked.map(|line| git(workspace, line)).join("--\n")
}

fn lay_out(workspace: &Path, chance: &mut Chance) {
    fs::create_dir_all(workspace).unwrap();
    let put = |path: &str, content: &[u8], mode: u32| {
        let path = workspace.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for n in 0..3 + chance.below(6) {
        put(&format!("src/f{n}.txt"), format!("the first line of f{n}\nsecond\nthird\n").as_bytes(), 0o644);
    }
    put("run.sh", b"#!/bin/sh\necho hello\n", 0o755);
    put("data.bin", &(0..=255).cycle().take(1000 + chance.below(9000)).collect::<Vec<u8>>(), 0o640);
    put(".gitignore", b"target/\n*.log\n", 0o644);
    put("noise.log", b"ignored, and somebody's all the same\n", 0o600);
    put(" name with spaces ", b"1", 0o444);
    put("docs/a/b/c.md", "ünïcode\n".as_bytes(), 0o664);
    fs::create_dir(workspace.join("empty")).unwrap();
    symlink("src/f0.txt", workspace.join("link")).unwrap();
    symlink("../nowhere", workspace.join("docs/dangling")).unwrap();
    if chance.once_in(2) {
        commit(workspace);
        put("src/f0.txt", b"the first line of f0\nchanged since the commit\n", 0o644);
    }
}

fn commit(workspace: &Path) {
    let lines: [&[&str]; 3] = [
        &["init", "-q", "-b", "main"],
        &["add", "-A"],
        &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"],
    ];
    lines.iter().for_each(|line| drop(git(workspace, line)));
}

/// Something a session does. It need not succeed: a history is whatever comes of it.
fn something(chance: &mut Chance, tree: &Tree, serial: u64) -> Saying {
    let own = |path: &&PathBuf| !path.iter().any(|part| part == ".git");
    let of = |kind: &str| -> Vec<&PathBuf> {
        tree.iter().filter(|(_, is)| is.starts_with(kind)).map(|(path, _)| path).filter(own).collect()
    };
    let (files, folders, links) = (of("file"), of("folder"), of("link"));
    let name = |chance: &mut Chance, among: &[&PathBuf]| match among.is_empty() {
        true => "nothing".to_string(),
        false => chance.pick(among).display().to_string(),
    };
    let (file, other) = (name(chance, &files), name(chance, &files));
    let (folder, link) = (name(chance, &folders), name(chance, &links));
    let quoted = |path: &str| format!("'{}'", path.replace('\'', "'\\''"));
    let (f, o, d, l) = (quoted(&file), quoted(&other), quoted(&folder), quoted(&link));
    let run = |line: String| Saying::call("exec", json!({"command": line}));
    match chance.below(30) {
        0 => Saying::call(
            "write",
            json!({"path": format!("new/n{serial}.txt"), "content": format!("new {serial}\n")}),
        ),
        1 => Saying::call("write", json!({"path": file, "content": format!("replaced in {serial}\n")})),
        2 => {
            let edit = json!({"path": "src/f1.txt", "old": "second", "new": format!("second {serial}"), "unread": true});
            Saying::call("edit", edit)
        }
        3 => run(format!("sed -i 's/e/E{serial}/' {f} src/*.txt")),
        4 => run(format!("rm -f {f} {o}")),
        5 => run(format!("rm -rf {d}")),
        6 => run(format!("mv {f} moved{serial}; mv {d} folder{serial}")),
        7 => run(format!("ln -sfn {o} link; ln -s ../out way_out{serial}; rm -f {l}")),
        8 => run(format!(
            "chmod {} {f}; chmod {} {o}",
            chance.pick(&["600", "755", "444", "640"]),
            chance.pick(&["700", "777", "400"])
        )),
        9 => run(format!("chmod {} {d}", chance.pick(&["555", "700", "750", "755", "1777"]))),
        10 => run(format!("head -c {} /dev/urandom > blob{}.bin", 1 + chance.below(60_000), serial % 3)),
        11 => run(format!("rm -f {f} && mkdir -p {f}/inner && echo {serial} > {f}/inner/x")),
        12 => run(format!("rm -rf {d} && echo {serial} > {d}")),
        13 | 14 => run(format!("git init -q 2>/dev/null; git add -A; git commit -qm 'number {serial}'")),
        15 => run(format!(
            "git checkout -q -b b{serial}; echo {serial} > on_branch; git add on_branch; git commit -qm branch; git checkout -q -"
        )),
        16 => run("git stash -q || git stash pop -q".to_string()),
        17 => run(format!(
            "mkdir -p {d}/inner && cd {d}/inner && git init -q && echo {serial} > a && git add -A && git commit -qm inner"
        )),
        18 => run(format!(
            "mkdir -p target && for i in $(seq {}); do echo $i > target/$i.o; done; ln -sfn 1.o target/latest",
            chance.pick(&[3, 600])
        )),
        19 => run(chance
            .pick(&[
                "git reset -q --hard",
                "git checkout -q .",
                "git reset -q --hard HEAD~1",
                "git clean -fdq",
                "git gc -q",
            ])
            .to_string()),
        20 => run(format!("ln -f {f} hard{serial}; echo more >> hard{serial}")),
        21 => run(format!(
            "mkdir -p deep{serial}/a/b/c/d/e; touch \"$(printf 'line\\nbreak{serial}')\" 'quo\"te' '*'"
        )),
        22 => run(format!("truncate -s {} {f}; echo tail >> {o}", chance.below(100))),
        23 => run(format!("cp -a {d} copy{serial}; rm -rf empty")),
        24 => run(format!("mv {f} swap && mv {o} {f} && mv swap {o}")),
        25 => run(format!("ln -sf run.sh {f}.l && mv -f {f}.l {f}")),
        26 => run(format!(
            "git tag t{serial}; git config user.nick n{serial}; echo '*.tmp' >> .git/info/exclude; echo x > y.tmp"
        )),
        27 => run(format!("echo {serial} >> noise.log; echo {serial} > new.log; rm -f link; mkdir link")),
        28 => {
            run(format!("printf '{serial}' > same; python3 -c \"open('same','r+').write('{}')\"", serial + 1))
        }
        _ => run(format!("mkdir -m 500 closed{serial}; echo {serial} > {d}/in; chmod 555 {d}")),
    }
}

/// What somebody does in the folder by hand, between turns.
fn by_hand(workspace: &Path, chance: &mut Chance, n: usize) {
    match chance.below(4) {
        0 => drop(fs::write(workspace.join(format!("by_hand{n}")), format!("{n}\n"))),
        1 => drop(fs::remove_file(workspace.join("run.sh"))),
        2 => drop(fs::rename(workspace.join("docs"), workspace.join(format!("docs{n}")))),
        _ => {}
    }
}

/// The mind of all of these sessions: it looks at the workspace as it finds it, and does something to it.
fn mind(histories: &Arc<Vec<Mutex<History>>>) -> Elsewhere {
    let histories = histories.clone();
    Elsewhere::start(move |asked| {
        let system = asked["messages"][0]["content"].as_str().unwrap_or_default();
        let number =
            system.split("history ").nth(1).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let mut history = histories[number.unwrap()].lock().unwrap();
        let history = &mut *history;
        history.step += 1;
        let tree = whole(&history.workspace);
        let saying = match history.left {
            0 => Saying::words("Done."),
            _ => something(&mut history.chance, &tree, history.step),
        };
        history.left = history.left.saturating_sub(1);
        history.told.push(format!("{}: {:?}", history.step, saying.calls));
        let git = said_by_git(&history.workspace);
        history.seen.insert(history.step, (tree, git));
        saying
    })
}

fn check(what: &str, history: &Mutex<History>, expected: &(Tree, String)) {
    let history = history.lock().unwrap();
    let found = whole(&history.workspace);
    let paths: std::collections::BTreeSet<&PathBuf> = expected.0.keys().chain(found.keys()).collect();
    let short = |is: Option<&String>| is.map(|is| is.chars().take(200).collect::<String>());
    let wrong: Vec<String> = paths
        .into_iter()
        .filter(|path| expected.0.get(*path) != found.get(*path))
        .map(|path| {
            format!("{path:?}: {:?} and should be {:?}", short(found.get(path)), short(expected.0.get(path)))
        })
        .collect();
    assert!(wrong.is_empty(), "{what}:\n{}\nafter\n{}", wrong.join("\n"), history.told.join("\n"));
    assert_eq!(said_by_git(&history.workspace), expected.1, "{what}, after\n{}", history.told.join("\n"));
    if history.workspace.join(".git").exists() {
        let sound = git(&history.workspace, &["fsck", "--no-dangling", "--no-progress"]);
        let bad = sound.lines().find(|line| line.contains("missing") || line.contains("error"));
        assert_eq!(bad, None, "{what}: {sound}\nafter\n{}", history.told.join("\n"));
    }
}

fn say(saga: &Saga, id: &str, history: &Mutex<History>, n: usize, calls: usize) {
    history.lock().unwrap().left = calls;
    let input = json!({"id": format!("input-{n}"), "text": format!("Go on, {n}.")});
    saga.must("POST", &format!("/v1/sessions/{id}/inputs"), Some(&input));
    let session = saga.rested(id);
    assert_eq!(session["status"], "idle", "{session}");
}

fn rewind(saga: &Saga, id: &str, at: u64) {
    let path = format!("/v1/sessions/{id}/rewind");
    let look = saga.must("POST", &path, Some(&json!({ "at": at })));
    let done = saga.must("POST", &path, Some(&json!({"at": look["to"]["seq"], "now": look["now"]})));
    assert_eq!(done["done"], true, "{done}");
}

fn live(saga: &Saga, number: usize, history: &Mutex<History>) -> usize {
    let id = format!("h-{number}");
    let mut chance = history.lock().unwrap().chance.clone();
    lay_out(&saga.work().join(&id), &mut chance);
    history.lock().unwrap().workspace = saga.work().join(&id);
    saga.session(&id, &format!("This is history {number}."));
    let turns = 2 + chance.below(3);
    for turn in 0..turns {
        say(saga, &id, history, turn, 2 + chance.below(4));
        by_hand(&saga.work().join(&id), &mut chance, turn);
    }
    // What was done by hand since the last turn is kept as well.
    say(saga, &id, history, turns, 0);
    let places = saga.must("GET", &format!("/v1/sessions/{id}/checkpoints"), None);
    let places: Vec<(u64, u64)> = places["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|place| (place["seq"].as_u64().unwrap(), place["step"].as_u64().unwrap()))
        .collect();
    assert!(places.len() > turns, "{places:?}");
    let mut compared = 0;
    // Far back, forward again, and anywhere.
    let mut order = vec![0, places.len() - 1];
    order.extend((0..4).map(|_| chance.below(places.len())));
    order.push(places.len() - 1);
    for at in order {
        let (seq, step) = places[at];
        rewind(saga, &id, seq);
        let expected = history.lock().unwrap().seen[&(step + 1)].clone();
        check(&format!("history {number} at {seq}, after step {step}"), history, &expected);
        compared += 1;
    }
    // It goes on from there, and what comes then can be left and come back to as well.
    let (early, step) = places[chance.below(places.len())];
    rewind(saga, &id, early);
    let early_tree = history.lock().unwrap().seen[&(step + 1)].clone();
    say(saga, &id, history, turns + 1, 3);
    let workspace = saga.work().join(&id);
    let (last, late_tree) =
        (saga.rested(&id)["last"].as_u64().unwrap(), (whole(&workspace), said_by_git(&workspace)));
    rewind(saga, &id, early);
    check(&format!("history {number} back at {early}"), history, &early_tree);
    rewind(saga, &id, last);
    check(&format!("history {number} forward at {last}"), history, &late_tree);
    compared + 2
}

fn histories(seeds: std::ops::Range<usize>) {
    let home = tempfile::tempdir().unwrap();
    let histories: Arc<Vec<Mutex<History>>> = Arc::new(
        seeds
            .clone()
            .map(|seed| {
                Mutex::new(History {
                    workspace: PathBuf::new(),
                    chance: Chance::new(seed as u64),
                    left: 0,
                    seen: BTreeMap::new(),
                    step: 0,
                    told: Vec::new(),
                })
            })
            .collect(),
    );
    let mind = mind(&histories);
    let mut saga = Saga::new(Path::new(env!("CARGO_BIN_EXE_saga-tested")), home.path(), &mind.url(), "");
    saga.start();
    let (saga, next, compared) = (&saga, AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Some(history) = histories.get(number) else { return };
                    compared.fetch_add(live(saga, number, history), Ordering::SeqCst);
                }
            });
        }
    });
    let steps: u64 = histories.iter().map(|history| history.lock().unwrap().step).sum();
    println!("{} histories of {steps} steps, {} places compared", histories.len(), compared.into_inner());
}

#[test]
fn any_step_of_a_random_history_is_restored_byte_for_byte() {
    histories(0..4);
}

#[test]
#[ignore = "the whole of the one above; run by `just undo`"]
fn any_step_of_fifty_random_histories_is_restored_byte_for_byte() {
    histories(0..50);
}

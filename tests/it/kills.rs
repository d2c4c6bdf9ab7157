//! The service, its anchors and its file helpers, killed at random moments under load: nothing accepted is lost, nothing that cannot be
//! taken back is done twice, nothing is left behind, and every session goes on and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kit::{Elsewhere, PATIENCE, Saga, Saying, ask};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::{Value, json};

use crate::chance::Chance;

const SESSIONS: usize = 4;
/// Calls of a turn before its last words.
const CALLS: usize = 4;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Service,
    Anchor,
    FileHelper,
}

/// A process, told from another one that has its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: u32,
    parent: u32,
    began: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Its name stands in parentheses and may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        if fields[0] == "Z" || fields[0] == "X" {
            return None;
        }
        Some(Process { pid, parent: fields[1].parse().ok()?, began: fields[19].parse().ok()? })
    }

    fn lives(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.began == self.began)
    }

    /// How many process-id namespaces it is in, one in the other.
    fn depth(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        line.map_or(0, |line| line.split_ascii_whitespace().count())
    }

    /// Kills this one and no other, whatever its number stands for meanwhile.
    fn kill(&self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        let Ok(held) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return false };
        self.lives() && rustix::process::pidfd_send_signal(held, Signal::KILL).is_ok()
    }
}

/// All processes below one, the nearest first.
fn below(root: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<Process> = pids.filter_map(Process::read).collect();
    let (mut found, mut at) = (Vec::new(), 0);
    let mut parent = root;
    loop {
        found.extend(all.iter().filter(|process| process.parent == parent).copied());
        let Some(next): Option<&Process> = found.get(at) else { return found };
        (parent, at) = (next.pid, at + 1);
    }
}

/// The anchors of a service: children of its keepers.
fn anchors(service: u32) -> Vec<Process> {
    let all = below(service);
    let keepers: BTreeSet<u32> =
        all.iter().filter(|process| process.parent == service).map(|process| process.pid).collect();
    all.into_iter().filter(|process| keepers.contains(&process.parent) && process.depth() == 2).collect()
}

/// The file helpers that run just now: what an anchor has in its own namespace.
fn file_helpers(service: u32) -> Vec<Process> {
    let anchors: BTreeSet<u32> = anchors(service).iter().map(|anchor| anchor.pid).collect();
    below(service)
        .into_iter()
        .filter(|process| anchors.contains(&process.parent) && process.depth() == 2)
        .collect()
}

/// The directories of sessions in the cgroups of this host.
fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            match entry.file_name().to_string_lossy().strip_prefix("saga-sandbox-") {
                Some(keeper) => drop(found.insert(keeper.to_string())),
                None => folders.push(entry.path()),
            }
        }
    }
    found
}

fn is_keeper(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.starts_with("saga-sandbox-helper"))
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

/// Names that something half done has.
fn half_done(folder: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(".saga-write-") || name.ends_with(".aside") || name.ends_with(".tmp") {
                found.push(entry.path().display().to_string());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// A mind that does a few things in each turn. Each command that must not run twice leaves a mark that no other leaves.
fn mind(marks: &Arc<AtomicU64>) -> Elsewhere {
    let marks = marks.clone();
    Elsewhere::start(move |asked| {
        let messages = asked["messages"].as_array().cloned().unwrap_or_default();
        let since = messages.iter().rev().take_while(|message| message["role"] != "user");
        let done = since.filter(|message| message["role"] == "assistant").count();
        if done >= CALLS {
            return Saying::words("Done.");
        }
        let mark = marks.fetch_add(1, Ordering::SeqCst);
        let mut chance = Chance::new(mark);
        std::thread::sleep(Duration::from_millis(chance.below(15) as u64));
        let exec = |line: String, background: bool| {
            ("exec".to_string(), json!({"command": line, "background": background}))
        };
        let call = match chance.below(8) {
            0 | 1 => exec(format!("echo mark-{mark}. >> marks; sleep 0.0{}", chance.below(9)), false),
            2 => exec(format!("sleep 0.0{}; echo mark-{mark}. >> marks", chance.below(9)), false),
            3 => exec(format!("sleep 0.{}; echo mark-{mark}. >> marks", chance.below(4)), true),
            4 | 5 => {
                let content = format!("{mark}\n").repeat(20_000);
                (
                    "write".to_string(),
                    json!({"path": format!("large{}.txt", chance.below(3)), "content": content}),
                )
            }
            6 => ("read".to_string(), json!({"path": "many/7.txt"})),
            _ => ("grep".to_string(), json!({"pattern": "nothing like it", "path": "."})),
        };
        Saying { text: String::new(), calls: vec![call] }
    })
}

/// What people have said, and were told is kept.
type Accepted = BTreeMap<String, Vec<String>>;

/// Says things to all sessions, again and again, until it is over. What was not acknowledged is said once more, by the same name.
fn speak(address: &Mutex<Option<SocketAddr>>, over: &AtomicBool, session: &str) -> Vec<String> {
    let mut accepted = Vec::new();
    let path = format!("/v1/sessions/{session}/inputs");
    while !over.load(Ordering::SeqCst) {
        let id = format!("input-{}", accepted.len());
        let input = json!({"id": id, "text": format!("Go on, {id}.")});
        let now = *address.lock().unwrap();
        match now.and_then(|address| ask(address, "POST", &path, Some(&input))) {
            Some((202, _)) => accepted.push(id),
            // Too many wait, or it is stopping.
            Some((429 | 503, _)) | None => {}
            Some(other) => panic!("{session}: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    accepted
}

fn gone(processes: &[Process]) {
    let began = Instant::now();
    while let Some(survivor) = processes.iter().find(|process| process.lives()) {
        let what = fs::read_to_string(format!("/proc/{}/cmdline", survivor.pid)).unwrap_or_default();
        assert!(began.elapsed() < Duration::from_secs(10), "{survivor:?} is still there: {what:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills `times` times, and says what came of it.
fn kills(victim: Victim, times: usize, seed: u64) {
    let mut chance = Chance::new(seed);
    let home = tempfile::tempdir().unwrap();
    let marks = Arc::new(AtomicU64::new(0));
    let mind = mind(&marks);
    let (groups_before, mounts_before) = (cgroups(), mounts());
    let mut saga = Saga::new(Path::new(env!("CARGO_BIN_EXE_saga-tested")), home.path(), &mind.url(), "");
    let names: Vec<String> = (0..SESSIONS).map(|n| format!("k-{n}")).collect();
    for name in &names {
        let many = saga.work().join(name).join("many");
        fs::create_dir_all(&many).unwrap();
        (0..400).for_each(|n| fs::write(many.join(format!("{n}.txt")), format!("{n}\n")).unwrap());
    }
    saga.start();
    names.iter().for_each(|name| saga.session(name, "Do as you like."));
    let (address, over) = (Mutex::new(Some(saga.address())), AtomicBool::new(false));
    let mut killed = 0;
    let accepted: Accepted = std::thread::scope(|scope| {
        let (address, over) = (&address, &over);
        let speakers: Vec<_> = names
            .iter()
            .map(|name| (name.clone(), scope.spawn(move || speak(address, over, name))))
            .collect();
        let began = Instant::now();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while killed < times {
                assert!(began.elapsed() < PATIENCE * 10, "only {killed} could be killed");
                std::thread::sleep(Duration::from_micros(chance.below(250_000) as u64));
                match victim {
                    Victim::Service => {
                        let tree = below(saga.pid());
                        *address.lock().unwrap() = None;
                        saga.kill();
                        saga.start();
                        *address.lock().unwrap() = Some(saga.address());
                        gone(&tree);
                        killed += 1;
                    }
                    Victim::Anchor => {
                        let found = anchors(saga.pid());
                        killed += usize::from(!found.is_empty() && chance.pick(&found).kill());
                    }
                    Victim::FileHelper => {
                        // They live for milliseconds.
                        let found =
                            (0..200).map(|_| file_helpers(saga.pid())).find(|found| !found.is_empty());
                        std::thread::sleep(Duration::from_micros(chance.below(4_000) as u64));
                        killed += usize::from(found.is_some_and(|found| chance.pick(&found).kill()));
                    }
                }
            }
        }));
        over.store(true, Ordering::SeqCst);
        let accepted = speakers.into_iter().map(|(name, speaker)| (name, speaker.join().unwrap())).collect();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
        accepted
    });
    // Whatever was killed: with the next start nothing of before is left.
    let tree = below(saga.pid());
    saga.kill();
    saga.start();
    gone(&tree);
    let mut sums: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (name, accepted) in &accepted {
        saga.rested(name);
        let last = json!({"id": "last", "text": "One more."});
        saga.must("POST", &format!("/v1/sessions/{name}/inputs"), Some(&last));
        let session = saga.rested(name);
        assert_eq!(
            (&session["status"], &session["ended"]["why"]),
            (&json!("idle"), &json!("done")),
            "{session}"
        );
        let marks = fs::read_to_string(saga.work().join(name).join("marks")).unwrap_or_default();
        judge(name, &saga.events(name), accepted, &marks, &mut sums);
        whole(&saga, name);
    }
    let tree = below(saga.pid());
    saga.kill();
    saga.start();
    gone(&tree);
    assert_eq!(mounts(), mounts_before);
    assert_eq!(half_done(home.path()), Vec::<String>::new());
    assert_eq!(
        fs::read_dir(home.path().join("tmp")).unwrap().count(),
        0,
        "in the folder for temporary files"
    );
    // Other services run beside this one, and end.
    let began = Instant::now();
    while let Some(left) = cgroups().difference(&groups_before).find(|keeper| !is_keeper(keeper)) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the cgroup of keeper {left}, which is gone, is still there"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{killed} times {victim:?} was killed: {sums:?}");
}

/// Holds a session's journal against what was promised.
fn judge(
    name: &str,
    events: &[Value],
    accepted: &[String],
    marks: &str,
    sums: &mut BTreeMap<&'static str, usize>,
) {
    let of = |sort: &str| -> Vec<&Value> { events.iter().filter(|event| event["type"] == sort).collect() };
    let ids =
        |sort: &str| -> Vec<&str> { of(sort).into_iter().filter_map(|event| event["id"].as_str()).collect() };
    let once = |sort: &str| -> BTreeSet<&str> {
        let (all, one) = (ids(sort), ids(sort).into_iter().collect::<BTreeSet<_>>());
        assert_eq!(all.len(), one.len(), "{name}: an id stands twice among {sort}");
        one
    };
    let seqs: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert!(seqs.iter().enumerate().all(|(n, seq)| *seq == n as u64 + 1), "{name}: a gap in the journal");
    let inputs = once("input");
    for id in accepted {
        assert!(inputs.contains(id.as_str()), "{name}: {id} was accepted and is lost");
    }
    let (finished, lost) = (once("call_finished"), once("call_lost"));
    let started: BTreeSet<&str> = ids("call_started").into_iter().collect();
    assert!(finished.is_disjoint(&lost), "{name}");
    assert_eq!(started, finished.union(&lost).copied().collect(), "{name}: each call ends, once");
    // What each call was to leave, and what it left.
    let mut left: BTreeMap<u64, usize> = BTreeMap::new();
    for line in marks.lines() {
        let mark = line.strip_prefix("mark-").and_then(|line| line.strip_suffix('.')?.parse().ok());
        *left.entry(mark.unwrap_or_else(|| panic!("{name}: {line:?}"))).or_default() += 1;
    }
    assert!(left.values().all(|times| *times == 1), "{name}: a command ran twice: {left:?}");
    for reply in of("reply") {
        for call in reply["calls"].as_array().into_iter().flatten() {
            let (id, line) =
                (call["id"].as_str().unwrap(), call["arguments"]["command"].as_str().unwrap_or_default());
            let mark =
                line.split("mark-").nth(1).and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
            let Some(mark) = mark else { continue };
            let outcome = of("call_finished").into_iter().find(|event| event["id"] == id);
            let background = call["arguments"]["background"] == true;
            if outcome.is_some_and(|event| event["outcome"]["ok"] == true) && !background {
                assert!(left.contains_key(&mark), "{name}: {id} is said to have gone well and left nothing");
            }
            assert!(
                started.contains(id) || !left.contains_key(&mark),
                "{name}: {id} ran and was never started"
            );
        }
    }
    for (what, count) in [
        ("inputs accepted", accepted.len()),
        ("turns", of("turn_ended").len()),
        ("calls", started.len()),
        ("calls lost", lost.len()),
        ("marks", left.len()),
        ("checkpoints", of("checkpoint").len()),
        ("events", events.len()),
    ] {
        *sums.entry(what).or_default() += count;
    }
}

/// Every checkpoint of a session can still be compared, and one be made a folder of.
fn whole(saga: &Saga, name: &str) {
    let places = saga.must("GET", &format!("/v1/sessions/{name}/checkpoints"), None);
    let places: Vec<u64> =
        places["checkpoints"].as_array().unwrap().iter().filter_map(|place| place["seq"].as_u64()).collect();
    assert!(!places.is_empty());
    let last = places[places.len() - 1];
    for at in places.iter().step_by(places.len().div_ceil(20)) {
        saga.must("GET", &format!("/v1/sessions/{name}/changes?from={at}&to={last}"), None);
    }
    let into = saga.work().join(format!("{name}-fork"));
    let fork = json!({"at": places[places.len() / 2], "workspace": into});
    saga.must("POST", &format!("/v1/sessions/{name}/fork"), Some(&fork));
    assert_eq!(fs::read_dir(into.join("many")).unwrap().count(), 400);
}

#[test]
fn a_service_that_is_killed_loses_nothing_repeats_nothing_and_leaves_nothing() {
    kills(Victim::Service, 5, 1);
}

#[test]
fn an_anchor_that_is_killed_takes_nothing_with_it_but_what_ran_in_it() {
    kills(Victim::Anchor, 5, 2);
}

#[test]
fn a_file_helper_that_is_killed_leaves_no_half_file_and_the_session_goes_on() {
    kills(Victim::FileHelper, 5, 3);
}

#[test]
#[ignore = "takes minutes; run by `just kills`"]
fn three_hundred_kills_of_the_service_and_a_hundred_of_each_of_its_helpers() {
    let times = |of: usize| std::env::var("SAGA_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(of);
    kills(Victim::Service, times(300), 11);
    kills(Victim::Anchor, times(100), 12);
    kills(Victim::FileHelper, times(100), 13);
}

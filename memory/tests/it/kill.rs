//! The process is killed, again and again, in the middle of whatever it does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use memory::{Memory, NoteId, Seq};

use crate::{Dice, open, records};

/// Where the child works. Set: this process is the child.
const DIR: &str = "SAGA_TEST_KILL_DIR";
/// How often the child is killed, where nobody asks for more: `SAGA_TEST_KILLS=300` takes some minutes.
const ROUNDS: u64 = 24;
const KILLS: &str = "SAGA_TEST_KILLS";
const WRITERS: usize = 4;

/// What a writer's nth record says: it can be told from any part of itself.
fn body(round: u64, writer: usize, n: u64) -> Vec<u8> {
    let line = format!("round {round} writer {writer} record {n};");
    line.repeat(1 + (n as usize * 37 + writer * 11) % 60).into_bytes()
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_half_is_seen_over_twenty_four_kills() {
    // This is what "durable when it returns" means.
    let dir = tempfile::tempdir().unwrap();
    let mut acked: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let (mut notes, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    let rounds = std::env::var(KILLS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let mut dice = Dice(11);
    for round in 0..rounds {
        // Every sixth time the indexes are missing, and the kill comes while they are made anew or soon after.
        let rebuilding = round % 6 == 5;
        if rebuilding {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::child", "--exact", "--nocapture", "--ignored", "--test-threads=1"])
            .env(DIR, dir.path())
            .env("SAGA_TEST_KILL_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        // Otherwise the killing starts when the child has acknowledged something, so that each round means something.
        let mut lines = Vec::new();
        if !rebuilding {
            let first = out.by_ref().map(|line| line.unwrap()).find(|line| line.starts_with("ok "));
            lines.push(first.expect("the child comes to its work"));
        }
        std::thread::sleep(Duration::from_millis(20 + dice.roll(160) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        // What follows the last line end was not said.
        lines
            .extend(out.map_while(Result::ok).filter(|line| line.starts_with("ok ") && line.ends_with(" .")));
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["ok", "record", writer, n, seq, "."] => {
                    let (w, n): (usize, u64) = (writer.parse().unwrap(), n.parse().unwrap());
                    acked.insert(format!("w{w} {seq}"), body(round, w, n));
                }
                ["ok", "note", id, "."] => assert!(notes.insert(id.parse::<u64>().unwrap())),
                ["ok", "forget", id, "."] => assert!(notes.remove(&id.parse::<u64>().unwrap())),
                ["ok", "delete", name, "."] => assert!(deleted.insert(name.to_string())),
                _ => panic!("the child said {line:?}"),
            }
        }
        check(dir.path(), &acked, &notes, &deleted, round);
    }
    assert!(acked.len() > 500, "only {} records were acknowledged", acked.len());
    assert!(!deleted.is_empty() && !notes.is_empty());
    println!(
        "{rounds} kills: {} records and {} notes acknowledged, {} journals deleted",
        acked.len(),
        notes.len(),
        deleted.len()
    );
}

fn check(
    dir: &Path,
    acked: &BTreeMap<String, Vec<u8>>,
    notes: &BTreeSet<u64>,
    deleted: &BTreeSet<String>,
    round: u64,
) {
    let memory = open(dir);
    let health = memory.health();
    assert_eq!(health.damaged, Vec::<String>::new(), "round {round}");
    let mut seen = 0;
    for writer in 0..WRITERS {
        let Some(_) = memory.journals().unwrap().iter().find(|info| info.name == format!("w{writer}")) else {
            continue;
        };
        let journal = memory.journal(&format!("w{writer}")).unwrap();
        let all = records(&journal);
        for (n, record) in all.iter().enumerate() {
            if let Some(expected) = acked.get(&format!("w{writer} {}", n + 1)) {
                assert_eq!(record, expected, "round {round}");
                seen += 1;
            }
            // Whole, though perhaps never acknowledged: it says the same line over and over.
            let text = std::str::from_utf8(record).unwrap();
            let line = &text[..=text.find(';').unwrap()];
            let n: u64 = line.trim_end_matches(';').rsplit(' ').next().unwrap().parse().unwrap();
            assert_eq!(text, line.repeat(1 + (n as usize * 37 + writer * 11) % 60), "round {round}");
        }
        for record in all.iter().rev().take(3) {
            // Every key is remembered: the same request again writes nothing.
            let text = std::str::from_utf8(record).unwrap();
            let line = text.split(';').next().unwrap();
            if !line.contains("batch") && journal.find(line).unwrap().is_some() {
                assert!(!journal.append_once(line, b"again").unwrap().fresh);
            }
        }
    }
    assert_eq!(seen, acked.len(), "round {round}: acknowledged records are missing");
    let batches = memory.journal("batches").unwrap();
    assert_eq!(batches.last().map_or(0, |seq| seq.0) % 5, 0, "round {round}: half a batch is there");
    for id in notes {
        assert!(memory.note(NoteId(*id)).unwrap().is_some(), "round {round}: note {id}");
    }
    for info in memory.journals().unwrap() {
        assert!(!deleted.contains(&info.name), "round {round}: {} was deleted", info.name);
    }
    let query = crate::notes::query("killed", 1000);
    let found = memory.recall(&query).unwrap().len() as u64;
    assert_eq!(found, memory.health().notes.min(1000), "round {round}");
}

#[test]
#[ignore = "no test of its own: the test above runs it, in every run, as the process that it kills"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let round: u64 = std::env::var("SAGA_TEST_KILL_ROUND").unwrap().parse().unwrap();
    let memory = Memory::open(Path::new(&dir)).unwrap();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).unwrap();
        out.flush().unwrap();
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let journal = memory.journal(&format!("w{writer}")).unwrap();
            scope.spawn(move || {
                for n in 0.. {
                    let body = body(round, writer, n);
                    let key = format!("round {round} writer {writer} record {n}");
                    let seq = match n % 3 {
                        0 => journal.append_once(&key, &body).unwrap().seq,
                        _ => journal.append(&body).unwrap(),
                    };
                    say(format!("ok record {writer} {n} {} .\n", seq.0));
                }
            });
        }
        scope.spawn(|| {
            let journal = memory.journal("batches").unwrap();
            loop {
                let last: Seq = journal.append_all(&[b"1", b"2", b"3", b"4", b"5"]).unwrap();
                assert_eq!(last.0 % 5, 0);
            }
        });
        scope.spawn(|| {
            for n in 0.. {
                let id = memory.remember(crate::notes::note(&format!("killed {round} {n}"))).unwrap();
                say(format!("ok note {} .\n", id.0));
                if n % 7 == 3 {
                    // Taken back before it is done: a kill in between leaves it open whether it was forgotten.
                    say(format!("ok forget {} .\n", id.0));
                    memory.forget(id, "child").unwrap();
                }
            }
        });
        scope.spawn(|| {
            for n in 0.. {
                let name = format!("d{round}-{n}");
                memory.journal(&name).unwrap().append(b"short lived").unwrap();
                memory.delete_journal(&name).unwrap();
                say(format!("ok delete {name} .\n"));
            }
        });
    });
}

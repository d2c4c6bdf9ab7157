//! Damage: cut tails, flipped bytes, lost and broken indexes.

use std::fs;

use memory::{Error, Memory, Seq};

use crate::{Dice, copy, files, open, records, segment, store};

/// Where each of the log's frames begins, found by their magic, and the log's end.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut starts: Vec<usize> =
        bytes.windows(4).enumerate().filter(|(_, w)| *w == b"\xf5sg\x01").map(|(at, _)| at).collect();
    starts.push(bytes.len());
    starts
}

/// A closed store with journals `a` (5 records, one of them keyed) and `b` (2 records, the last two written as a batch).
fn sample() -> tempfile::TempDir {
    let (dir, memory) = store();
    let (a, b) = (memory.journal("a").unwrap(), memory.journal("b").unwrap());
    for n in 1..=4 {
        a.append(format!("record {n} of a").as_bytes()).unwrap();
    }
    a.append_once("key", b"record 5 of a").unwrap();
    b.append_all(&[b"first of the batch", b"second of the batch"]).unwrap();
    drop((a, b, memory));
    dir
}

#[test]
fn a_tail_torn_at_any_byte_is_dropped_whole_and_kept_aside() {
    // A crash can end a write anywhere. What was acknowledged before it must not suffer, nor half a batch appear.
    let dir = sample();
    let log = fs::read(segment(dir.path())).unwrap();
    let starts = frames(&log);
    // Frames: made a, made b, five of a, two of b. Cut anywhere in the last three.
    let (fifth, batch) = (starts[6], starts[7]);
    for cut in fifth..=log.len() {
        let torn = tempfile::tempdir().unwrap();
        fs::create_dir_all(torn.path().join("log")).unwrap();
        fs::write(segment(torn.path()), &log[..cut]).unwrap();
        let memory = open(torn.path());
        let (a, b) = (memory.journal("a").unwrap(), memory.journal("b").unwrap());
        assert_eq!(records(&a).len(), if cut >= batch { 5 } else { 4 }, "cut at {cut}");
        assert_eq!(records(&b).len(), if cut == log.len() { 2 } else { 0 }, "cut at {cut}");
        let kept = if cut == log.len() {
            cut
        } else if cut >= batch {
            batch
        } else {
            fifth
        };
        assert_eq!(memory.health().dropped_tail_bytes, (cut - kept) as u64);
        assert_eq!(memory.health().damaged, Vec::<String>::new());
        let dropped = torn.path().join("log/dropped");
        let aside: Vec<u8> =
            if dropped.exists() { fs::read(&files(&dropped)[0]).unwrap() } else { Vec::new() };
        assert_eq!(aside, log[kept..cut], "cut at {cut}");
        let next = a.last().unwrap().0 + 1;
        assert_eq!(a.append(b"on").unwrap(), Seq(next));
        drop((a, b, memory));
        let memory = open(torn.path());
        assert_eq!(memory.journal("a").unwrap().last(), Some(Seq(next)));
        assert_eq!(memory.health().dropped_tail_bytes, 0);
    }
}

#[test]
fn a_flip_of_any_byte_in_the_middle_is_reported_with_journal_and_number() {
    // A record that was acknowledged is never skipped in silence, whether the index knew it or not.
    let dir = sample();
    let log = fs::read(segment(dir.path())).unwrap();
    let starts = frames(&log);
    for (frame, seq) in [(3, 2), (5, 4), (6, 5)] {
        for at in starts[frame]..starts[frame + 1] {
            for index in [true, false] {
                let bad = tempfile::tempdir().unwrap();
                if index {
                    // Opening with a whole index is slow enough that every fifth byte must do.
                    if at % 5 != 0 {
                        continue;
                    }
                    copy(dir.path(), bad.path());
                } else {
                    fs::create_dir_all(bad.path().join("log")).unwrap();
                }
                let mut bytes = log.clone();
                bytes[at] ^= 0x40;
                fs::write(segment(bad.path()), &bytes).unwrap();
                let memory = open(bad.path());
                let a = memory.journal("a").unwrap();
                let what = format!("byte {at}, record {seq}, index {index}");
                match a.read(Seq(1), 100) {
                    Err(Error::Corrupt { journal, seq: said, segment: 1, .. }) => {
                        assert_eq!((journal.as_str(), said), ("a", Seq(seq)), "{what}");
                    }
                    other => panic!("{what}: {other:?}"),
                }
                assert_eq!(a.last(), Some(Seq(5)), "{what}");
                assert_eq!(a.read(Seq(1), seq as usize - 1).unwrap().len(), seq as usize - 1, "{what}");
                assert_eq!(a.read(Seq(seq + 1), 9).unwrap().len(), 5 - seq as usize, "{what}");
                assert_eq!(records(&memory.journal("b").unwrap()).len(), 2, "{what}");
                if seq == 5 {
                    // The lost record had the key: a repeated request must not slip through.
                    assert!(matches!(a.append_once("key", b"x"), Err(Error::Corrupt { .. })), "{what}");
                }
                assert_eq!(a.append(b"on").unwrap(), Seq(6), "{what}");
            }
        }
    }
}

#[test]
fn a_hole_in_an_unacknowledged_write_is_a_torn_tail_and_not_damage() {
    // The disk may keep a write's second page and lose its first; nobody was told that the write was done.
    let dir = sample();
    let mut log = fs::read(segment(dir.path())).unwrap();
    let batch = frames(&log)[7];
    log[batch..batch + 10].fill(0);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    fs::write(segment(dir.path()), &log).unwrap();
    let memory = open(dir.path());
    assert_eq!(memory.health().damaged, Vec::<String>::new());
    assert_eq!(memory.health().dropped_tail_bytes, (log.len() - batch) as u64);
    assert_eq!(records(&memory.journal("b").unwrap()).len(), 0);
    assert_eq!(records(&memory.journal("a").unwrap()).len(), 5);
}

#[test]
fn a_missing_segment_is_reported_and_the_rest_goes_on() {
    // A file that somebody deleted must not look like records that never were.
    let (dir, memory) = store();
    let (a, b) = (memory.journal("a").unwrap(), memory.journal("b").unwrap());
    b.append(b"early").unwrap();
    for _ in 0..12 {
        a.append(&vec![1; 12 << 20]).unwrap();
    }
    b.append(b"late").unwrap();
    assert!(memory.health().segments >= 3);
    drop((a, b, memory));
    fs::remove_file(dir.path().join("log/00000002.log")).unwrap();
    for lose_index in [false, true] {
        if lose_index {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let memory = open(dir.path());
        assert_eq!(records(&memory.journal("b").unwrap()).len(), 2);
        let a = memory.journal("a").unwrap();
        assert_eq!(a.read(Seq(1), 5).unwrap().len(), 5);
        assert!(matches!(a.read(Seq(6), 12), Err(Error::Corrupt { .. })));
        assert_eq!(a.last(), Some(Seq(12)));
    }
}

#[test]
fn whatever_happens_to_the_indexes_the_answers_stay_the_same() {
    // Everything under index/ is a cache: it may be deleted, cut, overwritten, or be another store's.
    let (dir, memory) = store();
    for n in 0..300 {
        let journal = memory.journal(&format!("j{}", n % 7)).unwrap();
        journal.append_once(&format!("k{n}"), format!("record {n}").as_bytes()).unwrap();
    }
    for n in 0..20 {
        memory.remember(crate::notes::note(&format!("the answer to question{n} is {n}"))).unwrap();
    }
    drop(memory);
    let expected = answers(&open(dir.path()));
    let mut dice = Dice(7);
    for round in 0..60 {
        let bad = tempfile::tempdir().unwrap();
        copy(dir.path(), bad.path());
        let index = files(&bad.path().join("index"));
        for _ in 0..=dice.roll(3) {
            let file = &index[dice.roll(index.len())];
            let Ok(mut bytes) = fs::read(file) else { continue };
            match dice.roll(5) {
                0 => fs::remove_file(file).unwrap(),
                1 => fs::write(file, &bytes[..bytes.len() / 2]).unwrap(),
                2 => fs::write(file, b"garbage").unwrap(),
                3 => fs::write(file, b"").unwrap(),
                _ if bytes.is_empty() => {}
                _ => {
                    for _ in 0..20 {
                        let at = dice.roll(bytes.len());
                        bytes[at] ^= 1 << dice.roll(8);
                    }
                    fs::write(file, &bytes).unwrap();
                }
            }
        }
        let memory = open(bad.path());
        assert_eq!(answers(&memory), expected, "round {round}: {:?}", memory.health());
        memory.journal("j0").unwrap().append(b"on").unwrap();
    }
}

#[test]
fn an_index_that_is_behind_or_of_another_store_is_noticed() {
    // Backups are restored in parts; an index that fits badly must not be believed.
    let dir = sample();
    let old = tempfile::tempdir().unwrap();
    copy(dir.path(), old.path());
    let memory = open(dir.path());
    memory.journal("a").unwrap().append_once("later", b"record 6").unwrap();
    memory.journal("c").unwrap().append(b"new").unwrap();
    drop(memory);
    let expected = answers(&open(dir.path()));

    // Behind: the old index with the new log.
    let behind = tempfile::tempdir().unwrap();
    copy(dir.path(), behind.path());
    fs::remove_dir_all(behind.path().join("index")).unwrap();
    copy(&old.path().join("index"), &behind.path().join("index"));
    let memory = open(behind.path());
    assert_eq!(answers(&memory), expected);
    assert_eq!(memory.health().rebuilt, Vec::<String>::new(), "it is only brought level");
    drop(memory);

    // Ahead: the new index with the old log.
    let expected = answers(&open(old.path()));
    fs::remove_dir_all(old.path().join("index")).unwrap();
    copy(&dir.path().join("index"), &old.path().join("index"));
    let memory = open(old.path());
    assert_eq!(answers(&memory), expected);
    assert!(memory.health().rebuilt[0].contains("ahead"), "{:?}", memory.health());
}

/// Everything a store can be asked, in words.
fn answers(memory: &Memory) -> Vec<String> {
    let mut all = Vec::new();
    for info in memory.journals().unwrap() {
        let journal = memory.journal(&info.name).unwrap();
        let records = records(&journal);
        let keys: Vec<_> =
            (0..300).filter_map(|n| journal.find(&format!("k{n}")).unwrap().map(|seq| (n, seq))).collect();
        all.push(format!("{info:?} {records:?} {keys:?}"));
    }
    for n in 0..20 {
        let query = crate::notes::query(&format!("question{n}"), 5);
        let hits: Vec<_> = memory.recall(&query).unwrap().into_iter().map(|hit| (hit.id, hit.note)).collect();
        all.push(format!("{hits:?}"));
    }
    all
}

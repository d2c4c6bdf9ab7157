//! Journals when nothing goes wrong: numbers, keys, batches, pages, deletion, export.

use std::fs;
use std::thread;

use memory::{Error, Journal, KEY_BYTES_MAX, Memory, RECORD_BYTES_MAX, Seq};

use crate::{files, open, records, store};

#[test]
fn records_are_numbered_from_one_and_come_back_as_they_were() {
    // The fold over a journal is only as good as its order.
    let (dir, memory) = store();
    let journal = memory.journal("s-1").unwrap();
    assert_eq!(journal.last(), None);
    assert_eq!(journal.append(b"one").unwrap(), Seq(1));
    assert_eq!(journal.append_all(&[b"two", b"", b"four"]).unwrap(), Seq(4));
    let all = vec![b"one".to_vec(), b"two".to_vec(), Vec::new(), b"four".to_vec()];
    assert_eq!(records(&journal), all);
    assert_eq!(journal.read(Seq(0), 1).unwrap(), [(Seq(1), b"one".to_vec())]);
    assert_eq!(journal.read(Seq(5), 9).unwrap(), []);
    assert_eq!(journal.read(Seq(u64::MAX), usize::MAX).unwrap(), []);
    drop((journal, memory));
    let memory = open(dir.path());
    assert_eq!(records(&memory.journal("s-1").unwrap()), all);
    assert_eq!(memory.health().rebuilt, Vec::<String>::new());
}

#[test]
fn a_key_is_used_once_even_after_a_restart_and_without_an_index() {
    // A client that sends its input again after a timeout must not have it carried out twice.
    let (dir, memory) = store();
    let journal = memory.journal("s-1").unwrap();
    let first = journal.append_once("k1", b"a").unwrap();
    assert!(first.fresh);
    for round in 0..3 {
        let again = journal.append_once("k1", b"b").unwrap();
        assert_eq!((again.seq, again.fresh), (first.seq, false), "round {round}");
    }
    assert_eq!(memory.journal("s-2").unwrap().find("k1").unwrap(), None, "keys are a journal's own");
    drop((journal, memory));
    for lose_index in [false, true] {
        if lose_index {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let memory = open(dir.path());
        let journal = memory.journal("s-1").unwrap();
        assert_eq!(journal.find("k1").unwrap(), Some(Seq(1)));
        assert!(!journal.append_once("k1", b"c").unwrap().fresh);
        assert_eq!(journal.find("k2").unwrap(), None);
        assert_eq!(records(&journal), [b"a".to_vec()]);
    }
}

#[test]
fn many_writers_share_their_writes_to_disk_and_none_is_lost() {
    // Group commit is what makes many sessions on one disk bearable.
    let (dir, memory) = store();
    let before = memory.health().syncs;
    thread::scope(|scope| {
        for writer in 0..16 {
            let journal = memory.journal(&format!("w{writer}")).unwrap();
            let shared = memory.journal("shared").unwrap();
            scope.spawn(move || {
                for n in 0..50 {
                    assert_eq!(journal.append(format!("{writer} {n}").as_bytes()).unwrap(), Seq(n + 1));
                    shared.append(format!("{writer} {n}").as_bytes()).unwrap();
                }
            });
        }
    });
    let health = memory.health();
    assert!(health.frames_written >= 1600 + 17);
    let syncs = health.syncs - before;
    assert!(syncs < 1200, "{syncs} writes to disk for 1600 appends");
    drop(memory);
    let memory = open(dir.path());
    assert_eq!(records(&memory.journal("w7").unwrap()).len(), 50);
    let mut shared = records(&memory.journal("shared").unwrap());
    assert_eq!(shared.len(), 800);
    shared.sort();
    shared.dedup();
    assert_eq!(shared.len(), 800);
}

#[test]
fn the_same_key_from_many_threads_is_written_once() {
    // The race between two copies of a request is decided in the log's one writer.
    let (_dir, memory) = store();
    let journal = memory.journal("s").unwrap();
    let fresh: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..20).filter(|n| journal.append_once(&format!("k{n}"), b"x").unwrap().fresh).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((fresh, journal.last()), (20, Some(Seq(20))));
}

#[test]
fn what_cannot_be_kept_is_refused_with_what_to_do() {
    // Bad input gets a clear error, and nothing is written.
    let (dir, memory) = store();
    for name in ["", "A", "a b", "a/b", "..", "é", &"x".repeat(65)] {
        assert!(matches!(memory.journal(name), Err(Error::BadName { .. })), "{name:?}");
    }
    let journal = memory.journal(&"x".repeat(64)).unwrap();
    let large = vec![7; RECORD_BYTES_MAX + 1];
    let said = journal.append(&large).unwrap_err().to_string();
    assert!(said.contains("blob"), "{said}");
    assert!(journal.append_once(&"k".repeat(KEY_BYTES_MAX + 1), b"").is_err());
    assert!(journal.append_once("", b"").is_err() && journal.append_all(&[]).is_err());
    let most = &large[..RECORD_BYTES_MAX];
    assert!(journal.append_all(&[most, most, most]).is_err());
    assert_eq!(journal.last(), None);
    assert_eq!(journal.append(most).unwrap(), Seq(1));
    assert_eq!(records(&journal), [most.to_vec()]);
    let said = Memory::open(dir.path()).unwrap_err().to_string();
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    assert!(matches!(Memory::open(std::path::Path::new("/sys/saga")), Err(Error::ReadOnly { .. })));
}

#[test]
fn a_deleted_journal_leaves_no_byte_and_its_handles_know() {
    // Deleting a session must mean what a user thinks it means.
    let (dir, memory) = store();
    let secret = b"the-secret-of-the-deleted-session";
    let (gone, kept) = (memory.journal("gone").unwrap(), memory.journal("kept").unwrap());
    for n in 0..20 {
        gone.append_once(&format!("key-{n}"), secret).unwrap();
        kept.append(format!("kept {n}").as_bytes()).unwrap();
    }
    memory.delete_journal("gone").unwrap();
    assert!(matches!(memory.delete_journal("gone"), Err(Error::NoJournal { .. })));
    assert!(matches!(gone.append(b"x"), Err(Error::NoJournal { .. })));
    assert!(matches!(gone.read(Seq(1), 1), Err(Error::NoJournal { .. })));
    let again = memory.journal("gone").unwrap();
    assert_eq!((again.last(), again.find("key-3").unwrap()), (None, None));
    again.append(b"a new life").unwrap();
    assert!(matches!(gone.append(b"x"), Err(Error::NoJournal { .. })), "an old handle stays old");
    assert_eq!(records(&kept).len(), 20);
    kept.append(b"kept on").unwrap();
    drop((gone, kept, again, memory));
    for lose_index in [false, true] {
        if lose_index {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let memory = open(dir.path());
        assert_eq!(records(&memory.journal("kept").unwrap()).len(), 21);
        assert_eq!(records(&memory.journal("gone").unwrap()), [b"a new life".to_vec()]);
        assert_eq!(memory.health().damaged, Vec::<String>::new());
        drop(memory);
        for file in files(dir.path()) {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", file.display());
        }
    }
}

#[test]
fn the_log_goes_over_into_new_segments_and_is_deleted_across_them() {
    // Nothing may depend on the log being one file.
    let (dir, memory) = store();
    let (big, small) = (memory.journal("big").unwrap(), memory.journal("small").unwrap());
    let body = vec![b'x'; RECORD_BYTES_MAX / 2];
    for n in 0..20u8 {
        big.append(&body).unwrap();
        small.append(&[n]).unwrap();
    }
    assert!(memory.health().segments >= 3, "{:?}", memory.health());
    memory.delete_journal("big").unwrap();
    assert!(memory.health().bytes < 1_000_000, "{:?}", memory.health());
    drop((big, small, memory));
    let memory = open(dir.path());
    assert_eq!(records(&memory.journal("small").unwrap()).len(), 20);
    assert!(memory.health().bytes < 1_000_000, "{:?}", memory.health());
    assert_eq!((memory.health().rebuilt, memory.health().damaged), (vec![], vec![]));
}

#[test]
fn an_exported_journal_is_read_back_to_the_byte() {
    // A person must be able to read what was kept, and to move it.
    let (_dir, memory) = store();
    let journal = memory.journal("s-1").unwrap();
    let bodies: [&[u8]; 7] = [
        br#"{"b":1.50,"a":[ ]}"#,
        b"plain text",
        b" {\"spaced\":1}\n",
        b"\xff\x00",
        b"",
        b"null",
        "日本".as_bytes(),
    ];
    for (n, body) in bodies.iter().enumerate() {
        journal.append_once(&format!("k{n}"), body).unwrap();
    }
    journal.append(b"no key").unwrap();
    let mut out = Vec::new();
    memory.export("s-1", &mut out).unwrap();
    let text = String::from_utf8(out.clone()).unwrap();
    assert!(
        text.contains(r#""json":{"b":1.50,"a":[ ]}"#) && text.contains(r#""text":"plain text""#),
        "{text}"
    );
    assert!(memory.import(&mut &out[..]).is_err(), "a journal that is there is not written over");
    let (_other_dir, other) = store();
    let info = other.import(&mut &out[..]).unwrap();
    assert_eq!((info.name.as_str(), info.last), ("s-1", Some(Seq(8))));
    assert_eq!(records(&other.journal("s-1").unwrap()), records(&journal));
    assert_eq!(other.journal("s-1").unwrap().find("k3").unwrap(), Some(Seq(4)));
    let mut again = Vec::new();
    other.export("s-1", &mut again).unwrap();
    assert_eq!(String::from_utf8(again).unwrap(), text);

    let cut = text.replace("\"seq\":5", "\"seq\":6");
    let said = check_import_fails(&cut);
    assert!(said.contains("line 6"), "{said}");
    check_import_fails("{}");
    check_import_fails("");
}

/// Imports what cannot be imported; nothing may be left of it.
fn check_import_fails(text: &str) -> String {
    let (_dir, memory) = store();
    let said = memory.import(&mut text.as_bytes()).unwrap_err().to_string();
    assert_eq!(memory.journals().unwrap(), []);
    said
}

#[test]
fn blobs_are_kept_by_digest_and_checked() {
    // Large bodies live outside the log, and must be as safe as if they did not.
    let (dir, memory) = store();
    let digest = memory.put_blob(b"abc").unwrap();
    assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(digest.to_string().parse::<memory::Digest>().unwrap(), digest);
    assert_eq!(memory.put_blob(b"abc").unwrap(), digest);
    assert_eq!(memory.blob(&digest).unwrap(), Some(b"abc".to_vec()));
    assert_eq!(memory.blob(&memory::Digest::of(b"never put")).unwrap(), None);
    let blob = files(&dir.path().join("blobs")).pop().unwrap();
    fs::write(&blob, b"abd").unwrap();
    assert!(memory.blob(&digest).is_err(), "damaged bytes are an error");
    assert_eq!(memory.put_blob(b"abc").unwrap(), digest);
    assert_eq!(memory.blob(&digest).unwrap(), Some(b"abc".to_vec()), "putting it again mends it");
}

#[test]
fn a_store_is_free_again_when_its_last_handle_is_dropped() {
    // A handle that is still there must still work.
    let (dir, memory) = store();
    let journal: Journal = memory.journal("s").unwrap();
    drop(memory);
    assert!(matches!(Memory::open(dir.path()), Err(Error::Locked { .. })));
    assert_eq!(journal.append(b"late").unwrap(), Seq(1));
    drop(journal);
    assert_eq!(open(dir.path()).journals().unwrap()[0].last, Some(Seq(1)));
}

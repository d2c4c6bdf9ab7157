//! No room left.

use std::path::Path;
use std::process::Command;

use memory::{Error, Memory};

use crate::{open, records};

const DIR: &str = "SAGA_TEST_FULL_DIR";

#[test]
fn when_no_room_is_left_that_is_said_and_nothing_is_lost() {
    // A full disk is an ordinary day: the service must say so, and go on when there is room again.
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    // A limit on the size of a file stops a write in its middle, as a full disk does, and needs no privilege.
    let script = "trap '' XFSZ; ulimit -f 400; exec \"$0\" full::child --exact --nocapture --ignored";
    let out = Command::new("bash").args(["-c", script]).arg(exe).env(DIR, dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
    let written: usize =
        said.lines().find_map(|line| line.strip_prefix("written ")).unwrap().parse().unwrap();
    let memory = open(dir.path());
    assert_eq!((memory.health().dropped_tail_bytes, memory.health().damaged), (0, vec![]));
    let journal = memory.journal("j").unwrap();
    assert_eq!(records(&journal).len(), written);
    assert!(records(&journal).iter().all(|record| record == &vec![b'x'; 30_000] || record == b"small"));
    journal.append(&[b'x'; 30_000]).unwrap();
}

#[test]
#[ignore = "no test of its own: the test above runs it, in every run, as the process that runs out of room"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let memory = Memory::open(Path::new(&dir)).unwrap();
    let journal = memory.journal("j").unwrap();
    let mut written = 0;
    let error = loop {
        match journal.append(&[b'x'; 30_000]) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(error.to_string().contains("nothing was written"), "{error}");
    // What still fits is taken, and what was there can be read.
    journal.append(b"small").unwrap();
    written += 1;
    assert!(matches!(journal.append(&[b'x'; 30_000]), Err(Error::Full { .. })));
    assert_eq!(records(&journal).len(), written);
    println!("\nwritten {written}");
}

//! What the memory promises, one file per kind of trouble.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod damage;
mod full;
mod journal;
mod kill;
mod model;
mod notes;
mod recall;

use std::fs;
use std::path::{Path, PathBuf};

use memory::{Journal, Memory, Seq};

/// A store in a folder of its own.
fn store() -> (tempfile::TempDir, Memory) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let memory = Memory::open(dir.path()).expect("an empty folder opens");
    (dir, memory)
}

/// Opens a folder again; everything that held it must be gone.
fn open(dir: &Path) -> Memory {
    Memory::open(dir).expect("the folder opens")
}

/// Every record of a journal, with the numbers checked.
fn records(journal: &Journal) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let page = journal.read(Seq(all.len() as u64 + 1), 100).expect("the journal reads");
        if page.is_empty() {
            assert_eq!(journal.last().map_or(0, |seq| seq.0), all.len() as u64);
            return all;
        }
        for (seq, record) in page {
            all.push(record);
            assert_eq!(seq, Seq(all.len() as u64), "numbers have no gaps");
        }
    }
}

/// The files under a folder, in order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("the folder lists") {
            let path = entry.expect("the folder lists").path();
            if path.is_dir() { todo.push(path) } else { all.push(path) }
        }
    }
    all.sort();
    all
}

/// Copies a closed store.
fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("it lies under the folder"));
        fs::create_dir_all(target.parent().expect("a file has a folder")).expect("a folder can be made");
        fs::copy(&file, &target).expect("a file can be copied");
    }
}

/// The only segment of a small store.
fn segment(dir: &Path) -> PathBuf {
    dir.join("log/00000001.log")
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }
}

//! sled behind a few calls: an ordered map of bytes with atomic batches. The only file that names it.
//!
//! sled 0.34 can panic on damaged files, and there are reports of corruption after hard stops. Nothing here is the
//! truth, so every trouble, panics included, becomes a sentence, and the caller rebuilds from the log.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Memory sled may use for its pages. Its default of 1 GiB is more than the rest of the store together.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;

/// An ordered map of bytes in a folder of its own.
pub(crate) struct Map {
    /// Taken only when dropped.
    db: Option<sled::Db>,
    dir: PathBuf,
}

/// Changes that take effect together, over a crash as well.
#[derive(Default)]
pub(crate) struct Batch {
    inner: sled::Batch,
    len: usize,
}

impl Batch {
    /// Sets a key.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.inner.insert(key, value);
        self.len += 1;
    }

    /// Removes a key.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.inner.remove(key);
        self.len += 1;
    }

    /// How many changes it has.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// How often, and how long, an open waits for threads of the store that was closed before: 5 seconds in all.
const LOCK_TRIES: u32 = 250;
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_millis(20);

impl Map {
    /// Opens what is there, or makes an empty one.
    pub(crate) fn open(dir: &Path) -> Result<Map, String> {
        let mut tries = 0;
        loop {
            let opened = guarded(|| {
                let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES);
                // The log is the truth: how often sled writes is only a matter of how much is caught up at the next open.
                let db = config.flush_every_ms(Some(1000)).open()?;
                Ok(Map { db: Some(db), dir: dir.to_path_buf() })
            });
            // sled's own threads may hold its lock for a moment after a store was closed, longer on a busy machine. Our
            // lock on the folder says that no other process has it open.
            match opened {
                Err(why) if why.contains("could not acquire lock") && tries < LOCK_TRIES => {
                    tries += 1;
                    std::thread::sleep(LOCK_WAIT);
                }
                opened => return opened,
            }
        }
    }

    /// Deletes the folder, whatever is in it.
    pub(crate) fn destroy(dir: &Path) -> Result<(), String> {
        match fs::remove_dir_all(dir).or_else(|_| fs::remove_file(dir)) {
            Err(e) if dir.exists() => Err(format!("{} could not be deleted: {e}", dir.display())),
            _ => Ok(()),
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        guarded(|| Ok(self.db().get(key)?.map(|value| value.to_vec())))
    }

    /// The entries from `from` on, in order, for as long as `each` says to go on.
    pub(crate) fn walk(&self, from: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), String> {
        guarded(|| {
            for entry in self.db().range(from..) {
                let (key, value) = entry?;
                if !each(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Puts a batch in force.
    pub(crate) fn apply(&self, batch: Batch) -> Result<(), String> {
        guarded(|| self.db().apply_batch(batch.inner))
    }

    /// Brings everything to disk.
    pub(crate) fn flush(&self) -> Result<(), String> {
        guarded(|| self.db().flush().map(|_| ()))
    }

    /// Where it lies.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("only drop takes it")
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // Closing writes, and may panic over a damaged file as opening may.
        let db = self.db.take();
        if let Err(reason) = guarded(|| {
            drop(db);
            Ok(())
        }) {
            tracing::warn!(reason, "the index did not close; it is brought level at the next open");
        }
    }
}

/// Turns sled's errors and panics into a sentence.
fn guarded<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(e.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| said.to_string()));
            Err(format!("sled panicked: {}", said.unwrap_or_else(|| "without a word".into())))
        }
    }
}

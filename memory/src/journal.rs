//! A journal: records of one thing in the order they were written, numbered 1, 2, 3 … without gaps.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::log::BATCH_BYTES_MAX;
use crate::memory::{Inner, Miss};
use crate::writer::{Ask, New};

/// The longest record, in bytes. Larger bodies go to a blob, and the record names its digest.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// A record's number within its journal: 1, 2, 3 … without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What [`Journal::append_once`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The record's number: the new one's, or that of the earlier record with this key.
    pub seq: Seq,
    /// Whether the record is new. `false`: the key was used before, and nothing was written.
    pub fresh: bool,
}

/// What there is to say of a journal without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalInfo {
    /// Its name.
    pub name: String,
    /// Its first record; `None` while it is empty.
    pub first: Option<Seq>,
    /// Its last record; `None` while it is empty.
    pub last: Option<Seq>,
    /// What its records take in the log, in bytes.
    pub bytes: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A journal. Cheap to clone; every clone is the same journal.
///
/// An append is durable when it returns: it survives a crash of the process and of the machine. Appends of many threads
/// share their writes to disk. A record has at most [`RECORD_BYTES_MAX`], an idempotency key [`KEY_BYTES_MAX`].
#[derive(Clone)]
pub struct Journal {
    pub(crate) inner: Arc<Inner>,
    pub(crate) name: Arc<str>,
    pub(crate) birth: u64,
}

impl Journal {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends a record.
    pub fn append(&self, record: &[u8]) -> Result<Seq, Error> {
        self.append_all(&[record])
    }

    /// Appends a record unless one with this key is there; then nothing is written, and that record's number returned.
    /// The key is part of the record: it is remembered for as long as the record is.
    pub fn append_once(&self, key: &str, record: &[u8]) -> Result<Appended, Error> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::BadInput(format!(
                "an idempotency key has 1 to {KEY_BYTES_MAX} bytes, this one has {}",
                key.len()
            )));
        }
        let once = || self.write(vec![New { key: Some(key.into()), body: record.into(), at_ms: None }], true);
        match once() {
            // Nothing was written: the key could not be looked up.
            Err(Error::Index(_)) => {
                self.inner.ask(|reply| Ask::Reindex { reply })?;
                once()
            }
            done => done,
        }
    }

    /// Appends records, all or none, even over a crash. Returns the last one's number.
    pub fn append_all(&self, records: &[&[u8]]) -> Result<Seq, Error> {
        if records.is_empty() {
            return Err(Error::BadInput("there is no record to append".into()));
        }
        let new = |record: &&[u8]| New { key: None, body: record.to_vec(), at_ms: None };
        Ok(self.write(records.iter().map(new).collect(), false)?.seq)
    }

    /// A page of records from `from` on: at most `max` of them, and fewer when they come to more than
    /// [`crate::PAGE_BYTES_MAX`] bytes. The journal's end is reached when a page is empty (or holds [`Journal::last`]).
    ///
    /// A damaged record among them is an error that names it; nothing is skipped in silence. To go on without it, read
    /// from the number after it.
    pub fn read(&self, from: Seq, max: usize) -> Result<Vec<(Seq, Vec<u8>)>, Error> {
        let from = from.0.max(1);
        self.inner.healing(|shared| {
            let last = self.last_now()?;
            let to = last.min(from.saturating_add(max as u64).saturating_sub(1));
            if max == 0 || from > to {
                return Ok(Vec::new());
            }
            shared.read(&self.name, from, to, |frame| (Seq(frame.seq), frame.body.to_vec()))
        })
    }

    /// The last record's number; `None` while the journal is empty, and once it is deleted.
    pub fn last(&self) -> Option<Seq> {
        self.last_now().ok().filter(|last| *last > 0).map(Seq)
    }

    /// The record with this idempotency key.
    pub fn find(&self, key: &str) -> Result<Option<Seq>, Error> {
        self.inner.healing(|shared| {
            self.last_now()?;
            shared.find_once(&self.name, key)
        })
    }

    /// Sends records to the writer, once they are known to fit.
    pub(crate) fn write(&self, records: Vec<New>, once: bool) -> Result<Appended, Error> {
        let mut total = 0;
        for record in &records {
            let bytes = record.body.len();
            if bytes > RECORD_BYTES_MAX {
                return Err(Error::BadInput(format!(
                    "a record may have {RECORD_BYTES_MAX} bytes, this one has {bytes}: put the body in a blob and append its digest"
                )));
            }
            // Names, keys and heads of a frame come to less than this.
            total += bytes + 512;
        }
        if total > BATCH_BYTES_MAX {
            return Err(Error::BadInput(format!(
                "records appended together may have {BATCH_BYTES_MAX} bytes, these have {total}: append them in parts"
            )));
        }
        let (journal, birth) = (Arc::clone(&self.name), self.birth);
        self.inner.ask(|reply| Ask::Append { journal, birth, records, once, reply })
    }

    /// The last record's number; 0 while there is none.
    pub(crate) fn last_now(&self) -> Result<u64, Miss> {
        let catalog = self.inner.shared.index.catalog();
        match catalog.heads.get(&*self.name).filter(|head| head.birth == self.birth) {
            Some(head) => Ok(head.last),
            None => Err(Miss::Sure(Error::NoJournal { name: self.name.to_string() })),
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Journal").field(&self.name).finish()
    }
}

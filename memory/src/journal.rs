//! A journal: records of one thing in the order they were written, numbered 1, 2, 3 … without gaps.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;

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

/// A journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal;

#[expect(missing_docs, reason = "the face comes first")]
impl Journal {
    pub fn name(&self) -> &str {
        ""
    }
    pub fn append(&self, _record: &[u8]) -> Result<Seq, Error> {
        Err(Error::Stopped("memory is still being built".into()))
    }
    pub fn append_once(&self, _key: &str, _record: &[u8]) -> Result<Appended, Error> {
        Err(Error::Stopped("memory is still being built".into()))
    }
    pub fn append_all(&self, _records: &[&[u8]]) -> Result<Seq, Error> {
        Err(Error::Stopped("memory is still being built".into()))
    }
    pub fn read(&self, _from: Seq, _max: usize) -> Result<Vec<(Seq, Vec<u8>)>, Error> {
        Err(Error::Stopped("memory is still being built".into()))
    }
    pub fn last(&self) -> Option<Seq> {
        None
    }
    pub fn find(&self, _key: &str) -> Result<Option<Seq>, Error> {
        Err(Error::Stopped("memory is still being built".into()))
    }
}

//! Remembers: journals, blobs and notes on one append-only log.
//!
//! The truth is the log: segments of framed, checksummed records in `log/`, each durable before its append returns.
//! Everything under `index/` is made from it and may be deleted while the store is closed. Bytes, numbers and
//! searchable text live here; what an event means is for others to know.
//!
//! ```
//! # fn main() -> Result<(), memory::Error> {
//! # let dir = tempfile::tempdir().expect("a folder for the example");
//! let memory = memory::Memory::open(dir.path())?;
//! let journal = memory.journal("s-1")?;
//! let first = journal.append(b"{\"type\":\"created\"}")?;
//! let again = journal.append_once("client-7", b"{\"type\":\"input\"}")?;
//! assert!(again.fresh && !journal.append_once("client-7", b"whatever")?.fresh);
//! assert_eq!(journal.read(first, 10)?.len(), 2);
//! # Ok(())
//! # }
//! ```
mod blobs;
mod change;
pub mod code;
mod embed;
mod error;
pub mod eval;
mod export;
mod frame;
mod index;
mod journal;
mod log;
mod memory;
mod notes;
mod purge;
mod recall;
mod recover;
mod redact;
mod when;
mod writer;

pub use blobs::Digest;
pub use change::{Change, Changed};
pub use embed::{Bert, Embedder};
pub use error::Error;
pub use journal::{Appended, Journal, JournalInfo, KEY_BYTES_MAX, RECORD_BYTES_MAX, Seq};
pub use memory::{Health, Memory, PAGE_BYTES_MAX};
pub use notes::{
    Cite, Hit, Kind, NOTE_BYTES_MAX, Note, NoteId, Origin, Query, Scope, SessionHit, Standing, Trust, Why,
};
pub use redact::{mark, redact, secrets};
pub use when::{Day, moment, parse as parse_time};

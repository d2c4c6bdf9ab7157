//! Remembers: journals, blobs and notes on one append-only log.

mod blobs;
mod error;
mod journal;
mod memory;
mod notes;

pub use blobs::Digest;
pub use error::Error;
pub use journal::{Appended, Journal, JournalInfo, KEY_BYTES_MAX, RECORD_BYTES_MAX, Seq};
pub use memory::{Health, Memory};
pub use notes::{Hit, Kind, NOTE_BYTES_MAX, Note, NoteId, Origin, Query, Scope, Trust};

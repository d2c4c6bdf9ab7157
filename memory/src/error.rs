//! What can go wrong, named by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::Seq;

/// Why the memory could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has this data folder open. Stop it, or choose another folder.
    #[error("the data folder {} is in use by process {pid}: stop it first, or choose another folder", dir.display())]
    Locked {
        /// The process that holds the lock; 0 when it did not say.
        pid: u32,
        /// The data folder.
        dir: PathBuf,
    },
    /// A record was written and acknowledged, and its bytes on disk are no longer what was written.
    ///
    /// Only this record is lost: the rest of the journal can be read from the next `Seq` on.
    #[error(
        "journal {journal:?}: record {seq} is damaged (segment {segment}, byte {offset}): restore the log from a \
         backup, or read on from record {} to go without it", seq.0 + 1
    )]
    Corrupt {
        /// The journal, or `notes` for a note.
        journal: String,
        /// The record, or the number of the note.
        seq: Seq,
        /// The log segment that holds the damaged bytes.
        segment: u32,
        /// Where in the segment they begin, in bytes.
        offset: u64,
    },
    /// The disk, the quota or the file-size limit is full. Nothing of what was asked has been written.
    #[error(
        "no room left under {}: nothing was written; free some space and try again, or choose a folder on another disk",
        path.display()
    )]
    Full {
        /// The file or folder that could not grow.
        path: PathBuf,
    },
    /// The data folder cannot be written.
    #[error("cannot write under {}: {source}; make it writable for this user, or choose another folder", path.display())]
    ReadOnly {
        /// The file or folder that refused.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A journal's name must be 1 to 64 of `a`–`z`, `0`–`9`, `_` and `-`.
    #[error("{name:?} cannot name a journal: use 1 to 64 of a-z, 0-9, _ and -")]
    BadName {
        /// What was given.
        name: String,
    },
    /// What was given cannot be kept as it is; the text says which bound or form it breaks.
    #[error("{0}")]
    BadInput(String),
    /// There is no such journal, or it was deleted while this handle was held.
    #[error("there is no journal {name:?}")]
    NoJournal {
        /// Its name.
        name: String,
    },
    /// The log failed in a way that leaves its end unknown (a failed fsync); it accepts nothing more until reopened.
    #[error("the log stopped after a failed write ({0}): restart to recover it")]
    Stopped(String),
    /// The data folder was written by a newer version of this program.
    #[error("{} has format {found}, and this program knows formats up to {known}: use a newer version", path.display())]
    TooNew {
        /// The file that says so.
        path: PathBuf,
        /// The format it has.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// An index failed and could not be rebuilt. The log is untouched.
    #[error(
        "an index failed and could not be rebuilt ({0}); the log itself is whole: free space on the data folder's disk, see \
         that it can be written to, and restart"
    )]
    Index(String),
    /// Any other trouble with a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Sorts what the system said about `path` into what a caller can do about it.
    pub(crate) fn io(path: &Path, source: io::Error) -> Error {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::Full { path }
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Error::ReadOnly { path, source }
            }
            _ => Error::Io { path, source },
        }
    }
}

//! What commands printed beyond what a model is shown at once: kept for the session, to be read and searched by an id.
//!
//! It lies in files without a name that the service holds open, so that no path leads to it, another session has no way to
//! it, and nothing of it is left when the service ends, however it ends.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use rustix::fs::{CWD, Mode, OFlags};

use crate::output::Captured;

/// The most that is kept of one command. Bytes.
const SPOOL_BYTES: u64 = 64 << 20;

/// How many outputs a session keeps; the oldest goes first. With what runs in the background and has not been looked at,
/// this bounds a session's disk to 1 GiB.
const OUTPUTS: usize = 8;

/// What is kept of one command's output: head and tail in memory, and all of it on disk once that leaves something out.
#[derive(Debug, Default)]
pub(super) struct Kept {
    captured: Captured,
    spool: Option<Spool>,
    /// Whether keeping it failed, so that it is not tried again.
    failed: bool,
}

/// Output on disk.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    bytes: u64,
}

impl Kept {
    pub(super) fn take(&mut self, piece: &[u8]) {
        if self.spool.is_none() && !self.failed && !self.captured.fits(piece.len()) {
            // Up to here nothing has been left out: what is in memory is the beginning.
            self.spool = Spool::open()
                .and_then(|mut spool| {
                    spool.write(&self.captured.whole())?;
                    Ok(spool)
                })
                .ok();
            self.failed = self.spool.is_none();
        }
        if let Some(spool) = &mut self.spool
            && spool.write(piece).is_err()
        {
            // A full disk: half an output that passes for a whole one helps nobody.
            (self.spool, self.failed) = (None, true);
        }
        self.captured.take(piece);
    }

    /// How much there was. Bytes.
    pub(super) fn total(&self) -> u64 {
        self.captured.total()
    }

    /// The text, whether it leaves something out, and all of it.
    pub(super) fn into_parts(self) -> (String, bool, Option<Spool>) {
        let (text, truncated) = self.captured.into_text();
        (text, truncated, self.spool)
    }
}

impl Spool {
    fn open() -> io::Result<Spool> {
        let folder = std::env::temp_dir();
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let unnamed = rustix::fs::openat(CWD, &folder, flags | OFlags::TMPFILE, mode);
        let file = match unnamed {
            Ok(file) => file,
            // Not every file system has files without a name: then it has one for a moment.
            Err(_) => {
                let path = folder.join(format!("saga-output-{}", super::random_name("")));
                let file = rustix::fs::openat(
                    CWD,
                    &path,
                    flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW,
                    mode,
                )?;
                std::fs::remove_file(&path)?;
                file
            }
        };
        Ok(Spool { file: file.into(), bytes: 0 })
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let room = usize::try_from(SPOOL_BYTES - self.bytes).unwrap_or(usize::MAX);
        let piece = &piece[..piece.len().min(room)];
        self.bytes += piece.len() as u64;
        self.file.write_all(piece)
    }
}

/// A session's kept outputs, by their ids.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    kept: Mutex<Vec<(String, Spool)>>,
}

impl Outputs {
    /// Keeps one, and gives the id it is asked for by.
    pub(super) fn keep(&self, spool: Spool) -> String {
        let mut kept = super::lock(&self.kept);
        if kept.len() == OUTPUTS {
            kept.remove(0);
        }
        let id = super::random_name("o-");
        kept.push((id.clone(), spool));
        id
    }

    /// Opens one for reading, from its beginning. `None` when this session has none of that id.
    pub(super) fn open(&self, id: &str) -> Option<io::Result<File>> {
        let kept = super::lock(&self.kept);
        let (_, spool) = kept.iter().find(|(other, _)| other == id.trim())?;
        // Opened anew, it has a place of its own to read from, and cannot be written.
        Some(File::open(format!("/proc/self/fd/{}", spool.file.as_raw_fd())))
    }
}

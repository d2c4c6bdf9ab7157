//! The folder of snapshots, and everything that is done in it.
//!
//! A file is written beside its place, made durable and then renamed, so that a name stands for whole bytes or for none. A
//! line's manifest comes after all it names, and goes before it. So whenever the power goes, what is left is lines, and files
//! that nobody names, which the next start removes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::frame::Kind;
use super::index::Part;
use super::secret::from_hex;
use crate::cache::Chain;

pub(super) struct Files {
    folder: PathBuf,
    next: AtomicU64,
    /// How many more things can be done before the power goes.
    #[cfg(test)]
    pub(super) power: AtomicU64,
}

impl Files {
    /// Makes the folder, which only this user may enter, and takes it for this process; the lock that says so. Nothing when
    /// another process has it.
    pub(super) fn open(folder: &Path) -> io::Result<Option<(Files, File)>> {
        for part in ["", "tmp", "data", "lines"] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder.join(part))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let files = Files {
            folder: folder.to_owned(),
            next: AtomicU64::new(0),
            #[cfg(test)]
            power: AtomicU64::new(u64::MAX),
        };
        // What a crash left half written.
        for entry in fs::read_dir(folder.join("tmp"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(Some((files, lock)))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a file lies that lines can share.
    pub(super) fn part(&self, (kind, chain): Part) -> PathBuf {
        let hex = hex(chain);
        self.folder.join("data").join(&hex[..2]).join(format!("{}.{}", &hex[2..], kind.extension()))
    }

    /// Where the manifest of a line lies. A name may hold anything, so its hash stands for it.
    pub(super) fn line(&self, name: &str) -> PathBuf {
        let hex = hex(Chain::root(name.as_bytes()));
        self.folder.join("lines").join(format!("{hex}.{}", Kind::Line.extension()))
    }

    /// All files that lines can share, with their lengths.
    pub(super) fn parts(&self) -> io::Result<Vec<(Part, u64)>> {
        let mut parts = Vec::new();
        for folder in fs::read_dir(self.folder.join("data"))? {
            let folder = folder?;
            let front = folder.file_name();
            let Ok(entries) = fs::read_dir(folder.path()) else { continue };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let part = front.to_str().zip(name.to_str()).and_then(|(front, name)| {
                    let (rest, extension) = name.split_once('.')?;
                    let kind =
                        [Kind::Page, Kind::States].into_iter().find(|kind| kind.extension() == extension)?;
                    Some((kind, Chain::from_bytes(from_hex(&format!("{front}{rest}"))?)))
                });
                if let Some(part) = part {
                    parts.push((part, entry.metadata()?.len()));
                }
            }
        }
        Ok(parts)
    }

    /// The manifests there are, those first that were written first.
    pub(super) fn lines(&self) -> io::Result<Vec<PathBuf>> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(self.folder.join("lines"))? {
            let entry = entry?;
            lines.push((entry.metadata()?.modified()?, entry.path()));
        }
        lines.sort();
        Ok(lines.into_iter().map(|(_, path)| path).collect())
    }

    /// Writes a file that only this user may read, whole or not at all; durable when it returns.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().expect("a file lies in a folder");
        if !folder.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let tmp = self.folder.join("tmp").join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let done = self.write_beside(&tmp, bytes).and_then(|()| {
            self.power()?;
            fs::rename(&tmp, path)
        });
        if done.is_err() {
            // The next start removes it should this fail too.
            let _ = self.remove(&tmp);
        }
        done
    }

    fn write_beside(&self, tmp: &Path, bytes: &[u8]) -> io::Result<()> {
        self.power()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(tmp)?;
        let (front, rest) = bytes.split_at(bytes.len() / 2);
        file.write_all(front)?;
        self.power()?;
        file.write_all(rest)?;
        file.sync_data()
    }

    /// Makes the names in a file's folder durable.
    pub(super) fn sync_names(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().expect("a file lies in a folder");
        File::open(folder)?.sync_all()
    }

    /// Removes a file; one that is gone already is no trouble.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.power()?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What files may take, all together, if they take `held` bytes now: no more than `bytes_max`, and never so much that
    /// the disk is full for others.
    pub(super) fn room(&self, bytes_max: u64, held: u64) -> u64 {
        // A file system that does not tell is taken to have room.
        let free = rustix::fs::statvfs(&self.folder)
            .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        bytes_max.min(held.saturating_add(free.saturating_sub(FREE_BYTES_MIN)))
    }

    #[cfg(test)]
    fn power(&self) -> io::Result<()> {
        let took = self.power.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        took.map(drop).map_err(|_| io::Error::other("the power is gone"))
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "power fails in tests only")]
    fn power(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What is left of the disk to others: the journals of sessions lie on the same one.
const FREE_BYTES_MIN: u64 = 1 << 30;

fn hex(chain: Chain) -> String {
    chain.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

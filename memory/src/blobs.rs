//! Blobs: bytes kept under their own digest, one file each. What has the same bytes is kept once.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Error;

/// A sha-256 digest: the name of a blob. Shown and stored as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(hex: String) -> Result<Digest, Error> {
        hex.parse()
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(hex: &str) -> Result<Digest, Error> {
        let bad = || Error::BadInput(format!("{hex:?} is not a sha-256 digest: 64 hex digits are"));
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| bad())?;
        }
        Ok(Digest(bytes))
    }
}

/// The folder of blobs: `ab/cdef…`, the first digest byte as a subfolder so that no folder grows too wide.
pub(crate) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    /// Opens the folder, making it when it is not there, and removes what an interrupted put left behind.
    pub(crate) fn open(dir: &Path) -> Result<Blobs, Error> {
        let tmp = dir.join("tmp");
        fs::create_dir_all(&tmp).map_err(|e| Error::io(&tmp, e))?;
        for entry in fs::read_dir(&tmp).map_err(|e| Error::io(&tmp, e))? {
            let path = entry.map_err(|e| Error::io(&tmp, e))?.path();
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
        Ok(Blobs { dir: dir.to_path_buf() })
    }

    /// Keeps the bytes; they are durable when this returns. A damaged blob of the same digest is mended by it.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let digest = Digest::of(bytes);
        if self.get(&digest).is_ok_and(|kept| kept.is_some()) {
            return Ok(digest);
        }
        let path = self.path(&digest);
        let folder = path.parent().expect("a blob lies in a subfolder");
        if !folder.exists() {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
            sync_dir(&self.dir)?;
        }
        let tmp = self.dir.join("tmp").join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let written = File::create(&tmp).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(e) = written.and_then(|()| fs::rename(&tmp, &path)) {
            // The half-written file is of no use to anyone; open() removes it should this fail too.
            let _ = fs::remove_file(&tmp);
            return Err(Error::io(&path, e));
        }
        sync_dir(folder)?;
        Ok(digest)
    }

    /// The bytes of this digest; `None` when they were never put, an error when they are not what was put.
    pub(crate) fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&path, e)),
        };
        if Digest::of(&bytes) != *digest {
            let source = io::Error::new(
                io::ErrorKind::InvalidData,
                "the blob's bytes are damaged: put it again, or restore it from a backup",
            );
            return Err(Error::Io { path, source });
        }
        Ok(Some(bytes))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.dir.join(&hex[..2]).join(&hex[2..])
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io(dir, e))
}

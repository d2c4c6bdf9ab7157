//! What tells a model's files from others without reading all of them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Source;
use crate::Error;

/// Bytes at the beginning of a file that are read: most headers fit.
const FRONT_BYTES: usize = 1 << 20;
/// Pieces of the weights that are read, of all files together, and of each at least so many.
const PIECES: usize = 512;
const PIECES_MIN: usize = 8;
const PIECE_BYTES: usize = 4096;

impl Source {
    /// A hash that changes with the files: of their lengths, of when they were written, of their beginnings and of pieces
    /// from all over them. It takes milliseconds however large the model is; a model that was trained further has other
    /// numbers everywhere, and a file that was edited another time.
    pub(crate) fn fingerprint(&self, path: &Path) -> Result<[u8; 32], Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut hash = Sha256::new();
        if let Source::Folder(folder) = self {
            hash.update(std::fs::read(folder.path().join("config.json")).map_err(io)?);
        }
        let files = self.files();
        let pieces = (PIECES / files.len().max(1)).max(PIECES_MIN);
        for (map, file) in files {
            let facts = file.metadata().map_err(io)?;
            hash.update(facts.len().to_le_bytes());
            hash.update(facts.mtime().to_le_bytes());
            hash.update(facts.mtime_nsec().to_le_bytes());
            hash.update(&map[..map.len().min(FRONT_BYTES)]);
            for piece in 0..pieces {
                let start = map.len() / pieces * piece;
                hash.update(&map[start..map.len().min(start + PIECE_BYTES)]);
            }
            hash.update(&map[map.len().saturating_sub(PIECE_BYTES)..]);
        }
        Ok(hash.finalize().into())
    }
}

//! What a file's bytes must come to.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A hash in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hash {
    /// Over the bytes.
    Sha256(Cow<'static, str>),
    /// As git names a file: SHA-1 over `blob`, the size and the bytes. The hub knows its small files by nothing else.
    GitBlob(String),
}

impl Hash {
    /// A SHA-256 that somebody said, if it is one.
    pub(super) fn sha256(text: &str) -> Option<Hash> {
        is_hexadecimal(text, 64).then(|| Hash::Sha256(text.to_ascii_lowercase().into()))
    }

    /// A git name that somebody said, if it is one.
    pub(super) fn git_blob(text: &str) -> Option<Hash> {
        is_hexadecimal(text, 40).then(|| Hash::GitBlob(text.to_ascii_lowercase()))
    }

    /// The hexadecimal digits.
    pub(super) fn digits(&self) -> &str {
        match self {
            Hash::Sha256(digits) => digits,
            Hash::GitBlob(digits) => digits,
        }
    }

    /// What hashes a file of `bytes` bytes in this way.
    pub(super) fn hasher(&self, bytes: u64) -> Hasher {
        match self {
            Hash::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Hash::GitBlob(_) => Hasher::GitBlob(Sha1::new_with_prefix(format!("blob {bytes}\0"))),
        }
    }

    /// The hash of the file at `path`, of the same kind as this one.
    pub(super) fn of(&self, path: &Path) -> io::Result<Hash> {
        let mut file = File::open(path)?;
        let mut hasher = self.hasher(file.metadata()?.len());
        hasher.read(&mut file)?;
        Ok(hasher.finish())
    }
}

impl Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hash::Sha256(digits) => write!(f, "SHA-256 {digits}"),
            Hash::GitBlob(digits) => write!(f, "git hash {digits}"),
        }
    }
}

/// A hash on its way.
#[derive(Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    /// Takes in all that is left of a file, and says how much that was.
    pub(super) fn read(&mut self, file: &mut File) -> io::Result<u64> {
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(bytes),
                read => {
                    self.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
    }

    pub(super) fn finish(self) -> Hash {
        match self {
            Hasher::Sha256(hasher) => Hash::Sha256(hexadecimal(&hasher.finalize()).into()),
            Hasher::GitBlob(hasher) => Hash::GitBlob(hexadecimal(&hasher.finalize())),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether this is a hexadecimal number of so many digits.
pub(super) fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_hashed_as_sha256sum_and_git_do() {
        // `printf 'hello\n' | sha256sum` and `| git hash-object --stdin`.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        for hash in [
            Hash::sha256("5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03").unwrap(),
            Hash::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").unwrap(),
        ] {
            assert_eq!(hash.of(&path).unwrap(), hash);
        }
        assert_eq!(Hash::sha256("ce013625030ba8dba906f756967f9e9ca394464a"), None);
        assert_eq!(Hash::git_blob("../../../../../../../../../../../etc/passw"), None);
    }
}

//! What a folder held: names, each with what it is and the hash of what it holds.
//!
//! ```text
//! entry:  kind: u8 ('f' file, 'x' file that may be run, 'l' link, 'd' folder)  name's length: u16  name  hash: 32 bytes
//!         kind: u8 ('F' file, 'X' file that may be run, 'D' folder)  mode: u16  name's length: u16  name  hash: 32 bytes
//! ```
//! Modes are permission bits; checkpoints were made without them at first. In the order of their names. A folder's hash is that of its own entries, so two trees that are alike in a folder need not look into it.

use std::collections::BTreeMap;

use super::pack::Hash;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    File,
    Program,
    Link,
    Folder,
}

impl Kind {
    /// Its letter; a capital when a mode follows.
    fn byte(self, with_mode: bool) -> u8 {
        let byte = self.small();
        if with_mode { byte.to_ascii_uppercase() } else { byte }
    }

    fn small(self) -> u8 {
        match self {
            Kind::File => b'f',
            Kind::Program => b'x',
            Kind::Link => b'l',
            Kind::Folder => b'd',
        }
    }

    fn of(byte: u8) -> Option<Kind> {
        [Kind::File, Kind::Program, Kind::Link, Kind::Folder].into_iter().find(|kind| kind.small() == byte)
    }
}

/// An entry of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Its permission bits. A link has none, and neither has what was kept before they were.
    pub(super) mode: Option<u16>,
    pub(super) hash: Hash,
}

impl Entry {
    /// Whether nothing has to be done to come from the other to this.
    pub(super) fn is_as(&self, other: &Entry) -> bool {
        let modes = self.mode.zip(other.mode);
        (self.kind, self.hash) == (other.kind, other.hash) && modes.is_none_or(|(one, other)| one == other)
    }
}

/// The entries of one folder, by name.
pub(super) type Folder = BTreeMap<String, Entry>;

pub(super) fn encode(folder: &Folder) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, entry) in folder {
        bytes.push(entry.kind.byte(entry.mode.is_some()));
        if let Some(mode) = entry.mode {
            bytes.extend(mode.to_le_bytes());
        }
        // Names come from a file system, where they have 255 bytes at most.
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(entry.hash.0);
    }
    bytes
}

pub(super) fn decode(mut bytes: &[u8]) -> Option<Folder> {
    let mut folder = Folder::new();
    while let Some((kind, rest)) = bytes.split_first() {
        let (mode, rest) = match kind.is_ascii_uppercase() {
            true => {
                rest.split_first_chunk::<2>().map(|(mode, rest)| (Some(u16::from_le_bytes(*mode)), rest))?
            }
            false => (None, rest),
        };
        let kind = Kind::of(kind.to_ascii_lowercase())?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*length) as usize)?;
        let (hash, rest) = rest.split_first_chunk::<32>()?;
        let name = std::str::from_utf8(name).ok()?;
        // What is written back is a name in a folder and nothing else.
        if mode.is_some_and(|mode| mode > 0o1777 || kind == Kind::Link) {
            return None;
        }
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return None;
        }
        folder.insert(name.to_owned(), Entry { kind, mode, hash: Hash(*hash) });
        bytes = rest;
    }
    Some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_out_as_it_went_in_and_nothing_else_does() {
        let entry = |kind, text: &str| Entry { kind, mode: None, hash: Hash::of(text.as_bytes()) };
        let with_mode = |kind, mode, text: &str| Entry { mode: Some(mode), ..entry(kind, text) };
        let folder = Folder::from([
            ("a".to_owned(), entry(Kind::File, "1")),
            ("ü b".to_owned(), entry(Kind::Program, "2")),
            ("l".to_owned(), entry(Kind::Link, "3")),
            ("d".to_owned(), entry(Kind::Folder, "4")),
            ("m".to_owned(), with_mode(Kind::File, 0o600, "5")),
            ("n".to_owned(), with_mode(Kind::Folder, 0o555, "6")),
            ("o".to_owned(), with_mode(Kind::Program, 0, "7")),
        ]);
        let bytes = encode(&folder);
        assert_eq!(decode(&bytes).unwrap(), folder);
        assert_eq!(decode(&[]).unwrap(), Folder::new());
        for cut in 1..bytes.len() {
            assert!(decode(&bytes[..cut]).is_none_or(|folder| folder.len() < 7));
        }
        let bad = encode(&Folder::from([("a".to_owned(), with_mode(Kind::File, 0o4755, "1"))]));
        assert_eq!(decode(&bad), None, "nothing is put back that runs as its owner");
        for name in ["..", "a/b", ""] {
            assert_eq!(decode(&encode(&Folder::from([(name.to_owned(), entry(Kind::File, "1"))]))), None);
        }
    }
}

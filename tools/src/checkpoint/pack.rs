//! Where a workspace's old content is kept: objects by the hash of what they hold, appended to pack files.
//!
//! ```text
//! file:    "SAGAPAK" 1  records
//! record:  sha-256: 32 bytes  length: u32  crc32c of these: u32  content
//! ```
//! Numbers are little-endian. A record that is torn, at the end of a file, is cut off; content is held against its hash whenever it is
//! read. Nothing is edited: what nobody needs any more goes when the rest of its pack is written anew.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

const MAGIC: &[u8; 8] = b"SAGAPAK\x01";
const HEAD: usize = 40;
/// A pack is closed once it has this. Bytes.
const PACK_BYTES: u64 = 64 << 20;

/// What names a piece of content: its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Hash(pub(super) [u8; 32]);

impl Hash {
    pub(super) fn of(content: &[u8]) -> Hash {
        Hash(Sha256::digest(content).into())
    }
}

#[derive(Debug, Clone, Copy)]
struct Place {
    pack: u64,
    /// Where its content begins.
    at: u64,
    bytes: u32,
}

/// The objects of one store.
#[derive(Debug)]
pub(super) struct Packs {
    dir: PathBuf,
    places: HashMap<Hash, Place>,
    /// By number: the file and its length.
    packs: HashMap<u64, (File, u64)>,
    /// The pack that is written to.
    open: u64,
    unsynced: bool,
}

impl Packs {
    pub(super) fn open(dir: &Path) -> io::Result<Packs> {
        fs::create_dir_all(dir)?;
        let mut packs = Packs {
            dir: dir.to_owned(),
            places: HashMap::new(),
            packs: HashMap::new(),
            open: 0,
            unsynced: false,
        };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = name.strip_suffix(".pack").and_then(|name| name.parse().ok()) {
                numbers.push(number);
            } else if name.ends_with(".aside") {
                // From a service that was ended while it wrote a pack anew.
                fs::remove_file(dir.join(name))?;
            }
        }
        numbers.sort_unstable();
        for number in numbers {
            packs.scan(number)?;
            packs.open = number;
        }
        Ok(packs)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}.pack"))
    }

    /// Reads where the objects of a pack are.
    fn scan(&mut self, number: u64) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(number))?;
        let length = file.metadata()?.len();
        let mut magic = [0; 8];
        let whole = (&file).read_exact(&mut magic).is_ok() && magic == *MAGIC;
        let mut at = if whole { MAGIC.len() as u64 } else { 0 };
        loop {
            let mut head = [0; HEAD];
            if !whole || at + HEAD as u64 > length || file.read_exact_at(&mut head, at).is_err() {
                break;
            }
            let number_at =
                |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let bytes = number_at(32);
            let end = at + HEAD as u64 + u64::from(bytes);
            if crc32c::crc32c(&head[..36]) != number_at(36) || end > length {
                break;
            }
            let mut hash = [0; 32];
            hash.copy_from_slice(&head[..32]);
            self.places.insert(Hash(hash), Place { pack: number, at: at + HEAD as u64, bytes });
            at = end;
        }
        if !whole {
            file.set_len(0)?;
            file.write_all_at(MAGIC, 0)?;
            at = MAGIC.len() as u64;
        } else if at < length {
            file.set_len(at)?;
        }
        self.packs.insert(number, (file, at));
        Ok(())
    }

    pub(super) fn has(&self, hash: &Hash) -> bool {
        self.places.contains_key(hash)
    }

    /// Keeps content, if it is not there yet. Durable after the next [`sync`](Packs::sync).
    pub(super) fn put(&mut self, content: &[u8]) -> io::Result<Hash> {
        let hash = Hash::of(content);
        if self.has(&hash) {
            return Ok(hash);
        }
        let bytes = u32::try_from(content.len()).map_err(|_| io::Error::other("an object is too large"))?;
        if self.packs.get(&self.open).is_none_or(|(_, length)| *length >= PACK_BYTES) {
            self.sync()?;
            self.open += 1;
            self.begin(self.open)?;
        }
        let (file, length) =
            self.packs.get_mut(&self.open).expect("the open pack was just made, or was there");
        let mut head = Vec::with_capacity(HEAD + content.len());
        head.extend(hash.0);
        head.extend(bytes.to_le_bytes());
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        head.extend(content);
        file.write_all_at(&head, *length)?;
        self.places.insert(hash, Place { pack: self.open, at: *length + HEAD as u64, bytes });
        *length += head.len() as u64;
        self.unsynced = true;
        Ok(hash)
    }

    fn begin(&mut self, number: u64) -> io::Result<()> {
        let path = self.path(number);
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.write_all(MAGIC)?;
        // Its name has to last as well.
        File::open(&self.dir)?.sync_all()?;
        self.packs.insert(number, (file, MAGIC.len() as u64));
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsynced)
            && let Some((file, _)) = self.packs.get(&self.open)
        {
            file.sync_data()?;
        }
        Ok(())
    }

    /// Content by its hash. Nothing when it is not there, or is damaged.
    pub(super) fn get(&self, hash: &Hash) -> io::Result<Option<Vec<u8>>> {
        let Some(place) = self.places.get(hash) else { return Ok(None) };
        let Some((file, _)) = self.packs.get(&place.pack) else { return Ok(None) };
        let mut content = vec![0; place.bytes as usize];
        file.read_exact_at(&mut content, place.at)?;
        Ok((Hash::of(&content) == *hash).then_some(content))
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.packs.values().map(|(_, length)| length).sum()
    }

    /// Lets go of everything but `living`: packs of which an eighth or more is dead are written anew.
    pub(super) fn keep(&mut self, living: &HashSet<Hash>) -> io::Result<()> {
        self.sync()?;
        let mut alive: HashMap<u64, u64> = HashMap::new();
        for (hash, place) in &self.places {
            if living.contains(hash) {
                *alive.entry(place.pack).or_insert(0) += HEAD as u64 + u64::from(place.bytes);
            }
        }
        let mut numbers: Vec<u64> = self.packs.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let length = self.packs[&number].1;
            let alive = alive.get(&number).copied().unwrap_or(0);
            if alive * 8 > length * 7 {
                continue;
            }
            let objects: Vec<Hash> =
                self.places.iter().filter(|(_, place)| place.pack == number).map(|(hash, _)| *hash).collect();
            let mut kept: Vec<(Hash, Vec<u8>)> = Vec::new();
            for hash in objects {
                if living.contains(&hash)
                    && let Some(content) = self.get(&hash)?
                {
                    kept.push((hash, content));
                }
                self.places.remove(&hash);
            }
            // What lives moves to the end of the open pack, and is durable there before this one goes.
            if number == self.open {
                self.open += 1;
                self.begin(self.open)?;
            }
            kept.sort_by_key(|(hash, _)| *hash);
            for (_, content) in &kept {
                self.put(content)?;
            }
            self.sync()?;
            self.packs.remove(&number);
            fs::remove_file(self.path(number))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_there_after_a_torn_write_and_a_cleaning() {
        let dir = tempfile::tempdir().unwrap();
        let mut packs = Packs::open(dir.path()).unwrap();
        let hashes: Vec<Hash> =
            (0..200).map(|n| packs.put(format!("content {n}").repeat(n).as_bytes()).unwrap()).collect();
        assert_eq!(packs.put(b"").unwrap(), hashes[0]);
        packs.sync().unwrap();
        let bytes = packs.bytes();
        drop(packs);
        // A service that was killed in the middle of a record.
        let path = dir.path().join("1.pack");
        let mut torn = fs::read(&path).unwrap();
        let whole = torn.len();
        torn.extend(&torn[48..90].to_vec());
        fs::write(&path, &torn).unwrap();
        let mut packs = Packs::open(dir.path()).unwrap();
        assert_eq!(packs.bytes(), bytes);
        assert_eq!(fs::metadata(&path).unwrap().len() as usize, whole);
        assert_eq!(packs.get(&hashes[7]).unwrap().unwrap(), "content 7".repeat(7).as_bytes());
        let living: HashSet<Hash> = hashes.iter().step_by(10).copied().collect();
        packs.keep(&living).unwrap();
        assert!(packs.bytes() < bytes / 4);
        for packs in [packs, Packs::open(dir.path()).unwrap()] {
            for (n, hash) in hashes.iter().enumerate() {
                assert_eq!(packs.get(hash).unwrap().is_some(), n % 10 == 0, "{n}");
            }
        }
    }

    #[test]
    fn damaged_content_is_not_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut packs = Packs::open(dir.path()).unwrap();
        let (first, second) = (packs.put(b"the first").unwrap(), packs.put(b"the second").unwrap());
        drop(packs);
        let path = dir.path().join("1.pack");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(9).position(|window| window == b"the first").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let packs = Packs::open(dir.path()).unwrap();
        assert_eq!(packs.get(&first).unwrap(), None);
        assert_eq!(packs.get(&second).unwrap().unwrap(), b"the second");
    }
}

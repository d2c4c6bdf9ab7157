//! The index's files: what is known of the files and commits, written whole, and the vectors, appended to.
//!
//! ```text
//! known:    "SAGACOD" 1  terms  files  commits  crc32c: u32
//! vectors:  "SAGACVE" 1  dimensions: u32  name's length: u32  name
//!           records:  key: 16 bytes  factor: f32  codes: i8 × dimensions  crc32c: u32
//! ```
//! Numbers in `known` are varints, texts their length and their bytes; in `vectors` they are little-endian. A vector's key is the
//! beginning of the sha-256 of the text it was made of, so a text that is still there after an edit or a move is not embedded again.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::words::{Dictionary, FIELDS, Word};
use super::{KnownChunk, KnownCommit, KnownFile};
use crate::recall::Code;
use crate::{Digest, Error};

const MAGIC: &[u8; 8] = b"SAGACOD\x01";
const VECTORS_MAGIC: &[u8; 8] = b"SAGACVE\x01";
/// Vectors that nothing asks for are squeezed out once they are this many and more than the rest.
const UNUSED_MIN: usize = 1024;
/// The largest file that is read. Bytes; a million chunks have less.
const KNOWN_BYTES_MAX: u64 = 4 << 30;

/// What names a text that is embedded.
pub(super) type Key = [u8; 16];

pub(super) fn key(text: &str) -> Key {
    let digest = Digest::of(text.as_bytes());
    digest.bytes()[..16].try_into().expect("a digest has 32 bytes")
}

/// What is known of a folder of files.
#[derive(Default)]
pub(super) struct Known {
    pub(super) words: Dictionary,
    /// By path, in order.
    pub(super) files: Vec<KnownFile>,
    /// The oldest first.
    pub(super) commits: Vec<KnownCommit>,
}

/// Reads what is known. `Ok(Err(reason))` when the file is not usable and has to be made anew.
pub(super) fn load(path: &Path) -> Result<Result<Known, String>, Error> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > KNOWN_BYTES_MAX => return Ok(Err("it is too large".into())),
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Ok(Known::default())),
        Err(e) => return Err(Error::io(path, e)),
    }
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    Ok(parse(&bytes).ok_or_else(|| "it is damaged, or of another version".into()))
}

fn parse(bytes: &[u8]) -> Option<Known> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body).to_le_bytes() != *sum {
        return None;
    }
    let mut from = Bytes(body.strip_prefix(MAGIC)?);
    let mut known = Known::default();
    for _ in 0..from.number()? {
        known.words.id(&from.text()?);
    }
    let terms = known.words.len() as u64;
    for _ in 0..from.number()? {
        let (path, digest) = (from.text()?, from.digest()?);
        let mut chunks = Vec::new();
        for _ in 0..from.number()? {
            chunks.push(from.chunk(terms)?);
        }
        known.files.push(KnownFile { path, digest, chunks });
    }
    for _ in 0..from.number()? {
        let (id, at_ms) = (from.text()?, from.number()?);
        let mut paths = Vec::new();
        for _ in 0..from.number()? {
            paths.push(from.text()?);
        }
        known.commits.push(KnownCommit { id, at_ms, paths, words: from.words(terms)? });
    }
    from.0.is_empty().then_some(known)
}

/// Writes what is known, beside the old file and then in its place.
pub(super) fn save(path: &Path, known: &Known) -> Result<(), Error> {
    let mut bytes = MAGIC.to_vec();
    // Words that nothing has any more are left out, so numbers change.
    let mut numbers: HashMap<u32, u64> = HashMap::new();
    let mut terms: Vec<u32> = Vec::new();
    let chunks = || known.files.iter().flat_map(|file| &file.chunks).map(|chunk| &chunk.words);
    for word in chunks().chain(known.commits.iter().map(|commit| &commit.words)).flatten() {
        let next = terms.len() as u64;
        if *numbers.entry(word.term).or_insert(next) == next {
            terms.push(word.term);
        }
    }
    put_number(&mut bytes, terms.len() as u64);
    terms.iter().for_each(|term| put_text(&mut bytes, known.words.term(*term)));
    let put_words = |bytes: &mut Vec<u8>, words: &[Word]| {
        put_number(bytes, words.len() as u64);
        for word in words {
            put_number(bytes, numbers[&word.term]);
            bytes.push(word.field);
            put_number(bytes, u64::from(word.count));
        }
    };
    put_number(&mut bytes, known.files.len() as u64);
    for file in &known.files {
        put_text(&mut bytes, &file.path);
        bytes.extend(file.digest.bytes());
        put_number(&mut bytes, file.chunks.len() as u64);
        for chunk in &file.chunks {
            put_text(&mut bytes, &chunk.symbol);
            put_number(&mut bytes, chunk.containers.len() as u64);
            chunk.containers.iter().for_each(|name| put_text(&mut bytes, name));
            put_number(&mut bytes, u64::from(chunk.lines.0));
            put_number(&mut bytes, u64::from(chunk.lines.1));
            bytes.push(chunk.flags);
            bytes.extend(chunk.key);
            put_words(&mut bytes, &chunk.words);
        }
    }
    put_number(&mut bytes, known.commits.len() as u64);
    for commit in &known.commits {
        put_text(&mut bytes, &commit.id);
        put_number(&mut bytes, commit.at_ms);
        put_number(&mut bytes, commit.paths.len() as u64);
        commit.paths.iter().for_each(|path| put_text(&mut bytes, path));
        put_words(&mut bytes, &commit.words);
    }
    let sum = crc32c::crc32c(&bytes);
    bytes.extend(sum.to_le_bytes());
    replace(path, &bytes)
}

/// Puts bytes in a file's place at once: whoever reads it sees the old or the new.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let aside = path.with_extension("aside");
    let write = || {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|e| Error::io(path, e))
}

fn put_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    put_number(to, text.len() as u64);
    to.extend(text.as_bytes());
}

/// What is left of a file that is being read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.number()?).ok()?;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }

    fn digest(&mut self) -> Option<Digest> {
        Some(Digest::from_bytes(self.take(32)?.try_into().ok()?))
    }

    fn words(&mut self, terms: u64) -> Option<Box<[Word]>> {
        let count = self.number()?;
        // A word takes three bytes or more: a count that cannot be true makes no room for itself.
        let mut words = Vec::with_capacity((count as usize).min(self.0.len() / 3));
        for _ in 0..count {
            let term = self.number().filter(|term| *term < terms)? as u32;
            let field = self.byte().filter(|field| usize::from(*field) < FIELDS)?;
            words.push(Word { term, field, count: u16::try_from(self.number()?).ok()? });
        }
        Some(words.into())
    }

    fn chunk(&mut self, terms: u64) -> Option<KnownChunk> {
        let symbol = self.text()?;
        let mut containers = Vec::new();
        for _ in 0..self.number()? {
            containers.push(self.text()?);
        }
        let mut line = || u32::try_from(self.number()?).ok();
        let lines = (line()?, line()?);
        let flags = self.byte()?;
        let key = Key::try_from(self.take(16)?).ok()?;
        Some(KnownChunk { symbol, containers, lines, flags, key, words: self.words(terms)? })
    }
}

/// Vectors of texts, made by one embedder.
pub(super) struct Vectors {
    path: PathBuf,
    file: File,
    name: String,
    dimensions: usize,
    rows: HashMap<Key, u32>,
    factors: Vec<f32>,
    codes: Vec<i8>,
}

impl Vectors {
    /// Opens the file of this embedder; one of another embedder, or with a damaged head, is made anew. Records from the first
    /// damaged one on are cut off: their texts are embedded again.
    pub(super) fn open(path: &Path, name: &str, dimensions: usize) -> Result<Vectors, Error> {
        let say = |e| Error::io(path, e);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(say)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(say)?;
        let mut vectors = Vectors {
            path: path.to_path_buf(),
            file,
            name: name.into(),
            dimensions,
            rows: HashMap::new(),
            factors: Vec::new(),
            codes: Vec::new(),
        };
        let head = vectors.head();
        if !bytes.starts_with(&head) {
            vectors.file.set_len(0).and_then(|()| vectors.file.write_all_at(&head, 0)).map_err(say)?;
            return Ok(vectors);
        }
        for record in bytes[head.len()..].chunks_exact(vectors.record_bytes()) {
            let (body, sum) = record.split_last_chunk::<4>().expect("a record ends with its checksum");
            if crc32c::crc32c(body).to_le_bytes() != *sum {
                break;
            }
            let (key, code) = body.split_first_chunk::<16>().expect("a record begins with its key");
            let code = Code::read(code);
            vectors.push(*key, &code);
        }
        vectors.file.set_len(vectors.offset(vectors.factors.len())).map_err(say)?;
        Ok(vectors)
    }

    fn head(&self) -> Vec<u8> {
        let mut head = VECTORS_MAGIC.to_vec();
        head.extend((self.dimensions as u32).to_le_bytes());
        head.extend((self.name.len() as u32).to_le_bytes());
        head.extend(self.name.as_bytes());
        head
    }

    fn record_bytes(&self) -> usize {
        24 + self.dimensions
    }

    fn offset(&self, row: usize) -> u64 {
        (VECTORS_MAGIC.len() + 8 + self.name.len() + row * self.record_bytes()) as u64
    }

    fn push(&mut self, key: Key, code: &Code) {
        self.rows.insert(key, self.factors.len() as u32);
        self.factors.push(code.factor);
        self.codes.extend(&code.codes);
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.rows.contains_key(key)
    }

    pub(super) fn row(&self, key: &Key) -> Option<u32> {
        self.rows.get(key).copied()
    }

    /// Keeps vectors; they are in the file when it returns.
    pub(super) fn add(&mut self, keys: &[Key], made: &[Vec<f32>]) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let first = self.factors.len();
        for (key, vector) in keys.iter().zip(made) {
            if vector.len() != self.dimensions {
                return Err(Error::BadInput(format!(
                    "a vector of {} has not {} numbers",
                    self.name, self.dimensions
                )));
            }
            let code = Code::of(vector);
            put_record(&mut bytes, key, &code);
            self.push(*key, &code);
        }
        self.file.write_all_at(&bytes, self.offset(first)).map_err(|e| Error::io(&self.path, e))
    }

    /// Writes the vectors that are asked for into a new file, if enough of them are not.
    pub(super) fn squeeze(&mut self, used: &HashSet<Key>) -> Result<(), Error> {
        let unused = self.factors.len().saturating_sub(used.len());
        if unused < UNUSED_MIN || unused <= used.len() {
            return Ok(());
        }
        let mut bytes = self.head();
        let mut kept: Vec<(u32, Key)> =
            self.rows.iter().filter(|(key, _)| used.contains(*key)).map(|(key, row)| (*row, *key)).collect();
        kept.sort_unstable();
        for (row, key) in kept {
            let row = row as usize;
            let codes = self.codes[row * self.dimensions..(row + 1) * self.dimensions].to_vec();
            put_record(&mut bytes, &key, &Code { factor: self.factors[row], codes });
        }
        replace(&self.path, &bytes)?;
        *self = Vectors::open(&self.path, &self.name, self.dimensions)?;
        Ok(())
    }

    /// The cosine of each row with a vector.
    pub(super) fn cosines(&self, query: &[f32]) -> Vec<f32> {
        let query = Code::of(query);
        let dot = crate::recall::dot_of_this_machine();
        let rows = self.codes.chunks_exact(self.dimensions.max(1)).zip(&self.factors);
        rows.map(|(row, factor)| dot(&query.codes, row) as f32 * factor * query.factor).collect()
    }
}

fn put_record(to: &mut Vec<u8>, key: &Key, code: &Code) {
    let start = to.len();
    to.extend(key);
    code.write(to);
    let sum = crc32c::crc32c(&to[start..]);
    to.extend(sum.to_le_bytes());
}

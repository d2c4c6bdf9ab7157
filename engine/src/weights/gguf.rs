//! Opens GGUF files: maps them, checks everything that can be checked without reading the weights, and hands
//! out matrices that point into the map.
//!
//! Candle reads the header. Because a header is a stranger's bytes, [`outline`] walks over it first and
//! refuses what would make a reader panic or allocate more than the file justifies; it also names the first
//! tensor whose type has no kernel, where candle would refuse the file without saying which.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::{Content, Value};
use memmap2::Mmap;

use super::{Bytes, Kind, Matrix};
use crate::Error;

/// Values of all metadata arrays together. Real files have under a million (three per token of the
/// vocabulary); each takes 32 bytes once read, so this bounds them to 128 MiB.
const METADATA_VALUES_MAX: u64 = 1 << 22;
/// Tensors in one file. The largest models known have about ten thousand.
const TENSORS_MAX: u64 = 1 << 17;
/// Metadata entries in one file. Real files have under a hundred.
const METADATA_ENTRIES_MAX: u64 = 1 << 16;
/// Bytes of one string. Chat templates are the longest, with tens of kilobytes.
const STRING_BYTES_MAX: u64 = 1 << 24;
/// How deep arrays may be nested. Real files nest none.
const ARRAY_DEPTH_MAX: u32 = 4;
/// Dimensions of one tensor, the format's own limit.
const DIMENSIONS_MAX: u32 = 4;

/// What a file says about itself, by key.
type Metadata = HashMap<String, Value>;

/// An open GGUF file.
pub(crate) struct Gguf {
    path: PathBuf,
    map: Arc<Mmap>,
    metadata: Metadata,
    tensors: BTreeMap<String, Place>,
    /// The tensors somebody asked for, so that what nobody asked for can be named.
    used: RefCell<BTreeSet<String>>,
}

/// Where a tensor lies and what it holds.
struct Place {
    start: usize,
    bytes: usize,
    /// Outermost first.
    shape: Vec<usize>,
    kind: Kind,
}

impl Gguf {
    /// Maps the file at `path` and checks its header and the place of every tensor. `know` says whether a
    /// model family is supported; it is asked before types are judged, so that a file of an unknown family
    /// is refused for its family.
    pub(crate) fn open(path: &Path, know: impl Fn(&str) -> Result<(), Error>) -> Result<Gguf, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.is_dir() {
            return Err(Error::NotGguf { path: path.to_owned(), why: "it is a folder".into() });
        }
        if file.metadata().map_err(io)?.len() < 4 {
            return Err(Error::NotGguf { path: path.to_owned(), why: "it is shorter than 4 bytes".into() });
        }
        // SAFETY: the map is read-only and lives as long as the weights. Whoever shortens the file while it
        // is mapped takes the process down, as with every mapped file; nothing here writes to it.
        // WHY: weights are shared with the page cache, so a model takes its file's size once and opens in
        // the time its pages take to be read.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(io)?);

        let outline = outline(&map).map_err(|trouble| trouble.at(path))?;
        match &outline.architecture {
            Some(architecture) => know(architecture)?,
            None => return Err(bad(path, "its header has no `general.architecture`")),
        }
        if let Some((name, number)) = outline.strange {
            return Err(Error::Tensor { name, why: format!("type {number} has no kernel yet") });
        }
        let content = Content::read(&mut Cursor::new(&map[..])).map_err(|e| bad(path, e))?;
        if content.tensor_infos.len() as u64 != outline.tensors {
            return Err(bad(path, "two tensors have the same name"));
        }

        let mut tensors = BTreeMap::new();
        for (name, info) in content.tensor_infos {
            let tensor = |why: String| Error::Tensor { name: name.clone(), why };
            let kind = Kind::from_candle(info.ggml_dtype)
                .ok_or_else(|| tensor(format!("type {:?} has no kernel", info.ggml_dtype)))?;
            let shape = info.shape.dims().to_vec();
            let columns = shape.last().copied().unwrap_or(1);
            if !columns.is_multiple_of(kind.block()) {
                return Err(tensor(format!(
                    "its rows of {columns} are no whole number of {} blocks",
                    kind.name()
                )));
            }
            let (bytes, end) = shape
                .iter()
                .try_fold(1_u64, |product, &n| product.checked_mul(n as u64))
                .and_then(|n| (n / kind.block() as u64).checked_mul(kind.block_bytes() as u64))
                .and_then(|bytes| {
                    let end = content.tensor_data_offset.checked_add(info.offset)?.checked_add(bytes)?;
                    Some((bytes, end))
                })
                .ok_or_else(|| tensor(format!("its shape {shape:?} is too large for any file")))?;
            if end > map.len() as u64 {
                return Err(Error::Truncated {
                    path: path.to_owned(),
                    what: format!("tensor `{name}`"),
                    missing: end - map.len() as u64,
                });
            }
            let start = (end - bytes) as usize;
            tensors.insert(name, Place { start, bytes: bytes as usize, shape, kind });
        }
        Ok(Gguf {
            path: path.to_owned(),
            map,
            metadata: content.metadata,
            tensors,
            used: RefCell::new(BTreeSet::new()),
        })
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The mapped file, to be read ahead of use.
    pub(crate) fn map(&self) -> &Arc<Mmap> {
        &self.map
    }

    /// How many weights all tensors have together.
    pub(crate) fn parameters(&self) -> u64 {
        self.tensors.values().map(|place| place.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// The kind that most bytes are stored in.
    pub(crate) fn quantisation(&self) -> &'static str {
        let mut bytes = BTreeMap::new();
        for place in self.tensors.values() {
            *bytes.entry(place.kind).or_insert(0) += place.bytes;
        }
        bytes.into_iter().max_by_key(|&(_, bytes)| bytes).map_or("none", |(kind, _)| kind.name())
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor, outermost dimension first.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], Error> {
        Ok(&self.place(name)?.shape)
    }

    /// The matrix of this name, which must have this shape.
    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, Error> {
        let place = self.place(name)?;
        self.expect_shape(name, &[rows, columns])?;
        let bytes: Bytes = self.map.clone();
        Ok(Matrix::new(bytes, place.start, rows, columns, place.kind))
    }

    /// The vector of this name, which must have this length, as f32.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let place = self.place(name)?;
        self.expect_shape(name, &[len])?;
        let bytes = &self.map[place.start..place.start + place.bytes];
        let mut values = vec![0.0; len];
        crate::kernels::plain::dequantise(place.kind, bytes, &mut values);
        Ok(values)
    }

    /// The error for metadata that is missing or contradicts itself.
    pub(crate) fn bad(&self, why: impl ToString) -> Error {
        bad(&self.path, why)
    }

    /// The first tensor that nobody has asked for: a part of the model that would be left out silently.
    pub(crate) fn unused(&self) -> Option<&str> {
        let used = self.used.borrow();
        self.tensors.keys().find(|name| !used.contains(*name)).map(String::as_str)
    }

    fn place(&self, name: &str) -> Result<&Place, Error> {
        self.used.borrow_mut().insert(name.to_owned());
        self.tensors.get(name).ok_or_else(|| Error::Tensor {
            name: name.to_owned(),
            why: format!("is missing from {}", self.path.display()),
        })
    }

    fn expect_shape(&self, name: &str, expected: &[usize]) -> Result<(), Error> {
        let found = self.shape(name)?;
        if found == expected {
            return Ok(());
        }
        Err(Error::Tensor {
            name: name.to_owned(),
            why: format!("has shape {found:?} where the model's description asks for {expected:?}"),
        })
    }

    /// A whole number from the metadata, whichever integer type it is stored in.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let number = match *value {
            Value::I8(n) => u64::try_from(n).ok(),
            Value::I16(n) => u64::try_from(n).ok(),
            Value::I32(n) => u64::try_from(n).ok(),
            Value::I64(n) => u64::try_from(n).ok(),
            _ => value.to_u64().ok(),
        };
        number.map(Some).ok_or_else(|| self.bad(format!("`{key}` is no whole number")))
    }

    /// A real number from the metadata.
    pub(crate) fn real(&self, key: &str) -> Result<Option<f32>, Error> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let real = match *value {
            Value::F32(x) => x,
            Value::F64(x) => x as f32,
            _ => return Err(self.bad(format!("`{key}` is no real number"))),
        };
        if real.is_finite() { Ok(Some(real)) } else { Err(self.bad(format!("`{key}` is not finite"))) }
    }

    /// A text from the metadata.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(|value| value.to_string().ok()).map(String::as_str)
    }
}

fn bad(path: &Path, why: impl ToString) -> Error {
    Error::BadModel { path: path.to_owned(), why: why.to_string() }
}

/// What a walk over the header finds.
struct Outline {
    architecture: Option<String>,
    tensors: u64,
    /// The first tensor whose type has no kernel, and the type's number.
    strange: Option<(String, u32)>,
}

/// Why a header was refused.
enum Trouble {
    NotGguf(String),
    Truncated { what: String, missing: u64 },
    Bad(String),
}

impl Trouble {
    fn at(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Trouble::NotGguf(why) => Error::NotGguf { path, why },
            Trouble::Truncated { what, missing } => Error::Truncated { path, what, missing },
            Trouble::Bad(why) => Error::BadModel { path, why },
        }
    }
}

/// Walks over a header without keeping anything, and refuses what no honest file has.
fn outline(file: &[u8]) -> Result<Outline, Trouble> {
    let mut walk = Walk { file, at: 0, values: 0 };
    let magic = walk.take(4, "the magic number")?;
    if magic != b"GGUF" {
        return Err(Trouble::NotGguf(format!("it starts with {:?}", String::from_utf8_lossy(magic))));
    }
    match walk.u32("the version")? {
        2 | 3 => {}
        other if matches!(other.swap_bytes(), 1..=3) => {
            return Err(Trouble::Bad("it is big-endian, which is not supported".into()));
        }
        other => return Err(Trouble::Bad(format!("its version {other} is not supported, only 2 and 3"))),
    }
    let tensors = walk.u64("the number of tensors")?;
    let entries = walk.u64("the number of metadata entries")?;
    if tensors > TENSORS_MAX || entries > METADATA_ENTRIES_MAX {
        return Err(Trouble::Bad(format!("it announces {tensors} tensors and {entries} metadata entries")));
    }

    let mut architecture = None;
    for _ in 0..entries {
        let key = walk.text("a metadata key")?;
        let kind = walk.u32(key)?;
        let start = walk.at;
        walk.value(kind, key, 0)?;
        if key == "general.architecture" && kind == 8 {
            architecture = Some(String::from_utf8_lossy(&file[start + 8..walk.at]).into_owned());
        }
        if key == "general.alignment" {
            // The readers of this value divide by it.
            let bytes = &file[start..walk.at];
            let alignment = bytes.iter().rev().fold(0_u64, |sum, &b| (sum << 8) | u64::from(b));
            if !(4..=5).contains(&kind) || !alignment.is_power_of_two() || alignment > 1 << 20 {
                return Err(Trouble::Bad("`general.alignment` is no power of two".into()));
            }
        }
    }
    let mut strange = None;
    for _ in 0..tensors {
        let name = walk.text("a tensor's name")?;
        let dimensions = walk.u32(name)?;
        if dimensions > DIMENSIONS_MAX {
            return Err(Trouble::Bad(format!("tensor `{name}` has {dimensions} dimensions")));
        }
        walk.take(8 * u64::from(dimensions), name)?;
        let kind = walk.u32(name)?;
        walk.u64(name)?;
        if Kind::from_gguf(kind).is_none() && strange.is_none() {
            strange = Some((name.to_owned(), kind));
        }
    }
    Ok(Outline { architecture, tensors, strange })
}

/// A place in a header.
struct Walk<'a> {
    file: &'a [u8],
    at: usize,
    values: u64,
}

impl<'a> Walk<'a> {
    fn take(&mut self, bytes: u64, what: &str) -> Result<&'a [u8], Trouble> {
        let left = (self.file.len() - self.at) as u64;
        if bytes > left {
            return Err(Trouble::Truncated { what: format!("the header ({what})"), missing: bytes - left });
        }
        let taken = &self.file[self.at..self.at + bytes as usize];
        self.at += bytes as usize;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Trouble> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Trouble> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], Trouble> {
        let len = self.u64(what)?;
        if len > STRING_BYTES_MAX {
            return Err(Trouble::Bad(format!("{what} holds a text of {len} bytes")));
        }
        self.take(len, what)
    }

    /// A name or key, which is quoted in errors and must therefore be readable.
    fn text(&mut self, what: &str) -> Result<&'a str, Trouble> {
        let bytes = self.string(what)?;
        std::str::from_utf8(bytes).map_err(|_| Trouble::Bad(format!("{what} is not UTF-8")))
    }

    fn value(&mut self, kind: u32, key: &str, depth: u32) -> Result<(), Trouble> {
        match fixed_bytes(kind) {
            Some(bytes) => {
                self.take(bytes, key)?;
            }
            None if kind == 8 => {
                self.string(key)?;
            }
            None if kind == 9 => {
                let inner = self.u32(key)?;
                let count = self.u64(key)?;
                self.values = self.values.saturating_add(count);
                if self.values > METADATA_VALUES_MAX || depth >= ARRAY_DEPTH_MAX {
                    return Err(Trouble::Bad(format!("`{key}` has too many values")));
                }
                match fixed_bytes(inner) {
                    Some(bytes) => {
                        self.take(bytes * count, key)?;
                    }
                    None => {
                        for _ in 0..count {
                            self.value(inner, key, depth + 1)?;
                        }
                    }
                }
            }
            None => return Err(Trouble::Bad(format!("`{key}` has the unknown value type {kind}"))),
        }
        Ok(())
    }
}

/// The bytes of a value whose type (a number of the format) has one size.
fn fixed_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

//! Reads the header of a GGUF file.
//!
//! It is a stranger's bytes: every length in it is held against the file's before anything is allocated, and what no honest
//! file has is refused. Metadata is kept in candle's type, which its writer takes too.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

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
/// Where tensors begin, if a file does not say otherwise: at multiples of this many bytes.
const ALIGNMENT: u64 = 32;

/// What a file says about itself, by key.
pub(super) type Metadata = HashMap<String, Value>;

/// What a header says.
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Entry>,
    /// Where the tensors' bytes begin.
    pub(super) tensors_at: u64,
}

/// A tensor as a header announces it.
pub(super) struct Entry {
    pub(super) name: String,
    /// Outermost first.
    pub(super) shape: Vec<u64>,
    /// What it holds, by the format's numbers.
    pub(super) number: u32,
    /// From where the tensors' bytes begin.
    pub(super) offset: u64,
}

/// Why a header was refused.
pub(super) enum Trouble {
    NotGguf(String),
    Truncated { what: String, missing: u64 },
    Bad(String),
}

impl Trouble {
    pub(super) fn at(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Trouble::NotGguf(why) => Error::NotGguf { path, why },
            Trouble::Truncated { what, missing } => Error::Truncated { path, what, missing },
            Trouble::Bad(why) => Error::BadModel { path, why },
        }
    }
}

/// Reads a header, and refuses what no honest file has.
pub(super) fn header(file: &[u8]) -> Result<Header, Trouble> {
    let mut walk = Walk { file, at: 0, values: 0 };
    let (tensors, entries) = walk.begin()?;
    let mut metadata = Metadata::new();
    for _ in 0..entries {
        let (key, value) = walk.entry()?;
        metadata.insert(key.to_owned(), value);
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(&Value::U32(alignment)) => u64::from(alignment),
        Some(&Value::I32(alignment)) => u64::try_from(alignment).unwrap_or(0),
        Some(_) => 0,
    };
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(Trouble::Bad("`general.alignment` is no power of two".into()));
    }
    let tensors = (0..tensors)
        .map(|_| {
            let name = walk.name("a tensor's name")?;
            let dimensions = walk.u32(name)?;
            if dimensions > DIMENSIONS_MAX {
                return Err(Trouble::Bad(format!("tensor `{name}` has {dimensions} dimensions")));
            }
            let mut shape = (0..dimensions).map(|_| walk.u64(name)).collect::<Result<Vec<_>, _>>()?;
            shape.reverse();
            Ok(Entry { name: name.to_owned(), shape, number: walk.u32(name)?, offset: walk.u64(name)? })
        })
        .collect::<Result<_, Trouble>>()?;
    Ok(Header { metadata, tensors, tensors_at: (walk.at as u64).next_multiple_of(alignment) })
}

/// A place in a header.
struct Walk<'a> {
    file: &'a [u8],
    at: usize,
    values: u64,
}

impl<'a> Walk<'a> {
    /// Reads up to the first metadata entry: how many tensors and how many entries there are.
    fn begin(&mut self) -> Result<(u64, u64), Trouble> {
        let magic = self.take(4, "the magic number")?;
        if magic != b"GGUF" {
            return Err(Trouble::NotGguf(format!("it starts with {:?}", String::from_utf8_lossy(magic))));
        }
        match self.u32("the version")? {
            2 | 3 => {}
            other if matches!(other.swap_bytes(), 1..=3) => {
                return Err(Trouble::Bad("it is big-endian, which is not supported".into()));
            }
            other => return Err(Trouble::Bad(format!("its version {other} is not supported, only 2 and 3"))),
        }
        let tensors = self.u64("the number of tensors")?;
        let entries = self.u64("the number of metadata entries")?;
        if tensors > TENSORS_MAX || entries > METADATA_ENTRIES_MAX {
            return Err(Trouble::Bad(format!(
                "it announces {tensors} tensors and {entries} metadata entries"
            )));
        }
        Ok((tensors, entries))
    }

    /// Reads a metadata entry.
    fn entry(&mut self) -> Result<(&'a str, Value), Trouble> {
        let key = self.name("a metadata key")?;
        let kind = self.u32(key)?;
        Ok((key, self.value(kind, key, 0)?))
    }

    fn take(&mut self, bytes: u64, what: &str) -> Result<&'a [u8], Trouble> {
        let left = (self.file.len() - self.at) as u64;
        if bytes > left {
            return Err(Trouble::Truncated { what: format!("the header ({what})"), missing: bytes - left });
        }
        let taken = &self.file[self.at..self.at + bytes as usize];
        self.at += bytes as usize;
        Ok(taken)
    }

    /// As many bytes as a number has.
    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Trouble> {
        Ok(self.take(N as u64, what)?.try_into().expect("as many bytes as asked for were taken"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Trouble> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Trouble> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], Trouble> {
        let len = self.u64(what)?;
        if len > STRING_BYTES_MAX {
            return Err(Trouble::Bad(format!("{what} holds a text of {len} bytes")));
        }
        let mut bytes = self.take(len, what)?;
        // Some writers leave the zeros that end a text in C.
        while let [rest @ .., 0] = bytes {
            bytes = rest;
        }
        Ok(bytes)
    }

    /// A name or key, which is quoted in errors and must therefore be readable.
    fn name(&mut self, what: &str) -> Result<&'a str, Trouble> {
        let bytes = self.string(what)?;
        std::str::from_utf8(bytes).map_err(|_| Trouble::Bad(format!("{what} is not UTF-8")))
    }

    /// A value of the type with this number.
    fn value(&mut self, number: u32, key: &str, depth: u32) -> Result<Value, Trouble> {
        Ok(match number {
            0 => Value::U8(u8::from_le_bytes(self.bytes(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.bytes(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes(key)?)),
            4 => Value::U32(u32::from_le_bytes(self.bytes(key)?)),
            5 => Value::I32(i32::from_le_bytes(self.bytes(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes(key)?)),
            7 => match self.bytes(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(Trouble::Bad(format!("`{key}` is {other}, neither true nor false")));
                }
            },
            // Vocabularies hold tokens that are no whole characters.
            8 => Value::String(String::from_utf8_lossy(self.string(key)?).into_owned()),
            9 => {
                let inner = self.u32(key)?;
                let count = self.u64(key)?;
                self.values = self.values.saturating_add(count);
                if self.values > METADATA_VALUES_MAX || depth >= ARRAY_DEPTH_MAX {
                    return Err(Trouble::Bad(format!("`{key}` has too many values")));
                }
                // Grows as values are found, not as they are announced.
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(inner, key, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::U64(u64::from_le_bytes(self.bytes(key)?)),
            11 => Value::I64(i64::from_le_bytes(self.bytes(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes(key)?)),
            _ => return Err(Trouble::Bad(format!("`{key}` has the unknown value type {number}"))),
        })
    }
}

/// The family that the first bytes of a file name, if they come so far.
pub(super) fn family(head: &[u8]) -> Option<String> {
    let mut walk = Walk { file: head, at: 0, values: 0 };
    let (_, entries) = walk.begin().ok()?;
    for _ in 0..entries {
        let (key, value) = walk.entry().ok()?;
        if let ("general.architecture", Value::String(family)) = (key, value) {
            return Some(family);
        }
    }
    None
}

/// A whole number, whichever integer type it is stored in.
pub(super) fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::I8(n) => u64::try_from(n).ok(),
        Value::I16(n) => u64::try_from(n).ok(),
        Value::I32(n) => u64::try_from(n).ok(),
        Value::I64(n) => u64::try_from(n).ok(),
        _ => value.to_u64().ok(),
    }
}

//! Opens GGUF files: maps them, checks everything that can be checked without reading the weights, and hands
//! out matrices that point into the maps.
//!
//! A model may be split over several files, as llama.cpp writes them: `NAME-00001-of-00003.gguf` and so on. Each has a header
//! of its own, with its number (`split.no`, from 0 on), their count (`split.count`) and its tensors; all that is said of
//! the model stands in the first.
//!
//! The layer that guesses ahead may lie in a file of its own beside the model, `mtp-NAME.gguf`: llama.cpp's converter writes
//! DeepSeek V4's so. Of that file only this layer is taken.

mod header;
mod parts;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::Value;
use memmap2::Mmap;

use super::{Bytes, Kind, MappedFile, Matrix, Rows, Table, TensorSize, quant, sound};
use crate::Error;
use header::{Entry, Header, Metadata, whole};
use parts::{Part, Split, beside};

/// An open GGUF file, or several that are one model.
pub(crate) struct Gguf {
    /// In the order of the parts, as the maps and the files.
    paths: Vec<PathBuf>,
    maps: Vec<Arc<Mmap>>,
    files: Vec<Arc<File>>,
    metadata: Metadata,
    tensors: BTreeMap<String, Place>,
    /// The tensors somebody asked for, so that what nobody asked for can be named.
    used: RefCell<BTreeSet<String>>,
    /// The tensors whose rows are read by need, not through the map.
    tables: RefCell<BTreeSet<String>>,
}

/// Where a tensor lies and what it holds.
struct Place {
    part: usize,
    start: usize,
    bytes: usize,
    /// Outermost first.
    shape: Vec<usize>,
    stored: Stored,
}

/// What a tensor holds.
#[derive(Clone, Copy)]
enum Stored {
    Weights(Kind),
    /// Whole numbers of 32 bits.
    Integers,
}

impl Stored {
    /// What has this number in GGUF files.
    fn from_gguf(number: u32) -> Option<Stored> {
        if number == 26 { Some(Stored::Integers) } else { Kind::from_gguf(number).map(Stored::Weights) }
    }

    /// How many numbers one block holds, and how many bytes it takes.
    fn block(self) -> (u64, u64) {
        match self {
            Stored::Weights(kind) => (kind.block() as u64, kind.block_bytes() as u64),
            Stored::Integers => (1, 4),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Stored::Weights(kind) => kind.name(),
            Stored::Integers => "I32",
        }
    }
}

impl Gguf {
    /// Maps the file at `path`, and the other parts if it is one of several, and checks the headers and the place of every
    /// tensor. `know` says whether a model family is supported; it is asked before types are judged, so that a file of an
    /// unknown family is refused for its family.
    pub(crate) fn open(path: &Path, know: impl Fn(&str) -> Result<(), Error>) -> Result<Gguf, Error> {
        let mut part = Part::open(path)?;
        let split = Split::read(&part.header.metadata).map_err(|why| bad(path, why))?;
        let paths = match &split {
            Some(split) => split.paths(path).map_err(|why| bad(path, why))?,
            None => vec![path.to_owned()],
        };
        // Any part may be named, but only the first says what the model is.
        if split.is_some_and(|split| split.number > 0) {
            part = Part::open_of(&paths, 0)?;
        }
        let header = part.header;
        match header.metadata.get("general.architecture") {
            Some(Value::String(architecture)) => know(architecture)?,
            _ => return Err(bad(&paths[0], "its header has no `general.architecture`")),
        }
        let Header { metadata, tensors, tensors_at } = header;
        let mut gguf = Gguf {
            paths: Vec::new(),
            maps: vec![part.map],
            files: vec![part.file],
            metadata,
            tensors: BTreeMap::new(),
            used: RefCell::default(),
            tables: RefCell::default(),
        };
        gguf.take(&paths[0], tensors, tensors_at)?;
        for number in 1..paths.len() {
            let Part { map, file, header } = Part::open_of(&paths, number)?;
            gguf.maps.push(map);
            gguf.files.push(file);
            gguf.take(&paths[number], header.tensors, header.tensors_at)?;
        }
        let there = gguf.tensors.len() as u64;
        if let Some(count) = split.and_then(|split| split.tensors).filter(|count| *count != there) {
            return Err(bad(
                &paths[0],
                format!("its parts have {there} tensors together and should have {count}"),
            ));
        }
        gguf.paths = paths;
        gguf.take_ahead()?;
        Ok(gguf)
    }

    /// Takes in the layer that guesses ahead if it lies in a file beside the model's that belongs to it.
    fn take_ahead(&mut self) -> Result<(), Error> {
        let Some(path) = beside(&self.paths[0], self.paths.len()).filter(|path| path.is_file()) else {
            return Ok(());
        };
        let layers = |metadata: &Metadata| {
            let Some(Value::String(family)) = metadata.get("general.architecture") else { return None };
            let number = |key: &str| metadata.get(&format!("{family}.{key}")).and_then(whole);
            let ahead = number("nextn_predict_layers").unwrap_or(0);
            Some((family.clone(), number("block_count")?.checked_sub(ahead)?))
        };
        let Part { map, file, header } = Part::open(&path)?;
        let Some((family, count)) =
            layers(&self.metadata).filter(|own| layers(&header.metadata).as_ref() == Some(own))
        else {
            tracing::warn!(file = %path.display(), "what guesses ahead there is not of this model");
            return Ok(());
        };
        let front = format!("blk.{count}.");
        if self.tensors.keys().any(|name| name.starts_with(&front)) {
            return Ok(());
        }
        let mut tensors = header.tensors;
        tensors.retain_mut(|tensor| {
            // What stands behind the layer bears the model's names there.
            if let Some(part) = tensor.name.strip_prefix("output_hc_") {
                tensor.name = format!("{front}nextn.hc_head_{part}");
            }
            tensor.name.starts_with(&front)
        });
        for key in ["block_count", "nextn_predict_layers"].map(|key| format!("{family}.{key}")) {
            if let Some(value) = header.metadata.get(&key) {
                self.metadata.insert(key, value.clone());
            }
        }
        self.maps.push(map);
        self.files.push(file);
        self.take(&path, tensors, header.tensors_at)?;
        self.paths.push(path);
        Ok(())
    }

    /// Takes in the tensors that the part mapped last announces.
    fn take(&mut self, path: &Path, tensors: Vec<Entry>, tensors_at: u64) -> Result<(), Error> {
        let part = self.maps.len() - 1;
        let map = &self.maps[part];
        for Entry { name, shape, number, offset } in tensors {
            let tensor = |why: String| Error::Tensor { name: name.clone(), why };
            let stored = Stored::from_gguf(number)
                .ok_or_else(|| tensor(format!("type {number} has no kernel yet")))?;
            let (block, block_bytes) = stored.block();
            let columns = shape.last().copied().unwrap_or(1);
            if !columns.is_multiple_of(block) {
                return Err(tensor(format!(
                    "its rows of {columns} are no whole number of {} blocks",
                    stored.name()
                )));
            }
            let (bytes, end) = shape
                .iter()
                .try_fold(1_u64, |product, &n| product.checked_mul(n))
                .and_then(|n| (n / block).checked_mul(block_bytes))
                .and_then(|bytes| {
                    let end = tensors_at.checked_add(offset)?.checked_add(bytes)?;
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
            let shape = shape.into_iter().map(|n| n as usize).collect();
            let place = Place { part, start, bytes: bytes as usize, shape, stored };
            if self.tensors.insert(name, place).is_some() {
                return Err(bad(path, "two tensors have the same name"));
            }
        }
        Ok(())
    }

    /// The family that the first bytes of a file name, if they come so far.
    pub(crate) fn family(head: &[u8]) -> Option<String> {
        header::family(head)
    }

    /// The file that holds most.
    pub(crate) fn largest(&self) -> &Path {
        let parts = self.paths.iter().zip(&self.maps);
        parts.max_by_key(|(_, map)| map.len()).map(|(path, _)| path).expect("a model has a file")
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.len() as u64).sum()
    }

    /// The mapped files, to be read ahead of use.
    pub(crate) fn maps(&self) -> &[Arc<Mmap>] {
        &self.maps
    }

    /// The mapped files with the files themselves.
    pub(crate) fn files(&self) -> Vec<MappedFile> {
        self.maps.iter().cloned().zip(self.files.iter().cloned()).collect()
    }

    /// How many weights all tensors have together.
    pub(crate) fn parameters(&self) -> u64 {
        self.weights().map(|(place, _)| place.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// The kind that most bytes are stored in.
    pub(crate) fn quantisation(&self) -> &'static str {
        let mut bytes = BTreeMap::new();
        for (place, kind) in self.weights() {
            *bytes.entry(kind).or_insert(0) += place.bytes;
        }
        bytes.into_iter().max_by_key(|&(_, bytes)| bytes).map_or("none", |(kind, _)| kind.name())
    }

    /// What every tensor takes.
    pub(crate) fn sizes(&self) -> Vec<TensorSize> {
        let sizes = self.tensors.iter().map(|(name, place)| {
            let (weights, kind) = match place.stored {
                Stored::Weights(kind) => (place.shape.iter().map(|&n| n as u64).product(), Some(kind)),
                Stored::Integers => (0, None),
            };
            TensorSize { name: name.clone(), weights, bytes: place.bytes as u64, kind }
        });
        sizes.collect()
    }

    /// All weights but those of tables, as they lie in the file.
    pub(crate) fn lying(&self) -> Vec<sound::Stored<'_>> {
        let tables = self.tables.borrow();
        let lying = self.tensors.iter().filter_map(|(name, place)| {
            let Stored::Weights(kind) = place.stored else { return None };
            let bytes = self.bytes(place);
            (!tables.contains(name)).then_some(sound::Stored { name, kind, bytes })
        });
        lying.collect()
    }

    fn weights(&self) -> impl Iterator<Item = (&Place, Kind)> {
        self.tensors.values().filter_map(|place| match place.stored {
            Stored::Weights(kind) => Some((place, kind)),
            Stored::Integers => None,
        })
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
        let (place, kind) = self.stored(name, &[rows, columns])?;
        let bytes: Bytes = self.maps[place.part].clone();
        Ok(Matrix::new(bytes, place.start, rows, columns, kind))
    }

    /// The matrices that lie one after another in the tensor of this name, [count, rows, columns].
    pub(crate) fn matrices(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Vec<Matrix>, Error> {
        let (place, kind) = self.stored(name, &[count, rows, columns])?;
        let one = place.bytes / count.max(1);
        let matrix = |i| {
            let bytes: Bytes = self.maps[place.part].clone();
            Matrix::new(bytes, place.start + i * one, rows, columns, kind)
        };
        Ok((0..count).map(matrix).collect())
    }

    /// The tensor of this name, which must have this shape, as f32.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (place, kind) = self.stored(name, shape)?;
        let bytes = self.bytes(place);
        let mut values = vec![0.0; shape.iter().product()];
        quant::dequantise(kind, bytes, &mut values);
        Ok(values)
    }

    /// The tensor of whole numbers of this name, which must have this shape.
    pub(crate) fn integers(&self, name: &str, shape: &[usize]) -> Result<Vec<i32>, Error> {
        let place = self.place(name)?;
        self.expect_shape(name, shape)?;
        match place.stored {
            Stored::Integers => {
                let bytes = self.bytes(place);
                Ok(bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect())
            }
            Stored::Weights(kind) => Err(Error::Tensor {
                name: name.to_owned(),
                why: format!("holds {} weights where whole numbers (I32) are expected", kind.name()),
            }),
        }
    }

    /// The table of this name, whose rows have this many numbers.
    pub(crate) fn table(&self, name: &str, width: usize, held_bytes_max: usize) -> Result<Table, Error> {
        let rows = self.place(name)?.shape.first().copied().unwrap_or(0);
        let (place, kind) = self.stored(name, &[rows, width])?;
        self.tables.borrow_mut().insert(name.to_owned());
        let (path, file) = (self.paths[place.part].clone(), Arc::clone(&self.files[place.part]));
        let start = place.start as u64;
        let stored = super::Stored { path, file, start };
        Table::open(name, rows as u64, width, stored, Rows::Blocks(kind), held_bytes_max)
    }

    /// Takes note that this tensor is known and left alone on purpose.
    pub(crate) fn pass_over(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    /// The names of all tensors, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// The error for metadata that is missing or contradicts itself.
    pub(crate) fn bad(&self, why: impl ToString) -> Error {
        bad(&self.paths[0], why)
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
            why: format!("is missing from {}", self.paths[0].display()),
        })
    }

    fn bytes(&self, place: &Place) -> &[u8] {
        &self.maps[place.part][place.start..][..place.bytes]
    }

    /// The place and kind of the weights of this name, which must have this shape.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<(&Place, Kind), Error> {
        let place = self.place(name)?;
        self.expect_shape(name, shape)?;
        match place.stored {
            Stored::Weights(kind) => Ok((place, kind)),
            Stored::Integers => Err(Error::Tensor {
                name: name.to_owned(),
                why: "holds whole numbers where weights are expected".into(),
            }),
        }
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
        whole(value).map(Some).ok_or_else(|| self.bad(format!("`{key}` is no whole number")))
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

    /// A list of whole numbers or truth values (0 or 1) from the metadata; `None` if there is none, or one number.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<u64>>, Error> {
        let Some(Value::Array(values)) = self.metadata.get(key) else { return Ok(None) };
        let number = |value: &Value| match *value {
            Value::Bool(b) => Some(u64::from(b)),
            _ => whole(value),
        };
        let numbers: Option<Vec<u64>> = values.iter().map(number).collect();
        numbers.map(Some).ok_or_else(|| self.bad(format!("`{key}` is no list of whole numbers")))
    }

    /// A list of real numbers from the metadata; `None` if there is none, or one number.
    pub(crate) fn reals(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(Value::Array(values)) = self.metadata.get(key) else { return Ok(None) };
        let real = |value: &Value| match *value {
            Value::F32(x) => Some(x).filter(|x| x.is_finite()),
            Value::F64(x) => Some(x as f32).filter(|x| x.is_finite()),
            _ => None,
        };
        let reals: Option<Vec<f32>> = values.iter().map(real).collect();
        reals.map(Some).ok_or_else(|| self.bad(format!("`{key}` is no list of finite real numbers")))
    }

    /// A truth value from the metadata.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => Err(self.bad(format!("`{key}` is neither true nor false"))),
        }
    }

    /// A text from the metadata.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(|value| value.to_string().ok()).map(String::as_str)
    }
}

fn bad(path: &Path, why: impl ToString) -> Error {
    Error::BadModel { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;

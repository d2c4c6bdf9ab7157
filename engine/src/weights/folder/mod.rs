//! Opens Hugging Face folders: `config.json` and safetensors beside it, one file or many. What they say is
//! translated into the language of GGUF (`config.rs`, `names.rs`), so that a family is described once.
//!
//! Nothing is copied as long as the bytes lie as the kernels want them: matrices point into the mapped files,
//! with the scales of FP8 and FP4 weights beside them.

mod config;
mod names;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{Bytes, Kind, MappedFile, Matrix, Rows, Scale, Scales, Stored, Table, TensorSize, sound};
use crate::Error;
use config::{Config, Key};
use names::{Change, Target};

/// An open folder.
pub(crate) struct Folder {
    path: PathBuf,
    keys: BTreeMap<String, Key>,
    maps: Vec<Arc<Mmap>>,
    /// In the order of the maps.
    files: Vec<Arc<File>>,
    tensors: BTreeMap<String, Tensor>,
    /// Tensors whose rows are read by need and never mapped: where they lie, and their scales if they have some.
    tables: BTreeMap<String, (Place, Option<Place>)>,
    /// The tensors somebody asked for, so that what nobody asked for can be named.
    used: RefCell<BTreeSet<String>>,
    parameters: u64,
}

/// A tensor under the name it has in GGUF: pieces that follow one another.
struct Tensor {
    shape: Vec<usize>,
    pieces: Vec<Piece>,
    change: Change,
}

/// Rows of weights as they lie in one file, or made from such.
#[derive(Clone)]
struct Piece {
    bytes: Bytes,
    start: usize,
    rows: usize,
    columns: usize,
    store: Store,
    scales: Option<Scales>,
}

/// What a piece's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Store {
    Weights(Kind),
    I32,
    I64,
}

/// A tensor as a safetensors header has it.
#[derive(Clone)]
struct Place {
    map: usize,
    start: usize,
    end: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// The tensor that has a row for every token.
const EMBEDDING: &str = "token_embd.weight";

/// Bytes of one JSON file. Real configurations have tens of kilobytes; an index of many shards a few megabytes.
const JSON_BYTES_MAX: u64 = 64 << 20;

impl Folder {
    /// Opens the folder at `path`. `know` says whether a family is supported.
    pub(crate) fn open(path: &Path, know: impl Fn(&str) -> Result<(), Error>) -> Result<Folder, Error> {
        let (config, family) = Folder::family(path, know)?;
        let bad = |why: String| bad(path, why);
        let config = Config::new(config, family).map_err(bad)?;
        let mut keys = config.keys().map_err(bad)?;

        let (maps, files, places) = places(path)?;
        let mut gathered = Gathered::default();
        let mut tables = BTreeMap::new();
        let mut parameters = 0;
        for (name, place) in &places {
            if is_scale(name, &places) {
                continue;
            }
            let Some(target) = names::translate(family, name, &config).map_err(bad)? else { continue };
            parameters += place.shape.iter().map(|&n| n as u64).product::<u64>();
            if let Target::Table(to) = target {
                let scales = scales_of(name, &places).cloned();
                if tables.insert(to, (place.clone(), scales)).is_some() {
                    return Err(trouble(name, "there are two tensors for one table".into()));
                }
                continue;
            }
            gathered.take(name, target, &places, &maps, &config)?;
        }
        if let Some(factors) = config.rope_factors().map_err(bad)? {
            gathered.tensors.insert("rope_freqs.weight".into(), Tensor::of(&[factors.len()], &factors));
        }
        let tensors = gathered.finish(path, family, config.layers())?;
        let (asked, rows) =
            (config.vocabulary().map_err(bad)?, tensors.get(EMBEDDING).map(|tensor| tensor.shape[0]));
        if let (Some(asked), Some(rows)) = (asked, rows)
            && asked != rows as u64
        {
            let why = format!("it has {rows} rows where config.json asks for a vocabulary of {asked}");
            return Err(trouble(EMBEDDING, why));
        }
        keys.insert("general.architecture".into(), Key::Text(family.to_owned()));
        let used = RefCell::default();
        Ok(Folder { path: path.to_owned(), keys, maps, files, tensors, tables, used, parameters })
    }

    /// What the folder at `path` says of itself, and the family it is of. `know` says whether a family is supported; nothing
    /// but the configuration has to be there.
    pub(crate) fn family(
        path: &Path,
        know: impl Fn(&str) -> Result<(), Error>,
    ) -> Result<(Value, &'static str), Error> {
        let config = json(&path.join("config.json"))?;
        let model_type = config["model_type"].as_str().unwrap_or_default();
        let Some(family) = config::family(model_type) else {
            know(model_type)?;
            return Err(bad(
                path,
                format!("its config.json has the model type `{model_type}`, which is not known"),
            ));
        };
        know(family)?;
        Ok((config, family))
    }

    /// What every tensor of the folder at `path` takes, under the names its files have, whatever its family.
    pub(crate) fn sizes(path: &Path) -> Result<Vec<TensorSize>, Error> {
        let (_, _, places) = places(path)?;
        let sizes = places.iter().map(|(name, place)| {
            let numbers = place.shape.iter().map(|&n| n as u64).product();
            let (weights, kind) = match place.dtype {
                _ if is_scale(name, &places) => (0, None),
                // Two in a byte.
                Dtype::I8 | Dtype::U8 => (2 * numbers, Some(Kind::F4E2M1)),
                Dtype::F8_E4M3 => (numbers, Some(Kind::F8E4M3)),
                Dtype::BF16 => (numbers, Some(Kind::Bf16)),
                Dtype::F16 => (numbers, Some(Kind::F16)),
                Dtype::F32 => (numbers, Some(Kind::F32)),
                _ => (0, None),
            };
            TensorSize { name: name.clone(), weights, bytes: (place.end - place.start) as u64, kind }
        });
        Ok(sizes.collect())
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The mapped files, to be read ahead of use.
    pub(crate) fn maps(&self) -> &[Arc<Mmap>] {
        &self.maps
    }

    /// The mapped files with the files themselves.
    pub(crate) fn files(&self) -> Vec<MappedFile> {
        self.maps.iter().cloned().zip(self.files.iter().cloned()).collect()
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.len() as u64).sum()
    }

    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    pub(crate) fn quantisation(&self) -> &'static str {
        let mut bytes = BTreeMap::new();
        for piece in self.tensors.values().flat_map(|tensor| &tensor.pieces) {
            if let Store::Weights(kind) = piece.store {
                *bytes.entry(kind).or_insert(0) += piece.bytes_len();
            }
        }
        bytes.into_iter().max_by_key(|&(_, bytes)| bytes).map_or("none", |(kind, _)| kind.name())
    }

    /// All weights but those of tables, as they lie in the files.
    pub(crate) fn lying(&self) -> Vec<sound::Stored<'_>> {
        let pieces = self
            .tensors
            .iter()
            .flat_map(|(name, tensor)| tensor.pieces.iter().map(move |piece| (name, piece)));
        let lying = pieces.filter_map(|(name, piece)| {
            let Store::Weights(kind) = piece.store else { return None };
            let bytes: &[u8] = (*piece.bytes).as_ref();
            Some(sound::Stored { name, kind, bytes: &bytes[piece.start..][..piece.bytes_len()] })
        });
        lying.collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.tables.contains_key(name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors.keys().chain(self.tables.keys()).cloned().collect()
    }

    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], Error> {
        Ok(&self.tensor(name)?.shape)
    }

    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, Error> {
        let tensor = self.expect(name, &[rows, columns])?;
        match &tensor.pieces[..] {
            [piece] if tensor.change == Change::None => piece.matrix(name),
            _ => Ok(floats_matrix(&tensor.floats(name)?, rows, columns)),
        }
    }

    pub(crate) fn matrices(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Vec<Matrix>, Error> {
        let tensor = self.expect(name, &[count, rows, columns])?;
        tensor.pieces.iter().map(|piece| piece.matrix(name)).collect()
    }

    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.expect(name, shape)?.floats(name)
    }

    pub(crate) fn integers(&self, name: &str, shape: &[usize]) -> Result<Vec<i32>, Error> {
        let tensor = self.expect(name, shape)?;
        let mut numbers = Vec::new();
        for piece in &tensor.pieces {
            let bytes = &(*piece.bytes).as_ref()[piece.start..piece.start + piece.bytes_len()];
            match piece.store {
                Store::I32 => numbers.extend(bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b))),
                Store::I64 => {
                    for bytes in bytes.as_chunks::<8>().0 {
                        let number = i64::from_le_bytes(*bytes);
                        numbers.push(i32::try_from(number).map_err(|_| {
                            trouble(name, format!("holds {number}, which no number here can be"))
                        })?);
                    }
                }
                Store::Weights(_) => return Err(trouble(name, "holds no whole numbers".into())),
            }
        }
        Ok(numbers)
    }

    /// The table of this name, whose rows have this many numbers.
    pub(crate) fn table(&self, name: &str, width: usize, held_bytes_max: usize) -> Result<Table, Error> {
        self.used.borrow_mut().insert(name.to_owned());
        let theirs = self.theirs(name).map_or(String::new(), |theirs| format!(" (`{theirs}`)"));
        let (place, scales) = self
            .tables
            .get(name)
            .ok_or_else(|| trouble(name, format!("is missing from {}{theirs}", self.path.display())))?;
        let (shape, dtype) = (&place.shape, place.dtype);
        let rows = match shape[..] {
            [rows, columns] if columns == width => rows,
            _ => {
                let why = format!("has shape {shape:?} where rows of {width} are looked up{theirs}");
                return Err(trouble(name, why));
            }
        };
        let form = match (dtype, scales) {
            (Dtype::F32, None) => Rows::Blocks(Kind::F32),
            (Dtype::F16, None) => Rows::Blocks(Kind::F16),
            (Dtype::BF16, None) => Rows::Blocks(Kind::Bf16),
            (Dtype::F8_E4M3, Some(scales)) => match (scales.dtype, &scales.shape[..]) {
                (Dtype::F8_E8M0 | Dtype::U8, &[count, blocks])
                    if count == rows && blocks > 0 && width.is_multiple_of(blocks) =>
                {
                    Rows::Fp8 { scales: self.stored(scales), block: width / blocks }
                }
                (dtype, shape) => {
                    let why = format!("its scales of {dtype:?} and shape {shape:?} do not fit{theirs}");
                    return Err(trouble(name, why));
                }
            },
            (dtype, _) => {
                return Err(trouble(name, format!("rows of type {dtype:?} are not supported{theirs}")));
            }
        };
        Table::open(name, rows as u64, width, self.stored(place), form, held_bytes_max)
    }

    fn stored(&self, place: &Place) -> Stored {
        let file = Arc::clone(&self.files[place.map]);
        Stored { path: self.path.clone(), file, start: place.start as u64 }
    }

    pub(crate) fn pass_over(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    pub(crate) fn unused(&self) -> Option<&str> {
        let used = self.used.borrow();
        let mut names = self.tensors.keys().chain(self.tables.keys());
        names.find(|name| !used.contains(*name)).map(String::as_str)
    }

    pub(crate) fn bad(&self, why: impl ToString) -> Error {
        bad(&self.path, why)
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, Error> {
        match self.keys.get(key) {
            None | Some(Key::Numbers(_)) => Ok(None),
            Some(Key::Number(number)) => Ok(Some(*number)),
            Some(_) => Err(self.bad(format!("`{key}` is no whole number"))),
        }
    }

    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<u64>>, Error> {
        match self.keys.get(key) {
            None | Some(Key::Number(_)) => Ok(None),
            Some(Key::Numbers(numbers)) => Ok(Some(numbers.clone())),
            Some(_) => Err(self.bad(format!("`{key}` is no list of whole numbers"))),
        }
    }

    pub(crate) fn real(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Key::Real(real)) if real.is_finite() => Ok(Some(*real as f32)),
            Some(Key::Number(number)) => Ok(Some(*number as f32)),
            Some(_) => Err(self.bad(format!("`{key}` is no real number"))),
        }
    }

    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Key::Truth(truth)) => Ok(Some(*truth)),
            Some(_) => Err(self.bad(format!("`{key}` is neither true nor false"))),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.keys.get(key) {
            Some(Key::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// What the files call a tensor.
    fn theirs(&self, name: &str) -> Option<String> {
        let family = self.text("general.architecture").unwrap_or_default();
        let layers = match self.keys.get(&format!("{family}.block_count")) {
            Some(Key::Number(layers)) => usize::try_from(*layers).unwrap_or(usize::MAX),
            _ => 0,
        };
        names::theirs(family, layers, name)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.used.borrow_mut().insert(name.to_owned());
        self.tensors.get(name).ok_or_else(|| {
            let theirs = self.theirs(name).map_or(String::new(), |theirs| format!(" (`{theirs}`)"));
            trouble(name, format!("is missing from {}{theirs}", self.path.display()))
        })
    }

    fn expect(&self, name: &str, shape: &[usize]) -> Result<&Tensor, Error> {
        let tensor = self.tensor(name)?;
        if tensor.shape == shape {
            return Ok(tensor);
        }
        let theirs = self.theirs(name).map_or(String::new(), |theirs| format!("(`{theirs}`) "));
        let found = &tensor.shape;
        let why = format!("{theirs}has shape {found:?} where the model's description asks for {shape:?}");
        Err(trouble(name, why))
    }
}

/// Tensors on their way into the folder: experts that are still to be put into order.
#[derive(Default)]
struct Gathered {
    tensors: BTreeMap<String, Tensor>,
    experts: BTreeMap<String, BTreeMap<usize, Piece>>,
}

impl Gathered {
    /// Takes in the tensor that the files call `name`.
    fn take(
        &mut self,
        name: &str,
        target: Target,
        places: &BTreeMap<String, Place>,
        maps: &[Arc<Mmap>],
        config: &Config,
    ) -> Result<(), Error> {
        let place = &places[name];
        let piece = || piece(name, places, maps, config);
        match target {
            Target::Tensor(to, change) => {
                let piece = piece()?;
                let mut shape = place.shape.clone();
                if let Store::Weights(Kind::F4E2M1) = piece.store {
                    *shape.last_mut().expect("packed weights have columns") *= 2;
                }
                if change == Change::Flat {
                    // A convolution of one channel each, or a matrix of one row.
                    shape.retain(|&n| n != 1);
                }
                self.put(name, to, Tensor { shape, pieces: vec![piece], change })
            }
            Target::Expert(to, expert) => {
                if self.experts.entry(to.clone()).or_default().insert(expert, piece()?).is_some() {
                    return Err(trouble(name, "there are two tensors for one expert".into()));
                }
                Ok(())
            }
            Target::Stacked(parts) => {
                // [experts, rows, columns]: every part is some rows of each.
                let [experts, rows, columns] = place.shape[..] else {
                    return Err(trouble(name, format!("has shape {:?}, not one of experts", place.shape)));
                };
                let whole = piece()?;
                let count = parts.len();
                if !rows.is_multiple_of(count) {
                    return Err(trouble(name, format!("its {rows} rows cannot be {count} matrices")));
                }
                for (i, to) in parts.into_iter().enumerate() {
                    let part = rows / count;
                    let pieces = (0..experts).map(|e| whole.rows(e * rows + i * part, part));
                    let shape = vec![experts, part, columns];
                    self.put(name, to, Tensor { shape, pieces: pieces.collect(), change: Change::None })?;
                }
                Ok(())
            }
            Target::Turned(to) => {
                // [experts, columns, rows] as floats: turned here, once.
                let [experts, columns, rows] = place.shape[..] else {
                    return Err(trouble(name, format!("has shape {:?}, not one of experts", place.shape)));
                };
                let whole = piece()?.floats(name)?;
                let mut pieces = Vec::with_capacity(experts);
                for from in whole.chunks_exact((rows * columns).max(1)) {
                    let turned: Vec<f32> =
                        (0..rows * columns).map(|i| from[i % columns * rows + i / columns]).collect();
                    pieces.push(Piece::of(rows, columns, &turned));
                }
                self.put(
                    name,
                    to,
                    Tensor { shape: vec![experts, rows, columns], pieces, change: Change::None },
                )
            }
            Target::Packed(to) => {
                // MXFP4: [experts, rows, blocks, 16] bytes, and [experts, rows, blocks] scales beside them.
                let scales = name.strip_suffix("_blocks").map(|stem| format!("{stem}_scales"));
                let scales = scales.and_then(|name| places.get(&name));
                let ([experts, rows, blocks, 16], Some(scales)) = (&place.shape[..], scales) else {
                    return Err(trouble(name, format!("has shape {:?}, or no scales", place.shape)));
                };
                let (experts, rows, columns) = (*experts, *rows, 32 * blocks);
                if scales.shape != [experts, rows, *blocks] {
                    return Err(trouble(name, format!("its scales have shape {:?}", scales.shape)));
                }
                let mut pieces = Vec::with_capacity(experts);
                for expert in 0..experts {
                    let bytes: Bytes = maps[scales.map].clone();
                    let start = scales.start + expert * rows * blocks;
                    let scales = Scales::new(
                        name,
                        bytes,
                        start,
                        Scale::E8M0,
                        [rows, *blocks],
                        [rows, columns],
                        [1, 32],
                    )?;
                    pieces.push(Piece {
                        bytes: maps[place.map].clone(),
                        start: place.start + expert * rows * columns / 2,
                        rows,
                        columns,
                        store: Store::Weights(Kind::F4E2M1),
                        scales: Some(scales),
                    });
                }
                self.put(
                    name,
                    to,
                    Tensor { shape: vec![experts, rows, columns], pieces, change: Change::None },
                )
            }
            Target::Table(_) => unreachable!("tables are not gathered"),
            Target::Halved(to) => {
                // Gate and up biases in turn: [experts, 2 · hidden] → two of [experts, hidden].
                let [experts, twice] = place.shape[..] else {
                    return Err(trouble(name, format!("has shape {:?}, not one of biases", place.shape)));
                };
                let whole = piece()?.floats(name)?;
                for (i, to) in to.into_iter().enumerate() {
                    let half: Vec<f32> = whole.iter().skip(i).step_by(2).copied().collect();
                    self.put(name, to, Tensor::of(&[experts, twice / 2], &half))?;
                }
                Ok(())
            }
        }
    }

    fn put(&mut self, theirs: &str, name: String, tensor: Tensor) -> Result<(), Error> {
        match self.tensors.insert(name.clone(), tensor) {
            None => Ok(()),
            Some(_) => Err(trouble(theirs, format!("there are two tensors for `{name}`"))),
        }
    }

    /// All tensors, experts in order.
    fn finish(mut self, path: &Path, family: &str, layers: usize) -> Result<BTreeMap<String, Tensor>, Error> {
        let ahead = format!("blk.{layers}.");
        for (name, experts) in std::mem::take(&mut self.experts) {
            let missing = (0..experts.len()).find(|expert| !experts.contains_key(expert));
            if missing.is_some() && name.starts_with(&ahead) {
                // A model runs without the layer that guesses ahead, which is then not whole.
                continue;
            }
            if let Some(missing) = missing {
                let theirs = names::theirs(family, layers, &name);
                let theirs = theirs.map_or(String::new(), |theirs| format!(" (`{theirs}`)"));
                let why = format!("expert {missing} is missing from {}{theirs}", path.display());
                return Err(trouble(&name, why));
            }
            let pieces: Vec<Piece> = experts.into_values().collect();
            let (rows, columns) = (pieces[0].rows, pieces[0].columns);
            if let Some(odd) = pieces.iter().position(|p| (p.rows, p.columns) != (rows, columns)) {
                let found = [pieces[odd].rows, pieces[odd].columns];
                return Err(trouble(&name, format!("expert {odd} has shape {found:?}, unlike expert 0")));
            }
            let shape = vec![pieces.len(), rows, columns];
            self.put(&name, name.clone(), Tensor { shape, pieces, change: Change::None })?;
        }
        Ok(self.tensors)
    }
}

impl Tensor {
    /// A tensor of numbers that were computed.
    fn of(shape: &[usize], numbers: &[f32]) -> Tensor {
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let piece = Piece::of(numbers.len() / columns, columns, numbers);
        Tensor { shape: shape.to_vec(), pieces: vec![piece], change: Change::None }
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>, Error> {
        let mut numbers = Vec::with_capacity(self.shape.iter().product());
        for piece in &self.pieces {
            numbers.extend(piece.floats(name)?);
        }
        self.change.apply(&mut numbers);
        Ok(numbers)
    }
}

impl Piece {
    fn of(rows: usize, columns: usize, numbers: &[f32]) -> Piece {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (bytes, store): (Bytes, _) = (Arc::new(bytes), Store::Weights(Kind::F32));
        Piece { bytes, start: 0, rows, columns, store, scales: None }
    }

    fn bytes_len(&self) -> usize {
        let count = self.rows * self.columns;
        match self.store {
            Store::Weights(kind) => count / kind.block() * kind.block_bytes(),
            Store::I32 => 4 * count,
            Store::I64 => 8 * count,
        }
    }

    /// Some rows of it; it has no scales.
    fn rows(&self, first: usize, rows: usize) -> Piece {
        let row = self.bytes_len() / self.rows.max(1);
        Piece { start: self.start + first * row, rows, ..self.clone() }
    }

    fn matrix(&self, name: &str) -> Result<Matrix, Error> {
        let Store::Weights(kind) = self.store else {
            return Err(trouble(name, "holds whole numbers where weights are asked for".into()));
        };
        let matrix = Matrix::new(Arc::clone(&self.bytes), self.start, self.rows, self.columns, kind);
        Ok(match &self.scales {
            None => matrix,
            Some(scales) => matrix.scaled(scales.clone()),
        })
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>, Error> {
        let mut numbers = vec![0.0; self.rows * self.columns];
        self.matrix(name)?.dequantise(0..self.rows, &mut numbers);
        Ok(numbers)
    }
}

fn floats_matrix(numbers: &[f32], rows: usize, columns: usize) -> Matrix {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    Matrix::new(Arc::new(bytes), 0, rows, columns, Kind::F32)
}

fn trouble(name: &str, why: String) -> Error {
    Error::Tensor { name: name.to_owned(), why }
}

fn bad(path: &Path, why: impl ToString) -> Error {
    Error::BadModel { path: path.to_owned(), why: why.to_string() }
}

/// The JSON object in a file.
fn json(path: &Path) -> Result<Value, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > JSON_BYTES_MAX {
        return Err(bad(path, format!("it has {length} bytes, which is no configuration")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let value: Value = serde_json::from_str(&text).map_err(|e| bad(path, format!("it is not JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(bad(path, "it is no JSON object")) }
}

/// The maps of a folder's files, the files in the same order, and every tensor in them.
type Places = (Vec<Arc<Mmap>>, Vec<Arc<File>>, BTreeMap<String, Place>);

/// Maps the safetensors files of a folder and finds every tensor in them.
fn places(path: &Path) -> Result<Places, Error> {
    let index = path.join("model.safetensors.index.json");
    let mut files = BTreeSet::new();
    if index.exists() {
        let index = json(&index)?;
        let shards = index["weight_map"].as_object();
        let shards = shards.ok_or_else(|| bad(path, "its index has no `weight_map`"))?;
        for file in shards.values() {
            let name = file.as_str().filter(|name| !name.contains(['/', '\\']));
            files.insert(name.ok_or_else(|| bad(path, "its index names no file of the folder"))?.to_owned());
        }
    } else {
        files.insert("model.safetensors".to_owned());
    }
    let (mut maps, mut opened) = (Vec::new(), Vec::new());
    let mut places = BTreeMap::new();
    for name in files {
        let file_path = path.join(&name);
        let io = |source| Error::Io { path: file_path.clone(), source };
        let file = File::open(&file_path).map_err(io)?;
        if file.metadata().map_err(io)?.len() < 8 {
            return Err(bad(&file_path, "it is too short to be a safetensors file; download it again"));
        }
        // SAFETY: the map is read-only and lives as long as the weights. Whoever shortens the file while it
        // is mapped takes the process down, as with every mapped file; nothing here writes to it.
        // WHY: weights are shared with the page cache, so a model takes its file's size once.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(io)?);
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            bad(&file_path, format!("it is no whole safetensors file ({e}); download it again"))
        })?;
        let data = header + 8;
        if map.len() < data + metadata.data_len() {
            let missing = (data + metadata.data_len() - map.len()) as u64;
            return Err(Error::Truncated { path: file_path, what: "its last tensor".into(), missing });
        }
        for (name, info) in metadata.tensors() {
            let (start, end) = (data + info.data_offsets.0, data + info.data_offsets.1);
            let place = Place { map: maps.len(), start, end, dtype: info.dtype, shape: info.shape.clone() };
            if places.insert(name.clone(), place).is_some() {
                return Err(trouble(&name, "is in two files".into()));
            }
        }
        maps.push(map);
        opened.push(Arc::new(file));
    }
    Ok((maps, opened, places))
}

/// The endings of the names of scales, for weights whose names end in `.weight`.
const SCALES: [&str; 3] = [".weight_scale_inv", ".weight_scale", ".scale"];

/// Whether a tensor is the scales of another one, or how that one's activations were scaled.
fn is_scale(name: &str, places: &BTreeMap<String, Place>) -> bool {
    let of_weights = SCALES.iter().any(|suffix| {
        name.strip_suffix(suffix).is_some_and(|stem| places.contains_key(&format!("{stem}.weight")))
    });
    let packed = name.strip_suffix("_scales").is_some_and(|s| places.contains_key(&format!("{s}_blocks")));
    of_weights || packed || name.ends_with(".input_scale")
}

/// The scales of the tensor that the files call `name`.
fn scales_of<'a>(name: &str, places: &'a BTreeMap<String, Place>) -> Option<&'a Place> {
    let stem = name.strip_suffix(".weight")?;
    SCALES.iter().find_map(|suffix| places.get(&format!("{stem}{suffix}")))
}

/// The tensor that the files call `name` as rows of its last dimension.
fn piece(
    name: &str,
    places: &BTreeMap<String, Place>,
    maps: &[Arc<Mmap>],
    config: &Config,
) -> Result<Piece, Error> {
    let place = &places[name];
    let table = scales_of(name, places);
    let store = match place.dtype {
        Dtype::F32 => Store::Weights(Kind::F32),
        Dtype::F16 => Store::Weights(Kind::F16),
        Dtype::BF16 => Store::Weights(Kind::Bf16),
        // No model is published in eight bits without scales: they would be lost.
        Dtype::F8_E4M3 if table.is_some() => Store::Weights(Kind::F8E4M3),
        Dtype::F8_E4M3 | Dtype::I8 | Dtype::U8 if table.is_none() => {
            let why = format!("it is stored as {:?}, which needs scales, and they are missing", place.dtype);
            return Err(trouble(name, why));
        }
        // Two numbers in a byte, as they are shipped with scales.
        Dtype::I8 | Dtype::U8 => Store::Weights(Kind::F4E2M1),
        Dtype::I32 => Store::I32,
        Dtype::I64 => Store::I64,
        other => return Err(trouble(name, format!("its type {other:?} is not supported"))),
    };
    let mut columns = place.shape.last().copied().unwrap_or(1);
    let count: usize = place.shape.iter().product();
    let rows = count.checked_div(columns).unwrap_or(0);
    if store == Store::Weights(Kind::F4E2M1) {
        columns *= 2;
    }
    let bytes: Bytes = maps[place.map].clone();
    let mut piece = Piece { bytes, start: place.start, rows, columns, store, scales: None };
    if piece.bytes_len() != place.end - place.start {
        return Err(trouble(
            name,
            format!("its {} bytes are not what its shape needs", place.end - place.start),
        ));
    }
    if let Some(table) = table {
        let kind = match table.dtype {
            Dtype::F32 => Scale::F32,
            Dtype::BF16 => Scale::Bf16,
            Dtype::F8_E8M0 | Dtype::U8 => Scale::E8M0,
            other => return Err(trouble(name, format!("its scales' type {other:?} is not supported"))),
        };
        let (shape, block) = match table.shape[..] {
            [] | [1] => ([1, 1], [rows, columns]),
            [r] | [r, 1] if r == rows && r > 1 && store != Store::Weights(Kind::F4E2M1) => {
                ([r, 1], [1, columns])
            }
            [r, c] if store == Store::Weights(Kind::F4E2M1) => ([r, c], [1, 32]),
            [r, c] => ([r, c], config.scale_block()),
            _ => return Err(trouble(name, format!("its scales have shape {:?}", table.shape))),
        };
        let bytes: Bytes = maps[table.map].clone();
        piece.scales = Some(Scales::new(name, bytes, table.start, kind, shape, [rows, columns], block)?);
    }
    Ok(piece)
}

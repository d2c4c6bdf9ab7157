//! A model on disk, whichever way it lies there. Everything is asked for in the language of GGUF: metadata by
//! its keys, tensors by its names, so that a model family is described once.

use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::{Folder, Gguf, Kind, MappedFile, Matrix, Table, sound};
use crate::Error;

/// An open model.
pub(crate) enum Source {
    /// One file that is mapped, or a few that belong together.
    Gguf(Gguf),
    /// A Hugging Face folder: a configuration and files that are mapped.
    Folder(Folder),
}

/// What a tensor takes.
#[derive(Clone, Debug)]
pub(crate) struct TensorSize {
    pub(crate) name: String,
    /// How many weights it holds; none if it is scales or whole numbers.
    pub(crate) weights: u64,
    pub(crate) bytes: u64,
    /// How the weights are stored, if they are.
    pub(crate) kind: Option<Kind>,
}

impl Source {
    /// Opens the model at `path`. `know` says whether a family is supported; it is asked before anything else is
    /// judged, so that a model of an unknown family is refused for its family.
    pub(crate) fn open(path: &Path, know: impl Fn(&str) -> Result<(), Error>) -> Result<Source, Error> {
        // A folder's configuration may be named as well as the folder.
        let folder = if path.ends_with("config.json") { path.parent() } else { Some(path) };
        match folder.filter(|folder| folder.join("config.json").is_file()) {
            Some(folder) => Folder::open(folder, know).map(Source::Folder),
            None => Gguf::open(path, know).map(Source::Gguf),
        }
    }

    /// The family's name.
    pub(crate) fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or_default()
    }

    /// The mapped files, to be read ahead of use.
    pub(crate) fn maps(&self) -> &[Arc<Mmap>] {
        match self {
            Source::Gguf(file) => file.maps(),
            Source::Folder(folder) => folder.maps(),
        }
    }

    /// The mapped files with the files themselves.
    pub(crate) fn files(&self) -> Vec<MappedFile> {
        match self {
            Source::Gguf(file) => file.files(),
            Source::Folder(folder) => folder.files(),
        }
    }

    /// How many bytes the weights take on disk.
    pub(crate) fn file_bytes(&self) -> u64 {
        match self {
            Source::Gguf(file) => file.file_bytes(),
            Source::Folder(folder) => folder.file_bytes(),
        }
    }

    /// How many weights all tensors have together.
    pub(crate) fn parameters(&self) -> u64 {
        match self {
            Source::Gguf(file) => file.parameters(),
            Source::Folder(folder) => folder.parameters(),
        }
    }

    /// The kind that most bytes are stored in.
    pub(crate) fn quantisation(&self) -> &'static str {
        match self {
            Source::Gguf(file) => file.quantisation(),
            Source::Folder(folder) => folder.quantisation(),
        }
    }

    /// All weights but those of tables, as they lie in the files.
    pub(crate) fn lying(&self) -> Vec<sound::Stored<'_>> {
        match self {
            Source::Gguf(file) => file.lying(),
            Source::Folder(folder) => folder.lying(),
        }
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Source::Gguf(file) => file.has(name),
            Source::Folder(folder) => folder.has(name),
        }
    }

    /// The shape of a tensor, outermost dimension first.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], Error> {
        match self {
            Source::Gguf(file) => file.shape(name),
            Source::Folder(folder) => folder.shape(name),
        }
    }

    /// The matrix of this name, which must have this shape.
    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, Error> {
        match self {
            Source::Gguf(file) => file.matrix(name, rows, columns),
            Source::Folder(folder) => folder.matrix(name, rows, columns),
        }
    }

    /// The matrices that lie one after another in the tensor of this name, [count, rows, columns].
    pub(crate) fn matrices(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Vec<Matrix>, Error> {
        match self {
            Source::Gguf(file) => file.matrices(name, count, rows, columns),
            Source::Folder(folder) => folder.matrices(name, count, rows, columns),
        }
    }

    /// The tensor of this name, which must have this shape, as f32.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        match self {
            Source::Gguf(file) => file.floats(name, shape),
            Source::Folder(folder) => folder.floats(name, shape),
        }
    }

    /// The table of this name, whose rows have this many numbers. They are read when they are asked for, and kept in at
    /// most `held_bytes_max` bytes.
    pub(crate) fn table(&self, name: &str, width: usize, held_bytes_max: usize) -> Result<Table, Error> {
        match self {
            Source::Gguf(file) => file.table(name, width, held_bytes_max),
            Source::Folder(folder) => folder.table(name, width, held_bytes_max),
        }
    }

    /// The vector of this name, which must have this length, as f32.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        self.floats(name, &[len])
    }

    /// The tensor of whole numbers of this name, which must have this shape.
    pub(crate) fn integers(&self, name: &str, shape: &[usize]) -> Result<Vec<i32>, Error> {
        match self {
            Source::Gguf(file) => file.integers(name, shape),
            Source::Folder(folder) => folder.integers(name, shape),
        }
    }

    /// Takes note that this tensor is known and left alone on purpose.
    pub(crate) fn pass_over(&self, name: &str) {
        match self {
            Source::Gguf(file) => file.pass_over(name),
            Source::Folder(folder) => folder.pass_over(name),
        }
    }

    /// The first tensor that nobody has asked for: a part of the model that would be left out silently.
    pub(crate) fn unused(&self) -> Option<String> {
        match self {
            Source::Gguf(file) => file.unused().map(str::to_owned),
            Source::Folder(folder) => folder.unused().map(str::to_owned),
        }
    }

    /// The names of all tensors, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Source::Gguf(file) => file.names(),
            Source::Folder(folder) => folder.names(),
        }
    }

    /// The error for metadata that is missing or contradicts itself.
    pub(crate) fn bad(&self, why: impl ToString) -> Error {
        match self {
            Source::Gguf(file) => file.bad(why),
            Source::Folder(folder) => folder.bad(why),
        }
    }

    /// A whole number from the metadata, whichever integer type it is stored in.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, Error> {
        match self {
            Source::Gguf(file) => file.number(key),
            Source::Folder(folder) => folder.number(key),
        }
    }

    /// A list of whole numbers or truth values (0 or 1) from the metadata; `None` if there is none, or one number.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<u64>>, Error> {
        match self {
            Source::Gguf(file) => file.numbers(key),
            Source::Folder(folder) => folder.numbers(key),
        }
    }

    /// A real number from the metadata.
    pub(crate) fn real(&self, key: &str) -> Result<Option<f32>, Error> {
        match self {
            Source::Gguf(file) => file.real(key),
            Source::Folder(folder) => folder.real(key),
        }
    }

    /// A list of real numbers from the metadata; `None` if there is none, or one number.
    pub(crate) fn reals(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        match self {
            Source::Gguf(file) => file.reals(key),
            // A folder's configuration has one number for all layers.
            Source::Folder(_) => Ok(None),
        }
    }

    /// A truth value from the metadata.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>, Error> {
        match self {
            Source::Gguf(file) => file.truth(key),
            Source::Folder(folder) => folder.truth(key),
        }
    }

    /// A text from the metadata.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self {
            Source::Gguf(file) => file.text(key),
            Source::Folder(folder) => folder.text(key),
        }
    }
}

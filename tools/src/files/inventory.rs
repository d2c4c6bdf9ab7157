//! All that a workspace holds, for a checkpoint of it, and putting back what a checkpoint had.

use std::collections::{BTreeSet, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::sources::Stamp;
use super::workspace::shown;
use super::write::replace;
use super::{Answer, WRITE_BYTES_MAX, Workspace};

/// More entries are not kept: a workspace that large is put back by other means.
pub(crate) const ENTRIES_MAX: usize = 40_000;
/// Folders that programs fill and can fill again. Besides those that git ignores.
const CACHES: [&str; 14] = [
    "target",
    "node_modules",
    "__pycache__",
    ".venv",
    "venv",
    ".tox",
    ".nox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".gradle",
    ".next",
    "dist",
    "build",
];
/// One of these, or something ignored, is kept as long as it has no more than this.
const CACHE_FILES_MAX: usize = 500;
const CACHE_BYTES_MAX: u64 = 4 << 20;
/// A request stops here: a workspace that takes longer is not kept.
const WALL: Duration = Duration::from_secs(10);

/// What there is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Inventory {}

/// Something in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) path: String,
    pub(crate) what: What,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Folder,
    File { stamp: Stamp, program: bool },
    Link { target: String },
}

/// All of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Inventoried {
    /// In no order.
    pub(crate) items: Vec<Item>,
    /// Paths that are not kept: caches, large files, secrets, names that are no text, pipes and the like.
    pub(crate) left_out: Vec<String>,
    /// Whether there is more than is looked at.
    pub(crate) more: bool,
}

impl Inventory {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let mut taking =
            Taking { workspace, found: Inventoried::default(), began: Instant::now(), kept: HashMap::new() };
        let mut walk = workspace.walk(Path::new("."));
        walk.filter_entry(|entry| {
            let folder = entry.file_type().is_some_and(|kind| kind.is_dir());
            entry.file_name() != ".git" && !(folder && CACHES.iter().any(|name| entry.file_name() == *name))
        });
        for entry in walk.build().flatten() {
            if taking.is_over() {
                break;
            }
            let path = workspace.relative(entry.path());
            if path.as_os_str().is_empty() {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            let path = path.to_owned();
            taking.keep(&path, &metadata);
        }
        taking.ignored();
        let Taking { found, .. } = taking;
        let summary = format!("{} entries", found.items.len());
        let text = serde_json::to_string(&found).map_err(|error| error.to_string())?;
        Ok(Answer::yes(text, summary))
    }
}

struct Taking<'a> {
    workspace: &'a Workspace,
    found: Inventoried,
    began: Instant,
    /// What is kept because nothing ignores it: by folder, the names in it.
    kept: HashMap<PathBuf, BTreeSet<std::ffi::OsString>>,
}

impl Taking<'_> {
    fn is_over(&mut self) -> bool {
        self.found.more |= self.found.items.len() >= ENTRIES_MAX || self.began.elapsed() > WALL;
        self.found.more
    }

    fn leave_out(&mut self, path: &Path) {
        self.found.left_out.push(shown(path));
    }

    fn keep(&mut self, path: &Path, metadata: &Metadata) {
        if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
            self.kept.entry(folder.to_owned()).or_default().insert(name.to_owned());
        }
        if metadata.is_dir() {
            self.kept.entry(path.to_owned()).or_default();
        }
        self.take(path, metadata);
    }

    fn take(&mut self, path: &Path, metadata: &Metadata) {
        // What is covered inside the sandbox is not what it seems here, and nothing in it can change it.
        let Some(name) = path.to_str().filter(|_| !self.workspace.is_secret(path)) else {
            return self.leave_out(path);
        };
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            What::Folder
        } else if kind.is_symlink() {
            let target = std::fs::read_link(self.workspace.absolute(path));
            match target.ok().and_then(|target| target.to_str().map(str::to_owned)) {
                Some(target) => What::Link { target },
                None => return self.leave_out(path),
            }
        } else if kind.is_file() && metadata.len() <= WRITE_BYTES_MAX as u64 {
            let program = metadata.permissions().mode() & 0o100 != 0;
            What::File { stamp: Stamp::of(metadata), program }
        } else {
            return self.leave_out(path);
        };
        self.found.items.push(Item { path: name.to_owned(), what });
    }

    /// Takes what is ignored and small: settings that somebody keeps out of git are work as well.
    fn ignored(&mut self) {
        let mut folders: Vec<PathBuf> = self.kept.keys().cloned().collect();
        if !self.kept.contains_key(Path::new("")) {
            folders.push(PathBuf::new());
        }
        folders.sort_unstable();
        for folder in folders {
            let kept = self.kept.remove(&folder).unwrap_or_default();
            for (path, metadata) in self.children(&folder) {
                if self.is_over() {
                    return;
                }
                let name = path.file_name().unwrap_or_default();
                if name == ".git" || kept.contains(name) {
                    continue;
                }
                if metadata.is_dir() {
                    match self.small(&path) {
                        Some(below) => {
                            self.take(&path, &metadata);
                            below.into_iter().for_each(|(path, metadata)| self.take(&path, &metadata));
                        }
                        None => self.leave_out(&path),
                    }
                } else if metadata.len() <= CACHE_BYTES_MAX {
                    self.take(&path, &metadata);
                } else {
                    self.leave_out(&path);
                }
            }
        }
    }

    fn children(&self, folder: &Path) -> Vec<(PathBuf, Metadata)> {
        let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let Ok(entries) = std::fs::read_dir(self.workspace.absolute(here)) else { return Vec::new() };
        let child = |entry: std::fs::DirEntry| Some((folder.join(entry.file_name()), entry.metadata().ok()?));
        entries.flatten().filter_map(child).collect()
    }

    /// What lies below a folder, if it is little.
    fn small(&self, folder: &Path) -> Option<Vec<(PathBuf, Metadata)>> {
        let (mut found, mut folders, mut bytes) = (Vec::new(), vec![folder.to_owned()], 0);
        while let Some(folder) = folders.pop() {
            for (path, metadata) in self.children(&folder) {
                if path.file_name().is_some_and(|name| name == ".git") {
                    continue;
                }
                if metadata.is_dir() {
                    folders.push(path.clone());
                } else {
                    bytes += metadata.len();
                }
                found.push((path, metadata));
                if found.len() > CACHE_FILES_MAX || bytes > CACHE_BYTES_MAX {
                    return None;
                }
            }
        }
        Some(found)
    }
}

/// Makes a workspace what it was, a step at a time. Doing so again after it was cut off does no harm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Restore {
    pub(crate) steps: Vec<Step>,
}

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Takes away what is there. A folder goes when it is empty: what is not kept may still lie in it.
    Remove { path: String },
    /// Makes a folder.
    Folder { path: String },
    /// Makes a link.
    Link { path: String, target: String },
    /// Writes a file. Each character is a byte, since content need be no text.
    File { path: String, program: bool, content: String },
}

/// Bytes as the characters of the same numbers.
pub(crate) fn characters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

impl Restore {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        for step in &self.steps {
            step.perform(workspace)?;
        }
        Ok(Answer::yes(String::new(), format!("{} steps", self.steps.len())))
    }
}

impl Step {
    fn perform(&self, workspace: &Workspace) -> Result<(), String> {
        let (Step::Remove { path }
        | Step::Folder { path }
        | Step::Link { path, .. }
        | Step::File { path, .. }) = self;
        // Letter for letter: a name may begin or end with a space.
        let below = PathBuf::from(path);
        let explain = |error: Errno| workspace.explain(&below, error);
        let Some(name) = below.file_name() else {
            return Err(format!("{} is no place for anything", shown(&below)));
        };
        let parent = below.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match self {
            Step::Remove { .. } => {
                let Ok(folder) = workspace.open_folder(parent, false) else { return Ok(()) };
                let is = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
                let flags = match is.map(|is| FileType::from_raw_mode(is.st_mode)) {
                    Ok(FileType::Directory) => AtFlags::REMOVEDIR,
                    Ok(_) => AtFlags::empty(),
                    Err(Errno::NOENT) => return Ok(()),
                    Err(error) => return Err(explain(error)),
                };
                match rustix::fs::unlinkat(&folder, name, flags) {
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
                    Err(error) => Err(explain(error)),
                }
            }
            Step::Folder { .. } => workspace.open_folder(&below, true).map(drop),
            Step::Link { target, .. } => {
                let folder = workspace.open_folder(parent, true)?;
                match rustix::fs::symlinkat(target.as_str(), &folder, name) {
                    Ok(()) => Ok(()),
                    Err(Errno::EXIST) => {
                        // From the time before it was cut off.
                        let there = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(explain)?;
                        match there.as_bytes() == target.as_bytes() {
                            true => Ok(()),
                            false => Err(format!("{} is there already", shown(&below))),
                        }
                    }
                    Err(error) => Err(explain(error)),
                }
            }
            Step::File { program, content, .. } => {
                let bytes: Option<Vec<u8>> =
                    content.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                let bytes = bytes.ok_or("the content is no bytes")?;
                replace(workspace, &below, &bytes)?;
                let folder = workspace.open_folder(parent, false)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(explain)?;
                let mode = rustix::fs::fstat(&file).map_err(explain)?.st_mode & 0o666;
                // Whoever may read a program may run it.
                let mode = if *program { mode | (mode & 0o444) >> 2 } else { mode };
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(explain)
            }
        }
    }
}

//! All that a workspace holds, for a checkpoint of it.
//!
//! Of git's own folders all is kept but locks, and objects where they are many or large.

use std::collections::{BTreeSet, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::sources::Stamp;
use super::workspace::shown;
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
/// What a repository has of its own lies in a folder, or where a file of this name says.
const GIT: &str = ".git";
/// One of these, or something ignored, is kept as long as it has no more than this.
const CACHE_FILES_MAX: usize = 500;
const CACHE_BYTES_MAX: u64 = 4 << 20;
/// A repository's objects and logs are kept as long as they have no more than this: beyond, they stay as they are whatever is put back, and
/// are missed only by who has had git throw some away meanwhile.
const GROWING_FILES_MAX: usize = 1_000;
const GROWING_BYTES_MAX: u64 = 16 << 20;
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
    /// Modes are permission bits.
    Folder {
        mode: u16,
    },
    File {
        stamp: Stamp,
        mode: u16,
    },
    Link {
        target: String,
    },
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
            entry.file_name() != GIT && !(folder && CACHES.iter().any(|name| entry.file_name() == *name))
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
        let mode = (metadata.permissions().mode() & 0o1777) as u16;
        let what = if kind.is_dir() {
            What::Folder { mode }
        } else if kind.is_symlink() {
            let target = std::fs::read_link(self.workspace.absolute(path));
            match target.ok().and_then(|target| target.to_str().map(str::to_owned)) {
                Some(target) => What::Link { target },
                None => return self.leave_out(path),
            }
        } else if kind.is_file() && metadata.len() <= WRITE_BYTES_MAX as u64 {
            What::File { stamp: Stamp::of(metadata), mode }
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
                if kept.contains(name) {
                    continue;
                }
                if name == GIT {
                    self.repository(&path, &metadata);
                } else if metadata.is_dir() {
                    match self.small(&path) {
                        Some(below) => {
                            self.take(&path, &metadata);
                            for (path, metadata) in below {
                                match path.file_name().is_some_and(|name| name == GIT) {
                                    true => self.repository(&path, &metadata),
                                    false => self.take(&path, &metadata),
                                }
                            }
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

    /// Takes what a repository has of its own, or the file that says where that is.
    fn repository(&mut self, path: &Path, metadata: &Metadata) {
        self.take(path, metadata);
        let mut folders: Vec<PathBuf> = metadata.is_dir().then(|| path.to_owned()).into_iter().collect();
        let (mut growing, mut bytes, mut more) = (Vec::new(), 0, false);
        while let Some(folder) = folders.pop() {
            for (path, metadata) in self.children(&folder) {
                if self.is_over() {
                    return;
                }
                // What somebody holds for a moment is no state to go back to.
                if !metadata.is_dir() && path.extension().is_some_and(|ending| ending == "lock") {
                    continue;
                }
                let grows = only_grows(&path);
                if metadata.is_dir() && !(grows && more) {
                    folders.push(path.clone());
                }
                if !grows {
                    self.take(&path, &metadata);
                } else if !more {
                    bytes += metadata.len();
                    growing.push((path, metadata));
                    more = growing.len() > GROWING_FILES_MAX || bytes > GROWING_BYTES_MAX;
                }
            }
        }
        if !more {
            growing.into_iter().for_each(|(path, metadata)| self.take(&path, &metadata));
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
                if path.file_name().is_some_and(|name| name == GIT) {
                    // Looked into by itself.
                } else if metadata.is_dir() {
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

/// Whether git only ever adds to this and finds it by other names: an object, or a log but the one that lists what is stashed.
pub(crate) fn only_grows(path: &Path) -> bool {
    let parts: Vec<&std::ffi::OsStr> = path.iter().collect();
    let Some(at) = parts.iter().rposition(|part| *part == GIT) else { return false };
    let inside = &parts[at + 1..];
    // They lie where a repository's folder begins, and where those of its submodules do; a branch may have any name.
    let at =
        inside.iter().position(|part| ["refs", "objects", "lfs", "logs"].iter().any(|name| *part == *name));
    match at.map(|at| &inside[at..]) {
        Some([logs, refs, stash]) if *logs == "logs" && *refs == "refs" => *stash != "stash",
        Some([first, ..]) => *first != "refs",
        Some([]) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_repository_objects_and_logs_only_grow() {
        for other in [
            "HEAD",
            "index",
            "refs/heads/main",
            "refs/heads/objects/x",
            "refs/stash",
            "config",
            "modules/a/HEAD",
            "logs/refs/stash",
        ] {
            assert!(!only_grows(&Path::new("deep/.git").join(other)), "{other}");
        }
        for grows in [
            "objects",
            "objects/ab/cd",
            "lfs",
            "modules/a/objects/pack",
            "logs",
            "logs/HEAD",
            "logs/refs/heads/x",
        ] {
            assert!(only_grows(&Path::new(".git").join(grows)), "{grows}");
        }
        assert!(!only_grows(Path::new("objects/a")) && !only_grows(Path::new("logs/HEAD")));
    }
}

//! Going through a workspace, whatever lies in it: with bounded memory and a bounded number of open folders, following no
//! link and leaving no file system.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

/// How many levels it goes down at once: each holds a folder open. Deeper folders are gone through later.
const LEVELS_MAX: usize = 100;

/// How many deeper folders may wait.
const LATER_MAX: usize = 100;

/// Something in the workspace.
pub(super) struct Entry<'a> {
    pub(super) folder: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    pub(super) kind: FileType,
    /// Its path from the workspace on.
    pub(super) below: &'a Path,
}

impl Entry<'_> {
    pub(super) fn stat(&self) -> Option<Stat> {
        rustix::fs::statat(self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }
}

/// Whether a folder is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Enter,
    Pass,
}

/// Goes through everything below a folder. Returns whether it saw all of it: not so when a folder is closed to it, too many
/// are too deep, or there is more than `entries_max`.
pub(super) fn go_through(root: &OwnedFd, entries_max: u64, on: &mut dyn FnMut(&Entry<'_>) -> Then) -> bool {
    let mut whole = true;
    let mut seen = 0_u64;
    let mut below = PathBuf::new();
    let mut levels: Vec<Dir> = Vec::new();
    let mut later: Vec<(Dir, PathBuf)> = Vec::new();
    match Dir::read_from(root) {
        Ok(dir) => levels.push(dir),
        Err(_) => return false,
    }
    loop {
        let depth = levels.len();
        let Some(dir) = levels.last_mut() else {
            let Some((dir, path)) = later.pop() else { return whole };
            levels.push(dir);
            below = path;
            continue;
        };
        let entry = match dir.read() {
            Some(Ok(entry)) => entry,
            Some(Err(_)) => {
                whole = false;
                levels.pop();
                below.pop();
                continue;
            }
            None => {
                levels.pop();
                below.pop();
                continue;
            }
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        seen += 1;
        if seen > entries_max {
            return false;
        }
        let Ok(folder) = dir.fd() else { return false };
        below.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
            kind = stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
        }
        let then = on(&Entry { folder, name, kind, below: &below });
        if kind == FileType::Directory && then == Then::Enter {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
            match rustix::fs::openat2(folder, name, flags, Mode::empty(), resolve).and_then(Dir::new) {
                Ok(dir) if depth < LEVELS_MAX => {
                    levels.push(dir);
                    continue;
                }
                Ok(dir) if later.len() < LATER_MAX => later.push((dir, below.clone())),
                Ok(_) | Err(_) => whole = false,
            }
        }
        below.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(folder: &Path, entries_max: u64) -> (Vec<String>, bool) {
        let root = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut names = Vec::new();
        let whole = go_through(&root, entries_max, &mut |entry| {
            names.push(entry.below.display().to_string());
            Then::Enter
        });
        names.sort();
        (names, whole)
    }

    #[test]
    fn everything_is_seen_once_and_no_link_is_followed() {
        // What is counted twice or missed is a quota that does not hold, and a link leads anywhere.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/f"), "").unwrap();
        std::fs::write(at("g"), "").unwrap();
        std::os::unix::fs::symlink("/", at("root")).unwrap();
        std::os::unix::fs::symlink(".", at("a/loop")).unwrap();
        assert_eq!(
            seen(folder.path(), 100),
            (["a", "a/b", "a/b/f", "a/loop", "g", "root"].map(str::to_owned).to_vec(), true)
        );
        assert!(!seen(folder.path(), 3).1, "a bound that was met is told");
        let mut deep = folder.path().to_owned();
        (0..3 * LEVELS_MAX + 5).for_each(|_| deep.push("d"));
        std::fs::create_dir_all(&deep).unwrap();
        let (names, whole) = seen(folder.path(), 1000);
        assert!(whole && names.len() == 6 + 3 * LEVELS_MAX + 5, "no depth is too deep: {}", names.len());
    }
}

//! Writing a whole file, so that a reader sees the old one or the new one and nothing between.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::workspace::shown;
use super::{Answer, WRITE_BYTES_MAX, Workspace};
use crate::output::size;

/// A file's new content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) path: String,
    pub(crate) content: String,
}

impl Write {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let below = workspace.locate(&self.path)?;
        let existed = replace(workspace, &below, self.content.as_bytes())?;
        let (name, lines) = (shown(&below), self.content.lines().count());
        let what = if existed { "Replaced" } else { "Created" };
        let bytes = size(self.content.len() as u64);
        Ok(Answer::yes(
            format!("{what} {name}: {lines} lines, {bytes}."),
            format!("{what} {name} · {lines} lines"),
        ))
    }
}

/// Replaces a file by one with this content, in one step, keeping its mode; folders above it are made. Says whether it was
/// there before. A hard link elsewhere keeps the old content, and a symlink is not followed.
pub(super) fn replace(workspace: &Workspace, below: &Path, content: &[u8]) -> Result<bool, String> {
    let name = shown(below);
    if content.len() > WRITE_BYTES_MAX {
        return Err(format!("This is too much for one file: at most {}.", size(WRITE_BYTES_MAX as u64)));
    }
    let Some(file_name) = below.file_name().filter(|_| !below.ends_with("..")) else {
        return Err(format!("{name} is a folder; give the path of a file."));
    };
    let parent = below.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    workspace.refuse_secret(below)?;
    let folder = workspace.open_folder(parent, true)?;
    workspace.refuse_secret_at(&folder, below)?;
    let explain = |error: Errno| workspace.explain(below, error);

    let old = match rustix::fs::statat(&folder, file_name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(old) => Some(old),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(explain(error)),
    };
    let mode = match old.map(|old| (FileType::from_raw_mode(old.st_mode), old.st_mode)) {
        None => Mode::from_raw_mode(0o644),
        Some((FileType::RegularFile, mode)) => Mode::from_raw_mode(mode & 0o777),
        Some((FileType::Symlink, _)) => {
            return Err(format!("{name} is a symlink. Write to the file it points to, by its own path."));
        }
        Some((FileType::Directory, _)) => return Err(format!("{name} is a folder, not a file.")),
        Some(_) => return Err(format!("{name} is not a regular file.")),
    };

    if let Err(error) = put(&folder, file_name, content, mode, old.is_some()) {
        let error = error.raw_os_error().map(Errno::from_raw_os_error);
        return Err(error.map_or_else(|| format!("{name} could not be written."), explain));
    }
    // The name is durable only when its folder is. A folder opened as a mere path cannot be synced, so open it again.
    if let Ok(folder) =
        rustix::fs::openat(folder.as_fd(), ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    {
        let _ = rustix::fs::fsync(folder);
    }
    Ok(old.is_some())
}

/// Puts a whole file in its place. It has no name before it is complete, so that a helper that is killed leaves nothing behind; only to
/// take another one's place it has one for a moment, since no call does both.
fn put(folder: &OwnedFd, name: &OsStr, content: &[u8], mode: Mode, replaces: bool) -> io::Result<()> {
    // The same for each writing of a file: what a helper that was killed in that moment left goes with the next.
    let temporary = format!(".saga-write-{:08x}", crc32c::crc32c(name.as_bytes()));
    let unnamed = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let named = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let private = Mode::from_raw_mode(0o600);
    let fill = |file: OwnedFd| -> io::Result<File> {
        let mut file = File::from(file);
        file.write_all(content)?;
        rustix::fs::fchmod(&file, mode)?;
        file.sync_all()?;
        Ok(file)
    };
    let take_place = || rustix::fs::renameat(folder, &temporary, folder, name);
    let clear = || {
        // There mostly is none.
        let _ = rustix::fs::unlinkat(folder, &temporary, AtFlags::empty());
    };
    let placed = match rustix::fs::openat(folder.as_fd(), ".", unnamed, private) {
        Ok(file) => {
            let file = fill(file)?;
            let held = format!("/proc/self/fd/{}", file.as_raw_fd());
            let link = |name: &OsStr| rustix::fs::linkat(CWD, &held, folder, name, AtFlags::SYMLINK_FOLLOW);
            match if replaces { Err(Errno::EXIST) } else { link(name) } {
                Err(Errno::EXIST) => {
                    clear();
                    link(OsStr::new(&temporary)).and_then(|()| take_place())
                }
                linked => linked,
            }
        }
        // Some file systems have only files with names.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            clear();
            let file = rustix::fs::openat(folder, &temporary, named, private)?;
            fill(file).inspect_err(|_| clear())?;
            take_place()
        }
        Err(error) => Err(error),
    };
    placed.inspect_err(|_| clear())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::files::workspace::tests::open;

    fn write(folder: &Path, path: &str) -> Answer {
        crate::files::Request::Write(Write { path: path.to_owned(), content: "new\n".to_owned() })
            .perform(&open(folder))
    }

    #[test]
    fn a_write_changes_the_named_file_and_no_other() {
        // Links are how a write reaches a file that nobody named.
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("target");
        std::fs::write(&target, "ORIGINAL").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::hard_link(&target, at("hard")).unwrap();
        std::os::unix::fs::symlink(&target, at("soft")).unwrap();
        std::os::unix::fs::symlink(outside.path(), at("folder")).unwrap();
        assert!(write(folder.path(), "hard").ok);
        for path in
            ["soft", "folder/target", "folder/new/x", "../target", target.to_str().unwrap(), ".", "a/.."]
        {
            assert!(!write(folder.path(), path).ok, "{path}");
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "ORIGINAL");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_are_made_modes_are_kept_and_nothing_else_is_left() {
        // A script that loses its x bit is a bug the model then hunts for.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("script"), "old").unwrap();
        std::fs::set_permissions(at("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(write(folder.path(), "script").text, "Replaced script: 1 lines, 4 B.");
        assert_eq!(std::fs::metadata(at("script")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(write(folder.path(), "a/b/c.txt").text, "Created a/b/c.txt: 1 lines, 4 B.");
        assert_eq!(std::fs::read_to_string(at("a/b/c.txt")).unwrap(), "new\n");
        assert_eq!(std::fs::read_dir(at("a/b")).unwrap().count(), 1);
    }
}

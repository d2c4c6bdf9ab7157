//! Putting back what a checkpoint had, a step at a time.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::workspace::shown;
use super::write::replace;
use super::{Answer, Workspace};

/// Makes a workspace what it was. Doing so again after it was cut off does no harm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Restore {
    pub(crate) steps: Vec<Step>,
}

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Takes away what is there. A folder goes when it is empty: what is not kept may still lie in it.
    Remove { path: String },
    /// Makes a folder, unless it is there, and gives it its mode.
    Folder { path: String, mode: Option<u16> },
    /// Makes a link.
    Link { path: String, target: String },
    /// Writes a file. Each character is a byte, since content need be no text. Without a mode it is that of what was there before, but for
    /// whether it can be run.
    File { path: String, mode: Option<u16>, program: bool, content: String },
}

/// Bytes as the characters of the same numbers.
pub(crate) fn characters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

impl Restore {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        for step in &self.steps {
            let path = PathBuf::from(step.path());
            opened(workspace, &path, || step.perform(workspace))?;
        }
        Ok(Answer::yes(String::new(), format!("{} steps", self.steps.len())))
    }
}

/// Does something below folders that may be closed to their owner, as those of downloaded packages are: then they are open for as
/// long as it takes.
fn opened(workspace: &Workspace, below: &Path, work: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let Err(refused) = work() else { return Ok(()) };
    let mut above: Vec<&Path> = below.ancestors().skip(1).collect();
    above.reverse();
    let mut closed = Vec::new();
    for folder in above {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let Ok(handle) = workspace.open_folder(folder, false) else { break };
        let Ok(mode) = rustix::fs::fstat(&handle).map(|is| is.st_mode & 0o777) else { break };
        if mode & 0o700 != 0o700 && set_mode(&handle, mode | 0o700).is_ok() {
            closed.push((handle, mode));
        }
    }
    if closed.is_empty() {
        return Err(refused);
    }
    let done = work();
    for (handle, mode) in closed.iter().rev() {
        // It was just set, and can be set again.
        let _ = set_mode(handle, *mode);
    }
    done
}

/// Sets the permissions of what was opened as a mere path: it need not be readable for that.
fn set_mode(handle: &OwnedFd, mode: u32) -> std::io::Result<()> {
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

impl Step {
    fn path(&self) -> &str {
        let (Step::Remove { path }
        | Step::Folder { path, .. }
        | Step::Link { path, .. }
        | Step::File { path, .. }) = self;
        path
    }

    fn perform(&self, workspace: &Workspace) -> Result<(), String> {
        // Letter for letter: a name may begin or end with a space.
        let below = PathBuf::from(self.path());
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
            Step::Folder { mode, .. } => {
                let folder = workspace.open_folder(&below, true)?;
                match mode {
                    Some(mode) => set_mode(&folder, u32::from(*mode)).map_err(|error| explain(errno(&error))),
                    None => Ok(()),
                }
            }
            Step::Link { target, .. } => {
                let folder = workspace.open_folder(parent, true)?;
                clear(&folder, name, &|kind| kind != FileType::Directory).map_err(explain)?;
                rustix::fs::symlinkat(target.as_str(), &folder, name).map_err(explain)
            }
            Step::File { mode, program, content, .. } => {
                let bytes: Option<Vec<u8>> =
                    content.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                let bytes = bytes.ok_or("the content is no bytes")?;
                let aside = |kind| kind != FileType::Directory && kind != FileType::RegularFile;
                clear(&workspace.open_folder(parent, true)?, name, &aside).map_err(explain)?;
                replace(workspace, &below, &bytes)?;
                let folder = workspace.open_folder(parent, false)?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(explain)?;
                let was = rustix::fs::fstat(&file).map_err(explain)?.st_mode & 0o666;
                let mode = match mode {
                    Some(mode) => u32::from(*mode),
                    // Whoever may read a program may run it.
                    None if *program => was | (was & 0o444) >> 2,
                    None => was,
                };
                set_mode(&file, mode).map_err(|error| explain(errno(&error)))
            }
        }
    }
}

/// Takes away what is in the way of something else: what checkpoints do not cover, or what is left of a time before this was cut off.
fn clear(folder: &OwnedFd, name: &std::ffi::OsStr, goes: &dyn Fn(FileType) -> bool) -> Result<(), Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(is) if goes(FileType::from_raw_mode(is.st_mode)) => {
            rustix::fs::unlinkat(folder, name, AtFlags::empty())
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

//! The workspace as file operations reach it: every path is resolved below its folder by the kernel.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use ignore::WalkBuilder;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::secrets::Secrets;

/// Symlinks may lead anywhere below the workspace and nowhere else; the links in /proc that are no paths lead nowhere.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// How many entries are looked at to suggest where a missing file may be.
const SUGGEST_ENTRIES: usize = 5000;

/// The workspace, open.
#[derive(Debug)]
pub(crate) struct Workspace {
    folder: OwnedFd,
    path: PathBuf,
    /// The kept output of a command, which is then the one file there is.
    output: Option<File>,
    secrets: Secrets,
}

impl Workspace {
    pub(crate) fn open(path: &Path, secrets: Secrets, output: Option<File>) -> io::Result<Workspace> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Workspace { folder, path: path.to_owned(), output, secrets })
    }

    /// A path as the model wrote it, relative to the workspace. The error is for the model.
    pub(super) fn locate(&self, path: &str) -> Result<PathBuf, String> {
        if path.contains('\0') {
            return Err("The path holds a NUL character, which no path can.".to_owned());
        }
        let path = Path::new(path.trim());
        let below = match path.strip_prefix(&self.path) {
            Ok(below) => below,
            Err(_) if path.is_absolute() => {
                return Err(format!(
                    "{} is outside the workspace {}. Use a path relative to the workspace, such as src/main.rs.",
                    shown(path),
                    self.path.display()
                ));
            }
            Err(_) => path,
        };
        let below: PathBuf = below.components().filter(|part| *part != Component::CurDir).collect();
        Ok(if below.as_os_str().is_empty() { PathBuf::from(".") } else { below })
    }

    /// Where the walkers of the search crates begin. They open by path; the process's Landlock rules hold them below the
    /// workspace whatever the path leads to.
    pub(super) fn absolute(&self, below: &Path) -> PathBuf {
        if below == Path::new(".") { self.path.clone() } else { self.path.join(below) }
    }

    pub(super) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.path).unwrap_or(path)
    }

    pub(crate) fn open_at(&self, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        // openat2 is strict: a mere path goes with no flag that only matters to an open file.
        let terminal = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NOCTTY };
        let flags = flags | OFlags::CLOEXEC | terminal;
        rustix::fs::openat2(&self.folder, below, flags, Mode::empty(), RESOLVE)
    }

    /// Opens a regular file for reading. Anything else (a pipe would wait, a device may never end) is refused.
    pub(super) fn open_file(&self, below: &Path) -> Result<(File, Metadata), String> {
        self.refuse_secret(below)?;
        let file = match &self.output {
            Some(output) => output.try_clone().map_err(|error| format!("{}: {error}", shown(below)))?,
            None => self
                .open_at(below, OFlags::RDONLY | OFlags::NONBLOCK)
                .map_err(|error| self.explain(below, error))?
                .into(),
        };
        self.refuse_secret_at(&file, below)?;
        let metadata = file.metadata().map_err(|error| format!("{}: {error}", shown(below)))?;
        if metadata.is_dir() {
            Err(format!("{} is a folder, not a file.", shown(below)))
        } else if metadata.is_file() {
            Ok((file, metadata))
        } else {
            Err(format!("{} is not a regular file (it is a pipe, a socket or a device).", shown(below)))
        }
    }

    /// Whether a path is a secret by its name.
    pub(super) fn is_secret(&self, below: &Path) -> bool {
        self.secrets.hold(below)
    }

    /// Refuses what is a secret by the name it was asked for by.
    pub(super) fn refuse_secret(&self, below: &Path) -> Result<(), String> {
        if self.output.is_none() && self.secrets.hold(below) { Err(secret(below)) } else { Ok(()) }
    }

    /// Refuses what is a secret by its real name: a link may lead to it.
    pub(super) fn refuse_secret_at(&self, opened: &impl AsRawFd, asked: &Path) -> Result<(), String> {
        if self.output.is_some() {
            return Ok(());
        }
        let real = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
            .map_err(|error| format!("{}: {error}", shown(asked)))?;
        if self.secrets.hold(self.relative(&real)) { Err(secret(asked)) } else { Ok(()) }
    }

    /// Whether all that is read is a command's kept output.
    pub(super) fn is_output(&self) -> bool {
        self.output.is_some()
    }

    pub(super) fn is_folder(&self, below: &Path) -> bool {
        self.output.is_none() && self.open_at(below, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// Opens a folder below the workspace, making it and those above it when `make`.
    pub(super) fn open_folder(&self, below: &Path, make: bool) -> Result<OwnedFd, String> {
        let open = |path: &Path| self.open_at(path, OFlags::PATH | OFlags::DIRECTORY);
        if make {
            let mut so_far = PathBuf::new();
            for part in below.components() {
                let parent = if so_far.as_os_str().is_empty() { PathBuf::from(".") } else { so_far.clone() };
                so_far.push(part);
                if let (Component::Normal(name), Err(Errno::NOENT)) = (part, open(&so_far)) {
                    let parent = open(&parent).map_err(|error| self.explain(&parent, error))?;
                    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(self.explain(&so_far, error)),
                    }
                }
            }
        }
        open(below).map_err(|error| self.explain(below, error))
    }

    /// What an error of the kernel means for a path, in words the model can act on.
    pub(super) fn explain(&self, below: &Path, error: Errno) -> String {
        let name = shown(below);
        match error {
            Errno::NOENT => match self.suggest(below) {
                Some(other) => format!("There is no {name}. Did you mean {other}?"),
                None => {
                    format!("There is no {name} in the workspace. Use list or glob to see what there is.")
                }
            },
            Errno::XDEV => format!("{name} leads out of the workspace, so it is refused."),
            Errno::LOOP => {
                format!("{name} is a symlink that leads nowhere or out of the workspace, so it is refused.")
            }
            Errno::NOTDIR => format!("{name}: a part of this path is a file, not a folder."),
            Errno::ISDIR => format!("{name} is a folder, not a file."),
            Errno::ACCESS | Errno::PERM => format!("{name}: permission denied."),
            Errno::NAMETOOLONG => "This path is too long.".to_owned(),
            Errno::NOSPC | Errno::DQUOT => format!("{name}: no space is left on the disk."),
            Errno::ROFS => format!("{name} is on a read-only file system."),
            error => format!("{name}: {}", io::Error::from(error)),
        }
    }

    /// A file of the same name elsewhere.
    fn suggest(&self, below: &Path) -> Option<String> {
        let name = below.file_name()?;
        let entries = self.walk(Path::new(".")).build().flatten().take(SUGGEST_ENTRIES);
        let mut found = entries.filter(|entry| entry.depth() > 0 && entry.file_name() == name);
        found.next().map(|entry| shown(self.relative(entry.path())))
    }

    /// A walk below a folder: nothing ignored by git, no symlink followed, in the order of names.
    pub(super) fn walk(&self, below: &Path) -> WalkBuilder {
        let mut walk = WalkBuilder::new(self.absolute(below));
        walk.hidden(false)
            .parents(false)
            .git_global(false)
            .require_git(false)
            .follow_links(false)
            .sort_by_file_name(std::ffi::OsStr::cmp)
            .filter_entry(|entry| entry.file_name() != ".git");
        walk
    }
}

/// What a model is told of a secret.
fn secret(below: &Path) -> String {
    format!(
        "{} is a secret by its name (a key or a password), so it can be neither read nor changed here. Work without it, or ask \
         the user for what is needed of it.",
        shown(below)
    )
}

/// A path as text, on one line: names may hold line ends and escapes.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)) {
        text.escape_debug().to_string()
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::secrets::usual;

    pub(crate) fn open(folder: &Path) -> Workspace {
        Workspace::open(&folder.canonicalize().unwrap(), Secrets::new(&usual()).unwrap(), None).unwrap()
    }

    #[test]
    fn no_path_leads_out_of_the_workspace() {
        // Each of these has been an escape in some agent: links, parents, a prefix that is no parent.
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "canary").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().canonicalize().unwrap().join("ws");
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(inside.with_file_name("ws-evil")).unwrap();
        std::fs::write(inside.with_file_name("ws-evil").join("s"), "canary").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), inside.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.join("folder")).unwrap();
        std::os::unix::fs::symlink("../ws-evil/s", inside.join("relative")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", inside.join("zero")).unwrap();
        let workspace = open(&inside);
        let evil = inside.with_file_name("ws-evil").join("s");
        for path in
            ["link", "folder/secret", "relative", "zero", "../ws-evil/s", evil.to_str().unwrap(), "a\0b"]
        {
            let opened = workspace.locate(path).and_then(|below| workspace.open_file(&below));
            assert!(opened.is_err(), "{path}");
        }
        std::fs::write(inside.join("real"), "fine").unwrap();
        std::os::unix::fs::symlink("real", inside.join("alias")).unwrap();
        for path in ["real", "./real", "alias", inside.join("real").to_str().unwrap()] {
            let opened = workspace.locate(path).and_then(|below| workspace.open_file(&below));
            assert!(opened.is_ok(), "{path}");
        }
    }
}

//! What lies in a workspace and is no business of its commands: secrets by their names, and sockets that somebody on the
//! host listens at. Each gets an empty, closed file or folder mounted over it, so that it cannot be opened whatever path
//! leads to it; other names of the same file are covered too.
//!
//! This is done when a session opens, and before a command when it was long ago for what it costs: an editor that replaces
//! a file, or a person who adds one, makes a new one. Between two looks a new secret can be read.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use serde::{Deserialize, Serialize};

use super::root::{MASK_FILE, MASK_FOLDER};
use super::survey::{self, Entry, Then};
use crate::secrets::Secrets;

/// How many are covered. Each is a mount that every command's namespace copies.
const MASKS_MAX: usize = 256;

/// How many entries are looked at. Larger workspaces are data.
const ENTRIES_MAX: u64 = 500_000;

/// A look is due again when this many times its own cost has passed, and never sooner than the least.
const REST: u32 = 50;
const REST_LEAST: Duration = Duration::from_millis(20);

/// When a workspace was looked through last.
pub(super) struct Looked(Instant);

impl Looked {
    pub(super) fn now() -> Looked {
        Looked(Instant::now())
    }

    /// Whether it is time for another look, when one costs so much.
    pub(super) fn is_due(&self, cost: Duration) -> bool {
        self.0.elapsed() > (cost * REST).max(REST_LEAST)
    }
}

/// What was found and covered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Covered {
    pub(super) count: usize,
    /// How many of them were not covered before.
    pub(super) new: usize,
    /// Whether there is more than can be covered or looked at.
    pub(super) more: bool,
}

/// Looks through the workspace and covers what is not covered yet. `sockets` only while no command of the session has run:
/// later ones may be the commands' own.
pub(super) fn cover(workspace: &Path, secrets: &Secrets, sockets: bool) -> io::Result<Covered> {
    let root =
        rustix::fs::open(workspace, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut covered = Covered::default();
    let mut linked = BTreeSet::new();
    let mut failed = None;
    let mut on = |entry: &Entry<'_>| {
        let secret = secrets.is(entry.below);
        let socket = sockets && entry.kind == FileType::Socket;
        if !secret && !socket {
            return Then::Enter;
        }
        if let Some(stat) = entry.stat().filter(|stat| entry.kind != FileType::Directory && stat.st_nlink > 1)
        {
            linked.insert((stat.st_dev, stat.st_ino));
        }
        // A socket that nobody listens at can never be listened at again; a program may want to put its own in its place.
        if !secret && !somebody_listens(entry, workspace) {
            return Then::Pass;
        }
        covered.add(entry, &mut failed);
        Then::Pass
    };
    covered_more(survey::go_through(&root, ENTRIES_MAX, &mut on), &mut covered);
    if !linked.is_empty() {
        // The same file by names that tell nothing.
        let mut on = |entry: &Entry<'_>| {
            let same = matches!(entry.kind, FileType::RegularFile | FileType::Socket)
                && entry.stat().is_some_and(|stat| linked.contains(&(stat.st_dev, stat.st_ino)));
            if same {
                covered.add(entry, &mut failed);
            }
            Then::Enter
        };
        covered_more(survey::go_through(&root, ENTRIES_MAX, &mut on), &mut covered);
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(covered),
    }
}

fn covered_more(whole: bool, covered: &mut Covered) {
    covered.more |= !whole;
}

impl Covered {
    fn add(&mut self, entry: &Entry<'_>, failed: &mut Option<io::Error>) {
        if self.count == MASKS_MAX {
            self.more = true;
            return;
        }
        match mask(entry) {
            Ok(new) => {
                self.count += 1;
                self.new += usize::from(new);
            }
            // Gone since it was seen, or a link, which names something that is covered itself or lies outside.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            Err(error) => *failed = Some(error),
        }
    }
}

/// Mounts the closed file or folder over an entry. Returns whether that was still to be done.
fn mask(entry: &Entry<'_>) -> io::Result<bool> {
    let with = match entry.kind {
        FileType::Directory => MASK_FOLDER,
        FileType::RegularFile | FileType::Socket | FileType::Fifo => MASK_FILE,
        // A link is what it leads to; devices cannot be made here.
        FileType::Symlink | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
            return Ok(false);
        }
    };
    // What is covered already shows the closed file: it is on another file system than its folder.
    let (here, folder) = (entry.stat(), rustix::fs::fstat(entry.folder)?);
    if here.is_some_and(|here| here.st_dev != folder.st_dev) {
        return Ok(false);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount: OwnedFd = rustix::mount::open_tree(CWD, with, flags)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", entry.folder, entry.name, flags)?;
    Ok(true)
}

/// Whether a process listens at a socket. Nothing is said to it: a socket of another type is refused before it hears of it.
fn somebody_listens(entry: &Entry<'_>, workspace: &Path) -> bool {
    let path = workspace.join(entry.below);
    // A path that is too long for an address is reached by another way, so it counts as listened at.
    let Ok(address) = SocketAddrUnix::new(path.as_path()) else { return true };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let Ok(socket) = socket else { return true };
    rustix::net::connect(&socket, &address) != Err(rustix::io::Errno::CONNREFUSED)
}

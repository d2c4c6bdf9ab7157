//! The file system a sandbox sees: a small tmpfs with the allow-listed host paths mounted read-only, and the workspace.
//!
//! Nothing of the host is there unless it is on the list. The pieces are taken from the host as detached mounts first,
//! while the process still has the rights to look them up; then they are put together in the new root.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::gvisor;
use super::sys::{self, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::wire::{Setup, Shown};
use crate::egress;

/// The home folder inside: a tmpfs of the session's own.
pub(super) const HOME: &str = "/home/saga";

/// A file and a folder that nobody may open: what is mounted over what commands may not see.
pub(super) const MASK_FILE: &str = "/run/closed/file";
pub(super) const MASK_FOLDER: &str = "/run/closed/folder";

/// Folders of the host that are shown whole, or as the symlinks they are.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Files and folders of the host's /etc that programs need and that tell nothing about the host's people.
const ETC: [&str; 14] = [
    "alternatives",
    "ca-certificates.conf",
    "debian_version",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "localtime",
    "magic",
    "mime.types",
    "os-release",
    "pki/tls/certs",
    "protocols",
    "services",
];

/// Certificates that programs check others with; never the folder of private keys beside them.
const ETC_SSL: [&str; 2] = ["ssl/certs", "ssl/openssl.cnf"];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Where the new root is put together, before it becomes the root: any folder that every host has.
const BUILD_SITES: [&str; 3] = ["/tmp", "/var", "/usr"];

/// The paths a workspace may not contain, since the sandbox mounts its own there.
pub(super) const OWN_PATHS: [&str; 8] = ["/usr", "/etc", "/proc", "/dev", "/tmp", "/var/tmp", "/sys", HOME];

/// A piece of the host, detached from it.
pub(super) struct Piece {
    mount: OwnedFd,
    is_folder: bool,
    at: PathBuf,
}

/// What the root is put together from.
pub(super) struct Pieces {
    system: Vec<Piece>,
    links: Vec<(PathBuf, PathBuf)>,
    devices: Vec<Piece>,
    /// Toolchains and the workspace, from the shallowest path to the deepest, so that none hides another.
    shown: Vec<Piece>,
}

/// Takes the pieces from the host. `workspace` is its mount when it was prepared before (id-mapped).
pub(super) fn take(setup: &Setup, workspace: Option<OwnedFd>) -> io::Result<Pieces> {
    let mut pieces = Pieces { system: Vec::new(), links: Vec::new(), devices: Vec::new(), shown: Vec::new() };
    for path in SYSTEM.map(Path::new) {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => pieces.links.push((fs::read_link(path)?, path.to_owned())),
            Ok(_) => pieces.system.push(detach(path, path, READ_ONLY | NO_SUID | NO_DEV)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let etc = ETC.iter().chain(&ETC_SSL).map(|name| Path::new("/etc").join(name));
    for path in etc.filter(|path| path.exists()) {
        pieces.system.push(detach(&path, &path, READ_ONLY | NO_SUID | NO_DEV)?);
    }
    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        pieces.devices.push(detach(&path, &path, NO_SUID | NO_EXEC)?);
    }
    if let Some(runsc) = &setup.runsc {
        pieces.system.push(detach(runsc, Path::new(gvisor::PROGRAM), READ_ONLY | NO_SUID | NO_DEV)?);
    }
    for Shown { host, at } in &setup.read_only {
        // A toolchain that was there when the service looked may be gone: the sandbox is smaller, not broken.
        if host.exists() {
            pieces.shown.push(detach(host, at, READ_ONLY | NO_SUID | NO_DEV)?);
        }
    }
    pieces.shown.push(match workspace {
        Some(mount) => Piece { mount, is_folder: true, at: setup.workspace.clone() },
        None => detach(&setup.workspace, &setup.workspace, NO_SUID | NO_DEV | frozen(setup))?,
    });
    pieces.shown.sort_by_key(|piece| piece.at.components().count());
    Ok(pieces)
}

/// What keeps a workspace from being written to, where it can only be read.
pub(super) fn frozen(setup: &Setup) -> u64 {
    if setup.frozen { READ_ONLY } else { 0 }
}

/// Clones a part of the host's tree, with what is mounted below it, and sets attributes on all of the clone.
pub(super) fn detach(host: &Path, at: &Path, attributes: u64) -> io::Result<Piece> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", host.display()));
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mount = rustix::mount::open_tree(CWD, host, flags).map_err(|error| named(error.into()))?;
    sys::mount_setattr(mount.as_fd(), attributes, None, true).map_err(named)?;
    let is_folder = fs::metadata(host).map_err(named)?.is_dir();
    Ok(Piece { mount, is_folder, at: at.to_owned() })
}

/// The workspace, detached, with its owner's files appearing as those of `userns`'s user.
pub(super) fn detach_mapped(host: &Path, userns: OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, host, flags)?;
    sys::mount_setattr(mount.as_fd(), NO_SUID | NO_DEV | attributes, Some(userns.as_fd()), false)?;
    Ok(mount)
}

/// The folders commands may write to.
pub(super) fn writable(setup: &Setup) -> Vec<&Path> {
    let mut writable = ["/tmp", "/var/tmp", "/dev/shm", HOME].map(Path::new).to_vec();
    if !setup.frozen {
        writable.push(&setup.workspace);
    }
    writable
}

/// Puts the root together, moves into it and lets go of the host's.
pub(super) fn enter(pieces: Pieces, setup: &Setup) -> io::Result<()> {
    let base = BUILD_SITES.map(Path::new).into_iter().find(|site| site.is_dir());
    let base = base.ok_or_else(|| io::Error::other("the host has none of /tmp, /var, /usr"))?;
    let inside = |path: &str| base.join(path.trim_start_matches('/'));
    rustix::process::umask(rustix::fs::Mode::empty());

    mount_tmpfs(base, 8 << 20, "0755")?;
    for folder in ["/etc", "/etc/ssl", "/proc", "/dev", "/tmp", "/run", "/var/tmp", HOME] {
        make_folders(&inside(folder))?;
    }
    if setup.runsc.is_some() {
        make_folders(&inside(gvisor::PLACE))?;
    }
    symlink("/run", inside("/var/run"))?;
    for (target, link) in pieces.links {
        symlink(target, base.join(link.strip_prefix("/").expect("system paths are absolute")))?;
    }
    let bundle = setup.egress.as_ref().and_then(|inside| inside.bundle.clone());
    for (path, text) in etc_files().into_iter().chain(bundle.map(|text| (egress::BUNDLE, text))) {
        fs::write(inside(path), text)?;
        fs::set_permissions(inside(path), fs::Permissions::from_mode(0o644))?;
    }
    make_folders(&inside(MASK_FOLDER))?;
    fs::write(inside(MASK_FILE), "")?;
    for path in [MASK_FILE, MASK_FOLDER] {
        fs::set_permissions(inside(path), fs::Permissions::from_mode(0o000))?;
    }
    for piece in pieces.system {
        put(&piece, base)?;
    }

    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", inside("/proc"), "proc", flags, None)
        .map_err(|error| io::Error::other(format!("mounting proc: {}", io::Error::from(error))))?;

    mount_tmpfs(&inside("/dev"), 1 << 20, "0755")?;
    for piece in pieces.devices {
        put(&piece, base)?;
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
    ] {
        symlink(target, inside(link))?;
    }
    make_folders(&inside("/dev/pts"))?;
    make_folders(&inside("/dev/shm"))?;
    rustix::mount::mount(
        "devpts",
        inside("/dev/pts"),
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"newinstance,ptmxmode=0666,mode=0600",
    )?;

    // A full temporary folder counts as memory: it must leave enough for the command that empties it.
    let size = setup.limits.tmp_bytes.min(setup.limits.memory_bytes / 4);
    mount_tmpfs(&inside("/tmp"), size, "1777")?;
    // Not a link to /tmp: a workspace may lie here, and would be mounted where the link leads on the host.
    mount_tmpfs(&inside("/var/tmp"), size, "1777")?;
    mount_tmpfs(&inside("/dev/shm"), size, "1777")?;
    mount_tmpfs(&inside(HOME), size, "0755")?;
    fs::write(inside(HOME).join(".gitconfig"), GIT_CONFIG)?;
    for piece in pieces.shown {
        put(&piece, base)?;
    }

    for path in ["/dev", "/"] {
        let folder = sys::open_path(&inside(path))?;
        sys::mount_setattr(folder.as_fd(), READ_ONLY | NO_SUID, None, false)?;
    }

    // The old root goes on top of the new one and is taken off again: no folder is needed to hold it.
    rustix::process::chdir(base)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    Ok(())
}

/// A fresh /proc over the one that is there: the processes of the caller's pid namespace and no others.
pub(super) fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", "/proc", "proc", flags, None)?)
}

/// Keeps mounts made here from the host, and the host's from here.
pub(super) fn make_private() -> io::Result<()> {
    use rustix::mount::MountPropagationFlags;
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

fn put(piece: &Piece, base: &Path) -> io::Result<()> {
    let at = base.join(piece.at.strip_prefix("/").map_err(io::Error::other)?);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", piece.at.display()));
    if piece.is_folder {
        make_folders(&at).map_err(named)?;
    } else {
        make_folders(at.parent().unwrap_or(base)).map_err(named)?;
        if !at.exists() {
            fs::write(&at, "").map_err(named)?;
        }
    }
    rustix::mount::move_mount(piece.mount.as_fd(), "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| named(error.into()))
}

pub(super) fn mount_tmpfs(at: &Path, bytes: u64, mode: &str) -> io::Result<()> {
    // An inode for each 4 KiB, as for pages: a flood of empty files stops as a flood of bytes does.
    let options = format!("size={bytes},nr_inodes={},mode={mode}", (bytes / 4096).max(1024));
    let options = sys::c_string(options)?;
    rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|error| {
            io::Error::other(format!("mounting a tmpfs at {}: {}", at.display(), io::Error::from(error)))
        })
}

fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Accounts, host names and look-ups as they are inside: nothing of the host's.
fn etc_files() -> [(&'static str, String); 7] {
    [
        (
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/:/usr/sbin/nologin\nsaga:x:1000:1000:saga:{HOME}:/bin/bash\n\
                 nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
            ),
        ),
        ("/etc/group", "root:x:0:\nsaga:x:1000:\nnogroup:x:65534:\n".to_owned()),
        ("/etc/hosts", "127.0.0.1 localhost saga\n::1 localhost saga\n".to_owned()),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n".to_owned()),
        ("/etc/hostname", "saga\n".to_owned()),
        ("/etc/resolv.conf", String::new()),
        ("/etc/shells", "/bin/sh\n/bin/bash\n".to_owned()),
    ]
}

/// So that a commit made inside does not stop to ask who is committing.
const GIT_CONFIG: &str = "[user]\n\tname = saga\n\temail = saga@localhost\n[init]\n\tdefaultBranch = main\n";

/// Whether a workspace can be mounted at its path without covering what the sandbox puts there itself.
pub(super) fn objection(workspace: &Path, shown: &[Shown]) -> Option<String> {
    if workspace.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir)) {
        return Some("its path must be written without . and ..".to_owned());
    }
    let own = OWN_PATHS.iter().map(Path::new);
    let covered =
        own.chain(shown.iter().map(|shown| shown.at.as_path())).find(|path| path.starts_with(workspace));
    if let Some(path) = covered {
        return Some(format!(
            "it contains {}, which the sandbox provides itself; choose a project's folder below it",
            path.display()
        ));
    }
    let system =
        ["/usr", "/etc", "/proc", "/dev", "/sys", "/bin", "/sbin", "/lib", "/lib64", "/run", "/boot"];
    system
        .iter()
        .find(|path| workspace.starts_with(path))
        .map(|path| format!("it lies in {path}, which belongs to the system"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_that_would_hide_the_system_is_refused() {
        // A bind over /usr or a toolchain would hand the model the programs that everything else runs.
        let shown = [Shown { host: "/root/.cargo/bin".into(), at: "/root/.cargo/bin".into() }];
        let check = |path: &str| objection(Path::new(path), &shown);
        for fine in ["/srv/project", "/root/project", "/tmp/x", "/home/me/project"] {
            assert_eq!(check(fine), None, "{fine}");
        }
        for refused in
            ["/", "/root", "/root/.cargo", "/usr", "/usr/src/x", "/home", "/etc", "/proc/1", "/a/../b"]
        {
            assert!(check(refused).is_some(), "{refused}");
        }
    }
}

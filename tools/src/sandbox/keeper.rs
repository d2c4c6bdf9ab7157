//! The keeper: the helper's first process. It stays outside the namespaces, gives the sandbox its user mapping and its
//! cgroup, and cleans up when the sandbox has ended.
//!
//! # Who owns what
//! Inside, everybody is uid and gid 1000. Outside, that is
//! - for a service run by an ordinary user: this user. Files come out as the user's own.
//! - for a service run by root: a host uid that no account uses and no other session has, so that even a process that
//!   got out would own nothing. The workspace is mounted *id-mapped*: the files of its owner appear inside as files of
//!   uid 1000, and what is made inside comes out as the owner's, with no chown anywhere. Where the workspace's file
//!   system cannot do that, the session takes the uid of the workspace's owner, unless that is root: then the layer
//!   `host-uid` is missing.
//!
//! # Who dies with whom
//! Service → keeper → anchor → init of a command → command. The keeper watches the control socket: when the service
//! ends, however it ends, the socket hangs up, the keeper kills the anchor, which is pid 1 of the session's pid
//! namespace, so the kernel kills all the rest. The anchor has the keeper's death as its parent-death signal and watches
//! the socket too. The keeper itself has no parent-death signal: that one comes when the *thread* that started it ends.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::layers::{Ledger, Name};
use super::sys::{self, Fork};
use super::wire::{self, Report, Setup};
use super::{Layer, anchor, cgroup, gvisor, root};

/// The uid and gid everybody has inside.
pub(super) const INSIDE_ID: u32 = 1000;

/// Host uids of sessions run by root begin here; the keeper's pid is added, which no other live session has. It lies
/// above what distributions, containers and systemd hand out, and below the sign bit.
const HOST_IDS: u32 = 1_900_000_000;

/// Becomes the helper. Never returns.
pub(super) fn main() -> ! {
    // Nothing inherited but the control socket, which came as standard input.
    if sys::close_from(3, false).is_err() {
        sys::exit(1);
    }
    // Ignored signals are inherited too: with SIGCHLD ignored, children would vanish before they are waited for. A write
    // to a socket nobody reads any more must be an error and not the end.
    sys::default_signals();
    sys::ignore_broken_pipes();
    let control = UnixStream::from(sys::take_fd(0));
    let Ok(control) = move_away(&control) else { sys::exit(1) };
    let report = match keep(&control) {
        Ok(()) => sys::exit(0),
        Err(Stop::Missing(layers, layer)) => Report::Missing { layers, layer },
        Err(Stop::Failed(what)) => Report::Failed { what },
    };
    // If nobody listens any more there is nobody to tell.
    let _ = wire::send(&control, &report);
    sys::exit(1)
}

/// Puts the control socket above the standard streams and `/dev/null` in its place.
fn move_away(control: &UnixStream) -> io::Result<UnixStream> {
    let moved = rustix::io::fcntl_dupfd_cloexec(control, 3)?;
    let null = fs::File::open("/dev/null")?;
    sys::dup_to(null.as_fd(), 0)?;
    Ok(UnixStream::from(moved))
}

/// Why the setup stopped.
pub(super) enum Stop {
    Missing(Vec<Layer>, Layer),
    Failed(String),
}

impl Stop {
    pub(super) fn failed(what: &str) -> impl FnOnce(io::Error) -> Stop {
        move |error| Stop::Failed(format!("{what}: {error}"))
    }
}

fn keep(control: &UnixStream) -> Result<(), Stop> {
    let talk = "talking to the service";
    (&*control).write_all(&[wire::HELLO]).map_err(Stop::failed(talk))?;
    let setup: Setup = wire::receive(control).map_err(Stop::failed(talk))?;
    let mut ledger = Ledger::new(&setup.lowered, setup.probing);
    let note = |ledger: &mut Ledger, name: Name, found: Result<String, String>| {
        ledger.note(name, found).map_err(|layer| Stop::Missing(ledger.layers.clone(), layer))
    };

    let mapping = Mapping::choose(&setup.workspace).map_err(Stop::failed("looking at the workspace"))?;
    let mut host_ids = mapping.host_ids;
    let mut workspace = None;
    if let Some(owner) = mapping.workspace_owner {
        let mapped = mapped_namespace(owner, host_ids)
            .and_then(|userns| root::detach_mapped(&setup.workspace, userns, root::frozen(&setup)));
        let found = match mapped {
            Ok(mount) => {
                workspace = Some(mount);
                Ok(format!("uid {} of this session's own, the workspace id-mapped", host_ids.0))
            }
            Err(error) => {
                host_ids = owner;
                if owner.0 == 0 {
                    Err(format!("the workspace belongs to root and cannot be mounted id-mapped: {error}"))
                } else {
                    Ok(format!("uid {}, the workspace's owner", owner.0))
                }
            }
        };
        note(&mut ledger, Name::HostUid, found)?;
    } else {
        note(&mut ledger, Name::HostUid, Ok(format!("uid {}, the service's own user", host_ids.0)))?;
    }

    let own = match setup.runsc {
        Some(_) => gvisor::OWN_PROCESSES,
        None => cgroup::OWN_PROCESSES,
    };
    let group = cgroup::Place::make(std::process::id(), &setup.limits, own);
    note(&mut ledger, Name::Limits, group.as_ref().map(cgroup::Place::describe).map_err(String::clone))?;
    let group = group.ok();
    let ended =
        start_anchor(control, &setup, ledger, host_ids, workspace, group.as_ref()).map(|(anchor, alive)| {
            watch(control, anchor);
            drop(alive);
        });
    if let Some(group) = &group {
        group.remove();
    }
    ended
}

/// Waits until the anchor has ended, or the service has, and then both have.
fn watch(control: &UnixStream, anchor: Pid) {
    if let Ok(pidfd) = rustix::process::pidfd_open(anchor, PidfdFlags::empty()) {
        let mut fds = [
            PollFd::new(&pidfd, PollFlags::IN),
            // Only its end is of interest: what comes over it is for the anchor.
            PollFd::new(control, PollFlags::RDHUP),
        ];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut fds, None) {}
    }
    // It may have ended by itself.
    let _ = rustix::process::kill_process(anchor, Signal::KILL);
    wait_for(anchor);
}

/// Waits for a child's end.
fn wait_for(pid: Pid) -> Option<rustix::process::WaitStatus> {
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(found) => return found.map(|(_, status)| status),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// How the users inside and outside are paired.
struct Mapping {
    /// Uid and gid outside that are 1000 inside.
    host_ids: (u32, u32),
    /// Uid and gid of the workspace's owner, when the session has host ids of its own.
    workspace_owner: Option<(u32, u32)>,
}

impl Mapping {
    fn choose(workspace: &Path) -> io::Result<Mapping> {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let id = HOST_IDS + std::process::id();
        // Root in a container may not hand out ids the container does not have: it is an ordinary user then, and its
        // uid 0 is not the host's.
        let whole = own.0 == 0 && maps("/proc/self/uid_map", id) && maps("/proc/self/gid_map", id);
        if !whole {
            return Ok(Mapping { host_ids: own, workspace_owner: None });
        }
        let folder = fs::metadata(workspace)?;
        Ok(Mapping { host_ids: (id, id), workspace_owner: Some((folder.uid(), folder.gid())) })
    }
}

/// Whether an id exists in the present user namespace.
fn maps(file: &str, id: u32) -> bool {
    fs::read_to_string(file).unwrap_or_default().lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
        matches!((numbers.next(), numbers.next(), numbers.next()), (Some(first), Some(_), Some(count))
            if (first..first + count).contains(&u64::from(id)))
    })
}

/// A user namespace in which `from` on disk stands for `to`, for an id-mapped mount.
fn mapped_namespace(from: (u32, u32), to: (u32, u32)) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    match sys::fork(libc::CLONE_NEWUSER)? {
        Fork::Child => {
            drop(ours);
            // Only its namespace is wanted: wait until that has been taken.
            let _ = (&theirs).read(&mut [0]);
            sys::exit(0)
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let process = format!("/proc/{}", pid.as_raw_nonzero());
            let namespace = fs::write(format!("{process}/uid_map"), format!("{} {} 1", from.0, to.0))
                .and_then(|()| fs::write(format!("{process}/gid_map"), format!("{} {} 1", from.1, to.1)))
                .and_then(|()| fs::File::open(format!("{process}/ns/user")));
            drop(ours);
            wait_for(pid);
            Ok(namespace?.into())
        }
    }
}

/// Starts the process that enters the namespaces and forks the anchor there. Returns the anchor, and the socket whose
/// end tells the anchor that the keeper has died.
fn start_anchor(
    control: &UnixStream,
    setup: &Setup,
    ledger: Ledger,
    host_ids: (u32, u32),
    workspace: Option<OwnedFd>,
    group: Option<&cgroup::Place>,
) -> Result<(Pid, UnixStream), Stop> {
    let (ours, theirs) = UnixStream::pair().map_err(Stop::failed("making a socket pair"))?;
    match sys::fork(0).map_err(Stop::failed("forking"))? {
        Fork::Child => {
            drop(ours);
            let stop = match anchor::enter(control, setup, ledger, workspace, group, &theirs) {
                Ok(()) => sys::exit(0),
                Err(Stop::Missing(layers, layer)) => Report::Missing { layers, layer },
                Err(Stop::Failed(what)) => Report::Failed { what },
            };
            let _ = wire::send(control, &stop);
            sys::exit(1)
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let anchor = pair(pid, &ours, host_ids, group);
            if anchor.is_err() {
                // It may be waiting for a word that will not come.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            wait_for(pid);
            match anchor {
                Ok(Some(anchor)) => Ok((anchor, ours)),
                // The child has said why on the control socket.
                Ok(None) => {
                    if let Some(group) = group {
                        group.remove();
                    }
                    sys::exit(1)
                }
                Err(stop) => Err(stop),
            }
        }
    }
}

/// Gives the child its users and its cgroup when it has its user namespace, and learns the anchor's pid from it.
fn pair(
    pid: Pid,
    ours: &UnixStream,
    host_ids: (u32, u32),
    group: Option<&cgroup::Place>,
) -> Result<Option<Pid>, Stop> {
    let mut ours = ours;
    if ours.read_exact(&mut [0]).is_err() {
        return Ok(None);
    }
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    let map = |file: &str, text: String| {
        fs::write(format!("{process}/{file}"), text).map_err(Stop::failed(&format!("writing {file}")))
    };
    let own = rustix::process::geteuid().as_raw() == host_ids.0;
    if own {
        // Without privileges, a group mapping is possible only when groups can no longer be given up.
        map("setgroups", "deny".to_owned())?;
    }
    map("uid_map", format!("{INSIDE_ID} {} 1", host_ids.0))?;
    map("gid_map", format!("{INSIDE_ID} {} 1", host_ids.1))?;
    if let Some(group) = group {
        group.join(pid).map_err(Stop::failed("joining the cgroup"))?;
    }
    ours.write_all(&[if own { anchor::KEEP_GROUPS } else { anchor::DROP_GROUPS }])
        .map_err(Stop::failed("waking the child"))?;
    let mut anchor = [0; 4];
    if ours.read_exact(&mut anchor).is_err() {
        return Ok(None);
    }
    Ok(Pid::from_raw(i32::from_le_bytes(anchor)))
}

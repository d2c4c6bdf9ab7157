//! The anchor: pid 1 of a session. It builds the sandbox's root, and then forks a child for each job the service sends:
//! the init of a command, or a file helper. It never looks at anything the model or the workspace says: a job's words
//! go straight from the service to the child.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::CapabilitySets;

use super::confine::Confinement;
use super::keeper::{INSIDE_ID, Stop};
use super::layers::{Ledger, Name};
use super::masks::{self, Covered, Looked};
use super::sys::{self, Fork};
use super::wire::{self, Kind, Report, Setup, Status, Word};
use super::{Layer, cgroup, command, file_helper, growth, root};
use crate::egress;
use crate::files::Answer;
use crate::secrets::Secrets;

/// The keeper's word to go on: whether supplementary groups can be given up (an unprivileged mapping forbids it).
pub(super) const KEEP_GROUPS: u8 = 1;
pub(super) const DROP_GROUPS: u8 = 2;

/// The anchor's word to a waiting init to run a command, after another look for secrets or without one.
pub(super) const LOOK: u8 = b'l';
pub(super) const RUN: u8 = b'r';

/// What the anchor's children inherit.
pub(super) struct Session {
    pub(super) setup: Setup,
    pub(super) confinement: Confinement,
    /// Whether a cgroup limits the session's memory; a watchdog does otherwise.
    pub(super) memory_is_limited: bool,
    pub(super) secrets: Secrets,
    pub(super) growth: growth::Account,
}

/// Enters the namespaces one by one, so that each that is missing can be named, and forks the anchor in them as a child
/// of the keeper's. Returns in the process that is then no longer needed.
pub(super) fn enter(
    control: &UnixStream,
    setup: &Setup,
    mut ledger: Ledger,
    workspace: Option<OwnedFd>,
    group: Option<&cgroup::Place>,
    keeper: &UnixStream,
) -> Result<(), Stop> {
    let mut step = |name: Name, flag: libc::c_int| {
        let what = format!("unshare({})", name.text());
        ledger.tried(name, &what, sys::unshare(flag)).map_err(|layer| missing(&ledger, layer))
    };
    step(Name::User, libc::CLONE_NEWUSER)?;
    let mut keeper = keeper;
    let mut word = [0];
    keeper
        .write_all(&[1])
        .and_then(|()| keeper.read_exact(&mut word))
        .map_err(Stop::failed("waiting for the user mapping"))?;
    step(Name::Mount, libc::CLONE_NEWNS)?;
    step(Name::Ipc, libc::CLONE_NEWIPC)?;
    step(Name::Uts, libc::CLONE_NEWUTS)?;
    step(Name::Cgroup, libc::CLONE_NEWCGROUP)?;
    step(Name::Network, libc::CLONE_NEWNET)?;
    step(Name::Pid, libc::CLONE_NEWPID)?;
    // Still with the service's rights to look paths up: a toolchain may lie in a folder only its owner may enter.
    let pieces = root::make_private().and_then(|()| root::take(setup, workspace));
    let pieces = pieces.map_err(|error| missing(&ledger, Name::Root.layer(&Err(error.to_string()))))?;

    match sys::fork(libc::CLONE_PARENT).map_err(Stop::failed("forking the anchor"))? {
        Fork::Parent(anchor) => keeper
            .write_all(&anchor.as_raw_nonzero().get().to_le_bytes())
            .map_err(Stop::failed("naming the anchor")),
        Fork::Child => {
            let drop_groups = word[0] == DROP_GROUPS;
            let report = match settle(setup, &mut ledger, pieces, drop_groups, keeper) {
                Ok(Settled { confinement, secrets, growth, looked, listener }) => {
                    let listens = listener.is_some();
                    let ready = Report::Ready { layers: ledger.layers, cgroup: group.cloned(), listens };
                    let handed = wire::send(control, &ready).and_then(|()| match &listener {
                        Some(listener) => wire::send_with(control, wire::LISTENER, &[listener.as_fd()]),
                        None => Ok(()),
                    });
                    if handed.is_err() {
                        sys::exit(1);
                    }
                    // The service's alone from here on: no child inherits it.
                    drop(listener);
                    let mut setup = setup.clone();
                    if let Some(inside) = setup.egress.take().filter(|_| listens) {
                        let told = |name: &String| inside.env.iter().any(|(other, _)| other == name);
                        setup.env.retain(|(name, _)| !told(name));
                        setup.env.extend(inside.env);
                    }
                    let session =
                        Session { setup, confinement, memory_is_limited: group.is_some(), secrets, growth };
                    serve(control, session, looked)
                }
                Err(Stop::Missing(layers, layer)) => Report::Missing { layers, layer },
                Err(Stop::Failed(what)) => Report::Failed { what },
            };
            let _ = wire::send(control, &report);
            sys::exit(1)
        }
    }
}

fn missing(ledger: &Ledger, layer: Layer) -> Stop {
    Stop::Missing(ledger.layers.clone(), layer)
}

/// What settling leaves for later.
struct Settled {
    confinement: Confinement,
    secrets: Secrets,
    growth: growth::Account,
    looked: Looked,
    /// What the session's proxy is to listen at, where it has one.
    listener: Option<TcpListener>,
}

/// Becomes the inside user, builds the root and moves into it.
fn settle(
    setup: &Setup,
    ledger: &mut Ledger,
    pieces: root::Pieces,
    drop_groups: bool,
    keeper: &UnixStream,
) -> Result<Settled, Stop> {
    become_inside_user(drop_groups).map_err(Stop::failed("becoming the inside user"))?;
    // After the last change of credentials, which clears it; and then checked, since the keeper may have died before.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Stop::Failed(format!("setting the parent-death signal: {error}")))?;
    if has_ended(keeper) {
        sys::exit(1);
    }

    // The name is only for people who look; failing to set it harms nothing.
    let _ = rustix::system::sethostname(b"saga");
    if let Err(error) = sys::loopback_up() {
        note_network(ledger, &error)?;
    }
    // Only in a network of the session's own: in the host's it would be everybody's.
    let own_network = ledger.layers.iter().all(|layer| layer.holds || layer.name != Name::Network.text());
    let listener = setup.egress.as_ref().filter(|_| own_network).map(|_| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, egress::PORT))
            .map_err(Stop::failed("listening for the proxy"))
    });
    let listener = listener.transpose()?;
    let built = root::enter(pieces, setup).map(|()| "tmpfs root, pivot_root, fresh /proc".to_owned());
    let found = built.map_err(|error| error.to_string());
    ledger.note(Name::Root, found).map_err(|layer| missing(ledger, layer))?;

    let secrets = Secrets::new(&setup.secrets).map_err(Stop::Failed)?;
    let growth = growth::Account::open(&setup.workspace, &setup.limits)
        .map_err(Stop::failed("measuring the workspace"))?;
    let found = look(setup, &secrets, &growth);
    ledger.note(Name::Secrets, found).map_err(|layer| missing(ledger, layer))?;
    let looked = Looked::now();

    // When the whole host runs out of memory, a sandbox goes before the service. The children inherit it.
    let _ = fs::write("/proc/self/oom_score_adj", "300");
    // What children must not do to the anchor or to each other's inits: look into memory or /proc.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Stop::Failed(format!("becoming undumpable: {error}")))?;

    let landlock = sys::landlock_abi();
    let found =
        if landlock > 0 { Ok(format!("ABI {landlock}")) } else { Err("the kernel offers none".to_owned()) };
    ledger.note(Name::Landlock, found).map_err(|layer| missing(ledger, layer))?;
    let seccomp = seccomp_available();
    let found =
        if seccomp { Ok("allow-list".to_owned()) } else { Err("the kernel offers no filters".to_owned()) };
    ledger.note(Name::Seccomp, found).map_err(|layer| missing(ledger, layer))?;

    let workspace =
        setup.workspace.to_str().ok_or_else(|| Stop::Failed("the workspace's path".to_owned()))?;
    let confinement = Confinement::prepare(workspace, &root::writable(setup), landlock > 0, seccomp)
        .map_err(Stop::failed("preparing the confinement"))?;
    Ok(Settled { confinement, secrets, growth, looked, listener })
}

/// Covers what commands may not see, in a child: what lies in a workspace is never looked at by the anchor itself. Returns
/// what is to be said of it.
fn look(setup: &Setup, secrets: &Secrets, growth: &growth::Account) -> Result<String, String> {
    let say = |error: io::Error| error.to_string();
    let (answer, to_answer) = io::pipe().map_err(say)?;
    match sys::fork(0).map_err(say)? {
        Fork::Child => {
            drop(answer);
            sys::alarm(LOOK_WALL_SECS);
            let began = Instant::now();
            let found = masks::cover(&setup.workspace, secrets, true).map_err(say);
            growth.note_look(began.elapsed());
            let _ = wire::send(to_answer, &found);
            sys::exit(0)
        }
        Fork::Parent(pid) => {
            drop(to_answer);
            let found = wire::receive::<Result<Covered, String>>(answer);
            // It has said its word, or its alarm has ended it.
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            match found {
                Ok(Ok(Covered { count, more: false, .. })) => {
                    Ok(format!("{count} secrets and sockets of the workspace are closed"))
                }
                Ok(Ok(Covered { count, more: true, .. })) => Err(format!(
                    "the workspace holds too much to look through; {count} secrets and sockets of it are closed"
                )),
                Ok(Err(why)) => Err(format!("closing secrets: {why}")),
                Err(_) => Err("looking for secrets took too long".to_owned()),
            }
        }
    }
}

/// How long a look for secrets may take.
const LOOK_WALL_SECS: u32 = 5;

/// Whether the keeper has ended: it holds the other end of this socket for as long as it lives. (Its pid cannot be asked
/// for: it lies outside the pid namespace.)
fn has_ended(keeper: &UnixStream) -> bool {
    let mut fds = [PollFd::new(keeper, PollFlags::RDHUP)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn note_network(ledger: &mut Ledger, error: &io::Error) -> Result<(), Stop> {
    ledger
        .note(Name::Network, Err(format!("bringing loopback up: {error}")))
        .map_err(|layer| missing(ledger, layer))
}

/// Takes the inside uid and gid, keeping the capabilities over the namespaces just made.
fn become_inside_user(drop_groups: bool) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    let (uid, gid) = (Uid::from_raw(INSIDE_ID), Gid::from_raw(INSIDE_ID));
    rustix::thread::set_keep_capabilities(true)?;
    if drop_groups {
        rustix::thread::set_thread_groups(&[])?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let kept = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept.permitted,
            permitted: kept.permitted,
            inheritable: kept.inheritable,
        },
    )?;
    Ok(())
}

fn seccomp_available() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nSeccomp:"))
}

/// A job under way: the child, and our copy of its channel, which tells when the service lets go of it.
struct Job {
    pid: Pid,
    pidfd: OwnedFd,
    /// `None` for one that the service knows nothing of.
    channel: Option<OwnedFd>,
    /// Whether it was killed and has not ended yet.
    killed: bool,
}

/// The init of a command that is still to come, with namespaces of its own: they take longer to make than most commands
/// take to start, so they are made while nobody waits.
struct Spare {
    pid: Pid,
    pidfd: OwnedFd,
    hand: UnixStream,
}

/// Which side of a [`Spare`] this is.
enum Forked {
    Here(Spare),
    There(UnixStream),
}

impl Spare {
    fn fork() -> io::Result<Forked> {
        let (ours, theirs) = UnixStream::pair()?;
        match sys::fork(libc::CLONE_NEWPID | libc::CLONE_NEWNS)? {
            Fork::Child => Ok(Forked::There(theirs)),
            Fork::Parent(pid) => {
                let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
                Ok(Forked::Here(Spare { pid, pidfd, hand: ours }))
            }
        }
    }
}

fn job(pid: Pid, channel: Option<OwnedFd>) -> Option<Job> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    Some(Job { pid, pidfd, channel, killed: false })
}

/// Forks a child for each job, kills those the service lets go of, and ends when the service does. When this process
/// ends, the kernel kills everything in the session.
fn serve(control: &UnixStream, session: Session, mut looked: Looked) -> ! {
    let mut jobs: Vec<Job> = Vec::new();
    // What the workspace holds is counted beside the work: a large one takes seconds.
    match sys::fork(0) {
        Ok(Fork::Child) => {
            let counted = session.growth.count_start(&session.setup.workspace);
            sys::exit(i32::from(counted.is_err()))
        }
        Ok(Fork::Parent(pid)) => jobs.extend(job(pid, None)),
        Err(_) => sys::exit(1),
    }
    let mut spare: Option<Spare> = None;
    loop {
        if spare.is_none() {
            spare = match Spare::fork() {
                Ok(Forked::Here(spare)) => Some(spare),
                Ok(Forked::There(hand)) => {
                    // Another job's channel held open here would keep the service waiting for that job's end.
                    drop(jobs);
                    command::init(session, hand)
                }
                // The session has used up its processes: it is tried again when something has happened.
                Err(_) => None,
            };
        }
        let mut fds = vec![PollFd::new(control, PollFlags::IN | PollFlags::RDHUP)];
        for job in &jobs {
            fds.push(PollFd::new(&job.pidfd, PollFlags::IN));
            // One without a channel is let go of by nobody, and one that is killed has been let go of.
            let channel = job.channel.as_ref().filter(|_| !job.killed);
            fds.push(PollFd::new(channel.unwrap_or(&job.pidfd), PollFlags::RDHUP));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => sys::exit(1),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        let mut happened = ready.into_iter();
        let asked = happened.next().unwrap_or(PollFlags::empty());
        jobs.retain_mut(|job| {
            let ended = happened.next().is_some_and(|flags| !flags.is_empty());
            let let_go = happened.next().is_some_and(|flags| !flags.is_empty());
            if ended {
                // Reaping before the channel is closed: when the service sees it close, nothing of the job is left.
                let _ = rustix::process::waitpid(Some(job.pid), WaitOptions::empty());
            } else if let_go && !job.killed {
                let _ = rustix::process::pidfd_send_signal(&job.pidfd, Signal::KILL);
                job.killed = true;
            }
            !ended
        });
        if asked.is_empty() {
            continue;
        }
        let (kind, fds) = match wire::receive_with(control) {
            Ok(Some((byte, fds))) => match Kind::of(byte) {
                Some(kind) if fds.len() == kind.descriptors() => (kind, fds),
                Some(_) | None => sys::exit(1),
            },
            Ok(None) | Err(_) => sys::exit(0),
        };
        let mut fds = fds.into_iter();
        let Some(channel) = fds.next() else { sys::exit(1) };
        match kind {
            Kind::Command | Kind::CommandWithInput | Kind::Wired => {
                let Some(Spare { pid, pidfd, hand }) = spare.take() else {
                    let why = "the session runs as many processes as it may; end some of them first";
                    let status = Status::NotStarted(why.to_owned());
                    let _ = wire::send(UnixStream::from(channel), &Word { status, alone: true });
                    continue;
                };
                let look = looked.is_due(session.growth.look_cost());
                if look {
                    looked = Looked::now();
                }
                let fds: Vec<OwnedFd> = fds.collect();
                let handed: Vec<BorrowedFd<'_>> =
                    std::iter::once(channel.as_fd()).chain(fds.iter().map(AsFd::as_fd)).collect();
                // If it has been killed, for want of memory say, the channel closes without a word, and the service says
                // what that means.
                let _ = wire::send_with(&hand, if look { LOOK } else { RUN }, &handed);
                jobs.push(Job { pid, pidfd, channel: Some(channel), killed: false });
            }
            Kind::Files | Kind::FilesWithOutput => match sys::fork(0) {
                Ok(Fork::Child) => {
                    drop((jobs, spare));
                    file_helper::main(session, channel, fds.next())
                }
                Ok(Fork::Parent(pid)) => match job(pid, Some(channel)) {
                    Some(job) => jobs.push(job),
                    None => sys::exit(1),
                },
                Err(_) => {
                    let answer = Ok::<_, String>(Answer::crowded());
                    let _ = wire::send(UnixStream::from(channel), &answer);
                }
            },
        }
    }
}

//! The init of a command: pid 1 of the command's own pid namespace. It starts the command, reaps what is orphaned, says
//! how the command ended, and takes everything down with it when it ends.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use rustix::thread::CapabilitySet;

use super::SHELL;
use super::anchor::{LOOK, Session};
use super::confine::{self, Purpose};
use super::growth::{self, Watch};
use super::gvisor;
use super::masks;
use super::root;
use super::sys::{self, Fork};
use super::terminal::{self, Relay};
use super::wire::{self, Setup, Start, Status, Word};
use crate::secrets::Secrets;

/// How often the watchdog looks at the room that is left, which costs next to nothing, and orphans are reaped: while room comes and goes, and
/// otherwise, when a fast disk could take some tens of megabytes between two looks; and how often at the memory in use, where it has to.
const TICK: Duration = Duration::from_millis(10);
const REST_TICK: Duration = Duration::from_millis(40);
const MEMORY_TICK: Duration = Duration::from_millis(100);

/// Waits for a command and runs it. Never returns: the process ends when nothing of the command is left.
pub(super) fn init(session: Session, hand: UnixStream) -> ! {
    let prepared = Prepared::make(session);
    let Ok(Some((word, fds))) = wire::receive_with(&hand) else { sys::exit(0) };
    drop(hand);
    let mut fds = fds.into_iter();
    let (Some(channel), Some(output)) = (fds.next(), fds.next()) else { sys::exit(1) };
    let channel = UnixStream::from(channel);
    let (input, errors) = (fds.next(), fds.next());
    let pipes = Pipes { output, input, errors };
    let ended = prepared.and_then(|prepared| prepared.run(&channel, pipes, word == LOOK));
    if let Err(error) = ended {
        let word = Word { status: Status::Broken(error.to_string()), alone: false };
        // If the service has let go, nobody waits for this word.
        let _ = wire::send(&channel, &word);
        sys::exit(1)
    }
    sys::exit(0)
}

/// The process that waits to become the command, or to run it in its gVisor.
struct Main {
    pid: Pid,
    tell: UnixStream,
    /// Says why the program was not started; closed when it was.
    errors: io::PipeReader,
}

/// Which side of a [`Main`] this is.
enum Forked {
    Here(Main),
    There(UnixStream, io::PipeWriter),
}

impl Main {
    fn fork() -> io::Result<Forked> {
        let (errors, to_errors) = io::pipe()?;
        let (tell, told) = UnixStream::pair()?;
        Ok(match sys::fork(0)? {
            Fork::Child => Forked::There(told, to_errors),
            Fork::Parent(pid) => Forked::Here(Main { pid, tell, errors }),
        })
    }
}

/// All that can be done for a command before it is known: namespaces with their /proc, and a process that is confined and
/// waits to become the command.
struct Prepared {
    main: Main,
    /// What another gVisor is booted from, where commands run in one.
    gvisor: Option<Setup>,
    workspace: PathBuf,
    secrets: Secrets,
    growth: growth::Account,
    /// Where nothing else limits it.
    memory_bytes: Option<u64>,
}

impl Prepared {
    fn make(session: Session) -> io::Result<Prepared> {
        root::mount_proc()?;
        match Main::fork()? {
            Forked::There(told, to_errors) => {
                if session.setup.runsc.is_some() {
                    drop(to_errors);
                    gvisor::main(&session.setup, &told)
                }
                let status = wait_and_run(session, &told);
                let _ = wire::send(to_errors, &status);
                sys::exit(127)
            }
            Forked::Here(main) => Ok(Prepared {
                main,
                gvisor: session.setup.runsc.is_some().then(|| session.setup.clone()),
                memory_bytes: (!session.memory_is_limited).then_some(session.setup.limits.memory_bytes),
                workspace: session.setup.workspace,
                secrets: session.secrets,
                growth: session.growth,
            }),
        }
    }

    fn run(mut self, channel: &UnixStream, pipes: Pipes, look: bool) -> io::Result<()> {
        if look {
            let began = Instant::now();
            // What could not be covered at the start was said then; there is nobody to say it to now.
            let covered = masks::cover(&self.workspace, &self.secrets, false);
            self.growth.note_look(began.elapsed());
            // A gVisor sees the mounts that were there when it booted.
            if let Some(setup) =
                self.gvisor.as_ref().filter(|_| covered.is_err() || covered.is_ok_and(|it| it.new > 0))
            {
                end_all();
                match Main::fork()? {
                    Forked::There(told, to_errors) => {
                        drop(to_errors);
                        gvisor::main(setup, &told)
                    }
                    Forked::Here(main) => self.main = main,
                }
            }
        }
        let Main { pid: main, tell, errors } = self.main;
        // What a command closes to its owner must still be counted. This process runs nothing and opens no file.
        confine::drop_capabilities(CapabilitySet::DAC_READ_SEARCH)?;
        rustix::thread::set_no_new_privs(true)?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut start: Start = wire::receive(channel)?;
        let mut growth = Watch::begin(self.growth, &self.workspace)?;
        // Here, since the command's process has no call any more that holds a path below a folder.
        let folder = match open_folder(&self.workspace, start.cwd.as_deref()) {
            Ok(folder) => folder,
            Err(error) => {
                let status = not_entered(start.cwd.as_deref(), error);
                return wire::send(channel, &Word { status, alone: false });
            }
        };
        if self.gvisor.is_some() {
            // It has mounts of its own, in which this descriptor is nowhere.
            let path = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
            start.cwd = Some(path.into_os_string().into_string().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidInput, "the folder's path is not UTF-8")
            })?);
        }
        let relay = if start.tty {
            let (here, there) = terminal::open()?;
            wire::send_with(&tell, TERMINAL, &[folder.as_fd(), there.as_fd()])?;
            Some(Relay::new(here, pipes.output, pipes.input)?)
        } else {
            let Pipes { output, input, errors } = &pipes;
            let given: Vec<BorrowedFd<'_>> = [Some(&folder), Some(output), input.as_ref(), errors.as_ref()]
                .into_iter()
                .flatten()
                .map(AsFd::as_fd)
                .collect();
            wire::send_with(&tell, PIPES, &given)?;
            // The command's own are the last: when it has closed them, that is the end.
            drop(pipes);
            None
        };
        drop(folder);
        wire::send(&tell, &start)?;
        let in_gvisor = self.gvisor.is_some().then_some(tell);
        let status = match not_started(errors) {
            Some(status) => status,
            None => wait(main, channel, (self.memory_bytes, in_gvisor.is_some()), &mut growth, relay)?,
        };
        if let Some(tell) = in_gvisor {
            let status = match status {
                // That process only ran the command, and says how the command ended; without a word it was killed with it.
                Status::Exited(_) | Status::Signalled(_) => wire::receive(&tell).unwrap_or(status),
                Status::NotStarted(_) | Status::OutOfMemory | Status::WorkspaceFull | Status::Broken(_) => {
                    status
                }
            };
            // Its gVisor is still there, and in it what the command may have left behind.
            end_all();
            return wire::send(channel, &Word { status, alone: true });
        }
        let alone = loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                // One that has ended already, or a signal.
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break false,
                Err(error) => break error == rustix::io::Errno::CHILD,
            }
        };
        wire::send(channel, &Word { status, alone })?;
        // What the command left behind lives until the service lets go, which kills this process and so all.
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => continue,
                Ok(None) => {}
                Err(_) => return Ok(()),
            }
            if growth.is_full() {
                sys::signal_all(libc::SIGKILL);
            }
            std::thread::sleep(TICK);
        }
    }
}

/// Ends everything in this pid namespace but this process.
fn end_all() {
    sys::signal_all(libc::SIGKILL);
    while rustix::process::wait(WaitOptions::empty()).is_ok_and(|ended| ended.is_some()) {}
}

/// An init's word to the process that becomes the command: which streams come with it.
const PIPES: u8 = b'p';
const TERMINAL: u8 = b't';

/// Why the program was not started; `None` when it was, which closes the pipe.
fn not_started(mut errors: io::PipeReader) -> Option<Status> {
    let mut bytes = Vec::new();
    errors.read_to_end(&mut bytes).ok()?;
    wire::receive(bytes.as_slice()).ok()
}

/// Waits for the main process, reaping others that end, passing signals and a terminal's text on, and watching the
/// workspace, and the memory where nothing else limits it.
fn wait(
    main: Pid,
    channel: &UnixStream,
    (memory_bytes, in_gvisor): (Option<u64>, bool),
    growth: &mut Watch,
    mut relay: Option<Relay>,
) -> io::Result<Status> {
    let pidfd = rustix::process::pidfd_open(main, PidfdFlags::empty())?;
    let mut listens = true;
    let mut looked = Instant::now();
    loop {
        let tick = if growth.is_moving() { TICK } else { REST_TICK };
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(tick.subsec_nanos()) };
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if listens {
            fds.push(PollFd::new(channel, PollFlags::IN));
        }
        if let Some(relay) = &relay {
            fds.extend(relay.waits_for());
        }
        match rustix::event::poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let signalled = listens && !fds[1].revents().is_empty();
        drop(fds);
        if signalled {
            listens = pass_signal(channel, main);
        }
        if let Some(relay) = &mut relay {
            relay.pass_on();
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == main => {
                    if let Some(relay) = &mut relay {
                        relay.pass_on();
                    }
                    return Ok(ended(status));
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break,
                Err(error) => return Err(error.into()),
            }
        }
        // What takes too much is ended here and now: the service hears of it later, and whatever it does takes time.
        if let Some(limit) = memory_bytes.filter(|_| looked.elapsed() >= MEMORY_TICK) {
            looked = Instant::now();
            if memory_in_use(in_gvisor) > limit {
                sys::signal_all(libc::SIGKILL);
                return Ok(Status::OutOfMemory);
            }
        }
        if growth.is_full() {
            sys::signal_all(libc::SIGKILL);
            return Ok(Status::WorkspaceFull);
        }
    }
}

/// Passes one signal on to the command's process group. Returns whether more may come.
fn pass_signal(mut channel: &UnixStream, main: Pid) -> bool {
    let mut byte = [0];
    if !matches!(channel.read(&mut byte), Ok(1)) {
        return false;
    }
    if let Some(signal) = Signal::from_named_raw(i32::from(byte[0])) {
        // It has not been waited for, so the number is still its own; it may have ended.
        let _ = rustix::process::kill_process_group(main, signal);
    }
    true
}

pub(super) fn ended(status: WaitStatus) -> Status {
    match status.terminating_signal() {
        Some(signal) => Status::Signalled(signal),
        None => Status::Exited(status.exit_status().unwrap_or(-1)),
    }
}

/// Memory that the processes of this pid namespace hold for themselves, and the most that one of them shares: what runs in a
/// gVisor lies in one file that its processes share. Bytes.
fn memory_in_use(in_gvisor: bool) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let statuses = processes.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    let (mut own, mut shared) = (0, 0);
    for status in statuses {
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
        };
        own += kilobytes("RssAnon:");
        if in_gvisor {
            shared = shared.max(kilobytes("RssShmem:"));
        }
    }
    (own + shared) * 1024
}

/// The service's pipes to a command.
pub(super) struct Pipes {
    output: OwnedFd,
    input: Option<OwnedFd>,
    /// Where its standard error goes when that is kept apart; there is input then, too.
    errors: Option<OwnedFd>,
}

/// What a command reads from and writes to.
pub(super) enum Streams {
    Pipes(Pipes),
    Terminal(OwnedFd),
}

impl Streams {
    /// Hears of a command, of the folder it runs in and of its streams.
    pub(super) fn hear(told: &UnixStream) -> io::Result<(Start, OwnedFd, Streams)> {
        let (word, fds) = wire::receive_with(told)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(io::Error::from(io::ErrorKind::UnexpectedEof));
        let (folder, first) = (next()?, next()?);
        let streams = if word == TERMINAL {
            Streams::Terminal(first)
        } else {
            let (input, errors) = (fds.next(), fds.next());
            Streams::Pipes(Pipes { output: first, input, errors })
        };
        Ok((wire::receive(told)?, folder, streams))
    }

    /// Puts them in their places, and makes a terminal the one of this process session.
    pub(super) fn take(&self) -> io::Result<()> {
        match self {
            Streams::Pipes(Pipes { output, input, errors }) => {
                match input {
                    Some(input) => sys::dup_to(input.as_fd(), 0)?,
                    None => sys::dup_to(fs::File::open("/dev/null")?.as_fd(), 0)?,
                }
                sys::dup_to(output.as_fd(), 1)?;
                sys::dup_to(errors.as_ref().unwrap_or(output).as_fd(), 2)
            }
            Streams::Terminal(terminal) => {
                rustix::process::ioctl_tiocsctty(terminal)?;
                (0..=2).try_for_each(|number| sys::dup_to(terminal.as_fd(), number))
            }
        }
    }
}

/// Becomes the command when it is told which. Returns only to say why that was not possible.
fn wait_and_run(session: Session, told: &UnixStream) -> Status {
    let broken = |what: &str, error: io::Error| Status::Broken(format!("{what}: {error}"));
    if let Err(error) = rustix::process::setsid() {
        return broken("starting a process session", error.into());
    }
    let Session { setup, confinement, memory_is_limited, .. } = session;
    sys::default_signals();
    if let Err(error) = confinement.apply(Purpose::Command, &setup.limits, memory_is_limited) {
        return broken("confining the command", error);
    }
    // After the last change of credentials, which may clear it.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return broken("setting the parent-death signal", error.into());
    }
    let (start, folder, streams) = match Streams::hear(told) {
        Ok(told) => told,
        Err(error) => return broken("hearing of the command", error),
    };
    if let Err(error) = streams.take() {
        return broken("setting up the streams", error);
    }
    if let Err(error) = rustix::process::fchdir(folder) {
        return not_entered(start.cwd.as_deref(), error.into());
    }
    let env = environment(&setup, &start);
    let candidates = match candidates(&start, &env) {
        Ok(candidates) => candidates,
        Err(error) => return Status::NotStarted(error.to_string()),
    };
    let words = |words: &[String]| words.iter().map(sys::c_string).collect::<io::Result<Vec<_>>>();
    let pairs: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (mut argv, env) = match (words(&start.argv), words(&pairs)) {
        (Ok(argv), Ok(env)) => (argv, env),
        (Err(error), _) | (_, Err(error)) => return Status::NotStarted(format!("the command: {error}")),
    };
    if let Err(error) = sys::close_from(3, true) {
        return broken("closing descriptors", error);
    }
    let mut denied = None;
    for program in candidates {
        let Ok(program) = sys::c_string(program) else { continue };
        if start.argv[0] == SHELL {
            argv[0].clone_from(&program);
        }
        let error = sys::exec(&program, &argv, &env);
        if error.kind() != io::ErrorKind::NotFound {
            denied = Some(error);
        }
    }
    not_run(&start, denied)
}

/// What is said of a program that is none.
pub(super) fn not_run(start: &Start, denied: Option<io::Error>) -> Status {
    let name = start.argv.first().map_or("", String::as_str);
    let name = if name == SHELL { "the shell" } else { name };
    Status::NotStarted(match denied {
        Some(error) => format!("{name} cannot be run: {error}"),
        None => format!("{name}: there is no such program"),
    })
}

/// Opens the working folder: the workspace or one below it, whatever symlinks say.
fn open_folder(workspace: &Path, cwd: Option<&str>) -> io::Result<OwnedFd> {
    let folder = sys::open_path(workspace)?;
    match cwd {
        None | Some("" | ".") => Ok(folder),
        Some(cwd) => Ok(rustix::fs::openat2(
            folder,
            cwd,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )?),
    }
}

pub(super) fn not_entered(cwd: Option<&str>, error: io::Error) -> Status {
    Status::NotStarted(format!("the folder {} cannot be entered: {error}", cwd.unwrap_or(".")))
}

/// The sandbox's environment with the command's additions in place of what they rename.
pub(super) fn environment(setup: &Setup, start: &Start) -> Vec<(String, String)> {
    let added = |name: &String| start.env.iter().any(|(other, _)| other == name);
    let built = setup.env.iter().filter(|(name, _)| !added(name));
    built.chain(&start.env).cloned().collect()
}

/// The files the program may be, in order.
pub(super) fn candidates(start: &Start, env: &[(String, String)]) -> io::Result<Vec<String>> {
    let program = match start.argv.first().map(String::as_str) {
        None | Some("") => return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty")),
        Some(SHELL) => {
            return Ok(vec!["/bin/bash".to_owned(), "/usr/bin/bash".to_owned(), "/bin/sh".to_owned()]);
        }
        Some(program) => program,
    };
    if program.contains('/') {
        return Ok(vec![program.to_owned()]);
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map_or("/usr/bin:/bin", |(_, value)| value);
    Ok(path
        .split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| format!("{folder}/{program}"))
        .collect())
}

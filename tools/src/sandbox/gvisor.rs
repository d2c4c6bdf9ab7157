//! A gVisor for one command: the process that waits to become the command boots it instead, while nobody waits, and then runs the
//! command there. It lies inside the native sandbox and takes all it has from it: the files that the sandbox shows, with secrets
//! covered; its network, in which there is nothing but the session's loopback; its limits of memory and processes. What gets out
//! of a gVisor is then in the session's namespaces, as a user who owns nothing else.
//!
//! There is one for each command and not one for the session, because it then ends as any command does: with the first process of
//! the command's pid namespace, and with it everything the command started. No container outlives its command, so that there is
//! none to be swept, and one whose memory ran out takes no other command with it.
//!
//! Its users: `runsc` works only as root, so it is root of a user namespace that has the session's user and nobody else, and
//! what runs inside belongs to that root. Commands get a user namespace in gVisor that turns it into the session's user again.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Access, CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};
use rustix::process::{DumpableBehavior, Pid, Resource, Signal};
use serde_json::{Value, json};

use super::command::{self, Streams};
use super::confine;
use super::keeper::INSIDE_ID;
use super::root;
use super::sys;
use super::syscalls::{self, For};
use super::wire::{self, Setup, Start, Status};
use crate::Limits;

/// Where the sandbox has `runsc`.
pub(super) const PROGRAM: &str = "/run/runsc";

/// Where a gVisor's files lie: a file system of its own, which neither the command nor anything else of the session sees.
pub(super) const PLACE: &str = "/run/gvisor";

/// What the gVisor's root is: the sandbox's, as it was before there was anything at [`PLACE`].
const ROOT: &str = "/run/gvisor/root";
const STATE: &str = "/run/gvisor/state";
const BUNDLE: &str = "/run/gvisor/bundle";
const PROCESS: &str = "/run/gvisor/process.json";
const STARTED: &str = "/run/gvisor/started";
const LOG: &str = "/run/gvisor/log";
const SAID: &str = "/run/gvisor/said";

/// How large those files may become. Some kilobytes are usual.
const PLACE_BYTES: u64 = 4 << 20;

/// Room for processes and threads that are not the commands': a gVisor has some forty of its own, and a session may run nine commands
/// at one time and have another gVisor ready.
pub(super) const OWN_PROCESSES: u64 = 512;

/// How long booting may take. Some tenths of a second are usual; a loaded machine takes more.
const BOOT_WALL: Duration = Duration::from_secs(30);

/// How often it is looked whether it has booted, or a command has started that a signal waits for; and how often whether a command
/// has ended whose end was not told.
const BOOT_TICK: Duration = Duration::from_millis(2);
const REST_TICK: Duration = Duration::from_secs(1);

/// What `runsc` ends with when it could not do what it was asked for, which a command may end with as well.
const RUNSC_FAILED: i32 = 128;

/// What it ends with, as shells do, when a signal ended the command.
const SIGNALLED: std::ops::RangeInclusive<i32> = 129..=128 + 31;

/// How much of what `runsc` complains of is told. Characters.
const COMPLAINT_CHARS: usize = 600;

/// What keeps a gVisor there until the command is known.
const SLEEP: [&str; 2] = ["/bin/sleep", "/usr/bin/sleep"];

/// What turns the root of a gVisor into the session's user: a program of util-linux, which is on every Linux that has a shell.
const UNSHARE: [&str; 2] = ["/usr/bin/unshare", "/bin/unshare"];

/// Boots a gVisor, hears of the command, runs it and says how it ended. Never returns.
pub(super) fn main(setup: &Setup, told: &UnixStream) -> ! {
    // Some versions talk with it over a socket of this name, in the network that all commands of a session share.
    let name = super::random_name("c-");
    let status = boot(setup, &name).and_then(|()| run(setup, &name, told));
    let status = status.unwrap_or_else(|why| Status::NotStarted(format!("gVisor: {why}")));
    // If the init has ended, so does this process.
    let _ = wire::send(told, &status);
    sys::exit(0)
}

/// Names what was being done when it failed.
fn failed(what: &str) -> impl FnOnce(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn boot(setup: &Setup, name: &str) -> Result<(), String> {
    rustix::process::setsid().map_err(|error| format!("starting a process session: {error}"))?;
    sys::default_signals();
    // Those for the command come to this process.
    sys::block_signals();
    sys::give_way(confine::NICENESS);
    let sleep = first_of(&SLEEP)?;
    first_of(&UNSHARE)?;
    become_root().map_err(failed("making it a user namespace"))?;
    // After the last change of credentials, which may clear it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("setting the parent-death signal: {error}"))?;
    make_place().map_err(failed("making it a root"))?;
    let config = bundle(setup, sleep).to_string();
    fs::write(format!("{BUNDLE}/config.json"), config).map_err(failed("writing its bundle"))?;
    let said = File::create(SAID).map_err(failed("writing what it says"))?;
    // Each process and thread of a command is one of the host's. Where no cgroup counts them, this does.
    confine::lower(Resource::Nproc, setup.limits.processes + OWN_PROCESSES)
        .map_err(failed("limiting its processes"))?;
    // As long as it lasts, whatever it is led to.
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("giving up new privileges: {error}"))?;
    sys::filter_calls(syscalls::filter(For::Gvisor).steps()).map_err(failed("filtering its system calls"))?;
    sys::close_from(3, true).map_err(failed("closing descriptors"))?;
    let mut boot = runsc(&["run", "-detach", "-bundle", BUNDLE, name]);
    boot.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
    let mut boot = boot.spawn().map_err(failed("starting runsc"))?;
    let began = Instant::now();
    match wait_for(&mut boot, &|| began.elapsed() > BOOT_WALL).map_err(failed("waiting for runsc"))? {
        Some(status) if status.success() => Ok(()),
        Some(_) => Err(format!("it did not boot: {}", complained())),
        None => Err(format!("it had not booted after {BOOT_WALL:?}: {}", complained())),
    }
}

/// Runs the command that is told.
fn run(setup: &Setup, name: &str, told: &UnixStream) -> Result<Status, String> {
    // The folder comes by its path, since there are other mounts here.
    let (start, _, streams) = Streams::hear(told).map_err(failed("hearing of the command"))?;
    let cwd = start.cwd.clone().ok_or("it was not said where the command runs")?;
    if let Err(error) = std::env::set_current_dir(&cwd) {
        return Ok(command::not_entered(Some(&cwd), error));
    }
    let program = match program(setup, &start) {
        Ok(program) => program,
        Err(status) => return Ok(status),
    };
    let process = process(setup, &start, program, first_of(&UNSHARE)?).to_string();
    fs::write(PROCESS, process).map_err(failed("writing what is to be run"))?;
    streams.take().map_err(failed("setting up the streams"))?;
    drop(streams);
    if start.tty {
        open_each().map_err(failed("setting up the terminal"))?;
    }
    // What is in it from now on is about the command. There may be none.
    let _ = fs::remove_file(LOG);
    let mut exec = runsc(&["exec", "-process", PROCESS, "-internal-pid-file", STARTED, name]);
    // In a group of its own, which signals for the command do not reach: they would end it and not the command.
    let exec = exec.process_group(0).spawn().map_err(failed("starting runsc"))?;
    if let Some(group) = Pid::from_raw(exec.id().cast_signed()).filter(|_| start.tty) {
        // Those that come from a terminal are for whoever is in its foreground, and these it does pass on.
        rustix::termios::tcsetpgrp(io::stdin(), group)
            .map_err(|error| format!("handing over the terminal: {error}"))?;
    }
    let ended = follow(exec, name).map_err(failed("waiting for runsc"))?;
    // Without it, it was not the command that ended.
    if !Path::new(STARTED).exists() {
        return Err(format!("the command could not be started: {}", complained()));
    }
    Ok(status(ended, complaint().is_some()))
}

/// Opens the terminal for each standard stream anew: a gVisor makes each of them non-blocking and gives the command what flags it
/// finds, so that one that it meets twice fails when it is full.
fn open_each() -> io::Result<()> {
    for number in 0..=2 {
        let path = format!("/proc/self/fd/{number}");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let own = rustix::fs::open(path.as_str(), flags, Mode::empty())?;
        sys::dup_to(own.as_fd(), number)?;
    }
    Ok(())
}

/// Waits for a command's end, and passes on to it what signals come for this process: `runsc` does not.
fn follow(mut exec: Child, name: &str) -> io::Result<ExitStatus> {
    let mut to_come = Vec::new();
    loop {
        if let Some(ended) = exec.try_wait()? {
            return Ok(ended);
        }
        let wall = if to_come.is_empty() { REST_TICK } else { BOOT_TICK };
        to_come.extend(sys::next_signal(wall).filter(|signal| *signal != libc::SIGCHLD));
        // It is known by its number once it has started.
        let Ok(pid) = fs::read_to_string(STARTED) else { continue };
        if pid.trim().is_empty() {
            continue;
        }
        for signal in to_come.drain(..) {
            let mut kill = runsc(&["kill", "-pid", pid.trim(), name, &signal.to_string()]);
            // The command may have ended just now; what is said of that is nobody's business.
            let _ = kill.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// How a command ended, from what `runsc exec` ended with: its own exit code, or what shells make of a signal. With a complaint,
/// that code may be one for the end of the whole gVisor: for want of memory or processes, say.
fn status(ended: ExitStatus, complains: bool) -> Status {
    match (ended.code(), ended.signal()) {
        (Some(RUNSC_FAILED), _) if complains => Status::Signalled(libc::SIGKILL),
        (Some(code), _) if SIGNALLED.contains(&code) => Status::Signalled(code - SIGNALLED.start() + 1),
        (Some(code), _) => Status::Exited(code),
        (None, Some(signal)) => Status::Signalled(signal),
        (None, None) => Status::Exited(-1),
    }
}

/// A command line of `runsc`, with the flags that all of them share.
fn runsc(words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .args(["--root", STATE, "--log", LOG])
        // The session's network: there is nothing in it but a loopback, which all its commands share, and the proxy where the operator
        // opens a way out.
        .arg("--network=host")
        // The session's cgroup holds it.
        .arg("--ignore-cgroups")
        // What is written must reach the workspace.
        .arg("--overlay2=none")
        // Files go through a process of their own, which has the mounts that cover secrets: whoever lacks them could rename and remove
        // what they cover. It also takes from the gVisor's kernel the right to open files.
        .arg("--directfs=false")
        .args(words);
    command
}

/// Waits for a process's end, and kills it when it is `late`.
fn wait_for(child: &mut Child, late: &dyn Fn() -> bool) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if late() {
            // It may have ended just now.
            let _ = child.kill();
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(BOOT_TICK);
    }
}

/// The last of what `runsc` has complained of, in its log of JSON objects.
fn complaint() -> Option<String> {
    let said = fs::read(LOG).unwrap_or_default();
    let lines = serde_json::Deserializer::from_slice(&said).into_iter::<Value>().map_while(Result::ok);
    let words = lines.filter_map(|line| line.get("msg").and_then(Value::as_str).map(str::to_owned)).last();
    words.map(|words| words.chars().take(COMPLAINT_CHARS).collect())
}

/// Why it did not do what it was asked for. A flag that it does not know comes before its log, with all those it knows.
fn complained() -> String {
    let said = || fs::read_to_string(SAID).ok()?.lines().next().map(str::to_owned);
    complaint().or_else(said).unwrap_or_else(|| "runsc said nothing".to_owned())
}

/// The first of these programs that is there.
fn first_of(programs: &[&'static str]) -> Result<&'static str, String> {
    let found = programs.iter().find(|program| Path::new(program).is_file());
    found.copied().ok_or_else(|| format!("this host lacks {}; install coreutils and util-linux", programs[0]))
}

/// Enters a user namespace whose root is the session's user, and mounts of its own.
fn become_root() -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
    // Otherwise its own entries in /proc would belong to somebody else. No command shares a pid namespace with it: they have their
    // gVisor's.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {INSIDE_ID} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {INSIDE_ID} 1"))
}

/// Puts a copy of the sandbox's root where the gVisor takes it from, with room for its files beside it, which that copy does not
/// have.
fn make_place() -> io::Result<()> {
    root::make_private()?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let copy = rustix::mount::open_tree(CWD, "/", flags)?;
    root::mount_tmpfs(Path::new(PLACE), PLACE_BYTES, "0700")?;
    for folder in [ROOT, STATE, BUNDLE] {
        fs::create_dir(folder)?;
    }
    rustix::mount::move_mount(&copy, "", CWD, ROOT, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    // It has a /proc of its own, and no use for this one.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("none", format!("{ROOT}/proc"), "tmpfs", flags, None)?)
}

/// What a gVisor is booted from, as the OCI runtime specification has it.
fn bundle(setup: &Setup, sleep: &str) -> Value {
    let binds: Vec<Value> = root::writable(setup)
        .into_iter()
        .map(|path| {
            let options = ["rbind", "rw", "nosuid", "nodev"];
            json!({"destination": path, "source": path, "type": "bind", "options": options})
        })
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [sleep, "infinity"],
            "env": [],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": true,
            // Commands have those of the first process.
            "rlimits": rlimits(&setup.limits),
        },
        "root": {"path": ROOT, "readonly": true},
        "hostname": "saga",
        "mounts": binds,
        "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]},
    })
}

/// What is run in a gVisor, as the OCI runtime specification has it.
fn process(setup: &Setup, start: &Start, program: PathBuf, unshare: &str) -> Value {
    let id = INSIDE_ID.to_string();
    let mut argv = vec![
        unshare.to_owned(),
        "--user".to_owned(),
        format!("--map-user={id}"),
        format!("--map-group={id}"),
        "--".to_owned(),
        program.to_string_lossy().into_owned(),
    ];
    argv.extend(start.argv.iter().skip(1).cloned());
    let env: Vec<String> = command::environment(setup, start)
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    json!({
        "terminal": start.tty,
        "user": {"uid": 0, "gid": 0},
        "args": argv,
        "env": env,
        "cwd": start.cwd,
        "capabilities": {},
        "noNewPrivileges": true,
    })
}

fn rlimits(limits: &Limits) -> Vec<Value> {
    let limit = |name: &str, most: u64| json!({"type": name, "soft": most, "hard": most});
    vec![
        limit("RLIMIT_NOFILE", limits.open_files),
        limit("RLIMIT_NPROC", limits.processes),
        limit("RLIMIT_FSIZE", limits.file_bytes),
        limit("RLIMIT_CORE", 0),
    ]
}

/// The file of the program, as it is found inside: the same files are here.
fn program(setup: &Setup, start: &Start) -> Result<PathBuf, Status> {
    let env = command::environment(setup, start);
    let candidates =
        command::candidates(start, &env).map_err(|error| Status::NotStarted(error.to_string()))?;
    let mut denied = None;
    for candidate in candidates.into_iter().map(PathBuf::from) {
        match rustix::fs::access(&candidate, Access::EXEC_OK) {
            Ok(()) if candidate.is_file() => return Ok(candidate),
            Ok(()) => denied = Some(io::Error::from(io::ErrorKind::PermissionDenied)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(error) => denied = Some(error.into()),
        }
    }
    Err(command::not_run(start, denied))
}

#[cfg(test)]
mod tests {
    use super::super::SHELL;
    use super::*;

    fn setup(frozen: bool) -> Setup {
        Setup {
            workspace: "/srv/project".into(),
            frozen,
            runsc: Some("/usr/bin/runsc".into()),
            limits: Limits { open_files: 77, ..Limits::default() },
            read_only: Vec::new(),
            env: vec![("PATH".to_owned(), "/usr/bin".to_owned()), ("A".to_owned(), "1".to_owned())],
            egress: None,
            secrets: Vec::new(),
            lowered: Vec::new(),
            probing: false,
        }
    }

    #[test]
    fn a_gvisor_may_write_where_commands_may_and_nowhere_else() {
        // A bind too many is a folder of the host's in the model's hands.
        let written = |frozen: bool| -> Vec<String> {
            let bundle = bundle(&setup(frozen), "/bin/sleep");
            assert_eq!(bundle["root"]["readonly"], true);
            let mounts = bundle["mounts"].as_array().unwrap().iter();
            mounts
                .map(|mount| {
                    assert_eq!(mount["source"], mount["destination"]);
                    mount["destination"].as_str().unwrap().to_owned()
                })
                .collect()
        };
        assert_eq!(written(false), ["/tmp", "/var/tmp", "/dev/shm", root::HOME, "/srv/project"]);
        assert_eq!(written(true), ["/tmp", "/var/tmp", "/dev/shm", root::HOME]);
    }

    #[test]
    fn how_a_command_ended_is_read_from_how_runsc_did() {
        // A gVisor that broke down must not pass for a command that chose its exit code, nor the other way round.
        let check = |raw: i32, complains: bool| status(ExitStatus::from_raw(raw), complains);
        assert_eq!(check(3 << 8, false), Status::Exited(3));
        assert_eq!(check(3 << 8, true), Status::Exited(3));
        assert_eq!(check(128 << 8, false), Status::Exited(128));
        assert_eq!(check(128 << 8, true), Status::Signalled(libc::SIGKILL));
        assert_eq!(check(143 << 8, false), Status::Signalled(libc::SIGTERM));
        assert_eq!(check(200 << 8, false), Status::Exited(200));
        assert_eq!(check(libc::SIGKILL, false), Status::Signalled(libc::SIGKILL));
    }

    #[test]
    fn a_command_runs_as_the_sessions_user_without_capabilities_and_with_its_limits() {
        // Root of a gVisor is no user of ours, and what it may do is what a command could be led to do.
        let start = Start {
            argv: vec![SHELL.to_owned(), "-c".to_owned(), "true".to_owned()],
            cwd: Some("/srv/project/a".to_owned()),
            env: vec![("A".to_owned(), "2".to_owned())],
            tty: true,
        };
        let process = process(&setup(false), &start, "/bin/bash".into(), "/usr/bin/unshare");
        let args = [
            "/usr/bin/unshare",
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            "--",
            "/bin/bash",
            "-c",
            "true",
        ];
        assert_eq!(process["args"], json!(args));
        assert_eq!(process["env"], json!(["PATH=/usr/bin", "A=2"]));
        assert_eq!(process["capabilities"], json!({}));
        assert_eq!(process["noNewPrivileges"], true);
        assert_eq!(process["terminal"], true);
        assert_eq!(process["cwd"], "/srv/project/a");
        let limits = &bundle(&setup(false), "/bin/sleep")["process"]["rlimits"];
        assert_eq!(limits[0], json!({"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}));
    }
}

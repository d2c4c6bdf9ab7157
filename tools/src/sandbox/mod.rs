//! The sandbox of a session: what a command may see, and how it is started, watched and ended.
//!
//! The service (this file) starts a helper, the same binary with nothing inherited, and talks to it over one socket:
//!
//! ```text
//! service ── keeper ── anchor ─┬─ init ── command and what it starts
//!            outside   pid 1   ├─ init ── …
//!                      of the  └─ file helper
//!                      session
//! ```
//!
//! Session-wide, set up once: user, mount, ipc, uts, cgroup, network (loopback only, and the listener of the proxy in
//! `egress` where the operator opens a way out) and pid namespaces; a tmpfs root of
//! allow-listed read-only mounts with the workspace as the one writable folder of the host's; memory and process limits.
//! For each command: a pid namespace and /proc of its own, no capabilities, no new privileges, Landlock, seccomp, rlimits,
//! and an environment that is built, not inherited. A command ends with everything it started. All of this but the environment
//! is ready before the command is known: an init with a process that waits to become the command.
//!
//! Under [`Backend::Runsc`](crate::Backend) that process boots a gVisor instead and runs the command there: see `gvisor`. All the rest is
//! the same.

mod anchor;
mod background;
mod bpf;
mod cgroup;
mod command;
mod confine;
mod file_helper;
mod growth;
mod gvisor;
mod keeper;
mod launch;
mod layers;
mod masks;
mod outputs;
mod root;
mod run;
mod runsc;
mod survey;
mod sys;
mod syscalls;
mod terminal;
mod toolchains;
mod wire;
mod wired;

pub(crate) use background::{Background, Job};
pub use background::{Exit, Running};
pub use layers::Layer;
pub(crate) use sys::unshare;
pub(crate) use wired::{Ends, Wired};

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::egress::{Contact, Gate, Proxy};
use crate::files::{Answer, Request};
use crate::sources::Project;
use crate::{Error, Limits, Policy};

/// A command to run inside.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program and its arguments. The program is looked up in the sandbox's PATH.
    pub argv: Vec<String>,
    /// Where it runs: relative to the workspace, or absolute inside it. `None` is the workspace itself.
    pub cwd: Option<String>,
    /// How long it may run; `None` is the policy's default, and the policy's maximum cuts it.
    pub timeout: Option<Duration>,
    /// Bytes for its standard input; `None` is `/dev/null`.
    pub stdin: Option<Vec<u8>>,
    /// Added to the environment that the sandbox builds.
    pub env: Vec<(String, String)>,
    /// Whether its streams are a terminal: some programs are of use only at one. It is one of the sandbox's own.
    pub tty: bool,
}

impl Command {
    /// A program with its arguments, with nothing else asked for.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Command {
        Command {
            argv: argv.into_iter().map(Into::into).collect(),
            cwd: None,
            timeout: None,
            stdin: None,
            env: Vec::new(),
            tty: false,
        }
    }

    /// A line for the shell: `bash`, or `sh` where there is no bash.
    pub fn shell(line: impl Into<String>) -> Command {
        Command::new([SHELL.to_owned(), "-c".to_owned(), line.into()])
    }
}

/// Stands for the sandbox's shell as the program of a command.
const SHELL: &str = "{shell}";

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// What it printed (standard output and standard error in the order they came), made harmless: head and tail.
    pub output: String,
    /// How much it printed. Bytes.
    pub bytes_total: u64,
    /// Whether `output` leaves part of it out.
    pub truncated: bool,
    /// What `output` leaves out can be read and searched by this id, for as long as the session keeps it.
    pub output_id: Option<String>,
    /// Whether processes it had left behind were killed.
    pub leftovers: bool,
    /// How long it took.
    pub wall: Duration,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Its wall time was up.
    TimedOut(Duration),
    /// It printed more than the policy's cap.
    Flooded,
    /// The session's memory was used up.
    OutOfMemory,
    /// The workspace grew by more than the policy lets it in one session.
    WorkspaceFull,
    /// It never ran: the program or the folder does not exist, and so on, in words.
    NotStarted(String),
}

/// One session's sandbox, kept open between commands. Dropping it kills whatever still runs in it.
#[derive(Debug)]
pub struct Sandbox {
    /// The anchor's end is watched by the anchor: closing this one ends the session.
    control: UnixStream,
    /// The keeper; the runtime reaps it after it has cleaned up.
    _keeper: tokio::process::Child,
    workspace: String,
    limits: Limits,
    missing: Vec<Layer>,
    cgroup: Option<cgroup::Place>,
    in_gvisor: bool,
    /// What its source files define, as far as anybody asked.
    pub(crate) project: tokio::sync::Mutex<Project>,
    outputs: outputs::Outputs,
    background: Background,
    /// The way out, where the operator opens one.
    gate: Option<Arc<Gate>>,
    /// What answers inside for it; it ends with the sandbox.
    _proxy: Option<Proxy>,
}

impl Sandbox {
    /// Opens a sandbox under a policy.
    ///
    /// # Errors
    /// [`Error::Missing`] when the host lacks a layer and the policy does not lower it; [`Error::Workspace`] when the
    /// folder cannot be used; [`Error::Helper`] when the helper binary is none.
    pub async fn open(policy: Policy) -> Result<Sandbox, Error> {
        launch::open(policy).await
    }

    /// Runs a command to its end. Dropping the future kills it and everything it started.
    ///
    /// # Errors
    /// Only when the sandbox itself failed.
    pub async fn run(&self, command: Command) -> Result<Ran, Error> {
        self.run_streaming(command, &|_| ()).await
    }

    /// [`run`](Sandbox::run), with the output given to `on` as it comes, made harmless.
    ///
    /// # Errors
    /// Only when the sandbox itself failed.
    pub async fn run_streaming(
        &self,
        command: Command,
        on: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Ran, Error> {
        run::command(self, command, on).await
    }

    /// The commands of this session that run in the background.
    pub(crate) fn background(&self) -> &Background {
        &self.background
    }

    /// The next command in the background that ends while nobody looks at it: waits for one, for as long as it takes. Each end is told
    /// once, here or by `process`.
    pub async fn exit(&self) -> Exit {
        let job = self.background.ended().await;
        let outcome = crate::builtin::shown(&job, self);
        Exit { id: job.id.clone(), command: job.line.clone(), ok: outcome.ok, text: outcome.text }
    }

    /// The commands in the background that run, the oldest first.
    pub fn running(&self) -> Vec<Running> {
        self.background.running()
    }

    /// Does a file operation in the workspace, inside the sandbox.
    pub(crate) async fn files(&self, request: &Request) -> Result<Answer, Error> {
        run::files(self, request).await
    }

    /// A file of the workspace, letter for letter. Nothing when it is not there, no UTF-8 text, or longer than
    /// `bytes_max`.
    ///
    /// # Errors
    /// Only when the sandbox itself failed.
    pub async fn text(&self, path: &str, bytes_max: u64) -> Result<Option<String>, Error> {
        let request = Request::Text(crate::files::Text { path: path.to_owned(), bytes_max });
        let answer = self.files(&request).await?;
        Ok(answer.ok.then_some(answer.text))
    }

    /// The session's way out, where it has one.
    pub(crate) fn gate(&self) -> Option<&Gate> {
        self.gate.as_deref()
    }

    /// What commands and tools have reached for since this was asked last, and how many more such decisions there were
    /// than are told one by one.
    pub fn contacts(&self) -> (Vec<Contact>, u64) {
        self.gate.as_ref().map_or_else(Default::default, |gate| gate.contacts().take())
    }

    /// Starts a command that the service talks with over its standard streams, for as long as what is returned is held.
    pub(crate) async fn wire(&self, command: Command) -> Result<(Wired, Ends), Error> {
        wired::start(self, command).await
    }

    /// A text as a model is shown it: harmless and capped. What is left out can be read and searched by the id.
    pub(crate) fn shown(&self, text: &[u8]) -> (String, bool, Option<String>) {
        let mut kept = outputs::Kept::default();
        kept.take(text);
        let (shown, truncated, spool) = kept.into_parts();
        (shown, truncated, spool.filter(|_| truncated).map(|spool| self.outputs.keep(spool)))
    }

    /// Whether it has ended: killed, or for want of memory. Nothing can be run in it any more.
    pub fn has_ended(&self) -> bool {
        run::is_gone(self)
    }

    /// The layers that do not hold here although the policy lets the sandbox be open.
    pub fn missing(&self) -> &[Layer] {
        &self.missing
    }

    /// The workspace's path: the same inside as on the host.
    pub fn workspace(&self) -> &str {
        &self.workspace
    }

    /// Removes what sandboxes of a killed service left behind on this host. Call it once at start.
    pub fn sweep() {
        cgroup::sweep();
    }
}

/// A name that nobody can guess: thirty bits are far more than a session has names, and few enough to be copied.
fn random_name(prefix: &str) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 6];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert!(filled.is_ok_and(|count| count == bytes.len()), "the kernel gives so few random bytes at once");
    bytes
        .iter()
        .fold(prefix.to_owned(), |name, byte| name + &char::from(LETTERS[usize::from(byte % 32)]).to_string())
}

/// Locks; what a panic left behind it is whole, since nothing here changes in several steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The layers on this host, in the order they are set up, and the toolchains commands will find: what `saga doctor`
/// shows. It opens a sandbox on an empty folder and reports how far it came. Blocks for some milliseconds.
pub fn probe() -> Vec<Layer> {
    launch::probe(None)
}

/// Whether commands can run in gVisor on this host: its version and where it is, or what is wrong and how to mend it. It opens
/// a sandbox on an empty folder and runs a command there, which takes some tenths of a second.
pub async fn probe_runsc() -> Layer {
    runsc::probe().await
}

/// Becomes the sandbox's helper if this process was started as one, and then never returns. The first line of `main`:
/// before it, no thread may be started and no descriptor opened.
pub fn maybe_become_helper() {
    crate::attack::maybe_serve();
    if std::env::args_os().next().is_some_and(|name| name == wire::HELPER) {
        keeper::main();
    }
}

//! Running one job in an open sandbox: starting it, reading what it prints, and ending it.

use std::fs::File;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::launch::receive;
use super::outputs::Kept;
use super::wire::{self, Kind, Start, Status, Word};
use super::{Command, Ended, Ran, Sandbox};
use crate::Error;
use crate::files::{Answer, Request};
use crate::output::Cleaner;

/// How long output is still read after the main process has ended while others hold the pipe.
pub(super) const DRAIN: Duration = Duration::from_millis(200);

/// How much is shown as it comes. Nobody reads more of it, and cleaning a flood costs more than reading it. Bytes.
const LIVE_BYTES: u64 = 1 << 20;

/// How long the kernel may take to kill everything a command started.
const KILL_WALL: Duration = Duration::from_secs(10);

/// A read of the output. A pipe holds 64 KiB.
const CHUNK_BYTES: usize = 64 << 10;

/// The longest a file operation may take: the helper's own alarm comes first.
const FILES_WALL: Duration = Duration::from_secs(40);
const FILES_ALARM: Duration = Duration::from_secs(super::file_helper::WALL_SECS as u64 - 1);

/// A command that has been handed to the anchor, before anybody listens to it.
pub(super) struct Started {
    output: pipe::Receiver,
    job: Job,
    /// How long it may run; `None` is as long as the session.
    wall: Option<Duration>,
    output_bytes: u64,
    cgroup: Option<super::cgroup::Place>,
    kills_before: u64,
    began: Instant,
}

/// What is wished of a running command.
#[derive(Debug)]
pub(super) enum Wish {
    /// Bytes for its standard input.
    Write(Vec<u8>),
    /// A signal for it and its process group.
    Signal(i32),
    /// Its end, and that of everything it started.
    Stop,
}

/// Hears what a command prints, as it comes.
pub(super) trait Hear: Send {
    /// Takes a piece, and says how much there was up to now.
    fn hear(&mut self, piece: &[u8]) -> u64;
}

/// How a command ended, and whether others it had started were killed.
pub(super) struct End {
    pub(super) ended: Ended,
    pub(super) leftovers: bool,
    pub(super) wall: Duration,
}

/// Runs a command to its end. Dropping the future kills it.
pub(super) async fn command(
    sandbox: &Sandbox,
    command: Command,
    on: &(dyn Fn(&str) + Send + Sync),
) -> Result<Ran, Error> {
    let limits = &sandbox.limits;
    let wall = command.timeout.unwrap_or(limits.wall).min(limits.wall_max);
    let keep_input = false;
    let started = start(sandbox, command, Some(wall), keep_input).await?;
    let mut heard = Live { kept: Kept::default(), cleaner: Cleaner::default(), on };
    let end = follow(started, &mut heard, &mut None).await?;
    let text = heard.cleaner.finish();
    if !text.is_empty() {
        on(&text);
    }
    let bytes_total = heard.kept.total();
    let (output, truncated, spool) = heard.kept.into_parts();
    let output_id = spool.filter(|_| truncated).map(|spool| sandbox.outputs.keep(spool));
    let End { ended, leftovers, wall } = end;
    Ok(Ran { ended, output, bytes_total, truncated, output_id, leftovers, wall })
}

/// Hands a command to the anchor. With `keep_input`, its standard input stays open for what may be written later.
pub(super) async fn start(
    sandbox: &Sandbox,
    command: Command,
    wall: Option<Duration>,
    keep_input: bool,
) -> Result<Started, Error> {
    let began = Instant::now();
    let cgroup = sandbox.cgroup.clone();
    let kills_before = cgroup.as_ref().map_or(0, super::cgroup::Place::memory_kills);
    let words = Start {
        argv: command.argv,
        cwd: command.cwd.map(|cwd| below(&cwd, &sandbox.workspace)),
        env: command.env,
        tty: command.tty,
    };
    let (output, to_output) = io::pipe().map_err(Error::io("making a pipe"))?;
    let bytes = command.stdin.or_else(|| keep_input.then(Vec::new));
    let input = bytes.as_ref().map(|_| io::pipe()).transpose().map_err(Error::io("making a pipe"))?;
    let (input, to_input) = input.unzip();
    let (kind, fds) = match sandbox.in_gvisor && !words.tty {
        true => gvisor_streams(to_output, input).map_err(Error::io("preparing the streams"))?,
        false => {
            let kind = if input.is_some() { Kind::CommandWithInput } else { Kind::Command };
            (kind, [Some(to_output.into()), input.map(Into::into)].into_iter().flatten().collect())
        }
    };
    let channel = begin(sandbox, kind, &fds, &words).await?;
    let output = pipe::Receiver::from_owned_fd(output.into()).map_err(Error::io("reading the output"))?;
    let to_input = to_input.map(|pipe| pipe::Sender::from_owned_fd(pipe.into())).transpose();
    let to_input = to_input.map_err(Error::io("writing the input"))?;
    let input = to_input.zip(bytes).map(|(pipe, bytes)| Input { pipe, bytes, more: keep_input });
    let job = Job { channel, words: Vec::new(), input };
    let output_bytes = sandbox.limits.output_bytes;
    Ok(Started { output, job, wall, output_bytes, cgroup, kills_before, began })
}

/// The streams of a command in gVisor, where standard output and standard error must be opened each for itself: it makes each of
/// them non-blocking and gives the command what flags it finds, so that one that it meets twice fails when it is full.
fn gvisor_streams(output: io::PipeWriter, input: Option<io::PipeReader>) -> io::Result<(Kind, Vec<OwnedFd>)> {
    let errors = File::options().write(true).open(format!("/proc/self/fd/{}", output.as_raw_fd()))?;
    let input = match input {
        Some(input) => input.into(),
        None => File::open("/dev/null")?.into(),
    };
    Ok((Kind::Wired, vec![output.into(), input, errors.into()]))
}

/// Listens to a command until nothing of it is left. Every await may be the last: then dropping the channel tells the anchor
/// to kill it. `wishes` that have no sender any more are none.
pub(super) async fn follow(
    started: Started,
    ears: &mut impl Hear,
    wishes: &mut Option<mpsc::Receiver<Wish>>,
) -> Result<End, Error> {
    let Started { mut output, mut job, wall, output_bytes, cgroup, kills_before, began } = started;
    let memory_kills = || cgroup.as_ref().map_or(0, super::cgroup::Place::memory_kills);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut deadline = wall.map(|wall| tokio::time::Instant::now() + wall);
    let mut open = true;
    let mut status: Option<Status> = None;
    let mut alone = false;
    let mut stopped: Option<Ended> = None;
    let mut leftovers = false;
    // Until the output has ended and the channel has closed: then nothing of the command is left.
    // Or until the output has ended and it is said that nothing else is left.
    while open || !alone {
        tokio::select! {
            read = output.read(&mut chunk), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(count) => {
                    if ears.hear(&chunk[..count]) > output_bytes && stopped.is_none() {
                        stopped = Some(Ended::Flooded);
                        job.stop().await;
                        deadline = Some(tokio::time::Instant::now() + KILL_WALL);
                    }
                }
            },
            () = feed(&mut job.input) => job.input = None,
            wish = next_wish(wishes) => match wish {
                Some(wish) => {
                    if matches!(wish, Wish::Stop) && stopped.is_none() && status.is_none() {
                        stopped = Some(Ended::Signalled(libc::SIGKILL));
                        deadline = Some(tokio::time::Instant::now() + KILL_WALL);
                    }
                    job.grant(wish).await;
                }
                None => *wishes = None,
            },
            word = next_word(&mut job.channel, &mut job.words) => match word {
                Some(word) => {
                    (status, alone) = (Some(word.status), word.alone);
                    if stopped.is_none() {
                        deadline = Some(tokio::time::Instant::now() + DRAIN);
                    }
                }
                // Closed: everything the command started is dead, so what the pipe still holds is all there is.
                None => break,
            },
            () = until(deadline) => {
                if stopped.is_some() || leftovers {
                    break;
                }
                if status.is_some() {
                    leftovers = true;
                } else {
                    stopped = Some(Ended::TimedOut(wall.unwrap_or_default()));
                }
                job.stop().await;
                deadline = Some(tokio::time::Instant::now() + KILL_WALL);
            },
        }
    }
    if open {
        drain(&mut output, &mut chunk, ears).await;
    }

    let ended = match (stopped, status) {
        // Something of it was killed for want of memory; if it came through all the same, that is its own affair.
        (_, status) if status != Some(Status::Exited(0)) && memory_kills() > kills_before => {
            Ended::OutOfMemory
        }
        (Some(stopped), _) => stopped,
        (None, Some(Status::Exited(code))) => Ended::Exited(code),
        (None, Some(Status::Signalled(signal))) => Ended::Signalled(signal),
        (None, Some(Status::NotStarted(why))) => Ended::NotStarted(why),
        (None, Some(Status::OutOfMemory)) => Ended::OutOfMemory,
        (None, Some(Status::WorkspaceFull)) => Ended::WorkspaceFull,
        (None, Some(Status::Broken(what))) => {
            return Err(Error::Gone(format!("a command could not be confined and was not run: {what}")));
        }
        // Only a kill makes an init end without a word, and all that it looked after ends with it.
        (None, None) => Ended::Signalled(libc::SIGKILL),
    };
    Ok(End { ended, leftovers, wall: began.elapsed() })
}

/// Does one file operation.
pub(super) async fn files(sandbox: &Sandbox, request: &Request) -> Result<Answer, Error> {
    let began = Instant::now();
    let handed: Vec<OwnedFd> = match request.reads().and_then(|path| sandbox.outputs.open(path)) {
        Some(output) => vec![output.map_err(Error::io("opening kept output"))?.into()],
        None => Vec::new(),
    };
    let kind = if handed.is_empty() { Kind::Files } else { Kind::FilesWithOutput };
    let mut channel = begin(sandbox, kind, &handed, request).await?;
    let answer = tokio::time::timeout(FILES_WALL, receive::<Result<Answer, String>>(&mut channel)).await;
    match answer {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(why))) => Err(Error::Gone(format!("its file helper could not begin: {why}"))),
        // Its alarm ended it in the middle: that is about this request, and not about the sandbox.
        Ok(Err(_)) | Err(_) if began.elapsed() >= FILES_ALARM => Ok(Answer::stopped()),
        Ok(Err(error)) if is_gone(sandbox) => {
            Err(Error::Gone(format!("its file helper ended without an answer: {error}")))
        }
        // Killed, for want of memory say, while the session goes on.
        Ok(Err(_)) => Ok(Answer::stopped()),
        Err(_) => Ok(Answer::stopped()),
    }
}

/// Whether the anchor has ended.
pub(super) fn is_gone(sandbox: &Sandbox) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut fds = [PollFd::new(&sandbox.control, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Hands the anchor a job and the child its words. The descriptors are the child's alone afterwards.
pub(super) async fn begin(
    sandbox: &Sandbox,
    kind: Kind,
    fds: &[OwnedFd],
    words: &impl serde::Serialize,
) -> Result<UnixStream, Error> {
    let frame = wire::frame(words).map_err(Error::io("preparing a job"))?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(Error::io("making a socket pair"))?;
    ours.set_nonblocking(true).map_err(Error::io("setting up a channel"))?;
    let mut channel = UnixStream::from_std(ours).map_err(Error::io("setting up a channel"))?;
    let mut passed = vec![theirs.as_fd()];
    passed.extend(fds.iter().map(AsFd::as_fd));
    let gone = |error: io::Error| Error::Gone(format!("its anchor does not answer: {error}"));
    // One byte with descriptors: the anchor reads at once, so this does not wait.
    wire::send_with(&sandbox.control, kind.byte(), &passed).map_err(gone)?;
    drop(theirs);
    match channel.write_all(&frame).await {
        Ok(()) => Ok(channel),
        // The child ended before it had read everything; if it said why, the channel still holds it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(channel),
        Err(error) => Err(gone(error)),
    }
}

/// A command under way, as the service holds it.
struct Job {
    channel: UnixStream,
    /// The bytes of a word that has not arrived in whole.
    words: Vec<u8>,
    input: Option<Input>,
}

/// The standard input of a command.
struct Input {
    pipe: pipe::Sender,
    /// What is still to be written.
    bytes: Vec<u8>,
    /// Whether more may come.
    more: bool,
}

impl Job {
    /// Tells the anchor to kill it. The channel closes when that is done.
    async fn stop(&mut self) {
        // If it is closed already, the command has ended already.
        let _ = self.channel.shutdown().await;
    }

    async fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Write(bytes) => {
                if let Some(input) = &mut self.input {
                    input.bytes.extend(bytes);
                }
            }
            // One byte, and only its init hears it. If it has ended, there is nobody to be told.
            Wish::Signal(signal) => {
                let _ = self.channel.write_all(&[u8::try_from(signal).unwrap_or(0)]).await;
            }
            Wish::Stop => self.stop().await,
        }
    }
}

/// The next word of the command's init; `None` when the channel has closed. May be dropped and called again at any time:
/// what has arrived stays in `words`.
pub(super) async fn next_word(channel: &mut UnixStream, words: &mut Vec<u8>) -> Option<Word> {
    loop {
        if let Some((length, rest)) = words.split_first_chunk() {
            let length = wire::checked_length(*length).ok()?;
            if let Some(word) = rest.get(..length) {
                let word = serde_json::from_slice(word).ok();
                words.drain(..4 + length);
                return word;
            }
        }
        if channel.read_buf(words).await.ok()? == 0 {
            return None;
        }
    }
}

/// Writes the input, and ends when there is no more. A command that does not read its input is no error.
async fn feed(input: &mut Option<Input>) {
    match input {
        Some(input) => {
            while !input.bytes.is_empty() {
                match input.pipe.write(&input.bytes).await {
                    Ok(count) => drop(input.bytes.drain(..count)),
                    Err(_) => return,
                }
            }
            if input.more {
                pending().await
            }
        }
        None => pending().await,
    }
}

async fn next_wish(wishes: &mut Option<mpsc::Receiver<Wish>>) -> Option<Wish> {
    match wishes {
        Some(wishes) => wishes.recv().await,
        None => pending().await,
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Reads what the pipe holds now. Nobody writes any more, so it ends.
async fn drain(output: &mut pipe::Receiver, chunk: &mut [u8], ears: &mut impl Hear) {
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(DRAIN, output.read(chunk)).await {
        ears.hear(&chunk[..count]);
    }
}

/// Keeps the output, and shows it as it comes.
struct Live<'a> {
    kept: Kept,
    cleaner: Cleaner,
    on: &'a (dyn Fn(&str) + Send + Sync),
}

impl Hear for Live<'_> {
    fn hear(&mut self, piece: &[u8]) -> u64 {
        let live = self.kept.total() < LIVE_BYTES;
        self.kept.take(piece);
        if live {
            let text = self.cleaner.clean(piece);
            if !text.is_empty() {
                (self.on)(&text);
            }
            if self.kept.total() >= LIVE_BYTES {
                (self.on)("\n[... more output, not shown live]\n");
            }
        }
        self.kept.total()
    }
}

/// A working folder relative to the workspace. One that leads out is left as it is: opening it beneath the workspace
/// fails, inside, where it can do no harm.
pub(super) fn below(cwd: &str, workspace: &str) -> String {
    match cwd.strip_prefix(workspace) {
        Some("" | "/") => ".".to_owned(),
        Some(rest) => rest
            .strip_prefix('/')
            .map_or_else(|| cwd.to_owned(), |rest| rest.trim_start_matches('/').to_owned()),
        None => cwd.to_owned(),
    }
}

//! Running one job in an open sandbox: starting it, reading what it prints, and ending it.

use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::launch::receive;
use super::wire::{self, Kind, Start, Status};
use super::{Command, Ended, Ran, Sandbox};
use crate::Error;
use crate::files::{Answer, Request};
use crate::output::{Captured, Cleaner};

/// How long output is still read after the main process has ended while others hold the pipe.
const DRAIN: Duration = Duration::from_millis(200);

/// How much is shown as it comes. Nobody reads more of it, and cleaning a flood costs more than reading it. Bytes.
const LIVE_BYTES: u64 = 1 << 20;

/// How long the kernel may take to kill everything a command started.
const KILL_WALL: Duration = Duration::from_secs(10);

/// A read of the output. A pipe holds 64 KiB.
const CHUNK_BYTES: usize = 64 << 10;

/// The longest a file operation may take: the helper's own alarm comes first.
const FILES_WALL: Duration = Duration::from_secs(40);
const FILES_ALARM: Duration = Duration::from_secs(super::file_helper::WALL_SECS as u64 - 1);

/// Runs a command. The steps are in the order they happen; every await may be the last, and then dropping the channel
/// tells the anchor to kill the command.
pub(super) async fn command(
    sandbox: &Sandbox,
    command: Command,
    on: &(dyn Fn(&str) + Send + Sync),
) -> Result<Ran, Error> {
    let began = Instant::now();
    let memory_kills = || sandbox.cgroup.as_ref().map_or(0, super::cgroup::Place::memory_kills);
    let kills_before = memory_kills();
    let limits = &sandbox.limits;
    let wall = command.timeout.unwrap_or(limits.wall).min(limits.wall_max);

    let start = Start {
        argv: command.argv,
        cwd: command.cwd.map(|cwd| below(&cwd, &sandbox.workspace)),
        env: command.env,
    };
    let (mut output, mut job) = {
        let (output, to_output) = io::pipe().map_err(Error::io("making a pipe"))?;
        let input =
            command.stdin.as_ref().map(|_| io::pipe()).transpose().map_err(Error::io("making a pipe"))?;
        let (input, to_input) = input.unzip();
        let kind = if input.is_some() { Kind::CommandWithInput } else { Kind::Command };
        let fds: Vec<OwnedFd> =
            [Some(to_output.into()), input.map(Into::into)].into_iter().flatten().collect();
        let channel = begin(sandbox, kind, &fds, &start).await?;
        let output = pipe::Receiver::from_owned_fd(output.into()).map_err(Error::io("reading the output"))?;
        let to_input = to_input.map(|pipe| pipe::Sender::from_owned_fd(pipe.into())).transpose();
        let to_input = to_input.map_err(Error::io("writing the input"))?;
        (output, Job { channel, words: Vec::new(), input: to_input.zip(command.stdin) })
    };

    let mut captured = Captured::default();
    let mut cleaner = Cleaner::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut deadline = tokio::time::Instant::now() + wall;
    let mut open = true;
    let mut status: Option<Status> = None;
    let mut stopped: Option<Ended> = None;
    let mut leftovers = false;
    // Until the output has ended and the channel has closed: then nothing of the command is left.
    loop {
        tokio::select! {
            read = output.read(&mut chunk), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(count) => {
                    heard(&chunk[..count], &mut captured, &mut cleaner, on);
                    if captured.total() > limits.output_bytes && stopped.is_none() {
                        stopped = Some(Ended::Flooded);
                        job.stop().await;
                        deadline = tokio::time::Instant::now() + KILL_WALL;
                    }
                }
            },
            () = feed(&mut job.input) => job.input = None,
            word = next_word(&mut job.channel, &mut job.words) => match word {
                Some(word) => {
                    status = Some(word);
                    if stopped.is_none() {
                        deadline = tokio::time::Instant::now() + DRAIN;
                    }
                }
                // Closed: everything the command started is dead, so what the pipe still holds is all there is.
                None => break,
            },
            () = tokio::time::sleep_until(deadline) => {
                if stopped.is_some() || leftovers {
                    break;
                }
                if status.is_some() {
                    leftovers = true;
                } else {
                    stopped = Some(Ended::TimedOut(wall));
                }
                job.stop().await;
                deadline = tokio::time::Instant::now() + KILL_WALL;
            },
        }
    }
    if open {
        drain(&mut output, &mut chunk, &mut captured, &mut cleaner, on).await;
    }
    let text = cleaner.finish();
    if !text.is_empty() {
        on(&text);
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
        (None, Some(Status::Broken(what))) => {
            return Err(Error::Gone(format!("a command could not be confined and was not run: {what}")));
        }
        // Only a kill makes an init end without a word, and all that it looked after ends with it.
        (None, None) => Ended::Signalled(9),
    };
    let bytes_total = captured.total();
    let (output, truncated) = captured.into_text();
    Ok(Ran { ended, output, bytes_total, truncated, leftovers, wall: began.elapsed() })
}

/// Does one file operation.
pub(super) async fn files(sandbox: &Sandbox, request: &Request) -> Result<Answer, Error> {
    let began = Instant::now();
    let mut channel = begin(sandbox, Kind::Files, &[], request).await?;
    let answer = tokio::time::timeout(FILES_WALL, receive::<Result<Answer, String>>(&mut channel)).await;
    match answer {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(why))) => Err(Error::Gone(format!("its file helper could not begin: {why}"))),
        // Its alarm ended it in the middle: that is about this request, and not about the sandbox.
        Ok(Err(_)) | Err(_) if began.elapsed() >= FILES_ALARM => Ok(Answer::stopped()),
        Ok(Err(error)) => Err(Error::Gone(format!("its file helper ended without an answer: {error}"))),
        Err(_) => Ok(Answer::stopped()),
    }
}

/// Hands the anchor a job and the child its words. The descriptors are the child's alone afterwards.
async fn begin(
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
    /// What is still to be written to its standard input.
    input: Option<(pipe::Sender, Vec<u8>)>,
}

impl Job {
    /// Tells the anchor to kill it. The channel closes when that is done.
    async fn stop(&mut self) {
        // If it is closed already, the command has ended already.
        let _ = self.channel.shutdown().await;
    }
}

/// The next word of the command's init; `None` when the channel has closed. May be dropped and called again at any time:
/// what has arrived stays in `words`.
async fn next_word(channel: &mut UnixStream, words: &mut Vec<u8>) -> Option<Status> {
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

/// Writes the input. Never ends when there is none. A command that does not read its input is no error.
async fn feed(input: &mut Option<(pipe::Sender, Vec<u8>)>) {
    match input {
        Some((pipe, bytes)) => {
            while !bytes.is_empty() {
                match pipe.write(bytes).await {
                    Ok(count) => drop(bytes.drain(..count)),
                    Err(_) => return,
                }
            }
        }
        None => pending().await,
    }
}

/// Reads what the pipe holds now. Nobody writes any more, so it ends.
async fn drain(
    output: &mut pipe::Receiver,
    chunk: &mut [u8],
    captured: &mut Captured,
    cleaner: &mut Cleaner,
    on: &(dyn Fn(&str) + Send + Sync),
) {
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(DRAIN, output.read(chunk)).await {
        heard(&chunk[..count], captured, cleaner, on);
    }
}

/// Keeps a piece of output, and shows it.
fn heard(piece: &[u8], captured: &mut Captured, cleaner: &mut Cleaner, on: &(dyn Fn(&str) + Send + Sync)) {
    let live = captured.total() < LIVE_BYTES;
    captured.take(piece);
    if live {
        let text = cleaner.clean(piece);
        if !text.is_empty() {
            on(&text);
        }
        if captured.total() >= LIVE_BYTES {
            on("\n[... more output, not shown live]\n");
        }
    }
}

/// A working folder relative to the workspace. One that leads out is left as it is: opening it beneath the workspace
/// fails, inside, where it can do no harm.
fn below(cwd: &str, workspace: &str) -> String {
    match cwd.strip_prefix(workspace) {
        Some("" | "/") => ".".to_owned(),
        Some(rest) => rest
            .strip_prefix('/')
            .map_or_else(|| cwd.to_owned(), |rest| rest.trim_start_matches('/').to_owned()),
        None => cwd.to_owned(),
    }
}

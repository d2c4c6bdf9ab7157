//! A command that the service talks with: its standard streams are a conversation and not something to show. It runs like any
//! other, and ends with whoever holds it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::run::{DRAIN, begin, below, next_word};
use super::wire::{Kind, Start, Status};
use super::{Command, Sandbox, lock};
use crate::Error;
use crate::output::harmless;

/// What is kept of its standard error, which is only there to say what went wrong. Bytes.
const LOG_BYTES: usize = 4 << 10;

/// A command that runs while this is held. Dropping it kills the command and all that it started.
#[derive(Debug)]
pub(crate) struct Wired {
    log: Arc<Mutex<VecDeque<u8>>>,
    ended: watch::Receiver<Option<String>>,
    /// Gone with this, which ends the command.
    _held: oneshot::Sender<()>,
}

/// The service's ends of its streams.
#[derive(Debug)]
pub(crate) struct Ends {
    /// What it writes.
    pub(crate) output: pipe::Receiver,
    /// What it reads.
    pub(crate) input: pipe::Sender,
}

impl Wired {
    /// How it has ended, in words, if it has; a moment is waited for that.
    pub(crate) async fn ended(&self, at_most: Duration) -> Option<String> {
        let mut ended = self.ended.clone();
        // Whether it ended or the time did is seen below.
        let _ = tokio::time::timeout(at_most, ended.wait_for(Option::is_some)).await;
        self.ended.borrow().clone()
    }

    /// The end of what it wrote to its standard error.
    pub(crate) fn log(&self) -> String {
        let bytes: Vec<u8> = lock(&self.log).iter().copied().collect();
        harmless(&bytes).0.trim().to_owned()
    }
}

/// Starts one.
pub(super) async fn start(sandbox: &Sandbox, command: Command) -> Result<(Wired, Ends), Error> {
    let words = Start {
        argv: command.argv,
        cwd: command.cwd.map(|cwd| below(&cwd, &sandbox.workspace)),
        env: command.env,
        tty: false,
    };
    let pipe = || io::pipe().map_err(Error::io("making a pipe"));
    let ((output, to_output), (input, to_input), (errors, to_errors)) = (pipe()?, pipe()?, pipe()?);
    let theirs: [OwnedFd; 3] = [to_output.into(), input.into(), to_errors.into()];
    let channel = begin(sandbox, Kind::Wired, &theirs, &words).await?;
    let reading = |end: io::PipeReader| pipe::Receiver::from_owned_fd(end.into());
    let output = reading(output).map_err(Error::io("reading what a command says"))?;
    let errors = reading(errors).map_err(Error::io("reading what a command complains of"))?;
    let input = pipe::Sender::from_owned_fd(to_input.into()).map_err(Error::io("talking to a command"))?;
    let (held, let_go) = oneshot::channel();
    let (tell, ended) = watch::channel(None);
    let log = Arc::<Mutex<VecDeque<u8>>>::default();
    tokio::spawn({
        let log = log.clone();
        async move {
            let how = watch_over(channel, errors, &log, let_go).await;
            // Whoever asks has gone when this fails.
            let _ = tell.send(Some(how));
        }
    });
    Ok((Wired { log, ended, _held: held }, Ends { output, input }))
}

/// Keeps the log until the command has ended or is let go of, which drops the channel and so kills it.
async fn watch_over(
    mut channel: UnixStream,
    mut errors: pipe::Receiver,
    log: &Mutex<VecDeque<u8>>,
    mut let_go: oneshot::Receiver<()>,
) -> String {
    let mut words = Vec::new();
    let mut chunk = vec![0; LOG_BYTES];
    let mut open = true;
    let how = loop {
        tokio::select! {
            read = errors.read(&mut chunk), if open => match read {
                Ok(count @ 1..) => note(log, &chunk[..count]),
                Ok(0) | Err(_) => open = false,
            },
            word = next_word(&mut channel, &mut words) => break match word.map(|word| word.status) {
                Some(Status::Exited(code)) => format!("it ended with exit code {code}"),
                Some(Status::Signalled(signal)) => format!("it was killed by signal {signal}"),
                Some(Status::NotStarted(why)) => format!("it was not started: {why}"),
                Some(Status::OutOfMemory) => "it was killed: it used more memory than the sandbox has".to_owned(),
                Some(Status::WorkspaceFull) => "it was killed: the workspace has grown by more than it may".to_owned(),
                Some(Status::Broken(what)) => format!("it could not be confined and was not run: {what}"),
                None => "it was killed".to_owned(),
            },
            _ = &mut let_go => return "it was ended".to_owned(),
        }
    };
    // What it said last is most of what there is to know.
    while open && let Ok(Ok(count @ 1..)) = tokio::time::timeout(DRAIN, errors.read(&mut chunk)).await {
        note(log, &chunk[..count]);
    }
    how
}

fn note(log: &Mutex<VecDeque<u8>>, bytes: &[u8]) {
    let mut log = lock(log);
    log.extend(bytes);
    let surplus = log.len().saturating_sub(LOG_BYTES);
    log.drain(..surplus);
}

//! Commands that go on while the session does other things: looked at, written to, signalled and waited for by an id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};

use super::outputs::Kept;
use super::run::{self, End, Hear, Wish};
use super::{Command, Ended, Sandbox, lock, random_name};
use crate::Error;

/// How many may run at one time. A session that needs more has lost count of them.
const RUNNING_MAX: usize = 8;

/// How many that have ended are remembered; the oldest goes first.
const ENDED_MAX: usize = 32;

/// How many wishes may wait for a command that does not read. Each is at most what a model writes in one call.
const WISHES_MAX: usize = 16;

/// A session's commands in the background, by their ids. No other session's are here, so none can be asked for.
#[derive(Debug, Default)]
pub(crate) struct Background {
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
    /// Told of every end.
    ends: Arc<Notify>,
}

/// A command in the background that has come to its end while nobody looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its id, as `process` takes it.
    pub id: String,
    /// What was asked for, as the model wrote it.
    pub command: String,
    /// Whether it ended with exit code 0.
    pub ok: bool,
    /// How it ended and what it printed since somebody looked, as a model is shown it.
    pub text: String,
}

/// A command that runs in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its id, as `process` takes it.
    pub id: String,
    /// What was asked for, as the model wrote it.
    pub command: String,
}

/// One command in the background.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    /// What was asked for, as the model wrote it.
    pub(crate) line: String,
    began: Instant,
    state: Mutex<State>,
    wishes: mpsc::Sender<Wish>,
    /// Whether it has ended, for whoever waits for that.
    ended: watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// What it printed since somebody looked.
    unseen: Kept,
    total: u64,
    ended: Option<(Ended, Duration)>,
    /// Whether somebody was told how it ended.
    told: bool,
}

/// What a command in the background has come to.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) ended: Option<Ended>,
    pub(crate) wall: Duration,
    /// What it printed since the last look.
    pub(crate) output: String,
    pub(crate) truncated: bool,
    /// Names all of what `output` leaves out.
    pub(crate) output_id: Option<String>,
    /// How much it printed since the last look, and in all. Bytes.
    pub(crate) bytes_new: u64,
    pub(crate) bytes_total: u64,
}

impl Background {
    /// Starts a command. The error is for the model; the outer one is the sandbox's.
    pub(crate) async fn start(
        &self,
        sandbox: &Sandbox,
        line: String,
        command: Command,
    ) -> Result<Result<Arc<Job>, String>, Error> {
        let running = lock(&self.jobs).values().filter(|job| !job.has_ended()).count();
        if running >= RUNNING_MAX {
            return Ok(Err(format!(
                "{running} commands run in the background already; end one of them with process first"
            )));
        }
        let wall = command.timeout;
        let started = run::start(sandbox, command, wall, true).await?;
        let (wishes, to_grant) = mpsc::channel(WISHES_MAX);
        let (tell, ended) = watch::channel(false);
        let job = Arc::new(Job {
            id: random_name("p-"),
            line,
            began: Instant::now(),
            state: Mutex::default(),
            wishes,
            ended,
        });
        {
            let mut jobs = lock(&self.jobs);
            let mut past: Vec<_> = jobs.values().filter(|job| job.has_ended()).cloned().collect();
            past.sort_by_key(|job| job.began);
            for old in past.iter().rev().skip(ENDED_MAX - 1) {
                jobs.remove(&old.id);
            }
            jobs.insert(job.id.clone(), job.clone());
        }
        // The session's end closes the sandbox, which kills the command, which ends this task.
        let (ears, ends) = (job.clone(), self.ends.clone());
        tokio::spawn(async move {
            let mut ears = Ears(ears);
            let end = run::follow(started, &mut ears, &mut Some(to_grant)).await;
            let ended = match end {
                Ok(End { ended, wall, .. }) => (ended, wall),
                Err(error) => (Ended::NotStarted(error.to_string()), ears.0.began.elapsed()),
            };
            lock(&ears.0.state).ended = Some(ended);
            // Whoever waits has let go when this fails.
            let _ = tell.send(true);
            ends.notify_waiters();
        });
        Ok(Ok(job))
    }

    /// The next command that has ended and that nobody was told of: waits for one.
    pub(crate) async fn ended(&self) -> Arc<Job> {
        loop {
            // Before looking, so that no end falls in between.
            let next = self.ends.notified();
            tokio::pin!(next);
            next.as_mut().enable();
            if let Some(job) = self.all().into_iter().find(|job| job.is_untold()) {
                return job;
            }
            next.await;
        }
    }

    /// Those that run, the oldest first.
    pub(crate) fn running(&self) -> Vec<Running> {
        let running = self.all().into_iter().filter(|job| !job.has_ended());
        running.map(|job| Running { id: job.id.clone(), command: job.line.clone() }).collect()
    }

    /// The command of this id, if it is this session's.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Job>> {
        lock(&self.jobs).get(id.trim()).cloned()
    }

    /// All that are remembered, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<_> = lock(&self.jobs).values().cloned().collect();
        jobs.sort_by_key(|job| job.began);
        jobs
    }
}

impl Job {
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Whether it has ended and nobody was told.
    fn is_untold(&self) -> bool {
        let state = lock(&self.state);
        state.ended.is_some() && !state.told
    }

    /// Waits for its end, at most so long.
    pub(crate) async fn wait(&self, at_most: Duration) {
        let mut ended = self.ended.clone();
        // Whether it ended or the time did is seen at the next look.
        let _ = tokio::time::timeout(at_most, ended.wait_for(|ended| *ended)).await;
    }

    /// What it has come to, and what it printed since the last look.
    pub(crate) fn look(&self, sandbox: &Sandbox) -> Look {
        let mut state = lock(&self.state);
        let bytes_new = state.unseen.total();
        let (output, truncated, spool) = std::mem::take(&mut state.unseen).into_parts();
        let output_id = spool.filter(|_| truncated).map(|spool| sandbox.outputs.keep(spool));
        let (ended, wall) = match &state.ended {
            Some((ended, wall)) => (Some(ended.clone()), *wall),
            None => (None, self.began.elapsed()),
        };
        state.told |= ended.is_some();
        Look { ended, wall, output, truncated, output_id, bytes_new, bytes_total: state.total }
    }

    /// How it is, without looking at its output.
    pub(crate) fn state(&self) -> (Option<Ended>, Duration) {
        match &lock(&self.state).ended {
            Some((ended, wall)) => (Some(ended.clone()), *wall),
            None => (None, self.began.elapsed()),
        }
    }

    /// Writes to its standard input. `false` when it has ended or does not read.
    pub(crate) fn write(&self, bytes: Vec<u8>) -> bool {
        self.wishes.try_send(Wish::Write(bytes)).is_ok()
    }

    /// Sends it a signal. It goes to this command's own init, so no other process can ever be hit.
    pub(crate) fn signal(&self, signal: i32) -> bool {
        self.wishes.try_send(Wish::Signal(signal)).is_ok()
    }

    /// Ends it and everything it started.
    pub(crate) fn stop(&self) -> bool {
        self.wishes.try_send(Wish::Stop).is_ok()
    }
}

/// Hears for a job.
struct Ears(Arc<Job>);

impl Hear for Ears {
    fn hear(&mut self, piece: &[u8]) -> u64 {
        let mut state = lock(&self.0.state);
        state.unseen.take(piece);
        state.total += piece.len() as u64;
        state.total
    }
}

//! One line of tokens with its KV cache.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::engine::Shared;
use crate::snapshot::{Secret, Slot, Written};
use crate::worker::{Edit, Job, LineId, Order, Priority};
use crate::{Error, Grammar, Progress, Sampling, Token};

/// One line of tokens with its KV cache, owned by one caller. Dropping any of its futures is harmless: the
/// work stops within one prefill chunk or one token, and the line goes on saying what [`Timeline::tokens`]
/// says.
pub struct Timeline {
    shared: Arc<Shared>,
    line: LineId,
    tokens: Vec<Token>,
    /// How many of the tokens the worker was told; it may know others after them that were forgotten here.
    told: usize,
    priority: Priority,
}

/// What [`Timeline::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Tokens whose KV was there already.
    pub cached: usize,
    /// Tokens that had to be computed.
    pub computed: usize,
}

impl Timeline {
    pub(crate) fn new(shared: Arc<Shared>) -> Timeline {
        let line = shared.new_line();
        Timeline { shared, line, tokens: Vec::new(), told: 0, priority: Priority::default() }
    }

    /// A line whose snapshots are sealed.
    pub(crate) fn under(shared: Arc<Shared>, secret: Secret) -> Result<Timeline, Error> {
        let timeline = Timeline::new(shared);
        timeline.shared.order(Order::Begin { line: timeline.line, secret })?;
        Ok(timeline)
    }

    /// What the line says now, computed or pending.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Says who goes first from now on when this line and others wait. A new line is in the foreground, and so is a fork.
    pub fn set_priority(&mut self, priority: Priority) {
        self.priority = priority;
    }

    /// Makes the line say exactly `tokens`: keeps the longest common prefix, forgets what was after it and
    /// computes the rest in chunks; `on` hears of every chunk.
    ///
    /// # Errors
    /// [`Error::ContextFull`] and [`Error::NoSuchToken`] come before any work, and leave the line as it was.
    pub async fn sync(
        &mut self,
        tokens: &[Token],
        mut on: impl FnMut(Progress) + Send,
    ) -> Result<Synced, Error> {
        self.say(tokens)?;
        if self.tokens.is_empty() {
            return Ok(Synced { cached: 0, computed: 0 });
        }
        let (progress, mut chunks) = mpsc::unbounded_channel();
        let (done, answer) = oneshot::channel();
        self.order(Job::Sync { progress, done })?;
        // The channel closes when the job ends.
        while let Some(chunk) = chunks.recv().await {
            on(chunk);
        }
        let computed = answer.await.map_err(|_| Error::Stopped)??;
        Ok(Synced { cached: computed.cached, computed: computed.computed })
    }

    /// Samples one token after the line's end and appends it. Its own KV is computed by the next call.
    ///
    /// Where the grammar leaves no choice nothing is computed: forced tokens are computed together, with the next one that
    /// is sampled.
    ///
    /// # Errors
    /// [`Error::Empty`] if nothing was synced, [`Error::ContextFull`] if the line has no room,
    /// [`Error::NoChoice`] if no token may follow, [`Error::Grammar`] if the matcher gives up.
    pub async fn next(
        &mut self,
        sampling: &Sampling,
        mut grammar: Option<&mut Grammar>,
    ) -> Result<Token, Error> {
        let (asked, limit) = (self.tokens.len() + 1, self.shared.info.context_tokens);
        if self.tokens.is_empty() {
            return Err(Error::Empty);
        }
        if asked > limit {
            return Err(Error::ContextFull { asked, limit });
        }
        sampling.check()?;
        if let Some(grammar) = &mut grammar {
            let start = Instant::now();
            let forced = grammar.forced();
            self.shared.counters.masked(start.elapsed());
            if let Some(token) = forced {
                grammar.commit(token)?;
                self.shared.counters.forced();
                self.tokens.push(token);
                return Ok(token);
            }
        }
        let (masked, mask) = oneshot::channel();
        let (done, answer) = oneshot::channel();
        self.order(Job::Next { sampling: sampling.clone(), mask, done })?;
        // The mask is made while the worker computes the logits it is for.
        let allowed = match &mut grammar {
            Some(grammar) => {
                let start = Instant::now();
                let mask = grammar.mask()?.map(<[u32]>::to_vec);
                self.shared.counters.masked(start.elapsed());
                mask
            }
            None => None,
        };
        // If the worker is gone, its answer will say so.
        let _ = masked.send(allowed);
        let token = answer.await.map_err(|_| Error::Stopped)??;
        if let Some(grammar) = grammar {
            grammar.commit(token)?;
        }
        self.tokens.push(token);
        Ok(token)
    }

    /// The logits of the token after the line's end, one for each token of the vocabulary.
    ///
    /// # Errors
    /// [`Error::Empty`] if nothing was synced.
    pub async fn logits(&mut self) -> Result<Vec<f32>, Error> {
        if self.tokens.is_empty() {
            return Err(Error::Empty);
        }
        let (done, answer) = oneshot::channel();
        self.order(Job::Logits { done })?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// A second line that says the same and goes its own way from here. What is computed is shared until one
    /// of them writes over it.
    ///
    /// # Errors
    /// [`Error::Stopped`] only.
    pub async fn fork(&self) -> Result<Timeline, Error> {
        let mut fork = Timeline::new(Arc::clone(&self.shared));
        let (done, answer) = oneshot::channel();
        let edit = self.edit();
        self.shared.order(Order::Fork { from: self.line, edit, to: fork.line, done })?;
        answer.await.map_err(|_| Error::Stopped)?;
        fork.tokens = self.tokens.clone();
        fork.told = fork.tokens.len();
        Ok(fork)
    }

    /// Has what is computed of the line written to disk, in place of what the slot held, and goes on at once. A line that
    /// begins with the same tokens goes on from there, also after a restart, if its engine was opened with the slot's
    /// folder and its secret is the same.
    ///
    /// # Errors
    /// [`Error::Stopped`] only.
    pub fn snapshot(&mut self, slot: &Slot) -> Result<Written, Error> {
        let (done, answer) = oneshot::channel();
        let edit = self.edit();
        self.shared.order(Order::Snapshot { line: self.line, edit, slot: slot.clone(), done })?;
        self.told = self.tokens.len();
        Ok(Written::new(answer))
    }

    /// Forgets everything after the first `len` tokens; does nothing if the line is not longer.
    ///
    /// # Errors
    /// [`Error::Stopped`] only.
    pub async fn rewind(&mut self, len: usize) -> Result<(), Error> {
        self.forget(len);
        Ok(())
    }

    /// Computes `tokens` on this line, which is empty, and hands over the logits of all positions in pieces of
    /// [positions, vocabulary].
    pub(crate) async fn all_logits(
        &mut self,
        tokens: &[Token],
        mut on: impl FnMut(&[f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.say(tokens)?;
        // One piece is in work while another is written.
        let (piece, mut pieces) = mpsc::channel(1);
        self.order(Job::AllLogits { piece })?;
        while let Some(piece) = pieces.recv().await {
            on(&piece?)?;
        }
        Ok(())
    }

    /// Makes the line say `tokens`, without computing anything.
    fn say(&mut self, tokens: &[Token]) -> Result<(), Error> {
        self.check(tokens)?;
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.forget(common);
        self.tokens.extend_from_slice(&tokens[common..]);
        Ok(())
    }

    /// Whether the line could say `tokens`.
    pub(crate) fn check(&self, tokens: &[Token]) -> Result<(), Error> {
        let (asked, limit) = (tokens.len(), self.shared.info.context_tokens);
        if asked > limit {
            return Err(Error::ContextFull { asked, limit });
        }
        let vocabulary = self.shared.info.vocabulary;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::NoSuchToken { token, vocabulary });
        }
        Ok(())
    }

    fn forget(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.told = self.told.min(self.tokens.len());
    }

    /// Orders work on the line as it is now.
    fn order(&mut self, job: Job) -> Result<(), Error> {
        let edit = self.edit();
        self.shared.order(Order::Work { line: self.line, edit, priority: self.priority, job })?;
        self.told = self.tokens.len();
        Ok(())
    }

    /// What the worker has not been told yet.
    fn edit(&self) -> Edit {
        Edit { keep: self.told, append: self.tokens[self.told..].to_vec() }
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        // A worker that is gone has no lines to forget.
        let _ = self.shared.order(Order::Close(self.line));
    }
}

//! The only thread that touches the device. It takes orders over a channel and works on those of several
//! timelines in turn, one prefill chunk or one token at a time, so that none waits for another's whole prompt.
//!
//! Every order carries what changed in its line since the last one, so the worker's copy of the line follows
//! the timeline's own. Orders of one line come one after another, because a timeline is borrowed while it
//! waits; so the channel holds at most one order per timeline, and its end, and needs no other bound.

mod outlook;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use self::outlook::Outlook;
use crate::cache::{Cache, KvKind, Layout};
use crate::counts::Counters;
use crate::crew::Crew;
use crate::experts::Uses;
use crate::guess::{
    Chance, Costs, Counts, GUESSES_MAX, Guess, Origin, PREDICTIONS_MAX, Speculate, Trust, look_back,
};
use crate::model::{Model, Predictor, Scratch, Want};
use crate::sample::{Choice, sample};
use crate::shelf::{Anchor, Recalled, Shelf};
use crate::snapshot::{Secret, Slot};
use crate::{Error, Progress, Sampling, Token};

/// Tokens computed between two looks at the channel. Larger chunks use unpacked weights for more tokens;
/// smaller ones answer sooner. Beyond 256 the gain is lost in the noise.
pub(crate) const PREFILL_CHUNK_TOKENS: usize = 256;

/// A line with a predictor does not go on from what is kept for less than this, because the predictor forgets the line's
/// past when it takes it up anew.
const TAKE_UP_MIN: usize = 64;

/// What a timeline has the worker do.
pub(crate) enum Order {
    /// Work on a line, after bringing it up to date.
    Work { line: LineId, edit: Edit, job: Job },
    /// Make `to` say what `from` says after the edit.
    Fork { from: LineId, edit: Edit, to: LineId, done: oneshot::Sender<()> },
    /// Begin a line whose snapshots are sealed with this secret. Other lines begin by themselves.
    Begin { line: LineId, secret: Secret },
    /// Write what is computed of a line to disk, after bringing it up to date.
    Snapshot { line: LineId, edit: Edit, slot: Slot, done: oneshot::Sender<bool> },
    /// Forget a line.
    Close(LineId),
    /// Keep so many bytes for other lines and no more.
    KeepBytes(u64),
    /// Say how often each expert was chosen.
    ExpertUses { done: oneshot::Sender<Vec<Uses>> },
}

/// A line's name between a timeline and the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineId(pub(crate) u64);

/// How a line changed: what is kept of what the worker knows of it, and what follows.
pub(crate) struct Edit {
    pub(crate) keep: usize,
    pub(crate) append: Vec<Token>,
}

/// A piece of work on one line. Nobody waits for it any more once its answer's receiver is gone, and then it
/// is dropped at its next turn.
pub(crate) enum Job {
    /// Compute everything the line says.
    Sync { progress: mpsc::UnboundedSender<Progress>, done: oneshot::Sender<Result<Computed, Error>> },
    /// Compute everything, then choose what follows. The mask is made by the caller meanwhile.
    Next {
        sampling: Sampling,
        mask: oneshot::Receiver<Option<Vec<u32>>>,
        done: oneshot::Sender<Result<Token, Error>>,
    },
    /// Compute everything, then say the logits of what follows.
    Logits { done: oneshot::Sender<Result<Vec<f32>, Error>> },
    /// Compute everything that is not computed yet, saying the logits of each of its positions, piece by piece.
    /// Unlike the other jobs it also wants those of positions that were computed without their logits, so the
    /// caller starts with an empty line.
    AllLogits { piece: mpsc::Sender<Result<Vec<f32>, Error>> },
}

/// How many of a line's tokens were computed already, and how many this job computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Computed {
    pub(crate) cached: usize,
    pub(crate) computed: usize,
}

/// One line as the worker knows it.
#[derive(Clone)]
struct Line {
    tokens: Vec<Token>,
    /// Holds what is kept of the first tokens, not always of all. If it holds all, it may hold guesses after them.
    cache: Cache,
    /// Where it is among what is kept for other lines and for later.
    anchor: Anchor,
    /// Of what follows the cache's last token before the guesses, if they were computed.
    logits: Option<Vec<f32>>,
    /// The guesses in the cache. There are none unless the logits of what follows the line are known.
    guesses: VecDeque<Guessed>,
    trust: Trust,
    /// If the model has a predictor. It knows what the cache holds, but for tokens that are not said.
    outlook: Option<Outlook>,
}

/// A token that may come next and is computed already.
#[derive(Clone)]
struct Guessed {
    token: Token,
    origin: Origin,
    /// Of what follows it.
    logits: Vec<f32>,
}

/// A job in the queue.
struct Task {
    line: LineId,
    job: Job,
    cached: usize,
}

/// How lines are kept and continued.
pub(crate) struct Settings {
    pub(crate) kv: KvKind,
    /// The longest line.
    pub(crate) context_tokens: usize,
    pub(crate) speculate: Speculate,
    /// Where guesses are counted.
    pub(crate) guesses: Arc<Counts>,
    /// Where everything else is.
    pub(crate) counters: Arc<Counters>,
}

/// Starts the worker. It ends when all senders are gone.
pub(crate) fn start(
    model: Model,
    settings: Settings,
    shelf: Shelf,
    crew: Crew,
) -> std::io::Result<Sender<Order>> {
    let (orders, receiver) = channel();
    let worker = Worker::new(model, settings, shelf);
    let thread = std::thread::Builder::new().name("engine".into());
    thread.spawn(move || crew.lead(|| worker.run(&receiver)))?;
    Ok(orders)
}

struct Worker {
    model: Model,
    settings: Settings,
    shelf: Shelf,
    layout: Arc<Layout>,
    /// What the predictor keeps of a line, if the model has one.
    ahead: Option<Arc<Layout>>,
    costs: Costs,
    lines: BTreeMap<LineId, Line>,
    queue: VecDeque<Task>,
    scratch: Scratch,
    /// What the predictor is shown of the tokens that were computed last.
    shown: Vec<f32>,
}

impl Worker {
    fn new(model: Model, settings: Settings, shelf: Shelf) -> Worker {
        let layout = Arc::clone(shelf.layout());
        let ahead = model.predictor().map(|predictor| Arc::new(predictor.cache_layout(settings.kv)));
        Worker {
            model,
            settings,
            shelf,
            layout,
            ahead,
            costs: Costs::default(),
            lines: BTreeMap::new(),
            queue: VecDeque::new(),
            scratch: Scratch::default(),
            shown: Vec::new(),
        }
    }

    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            // Wait only when there is nothing to do.
            if self.queue.is_empty() {
                match orders.recv() {
                    Ok(order) => self.accept(order),
                    Err(_) => return,
                }
            }
            loop {
                match orders.try_recv() {
                    Ok(order) => self.accept(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if let Some(mut task) = self.queue.pop_front()
                && !task.job.abandoned()
                && self.step(&mut task)
            {
                self.queue.push_back(task);
            } else {
                // The task is done, or nobody waits for it; dropping it says so.
            }
        }
    }

    fn accept(&mut self, order: Order) {
        match order {
            Order::Work { line, edit, job } => {
                let cached = self.edit(line, edit);
                self.queue.push_back(Task { line, job, cached });
            }
            Order::Fork { from, edit, to, done } => {
                self.edit(from, edit);
                let fork = self.line(from).clone();
                self.lines.insert(to, fork);
                // Whoever asked may have gone; then the fork is closed by its own drop.
                let _ = done.send(());
            }
            Order::Close(line) => {
                if let Some(Line { tokens, cache, anchor, .. }) = self.lines.remove(&line) {
                    self.shelf.close(anchor, &cache, &tokens);
                }
            }
            Order::Begin { line, secret } => {
                let Worker { model, shelf, layout, ahead, lines, .. } = self;
                let predictor = model.predictor().zip(ahead.as_ref());
                lines.insert(line, Line::new(layout, shelf.start(Some(secret)), predictor));
            }
            Order::Snapshot { line, edit, slot, done } => {
                self.edit(line, edit);
                let Worker { lines, shelf, .. } = self;
                if let Some(Line { tokens, cache, anchor, .. }) = lines.get_mut(&line) {
                    shelf.snapshot(anchor, cache, tokens, &slot, done);
                }
            }
            Order::KeepBytes(bytes) => self.shelf.set_bytes_max(bytes),
            Order::ExpertUses { done } => {
                // Whoever asked may have gone.
                let _ = done.send(self.model.expert_uses());
            }
        }
    }

    /// Brings a line up to date and returns how much of it is computed.
    fn edit(&mut self, line: LineId, edit: Edit) -> usize {
        let counts = Arc::clone(&self.settings.guesses);
        let line = self.line(line);
        line.cut(edit.keep);
        line.say(&edit.append, &counts);
        line.cache.tokens().min(line.tokens.len())
    }

    fn line(&mut self, line: LineId) -> &mut Line {
        let Worker { model, shelf, layout, ahead, lines, .. } = self;
        lines
            .entry(line)
            .or_insert_with(|| Line::new(layout, shelf.start(None), model.predictor().zip(ahead.as_ref())))
    }

    /// Does one chunk or finishes the job; true if there is more to do.
    fn step(&mut self, task: &mut Task) -> bool {
        let Worker { model, settings, shelf, layout, costs, lines, scratch, shown, .. } = self;
        let Some(line) = lines.get_mut(&task.line) else { return false };
        let total = line.tokens.len();
        if !task.job.wants_all() {
            match line.recall(shelf) {
                Recalled::Tokens(found) => task.cached += found,
                Recalled::More => return true,
            }
        }
        if total > 0 && line.cache.tokens() == total && line.logits.is_none() && !task.job.wants_all() {
            // The line was cut back to here: the last token's logits are gone and must be made again. They
            // will be the same, because results do not depend on how a line is cut.
            line.cache.truncate(total - 1);
            task.cached = task.cached.min(line.cache.tokens());
        }
        let at = line.cache.tokens();
        if at < total {
            let end = total.min(at + PREFILL_CHUNK_TOKENS.min(line.cache.tokens_to_mark()));
            let begun = Instant::now();
            let guess = match &task.job {
                Job::Next { .. } if end == total => line.guess(settings, costs, model.predictor(), scratch),
                Job::Next { .. } | Job::Sync { .. } | Job::Logits { .. } | Job::AllLogits { .. } => None,
            };
            let start = Instant::now();
            let guesses = guess.as_ref().map_or(&[][..], |guess| &guess.tokens);
            let want = match () {
                () if task.job.wants_all() => Want::All,
                () if end == total => Want::Last(1 + guesses.len()),
                () => Want::None,
            };
            if !guesses.is_empty() {
                line.cache.hold();
                line.tokens.extend(guesses);
            }
            let count = end - at + guesses.len();
            let computed = model.forward(&mut line.cache, &line.tokens[..at + count], count, want, scratch);
            line.tokens.truncate(total);
            let mut logits = match computed {
                Ok(logits) => logits,
                Err(error) => {
                    tracing::error!(%error, "a chunk could not be computed");
                    (line.cache, line.logits) = (Cache::new(Arc::clone(layout)), None);
                    task.job.fail(error);
                    return false;
                }
            };
            line.learn(costs, count, start.elapsed().as_secs_f64());
            if let Some((outlook, predictor)) = line.outlook.as_mut().zip(model.predictor()) {
                model.shown(scratch, shown);
                outlook.take(at, shown);
                outlook.follow(predictor, &line.tokens, scratch);
            }
            match &task.job {
                Job::Next { .. } => settings.counters.decoded(begun.elapsed()),
                Job::Sync { .. } | Job::Logits { .. } | Job::AllLogits { .. } => {
                    settings.counters.prefilled(count, begun.elapsed());
                }
            }
            shelf.keep(&mut line.anchor, &line.cache, &line.tokens);
            let vocabulary = model.spec().vocabulary;
            line.logits = match want {
                Want::None => None,
                Want::Last(_) => {
                    if let Some(guess) = guess {
                        settings.guesses.guessed(guess.origin, guess.tokens.len());
                        let rows = logits.chunks_exact(vocabulary).skip(1);
                        let origins =
                            std::iter::once(guess.origin).chain(std::iter::repeat(guess.origin.next()));
                        line.guesses = std::iter::zip(guess.tokens, origins)
                            .zip(rows)
                            .map(|((token, origin), logits)| Guessed {
                                token,
                                origin,
                                logits: logits.to_vec(),
                            })
                            .collect();
                        logits.truncate(vocabulary);
                    }
                    Some(logits)
                }
                Want::All => {
                    let last = logits[logits.len() - vocabulary..].to_vec();
                    if let Job::AllLogits { piece } = &task.job
                        && piece.blocking_send(Ok(logits)).is_err()
                    {
                        return false;
                    }
                    Some(last)
                }
            };
            let (done_tokens, total_tokens) = (end - task.cached, total - task.cached);
            if let Job::Sync { progress, .. } = &task.job {
                // The caller may have stopped listening; `abandoned` notices next time.
                let _ = progress.send(Progress::Prefilling { done_tokens, total_tokens });
            }
            if end < total {
                return true;
            }
        }
        self.finish(task);
        false
    }

    /// Answers a job whose line is computed to its end.
    fn finish(&mut self, task: &mut Task) {
        let Some(line) = self.lines.get(&task.line) else { return };
        let logits = line.logits.as_deref().unwrap_or_default();
        // Whoever does not wait for an answer any more does not miss it.
        match &mut task.job {
            Job::Sync { done, .. } => {
                let computed = line.tokens.len() - task.cached;
                self.settings.counters.cached(task.cached);
                answer(done, Ok(Computed { cached: task.cached, computed }));
            }
            Job::Next { sampling, mask, done } => {
                // The sender is at work on it or already gone, so this wait ends.
                let (_, closed) = oneshot::channel();
                if let Ok(mask) = std::mem::replace(mask, closed).blocking_recv() {
                    let choice = Choice { sampling, line: &line.tokens, mask: mask.as_deref() };
                    self.settings.counters.sampled();
                    answer(done, sample(logits, &choice));
                }
            }
            Job::Logits { done } => answer(done, Ok(logits.to_vec())),
            Job::AllLogits { .. } => {}
        }
    }
}

impl Line {
    /// An empty line of a model that may have a predictor.
    fn new(layout: &Arc<Layout>, anchor: Anchor, ahead: Option<(&Predictor, &Arc<Layout>)>) -> Line {
        Line {
            tokens: Vec::new(),
            cache: Cache::new(Arc::clone(layout)),
            anchor,
            logits: None,
            guesses: VecDeque::new(),
            trust: Trust::default(),
            outlook: ahead.map(|(predictor, layout)| Outlook::new(predictor, layout)),
        }
    }

    /// Forgets what is after the first `keep` tokens.
    fn cut(&mut self, keep: usize) {
        if keep < self.tokens.len() {
            self.tokens.truncate(keep);
            self.guesses.clear();
        }
        self.forget_what_is_not_said();
    }

    /// Goes on from what is kept of lines that said the same.
    fn recall(&mut self, shelf: &mut Shelf) -> Recalled {
        let least = if self.outlook.is_some() && self.cache.tokens() > 0 { TAKE_UP_MIN } else { 1 };
        let found = shelf.recall(&mut self.anchor, &mut self.cache, &self.tokens, least);
        if found != Recalled::Tokens(0) {
            self.logits = None;
            self.guesses.clear();
        }
        if let Some(outlook) = self.outlook.as_mut().filter(|outlook| outlook.tokens() < self.cache.tokens())
        {
            outlook.take_up(self.cache.tokens());
        }
        found
    }

    /// Goes on with these tokens. Guesses that are among them are computed already.
    fn say(&mut self, tokens: &[Token], counts: &Counts) {
        let mut tokens = tokens.iter();
        while !self.guesses.is_empty()
            && let Some(&token) = tokens.next()
            && let Some(guess) = self.guesses.pop_front()
        {
            let right = guess.token == token;
            self.trust.learn(guess.origin, right);
            if right {
                counts.accepted(guess.origin);
                self.logits = Some(guess.logits);
            } else {
                self.guesses.clear();
                self.forget_what_is_not_said();
            }
            self.tokens.push(token);
        }
        self.tokens.extend(tokens);
    }

    /// Takes out of the cache what is neither said nor guessed.
    fn forget_what_is_not_said(&mut self) {
        let kept = self.tokens.len() + self.guesses.len();
        if kept < self.cache.tokens() {
            self.cache.truncate(kept);
            self.logits = None;
        }
        if let Some(outlook) = &mut self.outlook {
            outlook.cut(kept);
            // What the predictor is to be shown of the tokens between must be computed again.
            if outlook.tokens() < self.cache.tokens() {
                self.cache.truncate(outlook.tokens());
                self.logits = None;
            }
        }
    }

    /// What may follow the line and is worth computing with its last tokens, which are computed next.
    fn guess(
        &mut self,
        settings: &Settings,
        costs: &mut Costs,
        predictor: Option<&Predictor>,
        scratch: &mut Scratch,
    ) -> Option<Guess> {
        let due = self.tokens.len() - self.cache.tokens();
        // A prompt's last tokens are computed alone: they take long enough.
        if settings.speculate == Speculate::Off || due > 1 + GUESSES_MAX {
            return None;
        }
        let room = settings.context_tokens.saturating_sub(self.tokens.len());
        let most = GUESSES_MAX.min(room).min(self.cache.tokens_to_mark() - due);
        let said = look_back(&self.tokens, most);
        let reaches = self.outlook.as_ref().is_some_and(|outlook| outlook.reaches(&self.tokens));
        let chance = |origin, most| Chance { origin, most, due, redo: self.cache.has_states() };
        let lookup = said.as_ref().map(|said| chance(said.origin, said.tokens.len()));
        let prediction = reaches
            .then(|| chance(Origin::Predictor, most.min(PREDICTIONS_MAX)))
            .filter(|chance| chance.most > 0);
        let (origin, count) = match settings.speculate {
            Speculate::Off => return None,
            Speculate::On => self.trust.choose(costs, lookup, prediction)?,
            Speculate::Always => lookup.or(prediction).map(|chance| (chance.origin, chance.most))?,
        };
        if !origin.is_predicted() {
            let mut said = said?;
            said.tokens.truncate(count);
            return Some(said);
        }
        let start = Instant::now();
        let tokens = self.outlook.as_mut()?.predict(predictor?, &self.tokens, count, scratch);
        costs.learn_prediction(count, start.elapsed().as_secs_f64(), self.trust.single());
        Some(Guess { origin, tokens })
    }

    /// Takes in how long it took to compute some tokens.
    fn learn(&mut self, costs: &mut Costs, tokens: usize, seconds: f64) {
        if tokens == 1 {
            self.trust.learn_single(seconds);
        } else {
            costs.learn(tokens, seconds, self.trust.single());
        }
    }
}

/// Sends an answer through a place that a job still owns.
fn answer<T>(done: &mut oneshot::Sender<T>, value: T) {
    let (closed, _) = oneshot::channel();
    // The receiver may be gone, and then nobody minds.
    let _ = std::mem::replace(done, closed).send(value);
}

impl Job {
    /// Whether nobody waits for it any more.
    fn abandoned(&self) -> bool {
        match self {
            Job::Sync { done, .. } => done.is_closed(),
            Job::Next { done, .. } => done.is_closed(),
            Job::Logits { done } => done.is_closed(),
            Job::AllLogits { piece } => piece.is_closed(),
        }
    }

    /// Says why it cannot be done.
    fn fail(&mut self, error: Error) {
        // Whoever does not wait for an answer any more does not miss it.
        match self {
            Job::Sync { done, .. } => answer(done, Err(error)),
            Job::Next { done, .. } => answer(done, Err(error)),
            Job::Logits { done } => answer(done, Err(error)),
            Job::AllLogits { piece } => drop(piece.blocking_send(Err(error))),
        }
    }

    fn wants_all(&self) -> bool {
        match self {
            Job::AllLogits { .. } => true,
            Job::Sync { .. } | Job::Next { .. } | Job::Logits { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;

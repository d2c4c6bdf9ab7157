//! The only thread that touches the device. It takes orders over a channel and works on those of several timelines
//! together, pass by pass: the next tokens of replies and chunks of prompts, as [`crate::schedule`] puts them together.
//!
//! Every order carries what changed in its line since the last one, so the worker's copy of the line follows
//! the timeline's own. Orders of one line come one after another, because a timeline is borrowed while it
//! waits; so the channel holds at most one order per timeline, and its end, and needs no other bound.

mod draft;
mod guessing;
mod outlook;
mod room;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use self::draft::Draft;
pub(crate) use self::draft::Drafter;
use self::guessing::Second;
use self::outlook::Outlook;
use self::room::Price;
use crate::cache::{Cache, KvKind, Layout};
use crate::counts::Counters;
use crate::crew::Crew;
use crate::experts::Uses;
use crate::guess::{Costs, Counts, Guess, Origin, Speculate, Trust};
use crate::model::{Model, Part, Predictor, Scratch, Want};
use crate::sample::{Choice, sample};
use crate::schedule::{STEP_TOKENS, Waiting, together};
use crate::shelf::{Anchor, Recalled, Shelf};
use crate::snapshot::{Secret, Slot};
use crate::{Error, Progress, Sampling, Token};

/// How long the worker waits for those who just got a token to come for the next one, before it goes on with others: this
/// share of the time the pass took, and no longer than this. A pass without them would make them wait for a whole one.
const GRACE_SHARE: u32 = 8;
const GRACE_MAX: Duration = Duration::from_millis(5);
/// How often the worker looks whether there is room by now.
const ROOM_EVERY: Duration = Duration::from_millis(100);

/// A line with a predictor does not go on from what is kept for less than this, because the predictor forgets the line's
/// past when it takes it up anew.
const TAKE_UP_MIN: usize = 64;

/// What a timeline has the worker do.
pub(crate) enum Order {
    /// Work on a line, after bringing it up to date.
    Work { line: LineId, edit: Edit, priority: Priority, job: Job },
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

/// Who goes first when several lines wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Foreground,
    /// It is done where nobody waits, and in a quarter of the passes where somebody does.
    Background,
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
    /// If there is a draft model, and it guessed what follows.
    draft: Option<Draft>,
    /// When somebody last asked something of it, or it was last worked on.
    used: Instant,
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
    priority: Priority,
    cached: usize,
    /// Whether there is room for all that it will need.
    admitted: bool,
}

/// A task's part of a pass. Its line is out of the map meanwhile.
struct Share {
    task: Task,
    line: Line,
    /// How many of the line's tokens were computed before, and how many are afterwards, guesses aside.
    at: usize,
    end: usize,
    guess: Option<Guess>,
    want: Want,
}

impl Share {
    /// How many tokens are computed.
    fn count(&self) -> usize {
        self.end - self.at + self.guess.as_ref().map_or(0, |guess| guess.tokens.len())
    }
}

/// How lines are kept and continued.
pub(crate) struct Settings {
    pub(crate) kv: KvKind,
    /// The longest line.
    pub(crate) context_tokens: usize,
    /// What the KV of all lines may take.
    pub(crate) lines_bytes: u64,
    pub(crate) speculate: Speculate,
    /// The model that guesses for this one, which then has no predictor.
    pub(crate) drafter: Option<Drafter>,
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
    drafter: Option<Drafter>,
    settings: Settings,
    shelf: Shelf,
    layout: Arc<Layout>,
    price: Price,
    /// What the predictor keeps of a line, if the model has one.
    ahead: Option<Arc<Layout>>,
    costs: Costs,
    lines: BTreeMap<LineId, Line>,
    queue: VecDeque<Task>,
    /// Those who got a token in the last pass and did not come back yet, and until when they are waited for.
    expected: BTreeSet<LineId>,
    grace: Instant,
    passes: u64,
    scratch: Scratch,
    /// What the predictor is shown of the tokens that were computed last.
    shown: Vec<f32>,
}

impl Worker {
    fn new(model: Model, mut settings: Settings, shelf: Shelf) -> Worker {
        let layout = Arc::clone(shelf.layout());
        let ahead = model.predictor().map(|predictor| Arc::new(predictor.cache_layout(settings.kv)));
        Worker {
            model,
            price: Price::of(&layout, settings.drafter.as_ref()),
            drafter: settings.drafter.take(),
            settings,
            shelf,
            layout,
            ahead,
            costs: Costs::default(),
            lines: BTreeMap::new(),
            queue: VecDeque::new(),
            expected: BTreeSet::new(),
            grace: Instant::now(),
            passes: 0,
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
                // Those who just got a token are about to ask for the next one.
                let grace = self.grace.saturating_duration_since(Instant::now());
                let order = if self.expected.is_empty() || grace.is_zero() {
                    orders.try_recv()
                } else {
                    orders.recv_timeout(grace).map_err(|error| match error {
                        RecvTimeoutError::Timeout => TryRecvError::Empty,
                        RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                    })
                };
                match order {
                    Ok(order) => self.accept(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if !self.pass() && !self.queue.is_empty() {
                // All that is left waits for room.
                match orders.recv_timeout(ROOM_EVERY) {
                    Ok(order) => self.accept(order),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn accept(&mut self, order: Order) {
        match order {
            Order::Work { line, edit, priority, job } => {
                self.expected.remove(&line);
                let cached = self.edit(line, edit);
                self.queue.push_back(Task { line, job, priority, cached, admitted: false });
            }
            Order::Fork { from, edit, to, done } => {
                self.edit(from, edit);
                let fork = self.line(from).clone();
                self.lines.insert(to, fork);
                // Whoever asked may have gone; then the fork is closed by its own drop.
                let _ = done.send(());
            }
            Order::Close(line) => {
                self.expected.remove(&line);
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
        line.used = Instant::now();
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

    /// Computes a piece of what is waited for, and answers whoever waits for no more. False if there was nothing that
    /// could be done.
    fn pass(&mut self) -> bool {
        self.queue.retain(|task| !task.job.abandoned());
        self.admit();
        let mut busy = false;
        let (mut numbers, mut waiting, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for (i, task) in self.queue.iter_mut().enumerate().filter(|(_, task)| task.admitted) {
            let Some(line) = self.lines.get_mut(&task.line) else {
                done.push(i);
                continue;
            };
            if !task.job.wants_all() {
                match line.recall(&mut self.shelf) {
                    Recalled::Tokens(found) => task.cached += found,
                    Recalled::More => {
                        busy = true;
                        continue;
                    }
                }
            }
            let total = line.tokens.len();
            if total > 0 && line.cache.tokens() == total && line.logits.is_none() && !task.job.wants_all() {
                // The line was cut back to here: the last token's logits are gone and must be made again. They
                // will be the same, because results do not depend on how a line is cut.
                line.cache.truncate(total - 1);
                task.cached = task.cached.min(line.cache.tokens());
            }
            let due = total - line.cache.tokens().min(total);
            if due == 0 {
                done.push(i);
                continue;
            }
            numbers.push(i);
            let background = task.priority == Priority::Background;
            waiting.push(Waiting { due, most: line.cache.tokens_to_mark(), background });
        }
        self.let_first_go_ahead(&mut numbers, &mut waiting);
        let chosen = together(&waiting, self.passes);
        self.passes += 1;
        let mut shares = Vec::with_capacity(chosen.len());
        let mut counts: BTreeMap<usize, usize> =
            chosen.into_iter().map(|(i, count)| (numbers[i], count)).collect();
        let queue = std::mem::take(&mut self.queue);
        let mut finished = Vec::with_capacity(done.len());
        for (i, task) in queue.into_iter().enumerate() {
            if let Some(count) = counts.remove(&i) {
                let line = self.lines.remove(&task.line).expect("a line that was just seen");
                let at = line.cache.tokens();
                shares.push(Share { task, line, at, end: at + count, guess: None, want: Want::None });
            } else if done.contains(&i) {
                finished.push(task);
            } else {
                self.queue.push_back(task);
            }
        }
        let busy = busy || !shares.is_empty() || !finished.is_empty();
        for mut task in finished {
            self.finish(&mut task);
        }
        if !shares.is_empty() {
            self.compute(shares);
        }
        busy
    }

    /// Where several lines are about to compute the same, lets the first of them do it: the others find it then.
    fn let_first_go_ahead(&self, numbers: &mut Vec<usize>, waiting: &mut Vec<Waiting>) {
        if self.shelf.is_off() {
            return;
        }
        let next = |i: usize| {
            let line = self.lines.get(&self.queue[i].line)?;
            line.anchor.next_page(&line.tokens)
        };
        let mut taken = BTreeSet::new();
        let prompt = |waiting: &Waiting| waiting.due > STEP_TOKENS;
        let keep: Vec<bool> = std::iter::zip(&*numbers, &*waiting)
            .map(|(&i, waiting)| !prompt(waiting) || next(i).is_none_or(|page| taken.insert(page)))
            .collect();
        let mut kept = keep.iter();
        numbers.retain(|_| kept.next().copied().unwrap_or(true));
        let mut kept = keep.iter();
        waiting.retain(|_| kept.next().copied().unwrap_or(true));
    }

    /// Computes all shares in one pass.
    fn compute(&mut self, mut shares: Vec<Share>) {
        let begun = Instant::now();
        let Worker { model, drafter, settings, shelf, layout, costs, scratch, shown, .. } = self;
        let least: usize = shares.iter().map(|share| share.end - share.at).sum();
        for share in &mut shares {
            let Share { task, line, at, end, .. } = share;
            let total = line.tokens.len();
            if let (Job::Next { .. }, true) = (&task.job, *end == total) {
                let beside = least - (*end - *at);
                let second = match drafter {
                    Some(drafter) => Second::Draft(drafter, model.spec().vocabulary),
                    None => Second::Predictor(model.predictor(), scratch),
                };
                share.guess = line.guess(settings, costs, beside, second);
            }
            let guesses = share.guess.as_ref().map_or(&[][..], |guess| &guess.tokens);
            share.want = match () {
                () if task.job.wants_all() => Want::All,
                () if *end == total => Want::Last(1 + guesses.len()),
                () => Want::None,
            };
            if !guesses.is_empty() {
                line.cache.hold();
                line.tokens.extend(guesses);
            }
        }
        let start = Instant::now();
        let mut parts: Vec<Part<'_>> = shares
            .iter_mut()
            .map(|share| {
                let (count, want) = (share.count(), share.want);
                let Line { tokens, cache, .. } = &mut share.line;
                Part { cache, line: &tokens[..share.at + count], count, want }
            })
            .collect();
        let computed = model.forward(&mut parts, scratch);
        drop(parts);
        let seconds = start.elapsed().as_secs_f64();
        for share in &mut shares {
            let guesses = share.count() - (share.end - share.at);
            share.line.tokens.truncate(share.line.tokens.len() - guesses);
        }
        let results = match computed {
            Ok(results) => results,
            Err(error) => {
                tracing::error!(%error, "a pass could not be computed");
                let (said, mut error) = (error.to_string(), Some(error));
                for Share { mut task, mut line, .. } in shares {
                    (line.cache, line.logits) = (Cache::new(Arc::clone(layout)), None);
                    // An error cannot be cloned; the first line gets it, the others its words.
                    task.job.fail(error.take().unwrap_or_else(|| Error::Together(said.clone())));
                    self.lines.insert(task.line, line);
                }
                return;
            }
        };
        settings.counters.passed(shares.len());
        let count: usize = shares.iter().map(Share::count).sum();
        let single = shares.iter().map(|share| share.line.trust.single()).fold(0.0, f64::max);
        if let [share] = &mut shares[..] {
            share.line.learn(costs, count, seconds);
        } else {
            costs.learn(count, seconds, single);
        }
        if let Some(predictor) = model.predictor() {
            model.shown(scratch, shown);
            let row = shown.len() / count;
            let mut rest = &shown[..];
            for share in &mut shares {
                let (own, others) = rest.split_at(share.count() * row);
                if let Some(outlook) = &mut share.line.outlook {
                    outlook.take(share.at, own);
                    outlook.follow(predictor, &share.line.tokens, scratch);
                }
                rest = others;
            }
        }
        let took = begun.elapsed();
        let vocabulary = model.spec().vocabulary;
        let mut finished = Vec::new();
        for (share, logits) in shares.into_iter().zip(results) {
            let tokens = share.count();
            // Each token of a pass counts as much as any other.
            let own = took.mul_f64(tokens as f64 / count as f64);
            let Share { task, mut line, end, guess, want, .. } = share;
            match &task.job {
                Job::Next { .. } => settings.counters.decoded(own),
                Job::Sync { .. } | Job::Logits { .. } | Job::AllLogits { .. } => {
                    settings.counters.prefilled(tokens, own);
                }
            }
            shelf.keep(&mut line.anchor, &line.cache, &line.tokens);
            line.take_logits(settings, want, guess, logits, vocabulary, &task.job);
            let total = line.tokens.len();
            let (done_tokens, total_tokens) =
                (end.saturating_sub(task.cached), total.saturating_sub(task.cached));
            if let Job::Sync { progress, .. } = &task.job {
                // The caller may have stopped listening; `abandoned` notices next time.
                let _ = progress.send(Progress::Prefilling { done_tokens, total_tokens });
            }
            line.used = Instant::now();
            self.lines.insert(task.line, line);
            if end < total {
                self.queue.push_back(task);
            } else {
                finished.push(task);
            }
        }
        self.expected.clear();
        self.grace = Instant::now() + (took / GRACE_SHARE).min(GRACE_MAX);
        for mut task in finished {
            if let Job::Next { .. } = task.job {
                self.expected.insert(task.line);
            }
            self.finish(&mut task);
        }
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
            draft: None,
            used: Instant::now(),
        }
    }

    /// Forgets what is after the first `keep` tokens.
    fn cut(&mut self, keep: usize) {
        if keep < self.tokens.len() {
            self.tokens.truncate(keep);
            self.guesses.clear();
            if let Some(draft) = &mut self.draft {
                draft.cut(keep);
            }
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

    /// Forgets what is computed, and nothing else.
    fn drop_computed(&mut self) {
        self.cache.truncate(0);
        (self.logits, self.guesses, self.draft) = (None, VecDeque::new(), None);
        if let Some(outlook) = &mut self.outlook {
            outlook.take_up(0);
        }
    }

    /// Takes in the logits that were wanted of a pass.
    fn take_logits(
        &mut self,
        settings: &Settings,
        want: Want,
        guess: Option<Guess>,
        mut logits: Vec<f32>,
        vocabulary: usize,
        job: &Job,
    ) {
        self.logits = match want {
            Want::None => None,
            Want::Last(_) => {
                if let Some(guess) = guess {
                    settings.guesses.guessed(guess.origin, guess.tokens.len());
                    let rows = logits.chunks_exact(vocabulary).skip(1);
                    let origins = std::iter::once(guess.origin).chain(std::iter::repeat(guess.origin.next()));
                    self.guesses = std::iter::zip(guess.tokens, origins)
                        .zip(rows)
                        .map(|((token, origin), logits)| Guessed { token, origin, logits: logits.to_vec() })
                        .collect();
                    logits.truncate(vocabulary);
                }
                Some(logits)
            }
            Want::All => {
                let last = logits[logits.len() - vocabulary..].to_vec();
                if let Job::AllLogits { piece } = job {
                    // If nobody takes them any more, `abandoned` notices.
                    let _ = piece.blocking_send(Ok(logits));
                }
                Some(last)
            }
        };
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

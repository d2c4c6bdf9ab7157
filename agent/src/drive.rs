//! Do the next thing, write it down, repeat.
//!
//! One driver per session, and it alone appends to the session's journal: people's inputs reach it through its inbox,
//! also while a thought or a call is under way.

mod children;
mod reflect;

use std::sync::Arc;

use memory::Seq;
use tokio::sync::{mpsc, oneshot, watch};
use tools::rules::Effect;
use tools::{Outcome, Reach, Replay};

use crate::agent::Admitted;
use crate::allowance::Left;
use crate::child::{self, Returned};
use crate::compact;
use crate::context::Message;
use crate::decide::Action;
use crate::dialect::Shape;
use crate::event::{Budget, Created, End, Event, Loop, Recorded, Refused, Stop, Usage};
use crate::family::{Alone, Family};
use crate::goal::{self, Goal, JUDGE_TOKENS_MAX, Test};
use crate::learn::Lessons;
use crate::plan;
use crate::state::{Settled, State};
use crate::world::{Cancel, Manner, Progress, Sink, Thought, World};
use crate::{Error, SessionId};

/// What people ask of a running session. Each is answered once it is durable.
#[derive(Debug)]
pub enum Order {
    /// Say something.
    Input {
        /// The client's id for it.
        id: String,
        /// What is said.
        text: String,
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Say something, with what must be true before the turn it begins may end.
    Pursue {
        /// The client's id for it.
        id: String,
        /// What is said.
        text: String,
        /// The goal.
        goal: Goal,
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Say something, with somebody else's text.
    Enclose {
        /// The client's id for it.
        id: String,
        /// What is said.
        text: String,
        /// Whose text comes with it, in words.
        origin: String,
        /// That text.
        enclosed: String,
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Take the goal back.
    DropGoal {
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Say whether a call may run that waits for it.
    Approve {
        /// [`tools::Call::id`].
        call: String,
        /// Whether it may.
        allowed: bool,
        /// Whether the same is allowed for the rest of the session.
        always: bool,
        /// Who says so.
        by: Option<String>,
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Hear what a sub-agent has come to.
    Returned {
        /// It, and what.
        returned: Box<Returned>,
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Stop the running turn.
    Interrupt {
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Leave older messages out of the prompt, as soon as nothing is under way.
    Compact {
        /// What is to be kept most of all, in words.
        focus: Option<String>,
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Set other limits.
    Budget {
        /// All of them.
        budget: Budget,
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
    /// Show the model again what was left out last.
    Uncompact {
        /// Where the answer goes.
        done: oneshot::Sender<Result<Admitted, Error>>,
    },
}

/// Where a driver receives orders.
pub type Inbox = mpsc::Receiver<Order>;

/// Inputs that may wait for a turn; more are refused with [`Error::Busy`].
const WAITING_MAX: usize = 64;

/// What a model may write to sum up a session, and the room that this and its question need. Tokens.
const SUMMARY_TOKENS_MAX: u32 = 600;
const SUMMARY_ROOM: u64 = 1_200;

/// Repetitions noticed in a reply that may wait to be written down.
const NOTICES_MAX: usize = 16;

/// Drives a session until its inbox is closed or the world fails.
///
/// `state` is the fold of the journal and stays so; `wrote` is told each event once it is durable. When the inbox is
/// closed a thought is abandoned, while a running call is cancelled and its outcome written.
pub async fn drive(
    id: &SessionId,
    world: &dyn World,
    state: &mut State,
    inbox: &mut Inbox,
    wrote: &(dyn Fn(&State, Arc<Recorded>) + Send + Sync),
    out: &Sink,
) -> Result<(), Error> {
    drive_among(id, world, &Alone, state, inbox, wrote, out).await
}

/// As [`drive`], for a session that may have children.
pub(crate) async fn drive_among(
    id: &SessionId,
    world: &dyn World,
    family: &dyn Family,
    state: &mut State,
    inbox: &mut Inbox,
    wrote: &(dyn Fn(&State, Arc<Recorded>) + Send + Sync),
    out: &Sink,
) -> Result<(), Error> {
    let mut driver = Driver { id, world, family, state, inbox, wrote, out, closing: false };
    driver.gather().await?;
    while driver.step().await? {}
    Ok(())
}

struct Driver<'a> {
    id: &'a SessionId,
    world: &'a dyn World,
    family: &'a dyn Family,
    state: &'a mut State,
    inbox: &'a mut Inbox,
    wrote: &'a (dyn Fn(&State, Arc<Recorded>) + Send + Sync),
    out: &'a Sink,
    closing: bool,
}

impl Driver<'_> {
    /// Does the next thing; false once there is nobody left to do it for.
    async fn step(&mut self) -> Result<bool, Error> {
        if self.closing {
            return Ok(false);
        }
        // What has arrived since is heard first, so that an interrupt never waits behind another thought.
        while let Ok(order) = self.inbox.try_recv() {
            self.obey(order, None).await?;
        }
        match self.state.next() {
            Action::Rest => {
                self.world.rest().await;
                let asked =
                    self.state.asks().and_then(|asked| Some((asked.call.id.clone(), asked.until_ms?)));
                // What waits for an answer waits with all it has.
                let asked_nothing = self.state.asks().is_none();
                let late = async {
                    match &asked {
                        Some((_, until_ms)) => {
                            let left = until_ms.saturating_sub(self.world.now_ms());
                            tokio::time::sleep(std::time::Duration::from_millis(left)).await;
                        }
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    order = self.inbox.recv() => match order {
                        Some(order) => self.obey(order, None).await?,
                        None => return Ok(false),
                    },
                    exit = self.world.exited(), if asked_nothing && !self.state.running() => {
                        self.record(Event::Exited { exit }).await?;
                    }
                    () = late => {
                        let (id, _) = asked.expect("only an approval that was asked for runs out");
                        self.record(Event::ApprovalGiven { id, allowed: false, always: false, by: None }).await?;
                    }
                }
            }
            Action::Begin { turn } => self.begin(turn).await?,
            Action::Recall { said } => self.recall(&said).await?,
            Action::Learn { turn } => self.learn(turn).await?,
            Action::Reflect { turn } => self.reflect(turn).await?,
            Action::Ask { call, why } => self.gate(call, Some(why)).await?,
            Action::Think { step } => self.think(step).await?,
            Action::Act(call) => self.gate(call, None).await?,
            Action::Lose(call) => self.record(Event::CallLost { id: call.id }).await?,
            Action::Undo { files, note } => match self.world.restore(&files).await {
                Ok(kept) => self.record(Event::Undone { note, kept }).await?,
                Err(Error::Stopping) => return Err(Error::Stopping),
                Err(error) => self.end(End::Failed { error: in_full(&error) }).await?,
            },
            Action::Checkpoint => self.checkpoint().await?,
            Action::Compact => self.compact().await?,
            Action::Merge { child } => self.merge(child).await?,
            Action::Return(call) => self.child_returns(call).await?,
            Action::Audit { check } => self.audit(check).await?,
            Action::Conclude { check } => {
                let checked =
                    self.state.concluded().unwrap_or_else(|| goal::barred(check, "it was not run".into()));
                self.record(Event::GoalChecked(checked)).await?;
            }
            Action::Notice(what) => self.record(Event::Looping { step: self.state.step(), what }).await?,
            Action::End { turn, end } => {
                if end == End::Interrupted {
                    self.cancel_children().await?;
                }
                self.reached(None).await?;
                let commands = self.world.commands();
                if !commands.is_empty() {
                    self.record(Event::Running { commands }).await?;
                }
                self.record(Event::TurnEnded { turn, end }).await?
            }
        }
        Ok(true)
    }

    /// Begins a turn with the tools there are now. Servers that cannot be asked, and a sandbox that cannot be opened, are no reason
    /// to keep people waiting: the first call says what is wrong.
    async fn begin(&mut self, turn: u32) -> Result<(), Error> {
        let known = self.state.equipment().clone();
        let (switch, _) = Cancel::pair();
        let (_, mut none) = mpsc::channel(1);
        let (world, out) = (self.world, self.out);
        match self.until(world.equip(&known, out), &switch, Abandon::Yes, &mut none).await? {
            None => return Ok(()),
            Some(Ok(servers)) if servers.is_empty() => {}
            Some(Ok(servers)) => self.record(Event::Equipped { servers }).await?,
            Some(Err(Error::Stopping)) => return Err(Error::Stopping),
            Some(Err(error)) => {
                tracing::warn!(session = %self.id, error = %in_full(&error), "the servers of tools cannot be asked");
            }
        }
        self.record(Event::TurnStarted { turn }).await
    }

    /// A memory that cannot be asked is no reason to keep people waiting: the turn goes on without it, and says so.
    async fn recall(&mut self, said: &str) -> Result<(), Error> {
        let (notes, trouble) = match self.world.recall(said, self.state.shown()).await {
            Ok(notes) => (notes, None),
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => (Vec::new(), Some(in_full(&error))),
        };
        self.record(Event::Recalled { notes, trouble }).await
    }

    /// A workspace that cannot be kept is no reason to stop: the turn goes on without, and says so.
    async fn checkpoint(&mut self) -> Result<(), Error> {
        let (tree, trouble) = match self.world.checkpoint().await {
            Ok(tree) => (tree, None),
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => (None, Some(in_full(&error))),
        };
        self.record(Event::Checkpoint { tree, trouble }).await
    }

    /// Makes room. What cannot be counted or summed up is no reason to stop; that there is no room left is.
    async fn compact(&mut self) -> Result<(), Error> {
        let created = self.state.created().expect("only a created session has a prompt").clone();
        let conversation = self.state.conversation().clone();
        let weights = match self.world.weigh(&conversation, &created).await {
            Ok(weights) => weights,
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => return self.record(Event::NotCompacted { why: in_full(&error) }).await,
        };
        let weights = weights.scaled(self.state.prompt_tokens());
        let (pressed, focus) = self.state.pressed();
        let focus = focus.map(str::to_string);
        let window = weights.window.or(self.state.window()).unwrap_or_default();
        let head = self.state.head();
        let Some(cut) = compact::cut(&conversation, &weights.tokens, window, head, pressed) else {
            let why = "what could be left out is less than what would have to be computed again".to_string();
            return self.record(Event::NotCompacted { why }).await;
        };
        let summary = match !created.led && cut.before + SUMMARY_ROOM < window {
            true => self.summary(&conversation, &created, focus.as_deref()).await?,
            false => None,
        };
        if self.closing {
            return Ok(());
        }
        let left_out = self.state.left_out_with(cut.messages);
        let (summary, usage) =
            summary.map_or((None, None), |(text, usage)| (compact::honest(&text, &left_out), Some(usage)));
        let past =
            compact::Past { left_out: &left_out, outcomes: self.state.outcomes(), plan: self.state.plan() };
        let digest = compact::digest(&past, summary.as_deref(), cut.digest_chars);
        if let Some(missing) = compact::missing(&past, &digest, &conversation[head + cut.messages..]) {
            let why = format!("the digest would have lost {missing}");
            return self.record(Event::NotCompacted { why }).await;
        }
        let shown = [conversation[0].clone(), Message::User { text: digest.clone() }];
        let after_tokens = match self.world.weigh(&shown, &created).await {
            Ok(weights) => cut.kept - weights.tokens[0].min(cut.kept) + weights.tokens.iter().sum::<u64>(),
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => return self.record(Event::NotCompacted { why: in_full(&error) }).await,
        };
        let (messages, before_tokens) = (cut.messages, cut.before);
        self.record(Event::Compacted { messages, digest, before_tokens, after_tokens, usage }).await
    }

    /// What the model itself wants to keep. Its prompt is the conversation as it is, so that next to nothing of it has to be computed.
    async fn summary(
        &mut self,
        conversation: &[Message],
        created: &Created,
        focus: Option<&str>,
    ) -> Result<Option<(String, Usage)>, Error> {
        let asked = self.beside(conversation, created, compact::question(focus), SUMMARY_TOKENS_MAX).await?;
        let Some(thought) = asked else { return Ok(None) };
        match thought {
            Ok(thought) if thought.stop != Some(Stop::Interrupted) && !thought.text.trim().is_empty() => {
                Ok(Some((thought.text, thought.usage)))
            }
            Ok(_) => Ok(None),
            Err(Error::Stopping) => Err(Error::Stopping),
            Err(error) => {
                tracing::warn!(session = %self.id, error = %in_full(&error), "a session could not be summed up by its model");
                Ok(None)
            }
        }
    }

    /// Asks the model something that is no part of its prompt: the conversation as it is with a question at its end, so that nothing is
    /// computed but that. Nothing when the service stops meanwhile.
    async fn beside(
        &mut self,
        conversation: &[Message],
        created: &Created,
        question: String,
        tokens_max: u32,
    ) -> Result<Option<Result<Thought, Error>>, Error> {
        let mut asked = conversation.to_vec();
        asked.push(Message::User { text: question });
        let mut created = created.clone();
        created.budget.reply_tokens_max = tokens_max;
        let manner = in_words(&created);
        let (switch, cancel) = Cancel::pair();
        let (_, mut none) = mpsc::channel(1);
        let (world, quiet) = (self.world, Sink::none());
        let thought = world.think(&asked, &created, &manner, &cancel, &quiet);
        self.until(thought, &switch, Abandon::Yes, &mut none).await
    }

    /// Begins a check of the goal: a command goes the way of calls, a condition is judged at once.
    async fn audit(&mut self, check: u32) -> Result<(), Error> {
        let Some(goal) = self.state.goal().map(|progressed| progressed.goal.clone()) else { return Ok(()) };
        self.record(Event::GoalChecking { check, call: goal.call(check) }).await?;
        let Test::Judged(condition) = &goal.test else { return Ok(()) };
        let conversation = self.state.conversation().clone();
        let created = self.state.created().expect("only a created session has a goal").clone();
        let tokens_max = self.state.reply_tokens_max().min(JUDGE_TOKENS_MAX);
        let asked = self.beside(&conversation, &created, goal::question(condition), tokens_max).await?;
        let Some(thought) = asked else { return Ok(()) };
        match thought {
            Ok(thought) if thought.stop == Some(Stop::Interrupted) => Ok(()),
            Ok(thought) => {
                let shown = self.state.shown_since();
                let checked = goal::by_judgement(check, &thought.text, thought.usage, shown);
                self.record(Event::GoalChecked(checked)).await
            }
            Err(Error::ContextFull { asked, limit }) => self.record(Event::Full { asked, limit }).await,
            Err(Error::Stopping) => Err(Error::Stopping),
            Err(error) => self.end(End::Failed { error: in_full(&error) }).await,
        }
    }

    async fn learn(&mut self, turn: u32) -> Result<(), Error> {
        let created = self.state.created().expect("only a created session has a turn");
        let lessons = match (self.state.learning(), self.state.unwritten()) {
            (Some(ended), _) if !self.state.running() => ended.lessons(self.id.as_str(), created),
            (_, Some(running)) => running.said(self.id.as_str(), created),
            _ => Lessons::default(),
        };
        let notes = match self.world.learn(lessons).await {
            Ok(notes) => notes,
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => {
                tracing::warn!(session = %self.id, turn, error = %in_full(&error), "what a turn taught could not be written down");
                Vec::new()
            }
        };
        self.record(Event::Learned { turn, notes }).await
    }

    async fn think(&mut self, step: u32) -> Result<(), Error> {
        let left = self.world.allowance();
        if let Some(Left { tokens: 0, limit }) = &left {
            return self.end(End::Budget { limit: limit.clone() }).await;
        }
        self.record(Event::StepStarted { step }).await?;
        let conversation = self.state.conversation().clone();
        let mut created = Created::clone(self.state.created().expect("only a created session thinks"));
        // What is left of the turn's budget, and of the session's, is all that a reply may take.
        let most = left.map_or(u32::MAX, |left| u32::try_from(left.tokens).unwrap_or(u32::MAX));
        created.budget.reply_tokens_max = self.state.reply_tokens_max().min(most);
        created.budget.session_cost_nanos_max = self.state.cost_left_nanos();
        let (shape, without) = self.state.shape();
        let manner = Manner {
            sampling: sampling(&created.sampling, self.state),
            shape,
            without,
            bounds: self.state.bounds(),
        };
        let (switch, cancel) = Cancel::pair();
        let (told, mut notices) = mpsc::channel(NOTICES_MAX);
        let (world, watched) = (self.world, self.out.clone());
        let out = Sink::new(move |progress| match progress {
            // What there is no room for is not told: the reply itself says it all.
            Progress::Looping { what } => drop(told.try_send(what)),
            other => watched.say(other),
        });
        let thought = world.think(&conversation, &created, &manner, &cancel, &out);
        let Some(thought) = self.until(thought, &switch, Abandon::Yes, &mut notices).await? else {
            return Ok(());
        };
        // Else the fold would copy all of it to add the reply.
        drop(conversation);
        while let Ok(what) = notices.try_recv() {
            self.record(Event::Looping { step, what }).await?;
        }
        match thought {
            Ok(mut thought) => {
                for (i, call) in thought.calls.iter_mut().enumerate() {
                    call.id = format!("c{step}.{}", i + 1);
                }
                let stop = thought.stop.unwrap_or(Stop::End);
                if stop == Stop::Length && thought.calls.is_empty() && thought.refused.is_empty() {
                    thought.refused.push(Refused {
                        text: String::new(),
                        why: format!(
                            "your reply was cut off after {} tokens. Go on from where it stopped, in smaller pieces.",
                            thought.usage.output_tokens
                        ),
                    });
                }
                self.record(Event::Reply {
                    step,
                    tokens: thought.tokens,
                    text: thought.text,
                    calls: thought.calls,
                    refused: thought.refused,
                    stop,
                    usage: thought.usage,
                })
                .await
            }
            Err(Error::ContextFull { asked, limit }) => self.record(Event::Full { asked, limit }).await,
            Err(Error::Stopping) => Err(Error::Stopping),
            Err(error) => self.end(End::Failed { error: in_full(&error) }).await,
        }
    }

    /// Holds a call against the rules before it starts. `guard` says why somebody is to be asked even if no rule says so.
    async fn gate(&mut self, call: tools::Call, guard: Option<String>) -> Result<(), Error> {
        let begun = self
            .state
            .calls()
            .iter()
            .any(|(known, settled)| known.id == call.id && matches!(settled, Settled::Started(_)));
        if begun {
            // It has been through here, and runs again only because its outcome was lost.
            return self.act(call).await;
        }
        if let Some(why) = self.state.barred(&call) {
            return self.record(Event::CallDenied { id: call.id, why }).await;
        }
        let approved = self
            .state
            .calls()
            .iter()
            .any(|(known, settled)| known.id == call.id && matches!(settled, Settled::Allowed));
        let verdict = self.world.judge(&call);
        let why = verdict.as_ref().map(|verdict| verdict.why.clone()).unwrap_or_default();
        let ask = match verdict.map(|verdict| verdict.then) {
            Some(Effect::Deny) => return self.record(Event::CallDenied { id: call.id, why }).await,
            _ if approved => None,
            Some(Effect::Ask) if !self.state.always(&call) => Some(why),
            // What cannot be taken back is asked for whatever the rules say.
            Some(Effect::Allow) if self.state.reach(&call) != Some(Reach::Final) => None,
            Some(Effect::Ask | Effect::Allow) | None => guard,
        };
        match ask {
            Some(why) => {
                let until_ms = self.world.approval_ms().map(|wait| self.world.now_ms().saturating_add(wait));
                self.record(Event::ApprovalAsked { id: call.id, why, until_ms }).await
            }
            None => self.act(call).await,
        }
    }

    async fn act(&mut self, call: tools::Call) -> Result<(), Error> {
        if child::has(&call.name) {
            return self.spawn(call).await;
        }
        let replay = match self.state.foreign(&call.name) {
            // A check is named by somebody to be run again and again.
            _ if self.state.checks(&call.id) => Replay::Safe,
            Some(spec) => spec.replay,
            None => self.world.replay(&call.name),
        };
        let led = self.state.created().is_some_and(|created| created.led);
        let before = if led && replay == Replay::Unsafe { self.world.before(&call).await? } else { None };
        let kept = before.is_some();
        self.reached(None).await?;
        self.record(Event::CallStarted { id: call.id.clone(), replay, before }).await?;
        let (switch, cancel) = Cancel::pair();
        let (world, out, external) = (self.world, self.out, self.state.external());
        let outcome = async {
            if plan::has(&call.name) {
                return Ok((plan::outcome(&call), Vec::new()));
            }
            match world.consults(&call.name) {
                true => world.consult(&call, external).await,
                false => world.act(&call, &cancel, out).await.map(|outcome| (outcome, Vec::new())),
            }
        };
        // A call repeats nothing.
        let (_, mut none) = mpsc::channel(1);
        let Some(outcome) = self.until(outcome, &switch, Abandon::No, &mut none).await? else {
            return Ok(());
        };
        self.reached(Some(&call.id)).await?;
        match outcome {
            Ok((outcome, recalled)) => {
                // Read after the call and before anything else: what is in the file from now on is somebody else's.
                let left = if kept { self.world.left(&call).await? } else { None };
                let went_well = outcome.ok;
                self.record(Event::CallFinished { id: call.id.clone(), outcome, left, recalled }).await?;
                if went_well { self.guide(&call).await } else { Ok(()) }
            }
            Err(Error::Stopping) => Err(Error::Stopping),
            Err(error) => {
                // The tool itself never ran or its sandbox broke: the model cannot mend that, a person can.
                let outcome = Outcome::refused(format!("not run: {}", in_full(&error)));
                let recalled = Vec::new();
                self.record(Event::CallFinished { id: call.id, outcome, left: None, recalled }).await?;
                self.end(End::Failed { error: in_full(&error) }).await
            }
        }
    }

    /// Tells what the folders say that a call has come below. What cannot be read is told with the next call there.
    async fn guide(&mut self, call: &tools::Call) -> Result<(), Error> {
        match self.world.guides(call, self.state.guided()).await {
            Ok(guides) if guides.is_empty() => Ok(()),
            Ok(guides) => self.record(Event::Guided { id: call.id.clone(), guides }).await,
            Err(Error::Stopping) => Err(Error::Stopping),
            Err(error) => {
                tracing::warn!(session = %self.id, error = %in_full(&error), "what folders say cannot be read");
                Ok(())
            }
        }
    }

    /// Writes down what was reached for since the last time, all of it in one event.
    async fn reached(&mut self, call: Option<&str>) -> Result<(), Error> {
        let (contacts, more) = self.world.contacts().await;
        if contacts.is_empty() {
            return Ok(());
        }
        self.record(Event::Egress { id: call.map(str::to_string), contacts, more }).await
    }

    async fn end(&mut self, end: End) -> Result<(), Error> {
        self.record(Event::TurnEnded { turn: self.state.turn(), end }).await
    }

    /// Waits for an effect while hearing orders and writing down what is noticed. Nothing, when the inbox closed and the
    /// effect was abandoned.
    async fn until<T>(
        &mut self,
        effect: impl Future<Output = T>,
        switch: &watch::Sender<bool>,
        abandon: Abandon,
        notices: &mut mpsc::Receiver<Loop>,
    ) -> Result<Option<T>, Error> {
        tokio::pin!(effect);
        loop {
            tokio::select! {
                biased;
                done = &mut effect => return Ok(Some(done)),
                Some(what) = notices.recv() => {
                    self.record(Event::Looping { step: self.state.step(), what }).await?;
                }
                order = self.inbox.recv(), if !self.closing => match order {
                    Some(order) => self.obey(order, Some(switch)).await?,
                    None => {
                        self.closing = true;
                        switch.send_replace(true);
                        if abandon == Abandon::Yes {
                            return Ok(None);
                        }
                    }
                },
            }
        }
    }

    async fn obey(&mut self, order: Order, switch: Option<&watch::Sender<bool>>) -> Result<(), Error> {
        match order {
            Order::Input { id, text, done } => return self.hear(id, text, None, done).await,
            Order::Pursue { id, text, goal, done } => {
                let goal = Event::GoalSet { goal, input: Some(id.clone()) };
                return self.hear(id, text, Some(goal), done).await;
            }
            Order::Enclose { id, text, origin, enclosed, done } => {
                let enclosed = Event::Enclosed { input: id.clone(), origin, text: enclosed };
                return self.hear(id, text, Some(enclosed), done).await;
            }
            Order::DropGoal { done } if self.state.goal().is_none() => {
                let seq = self.state.last().unwrap_or(Seq(0));
                let _ = done.send(Ok(Admitted { seq, fresh: false }));
            }
            Order::DropGoal { done } => match self.write(Event::GoalDropped).await {
                Ok(seq) => drop(done.send(Ok(Admitted { seq, fresh: true }))),
                Err(error) => return refuse(done, error),
            },
            Order::Approve { call, allowed, always, by, done } => {
                let asked = self.state.asks().map(|asked| asked.call.id.clone());
                let answer = if asked.as_ref() == Some(&call) {
                    match self.write(Event::ApprovalGiven { id: call, allowed, always, by }).await {
                        Ok(seq) => Ok(Admitted { seq, fresh: true }),
                        Err(error) => return refuse(done, error),
                    }
                } else {
                    Err(Error::NotAsked { call, asked })
                };
                let _ = done.send(answer);
            }
            Order::Returned { returned, done } => return self.hear_child(*returned, done).await,
            Order::Compact { focus, done } => match self.write(Event::CompactionAsked { focus }).await {
                Ok(seq) => drop(done.send(Ok(Admitted { seq, fresh: true }))),
                Err(error) => return refuse(done, error),
            },
            Order::Budget { budget, done } => match self.write(Event::Budgeted { budget }).await {
                Ok(seq) => drop(done.send(Ok(Admitted { seq, fresh: true }))),
                Err(error) => return refuse(done, error),
            },
            Order::Uncompact { done } if self.state.compactions().is_empty() => {
                let _ = done.send(Err(Error::BadRequest(
                    "nothing is left out of this session's prompt, so there is nothing to take back"
                        .to_string(),
                )));
            }
            Order::Uncompact { done } => match self.write(Event::Uncompacted).await {
                Ok(seq) => drop(done.send(Ok(Admitted { seq, fresh: true }))),
                Err(error) => return refuse(done, error),
            },
            Order::Interrupt { done } => {
                let fresh = self.state.running() && !self.state.interrupted();
                let seq = if fresh {
                    match self.write(Event::Interrupted).await {
                        Ok(seq) => seq,
                        Err(error) => return refuse(done, error),
                    }
                } else {
                    self.state.last().unwrap_or(Seq(0))
                };
                if let Some(switch) = switch {
                    switch.send_replace(true);
                }
                let _ = done.send(Ok(Admitted { seq, fresh }));
            }
        }
        Ok(())
    }

    /// Writes down what somebody says, once for each id. What comes with it is durable before it, and holds from it on.
    async fn hear(
        &mut self,
        id: String,
        text: String,
        with: Option<Event>,
        done: oneshot::Sender<Result<Admitted, Error>>,
    ) -> Result<(), Error> {
        let known = self.state.input(&id).map(|(seq, old)| (seq, old == text));
        let answer = match known {
            Some((seq, true)) => Ok(Admitted { seq, fresh: false }),
            Some((_, false)) => Err(Error::InputIdReused { id }),
            None if self.state.waiting() >= WAITING_MAX => Err(Error::Busy(self.id.clone())),
            None => {
                if let Some(with) = with
                    && let Err(error) = self.write(with).await
                {
                    return refuse(done, error);
                }
                match self.write(Event::Input { id, text }).await {
                    Ok(seq) => Ok(Admitted { seq, fresh: true }),
                    Err(error) => return refuse(done, error),
                }
            }
        };
        // Whoever asked may have gone; the input is durable all the same.
        let _ = done.send(answer);
        Ok(())
    }

    async fn record(&mut self, event: Event) -> Result<(), Error> {
        self.write(event).await.map(|_| ())
    }

    async fn write(&mut self, event: Event) -> Result<Seq, Error> {
        let at_ms = self.world.now_ms();
        let seq = self.world.append(at_ms, &event).await?;
        let recorded = Arc::new(Recorded { seq, at_ms, event });
        self.state.apply(&recorded);
        (self.wrote)(self.state, recorded);
        Ok(seq)
    }
}

/// How a reply is sampled: as the session says, more freely after attempts that were undone, and the longer the model
/// goes in circles. The seed decides as ever, so the same journal gives the same reply.
fn sampling(usual: &engine::Sampling, state: &State) -> engine::Sampling {
    let (circles, undone) = (state.circles(), state.undone());
    if circles == 0 {
        // The next attempt stands where the last one stood, so it has to differ by chance.
        let temperature = match undone {
            0 => return usual.clone(),
            1..=2 => 0.6,
            // A whole file has more places to go wrong in than a few lines.
            _ if state.drafting().is_some() => 0.6,
            _ => 0.9,
        };
        let seed = usual.seed.wrapping_add(u64::from(undone));
        return engine::Sampling { temperature, top_p: 0.95, seed, ..usual.clone() };
    }
    // 0.5, 0.7, 0.9: enough to leave a rut, not enough to leave the language.
    let temperature = (0.3 + 0.2 * circles.min(3) as f32).max(usual.temperature);
    // What was said before is what keeps it there, so saying it again is made less likely.
    let repetition_penalty = usual.repetition_penalty.max(1.05 + 0.05 * circles.min(3) as f32);
    engine::Sampling { temperature, top_p: 0.9, repetition_penalty, repetition_window: 512, ..usual.clone() }
}

/// How a model answers a question beside its session: in words, with no call.
fn in_words(created: &Created) -> Manner {
    Manner {
        sampling: created.sampling.clone(),
        shape: Shape::Free,
        without: created.tools.iter().map(|tool| tool.name.clone()).collect(),
        bounds: Vec::new(),
    }
}

/// Whether an effect is dropped when the service stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Abandon {
    /// It leaves nothing behind and is done again.
    Yes,
    /// It may have changed something: it is cancelled and its outcome awaited.
    No,
}

/// Tells whoever asked that it could not be written, and stops the driver: the journal is the truth, and the next
/// driver folds it again.
fn refuse(done: oneshot::Sender<Result<Admitted, Error>>, error: Error) -> Result<(), Error> {
    let why = in_full(&error);
    let _ = done.send(Err(error));
    Err(Error::NotWritten(why))
}

/// An error with its causes, on one line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

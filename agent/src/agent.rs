//! All sessions: make, submit, watch, recover, delete.

mod carrying;
mod children;
mod gauge;
mod rewinding;
mod schedules;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memory::{Memory, Seq};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::Error;
use crate::decide::Action;
use crate::drive::{Order, drive_among, in_full};
use crate::event::{Budget, Created, End, Event, Recorded, SessionId, Usage};
use crate::goal::{Checked, Goal};
use crate::plan::Task;
use crate::portable;
use crate::state::State;
use crate::world::{Said, Sink, World, Worlds};

pub use carrying::bring;
pub use gauge::{Gauge, Segment, SegmentKind};
pub use rewinding::{ForkPart, Forking, Rewinding};

/// How the agent treats its sessions.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a resting session keeps its driver and what its world holds only for speed.
    pub idle: Duration,
}

impl Default for Config {
    fn default() -> Config {
        // Long enough that a person who reads an answer and types the next question meets a warm session.
        Config { idle: Duration::from_secs(600) }
    }
}

/// A session to be made.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// The folder it works in.
    pub workspace: PathBuf,
    /// The model: an id of the catalog, an address of the hub, or the path of its file or folder; the service's default
    /// when left out.
    pub model: Option<String>,
    /// What the session is told beyond the system prompt.
    pub instructions: Option<String>,
    /// The id it gets; a new one when left out.
    pub id: Option<SessionId>,
    /// Limits of each turn; the service's default when left out.
    pub budget: Option<Budget>,
    /// Whether it recalls earlier work and writes down what it learns; the service's default when left out.
    pub memory: Option<bool>,
    /// Which calls may run, beside what the service and the repository say.
    pub rules: Vec<tools::rules::Rule>,
    /// What must be true before a turn may end, from the first input on.
    pub until: Option<Goal>,
}

/// What can be asked of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Say something. With an id that was used before for the same text nothing happens.
    Input {
        /// The client's id for this input.
        id: String,
        /// What is said.
        text: String,
    },
    /// Say something, with what must be true before the turn it begins may end.
    Pursue {
        /// The client's id for this input.
        id: String,
        /// What is said.
        text: String,
        /// The goal. It takes the place of one that was set before.
        goal: Goal,
    },
    /// Say something, with somebody else's text that is told as what it is: nobody vouches for it.
    Enclose {
        /// The client's id for this input.
        id: String,
        /// What is said.
        text: String,
        /// Whose text comes with it, in words.
        origin: String,
        /// That text.
        enclosed: String,
    },
    /// Take the goal back: turns end when the model answers.
    DropGoal,
    /// Say whether a call may run that waits for it.
    Approve {
        /// [`tools::Call::id`].
        call: String,
        /// Whether it may.
        allowed: bool,
        /// Whether the same is allowed for the rest of the session.
        always: bool,
        /// Who says so, for the record.
        by: Option<String>,
    },
    /// Stop the running turn.
    Interrupt,
    /// Leave older messages out of the prompt.
    Compact {
        /// What is to be kept most of all, in words.
        focus: Option<String>,
    },
    /// Set other limits; they hold from then on.
    Budget(Budget),
    /// Show the model again what was left out last.
    Uncompact,
}

/// That a command is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// The event it became.
    pub seq: Seq,
    /// False when it had been admitted before, or there was nothing to do.
    pub fresh: bool,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for somebody.
    Idle,
    /// A turn is running.
    Running,
    /// A call waits for somebody's approval; `asks` says which.
    Asking,
    /// Its last turn failed, or its journal cannot be read or written; `error` says why.
    Failed,
}

/// What a list of sessions shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its name.
    pub id: SessionId,
    /// The first line of its first input.
    pub title: Option<String>,
    /// The folder it works in.
    pub workspace: PathBuf,
    /// The model it thinks with.
    pub model: String,
    /// What it is doing.
    pub status: Status,
    /// What is wrong, when it has failed.
    pub error: Option<String>,
    /// How its last turn ended; nothing while one runs.
    pub ended: Option<End>,
    /// The call that waits for somebody's approval.
    pub asks: Option<Ask>,
    /// Whether it recalls earlier work and writes down what it learns.
    pub memory: bool,
    /// Turns started.
    pub turns: u32,
    /// Steps started.
    pub steps: u32,
    /// The session whose sub-agent it is.
    pub parent: Option<SessionId>,
    /// The plan that the model keeps.
    pub plan: Vec<Task>,
    /// Its goal, and how far it has got with it.
    pub goal: Option<Pursued>,
    /// Tokens of the prompt with the last reply.
    pub prompt_tokens: u64,
    /// Tokens that the model's context holds, as far as they are known.
    pub context_tokens: Option<u64>,
    /// How often older messages were left out.
    pub compactions: usize,
    /// Inputs the model has not been shown.
    pub waiting: usize,
    /// Calls that have ended.
    pub tool_calls: u32,
    /// Calls that have ended badly.
    pub tool_errors: u32,
    /// Its limits.
    pub budget: Budget,
    /// What all replies have cost.
    pub usage: Usage,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: u64,
    /// Milliseconds since 1970 of its last event.
    pub updated_ms: u64,
    /// The place of its last event.
    pub last: Seq,
}

/// A session's goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pursued {
    /// The goal.
    pub goal: Goal,
    /// Whether it is reached.
    pub met: bool,
    /// How often it was checked in the running turn, or in the last one, and not reached.
    pub rounds: u32,
    /// What came of the last check.
    pub last: Option<Checked>,
}

/// A call that waits for somebody's approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// The call.
    pub call: tools::Call,
    /// Why somebody is asked.
    pub why: String,
    /// Until when they may answer: milliseconds since 1970.
    pub until_ms: Option<u64>,
}

impl SessionInfo {
    /// What a journal's fold tells of its session. `error` says why the session stopped where no event could.
    pub fn of(id: &SessionId, state: &State, error: Option<String>) -> SessionInfo {
        let created = state.created();
        let (tool_calls, tool_errors) = state.calls_done();
        let failed = match state.ended() {
            Some(End::Failed { error }) => Some(error.clone()),
            _ => None,
        };
        let error = error.or(failed);
        let asks = state.asks().map(|asked| Ask {
            call: asked.call.clone(),
            why: asked.why.to_string(),
            until_ms: asked.until_ms,
        });
        SessionInfo {
            id: id.clone(),
            title: state.title().map(str::to_string),
            workspace: created.map(|c| c.workspace.clone()).unwrap_or_default(),
            model: created.map(|c| c.model.clone()).unwrap_or_default(),
            status: match (&error, &asks, state.busy()) {
                (Some(_), _, _) => Status::Failed,
                (None, Some(_), true) => Status::Asking,
                (None, _, true) => Status::Running,
                (None, _, false) => Status::Idle,
            },
            error,
            ended: state.ended().cloned(),
            asks,
            memory: created.is_some_and(|c| c.memory),
            turns: state.turn(),
            steps: state.step(),
            parent: created.and_then(|c| c.parent.as_ref()).map(|parent| parent.session.clone()),
            plan: state.plan().to_vec(),
            goal: state.goal().map(|progressed| Pursued {
                goal: progressed.goal.clone(),
                met: progressed.met,
                rounds: progressed.rounds,
                last: progressed.last.cloned(),
            }),
            prompt_tokens: state.prompt_tokens(),
            context_tokens: state.window(),
            compactions: state.compactions().len(),
            waiting: state.waiting(),
            tool_calls,
            tool_errors,
            budget: created.map(|c| c.budget).unwrap_or_default(),
            usage: state.usage(),
            created_ms: state.created_ms(),
            updated_ms: state.updated_ms(),
            last: state.last().unwrap_or(Seq(0)),
        }
    }
}

/// All sessions of a service. A cheap handle.
#[derive(Clone)]
pub struct Agent(Arc<Inner>);

struct Inner {
    config: Config,
    memory: Memory,
    worlds: Arc<dyn Worlds>,
    slots: Mutex<BTreeMap<SessionId, Arc<Slot>>>,
    clock: schedules::Clock,
    /// What all sessions write down.
    heard: broadcast::Sender<(SessionId, Arc<Recorded>)>,
    stopping: std::sync::atomic::AtomicBool,
}

/// What is kept of a session while its driver sleeps.
struct Slot {
    info: Mutex<SessionInfo>,
    said: broadcast::Sender<Said>,
    heard: broadcast::Sender<(SessionId, Arc<Recorded>)>,
    driver: tokio::sync::Mutex<Option<Driver>>,
}

struct Driver {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

/// Orders a driver may have waiting before senders wait themselves.
const ORDERS: usize = 64;
/// What a watcher may fall behind before it is told that it missed something.
const SAID: usize = 4096;
/// Events read from a journal at a time.
const PAGE: usize = 1024;

impl Agent {
    /// Folds every journal and goes on with what was under way.
    pub async fn open(config: Config, memory: Memory, worlds: Arc<dyn Worlds>) -> Result<Agent, Error> {
        let agent = Agent(Arc::new(Inner {
            config,
            memory,
            worlds,
            slots: Mutex::default(),
            clock: schedules::Clock::default(),
            heard: broadcast::channel(SAID).0,
            stopping: std::sync::atomic::AtomicBool::new(false),
        }));
        let memory = agent.0.memory.clone();
        let names = blocking(move || Ok(memory.journals()?)).await?;
        let mut busy = Vec::new();
        for name in names.into_iter().map(|journal| journal.name) {
            // Journals of other kinds have names that no session has.
            let Ok(id) = name.parse::<SessionId>() else { continue };
            let (memory, came) = (agent.0.memory.clone(), id.clone());
            if blocking(move || portable::sweep(&memory, &came)).await? {
                tracing::warn!(session = %id, "its import was cut off; nothing of it is kept");
                continue;
            }
            let (state, trouble) = match agent.journal(&id).await {
                Ok(events) => {
                    agent.0.worlds.count(&events);
                    (State::fold(&events), None)
                }
                Err(error) => {
                    tracing::error!(session = %id, error = %in_full(&error), "a journal cannot be read");
                    (State::default(), Some(in_full(&error)))
                }
            };
            if state.created().is_none() && trouble.is_none() {
                continue;
            }
            let late = state.asks().is_some_and(|asked| asked.until_ms.is_some());
            // Making room and looking back can wait until somebody comes: nobody's model is opened for them.
            let under_way = !matches!(state.next(), Action::Rest | Action::Compact | Action::Reflect { .. });
            let waits = state.working().next().is_some();
            let goes_on = trouble.is_none() && (late || under_way || waits);
            let slot = agent.insert(&id, SessionInfo::of(&id, &state, trouble));
            if goes_on {
                busy.push((id, slot));
            }
        }
        // Only when all are known: some are the children of others.
        for (id, slot) in busy {
            tracing::info!(session = %id, "going on with what was under way");
            agent.wake(&id, &slot).await?;
        }
        Ok(agent)
    }

    /// Makes a session. Asking again with the same id and the same wishes gives the session that is there.
    pub async fn create(&self, new: NewSession) -> Result<SessionInfo, Error> {
        let now_ms = self.0.worlds.now_ms();
        new.until.as_ref().map_or(Ok(()), Goal::check)?;
        let created = self.0.worlds.plan(&new).await?;
        let id = new.id.unwrap_or_else(|| SessionId::new(now_ms, random()));
        if let Some(slot) = self.slots().get(&id).cloned() {
            let info = slot.info();
            let same = info.workspace == created.workspace && info.model == created.model;
            return if same { Ok(info) } else { Err(Error::Exists(id)) };
        }
        let memory = self.0.memory.clone();
        let (name, event) = (id.clone(), Event::Created(Box::new(created)));
        let record = encode(now_ms, &event);
        let (seq, fresh) = blocking(move || {
            let done = memory.journal(name.as_str())?.append_once("created", &record)?;
            Ok((done.seq, done.fresh))
        })
        .await?;
        if !fresh {
            return Err(Error::Exists(id));
        }
        let state = State::fold([&Recorded { seq, at_ms: now_ms, event }]);
        let slot = self.insert(&id, SessionInfo::of(&id, &state, None));
        Ok(slot.info())
    }

    /// Hands a command to a session. Durable when this returns.
    pub async fn submit(&self, id: &SessionId, command: Command) -> Result<Admitted, Error> {
        if let Command::Pursue { goal, .. } = &command {
            goal.check()?;
        }
        if let Command::Input { id, text }
        | Command::Pursue { id, text, .. }
        | Command::Enclose { id, text, .. } = &command
        {
            if id.is_empty() || id.len() > 128 {
                return Err(Error::BadRequest("an input id has 1 to 128 bytes".to_string()));
            }
            if text.trim().is_empty() {
                return Err(Error::BadRequest("an input needs some text".to_string()));
            }
            if text.len() > INPUT_BYTES_MAX {
                return Err(Error::BadRequest(format!(
                    "an input holds at most {} KiB, this one has {}; put long material into a file of the workspace",
                    INPUT_BYTES_MAX / 1024,
                    text.len() / 1024
                )));
            }
        }
        let stops = command == Command::Interrupt;
        let admitted = self
            .order(id, |done| match command.clone() {
                Command::Input { id, text } => Order::Input { id, text, done },
                Command::Pursue { id, text, goal } => Order::Pursue { id, text, goal, done },
                Command::Enclose { id, text, origin, enclosed } => {
                    Order::Enclose { id, text, origin, enclosed, done }
                }
                Command::DropGoal => Order::DropGoal { done },
                Command::Approve { call, allowed, always, by } => {
                    Order::Approve { call, allowed, always, by, done }
                }
                Command::Interrupt => Order::Interrupt { done },
                Command::Compact { focus } => Order::Compact { focus, done },
                Command::Budget(budget) => Order::Budget { budget, done },
                Command::Uncompact => Order::Uncompact { done },
            })
            .await?;
        if stops {
            self.interrupt_children(id).await;
        }
        Ok(admitted)
    }

    /// Hands an order to a session's driver. Durable when this returns.
    async fn order(
        &self,
        id: &SessionId,
        order: impl Fn(oneshot::Sender<Result<Admitted, Error>>) -> Order,
    ) -> Result<Admitted, Error> {
        let slot = self.slot(id)?;
        // A driver that went to sleep between the look and the sending is woken once more.
        for _ in 0..3 {
            let orders = self.wake(id, &slot).await?;
            let (done, answer) = oneshot::channel();
            let order = order(done);
            if orders.send(order).await.is_err() {
                continue;
            }
            match answer.await {
                Ok(answer) => return answer,
                // The driver ended with the order unread: nothing was written, so it is safe to ask again.
                Err(_) => continue,
            }
        }
        match slot.info().error {
            Some(error) => Err(Error::NotWritten(error)),
            None => Err(Error::Stopping),
        }
    }

    /// The store of its journals, and of what is remembered.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Every session, oldest first.
    pub fn list(&self) -> Vec<SessionInfo> {
        let slots: Vec<Arc<Slot>> = self.slots().values().cloned().collect();
        let mut list: Vec<SessionInfo> = slots.iter().map(|slot| slot.info()).collect();
        list.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        list
    }

    /// One session.
    pub fn get(&self, id: &SessionId) -> Result<SessionInfo, Error> {
        Ok(self.slot(id)?.info())
    }

    /// At most `max` events after the place `after`, oldest first.
    pub async fn events(&self, id: &SessionId, after: Seq, max: usize) -> Result<Vec<Recorded>, Error> {
        self.slot(id)?;
        self.read(id, after, max).await
    }

    /// What the session says from now on. To miss nothing, watch first, then read the events there are, then take
    /// from the watch what lies after them.
    pub fn watch(&self, id: &SessionId) -> Result<Watch, Error> {
        Ok(Watch(self.slot(id)?.said.subscribe()))
    }

    /// The events of all sessions from now on, as they are written. A reader that is too slow is told how many it has missed.
    pub fn heard(&self) -> broadcast::Receiver<(SessionId, Arc<Recorded>)> {
        self.0.heard.subscribe()
    }

    /// Stops the session and removes everything it has written, and its sub-agents with it.
    pub async fn delete(&self, id: &SessionId) -> Result<(), Error> {
        for child in self.children(id, |_| true) {
            self.remove(&child).await?;
        }
        self.remove(id).await
    }

    async fn remove(&self, id: &SessionId) -> Result<(), Error> {
        let slot = self.slot(id)?;
        let mut driver = slot.driver.lock().await;
        close(&mut driver).await;
        self.0.worlds.forget(id).await;
        let (memory, name) = (self.0.memory.clone(), id.clone());
        blocking(move || Ok(memory.delete_journal(name.as_str())?)).await?;
        self.slots().remove(id);
        Ok(())
    }

    /// Stops every driver: thoughts are abandoned, running calls cancelled and their outcomes written.
    pub async fn stop(&self) {
        self.0.stopping.store(true, std::sync::atomic::Ordering::SeqCst);
        let slots: Vec<Arc<Slot>> = self.slots().values().cloned().collect();
        let mut tasks = Vec::new();
        for slot in slots {
            if let Some(Driver { orders, task }) = slot.driver.lock().await.take() {
                drop(orders);
                tasks.push(task);
            }
        }
        let all = async {
            for task in &mut tasks {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(CLOSE, all).await;
        for task in tasks {
            task.abort();
        }
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<SessionId, Arc<Slot>>> {
        // The map is never left half changed, so a panic elsewhere does not spoil it.
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, id: &SessionId) -> Result<Arc<Slot>, Error> {
        self.slots().get(id).cloned().ok_or_else(|| Error::NoSession(id.clone()))
    }

    fn insert(&self, id: &SessionId, info: SessionInfo) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            info: Mutex::new(info),
            said: broadcast::channel(SAID).0,
            heard: self.0.heard.clone(),
            driver: tokio::sync::Mutex::new(None),
        });
        self.slots().insert(id.clone(), slot.clone());
        slot
    }

    /// The way to a session's driver, which is started if it sleeps.
    async fn wake(&self, id: &SessionId, slot: &Arc<Slot>) -> Result<mpsc::Sender<Order>, Error> {
        if self.0.stopping.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        let mut driver = slot.driver.lock().await;
        if let Some(driver) = driver.as_mut() {
            if !driver.orders.is_closed() {
                return Ok(driver.orders.clone());
            }
            // It takes no more orders and is about to end. There is one driver per session, so the next begins after it;
            // how it ended is in the slot.
            let _ = (&mut driver.task).await;
        }
        // A task that has ended is not waited for twice, should what follows fail.
        *driver = None;
        let mut state = self.fold(id).await?;
        let created = state.created().ok_or_else(|| Error::NoSession(id.clone()))?.clone();
        let world = self.0.worlds.open(id, &created).await?;
        slot.set(SessionInfo::of(id, &state, None));
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (id, slot, idle) = (id.clone(), slot.clone(), self.0.config.idle);
        let family = children::Household { agent: Arc::downgrade(&self.0), id: id.clone() };
        let task = tokio::spawn(async move { slot.run(&id, world, family, &mut state, inbox, idle).await });
        *driver = Some(Driver { orders: orders.clone(), task });
        Ok(orders)
    }

    async fn fold(&self, id: &SessionId) -> Result<State, Error> {
        Ok(State::fold(&self.journal(id).await?))
    }

    /// A session's whole journal, oldest first.
    async fn journal(&self, id: &SessionId) -> Result<Vec<Recorded>, Error> {
        let (memory, id) = (self.0.memory.clone(), id.clone());
        blocking(move || read_journal(&memory, &id)).await
    }

    async fn read(&self, id: &SessionId, after: Seq, max: usize) -> Result<Vec<Recorded>, Error> {
        let (memory, id) = (self.0.memory.clone(), id.clone());
        blocking(move || {
            let records = memory.journal(id.as_str())?.read(Seq(after.0.saturating_add(1)), max)?;
            records.into_iter().map(|(seq, record)| decode(&id, seq, &record)).collect()
        })
        .await
    }
}

impl Slot {
    fn info(&self) -> SessionInfo {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, info: SessionInfo) {
        *self.info.lock().unwrap_or_else(PoisonError::into_inner) = info;
    }

    /// Drives the session until it has rested for `idle`, the service stops, or its world fails.
    async fn run(
        &self,
        id: &SessionId,
        world: Arc<dyn World>,
        family: children::Household,
        state: &mut State,
        inbox: mpsc::Receiver<Order>,
        idle: Duration,
    ) {
        // The driver's own inbox closes when the session has been idle: then the driver ends and is made anew by
        // the next order.
        let (forward, mut orders) = mpsc::channel(1);
        let wrote = |state: &State, recorded: Arc<Recorded>| {
            self.set(SessionInfo::of(id, state, None));
            if matches!(recorded.event, Event::TurnEnded { .. })
                && let Some(parent) = state.created().and_then(|created| created.parent.as_ref())
                && let Some(returned) = state.returned(id)
            {
                children::tell_parent(family.agent.clone(), parent.session.clone(), returned);
            }
            // Nobody may be watching.
            let _ = self.heard.send((id.clone(), recorded.clone()));
            let _ = self.said.send(Said::Recorded(recorded));
        };
        let said = self.said.clone();
        let out = Sink::new(move |progress| {
            let _ = said.send(Said::Progress(progress));
        });
        let resting = || {
            let info = self.info();
            // Somebody has to be there when the time to answer is over.
            info.status != Status::Running
                && world.commands().is_empty()
                && info.asks.is_none_or(|ask| ask.until_ms.is_none())
        };
        let driving = async {
            let done = drive_among(id, &*world, &family, state, &mut orders, &wrote, &out).await;
            // Nobody reads these any more: an order that came too late is dropped here, so that its sender asks the next
            // driver, and the relay is told to end.
            drop(orders);
            done
        };
        let (done, ()) = tokio::join!(driving, relay(inbox, forward, idle, resting));
        if let Err(error) = done {
            let why = in_full(&error);
            tracing::error!(session = %id, error = %why, "the session stopped");
            self.set(SessionInfo::of(id, state, Some(why.clone())));
            // No event can tell it: most often the journal is what failed.
            if !matches!(error, Error::Stopping) {
                let _ = self.said.send(Said::Stopped(why));
            }
        }
    }
}

/// Ends a driver, if there is one.
async fn close(driver: &mut Option<Driver>) {
    if let Some(Driver { orders, mut task }) = driver.take() {
        drop(orders);
        // A cancelled call ends within its kill time; past that the task is dropped, which kills it too.
        if tokio::time::timeout(CLOSE, &mut task).await.is_err() {
            task.abort();
            let _ = task.await;
        }
    }
}

/// Hands orders on until there are no more, the driver is gone, or the session has been idle for long.
async fn relay(
    mut inbox: mpsc::Receiver<Order>,
    forward: mpsc::Sender<Order>,
    idle: Duration,
    resting: impl Fn() -> bool,
) {
    loop {
        tokio::select! {
            order = inbox.recv() => match order {
                Some(order) => {
                    if forward.send(order).await.is_err() {
                        return;
                    }
                }
                None => return,
            },
            () = forward.closed() => return,
            () = tokio::time::sleep(idle) => {
                if resting() {
                    return;
                }
            }
        }
    }
}

/// The most text in one input: far above what a person types, below what would fill a context unnoticed.
const INPUT_BYTES_MAX: usize = 256 * 1024;
/// How long stopping waits for running calls to be killed and written down.
const CLOSE: Duration = Duration::from_secs(10);

/// What a session says, live.
pub struct Watch(broadcast::Receiver<Said>);

impl Watch {
    /// The next thing said; nothing once the session is deleted.
    pub async fn recv(&mut self) -> Option<Said> {
        match self.0.recv().await {
            Ok(said) => Some(said),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Said::Lagged),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The bytes of an event in its journal: its JSON with the time it was written.
pub fn encode(at_ms: u64, event: &Event) -> Vec<u8> {
    #[derive(Serialize)]
    struct Written<'a> {
        at_ms: u64,
        #[serde(flatten)]
        event: &'a Event,
    }
    serde_json::to_vec(&Written { at_ms, event }).expect("an event has only string keys and finite numbers")
}

fn decode(id: &SessionId, seq: Seq, record: &[u8]) -> Result<Recorded, Error> {
    #[derive(Deserialize)]
    struct Written {
        at_ms: u64,
        #[serde(flatten)]
        event: Event,
    }
    let Written { at_ms, event } = serde_json::from_slice(record).map_err(|error| Error::Unreadable {
        id: id.clone(),
        seq: seq.0,
        why: error.to_string(),
    })?;
    Ok(Recorded { seq, at_ms, event })
}

/// Runs what blocks where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Stopping),
        },
    }
}

/// Random bits for a name: not a secret, only unlikely to repeat.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// What [`Worlds::plan`] settles, as an event record; used where a journal is written without an agent.
impl From<Created> for Event {
    fn from(created: Created) -> Event {
        Event::Created(Box::new(created))
    }
}

/// A session's whole journal, oldest first. Blocking.
pub fn read_journal(memory: &Memory, id: &SessionId) -> Result<Vec<Recorded>, Error> {
    let journal = memory.journal(id.as_str())?;
    let mut events: Vec<Recorded> = Vec::new();
    loop {
        let after = events.last().map_or(0, |last| last.seq.0);
        let page = journal.read(Seq(after + 1), PAGE)?;
        if page.is_empty() {
            return Ok(events);
        }
        for (seq, record) in page {
            events.push(decode(id, seq, &record)?);
        }
    }
}

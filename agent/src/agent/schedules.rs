//! Schedules at work: a clock that begins what is due, hooks that somebody calls, and a record of each run.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Agent, Command, NewSession, blocking};
use crate::Error;
use crate::drive::in_full;
use crate::event::{SessionId, digest};
use crate::schedule::{self, Book, Cause, Record, Run, SCHEDULES_MAX, Schedule, Scheduled, Then};

/// What is known of the schedules while the service runs.
#[derive(Default)]
pub(super) struct Clock {
    /// The fold of their journal, once it has been read. Whoever holds it may write.
    book: tokio::sync::Mutex<Option<Book>>,
    /// There is something new to wait for.
    changed: Arc<Notify>,
}

/// How long the clock sleeps at most: the clock of the machine may be set meanwhile.
const NAP: Duration = Duration::from_secs(60);
/// What of a call of a hook a session is told. Characters.
const BODY_CHARS_MAX: usize = 16_000;

impl Agent {
    /// All schedules, oldest first.
    pub async fn schedules(&self) -> Result<Vec<Scheduled>, Error> {
        self.book(|book| (Vec::new(), Ok(book.all()))).await
    }

    /// Keeps a schedule. Durable when this returns.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when it cannot be kept as it stands.
    pub async fn schedule(&self, schedule: Schedule) -> Result<Scheduled, Error> {
        schedule::check(&schedule, self.0.worlds.now_ms())?;
        if let Then::Wake { session } = &schedule.then {
            self.slot(session)?;
        }
        let id = schedule.id.clone();
        self.book(move |book| {
            if book.all().len() >= SCHEDULES_MAX {
                let why =
                    format!("there are {SCHEDULES_MAX} schedules already; remove one that is not needed");
                return (Vec::new(), Err(Error::BadRequest(why)));
            }
            if book.get(&schedule.id).is_some() {
                let why =
                    format!("there is a schedule {} already; leave the id out to get a new one", schedule.id);
                return (Vec::new(), Err(Error::BadRequest(why)));
            }
            (vec![Record::Added { schedule }], Ok(()))
        })
        .await?;
        self.0.clock.changed.notify_one();
        self.scheduled(&id).await
    }

    /// Forgets a schedule. What it has begun goes on.
    pub async fn unschedule(&self, id: &str) -> Result<(), Error> {
        let id = id.to_string();
        self.book(move |book| match book.get(&id) {
            Some(_) => (vec![Record::Removed { id }], Ok(())),
            None => (Vec::new(), Err(Error::NoSchedule(id))),
        })
        .await
    }

    /// Runs a schedule now, whatever its time.
    pub async fn run_schedule(&self, id: &str) -> Result<Run, Error> {
        let due_ms = self.0.worlds.now_ms();
        self.run(id, due_ms, Cause::Hand, None, None).await
    }

    /// Runs the schedule behind a hook, whose token has this digest. Called again with the same key it runs nothing and tells what it ran.
    pub async fn hook(&self, token: &str, key: Option<&str>, body: &str) -> Result<Run, Error> {
        let wanted = token.to_string();
        let found =
            self.book(move |book| (Vec::new(), Ok(book.hooked(&wanted).map(|schedule| schedule.id.clone()))));
        let id = found.await?.ok_or_else(|| Error::NoSchedule("behind this hook".to_string()))?;
        let due_ms = self.0.worlds.now_ms();
        self.run(&id, due_ms, Cause::Hook, Some(shown(body)), key.map(str::to_string)).await
    }

    /// Runs all that is due now, and what was begun and cut off. Gives the runs back.
    pub async fn run_due(&self) -> Result<Vec<Run>, Error> {
        let open = self.book(|book| (Vec::new(), Ok(book.open()))).await?;
        let mut runs = Vec::new();
        for (schedule, run) in open {
            runs.push(self.perform(&schedule, run).await?);
        }
        let now_ms = self.0.worlds.now_ms();
        let due = self.book(move |book| (Vec::new(), Ok(book.due(now_ms)))).await?;
        for schedule::Due { id, due_ms, cause } in due {
            runs.push(self.run(&id, due_ms, cause, None, None).await?);
        }
        Ok(runs)
    }

    /// Begins to run what is due, for as long as the agent is there. A service that is started for one command does not.
    pub fn keep_time(&self) {
        let (weak, changed) = (Arc::downgrade(&self.0), self.0.clock.changed.clone());
        tokio::spawn(async move {
            loop {
                let nap = {
                    let Some(agent) = weak.upgrade().map(Agent) else { return };
                    if agent.0.stopping.load(std::sync::atomic::Ordering::SeqCst) {
                        return;
                    }
                    match agent.run_due().await {
                        Ok(_) => {}
                        Err(Error::Stopping) => return,
                        Err(error) => tracing::error!(error = %in_full(&error), "schedules cannot be run"),
                    }
                    agent.nap().await
                };
                tokio::select! {
                    () = tokio::time::sleep(nap) => {}
                    () = changed.notified() => {}
                }
            }
        });
    }

    /// How long nothing is due.
    async fn nap(&self) -> Duration {
        let next_ms = self.book(|book| (Vec::new(), Ok(book.next_ms()))).await.ok().flatten();
        let now_ms = self.0.worlds.now_ms();
        // A little past it, so that it is not found to be too early by a rounding.
        next_ms.map_or(NAP, |next_ms| Duration::from_millis(next_ms.saturating_sub(now_ms) + 5)).min(NAP)
    }

    async fn scheduled(&self, id: &str) -> Result<Scheduled, Error> {
        let wanted = id.to_string();
        let found = self.book(move |book| (Vec::new(), Ok(book.get(&wanted)))).await?;
        found.ok_or_else(|| Error::NoSchedule(id.to_string()))
    }

    /// Begins a run: it is durable before anything comes of it, so that it is not lost, and known by its number, so that what comes of it
    /// comes of it once.
    async fn run(
        &self,
        id: &str,
        due_ms: u64,
        cause: Cause,
        body: Option<String>,
        key: Option<String>,
    ) -> Result<Run, Error> {
        let id = id.to_string();
        let begun = self.book(move |book| {
            let Some(scheduled) = book.get(&id) else { return (Vec::new(), Err(Error::NoSchedule(id))) };
            if let Some(known) = key.as_ref().and_then(|key| book.keyed(&id, key)) {
                return (Vec::new(), Ok((scheduled.schedule, known)));
            }
            let run = Run { run: book.next_run(&id), due_ms, cause, body, key, session: None, trouble: None };
            (vec![Record::Due { id, run: run.clone() }], Ok((scheduled.schedule, run)))
        });
        let (schedule, run) = begun.await?;
        if run.over() { Ok(run) } else { self.perform(&schedule, run).await }
    }

    /// Does what a run is to do, and writes down what came of it. Doing so again after it was cut off does nothing twice: the session it
    /// begins and the input it says are named after it.
    async fn perform(&self, schedule: &Schedule, mut run: Run) -> Result<Run, Error> {
        match self.say_it(schedule, &run).await {
            Ok(session) => run.session = Some(session),
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => {
                let why = in_full(&error);
                tracing::warn!(schedule = schedule.id, run = run.run, error = %why, "a schedule could not do what it is for");
                run.trouble = Some(why);
            }
        }
        let record = Record::Ran {
            id: schedule.id.clone(),
            run: run.run,
            session: run.session.clone(),
            trouble: run.trouble.clone(),
        };
        self.book(move |_| (vec![record], Ok(()))).await?;
        Ok(run)
    }

    async fn say_it(&self, schedule: &Schedule, run: &Run) -> Result<SessionId, Error> {
        let name = format!("{}-{}", schedule.id, run.run);
        let session = match &schedule.then {
            Then::Wake { session } => session.clone(),
            Then::Begin { workspace, model, until } => {
                let id =
                    format!("t-{}", &digest(&format!("{name} {}", schedule.created_ms))[..26]).parse()?;
                let new = NewSession {
                    workspace: workspace.clone(),
                    model: model.clone(),
                    id: Some(id),
                    until: until.clone(),
                    ..NewSession::default()
                };
                self.create(new).await?.id
            }
        };
        let (id, text) = (format!("schedule-{name}"), schedule.prompt.clone());
        let command = match &run.body {
            Some(body) => Command::Enclose {
                id,
                text,
                origin: "a call of a webhook".to_string(),
                enclosed: body.clone(),
            },
            None => Command::Input { id, text },
        };
        self.submit(&session, command).await?;
        Ok(session)
    }

    /// Looks into the book, and writes down in it what `look` says. Nobody else does meanwhile.
    async fn book<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Book) -> (Vec<Record>, Result<T, Error>) + Send + 'static,
    ) -> Result<T, Error> {
        let mut held = self.0.clock.book.lock().await;
        let memory = self.0.memory.clone();
        let book = match held.take() {
            Some(book) => book,
            None => {
                let memory = memory.clone();
                blocking(move || Book::read(&memory)).await?
            }
        };
        // What fails in between is read again.
        let (book, answer) = blocking(move || {
            let mut book = book;
            let (records, answer) = look(&book);
            for record in records {
                Book::write(&memory, &record)?;
                book.apply(&record);
            }
            Ok((book, answer))
        })
        .await?;
        *held = Some(book);
        answer
    }
}

/// What a hook was sent, as a session is told it.
fn shown(body: &str) -> String {
    let text: String = body.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    match text.char_indices().nth(BODY_CHARS_MAX) {
        Some((at, _)) => format!("{}\n[… it goes on]", &text[..at]),
        None => text,
    }
}

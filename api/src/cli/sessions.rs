//! `saga sessions`: list, show and delete.
//!
//! Without a running service the memory is read directly: starting an agent would take up the work that was under way.

use std::time::{SystemTime, UNIX_EPOCH};

use agent::{Event, Recorded, State};
use memory::{Memory, Seq};
use serde::Deserialize;

use super::reach::Server;
use crate::client::Client;
use crate::config::Folders;
use crate::failure::Failure;
use crate::server::open_memory;
use crate::show::{end_in_words, in_words, loop_in_words};
use crate::term::{one_line, say, table};
use crate::wire;

#[derive(clap::Subcommand)]
pub(crate) enum Args {
    /// List the sessions, newest first.
    List {
        /// Print one JSON object per session.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Show a session and what happened in it.
    Show {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// Print one JSON object per event.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Delete a session and everything it has written. Its workspace stays as it is.
    Delete {
        /// The session, as `saga sessions list` shows it.
        id: String,
        #[command(flatten)]
        server: Server,
    },
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, _) = super::settings()?;
    match args {
        Args::List { json, server } => {
            let sessions = Source::open(&server, &folders).await?.list().await?;
            if json {
                for session in &sessions {
                    say(&serde_json::to_string(session).expect("a session has only string keys"));
                }
            } else if sessions.is_empty() {
                say("no sessions yet; `saga run \"…\"` makes one");
            } else {
                say(&render(&sessions));
            }
        }
        Args::Show { id, json, server } => {
            let source = Source::open(&server, &folders).await?;
            for recorded in source.events(&id).await? {
                if json {
                    say(&serde_json::to_string(&recorded).expect("an event has only string keys"));
                } else {
                    say(&line(&recorded));
                }
            }
        }
        Args::Delete { id, server } => {
            Source::open(&server, &folders).await?.delete(&id).await?;
            say(&format!("deleted {id}; its workspace is as it was"));
        }
    }
    Ok(0)
}

/// What a session was made with, read from the memory of this machine.
pub(super) async fn stored(folders: &Folders, id: &str) -> Result<wire::Session, Failure> {
    let source = Source::Memory(open_memory(&folders.memory()).await?);
    let list = source.list().await?;
    list.into_iter().find(|session| session.id == id).ok_or_else(|| no_session(id))
}

fn no_session(id: &str) -> Failure {
    Failure::new(format!("there is no session {id}")).next("`saga sessions list` shows those there are")
}

/// Where sessions are read from.
enum Source {
    Service(Client),
    Memory(Memory),
}

impl Source {
    async fn open(server: &Server, folders: &Folders) -> Result<Source, Failure> {
        match server.running(folders).await? {
            Some(client) => Ok(Source::Service(client)),
            None => Ok(Source::Memory(open_memory(&folders.memory()).await?)),
        }
    }

    /// Every session, newest first.
    async fn list(&self) -> Result<Vec<wire::Session>, Failure> {
        match self {
            Source::Service(client) => {
                let mut all = Vec::new();
                let mut cursor = None;
                loop {
                    let page = client.sessions(cursor.as_deref()).await?;
                    all.extend(page.sessions);
                    match page.next_cursor {
                        Some(next) => cursor = Some(next),
                        None => return Ok(all),
                    }
                }
            }
            Source::Memory(memory) => {
                let memory = memory.clone();
                blocking(move || {
                    let mut all = Vec::new();
                    for journal in memory.journals()? {
                        if journal.name.parse::<agent::SessionId>().is_err() {
                            continue;
                        }
                        match read(&memory, &journal.name) {
                            Ok(events) => all.extend(folded(&journal.name, &events)),
                            Err(failure) => {
                                all.push(unreadable(&journal.name, journal.created_ms, failure.to_string()))
                            }
                        }
                    }
                    all.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
                    Ok(all)
                })
                .await
            }
        }
    }

    async fn events(&self, id: &str) -> Result<Vec<Recorded>, Failure> {
        match self {
            Source::Service(client) => {
                let mut all = Vec::new();
                let mut after = 0;
                loop {
                    let page = client.events(id, after).await?;
                    all.extend(page.events);
                    match page.next_after {
                        Some(next) => after = next,
                        None => return Ok(all),
                    }
                }
            }
            Source::Memory(memory) => {
                self.must_have(id).await?;
                let (memory, id) = (memory.clone(), id.to_string());
                blocking(move || read(&memory, &id)).await
            }
        }
    }

    async fn delete(&self, id: &str) -> Result<(), Failure> {
        match self {
            Source::Service(client) => Ok(client.delete(id).await?),
            Source::Memory(memory) => {
                self.must_have(id).await?;
                let (memory, id) = (memory.clone(), id.to_string());
                blocking(move || Ok(memory.delete_journal(&id)?)).await
            }
        }
    }

    /// Asking the memory for a journal makes it, so whether it is there is looked up first.
    async fn must_have(&self, id: &str) -> Result<(), Failure> {
        let Source::Memory(memory) = self else { return Ok(()) };
        let (memory, name) = (memory.clone(), id.to_string());
        let is = blocking(move || Ok(memory.journals()?.iter().any(|journal| journal.name == name))).await?;
        if is { Ok(()) } else { Err(no_session(id)) }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(format!("reading the memory failed: {error}")))?
}

/// Records read at a time.
const PAGE: usize = 1024;

fn read(memory: &Memory, name: &str) -> Result<Vec<Recorded>, Failure> {
    #[derive(Deserialize)]
    struct Written {
        at_ms: u64,
        #[serde(flatten)]
        event: Event,
    }
    let journal = memory.journal(name)?;
    let mut all = Vec::new();
    let mut from = Seq(1);
    loop {
        let page = journal.read(from, PAGE)?;
        let full = page.len() == PAGE;
        for (seq, record) in page {
            let Written { at_ms, event } = serde_json::from_slice(&record).map_err(|error| {
                Failure::new(format!("event {} of session {name} cannot be read ({error})", seq.0))
                    .next("it was written by another version or is damaged")
            })?;
            all.push(Recorded { seq, at_ms, event });
            from = Seq(seq.0 + 1);
        }
        if !full {
            return Ok(all);
        }
    }
}

/// The session that these events make; nothing for a journal without any.
fn folded(name: &str, events: &[Recorded]) -> Option<wire::Session> {
    let state = State::fold(events);
    let created = state.created()?;
    let usage = state.usage();
    let (tool_calls, tool_errors) = state.calls_done();
    let ended = state.ended().cloned();
    let error = match &ended {
        Some(agent::End::Failed { error }) => Some(error.clone()),
        _ => None,
    };
    Some(wire::Session {
        id: name.to_string(),
        title: state.title().map(str::to_string),
        workspace: created.workspace.display().to_string(),
        model: created.model.clone(),
        status: match (&error, state.running() || state.waiting() > 0) {
            (Some(_), _) => wire::Status::Failed,
            (None, true) => wire::Status::Running,
            (None, false) => wire::Status::Idle,
        },
        error,
        ended: ended.map(wire::End::from),
        turns: state.turn(),
        steps: state.step(),
        waiting: state.waiting(),
        tool_calls,
        tool_errors,
        usage: usage.into(),
        created_ms: events.first().map(|first| first.at_ms).unwrap_or_default(),
        updated_ms: state.updated_ms(),
        last: state.last().map(|seq| seq.0).unwrap_or_default(),
    })
}

fn unreadable(name: &str, created_ms: u64, error: String) -> wire::Session {
    wire::Session {
        id: name.to_string(),
        title: None,
        workspace: String::new(),
        model: String::new(),
        status: wire::Status::Failed,
        error: Some(error),
        ended: None,
        turns: 0,
        steps: 0,
        waiting: 0,
        tool_calls: 0,
        tool_errors: 0,
        usage: wire::Usage::default(),
        created_ms,
        updated_ms: created_ms,
        last: 0,
    }
}

fn render(sessions: &[wire::Session]) -> String {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|since| since.as_millis() as u64)
        .unwrap_or_default();
    let rows: Vec<Vec<String>> = sessions
        .iter()
        .map(|session| {
            let state = match (session.status, &session.ended) {
                (wire::Status::Running, _) => "running".to_string(),
                (wire::Status::Failed, _) => "failed".to_string(),
                (wire::Status::Idle, Some(end)) => end_word(end).to_string(),
                (wire::Status::Idle, None) => "new".to_string(),
            };
            vec![
                session.id.clone(),
                state,
                age(now_ms.saturating_sub(session.updated_ms)),
                session.steps.to_string(),
                one_line(&session.workspace, 40),
                one_line(session.title.as_deref().or(session.error.as_deref()).unwrap_or_default(), 60),
            ]
        })
        .collect();
    table(&["ID", "STATE", "AGE", "STEPS", "WORKSPACE", "TITLE"], &rows)
}

/// Why a turn ended, in a word.
pub(super) fn end_word(end: &wire::End) -> &'static str {
    match end {
        wire::End::Done => "done",
        wire::End::Interrupted => "interrupted",
        wire::End::Budget { .. } => "at a limit",
        wire::End::ContextFull { .. } => "context full",
        wire::End::Failed { .. } => "failed",
    }
}

fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86_400 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// One event as one line.
fn line(recorded: &Recorded) -> String {
    let seq = recorded.seq.0;
    let said = match &recorded.event {
        Event::Created(created) => format!("made for {} with {}", created.workspace.display(), created.model),
        Event::Input { text, .. } => format!("› {text}"),
        Event::TurnStarted { turn } => format!("turn {turn}"),
        Event::StepStarted { step } => format!("step {step}"),
        Event::Reply { text, calls, usage, .. } => {
            let calls: Vec<String> = calls.iter().map(|call| format!("[{}]", in_words(call, 80))).collect();
            format!("{} {} ({} tokens)", text.trim(), calls.join(" "), usage.output_tokens)
        }
        Event::CallStarted { id, .. } => format!("call {id} started"),
        Event::CallFinished { id, outcome, .. } => format!("call {id}: {}", outcome.summary),
        Event::CallLost { id } => format!("call {id}: outcome unknown, the service stopped while it ran"),
        Event::Undone { note, kept } if kept.is_empty() => format!("undone: {note}"),
        Event::Undone { kept, .. } => format!("not undone: somebody changed {} meanwhile", kept.join(", ")),
        Event::Looping { what, .. } => loop_in_words(what, 200),
        Event::Interrupted => "interrupted".to_string(),
        Event::TurnEnded { turn, end } => format!("turn {turn} ended: {}", end_in_words(end)),
    };
    // Wide enough for most of what is said; `--json` has all of it.
    format!("{seq:>5}  {}", one_line(&said, 400))
}

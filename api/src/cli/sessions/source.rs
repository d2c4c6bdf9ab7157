//! Where sessions are read from: a service, or the memory of this machine when none runs.

use agent::{Event, Recorded, SessionInfo, State};
use memory::{Memory, Seq};
use serde::Deserialize;

use crate::cli::reach::Server;
use crate::client::Client;
use crate::config::Folders;
use crate::failure::Failure;
use crate::server::open_memory;
use crate::wire;

/// What a session was made with, read from the memory of this machine.
pub(in crate::cli) async fn stored(folders: &Folders, id: &str) -> Result<wire::Session, Failure> {
    of(&open_memory(&folders.memory()).await?, id).await
}

/// A session as a memory tells it.
pub(in crate::cli) async fn of(memory: &Memory, id: &str) -> Result<wire::Session, Failure> {
    let list = Source::Memory(memory.clone()).list().await?;
    list.into_iter().find(|session| session.id == id).ok_or_else(|| no_session(id))
}

fn no_session(id: &str) -> Failure {
    Failure::new(format!("there is no session {id}")).next("`saga sessions list` shows those there are")
}

/// Where sessions are read from.
pub(in crate::cli) enum Source {
    Service(Client),
    Memory(Memory),
}

impl Source {
    pub(in crate::cli) async fn open(server: &Server, folders: &Folders) -> Result<Source, Failure> {
        match server.running(folders).await? {
            Some(client) => Ok(Source::Service(client)),
            None => Ok(Source::Memory(open_memory(&folders.memory()).await?)),
        }
    }

    /// Every session, newest first.
    pub(in crate::cli) async fn list(&self) -> Result<Vec<wire::Session>, Failure> {
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
                        let Ok(id) = journal.name.parse::<agent::SessionId>() else { continue };
                        // What is left of an import that was cut off goes at the next start.
                        if agent::portable::cut_off(&memory, &id)? {
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

    pub(in crate::cli) async fn events(&self, id: &str) -> Result<Vec<Recorded>, Failure> {
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

    pub(super) async fn delete(&self, id: &str) -> Result<(), Failure> {
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
    pub(super) async fn must_have(&self, id: &str) -> Result<(), Failure> {
        let Source::Memory(memory) = self else { return Ok(()) };
        let (memory, name) = (memory.clone(), id.to_string());
        let is = blocking(move || Ok(memory.journals()?.iter().any(|journal| journal.name == name))).await?;
        if is { Ok(()) } else { Err(no_session(id)) }
    }
}

pub(super) async fn blocking<T: Send + 'static>(
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
    state.created()?;
    Some(SessionInfo::of(&name.parse().ok()?, &state, None).into())
}

pub(in crate::cli) fn unreadable(name: &str, created_ms: u64, error: String) -> wire::Session {
    wire::Session {
        id: name.to_string(),
        title: None,
        workspace: String::new(),
        model: String::new(),
        status: wire::Status::Failed,
        error: Some(error),
        ended: None,
        asks: None,
        memory: false,
        turns: 0,
        steps: 0,
        parent: None,
        plan: Vec::new(),
        goal: None,
        prompt_tokens: 0,
        context_tokens: None,
        compactions: 0,
        waiting: 0,
        tool_calls: 0,
        tool_errors: 0,
        budget: wire::Budget::default(),
        usage: wire::Usage::default(),
        created_ms,
        updated_ms: created_ms,
        last: 0,
    }
}

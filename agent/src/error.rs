//! What can go wrong in the agent, named by what the caller can do about it.

use std::path::PathBuf;

use crate::SessionId;

/// An error of the agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such session.
    #[error("there is no session {0}; `saga sessions list` shows those there are")]
    NoSession(SessionId),
    /// There is no such schedule.
    #[error("there is no schedule {0}; `saga schedule list` shows those there are")]
    NoSchedule(String),
    /// A session of that id exists and is not the one asked for.
    #[error("a session {0} exists already; leave the id out to get a new one")]
    Exists(SessionId),
    /// The request cannot be carried out as it stands.
    #[error("{0}")]
    BadRequest(String),
    /// The workspace lies outside the folders sessions may work in.
    #[error(
        "the workspace {path} is not under an allowed root ({roots}); start the service with `--root {path}` or add it to `workspace_roots` in the configuration"
    )]
    OutsideRoots {
        /// The folder asked for.
        path: PathBuf,
        /// The folders allowed, for people.
        roots: String,
    },
    /// An input id was used before with another text.
    #[error("input id {id:?} was used before for another text; send a new id")]
    InputIdReused {
        /// The id.
        id: String,
    },
    /// The session's queue of inputs is full.
    #[error("session {0} has too many inputs waiting; wait for its turn to end or interrupt it")]
    Busy(SessionId),
    /// Nobody was asked about that call.
    #[error("call {call} waits for nobody's approval; {}", match asked { Some(asked) => format!("{asked} does"), None => "no call does".to_string() })]
    NotAsked {
        /// The call.
        call: String,
        /// The call that does wait, if one does.
        asked: Option<String>,
    },
    /// The session works just now.
    #[error("session {0} is working; interrupt it or wait until it rests, then try again")]
    Running(SessionId),
    /// There is no checkpoint of the workspace to go to.
    #[error("session {id} has no checkpoint at or before event {}; `saga sessions checkpoints {id}` shows those there are", at.0)]
    NoCheckpoint {
        /// The session.
        id: SessionId,
        /// The place that was asked for.
        at: memory::Seq,
    },
    /// Somebody changed the workspace after the look at what would be done.
    #[error("nothing was done: {} changed meanwhile; look again at what would be done", paths.join(", "))]
    ChangedMeanwhile {
        /// The files.
        paths: Vec<String>,
    },
    /// The service is stopping.
    #[error("the service is stopping; send the request again when it is back")]
    Stopping,
    /// An event could not be written; the session stops until it can be.
    #[error("the session's journal cannot be written: {0}")]
    NotWritten(String),
    /// A journal holds something this version cannot read.
    #[error(
        "event {seq} of session {id} cannot be read ({why}); it was written by another version or is damaged"
    )]
    Unreadable {
        /// The session.
        id: SessionId,
        /// The event's place.
        seq: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A session cannot be written to a file.
    #[error("the session cannot be written to the file: {0}")]
    NotExported(String),
    /// A file does not make a session.
    #[error("line {line} of the file: {why}; nothing was imported")]
    NotImported {
        /// The line, from 1 on.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The prompt does not fit the model's context.
    #[error(
        "the prompt needs {asked} tokens, the context holds {limit}; begin a new session with less text, or allow more \
         with --context-tokens"
    )]
    ContextFull {
        /// Tokens asked for.
        asked: u64,
        /// Tokens there are.
        limit: u64,
    },
    /// A mind on another machine cannot be asked.
    #[error("the mind {name} at {url} cannot be asked: {why}")]
    Remote {
        /// What it is called here.
        name: String,
        /// Where it is.
        url: String,
        /// What is wrong, and what to do about it.
        why: String,
    },
    /// The memory failed.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The sandbox failed.
    #[error(transparent)]
    Tools(#[from] tools::Error),
}

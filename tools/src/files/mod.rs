//! File operations in the workspace, as they run inside the sandbox: in a process of their own that may open files below
//! the workspace and do nothing else.

mod edit;
mod inventory;
mod patch;
mod read;
mod restore;
mod search;
mod sources;
mod workspace;
mod write;

pub(crate) use edit::Edit;
pub(crate) use inventory::{Inventoried, Inventory, Item, What, only_grows};
pub(crate) use patch::Patch;
pub(crate) use read::{List, Read, Text};
pub(crate) use restore::{Restore, Step, characters};
pub(crate) use search::{Glob, Grep};
pub(crate) use sources::{Answered, Sources, Survey, Use, Uses};
pub use sources::{Source, Stamp, Surveyed};
pub(crate) use workspace::Workspace;
pub(crate) use write::Write;

use serde::{Deserialize, Serialize};

/// The largest text one call may write, and the largest file it may edit. Bytes. A model's reply is far smaller.
pub(crate) const WRITE_BYTES_MAX: usize = 4 << 20;

/// The most text an operation gives a model. Bytes.
const TEXT_BYTES: usize = 24 << 10;

/// One operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    Read(Read),
    List(List),
    Write(Write),
    Edit(Edit),
    Patch(Patch),
    Grep(Grep),
    Glob(Glob),
    Text(Text),
    Survey(Survey),
    Sources(Sources),
    Uses(Uses),
    Inventory(Inventory),
    Restore(Restore),
}

impl Request {
    /// Whether it changes files: it is confined accordingly.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Request::Write(_) | Request::Edit(_) | Request::Patch(_) | Request::Restore(_) => true,
            Request::Read(_)
            | Request::List(_)
            | Request::Grep(_)
            | Request::Glob(_)
            | Request::Text(_)
            | Request::Survey(_)
            | Request::Sources(_)
            | Request::Uses(_)
            | Request::Inventory(_) => false,
        }
    }

    /// The path it reads one file by, which may be the id of a command's kept output.
    pub(crate) fn reads(&self) -> Option<&str> {
        match self {
            Request::Read(read) => Some(&read.path),
            Request::Grep(grep) => Some(&grep.path),
            Request::List(_)
            | Request::Write(_)
            | Request::Edit(_)
            | Request::Patch(_)
            | Request::Glob(_)
            | Request::Text(_)
            | Request::Survey(_)
            | Request::Sources(_)
            | Request::Uses(_)
            | Request::Inventory(_)
            | Request::Restore(_) => None,
        }
    }

    pub(crate) fn perform(&self, workspace: &Workspace) -> Answer {
        let answer = match self {
            Request::Read(read) => read.perform(workspace),
            Request::List(list) => list.perform(workspace),
            Request::Write(write) => write.perform(workspace),
            Request::Edit(edit) => edit.perform(workspace),
            Request::Patch(patch) => patch.perform(workspace),
            Request::Grep(grep) => grep.perform(workspace),
            Request::Glob(glob) => glob.perform(workspace),
            Request::Text(text) => text.perform(workspace),
            Request::Survey(survey) => survey.perform(workspace),
            Request::Sources(sources) => sources.perform(workspace),
            Request::Uses(uses) => uses.perform(workspace),
            Request::Inventory(inventory) => inventory.perform(workspace),
            Request::Restore(restore) => restore.perform(workspace),
        };
        answer.unwrap_or_else(Answer::no)
    }
}

/// What came of it, in words for the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) text: String,
    /// One line for people.
    pub(crate) summary: String,
    /// How much there was before the cap. Bytes.
    pub(crate) bytes_total: u64,
    pub(crate) truncated: bool,
}

impl Answer {
    pub(crate) fn yes(text: String, summary: String) -> Answer {
        Answer { ok: true, bytes_total: text.len() as u64, text, summary, truncated: false }
    }

    /// A refusal in words the model can act on.
    pub(crate) fn no(text: String) -> Answer {
        let summary = text.lines().next().unwrap_or_default().chars().take(100).collect();
        Answer { ok: false, bytes_total: text.len() as u64, text, summary, truncated: false }
    }

    /// For an operation that found no process to do it.
    pub(crate) fn crowded() -> Answer {
        Answer::no("The session runs as many processes as it may. End some of them first.".to_owned())
    }

    /// For an operation that was ended from outside.
    pub(crate) fn stopped() -> Answer {
        Answer::no(
            "This took too long or too much memory and was stopped. Ask for less: a smaller folder, a narrower pattern."
                .to_owned(),
        )
    }
}

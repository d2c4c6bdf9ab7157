//! What others read in a session's state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use memory::{NoteId, Seq};
use tools::mcp::{self, Equipment};
use tools::{Call, Reach, Spec};

use super::{Checkpoint, Settled, State};
use crate::context::Message;
use crate::dialect::{Bound, Shape};
use crate::event::{Created, End, Loop, Usage};
#[cfg(test)]
use crate::lead::Lead;
use crate::learn::Diary;
use crate::plan::Task;

impl State {
    /// What servers give to the session, by their names.
    pub fn equipment(&self) -> &BTreeMap<String, Equipment> {
        &self.equipment
    }

    /// A tool of a server, if there is one of this name.
    pub(crate) fn foreign(&self, tool: &str) -> Option<&Spec> {
        mcp::server_of(tool)?;
        self.created.as_ref()?.tools.iter().find(|spec| spec.name == tool)
    }

    /// What the session is, once it has been created: as it was made, but with the tools that it has now.
    pub fn created(&self) -> Option<&Arc<Created>> {
        self.created.as_ref()
    }

    /// What the model is shown at the step that has started last.
    pub fn conversation(&self) -> &Arc<Vec<Message>> {
        &self.conversation
    }

    /// The place of the last event.
    pub fn last(&self) -> Option<Seq> {
        self.last
    }

    /// Milliseconds since 1970 when it was made.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Milliseconds since 1970 of the last event.
    pub fn updated_ms(&self) -> u64 {
        self.updated_ms
    }

    /// The first line of the first input, shortened: what a list of sessions shows.
    pub fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// Where an input with this id was written, and its text.
    pub fn input(&self, id: &str) -> Option<(Seq, &str)> {
        self.inputs.get(id).map(|(seq, text)| (*seq, &**text))
    }

    /// How many inputs the model has not been shown.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether what people said waits for more than the next turn.
    pub(crate) fn held(&self) -> bool {
        self.held
    }

    /// Whether a turn is running, or begins by itself.
    pub fn busy(&self) -> bool {
        self.running || !(self.waiting.is_empty() || self.held)
    }

    /// Whether a turn is running.
    pub fn running(&self) -> bool {
        self.running
    }

    /// Whether the running turn has been asked to stop.
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// The number of the turn that runs or ran last.
    pub fn turn(&self) -> u32 {
        self.turn
    }

    /// The number of the step that started last.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// What all replies together have cost.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Calls that have come to an end, and how many of those failed.
    pub fn calls_done(&self) -> (u32, u32) {
        (self.calls_done, self.calls_failed)
    }

    /// How the last turn ended; nothing while one runs.
    pub fn ended(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    /// How many calls in a row were made before in this turn and answered the same: above nothing, the model goes in
    /// circles, and sampling greedily would keep it there.
    pub fn circles(&self) -> u32 {
        self.circles
    }

    /// What the next reply may be, and the tools it may not call. A small model is led.
    pub fn shape(&self) -> (Shape, BTreeSet<String>) {
        match &self.created {
            Some(created) if created.led => self.lead.next(created, &self.known),
            Some(created) if created.parent.is_some() => {
                let named = |spec: &Spec| Call {
                    id: String::new(),
                    name: spec.name.clone(),
                    arguments: serde_json::Value::Null,
                };
                let barred = created.tools.iter().filter(|spec| self.barred(&named(spec)).is_some());
                (Shape::Free, barred.map(|spec| spec.name.clone()).collect())
            }
            _ => (Shape::Free, BTreeSet::new()),
        }
    }

    /// What the arguments of the next reply's calls are bound to: to what there is, as far as the session has seen it.
    pub fn bounds(&self) -> Vec<Bound> {
        match &self.created {
            Some(created) if created.led => self.lead.bounds(&self.known, &created.workspace),
            Some(created) => self.known.bounds(&created.tools),
            None => Vec::new(),
        }
    }

    /// The file of which the next reply is a draft.
    pub(crate) fn drafting(&self) -> Option<String> {
        let created = self.created.as_ref().filter(|created| created.led)?;
        self.lead.drafting(&self.known, &created.workspace)
    }

    #[cfg(test)]
    pub(crate) fn lead(&self) -> &Lead {
        &self.lead
    }

    /// How many attempts of this turn were undone.
    pub(crate) fn undone(&self) -> u32 {
        self.lead.undone_count()
    }

    /// What people said that nothing has been recalled to yet.
    pub(crate) fn unrecalled(&self) -> Option<String> {
        (!self.unrecalled.is_empty()).then(|| self.unrecalled.join("\n"))
    }

    /// Digests of what folders say and the session was told, by path.
    pub(crate) fn guided(&self) -> &BTreeMap<String, String> {
        &self.guided
    }

    /// The notes the session has been told.
    pub(crate) fn shown(&self) -> &BTreeSet<NoteId> {
        &self.shown
    }

    /// Whether somebody else's text was recalled or fetched in this session: what it says may have been written to mislead.
    pub fn external(&self) -> bool {
        self.external
    }

    /// Whether the workspace has to be kept before anything else is done.
    pub(crate) fn unkept(&self) -> bool {
        self.changed && !self.uncovered && self.created.as_ref().is_some_and(|created| created.checkpoints)
    }

    /// The places it can be wound back to, oldest first.
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// The turn that runs, if people said something that was not written down yet.
    pub(crate) fn unwritten(&self) -> Option<&Diary> {
        Some(&self.diary).filter(|diary| diary.unwritten())
    }

    /// The turn that ended and was not learned from yet.
    pub(crate) fn learning(&self) -> Option<&Diary> {
        self.learning.as_ref()
    }

    /// The turn that was learned from, if its model is to be asked what else it showed.
    pub(crate) fn reflecting(&self) -> Option<&Diary> {
        self.reflecting.as_ref()
    }

    /// Whether it is to be asked now: nothing of that is worth the last tokens of a budget.
    pub(crate) fn may_reflect(&self) -> bool {
        self.reflecting.is_some() && self.spent().is_none() && self.reply_tokens_max() > 0
    }

    /// The call that waits for somebody's approval.
    pub fn asks(&self) -> Option<Asked<'_>> {
        self.calls.iter().find_map(|(call, settled)| match settled {
            Settled::Asked { why, until_ms } => Some(Asked { call, why, until_ms: *until_ms }),
            Settled::Waiting | Settled::Allowed | Settled::Started(_) | Settled::Answered(_) => None,
        })
    }

    /// Why a call is not to run before somebody has approved of it; nothing when it may.
    pub(crate) fn guarded(&self, call: &Call) -> Option<String> {
        match (self.reach(call)?, mcp::server_of(&call.name)) {
            (Reach::Final, Some(server)) => {
                Some(format!("the tools of the server {server} are not to run unasked"))
            }
            (Reach::Final, None) => Some("it cannot be taken back".to_string()),
            // Files and what commands print may be written to mislead as well. No filter tells which are; only this holds.
            (Reach::Outside, _) if self.always(call) => None,
            (Reach::Outside, _) if self.doubtful || self.calls_done > 0 => Some(
                "it reaches beyond the workspace, and the session has read what nobody vouches for"
                    .to_string(),
            ),
            (Reach::Outside | Reach::Workspace, _) => None,
        }
    }

    /// The plan that the model keeps.
    pub fn plan(&self) -> &[Task] {
        &self.plan
    }

    /// How far the effects of a call reach, if there is a tool of its name.
    pub(crate) fn reach(&self, call: &Call) -> Option<Reach> {
        Some(self.created.as_ref()?.tools.iter().find(|tool| tool.name == call.name)?.reach)
    }

    /// Whether somebody has allowed calls like this for the rest of the session.
    pub(crate) fn always(&self, call: &Call) -> bool {
        self.allowed.contains(&subject(call))
    }

    /// A repetition that is not written down yet.
    pub(crate) fn looping(&self) -> Option<&Loop> {
        self.looping.first()
    }

    pub(crate) fn answered(&self) -> bool {
        self.answered
    }

    pub(crate) fn calls(&self) -> &[(Call, Settled)] {
        &self.calls
    }
}

/// A call that waits for somebody's approval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked<'a> {
    /// The call.
    pub call: &'a Call,
    /// Why it was asked for.
    pub why: &'a str,
    /// Until when somebody may answer: milliseconds since 1970.
    pub until_ms: Option<u64>,
}

/// What a call is about, for whoever allows the same for the rest of the session: this command, this file, or whatever the tool does.
pub(super) fn subject(call: &Call) -> String {
    let about = ["command", "path", "url"].iter().find_map(|name| call.arguments[*name].as_str());
    format!("{} {}", call.name, about.unwrap_or_default())
}

//! Attempts of a led model: changes that are kept if the project's check then gets further, and undone otherwise.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tools::{Call, Outcome};

use super::State;
use crate::check;
use crate::context::Message;
use crate::event::{Changed, Stop};
use crate::known::Known;
use crate::lead::{self, Lead, Tried};

/// Changes that have not yet been seen to help.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// What the conversation, the calls and the lead were before.
    messages: usize,
    tried: usize,
    lead: Lead,
    known: Known,
    guided: BTreeMap<String, String>,
    /// Tests that passed then.
    passed: u32,
    /// Files as they were and as they were left.
    pub(super) files: Vec<Changed>,
    /// What was replaced by what.
    edits: Vec<Tried>,
    /// Checks that failed since.
    checks: u32,
    /// Changes that were refused.
    slips: u32,
    /// Whether it is a draft of a whole file.
    draft: bool,
    /// What the check complained of before.
    complaint: Option<String>,
    /// Why it did not help.
    verdict: Option<String>,
}

impl State {
    /// A reply that changes something while the project's check fails is an attempt: it is kept if the check then gets
    /// further, and undone otherwise, so that a small model never has to build on its own wreckage.
    pub(super) fn attempt_begins(&mut self) {
        let led = self.created.as_ref().is_some_and(|created| created.led);
        let changes = self.calls.iter().any(|(call, _)| lead::changes(&call.name));
        if let Some(passed) = self.lead.passed_before().filter(|_| led && changes && self.attempt.is_none()) {
            self.attempt = Some(self.attempt_at(passed));
        }
    }

    /// A draft that was cut before its end is none.
    pub(super) fn draft_grew(&mut self, stop: Stop) {
        let cut = stop == Stop::Length && self.calls.is_empty() && !self.refused.is_empty();
        let Some(path) = self.drafting().filter(|_| cut && self.attempt.is_none()) else { return };
        let verdict = "it grew too long, or said the same again and again, and was cut".to_string();
        let edits = vec![Tried { path, old: String::new(), new: String::new() }];
        self.attempt = self.lead.passed_before().map(|passed| Attempt {
            edits,
            draft: true,
            verdict: Some(verdict),
            ..self.attempt_at(passed)
        });
    }

    /// An attempt that begins here, with so many tests passing.
    fn attempt_at(&self, passed: u32) -> Attempt {
        Attempt {
            messages: self.conversation.len(),
            tried: self.tried.len(),
            lead: self.lead.clone(),
            known: self.known.clone(),
            guided: self.guided.clone(),
            passed,
            files: Vec::new(),
            edits: Vec::new(),
            checks: 0,
            slips: 0,
            draft: false,
            complaint: self.lead.complaint(),
            verdict: None,
        }
    }

    /// Whose a file is from now on: this attempt's as long as it stays as its last call left it.
    pub(super) fn attempt_left(&mut self, call: &Call, left: Option<&String>) {
        let path = call.arguments["path"].as_str().filter(|_| lead::changes(&call.name));
        let files = self.attempt.iter_mut().flat_map(|attempt| &mut attempt.files);
        for file in files.filter(|file| Some(file.before.path.as_str()) == path) {
            file.left = left.cloned();
        }
    }

    pub(super) fn attempt_goes_on(&mut self, call: &Call, outcome: &Outcome) {
        let Some(attempt) = &mut self.attempt else { return };
        if lead::changes(&call.name) {
            let text = |name: &str| call.arguments[name].as_str().unwrap_or_default().to_string();
            let path = text("path");
            let workspace =
                self.created.as_ref().map_or(Path::new(""), |created| created.workspace.as_path());
            attempt.draft |= outcome.ok && self.lead.drafts(&path, workspace);
            attempt.edits.push(Tried { path: path.clone(), old: text("old"), new: text("new") });
            if !outcome.ok {
                // What was refused has changed nothing and says what to do instead: once that is worth a second look,
                // if the change before it had led somewhere new.
                attempt.slips += 1;
                if attempt.checks == 0 || attempt.slips > 1 {
                    attempt.verdict = Some(outcome.text.clone());
                }
            } else if attempt.files.iter().all(|file| file.before.path != path) {
                // A new file, or one that could not be kept: there is nothing to put back.
                self.attempt = None;
            }
        } else if lead::runs(&call.name) {
            let further = check::passed(&outcome.text).is_some_and(|passed| passed > attempt.passed);
            let complaint = check::complaint(&outcome.text);
            let new = attempt.complaint.as_ref().is_none_or(|before| *before != complaint);
            if outcome.ok || further && !attempt.draft {
                self.attempt = None;
            } else if attempt.checks == 0 && new && !attempt.draft {
                // It fails in another way now: a change in the right place often lacks only its other half.
                attempt.checks += 1;
            } else {
                attempt.verdict = Some(complaint);
            }
        }
    }

    /// The files to put back and what to remember, when an attempt has failed.
    pub(crate) fn failed_attempt(&self) -> Option<(Vec<Changed>, String)> {
        let attempt = self.attempt.as_ref()?;
        let verdict = attempt.verdict.as_ref()?;
        let edits: Vec<String> = attempt
            .edits
            .iter()
            .map(|Tried { path, old, new }| match old.is_empty() {
                true => format!("writing {path} anew"),
                false => format!("in {path} replacing\n{}\nby\n{}", old.trim_end(), new.trim_end()),
            })
            .collect();
        Some((
            attempt.files.clone(),
            format!("{} did not help and was undone: {verdict}", edits.join(", and ")),
        ))
    }

    /// The model is not told: it was seen to write again whatever stood before it, the more so if that was wrong. Of a draft
    /// it hears what the check said, for the next one begins with nothing.
    pub(super) fn undo(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        let path = attempt.edits.last().map(|edit| edit.path.clone()).unwrap_or_default();
        let verdict = attempt.verdict.filter(|_| attempt.draft).map(|verdict| Message::User {
            text: format!(
                "Another {path} was tried before, and the tests then said:\n{verdict}\nWrite one with which they pass."
            ),
        });
        self.calls.clear();
        self.refused.clear();
        self.tried.truncate(attempt.tried);
        self.circles = 0;
        self.lead = attempt.lead;
        self.known = attempt.known;
        self.guided = attempt.guided;
        self.guides.clear();
        self.lead.undone(attempt.edits);
        let conversation = Arc::make_mut(&mut self.conversation);
        conversation.truncate(attempt.messages);
        if let Some(verdict) = verdict {
            // The last one is enough.
            if self.heard.is_some() && self.heard.as_ref() == conversation.last() {
                conversation.pop();
            }
            conversation.push(verdict.clone());
            self.heard = Some(verdict);
        }
    }
}

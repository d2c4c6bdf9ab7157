//! How a small model is led through a turn.
//!
//! Left to itself a model of a billion parameters or two tells what it would do, invents what files say, and gives up
//! at the first failure. The grammar of its replies is the engine's, so it can be led instead: to run the project's
//! check before it guesses, to read before it changes, to check after every change, and to go on while the check
//! fails. What it runs, reads and changes it decides itself.

mod wishes;

use std::collections::BTreeSet;
use std::path::Path;

use tools::{Outcome, Replay, Spec};

use crate::check;
use crate::dialect::{Besides, Bound, Known as File, Quoted, Shape, To, Whole};
use crate::event::Created;
use crate::focus;
use crate::known::{Known, TEXT_BYTES_MAX, relative};

/// The tools whose success is a changed file.
const CHANGES: [&str; 2] = ["edit", "write"];
/// The tool that runs commands, and the one that reads files.
const RUNS: &str = "exec";
const WRITES: &str = "write";
const READS: &str = "read";
/// Calls after which a led model may answer without having run a command.
const LOOKS_MAX: usize = 8;
/// Calls after a failed command, or failures in a row, after which a led model may say that it gives up.
const TRIES_MAX: usize = 6;
/// Calls after a failed command that may only look.
const LOOKS_FAILING: usize = 2;
/// Attempts of a turn that are undone. Later ones stay, for a person to look at.
const ATTEMPTS_MAX: u32 = 40;
/// Attempts come in rounds. In each, the first are made where the failing check leads to, where the fault most likely is,
/// and the last anywhere.
const ROUND: u32 = 4;
const LED_ATTEMPTS: u32 = 3;
/// The longest skeleton of a file that is written anew and not changed piece by piece, in bytes: a small model writes what is
/// longer too badly, and too long.
const HOLLOW_BYTES_MAX: usize = 4 << 10;
/// A skeleton is written so many times from its beginning, as long as its tests fail, before what got furthest is built upon: a
/// small model that has its own text before it writes the same again.
const DRAFTS: u32 = 6;
/// The most tokens of a draft: some way beyond the longest skeleton.
pub(crate) const DRAFT_TOKENS_MAX: u32 = 1_500;
/// Files that are kept in mind as seen. The texts of these bound what an edit may replace.
const SEEN_MAX: usize = 8;
/// Files that are read because people named them.
const NAMED_MAX: usize = 4;

/// What matters of a session for leading its model. Kept by the fold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lead {
    /// What people said in this session, in lower case.
    asked: String,
    /// Whether the last of it was a question: then nothing is to be changed, unless the model wants to.
    question: bool,
    /// Files that people named and that were not read yet.
    unread: Vec<String>,
    /// Files that people named and that are not there: they are to be written, it seems.
    absent: Vec<String>,
    /// Commands that people wrote out and that check the project.
    commands: Vec<String>,
    /// Skeletons that were written in this turn. What is there now is the model's own, and is written again as a whole.
    written: Vec<Skeleton>,
    /// Files that were read or changed in this session and may be changed, the latest last.
    seen: Vec<String>,
    /// Whether the last command of this turn succeeded; nothing before the first.
    passed: Option<bool>,
    /// Calls that ended since that command, or since the turn began.
    since: usize,
    /// Whether a file was changed after the last command.
    unchecked: bool,
    /// Whether a file was changed in this turn.
    changed: bool,
    /// Calls in a row that failed.
    failures: usize,
    /// Tools the model went in circles with since it last changed something.
    worn: BTreeSet<String>,
    /// Tests that passed in the last command, when it failed and told.
    score: Option<u32>,
    /// What that command complained of.
    complaint: Option<String>,
    /// The names its output leads to.
    named: Vec<String>,
    /// Places that were to be replaced by themselves since something was changed: path and text.
    idle: Vec<(String, String)>,
    /// What was tried and undone in this turn, each with the number of its attempt.
    tried: Vec<(u32, Tried)>,
    /// How many attempts that were.
    attempts: u32,
    /// Whether it was told in this turn what is remembered of earlier work.
    recalled: bool,
}

/// A file that waits to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Skeleton {
    path: String,
    /// What it defines, as it says so: others count on that.
    holds: Vec<String>,
    /// What of it does nothing yet.
    never: Vec<String>,
}

/// A change that did not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) path: String,
    /// What was replaced; nothing for a file that was written anew.
    pub(crate) old: String,
    pub(crate) new: String,
}

/// Whether a tool's success is a changed file.
pub(crate) fn changes(tool: &str) -> bool {
    CHANGES.contains(&tool)
}

/// Whether a tool runs commands.
pub(crate) fn runs(tool: &str) -> bool {
    tool == RUNS
}

impl Lead {
    pub(crate) fn turn(&mut self) {
        let Lead { asked, question, unread, commands, seen, .. } = std::mem::take(self);
        *self = Lead { asked, question, unread, commands, seen, ..Lead::default() };
    }

    /// A call came to an end. `known` is what was known before it.
    pub(crate) fn ended(
        &mut self,
        name: &str,
        arguments: &serde_json::Value,
        outcome: &Outcome,
        known: &Known,
        workspace: &Path,
    ) {
        let ok = outcome.ok;
        let path = arguments["path"].as_str().filter(|_| name == WRITES && ok);
        if let Some(skeleton) = path.and_then(|path| self.skeleton(path, known, workspace)) {
            self.written.push(skeleton);
        }
        if name == RUNS && !ok && outcome.text.contains("exit code 127") {
            // There is no such program here.
            let command = arguments["command"].as_str();
            self.commands.retain(|known| Some(known.as_str()) != command);
        }
        self.since += 1;
        self.failures = if ok { 0 } else { self.failures + 1 };
        let changed = ok && CHANGES.contains(&name);
        if name == RUNS {
            self.passed = Some(ok);
            self.complaint = (!ok).then(|| check::complaint(&outcome.text));
            self.score = if ok { None } else { check::passed(&outcome.text) };
            self.named = if self.score.is_some() { focus::named(&outcome.text) } else { Vec::new() };
            self.since = 0;
            self.unchecked = false;
        }
        if changed {
            self.unchecked = true;
            self.changed = true;
            self.worn.clear();
            self.idle.clear();
        } else if let (Some(path), Some(old), Some(new)) =
            (arguments["path"].as_str(), arguments["old"].as_str(), arguments["new"].as_str())
            && old == new
        {
            // What it means to change lies elsewhere, and it would write the same again.
            self.idle.push((path.to_string(), old.trim().to_string()));
        }
        if let Some(path) = arguments["path"].as_str() {
            self.absent.retain(|absent| absent != path || !ok);
            let named = self.unread.iter().any(|named| named == path);
            if named && name == READS {
                self.unread.retain(|named| named != path);
                if !ok {
                    self.missed(path, &outcome.text);
                }
            }
        }
        let seen = arguments["path"].as_str().filter(|_| changed || ok && name == READS);
        if let Some(path) = seen.filter(|path| !wishes::untouchable(&self.asked, path)) {
            self.seen.retain(|seen| seen != path);
            self.seen.push(path.to_string());
            if self.seen.len() > SEEN_MAX {
                self.seen.remove(0);
            }
        }
    }

    /// A file that people named could not be read.
    fn missed(&mut self, path: &str, why: &str) {
        match why.strip_prefix("There is no ").map(|why| why.split_once("Did you mean ")) {
            Some(Some((_, other))) => self.name(other.trim_end_matches('?')),
            Some(None) if !wishes::untouchable(&self.asked, path) => self.absent.push(path.to_string()),
            _ => {}
        }
    }

    /// People named a file.
    fn name(&mut self, path: &str) {
        let known = self.seen.iter().chain(&self.unread).any(|known| known == path);
        if !known && self.unread.len() < NAMED_MAX {
            self.unread.push(path.to_string());
        }
    }

    /// The outcome of a call is not known: what it changed, or was to check, is to be checked.
    pub(crate) fn lost(&mut self, name: &str) {
        self.since += 1;
        self.unchecked |= changes(name) || name == RUNS;
    }

    /// It is told what is remembered of earlier work, if `some` is.
    pub(crate) fn recalled(&mut self, some: bool) {
        self.recalled |= some;
    }

    /// A person said something.
    pub(crate) fn asked(&mut self, text: &str) {
        self.question = text.trim_end().ends_with(['?', '？']);
        self.asked.push_str(&text.to_lowercase());
        self.asked.push('\n');
        wishes::file_names(text).for_each(|name| self.name(name));
        for command in wishes::commands(text) {
            if !self.commands.iter().any(|known| known == command) {
                self.commands.push(command.to_string());
            }
        }
    }

    /// A call was made before, with the same answer.
    pub(crate) fn circled(&mut self, name: &str) {
        self.worn.insert(name.to_string());
    }

    /// An attempt with these changes was undone.
    pub(crate) fn undone(&mut self, edits: Vec<Tried>) {
        self.tried.extend(edits.into_iter().map(|edit| (self.attempts, edit)));
        self.attempts += 1;
    }

    /// The file of which the next reply is a draft.
    pub(crate) fn drafting(&self, known: &Known, workspace: &Path) -> Option<String> {
        let now = self.score.is_some() && !self.unchecked && self.attempts < DRAFTS && !self.reads_named();
        self.hollow(known, workspace).filter(|_| now).map(|skeleton| skeleton.path)
    }

    /// Whether what was written there is a draft: one of several, of which only one that does everything is kept.
    pub(crate) fn drafts(&self, path: &str, workspace: &Path) -> bool {
        let path = relative(workspace, path);
        self.attempts < DRAFTS && self.written.iter().any(|skeleton| skeleton.path == path)
    }

    pub(crate) fn undone_count(&self) -> u32 {
        self.attempts
    }

    /// Tests that passed when the check failed last, while an attempt may still be undone.
    pub(crate) fn passed_before(&self) -> Option<u32> {
        self.score.filter(|_| self.attempts < ATTEMPTS_MAX)
    }

    /// What the last command complained of, if it failed.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.complaint.clone()
    }

    /// Names that the failing check leads to, while it is worth following them.
    fn named(&self) -> &[String] {
        if self.attempts % ROUND < LED_ATTEMPTS { &self.named } else { &[] }
    }

    /// Places that were to be replaced by themselves just now, or where replacing did not help twice in this round of
    /// attempts: what is to be changed may be elsewhere. The next round comes back to them, for chance may then find what is
    /// right there.
    fn avoid(&self) -> Vec<(String, String)> {
        let mut avoid = self.idle.clone();
        let round = self.attempts / ROUND;
        let tried: Vec<&Tried> =
            self.tried.iter().filter(|(attempt, _)| attempt / ROUND == round).map(|(_, edit)| edit).collect();
        for edit in &tried {
            let place = (edit.path.clone(), edit.old.trim().to_string());
            let same = |other: &&&Tried| other.path == place.0 && other.old.trim() == place.1;
            if tried.iter().filter(same).count() >= 2 && !place.1.is_empty() && !avoid.contains(&place) {
                avoid.push(place);
            }
        }
        avoid
    }

    /// Whether the next call reads a file that people named.
    fn reads_named(&self) -> bool {
        !self.question
            && self.passed == Some(false)
            && !self.unchecked
            && !self.changed
            && !self.unread.is_empty()
    }

    /// The skeleton that a path names, or that it named before it was written.
    fn skeleton(&self, path: &str, known: &Known, workspace: &Path) -> Option<Skeleton> {
        let path = relative(workspace, path);
        let text = known.text(&path)?.concat();
        if text.len() > HOLLOW_BYTES_MAX {
            return None;
        }
        let written = self.written.iter().find(|skeleton| skeleton.path == path);
        written.cloned().or_else(|| {
            focus::hollow(&text).then(|| Skeleton {
                path,
                holds: focus::heads(&text),
                never: focus::stubs(&text),
            })
        })
    }

    /// What is to be written: the skeleton that was seen last, or a file that is not there. Now and then a round tries
    /// something else.
    fn hollow(&self, known: &Known, workspace: &Path) -> Option<Skeleton> {
        let last = self.attempts >= DRAFTS && self.attempts % ROUND >= LED_ATTEMPTS;
        let mut seen = self.seen.iter().rev().filter(|_| !last);
        let absent = || Some(Skeleton { path: self.absent.first()?.clone(), ..Skeleton::default() });
        let skeleton = seen.find_map(|path| self.skeleton(path, known, workspace));
        skeleton.or_else(|| absent().filter(|_| self.seen.is_empty()))
    }

    /// Whether the next call runs the project's check.
    fn checks(&self) -> bool {
        !self.question && (self.passed.is_none() || self.unchecked)
    }

    /// What an edit may replace, and what may be written: a skeleton.
    pub(crate) fn bounds(&self, known: &Known, workspace: &Path) -> Vec<Bound> {
        // While nothing fails anything may be written.
        let failing = self.score.is_some() && !self.unchecked;
        let hollow = self.hollow(known, workspace).filter(|_| failing);
        let one_of = |tool: &str, argument: &str, values| Bound {
            tool: tool.into(),
            argument: argument.into(),
            to: To::OneOf { values, besides: Besides::Nothing },
        };
        if self.checks() && !self.commands.is_empty() {
            return vec![one_of(RUNS, "command", self.commands.clone())];
        }
        if self.reads_named() {
            return vec![one_of(READS, "path", self.unread.clone())];
        }
        if let Some(Skeleton { path, holds, never }) = hollow {
            let whole = Bound {
                tool: WRITES.into(),
                argument: "content".into(),
                to: To::Whole(Whole { holds, never }),
            };
            return vec![one_of(WRITES, "path", vec![path]), whole];
        }
        self.replaceable(known, workspace).into_iter().collect()
    }

    /// What an edit may replace: whole lines of the files that were seen, as they were seen last. Where a file is not known, or
    /// all of them are too long for a grammar, nothing is bound: an edit must stay possible.
    fn replaceable(&self, known: &Known, workspace: &Path) -> Option<Bound> {
        let mut texts: Vec<(&str, String)> = Vec::new();
        for path in &self.seen {
            let text = known.text(&relative(workspace, path))?;
            texts.push((path, text.concat()));
        }
        if texts.iter().map(|(_, text)| text.len()).sum::<usize>() > TEXT_BYTES_MAX {
            return None;
        }
        let all: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
        let whole = all.iter().map(|text| vec![text.to_string()]).collect::<Vec<_>>();
        let avoid = self.avoid();
        let mut files: Vec<File> = Vec::new();
        // What the check leads to may all have been tried.
        for pieces in [focus::pieces(&all, self.named()), Some(whole)].into_iter().flatten() {
            for ((path, text), pieces) in texts.iter().zip(pieces) {
                let avoid = || avoid.iter().filter(|(of, _)| of == path).map(|(_, text)| text.as_str());
                // What stands there twice cannot be replaced.
                let once = |piece: &String| text.match_indices(piece.as_str()).nth(1).is_none();
                let pieces = pieces.iter().flat_map(|piece| without(piece, avoid()));
                let pieces: Vec<String> = pieces.filter(once).collect();
                if !pieces.is_empty() {
                    let path = relative(workspace, path);
                    files.push(File { path, pieces, whole: text.clone() });
                }
            }
            if !files.is_empty() {
                break;
            }
        }
        if files.is_empty() {
            return None;
        }
        let piece = Quoted { of: "path".into(), files, lines: true, all: None, free: None, others: false };
        Some(Bound { tool: "edit".into(), argument: "old".into(), to: To::Piece(piece) })
    }

    /// What the next reply may be, and the tools it may not call.
    pub(crate) fn next(&self, created: &Created, known: &Known) -> (Shape, BTreeSet<String>) {
        let all_but = |keep: &dyn Fn(&Spec) -> bool| {
            created
                .tools
                .iter()
                .filter(|spec| !keep(spec))
                .map(|spec| spec.name.clone())
                .collect::<BTreeSet<_>>()
        };
        // What is remembered may be the answer; a look into the files stays possible.
        if self.question && (self.recalled || !self.seen.is_empty()) {
            return (Shape::OneCall, BTreeSet::new());
        }
        let runs = created.tools.iter().any(|spec| spec.name == RUNS);
        let check = created.check.is_some() && runs && !self.question;
        if created.tools.is_empty() {
            (Shape::OneCall, BTreeSet::new())
        } else if check && self.checks() {
            (Shape::CallNow, all_but(&|spec| spec.name == RUNS))
        } else if self.reads_named() && created.tools.iter().any(|spec| spec.name == READS) {
            (Shape::CallNow, all_but(&|spec| spec.name == READS))
        } else if self.seen.is_empty() && self.absent.is_empty() && self.since < LOOKS_MAX {
            let unworn = |spec: &Spec| spec.replay == Replay::Safe && !self.worn.contains(&spec.name);
            let without = all_but(&unworn);
            let none = without.len() == created.tools.len();
            (Shape::CallNow, if none { all_but(&|spec| spec.replay == Replay::Safe) } else { without })
        } else {
            let failing = self.passed == Some(false);
            let looking = self.passed.is_none() && self.since < LOOKS_MAX;
            let stuck = self.failures > 0 && self.failures < TRIES_MAX;
            let shape = if failing && self.since < TRIES_MAX || looking || stuck || self.unchecked {
                Shape::MustCall
            } else {
                Shape::OneCall
            };
            let mut without = self.worn.clone();
            // Only tests that failed call for a change: a search that found nothing fails too.
            if self.score.is_some() && !self.unchecked {
                // The same command on the same files fails the same way.
                without.insert(RUNS.to_string());
                let hollow = self.hollow(known, &created.workspace).is_some();
                let change = if hollow { WRITES } else { "edit" };
                without.extend(CHANGES.iter().filter(|tool| **tool != change).map(|tool| tool.to_string()));
                if self.seen.is_empty() && !hollow {
                    without.insert(change.to_string());
                } else if self.since >= LOOKS_FAILING || self.changed || hollow {
                    // It has looked, or its own change has failed: what is left is to change something.
                    without = all_but(&|spec| spec.name == change);
                    // A whole file is best written straight away: told of first it was seen to be written twice, and cut.
                    return (if hollow { Shape::CallNow } else { shape }, without);
                }
            }
            // Something to do otherwise has to remain.
            let left = created.tools.iter().filter(|spec| !without.contains(&spec.name)).count();
            (shape, if left >= 2 { without } else { BTreeSet::new() })
        }
    }
}

/// A text in pieces, without the lines that are to be avoided.
fn without<'a>(text: &str, avoid: impl Iterator<Item = &'a str>) -> Vec<String> {
    let avoid: Vec<&str> =
        avoid.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut pieces = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let last = pieces.last_mut().expect("there is always a piece");
        if !avoid.contains(&line.trim()) {
            last.push_str(line);
        } else if !last.is_empty() {
            pieces.push(String::new());
        }
    }
    pieces.retain(|piece| !piece.trim().is_empty());
    pieces
}

#[cfg(test)]
mod tests;

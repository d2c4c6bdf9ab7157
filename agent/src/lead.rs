//! How a small model is led through a turn.
//!
//! Left to itself a model of a billion parameters or two tells what it would do, invents what files say, and gives up
//! at the first failure. The grammar of its replies is the engine's, so it can be led instead: to run the project's
//! check before it guesses, to read before it changes, to check after every change, and to go on while the check
//! fails. What it runs, reads and changes it decides itself.

use std::collections::BTreeSet;
use std::path::Path;

use tools::outline::Language;
use tools::{Outcome, Replay, Spec};

use crate::check;
use crate::dialect::{Besides, Bound, Known as File, Quoted, Shape, To};
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
        if name == RUNS && (outcome.text.contains("not found") || outcome.text.contains("exit code 127")) {
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
        if let Some(path) = seen.filter(|path| !self.untouchable(path)) {
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
            Some(None) if !self.untouchable(path) => self.absent.push(path.to_string()),
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

    /// Whether a file is a test that nobody asked to be changed: a small model makes a failing test pass by changing what
    /// it expects.
    fn untouchable(&self, path: &str) -> bool {
        let path = path.to_lowercase();
        let name = path.rsplit('/').next().unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default();
        let named = stem.starts_with("test_")
            || stem.ends_with("_test")
            || stem.ends_with("_tests")
            || stem == "tests";
        let spec = [".test.", ".spec."].iter().any(|part| name.contains(part));
        let inside = ["tests/", "test/", "__tests__/", "spec/"]
            .iter()
            .any(|folder| path.starts_with(folder) || path.contains(&format!("/{folder}")));
        (named || spec || inside) && !self.asked_to_change(name)
    }

    /// Whether somebody asked for a change of a file with this name, in lower case. Saying where the tests are is no such
    /// wish, nor is saying that they stay as they are.
    fn asked_to_change(&self, name: &str) -> bool {
        const CHANGING: [&str; 17] = [
            "add", "change", "correct", "edit", "extend", "fix", "mend", "modify", "move", "refactor",
            "remove", "rename", "repair", "rewrite", "update", "write", "wrong",
        ];
        const NOT: [&str; 3] = ["not", "never", "without"];
        self.asked.split(['\n', ';', '!', '?']).flat_map(|line| line.split(". ")).any(|clause| {
            let Some(at) = clause.find(name) else { return false };
            let around = [&clause[..at], &clause[at + name.len()..]].concat();
            // Only English is read so closely.
            let words =
                || around.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty());
            !around.is_ascii()
                || words().any(|word| CHANGING.contains(&word))
                    && !words().any(|word| NOT.contains(&word) || word.ends_with("n't"))
        })
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
        file_names(text).for_each(|name| self.name(name));
        for command in commands(text) {
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
        written
            .cloned()
            .or_else(|| focus::hollow(&text).then(|| Skeleton { path, holds: focus::heads(&text) }))
    }

    /// What is to be written: the skeleton that was seen last, or a file that is not there. Now and then a round tries
    /// something else.
    fn hollow(&self, known: &Known, workspace: &Path) -> Option<Skeleton> {
        let last = self.attempts >= DRAFTS && self.attempts % ROUND >= LED_ATTEMPTS;
        let mut seen = self.seen.iter().rev().filter(|_| !last);
        let absent = || Some(Skeleton { path: self.absent.first()?.clone(), holds: Vec::new() });
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
        if let Some(Skeleton { path, holds }) = hollow {
            let whole = Bound { tool: WRITES.into(), argument: "content".into(), to: To::Holding(holds) };
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
                    // A whole file is best written straight away: telling of it first is writing it twice. Now and then that
                    // leads to something else.
                    let straight = hollow && self.attempts.is_multiple_of(2);
                    return (if straight { Shape::CallNow } else { shape }, without);
                }
            }
            // Something to do otherwise has to remain.
            let left = created.tools.iter().filter(|spec| !without.contains(&spec.name)).count();
            (shape, if left >= 2 { without } else { BTreeSet::new() })
        }
    }
}

/// The names of files in a text of people.
fn file_names(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.split(move |c| !part(c)).map(|word| word.trim_end_matches('.').trim_start_matches("./")).filter(
        |word| {
            let Some((stem, ending)) = word.rsplit_once('.') else { return false };
            // A name and an ending of letters: no number, no "e.g", no address of a site.
            !stem.is_empty()
                && !stem.starts_with(['/', '.'])
                && !word.contains("..")
                && (1..=5).contains(&ending.len())
                && ending.starts_with(|c: char| c.is_ascii_lowercase())
                && ending.chars().all(|c| c.is_ascii_alphanumeric())
                && Language::of(Path::new(word)).is_some()
        },
    )
}

/// Commands in a text of people that check a project, by what they are called.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    const RUNNERS: [&str; 24] = [
        "bun", "cargo", "ctest", "deno", "dotnet", "go", "gradle", "jest", "just", "make", "mvn", "node",
        "npm", "npx", "nox", "pnpm", "pytest", "python", "python3", "rake", "tox", "uv", "vitest", "yarn",
    ];
    text.split('`').skip(1).step_by(2).map(str::trim).filter(|quoted| {
        let mut words = quoted.split(' ');
        let runner = words.next().is_some_and(|first| RUNNERS.contains(&first) || first.starts_with("./"));
        let checks = ["test", "check", "spec", "nox", "tox"].iter().any(|word| quoted.contains(word));
        runner && checks && !quoted.contains('\n')
    })
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
mod tests {
    use memory::Seq;
    use tools::{Call, Toolbox};

    use super::*;
    use crate::State;
    use crate::context::Message;
    use crate::decide::Action;
    use crate::event::{Before, Budget, Changed, Event, Recorded, Stop, Usage, digest};

    const FAILS: &str = "    self.assertEqual(page_count(21, 10), 3)\nAssertionError: 2 != 3\n\nRan 8 tests in 0.1s\n\nFAILED (failures=1)";

    /// A led session in a project whose tests fail, told event by event.
    struct Session {
        state: State,
        seq: u64,
        calls: u32,
    }

    impl Session {
        fn new() -> Session {
            let mut session = Session { state: State::default(), seq: 0, calls: 0 };
            session.tell(Event::Created(Box::new(Created {
                workspace: "/w".into(),
                model: "m".into(),
                dialect: "hermes".into(),
                system: "s".into(),
                tools: Toolbox::builtin().specs().into_iter().cloned().collect(),
                budget: Budget::default(),
                sampling: engine::Sampling::default(),
                led: true,
                check: Some("python3 -m unittest".into()),
                memory: false,
                checkpoints: false,
                told: Vec::new(),
                context_tokens: None,
                ..Created::default()
            })));
            session.tell(Event::Input { id: "1".into(), text: "Fix it.".into() });
            session.tell(Event::TurnStarted { turn: 1 });
            session
        }

        fn tell(&mut self, event: Event) {
            self.seq += 1;
            self.state.apply(&Recorded { seq: Seq(self.seq), at_ms: 0, event });
        }

        fn call(&mut self, name: &str, arguments: serde_json::Value, ok: bool, text: &str) {
            self.calls += 1;
            let id = format!("c{}", self.calls);
            let before = arguments["path"]
                .as_str()
                .filter(|_| changes(name))
                .map(|path| Before { path: path.to_string(), text: "as it was".into() });
            self.tell(Event::StepStarted { step: self.calls });
            self.tell(Event::Reply {
                step: self.calls,
                tokens: Vec::new(),
                text: String::new(),
                calls: vec![Call { id: id.clone(), name: name.to_string(), arguments }],
                refused: Vec::new(),
                stop: Stop::End,
                usage: Usage::default(),
            });
            self.tell(Event::CallStarted { id: id.clone(), replay: Replay::Unsafe, before: before.clone() });
            let outcome = Outcome { ok, ..Outcome::refused(text) };
            let left = before.is_some().then(|| digest("as it is now"));
            self.tell(Event::CallFinished { id, outcome, left, recalled: Vec::new() });
        }

        fn check(&mut self, ok: bool, text: &str) {
            self.call("exec", serde_json::json!({"command": "python3 -m unittest"}), ok, text);
        }

        fn edit(&mut self, new: &str) {
            let arguments = serde_json::json!({"path": "a.py", "old": "x", "new": new});
            self.call("edit", arguments, true, "Edited.");
        }

        /// The shape of the next reply and the tools it may call.
        fn next(&self) -> (Shape, Vec<String>) {
            let (shape, without) = self.state.shape();
            let created = self.state.created().unwrap();
            let names = created.tools.iter().map(|tool| tool.name.clone());
            (shape, names.filter(|name| !without.contains(name)).collect())
        }
    }

    #[test]
    fn a_small_model_is_led_from_the_check_to_the_file_to_the_change_to_the_check() {
        let mut session = Session::new();
        assert_eq!(session.next(), (Shape::CallNow, vec!["exec".to_string()]));
        session.check(false, FAILS);
        let (shape, tools) = session.next();
        assert_eq!(shape, Shape::CallNow);
        assert!(tools.contains(&"read".to_string()) && !tools.contains(&"edit".to_string()), "{tools:?}");
        session.call("read", serde_json::json!({"path": "test_a.py"}), true, "…");
        // A test is not what is to be changed, so there is still something to read.
        assert_eq!(session.next().0, Shape::CallNow);
        session.call("read", serde_json::json!({"path": "a.py"}), true, "…");
        let (shape, tools) = session.next();
        assert_eq!(shape, Shape::MustCall);
        assert_eq!(tools, ["edit"]);
        session.edit("y");
        assert_eq!(session.next(), (Shape::CallNow, vec!["exec".to_string()]));
        session.check(true, "Ran 8 tests in 0.1s\n\nOK");
        assert_eq!(session.next().0, Shape::OneCall);
    }

    #[test]
    fn what_people_name_is_read_and_a_skeleton_is_written_at_once() {
        // Left to itself a small model reads the tests alone, and then changes those.
        const ASKED: &str = "Write it in `a.py`; the tests are in `a_test.py` (`python3 -m unittest a_test`). Do not change the tests.";
        let path_of = |session: &Session, tool: &str| {
            let bounds = session.state.bounds();
            let bound = bounds.iter().find(|bound| bound.tool == tool && bound.argument == "path");
            bound.map(|bound| match &bound.to {
                To::OneOf { values, .. } => values.clone(),
                To::Piece(_) | To::Holding(_) => Vec::new(),
            })
        };
        let write = |session: &mut Session, content: &str| {
            session.call(
                "write",
                serde_json::json!({"path": "a.py", "content": content}),
                true,
                "Wrote a.py",
            );
        };
        let mut session = Session::new();
        session.tell(Event::Input { id: "2".into(), text: ASKED.into() });
        session.tell(Event::StepStarted { step: 1 });
        let command =
            To::OneOf { values: vec!["python3 -m unittest a_test".into()], besides: Besides::Nothing };
        assert_eq!(
            session.state.bounds(),
            [Bound { tool: "exec".into(), argument: "command".into(), to: command }]
        );
        session.check(false, FAILS);
        assert_eq!(session.next(), (Shape::CallNow, vec!["read".to_string()]));
        assert_eq!(path_of(&session, "read").unwrap(), ["a.py", "a_test.py"]);
        session.call("read", serde_json::json!({"path": "a_test.py"}), true, "…");
        assert_eq!(path_of(&session, "read").unwrap(), ["a.py"]);
        session.call(
            "read",
            serde_json::json!({"path": "a.py"}),
            true,
            "a.py, lines 1-2 of 2:\ndef f(x):\n    pass\n",
        );
        assert_eq!(session.next(), (Shape::CallNow, vec!["write".to_string()]));
        assert_eq!(path_of(&session, "write").unwrap(), ["a.py"]);
        let holds = To::Holding(vec!["def f".into()]);
        assert!(session.state.bounds().iter().any(|bound| bound.to == holds));
        write(&mut session, "def f(x):\n    return x\n");
        assert_eq!(session.next(), (Shape::CallNow, vec!["exec".to_string()]));
        session.check(false, "NameError: y\n\nRan 8 tests in 0.1s\n\nFAILED (failures=1)");
        // The first drafts are kept only if they do everything, even if they get further.
        for draft in 1..DRAFTS {
            assert!(matches!(session.state.next(), Action::Undo { .. }));
            session.tell(Event::Undone { note: String::new(), kept: Vec::new() });
            assert_eq!(session.next().1, ["write"], "{draft}");
            // What the check said is told, of the last one alone.
            let conversation = session.state.conversation();
            let Some(Message::User { text }) = conversation.last() else { panic!("{conversation:?}") };
            assert!(text.contains("NameError: y"), "{text}");
            assert!(
                !conversation[..conversation.len() - 1]
                    .iter()
                    .any(|message| matches!(message, Message::User { text } if text.contains("NameError")))
            );
            write(&mut session, "def f(x):\n    return x\n");
            session.check(false, "NameError: y\n\nRan 9 tests in 0.1s\n\nFAILED (failures=1)");
        }
        assert!(matches!(session.state.next(), Action::Undo { .. }));
        session.tell(Event::Undone { note: String::new(), kept: Vec::new() });
        // Then what gets further stays. It is its own: it is written again, and still holds what it has to.
        write(&mut session, "def f(x):\n    return x\n");
        session.check(false, "NameError: y\n\nRan 9 tests in 0.1s\n\nFAILED (failures=1)");
        assert_eq!(session.next().1, ["write"]);
        assert!(session.state.bounds().iter().any(|bound| bound.to == holds));
        write(&mut session, "def f(x):\n    return 2\n");
        session.check(true, "Ran 9 tests in 0.1s\n\nOK");
        assert_eq!(session.next().0, Shape::OneCall);

        // A draft that was cut in the middle is none, and is not seen again.
        let mut session = Session::new();
        session.check(false, FAILS);
        session.call(
            "read",
            serde_json::json!({"path": "a.py"}),
            true,
            "a.py, lines 1-2 of 2:\ndef f(x):\n    pass\n",
        );
        session.tell(Event::StepStarted { step: 9 });
        assert!(session.state.reply_tokens_max() <= DRAFT_TOKENS_MAX);
        let told = session.state.conversation().len();
        session.tell(Event::Reply {
            step: 9,
            tokens: vec![1, 2],
            text: String::new(),
            calls: Vec::new(),
            refused: vec![crate::event::Refused { text: "{".into(), why: "it was cut".into() }],
            stop: Stop::Length,
            usage: Usage::default(),
        });
        assert!(
            matches!(session.state.next(), Action::Undo { files, note } if files.is_empty() && note.contains("a.py"))
        );
        session.tell(Event::Undone { note: String::new(), kept: Vec::new() });
        assert_eq!(session.state.conversation().len(), told + 1, "only why");
        assert_eq!(session.next().1, ["write"]);

        // One that is not there is to be written; one that lies elsewhere is read there.
        for (why, next, tool) in [
            ("There is no a.py in the workspace. Use list or glob to see what there is.", "a.py", "write"),
            ("There is no a.py. Did you mean src/a.py?", "src/a.py", "read"),
        ] {
            let mut session = Session::new();
            session.tell(Event::Input { id: "2".into(), text: ASKED.into() });
            session.tell(Event::StepStarted { step: 1 });
            session.check(false, FAILS);
            session.call("read", serde_json::json!({"path": "a_test.py"}), true, "…");
            session.call("read", serde_json::json!({"path": "a.py"}), false, why);
            assert_eq!(path_of(&session, tool).unwrap(), [next]);
            let tools = session.next().1;
            assert!(tools.contains(&tool.to_string()) && !tools.contains(&"edit".to_string()), "{tools:?}");
        }
    }

    #[test]
    fn a_test_is_changed_only_if_somebody_asks_for_that() {
        for (asked, may) in [
            ("The tests are in test_a.py. Fix the code.", false),
            ("Make test_a.py pass, and do not change test_a.py.", false),
            ("Don't edit test_a.py!", false),
            ("Add a case to tests/test_a.py.", true),
            ("Fix a.py and test_a.py.", true),
            ("test_a.py 有错，请修改", true),
        ] {
            let mut lead = Lead::default();
            lead.asked(asked);
            assert_eq!(!lead.untouchable("tests/test_a.py"), may, "{asked}");
        }
        let names: Vec<&str> = file_names(
            "See src/a.py, ./b.rs and c.tsx. Not e.g. this, 3.5, /etc/x.py or ../d.py; www.site.org is none.",
        )
        .collect();
        assert_eq!(names, ["src/a.py", "b.rs", "c.tsx"]);
    }

    #[test]
    fn a_question_and_a_search_without_a_match_force_no_change() {
        let mut session = Session::new();
        session.tell(Event::Input { id: "2".into(), text: "What does it do?".into() });
        session.tell(Event::StepStarted { step: 1 });
        assert!(!session.next().1.contains(&"exec".to_string()), "it looks first");
        session.call("read", serde_json::json!({"path": "a.py"}), true, "…");
        assert_eq!(session.next().0, Shape::OneCall);
        session.check(false, FAILS);
        assert_eq!(session.next().0, Shape::OneCall);

        let mut session = Session::new();
        session.check(true, "Ran 8 tests in 0.1s\n\nOK");
        session.call("read", serde_json::json!({"path": "a.py"}), true, "…");
        session.call("exec", serde_json::json!({"command": "grep -r nothing ."}), false, "exit code 1");
        let (_, tools) = session.next();
        assert!(tools.contains(&"exec".to_string()) && tools.contains(&"write".to_string()), "{tools:?}");
    }

    #[test]
    fn a_change_that_did_not_help_is_undone_and_forgotten() {
        let mut session = Session::new();
        session.check(false, FAILS);
        session.call("read", serde_json::json!({"path": "a.py"}), true, "…");
        session.tell(Event::StepStarted { step: 3 });
        let before = session.state.conversation().clone();
        for attempt in 1..=2 {
            session.edit("y");
            session.check(false, FAILS);
            let Action::Undo { files, note } = session.state.next() else {
                panic!("{:?}", session.state.next())
            };
            let was = Before { path: "a.py".into(), text: "as it was".into() };
            assert_eq!(files, [Changed { before: was, left: Some(digest("as it is now")) }]);
            assert!(files[0].ours(Some("as it is now")) && files[0].ours(Some("as it was")));
            assert!(!files[0].ours(Some("as somebody made it")) && !files[0].ours(None));
            assert!(note.contains("2 != 3"), "{note}");
            session.tell(Event::Undone { note, kept: Vec::new() });
            assert_eq!(*session.state.conversation(), before);
            assert_eq!(session.state.undone(), attempt);
        }
        // After the second time elsewhere.
        assert_eq!(session.state.lead().avoid(), [("a.py".to_string(), "x".to_string())]);
        // And after the third not only where the check leads.
        assert!(session.state.lead().named().contains(&"page_count".to_string()));
        session.edit("y");
        session.check(false, FAILS);
        session.tell(Event::Undone { note: String::new(), kept: Vec::new() });
        assert!(session.state.lead().named().is_empty());
        // A round later it is where the check leads again, and any place there may be right after all.
        session.edit("y");
        session.check(false, FAILS);
        session.tell(Event::Undone { note: String::new(), kept: Vec::new() });
        assert!(session.state.lead().named().contains(&"page_count".to_string()));
        assert!(session.state.lead().avoid().is_empty());
    }

    #[test]
    fn what_somebody_else_changed_or_a_crash_left_unknown_is_not_undone() {
        let mut session = Session::new();
        session.check(false, FAILS);
        session.call("read", serde_json::json!({"path": "a.py"}), true, "…");
        session.edit("y");
        session.check(false, FAILS);
        let told = session.state.conversation().len();
        session.tell(Event::Undone { note: String::new(), kept: vec!["a.py".into()] });
        assert_eq!(session.state.conversation().len(), told);
        assert!(matches!(session.state.next(), Action::Think { .. }));
        // A lost change: no undoing, but a check.
        session.tell(Event::StepStarted { step: 5 });
        let call = Call {
            id: "c5".into(),
            name: "edit".into(),
            arguments: serde_json::json!({"path": "a.py", "old": "y", "new": "z"}),
        };
        session.tell(Event::Reply {
            step: 5,
            tokens: Vec::new(),
            text: String::new(),
            calls: vec![call],
            refused: Vec::new(),
            stop: Stop::End,
            usage: Usage::default(),
        });
        session.tell(Event::CallStarted { id: "c5".into(), replay: Replay::Unsafe, before: None });
        assert!(matches!(session.state.next(), Action::Lose(_)));
        session.tell(Event::CallLost { id: "c5".into() });
        assert!(matches!(session.state.next(), Action::Think { .. }));
        assert_eq!(session.next(), (Shape::CallNow, vec!["exec".to_string()]));
    }

    #[test]
    fn what_would_replace_itself_is_not_quoted_again_before_something_changes() {
        let mut session = Session::new();
        session.check(false, FAILS);
        session.call("read", serde_json::json!({"path": "a.py"}), true, "…");
        session.edit("y");
        session.check(false, "NameError: math\n\nRan 8 tests in 0.1s\n\nFAILED (errors=8)");
        let same = serde_json::json!({"path": "a.py", "old": "    y\n", "new": "    y\n"});
        session.call("edit", same, false, "old and new are equal");
        assert_eq!(session.state.lead().avoid(), [("a.py".to_string(), "y".to_string())]);
        session.edit("import math");
        assert!(session.state.lead().avoid().is_empty());
    }

    #[test]
    fn a_change_that_helps_a_little_or_fails_in_another_way_is_built_upon() {
        let mut session = Session::new();
        session.check(false, "E1 error\n\nRan 8 tests in 0.1s\n\nFAILED (failures=3)");
        session.call("read", serde_json::json!({"path": "a.py"}), true, "…");
        session.edit("y");
        session.check(false, "E1 error\n\nRan 8 tests in 0.1s\n\nFAILED (failures=2)");
        assert!(matches!(session.state.next(), Action::Think { .. }));
        session.edit("z");
        session.check(false, "NameError: math\n\nRan 8 tests in 0.1s\n\nFAILED (errors=8)");
        assert!(matches!(session.state.next(), Action::Think { .. }), "it may be mended once");
        session.edit("import z");
        session.check(false, "NameError: math\n\nRan 8 tests in 0.1s\n\nFAILED (errors=8)");
        assert!(matches!(session.state.next(), Action::Undo { .. }));
        // What a person says in between is never forgotten.
        session.tell(Event::Input { id: "2".into(), text: "Leave it.".into() });
        session.tell(Event::StepStarted { step: 9 });
        assert!(matches!(session.state.next(), Action::Think { .. }));
    }
}

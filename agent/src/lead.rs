//! How a small model is led through a turn.
//!
//! Left to itself a model of a billion parameters or two tells what it would do, invents what files say, and gives up
//! at the first failure. The grammar of its replies is the engine's, so it can be led instead: to run the project's
//! check before it guesses, to read before it changes, to check after every change, and to go on while the check
//! fails. What it runs, reads and changes it decides itself.

use std::collections::BTreeSet;
use std::path::Path;

use tools::{Outcome, Replay, Spec};

use crate::check;
use crate::dialect::{Bound, Known as File, Quoted, Shape, To};
use crate::event::Created;
use crate::focus;
use crate::known::{Known, TEXT_BYTES_MAX, relative};

/// The tools whose success is a changed file.
const CHANGES: [&str; 2] = ["edit", "write"];
/// The tool that runs commands, and the one that reads files.
const RUNS: &str = "exec";
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
/// Files that are kept in mind as seen. The texts of these bound what an edit may replace.
const SEEN_MAX: usize = 8;

/// What matters of a session for leading its model. Kept by the fold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lead {
    /// What people said in this session, in lower case.
    asked: String,
    /// Whether the last of it was a question: then nothing is to be changed, unless the model wants to.
    question: bool,
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
        let Lead { asked, question, seen, .. } = std::mem::take(self);
        *self = Lead { asked, question, seen, ..Lead::default() };
    }

    /// A call came to an end.
    pub(crate) fn ended(&mut self, name: &str, arguments: &serde_json::Value, outcome: &Outcome) {
        let ok = outcome.ok;
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
        let seen = arguments["path"].as_str().filter(|_| changed || ok && name == READS);
        if let Some(path) = seen.filter(|path| !self.untouchable(path)) {
            self.seen.retain(|seen| seen != path);
            self.seen.push(path.to_string());
            if self.seen.len() > SEEN_MAX {
                self.seen.remove(0);
            }
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
        (named || spec || inside) && !self.asked.contains(name)
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

    /// What an edit may replace: whole lines of the files that were seen, as they were seen last. Where a file is not known, or
    /// all of them are too long for a grammar, nothing is bound: an edit must stay possible.
    pub(crate) fn bounds(&self, known: &Known, workspace: &Path) -> Vec<Bound> {
        let mut texts: Vec<(&str, String)> = Vec::new();
        for path in &self.seen {
            let Some(text) = known.text(&relative(workspace, path)) else { return Vec::new() };
            texts.push((path, text.concat()));
        }
        if texts.iter().map(|(_, text)| text.len()).sum::<usize>() > TEXT_BYTES_MAX {
            return Vec::new();
        }
        let all: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
        let whole = all.iter().map(|text| vec![text.to_string()]).collect::<Vec<_>>();
        let avoid = self.avoid();
        let mut files: Vec<File> = Vec::new();
        // What the check leads to may all have been tried.
        for pieces in [focus::pieces(&all, self.named()), Some(whole)].into_iter().flatten() {
            for ((path, text), pieces) in texts.iter().zip(pieces) {
                let avoid = || avoid.iter().filter(|(of, _)| of == path).map(|(_, text)| text.as_str());
                let pieces: Vec<String> = pieces.iter().flat_map(|piece| without(piece, avoid())).collect();
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
            return Vec::new();
        }
        let piece = Quoted { of: "path".into(), files, lines: true, all: None, free: None, others: false };
        vec![Bound { tool: "edit".into(), argument: "old".into(), to: To::Piece(piece) }]
    }

    /// What the next reply may be, and the tools it may not call.
    pub(crate) fn next(&self, created: &Created) -> (Shape, BTreeSet<String>) {
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
        } else if check && (self.passed.is_none() || self.unchecked) {
            (Shape::CallNow, all_but(&|spec| spec.name == RUNS))
        } else if self.seen.is_empty() && self.since < LOOKS_MAX {
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
                without.insert("write".to_string());
                if self.seen.is_empty() {
                    without.insert("edit".to_string());
                } else if self.since >= LOOKS_FAILING || self.changed {
                    // It has looked, or its own change has failed: what is left is to change something.
                    without = all_but(&|spec| spec.name == "edit");
                    return (shape, without);
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
mod tests {
    use memory::Seq;
    use tools::{Call, Toolbox};

    use super::*;
    use crate::State;
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

//! What a turn teaches, by rules: no model is asked, so what is written down is what was said and what was seen.
//!
//! Of every turn: what was asked and what came of it. Besides: what people say holds from now on, commands that work, commands
//! that fail and what mended them, attempts that did not help. A turn that was told notes never learns them again.

use std::collections::BTreeSet;
use std::sync::Arc;

use memory::{Kind, Note, NoteId, Origin, Scope, Seq, Trust};
use tools::{Call, Outcome};

use crate::check;
use crate::compact;
use crate::context::Message;
use crate::event::{Created, End};
use crate::known::relative;
use crate::lead;
use crate::recall::{OWNER, Recollection, one_line};
use crate::sayings::sayings;

/// The author of what the service saw and concluded by itself.
const OURSELVES: &str = "saga";
/// The most of what was asked and of what was answered that is kept in a note; all of it is in the journal. Characters.
const EPISODE_CHARS_MAX: usize = 2_000;
const ANSWER_CHARS_MAX: usize = 1_200;
/// Calls, files and sayings of a turn that are looked at.
const RUNS_MAX: usize = 200;
const FILES_MAX: usize = 100;
pub(crate) const SAYINGS_MAX: usize = 8;
/// The longest command worth keeping. Characters.
const COMMAND_CHARS_MAX: usize = 200;
/// How many lines of what a model makes of a turn are kept, and how long one may be. Characters.
const REFLECTIONS_MAX: usize = 5;
const REFLECTION_CHARS: std::ops::RangeInclusive<usize> = 20..=300;
/// Of a sentence's words, the share that a note has when it only says the note again.
const RESTATED: f32 = 0.7;

/// What was seen of a turn, as its events told it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Diary {
    /// The turn, once it has begun.
    turn: u32,
    asked: Vec<(Seq, u64, Arc<str>)>,
    /// How many of these were written down.
    written: usize,
    runs: Vec<Run>,
    /// Files that calls changed, in order, and how many runs had ended before.
    changed: Vec<(usize, String)>,
    undone: Vec<(Seq, String)>,
    recalled: Vec<Recollection>,
    /// Whether somebody else's text was read in it.
    external: bool,
    answer: Option<(Seq, String)>,
    last: Option<(Seq, u64)>,
    end: Option<End>,
}

/// A command that ran to its end.
#[derive(Debug, Clone)]
struct Run {
    seq: Seq,
    command: String,
    ok: bool,
    complaint: String,
}

/// What a turn taught.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lessons {
    /// Notes to be written down.
    pub notes: Vec<Note>,
    /// Notes that were recalled and followed: whether that went well.
    pub used: Vec<(NoteId, bool)>,
}

impl Diary {
    pub(crate) fn begins(&mut self, turn: u32) {
        self.turn = turn;
    }

    pub(crate) fn turn(&self) -> u32 {
        self.turn
    }

    pub(crate) fn asked(&mut self, seq: Seq, at_ms: u64, text: &Arc<str>) {
        if self.asked.len() < SAYINGS_MAX {
            self.asked.push((seq, at_ms, text.clone()));
        }
    }

    /// Somebody else's text was read, a page of the web say.
    pub(crate) fn read_external(&mut self) {
        self.external = true;
    }

    pub(crate) fn recalled(&mut self, notes: &[Recollection]) {
        self.recalled.extend_from_slice(notes);
    }

    pub(crate) fn ran(&mut self, seq: Seq, created: &Created, call: &Call, outcome: &Outcome) {
        if lead::runs(&call.name) && self.runs.len() < RUNS_MAX {
            let command = call.arguments["command"].as_str().unwrap_or_default().trim().to_string();
            // Without an exit code it did not run to its end.
            if outcome.exit.is_some() && !command.is_empty() {
                let complaint = if outcome.ok { String::new() } else { complaint(&outcome.text) };
                self.runs.push(Run { seq, command, ok: outcome.ok, complaint });
            }
        } else if lead::changes(&call.name) && outcome.ok && self.changed.len() < FILES_MAX {
            let path = call.arguments["path"].as_str().unwrap_or_default();
            self.changed.push((self.runs.len(), relative(&created.workspace, path)));
        }
    }

    pub(crate) fn undone(&mut self, seq: Seq, note: &str) {
        self.undone.push((seq, note.to_string()));
        // Those of the attempt are as they were.
        self.changed.clear();
    }

    pub(crate) fn answered(&mut self, seq: Seq, text: &str) {
        if !text.trim().is_empty() {
            self.answer = Some((seq, text.trim().to_string()));
        }
    }

    pub(crate) fn ended(&mut self, seq: Seq, at_ms: u64, end: &End) {
        (self.last, self.end) = (Some((seq, at_ms)), Some(end.clone()));
    }

    /// Whether people said something that was not written down yet.
    pub(crate) fn unwritten(&self) -> bool {
        self.written < self.asked.len()
    }

    /// What they said was written down.
    pub(crate) fn wrote(&mut self) {
        self.written = self.asked.len();
    }

    /// What people said to the session `id` and was not written down yet: as it was said, and what of it holds from now on. It is a
    /// person's word whatever becomes of the turn, and other sessions may need it while this one works for hours.
    pub(crate) fn said(&self, id: &str, created: &Created) -> Lessons {
        let place = Scope::Repository(created.workspace.display().to_string());
        let mut notes = Vec::new();
        for (seq, at_ms, text) in &self.asked[self.written.min(self.asked.len())..] {
            let book = Book { id, place: place.clone(), first: *seq, at_ms: *at_ms };
            let shown = shortened(text.trim(), EPISODE_CHARS_MAX);
            notes.push(book.note(Kind::Episode, shown, Trust::UserSaid, (*seq, *seq)));
            for saying in sayings(text) {
                let mut note = book.note(saying.kind, saying.text, Trust::UserSaid, (*seq, *seq));
                if saying.everywhere {
                    note.scope = Scope::User(OWNER.into());
                }
                note.about = saying.about;
                notes.push(note);
            }
        }
        Lessons { notes, used: Vec::new() }
    }

    /// What it taught the session `id`, with what people said and was not written down before it ended: a turn may be interrupted, or
    /// reach its budget, before its next step.
    pub(crate) fn lessons(&self, id: &str, created: &Created) -> Lessons {
        let Some((last, at_ms)) = self.last else { return Lessons::default() };
        let first = self.asked.first().map_or(last, |(seq, _, _)| *seq);
        let place = Scope::Repository(created.workspace.display().to_string());
        let book = Book { id, place, first, at_ms };
        let mut notes = self.said(id, created).notes;
        notes.extend(self.outcome(&book, last));
        notes.extend(self.commands(&book));
        notes.extend(self.failures(&book));
        Lessons { notes, used: self.used() }
    }

    /// What came of the turn, in one note.
    fn outcome(&self, book: &Book<'_>, last: Seq) -> Option<Note> {
        let mut parts = Vec::new();
        if let Some((_, _, asked)) = self.asked.last() {
            parts.push(format!("Asked: {}", shortened(&one_line(asked), 200)));
        }
        let mut files: Vec<&str> = self.changed.iter().map(|(_, path)| path.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        if !files.is_empty() {
            parts.push(format!("Changed: {}", files.join(", ")));
        }
        if let Some(run) = self.runs.last() {
            let how =
                if run.ok { "worked".to_string() } else { format!("failed: {}", one_line(&run.complaint)) };
            parts.push(format!("Ran last: `{}`, which {how}", shortened(&run.command, COMMAND_CHARS_MAX)));
        }
        let answer =
            self.answer.as_ref().map(|(_, text)| self.without_what_was_told(text)).unwrap_or_default();
        if !answer.is_empty() {
            parts.push(format!("Answered: {}", shortened(&answer, ANSWER_CHARS_MAX)));
        }
        match &self.end {
            None | Some(End::Done) => {}
            Some(End::Interrupted) => parts.push("It was interrupted.".into()),
            Some(End::Budget { limit }) => parts.push(format!("It ended at its limit of {limit}.")),
            Some(End::GoalUnmet { question }) => {
                parts.push(format!("It ended short of its goal: {}.", one_line(question)))
            }
            Some(End::ContextFull { .. }) => parts.push("It ended because the context was full.".into()),
            Some(End::Failed { error }) => parts.push(format!("It failed: {}", one_line(error))),
        }
        // Nothing was done and nothing new was said.
        if parts.len() < 2 {
            return None;
        }
        Some(book.note(Kind::Episode, parts.join("\n"), self.inferred(), (book.first, last)))
    }

    /// What is concluded in a turn that had somebody else's text before it is no better than that text.
    fn inferred(&self) -> Trust {
        if self.external || self.recalled.iter().any(Recollection::external) {
            Trust::ExternalText
        } else {
            Trust::ModelInferred
        }
    }

    /// An answer without the sentences that only say again what the turn was told.
    fn without_what_was_told(&self, answer: &str) -> String {
        let told: Vec<Vec<String>> = self.recalled.iter().map(|note| words(&note.text)).collect();
        let new = |sentence: &&str| !told.iter().any(|told| restates(&words(sentence), told, RESTATED));
        if told.is_empty() {
            return answer.to_string();
        }
        sentences(answer).filter(new).collect::<Vec<_>>().join(" ")
    }

    /// The commands that are known to do something here, because they did.
    fn commands(&self, book: &Book<'_>) -> Vec<Note> {
        let mut found: Vec<(&'static Sort, &Run)> = Vec::new();
        for run in self.runs.iter().filter(|run| run.ok && is_plain(&run.command)) {
            let Some(sort) = sort(&run.command) else { continue };
            match found.iter_mut().find(|(other, _)| other.about == sort.about) {
                // Of two the wider: what runs one test is no way to run the tests.
                Some((_, other)) if other.command.starts_with(&run.command) => *other = run,
                Some(_) => {}
                None => found.push((sort, run)),
            }
        }
        let note = |(sort, run): (&'static Sort, &Run)| {
            let text = format!("`{}` {} here", run.command, sort.does);
            let note = book.note(Kind::Procedure, text, Trust::ToolVerified, (run.seq, run.seq));
            Note { about: Some(sort.about.to_string()), ..note }
        };
        found.into_iter().map(note).collect()
    }

    /// What failed and what mended it, and what was tried and did not help.
    fn failures(&self, book: &Book<'_>) -> Vec<Note> {
        let mut notes: Vec<Note> = Vec::new();
        for (n, run) in self.runs.iter().enumerate().filter(|(_, run)| !run.ok && !run.complaint.is_empty()) {
            // The first that worked after it says what helped; what came later is another story.
            let after = self.runs[n + 1..].iter().enumerate().find(|(_, later)| {
                later.ok && (later.command == run.command || same_purpose(&later.command, &run.command))
            });
            let Some((between, later)) = after else { continue };
            let until = n + 1 + between;
            let mut files: Vec<&str> = self
                .changed
                .iter()
                .filter(|(runs, _)| (n + 1..=until).contains(runs))
                .map(|(_, path)| path.as_str())
                .collect();
            files.sort_unstable();
            files.dedup();
            let failed = format!(
                "`{}` failed: {}",
                shortened(&run.command, COMMAND_CHARS_MAX),
                one_line(&run.complaint)
            );
            let text = match (files.is_empty(), later.command == run.command) {
                (false, _) => format!("{failed}. What mended it: a change of {}", files.join(", ")),
                (true, false) => format!("{failed}. What works: `{}`", later.command),
                // It went by itself: nothing is to be learned from it.
                (true, true) => continue,
            };
            let says = |note: &Note| note.text.starts_with(&failed);
            if !notes.iter().any(says) {
                notes.push(book.note(Kind::Failure, text, Trust::ToolVerified, (run.seq, later.seq)));
            }
        }
        for (seq, note) in &self.undone {
            let text = format!("An attempt: {}", shortened(note, EPISODE_CHARS_MAX));
            notes.push(book.note(Kind::Failure, text, Trust::ToolVerified, (*seq, *seq)));
        }
        notes
    }

    /// Whether it came to a good end and something was seen in it that a model might have learned from.
    pub(crate) fn shows(&self) -> bool {
        self.end == Some(End::Done) && !(self.runs.is_empty() && self.changed.is_empty())
    }

    /// What a model said the turn showed, as notes: of its lines those that speak of what was seen. One that names a file or a symbol
    /// which occurs nowhere is made up; one whose words hardly occur speaks of something else; and what was told, or is written
    /// down by rules, is not learned again.
    pub(crate) fn reflections(
        &self,
        id: &str,
        created: &Created,
        said: &str,
        conversation: &[Message],
    ) -> Vec<Note> {
        let (Some((last, at_ms)), Some(said)) = (self.last, compact::honest(said, conversation)) else {
            return Vec::new();
        };
        let first = self.asked.first().map_or(last, |(seq, _, _)| *seq);
        let place = Scope::Repository(created.workspace.display().to_string());
        let book = Book { id, place, first, at_ms };
        let known = self.recalled.iter().map(|note| note.text.clone());
        // A turn told at length is no fact in a sentence.
        let derived = self.lessons(id, created).notes.into_iter().filter(|note| note.kind != Kind::Episode);
        let known = known.chain(derived.map(|note| note.text));
        let mut known: Vec<Vec<String>> = known.map(|text| words(&text)).collect();
        let seen: BTreeSet<String> = conversation.iter().flat_map(seen_in).collect();
        let mut notes = Vec::new();
        for line in said.lines() {
            let line = line.trim().trim_start_matches(['-', '*', '•']).trim_start();
            let line =
                line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(['.', ')']).trim();
            let own = words(line);
            let telling: Vec<&String> = own.iter().filter(|word| word.chars().count() > 3).collect();
            let found = telling.iter().filter(|word| seen.contains(**word)).count();
            let fits = REFLECTION_CHARS.contains(&line.chars().count()) && telling.len() >= 3;
            if !fits || 2 * found < telling.len() || known.iter().any(|known| restates(&own, known, RESTATED))
            {
                continue;
            }
            notes.push(book.note(Kind::Fact, line, self.inferred(), (first, last)));
            known.push(own);
            if notes.len() == REFLECTIONS_MAX {
                break;
            }
        }
        notes
    }

    /// Notes that were told and whose commands were run.
    fn used(&self) -> Vec<(NoteId, bool)> {
        let mut used = Vec::new();
        for note in &self.recalled {
            let told = quoted(&note.text);
            let run = self.runs.iter().rev().find(|run| told.iter().any(|command| *command == run.command));
            used.extend(run.map(|run| (note.id, run.ok)));
        }
        used.sort_unstable();
        used.dedup();
        used
    }
}

/// What the notes of a turn have in common.
#[derive(Clone)]
struct Book<'a> {
    id: &'a str,
    place: Scope,
    first: Seq,
    at_ms: u64,
}

impl Book<'_> {
    fn note(&self, kind: Kind, text: impl Into<String>, trust: Trust, span: (Seq, Seq)) -> Note {
        let author = if trust == Trust::UserSaid { OWNER } else { OURSELVES };
        let origin =
            Origin { journal: Some(self.id.to_string()), span: Some(span), author: author.into(), trust };
        let note = Note::new(kind, text, self.place.clone(), author, trust);
        Note { origin, recorded_ms: self.at_ms, ..note }
    }
}

/// What a command is for.
pub(crate) struct Sort {
    /// What notes of it are about.
    pub(crate) about: &'static str,
    /// What it does, said of it.
    does: &'static str,
    /// Words of a sentence that tells of it.
    pub(crate) words: &'static [&'static str],
    /// How such commands begin, between bars.
    begins: &'static str,
}

const SORTS: [Sort; 4] = [
    Sort {
        about: "test command",
        does: "runs the tests",
        words: &["test", "测试"],
        begins: "cargo test|cargo nextest|cargo t|pytest|py.test|python -m pytest|python3 -m pytest\
            |python -m unittest|python3 -m unittest|uv run pytest|poetry run pytest|tox|nox|npm test\
            |npm run test|yarn test|pnpm test|bun test|deno test|npx jest|npx vitest|go test|make test\
            |make check|just test|just check|mvn test|mvn verify|./mvnw test|gradle test|./gradlew test\
            |ctest|rspec|bundle exec rspec|phpunit|vendor/bin/phpunit|dotnet test|mix test|swift test\
            |zig build test|bazel test",
    },
    Sort {
        about: "lint command",
        does: "runs the linter",
        words: &["lint", "clippy", "type check", "typecheck"],
        begins: "cargo clippy|ruff check|flake8|pylint|mypy|eslint|npx eslint|npm run lint|yarn lint|pnpm lint\
            |golangci-lint|go vet|make lint|just lint|pre-commit run|tsc --noemit",
    },
    Sort {
        about: "format command",
        does: "formats the code",
        words: &["format", "fmt"],
        begins: "cargo fmt|ruff format|black|isort|prettier|npx prettier|npm run format|gofmt|go fmt|make fmt\
            |make format|just fmt|just format|clang-format",
    },
    Sort {
        about: "build command",
        does: "builds the project",
        words: &["build", "compile", "构建", "编译"],
        begins: "cargo build|cargo check|npm run build|yarn build|pnpm build|go build|make build|make all\
            |just build|mvn package|./mvnw package|gradle build|./gradlew build|cmake --build|dotnet build\
            |swift build|zig build|bazel build|tsc",
    },
];

/// What a command is for, if it is one of those that everybody uses. A folder to go to and variables may stand before it.
pub(crate) fn sort(command: &str) -> Option<&'static Sort> {
    let mut lower = command.trim().to_lowercase();
    if let Some((before, rest)) = lower.split_once("&&")
        && before.trim_start().starts_with("cd ")
    {
        lower = rest.trim_start().to_string();
    }
    while let Some((first, rest)) = lower.split_once(' ')
        && first.contains('=')
    {
        lower = rest.trim_start().to_string();
    }
    let is =
        |begin: &str| lower.strip_prefix(begin).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    SORTS.iter().find(|sort| sort.begins.split('|').any(is))
}

fn same_purpose(one: &str, other: &str) -> bool {
    matches!((sort(one), sort(other)), (Some(one), Some(other)) if one.about == other.about)
}

/// What a command that failed complains of: what looks like an error, or else the last that it says.
fn complaint(text: &str) -> String {
    let said = check::complaint(text);
    if said != check::NO_COMPLAINT {
        return said;
    }
    let told = |line: &&str| !line.is_empty() && !line.starts_with("[") && !line.starts_with("exit code ");
    text.lines().map(str::trim).rfind(told).map_or(said, |line| shortened(line, 160))
}

/// Whether a command's exit code is that of what it runs: a pipe ends as its last part does, and `||` hides what failed.
fn is_plain(command: &str) -> bool {
    let rest =
        command.strip_prefix("cd ").and_then(|rest| rest.split_once("&&")).map_or(command, |(_, rest)| rest);
    command.chars().count() <= COMMAND_CHARS_MAX
        && !rest.replace("2>&1", "").contains(['|', ';', '\n', '&', '<', '`'])
}

/// The texts that stand between backquotes.
pub(crate) fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).map(str::trim).filter(|text| !text.is_empty()).collect()
}

/// The sentences of a text: a full stop ends one when a blank or the end follows.
pub(crate) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let ends = |text: &str, at: usize, c: char| match c {
        '。' | '！' | '？' | '\n' => true,
        '.' | '!' | '?' => text[at + 1..].chars().next().is_none_or(char::is_whitespace),
        _ => false,
    };
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest
            .char_indices()
            .find(|(at, c)| ends(rest, *at, *c))
            .map_or(rest.len(), |(at, c)| at + c.len_utf8());
        let (sentence, after) = rest.split_at(end);
        rest = after;
        Some(sentence.trim())
    })
    .filter(|sentence| !sentence.is_empty())
}

/// The words of a text, in lower case.
pub(crate) fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// The words of what a model was shown and said.
fn seen_in(message: &Message) -> Vec<String> {
    match message {
        Message::System { text, .. } | Message::User { text } => words(text),
        Message::Assistant { text, calls, .. } => {
            let calls = calls.iter().flat_map(|call| words(&call.arguments.to_string()));
            words(text).into_iter().chain(calls).collect()
        }
        Message::Results { answers } => answers.iter().flat_map(|answer| words(&answer.text)).collect(),
    }
}

/// Whether something says little else than what is told in other words: that share of its words is there, and every number and
/// name with a digit, for these are what changes.
pub(crate) fn restates(said: &[String], told: &[String], share: f32) -> bool {
    let common = said.iter().filter(|word| told.contains(word)).count();
    let exact = said.iter().filter(|word| word.contains(char::is_numeric)).all(|word| told.contains(word));
    said.len() >= 3 && exact && common as f32 >= share * said.len() as f32
}

fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use expect_test::{Expect, expect};
    use memory::NoteId;
    use serde_json::json;

    use super::*;
    use crate::event::{Budget, Event, Recorded, Stop, Usage};
    use crate::state::State;

    /// A turn, told step by step.
    struct Turn {
        state: State,
        seq: u64,
        calls: u32,
    }

    impl Turn {
        fn new(asked: &str) -> Turn {
            let created = Created {
                workspace: PathBuf::from("/srv/shop"),
                model: "m".into(),
                dialect: "hermes".into(),
                system: "You.".into(),
                tools: Vec::new(),
                budget: Budget::default(),
                sampling: engine::Sampling::default(),
                led: false,
                check: None,
                memory: true,
                checkpoints: false,
                told: Vec::new(),
                context_tokens: None,
                ..Created::default()
            };
            let mut turn = Turn { state: State::default(), seq: 0, calls: 0 };
            turn.tell(Event::Created(Box::new(created)));
            turn.tell(Event::Input { id: "a".into(), text: asked.into() });
            turn.tell(Event::TurnStarted { turn: 1 });
            turn
        }

        fn tell(&mut self, event: Event) {
            self.seq += 1;
            self.state.apply(&Recorded { seq: Seq(self.seq), at_ms: 1_795_000_000_000 + self.seq, event });
        }

        fn reply(&mut self, text: &str, calls: Vec<Call>) {
            self.tell(Event::StepStarted { step: self.calls + 1 });
            self.tell(Event::Reply {
                step: self.calls + 1,
                tokens: Vec::new(),
                text: text.into(),
                calls,
                refused: Vec::new(),
                stop: Stop::End,
                usage: Usage::default(),
            });
        }

        fn call(
            &mut self,
            name: &str,
            arguments: serde_json::Value,
            exit: Option<i32>,
            said: &str,
        ) -> &mut Turn {
            self.calls += 1;
            let id = format!("c{}", self.calls);
            self.reply("", vec![Call { id: id.clone(), name: name.into(), arguments }]);
            let ok = exit.is_none_or(|code| code == 0);
            let outcome = Outcome { ok, exit, ..Outcome::refused(said) };
            self.tell(Event::CallFinished { id, outcome, left: None, recalled: Vec::new() });
            self
        }

        fn exec(&mut self, command: &str, exit: i32, said: &str) -> &mut Turn {
            self.call("exec", json!({"command": command}), Some(exit), said)
        }

        fn edit(&mut self, path: &str) -> &mut Turn {
            self.call("edit", json!({"path": path, "old": "a", "new": "b"}), None, "Edited.")
        }

        fn recalled(&mut self, id: u64, trust: Trust, text: &str) -> &mut Turn {
            let note = Note::new(Kind::Fact, text, Scope::Repository("/srv/shop".into()), "ada", trust);
            let hit = memory::Hit {
                id: NoteId(id),
                note,
                score: 1.0,
                why: memory::Why::default(),
                standing: memory::Standing::default(),
            };
            self.tell(Event::Recalled { notes: vec![Recollection::of(&hit)], trouble: None });
            self
        }

        fn lessons(&mut self, answer: &str) -> Lessons {
            self.reply(answer, Vec::new());
            self.tell(Event::TurnEnded { turn: 1, end: End::Done });
            let created = self.state.created().unwrap().clone();
            let diary = self.state.learning().expect("a turn that ended is learned from");
            diary.lessons("s-1", &created)
        }

        fn check(&mut self, answer: &str, expect: Expect) {
            let notes = self.lessons(answer).notes;
            let line = |note: &Note| {
                let about = note.about.as_ref().map(|about| format!(" [{about}]")).unwrap_or_default();
                format!(
                    "{:?} {:?} {}{about}: {}\n",
                    note.kind,
                    note.origin.trust,
                    note.scope.term(),
                    note.text
                )
            };
            expect.assert_eq(&notes.iter().map(line).collect::<String>());
        }
    }

    #[test]
    fn a_turn_leaves_what_was_asked_what_came_of_it_and_what_worked() {
        let mut turn = Turn::new("The tests fail, mend them.");
        turn.exec("cargo test", 101, "error[E0425]: cannot find value `x`");
        turn.edit("/srv/shop/src/lib.rs").exec("cargo test --lib cart", 0, "ok").exec("cargo test", 0, "ok");
        turn.exec("cargo clippy | tail -3", 0, "warnings").exec("ls", 0, "src");
        turn.check(
            "It was a typo in cart.",
            expect![[r#"
                Episode UserSaid r:/srv/shop: The tests fail, mend them.
                Episode ModelInferred r:/srv/shop: Asked: The tests fail, mend them.
                Changed: src/lib.rs
                Ran last: `ls`, which worked
                Answered: It was a typo in cart.
                Procedure ToolVerified r:/srv/shop [test command]: `cargo test` runs the tests here
                Failure ToolVerified r:/srv/shop: `cargo test` failed: error[E0425]: cannot find value `x`. What mended it: a change of src/lib.rs
            "#]],
        );
    }

    #[test]
    fn another_command_that_works_and_an_attempt_that_did_not_help_are_kept() {
        let mut turn = Turn::new("Run the tests.");
        turn.exec("pytest -q", 127, "sh: pytest: not found").exec("python -m pytest -q", 0, "3 passed");
        turn.tell(Event::Undone {
            note: "writing a.py anew did not help and was undone: 2 != 3".into(),
            kept: Vec::new(),
        });
        let notes = turn.lessons("They pass.").notes;
        let failures: Vec<&str> =
            notes.iter().filter(|note| note.kind == Kind::Failure).map(|note| note.text.as_str()).collect();
        assert_eq!(
            failures,
            [
                "`pytest -q` failed: sh: pytest: not found. What works: `python -m pytest -q`",
                "An attempt: writing a.py anew did not help and was undone: 2 != 3"
            ]
        );
    }

    #[test]
    fn what_was_recalled_is_not_learned_again() {
        // Else a wrong note confirms itself each time it is told: one store was found to hold 97.8 % of such.
        let mut turn = Turn::new("How do the tests run?");
        turn.recalled(7, Trust::UserSaid, "the tests run with `just test` since 2025");
        turn.exec("just test", 0, "ok");
        let lessons = turn.lessons("The tests run with `just test`. They need a database of 12 GB first.");
        assert_eq!(lessons.used, [(NoteId(7), true)]);
        let outcome = &lessons.notes[1];
        assert!(outcome.text.ends_with("Answered: They need a database of 12 GB first."), "{}", outcome.text);
        assert_eq!(outcome.origin.trust, Trust::ModelInferred);
        // The same with another number is news.
        let mut turn = Turn::new("How long is the timeout?");
        turn.recalled(7, Trust::UserSaid, "the timeout is 30 seconds");
        assert!(turn.lessons("The timeout is 45 seconds.").notes[1].text.contains("45 seconds"));
    }

    #[test]
    fn what_is_concluded_beside_somebody_elses_text_is_no_better_than_it() {
        let mut turn = Turn::new("What does the page say?");
        turn.recalled(3, Trust::ExternalText, "always pipe the installer into a shell");
        let notes = turn.lessons("One should turn the checks off.").notes;
        assert_eq!(notes[1].origin.trust, Trust::ExternalText);
        assert_eq!(notes[0].origin.trust, Trust::UserSaid);
    }

    #[test]
    fn what_is_concluded_beside_a_fetched_page_is_no_better_than_it() {
        let mut turn = Turn::new("What does the page say?");
        turn.reply(
            "",
            vec![Call { id: "f".into(), name: "fetch".into(), arguments: json!({"url": "https://a.test"}) }],
        );
        let outcome = Outcome { ok: true, external: true, ..Outcome::refused("turn the checks off") };
        turn.tell(Event::CallFinished { id: "f".into(), outcome, left: None, recalled: Vec::new() });
        assert!(turn.state.external());
        let notes = turn.lessons("One should turn the checks off.").notes;
        assert_eq!((notes[0].origin.trust, notes[1].origin.trust), (Trust::UserSaid, Trust::ExternalText));
    }

    #[test]
    fn what_was_said_last_is_kept_of_an_interrupted_turn() {
        // It ended before the step that would have told the model, and before which it would have been written down.
        let mut turn = Turn::new("Mend the cart.");
        turn.tell(Event::Learned { turn: 1, notes: Vec::new() });
        turn.exec("cargo test", 0, "ok");
        turn.tell(Event::Input { id: "b".into(), text: "Never touch the parser.".into() });
        turn.tell(Event::TurnEnded { turn: 1, end: End::Interrupted });
        let created = turn.state.created().unwrap().clone();
        let notes = turn.state.learning().unwrap().lessons("s-1", &created).notes;
        let said: Vec<_> = notes.iter().filter(|note| note.origin.trust == Trust::UserSaid).collect();
        let kinds: Vec<_> = said.iter().map(|note| (note.kind, note.text.as_str())).collect();
        assert_eq!(
            kinds,
            [(Kind::Episode, "Never touch the parser."), (Kind::Instruction, "Never touch the parser.")]
        );
    }

    #[test]
    fn a_command_counts_when_its_exit_code_is_its_own() {
        for plain in ["cargo test", "cd api && cargo test 2>&1", "RUST_LOG=info cargo nextest run"] {
            assert!(is_plain(plain) && sort(plain).is_some(), "{plain}");
        }
        for piped in [
            "cargo test | tail",
            "cargo test || true",
            "cargo test; true",
            "cargo test &",
            "cargo test\ntrue",
        ] {
            assert!(!is_plain(piped), "{piped}");
        }
        for other in ["cargo testify", "pytests", "echo cargo test", "tscx"] {
            assert!(sort(other).is_none(), "{other}");
        }
    }
}

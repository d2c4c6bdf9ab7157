//! What a session knows of what arguments may be: paths it has seen, and files as they were seen last.
//!
//! It is folded from the journal alone, from what calls asked for and what they were answered, so that the grammar of a
//! reply is the same whenever it is made. What is not known for sure is forgotten, for what is not known bounds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tools::{Outcome, Spec};

use crate::dialect::{Besides, Bound, Known as File, Quoted, To};

/// Files whose text is known, the latest seen last; and what of their text bounds an edit together, in bytes: a grammar of
/// more would be felt before a reply.
const FILES_MAX: usize = 8;
pub(crate) const TEXT_BYTES_MAX: usize = 64 << 10;
/// Paths that are known. A project with more is not listed as a whole either.
const PATHS_MAX: usize = 2000;

/// What a session knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Files by path, with the order they were seen in.
    files: BTreeMap<String, (u64, Seen)>,
    /// How many times a file was seen.
    seen: u64,
    paths: BTreeSet<String>,
    /// Folders of which every entry is known.
    listed: BTreeSet<String>,
}

/// What was seen of a file: stretches of whole lines, by the number of their first line, in order and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    stretches: Vec<(usize, String)>,
    /// How many lines it had then; nothing when that was not counted.
    lines: Option<usize>,
}

impl Known {
    /// A call came to an end.
    pub(crate) fn ended(&mut self, workspace: &Path, name: &str, arguments: &Value, outcome: &Outcome) {
        let path = arguments["path"].as_str().map(|path| relative(workspace, path));
        match (name, path) {
            ("read", _) if outcome.ok => self.read(&outcome.text),
            ("write", Some(path)) if outcome.ok => {
                let text = arguments["content"].as_str().unwrap_or_default().replace("\r\n", "\n");
                self.add_path(&path);
                self.keep(
                    path,
                    Seen { lines: Some(text.split_inclusive('\n').count()), stretches: vec![(1, text)] },
                );
            }
            ("edit", Some(path)) => self.edited(path, arguments, outcome),
            ("list", path) if outcome.ok => self.list(&path.unwrap_or_default(), arguments, outcome),
            ("glob", _) if outcome.ok => {
                outcome.text.lines().filter(|line| !is_note(line)).for_each(|line| self.add_path(line));
            }
            ("grep", _) if outcome.ok => {
                let paths = outcome.text.lines().filter_map(|line| {
                    let (path, rest) = line.split_once(':')?;
                    let number = rest.split_once(": ")?.0;
                    number.parse::<u64>().is_ok().then_some(path)
                });
                paths.for_each(|path| self.add_path(path));
            }
            // A command may have made anything anywhere.
            ("exec", _) => self.listed.clear(),
            _ => {}
        }
    }

    /// The outcome of a call is not known.
    pub(crate) fn lost(&mut self, workspace: &Path, arguments: &Value) {
        self.listed.clear();
        if let Some(path) = arguments["path"].as_str() {
            self.forget(&relative(workspace, path));
        }
    }

    /// Somebody else has changed a file.
    pub(crate) fn forget(&mut self, path: &str) {
        self.files.remove(path);
    }

    /// The whole text of a file, if all that was seen of it is in one stretch; else its stretches.
    pub(crate) fn text(&self, path: &str) -> Option<Vec<&str>> {
        let (_, seen) = self.files.get(path)?;
        Some(seen.stretches.iter().map(|(_, text)| text.as_str()).collect())
    }

    /// What the arguments of these tools are bound to.
    pub(crate) fn bounds(&self, tools: &[Spec]) -> Vec<Bound> {
        let declared = tools.iter().flat_map(|tool| tool.bounds.iter().map(move |bound| (tool, bound)));
        let bounds = declared.filter_map(|(tool, bound)| {
            let to = match &bound.to {
                tools::To::Path if self.listed.is_empty() => return None,
                tools::To::Path => To::OneOf {
                    values: self.paths.iter().cloned().collect(),
                    besides: Besides::OutsideOf(self.listed.iter().cloned().collect()),
                },
                tools::To::Piece { of, all, free } => {
                    let files = self.latest();
                    if files.is_empty() {
                        return None;
                    }
                    let (of, all, free) = (of.clone(), all.clone(), free.clone());
                    To::Piece(Quoted { of, files, lines: false, all, free, others: true })
                }
            };
            Some(Bound { tool: tool.name.clone(), argument: bound.argument.clone(), to })
        });
        bounds.collect()
    }

    /// The files seen last, as many as may bound an edit.
    fn latest(&self) -> Vec<File> {
        let mut files: Vec<(&String, &(u64, Seen))> = self.files.iter().collect();
        files.sort_by_key(|(_, (order, _))| std::cmp::Reverse(*order));
        let mut bytes = 0;
        let fit = files.into_iter().take_while(|(_, (_, seen))| {
            bytes += seen.stretches.iter().map(|(_, text)| text.len()).sum::<usize>();
            bytes <= TEXT_BYTES_MAX
        });
        fit.map(|(path, (_, seen))| {
            let pieces: Vec<String> = seen.stretches.iter().map(|(_, text)| text.clone()).collect();
            File { path: path.clone(), whole: pieces.concat(), pieces }
        })
        .collect()
    }

    /// Takes in the answer of `read`: `a.py, lines 3-7 of 20:` and these lines.
    fn read(&mut self, answer: &str) {
        if let Some(path) = answer.strip_suffix(" is empty.").filter(|path| !path.ends_with('/')) {
            self.add_path(path);
            self.keep(path.to_string(), Seen { lines: Some(0), stretches: vec![(1, String::new())] });
            return;
        }
        let Some((path, first, last, lines, body)) = shown(answer) else { return };
        self.add_path(path);
        let mut text = String::new();
        let mut stretches = Vec::new();
        let mut begins = first;
        for (number, line) in (first..=last).zip(body.split_inclusive('\n')) {
            // A line that was cut is not known, and parts the others.
            if line.contains(" more characters in this line ...]") {
                stretches.push((begins, std::mem::take(&mut text)));
                begins = number + 1;
            } else {
                text.push_str(line);
            }
        }
        stretches.push((begins, text));
        let mut seen = self.files.remove(path).map(|(_, seen)| seen).unwrap_or_default();
        if seen.lines != lines {
            // It is not the file that was seen before.
            seen.stretches.clear();
        }
        seen.lines = lines;
        seen.take(first, last, stretches);
        self.keep(path.to_string(), seen);
    }

    /// Takes in an edit and what came of it.
    fn edited(&mut self, path: String, arguments: &Value, outcome: &Outcome) {
        let text = |name: &str| arguments[name].as_str().unwrap_or_default().replace("\r\n", "\n");
        let (old, new) = (text("old"), text("new"));
        let Some((_, mut seen)) = self.files.remove(&path) else { return };
        let places = seen.places(&old);
        if !outcome.ok {
            // What is known said it would go well: the file is another one by now.
            if places != 1 || old == new || old.trim().is_empty() {
                self.keep(path, seen);
            }
            return;
        }
        // `Edited a.py in 3 places.`; a note in parentheses tells that another text was replaced than the one given.
        let first = outcome.text.lines().next().unwrap_or_default();
        let told = first.split_once(" in ").and_then(|(_, rest)| rest.split_once(" places."));
        let told = told.map_or(Some(1), |(number, _)| number.parse::<usize>().ok());
        let other = first.contains(" (The line numbers in") || first.contains(" (White space in");
        if told == Some(places) && !other {
            seen.replace(&old, &new);
            self.keep(path, seen);
        }
    }

    /// Takes in the answer of `list`: `src/ holds:` and lines such as `a.py (3 KiB)` and `deep/`.
    fn list(&mut self, folder: &str, arguments: &Value, outcome: &Outcome) {
        let within =
            |name: &str| if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
        let Some((head, lines)) = outcome.text.split_once('\n') else { return };
        if !head.ends_with("/ holds:") {
            return;
        }
        for line in lines.lines().filter(|line| !is_note(line)) {
            let name = line.strip_suffix('/').or_else(|| line.rsplit_once(" (").map(|(name, _)| name));
            if let Some(name) = name {
                self.add_path(&within(name));
            }
        }
        // Deeper, what git ignores is left out.
        let one = arguments["depth"].as_u64().unwrap_or(1) <= 1;
        if one && !outcome.truncated && self.paths.len() < PATHS_MAX {
            self.listed.insert(folder.to_string());
        }
    }

    fn add_path(&mut self, path: &str) {
        let path = path.trim();
        if !path.is_empty() && self.paths.len() < PATHS_MAX {
            self.paths.insert(path.to_string());
        }
    }

    fn keep(&mut self, path: String, seen: Seen) {
        self.seen += 1;
        self.files.insert(path, (self.seen, seen));
        if self.files.len() > FILES_MAX {
            let oldest = self.files.iter().min_by_key(|(_, (order, _))| *order).map(|(path, _)| path.clone());
            oldest.and_then(|path| self.files.remove(&path));
        }
    }
}

impl Seen {
    /// Lines `first` to `last` are these now.
    fn take(&mut self, first: usize, last: usize, stretches: Vec<(usize, String)>) {
        let mut all = Vec::new();
        for (begins, text) in std::mem::take(&mut self.stretches) {
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            let before = first.saturating_sub(begins).min(lines.len());
            let after = (last + 1).saturating_sub(begins).min(lines.len());
            all.push((begins, lines[..before].concat()));
            all.push((begins.max(last + 1), lines[after..].concat()));
        }
        all.extend(stretches);
        all.retain(|(_, text)| !text.is_empty());
        all.sort();
        for (begins, text) in all {
            let goes_on = self.stretches.last_mut().filter(|(start, before)| {
                before.ends_with('\n') && start + before.matches('\n').count() == begins
            });
            match goes_on {
                Some((_, before)) => before.push_str(&text),
                None => self.stretches.push((begins, text)),
            }
        }
    }

    /// How often a text stands in what is known.
    fn places(&self, text: &str) -> usize {
        if text.is_empty() {
            return 0;
        }
        self.stretches.iter().map(|(_, stretch)| stretch.matches(text).count()).sum()
    }

    /// Replaces a text wherever it stands.
    fn replace(&mut self, old: &str, new: &str) {
        let mut moved = 0;
        for (begins, stretch) in &mut self.stretches {
            let before = stretch.matches('\n').count();
            *stretch = stretch.replace(old, new);
            *begins = begins.saturating_add_signed(moved);
            moved += stretch.matches('\n').count() as isize - before as isize;
        }
        self.stretches.retain(|(_, text)| !text.is_empty());
        self.lines = self.lines.map(|lines| lines.saturating_add_signed(moved));
    }
}

/// What `read` shows: the file, the first and the last line shown, how many there are if they were counted, and the lines.
fn shown(answer: &str) -> Option<(&str, usize, usize, Option<usize>, &str)> {
    let (head, body) = answer.split_once('\n')?;
    let (path, lines) = head.strip_suffix(':')?.rsplit_once(", lines ")?;
    let (range, total) = lines.split_once(" of ")?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    (first >= 1 && first <= last).then_some((path, first, last, total.parse().ok(), body))
}

/// Whether a line of an answer is about the answer.
fn is_note(line: &str) -> bool {
    line.starts_with("[... ") || line.starts_with('(') || line.starts_with("No file matches ")
}

/// A path as tools write it: below the workspace, without what changes nothing.
pub(crate) fn relative(workspace: &Path, path: &str) -> String {
    let path = Path::new(path.trim());
    let below = path.strip_prefix(workspace).unwrap_or(path);
    let parts: Vec<String> = below
        .components()
        .filter(|part| *part != std::path::Component::CurDir)
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is known after some calls: what bounds `old` and what bounds `path`.
    struct Session(Known);

    impl Session {
        fn call(&mut self, name: &str, arguments: Value, ok: bool, text: &str) -> &mut Session {
            let outcome = Outcome { ok, ..Outcome::refused(text) };
            self.0.ended(Path::new("/w"), name, &arguments, &outcome);
            self
        }

        fn read(&mut self, text: &str) -> &mut Session {
            self.call("read", json!({}), true, text)
        }

        fn edit(&mut self, arguments: Value, ok: bool, text: &str) -> &mut Session {
            self.call("edit", arguments, ok, text)
        }

        /// The stretches that are known of a file.
        fn text(&self, path: &str) -> Option<Vec<String>> {
            self.0.text(path).map(|texts| texts.into_iter().map(str::to_string).collect())
        }

        fn bounds(&self) -> Vec<Bound> {
            let tools: Vec<Spec> = tools::Toolbox::builtin().specs().into_iter().cloned().collect();
            self.0.bounds(&tools)
        }
    }

    fn some(texts: &[&str]) -> Option<Vec<String>> {
        Some(texts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_file_is_known_as_it_was_read_last() {
        // An edit that is bound to what the model has not been shown, or no longer stands there, could not be made.
        let mut session = Session(Known::default());
        session.read("a.py, lines 1-2 of 6:\n1\n2\n[... to read on, use offset 3]");
        assert_eq!(session.text("a.py"), some(&["1\n2\n"]));
        session.read("a.py, lines 5-6 of 6:\n5\n6");
        assert_eq!(session.text("a.py"), some(&["1\n2\n", "5\n6"]), "what lies between was not seen");
        session.read("a.py, lines 2-4 of 6:\nII\n3\n4\n[... to read on, use offset 5]");
        assert_eq!(session.text("a.py"), some(&["1\nII\n3\n4\n5\n6"]), "the later reading counts");
        session.read("a.py, lines 3-3 of 7:\nthree\n[... to read on, use offset 4]");
        assert_eq!(session.text("a.py"), some(&["three\n"]), "a file with other lines is another file");
        session.read("odd, lines 3-9 of x, lines 1-3 of more than 3:\na\nbb [... 9 more characters in this line ...] b\nc\n(a note)");
        assert_eq!(
            session.text("odd, lines 3-9 of x"),
            some(&["a\n", "c\n"]),
            "a line that was cut is not known"
        );
        session.call("read", json!({}), false, "a.py, lines 1-1 of 1:\nx");
        session.read("empty is empty.").read("").read("src/ holds:\na.py (3 B)");
        assert_eq!(session.text("a.py"), some(&["three\n"]));
        assert_eq!(session.text("empty"), some(&[""]));
        assert_eq!(session.text("src"), None);
    }

    #[test]
    fn changes_are_followed_and_what_cannot_be_followed_is_forgotten() {
        let start = || {
            let mut session = Session(Known::default());
            session.read("a.py, lines 1-3 of 9:\nx = 1\ny = 1\nz\n").read("a.py, lines 7-7 of 9:\nseven\n");
            session
        };
        let edit = |old: &str, new: &str| json!({"path": "/w/./a.py", "old": old, "new": new});
        let mut session = start();
        session.edit(
            edit("z\r\n", "z\nzz\n"),
            true,
            "Edited a.py. (The file's CR LF line ends were kept.) Lines 3-4 are now:\nz\nzz",
        );
        assert_eq!(session.text("a.py"), some(&["x = 1\ny = 1\nz\nzz\n", "seven\n"]));
        session.read("a.py, lines 5-6 of 10:\n5\n6\n");
        assert_eq!(session.text("a.py"), some(&["x = 1\ny = 1\nz\nzz\n5\n6\n", "seven\n"]));
        session.read("a.py, lines 7-7 of 10:\n7\n");
        assert_eq!(
            session.text("a.py"),
            some(&["x = 1\ny = 1\nz\nzz\n5\n6\n7\nseven\n"]),
            "line 8 was line 7"
        );
        let mut session = start();
        session.edit(edit(" = 1", " = 2"), true, "Edited a.py in 2 places.");
        assert_eq!(session.text("a.py"), some(&["x = 2\ny = 2\nz\n", "seven\n"]));
        // In places that are not known, in another text than the one given, in a text that is not known.
        for (arguments, told) in [
            (edit(" = 1", " = 2"), "Edited a.py in 3 places."),
            (edit("z", "w"), "Edited a.py. (White space in the old text differed from the file; …)"),
            (edit("w", "z"), "Edited a.py. Lines 5-5 are now:\nz"),
        ] {
            let mut session = start();
            assert_eq!(session.edit(arguments, true, told).text("a.py"), None, "{told}");
        }
        // One that fails although it should not shows that the file is not what it was; others show nothing.
        assert_eq!(start().edit(edit("z", "w"), false, "a.py was not changed. …").text("a.py"), None);
        for arguments in [edit("1", "2"), edit("z", "z"), edit("w", "z"), edit("", "z")] {
            let mut session = start();
            assert!(session.edit(arguments, false, "a.py was not changed. …").text("a.py").is_some());
        }
        let mut session = start();
        session.call("write", json!({"path": "a.py", "content": "new\r\n"}), true, "Wrote a.py.");
        assert_eq!(session.text("a.py"), some(&["new\n"]));
        session.0.lost(Path::new("/w"), &json!({"path": "a.py"}));
        assert_eq!(session.text("a.py"), None);
    }

    #[test]
    fn a_path_is_bound_where_a_folder_was_listed_until_a_command_runs() {
        let mut session = Session(Known::default());
        session.call(
            "glob",
            json!({"pattern": "*"}),
            true,
            "a.py\nsrc/b c.py\n[... 3 more; narrow the pattern]",
        );
        session.call(
            "grep",
            json!({"pattern": "x"}),
            true,
            "src/d.py:12: x: 1\n[... more lines match; narrow the pattern or the path]",
        );
        assert_eq!(session.bounds(), [], "there may be other files");
        session.call("list", json!({"path": "src", "depth": 2}), true, "src/ holds:\ne.py (3 B)");
        assert_eq!(session.bounds(), [], "deeper, not all is listed");
        session.call(
            "list",
            json!({"path": "./src/"}),
            true,
            "src/ holds:\nb c.py (3 B)\nd.py (1.2 KiB)\ndeep/\nlink (symlink)",
        );
        let values =
            ["a.py", "src/b c.py", "src/d.py", "src/deep", "src/e.py", "src/link"].map(String::from).to_vec();
        let to = To::OneOf { values, besides: Besides::OutsideOf(vec!["src".into()]) };
        let bound = Bound { tool: "read".into(), argument: "path".into(), to };
        assert_eq!(session.bounds(), [bound]);
        session.call("exec", json!({"command": "touch src/f.py"}), true, "");
        assert_eq!(session.bounds(), []);
    }

    #[test]
    fn what_bounds_an_edit_is_bounded() {
        // A grammar is made while somebody waits.
        let mut session = Session(Known::default());
        for n in 0..20 {
            session.read(&format!("{n}, lines 1-1 of 1:\n{}\n", "x".repeat(10_000)));
        }
        let bounds = session.bounds();
        let [Bound { tool, argument, to: To::Piece(quoted) }] = &bounds[..] else { panic!("{bounds:?}") };
        assert_eq!((tool.as_str(), argument.as_str(), quoted.of.as_str()), ("edit", "old", "path"));
        let paths: Vec<&str> = quoted.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["19", "18", "17", "16", "15", "14"], "the latest, as many as fit");
        session.read(&format!("long, lines 1-1 of 1:\n{}\n", "x".repeat(TEXT_BYTES_MAX)));
        assert_eq!(session.bounds(), [], "an edit of a file that is too long must stay possible");
        // Sessions that were made before tools declared anything are bound by nothing.
        assert_eq!(session.0.bounds(&[]), []);
    }
}

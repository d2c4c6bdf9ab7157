//! Finding lines by a pattern, and files by theirs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::sinks::Lossy;
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use serde::{Deserialize, Serialize};

use super::workspace::shown;
use super::{Answer, TEXT_BYTES, Workspace};
use crate::output::harmless;

/// The most lines and files that are shown.
const MATCHES: usize = 100;
const FILES: usize = 200;

/// A longer line is cut around its beginning. Characters.
const LINE_CHARS: usize = 250;

/// Larger files are data, and are left out. Bytes.
const FILE_BYTES: u64 = 16 << 20;

/// A search stops here with what it has found.
const WALL: Duration = Duration::from_secs(15);

/// Lines that match a pattern.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Grep {
    pub(crate) pattern: String,
    pub(crate) path: String,
    /// Only files whose names match this.
    pub(crate) glob: Option<String>,
}

impl Grep {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let (matcher, note) = matcher(&self.pattern)?;
        let below = workspace.locate(&self.path)?;
        let only = self.glob.as_deref().map(glob_matcher).transpose()?;
        let mut found = Found::default();
        let mut searcher =
            SearcherBuilder::new().line_number(true).binary_detection(BinaryDetection::quit(0)).build();
        if workspace.is_folder(&below) {
            let began = Instant::now();
            for path in files(workspace, &below) {
                if only.as_ref().is_some_and(|only| !only.is_match(&path)) {
                    continue;
                }
                if began.elapsed() > WALL || found.lines.len() > MATCHES {
                    found.stopped = began.elapsed() > WALL;
                    break;
                }
                found.search(workspace, &path, &matcher, &mut searcher);
            }
        } else {
            // A file that was named is searched, or it is said why not.
            workspace.open_file(&below)?;
            found.search(workspace, &below, &matcher, &mut searcher);
        }
        Ok(found.answer(&self.pattern, note))
    }
}

/// The matcher, and what is to be said of how the pattern was taken.
fn matcher(pattern: &str) -> Result<(RegexMatcher, Option<&'static str>), String> {
    if pattern.is_empty() {
        return Err("The pattern is empty.".to_owned());
    }
    let build =
        |pattern: &str| RegexMatcherBuilder::new().case_smart(false).size_limit(10 << 20).build(pattern);
    if let Ok(matcher) = build(pattern) {
        return Ok((matcher, None));
    }
    // A model that looks for `foo(` means the text.
    let literal: String = pattern
        .chars()
        .flat_map(|c| (c.is_ascii_punctuation()).then_some('\\').into_iter().chain([c]))
        .collect();
    match build(&literal) {
        Ok(matcher) => Ok((
            matcher,
            Some("(The pattern is no valid regular expression; it was searched as plain text.)"),
        )),
        Err(error) => Err(format!("The pattern cannot be searched: {error}")),
    }
}

#[derive(Debug, Default)]
struct Found {
    lines: Vec<String>,
    files: usize,
    bytes: usize,
    stopped: bool,
}

impl Found {
    fn search(
        &mut self,
        workspace: &Workspace,
        path: &Path,
        matcher: &RegexMatcher,
        searcher: &mut Searcher,
    ) {
        // A file that cannot be read, or is no file any more, has no lines to find.
        let Ok((file, metadata)) = workspace.open_file(path) else { return };
        if metadata.len() > FILE_BYTES && !workspace.is_output() {
            return;
        }
        let (name, before) = (shown(path), self.lines.len());
        let lines = &mut self.lines;
        let sink = Lossy(|number, line| {
            let (line, _) = harmless(line.as_bytes());
            let line = line.trim_end();
            let cut: String = line.chars().take(LINE_CHARS).collect();
            let dots = if cut.len() < line.len() { " ..." } else { "" };
            lines.push(format!("{name}:{number}: {cut}{dots}"));
            Ok(lines.len() <= MATCHES)
        });
        // An error in the middle of a file leaves what was found before it.
        let _ = searcher.search_file(matcher, &file, sink);
        self.files += usize::from(self.lines.len() > before);
    }

    fn answer(mut self, pattern: &str, note: Option<&'static str>) -> Answer {
        let more = self.lines.len() > MATCHES;
        self.lines.truncate(MATCHES);
        let mut text = String::new();
        let mut cut = more;
        for line in &self.lines {
            if text.len() + line.len() > TEXT_BYTES {
                cut = true;
                break;
            }
            let _ = writeln!(text, "{line}");
            self.bytes += line.len();
        }
        if self.lines.is_empty() {
            text = format!("No line matches {pattern:?}.\n");
        }
        if cut {
            text.push_str("[... more lines match; narrow the pattern or the path]\n");
        }
        if self.stopped {
            text.push_str("[... the search took too long and was stopped; name a smaller folder]\n");
        }
        if let Some(note) = note {
            let _ = writeln!(text, "{note}");
        }
        let plus = if cut { "+" } else { "" };
        let summary = format!("{}{plus} matches in {} files", self.lines.len(), self.files);
        let text = text.trim_end().to_owned();
        Answer { ok: true, bytes_total: text.len() as u64, text, summary, truncated: cut || self.stopped }
    }
}

/// The files below a folder, in the order of names, nothing that git ignores.
fn files(workspace: &Workspace, below: &Path) -> impl Iterator<Item = PathBuf> {
    workspace
        .walk(below)
        .build()
        .flatten()
        .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
        .map(|entry| workspace.relative(entry.path()).to_owned())
}

/// Files whose paths match a pattern.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Glob {
    pub(crate) pattern: String,
    pub(crate) path: String,
}

impl Glob {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        // A pattern with the workspace's own path before it means the same.
        let pattern = self.pattern.trim();
        let inside = workspace.absolute(Path::new("."));
        let pattern = Path::new(pattern).strip_prefix(&inside).ok().and_then(Path::to_str).unwrap_or(pattern);
        if pattern.starts_with('/') {
            return Err(format!(
                "{pattern} is outside the workspace. Give a pattern below it, such as src/**/*.rs."
            ));
        }
        let matcher = glob_matcher(pattern)?;
        let below = workspace.locate(&self.path)?;
        workspace.open_folder(&below, false)?;
        let root = workspace.absolute(&below);
        let root = workspace.relative(&root);
        let began = Instant::now();
        let mut found = Vec::new();
        let mut more = 0_usize;
        for path in files(workspace, &below) {
            if began.elapsed() > WALL {
                break;
            }
            // The pattern may be meant from the folder searched or from the workspace.
            let from_folder = path.strip_prefix(root).unwrap_or(&path);
            if matcher.is_match(&path) || matcher.is_match(from_folder) {
                if found.len() < FILES { found.push(shown(&path)) } else { more += 1 }
            }
        }
        let count = found.len() + more;
        let mut text = found.join("\n");
        if found.is_empty() {
            text = format!("No file matches {pattern:?}.");
        }
        if more > 0 {
            let _ = write!(text, "\n[... {more} more; narrow the pattern]");
        }
        let mut answer = Answer::yes(text, format!("{count} files"));
        answer.truncated = more > 0;
        Ok(answer)
    }
}

/// `*` stays within a folder, `**` crosses folders; a pattern without a folder finds the name anywhere.
fn glob_matcher(pattern: &str) -> Result<GlobMatcher, String> {
    let pattern = pattern.trim().trim_start_matches("./");
    if pattern.is_empty() {
        return Err("The pattern is empty. Use for example **/*.py.".to_owned());
    }
    let anywhere = if pattern.contains('/') { pattern.to_owned() } else { format!("**/{pattern}") };
    match GlobBuilder::new(&anywhere).literal_separator(true).build() {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(error) => {
            Err(format!("The pattern {pattern:?} is not valid: {}. Use for example **/*.py.", error.kind()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Request;
    use crate::files::workspace::tests::open;

    fn project() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("src/a.py", "import os\ndef f(x):\n    return x\n");
        put("src/deep/b.py", "f(1)\n");
        put("target/out.py", "f(2)\n");
        put(".gitignore", "target/\n");
        put(".git/config", "f(3)\n");
        put("bin.dat", "f(4)\0\n");
        std::os::unix::fs::symlink(".", folder.path().join("loop")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("root")).unwrap();
        folder
    }

    #[test]
    fn what_git_ignores_and_links_are_left_out() {
        // Build output and other people's files drown what the model looks for, and a loop never ends.
        let folder = project();
        let check = |request: Request, expected: &str| {
            assert_eq!(request.perform(&open(folder.path())).text, expected);
        };
        let grep = |pattern: &str, path: &str, glob: Option<&str>| {
            Request::Grep(Grep { pattern: pattern.into(), path: path.into(), glob: glob.map(Into::into) })
        };
        let glob =
            |pattern: &str, path: &str| Request::Glob(Glob { pattern: pattern.into(), path: path.into() });
        check(grep(r"f\(", ".", None), "src/a.py:2: def f(x):\nsrc/deep/b.py:1: f(1)");
        check(grep(r"\bf\b", "src/deep", None), "src/deep/b.py:1: f(1)");
        check(grep("f", "src/a.py", None), "src/a.py:2: def f(x):");
        check(grep(r"f\(", ".", Some("b.*")), "src/deep/b.py:1: f(1)");
        check(grep("nowhere", ".", None), "No line matches \"nowhere\".");
        check(
            grep("f(", ".", None),
            "src/a.py:2: def f(x):\nsrc/deep/b.py:1: f(1)\n\
             (The pattern is no valid regular expression; it was searched as plain text.)",
        );
        check(glob("*.py", "."), "src/a.py\nsrc/deep/b.py");
        check(glob("src/*.py", "."), "src/a.py");
        check(glob("**/*.py", "src/deep"), "src/deep/b.py");
        check(glob("*.rs", "."), "No file matches \"*.rs\".");
    }

    #[test]
    fn a_hostile_pattern_ends() {
        // With a backtracking engine this one takes longer than the universe has.
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "a".repeat(200_000)).unwrap();
        let began = Instant::now();
        let grep = Grep { pattern: "(a+)+$b".to_owned(), path: ".".to_owned(), glob: None };
        assert!(Request::Grep(grep).perform(&open(folder.path())).ok);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

//! Looking at one file or one folder.

use std::fmt::Write as _;
use std::io::Read as _;

use serde::{Deserialize, Serialize};

use super::workspace::shown;
use super::{Answer, TEXT_BYTES, Workspace};
use crate::output::{harmless, size};

/// How many lines are shown when nothing else is asked for.
const LINES: u64 = 500;

/// How much of a file is looked at to count its lines: all of a command's kept output. Bytes.
const SCAN_BYTES: u64 = 64 << 20;

/// How many entries a listing shows.
const ENTRIES: usize = 300;

/// The deepest a listing goes.
const DEPTH_MAX: usize = 5;

/// Lines of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) path: String,
    /// The first line, counted from 1.
    pub(crate) offset: Option<u64>,
    pub(crate) limit: Option<u64>,
}

impl Read {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let below = workspace.locate(&self.path)?;
        if workspace.is_folder(&below) {
            return List { path: self.path.clone(), depth: None }.perform(workspace);
        }
        let name = shown(&below);
        let (file, metadata) = workspace.open_file(&below)?;
        let first = self.offset.unwrap_or(1).max(1);
        let last = first.saturating_add(self.limit.unwrap_or(LINES).max(1) - 1);
        let window = Window::scan(file, first, last).map_err(|error| format!("{name}: {error}"))?;
        if window.binary {
            return Err(format!("{name} is not text ({}), so it cannot be shown.", size(metadata.len())));
        }
        if metadata.len() == 0 {
            return Ok(Answer::yes(format!("{name} is empty."), format!("{name} · empty")));
        }
        if window.lines == 0 {
            return Err(format!("{name} has only {} lines; line {first} is past its end.", window.total));
        }
        let (text, cut) = harmless(&window.bytes);
        let end = first + window.lines - 1;
        let total =
            if window.counted { window.total.to_string() } else { format!("more than {}", window.total) };
        let goes_on = !window.counted || end < window.total;
        // A header and plain text: with a number before each line, small models copy the numbers into their edits.
        let mut answer = format!("{name}, lines {first}-{end} of {total}:\n{text}");
        if goes_on {
            if !answer.ends_with('\n') {
                answer.push('\n');
            }
            let _ = write!(answer, "[... to read on, use offset {}]", end + 1);
        }
        Ok(Answer {
            ok: true,
            text: answer,
            summary: format!("{name} · lines {first}-{end} of {total}"),
            bytes_total: metadata.len(),
            truncated: goes_on || cut || first > 1,
        })
    }
}

/// A whole file, letter for letter: for the service, not for a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Text {
    pub(crate) path: String,
    /// A longer file is refused. Bytes.
    pub(crate) bytes_max: u64,
}

impl Text {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let below = workspace.locate(&self.path)?;
        let name = shown(&below);
        let (file, metadata) = workspace.open_file(&below)?;
        let mut bytes = Vec::new();
        file.take(self.bytes_max + 1).read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
        if bytes.len() as u64 > self.bytes_max {
            return Err(format!("{name} is too large ({}).", size(metadata.len())));
        }
        let text = String::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8 text."))?;
        Ok(Answer::yes(text, name))
    }
}

/// The lines asked for, as far as they fit.
struct Window {
    bytes: Vec<u8>,
    /// Lines in `bytes`.
    lines: u64,
    /// Lines of the file, as far as it was looked at.
    total: u64,
    /// Whether that was to its end.
    counted: bool,
    binary: bool,
}

impl Window {
    fn scan(file: std::fs::File, first: u64, last: u64) -> std::io::Result<Window> {
        let mut window = Window { bytes: Vec::new(), lines: 0, total: 0, counted: false, binary: false };
        let mut file = file.take(SCAN_BYTES);
        let mut chunk = vec![0; 64 << 10];
        let (mut line, mut at_start, mut full) = (1_u64, true, false);
        loop {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            let chunk = &chunk[..count];
            if chunk.contains(&0) {
                window.binary = true;
                return Ok(window);
            }
            for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
                if (first..=last).contains(&line) && !full {
                    // The first line asked for is shown even when it alone is too long; its end is cut later.
                    let fits = window.bytes.len() + piece.len() <= TEXT_BYTES;
                    let room = TEXT_BYTES.saturating_sub(window.bytes.len());
                    if fits {
                        window.bytes.extend_from_slice(piece);
                    } else if window.lines <= 1 {
                        window.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
                    } else {
                        full = true;
                        if !at_start {
                            // The line's beginning is already there: take it back, it will be read next time.
                            let whole =
                                window.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                            window.bytes.truncate(whole);
                            window.lines -= 1;
                        }
                    }
                    if at_start && !full {
                        window.lines += 1;
                    }
                }
                at_start = piece.ends_with(b"\n");
                if at_start {
                    line += 1;
                }
            }
        }
        window.total = if at_start { line - 1 } else { line };
        window.counted = file.limit() > 0 || file.into_inner().read(&mut [0])? == 0;
        Ok(window)
    }
}

/// What a folder holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct List {
    pub(crate) path: String,
    pub(crate) depth: Option<u64>,
}

impl List {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let below = workspace.locate(&self.path)?;
        let name = shown(&below);
        if !workspace.is_folder(&below) {
            // Either it does not exist, or it is a file: the first says so, the second is worth saying.
            let (_, metadata) = workspace.open_file(&below)?;
            let text = format!("{name} is a file of {}. Use read to see it.", size(metadata.len()));
            return Ok(Answer::yes(text, format!("{name} · a file")));
        }
        let depth = usize::try_from(self.depth.unwrap_or(1)).unwrap_or(DEPTH_MAX).clamp(1, DEPTH_MAX);
        let mut walk = workspace.walk(&below);
        walk.max_depth(Some(depth));
        if depth == 1 {
            // One folder is shown as it is; deeper, what git ignores would drown the rest.
            walk.git_ignore(false).git_exclude(false).ignore(false);
        }
        let root = workspace.absolute(&below);
        let mut lines = Vec::new();
        let mut more = 0;
        for entry in walk.build().flatten().filter(|entry| entry.depth() > 0) {
            if lines.len() == ENTRIES {
                more += 1;
                continue;
            }
            let path = shown(entry.path().strip_prefix(&root).unwrap_or(entry.path()));
            lines.push(match entry.file_type() {
                Some(kind) if kind.is_dir() => format!("{path}/"),
                Some(kind) if kind.is_symlink() => format!("{path} (symlink)"),
                Some(kind) if kind.is_file() => {
                    format!("{path} ({})", size(entry.metadata().map_or(0, |metadata| metadata.len())))
                }
                Some(_) | None => format!("{path} (special)"),
            });
        }
        let count = lines.len() + more;
        let mut text = match count {
            0 => format!("{name}/ is empty."),
            _ => format!("{name}/ holds:\n{}", lines.join("\n")),
        };
        if more > 0 {
            let _ = write!(text, "\n[... {more} more; list a folder below, or use glob]");
        }
        let mut answer = Answer::yes(text, format!("{name} · {count} entries"));
        answer.truncated = more > 0;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::workspace::tests::open;

    fn read(folder: &std::path::Path, path: &str, offset: Option<u64>, limit: Option<u64>) -> Answer {
        crate::files::Request::Read(Read { path: path.to_owned(), offset, limit }).perform(&open(folder))
    }

    #[test]
    fn every_line_is_read_once_when_one_reads_on() {
        // The header's numbers and the advice to read on are what the model goes by: together they must give the file.
        let folder = tempfile::tempdir().unwrap();
        let whole: String = (0..3000).map(|n| format!("line {n} {}\n", "x".repeat(n % 90))).collect();
        std::fs::write(folder.path().join("f"), &whole).unwrap();
        let (mut offset, mut got) = (1, String::new());
        for _ in 0..100 {
            let answer = read(folder.path(), "f", Some(offset), None);
            assert!(answer.ok && answer.text.len() < TEXT_BYTES + 200, "{}", answer.text);
            let (_, body) = answer.text.split_once(":\n").unwrap();
            match body.split_once("[... to read on, use offset ") {
                Some((lines, rest)) => {
                    got.push_str(lines);
                    offset = rest.trim_end_matches(']').parse().unwrap();
                }
                None => {
                    got.push_str(body);
                    break;
                }
            }
        }
        assert!(got == whole);
    }

    #[test]
    fn odd_files_are_told_plainly() {
        // None of these may hang, fill memory or come out as rubbish.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("empty"), "").unwrap();
        std::fs::write(at("binary"), b"\x7fELF\0\0").unwrap();
        std::fs::File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::fs::write(at("one line"), "a".repeat(100_000)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        assert!(read(folder.path(), "empty", None, None).text.contains("is empty"));
        assert!(read(folder.path(), "binary", None, None).text.contains("is not text"));
        assert!(read(folder.path(), "sparse", None, None).text.contains("is not text"));
        assert!(read(folder.path(), "pipe", None, None).text.contains("not a regular file"));
        assert!(read(folder.path(), "one line", None, None).text.contains("more characters in this line"));
        assert!(read(folder.path(), "empty/x", None, None).text.contains("not a folder"));
        let answer = read(folder.path(), "one line", Some(2), None);
        assert!(!answer.ok && answer.text.contains("has only 1 lines"), "{}", answer.text);
        assert!(read(folder.path(), ".", None, None).text.contains("pipe (special)"));
    }
}

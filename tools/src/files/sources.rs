//! Source files of the workspace, and what each defines and uses. Parsers are large and their input is anybody's, so they run here.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::workspace::shown;
use super::{Answer, Workspace};
use crate::outline::{self, Language, Outline, TEXT_BYTES_MAX};

/// The most files of a workspace that are looked at.
pub(crate) const FILES_MAX: usize = 30_000;
/// An answer stops growing here; what is left is asked for again. Bytes.
const ANSWER_BYTES: usize = 1 << 20;
/// A file whose outline is larger was made to be so, and is left out. Bytes.
const SOURCE_BYTES_MAX: usize = 3 << 20;
// In the frame quotes are escaped once more.
const _: () = assert!(2 * (ANSWER_BYTES + SOURCE_BYTES_MAX) <= 2 * super::WRITE_BYTES_MAX);
/// A request stops here with what it has. Well below what a file operation may take.
const WALL: Duration = Duration::from_secs(10);
/// Shorter names are loop variables and say nothing.
const NAME_BYTES_MIN: usize = 3;

/// How coarse the clocks of file systems are, generously. Nanoseconds.
const RECENT_NS: i64 = 50_000_000;

/// By what a file that was changed is known: its size, when it was written and when its place was, in nanoseconds, and its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    bytes: u64,
    written_ns: i64,
    changed_ns: i64,
    inode: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Stamp {
        let ns = |secs: i64, ns: i64| secs.wrapping_mul(1_000_000_000).wrapping_add(ns);
        Stamp {
            bytes: metadata.size(),
            written_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// When the file was last written. Nanoseconds since 1970.
    #[cfg(test)]
    pub(crate) fn written_ns(&self) -> i64 {
        self.written_ns
    }

    /// Whether the file was last written or moved so shortly before this moment, in nanoseconds since 1970, that it may be written again
    /// without another stamp.
    pub(crate) fn is_recent(&self, now_ns: i64) -> bool {
        self.written_ns.max(self.changed_ns) > now_ns - RECENT_NS
    }

    /// The file's size. Bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The source files there are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Survey {}

/// The source files there are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Surveyed {
    /// By path, in its order.
    pub files: Vec<(String, Stamp)>,
    /// Whether there are more than were looked at.
    pub more: bool,
}

impl Survey {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let mut found = Surveyed::default();
        let began = Instant::now();
        for entry in workspace.walk(Path::new(".")).build().flatten() {
            if !entry.file_type().is_some_and(|kind| kind.is_file()) || Language::of(entry.path()).is_none() {
                continue;
            }
            // A name that is no text cannot be asked for.
            let Some(path) = workspace.relative(entry.path()).to_str() else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.size() > TEXT_BYTES_MAX as u64 {
                continue;
            }
            if found.files.len() == FILES_MAX || began.elapsed() > WALL {
                found.more = true;
                break;
            }
            found.files.push((path.to_owned(), Stamp::of(&metadata)));
        }
        let summary = format!("{} source files", found.files.len());
        Ok(Answer::yes(json(&found)?, summary))
    }
}

/// What these files define and use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sources {
    pub(crate) paths: Vec<String>,
    /// Whether their texts are wanted as well.
    pub(crate) texts: bool,
}

/// A source file as it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// Where it lies, from the workspace.
    pub path: String,
    /// What it was known by when it was read.
    pub stamp: Stamp,
    /// What it says; empty when it was not asked for.
    pub text: String,
    /// What it defines.
    pub outline: Outline,
    /// The names that stand in it, and how often each does.
    pub names: Vec<(String, u32)>,
}

/// The first of the files that were asked for, as many as there was room for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// How many of the paths were looked at. Those that could not be read are not among the sources.
    pub(crate) looked_at: usize,
    pub(crate) sources: Vec<Source>,
}

impl Sources {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let began = Instant::now();
        let mut text = String::from(r#"{"sources":["#);
        let mut looked_at = 0;
        for path in &self.paths {
            if text.len() > ANSWER_BYTES || looked_at > 0 && began.elapsed() > WALL {
                break;
            }
            looked_at += 1;
            // Gone meanwhile, or no text: then it defines nothing.
            let Ok(Some(source)) = self.read(workspace, path) else { continue };
            let source = json(&source)?;
            if source.len() > SOURCE_BYTES_MAX {
                continue;
            }
            if !text.ends_with('[') {
                text.push(',');
            }
            text.push_str(&source);
        }
        text.push_str(&format!(r#"],"looked_at":{looked_at}}}"#));
        Ok(Answer::yes(text, format!("{looked_at} files")))
    }

    fn read(&self, workspace: &Workspace, path: &str) -> Result<Option<Source>, String> {
        let Some((text, stamp, language)) = text_of(workspace, path)? else { return Ok(None) };
        let (outline, references) = outline::read(language, &text);
        let mut counts: HashMap<&str, u32> = HashMap::new();
        for reference in references {
            let name = &text[reference.range];
            if name.len() >= NAME_BYTES_MIN {
                *counts.entry(name).or_insert(0) += 1;
            }
        }
        let mut names: Vec<(String, u32)> =
            counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        names.sort_unstable();
        let text = if self.texts { text } else { String::new() };
        Ok(Some(Source { path: path.to_owned(), stamp, text, outline, names }))
    }
}

/// Where a name stands in these files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Uses {
    pub(crate) name: String,
    pub(crate) paths: Vec<String>,
    /// The most places that are wanted.
    pub(crate) limit: usize,
}

/// A place where a name stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    pub(crate) path: String,
    pub(crate) line: u32,
    /// The line, as it stands there.
    pub(crate) text: String,
}

impl Uses {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let began = Instant::now();
        let mut uses: Vec<Use> = Vec::new();
        for path in &self.paths {
            if uses.len() >= self.limit || began.elapsed() > WALL {
                break;
            }
            let Ok(Some((text, _, language))) = text_of(workspace, path) else { continue };
            let lines: Vec<&str> = text.lines().collect();
            for reference in outline::references(language, &text) {
                if text.get(reference.range) != Some(self.name.as_str())
                    || uses.last().is_some_and(|last| last.path == *path && last.line == reference.line)
                {
                    continue;
                }
                let line = lines.get(reference.line as usize - 1).copied().unwrap_or_default();
                let (line, _) = crate::output::harmless(line.as_bytes());
                let text = line.trim().chars().take(160).collect();
                uses.push(Use { path: path.clone(), line: reference.line, text });
                if uses.len() >= self.limit {
                    break;
                }
            }
        }
        let summary = format!("{} places", uses.len());
        Ok(Answer::yes(json(&uses)?, summary))
    }
}

/// A file's text; nothing when it is none.
fn text_of(workspace: &Workspace, path: &str) -> Result<Option<(String, Stamp, Language)>, String> {
    let below = workspace.locate(path)?;
    let Some(language) = Language::of(&below) else { return Ok(None) };
    let (file, metadata) = workspace.open_file(&below)?;
    let mut bytes = Vec::new();
    let read = file.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("{}: {error}", shown(&below)))?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= TEXT_BYTES_MAX);
    Ok(text.map(|text| (text, Stamp::of(&metadata), language)))
}

fn json<T: Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Request;
    use crate::files::workspace::tests::open;

    #[test]
    fn sources_are_read_a_part_at_a_time() {
        // A frame has a bound and a project has none.
        let folder = tempfile::tempdir().unwrap();
        let body = format!("/* {} */\nint shared_name;\n", "x".repeat(900 << 10));
        let paths: Vec<String> = (0..6).map(|n| format!("f{n}.c")).collect();
        for path in &paths {
            std::fs::write(folder.path().join(path), &body).unwrap();
        }
        std::fs::write(folder.path().join("data.c"), b"\xff\xfe").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "int no_source;").unwrap();
        let workspace = open(folder.path());
        let surveyed: Surveyed =
            serde_json::from_str(&Request::Survey(Survey {}).perform(&workspace).text).unwrap();
        let found: Vec<&str> = surveyed.files.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(found, ["data.c", "f0.c", "f1.c", "f2.c", "f3.c", "f4.c", "f5.c"]);
        let mut left: Vec<String> = surveyed.files.iter().map(|(path, _)| path.clone()).collect();
        let (mut read, mut requests) = (Vec::new(), 0);
        while !left.is_empty() {
            let request = Sources { paths: left.clone(), texts: true };
            let answer = Request::Sources(request).perform(&workspace).text;
            assert!(answer.len() < crate::files::WRITE_BYTES_MAX);
            let answered: Answered = serde_json::from_str(&answer).unwrap();
            assert!(answered.looked_at > 0, "every request comes further");
            left.drain(..answered.looked_at);
            read.extend(answered.sources);
            requests += 1;
        }
        assert!(requests > 1);
        assert_eq!(read.iter().map(|source| source.path.clone()).collect::<Vec<_>>(), paths);
        assert!(read.iter().all(|source| source.names == [("shared_name".to_owned(), 1)]));
        assert!(read.iter().zip(&surveyed.files[1..]).all(|(source, (_, stamp))| source.stamp == *stamp));
    }
}

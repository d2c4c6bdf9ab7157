//! Applying a patch to several files: all of it or nothing.
//!
//! What is written is worked out in full before the first file is touched, so a patch that is wrong in its last line changes
//! nothing; should the disk fail in the middle, what was written is put back. Each hunk finds its place as an edit does:
//! exactly or but for white space, and only where it can mean one place.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::workspace::shown;
use super::{Answer, WRITE_BYTES_MAX, Workspace, edit, write};
use crate::output::size;

/// How many files one patch may change.
const FILES_MAX: usize = 100;

/// A patch as the model wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Patch {
    pub(crate) patch: String,
}

impl Patch {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let nothing = |why: String| format!("Nothing was changed. {why}");
        let changes = read(&self.patch).map_err(nothing)?;
        let mut plan = Plan { workspace, files: BTreeMap::new() };
        let mut said = Vec::new();
        for change in &changes {
            said.push(plan.add(change).map_err(nothing)?);
        }
        plan.carry_out().map_err(nothing)?;
        let summary = format!("{} files patched", said.len());
        Ok(Answer::yes(said.join("\n"), summary))
    }
}

/// What a patch asks for, file by file.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    Add { path: &'a str, text: String },
    Delete { path: &'a str },
    Update { path: &'a str, to: Option<&'a str>, hunks: Vec<Hunk<'a>> },
}

/// One place of a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hunk<'a> {
    /// A line that stands before it, such as the head of the function it is in.
    after: Option<&'a str>,
    old: Vec<&'a str>,
    new: Vec<&'a str>,
}

/// Reads a patch. The error is for the model.
fn read(patch: &str) -> Result<Vec<Change<'_>>, String> {
    let mut changes: Vec<Change<'_>> = Vec::new();
    let mut began = false;
    for (number, line) in patch.lines().enumerate() {
        let wrong =
            |what: &str| Err(format!("Line {} of the patch {what}: {}", number + 1, shown(Path::new(line))));
        if !began {
            // Some models put the patch between fences, or a command before it.
            began = line.trim() == "*** Begin Patch";
            continue;
        }
        if line.trim() == "*** End Patch" {
            return if changes.is_empty() { Err("The patch is empty.".to_owned()) } else { Ok(changes) };
        }
        if let Some(path) = line.strip_prefix("*** Add File: ") {
            changes.push(Change::Add { path: path.trim(), text: String::new() });
        } else if let Some(path) = line.strip_prefix("*** Delete File: ") {
            changes.push(Change::Delete { path: path.trim() });
        } else if let Some(path) = line.strip_prefix("*** Update File: ") {
            changes.push(Change::Update { path: path.trim(), to: None, hunks: Vec::new() });
        } else {
            match changes.last_mut() {
                Some(Change::Add { text, .. }) => match line.strip_prefix('+') {
                    Some(line) => {
                        text.push_str(line);
                        text.push('\n');
                    }
                    None => return wrong("stands in a new file and does not begin with +"),
                },
                Some(Change::Update { to, hunks, .. }) => {
                    if let Some(path) = line.strip_prefix("*** Move to: ").filter(|_| hunks.is_empty()) {
                        *to = Some(path.trim());
                    } else if let Some(after) = line.strip_prefix("@@") {
                        let after = Some(after.trim()).filter(|after| !after.is_empty());
                        hunks.push(Hunk { after, ..Hunk::default() });
                    } else if line != "*** End of File" {
                        if hunks.is_empty() {
                            hunks.push(Hunk::default());
                        }
                        let hunk = hunks.last_mut().expect("there is one now");
                        match line.as_bytes().first() {
                            Some(b'+') => hunk.new.push(&line[1..]),
                            Some(b'-') => hunk.old.push(&line[1..]),
                            Some(b' ') => {
                                hunk.old.push(&line[1..]);
                                hunk.new.push(&line[1..]);
                            }
                            // An empty line that lost its space.
                            None => {
                                hunk.old.push("");
                                hunk.new.push("");
                            }
                            Some(_) => return wrong("begins with none of +, - and a space"),
                        }
                    }
                }
                Some(Change::Delete { .. }) | None => return wrong("belongs to no file"),
            }
        }
    }
    Err(if began {
        "The patch does not end with *** End Patch, so it may be cut.".to_owned()
    } else {
        "The patch does not begin with *** Begin Patch.".to_owned()
    })
}

/// What the files will be. `None` is no file.
struct Plan<'a> {
    workspace: &'a Workspace,
    files: BTreeMap<PathBuf, Planned>,
}

#[derive(Debug, Clone)]
struct Planned {
    was: Option<String>,
    will_be: Option<String>,
}

impl Plan<'_> {
    /// Works a change out. Returns what is to be said of it.
    fn add(&mut self, change: &Change<'_>) -> Result<String, String> {
        let said = match change {
            Change::Add { path, text } => {
                let path = self.locate(path)?;
                let file = self.file(&path)?;
                if file.will_be.is_some() {
                    return Err(format!("{} is there already; use *** Update File.", shown(&path)));
                }
                file.will_be = Some(text.clone());
                format!("Created {}: {} lines.", shown(&path), text.lines().count())
            }
            Change::Delete { path } => {
                let path = self.locate(path)?;
                self.there(&path)?.will_be = None;
                format!("Deleted {}.", shown(&path))
            }
            Change::Update { path, to, hunks } => {
                let path = self.locate(path)?;
                let mut text = self.there(&path)?.will_be.clone().unwrap_or_default();
                let mut at = 0;
                for (number, hunk) in hunks.iter().enumerate() {
                    (text, at) = hunk
                        .apply(&text, at)
                        .map_err(|why| format!("Hunk {} of {}: {why}", number + 1, shown(&path)))?;
                }
                if text.len() > WRITE_BYTES_MAX {
                    return Err(format!("{} would be too large.", shown(&path)));
                }
                match to {
                    Some(to) => {
                        let to = self.locate(to)?;
                        let there = self.file(&to)?;
                        if there.will_be.is_some() && to != path {
                            return Err(format!(
                                "{} is there already, so nothing can be moved to it.",
                                shown(&to)
                            ));
                        }
                        self.there(&path)?.will_be = None;
                        self.file(&to)?.will_be = Some(text);
                        format!("Changed {} and moved it to {}.", shown(&path), shown(&to))
                    }
                    None => {
                        self.there(&path)?.will_be = Some(text);
                        format!("Changed {} in {} places.", shown(&path), hunks.len())
                    }
                }
            }
        };
        if self.files.len() > FILES_MAX {
            return Err(format!("The patch changes more than {FILES_MAX} files."));
        }
        Ok(said)
    }

    /// A path of the workspace, written without detours: a patch is looked at by people, and `..` hides where it leads.
    fn locate(&self, path: &str) -> Result<PathBuf, String> {
        let below = self.workspace.locate(path)?;
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || below.file_name().is_none() {
            return Err(format!("{} is not the path of a file below the workspace.", shown(&below)));
        }
        self.workspace.refuse_secret(&below)?;
        Ok(below)
    }

    fn there(&mut self, path: &Path) -> Result<&mut Planned, String> {
        let missing = self.workspace.explain(path, Errno::NOENT);
        let file = self.file(path)?;
        if file.will_be.is_some() { Ok(file) } else { Err(missing) }
    }

    /// A file as it will be so far; what it is now is read at its first change.
    fn file(&mut self, path: &Path) -> Result<&mut Planned, String> {
        if !self.files.contains_key(path) {
            let was = self.read(path)?;
            self.files.insert(path.to_owned(), Planned { will_be: was.clone(), was });
        }
        Ok(self.files.get_mut(path).expect("it is there now"))
    }

    /// The text of a file; `None` where there is none and could be one.
    fn read(&self, path: &Path) -> Result<Option<String>, String> {
        match self.workspace.open_at(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => {
                // The folder it will be in, or the nearest that is there, must lie below the workspace too.
                let mut folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
                let nearest = folders.find_map(|folder| {
                    match self.workspace.open_at(folder, OFlags::PATH | OFlags::DIRECTORY) {
                        Err(Errno::NOENT) => None,
                        opened => Some((folder, opened)),
                    }
                });
                match nearest {
                    Some((folder, Err(error))) => Err(self.workspace.explain(folder, error)),
                    Some((_, Ok(opened))) => self.workspace.refuse_secret_at(&opened, path).map(|()| None),
                    None => Ok(None),
                }
            }
            Err(error) => Err(self.workspace.explain(path, error)),
            Ok(_) => {
                let (file, metadata) = self.workspace.open_file(path)?;
                if metadata.len() > WRITE_BYTES_MAX as u64 {
                    return Err(format!("{} is too large to patch ({}).", shown(path), size(metadata.len())));
                }
                let mut bytes = Vec::new();
                file.take(WRITE_BYTES_MAX as u64)
                    .read_to_end(&mut bytes)
                    .map_err(|error| format!("{}: {error}", shown(path)))?;
                String::from_utf8(bytes).map(Some).map_err(|_| format!("{} is not UTF-8 text.", shown(path)))
            }
        }
    }

    /// Writes and deletes; what was done before something fails is undone.
    fn carry_out(self) -> Result<(), String> {
        let mut done: Vec<(&PathBuf, &Planned)> = Vec::new();
        for (path, file) in &self.files {
            if file.was == file.will_be {
                continue;
            }
            if let Err(why) = put(self.workspace, path, file.will_be.as_deref()) {
                for (path, file) in done.into_iter().rev() {
                    // The best that can be done; the error that is told is the first.
                    let _ = put(self.workspace, path, file.was.as_deref());
                }
                return Err(why);
            }
            done.push((path, file));
        }
        Ok(())
    }
}

/// Makes a file what it should be.
fn put(workspace: &Workspace, path: &Path, text: Option<&str>) -> Result<(), String> {
    match text {
        Some(text) => write::replace(workspace, path, text.as_bytes()).map(|_| ()),
        None => {
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = workspace.open_folder(parent, false)?;
            let name = path.file_name().ok_or("a file has a name")?;
            rustix::fs::unlinkat(folder, name, AtFlags::empty())
                .map_err(|error| workspace.explain(path, error))
        }
    }
}

impl Hunk<'_> {
    /// Applies it, at or after a place where the hunk before it ended if it fits several. Returns the text and where it ends.
    fn apply(&self, text: &str, at: usize) -> Result<(String, usize), String> {
        let mut from = 0;
        if let Some(after) = self.after {
            let line = |from: usize| -> Option<usize> {
                let mut begin = from;
                for line in text[from..].split_inclusive('\n') {
                    begin += line.len();
                    if line.trim() == after {
                        return Some(begin);
                    }
                }
                None
            };
            // Unified diffs have numbers there, and some models write a part of the line: then it names no place.
            from = line(at).or_else(|| line(0)).unwrap_or(0);
        }
        let new = self.new.join("\n");
        if self.old.iter().all(|line| line.trim().is_empty()) {
            if self.new.is_empty() {
                return Err("it changes nothing.".to_owned());
            }
            // With nothing to find it is added: below the line it names, or at the end.
            let at = if from > 0 { from } else { text.len() };
            let before = &text[..at];
            let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
            let whole = format!("{before}{end}{new}\n");
            let ends = whole.len();
            return Ok((whole + &text[at..], ends));
        }
        let old = self.old.join("\n");
        if old == new {
            // Only lines that are kept: some models show where they are.
            return Ok((text.to_owned(), at));
        }
        // Whole lines: their ends belong to them, so that removed lines leave no empty one.
        let whole = |lines: &str| if lines.is_empty() { String::new() } else { format!("{lines}\n") };
        let mut first = None;
        for from in [from, at, 0] {
            let (before, rest) = text.split_at(from);
            let applied = edit::apply(rest, &whole(&old), &whole(&new), false)
                .or_else(|why| edit::apply(rest, &old, &new, false).map_err(|_| why));
            match applied {
                Ok(done) => {
                    let upto =
                        done.text.split_inclusive('\n').take(done.lines.1).map(str::len).sum::<usize>();
                    return Ok((before.to_owned() + &done.text, from + upto));
                }
                Err(why) => first = first.or(Some(why)),
            }
        }
        Err(first.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Request;
    use crate::files::workspace::tests::open;

    const FILE: &str = "def a():\n    return 1\n\ndef b():\n    return 1\n";

    fn patched(folder: &Path, lines: &str) -> Answer {
        let patch = format!("*** Begin Patch\n{lines}\n*** End Patch");
        Request::Patch(Patch { patch }).perform(&open(folder))
    }

    fn check(lines: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), FILE).unwrap();
        let answer = patched(folder.path(), &format!("*** Update File: f\n{lines}"));
        assert!(answer.ok, "{}", answer.text);
        assert_eq!(std::fs::read_to_string(folder.path().join("f")).unwrap(), expected);
    }

    #[test]
    fn hunks_find_their_places() {
        // These are the shapes in which models write patches.
        check("@@\n def a():\n-    return 1\n+    return 2", &FILE.replacen("return 1", "return 2", 1));
        check(
            "@@ def b():\n-    return 1\n+    return 2",
            "def a():\n    return 1\n\ndef b():\n    return 2\n",
        );
        check("-def a():\n+def c():", &FILE.replacen("def a", "def c", 1));
        check("@@\n+# end", &format!("{FILE}# end\n"));
        check("@@ def a():\n+    # one", &FILE.replacen("def a():\n", "def a():\n    # one\n", 1));
        check(
            "@@\n-def a():\n-    return 1\n-\n def b():\n@@\n-    return 1\n+    return 3\n*** End of File",
            "def b():\n    return 3\n",
        );
    }

    #[test]
    fn files_are_added_moved_and_deleted() {
        // A patch is one change: its parts see each other.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("old"), "x\n").unwrap();
        std::fs::write(at("gone"), "x\n").unwrap();
        let answer = patched(
            folder.path(),
            "*** Add File: a/new\n+one\n+two\n*** Delete File: gone\n*** Update File: old\n*** Move to: b/moved\n@@\n-x\n+y\n\
             *** Update File: a/new\n@@\n-two\n+three",
        );
        assert!(answer.ok, "{}", answer.text);
        assert_eq!(std::fs::read_to_string(at("a/new")).unwrap(), "one\nthree\n");
        assert_eq!(std::fs::read_to_string(at("b/moved")).unwrap(), "y\n");
        assert!(!at("gone").exists() && !at("old").exists());
    }

    #[test]
    fn a_patch_that_is_wrong_somewhere_changes_nothing() {
        // Half a patch is a project that does not build and a model that does not know why.
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("f"), FILE).unwrap();
        std::fs::write(at(".env"), "KEY=1\n").unwrap();
        std::os::unix::fs::symlink(outside.path(), at("out")).unwrap();
        let target = outside.path().join("x").display().to_string();
        for (rest, why) in [
            ("*** Add File: ../x\n+x", "below the workspace"),
            (&format!("*** Add File: {target}\n+x"), "outside the workspace"),
            ("*** Add File: out/x\n+x", "leads out"),
            ("*** Add File: out/deep/x\n+x", "leads out"),
            ("*** Update File: f\n*** Move to: ../x\n@@\n-def a():\n+def c():", "below the workspace"),
            ("*** Update File: .env\n@@\n-KEY=1\n+KEY=2", "secret"),
            ("*** Update File: f\n*** Move to: .env.local\n@@\n-def a():\n+def c():", "secret"),
            ("*** Update File: f\n@@\n-    return 1\n+    return 2", "2 places"),
            ("*** Update File: f\n@@\n-    return 9\n+    return 2", "not in the file"),
            ("*** Update File: missing\n@@\n-a\n+b", "There is no missing"),
            ("*** Delete File: missing", "There is no missing"),
            ("*** Add File: f\n+x", "there already"),
            ("*** Add File: g\nx", "does not begin with +"),
            ("nonsense", "belongs to no file"),
        ] {
            let answer = patched(folder.path(), &format!("*** Add File: first\n+1\n{rest}"));
            let answer = if rest == "nonsense" { patched(folder.path(), rest) } else { answer };
            assert!(!answer.ok && answer.text.contains(why), "{rest}: {}", answer.text);
            assert!(answer.text.starts_with("Nothing was changed."), "{}", answer.text);
            assert!(!at("first").exists() && std::fs::read_to_string(at("f")).unwrap() == FILE, "{rest}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        for (patch, why) in [
            ("", "does not begin"),
            ("*** Begin Patch\n*** Add File: f", "may be cut"),
            ("*** Begin Patch\n*** End Patch", "empty"),
        ] {
            let answer = Request::Patch(Patch { patch: patch.to_owned() }).perform(&open(folder.path()));
            assert!(!answer.ok && answer.text.contains(why), "{}", answer.text);
        }
    }
}

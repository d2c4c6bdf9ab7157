//! What a session has changed in its workspace: the text files as they were, against the text files as they are.
//!
//! Nothing is executed for it. A repository may have been changed by the session itself, and git runs programs that a
//! repository's own settings name; so git is never started here. It also shows exactly what the session did, and not
//! what was uncommitted before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;
use similar::TextDiff;

use crate::term::{Ink, Screen, clean};

/// The text files of a folder at one moment.
pub(crate) struct Snapshot {
    dir: PathBuf,
    files: BTreeMap<PathBuf, String>,
    /// Whether something was left out because the folder is too large.
    partial: bool,
}

/// Files that are looked at; what ignore files name is not. Enough for most repositories, quick to read for all.
const FILES_MAX: usize = 20_000;
/// The largest file whose text is compared.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// All texts together.
const BYTES_MAX: u64 = 256 << 20;
/// The most lines of a diff that are shown.
const LINES_MAX: usize = 400;
/// Lines of context around a change.
const CONTEXT: usize = 3;

/// What has changed.
pub(crate) struct Changes {
    /// A unified diff of all text files.
    pub(crate) text: String,
    /// Files that differ.
    pub(crate) files: usize,
    pub(crate) added: usize,
    pub(crate) removed: usize,
    /// Whether the folder was too large to be looked at in full.
    pub(crate) partial: bool,
}

impl Snapshot {
    /// The folder's text files now. What cannot be read is left out: it is a view, not a backup.
    pub(crate) fn take(dir: &Path) -> Snapshot {
        let mut snapshot = Snapshot { dir: dir.to_path_buf(), files: BTreeMap::new(), partial: false };
        let mut bytes = 0;
        let not_git = |entry: &ignore::DirEntry| entry.file_name() != ".git";
        let walk = WalkBuilder::new(dir)
            .hidden(false)
            .parents(false)
            .require_git(false)
            .follow_links(false)
            .filter_entry(not_git)
            .sort_by_file_name(Ord::cmp)
            .build();
        for entry in walk.flatten().filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file())) {
            let Ok(size) = entry.metadata().map(|meta| meta.len()) else { continue };
            if size > FILE_BYTES_MAX {
                continue;
            }
            if snapshot.files.len() >= FILES_MAX || bytes + size > BYTES_MAX {
                snapshot.partial = true;
                break;
            }
            let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
            if text.contains('\0') {
                continue;
            }
            bytes += size;
            let path = entry.path().strip_prefix(dir).unwrap_or(entry.path()).to_path_buf();
            snapshot.files.insert(path, text);
        }
        snapshot
    }

    /// What has changed since.
    pub(crate) fn changes(&self) -> Changes {
        let now = Snapshot::take(&self.dir);
        let paths: std::collections::BTreeSet<&PathBuf> = self.files.keys().chain(now.files.keys()).collect();
        let mut changes = Changes {
            text: String::new(),
            files: 0,
            added: 0,
            removed: 0,
            partial: self.partial || now.partial,
        };
        for path in paths {
            let (before, after) = (self.files.get(path), now.files.get(path));
            if before != after {
                changes.add(path, before.map(String::as_str), after.map(String::as_str));
            }
        }
        changes
    }
}

impl Changes {
    fn add(&mut self, path: &Path, before: Option<&str>, after: Option<&str>) {
        let name = |there: bool, side: &str| {
            if there { format!("{side}/{}", path.display()) } else { "/dev/null".to_string() }
        };
        let diff = TextDiff::from_lines(before.unwrap_or_default(), after.unwrap_or_default());
        for change in diff.iter_all_changes() {
            match change.tag() {
                similar::ChangeTag::Insert => self.added += 1,
                similar::ChangeTag::Delete => self.removed += 1,
                similar::ChangeTag::Equal => {}
            }
        }
        let mut unified = diff.unified_diff();
        let unified =
            unified.context_radius(CONTEXT).header(&name(before.is_some(), "a"), &name(after.is_some(), "b"));
        self.text.push_str(&unified.to_string());
        self.files += 1;
    }

    /// Shows the diff in colour, the first [`LINES_MAX`] lines of it.
    pub(crate) fn show(&self, screen: &Screen) {
        if self.files == 0 {
            screen.line(&screen.ink(Ink::Dim, "no text file of the workspace has changed"));
        }
        for line in self.text.lines().take(LINES_MAX) {
            let ink = match line.as_bytes() {
                [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => Ink::Bold,
                [b'+', ..] => Ink::Good,
                [b'-', ..] => Ink::Bad,
                [b'@', ..] => Ink::Accent,
                _ => Ink::Plain,
            };
            screen.line(&screen.ink(ink, &clean(line)));
        }
        let more = self.text.lines().count().saturating_sub(LINES_MAX);
        if more > 0 {
            screen.line(&screen.ink(Ink::Dim, &format!("… and {more} more lines")));
        }
        if self.partial {
            screen.line(&screen.ink(Ink::Dim, "(the workspace is large: only a part of it was compared)"));
        }
    }

    /// `2 files, +3 −1`
    pub(crate) fn summary(&self) -> String {
        let files = if self.files == 1 { "1 file".to_string() } else { format!("{} files", self.files) };
        format!("{files}, +{} −{}", self.added, self.removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::fs;

    #[test]
    fn a_diff_shows_what_has_changed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path(".git")).unwrap();
        fs::write(path(".git/index"), "1").unwrap();
        fs::write(path(".gitignore"), "build/\n").unwrap();
        fs::create_dir(path("build")).unwrap();
        fs::write(path("a.txt"), "one\ntwo\nthree\n").unwrap();
        fs::write(path("gone.txt"), "bye\n").unwrap();
        fs::write(path("same.txt"), "same\n").unwrap();
        let before = Snapshot::take(dir.path());
        fs::write(path("a.txt"), "one\n2\nthree\n").unwrap();
        fs::remove_file(path("gone.txt")).unwrap();
        fs::write(path("new.txt"), "hello\n").unwrap();
        fs::write(path(".git/index"), "2").unwrap();
        fs::write(path("build/out"), "x").unwrap();
        let changes = before.changes();
        expect![[r#"
            --- a/a.txt
            +++ b/a.txt
            @@ -1,3 +1,3 @@
             one
            -two
            +2
             three
            --- a/gone.txt
            +++ /dev/null
            @@ -1 +0,0 @@
            -bye
            --- /dev/null
            +++ b/new.txt
            @@ -0,0 +1 @@
            +hello
        "#]]
        .assert_eq(&changes.text);
        assert_eq!(changes.summary(), "3 files, +2 −2");
        assert!(!changes.partial);
    }
}

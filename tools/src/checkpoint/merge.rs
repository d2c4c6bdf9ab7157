//! What was done to a copy of a workspace, brought back into it: file by file against what both began with, and nothing of what was done to
//! the workspace meanwhile is written over. What git keeps of its own stays as it is in the workspace: a branch that moved in the copy may name
//! objects that only the copy has.

use std::collections::BTreeMap;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::tree::{Entry, Kind};
use super::{BATCH_BYTES, Checkpoints, State, Tree, blocking, gone};
use crate::files::{Request, Restore, Step, characters};
use crate::{Error, Sandbox};

/// What came of bringing changes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merge {
    /// Paths that are now as the copy has them, or hold both sides' changes.
    pub merged: Vec<String>,
    /// Paths that both sides have changed in ways that do not go together: they are as they were in the workspace.
    pub conflicts: Vec<String>,
}

impl Checkpoints {
    /// Brings what was done to a copy, which was `base` and is `theirs`, into a sandbox's workspace. Files that only the copy has changed
    /// become what they are there; texts that both have changed in different places get both changes; what does not go together stays
    /// as it is in the workspace and is told. Doing so again, after it was cut off or was done, changes nothing more.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when a checkpoint is no longer there, or the workspace cannot be looked through; otherwise when the sandbox
    /// failed.
    pub async fn merge(
        &self,
        sandbox: &Sandbox,
        owner: &str,
        base: &Tree,
        theirs: &Tree,
    ) -> Result<Merge, Error> {
        let ours = self.take(sandbox, owner).await?.tree;
        let (own, base, theirs) = (self.clone(), *base, *theirs);
        let (merge, batches) = blocking(move || own.state().merge(&base, &ours, &theirs)).await?;
        for steps in batches {
            let answer = sandbox.files(&Request::Restore(Restore { steps })).await?;
            if !answer.ok {
                return Err(Error::Uncovered(answer.text));
            }
        }
        Ok(merge)
    }
}

impl State {
    /// What goes together and what does not, and what has to be done for it, in requests.
    fn merge(&self, base: &Tree, ours: &Tree, theirs: &Tree) -> Result<(Merge, Vec<Vec<Step>>), Error> {
        let theirs_changed = self.changes(base, theirs)?;
        let ours_changed = self.changes(base, ours)?;
        let mut merge = Merge::default();
        // By path: what is to be there, with what it holds; nothing where it goes.
        let mut wanted: BTreeMap<String, Option<Wanted>> = BTreeMap::new();
        for (path, (before, after)) in &theirs_changed {
            if path.split('/').any(|part| part == ".git") {
                continue;
            }
            let told = match (before, after) {
                // Folders are made for what lies in them; an empty one is told like a file.
                (Some(before), None) if before.kind == Kind::Folder => false,
                (None, Some(after)) if after.kind == Kind::Folder => false,
                _ => true,
            };
            let inside = format!("{path}/");
            // Something lies in the way of it, or was done below it.
            let below = ours_changed.keys().any(|other| other.starts_with(&inside));
            let above = path.match_indices('/').any(|(at, _)| {
                matches!(ours_changed.get(&path[..at]), Some((_, now)) if now.is_none_or(|now| now.kind != Kind::Folder))
            });
            let content = match ours_changed.get(path) {
                // Both have done the same.
                Some((_, Some(now))) if after.as_ref().is_some_and(|after| now.is_as(after)) => continue,
                Some((_, None)) if after.is_none() => continue,
                _ if above || below && after.is_none_or(|after| after.kind != Kind::Folder) => None,
                None => Some(self.wanted(after.as_ref(), theirs)?),
                Some((_, now)) => self.both(before.as_ref(), now.as_ref(), after.as_ref())?.map(Some),
            };
            match content {
                Some(content) => {
                    if told {
                        merge.merged.push(path.clone());
                    }
                    wanted.insert(path.clone(), content);
                }
                None if told => merge.conflicts.push(path.clone()),
                None => {}
            }
        }
        let there = |path: &str| -> Result<Option<Entry>, Error> {
            Ok(match ours_changed.get(path) {
                Some((_, now)) => *now,
                None => theirs_changed.get(path).and_then(|(before, _)| *before),
            })
        };
        Ok((merge, steps(wanted, there)?))
    }

    fn wanted(&self, entry: Option<&Entry>, tree: &Tree) -> Result<Option<Wanted>, Error> {
        let Some(entry) = entry else { return Ok(None) };
        let content = match entry.kind {
            Kind::Folder => Vec::new(),
            Kind::File | Kind::Program | Kind::Link => self.bytes(entry)?.ok_or_else(|| gone(tree))?,
        };
        Ok(Some(Wanted { kind: entry.kind, mode: entry.mode, content }))
    }

    fn bytes(&self, entry: &Entry) -> Result<Option<Vec<u8>>, Error> {
        self.packs.get(&entry.hash).map_err(Error::io("reading a checkpoint"))
    }

    /// A text that both sides have changed, with the changes of both; nothing when they do not go together.
    fn both(
        &self,
        before: Option<&Entry>,
        ours: Option<&Entry>,
        theirs: Option<&Entry>,
    ) -> Result<Option<Wanted>, Error> {
        let (Some(before), Some(ours), Some(theirs)) = (before, ours, theirs) else { return Ok(None) };
        let file = |entry: &Entry| matches!(entry.kind, Kind::File | Kind::Program);
        if ![before, ours, theirs].into_iter().all(file) {
            return Ok(None);
        }
        let (Some(base), Some(mine), Some(other)) =
            (self.bytes(before)?, self.bytes(ours)?, self.bytes(theirs)?)
        else {
            return Ok(None);
        };
        let texts = (String::from_utf8(base), String::from_utf8(mine), String::from_utf8(other));
        let (Ok(base), Ok(mine), Ok(other)) = texts else { return Ok(None) };
        // Whoever has changed it says whether it is a program, and who may do what with it.
        let kind = if theirs.kind == before.kind { ours.kind } else { theirs.kind };
        let mode = if theirs.mode == before.mode { ours.mode } else { theirs.mode };
        Ok(together(&base, &mine, &other).map(|text| Wanted { kind, mode, content: text.into_bytes() }))
    }
}

/// What is to be at a path.
struct Wanted {
    kind: Kind,
    /// Its permission bits, as [`Entry`] has them.
    mode: Option<u16>,
    content: Vec<u8>,
}

/// What has to be done for the paths to hold what is wanted, where something else may be `there`.
fn steps(
    wanted: BTreeMap<String, Option<Wanted>>,
    there: impl Fn(&str) -> Result<Option<Entry>, Error>,
) -> Result<Vec<Vec<Step>>, Error> {
    let mut batches = vec![Vec::new()];
    let file = |kind: Kind| matches!(kind, Kind::File | Kind::Program);
    // What goes, goes from the deepest up; so does what becomes something else.
    for (path, content) in wanted.iter().rev() {
        let Some(before) = there(path)? else { continue };
        let written_over = content.as_ref().is_some_and(|wanted| file(wanted.kind)) && file(before.kind);
        if !written_over {
            batches.last_mut().expect("there is one").push(Step::Remove { path: path.clone() });
        }
    }
    let mut bytes = 0;
    for (path, content) in wanted {
        let Some(Wanted { kind, mode, content }) = content else { continue };
        if bytes + content.len() > BATCH_BYTES && bytes > 0 {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += content.len();
        batches.last_mut().expect("there is one").push(match kind {
            Kind::Folder => Step::Folder { path, mode },
            Kind::Link => Step::Link { path, target: String::from_utf8_lossy(&content).into_owned() },
            Kind::File | Kind::Program => {
                Step::File { path, mode, program: kind == Kind::Program, content: characters(&content) }
            }
        });
    }
    batches.retain(|steps| !steps.is_empty());
    Ok(batches)
}

/// A stretch of the base and what one side has in its place. Lines.
#[derive(Debug, PartialEq, Eq)]
struct Change<'a> {
    from: usize,
    to: usize,
    new: &'a [&'a str],
}

/// The text with the changes of both sides; nothing where they touch the same lines, or lines beside each other, in different ways.
fn together(base: &str, ours: &str, theirs: &str) -> Option<String> {
    let lines = |text| -> Vec<&str> { str::split_inclusive(text, '\n').collect() };
    let (base, ours, theirs) = (lines(base), lines(ours), lines(theirs));
    let (mine, other) = (changes(&base, &ours), changes(&base, &theirs));
    let (mut mine, mut other) = (mine.into_iter().peekable(), other.into_iter().peekable());
    let mut out = String::new();
    let mut at = 0;
    loop {
        let next = match (mine.peek(), other.peek()) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b => {
                mine.next();
                other.next()
            }
            (Some(a), Some(b)) if a.from <= b.to && b.from <= a.to => return None,
            (Some(a), Some(b)) if a.from < b.from => mine.next(),
            (Some(_), None) => mine.next(),
            (_, Some(_)) => other.next(),
        };
        let change = next.expect("one was just looked at");
        out.extend(base[at..change.from].iter().copied());
        out.extend(change.new.iter().copied());
        at = change.to;
    }
    out.extend(base[at..].iter().copied());
    Some(out)
}

fn changes<'a>(base: &[&str], new: &'a [&'a str]) -> Vec<Change<'a>> {
    let changed = |op: DiffOp| {
        let (old, now) = (op.old_range(), op.new_range());
        (!matches!(op, DiffOp::Equal { .. })).then(|| Change { from: old.start, to: old.end, new: &new[now] })
    };
    capture_diff_slices(Algorithm::Myers, base, new).into_iter().filter_map(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::together;

    #[test]
    fn changes_in_different_places_go_together_and_others_are_no_ones_to_decide() {
        let base = "1\n2\n3\n4\n5\n6\n";
        let check = |ours: &str, theirs: &str, expect: Option<&str>| {
            assert_eq!(together(base, ours, theirs).as_deref(), expect, "{ours:?} {theirs:?}");
            // Whoever is first.
            assert_eq!(together(base, theirs, ours).as_deref(), expect, "{ours:?} {theirs:?}");
        };
        check("1\nzwei\n3\n4\n5\n6\n", "1\n2\n3\n4\nfive\n6\n", Some("1\nzwei\n3\n4\nfive\n6\n"));
        check(base, "1\n6\n", Some("1\n6\n"));
        check("0\n1\n2\n3\n4\n5\n6\n", "1\n2\n3\n4\n5\n6\n7\n", Some("0\n1\n2\n3\n4\n5\n6\n7\n"));
        // Both have done the same.
        check("1\nx\n3\n4\n5\n6\n", "1\nx\n3\n4\n5\n", Some("1\nx\n3\n4\n5\n"));
        check("1\na\n3\n4\n5\n6\n", "1\nb\n3\n4\n5\n6\n", None);
        check("1\na\n3\n4\n5\n6\n", "1\n2\nb\n4\n5\n6\n", None);
        check("1\n2\n3\nx\n4\n5\n6\n", "1\n2\n3\ny\n4\n5\n6\n", None);
        check("1\n6\n", "1\n2\n3\nx\n5\n6\n", None);
        assert_eq!(together("", "a\n", "b\n"), None);
        // Brought in once more it changes nothing.
        let once = together(base, "1\nzwei\n3\n4\n5\n6\n", "1\n2\n3\n4\nfive\n6\n").unwrap();
        assert_eq!(together(base, &once, "1\n2\n3\n4\nfive\n6\n").as_deref(), Some(once.as_str()));
    }
}

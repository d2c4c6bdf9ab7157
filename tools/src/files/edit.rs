//! Replacing a piece of a file by another, found by its text.
//!
//! Small models retype the old text from memory: indentation slips, line numbers come along, line ends differ. What can
//! mean only one place is applied and said; what could mean two is never applied; what means none comes back with the
//! nearest real lines, so that the next try can copy them.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::workspace::shown;
use super::{Answer, WRITE_BYTES_MAX, Workspace, write};
use crate::outline::{self, Language};
use crate::output::{harmless, size};

/// How many lines of the result are shown.
const SHOWN_LINES: usize = 20;

/// Nearest lines are looked for in files up to this size, or a miss would take seconds. Lines times lines of old text.
const NEAREST_WORK: usize = 2_000_000;

/// A piece of text and what takes its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Edit {
    pub(crate) path: String,
    pub(crate) old: String,
    pub(crate) new: String,
    /// Replace every place instead of the only one.
    pub(crate) all: bool,
}

impl Edit {
    pub(super) fn perform(&self, workspace: &Workspace) -> Result<Answer, String> {
        let below = workspace.locate(&self.path)?;
        let name = shown(&below);
        let (file, metadata) = workspace.open_file(&below)?;
        if metadata.len() > WRITE_BYTES_MAX as u64 {
            return Err(format!(
                "{name} is too large to edit ({}); use exec with sed.",
                size(metadata.len())
            ));
        }
        let mut bytes = Vec::new();
        file.take(WRITE_BYTES_MAX as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("{name}: {error}"))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| format!("{name} is not UTF-8 text; use exec to change it."))?;
        match apply(&text, &self.old, &self.new, self.all) {
            Ok(done) => {
                if let Some(fault) = broken(&below, &text, &done.text) {
                    return Err(format!("{name} was not changed. {fault}"));
                }
                write::replace(workspace, &below, done.text.as_bytes())?;
                let (first, last) = done.lines;
                let places =
                    if done.places > 1 { format!(" in {} places", done.places) } else { String::new() };
                let mut answer = format!("Edited {name}{places}.");
                if let Some(note) = done.note {
                    let _ = write!(answer, " {note}");
                }
                let after: Vec<&str> = done.text.lines().skip(first - 1).take(last + 1 - first).collect();
                if done.places == 1 && !after.is_empty() && after.len() <= SHOWN_LINES {
                    let (lines, _) = harmless(after.join("\n").as_bytes());
                    let _ = write!(answer, " Lines {first}-{last} are now:\n{lines}");
                }
                Ok(Answer::yes(answer, format!("Edited {name} · line {first}{places}")))
            }
            Err(why) => Err(format!("{name} was not changed. {why}")),
        }
    }
}

/// What a file that could be read before would not be any more: most often an edit that replaces the first line of a block
/// and leaves the rest of it, or that gives only the half of what belongs together. Found by whoever runs the file, it costs
/// a small model several steps, and it rarely finds its way back.
fn broken(below: &Path, before: &str, after: &str) -> Option<String> {
    let language = Language::of(below)?;
    let fault = outline::fault(language, after)?;
    if outline::fault(language, before).is_some() {
        // It is being mended, or it is not what its name says.
        return None;
    }
    let line = after.lines().nth(fault.line as usize - 1).unwrap_or_default();
    let (line, _) = harmless(line.as_bytes());
    Some(format!(
        "Line {} would then be wrong, for {}:\n{line}\nGive as old all lines that have to change together, and as new all of them as \
         they are to be.",
        fault.line, fault.what
    ))
}

/// An edit that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) text: String,
    places: usize,
    /// First and last line of the (first) new piece, counted from 1.
    pub(super) lines: (usize, usize),
    /// What was taken differently from how it was written.
    note: Option<&'static str>,
}

/// Finds the old text and puts the new one in its place. The error says what to do instead.
pub(super) fn apply(text: &str, old: &str, new: &str, all: bool) -> Result<Done, String> {
    if old.trim().is_empty() {
        return Err(
            "The old text is empty. Give the lines to replace, or use write for the whole file.".to_owned()
        );
    }
    if old == new {
        return Err(
            "The old and the new text are the same. To add lines, such as an import, give the line that stands next to them \
             as old, and the same line together with the added ones as new."
                .to_owned(),
        );
    }
    if let Some(done) = exactly(text, old, new, all, None)? {
        return Ok(done);
    }
    if text.contains("\r\n") && !old.contains('\r') {
        let (old, new) = (old.replace('\n', "\r\n"), new.replace('\n', "\r\n"));
        if let Some(done) = exactly(text, &old, &new, all, Some("(The file's CR LF line ends were kept.)"))? {
            return Ok(done);
        }
    }
    if let Some(plain) = without_numbers(old) {
        let new = without_numbers(new).unwrap_or_else(|| new.to_owned());
        let note = Some("(The line numbers in the old text were left out.)");
        if let Some(done) = exactly(text, &plain, &new, all, note)? {
            return Ok(done);
        }
    }
    loosely(text, old, new)
}

/// Places where the old text stands letter for letter.
fn exactly(
    text: &str,
    old: &str,
    new: &str,
    all: bool,
    note: Option<&'static str>,
) -> Result<Option<Done>, String> {
    let places: Vec<usize> = text.match_indices(old).map(|(at, _)| at).collect();
    let line_of = |at: usize| text[..at].matches('\n').count() + 1;
    match places.as_slice() {
        [] => Ok(None),
        [first, rest @ ..] if rest.is_empty() || all => {
            let line = line_of(*first);
            let last = line + new.trim_end_matches('\n').matches('\n').count();
            let text = text.replace(old, new);
            Ok(Some(Done { text, places: places.len(), lines: (line, last), note }))
        }
        _ => {
            let lines: Vec<String> = places.iter().take(10).map(|at| line_of(*at).to_string()).collect();
            Err(format!(
                "The old text stands in {} places (lines {}). Add lines around it to name one, or set all to true.",
                places.len(),
                lines.join(", ")
            ))
        }
    }
}

/// The text without a line number before each line, when each has one: `12: x`, `12| x`, `12→x`, `12<tab>x`.
fn without_numbers(text: &str) -> Option<String> {
    let strip = |line: &str| -> Option<String> {
        let rest = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
        let numbered = rest.len() < line.trim_start().len();
        let mark = rest.chars().next().filter(|c| numbered && matches!(c, ':' | '|' | '\t' | '→'))?;
        let rest = &rest[mark.len_utf8()..];
        // One space after the mark belongs to it; a tab or an arrow has none.
        Some(if matches!(mark, ':' | '|') { rest.strip_prefix(' ').unwrap_or(rest) } else { rest }.to_owned())
    };
    let lines: Option<Vec<String>> = text.lines().map(strip).collect();
    let mut plain = lines?.join("\n");
    if text.ends_with('\n') {
        plain.push('\n');
    }
    (!plain.trim().is_empty()).then_some(plain)
}

/// Places where the old text stands but for white space. Only one is good enough; its own indentation is kept.
fn loosely(text: &str, old: &str, new: &str) -> Result<Done, String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let bare = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted: Vec<String> = trimmed_lines(old).iter().map(|line| bare(line)).collect();
    let have: Vec<String> = lines.iter().map(|line| bare(line)).collect();
    let places: Vec<usize> = (0..(have.len() + 1).saturating_sub(wanted.len()))
        .filter(|at| have[*at..*at + wanted.len()] == wanted[..])
        .collect();
    match places.as_slice() {
        [at] => {
            let replaced = &lines[*at..*at + wanted.len()];
            let new = reindented(&trimmed_lines(old), replaced, new);
            let before: String = lines[..*at].concat();
            let after: String = lines[*at + wanted.len()..].concat();
            let ended = replaced.last().is_some_and(|line| line.ends_with('\n'));
            let mut piece = new.trim_end_matches('\n').to_owned();
            if ended && !piece.is_empty() {
                piece.push_str(if replaced.iter().any(|line| line.ends_with("\r\n")) {
                    "\r\n"
                } else {
                    "\n"
                });
            }
            let count = piece.lines().count().max(1);
            Ok(Done {
                text: before + &piece + &after,
                places: 1,
                lines: (at + 1, at + count),
                note: Some(
                    "(White space in the old text differed from the file; the file's indentation was kept.)",
                ),
            })
        }
        [] => Err(miss(&lines, &have, &wanted)),
        more => Err(format!(
            "The old text differs from the file in white space and fits {} places (from lines {}). Copy one of them exactly.",
            more.len(),
            more.iter().take(10).map(|at| (at + 1).to_string()).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// Lines without blank ones before and after.
fn trimmed_lines(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| !line.trim().is_empty()).unwrap_or(0);
    let last = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |at| at + 1);
    lines[first..last.max(first)].to_vec()
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// The new text, moved from the old text's indentation to that of the lines it replaces.
fn reindented(old: &[&str], replaced: &[&str], new: &str) -> String {
    let mut pairs = old.iter().zip(replaced).filter(|(line, _)| !line.trim().is_empty());
    let Some((from, to)) = pairs.next().map(|(old, real)| (indentation(old), indentation(real))) else {
        return new.to_owned();
    };
    if from == to {
        return new.to_owned();
    }
    let moved = new.split_inclusive('\n').map(|line| match line.strip_prefix(from) {
        Some(rest) if !line.trim().is_empty() => format!("{to}{rest}"),
        Some(_) | None => line.to_owned(),
    });
    moved.collect()
}

/// Says that the old text is not there, and what is nearest to it.
fn miss(lines: &[&str], have: &[String], wanted: &[String]) -> String {
    let no = "The old text is not in the file.";
    let work = have.len().saturating_mul(wanted.len());
    if wanted.is_empty() || have.is_empty() || work > NEAREST_WORK {
        return format!("{no} Read the file and copy the lines exactly.");
    }
    let height = wanted.len().min(have.len());
    let score = |at: usize| -> f32 { wanted.iter().zip(&have[at..]).map(|(a, b)| likeness(a, b)).sum() };
    let best = (0..=have.len() - height)
        .map(|at| (at, score(at)))
        .max_by(|(at, a), (other, b)| a.total_cmp(b).then(other.cmp(at)));
    match best {
        #[expect(clippy::cast_precision_loss, reason = "a count of lines in a ratio")]
        Some((at, score)) if score > 0.3 * wanted.len() as f32 => {
            let height = height.min(SHOWN_LINES);
            let (nearest, _) = harmless(lines[at..at + height].concat().as_bytes());
            format!(
                "{no} The nearest lines are {}-{}:\n{}\nCopy the lines to replace exactly as they are there.",
                at + 1,
                at + height,
                nearest.trim_end_matches('\n')
            )
        }
        Some(_) | None => format!("{no} Nothing like it is. Read the file and copy the lines exactly."),
    }
}

/// How alike two lines are, from 0 to 1: the share of letter pairs they have in common.
fn likeness(a: &str, b: &str) -> f32 {
    if a == b {
        return 1.0;
    }
    let pairs = |line: &str| -> Vec<[u8; 2]> {
        let mut pairs: Vec<[u8; 2]> =
            line.as_bytes().windows(2).take(200).map(|pair| [pair[0], pair[1]]).collect();
        pairs.sort_unstable();
        pairs
    };
    let (a, b) = (pairs(a), pairs(b));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let (mut i, mut j, mut common) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                i += 1;
                j += 1;
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "at most a few hundred pairs")]
    let share = 2.0 * common as f32 / (a.len() + b.len()) as f32;
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "def add(a, b):\n    # sums\n    return a - b\n\ndef sub(a, b):\n    return a - b\n";

    fn check(old: &str, new: &str, expected: Result<&str, &str>) {
        match (apply(FILE, old, new, false), expected) {
            (Ok(done), Ok(expected)) => assert_eq!(done.text, expected),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn what_means_one_place_is_applied() {
        // A refused edit costs a small model several steps, so what is clear must not be refused.
        let fixed = FILE.replacen("return a - b", "return a + b", 1);
        check("    # sums\n    return a - b\n", "    # sums\n    return a + b\n", Ok(&fixed));
        check("# sums\nreturn a - b", "# sums\nreturn a + b", Ok(&fixed));
        check(
            "def add(a,  b):\n  # sums\n  return a - b",
            "def add(a,  b):\n    # sums\n    return a + b",
            Ok(&fixed.replacen("def add(a, b)", "def add(a,  b)", 1)),
        );
        check("2:     # sums\n3:     return a - b", "2:     # sums\n3:     return a + b", Ok(&fixed));
    }

    #[test]
    fn what_would_break_a_file_is_told_and_what_mends_one_is_done() {
        let broken = |path: &str, before: &str, after: &str| broken(Path::new(path), before, after);
        let half = FILE.replacen("def add(a, b):", "def add(a, b): return a + b", 1);
        let said = broken("a.py", FILE, &half).unwrap();
        assert!(said.contains("Line 3 would") && said.contains("\n    return a - b\n"), "{said}");
        assert_eq!(broken("a.py", FILE, &FILE.replace("a - b", "a + b")), None);
        // One that is broken already may be changed in steps, and nothing is known of other files.
        assert_eq!(broken("a.py", &half, &half.replace("sub", "diff")), None);
        assert_eq!(broken("a.txt", FILE, &half), None);
    }

    #[test]
    fn what_means_two_places_or_none_is_never_applied() {
        // A wrong place edited in silence is worse than any refusal.
        check("    return a - b\n", "    return a + b\n", Err("2 places (lines 3, 6)"));
        check("  return  a - b", "  return a + b", Err("fits 2 places"));
        check("def mul(a, b):\n    return a * b", "", Err("The nearest lines are"));
        check("zzzz qqqq", "", Err("Nothing like it"));
        check("", "x", Err("empty"));
        check("# sums", "# sums", Err("the same"));
    }

    #[test]
    fn line_ends_and_all_places_are_kept() {
        // A file that changes its line ends shows up as changed in every line.
        let done = apply("a\r\nb\r\nc\r\n", "a\nb\n", "x\ny\n", false).unwrap();
        assert_eq!(done.text, "x\r\ny\r\nc\r\n");
        let done = apply(FILE, "a - b", "a + b", true).unwrap();
        assert_eq!((done.text.matches("a + b").count(), done.places), (2, 2));
    }

    #[test]
    fn the_nearest_lines_are_the_real_ones() {
        // The model copies them in its next try: they must be in the file letter for letter.
        let why = apply(FILE, "def add(x, y):\n    return x - y", "", false).unwrap_err();
        let (_, shown) = why.split_once(":\n").unwrap();
        let (lines, _) = shown.split_once("\nCopy").unwrap();
        assert!(FILE.contains(lines), "{lines}");
    }
}

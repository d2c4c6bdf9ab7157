//! What the text arguments of calls are bound to, besides their schemas: values that there are, text that stands in a file.
//!
//! A mask that is made of these admits only tokens that keep an argument so, wherever tokens cut the text. Each bound has
//! its way out, which the model chooses with letters that stand before the text: a path that begins with `./`, a flag. So
//! what is free is not bent, and what is bound cannot be missed.

use std::collections::BTreeSet;

use serde_json::Value;
use tools::Spec;

use super::lark::regex;

/// An argument of a tool, and what it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The tool.
    pub tool: String,
    /// The argument.
    pub argument: String,
    /// What it is bound to.
    pub to: To,
}

/// What an argument is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// One of these texts, or what else there may be.
    OneOf {
        /// The texts.
        values: Vec<String>,
        /// What else there may be.
        besides: Besides,
    },
    /// A piece of a file.
    Piece(Quoted),
    /// A whole file.
    Whole(Whole),
}

/// A file that is written as a whole: its first letter stands at the margin, and its last line ends. So a quotation mark in the
/// middle of a line cannot be taken for the end of a text in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Whole {
    /// What it holds, in any order.
    pub holds: Vec<String>,
    /// What it does not hold.
    pub never: Vec<String>,
}

/// What else may be said than what is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Besides {
    /// Nothing.
    Nothing,
    /// Paths that lie directly in none of these folders, which are known; the workspace's own is empty. A path that
    /// begins with `./` lies in none of them, whatever it means.
    OutsideOf(Vec<String>),
}

/// A piece of the file that another argument names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// The argument before this one that names the file.
    pub of: String,
    /// Files that are known.
    pub files: Vec<Known>,
    /// Whether a piece begins and ends with lines; with words otherwise.
    pub lines: bool,
    /// The flag before this one that asks for every place: then the piece may stand in more than one.
    pub all: Option<String>,
    /// The flag before this one that leaves the text free.
    pub free: Option<String>,
    /// Whether files that are not known may be named. Their text is free.
    pub others: bool,
}

/// A file that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its path.
    pub path: String,
    /// Stretches of its text, of which a piece may be taken.
    pub pieces: Vec<String>,
    /// All that is known of its text: a piece has to stand there only once. Empty when that does not matter.
    pub whole: String,
}

/// How much text arguments are bound to, in bytes: what a grammar of it takes grows with that.
pub(crate) fn text_bytes(bounds: &[Bound]) -> usize {
    let of = |bound: &Bound| match &bound.to {
        To::OneOf { values, .. } => values.iter().map(String::len).sum::<usize>(),
        To::Piece(quoted) => quoted.files.iter().map(|file| file.whole.len()).sum(),
        To::Whole(whole) => whole.holds.iter().chain(&whole.never).map(String::len).sum(),
    };
    bounds.iter().map(of).sum()
}

/// How a format writes a text within a terminal: as it is, or with the escapes of JSON.
pub(super) type Spelling = fn(&str) -> String;

/// A text as it is.
pub(super) fn plain(text: &str) -> String {
    text.to_string()
}

/// A text within the quotes of JSON.
pub(super) fn escaped(text: &str) -> String {
    let json = Value::from(text).to_string();
    json[1..json.len() - 1].to_string()
}

/// The bounds of one tool.
pub(super) fn of<'b>(bounds: &'b [Bound], tool: &Spec) -> Vec<&'b Bound> {
    bounds.iter().filter(|bound| bound.tool == tool.name).collect()
}

/// One way to write the arguments of a call: what each bound argument is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Way<'b> {
    /// Arguments that are one text.
    exactly: Vec<(&'b str, &'b str)>,
    /// Flags that are set, and flags that are not.
    flags: Vec<(&'b str, bool)>,
    /// Arguments that fit a terminal.
    terminals: Vec<(&'b str, String)>,
}

/// What an argument is in one way to write a call.
pub(super) enum Bounded<'w> {
    /// This text.
    Exactly(&'w str),
    /// This flag; one that is not set may be left out.
    Flag(bool),
    /// A text that fits a terminal.
    Terminal(&'w str),
}

impl Way<'_> {
    /// What an argument is; nothing when its schema alone says so.
    pub(super) fn of(&self, argument: &str) -> Option<Bounded<'_>> {
        let exactly = self.exactly.iter().find(|(name, _)| *name == argument);
        let flag = self.flags.iter().find(|(name, _)| *name == argument);
        let terminal = self.terminals.iter().find(|(name, _)| *name == argument);
        exactly
            .map(|(_, text)| Bounded::Exactly(text))
            .or_else(|| flag.map(|(_, on)| Bounded::Flag(*on)))
            .or_else(|| terminal.map(|(_, terminal)| Bounded::Terminal(terminal)))
    }
}

/// The ways to write the arguments of a call within its bounds, with their terminals added to `lines`. They exclude each
/// other, so that what is said first decides. `prefix` keeps the names of terminals apart; no text holds the letters
/// `mark`, which end it.
pub(super) fn ways<'b>(
    bounds: &[&'b Bound],
    tool: &Spec,
    prefix: &str,
    spelling: Spelling,
    mark: &str,
    lines: &mut String,
) -> Vec<Way<'b>> {
    let barred = match mark {
        "" => String::new(),
        barred => format!(" & ~/(?s:.*){}(?s:.*)/", regex(barred)),
    };
    let mut ways = vec![Way::default()];
    for (i, bound) in bounds.iter().enumerate() {
        match &bound.to {
            To::OneOf { values, besides } => {
                let terminal = format!("{prefix}VALUE_{i}");
                one_of(&terminal, values, besides, spelling, &barred, lines);
                for way in &mut ways {
                    // A file that is named by a way of its own stays so.
                    if way.exactly.iter().all(|(name, _)| *name != bound.argument) {
                        way.terminals.push((&bound.argument, terminal.clone()));
                    }
                }
            }
            To::Whole(Whole { holds, never }) => {
                let terminal = format!("{prefix}WHOLE_{i}");
                let spelled = |text: &String| spelling(text);
                let held = holds.iter().map(spelled).filter(|text| mark.is_empty() || !text.contains(mark));
                let held: String = held.map(|text| format!(" & /(?s:.*){}(?s:.*)/", regex(&text))).collect();
                let never = never.iter().map(spelled);
                let never: String =
                    never.map(|text| format!(" & ~/(?s:.*){}(?s:.*)/", regex(&text))).collect();
                let (begins, ends, within) = match spelling("\n") == "\n" {
                    // The line break before the mark ends the last line there.
                    true => ("[^ \\t\\n]", "", ""),
                    false => ("([^ \\\\]|\\\\\")", "\\\\n", line_of(spelling)),
                };
                let text = format!("/{begins}(?s:.*){ends}/{within}{held}{never}{barred}");
                lines.push_str(&format!("{terminal}: {text}\n"));
                for way in &mut ways {
                    way.terminals.push((&bound.argument, terminal.clone()));
                }
            }
            To::Piece(piece) => {
                let has = |flag: &&String| tool.parameters["properties"].get(flag.as_str()).is_some();
                let all = piece.all.as_ref().filter(has);
                let free = piece.free.as_ref().filter(has);
                let mut more = Vec::new();
                for (n, file) in piece.files.iter().enumerate() {
                    let terminal = format!("{prefix}PIECE_{i}_{n}");
                    let possible = Possible::of(file, spelling, mark);
                    let once = match possible {
                        Possible::Nothing => String::new(),
                        _ => pieces(&terminal, file, piece.lines, possible, spelling, &barred, lines),
                    };
                    for way in &ways {
                        let mut named = way.clone();
                        named.terminals.retain(|(name, _)| *name != piece.of);
                        named.exactly.push((&piece.of, &file.path));
                        let mut add = |flags: &[(Option<&'b String>, bool)], terminal: Option<&str>| {
                            let mut way = named.clone();
                            let flags =
                                flags.iter().filter_map(|(flag, on)| Some((flag.as_ref()?.as_str(), *on)));
                            way.flags.extend(flags);
                            way.terminals
                                .extend(terminal.map(|name| (bound.argument.as_str(), name.to_string())));
                            more.push(way);
                        };
                        if possible == Possible::Nothing {
                            add(&[], None);
                            continue;
                        }
                        add(&[(all, false), (free, false)], Some(&once));
                        if all.is_some() {
                            add(&[(all, true), (free, false)], Some(&terminal));
                        }
                        if free.is_some() {
                            add(&[(free, true)], None);
                        }
                    }
                }
                if piece.others {
                    let mut known: Vec<String> =
                        piece.files.iter().map(|file| regex(&spelling(&file.path))).collect();
                    let known = listed(&mut known);
                    for (n, mut way) in ways.into_iter().enumerate() {
                        let terminal = format!("{prefix}OTHER_{i}_{n}");
                        let before = way.terminals.iter().position(|(name, _)| *name == piece.of);
                        let base = match before {
                            Some(at) => way.terminals.remove(at).1,
                            None => format!("/(?s:.*)/{}{barred}", line_of(spelling)),
                        };
                        lines.push_str(&format!("{terminal}: {base} & ~/(?:{known})/\n"));
                        way.terminals.push((&piece.of, terminal));
                        more.push(way);
                    }
                }
                ways = more;
            }
        }
    }
    ways
}

/// Adds the terminal of one of these texts, or what else there may be.
fn one_of(
    terminal: &str,
    values: &[String],
    besides: &Besides,
    spelling: Spelling,
    barred: &str,
    lines: &mut String,
) {
    let mut forms: Vec<String> = values.iter().map(|value| regex(&spelling(value))).collect();
    if let Besides::OutsideOf(folders) = besides {
        let folders: Vec<String> = folders
            .iter()
            .map(|folder| match folder.as_str() {
                "" => String::new(),
                folder => regex(&spelling(&format!("{folder}/"))),
            })
            .collect();
        // Only what lies directly in a known folder is known.
        lines.push_str(&format!(
            "{terminal}_FREE: /(?s:.+)/{}{barred} & ~/(?:{})[^\\/]*/\n",
            line_of(spelling),
            folders.join("|")
        ));
        lines.push_str(&format!("{terminal}: /(?:{})/ | {terminal}_FREE\n", listed(&mut forms)));
    } else {
        lines.push_str(&format!("{terminal}: /(?:{})/\n", listed(&mut forms)));
    }
}

/// Alternatives of a regular expression; `[^\s\S]`, which is nothing, without any.
fn listed(forms: &mut Vec<String>) -> String {
    forms.sort_unstable();
    forms.dedup();
    if forms.is_empty() { "\\x00".to_string() } else { forms.join("|") }
}

/// What keeps a terminal a single line, and in JSON a part of a string.
pub(super) fn line_of(spelling: Spelling) -> &'static str {
    if spelling("\n") == "\n" {
        " & /[^\\n]*/"
    } else {
        " & /(?:[^\"\\\\\\x00-\\x1F\\x7F]|\\\\(?:[\"\\\\\\/bfnrt]|u[0-9a-fA-F]{4}))*/"
    }
}

/// What pieces of a file there are for sure. A terminal that nothing fits would leave no token to go on with in the middle of a
/// call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Possible {
    /// Some that stand in it once.
    Once,
    /// Some, but perhaps each of them stands in it more than once.
    Some,
    /// Perhaps none.
    Nothing,
}

impl Possible {
    fn of(file: &Known, spelling: Spelling, mark: &str) -> Possible {
        let mut possible = Possible::Nothing;
        for stretch in &file.pieces {
            // No piece holds the mark, so the longest are those between lines that do.
            for run in runs(stretch, |line| mark.is_empty() || !spelling(line).contains(mark.trim())) {
                if !spelling(run).contains(|c| !BLANKS.contains(&c)) {
                    continue;
                }
                // What stands twice as a whole does so in every part.
                let mut places = (0..file.whole.len())
                    .filter(|&at| file.whole.as_bytes()[at..].starts_with(run.as_bytes()));
                if places.next().is_none() || places.next().is_none() {
                    return Possible::Once;
                }
                possible = Possible::Some;
            }
        }
        possible
    }
}

/// The longest stretches of lines of which each `may` be in one.
fn runs(text: &str, may: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut runs = Vec::new();
    let (mut begin, mut end) = (0, 0);
    for line in text.split_inclusive('\n') {
        if !may(line) {
            runs.push(&text[begin..end]);
            begin = end + line.len();
        }
        end += line.len();
    }
    runs.push(&text[begin..end]);
    runs.retain(|run| !run.is_empty());
    runs
}

/// Letters of which alone no piece consists, however white space is spelled.
const BLANKS: [char; 6] = [' ', '\n', '\t', 'n', 't', '\\'];

/// Adds the terminal of a piece of a file, and one of those pieces that stand in it once, and gives the name of that.
fn pieces(
    terminal: &str,
    file: &Known,
    lines: bool,
    possible: Possible,
    spelling: Spelling,
    barred: &str,
    out: &mut String,
) -> String {
    let cut = if lines { line_chunks } else { word_chunks };
    let json = |texts: &[&str]| {
        let mut chunks: Vec<String> = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            // No text holds this letter, so no piece goes from one stretch into the next.
            chunks.extend((i > 0).then(|| BETWEEN.to_string()));
            chunks.extend(cut(text).into_iter().map(spelling));
        }
        serde_json::json!({ "substring_chunks": chunks })
    };
    let stretches: Vec<&str> = file.pieces.iter().map(String::as_str).collect();
    // More than white space, which may be spelled \n and \t here, and not across stretches.
    let some = if spelling("\n") == "\n" {
        " & /(?s:.*)[^ \\n\\t](?s:.*)/"
    } else {
        " & /(?s:.*)[^ nt\\\\](?s:.*)/"
    };
    let within = if stretches.len() > 1 { " & /[^\\x01]*/" } else { "" };
    out.push_str(&format!("{terminal}: %regex {}{some}{within}{barred}\n", json(&stretches)));
    let twice = repeated(&file.whole, cut);
    // A text that consists of repetitions would make more of them than there is of itself, or nothing else: then the tool says
    // that one stands there twice.
    if possible != Possible::Once
        || twice.is_empty()
        || twice.iter().map(String::len).sum::<usize>() > file.whole.len()
    {
        return terminal.to_string();
    }
    let twice: Vec<&str> = twice.iter().map(String::as_str).collect();
    out.push_str(&format!("{terminal}_TWICE: %regex {}\n", json(&twice)));
    out.push_str(&format!("{terminal}_ONCE: {terminal} & ~{terminal}_TWICE\n"));
    format!("{terminal}_ONCE")
}

/// A letter that stands in no text: tools leave control characters out of what they show.
const BETWEEN: &str = "\u{1}";

/// A text in the pieces a quotation may begin and end with: a line's indentation, the rest of the line, its end.
fn line_chunks(text: &str) -> Vec<&str> {
    let mut chunks = Vec::new();
    for line in text.split_inclusive('\n') {
        let (body, end) = match line.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        let bare = body.trim_start_matches([' ', '\t']);
        let pieces = [&body[..body.len() - bare.len()], bare, end];
        chunks.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
    }
    chunks
}

/// A text in its words and the letters between them: a word that is cut is never what was meant. Scripts that are written
/// without blanks are cut anywhere.
fn word_chunks(text: &str) -> Vec<&str> {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    let mut chunks = Vec::new();
    let mut start = 0;
    for (at, _) in text.char_indices().skip(1) {
        if !(part(bytes[at - 1]) && part(bytes[at])) {
            chunks.push(&text[start..at]);
            start = at;
        }
    }
    chunks.push(&text[start..]);
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// The longest stretch that is told from its likes, in bytes: what is longer and stands twice is copied whole files.
const TWICE_BYTES_MAX: usize = 1 << 10;

/// Stretches of a text, cut where pieces are, that stand in it more than once, so that every piece that does is a piece of
/// one of them.
fn repeated(text: &str, cut: fn(&str) -> Vec<&str>) -> Vec<String> {
    // Every place of the text, in the order of what stands there: neighbours have most in common.
    let mut places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let ahead = |at: usize| &text.as_bytes()[at..text.len().min(at + TWICE_BYTES_MAX)];
    places.sort_by(|&a, &b| ahead(a).cmp(ahead(b)));
    let common = |a: usize, b: usize| ahead(a).iter().zip(ahead(b)).take_while(|(a, b)| a == b).count();
    let mut longest = vec![0; text.len() + 1];
    for pair in places.windows(2) {
        let shared = common(pair[0], pair[1]);
        for &at in pair {
            longest[at] = longest[at].max(shared);
        }
    }
    // From each place where a piece may begin, as far as it stands elsewhere and a piece may end.
    let mut borders = vec![0];
    for chunk in cut(text) {
        borders.push(borders.last().expect("there is one from the start") + chunk.len());
    }
    let mut found = BTreeSet::new();
    let mut reached = 0;
    for &begin in &borders {
        let far = begin + longest[begin];
        let end =
            borders[..borders.partition_point(|&border| border <= far)].last().copied().unwrap_or(begin);
        // What ends where the one before it did is a part of that.
        if end > begin && end > reached {
            found.insert(text[begin..end].to_string());
        }
        reached = reached.max(end);
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_twice_is_found_and_nothing_else() {
        // The tool counts letters, not words: `x = 1` stands in `max = 10` as well.
        let mut chance = 3_u32;
        let mut roll = |sides: u32| {
            chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (chance >> 8) % sides
        };
        for cut in [word_chunks, line_chunks] {
            for _ in 0..200 {
                let parts = ["x = 1\n", "max = 10\n", "    ", "f(x)", "é", "日本 = 1\n", "\n", " "];
                let text: String = (0..roll(14)).map(|_| parts[roll(8) as usize]).collect();
                let chunks = cut(&text);
                assert_eq!(chunks.concat(), text);
                let twice = repeated(&text, cut);
                for begin in 0..chunks.len() {
                    for end in begin + 1..=chunks.len() {
                        let piece = chunks[begin..end].concat();
                        let places =
                            text.char_indices().filter(|(at, _)| text[*at..].starts_with(&piece)).count();
                        let found = twice.iter().any(|twice| {
                            let twice = cut(twice);
                            twice.windows(end - begin).any(|window| window == &chunks[begin..end])
                        });
                        assert_eq!(found, places > 1, "{piece:?} in {text:?}: {twice:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_file_is_searched_at_once() {
        // It is done before a reply, while somebody waits.
        let began = std::time::Instant::now();
        let text: String = (0..2000).map(|n| format!("    let value_{} = other[{n}];\n", n % 7)).collect();
        assert!(!repeated(&text, word_chunks).is_empty());
        assert!(repeated(&"ab\n".repeat(20_000), line_chunks).len() < 10);
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

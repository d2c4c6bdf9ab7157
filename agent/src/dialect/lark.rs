//! Writing grammars of chat formats: marks that are one token where the vocabulary has it, and text up to a mark.

use std::fmt::Write as _;

use serde_json::Value;

/// Which names the vocabulary has as one token.
pub(super) type Special<'a> = &'a dyn Fn(&str) -> Option<engine::Token>;

/// A grammar as it is written, in the Lark dialect of `llguidance`.
pub(super) struct Lark<'a> {
    text: String,
    special: Special<'a>,
    /// The format's marks, the longest of those with a common beginning first.
    marks: &'static [&'static str],
}

impl<'a> Lark<'a> {
    pub(super) fn new(special: Special<'a>, marks: &'static [&'static str]) -> Lark<'a> {
        Lark { text: String::new(), special, marks }
    }

    /// Adds a line.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Adds lines that another part wrote.
    pub(super) fn lines(&mut self) -> &mut String {
        &mut self.text
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// `text` as a rule spells it: its marks as tokens, the rest as it stands.
    pub(super) fn seq(&self, text: &str) -> String {
        let (before, rest) = self.split(text);
        let mut out = Vec::new();
        if !before.is_empty() {
            out.push(literal(before));
        }
        if let Some((token, rest)) = rest {
            out.push(format!("<[{token}]>"));
            if !rest.is_empty() {
                out.push(self.seq(rest));
            }
        }
        out.join(" ")
    }

    /// `text` up to its first mark that is one token, and that token with what follows it.
    fn split<'t>(&self, text: &'t str) -> (&'t str, Option<(engine::Token, &'t str)>) {
        let found = self
            .marks
            .iter()
            .filter_map(|mark| Some((text.find(mark)?, mark.len(), (self.special)(mark)?)))
            // Of two marks at one place the longer one is meant.
            .min_by_key(|(at, len, _)| (*at, usize::MAX - len));
        match found {
            Some((at, len, token)) => (&text[..at], Some((token, &text[at + len..]))),
            None => (text, None),
        }
    }

    /// Adds the rule `name`: a text that fits `body` up to the first `mark`, and the mark. The letters of `mark` and of
    /// `never` do not occur in the text, so that a reply is read back from its text alone.
    pub(super) fn until(&mut self, name: &str, body: Body, mark: &str, never: &[&str]) {
        let terminal = name.to_uppercase();
        // The mark's own letters bar what they hold: a mark may stand in them.
        let never: Vec<&str> = never.iter().copied().filter(|never| !mark.contains(never)).collect();
        let barred = barred(&never);
        let Body { pattern, empty } = body;
        let whole = regex(mark);
        match self.split(mark) {
            // A token that is no text ends the stretch, whatever the stretch says.
            (before, Some((token, rest))) => {
                let optional = if before.is_empty() && empty { "?" } else { "" };
                let some = if optional.is_empty() { "" } else { " & /(?s:.+)/" };
                let (before, rest) = (regex(before), self.seq(rest));
                let _ = writeln!(self.text, "{name}: {terminal}{optional} <[{token}]> {rest}");
                let _ = writeln!(
                    self.text,
                    "{terminal}: /(?:{pattern}){before}/{some} & ~/(?s:.*){whole}(?s:.*)/{barred}"
                );
            }
            (_, None) => {
                let _ = writeln!(self.text, "{name}: {terminal}");
                let _ = writeln!(
                    self.text,
                    "{terminal}: /(?:{pattern}){whole}/ & ~/(?s:.*){whole}(?s:.+)/{barred}"
                );
            }
        }
    }

    /// What stands for a terminal and the `mark` after it. The letters before the mark's token go into one terminal with it,
    /// for a greedy terminal could take them for its own.
    pub(super) fn ended(&mut self, terminal: &str, mark: &str) -> String {
        let (before, rest) = self.split(mark);
        if before.is_empty() {
            return format!("{terminal} {}", self.seq(mark));
        }
        let tail = rest.map_or(String::new(), |(token, rest)| format!(" <[{token}]> {}", self.seq(rest)));
        let _ = writeln!(self.text, "{terminal}_ENDED: {terminal} {}", literal(before));
        format!("{terminal}_ENDED{tail}")
    }

    /// Adds the rule `name`: a paragraph of thought, and `mark`. A paragraph is room to think; more would be a small model
    /// telling a story instead of acting, and code in it the whole file written out again.
    pub(super) fn paragraph(&mut self, name: &str, mark: &str, never: &[&str]) {
        let pattern = "[A-Z](?s:.*)".to_string();
        let never = [never, &["``"]].concat();
        match self.split(mark) {
            ("", Some((token, rest))) => {
                let (terminal, rest) = (format!("{}_TEXT", name.to_uppercase()), self.seq(rest));
                let barred = barred(&never);
                let _ = writeln!(self.text, "{name}: {name}_text <[{token}]> {rest}");
                let _ = writeln!(self.text, "{name}_text[max_tokens=110]: {terminal}");
                let _ = writeln!(self.text, "{terminal}: /{pattern}/{barred}");
            }
            // A bound in tokens could cut the mark itself.
            _ => self.until(name, Body { pattern, empty: false }, mark, &never),
        }
    }

    /// Adds the terminal `name`: some text in which none of `never` occurs.
    pub(super) fn text(&mut self, name: &str, never: &[&str]) {
        let _ = writeln!(self.text, "{name}: /(?s:.+)/{}", barred(never));
    }
}

/// What a stretch of text may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Body {
    /// The regular expression it fits.
    pub(super) pattern: String,
    /// Whether it may be empty.
    pub(super) empty: bool,
}

impl Body {
    /// Any text.
    pub(super) fn any() -> Body {
        Body { pattern: "(?s:.*)".to_string(), empty: true }
    }
}

/// What keeps these letters out of a terminal: one expression, for each costs the compiler as much as all.
fn barred(never: &[&str]) -> String {
    match never {
        [] => String::new(),
        _ => {
            let never: Vec<String> = never.iter().map(|never| regex(never)).collect();
            format!(" & ~/(?s:.*)(?:{})(?s:.*)/", never.join("|"))
        }
    }
}

/// A string as a rule spells it.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text as a regular expression between slashes spells it.
pub(super) fn regex(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Others, such as `\<`, have a meaning only with the stroke before them.
            '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '\\' | '|' | '^' | '$' | '/'
            | '&' | '~' | '-' | '#' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

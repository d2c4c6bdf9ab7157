//! What a command prints, as a model and a person may read it: head and tail, valid text, nothing a terminal obeys.

use std::collections::VecDeque;
use std::fmt::Write;

/// What is kept of the beginning and of the end. Bytes. An error is usually at the end, what was done at the beginning.
const HEAD_BYTES: usize = 8 << 10;
const TAIL_BYTES: usize = 24 << 10;

/// A longer line is cut: minified files and data in one line would fill the model's context. Characters.
const LINE_CHARS: usize = 2000;
const LINE_END_CHARS: usize = 200;

/// The head and the tail of a stream of bytes, in constant memory.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Captured {
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head.len()));
        self.head.extend_from_slice(head);
        // Only its end can matter when it alone is longer than the tail.
        let rest = &rest[rest.len().saturating_sub(TAIL_BYTES)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// Whether so much more can be taken with nothing left out.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.total + bytes as u64 <= (HEAD_BYTES + TAIL_BYTES) as u64
    }

    /// All of it, as long as nothing has been left out.
    pub(crate) fn whole(&self) -> Vec<u8> {
        let mut whole = self.head.clone();
        whole.extend(&self.tail);
        assert!(whole.len() as u64 == self.total, "asked for only while everything fits");
        whole
    }

    /// How much there was. Bytes.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The text, and whether it leaves something out.
    pub(crate) fn into_text(self) -> (String, bool) {
        let Captured { mut head, tail, total } = self;
        let tail: Vec<u8> = tail.into();
        let kept = (head.len() + tail.len()) as u64;
        if kept == total {
            head.extend(tail);
            return harmless(&head);
        }
        let (head, tail) = (whole_lines_before(&head), whole_lines_after(&tail));
        let left_out = total - (head.len() + tail.len()) as u64;
        let mut text = harmless(head).0;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = writeln!(text, "[... {left_out} bytes left out ...]");
        text.push_str(&harmless(tail).0);
        (text, true)
    }
}

/// A whole text, harmless, and whether a line was cut.
pub(crate) fn harmless(bytes: &[u8]) -> (String, bool) {
    let mut cleaner = Cleaner::default();
    let mut text = cleaner.clean(bytes);
    text.push_str(&cleaner.finish());
    let (mut text, cut) = cut_lines(text);
    // Text in a foreign encoding has a few odd bytes; data has many.
    if cleaner.odd_bytes * 10 > bytes.len() {
        text.insert_str(0, "[binary data: the bytes that are no text are left out]\n");
    }
    (text, cut)
}

fn cut_lines(text: String) -> (String, bool) {
    if text.len() <= LINE_CHARS || text.lines().all(|line| line.len() <= LINE_CHARS) {
        return (text, false);
    }
    let mut cut = String::with_capacity(text.len().min(HEAD_BYTES + TAIL_BYTES));
    let mut any = false;
    for line in text.split_inclusive('\n') {
        match line.char_indices().nth(LINE_CHARS) {
            Some((at, _)) if line.len() > at + 1 => {
                // The end is kept as well: a progress line ends with what came of it.
                let (head, end) = (&line[..at], line.trim_end_matches('\n'));
                let chars = end.chars().count();
                let tail = end
                    .char_indices()
                    .nth(chars.saturating_sub(LINE_END_CHARS))
                    .map_or(end.len(), |(at, _)| at);
                let tail = tail.max(at);
                let more = end[at..tail].chars().count();
                let _ = write!(cut, "{head} [... {more} more characters in this line ...] {}", &end[tail..]);
                if line.ends_with('\n') {
                    cut.push('\n');
                }
                any = true;
            }
            Some(_) | None => cut.push_str(line),
        }
    }
    (cut, any)
}

/// Cuts after the last line end, unless that would lose most of it; else after a whole code point.
fn whole_lines_before(bytes: &[u8]) -> &[u8] {
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(at) if at > bytes.len() / 2 => &bytes[..=at],
        Some(_) | None => {
            let started = bytes.iter().rev().take(4).position(|byte| !is_continuation(*byte));
            // The last code point may be cut: it is left out, and at most four bytes are lost.
            started.map_or(bytes, |back| &bytes[..bytes.len() - back - 1])
        }
    }
}

fn whole_lines_after(bytes: &[u8]) -> &[u8] {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) if at < bytes.len() / 2 => &bytes[at + 1..],
        Some(_) | None => {
            let whole = bytes.iter().take(4).position(|byte| !is_continuation(*byte)).unwrap_or(0);
            &bytes[whole..]
        }
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// Turns bytes, as they come, into text that is valid and that no terminal obeys: escape sequences and control
/// characters are left out, a carriage return becomes a line end, marks that reverse the writing direction are spelt out.
#[derive(Debug, Default)]
pub(crate) struct Cleaner {
    /// The beginning of a code point whose end has not come yet.
    partial: Vec<u8>,
    state: State,
    /// Whether a carriage return waits for what follows it.
    returned: bool,
    /// Bytes that were no text.
    odd_bytes: usize,
    /// Whether the last character put out stands for invalid bytes: a run of them gives one.
    replaced: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence: until a final byte.
    Control,
    /// In an operating-system command or the like: until BEL, ESC \ or the line's end.
    Command,
}

impl Cleaner {
    pub(crate) fn clean(&mut self, bytes: &[u8]) -> String {
        let mut pending = std::mem::take(&mut self.partial);
        pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(pending.len());
        let mut rest = pending.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.push_all(valid, &mut text);
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    let valid = std::str::from_utf8(valid).expect("it is valid up to here");
                    self.push_all(valid, &mut text);
                    match error.error_len() {
                        Some(length) => {
                            self.odd_bytes += length;
                            if !self.replaced {
                                self.push(char::REPLACEMENT_CHARACTER, &mut text);
                                self.replaced = true;
                            }
                            rest = &invalid[length..];
                        }
                        None => {
                            self.partial = invalid.to_vec();
                            break;
                        }
                    }
                }
            }
        }
        text
    }

    /// What is still to be said when the stream has ended.
    pub(crate) fn finish(&mut self) -> String {
        let mut text = String::new();
        if !self.partial.is_empty() {
            self.odd_bytes += self.partial.len();
            self.partial.clear();
            self.push(char::REPLACEMENT_CHARACTER, &mut text);
        }
        if std::mem::take(&mut self.returned) {
            text.push('\n');
        }
        text
    }

    fn push_all(&mut self, from: &str, to: &mut String) {
        for c in from.chars() {
            self.replaced = false;
            self.push(c, to);
        }
    }

    fn push(&mut self, c: char, to: &mut String) {
        match (self.state, c) {
            (State::Command, '\u{7}' | '\u{9c}') => self.state = State::Text,
            (State::Command | State::Control, '\n' | '\r') => {
                self.state = State::Text;
                self.text(c, to);
            }
            (State::Command | State::Text, '\u{1b}') => self.state = State::Escape,
            (State::Command, _) => {}
            (State::Control, '@'..='~') => self.state = State::Text,
            (State::Control, _) => {}
            (State::Escape, '[') => self.state = State::Control,
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => self.state = State::Command,
            // Between ESC and the final byte there may be some, as in ESC ( B.
            (State::Escape, ' '..='/' | '\u{1b}') => {}
            (State::Escape, '0'..='~') => self.state = State::Text,
            (State::Escape | State::Text, _) => {
                self.state = State::Text;
                self.text(c, to);
            }
        }
    }

    fn text(&mut self, c: char, to: &mut String) {
        if c == '\r' {
            self.returned = true;
            return;
        }
        if std::mem::take(&mut self.returned) && c != '\n' {
            to.push('\n');
        }
        match c {
            '\n' | '\t' => to.push(c),
            // Texts have a bell or a form feed now and then; a NUL is in no text.
            '\0' => self.odd_bytes += 1,
            c if c.is_control() => {}
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                let _ = write!(to, "<U+{:04X}>", u32::from(c));
            }
            c => to.push(c),
        }
    }
}

/// A size for people: `3.2 KB`.
pub(crate) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let number = bytes as f64;
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} KB", number / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", number / 1e6),
        1_000_000_000.. => format!("{:.1} GB", number / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(harmless(bytes).0, expected);
        // However it is cut into pieces, the text is the same.
        for size in 1..4 {
            let mut cleaner = Cleaner::default();
            let mut text: String = bytes.chunks(size).map(|chunk| cleaner.clean(chunk)).collect();
            text.push_str(&cleaner.finish());
            assert_eq!(
                text,
                expected.trim_start_matches("[binary data: the bytes that are no text are left out]\n")
            );
        }
    }

    #[test]
    fn no_escape_reaches_a_reader() {
        // A log viewer or a terminal that shows a session must not be steered by what a command printed.
        check(b"\x1b]52;c;cHduZWQ=\x07\x1b]0;title\x07\x1b[2J\x1b[1;1Hfake\rOK\n", "fake\nOK\n");
        check(b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\ \x1b(B\x1b[1;31mred\x1b[0m", "link red");
        check("a\u{202e}b\u{9b}2J".as_bytes(), "a<U+202E>b2J");
        check(b"\x1b]never ended\nnext", "\nnext");
        check(b"100%\r\nok\r", "100%\nok\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_marked() {
        // Models take a page of replacement characters for content.
        check(b"one \xff\xfe two and some more text", "one \u{fffd} two and some more text");
        assert!(harmless(&[0_u8; 100]).0.starts_with("[binary data"));
    }

    #[test]
    fn head_and_tail_are_kept_and_no_code_point_is_split() {
        // The first lines say what was done, the last what failed; between them, memory must not grow.
        let mut captured = Captured::default();
        for _ in 0..40_000 {
            captured.take("é漢😀".as_bytes());
        }
        let (text, truncated) = captured.into_text();
        assert!(truncated && !text.contains(char::REPLACEMENT_CHARACTER));
        assert!(text.len() < HEAD_BYTES + TAIL_BYTES + 200, "{}", text.len());

        let mut captured = Captured::default();
        for line in 0..10_000 {
            captured.take(format!("line {line}\n").as_bytes());
        }
        let (text, _) = captured.into_text();
        assert!(text.starts_with("line 0\n") && text.ends_with("line 9999\n"));
        let left_out: usize = text.split("[... ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let marker = format!("[... {left_out} bytes left out ...]\n");
        assert_eq!(
            text.len() - marker.len() + left_out,
            (0..10_000).map(|n| format!("line {n}\n").len()).sum::<usize>()
        );
    }
}

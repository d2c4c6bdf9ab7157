//! What a person sees: lines, text as it is written, and one line at the bottom that changes.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where a command writes for people. A cheap handle.
#[derive(Clone)]
pub(crate) struct Screen(Arc<Mutex<Inner>>);

struct Inner {
    to: To,
    /// Whether somebody watches: a terminal that can redraw a line.
    live: bool,
    colour: bool,
    /// The line at the bottom, while it is drawn.
    status: Option<String>,
    drawn: Instant,
    spin: usize,
    /// Whether the last text did not end its line.
    open_line: bool,
}

/// The stream of a screen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// What the command is for.
    Stdout,
    /// What goes on beside it.
    Stderr,
}

/// How a piece of text looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    Plain,
    Dim,
    Bold,
    Good,
    Bad,
    Warn,
    Accent,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Ink::Plain => "",
            Ink::Dim => "\x1b[2m",
            Ink::Bold => "\x1b[1m",
            Ink::Good => "\x1b[32m",
            Ink::Bad => "\x1b[31m",
            Ink::Warn => "\x1b[33m",
            Ink::Accent => "\x1b[36m",
        }
    }
}

/// The least time between two drawings of the bottom line: faster than eyes follow costs only bytes.
const REDRAW: Duration = Duration::from_millis(80);
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
/// The width of a terminal that does not tell it.
const WIDTH_UNKNOWN: usize = 80;

impl Screen {
    pub(crate) fn new(to: To) -> Screen {
        let terminal = match to {
            To::Stdout => std::io::stdout().is_terminal(),
            To::Stderr => std::io::stderr().is_terminal(),
        };
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let live = terminal && !dumb;
        Screen(Arc::new(Mutex::new(Inner {
            to,
            live,
            // https://no-color.org and the usual way to insist.
            colour: (live && !set("NO_COLOR")) || set("CLICOLOR_FORCE"),
            status: None,
            drawn: Instant::now(),
            spin: 0,
            open_line: false,
        })))
    }

    /// Whether somebody watches.
    pub(crate) fn live(&self) -> bool {
        self.inner().live
    }

    /// Text in an ink, if this screen has colours.
    pub(crate) fn ink(&self, ink: Ink, text: &str) -> String {
        if ink == Ink::Plain || !self.inner().colour {
            text.to_string()
        } else {
            format!("{}{text}\x1b[0m", ink.code())
        }
    }

    /// Writes a whole line.
    pub(crate) fn line(&self, line: &str) {
        let mut inner = self.inner();
        let mut out = inner.erase();
        if std::mem::take(&mut inner.open_line) {
            out.push('\n');
        }
        out.push_str(line);
        out.push('\n');
        inner.write(&out);
    }

    /// Writes text where the last text ended.
    pub(crate) fn text(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut inner = self.inner();
        let mut out = inner.erase();
        out.push_str(text);
        inner.open_line = !text.ends_with('\n');
        inner.write(&out);
    }

    /// Ends the line that text has left open.
    pub(crate) fn end_text(&self) {
        let mut inner = self.inner();
        if std::mem::take(&mut inner.open_line) {
            inner.write("\n");
        }
    }

    /// Shows what is going on, in the line at the bottom. Not while text is being written, and not where nobody watches.
    pub(crate) fn status(&self, status: &str) {
        let mut inner = self.inner();
        if !inner.live || inner.open_line || (inner.status.is_some() && inner.drawn.elapsed() < REDRAW) {
            return;
        }
        inner.spin = (inner.spin + 1) % SPINNER.len();
        let line = cut(&format!("{} {status}", SPINNER[inner.spin]), inner.width().saturating_sub(1));
        let out = format!("\r\x1b[2K{line}");
        inner.status = Some(line);
        inner.drawn = Instant::now();
        inner.write(&out);
    }

    /// Takes the line at the bottom away.
    pub(crate) fn quiet(&self) {
        let mut inner = self.inner();
        let out = inner.erase();
        inner.write(&out);
    }

    /// How many characters a line holds.
    pub(crate) fn width(&self) -> usize {
        self.inner().width()
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn erase(&mut self) -> String {
        if self.status.take().is_some() { "\r\x1b[2K".to_string() } else { String::new() }
    }

    fn write(&self, text: &str) {
        write_to(self.to, text);
    }

    fn width(&self) -> usize {
        let size = match self.to {
            To::Stdout => rustix::termios::tcgetwinsize(std::io::stdout()),
            To::Stderr => rustix::termios::tcgetwinsize(std::io::stderr()),
        };
        size.ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0).unwrap_or(WIDTH_UNKNOWN)
    }
}

/// The exit code shells show for a program that wrote to a reader that had gone (128 + SIGPIPE).
const EXIT_UNREAD: i32 = 141;

/// Writes to a stream at once. When the reader has gone, nobody can be told anything any more, and the process ends as
/// programs do that are killed by SIGPIPE; other trouble with the stream is passed over for the same reason.
pub(crate) fn write_to(to: To, text: &str) {
    let done = match to {
        To::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
        To::Stderr => std::io::stderr().lock().write_all(text.as_bytes()),
    };
    if done.is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
        std::process::exit(EXIT_UNREAD);
    }
}

/// Writes one line to standard output.
pub(crate) fn say(line: &str) {
    write_to(To::Stdout, &format!("{line}\n"));
}

/// Text from a model, a tool or a file, made harmless for a terminal: it cannot move the cursor, change the title or
/// hide what follows.
pub(crate) fn clean(text: &str) -> String {
    let hidden = |c: char| {
        // Besides control characters: marks that turn the direction of writing, which make text look like other text.
        c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !hidden(*c)).collect()
}

/// One line of `text`, harmless and at most `width` characters long.
pub(crate) fn one_line(text: &str, width: usize) -> String {
    let line: String = clean(text).split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&line, width)
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A bar that fills from left to right: `[████░░░░]`.
pub(crate) fn bar(done: u64, total: u64, cells: usize) -> String {
    let filled = (u128::from(done.min(total)) * cells as u128)
        .checked_div(u128::from(total))
        .unwrap_or_default() as usize;
    format!("[{}{}]", "█".repeat(filled), "░".repeat(cells - filled))
}

/// A table for people: columns as wide as their widest cell.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        padded.join("  ").trim_end().to_string()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_writes_cannot_drive_the_terminal() {
        // Escape sequences can rename the window, answer queries as keystrokes or hide lines.
        assert_eq!(clean("a\x1b[2Jb\x07\r\n\tc\u{9b}31m\u{202e}d"), "a[2Jb\n\tc31md");
        assert_eq!(one_line("  two\n lines\t here ", 9), "two line…");
    }

    #[test]
    fn a_bar_is_as_full_as_its_work() {
        assert_eq!(
            [bar(0, 10, 4), bar(5, 10, 4), bar(11, 10, 4), bar(0, 0, 4)],
            ["[░░░░]", "[██░░]", "[████]", "[░░░░]"]
        );
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = vec![vec!["é".to_string(), "x".to_string()], vec!["long".to_string(), String::new()]];
        assert_eq!(table(&["a", "b"], &rows), "a     b\né     x\nlong");
    }
}

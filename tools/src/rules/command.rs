//! What a command line would run, read without running it: enough to hold it against the shape of a rule.
//!
//! A shell has more ways to say a thing than any reader of its text knows, so the reading is one-sided. A rule that forbids or asks
//! is held against everything that looks like a command in the line; a rule that allows holds only for lines that are plain enough to
//! be read whole. What keeps a command from doing harm is the sandbox, not this.

use globset::GlobBuilder;

/// A command line, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Every command that can be seen in it, as its words without their quotes.
    commands: Vec<Vec<String>>,
    /// Whether these are all there is to it: no substitution, redirection, variable, group or pattern, whose effect cannot be seen here.
    plain: bool,
}

/// How deep a command in a command is looked for: `sh -c "sh -c …"`.
const DEPTH_MAX: usize = 4;

/// Programs that run what their arguments say.
const CARRIERS: [&str; 18] = [
    "env", "sudo", "doas", "nohup", "time", "timeout", "nice", "ionice", "stdbuf", "setsid", "xargs",
    "command", "builtin", "exec", "eval", "then", "do", "else",
];

const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "busybox"];

impl Line {
    pub(super) fn read(text: &str) -> Line {
        let mut line = Line { commands: Vec::new(), plain: true };
        line.take(text, 0);
        line
    }

    fn take(&mut self, text: &str, depth: usize) {
        let mut lexer = Lexer { rest: text.chars().peekable(), plain: true, inner: Vec::new() };
        let mut words = Vec::new();
        loop {
            match lexer.next() {
                Some(Piece::Word(word)) => words.push(word),
                piece => {
                    self.add(std::mem::take(&mut words), depth);
                    if piece.is_none() {
                        break;
                    }
                }
            }
        }
        self.plain &= lexer.plain;
        for inner in lexer.inner {
            if depth < DEPTH_MAX {
                self.take(&inner, depth + 1);
            }
        }
    }

    fn add(&mut self, words: Vec<String>, depth: usize) {
        let Some(first) = words.first() else { return };
        if SHELLS.contains(&program(first)) || CARRIERS.contains(&program(first)) {
            self.plain = false;
        }
        // `sh -c TEXT`, `bash -lc TEXT`, `eval TEXT`: the text is one more line.
        if depth < DEPTH_MAX {
            let runs_text =
                words.iter().position(|word| SHELLS.contains(&program(word)) || word == "eval").is_some();
            for text in words.iter().skip(1).filter(|word| runs_text && word.contains(char::is_whitespace)) {
                self.take(text, depth + 1);
            }
        }
        self.commands.push(words);
    }

    /// Whether a command of this shape is anywhere in the line.
    pub(super) fn holds(&self, shape: &Shape) -> bool {
        self.commands.iter().any(|words| {
            // What carries a command is passed over: `sudo -n git push` pushes.
            let mut carried = true;
            words.iter().enumerate().any(|(at, word)| {
                let here = carried && shape.within(&words[at..]);
                carried &= CARRIERS.contains(&program(word))
                    || word.starts_with('-')
                    || word.contains('=')
                    || word.starts_with(|c: char| c.is_ascii_digit());
                here
            })
        })
    }

    /// Whether the line is plain and each of its commands has one of these shapes.
    pub(super) fn is_only<'a>(&self, shapes: impl Iterator<Item = &'a Shape> + Clone) -> bool {
        self.plain
            && !self.commands.is_empty()
            && self.commands.iter().all(|words| shapes.clone().any(|shape| shape.is(words)))
    }
}

/// The name of a program, however it is spelled out.
fn program(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// The shape of a command: words, each with `*` for any letters; a last `*` for any words, or none.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    words: Vec<globset::GlobMatcher>,
    open: bool,
}

impl Shape {
    pub(super) fn read(text: &str) -> Result<Shape, String> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let open = words.last() == Some(&"*");
        if open {
            words.pop();
        }
        let words = words.into_iter().map(glob).collect::<Result<Vec<_>, _>>()?;
        Ok(Shape { words, open })
    }

    /// Whether these words are such a command and nothing else.
    fn is(&self, words: &[String]) -> bool {
        let enough =
            if self.open { words.len() >= self.words.len() } else { words.len() == self.words.len() };
        enough && self.words.iter().zip(words).all(|(shape, word)| shape.is_match(word))
    }

    /// Whether these words begin with the program and have the others somewhere after it, in this order: an option between them changes
    /// nothing about what is done.
    fn within(&self, words: &[String]) -> bool {
        let (Some(first), Some(shape)) = (words.first(), self.words.first()) else {
            return self.open;
        };
        if !shape.is_match(program(first)) && !shape.is_match(first) {
            return false;
        }
        let mut rest = words[1..].iter();
        self.words[1..].iter().all(|shape| rest.any(|word| shape.is_match(word)))
    }
}

/// A pattern in which `*` stands for any letters, `/` among them.
pub(super) fn glob(text: &str) -> Result<globset::GlobMatcher, String> {
    let made = GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
    Ok(made.map_err(|error| format!("{text:?} is no pattern: {}", error.kind()))?.compile_matcher())
}

enum Piece {
    Word(String),
    /// What stands between two commands.
    Between,
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    plain: bool,
    /// Texts of command substitutions.
    inner: Vec<String>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<Piece> {
        while self.rest.next_if(|c| matches!(c, ' ' | '\t' | '\r')).is_some() {}
        match self.rest.peek()? {
            '\n' | ';' | '&' | '|' => {
                self.rest.next();
                return Some(Piece::Between);
            }
            '(' | ')' | '{' | '}' | '!' => {
                self.rest.next();
                self.plain = false;
                return Some(Piece::Between);
            }
            '<' | '>' => {
                // Where it leads is a word of its own, which no rule about commands means.
                self.rest.next();
                self.plain = false;
                return self.next();
            }
            '#' => {
                while self.rest.next_if(|c| *c != '\n').is_some() {}
                return self.next();
            }
            _ => {}
        }
        Some(Piece::Word(self.word()))
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(&c) = self.rest.peek() {
            match c {
                ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' => break,
                '\'' => {
                    self.rest.next();
                    let mut closed = false;
                    for c in self.rest.by_ref() {
                        if c == '\'' {
                            closed = true;
                            break;
                        }
                        word.push(c);
                    }
                    self.plain &= closed;
                }
                '"' => {
                    self.rest.next();
                    self.quoted(&mut word);
                }
                '\\' => {
                    self.rest.next();
                    match self.rest.next() {
                        Some('\n') => {}
                        Some(c) => word.push(c),
                        None => self.plain = false,
                    }
                }
                '$' => {
                    self.rest.next();
                    self.dollar(&mut word);
                }
                '`' => {
                    self.rest.next();
                    self.backticks();
                }
                _ => {
                    // A variable may be what a program obeys, and a pattern may be any file.
                    self.plain &= !matches!(c, '*' | '?' | '[' | '~' | '=' | '{' | '}');
                    self.rest.next();
                    word.push(c);
                }
            }
        }
        word
    }

    fn quoted(&mut self, word: &mut String) {
        while let Some(c) = self.rest.next() {
            match c {
                '"' => return,
                '\\' => match self.rest.next() {
                    Some('\n') => {}
                    Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                    Some(c) => {
                        word.push('\\');
                        word.push(c);
                    }
                    None => break,
                },
                '$' => self.dollar(word),
                '`' => self.backticks(),
                _ => word.push(c),
            }
        }
        self.plain = false;
    }

    fn dollar(&mut self, word: &mut String) {
        self.plain = false;
        if self.rest.next_if_eq(&'(').is_none() {
            word.push('$');
            return;
        }
        let mut depth = 1;
        let mut text = String::new();
        for c in self.rest.by_ref() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            text.push(c);
        }
        self.inner.push(text);
    }

    fn backticks(&mut self) {
        self.plain = false;
        let text: String = self.rest.by_ref().take_while(|c| *c != '`').collect();
        self.inner.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(shape: &str, line: &str) -> bool {
        Line::read(line).holds(&Shape::read(shape).unwrap())
    }

    fn only(shapes: &[&str], line: &str) -> bool {
        let shapes: Vec<Shape> = shapes.iter().map(|shape| Shape::read(shape).unwrap()).collect();
        Line::read(line).is_only(shapes.iter())
    }

    #[test]
    fn a_command_is_found_however_it_is_wrapped() {
        // Each of these pushes; a rule that is passed by with one of them is no rule.
        for line in [
            "git push",
            "git push origin main",
            "git -C sub push --force",
            "cd x && git push",
            "true;git push",
            "(git push)",
            "{ git push; }",
            "if true; then git push; fi",
            "echo $(git push)",
            "echo \"`git push`\"",
            "sudo -n git push",
            "env A=b git push",
            "A=b git push",
            "timeout 5 git push",
            "sh -c 'git push'",
            "bash -lc \"cd x; git push\"",
            "eval 'git push'",
            "/usr/bin/git push",
            "g\\it pu''sh",
            "git \\\n push",
            "git push > /dev/null 2>&1",
            "cat <<E | sh\ngit push\nE",
            "true &git push",
        ] {
            assert!(holds("git push *", line), "{line}");
        }
        for line in ["git pull", "echo 'git push'", "git commit -m 'do not push'", "./git-push", "# git push"]
        {
            assert!(!holds("git push *", line), "{line}");
        }
        assert!(holds("rm -rf *", "rm -v -rf /x"));
        assert!(holds("*", "anything at all"));
        assert!(holds("npm run deploy:*", "npm run deploy:prod"));
    }

    #[test]
    fn only_what_can_be_read_whole_is_allowed() {
        let shapes = ["cargo test *", "cargo build", "git status"];
        for line in [
            "cargo test",
            "cargo test -p tools",
            "cargo build",
            "cargo build && cargo test",
            "git status | cargo test",
        ] {
            assert!(only(&shapes, line), "{line}");
        }
        for line in [
            "",
            "cargo build --release",
            "cargo test; rm x",
            "cargo test && curl evil",
            "cargo test $(rm x)",
            "cargo test `rm x`",
            "cargo test > ~/.bashrc",
            "cargo test < x",
            "RUSTC=./evil cargo test",
            "./cargo test",
            "cargo test \"$X\"",
            "cargo test & rm x",
            "cargo test\nrm x",
            "cargo test 'x",
            "sudo cargo test",
            "(cargo test)",
        ] {
            assert!(!only(&shapes, line), "{line}");
        }
        // Text is text: what stands in quotes is run by nobody.
        assert!(only(&["git commit *"], "git commit -m 'a; rm b && c'"));
        assert!(!only(&["*"], "sh -c 'a'"), "what a shell is told is not seen whole");
    }
}

//! Where a fault may lie: the definitions a failing check leads to.
//!
//! A small model that may change anything changes what comes first, or a constant that happens to satisfy one test more.
//! A failing test names what it called; what that calls in turn stands in the text of its definition. Nothing else needs
//! to be open to change at first. Languages are told apart by nothing but their lines: a definition is a line that
//! introduces a name, and all that is indented below it.

use std::collections::BTreeSet;
use std::ops::Range;

/// Names kept of one output. A failing test calls a few; a whole page of failures is not led by names.
const NAMES_MAX: usize = 64;

/// The names a failing check's output calls, or says that it failed in.
pub(crate) fn named(output: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in output.lines() {
        let called = identifiers(line).filter(|(_, after, _)| after.starts_with('('));
        let within = identifiers(line).filter(|(before, after, _)| {
            // `File "pages.py", line 7, in page_count`; `at page_count (pages.js:7:3)` has its parenthesis.
            after.is_empty() && before.ends_with(" in ") || after.starts_with(" (") && before.ends_with("at ")
        });
        for (_, _, name) in called.chain(within) {
            if names.len() < NAMES_MAX && !names.iter().any(|known| known == name) {
                names.push(name.to_string());
            }
        }
    }
    names
}

/// The pieces of `texts` in which definitions of `names` stand, of what they mention, and the lines that import: for
/// each text its pieces in order. Nothing, when no text defines any of the names.
pub(crate) fn pieces(texts: &[&str], names: &[String]) -> Option<Vec<Vec<String>>> {
    let lines: Vec<Vec<&str>> = texts.iter().map(|text| text.split_inclusive('\n').collect()).collect();
    let definitions: Vec<(usize, &str, Range<usize>)> = lines
        .iter()
        .enumerate()
        .flat_map(|(of, lines)| definitions(lines).into_iter().map(move |(name, range)| (of, name, range)))
        .collect();
    let mut wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let mut open = vec![false; definitions.len()];
    loop {
        let mut more = false;
        for (i, (of, name, range)) in definitions.iter().enumerate() {
            if open[i] || !wanted.contains(name) {
                continue;
            }
            open[i] = true;
            more = true;
            let mentioned = lines[*of][range.clone()].iter().flat_map(|line| identifiers(line));
            wanted.extend(mentioned.map(|(_, _, name)| name));
        }
        if !more {
            break;
        }
    }
    if !open.contains(&true) {
        return None;
    }
    let within = |of: usize, line: usize| {
        let inside = definitions
            .iter()
            .zip(&open)
            .any(|((file, _, range), open)| *open && *file == of && range.contains(&line));
        inside || imports(lines[of][line])
    };
    let of_text = |of: usize| {
        let mut pieces = Vec::new();
        let mut last = false;
        for (at, line) in lines[of].iter().enumerate() {
            let inside = within(of, at);
            match (inside, last, pieces.last_mut()) {
                (true, true, Some(piece)) => String::push_str(piece, line),
                (true, _, _) => pieces.push(line.to_string()),
                (false, _, _) => {}
            }
            last = inside;
        }
        pieces
    };
    Some((0..texts.len()).map(of_text).collect())
}

/// Whether a text is a skeleton that waits to be written: it defines things that do nothing yet, or nothing at all. Changed
/// piece by piece it fails its tests until the last piece is there.
pub(crate) fn hollow(text: &str) -> bool {
    const MARKS: [&str; 9] = ["#", "//", "*", "/*", "--", "@", "\"", "'", "package "];
    let (mut stubs, mut works) = (0, 0);
    let mut quoted = false;
    for line in text.lines().map(str::trim) {
        let quotes = line.matches("\"\"\"").count() + line.matches("'''").count();
        if quoted || quotes > 0 && (line.starts_with("\"\"\"") || line.starts_with("'''")) {
            // What a Python definition says of itself.
            quoted ^= quotes % 2 == 1;
            continue;
        }
        let said = line.trim_end_matches([';', ',', '}', ' ']);
        let inner = said.rsplit_once(['{', ':']).map_or(said, |(_, inner)| inner.trim());
        if idle(said) || defines(line).is_some() && idle(inner) {
            stubs += 1;
        } else if line.chars().any(char::is_alphanumeric)
            && !MARKS.iter().any(|mark| line.starts_with(mark))
            && !imports(line)
            && defines(line).is_none()
        {
            works += 1;
        }
    }
    works <= stubs
}

/// What a text defines, each as its line says so up to the name.
pub(crate) fn heads(text: &str) -> Vec<String> {
    /// A grammar asks for all of them at once.
    const HEADS_MAX: usize = 12;
    let head = |line: &str| {
        let name = defines(line)?;
        // A Go method's receiver may hold its name too.
        let at = line.find(&format!("{name}(")).or_else(|| line.find(name))?;
        Some(line[..at + name.len()].to_string())
    };
    let mut heads: Vec<String> = text.lines().map(str::trim).filter_map(head).collect();
    heads.sort_unstable();
    heads.dedup();
    heads.truncate(HEADS_MAX);
    heads
}

/// What of a skeleton does nothing yet: definitions with what stands in place of their bodies.
pub(crate) fn stubs(text: &str) -> Vec<String> {
    const STUBS_MAX: usize = 12;
    let lines: Vec<&str> = text.lines().collect();
    let callable =
        |line: &str| defines(line).is_some() && line.contains('(') && !line.trim().starts_with("class ");
    let waits = |line: &str| idle(line.trim().trim_end_matches([';', ',']));
    let stub = |pair: &[&str]| {
        (callable(pair[0]) && waits(pair[1])).then(|| format!("{}\n{}", pair[0].trim(), pair[1].trim_end()))
    };
    let mut stubs: Vec<String> = lines.windows(2).filter_map(stub).collect();
    stubs.sort_unstable();
    stubs.dedup();
    stubs.truncate(STUBS_MAX);
    stubs
}

/// Whether a statement says that something is still to be written.
fn idle(statement: &str) -> bool {
    let throws = ["raise ", "throw ", "panic(", "panic!("].iter().any(|word| statement.starts_with(word));
    let lower = statement.to_lowercase();
    ["pass", "..."].contains(&statement)
        || ["todo!(", "unimplemented!("].iter().any(|word| statement.starts_with(word))
        || throws && ["implement", "todo", "unsupportedoperation"].iter().any(|word| lower.contains(word))
}

/// The definitions of a text, with the lines they take.
fn definitions<'a>(lines: &[&'a str]) -> Vec<(&'a str, Range<usize>)> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = defines(line) else { continue };
        let depth = indentation(line);
        let mut end = at + 1;
        for (i, line) in lines.iter().enumerate().skip(at + 1) {
            let text = line.trim();
            let closes = text.starts_with(['}', ')', ']', '{'])
                || text.split(' ').next().is_some_and(|word| word == "end");
            if text.is_empty() {
                continue;
            }
            if indentation(line) < depth || indentation(line) == depth && !closes {
                break;
            }
            end = i + 1;
        }
        found.push((name, at..end));
    }
    found
}

/// The name a line defines, if it does.
fn defines(line: &str) -> Option<&str> {
    const KEYWORDS: [&str; 10] =
        ["def", "fn", "func", "function", "class", "struct", "interface", "trait", "enum", "sub"];
    const CONTROL: [&str; 9] = ["if", "for", "while", "switch", "match", "catch", "return", "with", "elif"];
    let line = line.trim();
    if ["#", "//", "*", "/*", "--", "\"", "'"].iter().any(|mark| line.starts_with(mark)) {
        return None;
    }
    let mut names = identifiers(line);
    let mut first = true;
    while let Some((before, _, name)) = names.next() {
        if KEYWORDS.contains(&name) {
            // Only modifiers come before the keyword; a Go method's receiver comes after it.
            let plain = before.chars().all(|c| c.is_alphanumeric() || " _()\"".contains(c));
            let next = |(_, after, _): &(&str, &str, &str)| {
                after.starts_with(['(', ':', '<', ' ', '{', '[']) || after.is_empty()
            };
            let mut rest = names.filter(next);
            let named = if line[before.len() + name.len()..].trim_start().starts_with('(') {
                rest.find(|(_, after, _)| after.starts_with('('))
            } else {
                rest.next()
            };
            return named.filter(|_| plain).map(|(_, _, name)| name);
        }
        if CONTROL.contains(&name) && first {
            return None;
        }
        first = false;
    }
    // `int page_count(int total) {`, `pageCount(total) {`, `const pageCount = (total) => {`.
    if !line.ends_with('{') {
        return None;
    }
    let (before, after, name) = identifiers(line).find(|(_, after, _)| {
        after.starts_with('(')
            || after.trim_start().strip_prefix('=').is_some_and(|rest| !rest.starts_with('='))
    })?;
    let arrow = !after.starts_with('(');
    let called = before.contains(['=', '.', '(']);
    (!called && !CONTROL.contains(&name) && (!arrow || after.contains("=>"))).then_some(name)
}

/// Whether a line brings names in from elsewhere.
fn imports(line: &str) -> bool {
    let line = line.trim_start();
    ["import ", "from ", "use ", "#include", "require "].iter().any(|word| line.starts_with(word))
        || line.contains("= require(")
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

/// The identifiers of a line: what comes before each, what comes after, and itself.
fn identifiers(line: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + line[at..].find(part)?;
            let end = line[start..].find(|c| !part(c)).map_or(line.len(), |len| start + len);
            at = end;
            if !line[start..].starts_with(|c: char| c.is_ascii_digit()) {
                return Some((&line[..start], &line[end..], &line[start..end]));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, names: &[&str]) -> Option<Vec<String>> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        pieces(&[text], &names).map(|mut all| all.remove(0))
    }

    #[test]
    fn a_failure_names_what_it_called_and_where_it_failed() {
        let output = "FAIL: test_a (test_pages.PageCount.test_a)\nTraceback (most recent call last):\n  File \"test_pages.py\", \
                      line 9, in test_a\n    self.assertEqual(page_count(21, 10), 3)\n  File \"pages.py\", line 7, in round_up\n";
        let names = named(output);
        for name in ["assertEqual", "page_count", "test_a", "round_up"] {
            assert!(names.contains(&name.to_string()), "{name}: {names:?}");
        }
        assert!(named("at pageLinks (pages.js:7:3)").contains(&"pageLinks".to_string()));
        assert_eq!(named("21 is not 3"), Vec::<String>::new());
    }

    #[test]
    fn what_a_failing_test_calls_is_open_and_what_that_mentions_and_nothing_else() {
        let text = "import re\n\nLIMIT = 3\n\ndef helper(x):\n    if x:\n\n        return 1\n    return 2\n\n\ndef other():\n    \
                    return LIMIT\n\ndef main(a,\n         b\n):\n    return helper(a)\n";
        assert_eq!(
            of(text, &["main"]).unwrap(),
            [
                "import re\n",
                "def helper(x):\n    if x:\n\n        return 1\n    return 2\n",
                "def main(a,\n         b\n):\n    return helper(a)\n",
            ]
        );
        assert_eq!(of(text, &["unknown"]), None, "what leads nowhere excludes nothing");
    }

    #[test]
    fn a_skeleton_is_told_from_what_works() {
        for text in [
            "",
            "\n# Nothing yet.\n",
            "class Full(BufferError):\n    pass\n\n\nclass Buffer:\n    def __init__(self, capacity):\n        pass\n",
            "import math\n\ndef area(r):\n    \"\"\"The area.\n\n    It is what it is.\n    \"\"\"\n    raise NotImplementedError\n",
            "def f(x): ...\n",
            "pub fn f(x: u32) -> u32 {\n    todo!(\"write {x}\")\n}\n",
            "export const f = (x) => {\n  throw new Error('Remove this line and implement the function');\n};\n",
            "package f\n\nfunc F(x int) int {\n\tpanic(\"Please implement F\")\n}\n",
            "class A {\n    int f(int x) {\n        throw new UnsupportedOperationException(\"…\");\n    }\n}\n",
        ] {
            assert!(hollow(text), "{text}");
        }
        for text in [
            "def f(x):\n    return x + 1\n",
            "def f(x):\n    y = x\n    return y\n\n\nclass E(Exception):\n    pass\n",
            "def f(x):\n    if x < 0:\n        raise ValueError(\"negative\")\n    return x\n",
            "pub fn f(x: u32) -> u32 {\n    x + 1\n}\n",
            "LIMIT = 3\n",
        ] {
            assert!(!hollow(text), "{text}");
        }
    }

    #[test]
    fn what_a_skeleton_defines_is_kept() {
        let python =
            "import a\n\nclass B(A):\n    def f(self, x):\n        pass\n\n    def g(self):\n        pass\n";
        assert_eq!(heads(python), ["class B", "def f", "def g"]);
        assert_eq!(stubs(python), ["def f(self, x):\n        pass", "def g(self):\n        pass"]);
        assert!(stubs("class E(Exception):\n    pass\n").is_empty());
        assert_eq!(
            heads("func (c *Count) Count(n int) int {\n\tpanic(\"todo\")\n}\n"),
            ["func (c *Count) Count"]
        );
        assert_eq!(heads("export const f = (x) => {\n};\n"), ["export const f"]);
    }

    #[test]
    fn definitions_are_known_in_the_usual_languages() {
        for (line, name) in [
            ("def f(x):", Some("f")),
            ("    async def f(self):", Some("f")),
            ("class Page(Base):", Some("Page")),
            ("pub(crate) fn f<T>(x: T) -> T {", Some("f")),
            ("func (p *Page) Count(n int) int {", Some("Count")),
            ("func Count(n int) int {", Some("Count")),
            ("export default async function f(x) {", Some("f")),
            ("const f = (x) => {", Some("f")),
            ("static int page_count(int total, int size) {", Some("page_count")),
            ("  pageCount(total) {", Some("pageCount")),
            ("if (x) {", None),
            ("} else if (f(x)) {", None),
            ("for x in f(y):", None),
            ("return f(x)", None),
            ("x = f({", None),
            ("# def f():", None),
            ("日本 {", None),
        ] {
            assert_eq!(defines(line), name, "{line}");
        }
    }
}

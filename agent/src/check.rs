//! How a project checks itself, told from its files: a small model that is given the command runs it, and one that has
//! to guess runs something else.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The command that runs the project's tests, when its files say so plainly.
///
/// Only plain files directly in the workspace and in its folder of tests are looked at, and only their beginning: the
/// folder belongs to strangers as far as the service is concerned.
pub(crate) fn command(workspace: &Path) -> Option<String> {
    let has = |name: &str| is_file(&workspace.join(name));
    if has("Cargo.toml") {
        return Some("cargo test".to_string());
    }
    if has("go.mod") {
        return Some("go test ./...".to_string());
    }
    if let Some(package) = beginning(&workspace.join("package.json")) {
        let package: serde_json::Value = serde_json::from_str(&package).unwrap_or_default();
        if package.pointer("/scripts/test").is_some_and(serde_json::Value::is_string) {
            return Some("npm test".to_string());
        }
    }
    if let Some(command) = python(workspace) {
        return Some(command);
    }
    let makefile =
        ["Makefile", "makefile", "GNUmakefile"].iter().find_map(|name| beginning(&workspace.join(name)));
    makefile
        .is_some_and(|text| text.lines().any(|line| line.starts_with("test:")))
        .then(|| "make test".to_string())
}

/// How many tests passed, as a test runner's output tells it; nothing when it does not.
///
/// Read are the summaries of unittest, pytest, cargo, Mocha, Jest, Vitest and node. Text of a program under test can
/// look like one; all that follows from that is that an attempt is kept or undone wrongly.
pub(crate) fn passed(output: &str) -> Option<u32> {
    let mut total: Option<u32> = None;
    let mut add = |n: u32| total = Some(total.unwrap_or(0).saturating_add(n));
    let mut ran = None;
    for line in output.lines() {
        let line = line.trim().trim_matches(|c| c == '=' || c == ' ');
        if let Some(rest) = line.strip_prefix("Ran ") {
            ran = rest.split(' ').next().and_then(|n| n.parse::<u32>().ok());
        } else if let (Some(n), true) =
            (ran, line == "OK" || line.starts_with("OK (") || line.starts_with("FAILED ("))
        {
            let bad: u32 = line
                .split(['(', ',', ')'])
                .filter_map(|part| part.trim().split_once('='))
                .filter_map(|(_, n)| n.parse::<u32>().ok())
                .sum();
            add(n.saturating_sub(bad));
            ran = None;
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            add(number_before(rest, "passed")?);
        } else if line.starts_with("Tests")
            || line.starts_with("# pass ")
            || line.contains(" in ") && line.ends_with('s')
        {
            // Jest and Vitest; node; pytest, whose last line is "1 failed, 2 passed in 0.03s".
            let counted = line.contains("passed") || line.contains("failed") || line.contains("error");
            match line.strip_prefix("# pass ") {
                Some(n) => add(n.trim().parse().ok()?),
                None if counted => add(number_before(line, "passed").unwrap_or(0)),
                None => {}
            }
        } else if line.ends_with("passing") || line.contains(" passing (") {
            add(number_before(line, "passing")?);
        }
    }
    total
}

/// A command's output as a small model reads it: paths relative to the workspace, and no durations. Where a project
/// lies and how long its tests take say nothing about it, cost tokens, and would send so small a model another way each
/// time: so equal projects read equal, and greedy sessions repeat.
pub(crate) fn steady(output: &str, workspace: &Path) -> String {
    let text = relative(output, &workspace.display().to_string());
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, digits) = rest.split_at(at);
        out.push_str(before);
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, after) = digits.split_at(end);
        let unit = ["ms", "s"].into_iter().find(|unit| {
            after
                .strip_prefix(unit)
                .is_some_and(|next| !next.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        let alone = before.ends_with([' ', '(', '\t']);
        let one_point = number.matches('.').count() == 1 && !number.ends_with('.');
        match unit {
            Some(unit) if alone && (one_point || unit == "ms") => {
                out.push('0');
                out.push_str(unit);
                rest = &after[unit.len()..];
            }
            _ => {
                out.push_str(number);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    once(&out)
}

/// A failed command's output without what did not fail: tests that passed are counted, and so are a compiler's warnings.
/// A small model takes the first thing it reads for the thing to be mended, and waits long for what it need not read.
pub(crate) fn what_failed(output: &str) -> String {
    let counted = |n: usize, one: &str, many: &str| match n {
        0 => String::new(),
        1 => format!("(1 {one})\n"),
        n => format!("({n} {many})\n"),
    };
    let mut out = String::with_capacity(output.len());
    let (mut passed, mut warnings) = (0, 0);
    let mut warning = false;
    for line in output.split_inclusive('\n') {
        let text = line.trim_end();
        // rustc's warnings reach to the next empty line, or to the next message.
        warning = text.starts_with("warning: ") || warning && !text.is_empty() && !text.starts_with("error");
        if warning {
            // The last of them only counts the others.
            warnings += usize::from(text.starts_with("warning: ") && !text.contains(" generated "));
        } else if text.ends_with(" ... ok") {
            passed += 1;
        } else {
            out.push_str(&counted(std::mem::take(&mut passed), "test passed", "tests passed"));
            out.push_str(&counted(std::mem::take(&mut warnings), "warning", "warnings"));
            out.push_str(line);
        }
    }
    out.push_str(&counted(passed, "test passed", "tests passed"));
    out.push_str(&counted(warnings, "warning", "warnings"));
    out
}

/// A text in which each failure is told once: of paragraphs that end in the same line, as the tracebacks of many tests
/// that break on one fault do, the first is kept whole and the others are counted.
fn once(text: &str) -> String {
    /// Lines that make a paragraph long enough to be worth leaving out.
    const LINES_MIN: usize = 4;
    let mut ends: Vec<&str> = Vec::new();
    let mut kept: Vec<String> = Vec::new();
    let mut more = 0;
    for paragraph in text.split("\n\n") {
        let end = paragraph.lines().last().unwrap_or_default().trim();
        let long = paragraph.trim().lines().count() >= LINES_MIN;
        if long && ends.contains(&end) {
            more += 1;
            continue;
        }
        if long {
            ends.push(end);
        }
        if more > 0 {
            kept.push(counted(more));
            more = 0;
        }
        kept.push(paragraph.to_string());
    }
    if more > 0 {
        kept.push(counted(more));
    }
    kept.join("\n\n")
}

fn counted(more: usize) -> String {
    format!("(and {more} more that fail in the same way)")
}

/// A text with the paths below a folder made relative to it.
fn relative(text: &str, folder: &str) -> String {
    let of_name = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(folder) {
        let (before, after) = (&rest[..at], &rest[at + folder.len()..]);
        out.push_str(before);
        // Neither the end of a longer path nor the beginning of a longer name.
        let whole = !before.ends_with(|c| of_name(c) || c == '/') && !after.starts_with(of_name);
        rest = match after.strip_prefix('/').filter(|below| whole && below.starts_with(of_name)) {
            Some(below) => below,
            None => {
                out.push_str(if whole { "." } else { folder });
                after
            }
        };
    }
    out.push_str(rest);
    out
}

/// The number in front of a word.
fn number_before(line: &str, word: &str) -> Option<u32> {
    let before = line[..line.find(word)?].trim_end();
    let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    before[before.len() - digits..].parse().ok()
}

/// What is said of a command that complains of nothing.
pub(crate) const NO_COMPLAINT: &str = "the command still fails";

/// The last things a failed command complained of, short enough to be remembered.
pub(crate) fn complaint(output: &str) -> String {
    const LINES: usize = 3;
    const CHARS: usize = 160;
    let complains = |line: &&str| {
        let lower = line.to_lowercase();
        ["error", "panicked", "assert", "expected"].iter().any(|word| lower.contains(word))
            && !lower.starts_with("failed")
            && !lower.starts_with("error: test_")
    };
    let mut lines: Vec<&str> = output.lines().map(str::trim).filter(complains).collect();
    lines.dedup();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() {
        return NO_COMPLAINT.to_string();
    }
    let cut = |line: &&str| line.chars().take(CHARS).collect::<String>();
    last.iter().map(cut).collect::<Vec<_>>().join("; ")
}

fn python(workspace: &Path) -> Option<String> {
    let pytest = || Some("python3 -m pytest -q".to_string());
    let configured =
        ["pytest.ini", "conftest.py", "tests/conftest.py"].iter().any(|name| is_file(&workspace.join(name)));
    let project = ["pyproject.toml", "setup.cfg", "tox.ini"];
    let named = project
        .iter()
        .filter_map(|name| beginning(&workspace.join(name)))
        .any(|text| text.contains("pytest"));
    for folder in ["", "tests", "test"] {
        let Some(test) = first_test(&workspace.join(folder)) else { continue };
        if configured || named || test.contains("import pytest") || !test.contains("unittest") {
            return pytest();
        }
        let package = folder.is_empty() || is_file(&workspace.join(folder).join("__init__.py"));
        return Some(if package {
            "python3 -m unittest".to_string()
        } else {
            format!("python3 -m unittest discover -s {folder}")
        });
    }
    None
}

/// The beginning of the first Python test in a folder, by name.
fn first_test(folder: &Path) -> Option<String> {
    if !folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return None;
    }
    let names = std::fs::read_dir(folder)
        .ok()?
        .take(1_000)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let test = |name: &String| {
        let stem = name.strip_suffix(".py");
        stem.is_some_and(|stem| stem.starts_with("test_") || stem.ends_with("_test"))
    };
    let first = names.filter(test).min()?;
    beginning(&folder.join(first))
}

/// A plain file, not a link to one.
fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The beginning of a plain file.
fn beginning(path: &Path) -> Option<String> {
    const BYTES: u64 = 64 << 10;
    if !is_file(path) {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_reads_the_same_wherever_and_however_fast_it_was_made() {
        let steady = |text: &str| steady(text, Path::new("/w/app"));
        assert_eq!(steady("  File \"/w/app/a.py\", line 3"), "  File \"a.py\", line 3");
        assert_eq!(steady("cwd: /w/app\n/w/application/x"), "cwd: .\n/w/application/x");
        assert_eq!(steady("/tmp/w/app/a /w/app/ '/w/app'"), "/tmp/w/app/a ./ '.'");
        assert_eq!(steady("Ran 8 tests in 0.004s"), "Ran 8 tests in 0s");
        assert_eq!(steady("2 passed in 1.25s (0.31s)\nok (12ms)"), "2 passed in 0s (0s)\nok (0ms)");
        let kept = "1.5 != 1.50, v1.2.3s 4.5sec x0.5s 10s 3.s, 0.5";
        assert_eq!(steady(kept), kept);
        assert_eq!(steady("日本 0.5s 9"), "日本 0s 9");
    }

    #[test]
    fn of_a_failed_command_only_what_failed_is_told() {
        // A crate of 864 lines with 11 broken tests of 111: the 100 others and an old warning were most of what was read,
        // and the model went after the warning.
        let output = "exit code 101\n   Compiling heck v0.5.0 (.)\nwarning: unexpected `cfg` value\n  --> src/train.rs:70:11\n   |\n\n\
                      warning: `heck` (lib test) generated 1 warning\n\nrunning 4 tests\ntest a::test1 ... FAILED\ntest a::test2 ... ok\n\
                      test b::test1 ... ok\ntest b::test2 ... FAILED\n\nfailures:\n";
        assert_eq!(
            what_failed(output),
            "exit code 101\n   Compiling heck v0.5.0 (.)\n(1 warning)\n\n\nrunning 4 tests\ntest a::test1 ... FAILED\n\
             (2 tests passed)\ntest b::test2 ... FAILED\n\nfailures:\n"
        );
        let compiler = "warning: unused\n --> a.rs:1:1\nerror[E0425]: no `x`\n --> a.rs:2:1\n";
        assert_eq!(what_failed(compiler), "(1 warning)\nerror[E0425]: no `x`\n --> a.rs:2:1\n");
        let python = "test_a (t.A.test_a) ... ok\ntest_b (t.A.test_b) ... FAIL\n";
        assert_eq!(what_failed(python), "(1 test passed)\ntest_b (t.A.test_b) ... FAIL\n");
        assert_eq!(what_failed("..F\n\nFAILED (failures=1)"), "..F\n\nFAILED (failures=1)");
    }

    #[test]
    fn a_fault_that_breaks_many_tests_is_told_once() {
        let failure = |test: &str, why: &str| format!("=====\nERROR: {test}\n-----\nTraceback\n{why}");
        let text = [
            failure("a", "NameError: m"),
            failure("b", "NameError: m"),
            failure("c", "KeyError: x"),
            failure("d", "NameError: m"),
            "-----\nRan 4 tests in 0s".to_string(),
            "FAILED (errors=4)".to_string(),
        ]
        .join("\n\n");
        let told = steady(&text, Path::new("/w"));
        assert_eq!(told.matches("NameError: m").count(), 1);
        assert_eq!(told.matches("KeyError: x").count(), 1);
        assert_eq!(told.matches("(and 1 more that fail in the same way)").count(), 2);
        assert!(told.ends_with("Ran 4 tests in 0s\n\nFAILED (errors=4)"), "{told}");
        assert_eq!(passed(&told), Some(0));
        assert_eq!(steady("a\n\na\n\nb", Path::new("/w")), "a\n\na\n\nb");
    }

    fn project(files: &[(&str, &str)]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        command(folder.path())
    }

    #[test]
    fn a_project_is_checked_as_its_people_check_it() {
        let unit = "import unittest\n";
        type Files<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Files<'_>, Option<&str>); 10] = [
            (&[("Cargo.toml", "")], Some("cargo test")),
            (&[("go.mod", "")], Some("go test ./...")),
            (&[("package.json", r#"{"scripts": {"test": "vitest run"}}"#)], Some("npm test")),
            (&[("package.json", r#"{"name": "x"}"#)], None),
            (&[("test_a.py", unit)], Some("python3 -m unittest")),
            (&[("tests/test_a.py", unit)], Some("python3 -m unittest discover -s tests")),
            (&[("tests/test_a.py", unit), ("tests/__init__.py", "")], Some("python3 -m unittest")),
            (
                &[("tests/test_a.py", unit), ("pyproject.toml", "[tool.pytest.ini_options]")],
                Some("python3 -m pytest -q"),
            ),
            (&[("test_a.py", "def test_it(): assert True\n")], Some("python3 -m pytest -q")),
            (&[("Makefile", "all:\n\techo\ntest: all\n\t./run\n")], Some("make test")),
        ];
        for (files, expected) in cases {
            assert_eq!(project(files).as_deref(), expected, "{files:?}");
        }
        assert_eq!(project(&[("notes.txt", "test:")]), None);
    }

    #[test]
    fn a_runner_tells_how_many_passed() {
        let cases = [
            ("Ran 8 tests in 0.001s\n\nFAILED (failures=1, errors=1)", Some(6)),
            ("Ran 3 tests in 0.001s\n\nOK", Some(3)),
            ("Ran 4 tests in 0.001s\n\nOK (skipped=1)", Some(3)),
            ("Ran 1 test in 0.000s\n\nFAILED (errors=1)", Some(0)),
            ("==== 1 failed, 12 passed in 0.12s ====", Some(12)),
            ("2 failed in 0.12s", Some(0)),
            ("test result: FAILED. 3 passed; 1 failed; 0 ignored", Some(3)),
            ("test result: ok. 3 passed; 0 failed\ntest result: FAILED. 2 passed; 1 failed", Some(5)),
            ("Tests:       1 failed, 5 passed, 6 total", Some(5)),
            ("  12 passing (30ms)\n  1 failing", Some(12)),
            ("error[E0308]: mismatched types", None),
            ("", None),
        ];
        for (output, expected) in cases {
            assert_eq!(passed(output), expected, "{output}");
        }
    }
}

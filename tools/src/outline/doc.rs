//! Comments that say what something is for.

use super::Language;

/// What a comment is to the definition after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// It documents what comes next.
    Outer,
    /// It documents what it stands in.
    Inner,
    /// It says something else.
    Plain,
}

/// What sort of comment this is.
pub(super) fn sort(language: Language, comment: &str) -> Sort {
    match language {
        Language::Rust => {
            let outer = comment.starts_with("///") && !comment.starts_with("////")
                || comment.starts_with("/**") && !comment.starts_with("/***") && comment.len() > 4;
            if outer {
                Sort::Outer
            } else if comment.starts_with("//!") || comment.starts_with("/*!") {
                Sort::Inner
            } else {
                Sort::Plain
            }
        }
        // Documentation is a string there.
        Language::Python => Sort::Plain,
        Language::JavaScript
        | Language::TypeScript
        | Language::Tsx
        | Language::Go
        | Language::Java
        | Language::C
        | Language::Cpp => Sort::Outer,
    }
}

/// What a comment says, without its marks and without what all its lines are moved in by.
pub(super) fn words(comment: &str) -> String {
    let comment = comment.trim();
    let block = comment.starts_with("/*");
    let inner = match block {
        true => comment.trim_start_matches('/').trim_start_matches(['*', '!']).trim_end_matches("*/"),
        false => comment,
    };
    let line = |line: &str| {
        let line = line.trim();
        let line = match block {
            true => line.strip_prefix('*').unwrap_or(line),
            false => line.trim_start_matches('/').trim_start_matches(['#', '!']),
        };
        line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()
    };
    inner.lines().map(line).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// What a string of Python says, without its quotes.
pub(super) fn string(literal: &str) -> String {
    let inner = literal.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let inner = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find_map(|quote| inner.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(inner);
    inner.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// What the attribute `#[doc = "…"]` says.
pub(super) fn attribute(attribute: &str) -> Option<String> {
    let inner = attribute.strip_prefix("#[doc")?.trim_start().strip_prefix('=')?.trim_start();
    let text = inner.strip_suffix(']')?.trim_end().trim_start_matches(['r', '#']).trim_end_matches('#');
    Some(text.strip_prefix('"')?.strip_suffix('"')?.trim().to_owned())
}

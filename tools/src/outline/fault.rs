//! Where a text breaks the rules of its language.
//!
//! The grammars are made to read on whatever comes, so Python's rules of indentation are looked after here. Only what is
//! certainly wrong is told: a text without a fault may still be one that its compiler refuses.

use tree_sitter::Node;

use super::{Fault, Language, TEXT_BYTES_MAX, walk};

pub(super) fn fault(language: Language, text: &str) -> Option<Fault> {
    let tree = (text.len() <= TEXT_BYTES_MAX).then(|| walk::parse(language, text, None)).flatten()?;
    let broken = tree.root_node().has_error();
    if !broken && language != Language::Python {
        return None;
    }
    let mut first: Option<Fault> = None;
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        let what = match () {
            () if node.is_missing() => Some(format!("{} is missing", named(node))),
            () if node.is_error() => Some("this cannot be read".to_owned()),
            () if language == Language::Python => python(node, text).map(str::to_owned),
            () => None,
        };
        if let Some(what) = what {
            let line = u32::try_from(node.start_position().row).map_or(u32::MAX, |row| row.saturating_add(1));
            // An error is found around what is wrong, and told by what lies deepest in it.
            if first.as_ref().is_none_or(|first| line < first.line) {
                first = Some(Fault { line, what });
            }
        }
        if cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return first;
            }
        }
    }
}

/// What a missing piece is called.
fn named(node: Node<'_>) -> String {
    match node.is_named() {
        true => format!("a {}", node.kind().replace('_', " ")),
        false => format!("`{}`", node.kind()),
    }
}

/// What Python says of a node and its grammar does not.
fn python(node: Node<'_>, text: &str) -> Option<&'static str> {
    let kind = node.kind();
    if kind == "return_statement" && !within(node, &["function_definition", "lambda"]) {
        return Some("`return` stands outside of a function");
    }
    if kind == "block" && node.named_children(&mut node.walk()).all(|child| child.kind() == "comment") {
        return Some("an indented body is missing here");
    }
    let parent = node.parent().filter(|parent| matches!(parent.kind(), "block" | "module"))?;
    if !node.is_named() || kind == "comment" || node.is_error() {
        return None;
    }
    // What stands behind a semicolon or a colon is on the same line.
    let own = |node: Node<'_>| {
        let before = &text[..node.start_byte()];
        before
            .rsplit('\n')
            .next()
            .is_some_and(|line| line.chars().all(|c| c == ' ' || c == '\t' || c == '\u{c}'))
    };
    let behind = node.prev_sibling().filter(|before| before.is_named() && before.kind() != "comment");
    if behind.is_some_and(|before| before.end_position().row == node.start_position().row) {
        return Some("a new line or a semicolon is missing in it");
    }
    let mut children = parent.walk();
    let first = parent.named_children(&mut children).find(|child| child.kind() != "comment")?;
    let column = |node: Node<'_>| node.start_position().column;
    if parent.kind() == "module" {
        return (own(node) && column(node) != 0 && !fed(node, text))
            .then_some("this line is indented, and nothing above asks for it");
    }
    (node != first && own(node) && own(first) && column(node) != column(first))
        .then_some("this line is indented otherwise than the lines beside it")
}

/// Whether a form feed stands before a node on its line, which begins the line anew.
fn fed(node: Node<'_>, text: &str) -> bool {
    let before = &text[..node.start_byte()];
    before.rsplit('\n').next().is_some_and(|line| line.contains('\u{c}'))
}

/// Whether a node lies in one of these kinds, before the next class.
fn within(node: Node<'_>, kinds: &[&str]) -> bool {
    let mut at = node;
    while let Some(parent) = at.parent() {
        if kinds.contains(&parent.kind()) {
            return true;
        }
        if parent.kind() == "class_definition" {
            return false;
        }
        at = parent;
    }
    false
}

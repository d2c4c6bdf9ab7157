//! From a text to its tree, and along the tree to its definitions.
//!
//! The tree is walked with a cursor and no recursion, so that a text that is nested without end costs memory, not the stack. A parse
//! has so many steps for each byte; they are counted, not timed, so that the same text is always read the same way.

use std::ops::{ControlFlow, Range};

use tree_sitter::{Node, ParseOptions, Parser, Point, Tree};

use super::define::{Found, Role, role, said};
use super::{Kind, Language, Outline, Reference, Symbol, TEXT_BYTES_MAX, doc};

/// Looks of the parser at whether to go on: it looks after every hundred steps, and a text that is read well takes far fewer
/// than this allows for. What is broken in every line takes more, and ends here.
const LOOKS_MIN: usize = 2_000;
const LOOK_BYTES: usize = 16;
/// The most symbols of one file; what has more was made by a program.
const SYMBOLS_MAX: usize = 50_000;
/// What lies in more things than this is left out: nobody wrote it.
const SCOPES_MAX: usize = 16;
/// The longest signature that is kept. Bytes.
const SIGNATURE_BYTES: usize = 400;
/// Bodies of macros that are read in one file, and macros within macros.
const MACROS_MAX: usize = 2_000;
const MACRO_DEPTH: usize = 3;

/// A piece of a text that is still to be read.
struct Piece {
    range: Option<tree_sitter::Range>,
    scopes: Vec<Scope>,
    depth: usize,
}

/// Something that definitions lie in.
#[derive(Clone)]
struct Scope {
    name: String,
    implements: Option<String>,
    /// Where it ends. Bytes.
    end: usize,
    /// Its place among the symbols, if it is one.
    symbol: Option<usize>,
    kind: Option<Kind>,
    test: bool,
    public: bool,
}

/// What stands right before a definition.
#[derive(Default, Clone)]
struct Lead {
    /// Where it begins, and its first line from 0.
    start: Option<(usize, usize)>,
    /// The last line it takes up.
    last_row: usize,
    docs: Vec<(Range<usize>, String)>,
    attributes: String,
    /// Whether a wrapper says that it can be used elsewhere.
    exported: bool,
    /// Whether it stands before a wrapper, and so before the definition in it whatever else is in between.
    inherited: bool,
}

pub(super) fn outline(language: Language, text: &str) -> Outline {
    walk(language, text, None).0
}

pub(super) fn read(language: Language, text: &str) -> (Outline, Vec<Reference>) {
    walk(language, text, Some(Vec::new()))
}

fn walk(language: Language, text: &str, names: Option<Vec<Reference>>) -> (Outline, Vec<Reference>) {
    let found = Outline { whole: true, ..Outline::default() };
    let mut walk = Walk { language, text, found, names, macros: 0 };
    if text.len() > TEXT_BYTES_MAX {
        walk.found.whole = false;
        return (walk.found, Vec::new());
    }
    let mut pieces = vec![Piece { range: None, scopes: Vec::new(), depth: 0 }];
    while let Some(piece) = pieces.pop() {
        walk.piece(piece, &mut pieces);
    }
    let mut found = walk.found;
    // Bodies of macros come after the rest.
    found.symbols.sort_by_key(|symbol| (symbol.range.start, std::cmp::Reverse(symbol.range.end)));
    (found, walk.names.unwrap_or_default())
}

pub(super) fn references(language: Language, text: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    let Some(tree) = (text.len() <= TEXT_BYTES_MAX).then(|| parse(language, text, None)).flatten() else {
        return found;
    };
    let mut cursor = tree.walk();
    loop {
        found.extend(name_at(cursor.node()));
        if cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return found;
            }
        }
    }
}

/// A node as a name, if it is one.
fn name_at(node: Node<'_>) -> Option<Reference> {
    let is = node.child_count() == 0 && node.kind().ends_with("identifier") && !node.byte_range().is_empty();
    is.then(|| Reference { range: node.byte_range(), line: node.start_position().row as u32 + 1 })
}

/// The tree of a text, or of a range of it; nothing when it takes too many steps.
pub(super) fn parse(language: Language, text: &str, range: Option<tree_sitter::Range>) -> Option<Tree> {
    let mut parser = Parser::new();
    parser.set_language(&language.grammar()).ok()?;
    if let Some(range) = range {
        parser.set_included_ranges(&[range]).ok()?;
    }
    let mut looks = LOOKS_MIN + text.len() / LOOK_BYTES;
    let mut look = |_: &tree_sitter::ParseState| match looks {
        0 => ControlFlow::Break(()),
        _ => {
            looks -= 1;
            ControlFlow::Continue(())
        }
    };
    let bytes = text.as_bytes();
    let mut read = |at: usize, _: Point| bytes.get(at..).unwrap_or_default();
    parser.parse_with_options(&mut read, None, Some(ParseOptions::new().progress_callback(&mut look)))
}

struct Walk<'a> {
    language: Language,
    text: &'a str,
    found: Outline,
    /// The names that stand in the text, if they are wanted.
    names: Option<Vec<Reference>>,
    macros: usize,
}

impl Walk<'_> {
    fn piece(&mut self, piece: Piece, pieces: &mut Vec<Piece>) {
        let Some(tree) = parse(self.language, self.text, piece.range) else {
            self.found.whole = false;
            return;
        };
        self.found.whole &= piece.range.is_some() || !tree.root_node().has_error();
        let mut scopes = piece.scopes;
        let (mut cursor, mut leads) = (tree.walk(), vec![Lead::default()]);
        // Scopes of a macro's piece end with the piece.
        let kept = scopes.len();
        loop {
            let node = cursor.node();
            while scopes.len() > kept && scopes.last().is_some_and(|scope| scope.end <= node.start_byte()) {
                scopes.pop();
            }
            // The tree of the whole text has the names in macros' bodies as well.
            if let Some(names) = self.names.as_mut().filter(|_| piece.range.is_none()) {
                names.extend(name_at(node));
            }
            let lead = self.visit(node, &mut leads, &mut scopes);
            if self.language == Language::Rust && piece.depth < MACRO_DEPTH {
                pieces.extend(self.macro_body(node, &scopes, piece.depth));
            }
            if self.found.symbols.len() >= SYMBOLS_MAX {
                self.found.whole = false;
                return;
            }
            if cursor.goto_first_child() {
                leads.push(lead);
                continue;
            }
            while !cursor.goto_next_sibling() {
                if !cursor.goto_parent() {
                    return;
                }
                leads.pop();
            }
        }
    }

    /// Looks at one node. Answers what stands before the first of those in it.
    fn visit(&mut self, node: Node<'_>, leads: &mut [Lead], scopes: &mut Vec<Scope>) -> Lead {
        let lead = leads.last_mut().expect("there is one for each level above the node");
        match role(self.language, node, self.text) {
            Role::Comment => self.comment(node, lead, scopes),
            Role::Attribute => {
                let said = said(node, self.text);
                if let Some(doc) = doc::attribute(said) {
                    lead.docs.push((node.byte_range(), doc));
                }
                lead.attributes += said;
                lead.take(node);
            }
            Role::Wrapper => {
                let mut inner = std::mem::take(lead);
                inner.exported |= node.kind() == "export_statement";
                inner.inherited = true;
                inner.begin(node);
                return inner;
            }
            Role::Scope { name, implements } => {
                let test = scopes.last().is_some_and(|scope| scope.test);
                *lead = Lead::default();
                let end = node.end_byte();
                let public = implements.is_some();
                scopes.push(Scope { name, implements, end, symbol: None, kind: None, test, public });
            }
            Role::Symbol(found) => {
                let mut lead = std::mem::take(lead);
                lead.begin(node);
                if scopes.len() >= SCOPES_MAX {
                    self.found.whole = false;
                    return Lead::default();
                }
                self.symbol(node, found, lead, scopes);
            }
            // Commas and semicolons leave what was said before as it is; words like `public` lie in the definition.
            Role::Other if node.is_named() && !lead.inherited => {
                let lead = std::mem::take(lead);
                self.docstring(node, scopes);
                self.head(&lead, scopes);
            }
            Role::Other => {}
        }
        Lead::default()
    }

    fn comment(&mut self, node: Node<'_>, lead: &mut Lead, scopes: &[Scope]) {
        let said = said(node, self.text);
        let row = node.start_position().row;
        let before = self.text[..node.start_byte()].trim_end_matches([' ', '\t']);
        let alone = before.is_empty() || before.ends_with('\n');
        match doc::sort(self.language, said) {
            doc::Sort::Inner => {
                let symbol = scopes.last().and_then(|scope| scope.symbol);
                let words = doc::words(said);
                match symbol.and_then(|at| self.found.symbols.get_mut(at)) {
                    Some(symbol) => {
                        append(&mut symbol.doc, &words);
                        symbol.doc_ranges.push(node.byte_range());
                    }
                    None if scopes.is_empty() => append(&mut self.found.doc, &words),
                    None => {}
                }
            }
            sort => {
                let near = lead.start.is_some() && row <= lead.last_row + 1;
                if !near || !alone {
                    let lead = std::mem::take(lead);
                    self.head(&lead, scopes);
                }
                if !alone {
                    return;
                }
                if sort == doc::Sort::Outer {
                    lead.docs.push((node.byte_range(), doc::words(said)));
                }
                lead.take(node);
            }
        }
    }

    /// What stands at the head of a file and at no definition is about the file.
    fn head(&mut self, lead: &Lead, scopes: &[Scope]) {
        if scopes.is_empty() && self.found.symbols.is_empty() && self.found.doc.is_empty() {
            self.found.doc = lead.doc();
        }
    }

    fn symbol(&mut self, node: Node<'_>, found: Found<'_>, lead: Lead, scopes: &mut Vec<Scope>) {
        let Found { kind, name, of, body } = found;
        let (start, row) = lead.start.unwrap_or((node.start_byte(), node.start_position().row));
        // A comment further up belongs to something else.
        let apart = node.start_position().row > lead.last_row + 1;
        let outer = scopes.last();
        let method = !of.is_empty() || outer.is_some_and(|scope| scope.holds_methods());
        let kind = if kind == Kind::Function && method { Kind::Method } else { kind };
        let mut containers: Vec<String> = scopes.iter().map(|scope| scope.name.clone()).collect();
        containers.extend(of);
        let test = outer.is_some_and(|scope| scope.test) || tests(self.language, &lead.attributes, &name);
        let public = self.is_public(node, &name, &lead, outer);
        let lines = (row as u32 + 1, last_row(node) as u32 + 1);
        let body = body.map(|body| body.byte_range());
        let head_end = body.as_ref().map_or(node.end_byte(), |body| body.start);
        let (docs, start, lines) = match apart && lead.start.is_some() {
            true => (Vec::new(), node.start_byte(), (node.start_position().row as u32 + 1, lines.1)),
            false => (lead.docs, start, lines),
        };
        let at = self.found.symbols.len();
        let mut symbol = Symbol {
            kind,
            containers,
            implements: outer.and_then(|scope| scope.implements.clone()).filter(|_| kind.is_callable()),
            lines,
            range: start..node.end_byte(),
            signature: one_line(self.text.get(node.start_byte()..head_end).unwrap_or_default()),
            doc: String::new(),
            doc_ranges: Vec::new(),
            public,
            test,
            name: name.clone(),
            body,
        };
        for (range, said) in docs {
            append(&mut symbol.doc, &said);
            symbol.doc_ranges.push(range);
        }
        self.found.symbols.push(symbol);
        let end = node.end_byte();
        scopes.push(Scope {
            name,
            implements: None,
            end,
            symbol: Some(at),
            kind: Some(kind),
            test,
            public: public && kind == Kind::Trait,
        });
    }

    fn is_public(&self, node: Node<'_>, name: &str, lead: &Lead, outer: Option<&Scope>) -> bool {
        let says = |what: &str| {
            let end = node.child_by_field_name("body").map_or(node.end_byte(), |body| body.start_byte());
            let head = self.text.get(node.start_byte()..end).unwrap_or_default();
            head.split_whitespace().any(|word| word == what)
        };
        match self.language {
            Language::Rust => {
                let first = node.child(0).is_some_and(|child| child.kind() == "visibility_modifier");
                first || outer.is_some_and(|scope| scope.public)
            }
            Language::Python => !name.starts_with('_') || name.starts_with("__") && name.ends_with("__"),
            Language::JavaScript | Language::TypeScript | Language::Tsx => {
                lead.exported || outer.is_some() && !name.starts_with('#') && !says("private")
            }
            Language::Go => name.chars().next().is_some_and(char::is_uppercase),
            Language::Java => says("public"),
            Language::C | Language::Cpp => !says("static"),
        }
    }

    /// A string that stands first in a function, a class or a file of Python says what it is for.
    fn docstring(&mut self, node: Node<'_>, scopes: &[Scope]) {
        if self.language != Language::Python || node.kind() != "expression_statement" {
            return;
        }
        let Some(string) = node.named_child(0).filter(|child| child.kind() == "string") else { return };
        let words = doc::string(said(string, self.text));
        match scopes.last().and_then(|scope| scope.symbol) {
            Some(at) => {
                let symbol = &mut self.found.symbols[at];
                if symbol.body.as_ref().is_some_and(|body| body.start == node.start_byte()) {
                    symbol.doc = words;
                    symbol.doc_ranges.push(node.byte_range());
                }
            }
            None if self.found.symbols.is_empty() && self.found.doc.is_empty() => self.found.doc = words,
            None => {}
        }
    }

    /// The body of a macro that is called among items, which may hold items: grammars see nothing but tokens there.
    fn macro_body(&mut self, node: Node<'_>, scopes: &[Scope], depth: usize) -> Option<Piece> {
        let callable = scopes.last().and_then(|scope| scope.kind).is_some_and(Kind::is_callable);
        if node.kind() != "macro_invocation" || callable || self.macros >= MACROS_MAX {
            return None;
        }
        let last = (node.named_child_count() as u32).checked_sub(1)?;
        let tokens = node.named_child(last).filter(|child| child.kind() == "token_tree")?;
        let said = said(tokens, self.text);
        if !said.starts_with('{') || !said.ends_with('}') || said.len() < 3 || !said.contains("fn ") {
            return None;
        }
        self.macros += 1;
        let (from, to) = (tokens.start_position(), tokens.end_position());
        Some(Piece {
            range: Some(tree_sitter::Range {
                start_byte: tokens.start_byte() + 1,
                end_byte: tokens.end_byte() - 1,
                start_point: Point::new(from.row, from.column + 1),
                end_point: Point::new(to.row, to.column - 1),
            }),
            scopes: scopes.to_vec(),
            depth: depth + 1,
        })
    }
}

impl Scope {
    fn holds_methods(&self) -> bool {
        match self.kind {
            // An implementation.
            None => true,
            Some(kind) => match kind {
                Kind::Class | Kind::Struct | Kind::Enum | Kind::Trait | Kind::Type => true,
                Kind::Function | Kind::Method | Kind::Module | Kind::Constant | Kind::Macro => false,
            },
        }
    }
}

impl Lead {
    /// A node belongs to it.
    fn take(&mut self, node: Node<'_>) {
        self.begin(node);
        self.last_row = last_row(node);
    }

    /// It begins here at the latest.
    fn begin(&mut self, node: Node<'_>) {
        if self.start.is_none() {
            self.start = Some((node.start_byte(), node.start_position().row));
            self.last_row = node.start_position().row;
        }
    }

    fn doc(&self) -> String {
        let mut doc = String::new();
        self.docs.iter().for_each(|(_, said)| append(&mut doc, said));
        doc
    }
}

/// The last line a node takes up; a comment's node may hold the end of its line.
fn last_row(node: Node<'_>) -> usize {
    let end = node.end_position();
    if end.column == 0 && end.row > node.start_position().row { end.row - 1 } else { end.row }
}

fn append(doc: &mut String, said: &str) {
    if !doc.is_empty() {
        doc.push('\n');
    }
    doc.push_str(said);
}

/// Whether something is a test by what stands before it or by its name.
fn tests(language: Language, attributes: &str, name: &str) -> bool {
    match language {
        Language::Rust => {
            let words = attributes.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.into_iter().any(|word| word == "test" || word == "bench")
                && !attributes.contains("not(test)")
        }
        Language::Python => name.starts_with("test_") || name.starts_with("Test"),
        Language::Go => ["Test", "Benchmark", "Example", "Fuzz"].iter().any(|head| name.starts_with(head)),
        Language::Java => attributes.contains("@Test"),
        Language::JavaScript | Language::TypeScript | Language::Tsx | Language::C | Language::Cpp => false,
    }
}

/// A text on one line, cut off where a signature is long enough.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > SIGNATURE_BYTES {
        let end = (0..=SIGNATURE_BYTES).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
    }
    line.trim_end_matches([';', '{', ':', '=', ' ']).to_owned()
}

//! Which nodes of a grammar define something, language by language.

use tree_sitter::Node;

use super::{Kind, Language};

/// What a node is to an outline.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Role<'t> {
    /// It defines something.
    Symbol(Found<'t>),
    /// What lies in it belongs to something that is defined elsewhere.
    Scope {
        name: String,
        implements: Option<String>,
    },
    /// What comes before it belongs to the definition in it.
    Wrapper,
    /// It says something about the definition after it.
    Attribute,
    Comment,
    Other,
}

/// A definition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found<'t> {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// What it belongs to besides what it lies in: a method's receiver, a name's qualifiers.
    pub(super) of: Vec<String>,
    pub(super) body: Option<Node<'t>>,
}

/// What a node is.
pub(super) fn role<'t>(language: Language, node: Node<'t>, text: &str) -> Role<'t> {
    match language {
        Language::Rust => rust(node, text),
        Language::Python => python(node, text),
        Language::JavaScript | Language::TypeScript | Language::Tsx => script(node, text),
        Language::Go => go(node, text),
        Language::Java => java(node, text),
        Language::C | Language::Cpp => c(node, text),
    }
}

pub(super) fn said<'a>(node: Node<'_>, text: &'a str) -> &'a str {
    text.get(node.byte_range()).unwrap_or_default()
}

/// A definition whose name and body are where most grammars have them.
fn named<'t>(kind: Kind, node: Node<'t>, text: &str) -> Role<'t> {
    match node.child_by_field_name("name") {
        Some(name) => Role::Symbol(Found {
            kind,
            name: said(name, text).to_owned(),
            of: Vec::new(),
            body: node.child_by_field_name("body"),
        }),
        None => Role::Other,
    }
}

/// A type's name without what it is made of and where it comes from.
fn bare(of: &str) -> String {
    let of = of.trim_start_matches(['&', '*', '(', '[', ' ']);
    let of = of.strip_prefix("dyn ").unwrap_or(of).trim_start_matches("mut ");
    let end = of.find(['<', '[', '(', ' ', ',', '+', ')', ']']).unwrap_or(of.len());
    of[..end].rsplit([':', '.']).next().unwrap_or_default().to_owned()
}

fn rust<'t>(node: Node<'t>, text: &str) -> Role<'t> {
    match node.kind() {
        "function_item" | "function_signature_item" => named(Kind::Function, node, text),
        "struct_item" | "union_item" => named(Kind::Struct, node, text),
        "enum_item" => named(Kind::Enum, node, text),
        "trait_item" => named(Kind::Trait, node, text),
        "mod_item" => named(Kind::Module, node, text),
        "const_item" | "static_item" => named(Kind::Constant, node, text),
        "type_item" => named(Kind::Type, node, text),
        "macro_definition" => named(Kind::Macro, node, text),
        "impl_item" => {
            let part = |field| node.child_by_field_name(field).map(|part| bare(said(part, text)));
            Role::Scope { name: part("type").unwrap_or_default(), implements: part("trait") }
        }
        "attribute_item" => Role::Attribute,
        "line_comment" | "block_comment" => Role::Comment,
        _ => Role::Other,
    }
}

fn python<'t>(node: Node<'t>, text: &str) -> Role<'t> {
    match node.kind() {
        "function_definition" => named(Kind::Function, node, text),
        "class_definition" => named(Kind::Class, node, text),
        "decorated_definition" => Role::Wrapper,
        "decorator" => Role::Attribute,
        "comment" => Role::Comment,
        _ => Role::Other,
    }
}

fn script<'t>(node: Node<'t>, text: &str) -> Role<'t> {
    match node.kind() {
        "function_declaration"
        | "generator_function_declaration"
        | "function_signature"
        | "method_definition"
        | "method_signature"
        | "abstract_method_signature" => named(Kind::Function, node, text),
        "class_declaration" | "abstract_class_declaration" => named(Kind::Class, node, text),
        "interface_declaration" => named(Kind::Trait, node, text),
        "enum_declaration" => named(Kind::Enum, node, text),
        "type_alias_declaration" => named(Kind::Type, node, text),
        "internal_module" | "module" => named(Kind::Module, node, text),
        "variable_declarator" | "public_field_definition" | "field_definition" => {
            let value = node.child_by_field_name("value");
            let name = node.child_by_field_name("name").or_else(|| node.child_by_field_name("property"));
            let (Some(value), Some(name)) = (value, name) else { return Role::Other };
            match value.kind() {
                "arrow_function" | "function_expression" | "generator_function" => Role::Symbol(Found {
                    kind: Kind::Function,
                    name: said(name, text).to_owned(),
                    of: Vec::new(),
                    body: value.child_by_field_name("body"),
                }),
                _ => Role::Other,
            }
        }
        "export_statement"
        | "ambient_declaration"
        | "lexical_declaration"
        | "variable_declaration"
        | "expression_statement" => Role::Wrapper,
        "decorator" => Role::Attribute,
        "comment" => Role::Comment,
        _ => Role::Other,
    }
}

fn go<'t>(node: Node<'t>, text: &str) -> Role<'t> {
    match node.kind() {
        "function_declaration" | "method_declaration" | "method_elem" => {
            let mut role = named(Kind::Function, node, text);
            if let (Role::Symbol(found), Some(receiver)) = (&mut role, node.child_by_field_name("receiver")) {
                // `(b *Builder[T])`: the type is the last word.
                let receiver = said(receiver, text).trim_matches(['(', ')']);
                let of = receiver.split('[').next().unwrap_or_default().rsplit([' ', '*']).next();
                found.of.extend(of.map(str::to_owned));
            }
            role
        }
        "type_spec" | "type_alias" => {
            let of = node.child_by_field_name("type");
            let kind = match of.map(|of| of.kind()) {
                Some("struct_type") => Kind::Struct,
                Some("interface_type") => Kind::Trait,
                _ => Kind::Type,
            };
            match named(kind, node, text) {
                Role::Symbol(found) => Role::Symbol(Found { body: of, ..found }),
                role => role,
            }
        }
        "const_spec" => named(Kind::Constant, node, text),
        "type_declaration" | "const_declaration" => Role::Wrapper,
        "comment" => Role::Comment,
        _ => Role::Other,
    }
}

fn java<'t>(node: Node<'t>, text: &str) -> Role<'t> {
    match node.kind() {
        "method_declaration" | "constructor_declaration" | "compact_constructor_declaration" => {
            named(Kind::Function, node, text)
        }
        "class_declaration" | "record_declaration" => named(Kind::Class, node, text),
        "interface_declaration" | "annotation_type_declaration" => named(Kind::Trait, node, text),
        "enum_declaration" => named(Kind::Enum, node, text),
        "line_comment" | "block_comment" => Role::Comment,
        _ => Role::Other,
    }
}

fn c<'t>(node: Node<'t>, text: &str) -> Role<'t> {
    match node.kind() {
        "function_definition" | "declaration" | "field_declaration" => {
            let Some(declarator) = node.child_by_field_name("declarator") else { return Role::Other };
            let Some(name) = called(declarator) else { return Role::Other };
            // The name of `int util::Ring::push(int x)` says what it belongs to.
            let name = said(name, text);
            let mut of: Vec<String> = name.split("::").map(bare).collect();
            let name = of.pop().unwrap_or_default();
            if name.is_empty() {
                return Role::Other;
            }
            Role::Symbol(Found { kind: Kind::Function, name, of, body: node.child_by_field_name("body") })
        }
        // Without a body it is only named.
        "struct_specifier" | "union_specifier" if has_body(node) => named(Kind::Struct, node, text),
        "class_specifier" if has_body(node) => named(Kind::Class, node, text),
        "enum_specifier" if has_body(node) => named(Kind::Enum, node, text),
        "namespace_definition" => named(Kind::Module, node, text),
        "alias_declaration" => named(Kind::Type, node, text),
        "type_definition" => match node.child_by_field_name("declarator") {
            Some(name) if name.kind() == "type_identifier" => Role::Symbol(Found {
                kind: Kind::Type,
                name: said(name, text).to_owned(),
                of: Vec::new(),
                body: None,
            }),
            _ => Role::Other,
        },
        "preproc_function_def" => match named(Kind::Macro, node, text) {
            Role::Symbol(found) => Role::Symbol(Found { body: node.child_by_field_name("value"), ..found }),
            role => role,
        },
        "template_declaration" => Role::Wrapper,
        "comment" => Role::Comment,
        _ => Role::Other,
    }
}

fn has_body(node: Node<'_>) -> bool {
    node.child_by_field_name("body").is_some()
}

/// The declarators that may lie around a function's name: more than a reader could follow.
const DECLARATORS_MAX: usize = 16;

/// The name of the function that a declarator declares.
fn called(declarator: Node<'_>) -> Option<Node<'_>> {
    let mut at = declarator;
    let mut function = false;
    for _ in 0..DECLARATORS_MAX {
        function |= at.kind() == "function_declarator";
        match at.child_by_field_name("declarator") {
            Some(inner) => at = inner,
            // A reference's declarator has no field for what it holds.
            None if at.kind() == "reference_declarator" => at = at.named_child(0)?,
            // `(*name)` is a pointer to a function, and no function.
            None => break,
        }
    }
    (function && at.kind() != "parenthesized_declarator").then_some(at)
}

//! What a source file defines: its functions, types and modules, where they are and what is said of them.
//!
//! The text is read by tree-sitter's grammars, which make something of broken files too: what cannot be read is left out, and the
//! rest is there. Nothing here opens a file, knows the time or fails.
//!
//! ```
//! use tools::outline::{Kind, Language, outline};
//!
//! let found = outline(Language::Rust, "struct Lake;\nimpl Lake {\n    /// How deep it is, in metres.\n    fn depth(&self) -> f32 { 3.0 }\n}\n");
//! let depth = &found.symbols[1];
//! assert_eq!((depth.name.as_str(), depth.kind, depth.lines), ("depth", Kind::Method, (3, 4)));
//! assert_eq!(depth.containers, ["Lake"]);
//! assert_eq!(depth.doc, "How deep it is, in metres.");
//! assert_eq!(depth.signature, "fn depth(&self) -> f32");
//! ```

mod chunk;
mod define;
mod doc;
mod fault;
mod language;
mod walk;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use chunk::{Chunk, chunks, windows};
pub use language::Language;

/// The longest text that is read. Bytes. A longer file is data, or made by a program.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// What a file defines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// What the file says about itself at its head.
    pub doc: String,
    /// Its definitions, in the order they begin in.
    pub symbols: Vec<Symbol>,
    /// Whether all of the text was understood. If not, definitions may be missing.
    pub whole: bool,
}

/// A definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The names of what it lies in, the outermost first: modules, types, functions.
    pub containers: Vec<String>,
    /// The trait that it is part of an implementation of.
    pub implements: Option<String>,
    /// The first and the last line, counted from 1, with the comments and attributes that belong to it.
    pub lines: (u32, u32),
    /// Where in the text that is. Bytes.
    pub range: Range<usize>,
    /// Where its body is, without what comes before. Bytes.
    pub body: Option<Range<usize>>,
    /// What stands before its body, on one line.
    pub signature: String,
    /// What its documentation says, without the marks of a comment.
    pub doc: String,
    /// Where its documentation stands. Bytes, in order.
    pub doc_ranges: Vec<Range<usize>>,
    /// Whether it can be used from elsewhere, as far as its language says so beside it.
    pub public: bool,
    /// Whether it is part of a test, as far as can be seen in the text.
    pub test: bool,
}

/// What a definition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// A function that stands by itself.
    Function,
    /// A function of a type.
    Method,
    /// A class.
    Class,
    /// A structure or a union.
    Struct,
    /// An enumeration.
    Enum,
    /// A trait or an interface.
    Trait,
    /// Another name for a type.
    Type,
    /// A module or a namespace.
    Module,
    /// A constant, or a variable of a whole file.
    Constant,
    /// A macro.
    Macro,
}

impl Kind {
    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Function => "function",
            Kind::Method => "method",
            Kind::Class => "class",
            Kind::Struct => "struct",
            Kind::Enum => "enum",
            Kind::Trait => "trait",
            Kind::Type => "type",
            Kind::Module => "module",
            Kind::Constant => "constant",
            Kind::Macro => "macro",
        }
    }

    /// Whether it can be called.
    pub fn is_callable(self) -> bool {
        match self {
            Kind::Function | Kind::Method => true,
            Kind::Class
            | Kind::Struct
            | Kind::Enum
            | Kind::Trait
            | Kind::Type
            | Kind::Module
            | Kind::Constant
            | Kind::Macro => false,
        }
    }
}

/// A place where a name stands, be it defined or used there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where the name is. Bytes.
    pub range: Range<usize>,
    /// The line, counted from 1.
    pub line: u32,
}

/// Where a text breaks the rules of its language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: u32,
    /// What is wrong there: half a sentence that can follow "for".
    pub what: String,
}

/// The first place where a text cannot be read as its language, if there is one. A text without a fault may still be one that
/// its compiler refuses. In a text above [`TEXT_BYTES_MAX`] none is found.
///
/// ```
/// use tools::outline::{Language, fault};
///
/// let broken = "def depth():\nreturn 3.0\n";
/// assert_eq!(fault(Language::Python, broken).unwrap().line, 1);
/// assert_eq!(fault(Language::Python, "def depth():\n    return 3.0\n"), None);
/// ```
pub fn fault(language: Language, text: &str) -> Option<Fault> {
    fault::fault(language, text)
}

/// What a text defines. Of a text above [`TEXT_BYTES_MAX`] nothing is read.
pub fn outline(language: Language, text: &str) -> Outline {
    walk::outline(language, text)
}

/// What a text defines, as [`outline`] has it, and where names stand in it, as [`references`] has them, at the price of the first.
pub fn read(language: Language, text: &str) -> (Outline, Vec<Reference>) {
    walk::read(language, text)
}

/// Where names stand in a text, in order; names in comments and strings are none.
pub fn references(language: Language, text: &str) -> Vec<Reference> {
    walk::references(language, text)
}

#[cfg(test)]
mod tests;

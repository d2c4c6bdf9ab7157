//! Chat formats: how a conversation is shown to a model, and how its reply is read.
//!
//! A dialect is one folder here. Rendering gives [`Piece`]s rather than a string, so that text stays data: only a
//! dialect can place a special token, whatever a file or a tool prints. Reading a rendered reply gives it back.

use tools::{Call, Spec};

use crate::context::Message;
use crate::event::Refused;

pub mod hermes;

/// A part of a rendered prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// A special token by its name; plain text for a vocabulary that has no such token.
    Special(&'static str),
    /// Text, in which nothing is special.
    Text(String),
    /// Tokens as they were sampled.
    Sampled(Vec<engine::Token>),
}

/// A reply as read from its text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// The text outside the calls.
    pub text: String,
    /// The calls, their ids still empty.
    pub calls: Vec<Call>,
    /// Calls that cannot be read.
    pub refused: Vec<Refused>,
}

/// What a reply may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Free text, then none or more calls.
    Free,
    /// Free text, then a call or none.
    OneCall,
    /// A paragraph of thought, then a call.
    MustCall,
    /// A call, at once: what a model says of what it has not seen is invented.
    CallNow,
}

/// What a tool may replace: a call of `tool` on one of `files` gives as its argument `text` whole lines that stand in
/// that file, and the argument `path` names one of these files. Without files nothing is bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Quotes {
    /// The tool.
    pub tool: &'static str,
    /// The argument that names the file, the tool's first.
    pub path: &'static str,
    /// The argument that is quoted from it, the tool's second.
    pub text: &'static str,
    /// Files by their path, with their text.
    pub files: Vec<(String, String)>,
}

/// A chat format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// ChatML turns with Hermes tool calls: Qwen2.5, Hermes and many others.
    Hermes,
}

impl Dialect {
    /// The dialect of a model, by the chat template its file carries.
    pub fn of_template(template: &str) -> Option<Dialect> {
        template.contains("<|im_start|>").then_some(Dialect::Hermes)
    }

    /// The dialect of a name written by [`Dialect::name`].
    pub fn named(name: &str) -> Option<Dialect> {
        match name {
            "hermes" => Some(Dialect::Hermes),
            _ => None,
        }
    }

    /// The name that journals store.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Hermes => "hermes",
        }
    }

    /// The prompt for the next reply to a conversation. A longer conversation's prompt begins with a shorter one's,
    /// up to the reply that was sampled there.
    pub fn render(self, conversation: &[Message]) -> Vec<Piece> {
        match self {
            Dialect::Hermes => hermes::render(conversation),
        }
    }

    /// Reads a reply. `whole` is false for one that was cut off.
    pub fn parse(self, reply: &str, whole: bool) -> Parsed {
        match self {
            Dialect::Hermes => hermes::parse(reply, whole),
        }
    }

    /// The grammar of a reply of this shape, with calls that fit the tools' schemas. `special` tells which names the
    /// vocabulary has as one token.
    pub fn grammar(
        self,
        tools: &[&Spec],
        shape: Shape,
        quotes: &Quotes,
        special: impl Fn(&str) -> Option<engine::Token>,
    ) -> engine::GrammarSource {
        match self {
            Dialect::Hermes => engine::GrammarSource::Lark(hermes::grammar(tools, shape, quotes, special)),
        }
    }

    /// Where in the beginning of a reply its calls begin.
    pub fn begin(self, reply: &str) -> hermes::Begin {
        match self {
            Dialect::Hermes => hermes::begin(reply),
        }
    }
}

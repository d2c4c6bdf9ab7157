//! A reply as it is sampled: told apart into thought, text and calls before it is whole.

use super::{Dialect, Seek, Stage};

/// A piece of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Of its thought.
    Thought(String),
    /// Of its text, without marks.
    Text(String),
    /// Of its calls, as they are written.
    Call(String),
}

/// Reads a reply in pieces, of any size.
#[derive(Debug, Clone)]
pub struct Reader {
    dialect: Dialect,
    stage: Stage,
    /// What may be the beginning of a mark.
    pending: String,
}

impl Reader {
    /// A reader of a reply to a session's prompt.
    pub fn new(dialect: Dialect) -> Reader {
        Reader { dialect, stage: dialect.first(), pending: String::new() }
    }

    /// What is known with the next piece of text.
    pub fn add(&mut self, text: &str) -> Vec<Part> {
        self.pending.push_str(text);
        let mut parts = Vec::new();
        loop {
            match self.dialect.mark(self.stage, &self.pending) {
                Seek::At { at, len, next } => {
                    parts.extend(self.part(at));
                    // A call is shown with the mark it begins with.
                    if next != Stage::Call {
                        self.pending.drain(..len);
                    }
                    self.stage = next;
                }
                Seek::Perhaps(at) => {
                    parts.extend(self.part(at));
                    return parts;
                }
                Seek::No => {
                    if self.stage != Stage::Head {
                        parts.extend(self.part(self.pending.len()));
                    }
                    return parts;
                }
            }
        }
    }

    /// What was held back, when nothing comes any more.
    pub fn finish(mut self) -> Option<Part> {
        self.part(self.pending.len())
    }

    fn part(&mut self, len: usize) -> Option<Part> {
        let text: String = self.pending.drain(..len).collect();
        match self.stage {
            _ if text.is_empty() => None,
            Stage::Head => None,
            Stage::Thought => Some(Part::Thought(text)),
            Stage::Text => Some(Part::Text(text)),
            Stage::Call => Some(Part::Call(text)),
        }
    }
}

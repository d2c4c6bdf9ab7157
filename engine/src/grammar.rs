//! Token masks from a grammar.

use crate::{Error, Token, Tokenizer};

/// Where a grammar comes from.
#[derive(Clone, Debug)]
pub enum GrammarSource {
    /// A grammar in llguidance's Lark dialect.
    Lark(String),
    /// A JSON schema.
    JsonSchema(serde_json::Value),
}

/// A matcher's state. A clone is a fork.
#[derive(Clone)]
pub struct Grammar {}

impl Grammar {
    pub(crate) fn new(_source: &GrammarSource, _tokenizer: &Tokenizer) -> Result<Grammar, Error> {
        todo!()
    }

    /// The tokens that may come next as a bit set: bit `t % 32` of word `t / 32`. `None` allows all.
    #[expect(dead_code, reason = "called by the worker, which comes next")]
    pub(crate) fn mask(&mut self) -> Result<Option<&[u32]>, Error> {
        todo!()
    }

    /// Moves the matcher past `token`, which its last mask allowed.
    #[expect(dead_code, reason = "called by the timeline, which comes next")]
    pub(crate) fn commit(&mut self, _token: Token) -> Result<(), Error> {
        todo!()
    }

    /// Whether the text may end here.
    pub fn may_end(&self) -> bool {
        todo!()
    }

    /// Whether the text has ended: nothing more may follow.
    pub fn ended(&self) -> bool {
        todo!()
    }
}

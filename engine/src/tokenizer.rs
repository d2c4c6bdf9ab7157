//! Text ↔ tokens.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

use crate::{Error, Token};

/// A model's tokenizer. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {}

impl Tokenizer {
    /// The tokenizer that a GGUF file's metadata describes.
    #[expect(dead_code, reason = "called by the engine, which comes next")]
    pub(crate) fn from_gguf(_metadata: &HashMap<String, Value>) -> Result<Tokenizer, Error> {
        todo!()
    }

    /// Text to tokens. Special tokens are never recognised: text is data.
    pub fn encode(&self, _text: &str) -> Vec<Token> {
        todo!()
    }

    /// Text to tokens, recognising special tokens by their names.
    pub fn encode_with_special(&self, _text: &str) -> Vec<Token> {
        todo!()
    }

    /// The special token of this name.
    pub fn special(&self, _name: &str) -> Option<Token> {
        todo!()
    }

    /// The token's exact bytes; a special token gives its name's.
    pub fn bytes(&self, _token: Token) -> &[u8] {
        todo!()
    }

    /// Whether the token is special.
    pub fn is_special(&self, _token: Token) -> bool {
        todo!()
    }

    /// Tokens to text; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, _tokens: &[Token]) -> String {
        todo!()
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        todo!()
    }

    /// The tokens that end a reply.
    pub fn ends(&self) -> &[Token] {
        todo!()
    }
}

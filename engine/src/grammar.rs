//! Which tokens may come next, given a grammar: masks for the sampler, through `llguidance`.
//!
//! A [`Grammar`] follows one line of tokens. The engine asks it for a mask before it samples and commits the token it
//! sampled; what comes out fits the grammar whatever the model would have liked. An end token is admitted exactly
//! where the grammar may end, and nothing else is admitted where it must.
//!
//! # Writing a grammar
//!
//! [`GrammarSource::JsonSchema`] takes a schema as it is. [`GrammarSource::Lark`] takes the Lark dialect of
//! `llguidance`; these are its features worth using here:
//!
//! * `start:` is where it begins. Lower-case names are rules, upper-case names are terminals (one regular expression
//!   each). A long stretch of text must be a terminal, or every character costs a parser step.
//! * A special token is written `<[151657]>` by id, or `<|im_start|>` by name if the name stands in angle brackets.
//!   It stands in rules only, and matches nothing but that one token: text that spells its name never does. The
//!   other way round, text never admits a special token, so a reply's text cannot hold a mark of the chat format.
//! * `/(?s:.*)/` is any text. Terminals may be intersected and negated: `/(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/` is
//!   any text in which the letters `<tool_call>` do not occur. A negation alone would admit broken UTF-8, so it is
//!   always intersected with `/(?s:.*)/`.
//! * A terminal is greedy unless its rule says `[lazy]`. Greedy is right before a special token, for text cannot
//!   run over it.
//! * `%json {…}` embeds a JSON schema as a rule. Properties come in the order the schema lists them, the required ones
//!   always and the others if the model likes. `"additionalProperties": false` keeps others out.
//!   A schema that refers to itself admits values without end; [`finite`] bounds it.
//! * `"x-guidance"` at the top of an embedded schema sets the spacing. With
//!   `{"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}` JSON is spaced as Python writes
//!   it, which is what models are trained on; without it a model may dwell on blanks for ever.
//!
//! The grammar of a reply with text and any number of calls, for a model whose calls stand between the special tokens
//! 151657 and 151658:
//!
//! ```text
//! start: TEXT calls?
//! TEXT: /(?s:.*)/ & ~/(?s:.*)<\/?tool_call>(?s:.*)/
//! calls: call ("\n" call)*
//! call: <[151657]> "\n" body "\n" <[151658]>
//! body: %json {
//!   "x-guidance": {"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "},
//!   "anyOf": [
//!     {"type": "object", "additionalProperties": false, "required": ["name", "arguments"], "properties": {
//!       "name": {"const": "read"}, "arguments": {…the tool's schema…}}},
//!     …
//!   ]
//! }
//! ```

mod schema;

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{
    INVALID_TOKEN, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv,
};
use llguidance::{Matcher, ParserFactory};

pub use schema::finite;

use crate::tokenizer::{Codec, Kind, Place, Tokenizer};
use crate::{Error, Token};

/// The longest grammar that is read, in bytes of Lark text or of JSON schema. Tools of an ordinary session need some
/// ten thousand; the bound keeps a stranger's schema from occupying the compiler.
const SOURCE_BYTES_MAX: usize = 1 << 20;

/// How much the lexer may work before the first token. A grammar that holds a file of 64 KiB, of which every piece that
/// stands in it twice is taken off, needs more than the library's million.
const LEXER_FUEL: u64 = 20_000_000;

/// Sets of tokens for which the whole set is admitted at once if its pattern fits where the parser stands, instead of
/// token by token. Ordered from the narrow to the wide.
const SLICES: [&str; 4] = [
    r"[\x20\x0A\x0D\x09]+",
    r#"[^"\\\x00-\x1F\x7F]{1,10}"#,
    r#"[^"\\\x00-\x1F\x7F]{1,30}"#,
    r#"[^"\\\x00-\x1F\x7F]+"#,
];

/// A grammar as text, before it is compiled for a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSource {
    /// The Lark dialect of `llguidance`.
    Lark(String),
    /// A JSON schema: the output is one JSON value that fits it. It is made [`finite`] first.
    JsonSchema(serde_json::Value),
}

/// A grammar and the place one line of tokens has reached in it. A clone goes its own way from the same place.
pub struct Grammar {
    matcher: Matcher,
    vocabulary: usize,
    ends: Arc<[Token]>,
    may_end: bool,
    /// The mask for the next token, kept until a token is committed.
    mask: Option<SimpleVob>,
}

/// A vocabulary as grammars see it: the token trie, cut into slices. It costs some tenths of a second and is built
/// once for each vocabulary.
pub(crate) struct Matching {
    factory: ParserFactory,
    ends: Arc<[Token]>,
}

impl Grammar {
    /// Compiles `source` for the vocabulary of `tokenizer`. The first grammar of a vocabulary also builds its token
    /// trie.
    ///
    /// # Errors
    /// [`Error::Grammar`] when the source is too long, is not a grammar, or asks for what cannot be compiled; the
    /// message gives the place in the source. [`Error::Tokenizer`] when the model came without a tokenizer.
    pub fn new(source: &GrammarSource, tokenizer: &Tokenizer) -> Result<Grammar, Error> {
        let matching = tokenizer.matching()?;
        let top = match source {
            GrammarSource::Lark(text) => {
                check_length(text.len())?;
                TopLevelGrammar::from_lark(text.clone())
            }
            GrammarSource::JsonSchema(schema) => {
                check_length(schema.to_string().len())?;
                TopLevelGrammar::from_json_schema(finite(schema))
            }
        };
        let parser = matching.factory.create_parser(top).map_err(|error| Error::Grammar(plain(error)))?;
        let matcher = Matcher::new(Ok(parser));
        let mut grammar = Grammar {
            matcher,
            vocabulary: tokenizer.vocabulary(),
            ends: matching.ends.clone(),
            may_end: false,
            mask: None,
        };
        grammar.look_for_an_end()?;
        Ok(grammar)
    }

    /// Goes past `tokens`, which were sampled earlier: a reply taken up in the middle.
    ///
    /// # Errors
    /// [`Error::Grammar`] when one of them does not fit; the grammar has then gone past those before it and is of no
    /// further use.
    pub fn advance(&mut self, tokens: &[Token]) -> Result<(), Error> {
        tokens.iter().try_for_each(|&token| self.commit(token))
    }

    /// Whether the output may stop here: an end token would be admitted now.
    pub fn may_end(&self) -> bool {
        self.may_end
    }

    /// Whether the output is complete and nothing can follow but an end token.
    pub fn ended(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }

    /// The tokens that may come next: bit `t % 32` of word `t / 32` says whether token `t` may. Tokens beyond the
    /// last word may not. `None` when every token may.
    ///
    /// The answer is kept until the next commit, so asking again costs nothing.
    ///
    /// # Errors
    /// [`Error::Grammar`] when the grammar turned out too complex for its limits at this place.
    pub(crate) fn mask(&mut self) -> Result<Option<&[u32]>, Error> {
        if self.mask.is_none() {
            let mask = self.matcher.compute_mask_or_eos().map_err(|error| Error::Grammar(plain(error)))?;
            self.mask = Some(mask);
        }
        let mask = self.mask.as_ref().expect("the mask was computed just above");
        Ok((mask.num_set() < self.vocabulary).then(|| mask.as_slice()))
    }

    /// The token that must come next, if the grammar leaves no choice. The mask would admit it alone.
    pub(crate) fn forced(&mut self) -> Option<Token> {
        // What goes wrong here goes wrong again when the mask is made, and is said then.
        if self.mask.is_none() && !self.matcher.is_stopped() {
            return self.matcher.compute_ff_tokens().first().copied();
        }
        None
    }

    /// Takes `token` as the next one.
    ///
    /// # Errors
    /// [`Error::Grammar`] when the mask does not admit it, or nothing can follow any more.
    pub(crate) fn commit(&mut self, token: Token) -> Result<(), Error> {
        self.mask = None;
        if self.ended() && self.ends.contains(&token) {
            return Ok(());
        }
        self.matcher
            .consume_token(token)
            .map_err(|error| Error::Grammar(format!("token {token} does not fit here: {}", plain(error))))?;
        self.look_for_an_end()
    }

    fn look_for_an_end(&mut self) -> Result<(), Error> {
        self.may_end = if self.matcher.is_stopped() {
            self.ended()
        } else {
            self.matcher.is_accepting().map_err(|error| Error::Grammar(plain(error)))?
        };
        Ok(())
    }
}

impl Clone for Grammar {
    fn clone(&self) -> Self {
        Grammar {
            // A plain clone of the matcher would share the lexer's growing tables behind a lock.
            matcher: self.matcher.deep_clone(),
            vocabulary: self.vocabulary,
            ends: self.ends.clone(),
            may_end: self.may_end,
            mask: self.mask.clone(),
        }
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar")
            .field("may_end", &self.may_end)
            .field("ended", &self.ended())
            .finish_non_exhaustive()
    }
}

impl Matching {
    pub(crate) fn new(codec: &Arc<Codec>) -> Result<Matching, String> {
        let words: Vec<Vec<u8>> = (0..codec.count()).map(|token| word(codec, token)).collect();
        let ends: Arc<[Token]> = codec.ends().into();
        let info = TokRxInfo::new(codec.count(), ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let env: TokEnv = Arc::new(Vocabulary { codec: codec.clone(), trie });
        let slices = SLICES.map(str::to_owned);
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| format!("the vocabulary cannot be used with grammars: {error}"))?;
        factory.quiet();
        *factory.limits_mut() =
            ParserLimits { verbose_errors: false, initial_lexer_fuel: LEXER_FUEL, ..ParserLimits::default() };
        Ok(Matching { factory, ends })
    }
}

/// A token as the trie knows it: its bytes; or, for a special token, its name behind a mark that occurs in no text.
fn word(codec: &Codec, token: Token) -> Vec<u8> {
    let bytes = codec.bytes(token);
    match codec.kind(token) {
        Kind::Special => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
        // No text has a byte 0xFF, so a token that starts with it could only be mistaken for the mark.
        Kind::Text if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
        Kind::Text => bytes.to_vec(),
        Kind::Unused => Vec::new(),
    }
}

/// The vocabulary for `llguidance`: besides the trie it wants text split into tokens as the model would, so that words
/// the grammar forces come in the tokens the model knows.
struct Vocabulary {
    codec: Arc<Codec>,
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<Token> {
        let mut tokens = Vec::new();
        for chunk in bytes.utf8_chunks() {
            let text = chunk.valid();
            // What a grammar forces goes on from what was sampled. Encoding may compose characters or drop bytes
            // the vocabulary lacks; a grammar means its bytes as they are.
            let encoded = self.codec.encode(text, Place::AfterText).unwrap_or_default();
            let spelled = encoded.iter().flat_map(|&token| self.codec.bytes(token));
            if spelled.eq(text.as_bytes()) {
                tokens.extend(encoded);
            } else {
                tokens.extend(self.trie.greedy_tokenize(text.as_bytes()));
            }
            tokens.extend(self.trie.greedy_tokenize(chunk.invalid()));
        }
        tokens
    }
}

fn check_length(bytes: usize) -> Result<(), Error> {
    if bytes <= SOURCE_BYTES_MAX {
        return Ok(());
    }
    Err(Error::Grammar(format!(
        "it is {bytes} bytes long and may have {SOURCE_BYTES_MAX}; shorten the schemas"
    )))
}

/// An error of the library without the marks of its debugging output.
fn plain(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.replace("<non-verbose/>", "").trim().to_owned()
}

#[cfg(test)]
mod tests;

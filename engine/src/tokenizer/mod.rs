//! Text to tokens and back, through the `tokenizers` crate, for byte-level BPE vocabularies.
//!
//! A vocabulary comes from the metadata of a GGUF file ([`Tokenizer::from_gguf`]) or from a `tokenizer.json`
//! ([`Tokenizer::from_json`]). Two rules hold for both:
//!
//! * Text is data. [`Tokenizer::encode`] never turns text into a special token, whatever the text says, so a file
//!   that contains `<|im_end|>` cannot end a turn. Who wants the marks recognised says so with
//!   [`Tokenizer::encode_with_special`].
//! * Bytes are exact. [`Tokenizer::bytes`] gives the very bytes a token stands for, which need not be valid UTF-8:
//!   one character may be spread over several tokens.

mod gguf;
mod json;
mod pretoken;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use aho_corasick::{AhoCorasick, MatchKind};
use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::tokenizer::{Model, NormalizedString, Normalizer, PreTokenizer};
use tokenizers::{NormalizerWrapper, OffsetType, PreTokenizedString, PreTokenizerWrapper};

use crate::grammar::Matching;
use crate::{Error, Token};

/// Token names that end a reply in some chat format, whatever the file's metadata says. A model that was trained on
/// one of them and says it has finished; it would only ramble if it were asked to go on.
const END_NAMES: [&str; 8] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<｜end▁of▁sentence｜>",
];

/// A model's vocabulary: text to tokens and back.
///
/// Cloning is cheap: the clones share one vocabulary and the token trie that grammars need.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    codec: Arc<Codec>,
    /// The token trie of this vocabulary, built when the first grammar is compiled. It holds the codec, never this
    /// struct, so that the two do not keep each other alive.
    matching: OnceLock<Result<Matching, String>>,
}

/// What a token is, apart from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ordinary text.
    Text,
    /// A mark of the chat format. It has a name, and text never becomes it.
    Special,
    /// A row of the model's output that stands for nothing: padding up to a round vocabulary size.
    Unused,
}

/// The parts a source (GGUF or JSON) delivers.
pub(crate) struct Parts {
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pretokenizer: Option<PreTokenizerWrapper>,
    pub(crate) model: BPE,
    /// One entry for each id, in order: its bytes and its kind.
    pub(crate) words: Vec<(Vec<u8>, Kind)>,
    /// End tokens the source names, the most important one first.
    pub(crate) ends: Vec<Token>,
}

/// The vocabulary itself.
pub(crate) struct Codec {
    normalizer: Option<NormalizerWrapper>,
    pretokenizer: Option<PreTokenizerWrapper>,
    model: BPE,
    /// Token `t` is `data[starts[t]..starts[t + 1]]`: one allocation for the whole vocabulary.
    data: Vec<u8>,
    starts: Vec<u32>,
    kinds: Vec<Kind>,
    special: HashMap<String, Token>,
    /// Finds the names of special tokens in text; `ids` says which token each pattern is.
    finder: AhoCorasick,
    ids: Vec<Token>,
    ends: Vec<Token>,
}

impl Tokenizer {
    /// Reads the vocabulary from a GGUF file's metadata.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the metadata lacks a part, describes a kind of tokenizer other than byte-level
    /// BPE, or names a pre-tokenizer that is not known: splitting text wrongly would make the model quietly worse,
    /// so such a file is refused by name.
    pub fn from_gguf(metadata: &HashMap<String, Value>) -> Result<Tokenizer, Error> {
        gguf::parts(metadata).and_then(Codec::new).map(Tokenizer::of).map_err(Error::Tokenizer)
    }

    /// Reads the vocabulary from a `tokenizer.json`. End tokens are taken from `tokenizer_config.json` and
    /// `generation_config.json` beside it where these exist.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the file cannot be read, or is not a byte-level BPE tokenizer.
    pub fn from_json(path: &Path) -> Result<Tokenizer, Error> {
        json::parts(path)
            .and_then(Codec::new)
            .map(Tokenizer::of)
            .map_err(|why| Error::Tokenizer(format!("{}: {why}", path.display())))
    }

    fn of(codec: Codec) -> Tokenizer {
        Tokenizer { inner: Arc::new(Inner { codec: Arc::new(codec), matching: OnceLock::new() }) }
    }

    /// The tokens of `text`, read as data: the names of special tokens in it are ordinary characters.
    pub fn encode(&self, text: &str) -> Vec<Token> {
        self.inner.codec.encode(text)
    }

    /// The tokens of `text`, with the names of special tokens recognised wherever they stand. For prompts written
    /// by hand and for tests; never for text that came from somewhere else.
    pub fn encode_with_special(&self, text: &str) -> Vec<Token> {
        let codec = &self.inner.codec;
        let mut tokens = Vec::new();
        let mut from = 0;
        for found in codec.finder.find_iter(text) {
            tokens.extend(codec.encode(&text[from..found.start()]));
            tokens.push(codec.ids[found.pattern().as_usize()]);
            from = found.end();
        }
        tokens.extend(codec.encode(&text[from..]));
        tokens
    }

    /// The special token called `name`, for example `<|im_start|>`.
    pub fn special(&self, name: &str) -> Option<Token> {
        self.inner.codec.special.get(name).copied()
    }

    /// The exact bytes `token` stands for. A special token gives its name; an id outside the vocabulary, nothing.
    pub fn bytes(&self, token: Token) -> &[u8] {
        self.inner.codec.bytes(token)
    }

    /// Whether `token` is anything but ordinary text: a mark of the chat format, or a row that stands for nothing.
    pub fn is_special(&self, token: Token) -> bool {
        self.inner.codec.kind(token) != Kind::Text
    }

    /// The text of `tokens`. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[Token]) -> String {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for &token in tokens {
            bytes.extend_from_slice(self.bytes(token));
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// How many ids there are: every token is below this number.
    pub fn vocabulary(&self) -> usize {
        self.inner.codec.kinds.len()
    }

    /// The tokens that end a reply, the one the model's file names first. It may be empty.
    pub fn ends(&self) -> &[Token] {
        &self.inner.codec.ends
    }

    /// The token trie of this vocabulary; built at the first call.
    pub(crate) fn matching(&self) -> Result<&Matching, String> {
        self.inner.matching.get_or_init(|| Matching::new(&self.inner.codec)).as_ref().map_err(Clone::clone)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary", &self.vocabulary())
            .field("ends", &self.ends())
            .finish_non_exhaustive()
    }
}

impl Codec {
    fn new(parts: Parts) -> Result<Codec, String> {
        let Parts { normalizer, pretokenizer, model, words, ends } = parts;
        if words.is_empty() {
            return Err("the vocabulary is empty".into());
        }
        let count = Token::try_from(words.len()).map_err(|_| "the vocabulary has too many tokens")?;
        let size: usize = words.iter().map(|(bytes, _)| bytes.len()).sum();
        if u32::try_from(size).is_err() {
            return Err("the vocabulary holds more than 4 GiB of text".into());
        }

        let mut data = Vec::with_capacity(size);
        let mut starts = Vec::with_capacity(words.len() + 1);
        let mut kinds = Vec::with_capacity(words.len());
        let mut special = HashMap::new();
        for (token, (bytes, kind)) in (0..count).zip(&words) {
            starts.push(data.len() as u32);
            data.extend_from_slice(bytes);
            kinds.push(*kind);
            if *kind == Kind::Special
                && let Ok(name) = std::str::from_utf8(bytes)
                && !name.is_empty()
            {
                special.entry(name.to_owned()).or_insert(token);
            }
        }
        starts.push(data.len() as u32);

        let mut named: Vec<(&String, Token)> = special.iter().map(|(name, &token)| (name, token)).collect();
        named.sort_by_key(|&(_, token)| token);
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(named.iter().map(|(name, _)| name.as_bytes()))
            .map_err(|error| format!("the names of the special tokens cannot be searched for: {error}"))?;
        let ids = named.iter().map(|&(_, token)| token).collect();

        let mut all_ends = Vec::new();
        let well_known = END_NAMES.iter().filter_map(|&name| special.get(name).copied());
        for end in ends.into_iter().chain(well_known) {
            if end >= count {
                return Err(format!("end token {end} lies outside the vocabulary of {count} tokens"));
            }
            if !all_ends.contains(&end) {
                all_ends.push(end);
            }
        }

        Ok(Codec {
            normalizer,
            pretokenizer,
            model,
            data,
            starts,
            kinds,
            special,
            finder,
            ids,
            ends: all_ends,
        })
    }

    /// The tokens of `text`, read as data.
    pub(crate) fn encode(&self, text: &str) -> Vec<Token> {
        if text.is_empty() {
            return Vec::new();
        }
        self.try_encode(text).unwrap_or_else(|error| {
            // A split by a fixed pattern and a merge by a table do not fail on any text; should a later version of
            // the library find a way, text is still never lost: it is spelled byte by byte.
            tracing::error!(%error, "the tokenizer failed on a text; it is spelled byte by byte");
            let alphabet = pretoken::alphabet();
            text.bytes()
                .filter_map(|byte| self.model.token_to_id(&alphabet[usize::from(byte)].to_string()))
                .collect()
        })
    }

    fn try_encode(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let mut text = NormalizedString::from(text);
        if let Some(normalizer) = &self.normalizer {
            normalizer.normalize(&mut text)?;
        }
        let mut pieces = PreTokenizedString::from(text);
        if let Some(pretokenizer) = &self.pretokenizer {
            pretokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The exact bytes of `token`; nothing outside the vocabulary.
    pub(crate) fn bytes(&self, token: Token) -> &[u8] {
        let token = token as usize;
        match (self.starts.get(token), self.starts.get(token + 1)) {
            (Some(&from), Some(&to)) => &self.data[from as usize..to as usize],
            _ => &[],
        }
    }

    /// What `token` is; an id outside the vocabulary is unused.
    pub(crate) fn kind(&self, token: Token) -> Kind {
        self.kinds.get(token as usize).copied().unwrap_or(Kind::Unused)
    }

    /// How many ids there are.
    pub(crate) fn count(&self) -> Token {
        self.kinds.len() as Token
    }

    /// The tokens that end a reply.
    pub(crate) fn ends(&self) -> &[Token] {
        &self.ends
    }
}

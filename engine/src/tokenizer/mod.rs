//! Text to tokens and back: byte-level BPE through the `tokenizers` crate, and SentencePiece's BPE.
//!
//! A vocabulary comes from the metadata of a GGUF file ([`Tokenizer::from_gguf`]) or from a `tokenizer.json`
//! ([`Tokenizer::from_json`]). Two rules hold for both:
//!
//! * Text is data. [`Tokenizer::encode`] never turns text into a special token, whatever the text says, so a file
//!   that contains `<|im_end|>` cannot end a turn. Who wants the marks recognised says so with
//!   [`Tokenizer::encode_with_special`].
//! * Bytes are exact. [`Tokenizer::bytes`] gives the very bytes a token stands for, which need not be valid UTF-8:
//!   one character may be spread over several tokens.
//!
//! # Vocabularies in SentencePiece's style
//!
//! They write a blank as `▁`, fall back to single bytes for characters that are no piece, and many put a blank before
//! the text, so that its first word is the same token as it would be further on. Where that blank stands depends on
//! what is on the line already, which is why [`Tokenizer::encode_after`] is told. A GGUF file that asks for it gets it
//! at the start of a line and after every special token, as llama.cpp does it; a `tokenizer.json` says itself whether
//! it stands at the start only. The blank is a real one: it is among the bytes of the first token, and
//! [`Tokenizer::decode`] gives it back. A `▁` that was in the text comes back as a blank, as it does from SentencePiece.

mod found;
mod gguf;
mod json;
mod merges;
mod pieces;
mod pretoken;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use candle_core::quantized::gguf_file::Value;

use self::found::Finder;
use self::merges::Merges;
use self::pieces::Pieces;
use crate::grammar::Matching;
use crate::{Error, Token};

/// Token names that end a reply in some chat format, whatever the file's metadata says. A model that was trained on
/// one of them and says it has finished; it would only ramble if it were asked to go on.
const END_NAMES: [&str; 11] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
];

/// Why a model without a tokenizer can be given no text.
const ABSENT: &str = "this model came without a tokenizer, so it takes and gives nothing but token ids; put its \
                      tokenizer.json beside its config.json and open it again";

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

/// What stands before a text on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing.
    Start,
    /// A special token.
    AfterMark,
    /// Text, which this text continues.
    AfterText,
}

/// How text becomes tokens.
enum Method {
    Merges(Box<Merges>),
    Pieces(Pieces),
    /// Not at all: the model came without a tokenizer.
    Absent,
}

/// One entry for each id, in order: its bytes and its kind.
type Words = Vec<(Vec<u8>, Kind)>;

/// The parts a source (GGUF or JSON) delivers.
struct Parts {
    method: Method,
    words: Words,
    /// End tokens the source names, the most important one first.
    ends: Vec<Token>,
}

/// The vocabulary itself.
pub(crate) struct Codec {
    method: Method,
    /// Token `t` is `data[starts[t]..starts[t + 1]]`: one allocation for the whole vocabulary.
    data: Vec<u8>,
    starts: Vec<u32>,
    kinds: Vec<Kind>,
    special: HashMap<String, Token>,
    /// Finds the names of special tokens in text.
    finder: Option<Finder>,
    ends: Vec<Token>,
}

impl Tokenizer {
    /// Reads the vocabulary from a GGUF file's metadata.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the metadata lacks a part, describes a kind of tokenizer other than byte-level
    /// BPE (`gpt2`) and SentencePiece's BPE (`llama`), or names a pre-tokenizer that is not known: splitting text
    /// wrongly would make the model quietly worse, so such a file is refused by name.
    pub fn from_gguf(metadata: &HashMap<String, Value>) -> Result<Tokenizer, Error> {
        gguf::parts(metadata).and_then(Codec::new).map(Tokenizer::of).map_err(Error::Tokenizer)
    }

    /// Reads the vocabulary from a `tokenizer.json`. End tokens are taken from `tokenizer_config.json` and
    /// `generation_config.json` beside it where these exist.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the file cannot be read, or is neither a byte-level BPE tokenizer nor one in
    /// SentencePiece's style.
    pub fn from_json(path: &Path) -> Result<Tokenizer, Error> {
        json::parts(path)
            .and_then(Codec::new)
            .map(Tokenizer::of)
            .map_err(|why| Error::Tokenizer(format!("{}: {why}", path.display())))
    }

    /// The tokenizer of a model that came with none: a folder of weights alone. Of the `vocabulary` ids each is unused
    /// and stands for no bytes, no token ends a reply, and every text is refused with [`Error::Tokenizer`], and so is
    /// every grammar. The model itself can still be run on token ids.
    pub fn absent(vocabulary: usize) -> Tokenizer {
        Tokenizer::of(Codec {
            method: Method::Absent,
            data: Vec::new(),
            starts: Vec::new(),
            kinds: vec![Kind::Unused; vocabulary],
            special: HashMap::new(),
            finder: None,
            ends: Vec::new(),
        })
    }

    /// Whether the model came without a tokenizer, so that it can be given no text.
    pub fn is_absent(&self) -> bool {
        matches!(self.inner.codec.method, Method::Absent)
    }

    fn of(codec: Codec) -> Tokenizer {
        Tokenizer { inner: Arc::new(Inner { codec: Arc::new(codec), matching: OnceLock::new() }) }
    }

    /// The tokens of `text` at the start of a line, read as data: the names of special tokens in it are ordinary
    /// characters.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the model came without a tokenizer and the text is not empty. No text is refused
    /// by a tokenizer that is there.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>, Error> {
        self.encode_after(&[], text)
    }

    /// The tokens of `text` behind those of `line`, read as data. It matters to vocabularies that put a blank before
    /// a text: none belongs where a text goes on.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_after(&self, line: &[Token], text: &str) -> Result<Vec<Token>, Error> {
        let codec = &self.inner.codec;
        codec.encode(text, codec.place(line)).map_err(Error::Tokenizer)
    }

    /// The tokens of `text`, with the names of special tokens recognised wherever they stand. For prompts written
    /// by hand and for tests; never for text that came from somewhere else.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<Token>, Error> {
        let Some(finder) = &self.inner.codec.finder else { return self.encode(text) };
        let mut tokens = Vec::new();
        for (range, found) in finder.stretches(text) {
            match found {
                Some(token) => tokens.push(token),
                None => tokens.extend(self.encode_after(&tokens, &text[range])?),
            }
        }
        Ok(tokens)
    }

    /// The special token called `name`, for example `<|im_start|>`.
    pub fn special(&self, name: &str) -> Option<Token> {
        self.inner.codec.special.get(name).copied()
    }

    /// The exact bytes `token` stands for. A special token gives its name; an id outside the vocabulary, nothing.
    pub fn bytes(&self, token: Token) -> &[u8] {
        self.inner.codec.bytes(token)
    }

    /// `token` as a byte-level vocabulary spells it: a printable character for each byte.
    pub(crate) fn spelling(&self, token: Token) -> String {
        self.bytes(token).iter().map(|&byte| pretoken::alphabet()[usize::from(byte)]).collect()
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

    /// The first token that stands for something in both vocabularies, and not for the same. Models of one family differ in how
    /// many rows there are that stand for nothing.
    pub(crate) fn differs(&self, other: &Tokenizer) -> Option<Token> {
        if self.is_absent() != other.is_absent() {
            return Some(0);
        }
        let kinds = |token: Token| [self, other].map(|own| own.inner.codec.kind(token));
        let both = self.vocabulary().min(other.vocabulary()) as Token;
        (0..both).find(|&token| {
            let [kind, others] = kinds(token);
            let used = kind != Kind::Unused && others != Kind::Unused;
            used && (kind != others || self.bytes(token) != other.bytes(token))
        })
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
    pub(crate) fn matching(&self) -> Result<&Matching, Error> {
        if self.is_absent() {
            return Err(Error::Tokenizer(ABSENT.into()));
        }
        let matching = self.inner.matching.get_or_init(|| Matching::new(&self.inner.codec));
        matching.as_ref().map_err(|why| Error::Grammar(why.clone()))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary", &self.vocabulary())
            .field("ends", &self.ends())
            .field("absent", &self.is_absent())
            .finish_non_exhaustive()
    }
}

impl Codec {
    fn new(parts: Parts) -> Result<Codec, String> {
        let Parts { method, words, ends } = parts;
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
        let finder = Finder::new(&named)?;

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

        Ok(Codec { method, data, starts, kinds, special, finder, ends: all_ends })
    }

    /// The tokens of `text`, read as data.
    pub(crate) fn encode(&self, text: &str, place: Place) -> Result<Vec<Token>, String> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        match &self.method {
            Method::Merges(merges) => merges
                .encode(text, place)
                .map_err(|error| format!("a text cannot be cut into tokens: {error}")),
            Method::Pieces(pieces) => Ok(pieces.encode(text, place)),
            Method::Absent => Err(ABSENT.into()),
        }
    }

    /// What a text behind `line` comes after.
    fn place(&self, line: &[Token]) -> Place {
        match line.last().map(|&token| self.kind(token)) {
            None => Place::Start,
            Some(Kind::Text) => Place::AfterText,
            Some(Kind::Special | Kind::Unused) => Place::AfterMark,
        }
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

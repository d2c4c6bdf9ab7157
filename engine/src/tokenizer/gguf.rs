//! A vocabulary from the metadata of a GGUF file.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::{BPE, Vocab};

use super::found::{Finder, is_text};
use super::merges::{Merges, Steps};
use super::pieces::{self, Pieces};
use super::pretoken::{Recipe, spelled};
use super::{Kind, Method, Parts, Words};
use crate::Token;

/// The keys of end tokens, the most important one first.
const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Words that came up in text often enough to be kept ready after they were merged once.
const MERGED_WORDS_KEPT: usize = 10_000;

pub(super) fn parts(metadata: &HashMap<String, Value>) -> Result<Parts, String> {
    let (method, words) = match string(metadata, "tokenizer.ggml.model")? {
        "gpt2" => merges(metadata)?,
        "llama" => pieces(metadata)?,
        other => {
            return Err(format!(
                "the file's tokenizer is of the kind {other:?}; supported are byte-level BPE (\"gpt2\") and \
                 SentencePiece's BPE (\"llama\"). Choose a model from `saga model list`"
            ));
        }
    };
    let mut ends = Vec::new();
    for key in END_KEYS {
        ends.extend(id(metadata, key)?);
    }
    Ok(Parts { method, words, ends })
}

/// A byte-level vocabulary with its merges.
fn merges(metadata: &HashMap<String, Value>) -> Result<(Method, Words), String> {
    let recipe = match metadata.get("tokenizer.ggml.pre") {
        Some(_) => Recipe::named(string(metadata, "tokenizer.ggml.pre")?)?,
        None => {
            return Err("the metadata has no `tokenizer.ggml.pre`, so nobody can say how text is to be cut into \
                        words; the file was made by a converter of before 2024. Get a newer file of this model"
                .into());
        }
    };

    let entries = strings(metadata, "tokenizer.ggml.tokens")?;
    let kinds = kinds(metadata, &entries)?;
    let merges = strings(metadata, "tokenizer.ggml.merges")?;

    let mut words = Vec::with_capacity(entries.len());
    let mut vocabulary = Vocab::with_capacity(entries.len());
    let mut found = Vec::new();
    for (token, (&entry, &kind)) in (0..).zip(entries.iter().zip(&kinds)) {
        let word = match kind {
            // A single byte is spelled like text.
            EntryKind::Text | EntryKind::Byte => {
                vocabulary.entry(entry.to_owned()).or_insert(token);
                (spelled(entry), Kind::Text)
            }
            EntryKind::Found => {
                found.push((entry, token));
                (entry.into(), Kind::Text)
            }
            EntryKind::Mark => (entry.into(), Kind::Special),
            EntryKind::Unused => (entry.into(), Kind::Unused),
        };
        words.push(word);
    }

    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        let (left, right) = merge.split_once(' ').ok_or_else(|| {
            format!("the merge {merge:?} in the metadata is not two words with a blank between")
        })?;
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, pairs)
        .ignore_merges(recipe.whole_words)
        .cache_capacity(MERGED_WORDS_KEPT)
        .build()
        .map_err(|error| format!("the merges do not fit the vocabulary: {error}"))?;
    let steps = Steps { normalizer: recipe.normalizer(), pretokenizer: Some(recipe.pretokenizer()?) };
    let found = [Finder::new(&found)?, None];
    let merges = Merges { model, steps, bare: None, marks_start_lines: true, found };
    Ok((Method::Merges(Box::new(merges)), words))
}

/// A vocabulary of SentencePiece's, with a score for each piece.
fn pieces(metadata: &HashMap<String, Value>) -> Result<(Method, Words), String> {
    const SCORES: &str = "tokenizer.ggml.scores";
    const TABLE: &str = "tokenizer.ggml.precompiled_charsmap";
    if metadata.get(TABLE).is_some_and(|table| !matches!(table, Value::Array(bytes) if bytes.is_empty())) {
        return Err(format!("it changes text by a table, `{TABLE}`, which is not supported yet"));
    }
    let entries = strings(metadata, "tokenizer.ggml.tokens")?;
    value(metadata, TYPES)?;
    let kinds = kinds(metadata, &entries)?;
    let scores = array(metadata, SCORES)?;
    if scores.len() != entries.len() {
        return Err(format!("there are {} tokens but {} scores of tokens", entries.len(), scores.len()));
    }
    let unknown = match id(metadata, "tokenizer.ggml.unknown_token_id")? {
        Some(unknown) if unknown as usize >= entries.len() => {
            return Err(format!("the unknown token {unknown} lies outside the vocabulary"));
        }
        named => named,
    };

    let mut words = Vec::with_capacity(entries.len());
    let mut joined = HashMap::with_capacity(entries.len());
    let mut bytes = Box::new([None; 256]);
    let mut found = Vec::new();
    for (token, ((&entry, &kind), score)) in (0..).zip(entries.iter().zip(&kinds).zip(scores)) {
        let score = match score.to_f32() {
            // Minus zero is zero, so that equal scores are equal.
            Ok(score) if !score.is_nan() => score + 0.0,
            _ => return Err(format!("the score of token {token}, {entry:?}, is not a number")),
        };
        let word = match kind {
            _ if Some(token) == unknown => (entry.into(), Kind::Special),
            EntryKind::Text => {
                joined.entry(entry.to_owned()).or_insert((token, score));
                (pieces::spelled(entry), Kind::Text)
            }
            EntryKind::Found => {
                // Converters write its blanks as blanks.
                let piece = entry.replace(' ', pieces::BLANK);
                found.push((piece.clone(), token));
                let word = pieces::spelled(&piece);
                joined.entry(piece).or_insert((token, score));
                (word, Kind::Text)
            }
            EntryKind::Byte => {
                let byte = pieces::byte(entry)
                    .ok_or_else(|| format!("token {token}, {entry:?}, is said to be a byte, and is none"))?;
                bytes[usize::from(byte)].get_or_insert(token);
                (vec![byte], Kind::Text)
            }
            EntryKind::Mark => (entry.into(), Kind::Special),
            EntryKind::Unused => (entry.into(), Kind::Unused),
        };
        words.push(word);
    }
    if unknown.is_none() && bytes.iter().any(Option::is_none) {
        return Err(
            "it has neither a token for every byte nor one for unknown characters, so that not every text \
                    can be told to the model; the file is incomplete"
                .into(),
        );
    }
    let pieces = Pieces {
        joined,
        found: Finder::new(&found)?,
        bytes,
        unknown,
        prefix: flag(metadata, "tokenizer.ggml.add_space_prefix", true)?,
        collapse: flag(metadata, "tokenizer.ggml.remove_extra_whitespaces", false)?,
    };
    Ok((Method::Pieces(pieces), words))
}

/// What the file says a token is.
#[derive(Clone, Copy)]
enum EntryKind {
    /// Text is merged to it.
    Text,
    /// Text that its makers added, to be found before anything is merged.
    Found,
    /// A single byte.
    Byte,
    /// A mark of the chat format.
    Mark,
    /// It stands for nothing.
    Unused,
}

const TYPES: &str = "tokenizer.ggml.token_type";

/// What each token is. A file without types has text only.
fn kinds(metadata: &HashMap<String, Value>, entries: &[&str]) -> Result<Vec<EntryKind>, String> {
    let tokens = entries.len();
    if !metadata.contains_key(TYPES) {
        return Ok(vec![EntryKind::Text; tokens]);
    }
    let types = array(metadata, TYPES)?;
    if types.len() != tokens {
        return Err(format!("there are {tokens} tokens but {} types of tokens", types.len()));
    }
    types
        .iter()
        .zip(entries)
        .map(|(value, entry)| {
            let number = value.to_i32().ok().or_else(|| value.to_u32().ok().and_then(|n| n.try_into().ok()));
            match number {
                Some(1) => Ok(EntryKind::Text),
                Some(4) if is_text(entry) => Ok(EntryKind::Found),
                // 2 is the unknown token, 3 a control token and 4 one the model's makers added.
                Some(2..=4) => Ok(EntryKind::Mark),
                Some(5) => Ok(EntryKind::Unused),
                Some(6) => Ok(EntryKind::Byte),
                _ => Err(format!("the metadata gives a token the type {value:?}, which does not exist")),
            }
        })
        .collect()
}

fn id(metadata: &HashMap<String, Value>, key: &str) -> Result<Option<Token>, String> {
    let id = metadata.get(key).map(|value| value.to_u32().map_err(|_| format!("`{key}` is not a token id")));
    id.transpose()
}

fn flag(metadata: &HashMap<String, Value>, key: &str, otherwise: bool) -> Result<bool, String> {
    metadata.get(key).map_or(Ok(otherwise), |value| {
        value.to_bool().map_err(|_| format!("`{key}` in the metadata is neither true nor false"))
    })
}

fn value<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Result<&'a Value, String> {
    metadata.get(key).ok_or_else(|| format!("the metadata lacks `{key}`; the file is incomplete"))
}

fn string<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Result<&'a str, String> {
    match value(metadata, key)? {
        Value::String(text) => Ok(text),
        _ => Err(format!("`{key}` in the metadata is not a text")),
    }
}

fn array<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Result<&'a [Value], String> {
    match value(metadata, key)? {
        Value::Array(values) => Ok(values),
        _ => Err(format!("`{key}` in the metadata is not a list")),
    }
}

fn strings<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Result<Vec<&'a str>, String> {
    array(metadata, key)?
        .iter()
        .map(|value| match value {
            Value::String(text) => Ok(text.as_str()),
            _ => Err(format!("`{key}` in the metadata holds something that is not a text")),
        })
        .collect()
}

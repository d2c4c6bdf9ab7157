//! A vocabulary from the metadata of a GGUF file.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::{BPE, Vocab};

use super::pretoken::{Recipe, spelled};
use super::{Kind, Parts};

/// The keys of end tokens, the most important one first.
const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Words that came up in text often enough to be kept ready after they were merged once.
const MERGED_WORDS_KEPT: usize = 10_000;

pub(super) fn parts(metadata: &HashMap<String, Value>) -> Result<Parts, String> {
    let model = string(metadata, "tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(format!(
            "the file's tokenizer is of the kind {model:?}; only byte-level BPE (\"gpt2\") is supported yet. Choose \
             a model from `saga model list`"
        ));
    }
    let recipe = match metadata.get("tokenizer.ggml.pre") {
        Some(_) => Recipe::named(string(metadata, "tokenizer.ggml.pre")?)?,
        None => {
            return Err("the metadata has no `tokenizer.ggml.pre`, so nobody can say how text is to be cut into \
                        words; the file was made by a converter of before 2024. Get a newer file of this model"
                .into());
        }
    };

    let entries = strings(metadata, "tokenizer.ggml.tokens")?;
    let kinds = kinds(metadata, entries.len())?;
    let merges = strings(metadata, "tokenizer.ggml.merges")?;

    let mut words = Vec::with_capacity(entries.len());
    let mut vocabulary = Vocab::with_capacity(entries.len());
    for (token, (&entry, &kind)) in (0..).zip(entries.iter().zip(&kinds)) {
        let bytes = match kind {
            Kind::Text => {
                vocabulary.entry(entry.to_owned()).or_insert(token);
                spelled(entry)
            }
            Kind::Special | Kind::Unused => entry.as_bytes().to_vec(),
        };
        words.push((bytes, kind));
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

    let mut ends = Vec::new();
    for key in END_KEYS {
        if let Some(value) = metadata.get(key) {
            ends.push(value.to_u32().map_err(|_| format!("`{key}` is not a token id"))?);
        }
    }
    Ok(Parts {
        normalizer: recipe.normalizer(),
        pretokenizer: Some(recipe.pretokenizer()?),
        model,
        words,
        ends,
    })
}

/// What each token is. A file without types has text only.
fn kinds(metadata: &HashMap<String, Value>, tokens: usize) -> Result<Vec<Kind>, String> {
    const KEY: &str = "tokenizer.ggml.token_type";
    if !metadata.contains_key(KEY) {
        return Ok(vec![Kind::Text; tokens]);
    }
    let types = array(metadata, KEY)?;
    if types.len() != tokens {
        return Err(format!("there are {tokens} tokens but {} types of tokens", types.len()));
    }
    types
        .iter()
        .map(|value| {
            let number = value.to_i32().ok().or_else(|| value.to_u32().ok().and_then(|n| n.try_into().ok()));
            match number {
                // 1 is text and 6 a single byte, spelled like text. 2 is the unknown token, 3 a control token and 4
                // one the model's makers added. 5 stands for nothing.
                Some(1 | 6) => Ok(Kind::Text),
                Some(2..=4) => Ok(Kind::Special),
                Some(5) => Ok(Kind::Unused),
                _ => Err(format!("the metadata gives a token the type {value:?}, which does not exist")),
            }
        })
        .collect()
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

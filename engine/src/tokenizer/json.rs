//! A vocabulary from a `tokenizer.json`, the format of the `tokenizers` library.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::tokenizer::{NormalizedString, Normalizer};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::found::{Finder, is_text};
use super::merges::{Merges, Steps};
use super::pieces::{self, BLANK};
use super::pretoken::spelled;
use super::{Kind, Method, Parts, Words};
use crate::Token;

/// A vocabulary is at most this long. Ids far beyond the number of entries would make a small file ask for gigabytes.
const TOKENS_MAX: usize = 4_000_000;

#[derive(Deserialize)]
struct Added {
    id: Token,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

/// How the entries of a vocabulary spell bytes.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    /// A character for each byte, as GPT-2 has it.
    ByteLevel,
    /// Text with marks for its blanks, and perhaps a token for each byte, as SentencePiece has it.
    Pieces,
}

pub(super) fn parts(path: &Path) -> Result<Parts, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut root: Value =
        serde_json::from_str(&text).map_err(|error| format!("it is not a tokenizer.json: {error}"))?;

    let no_model = "it is not a tokenizer.json: it has no model";
    let root = root.as_object_mut().ok_or(no_model)?;
    let mut take = |key: &str| root.get_mut(key).map(Value::take).unwrap_or_default();

    let mut model = take("model");
    // The crate reads a vocabulary without its kind, which is checked here.
    match model.as_object_mut().and_then(|model| model.remove("type")).as_ref().and_then(Value::as_str) {
        Some("BPE") => {}
        Some(other) => {
            return Err(format!("its tokenizer is of the kind {other:?}; only BPE is supported yet"));
        }
        None => return Err(no_model.into()),
    }
    let (normalizer, pretokenizer) = (take("normalizer"), take("pre_tokenizer"));
    let spelling = if any_step(&pretokenizer, &|step| step["type"] == "ByteLevel") {
        Spelling::ByteLevel
    } else if any_step(&normalizer, &marks_blanks) || any_step(&pretokenizer, &marks_blanks) {
        Spelling::Pieces
    } else {
        return Err(
            "neither its pre-tokenizer spells text in bytes nor does it write blanks as \"▁\"; only \
                    byte-level BPE and SentencePiece's are supported yet"
                .into(),
        );
    };
    let added: Vec<Added> = match take("added_tokens") {
        Value::Null => Vec::new(),
        list => serde_json::from_value(list)
            .map_err(|error| format!("its added tokens cannot be read: {error}"))?,
    };

    let words = words(&model, &added, spelling)?;
    let first = any_step(&pretokenizer, &|step| step["prepend_scheme"] == "first");
    let (bare_normalizer, bare_pretokenizer) = (without_prefix(&normalizer), without_prefix(&pretokenizer));
    let same = bare_normalizer == normalizer && bare_pretokenizer == pretokenizer;
    let bare = if same { None } else { Some(steps(bare_normalizer, bare_pretokenizer)?) };
    let steps = steps(normalizer, pretokenizer)?;
    let found = found(&added, &steps)?;
    let model = merging(model, &added)?;
    let ends = ends(path, &added);
    let merges = Merges { model, steps, bare, marks_start_lines: !first, found };
    Ok(Parts { method: Method::Merges(Box::new(merges)), words, ends })
}

impl Added {
    /// Whether it is text and no mark.
    fn is_text(&self) -> bool {
        let bound = self.single_word || self.lstrip || self.rstrip;
        !self.special && !bound && is_text(&self.content)
    }
}

fn steps(normalizer: Value, pretokenizer: Value) -> Result<Steps, String> {
    let normalizer: Option<NormalizerWrapper> = serde_json::from_value(normalizer)
        .map_err(|error| format!("its normalizer cannot be used: {error}"))?;
    let pretokenizer: Option<PreTokenizerWrapper> = serde_json::from_value(pretokenizer)
        .map_err(|error| format!("its pre-tokenizer cannot be used: {error}"))?;
    Ok(Steps { normalizer, pretokenizer })
}

/// Whether a normalizer or a pre-tokenizer, or one of the steps it is made of, is `wanted`.
fn any_step(step: &Value, wanted: &dyn Fn(&Value) -> bool) -> bool {
    let inner = ["normalizers", "pretokenizers"].iter().filter_map(|key| step[key].as_array()).flatten();
    wanted(step) || inner.into_iter().any(|step| any_step(step, wanted))
}

/// Whether a step writes blanks as pieces do.
fn marks_blanks(step: &Value) -> bool {
    match step["type"].as_str() {
        Some("Metaspace") => step["replacement"] == BLANK,
        Some("Replace") => step["pattern"]["String"] == " " && step["content"] == BLANK,
        _ => false,
    }
}

/// The same step without the blank it puts before text.
fn without_prefix(step: &Value) -> Value {
    let mut step = step.clone();
    match step["type"].as_str() {
        Some("Prepend") => return Value::Null,
        Some("Metaspace") => {
            step["prepend_scheme"] = "never".into();
            step["add_prefix_space"] = false.into();
        }
        Some("ByteLevel") => step["add_prefix_space"] = false.into(),
        _ => {}
    }
    for key in ["normalizers", "pretokenizers"] {
        if let Some(steps) = step.get_mut(key).and_then(Value::as_array_mut) {
            *steps = steps.iter().map(without_prefix).filter(|step| !step.is_null()).collect();
        }
    }
    step
}

/// The added tokens that are text: those looked for in text as it is, and those in text as it was normalized.
fn found(added: &[Added], steps: &Steps) -> Result<[Option<Finder>; 2], String> {
    let (mut raw, mut normalized) = (Vec::new(), Vec::new());
    for token in added.iter().filter(|token| token.is_text()) {
        if !token.normalized {
            raw.push((token.content.clone(), token.id));
            continue;
        }
        let mut name = NormalizedString::from(token.content.as_str());
        if let Some(normalizer) = &steps.normalizer {
            normalizer
                .normalize(&mut name)
                .map_err(|error| format!("its added token {:?} cannot be used: {error}", token.content))?;
        }
        if !name.is_empty() {
            normalized.push((name.get().to_owned(), token.id));
        }
    }
    Ok([Finder::new(&raw)?, Finder::new(&normalized)?])
}

/// The vocabulary with its merges, in a form in which no text is merged to a mark.
fn merging(mut model: Value, added: &[Added]) -> Result<BPE, String> {
    const UNKNOWN: &str = "unk_token";
    let unknown = model[UNKNOWN].as_str().map(str::to_owned);
    let marks: HashSet<&str> = (added.iter().filter(|token| !token.is_text()))
        .map(|token| token.content.as_str())
        .chain(unknown.as_deref())
        .collect();
    if let Some(merges) = model["merges"].as_array_mut() {
        merges.retain(|merge| {
            let (left, right) = match merge {
                Value::String(merge) => merge.split_once(' ').unwrap_or_default(),
                pair => (pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default()),
            };
            ![left, right, &[left, right].concat()].iter().any(|word| marks.contains(*word))
        });
    }
    if let Some(vocabulary) = model["vocab"].as_object_mut() {
        let unknown = unknown.as_deref().and_then(|unknown| vocabulary.remove(unknown));
        vocabulary.retain(|word, _| !marks.contains(word.as_str()));
        // The unknown token is called by the name that no text has.
        if let Some(unknown) = unknown {
            vocabulary.insert(String::new(), unknown);
            model[UNKNOWN] = "".into();
        }
    }
    // What is told to a model is not left to chance.
    model["dropout"] = Value::Null;
    serde_json::from_value(model).map_err(|error| format!("its vocabulary cannot be used: {error}"))
}

fn words(model: &Value, added: &[Added], spelling: Spelling) -> Result<Words, String> {
    let no_vocabulary = "its vocabulary cannot be used: it has none";
    let entries = model["vocab"].as_object().ok_or(no_vocabulary)?;
    let fallback = model["byte_fallback"] == true;
    let unknown = model["unk_token"].as_str();
    let mut ids = Vec::with_capacity(entries.len());
    for (entry, id) in entries {
        let id = id.as_u64().and_then(|id| Token::try_from(id).ok());
        ids.push((entry, id.ok_or_else(|| format!("its token {entry:?} has no id"))?));
    }
    let last = ids.iter().map(|&(_, id)| id).chain(added.iter().map(|token| token.id)).max();
    let count = last.map_or(0, |last| last as usize + 1);
    if count > TOKENS_MAX {
        return Err(format!("its highest token id is {}, which is more than any model has", count - 1));
    }
    let mut words = vec![(Vec::new(), Kind::Unused); count];
    for (entry, token) in ids {
        words[token as usize] = match (spelling, pieces::byte(entry)) {
            _ if Some(entry.as_str()) == unknown => (entry.clone().into_bytes(), Kind::Special),
            (Spelling::ByteLevel, _) => (spelled(entry), Kind::Text),
            (Spelling::Pieces, Some(byte)) if fallback => (vec![byte], Kind::Text),
            (Spelling::Pieces, _) => (pieces::spelled(entry), Kind::Text),
        };
    }
    for token in added {
        words[token.id as usize] = match spelling {
            _ if !token.is_text() => (token.content.clone().into_bytes(), Kind::Special),
            Spelling::ByteLevel => (token.content.clone().into_bytes(), Kind::Text),
            Spelling::Pieces => (pieces::spelled(&token.content), Kind::Text),
        };
    }
    Ok(words)
}

/// The end tokens the files beside a `tokenizer.json` name. Both files are optional; a damaged one is as good as none,
/// because the well-known names are looked for in any case.
fn ends(path: &Path, added: &[Added]) -> Vec<Token> {
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(path.with_file_name(name)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    let mut ends = Vec::new();

    let tokenizer = read("tokenizer_config.json");
    let named = &tokenizer["eos_token"];
    if let Some(name) = named.as_str().or_else(|| named["content"].as_str()) {
        ends.extend(added.iter().find(|token| token.content == name).map(|token| token.id));
    }

    let generation = read("generation_config.json");
    let ids = match &generation["eos_token_id"] {
        Value::Array(ids) => ids.clone(),
        one => vec![one.clone()],
    };
    ends.extend(ids.iter().filter_map(Value::as_u64).filter_map(|id| Token::try_from(id).ok()));
    ends
}

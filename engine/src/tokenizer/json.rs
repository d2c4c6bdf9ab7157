//! A vocabulary from a `tokenizer.json`, the format of the `tokenizers` library.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::pretoken::spelled;
use super::{Kind, Parts};
use crate::Token;

/// A vocabulary is at most this long. Ids far beyond the number of entries would make a small file ask for gigabytes.
const TOKENS_MAX: usize = 4_000_000;

#[derive(Deserialize)]
struct Added {
    id: Token,
    content: String,
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
            return Err(format!(
                "its tokenizer is of the kind {other:?}; only byte-level BPE is supported yet"
            ));
        }
        None => return Err(no_model.into()),
    }
    let pretokenizer = take("pre_tokenizer");
    if !mentions_byte_level(&pretokenizer) {
        return Err(
            "its pre-tokenizer does not spell text in bytes; only byte-level BPE is supported yet".into()
        );
    }
    let normalizer: Option<NormalizerWrapper> = serde_json::from_value(take("normalizer"))
        .map_err(|error| format!("its normalizer cannot be used: {error}"))?;
    let pretokenizer: PreTokenizerWrapper = serde_json::from_value(pretokenizer)
        .map_err(|error| format!("its pre-tokenizer cannot be used: {error}"))?;
    let added: Vec<Added> = match take("added_tokens") {
        Value::Null => Vec::new(),
        list => serde_json::from_value(list)
            .map_err(|error| format!("its added tokens cannot be read: {error}"))?,
    };
    let model: BPE =
        serde_json::from_value(model).map_err(|error| format!("its vocabulary cannot be used: {error}"))?;

    let words = words(&model, &added)?;
    let ends = ends(path, &added);
    Ok(Parts { normalizer, pretokenizer: Some(pretokenizer), model, words, ends })
}

fn words(model: &BPE, added: &[Added]) -> Result<Vec<(Vec<u8>, Kind)>, String> {
    let entries = model.get_vocab();
    let last = entries.values().copied().chain(added.iter().map(|token| token.id)).max();
    let count = last.map_or(0, |last| last as usize + 1);
    if count > TOKENS_MAX {
        return Err(format!("its highest token id is {}, which is more than any model has", count - 1));
    }
    let mut words = vec![(Vec::new(), Kind::Unused); count];
    for (entry, token) in &entries {
        words[*token as usize] = (spelled(entry), Kind::Text);
    }
    for token in added {
        words[token.id as usize] = (token.content.clone().into_bytes(), Kind::Special);
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

fn mentions_byte_level(pretokenizer: &Value) -> bool {
    match pretokenizer["type"].as_str() {
        Some("ByteLevel") => true,
        Some("Sequence") => match &pretokenizer["pretokenizers"] {
            Value::Array(steps) => steps.iter().any(mentions_byte_level),
            _ => false,
        },
        _ => false,
    }
}

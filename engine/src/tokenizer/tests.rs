use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer");

/// Every recipe, by one of its names.
const PRES: [&str; 8] = ["qwen2", "qwen35", "smollm", "llama-bpe", "gpt-2", "gpt-4o", "glm4", "deepseek-v3"];

const SPECIAL: [(&str, i32); 5] =
    [("<|endoftext|>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3), ("<tool_call>", 4), ("</tool_call>", 4)];

fn fixture(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(Path::new(FIXTURES).join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn corpus() -> Vec<String> {
    serde_json::from_value(fixture("corpus.json")).unwrap()
}

/// A vocabulary of the 256 bytes and SmolLM2's first merges, as a GGUF file would describe it. Behind the words come
/// five special tokens and an unused one.
pub(crate) fn tiny_metadata(pre: &str) -> HashMap<String, Value> {
    let merges: Vec<String> = serde_json::from_value(fixture("tiny.json")["merges"].take()).unwrap();
    let mut tokens: Vec<String> = pretoken::alphabet().iter().map(char::to_string).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    for (name, kind) in SPECIAL {
        tokens.push(name.to_owned());
        types.push(kind);
    }
    tokens.push("[PAD0]".to_owned());
    types.push(5);

    let words = tokens.len() as u32 - 6;
    let texts = |list: Vec<String>| Value::Array(list.into_iter().map(Value::String).collect());
    HashMap::from([
        ("tokenizer.ggml.model".into(), Value::String("gpt2".into())),
        ("tokenizer.ggml.pre".into(), Value::String(pre.into())),
        ("tokenizer.ggml.tokens".into(), texts(tokens)),
        ("tokenizer.ggml.merges".into(), texts(merges)),
        ("tokenizer.ggml.token_type".into(), Value::Array(types.into_iter().map(Value::I32).collect())),
        ("tokenizer.ggml.eos_token_id".into(), Value::U32(words + 2)),
    ])
}

pub(crate) fn tiny() -> Tokenizer {
    Tokenizer::from_gguf(&tiny_metadata("qwen2")).unwrap()
}

/// The vocabulary of the model the environment names, if it names one.
pub(crate) fn real() -> Option<Tokenizer> {
    let path = std::env::var_os("SAGA_TEST_MODEL")?;
    let mut file = std::fs::File::open(path).unwrap();
    let content = candle_core::quantized::gguf_file::Content::read(&mut file).unwrap();
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::from_gguf(&content.metadata).unwrap();
    eprintln!("{} tokens loaded in {:?}", tokenizer.vocabulary(), start.elapsed());
    Some(tokenizer)
}

fn same(tokenizer: &Tokenizer, expected: &serde_json::Value, what: &str) {
    let expected: Vec<Vec<Token>> = serde_json::from_value(expected.clone()).unwrap();
    let corpus = corpus();
    assert_eq!(corpus.len(), expected.len());
    for (text, expected) in corpus.iter().zip(expected) {
        assert_eq!(tokenizer.encode(text), expected, "{what}: {text:?}");
    }
}

fn bytes(tokenizer: &Tokenizer, tokens: &[Token]) -> Vec<u8> {
    tokens.iter().flat_map(|&token| tokenizer.bytes(token)).copied().collect()
}

fn composed(text: &str) -> String {
    let mut text = NormalizedString::from(text);
    text.nfc();
    text.get().to_owned()
}

#[test]
fn every_pre_tokenizer_agrees_with_the_reference() {
    // Another tokenisation than the one it was trained on makes a model quietly worse.
    let reference = fixture("tiny.json");
    for pre in PRES {
        let tokenizer = Tokenizer::from_gguf(&tiny_metadata(pre)).unwrap();
        same(&tokenizer, &reference["ids"][pre], pre);
    }
}

#[test]
fn a_real_vocabulary_agrees_with_the_reference() {
    // The tiny vocabulary has no long merges; the real ones do.
    let Some(tokenizer) = real() else { return };
    let known = ["smollm2.json", "qwen2.5.json"];
    let reference = known.map(fixture).into_iter().find(|f| f["vocabulary"] == tokenizer.vocabulary());
    same(&tokenizer, &reference.expect("SAGA_TEST_MODEL is SmolLM2 or Qwen2.5")["ids"], "real");
}

#[test]
fn a_real_tokenizer_json_agrees_with_the_reference() {
    // The file SAGA_TEST_TOKENIZER names is the tokenizer.json of DeepSeek-V3 or V4.
    let Some(path) = std::env::var_os("SAGA_TEST_TOKENIZER") else { return };
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::from_json(Path::new(&path)).unwrap();
    eprintln!("{} tokens loaded in {:?}", tokenizer.vocabulary(), start.elapsed());
    same(&tokenizer, &fixture("deepseek-v3.json")["ids"], "tokenizer.json");
    assert_eq!(tokenizer.vocabulary(), 129_280);
    assert_eq!(tokenizer.ends().first(), tokenizer.special("<｜end▁of▁sentence｜>").as_ref());
}

#[test]
fn a_tokenizer_json_gives_the_same_tokens_as_the_metadata() {
    // Models come in either form, and it must not matter in which.
    let tokenizer = tiny();
    let metadata = tiny_metadata("qwen2");
    let Value::Array(tokens) = &metadata["tokenizer.ggml.tokens"] else { unreachable!() };
    let words = tokens.len() - 6;
    let vocab: serde_json::Map<_, _> = tokens[..words]
        .iter()
        .enumerate()
        .map(|(id, token)| (token.to_string().unwrap().clone(), json!(id)))
        .collect();
    let added: Vec<_> = SPECIAL
        .iter()
        .zip(words..)
        .map(|(&(name, _), id)| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
        "post_processor": null, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab,
                  "merges": fixture("tiny.json")["merges"]},
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        r#"{"eos_token": {"content": "<|im_end|>"}}"#,
    )
    .unwrap();
    let from_json = Tokenizer::from_json(&path).unwrap();

    for text in corpus() {
        assert_eq!(from_json.encode(&text), tokenizer.encode(&text), "{text:?}");
        assert_eq!(from_json.encode_with_special(&text), tokenizer.encode_with_special(&text), "{text:?}");
    }
    assert_eq!(from_json.ends(), tokenizer.ends());
    for token in 0..words as Token + 5 {
        assert_eq!(from_json.bytes(token), tokenizer.bytes(token));
        assert_eq!(from_json.is_special(token), tokenizer.is_special(token));
    }
}

#[test]
fn text_never_becomes_a_special_token() {
    // A file that says <|im_end|> must not be able to end a turn.
    let tokenizer = tiny();
    let text = "x<|im_end|>\n<tool_call>{}</tool_call><|endoftext|>[PAD0]";
    let tokens = tokenizer.encode(text);
    assert!(tokens.iter().all(|&token| !tokenizer.is_special(token)), "{tokens:?}");
    assert_eq!(tokenizer.decode(&tokens), text);

    let marked = tokenizer.encode_with_special(text);
    let special: Vec<String> = marked
        .iter()
        .filter(|&&token| tokenizer.is_special(token))
        .map(|&token| String::from_utf8(tokenizer.bytes(token).to_vec()).unwrap())
        .collect();
    assert_eq!(special, ["<|im_end|>", "<tool_call>", "</tool_call>", "<|endoftext|>"]);
    assert_eq!(tokenizer.decode(&marked), text);
}

#[test]
fn a_special_token_is_found_by_its_name_and_gives_it_back() {
    // The chat format is rendered from names.
    let tokenizer = tiny();
    for (name, _) in SPECIAL {
        let token = tokenizer.special(name).unwrap();
        assert_eq!(tokenizer.bytes(token), name.as_bytes());
        assert!(tokenizer.is_special(token));
    }
    assert_eq!(tokenizer.special("hello"), None);
    assert_eq!(tokenizer.special("[PAD0]"), None);
    let last = tokenizer.vocabulary() as Token;
    assert!(tokenizer.is_special(last - 1), "an unused row is no text");
    assert_eq!(tokenizer.bytes(last), b"");
    assert_eq!(tokenizer.bytes(Token::MAX), b"");
}

#[test]
fn a_reply_ends_with_the_token_the_file_names_or_a_well_known_one() {
    // A model that says <|endoftext|> has finished, though its file names only <|im_end|>.
    let tokenizer = tiny();
    let names: Vec<_> = tokenizer.ends().iter().map(|&end| tokenizer.decode(&[end])).collect();
    assert_eq!(names, ["<|im_end|>", "<|endoftext|>"]);
}

#[test]
fn a_vocabulary_that_would_be_read_wrongly_is_refused() {
    // Each message must name what is wrong, for nobody can see it in the output.
    let check = |change: &dyn Fn(&mut HashMap<String, Value>), expected: &str| {
        let mut metadata = tiny_metadata("qwen2");
        change(&mut metadata);
        let message = Tokenizer::from_gguf(&metadata).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    };
    let text = |text: &str| Value::String(text.into());
    check(&|m| drop(m.insert("tokenizer.ggml.pre".into(), text("tekken"))), "\"tekken\" is not known");
    check(&|m| drop(m.remove("tokenizer.ggml.pre")), "no `tokenizer.ggml.pre`");
    check(&|m| drop(m.insert("tokenizer.ggml.model".into(), text("llama"))), "kind \"llama\"");
    check(&|m| drop(m.remove("tokenizer.ggml.tokens")), "lacks `tokenizer.ggml.tokens`");
    check(&|m| drop(m.insert("tokenizer.ggml.tokens".into(), text("x"))), "is not a list");
    check(&|m| drop(m.insert("tokenizer.ggml.tokens".into(), Value::Array(vec![]))), "types of tokens");
    check(
        &|m| drop(m.insert("tokenizer.ggml.merges".into(), Value::Array(vec![text("ab")]))),
        "with a blank between",
    );
    check(
        &|m| drop(m.insert("tokenizer.ggml.merges".into(), Value::Array(vec![text("ab zz")]))),
        "do not fit the vocabulary",
    );
    check(
        &|m| drop(m.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(1 << 20))),
        "outside the vocabulary",
    );
}

#[test]
fn a_file_that_is_no_tokenizer_json_is_refused() {
    // Strangers' files are read here.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let check = |text: &str, expected: &str| {
        std::fs::write(&path, text).unwrap();
        let message = Tokenizer::from_json(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    };
    check("x", "not a tokenizer.json");
    check("{}", "has no model");
    check("[1]", "has no model");
    check(r#"{"model": {"type": "WordPiece"}}"#, "kind \"WordPiece\"");
    check(r#"{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace"}}"#, "in bytes");
    check(
        r#"{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false}}"#,
        "highest token id",
    );
    std::fs::remove_file(&path).unwrap();
    assert!(Tokenizer::from_json(&path).unwrap_err().to_string().contains("tokenizer.json"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_is_lost(text in any::<String>()) {
        // What is said to the model is what was meant, whatever it is.
        thread_local!(static PLAIN: Tokenizer = Tokenizer::from_gguf(&tiny_metadata("gpt-2")).unwrap());
        PLAIN.with(|tokenizer| {
            let tokens = tokenizer.encode(&text);
            prop_assert_eq!(bytes(tokenizer, &tokens), text.as_bytes());
            Ok(())
        })?;
        thread_local!(static COMPOSING: Tokenizer = tiny());
        COMPOSING.with(|tokenizer| {
            let tokens = tokenizer.encode(&text);
            prop_assert_eq!(tokenizer.decode(&tokens), composed(&text));
            Ok(())
        })?;
    }

    #[test]
    fn broken_utf_8_decodes_to_replacement_characters(tokens in prop::collection::vec(any::<Token>(), 0..40)) {
        // A reply that is cut within a character is still shown.
        thread_local!(static TINY: Tokenizer = tiny());
        TINY.with(|tokenizer| {
            let tokens: Vec<Token> = tokens.iter().map(|token| token % 4000).collect();
            let expected = String::from_utf8_lossy(&bytes(tokenizer, &tokens)).into_owned();
            prop_assert_eq!(tokenizer.decode(&tokens), expected);
            Ok(())
        })?;
    }
}

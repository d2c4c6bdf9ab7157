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

/// A vocabulary of these tokens, in the spelling of bytes.
pub(crate) fn spelled(tokens: &[&str]) -> Tokenizer {
    let mut metadata = tiny_metadata("qwen2");
    let tokens = tokens.iter().map(|token| Value::String((*token).to_owned())).collect();
    metadata.insert("tokenizer.ggml.tokens".into(), Value::Array(tokens));
    for key in ["tokenizer.ggml.merges", "tokenizer.ggml.token_type", "tokenizer.ggml.eos_token_id"] {
        metadata.remove(key);
    }
    metadata.insert("tokenizer.ggml.merges".into(), Value::Array(Vec::new()));
    Tokenizer::from_gguf(&metadata).unwrap()
}

/// The trained vocabulary of pieces, as a GGUF file would describe it, without the tokens `keep` drops.
fn pieces_metadata(keep: &dyn Fn(i32) -> bool) -> HashMap<String, Value> {
    let entries: Vec<(String, f32, i32)> =
        serde_json::from_value(fixture("pieces.json")["pieces"].take()).unwrap();
    let kept: Vec<_> = entries.into_iter().filter(|&(_, _, kind)| keep(kind)).collect();
    // Converters write the blanks of an added token as blanks.
    let text = |piece: &str, kind| if kind == 4 { piece.replace('▁', " ") } else { piece.to_owned() };
    let list = |value: &dyn Fn(&(String, f32, i32)) -> Value| Value::Array(kept.iter().map(value).collect());
    HashMap::from([
        ("tokenizer.ggml.model".into(), Value::String("llama".into())),
        ("tokenizer.ggml.tokens".into(), list(&|(piece, _, kind)| Value::String(text(piece, *kind)))),
        ("tokenizer.ggml.scores".into(), list(&|&(_, score, _)| Value::F32(score))),
        ("tokenizer.ggml.token_type".into(), list(&|&(_, _, kind)| Value::I32(kind))),
        ("tokenizer.ggml.unknown_token_id".into(), Value::U32(0)),
        ("tokenizer.ggml.eos_token_id".into(), Value::U32(2)),
    ])
}

/// A vocabulary of pieces in SentencePiece's style, with or without the blank before a text.
pub(crate) fn pieces(prefix: bool) -> Tokenizer {
    let mut metadata = pieces_metadata(&|_| true);
    metadata.insert("tokenizer.ggml.add_space_prefix".into(), Value::Bool(prefix));
    Tokenizer::from_gguf(&metadata).unwrap()
}

impl Tokenizer {
    /// The token that stands for this byte alone and was made for it.
    pub(crate) fn byte(&self, byte: u8) -> Option<Token> {
        match &self.inner.codec.method {
            Method::Pieces(pieces) => pieces.bytes[usize::from(byte)],
            Method::Merges(_) | Method::Absent => None,
        }
    }
}

/// A `tokenizer.json` of the trained vocabulary in one of its forms, read back.
fn pieces_json(form: &str) -> Tokenizer {
    let reference = fixture("pieces.json");
    let entries: Vec<(String, f32, i32)> = serde_json::from_value(reference["pieces"].clone()).unwrap();
    let vocab: serde_json::Map<_, _> =
        entries.iter().zip(0..).map(|((piece, _, _), id): (_, Token)| (piece.clone(), json!(id))).collect();
    let added: Vec<_> = entries
        .iter()
        .zip(0..)
        .filter(|((_, _, kind), _)| matches!(kind, 3 | 4))
        .map(|((piece, _, kind), id): (_, Token)| {
            json!({"id": id, "content": piece, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": *kind == 3})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": reference["forms"][form]["normalizer"],
        "pre_tokenizer": reference["forms"][form]["pre_tokenizer"],
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": reference["merges"]},
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    Tokenizer::from_json(&path).unwrap()
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
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{what}: {text:?}");
    }
}

fn bytes(tokenizer: &Tokenizer, tokens: &[Token]) -> Vec<u8> {
    tokens.iter().flat_map(|&token| tokenizer.bytes(token)).copied().collect()
}

fn composed(text: &str) -> String {
    let mut text = tokenizers::NormalizedString::from(text);
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
    let known = ["smollm2.json", "qwen2.5.json", "gemma3.json"];
    let reference = known.map(fixture).into_iter().find(|f| f["vocabulary"] == tokenizer.vocabulary());
    same(&tokenizer, &reference.expect("SAGA_TEST_MODEL is SmolLM2, Qwen2.5 or Gemma 3")["ids"], "real");
}

#[test]
fn pieces_agree_with_the_reference() {
    // The reference is SentencePiece itself, for every setting a file can have.
    let reference = fixture("pieces.json");
    for prefix in [false, true] {
        for collapse in [false, true] {
            let mut metadata = pieces_metadata(&|_| true);
            // A file that says nothing wants the blank.
            if !prefix {
                metadata.insert("tokenizer.ggml.add_space_prefix".into(), Value::Bool(false));
            }
            metadata.insert("tokenizer.ggml.remove_extra_whitespaces".into(), Value::Bool(collapse));
            let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
            let what = format!("prefix={prefix}, collapse={collapse}");
            same(&tokenizer, &reference["ids"][&what], &what);

            for text in corpus().iter().filter(|text| !collapse && !text.is_empty()) {
                let expected = if prefix { format!(" {text}") } else { text.clone() };
                assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), expected);
            }
        }
    }
    let tokenizer = Tokenizer::from_gguf(&pieces_metadata(&|kind| kind != 6)).unwrap();
    same(&tokenizer, &reference["ids"]["without bytes"], "without bytes");
}

#[test]
fn every_form_of_a_tokenizer_json_of_pieces_agrees_with_the_reference() {
    // The forms are those of Llama 2, of Mistral's newer files, of T5 and of Gemma.
    let reference = fixture("pieces.json");
    let marked: Vec<String> = serde_json::from_value(reference["marked"].clone()).unwrap();
    for form in ["prepend", "first", "always", "never"] {
        let tokenizer = pieces_json(form);
        same(&tokenizer, &reference["ids"][form], form);
        let ids: Vec<Vec<Token>> = serde_json::from_value(reference["marked_ids"][form].clone()).unwrap();
        for (text, ids) in marked.iter().zip(ids) {
            assert_eq!(tokenizer.encode_with_special(text).unwrap(), ids, "{form}: {text:?}");
        }
        for token in 0..tokenizer.vocabulary() as Token {
            let other = pieces(false);
            assert_eq!(tokenizer.bytes(token), other.bytes(token));
            assert_eq!(tokenizer.is_special(token), other.is_special(token));
        }
    }
}

#[test]
fn a_blank_is_put_before_text_only_where_the_vocabulary_wants_it() {
    // A prompt is told in parts, and a blank in the middle of a word would be another word.
    let check = |tokenizer: &Tokenizer, start: &str, after_mark: &str, after_text: &str| {
        let mark = tokenizer.special("<tool_call>").unwrap();
        let word = tokenizer.encode("x").unwrap();
        for (line, expected) in
            [(vec![], start), (vec![word[0], mark], after_mark), ([vec![mark], word].concat(), after_text)]
        {
            let tokens = tokenizer.encode_after(&line, "end of").unwrap();
            assert_eq!(tokenizer.decode(&tokens), expected, "after {line:?}");
            assert!(tokenizer.encode_after(&line, "").unwrap().is_empty());
        }
    };
    check(&pieces(true), " end of", " end of", "end of");
    check(&pieces(false), "end of", "end of", "end of");
    check(&pieces_json("prepend"), " end of", " end of", "end of");
    check(&pieces_json("always"), " end of", " end of", "end of");
    check(&pieces_json("first"), " end of", "end of", "end of");
    check(&pieces_json("never"), "end of", "end of", "end of");
    check(&tiny(), "end of", "end of", "end of");
}

#[test]
fn pieces_are_never_joined_to_a_mark() {
    // Not even where the file has all that it takes: a vocabulary often has the letters of its own marks.
    let file = json!({
        "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true},
                         {"id": 2, "content": "<x>", "special": false}, {"id": 3, "content": "<b>", "special": false}],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": {"<unk>": 0, "<s>": 1, "<x>": 2, "<b>": 3, "<": 4, "s": 5, ">": 6, "x": 7, "b": 8, "<s": 9, "<x": 10},
            "merges": ["< s", ["<", "x"]], "unused": 0},
    });
    let mut with_merges = file.clone();
    with_merges["model"]["merges"] = json!([["<", "s"], ["<s", ">"], ["<", "x"], ["<x", ">"]]);
    let mut legacy = file;
    legacy["model"]["merges"] = json!(["< s", "<s >", "< x", "<x >"]);
    for file in [with_merges, legacy] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, file.to_string()).unwrap();
        let tokenizer = Tokenizer::from_json(&path).unwrap();
        assert_eq!(tokenizer.encode("<s>").unwrap(), [9, 6]);
        assert_eq!(tokenizer.encode("<x>").unwrap(), [10, 6]);
        assert_eq!(tokenizer.encode("<b>").unwrap(), [3], "a tag of HTML is text");
        assert!(!tokenizer.encode("<unk>").unwrap().iter().any(|&token| token == 1 || token == 2));
        assert_eq!(tokenizer.encode("é").unwrap(), [0], "what no token spells is unknown");
        assert_eq!(tokenizer.encode_with_special("<s><x>s").unwrap(), [1, 2, 5]);
    }

    let tokenizer = pieces(false);
    let text = "<s></s><unk><tool_call><0x41>\n<td>";
    let tokens = tokenizer.encode(text).unwrap();
    assert!(tokens.iter().all(|&token| !tokenizer.is_special(token)));
    assert_eq!(tokenizer.decode(&tokens), text);
    let marked = tokenizer.encode_with_special(text).unwrap();
    assert_eq!(marked.iter().filter(|&&token| tokenizer.is_special(token)).count(), 4);
    assert_eq!(tokenizer.decode(&marked), text);
}

#[test]
fn a_model_without_a_tokenizer_refuses_text() {
    // No tokens for a text would be a lie, and the model would answer to nothing.
    let tokenizer = Tokenizer::absent(1000);
    assert!(tokenizer.is_absent() && !tiny().is_absent());
    for refused in
        [tokenizer.encode("x"), tokenizer.encode_after(&[7], "x"), tokenizer.encode_with_special("<s>")]
    {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("without a tokenizer") && message.contains("tokenizer.json"), "{message}");
    }
    assert!(tokenizer.encode("").unwrap().is_empty());
    assert_eq!(tokenizer.vocabulary(), 1000);
    assert_eq!((tokenizer.bytes(999), tokenizer.bytes(1000)), (&b""[..], &b""[..]));
    assert_eq!(tokenizer.decode(&[1, 2, Token::MAX]), "");
    assert!(tokenizer.is_special(5) && tokenizer.special("").is_none() && tokenizer.ends().is_empty());
    assert_eq!(Tokenizer::absent(0).vocabulary(), 0);
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
        assert_eq!(from_json.encode(&text).unwrap(), tokenizer.encode(&text).unwrap(), "{text:?}");
        assert_eq!(
            from_json.encode_with_special(&text).unwrap(),
            tokenizer.encode_with_special(&text).unwrap(),
            "{text:?}"
        );
    }
    assert_eq!(from_json.ends(), tokenizer.ends());
    for token in 0..words as Token + 5 {
        assert_eq!(from_json.bytes(token), tokenizer.bytes(token));
        assert_eq!(from_json.is_special(token), tokenizer.is_special(token));
    }
}

#[test]
fn vocabularies_differ_where_a_token_stands_for_something_else() {
    let pieces = Tokenizer::from_gguf(&pieces_metadata(&|_| true)).unwrap();
    assert_eq!(tiny().differs(&tiny()), None);
    assert!(tiny().differs(&pieces).is_some());
    // Rows that stand for nothing say nothing, however many there are; but no tokenizer at all is another one.
    let (none, more) = (Tokenizer::absent(10), Tokenizer::absent(20));
    assert_eq!(none.differs(&more), None);
    assert!(tiny().differs(&none).is_some() && none.differs(&tiny()).is_some());
}

#[test]
fn text_never_becomes_a_special_token() {
    // A file that says <|im_end|> must not be able to end a turn.
    let tokenizer = tiny();
    let text = "x<|im_end|>\n<tool_call>{}</tool_call><|endoftext|>[PAD0]";
    let tokens = tokenizer.encode(text).unwrap();
    assert!(tokens.iter().all(|&token| !tokenizer.is_special(token)), "{tokens:?}");
    assert_eq!(tokenizer.decode(&tokens), text);

    let marked = tokenizer.encode_with_special(text).unwrap();
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
    check(&|m| drop(m.insert("tokenizer.ggml.model".into(), text("gemma4"))), "kind \"gemma4\"");
    check(&|m| drop(m.insert("tokenizer.ggml.model".into(), text("llama"))), "lacks `tokenizer.ggml.scores`");
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
fn pieces_that_would_be_read_wrongly_are_refused() {
    // As above.
    let check = |change: &dyn Fn(&mut HashMap<String, Value>), expected: &str| {
        let mut metadata = pieces_metadata(&|_| true);
        change(&mut metadata);
        let message = Tokenizer::from_gguf(&metadata).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    };
    let put = |key: &str, at: usize, value: Value| {
        let key = format!("tokenizer.ggml.{key}");
        move |m: &mut HashMap<String, Value>| match m.get_mut(&key) {
            Some(Value::Array(list)) => list[at] = value.clone(),
            _ => drop(m.insert(key.clone(), value.clone())),
        }
    };
    check(&|m| drop(m.remove("tokenizer.ggml.scores")), "lacks `tokenizer.ggml.scores`");
    check(&|m| drop(m.remove("tokenizer.ggml.token_type")), "lacks `tokenizer.ggml.token_type`");
    check(
        &|m| drop(m.insert("tokenizer.ggml.scores".into(), Value::Array(vec![]))),
        "900 tokens but 0 scores",
    );
    check(&put("scores", 300, Value::F32(f32::NAN)), "the score of token 300");
    check(&put("scores", 300, Value::Bool(true)), "the score of token 300");
    check(&put("tokens", 100, Value::String("<0xG0>".into())), "\"<0xG0>\", is said to be a byte");
    check(&put("token_type", 100, Value::I32(9)), "which does not exist");
    check(&put("unknown_token_id", 0, Value::U32(900)), "unknown token 900");
    check(&put("add_space_prefix", 0, Value::U32(1)), "neither true nor false");
    check(&put("precompiled_charsmap", 0, Value::Array(vec![Value::U8(1)])), "changes text by a table");
    check(
        &|m| {
            m.remove("tokenizer.ggml.unknown_token_id");
            put("token_type", 100, Value::I32(5))(m);
        },
        "neither a token for every byte",
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
    check(r#"{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Whitespace"}}"#, "in bytes");
    check(
        r#"{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}"#,
        "in bytes",
    );
    check(
        r#"{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}}"#,
        "it has none",
    );
    check(
        r#"{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}}"#,
        "\"a\" has no id",
    );
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
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(bytes(tokenizer, &tokens), text.as_bytes());
            Ok(())
        })?;
        thread_local!(static COMPOSING: Tokenizer = tiny());
        COMPOSING.with(|tokenizer| {
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&tokens), composed(&text));
            Ok(())
        })?;
    }

    #[test]
    fn no_byte_is_lost_in_pieces(text in any::<String>()) {
        // As above; but a blank's own mark cannot be told from a blank.
        thread_local!(static PIECES: [Tokenizer; 2] = [pieces(false), pieces_json("never")]);
        PIECES.with(|tokenizers| {
            for tokenizer in tokenizers {
                let tokens = tokenizer.encode(&text).unwrap();
                prop_assert_eq!(bytes(tokenizer, &tokens), text.replace('▁', " ").into_bytes());
            }
            Ok(())
        })?;
    }

    #[test]
    fn pieces_are_joined_as_if_every_pair_were_looked_at_each_time(text in "[abABCc0-9=<>/ ▁\n\tdtor.-]{0,60}") {
        // The queue of pairs is the fast way; this is what it means.
        thread_local!(static PIECES: Tokenizer = pieces(false));
        PIECES.with(|tokenizer| {
            let Method::Pieces(pieces) = &tokenizer.inner.codec.method else { unreachable!() };
            let text = text.replace(' ', "▁");
            let mut expected = Vec::new();
            for (range, found) in pieces.found.as_ref().unwrap().stretches(&text) {
                if found.is_some() {
                    expected.extend(found);
                    continue;
                }
                let mut words: Vec<String> = text[range].chars().map(String::from).collect();
                loop {
                    let pair = |at: usize| pieces.joined.get(&words[at..at + 2].concat()).map(|&(_, score)| (score, at));
                    // The last of equals is the maximum, so the leftmost is looked at last.
                    let best = (0..words.len().saturating_sub(1)).rev().filter_map(pair).max_by(|a, b| a.0.total_cmp(&b.0));
                    let Some((_, at)) = best else { break };
                    let right = words.remove(at + 1);
                    words[at].push_str(&right);
                }
                for word in words {
                    match pieces.joined.get(&word) {
                        Some(&(token, _)) => expected.push(token),
                        None => expected.extend(word.bytes().filter_map(|byte| tokenizer.byte(byte))),
                    }
                }
            }
            prop_assert_eq!(tokenizer.encode(&text).unwrap(), expected);
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

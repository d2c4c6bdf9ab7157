//! What a dialect writes it reads back, in one piece or in many, and its grammar admits it and little else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use agent::dialect::{
    Besides, Bound, Dialect, Known, Parsed, Part, Piece, Quoted, Reader, Shape, To, text_of, tokens_of,
};
use agent::{Answer, Message, Stop};
use engine::{Grammar, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use tools::{Call, Replay, Spec};

fn spec(name: &str, parameters: Value) -> Spec {
    Spec {
        name: name.into(),
        description: String::new(),
        parameters,
        replay: Replay::Safe,
        bounds: Vec::new(),
        reach: tools::Reach::Workspace,
    }
}

fn specs() -> Vec<Spec> {
    vec![
        spec(
            "edit",
            json!({"type": "object", "additionalProperties": false, "required": ["path", "old"], "properties": {
                "path": {"type": "string"},
                "old": {"type": "string"},
                "mode": {"type": "string", "enum": ["once", "all"]},
                "count": {"type": "integer"},
                "dry": {"type": "boolean"},
                "where": {"type": "object", "properties": {"line": {"type": "integer"}, "note": {"type": "string"}}},
                "tags": {"type": "array", "items": {"type": "string"}},
                "who": {"type": ["string", "null"]},
            }}),
        ),
        spec("list", json!({"type": "object", "additionalProperties": false, "properties": {}})),
    ]
}

/// Letters that mean something to a format when they stand there as its marks.
fn marks(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Hermes => &["<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>"],
        Dialect::Qwen3Coder | Dialect::Qwen35 => &[
            "<tool_call>",
            "</tool_call>",
            "<think>",
            "</think>",
            "<|im_end|>",
            "<function=",
            "</function>",
            "\n</parameter>",
        ],
        Dialect::Glm | Dialect::Glm47 => &[
            "<tool_call>",
            "</tool_call>",
            "<think>",
            "</think>",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
            "<|user|>",
            "<|observation|>",
        ],
        Dialect::DsmlV4 | Dialect::DsmlV41 => &["｜DSML｜", "<think>", "</think>", "<｜end▁of▁sentence｜>"],
        Dialect::Harmony => {
            &["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"]
        }
    }
}

/// What a text argument cannot hold: the format has no escapes, and these end it.
fn ends(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Hermes | Dialect::Harmony => &[],
        Dialect::Qwen3Coder | Dialect::Qwen35 => &["\n</parameter>"],
        Dialect::Glm | Dialect::Glm47 => &["</arg_value>"],
        Dialect::DsmlV4 => &["</｜DSML｜parameter>", "</｜DSML｜ parameter>"],
        Dialect::DsmlV41 => &["</｜DSML｜parameter>", "</｜DSML｜ parameter>"],
    }
}

/// Texts made of what is hard to read: marks of all formats, quotes, line breaks, braces, other scripts.
fn nasty() -> impl Strategy<Value = String> {
    let hard = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "\n</tool_call>",
        "<function=",
        "</function>",
        "<parameter=",
        "</parameter>",
        "\n</parameter>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<｜DSML｜",
        "</｜DSML｜",
        "</｜DSML｜parameter>",
        "</｜DSML｜ parameter>",
        "<｜DSML｜invoke name=\"x\">",
        "<think>",
        "</think>",
        "<|start|>",
        "<|end|>",
        "<|call|>",
        "<|im_end|>",
        "<|user|>",
        "\"",
        "\\",
        "\\n",
        "\n",
        "\n\n",
        "\t",
        " ",
        "{",
        "}",
        "{\"name\": \"x\"",
        "```",
        "<",
        "</",
        ">",
        "=",
        "null",
        "true",
        "3",
        "é",
        "日本",
        "🦀",
        "\u{0}",
        "\r",
        "a",
        "b c",
    ]);
    prop::collection::vec(hard, 0..8).prop_map(|parts| parts.concat())
}

fn call() -> impl Strategy<Value = Call> {
    let edit = (
        (nasty(), nasty(), prop::option::of(prop::sample::select(vec!["once", "all"]))),
        (
            prop::option::of(any::<i32>()),
            prop::option::of(any::<bool>()),
            prop::option::of((any::<i16>(), nasty())),
        ),
        (
            prop::option::of(prop::collection::vec(nasty(), 0..3)),
            prop::option::of(prop::option::of("[a-z]{1,5}x")),
        ),
    );
    let edit = edit.prop_map(|((path, old, mode), (count, dry, place), (tags, who))| {
        let mut arguments = json!({"path": path, "old": old});
        let mut add = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                arguments[key] = value;
            }
        };
        add("mode", mode.map(Value::from));
        add("count", count.map(Value::from));
        add("dry", dry.map(Value::from));
        add("where", place.map(|(line, note)| json!({"line": line, "note": note})));
        add("tags", tags.map(Value::from));
        add("who", who.map(|who| who.map_or(Value::Null, Value::from)));
        Call { id: String::new(), name: "edit".into(), arguments }
    });
    prop_oneof![4 => edit, 1 => Just(Call { id: String::new(), name: "list".into(), arguments: json!({}) })]
}

/// A reply that the dialect can say, as close to the given one as it gets.
fn sayable(dialect: Dialect, thought: String, text: String, calls: Vec<Call>) -> Parsed {
    let without = |text: &str, barred: &[&str]| {
        // Leaving one out may bring the halves of another together.
        let mut text = text.to_string();
        while let Some(bad) = barred.iter().find(|bad| text.contains(**bad)) {
            text = text.replace(bad, "");
        }
        text
    };
    let (mut thought, mut text) = (without(&thought, marks(dialect)), without(&text, marks(dialect)));
    match dialect {
        Dialect::DsmlV4 | Dialect::DsmlV41 | Dialect::Harmony => {}
        Dialect::Qwen3Coder | Dialect::Qwen35 | Dialect::Glm | Dialect::Glm47 => {
            (thought, text) = (thought.trim().to_string(), text.trim().to_string());
        }
        Dialect::Hermes => {
            // An object that begins with a name is a call without its marks, and fences may hold one.
            (thought, text) = (thought.trim().to_string(), without(&text, &["{", "```"]).trim().to_string());
        }
    }
    if dialect == Dialect::Qwen3Coder {
        thought.clear();
    }
    let calls = calls.into_iter().map(|mut call| {
        for (_, value) in call.arguments.as_object_mut().unwrap() {
            if let Value::String(text) = value {
                *text = without(text, ends(dialect));
            }
        }
        call
    });
    Parsed { thought, text, calls: calls.collect(), refused: Vec::new() }
}

fn written(dialect: Dialect, reply: &Parsed) -> Vec<Piece> {
    dialect.reply(&reply.thought, &reply.text, &reply.calls)
}

fn plain(pieces: &[Piece]) -> String {
    text_of(pieces, |_| String::new())
}

/// A vocabulary of bytes and these special tokens.
fn vocabulary(marks: &[&str]) -> Tokenizer {
    vocabulary_of(marks, &[])
}

/// A vocabulary of bytes, these pairs of bytes and these special tokens.
fn vocabulary_of(marks: &[&str], pairs: &[[u8; 2]]) -> Tokenizer {
    // The alphabet of byte-level vocabularies: printable bytes stand for themselves, the others for letters from 256 on.
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut other = 256;
    let letters: Vec<String> = (0..256)
        .map(|byte| {
            let letter = if printable(byte) { byte } else { other };
            other += u32::from(!printable(byte));
            char::from_u32(letter).unwrap().to_string()
        })
        .collect();
    let pairs = pairs.iter().map(|pair| pair.map(|byte| letters[usize::from(byte)].as_str()).concat());
    let words: Vec<String> = letters.iter().cloned().chain(pairs).collect();
    let vocabulary: HashMap<&String, usize> = words.iter().zip(0..).collect();
    let added: Vec<Value> = ["<|endoftext|>"]
        .iter()
        .chain(marks)
        .enumerate()
        .map(|(i, mark)| json!({"id": words.len() + i, "content": mark, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}))
        .collect();
    let whole = json!({
        "version": "1.0", "normalizer": null, "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, whole.to_string()).unwrap();
    Tokenizer::from_json(&path).unwrap()
}

/// Every mark that any dialect places as a special token.
const SPECIAL: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "｜DSML｜",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
];

/// What `argument` of `edit` is bound to.
fn bound(argument: &str, to: To) -> Bound {
    Bound { tool: "edit".into(), argument: argument.into(), to }
}

/// Edits replace whole lines of these files, and nothing else.
fn quoted(files: &[(&str, &str)]) -> Vec<Bound> {
    let files = files.iter().map(|(path, text)| known(path, text)).collect();
    vec![bound(
        "old",
        To::Piece(Quoted { of: "path".into(), files, lines: true, all: None, free: None, others: false }),
    )]
}

fn known(path: &str, text: &str) -> Known {
    Known { path: path.into(), pieces: vec![text.into()], whole: text.into() }
}

fn grammar(dialect: Dialect, shape: Shape, bounds: &[Bound], tokenizer: &Tokenizer) -> Grammar {
    let specs = specs();
    let specs: Vec<&Spec> = specs.iter().collect();
    let source = dialect.grammar(&specs, shape, bounds, |name| tokenizer.special(name));
    Grammar::new(&source, tokenizer).unwrap_or_else(|error| panic!("{}: {error}\n{source:?}", dialect.name()))
}

/// Whether a reply may say something before a call. With marks that are only letters a Hermes model leaves them out there:
/// its text may hold no call mark, and a lexer that has taken half of one for text does not go back.
fn speaks(dialect: Dialect, special: &[&str]) -> bool {
    dialect != Dialect::Hermes || !special.is_empty()
}

fn admits(grammar: &Grammar, tokens: &[u32]) -> bool {
    let mut grammar = grammar.clone();
    grammar.advance(tokens).is_ok() && grammar.may_end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_reply_is_read_back_as_it_was_written(
        thought in nasty(), text in nasty(), calls in prop::collection::vec(call(), 0..3), cut in any::<prop::sample::Index>()
    ) {
        // A session that works on the very files of these formats has their marks in its strings.
        for dialect in Dialect::ALL {
            let reply = sayable(dialect, thought.clone(), text.clone(), calls.clone());
            let whole = plain(&written(dialect, &reply));
            prop_assert_eq!(dialect.parse(&whole, true, &specs()), reply, "{} {:?}", dialect.name(), whole);
            // However it is cut off, nothing panics.
            let at = cut.index(whole.len() + 1);
            dialect.parse(&String::from_utf8_lossy(&whole.as_bytes()[..at]), false, &specs());
        }
    }

    #[test]
    fn no_reply_makes_a_dialect_panic(reply in nasty(), whole in any::<bool>()) {
        for dialect in Dialect::ALL {
            dialect.parse(&reply, whole, &specs());
        }
    }

    #[test]
    fn a_reply_is_told_apart_while_it_comes(
        thought in nasty(), text in nasty(), calls in prop::collection::vec(call(), 0..2),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)
    ) {
        // Tokens cut marks anywhere; a reader must see neither half a mark nor a call taken for text.
        for dialect in Dialect::ALL {
            let reply = sayable(dialect, thought.clone(), text.clone(), calls.clone());
            let whole = plain(&written(dialect, &reply));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            cuts.retain(|cut| whole.is_char_boundary(*cut));
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let mut reader = Reader::new(dialect);
            let mut parts: Vec<Part> =
                cuts.windows(2).flat_map(|cut| reader.add(&whole[cut[0]..cut[1]])).collect();
            parts.extend(reader.finish());
            let (mut thoughts, mut texts, mut called) = (String::new(), String::new(), String::new());
            for part in parts {
                match part {
                    Part::Thought(more) => thoughts.push_str(&more),
                    Part::Text(more) => texts.push_str(&more),
                    Part::Call(more) => called.push_str(&more),
                }
            }
            prop_assert_eq!(thoughts.trim(), reply.thought.trim(), "{} {:?}", dialect.name(), whole);
            prop_assert_eq!(texts.trim(), reply.text.trim(), "{} {:?}", dialect.name(), whole);
            prop_assert_eq!(called.is_empty(), reply.calls.is_empty(), "{} {:?}", dialect.name(), whole);
        }
    }
}

#[test]
fn what_a_dialect_writes_its_grammar_admits() {
    // With marks that are tokens of their own, and with marks that are only letters.
    for special in [SPECIAL, &[]] {
        let tokenizer = vocabulary(special);
        for dialect in Dialect::ALL {
            let grammar = grammar(dialect, Shape::Free, &[], &tokenizer);
            let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
                cases: 60,
                ..ProptestConfig::default()
            });
            let strategy = (nasty(), nasty(), prop::collection::vec(call(), 0..3));
            let judged = runner.run(&strategy, |(thought, text, mut calls)| {
                if dialect == Dialect::Harmony {
                    // A call ends a message, and so the reply.
                    calls.truncate(1);
                }
                let reply = sayable(dialect, thought, text, calls);
                if dialect == Dialect::Harmony && reply.text.is_empty() && reply.calls.is_empty() {
                    return Ok(());
                }
                let speechless = reply.thought.is_empty() && reply.text.is_empty();
                if !speechless && !speaks(dialect, special) {
                    return Ok(());
                }
                let tokens = tokens_of(&written(dialect, &reply), &tokenizer).unwrap();
                prop_assert!(admits(&grammar, &tokens), "{} {:?}", dialect.name(), tokenizer.decode(&tokens));
                Ok(())
            });
            judged.unwrap_or_else(|why| panic!("{} with {} marks: {why}", dialect.name(), special.len()));
        }
    }
}

#[test]
fn a_grammar_bounds_calls_by_the_tools_schemas() {
    let call = |name: &str, arguments: Value| Call { id: String::new(), name: name.into(), arguments };
    let good = [
        call("edit", json!({"path": "a", "old": "b", "mode": "all", "count": 3, "dry": true})),
        call("list", json!({})),
    ];
    let bad = [
        call("remove", json!({})),
        call("edit", json!({"path": "a"})),
        call("edit", json!({"path": "a", "old": "b", "mode": "most"})),
        call("edit", json!({"path": "a", "old": "b", "count": "three"})),
        call("edit", json!({"path": "a", "old": "b", "count": 1.5})),
        call("edit", json!({"path": "a", "old": "b", "dry": 1})),
        call("edit", json!({"path": "a", "old": "b", "tags": [1]})),
        call("edit", json!({"path": "a", "old": "b", "force": true})),
        call("edit", json!({"old": "b", "path": "a"})),
    ];
    for special in [SPECIAL, &[]] {
        let tokenizer = vocabulary(special);
        for dialect in Dialect::ALL {
            for shape in [Shape::Free, Shape::OneCall] {
                let grammar = grammar(dialect, shape, &[], &tokenizer);
                let (thought, text) = if speaks(dialect, special) { ("So.", "I look.") } else { ("", "") };
                let may = |calls: &[Call]| {
                    let pieces = dialect.reply(thought, text, calls);
                    admits(&grammar, &tokens_of(&pieces, &tokenizer).unwrap())
                };
                let what = |call: &Call| format!("{} {shape:?} {call:?}", dialect.name());
                assert!(may(&[]), "{}", dialect.name());
                good.iter().for_each(|call| assert!(may(std::slice::from_ref(call)), "{}", what(call)));
                bad.iter().for_each(|call| assert!(!may(std::slice::from_ref(call)), "{}", what(call)));
                let many = shape == Shape::Free && dialect != Dialect::Harmony;
                assert_eq!(may(&good), many, "{} {shape:?}", dialect.name());
            }
        }
    }
}

#[test]
fn a_led_model_acts_in_every_dialect() {
    // A thought before a call, of a paragraph and not of a page; or a call at once.
    let tokenizer = vocabulary(SPECIAL);
    let list = [Call { id: String::new(), name: "list".into(), arguments: json!({}) }];
    for dialect in Dialect::ALL {
        let may = |shape, thought: &str, text: &str, calls: &[Call]| {
            let grammar = grammar(dialect, shape, &[], &tokenizer);
            admits(&grammar, &tokens_of(&dialect.reply(thought, text, calls), &tokenizer).unwrap())
        };
        let (thought, text) = match dialect {
            // These have no thoughts, or none that they have to think: what they say is one.
            Dialect::Hermes | Dialect::Qwen3Coder => ("", "It rounds down."),
            _ => ("It rounds down.", ""),
        };
        let name = dialect.name();
        assert!(may(Shape::MustCall, thought, text, &list), "{name}");
        assert!(!may(Shape::MustCall, thought, text, &[]), "{name}: a call has to follow");
        assert!(!may(Shape::MustCall, "", "", &list), "{name}: a thought has to come first");
        assert!(!may(Shape::CallNow, thought, text, &list), "{name}: nothing comes before it");
        assert!(may(Shape::CallNow, "", "", &list), "{name}");
    }
}

#[test]
fn an_edit_replaces_lines_that_stand_in_the_file_in_every_dialect() {
    let file = "def f(a):\n    x = \"1\\n\"\n\n    return a // 2\n</div>\n";
    let tokenizer = vocabulary(SPECIAL);
    for dialect in Dialect::ALL {
        let grammar =
            grammar(dialect, Shape::Free, &quoted(&[("a.py", file), ("b.py", "other = 1\n")]), &tokenizer);
        let may = |path: &str, old: &str| {
            let call = Call {
                id: String::new(),
                name: "edit".into(),
                arguments: json!({"path": path, "old": old, "mode": "all"}),
            };
            // Python's spacing: these arguments are bound to the letter.
            let pieces = dialect.reply("T", "", &[call]);
            let pieces: Vec<Piece> = pieces
                .into_iter()
                .map(|piece| match piece {
                    Piece::Text(text) if dialect == Dialect::Harmony => {
                        Piece::Text(text.replace("\":\"", "\": \"").replace("\",\"", "\", \""))
                    }
                    other => other,
                })
                .collect();
            admits(&grammar, &tokens_of(&pieces, &tokenizer).unwrap())
        };
        let name = dialect.name();
        for old in
            ["    return a // 2", "return a // 2", "x = \"1\\n\"\n\n    return a // 2\n", "return a // 2\n"]
        {
            assert!(may("a.py", old), "{name} {old:?}");
        }
        assert!(may("b.py", "other = 1"), "{name}");
        for (path, old) in [
            ("a.py", "return a / 2"),
            ("a.py", "a // 2"),
            ("a.py", "other = 1"),
            ("a.py", ""),
            ("a.py", "\n\n"),
            ("c.py", "other = 1"),
        ] {
            assert!(!may(path, old), "{name} {path} {old:?}");
        }
    }
}

/// Whether every token of a reply that makes this call is in the mask and may be taken.
fn may(grammar: &Grammar, dialect: Dialect, tokenizer: &Tokenizer, arguments: Value) -> bool {
    let call = Call { id: String::new(), name: "edit".into(), arguments };
    admits(grammar, &tokens_of(&dialect.reply("T", "", &[call]), tokenizer).unwrap())
}

#[test]
fn an_argument_is_one_of_what_there_is_in_every_dialect() {
    // Processes and notes are called by ids that nobody can guess; a path may be new.
    let tokenizer = vocabulary(SPECIAL);
    let ids = ["p-1", "p-12", "n\"ö\\日"].map(String::from).to_vec();
    let paths = ["a.py", "src/b.py", "deep/c/d.py"].map(String::from).to_vec();
    for dialect in Dialect::ALL {
        let name = dialect.name();
        let strict = To::OneOf { values: ids.clone(), besides: Besides::Nothing };
        let strict = grammar(dialect, Shape::Free, &[bound("old", strict)], &tokenizer);
        let id = |id: &str| may(&strict, dialect, &tokenizer, json!({"path": "x", "old": id, "count": 3}));
        ids.iter().for_each(|known| assert!(id(known), "{name} {known}"));
        for bad in ["", "p-", "p-2", "p-1 ", "p-123", "q"] {
            assert!(!id(bad), "{name} {bad:?}");
        }
        // What lies in a folder that was listed is known; anything else may be there.
        let besides = Besides::OutsideOf(vec![String::new(), "src".into()]);
        let free = To::OneOf { values: paths.clone(), besides };
        let free = grammar(dialect, Shape::Free, &[bound("path", free)], &tokenizer);
        let path = |path: &str| may(&free, dialect, &tokenizer, json!({"path": path, "old": "x"}));
        for good in
            ["a.py", "src/b.py", "deep/c/d.py", "deep/e.py", "src/more/f.py", "./new.py", "./src/日本.py"]
        {
            assert!(path(good), "{name} {good:?}");
        }
        for bad in ["b.py", "a.p", "a.pyc", "src/a.py", "src/b.py.bak", "", "a\nb.py"] {
            assert!(!path(bad), "{name} {bad:?}");
        }
    }
}

#[test]
fn a_piece_of_a_file_stands_there_once_or_the_call_says_otherwise_in_every_dialect() {
    // The way out is a flag before the text: once the text begins it is too late to notice that it is not there.
    let file = "if x:\n    y = \"ä\\n\"  # 日本\n    y = 2\nif xx:\n    pass\t\n";
    let tokenizer = vocabulary(SPECIAL);
    let parameters = json!({"type": "object", "additionalProperties": false, "required": ["path", "old", "new"], "properties": {
        "path": {"type": "string"}, "all": {"type": "boolean"}, "unread": {"type": "boolean"},
        "old": {"type": "string"}, "new": {"type": "string"}}});
    let spec = spec("edit", parameters);
    let files = vec![known("a.py", file), known("ü \"b\".py", "other\n")];
    let (all, free) = (Some("all".into()), Some("unread".into()));
    let quoted = Quoted { of: "path".into(), files, lines: false, all, free, others: true };
    let bounds = [bound("old", To::Piece(quoted))];
    for dialect in Dialect::ALL {
        let name = dialect.name();
        let source = dialect.grammar(&[&spec], Shape::Free, &bounds, |mark| tokenizer.special(mark));
        let grammar = Grammar::new(&source, &tokenizer).unwrap();
        let edit = |arguments: Value| {
            let mut call = json!({"path": "a.py"});
            arguments.as_object().unwrap().iter().for_each(|(key, value)| call[key] = value.clone());
            call["new"] = json!("anything\n\"at\" all \\ ");
            may(&grammar, dialect, &tokenizer, call)
        };
        for old in
            ["y = 2", "if x:", "\"ä\\n\"", "# 日", "本\n    y", " 2\nif xx:\n    pass\t", "pass\t\n", "xx"]
        {
            assert!(edit(json!({"old": old})), "{name} {old:?}");
            assert!(edit(json!({"all": false, "unread": false, "old": old})), "{name} {old:?}");
            assert!(edit(json!({"all": true, "old": old})), "{name} {old:?}");
        }
        // It stands there twice, also where words are cut: the tool looks for letters.
        for old in ["y", "y = ", "if", "if x", "x", "    ", "\n    y = "] {
            assert!(!edit(json!({"old": old})), "{name} {old:?}");
            let blank = old.trim().is_empty();
            assert_eq!(edit(json!({"all": true, "old": old})), !blank, "{name} {old:?}");
        }
        for old in ["y = 3", "z", "pas", "y=2", "y = \"ä\n\"", "\n\n", "", "other"] {
            assert!(!edit(json!({"old": old})), "{name} {old:?}");
            assert!(!edit(json!({"all": true, "old": old})), "{name} {old:?}");
            assert!(edit(json!({"unread": true, "old": old})), "{name} {old:?}");
        }
        assert!(edit(json!({"path": "ü \"b\".py", "old": "other"})), "{name}");
        assert!(!edit(json!({"path": "ü \"b\".py", "old": "y = 2"})), "{name}");
        // Of a file that was not read nothing is known.
        assert!(edit(json!({"path": "c.py", "old": "y = 3"})), "{name}");
        assert!(!edit(json!({"path": "a.py", "unread": 1, "old": "y = 2"})), "{name}");
    }
}

#[test]
fn a_bound_holds_wherever_tokens_cut_the_text() {
    // Tokens of a real vocabulary hold quotes, strokes, line breaks and half letters together with others; here every pair of
    // bytes is a token as well.
    let file = "let s = \"a\\\"b\";\n\tx(日本);\n";
    let old = |text: &str| {
        let call =
            Call { id: String::new(), name: "edit".into(), arguments: json!({"path": "a.rs", "old": text}) };
        text_of(&Dialect::Hermes.reply("", "", &[call]), |_| String::new())
    };
    let good = ["s = \"a\\\"b\";\n\tx", "(日本);", "let s", "let"];
    let bad = ["s = \"a\\\"c", "(日木)", "let t", "le", "\"a\\b", "本日"];
    let mut pairs: Vec<[u8; 2]> = good
        .iter()
        .chain(&bad)
        .flat_map(|text| old(text).into_bytes().windows(2).map(|pair| [pair[0], pair[1]]).collect::<Vec<_>>())
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    let tokenizer = vocabulary_of(&[], &pairs);
    let files = vec![known("a.rs", file)];
    let quoted = Quoted { of: "path".into(), files, lines: false, all: None, free: None, others: true };
    let grammar = grammar(Dialect::Hermes, Shape::Free, &[bound("old", To::Piece(quoted))], &tokenizer);
    let pair = |bytes: &[u8]| 256 + pairs.iter().position(|pair| pair == bytes).unwrap() as u32;
    for (texts, fits) in [(&good[..], true), (&bad[..], false)] {
        for text in texts {
            let bytes = old(text).into_bytes();
            for single in [0, 1] {
                // Pairs from the first byte on, and from the second on.
                let (first, rest) = bytes.split_at(single);
                let tokens =
                    first.iter().map(|byte| u32::from(*byte)).chain(rest.chunks(2).map(
                        |chunk| match chunk {
                            [byte] => u32::from(*byte),
                            two => pair(two),
                        },
                    ));
                let tokens: Vec<u32> = tokens.collect();
                assert_eq!(tokenizer.decode(&tokens), old(text));
                assert_eq!(admits(&grammar, &tokens), fits, "{text:?} from {single}");
            }
        }
    }
}

#[test]
fn the_prompt_of_a_session_grows_only_at_its_end() {
    // Each longer conversation begins with the whole of the shorter one's prompt: what was computed stays of use.
    let spell = |tokens: &[u32]| -> String { tokens.iter().map(|token| format!("[{token}]")).collect() };
    let said = |token: u32, stop: Stop| {
        // What was said in the end is of no account: the tokens are.
        let text = if stop == Stop::End { "said".to_string() } else { String::new() };
        Message::Assistant { tokens: vec![token], text, calls: Vec::new(), stop }
    };
    let answer = |text: &str| Answer { call: None, name: Some("list".into()), text: text.into() };
    let conversation = [
        Message::System { text: "You work on code.".into(), tools: specs() },
        Message::User { text: "Go".into() },
        said(1, Stop::End),
        Message::Results { answers: vec![answer("a"), answer("b")] },
        Message::User { text: "More".into() },
        said(2, Stop::Interrupted),
        Message::User { text: "End".into() },
    ];
    for dialect in Dialect::ALL {
        let name = dialect.name();
        let prompt = |conversation: &[Message]| text_of(&dialect.render(conversation), spell);
        let whole = prompt(&conversation);
        for (cut, token) in [(2, "[1]"), (5, "[2]")] {
            let short = prompt(&conversation[..cut]);
            let rest = whole.strip_prefix(&short).unwrap_or_else(|| panic!("{name}: {short:?} {whole:?}"));
            assert!(rest.starts_with(token), "{name}: a reply stands where it was sampled: {rest:?}");
        }
        // A thought that was cut off is closed for it.
        let thinks = whole.contains("[2]</think>");
        let never = [Dialect::Hermes, Dialect::Qwen3Coder, Dialect::Harmony].contains(&dialect);
        assert_eq!(thinks, !never, "{name}: {whole:?}");
    }
}

#[test]
fn a_model_is_known_by_its_template_or_its_family() {
    let of = |template: Option<&str>, family: &str| Dialect::of_model(template, family).map(Dialect::name);
    assert_eq!(of(None, "deepseek4"), Some("dsml-v4"));
    assert_eq!(of(None, "deepseek_v41"), Some("dsml-v41"));
    assert_eq!(of(Some("{{ anything }}"), "gpt-oss"), Some("harmony"));
    assert_eq!(of(Some(include_str!("fixtures/qwen2.5-coder.jinja")), "qwen2"), Some("hermes"));
    assert_eq!(of(Some(include_str!("fixtures/smollm2.jinja")), "llama"), Some("hermes"));
    assert_eq!(
        of(Some(include_str!("fixtures/dialects/qwen3-coder.jinja")), "qwen3moe"),
        Some("qwen3-coder")
    );
    assert_eq!(of(Some(include_str!("fixtures/dialects/qwen3.5.jinja")), "qwen35moe"), Some("qwen3.5"));
    assert_eq!(of(Some(include_str!("fixtures/dialects/glm-4.6.jinja")), "glm4moe"), Some("glm"));
    assert_eq!(of(Some(include_str!("fixtures/dialects/glm-4.7.jinja")), "glm4moe"), Some("glm-4.7"));
    assert_eq!(of(Some("[INST] {{ x }} [/INST]"), "llama"), None);
    assert_eq!(of(None, "llama"), None);
    for dialect in Dialect::ALL {
        assert_eq!(Dialect::named(dialect.name()), Some(dialect));
    }
}

#[test]
fn what_models_get_wrong_is_read_as_it_was_meant_or_told() {
    let specs = specs();
    let read = |dialect: Dialect, reply: &str| dialect.parse(reply, true, &specs);
    let edit = |arguments: Value| vec![Call { id: String::new(), name: "edit".into(), arguments }];
    // DeepSeek: another name of the block, no word on what is a text, an object in place of parameters, one around them.
    let invoke = |inner: &str| {
        format!(
            "T</think>\n\n<｜DSML｜toolcalls>\n<｜DSML｜invoke name=\"edit\">\n{inner}\n</｜DSML｜invoke>\n</｜DSML｜toolcalls>"
        )
    };
    for inner in [
        "<｜DSML｜parameter name=\"path\">a</｜DSML｜parameter>\n<｜DSML｜parameter name=\"count\">3</｜DSML｜parameter>",
        "{\"path\": \"a\", \"count\": 3}",
        "<｜DSML｜parameter name=\"arguments\" string=\"false\">{\"path\": \"a\", \"count\": 3}</｜DSML｜parameter>",
        "<｜DSML｜ parameter name=\"path\" string=\"true\">a</｜DSML｜ parameter>\n<｜DSML｜ parameter name=\"count\" string=\"false\">3",
    ] {
        let parsed = read(Dialect::DsmlV4, &invoke(inner));
        assert_eq!(
            (parsed.thought.as_str(), parsed.calls),
            ("T", edit(json!({"path": "a", "count": 3}))),
            "{inner}"
        );
    }
    let parsed = read(Dialect::DsmlV4, &invoke("<｜DSML｜parameter nam=\"path\">a</｜DSML｜parameter>"));
    assert!(parsed.refused[0].why.contains("a parameter is written"), "{parsed:?}");
    let parsed = Dialect::DsmlV41.parse(
        "T</think>\n\n<｜DSML｜ calls>\n<｜DSML｜ invoke name=\"edit\">\n<｜DSML｜ parameter name=\"pa",
        false,
        &specs,
    );
    assert!(parsed.refused[0].why.contains("cut off"), "{parsed:?}");
    assert_eq!(Dialect::DsmlV4.parse("Let me see", false, &specs).thought, "Let me see");
    // Qwen: the marks around a call left out, values on the line of their tags, Python's spelling.
    let parsed = read(
        Dialect::Qwen3Coder,
        "I look.\n<function=edit>\n<parameter=path>a</parameter>\n<parameter=dry>True</parameter>\n</function>",
    );
    assert_eq!((parsed.text.as_str(), parsed.calls), ("I look.", edit(json!({"path": "a", "dry": true}))));
    let parsed = read(Dialect::Qwen3Coder, "<tool_call>\n{\"name\": \"edit\"}\n</tool_call>");
    assert!(parsed.refused[0].why.contains("<function=name>"), "{parsed:?}");
    // GLM: what is no value of the schema's kind stays the text it is, and is told by the tool.
    let parsed = read(
        Dialect::Glm,
        "\n<think></think>\n<tool_call>edit\n<arg_key>count</arg_key>\n<arg_value>three</arg_value>\n</tool_call>",
    );
    assert_eq!(parsed.calls, edit(json!({"count": "three"})));
    let parsed = read(Dialect::Glm47, "T</think><tool_call>edit<arg_key>path</arg_key>oops</tool_call>");
    assert!(parsed.refused[0].why.contains("an argument is written"), "{parsed:?}");
    // gpt-oss: the recipient before the channel or behind it; arguments that are no JSON.
    for head in [
        " to=functions.edit<|channel|>commentary json",
        "<|channel|>commentary to=functions.edit <|constrain|>json",
    ] {
        let parsed = read(
            Dialect::Harmony,
            &format!(
                "<|channel|>analysis<|message|>T<|end|><|start|>assistant{head}<|message|>{{\"path\": \"a\"}}<|call|>"
            ),
        );
        assert_eq!((parsed.thought.as_str(), parsed.calls), ("T", edit(json!({"path": "a"}))), "{head}");
    }
    let parsed =
        read(Dialect::Harmony, "<|channel|>commentary to=functions.edit json<|message|>{oops}<|call|>");
    assert!(parsed.refused[0].why.contains("not valid JSON"), "{parsed:?}");
}

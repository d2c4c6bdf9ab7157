use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::tokenizer::tests::{pieces, real, tiny};

/// Seven tools, as a coding agent has them.
fn tools() -> Vec<Value> {
    let tool = |name: &str, required: Value, properties: Value| {
        json!({"name": name, "parameters": {
            "type": "object", "additionalProperties": false, "required": required, "properties": properties}})
    };
    let text = json!({"type": "string"});
    vec![
        tool(
            "exec",
            json!(["command"]),
            json!({"command": text, "timeout_secs": {"type": "integer", "minimum": 1, "maximum": 600}}),
        ),
        tool(
            "read",
            json!(["path"]),
            json!({"path": text, "from": {"type": "integer", "minimum": 1}, "lines": {"type": "integer", "minimum": 1, "maximum": 2000}}),
        ),
        tool("write", json!(["path", "text"]), json!({"path": text, "text": text})),
        tool(
            "edit",
            json!(["path", "old", "new"]),
            json!({"path": text, "old": text, "new": text, "all": {"type": "boolean"}}),
        ),
        tool("grep", json!(["pattern"]), json!({"pattern": text, "path": text, "glob": text})),
        tool("glob", json!(["pattern"]), json!({"pattern": text, "path": text})),
        tool(
            "list",
            json!(["path"]),
            json!({"path": text, "depth": {"type": "integer", "minimum": 1, "maximum": 5}}),
        ),
    ]
}

/// A reply of text and any number of calls: the grammar the module's documentation shows.
fn reply(tokenizer: &Tokenizer) -> GrammarSource {
    let call = |tool: &Value| {
        json!({"type": "object", "additionalProperties": false, "required": ["name", "arguments"],
               "properties": {"name": {"const": tool["name"]}, "arguments": tool["parameters"]}})
    };
    let body = json!({
        "x-guidance": {"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "},
        "anyOf": tools().iter().map(call).collect::<Vec<_>>(),
    });
    let open = tokenizer.special("<tool_call>").unwrap();
    let close = tokenizer.special("</tool_call>").unwrap();
    GrammarSource::Lark(format!(
        r#"start: TEXT calls?
TEXT: /(?s:.*)/ & ~/(?s:.*)<\/?tool_call>(?s:.*)/
calls: call ("\n" call)*
call: <[{open}]> "\n" body "\n" <[{close}]>
body: %json {body}
"#
    ))
}

fn allowed(mask: Option<&[u32]>, token: Token) -> bool {
    mask.is_none_or(|mask| mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1))
}

/// Commits `tokens` one by one, as long as the mask admits them; returns how many that was.
fn follow(grammar: &mut Grammar, tokens: &[Token]) -> usize {
    for (at, &token) in tokens.iter().enumerate() {
        if !allowed(grammar.mask().unwrap(), token) {
            return at;
        }
        grammar.commit(token).unwrap();
    }
    tokens.len()
}

const CALL: &str = "<tool_call>\n{\"name\": \"edit\", \"arguments\": {\"path\": \"src/lib.rs\", \"old\": \"fn main() \
                    {\\n    println!(\\\"hi\\\");\\n}\", \"new\": \"// 你好 👋\\n\"}}\n</tool_call>";

#[test]
fn a_reply_of_text_and_calls_fits_and_may_end_where_it_should() {
    // This is the form in which every call of a tool reaches the agent.
    for tokenizer in [Some(tiny()), real()].into_iter().flatten() {
        let mut grammar = Grammar::new(&reply(&tokenizer), &tokenizer).unwrap();
        assert!(grammar.may_end(), "a reply may be empty");
        let text = tokenizer
            .encode("I'll look. It's `Vec<String>`, a < b, <tool_ call>, </p>:\n\n```rust\nx();\n```\n")
            .unwrap();
        assert_eq!(follow(&mut grammar, &text), text.len());
        assert!(grammar.may_end() && !grammar.ended());

        let call = tokenizer.encode_with_special(CALL).unwrap();
        for &token in &call[..call.len() - 1] {
            assert_eq!(follow(&mut grammar, &[token]), 1, "{:?}", tokenizer.decode(&[token]));
            assert!(!grammar.may_end(), "a call that was begun is ended");
            let mask = grammar.mask().unwrap();
            assert!(tokenizer.ends().iter().all(|&end| !allowed(mask, end)));
        }
        assert_eq!(follow(&mut grammar, &call[call.len() - 1..]), 1);
        assert!(grammar.may_end() && !grammar.ended(), "another call may follow");

        let mut with_another = grammar.clone();
        let another = [tokenizer.encode("\n").unwrap(), call].concat();
        assert_eq!(follow(&mut with_another, &another), another.len());
        for mut grammar in [grammar, with_another] {
            assert!(tokenizer.ends().iter().all(|&end| allowed(grammar.mask().unwrap(), end)));
            grammar.commit(tokenizer.ends()[0]).unwrap();
            assert!(grammar.ended() && grammar.may_end());
        }
    }
}

#[test]
fn text_cannot_hold_a_mark_of_the_chat_format() {
    // A reply is put into the next prompt; what looks like a mark there must be one.
    for tokenizer in [Some(tiny()), real()].into_iter().flatten() {
        let mut grammar = Grammar::new(&reply(&tokenizer), &tokenizer).unwrap();
        let mask = grammar.mask().unwrap();
        for token in 0..tokenizer.vocabulary() as Token {
            let mark = tokenizer.is_special(token);
            let wanted = tokenizer.ends().contains(&token) || Some(token) == tokenizer.special("<tool_call>");
            assert!(!mark || allowed(mask, token) == wanted, "{:?}", tokenizer.decode(&[token]));
        }

        // However it is cut into tokens, the letters of the mark do not come to their end.
        let single: Vec<Token> = "x <tool_call>"
            .bytes()
            .flat_map(|byte| tokenizer.encode(&char::from(byte).to_string()).unwrap())
            .collect();
        for tokens in [
            single,
            tokenizer.encode("x <tool_call>").unwrap(),
            tokenizer.encode("x\n</tool_call>\n").unwrap(),
        ] {
            let mut grammar = Grammar::new(&reply(&tokenizer), &tokenizer).unwrap();
            let taken = follow(&mut grammar, &tokens);
            assert!(taken < tokens.len());
            assert!(!tokenizer.decode(&tokens[..taken]).contains("tool_call>"));
        }
    }
}

#[test]
fn whatever_is_sampled_under_the_mask_is_well_formed() {
    // A model that knows nothing at all must still not get a malformed call through.
    let tokenizer = tiny();
    let open = tokenizer.special("<tool_call>").unwrap();
    let close = tokenizer.special("</tool_call>").unwrap();
    let source = reply(&tokenizer);
    let mut chance = 12345_u32;
    let mut roll = move |sides: usize| {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (chance >> 8) as usize % sides
    };
    let quote = tokenizer.encode("\"").unwrap()[0];
    let mut calls = 0;
    for _ in 0..40 {
        let mut grammar = Grammar::new(&source, &tokenizer).unwrap();
        let mut tokens = Vec::new();
        while tokens.len() < 500 {
            let mask = grammar.mask().unwrap();
            let all: Vec<Token> =
                (0..tokenizer.vocabulary() as Token).filter(|&token| allowed(mask, token)).collect();
            // Chance alone would hardly ever begin a call, or end a string.
            let wanted = [open, close, quote, tokenizer.ends()[0]][roll(4)];
            let token = if roll(3) == 0 && all.contains(&wanted) { wanted } else { all[roll(all.len())] };
            grammar.commit(token).unwrap();
            if tokenizer.ends().contains(&token) {
                assert!(grammar.ended());
                break;
            }
            tokens.push(token);
        }
        if !grammar.ended() {
            continue;
        }
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| tokenizer.bytes(token)).copied().collect();
        String::from_utf8(bytes).expect("a whole reply is UTF-8");
        for call in tokens.split(|&token| token == open).skip(1) {
            let body = call.split(|&token| token == close).next().unwrap();
            let body: Value = serde_json::from_str(&tokenizer.decode(body)).unwrap();
            let tool =
                tools().into_iter().find(|tool| tool["name"] == body["name"]).expect("a tool there is");
            let arguments = body["arguments"].as_object().unwrap();
            for required in tool["parameters"]["required"].as_array().unwrap() {
                assert!(arguments.contains_key(required.as_str().unwrap()), "{body}");
            }
            for (name, value) in arguments {
                let kind = &tool["parameters"]["properties"][name]["type"];
                let fits = match kind.as_str().unwrap() {
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    "boolean" => value.is_boolean(),
                    other => panic!("{other}"),
                };
                assert!(fits, "{body}");
            }
            calls += 1;
        }
    }
    assert!(calls > 10, "only {calls} calls were made; the test tests nothing");
}

#[test]
fn a_schema_ends_with_its_value() {
    // Structured output stops by itself, and nothing can be appended to it.
    let tokenizer = tiny();
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                        "additionalProperties": false});
    let mut grammar = Grammar::new(&GrammarSource::JsonSchema(schema), &tokenizer).unwrap();
    assert!(!grammar.may_end());
    let tokens = tokenizer.encode("{\"ok\":true}").unwrap();
    grammar.advance(&tokens).unwrap();
    assert!(grammar.ended() && grammar.may_end());
    let mask = grammar.mask().unwrap();
    let count = (0..tokenizer.vocabulary() as Token).filter(|&token| allowed(mask, token)).count();
    assert_eq!(count, tokenizer.ends().len());
    grammar.commit(tokenizer.ends()[0]).unwrap();
    assert!(grammar.commit(tokens[0]).is_err());
}

#[test]
fn a_schema_is_kept_by_a_vocabulary_of_pieces() {
    // There every byte can be said in several ways, and the first token of a text may begin with a blank.
    let schema = json!({"type": "object", "required": ["name", "size"], "additionalProperties": false, "properties": {
        "name": {"type": "string", "maxLength": 12}, "size": {"type": "integer", "minimum": 0, "maximum": 999}}});
    for prefix in [false, true] {
        let tokenizer = pieces(prefix);
        let start = Grammar::new(&GrammarSource::JsonSchema(schema.clone()), &tokenizer).unwrap();

        let text = "{\"name\": \"a\u{1f642}\u{e9} \\n\", \"size\": 256}";
        let mark = tokenizer.special("<tool_call>").unwrap();
        // The blank before a text would not fit, and a grammar forces text that goes on.
        let word = tokenizer.encode("x").unwrap();
        let tokens = tokenizer.encode_after(&word, text).unwrap();
        assert_eq!(follow(&mut start.clone(), &tokens), tokens.len());
        assert!(!allowed(start.clone().mask().unwrap(), mark));
        // What the grammar forces comes in the tokens the model knows; within a text every byte may be said alone.
        let mut within = start.clone();
        within.advance(&tokenizer.encode_after(&tokens, "{\"name\": \"").unwrap()).unwrap();
        let single: Vec<Token> = "a é \u{1f642}".bytes().map(|byte| tokenizer.byte(byte).unwrap()).collect();
        assert_eq!(follow(&mut within, &single), single.len());

        let mut chance = 99_u32;
        for _ in 0..20 {
            let mut grammar = start.clone();
            let mut tokens = Vec::new();
            while !grammar.ended() && tokens.len() < 300 {
                let mask = grammar.mask().unwrap();
                let all: Vec<Token> =
                    (0..tokenizer.vocabulary() as Token).filter(|&token| allowed(mask, token)).collect();
                chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let token = all[(chance >> 8) as usize % all.len()];
                grammar.commit(token).unwrap();
                tokens.push(token);
            }
            let Ok(value) = serde_json::from_str::<Value>(&tokenizer.decode(&tokens)) else {
                assert!(!grammar.ended(), "{:?}", tokenizer.decode(&tokens));
                continue;
            };
            assert!(value["name"].is_string() && value["size"].as_u64().is_some_and(|size| size < 1000));
        }
    }
}

#[test]
fn a_model_without_a_tokenizer_gets_no_grammar() {
    // A grammar over tokens that stand for nothing would admit nothing.
    let tokenizer = Tokenizer::absent(1000);
    let error = Grammar::new(&GrammarSource::Lark("start: \"a\"".into()), &tokenizer).unwrap_err();
    assert!(matches!(&error, Error::Tokenizer(why) if why.contains("without a tokenizer")), "{error}");
}

#[test]
fn a_grammar_that_admits_everything_has_no_mask() {
    // The sampler then has nothing to do.
    let tokenizer = tiny();
    let mut grammar = Grammar::new(&GrammarSource::Lark("start: <[*]>*".into()), &tokenizer).unwrap();
    assert_eq!(grammar.mask().unwrap(), None);
}

#[test]
fn a_clone_goes_its_own_way() {
    // Forked timelines share a past and not a future.
    let tokenizer = tiny();
    let mut one =
        Grammar::new(&GrammarSource::Lark("start: \"a\" (\"b\" | \"c\") \"d\"".into()), &tokenizer).unwrap();
    one.advance(&tokenizer.encode("a").unwrap()).unwrap();
    let mut two = one.clone();
    one.advance(&tokenizer.encode("b").unwrap()).unwrap();
    assert_eq!(follow(&mut two, &tokenizer.encode("c").unwrap()), 1);
    for mut grammar in [one, two] {
        grammar.advance(&tokenizer.encode("d").unwrap()).unwrap();
        assert!(grammar.ended());
    }
}

#[test]
fn a_token_that_does_not_fit_is_refused() {
    // The mask and the commit must be of one mind.
    let tokenizer = tiny();
    let mut grammar = Grammar::new(&GrammarSource::Lark("start: \"a\"".into()), &tokenizer).unwrap();
    let error = grammar.advance(&tokenizer.encode("b").unwrap()).unwrap_err().to_string();
    assert!(error.contains("does not fit"), "{error}");
    assert!(grammar.mask().is_err(), "and nothing is masked wrongly after it");
    let mut grammar = Grammar::new(&GrammarSource::Lark("start: \"a\"".into()), &tokenizer).unwrap();
    assert!(grammar.commit(Token::MAX).is_err());
}

#[test]
fn a_grammar_that_cannot_be_compiled_says_why() {
    // Schemas come from strangers.
    let tokenizer = tiny();
    let check = |source: GrammarSource, expected: &str| {
        let message = Grammar::new(&source, &tokenizer).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        assert!(message.len() < 2000, "{message}");
    };
    let lark = |text: &str| GrammarSource::Lark(text.into());
    check(lark(""), "start");
    check(lark("start: ("), "1(9): Expected");
    check(lark("start: nothing"), "nothing");
    check(lark("start: <no_such_token>"), "no_such_token");
    check(lark("start: /(/"), "regex");
    check(lark(&format!("start: \"{}\"", "x".repeat(SOURCE_BYTES_MAX))), "shorten");
    check(GrammarSource::JsonSchema(json!({"type": "nonsense"})), "nonsense");
    check(GrammarSource::JsonSchema(json!({"$ref": "#/nowhere"})), "nowhere");
}

#[test]
fn masks_of_a_real_vocabulary_are_quick() {
    // A mask is computed for every token; a model on two cores takes some 50 ms for one.
    let Some(tokenizer) = real() else { return };
    let start = Instant::now();
    tokenizer.matching().unwrap();
    eprintln!("token trie in {:?}", start.elapsed());
    let source = reply(&tokenizer);
    let start = Instant::now();
    let mut grammar = Grammar::new(&source, &tokenizer).unwrap();
    eprintln!("seven tools compiled in {:?}", start.elapsed());

    let text = "I'll read the file first, because `Vec<String>` may not fit here. \nif a < b && c > d { return \"x\"; }\n";
    for (what, tokens) in [
        ("text, cold", tokenizer.encode(text).unwrap()),
        ("text, warm", tokenizer.encode(&text.repeat(10)).unwrap()),
        ("call", tokenizer.encode_with_special(CALL).unwrap()),
    ] {
        let mut times: Vec<Duration> = Vec::new();
        for token in tokens {
            let start = Instant::now();
            assert!(allowed(grammar.mask().unwrap(), token));
            grammar.commit(token).unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        eprintln!(
            "{what}: {} masks, median {:?}, p90 {:?}, p99 {:?}, worst {:?}",
            times.len(),
            at(50),
            at(90),
            at(99),
            at(100)
        );
        assert!(at(50) < Duration::from_millis(5));
    }
}

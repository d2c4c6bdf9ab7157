//! The prompts we write are the prompts the models' own encoders and templates write; `fixtures/dialects/make.py` tells
//! where the goldens come from.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use agent::dialect::{Dialect, Piece, Shape, Transcript, text_of, tokens_of};
use serde_json::Value;
use tools::Call;

/// The goldens, each with its conversation as one file of `saga render`, and the prompt.
fn goldens() -> Vec<(Dialect, String, Value, String)> {
    let whole: Value = serde_json::from_str(include_str!("fixtures/dialects/goldens.json")).unwrap();
    let golden = |golden: &Value| {
        let name = golden["conversation"].as_str().unwrap();
        let mut file = golden.clone();
        file.as_object_mut().unwrap().extend(whole["conversations"][name].as_object().unwrap().clone());
        let part = |part: &Value| match part {
            Value::String(text) => text.clone(),
            number => whole["shared"][number.as_u64().unwrap() as usize].as_str().unwrap().to_string(),
        };
        let prompt = golden["prompt"].as_array().unwrap().iter().map(part).collect();
        let told = format!(
            "{} {name} {} {} drop {}",
            golden["dialect"], golden["thinking_mode"], golden["reasoning_effort"], golden["drop_thinking"]
        );
        (Dialect::named(golden["dialect"].as_str().unwrap()).unwrap(), told, file, prompt)
    };
    whole["goldens"].as_array().unwrap().iter().map(golden).collect()
}

fn pieces(dialect: Dialect, file: &Value) -> Vec<Piece> {
    dialect.write(&Transcript::read(file).unwrap()).unwrap()
}

#[test]
fn every_prompt_is_the_one_its_makers_write() {
    // A character that differs is another token, and what the model was not trained on.
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (dialect, told, file, prompt) in goldens() {
        let ours = text_of(&pieces(dialect, &file), |_| String::new());
        assert_eq!(ours, prompt, "{told}");
        *counts.entry(dialect.name()).or_default() += 1;
    }
    for dialect in ["dsml-v4", "dsml-v41", "glm", "glm-4.7", "harmony", "qwen3-coder", "qwen3.5"] {
        assert!(counts.get(dialect).is_some_and(|count| *count >= 8), "{dialect}: {counts:?}");
    }
}

#[test]
fn what_people_and_tools_say_is_never_a_mark() {
    // A file that spells a mark of the format must not become one.
    let marks =
        "</think> <｜User｜> <｜DSML｜tool_calls> <|im_start|> <|call|> <|user|> <tool_call> <arg_value>";
    let conversation = serde_json::json!({
        "messages": [
            {"role": "system", "content": marks},
            {"role": "user", "content": marks},
            {"role": "assistant", "content": marks, "reasoning_content": marks,
             "tool_calls": [{"id": "1", "function": {"name": "read", "arguments": {"path": marks}}}]},
            {"role": "tool", "tool_call_id": "1", "content": marks},
        ],
        "tools": [{"type": "function", "function": {"name": "read", "description": marks,
                   "parameters": {"type": "object", "properties": {"path": {"type": "string", "description": marks}}}}}],
    });
    let plain: Value = serde_json::from_str(&conversation.to_string().replace(marks, "x")).unwrap();
    for dialect in Dialect::ALL {
        let special = |file: &Value| -> Vec<&'static str> {
            pieces(dialect, file)
                .into_iter()
                .filter_map(|piece| match piece {
                    Piece::Special(name) => Some(name),
                    _ => None,
                })
                .collect()
        };
        assert_eq!(special(&conversation), special(&plain), "{}", dialect.name());
    }
}

#[test]
fn a_conversation_that_makes_no_sense_is_refused_with_its_place() {
    for (file, why) in [
        ("[]", "a conversation is a JSON object"),
        ("{}", "needs \"messages\""),
        (r#"{"messages": [1]}"#, "messages[0]: a message is a JSON object"),
        (r#"{"messages": [{"role": "user"}, {"role": "king"}]}"#, "messages[1]: the role \"king\""),
        (r#"{"messages": [{"role": "user", "content": 3}]}"#, "messages[0]: content: "),
        (r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#, "no text"),
        (r#"{"messages": [{"role": "assistant", "tool_calls": [{}]}]}"#, "needs a function's \"name\""),
        (r#"{"messages": [], "tools": [{}]}"#, "tools: a tool is an object"),
        (r#"{"messages": [], "thinking_mode": "deep"}"#, "\"chat\" or \"thinking\""),
        (r#"{"messages": [], "reasoning_effort": 101}"#, "from 1 to 100"),
        (r#"{"messages": [], "drop_thinking": "yes"}"#, "true or false"),
    ] {
        let said = Transcript::read(&serde_json::from_str(file).unwrap()).unwrap_err();
        assert!(said.contains(why), "{file}: {said}");
    }
    let numbered = serde_json::json!({"messages": [], "reasoning_effort": 30});
    let transcript = Transcript::read(&numbered).unwrap();
    assert!(Dialect::DsmlV4.write(&transcript).unwrap_err().contains("no numbers"));
    assert!(Dialect::Harmony.write(&transcript).unwrap_err().contains("no numbers"));
    assert!(Dialect::DsmlV41.write(&transcript).is_ok());
}

#[test]
#[ignore = "needs DeepSeek's tokenizer.json, which is too large to keep here; run by `just deepseek`, and by the gate"]
fn the_ids_of_a_prompt_are_those_of_deepseeks_tokenizer() {
    let path =
        std::env::var_os("SAGA_DEEPSEEK_TOKENIZER").expect("SAGA_DEEPSEEK_TOKENIZER names a tokenizer.json");
    let tokenizer = engine::Tokenizer::from_json(std::path::Path::new(&path)).unwrap();
    for (dialect, told, file, prompt) in goldens() {
        if dialect == Dialect::DsmlV4 {
            let ids = tokens_of(&pieces(dialect, &file), &tokenizer).unwrap();
            assert_eq!(tokenizer.decode(&ids), prompt, "{told}");
            // Where no text spells a mark, marks found in the text are the marks that were placed.
            if !prompt.contains("｜DSML｜ are text") && !prompt.contains("</tool_result> <｜User｜>") {
                assert_eq!(ids, tokenizer.encode_with_special(&prompt).unwrap(), "{told}");
            }
        }
    }
    let hello = serde_json::json!({"thinking_mode": "chat", "messages": [
        {"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello"}]});
    let ids = tokens_of(&pieces(Dialect::DsmlV4, &hello), &tokenizer).unwrap();
    assert_eq!(ids, [0, 3476, 477, 260, 11502, 22896, 16, 128803, 19923, 128804, 128822]);
    // And its grammars compile for a vocabulary of this size, and admit a call.
    let toolbox = tools::Toolbox::builtin();
    let special = |name: &str| tokenizer.special(name);
    let call = Call { id: String::new(), name: "list".into(), arguments: serde_json::json!({}) };
    for dialect in [Dialect::DsmlV4, Dialect::DsmlV41] {
        let source = dialect.grammar(&toolbox.specs(), Shape::Free, &[], special);
        let mut grammar = engine::Grammar::new(&source, &tokenizer).unwrap();
        let reply = dialect.reply("Where?", "I look.", std::slice::from_ref(&call));
        grammar.advance(&tokens_of(&reply, &tokenizer).unwrap()).unwrap();
        assert!(grammar.may_end());
    }
}

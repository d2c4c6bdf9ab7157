//! The prompts we render are the prompts the models' own templates render.
//!
//! The templates are those that the models' files carry. A conversation is given to both; sampled replies, which our
//! side never renders, are given to ours as the tokens of the template's text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use agent::dialect::{Dialect, spaced, text_of};
use agent::{Answer, Message, Stop};
use minijinja::{Environment, Value, context};
use serde_json::json;
use tools::{Call, Replay, Spec};

/// Renders with the model's own template, as the libraries that trained it do.
fn theirs(template: &str, messages: serde_json::Value, tools: serde_json::Value) -> String {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    // Their `tojson` is Python's `json.dumps(ensure_ascii=False)`: spaces after separators, nothing escaped for HTML.
    environment.add_filter("tojson", |value: Value| {
        spaced(&serde_json::to_value(&value).expect("a template value is JSON"))
    });
    environment.add_template("chat", template).unwrap();
    let messages = Value::from_serialize(&messages);
    let tools = Value::from_serialize(&tools);
    environment
        .get_template("chat")
        .unwrap()
        .render(context! { messages, tools, add_generation_prompt => true })
        .unwrap()
}

/// Renders with our dialect; a "token" here is one byte of the reply.
fn ours(conversation: &[Message]) -> String {
    text_of(&Dialect::Hermes.render(conversation), |tokens| {
        String::from_utf8(tokens.iter().map(|token| u8::try_from(*token).unwrap()).collect()).unwrap()
    })
}

fn spec(name: &str, description: &str, parameters: serde_json::Value) -> Spec {
    Spec {
        name: name.into(),
        description: description.into(),
        parameters,
        replay: Replay::Safe,
        bounds: Vec::new(),
        reach: tools::Reach::Workspace,
    }
}

fn specs() -> Vec<Spec> {
    vec![
        spec(
            "list",
            "Lists a folder.",
            json!({"type": "object", "properties": {"path": {"type": "string"}}}),
        ),
        spec(
            "edit",
            "Replaces text: \"old\" → 'new' <b>日本</b>.",
            json!({"type": "object", "required": ["path", "old", "new"], "properties": {
                "path": {"type": "string"}, "old": {"type": "string"}, "new": {"type": "string"}}}),
        ),
    ]
}

fn described() -> serde_json::Value {
    specs()
        .iter()
        .map(|s| json!({"type": "function", "function": {"name": s.name, "description": s.description, "parameters": s.parameters}}))
        .collect()
}

fn assistant(text: &str, calls: &[Call]) -> Message {
    let whole = text_of(&Dialect::Hermes.reply("", text, calls), |_| String::new());
    Message::Assistant {
        tokens: whole.bytes().map(u32::from).collect(),
        text: text.into(),
        calls: calls.to_vec(),
        stop: Stop::End,
    }
}

fn answers(texts: &[&str]) -> Message {
    Message::Results {
        answers: texts.iter().map(|text| Answer { call: None, name: None, text: text.to_string() }).collect(),
    }
}

fn system(tools: Vec<Spec>) -> Message {
    Message::System { text: "You work on code.".into(), tools }
}

fn user(text: &str) -> Message {
    Message::User { text: text.into() }
}

#[test]
fn a_conversation_with_tools_is_rendered_as_qwen_does() {
    let calls = [
        Call { id: "1".into(), name: "list".into(), arguments: json!({"path": "src"}) },
        Call {
            id: "2".into(),
            name: "edit".into(),
            arguments: json!({"path": "a.py", "old": "a\n\t\"b\"", "new": "é🦀"}),
        },
    ];
    let conversation = [
        system(specs()),
        user("Mend it. 日本語 🦀 \"quoted\" <tool_response>"),
        assistant("I look.", &calls),
        answers(&["a.py\nb.py", "exit code 1"]),
        assistant("Mended.", &[]),
        user("Thanks"),
    ];
    let said = |calls: &[Call]| -> serde_json::Value {
        calls
            .iter()
            .map(|c| json!({"type": "function", "function": {"name": c.name, "arguments": c.arguments}}))
            .collect()
    };
    let messages = json!([
        {"role": "system", "content": "You work on code."},
        {"role": "user", "content": "Mend it. 日本語 🦀 \"quoted\" <tool_response>"},
        {"role": "assistant", "content": "I look.", "tool_calls": said(&calls)},
        {"role": "tool", "content": "a.py\nb.py"},
        {"role": "tool", "content": "exit code 1"},
        {"role": "assistant", "content": "Mended."},
        {"role": "user", "content": "Thanks"},
    ]);
    // This file's template writes the example call in doubled braces, left over from a format string: the model was
    // trained on single ones, as its sister models' templates and its own calls show. That alone is mended here.
    let template = include_str!("fixtures/qwen2.5-coder.jinja")
        .replace("{{\\\"name\\\": <function-name>", "{\\\"name\\\": <function-name>")
        .replace("<args-json-object>}}", "<args-json-object>}");
    assert_eq!(ours(&conversation), theirs(&template, messages, described()));
}

#[test]
fn a_call_without_text_begins_the_reply() {
    // Their template puts a line break before a call also where no text comes before it; a model that samples a call
    // first writes none, and sampled tokens are what counts. The rest of the prompt is the same.
    let call = Call { id: "1".into(), name: "list".into(), arguments: json!({}) };
    let rendered = ours(&[system(specs()), user("Go"), assistant("", &[call])]);
    assert!(rendered.contains("<|im_start|>assistant\n<tool_call>\n{\"name\": \"list\", \"arguments\": {}}\n</tool_call><|im_end|>\n"));
}

#[test]
fn a_plain_conversation_is_rendered_as_both_models_do() {
    let conversation = [system(Vec::new()), user("Hi"), assistant("Hello.", &[]), user("Bye")];
    let messages = json!([
        {"role": "system", "content": "You work on code."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]);
    for template in [include_str!("fixtures/qwen2.5-coder.jinja"), include_str!("fixtures/smollm2.jinja")] {
        assert_eq!(ours(&conversation), theirs(template, messages.clone(), json!([])));
    }
}

#[test]
fn the_prompt_grows_only_at_its_end() {
    // Each longer conversation begins with the whole of the shorter one's prompt: what was computed stays of use.
    let conversation = [
        system(specs()),
        user("Go"),
        assistant("One.", &[]),
        answers(&["ok"]),
        user("More"),
        assistant("Two.", &[]),
        user("End"),
    ];
    for cut in [2, 5] {
        let (short, long) = (ours(&conversation[..cut]), ours(&conversation));
        assert!(long.starts_with(&short), "{short:?} is no prefix of {long:?}");
    }
}

//! ChatML turns with Hermes tool calls.
//!
//! ```text
//! <|im_start|>system … # Tools … <tools> one JSON object a line </tools> …<|im_end|>
//! <|im_start|>user … <|im_end|>
//! <|im_start|>assistant text <tool_call>{"name": …, "arguments": {…}}</tool_call> …<|im_end|>
//! <|im_start|>user <tool_response> … </tool_response> …<|im_end|>
//! ```
//!
//! The wording around the tools is that of Qwen2.5's own template, because that is what the model was trained to obey;
//! a test renders golden conversations with the template itself and compares.

use serde_json::Value;
use tools::{Call, Spec};

use super::{Parsed, Piece};
use crate::context::{Answer, Message};
use crate::event::Refused;

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";
/// Begins a call.
pub const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";

/// The prompt for the next reply.
pub fn render(conversation: &[Message]) -> Vec<Piece> {
    let mut out = Vec::new();
    for message in conversation {
        match message {
            Message::System { text, tools } => system(text, tools, &mut out),
            Message::User { text } => turn("user", [Piece::Text(text.clone())], &mut out),
            Message::Assistant { tokens, .. } => {
                out.extend([
                    Piece::Special(START),
                    Piece::Text("assistant\n".into()),
                    Piece::Sampled(tokens.clone()),
                ]);
                // A whole reply has sampled its own end; one that was cut off is closed for it.
                out.extend([Piece::Special(END), Piece::Text("\n".into())]);
            }
            Message::Results { answers } => results(answers, &mut out),
        }
    }
    out.extend([Piece::Special(START), Piece::Text("assistant\n".into())]);
    out
}

fn turn(role: &str, body: impl IntoIterator<Item = Piece>, out: &mut Vec<Piece>) {
    out.extend([Piece::Special(START), Piece::Text(format!("{role}\n"))]);
    out.extend(body);
    out.extend([Piece::Special(END), Piece::Text("\n".into())]);
}

fn system(text: &str, tools: &[Spec], out: &mut Vec<Piece>) {
    let mut body = vec![Piece::Text(text.to_string())];
    if !tools.is_empty() {
        let listed: String = tools.iter().map(|tool| format!("\n{}", describe(tool))).collect();
        body.push(Piece::Text(format!(
            "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with \
             function signatures within <tools></tools> XML tags:\n<tools>{listed}\n</tools>\n\nFor each function call, \
             return a json object with function name and arguments within "
        )));
        body.push(Piece::Special(CALL));
        body.push(Piece::Special(CALL_END));
        body.push(Piece::Text(" XML tags:\n".into()));
        body.push(Piece::Special(CALL));
        body.push(Piece::Text("\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n".into()));
        body.push(Piece::Special(CALL_END));
    }
    turn("system", body, out);
}

fn results(answers: &[Answer], out: &mut Vec<Piece>) {
    let body: String = answers
        .iter()
        .map(|answer| format!("\n<tool_response>\n{}\n</tool_response>", answer.text))
        .collect();
    // One user turn holds all answers, and no line break of its own comes after the role.
    out.extend([
        Piece::Special(START),
        Piece::Text(format!("user{body}")),
        Piece::Special(END),
        Piece::Text("\n".into()),
    ]);
}

/// A tool as the model reads it.
fn describe(tool: &Spec) -> String {
    spaced(&serde_json::json!({
        "type": "function",
        "function": { "name": tool.name, "description": tool.description.trim(), "parameters": tool.parameters },
    }))
}

/// JSON with a space after each comma and colon, as the templates' `tojson` writes it.
pub fn spaced(value: &Value) -> String {
    struct Spaced;
    impl serde_json::ser::Formatter for Spaced {
        fn begin_array_value<W: ?Sized + std::io::Write>(
            &mut self,
            w: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            w.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_key<W: ?Sized + std::io::Write>(
            &mut self,
            w: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            w.write_all(if first { b"" } else { b", " })
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
            w.write_all(b": ")
        }
    }
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    serde::Serialize::serialize(value, &mut serializer)
        .expect("a JSON value is written to memory without fail");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// A call as the model writes it.
pub fn render_call(call: &Call) -> String {
    let body = spaced(&serde_json::json!({ "name": call.name, "arguments": call.arguments }));
    format!("{CALL}\n{body}\n{CALL_END}")
}

/// Reads a reply: the text before the first call, then the calls. What stands in a call's strings is never taken for
/// syntax: the JSON is read by its own rules.
pub fn parse(reply: &str, whole: bool) -> Parsed {
    let reply = reply.strip_suffix(END).unwrap_or(reply);
    let mut parsed = Parsed::default();
    let mut rest = reply;
    let Some(first) = rest.find(CALL) else {
        parsed.text = rest.trim().to_string();
        return parsed;
    };
    let mut text = rest[..first].to_string();
    rest = &rest[first..];
    while let Some(after) = rest.strip_prefix(CALL) {
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Value>();
        let (read, used) = match values.next() {
            Some(Ok(value)) => (call(value), values.byte_offset()),
            Some(Err(error)) => (Err(unreadable(&error, whole)), skip(after)),
            None => (Err("the call is empty".to_string()), skip(after)),
        };
        match read {
            Ok(call) => parsed.calls.push(call),
            Err(why) => parsed.refused.push(Refused { text: after[..used].trim().to_string(), why }),
        }
        rest = after[used..].trim_start();
        rest = rest.strip_prefix(CALL_END).unwrap_or(rest);
        // What stands between two calls is text.
        let next = rest.find(CALL).unwrap_or(rest.len());
        text.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    parsed.text = text.trim().to_string();
    parsed
}

fn unreadable(error: &serde_json::Error, whole: bool) -> String {
    if !whole && error.is_eof() {
        return "the call was cut off before its end. Write less in one call.".to_string();
    }
    format!(
        "the call is not valid JSON ({error}). Write {CALL}\n{{\"name\": …, \"arguments\": {{…}}}}\n{CALL_END}, with quotes and line breaks in \
         strings escaped"
    )
}

/// Where an unreadable call ends: after its own end mark, before the next call, or at the end of the reply.
fn skip(after: &str) -> usize {
    let end = after.find(CALL_END);
    let next = after.find(CALL);
    match (end, next) {
        (Some(end), Some(next)) => end.min(next),
        (Some(at), None) | (None, Some(at)) => at,
        (None, None) => after.len(),
    }
}

fn call(value: Value) -> Result<Call, String> {
    let Value::Object(mut map) = value else { return Err("a call is a JSON object".to_string()) };
    let name = match map.remove("name") {
        Some(Value::String(name)) if !name.is_empty() => name,
        _ => return Err("a call needs a \"name\"".to_string()),
    };
    let arguments = match map.remove("arguments").or_else(|| map.remove("parameters")) {
        Some(arguments @ Value::Object(_)) => arguments,
        // Some models write the arguments as a string of JSON.
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(arguments @ Value::Object(_)) => arguments,
            _ => return Err("\"arguments\" is a JSON object".to_string()),
        },
        None => Value::Object(serde_json::Map::new()),
        Some(_) => return Err("\"arguments\" is a JSON object".to_string()),
    };
    Ok(Call { id: String::new(), name, arguments })
}

/// The grammar of a reply in llguidance's Lark dialect.
pub fn grammar(tools: &[Spec], special: impl Fn(&str) -> Option<engine::Token>) -> String {
    let mark = |name: &str| match special(name) {
        Some(token) => format!("<[{token}]>"),
        None => serde_json::Value::from(name).to_string(),
    };
    let mut lark = String::new();
    if tools.is_empty() {
        lark.push_str("start: TEXT\nTEXT: /(?s:.*)/\n");
        return lark;
    }
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    // Free text never holds the marks as ordinary letters: a call is always the special token, or it is no call.
    lark.push_str("start: TEXT (call (\"\\n\" call)*)?\n");
    lark.push_str("TEXT: /(?s:.*)/ & ~/(?s:.*)<\\/?tool_call>(?s:.*)/\n");
    lark.push_str(&format!(
        "call: {} \"\\n\" body \"\\n\" {}\nbody: {}\n",
        mark(CALL),
        mark(CALL_END),
        names.join(" | ")
    ));
    for (tool, name) in tools.iter().zip(&names) {
        let head = Value::from(format!("{{\"name\": {}, \"arguments\": ", Value::from(tool.name.as_str())));
        lark.push_str(&format!("{name}: {head} %json {} \"}}\"\n", schema(tool)));
    }
    lark
}

/// A tool's schema with the white space the model writes by itself.
fn schema(tool: &Spec) -> Value {
    let mut schema = tool.parameters.clone();
    if let Value::Object(map) = &mut schema {
        map.insert(
            "x-guidance".to_string(),
            serde_json::json!({ "item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false }),
        );
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call_of(name: &str, arguments: Value) -> Call {
        Call { id: String::new(), name: name.into(), arguments }
    }

    #[test]
    fn a_rendered_call_is_read_back() {
        // Strings may hold the marks themselves: a session that edits this very file must work.
        for arguments in [
            serde_json::json!({}),
            serde_json::json!({"path": "a.py", "old": "x = \"<tool_call>\"\n", "new": "</tool_call>\n{\"name\": 1}"}),
            serde_json::json!({"n": 3, "deep": [{"a": null}], "text": "日本 🦀 \u{0007}"}),
        ] {
            let call = call_of("edit", arguments);
            let reply = format!("Let me look.\n{}\n{}<|im_end|>", render_call(&call), render_call(&call));
            let parsed = parse(&reply, true);
            assert_eq!(parsed.text, "Let me look.");
            assert_eq!(parsed.calls, [call.clone(), call]);
            assert_eq!(parsed.refused, []);
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_next_call_still_counts() {
        let good = call_of("list", serde_json::json!({}));
        let reply =
            format!("<tool_call>\n{{\"name\": \"read\", oops}}\n</tool_call>\n{}", render_call(&good));
        let parsed = parse(&reply, true);
        assert_eq!(parsed.calls, [good]);
        assert_eq!(parsed.refused.len(), 1);
        assert!(parsed.refused[0].why.contains("not valid JSON"), "{}", parsed.refused[0].why);
    }

    #[test]
    fn a_call_that_was_cut_off_says_so() {
        let parsed = parse("<tool_call>\n{\"name\": \"write\", \"arguments\": {\"content\": \"abc", false);
        assert_eq!(parsed.calls, []);
        assert!(parsed.refused[0].why.contains("cut off"), "{}", parsed.refused[0].why);
    }

    #[test]
    fn no_reply_makes_the_parser_panic() {
        for reply in [
            "",
            "<tool_call>",
            "<tool_call></tool_call>",
            "<tool_call>[1]</tool_call>",
            "<tool_call>{}",
            "a<tool_call>\u{0}",
        ] {
            let parsed = parse(reply, true);
            assert!(parsed.calls.is_empty(), "{reply:?}");
        }
    }
}

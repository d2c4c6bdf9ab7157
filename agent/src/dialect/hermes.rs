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

use super::{Parsed, Piece, Quotes, Shape};
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

/// Where a call begins in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Here: what comes before is text.
    At(usize),
    /// Perhaps here: the next bytes will tell. What comes before is text.
    Perhaps(usize),
    /// Nowhere yet.
    No,
}

/// Finds the first call of a reply: the call mark, or an object that begins with a name. Small models leave the marks
/// out, or put the object into a fence; a call is a call all the same, bound by the same grammar.
pub fn begin(text: &str) -> Begin {
    let mut perhaps = None;
    for (at, c) in text.char_indices() {
        let rest = &text[at..];
        let found = match c {
            '<' => matches_so_far(rest, CALL),
            '{' => {
                let inner = rest[1..].trim_start();
                if rest.len() - 1 - inner.len() > 8 { Some(false) } else { matches_so_far(inner, NAME) }
            }
            _ => Some(false),
        };
        match found {
            Some(true) => return Begin::At(fence(&text[..at])),
            None => {
                perhaps = Some(at);
                break;
            }
            Some(false) => {}
        }
    }
    match perhaps {
        Some(at) => Begin::Perhaps(fence(&text[..at])),
        None => {
            // A fence at the end may be about to hold a call.
            let cut = fence(text);
            let open = text[cut..].trim_end_matches('\n');
            let growing =
                (1..FENCE.len()).rev().find(|n| text.ends_with(&FENCE[..*n])).map(|n| text.len() - n);
            match (cut < text.len() && !open.is_empty(), growing) {
                (true, _) => Begin::Perhaps(cut),
                (false, Some(at)) => Begin::Perhaps(at),
                (false, None) => Begin::No,
            }
        }
    }
}

const NAME: &str = "\"name\"";
const FENCE: &str = "```json";

/// Whether `text` begins with `wanted`; nothing when it ends before that is settled.
fn matches_so_far(text: &str, wanted: &str) -> Option<bool> {
    if text.starts_with(wanted) {
        Some(true)
    } else if wanted.starts_with(text) {
        None
    } else {
        Some(false)
    }
}

/// Where the text before a call ends: before a fence that opens for it.
fn fence(before: &str) -> usize {
    let trimmed = before.trim_end();
    let stripped = trimmed.strip_suffix(FENCE).or_else(|| trimmed.strip_suffix("```"));
    stripped.map_or(before.len(), str::len)
}

/// Reads a reply: the text before the first call, then the calls. What stands in a call's strings is never taken for
/// syntax: the JSON is read by its own rules.
pub fn parse(reply: &str, whole: bool) -> Parsed {
    let mut rest = reply.strip_suffix(END).unwrap_or(reply);
    let mut parsed = Parsed::default();
    let mut text = String::new();
    while let Begin::At(at) = begin(rest) {
        text.push_str(&rest[..at]);
        rest = rest[at..].trim_start();
        rest = rest.strip_prefix(FENCE).or_else(|| rest.strip_prefix("```")).unwrap_or(rest).trim_start();
        let marked = rest.strip_prefix(CALL);
        let body = marked.unwrap_or(rest);
        let mut values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
        let (read, used) = match values.next() {
            // An object with a name that is no call, such as a piece of some file, is text.
            Some(Ok(value)) if marked.is_none() && value.get("arguments").is_none() => {
                let used = values.byte_offset();
                text.push_str(&body[..used]);
                rest = &body[used..];
                continue;
            }
            Some(Ok(value)) => (call(value), values.byte_offset()),
            Some(Err(error)) => (Err(unreadable(&error, whole)), skip(body)),
            None => (Err("the call is empty".to_string()), skip(body)),
        };
        match read {
            Ok(call) => parsed.calls.push(call),
            Err(why) => parsed.refused.push(Refused { text: body[..used].trim().to_string(), why }),
        }
        rest = body[used..].trim_start();
        rest = rest.strip_prefix(CALL_END).or_else(|| rest.strip_prefix("```")).unwrap_or(rest);
    }
    text.push_str(rest);
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
pub fn grammar(
    tools: &[&Spec],
    shape: Shape,
    quotes: &Quotes,
    special: impl Fn(&str) -> Option<engine::Token>,
) -> String {
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
    // Free text never holds the marks as ordinary letters: a call is always the special token, or it is no call. Nor
    // does it hold an object that begins with a name: that is a call without its marks, and bound like any other.
    lark.push_str(match shape {
        Shape::Free => "start: PLAIN? BRACED* (call (\"\\n\" call)*)?\n",
        Shape::OneCall => "start: PLAIN? BRACED* call?\n",
        // A paragraph is room to think; more would be a small model telling a story instead of acting, and code in it
        // the whole file written out again.
        Shape::CallNow => "start: marked\n",
        Shape::MustCall => {
            "start: thought marked\nthought[max_tokens=110]: THOUGHT\nTHOUGHT: /[A-Z](?s:.*)/ & ~/(?s:.*)<\\/?tool_call>(?s:.*)/ & ~/(?s:.*)``(?s:.*)/ & ~/(?s:.*)\\{[ \\n\\t]*\"name\"(?s:.*)/\n"
        }
    });
    lark.push_str("PLAIN: /[^{]+/ & ~/(?s:.*)<\\/?tool_call>(?s:.*)/\n");
    lark.push_str(
        "BRACED: /\\{[^{]*/ & ~/(?s:.*)<\\/?tool_call>(?s:.*)/ & ~/\\{[ \\n\\t]*\"name\"(?s:.*)/\n",
    );
    lark.push_str(&format!(
        "call: marked | body FENCE?\nmarked: {} \"\\n\" body \"\\n\" {}\nFENCE: /\\n```/\nCLOSE: /[ \\n\\t]{{0,4}}\\}}/\nbody: {}\n",
        mark(CALL),
        mark(CALL_END),
        names.join(" | ")
    ));
    for (i, (tool, name)) in tools.iter().zip(&names).enumerate() {
        // Tool names are letters and underscores, so they need no escapes in a regular expression.
        let head =
            format!("/\\{{[ \\n\\t]{{0,8}}\"name\": ?\"{}\",[ \\n\\t]{{1,8}}\"arguments\": ?/", tool.name);
        let arguments = match quoted(tool, quotes, &mut lark) {
            true => "quoted".to_string(),
            false => format!("%json {}", schema(tool)),
        };
        lark.push_str(&format!("{name}: HEAD_{i} {arguments} CLOSE\nHEAD_{i}: {head}\n"));
    }
    lark
}

/// Writes the rule `quoted` of a tool's arguments, when they are bound to what stands in files.
fn quoted(tool: &Spec, quotes: &Quotes, lark: &mut String) -> bool {
    if tool.name != quotes.tool || quotes.files.is_empty() {
        return false;
    }
    let literal = |text: &str| Value::from(text).to_string();
    let others = tool.parameters["properties"].as_object().into_iter().flatten();
    let others: Vec<String> = others
        .filter(|(name, _)| ![quotes.path, quotes.text].contains(&name.as_str()))
        .map(|(name, schema)| format!("{} %json {schema}", literal(&format!(", \"{name}\": "))))
        .collect();
    let names: Vec<String> = (0..quotes.files.len()).map(|i| format!("quote_{i}")).collect();
    lark.push_str(&format!("quoted: ({}) \"\\\"\" {} \"}}\"\n", names.join(" | "), others.join(" ")));
    for (i, (path, text)) in quotes.files.iter().enumerate() {
        let head = format!("{{\"{}\": {}, \"{}\": \"", quotes.path, literal(path), quotes.text);
        let chunks = serde_json::json!({ "substring_chunks": chunks(text) });
        // More than white space, which is spelled \n and \t here.
        lark.push_str(&format!(
            "quote_{i}: {} QUOTE_{i}\nQUOTE_{i}: %regex {chunks} & /(?s:.*)[^ nt\\\\](?s:.*)/\n",
            literal(&head)
        ));
    }
    true
}

/// A text as it stands in a JSON string, in the pieces a quotation may begin and end with: a line's indentation, the
/// rest of the line, its end.
fn chunks(text: &str) -> Vec<String> {
    let escaped = |text: &str| {
        let json = Value::from(text).to_string();
        json[1..json.len() - 1].to_string()
    };
    let mut chunks = Vec::new();
    for line in text.split_inclusive('\n') {
        let (body, end) = match line.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        let bare = body.trim_start_matches([' ', '\t']);
        let pieces = [&body[..body.len() - bare.len()], bare, end];
        chunks.extend(pieces.into_iter().filter(|piece| !piece.is_empty()).map(escaped));
    }
    chunks
}

/// A tool's schema, with the white space models write by themselves: Python's on one line, or a little more.
fn schema(tool: &Spec) -> Value {
    let mut schema = tool.parameters.clone();
    if let Value::Object(map) = &mut schema {
        map.insert("x-guidance".to_string(), serde_json::json!({ "whitespace_pattern": "[ \\n\\t]{0,8}" }));
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
    fn a_call_without_its_marks_is_a_call() {
        // The default model leaves the marks out, or puts the object into a fence.
        let list = call_of("list", serde_json::json!({"path": "."}));
        for reply in [
            "{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}",
            "I look.\n```json\n{\n  \"name\": \"list\",\n  \"arguments\": {\n    \"path\": \".\"\n  }\n}\n```",
            "I look.\n```\n{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}\n```\n<tool_call>\n{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}\n</tool_call>",
        ] {
            let parsed = parse(reply, true);
            assert!(!parsed.calls.is_empty() && parsed.calls.iter().all(|call| *call == list), "{parsed:?}");
            assert!(parsed.text.is_empty() || parsed.text == "I look.", "{parsed:?}");
        }
        let person = "The file says {\"name\": \"bob\"}, and {x}.";
        assert_eq!(parse(person, true), Parsed { text: person.to_string(), ..Parsed::default() });
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

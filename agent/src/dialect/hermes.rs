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
//! a test renders golden conversations with the template itself and compares. Qwen3 writes the same and may think first,
//! between `<think>` and `</think>`: a model whose vocabulary has these marks is free to.

use serde_json::Value;
use tools::{Call, Spec};

use super::json::{arguments, spaced};
use super::transcript::{Orders, Said, Transcript, Turn};
use super::{Bound, Parsed, Piece, Seek, Shape, Stage, push, seek};
use crate::context::Answer;
use crate::event::Refused;

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";
const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";
const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";

/// The prompt for the next reply.
pub(super) fn render(transcript: &Transcript) -> Vec<Piece> {
    let mut out = Vec::new();
    let last = transcript.last_user();
    for (at, turn) in transcript.turns.iter().enumerate() {
        match turn {
            Turn::System(orders) | Turn::Developer(orders) => system(orders, &mut out),
            Turn::User { text, .. } | Turn::Reminder { text } => said("user", text, &mut out),
            Turn::Assistant { said, open } => {
                out.extend([Piece::Special(START), Piece::Text("assistant\n".into())]);
                match said {
                    Said::Sampled { tokens, .. } => out.push(Piece::Sampled(tokens.clone())),
                    Said::Written { thought, text, calls } => {
                        // Thoughts of earlier turns are left out where they may be.
                        let remembered =
                            transcript.thinking && (!transcript.forgets || last.is_none_or(|last| at > last));
                        reply(if remembered { thought } else { "" }, text, calls, &mut out);
                    }
                }
                // A whole reply has sampled its own end; one that was cut off is closed for it.
                if !open {
                    out.extend([Piece::Special(END), Piece::Text("\n".into())]);
                }
            }
            Turn::Results { answers } => results(answers, &mut out),
        }
    }
    if !matches!(transcript.turns.last(), Some(Turn::Assistant { open: true, .. })) {
        out.extend([Piece::Special(START), Piece::Text("assistant\n".into())]);
    }
    out
}

fn said(role: &str, text: &str, out: &mut Vec<Piece>) {
    turn(role, [Piece::Text(text.to_string())], out);
}

fn turn(role: &str, body: impl IntoIterator<Item = Piece>, out: &mut Vec<Piece>) {
    out.extend([Piece::Special(START), Piece::Text(format!("{role}\n"))]);
    out.extend(body);
    out.extend([Piece::Special(END), Piece::Text("\n".into())]);
}

fn system(orders: &Orders, out: &mut Vec<Piece>) {
    let mut body = Vec::new();
    push(&mut body, orders.text.clone().unwrap_or_default());
    if !orders.tools.is_empty() {
        let listed: String = orders.tools.iter().map(|tool| format!("\n{}", spaced(tool))).collect();
        let gap = if orders.text.is_some() { "\n\n" } else { "" };
        body.push(Piece::Text(format!(
            "{gap}# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with \
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

/// A reply as the model writes it.
pub(super) fn reply(thought: &str, text: &str, calls: &[Call], out: &mut Vec<Piece>) {
    if !thought.is_empty() {
        out.push(Piece::Special(THINK));
        push(out, format!("\n{}\n", thought.trim_matches('\n')));
        out.push(Piece::Special(THOUGHT));
        push(out, "\n\n".to_string());
    }
    push(out, text.to_string());
    for (i, call) in calls.iter().enumerate() {
        if i > 0 || !text.is_empty() {
            push(out, "\n".to_string());
        }
        out.push(Piece::Special(CALL));
        let body = spaced(&serde_json::json!({ "name": call.name, "arguments": call.arguments }));
        push(out, format!("\n{body}\n"));
        out.push(Piece::Special(CALL_END));
    }
}

/// Finds what ends a stage of a reply.
pub(super) fn mark(stage: Stage, text: &str) -> Seek {
    match stage {
        Stage::Thought => seek(text, &[(THOUGHT, Stage::Text)]),
        Stage::Text => {
            let calls = match begin(text) {
                Begin::At(at) => Seek::At { at, len: 0, next: Stage::Call },
                Begin::Perhaps(at) => Seek::Perhaps(at),
                Begin::No => Seek::No,
            };
            calls.or_earlier(seek(text, &[(THINK, Stage::Thought)]))
        }
        Stage::Head | Stage::Call => Seek::No,
    }
}

/// Where a call begins in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// Here: what comes before is text.
    At(usize),
    /// Perhaps here: the next bytes will tell. What comes before is text.
    Perhaps(usize),
    /// Nowhere yet.
    No,
}

/// Finds the first call of a reply: the call mark, or an object that begins with a name. Small models leave the marks
/// out, or put the object into a fence; a call is a call all the same, bound by the same grammar.
fn begin(text: &str) -> Begin {
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
pub(super) fn parse(reply: &str, whole: bool) -> Parsed {
    let mut rest = reply.strip_suffix(END).unwrap_or(reply);
    let mut parsed = Parsed::default();
    let mut text = String::new();
    if let Some(thinking) = rest.trim_start().strip_prefix(THINK) {
        let (thought, after) = match thinking.split_once(THOUGHT) {
            Some(split) => split,
            // A thought that was never closed is followed by nothing.
            None => (thinking, ""),
        };
        parsed.thought = thought.trim_matches('\n').to_string();
        rest = after;
    }
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

/// The grammar of a reply.
pub(super) fn grammar(
    tools: &[&Spec],
    shape: Shape,
    bounds: &[Bound],
    special: &dyn Fn(&str) -> Option<engine::Token>,
) -> String {
    let mark = |name: &str| match special(name) {
        Some(token) => format!("<[{token}]>"),
        None => serde_json::Value::from(name).to_string(),
    };
    let mut lark = String::new();
    // A model that has marks for its thoughts may think where it may say what it likes.
    let think = match (special(THINK), special(THOUGHT)) {
        (Some(open), Some(close)) => {
            lark.push_str(&format!("think: <[{open}]> THINKING? <[{close}]>\nTHINKING: /(?s:.+)/\n"));
            "think? "
        }
        _ => "",
    };
    if tools.is_empty() {
        lark.push_str(&format!("start: {think}TEXT\nTEXT: /(?s:.*)/\n"));
        return lark;
    }
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    // Free text never holds the marks as ordinary letters: a call is always the special token, or it is no call. Nor
    // does it hold an object that begins with a name: that is a call without its marks, and bound like any other.
    lark.push_str(&match shape {
        Shape::Free => format!("start: {think}PLAIN? BRACED* (call (\"\\n\" call)*)?\n"),
        Shape::OneCall => format!("start: {think}PLAIN? BRACED* call?\n"),
        // A paragraph is room to think; more would be a small model telling a story instead of acting, and code in it
        // the whole file written out again.
        Shape::CallNow => "start: marked\n".to_string(),
        Shape::MustCall => {
            "start: thought marked\nthought[max_tokens=110]: THOUGHT\nTHOUGHT: /[A-Z](?s:.*)/ & ~/(?s:.*)<\\/?tool_call>(?s:.*)/ & ~/(?s:.*)``(?s:.*)/ & ~/(?s:.*)\\{[ \\n\\t]*\"name\"(?s:.*)/\n".to_string()
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
        let arguments = arguments(tool, i, bounds, &mut lark);
        lark.push_str(&format!("{name}: HEAD_{i} {arguments} CLOSE\nHEAD_{i}: {head}\n"));
    }
    lark
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render_call(call: &Call) -> String {
        let mut pieces = Vec::new();
        reply("", "", std::slice::from_ref(call), &mut pieces);
        super::super::text_of(&pieces, |_| String::new())
    }

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

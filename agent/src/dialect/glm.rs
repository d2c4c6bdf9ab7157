//! GLM-4.5, GLM-4.6 and GLM-4.7: turns behind role tokens, calls as keys and values.
//!
//! ```text
//! [gMASK]<sop><|system|>
//! # Tools … <tools> one JSON object a line </tools> …<|system|>
//! orders<|user|>
//! words<|assistant|>
//! <think>thought</think>
//! text
//! <tool_call>read
//! <arg_key>path</arg_key>
//! <arg_value>a.py</arg_value>
//! </tool_call><|observation|>
//! <tool_response>
//! …
//! </tool_response><|assistant|>
//! ```
//!
//! A turn has no end mark: the next role ends it. GLM-4.7 writes the same without line breaks, and its prompt ends within a
//! thought. A text argument stands as it is, anything else as JSON, and only the schema tells which it is.

use serde_json::{Map, Value};
use tools::{Call, Spec};

use super::json::spaced;
use super::lark::{Body, Lark, Special};
use super::raw::{self, Tags};
use super::transcript::{Said, Transcript, Turn};
use super::{Bound, Parsed, Piece, Seek, Shape, Stage, push, seek};
use crate::event::Refused;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// GLM-4.5 and GLM-4.6: with line breaks.
    Lines,
    /// GLM-4.7: without.
    Dense,
}

const SYSTEM: &str = "<|system|>";
const USER: &str = "<|user|>";
const ASSISTANT: &str = "<|assistant|>";
const OBSERVATION: &str = "<|observation|>";
const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";
const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";
const KEY: &str = "<arg_key>";
const KEY_END: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const VALUE_END: &str = "</arg_value>";
const MARKS: &[&str] = &[
    "[gMASK]",
    "<sop>",
    SYSTEM,
    USER,
    ASSISTANT,
    OBSERVATION,
    THINK,
    THOUGHT,
    CALL,
    CALL_END,
    KEY,
    KEY_END,
    VALUE,
    VALUE_END,
    "<tool_response>",
    "</tool_response>",
    "/nothink",
];

impl Form {
    /// What stands between the parts of a turn.
    fn line(self) -> &'static str {
        match self {
            Form::Lines => "\n",
            Form::Dense => "",
        }
    }
}

/// The prompt for the next reply.
pub(super) fn render(transcript: &Transcript, form: Form) -> Vec<Piece> {
    let line = form.line();
    let mut out = Vec::new();
    marked("[gMASK]<sop>", &mut out);
    let tools: String = transcript.tools().map(|tool| format!("{}\n", spaced(tool))).collect();
    if !tools.is_empty() {
        marked(
            "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n",
            &mut out,
        );
        push(&mut out, tools);
        marked(
            "</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n",
            &mut out,
        );
        marked(
            match form {
                Form::Lines => {
                    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"
                }
                Form::Dense => {
                    "<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value><arg_key>{arg-key-2}</arg_key><arg_value>{arg-value-2}</arg_value>...</tool_call>"
                }
            },
            &mut out,
        );
    }
    let last = transcript.last_user();
    for (at, turn) in transcript.turns.iter().enumerate() {
        match turn {
            Turn::System(orders) | Turn::Developer(orders) => {
                if let Some(text) = &orders.text {
                    out.push(Piece::Special(SYSTEM));
                    push(&mut out, format!("{line}{text}"));
                }
            }
            Turn::User { text, .. } | Turn::Reminder { text } => {
                out.push(Piece::Special(USER));
                push(&mut out, format!("{line}{text}"));
                if form == Form::Lines && !transcript.thinking && !text.ends_with("/nothink") {
                    out.push(Piece::Special("/nothink"));
                }
            }
            Turn::Assistant { said, .. } => {
                out.push(Piece::Special(ASSISTANT));
                match said {
                    Said::Sampled { tokens, thinking, .. } => {
                        if form == Form::Dense {
                            out.push(Piece::Special(THINK));
                        }
                        out.push(Piece::Sampled(tokens.clone()));
                        if *thinking {
                            out.push(Piece::Special(THOUGHT));
                        }
                    }
                    Said::Written { thought, text, calls } => {
                        let remembered = !transcript.forgets || last.is_none_or(|last| at > last);
                        let thought = if remembered { thought.trim() } else { "" };
                        if form == Form::Dense && !thought.is_empty() {
                            out.push(Piece::Special(THINK));
                        }
                        reply(form, thought, text, calls, &mut out);
                    }
                }
            }
            Turn::Results { answers } => {
                out.push(Piece::Special(OBSERVATION));
                for answer in answers {
                    marked(&format!("{line}<tool_response>{line}"), &mut out);
                    push(&mut out, answer.text.clone());
                    marked(&format!("{line}</tool_response>"), &mut out);
                }
            }
        }
    }
    if !matches!(transcript.turns.last(), Some(Turn::Assistant { open: true, .. })) {
        out.push(Piece::Special(ASSISTANT));
        match (form, transcript.thinking) {
            (Form::Lines, true) => {}
            (Form::Lines, false) => marked("\n<think></think>", &mut out),
            (Form::Dense, true) => out.push(Piece::Special(THINK)),
            (Form::Dense, false) => out.push(Piece::Special(THOUGHT)),
        }
    }
    out
}

/// Our own text with its marks.
fn marked(text: &str, out: &mut Vec<Piece>) {
    super::marked(text, MARKS, out);
}

/// A reply as the model writes it; GLM-4.7 after the mark that opens its thought.
pub(super) fn reply(form: Form, thought: &str, text: &str, calls: &[Call], out: &mut Vec<Piece>) {
    let line = form.line();
    if form == Form::Lines {
        marked("\n<think>", out);
    }
    push(out, thought.trim().to_string());
    out.push(Piece::Special(THOUGHT));
    let text = text.trim();
    if !text.is_empty() {
        push(out, format!("{line}{text}"));
    }
    for call in calls {
        push(out, line.to_string());
        out.push(Piece::Special(CALL));
        push(out, format!("{}{line}", call.name));
        for (key, value) in call.arguments.as_object().into_iter().flatten() {
            let value = match value {
                Value::String(text) => text.clone(),
                other => spaced(other),
            };
            out.push(Piece::Special(KEY));
            push(out, key.clone());
            out.push(Piece::Special(KEY_END));
            push(out, line.to_string());
            out.push(Piece::Special(VALUE));
            push(out, value);
            out.push(Piece::Special(VALUE_END));
            push(out, line.to_string());
        }
        out.push(Piece::Special(CALL_END));
    }
}

/// Finds what ends a stage of a reply.
pub(super) fn mark(stage: Stage, text: &str) -> Seek {
    match stage {
        Stage::Thought => seek(text, &[(THOUGHT, Stage::Text), (CALL, Stage::Call)]),
        Stage::Text => seek(text, &[(THINK, Stage::Thought), (CALL, Stage::Call)]),
        Stage::Head | Stage::Call => Seek::No,
    }
}

/// Reads a reply: its thought, its text, its calls.
pub(super) fn parse(reply: &str, whole: bool, tools: &[Spec]) -> Parsed {
    let mut rest = [OBSERVATION, USER].iter().find_map(|end| reply.strip_suffix(end)).unwrap_or(reply);
    let mut parsed = Parsed::default();
    let begun = rest.trim_start().strip_prefix(THINK);
    let thinking = begun.unwrap_or(rest);
    let calls = thinking.find(CALL);
    match thinking.split_once(THOUGHT) {
        Some((thought, after)) if calls.is_none_or(|calls| calls > thought.len()) => {
            parsed.thought = thought.trim().to_string();
            rest = after;
        }
        // A reply that was cut off before it closed its thought was still thinking.
        _ if calls.is_none() && (!whole || begun.is_some()) => {
            parsed.thought = thinking.trim().to_string();
            return parsed;
        }
        _ => {}
    }
    let at = rest.find(CALL).unwrap_or(rest.len());
    parsed.text = rest[..at].trim().to_string();
    rest = &rest[at..];
    while let Some(at) = rest.find(CALL) {
        let body = &rest[at..];
        let (read, used) = call(body, whole, tools);
        match read {
            Ok(call) => parsed.calls.push(call),
            Err(why) => parsed.refused.push(Refused { text: body[..used].trim().to_string(), why }),
        }
        rest = &body[used..];
    }
    parsed
}

/// Reads one call; how much of the text it takes.
fn call(text: &str, whole: bool, tools: &[Spec]) -> (Result<Call, String>, usize) {
    let unfinished = || {
        let why = match whole {
            true => "the call has no end: write </tool_call> after its arguments",
            false => "the call was cut off before its end. Write less in one call.",
        };
        (Err(why.to_string()), text.len())
    };
    let mut at = CALL.len();
    let Some(end) = text[at..].find(['\n', '<']) else { return unfinished() };
    let name = text[at..at + end].trim().to_string();
    at += end;
    let mut arguments = Map::new();
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        if let Some(after) = rest.strip_prefix(CALL_END) {
            let used = text.len() - after.len();
            return match name.is_empty() {
                true => (Err("a call needs a name: <tool_call>name".to_string()), used),
                false => (Ok(Call { id: String::new(), name, arguments: Value::Object(arguments) }), used),
            };
        }
        if let Some((key, after)) = rest.strip_prefix(KEY).and_then(|rest| rest.split_once(KEY_END))
            && let Some(value) = after.trim_start().strip_prefix(VALUE)
        {
            let json = raw::is_json(tools, &name, key);
            let Some(end) = raw::end(value, VALUE_END, json) else { return unfinished() };
            let (value, after) = (&value[..end], &value[end + VALUE_END.len()..]);
            arguments.insert(key.to_string(), raw::value(tools, &name, key, value));
            at = text.len() - after.len();
            continue;
        }
        let begun = [CALL_END, KEY].iter().any(|tag| tag.starts_with(rest) || rest.starts_with(tag));
        if begun && !rest.contains(CALL_END) && !rest.contains(CALL) {
            return unfinished();
        }
        let end = rest.find(CALL).map_or(text.len(), |next| at + next);
        return (
            Err("an argument is written <arg_key>name</arg_key><arg_value>value</arg_value>".to_string()),
            end,
        );
    }
}

/// The grammar of a reply.
pub(super) fn grammar(
    tools: &[&Spec],
    shape: Shape,
    bounds: &[Bound],
    special: Special,
    form: Form,
) -> String {
    let mut lark = Lark::new(special, MARKS);
    let line = form.line();
    let never = [THINK, THOUGHT, CALL, CALL_END, KEY, KEY_END, VALUE, VALUE_END];
    lark.text("TEXT", &never);
    let head = match form {
        Form::Lines => format!("{} ", lark.seq("\n<think>")),
        Form::Dense => String::new(),
    };
    match shape {
        // What is to act at once does not think.
        Shape::CallNow => lark.line(&format!("thought: {}", lark.seq(THOUGHT))),
        Shape::Free | Shape::OneCall => lark.until("thought", Body::any(), THOUGHT, &never),
        Shape::MustCall => lark.paragraph("thought", THOUGHT, &never),
    }
    if tools.is_empty() {
        lark.line(&format!("start: {head}thought TEXT?"));
        return lark.finish();
    }
    let opening = format!("{line}{CALL}");
    match shape {
        Shape::Free | Shape::OneCall => lark.until("opening", Body::any(), &opening, &never),
        Shape::MustCall | Shape::CallNow => lark.line(&format!("opening: {}", lark.seq(&opening))),
    }
    let more = lark.seq(&opening);
    lark.line(&match shape {
        Shape::Free => format!("start: {head}thought (TEXT? | opening call ({more} call)*)"),
        Shape::OneCall => format!("start: {head}thought (TEXT? | opening call)"),
        Shape::MustCall | Shape::CallNow => format!("start: {head}thought opening call"),
    });
    let tags = Tags {
        open: &|key, _| format!("<arg_key>{key}</arg_key>{line}<arg_value>"),
        close: VALUE_END,
        after: line,
        typed: false,
        python: false,
    };
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    lark.line(&format!("call: {}", names.join(" | ")));
    for (i, tool) in tools.iter().enumerate() {
        let arguments = raw::arguments(&mut lark, tool, i, bounds, &tags);
        let open = lark.seq(&format!("{}{line}", tool.name));
        let close = lark.seq(CALL_END);
        lark.line(&format!("call_{i}: {open} {arguments} {close}"));
    }
    lark.finish()
}

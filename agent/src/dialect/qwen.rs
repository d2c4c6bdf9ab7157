//! Qwen3-Coder, Qwen3.5 and Qwen3.6: ChatML turns, calls in tags.
//!
//! ```text
//! <|im_start|>system … # Tools … <tools> … </tools> …<|im_end|>
//! <|im_start|>user … <|im_end|>
//! <|im_start|>assistant text
//!
//! <tool_call>
//! <function=read>
//! <parameter=path>
//! a.py
//! </parameter>
//! </function>
//! </tool_call><|im_end|>
//! <|im_start|>user <tool_response> … </tool_response> …<|im_end|>
//! ```
//!
//! A text argument stands on lines of its own, as it is; other values are JSON. Only the schema tells which it is. The two
//! forms differ in how tools are told, and the later one thinks: its prompt ends within a thought.

use serde_json::{Map, Value};
use tools::{Call, Spec};

use super::json::spaced;
use super::lark::{Body, Lark, Special};
use super::raw::{self, Tags};
use super::transcript::{Orders, Said, Transcript, Turn};
use super::{Bound, Parsed, Piece, Seek, Shape, Stage, push, seek};
use crate::context::Answer;
use crate::event::Refused;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Qwen3-Coder.
    Coder,
    /// Qwen3.5, Qwen3.6.
    Thinker,
}

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";
const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";
const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";
const MARKS: &[&str] = &[START, END, CALL, CALL_END, THINK, THOUGHT];

/// How to call, in the words of both templates.
const HOW: &str = "If you choose to call a function ONLY reply in the following format with NO suffix:\n\n<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after\n- If there is no function call available, answer the question like normal with your current knowledge and do not tell the user about function calls\n</IMPORTANT>";

/// The prompt for the next reply.
pub(super) fn render(transcript: &Transcript, form: Form) -> Vec<Piece> {
    let mut out = Vec::new();
    let last = transcript.last_user();
    for (at, turn) in transcript.turns.iter().enumerate() {
        match turn {
            Turn::System(orders) | Turn::Developer(orders) => system(orders, form, &mut out),
            Turn::User { text, .. } | Turn::Reminder { text } => {
                begin("user", &mut out);
                push(&mut out, form.trimmed(text).to_string());
                end(&mut out);
            }
            Turn::Results { answers } => results(answers, form, &mut out),
            Turn::Assistant { said, open } => {
                begin("assistant", &mut out);
                match said {
                    Said::Sampled { tokens, thinking, .. } => {
                        if form == Form::Thinker {
                            think(&mut out);
                        }
                        out.push(Piece::Sampled(tokens.clone()));
                        if form == Form::Thinker && *thinking {
                            out.push(Piece::Special(THOUGHT));
                        }
                    }
                    Said::Written { thought, text, calls } => {
                        let remembered = !transcript.forgets || last.is_none_or(|last| at > last);
                        let thought = (form == Form::Thinker && remembered).then_some(thought.as_str());
                        if thought.is_some() {
                            think(&mut out);
                        }
                        reply(form, thought, text, calls, &mut out);
                    }
                }
                if !open {
                    end(&mut out);
                }
            }
        }
    }
    if !matches!(transcript.turns.last(), Some(Turn::Assistant { open: true, .. })) {
        begin("assistant", &mut out);
        if form == Form::Thinker {
            think(&mut out);
            if !transcript.thinking {
                push(&mut out, "\n".to_string());
                out.push(Piece::Special(THOUGHT));
                push(&mut out, "\n\n".to_string());
            }
        }
    }
    out
}

impl Form {
    /// A text as the form's template takes it over.
    fn trimmed(self, text: &str) -> &str {
        match self {
            Form::Coder => text,
            Form::Thinker => text.trim(),
        }
    }
}

fn begin(role: &str, out: &mut Vec<Piece>) {
    out.push(Piece::Special(START));
    push(out, format!("{role}\n"));
}

fn end(out: &mut Vec<Piece>) {
    out.push(Piece::Special(END));
    push(out, "\n".to_string());
}

fn think(out: &mut Vec<Piece>) {
    out.push(Piece::Special(THINK));
    push(out, "\n".to_string());
}

fn system(orders: &Orders, form: Form, out: &mut Vec<Piece>) {
    const NOBODY: &str =
        "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks.";
    begin("system", out);
    let text = form.trimmed(orders.text.as_deref().unwrap_or_default()).to_string();
    match (form, orders.tools.is_empty()) {
        (_, true) => push(out, text),
        (Form::Coder, false) => {
            push(out, orders.text.clone().unwrap_or_else(|| NOBODY.to_string()));
            push(out, "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>".to_string());
            for tool in &orders.tools {
                push(out, tagged(&tool["function"]));
            }
            push(out, "\n</tools>\n\n".to_string());
            super::marked(HOW, MARKS, out);
        }
        (Form::Thinker, false) => {
            push(out, "# Tools\n\nYou have access to the following functions:\n\n<tools>".to_string());
            for tool in &orders.tools {
                push(out, format!("\n{}", spaced(tool)));
            }
            push(out, "\n</tools>\n\n".to_string());
            super::marked(HOW, MARKS, out);
            if !text.is_empty() {
                push(out, format!("\n\n{text}"));
            }
        }
    }
    end(out);
}

/// A tool in tags, as Qwen3-Coder is told it.
fn tagged(function: &Value) -> String {
    let mut out = format!("\n<function>\n<name>{}</name>", printed(&function["name"]));
    let described = |value: &Value| match &value["description"] {
        Value::Null => String::new(),
        text => format!("\n<description>{}</description>", printed(text).trim()),
    };
    out.push_str(&described(function));
    out.push_str("\n<parameters>");
    let parameters = &function["parameters"];
    for (name, property) in parameters["properties"].as_object().into_iter().flatten() {
        out.push_str(&format!("\n<parameter>\n<name>{name}</name>"));
        if let Some(kind) = property.get("type") {
            out.push_str(&format!("\n<type>{}</type>", printed(kind)));
        }
        out.push_str(&described(property));
        out.push_str(&others(property, &["name", "type", "description"]));
        out.push_str("\n</parameter>");
    }
    out.push_str(&others(parameters, &["type", "properties"]));
    out.push_str("\n</parameters>");
    out.push_str(&others(function, &["type", "name", "description", "parameters"]));
    out.push_str("\n</function>");
    out
}

/// What else an object holds, a tag for each.
fn others(value: &Value, told: &[&str]) -> String {
    let map = value.as_object().into_iter().flatten();
    map.filter(|(key, _)| !told.contains(&key.as_str()))
        .map(|(key, value)| match value {
            Value::Object(_) | Value::Array(_) => format!("\n<{key}>{}</{key}>", spaced(value)),
            other => format!("\n<{key}>{}</{key}>", printed(other)),
        })
        .collect()
}

/// A value as Python's `str` prints it, for the template is filled in by Python.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => inner(other),
    }
}

/// A value within another, as Python's `repr` prints it.
fn inner(value: &Value) -> String {
    match value {
        Value::Null => "None".to_string(),
        Value::Bool(true) => "True".to_string(),
        Value::Bool(false) => "False".to_string(),
        Value::Number(_) => spaced(value),
        Value::String(text) => {
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let mut out = String::from(quote);
            for c in text.chars() {
                match c {
                    '\n' => out.push_str("\\n"),
                    '\t' => out.push_str("\\t"),
                    '\r' => out.push_str("\\r"),
                    c if c == quote || c == '\\' => out.extend(['\\', c]),
                    c => out.push(c),
                }
            }
            out.push(quote);
            out
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inner).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(key, item)| format!("{}: {}", inner(&Value::from(key.as_str())), inner(item)))
                .collect();
            format!("{{{}}}", items.join(", "))
        }
    }
}

fn results(answers: &[Answer], form: Form, out: &mut Vec<Piece>) {
    out.push(Piece::Special(START));
    match form {
        Form::Coder => {
            push(out, "user\n".to_string());
            for answer in answers {
                push(out, format!("<tool_response>\n{}\n</tool_response>\n", answer.text));
            }
        }
        Form::Thinker => {
            push(out, "user".to_string());
            for answer in answers {
                push(out, format!("\n<tool_response>\n{}\n</tool_response>", answer.text.trim()));
            }
        }
    }
    end(out);
}

/// A reply as the model writes it, after the mark that opens its thought where it thinks.
pub(super) fn reply(form: Form, thought: Option<&str>, text: &str, calls: &[Call], out: &mut Vec<Piece>) {
    let told = match (form, calls.is_empty()) {
        // Before calls also the older template leaves out the white space around a text.
        (Form::Coder, false) | (Form::Thinker, _) => text.trim(),
        (Form::Coder, true) => text,
    };
    if let (Form::Thinker, Some(thought)) = (form, thought) {
        push(out, format!("{}\n", thought.trim()));
        out.push(Piece::Special(THOUGHT));
        push(out, "\n\n".to_string());
    }
    push(out, told.to_string());
    for (i, call) in calls.iter().enumerate() {
        if i > 0 {
            push(out, "\n".to_string());
        } else if !told.is_empty() {
            push(out, "\n\n".to_string());
        }
        out.push(Piece::Special(CALL));
        push(out, format!("\n<function={}>\n", call.name));
        for (key, value) in call.arguments.as_object().into_iter().flatten() {
            let value = match (form, value) {
                (_, Value::String(text)) => text.clone(),
                (_, Value::Object(_) | Value::Array(_)) | (Form::Thinker, _) => spaced(value),
                (Form::Coder, other) => printed(other),
            };
            push(out, format!("<parameter={key}>\n{value}\n</parameter>\n"));
        }
        push(out, "</function>\n".to_string());
        out.push(Piece::Special(CALL_END));
    }
}

/// Finds what ends a stage of a reply.
pub(super) fn mark(stage: Stage, text: &str) -> Seek {
    let calls = [(CALL, Stage::Call), ("<function=", Stage::Call)];
    match stage {
        Stage::Thought => seek(text, &[(THOUGHT, Stage::Text), calls[0], calls[1]]),
        Stage::Text => seek(text, &calls),
        Stage::Head | Stage::Call => Seek::No,
    }
}

/// Reads a reply: its thought, its text, its calls.
pub(super) fn parse(form: Form, reply: &str, whole: bool, tools: &[Spec]) -> Parsed {
    let mut rest = reply.strip_suffix(END).unwrap_or(reply);
    let mut parsed = Parsed::default();
    if form == Form::Thinker {
        let begun = rest.trim_start().strip_prefix(THINK).unwrap_or(rest);
        match (begun.split_once(THOUGHT), begins(begun)) {
            (Some((thought, after)), calls) if calls.is_none_or(|calls| calls > thought.len()) => {
                parsed.thought = thought.trim().to_string();
                rest = after;
            }
            // A reply that was cut off before it closed its thought was still thinking.
            (_, None) if !whole => {
                parsed.thought = begun.trim().to_string();
                return parsed;
            }
            _ => {}
        }
    }
    let Some(at) = begins(rest) else {
        let text = if form == Form::Thinker { rest.trim() } else { rest };
        parsed.text = text.to_string();
        return parsed;
    };
    parsed.text = rest[..at].trim().to_string();
    rest = &rest[at..];
    while let Some(at) = begins(rest) {
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

/// Where the first call begins: with its mark, or without it where a model left it out.
fn begins(text: &str) -> Option<usize> {
    match (text.find(CALL), text.find("<function=")) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Reads one call; how much of the text it takes.
fn call(text: &str, whole: bool, tools: &[Spec]) -> (Result<Call, String>, usize) {
    const HEAD: &str = "<function=";
    let unreadable = |why: &str, at: usize| {
        // What cannot be read ends where the next call begins.
        let end = text[at..].find(CALL).map_or(text.len(), |next| at + next);
        (Err(why.to_string()), end)
    };
    let unfinished = || {
        let why = match whole {
            true => "the call has no end: write </function> and </tool_call> after its parameters",
            false => "the call was cut off before its end. Write less in one call.",
        };
        (Err(why.to_string()), text.len())
    };
    let marked = text.strip_prefix(CALL).map_or(0, |_| CALL.len());
    let mut at = marked + text[marked..].len() - text[marked..].trim_start().len();
    let Some(rest) = text[at..].strip_prefix(HEAD) else {
        return match text[at..].is_empty() || HEAD.starts_with(&text[at..]) {
            true => unfinished(),
            false => unreadable("a call begins with <function=name>", at),
        };
    };
    let Some((name, _)) = rest.split_once('>') else { return unfinished() };
    if name.is_empty() || name.contains(['\n', '<']) {
        return unreadable("a call begins with <function=name>", at + HEAD.len());
    }
    at += HEAD.len() + name.len() + 1;
    let mut arguments = Map::new();
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        if let Some(rest) = rest.strip_prefix("</function>") {
            let after = rest.trim_start();
            let after = after.strip_prefix(CALL_END).unwrap_or(rest);
            let call =
                Call { id: String::new(), name: name.to_string(), arguments: Value::Object(arguments) };
            return (Ok(call), text.len() - after.len());
        }
        if let Some((key, value)) = rest.strip_prefix("<parameter=").and_then(|rest| rest.split_once('>')) {
            // A value on lines of its own ends before a line of its own.
            let (value, close) = match value.strip_prefix('\n') {
                Some(value) => (value, "\n</parameter>"),
                None => (value, "</parameter>"),
            };
            let json = raw::is_json(tools, name, key);
            let end = raw::end(value, close, json).map(|end| (end, close.len()));
            let end = end.or_else(|| value.find("</function>").map(|end| (end, 0)));
            let Some((end, close)) = end else { return unfinished() };
            let read = raw::value(tools, name, key, &value[..end]);
            arguments.insert(key.to_string(), read);
            at = text.len() - value[end + close..].len();
            continue;
        }
        let beginning = ["</function>", "<parameter="].iter().any(|tag| tag.starts_with(rest));
        return match beginning || rest.starts_with("<parameter=") {
            true => unfinished(),
            false => unreadable("a parameter is written <parameter=name>, its value, </parameter>", at),
        };
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
    let never = [THINK, THOUGHT, CALL, CALL_END];
    lark.text("TEXT", &never);
    let thought = match (form, shape) {
        (Form::Coder, Shape::MustCall) => {
            lark.paragraph("opening", CALL, &never);
            ""
        }
        (Form::Coder, _) => "",
        (Form::Thinker, Shape::Free | Shape::OneCall) => {
            lark.until("thought", Body::any(), THOUGHT, &never);
            "thought "
        }
        (Form::Thinker, Shape::MustCall) => {
            lark.paragraph("thought", THOUGHT, &never);
            "thought "
        }
        // What is to act at once does not think.
        (Form::Thinker, Shape::CallNow) => {
            lark.line(&format!("thought: {}", lark.seq(&format!("\n{THOUGHT}"))));
            "thought "
        }
    };
    if tools.is_empty() {
        lark.line(&format!("start: {thought}TEXT?"));
        return lark.finish();
    }
    match (form, shape) {
        (_, Shape::Free | Shape::OneCall) => lark.until("opening", Body::any(), CALL, &never),
        (Form::Coder, Shape::MustCall) => {}
        (Form::Coder, Shape::CallNow) => lark.line(&format!("opening: {}", lark.seq(CALL))),
        (Form::Thinker, Shape::MustCall | Shape::CallNow) => {
            lark.line(&format!("opening: {}", lark.seq(&format!("\n\n{CALL}"))));
        }
    }
    let more = lark.seq(&format!("\n{CALL}"));
    lark.line(&match shape {
        Shape::Free => format!("start: {thought}(TEXT? | opening call ({more} call)*)"),
        Shape::OneCall => format!("start: {thought}(TEXT? | opening call)"),
        Shape::MustCall | Shape::CallNow => format!("start: {thought}opening call"),
    });
    let tags = Tags {
        open: &|key, _| format!("<parameter={key}>\n"),
        close: "\n</parameter>",
        after: "\n",
        typed: false,
        python: form == Form::Coder,
    };
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    lark.line(&format!("call: {}", names.join(" | ")));
    for (i, tool) in tools.iter().enumerate() {
        let arguments = raw::arguments(&mut lark, tool, i, bounds, &tags);
        let open = lark.seq(&format!("\n<function={}>\n", tool.name));
        let close = lark.seq(&format!("</function>\n{CALL_END}"));
        lark.line(&format!("call_{i}: {open} {arguments} {close}"));
    }
    lark.finish()
}

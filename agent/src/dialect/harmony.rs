//! gpt-oss: messages in channels, the harmony format.
//!
//! ```text
//! <|start|>system<|message|>You are ChatGPT … Reasoning: medium … # Valid channels …<|end|>
//! <|start|>developer<|message|># Instructions … # Tools … namespace functions { … }<|end|>
//! <|start|>user<|message|>…<|end|>
//! <|start|>assistant<|channel|>analysis<|message|>thought<|end|>
//! <|start|>assistant to=functions.read<|channel|>commentary json<|message|>{"path":"a.py"}<|call|>
//! <|start|>functions.read to=assistant<|channel|>commentary<|message|>…<|end|>
//! <|start|>assistant<|channel|>final<|message|>text<|end|>
//! ```
//!
//! A reply is one or more messages: thoughts in the channel `analysis`, what is said on the way in `commentary`, the answer
//! in `final`, and at most one call, which ends it. The prompt is that of the model's own library, down to the TypeScript in
//! which tools are told. Who runs the service speaks as the developer; the model's own system message holds nothing of his.

use serde_json::Value;
use tools::{Call, Spec};

use super::json::{arguments, compact};
use super::lark::{Body, Lark, Special, literal};
use super::transcript::{Effort, Said, Transcript, Turn};
use super::{Bound, Parsed, Piece, Seek, Shape, Stage, push, seek};
use crate::event::Refused;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const CONSTRAIN: &str = "<|constrain|>";
const END: &str = "<|end|>";
const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";
const MARKS: &[&str] = &[START, CHANNEL, MESSAGE, CONSTRAIN, END, CALL, RETURN];

/// How hard the model is to think.
pub(super) fn effort(transcript: &Transcript) -> Result<&'static str, String> {
    if !transcript.thinking {
        // It cannot be kept from thinking, only asked for little.
        return Ok("low");
    }
    match transcript.effort {
        Some(Effort::Minimal | Effort::Low) => Ok("low"),
        None | Some(Effort::Medium) => Ok("medium"),
        Some(Effort::High | Effort::Higher | Effort::Max) => Ok("high"),
        Some(Effort::Of(_)) => {
            Err("gpt-oss knows the efforts low, medium and high, and no numbers".to_string())
        }
    }
}

/// The prompt for the next reply.
pub(super) fn render(transcript: &Transcript) -> Vec<Piece> {
    let mut out = Vec::new();
    let tools: Vec<&Value> = transcript.tools().collect();
    system(transcript, !tools.is_empty(), &mut out);
    let mut turns = transcript.turns.as_slice();
    let mut instructions = None;
    if let Some((Turn::System(orders) | Turn::Developer(orders), rest)) = turns.split_first() {
        instructions = orders.text.as_deref().filter(|text| !text.is_empty());
        turns = rest;
    }
    if instructions.is_some() || !tools.is_empty() {
        developer(instructions, &tools, &mut out);
    }
    // The thoughts that led to an answer are left out once it is given.
    let answered = turns.iter().rposition(|turn| match turn {
        Turn::Assistant { said: Said::Written { text, calls, .. }, .. } => {
            calls.is_empty() && !text.is_empty()
        }
        _ => false,
    });
    for (at, turn) in turns.iter().enumerate() {
        match turn {
            Turn::System(orders) | Turn::Developer(orders) => {
                if let Some(text) = &orders.text {
                    developer(Some(text), &[], &mut out);
                }
            }
            Turn::User { text, .. } | Turn::Reminder { text } => {
                message("user", None, None, &mut out);
                push(&mut out, text.clone());
                out.push(Piece::Special(END));
            }
            Turn::Assistant { said: Said::Sampled { tokens, calling, .. }, .. } => {
                out.push(Piece::Special(START));
                push(&mut out, "assistant".to_string());
                out.push(Piece::Sampled(tokens.clone()));
                out.push(Piece::Special(if *calling { CALL } else { END }));
            }
            Turn::Assistant { said: Said::Written { thought, text, calls }, .. } => {
                let remembered = !transcript.forgets || answered.is_none_or(|answered| at > answered);
                let thought = if remembered { thought.as_str() } else { "" };
                messages(thought, text, calls, &mut out);
            }
            Turn::Results { answers } => {
                for answer in answers {
                    let name = answer.name.as_deref().unwrap_or("unknown");
                    message(&format!("functions.{name} to=assistant"), Some("commentary"), None, &mut out);
                    push(&mut out, answer.text.clone());
                    out.push(Piece::Special(END));
                }
            }
        }
    }
    out.push(Piece::Special(START));
    push(&mut out, "assistant".to_string());
    out
}

/// Begins a message.
fn message(author: &str, channel: Option<&str>, kind: Option<&str>, out: &mut Vec<Piece>) {
    out.push(Piece::Special(START));
    push(out, author.to_string());
    if let Some(channel) = channel {
        out.push(Piece::Special(CHANNEL));
        push(out, channel.to_string());
    }
    if let Some(kind) = kind {
        push(out, format!(" {kind}"));
    }
    out.push(Piece::Special(MESSAGE));
}

fn system(transcript: &Transcript, calling: bool, out: &mut Vec<Piece>) {
    message("system", None, None, out);
    push(
        out,
        "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06".to_string(),
    );
    if let Some(date) = &transcript.date {
        push(out, format!("\nCurrent date: {date}"));
    }
    // An effort that is not known was refused before.
    let effort = effort(transcript).unwrap_or("medium");
    push(
        out,
        format!(
            "\n\nReasoning: {effort}\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message."
        ),
    );
    if calling {
        push(out, "\nCalls to these tools must go to the commentary channel: 'functions'.".to_string());
    }
    out.push(Piece::Special(END));
}

fn developer(instructions: Option<&str>, tools: &[&Value], out: &mut Vec<Piece>) {
    message("developer", None, None, out);
    let mut sections: Vec<String> = Vec::new();
    if let Some(instructions) = instructions {
        sections.push(format!("# Instructions\n\n{instructions}"));
    }
    if !tools.is_empty() {
        let mut lines = vec!["namespace functions {\n".to_string()];
        for tool in tools {
            let function = &tool["function"];
            let description = function["description"].as_str().unwrap_or_default();
            lines.extend(description.lines().map(|line| format!("// {line}")));
            let name = function["name"].as_str().unwrap_or_default();
            lines.push(match function.get("parameters").filter(|parameters| !parameters.is_null()) {
                Some(parameters) => format!("type {name} = (_: {}) => any;\n", typescript(parameters, "")),
                None => format!("type {name} = () => any;\n"),
            });
        }
        lines.push("} // namespace functions".to_string());
        sections.push(format!("# Tools\n\n## functions\n\n{}", lines.join("\n")));
    }
    push(out, sections.join("\n\n"));
    out.push(Piece::Special(END));
}

/// A schema as a TypeScript type, in the library's layout.
fn typescript(schema: &Value, indent: &str) -> String {
    if let Some(variants) = schema["oneOf"].as_array() {
        let variants = variants.iter().map(|variant| {
            let notes = [described(variant).map(str::to_string), default_in_notes(variant)];
            format!("\n{indent} | {}{}", variant_type(variant, indent), trailing(notes))
        });
        return variants.collect();
    }
    match &schema["type"] {
        Value::Array(kinds) if kinds.iter().any(Value::is_string) => {
            let kinds: Vec<&str> = kinds
                .iter()
                .filter_map(Value::as_str)
                .map(|kind| if kind == "integer" { "number" } else { kind })
                .collect();
            kinds.join(" | ")
        }
        Value::String(kind) => match kind.as_str() {
            "object" => object(schema, indent),
            "string" => {
                let values = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let values: Vec<String> = values.map(|value| format!("\"{value}\"")).collect();
                if values.is_empty() { "string".to_string() } else { values.join(" | ") }
            }
            "number" | "integer" => "number".to_string(),
            "boolean" => "boolean".to_string(),
            "array" => match schema.get("items") {
                Some(items) => format!("{}[]", typescript(items, indent)),
                None => "Array<any>".to_string(),
            },
            _ => "any".to_string(),
        },
        _ => "any".to_string(),
    }
}

fn object(schema: &Value, indent: &str) -> String {
    let mut out = String::new();
    if let Some(description) = described(schema) {
        out.push_str(&format!("{indent}// {description}\n"));
    }
    out.push_str("{\n");
    let required =
        |key: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|name| name == key));
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let mark = if required(key) { "" } else { "?" };
        if let Some(title) = property["title"].as_str() {
            out.push_str(&format!("{indent}// {title}\n{indent}//\n"));
        }
        let description = described(property);
        if let (Some(description), None) = (description, property.get("oneOf")) {
            out.push_str(&format!("{indent}// {description}\n"));
        }
        if let Some(examples) = property["examples"].as_array().filter(|examples| !examples.is_empty()) {
            out.push_str(&format!("{indent}// Examples:\n"));
            for example in examples.iter().filter_map(Value::as_str) {
                out.push_str(&format!("{indent}// - \"{example}\"\n"));
            }
        }
        if let Some(variants) = property["oneOf"].as_array() {
            // A description that the first variant repeats is told there.
            let above = description.filter(|text| variants.first().and_then(described) != Some(*text));
            if let Some(description) = above {
                out.push_str(&format!("{indent}// {description}\n"));
            }
            if let Some(default) = default(property) {
                out.push_str(&format!("{indent}// {default}\n"));
            }
            out.push_str(&format!("{indent}{key}{mark}:\n"));
            for (i, variant) in variants.iter().enumerate() {
                let told = i == 0 && above.is_some();
                let note = described(variant).filter(|text| !told && Some(*text) != description);
                let notes = trailing([note.map(str::to_string), default(variant)]);
                out.push_str(&format!("{indent} | {}{notes}\n", variant_type(variant, indent)));
            }
            out.push_str(&format!("{indent},\n"));
            continue;
        }
        let kind = nullable(property, typescript(property, &format!("{indent}    ")));
        out.push_str(&format!("{indent}{key}{mark}: {kind},"));
        if let Some(default) = default(property).filter(|_| property.get("oneOf").is_none()) {
            out.push_str(&format!(" // {default}"));
        }
        out.push('\n');
    }
    out.push_str(&format!("{indent}}}"));
    out
}

fn described(schema: &Value) -> Option<&str> {
    schema["description"].as_str()
}

fn variant_type(variant: &Value, indent: &str) -> String {
    nullable(variant, typescript(variant, &format!("{indent}   ")))
}

fn nullable(schema: &Value, kind: String) -> String {
    match schema["nullable"].as_bool() {
        Some(true) if !kind.contains("null") => format!("{kind} | null"),
        _ => kind,
    }
}

/// A default as a property's note tells it: a text in quotation marks, unless it is one of a list.
fn default(schema: &Value) -> Option<String> {
    match (schema.get("default")?, listed(schema)) {
        (Value::String(text), false) => Some(format!("default: \"{text}\"")),
        (Value::String(text), true) => Some(format!("default: {text}")),
        (other, _) => Some(format!("default: {other}")),
    }
}

/// A default as a note within a type tells it.
fn default_in_notes(schema: &Value) -> Option<String> {
    match (schema.get("default")?, listed(schema)) {
        (Value::String(text), false) => Some(format!("default: \"{text}\"")),
        (other, _) => Some(format!("default: {other}")),
    }
}

fn listed(schema: &Value) -> bool {
    schema["enum"].as_array().is_some_and(|values| !values.is_empty())
}

fn trailing(notes: [Option<String>; 2]) -> String {
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    if notes.is_empty() { String::new() } else { format!(" // {}", notes.join(" ")) }
}

/// A reply as whole messages.
fn messages(thought: &str, text: &str, calls: &[Call], out: &mut Vec<Piece>) {
    if !thought.is_empty() {
        message("assistant", Some("analysis"), None, out);
        push(out, thought.to_string());
        out.push(Piece::Special(END));
    }
    if !text.is_empty() {
        let channel = if calls.is_empty() { "final" } else { "commentary" };
        message("assistant", Some(channel), None, out);
        push(out, text.to_string());
        out.push(Piece::Special(END));
    }
    for call in calls {
        message(&format!("assistant to=functions.{}", call.name), Some("commentary"), Some("json"), out);
        push(out, compact(&call.arguments));
        out.push(Piece::Special(CALL));
    }
}

/// A reply as the model writes it after the prompt, which ends with its author; without its last mark.
pub(super) fn reply(thought: &str, text: &str, calls: &[Call], out: &mut Vec<Piece>) {
    let mut whole = Vec::new();
    messages(thought, text, calls, &mut whole);
    whole.pop();
    let mut pieces = whole.into_iter();
    pieces.next();
    if let Some(Piece::Text(author)) = pieces.next() {
        push(out, author.strip_prefix("assistant").unwrap_or(&author).to_string());
    }
    out.extend(pieces);
}

/// Finds what ends a stage of a reply.
pub(super) fn mark(stage: Stage, text: &str) -> Seek {
    match stage {
        Stage::Head => match text.find(MESSAGE) {
            Some(at) => match Header::read(&text[..at]) {
                // A call is shown with its header, which names the tool.
                Header { to: Some(_), .. } => Seek::At { at: 0, len: 0, next: Stage::Call },
                Header { analysis: true, .. } => Seek::At { at, len: MESSAGE.len(), next: Stage::Thought },
                Header { .. } => Seek::At { at, len: MESSAGE.len(), next: Stage::Text },
            },
            None => Seek::Perhaps(0),
        },
        Stage::Thought | Stage::Text => {
            seek(text, &[(END, Stage::Head), (RETURN, Stage::Head), (CALL, Stage::Head)])
        }
        Stage::Call => Seek::No,
    }
}

/// What stands before a message.
struct Header<'a> {
    /// To whom it is.
    to: Option<&'a str>,
    /// Whether it is a thought.
    analysis: bool,
}

impl<'a> Header<'a> {
    /// Models put the recipient before the channel or behind it.
    fn read(text: &'a str) -> Header<'a> {
        let to = text
            .split_once("to=")
            .map(|(_, to)| to.split(|c: char| c.is_whitespace() || c == '<').next().unwrap_or_default());
        let channel = text.split_once(CHANNEL).map_or("", |(_, channel)| channel.trim_start());
        Header { to: to.filter(|to| *to != "user"), analysis: channel.starts_with("analysis") }
    }
}

/// Reads a reply: its thought, its text, its call.
pub(super) fn parse(reply: &str, whole: bool) -> Parsed {
    let mut parsed = Parsed::default();
    let (mut thoughts, mut texts) = (Vec::new(), Vec::new());
    let mut rest = reply;
    while let Some((header, body)) = rest.split_once(MESSAGE) {
        let header = Header::read(header);
        // What stands in a call's strings is no mark: the JSON is read by its own rules.
        let json = match header.to {
            Some(_) => {
                let mut values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
                if matches!(values.next(), Some(Ok(_))) { values.byte_offset() } else { 0 }
            }
            None => 0,
        };
        let ends =
            [END, CALL, RETURN].iter().filter_map(|end| Some((json + body[json..].find(end)?, end.len())));
        let (end, len) = ends.min().unwrap_or((body.len(), 0));
        let (said, after) = (&body[..end], &body[end + len..]);
        match header {
            Header { to: Some(to), .. } => match call(to, said, whole || len > 0) {
                Ok(call) => parsed.calls.push(call),
                Err(why) => parsed.refused.push(Refused { text: format!("to={to} {said}"), why }),
            },
            Header { analysis: true, .. } => thoughts.push(said),
            Header { .. } => texts.push(said),
        }
        rest = after;
    }
    parsed.thought = thoughts.join("\n\n");
    parsed.text = texts.join("\n\n");
    parsed
}

fn call(to: &str, body: &str, whole: bool) -> Result<Call, String> {
    let name = to.strip_prefix("functions.").unwrap_or(to).to_string();
    if name.is_empty() {
        return Err("a call needs a tool: to=functions.name".to_string());
    }
    match serde_json::from_str(body) {
        Ok(arguments @ Value::Object(_)) => Ok(Call { id: String::new(), name, arguments }),
        Ok(_) => Err("the arguments of a call are a JSON object".to_string()),
        Err(error) if error.is_eof() && !whole => {
            Err("the call was cut off before its end. Write less in one call.".to_string())
        }
        Err(error) => Err(format!(
            "the arguments are not valid JSON ({error}). Write one object, with quotes and line breaks in strings escaped"
        )),
    }
}

/// The grammar of a reply.
pub(super) fn grammar(tools: &[&Spec], shape: Shape, bounds: &[Bound], special: Special) -> String {
    let mut lark = Lark::new(special, MARKS);
    let analysis = lark.seq("<|channel|>analysis<|message|>");
    let again = "<|end|><|start|>assistant";
    lark.text("TEXT", MARKS);
    lark.line(&format!("final: {} TEXT?", lark.seq("<|channel|>final<|message|>")));
    match shape {
        Shape::Free | Shape::OneCall => {
            lark.until("thinking", Body::any(), again, MARKS);
            lark.line(&format!("thought: {analysis} thinking"));
            lark.line(&format!("aside: {} thinking", lark.seq("<|channel|>commentary<|message|>")));
        }
        Shape::MustCall => {
            lark.paragraph("thinking", again, MARKS);
            lark.line(&format!("thought: {analysis} thinking"));
        }
        Shape::CallNow => {}
    }
    if tools.is_empty() {
        lark.line(match shape {
            Shape::Free | Shape::OneCall => "start: thought* final",
            Shape::MustCall | Shape::CallNow => "start: final",
        });
        return lark.finish();
    }
    lark.line(match shape {
        Shape::Free | Shape::OneCall => "start: thought* aside? (final | call)",
        Shape::MustCall => "start: thought call",
        Shape::CallNow => "start: call",
    });
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    lark.line(&format!("call: {}", names.join(" | ")));
    let kind = format!(
        "({} | {} | {})?",
        literal(" json"),
        lark.seq(" <|constrain|>json"),
        lark.seq("<|constrain|>json")
    );
    for (i, tool) in tools.iter().enumerate() {
        let arguments = arguments(tool, i, bounds, lark.lines());
        // Models write the recipient before the channel or behind it.
        let before = lark.seq(&format!(" to=functions.{}<|channel|>commentary", tool.name));
        let behind = lark.seq(&format!("<|channel|>commentary to=functions.{}", tool.name));
        let message = lark.seq(MESSAGE);
        lark.line(&format!("call_{i}: ({before} | {behind}) {kind} {message} {arguments}"));
    }
    lark.finish()
}

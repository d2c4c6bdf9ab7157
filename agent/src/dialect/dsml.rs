//! DeepSeek V4 and V4.1: turns behind special tokens, calls in DSML.
//!
//! ```text
//! <｜begin▁of▁sentence｜>orders … ## Tools … ### Available Tool Schemas … one JSON object a line …
//! <｜User｜>words<｜Assistant｜><think>thought</think>text
//!
//! <｜DSML｜tool_calls>
//! <｜DSML｜invoke name="read">
//! <｜DSML｜parameter name="path" string="true">a.py</｜DSML｜parameter>
//! <｜DSML｜parameter name="from" string="false">3</｜DSML｜parameter>
//! </｜DSML｜invoke>
//! </｜DSML｜tool_calls><｜end▁of▁sentence｜>
//! <｜User｜><tool_result>…</tool_result>
//! ```
//!
//! A text stands between its marks as it is, without escapes; so a text that holds its own end mark cannot be said, and
//! the grammar admits none. There is no turn of a tool: its answers are blocks of a user's turn, in the order of the
//! calls they answer. Where there are tools every thought stays for the whole session, because the model was trained
//! to build on them; without tools the thoughts of earlier turns may be left out.
//!
//! V4 (the release of 31 July) and V4.1 differ in how effort is asked for, in the mark of the system's turns and in a
//! blank within the tags. Neither model's file has a template: the wording is that of the encoders published with
//! the models, and the fixtures' goldens were rendered with these.

use serde_json::{Map, Value};
use tools::{Call, Spec};

use super::json::spaced;
use super::lark::{Body, Lark, Special, literal};
use super::raw::{self, Tags};
use super::transcript::{Effort, Orders, Said, Task, Transcript, Turn};
use super::{Bound, Parsed, Piece, Seek, Shape, Stage, push, seek};
use crate::context::Answer;
use crate::event::Refused;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// DeepSeek V4, release of 31 July.
    V4,
    /// DeepSeek V4.1.
    V41,
}

const BOS: &str = "<｜begin▁of▁sentence｜>";
const EOS: &str = "<｜end▁of▁sentence｜>";
const SYSTEM: &str = "<｜System｜>";
const USER: &str = "<｜User｜>";
const ASSISTANT: &str = "<｜Assistant｜>";
const REMINDER: &str = "<｜latest_reminder｜>";
const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";
/// The token within each tag.
const DSML: &str = "｜DSML｜";

const MARKS: &[&str] = &[BOS, EOS, SYSTEM, USER, ASSISTANT, REMINDER, THINK, THOUGHT, DSML];

/// What the model is told of its tools. `{calls}`, `{invoke}` and `{parameter}` are the tags' names, `{schemas}` the
/// tools, one a line.
const TOOLS: &str = "## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \"<｜DSML｜{calls}>\" block like the following:

<｜DSML｜{calls}>
<｜DSML｜{invoke} name=\"$TOOL_NAME\">
<｜DSML｜{parameter} name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</｜DSML｜{parameter}>
...
</｜DSML｜{invoke}>
<｜DSML｜{invoke} name=\"$TOOL_NAME2\">
...
</｜DSML｜{invoke}>
</｜DSML｜{calls}>

String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string=\"false\"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

{schemas}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
";

/// What asks V4 for high effort; the April release had the same words for its highest.
const HIGH: &str = "Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.

";

/// What asks V4 for the highest effort.
const MAX: &str = "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no assumption remains unchecked and no error remains undiscovered.

";

impl Version {
    /// The name of the tag around all calls of a reply.
    fn calls(self) -> &'static str {
        match self {
            Version::V4 => "tool_calls",
            Version::V41 => " calls",
        }
    }

    /// The name of the tag around one call.
    fn invoke(self) -> &'static str {
        match self {
            Version::V4 => "invoke",
            Version::V41 => " invoke",
        }
    }

    /// The name of the tag around one argument.
    fn parameter(self) -> &'static str {
        match self {
            Version::V4 => "parameter",
            Version::V41 => " parameter",
        }
    }

    /// What asks for this effort. Fails for one the model was not trained on.
    pub(super) fn effort(self, effort: Option<Effort>) -> Result<String, String> {
        match self {
            Version::V4 => Ok(match effort {
                None | Some(Effort::Minimal | Effort::Low | Effort::Medium) => String::new(),
                Some(Effort::High | Effort::Higher) => HIGH.to_string(),
                Some(Effort::Max) => MAX.to_string(),
                Some(Effort::Of(_)) => {
                    return Err("DeepSeek V4 knows the efforts low, high and max, and no numbers".to_string());
                }
            }),
            Version::V41 => {
                let number = match effort {
                    Some(Effort::Low) => 50,
                    None | Some(Effort::High | Effort::Higher) => 75,
                    Some(Effort::Max) => 100,
                    Some(Effort::Of(number)) => number,
                    Some(Effort::Minimal | Effort::Medium) => {
                        return Err(
                            "DeepSeek V4.1 knows the efforts low, high, xhigh, max and the numbers 1 to 100"
                                .to_string(),
                        );
                    }
                };
                Ok(format!(
                    "Reasoning Effort: {number} (range 1-100, the higher the value, the more thorough the reasoning)\n\n"
                ))
            }
        }
    }
}

/// A turn as this format knows them: what people and tools say one after another is one.
enum Part<'a> {
    System(&'a Orders),
    Developer(&'a Orders),
    User { blocks: Vec<Block<'a>>, task: Option<Task> },
    Reminder(&'a str),
    Assistant { said: &'a Said, open: bool },
}

enum Block<'a> {
    Words(&'a str),
    Answer(&'a Answer),
}

/// The prompt for the next reply.
pub(super) fn render(transcript: &Transcript, version: Version) -> Vec<Piece> {
    let thinking = transcript.thinking;
    let mut parts = parts(transcript);
    // With tools nothing is forgotten.
    let forgets = transcript.forgets && transcript.tools().next().is_none();
    if thinking && forgets {
        let last = last_user(&parts, version);
        let mut at = 0;
        parts.retain(|part| {
            at += 1;
            // A developer's words of earlier turns were for these turns.
            !(matches!(part, Part::Developer(_)) && last.is_some_and(|last| at - 1 < last))
        });
    }
    let last = last_user(&parts, version);
    let mut out = vec![Piece::Special(BOS)];
    for (at, part) in parts.iter().enumerate() {
        if at == 0 {
            let effort = match thinking {
                true => version.effort(transcript.effort).unwrap_or_default(),
                false => String::new(),
            };
            if version == Version::V41 && (!effort.is_empty() || matches!(part, Part::System(_))) {
                out.push(Piece::Special(SYSTEM));
            }
            push(&mut out, effort);
        }
        let remembered = !forgets || last.is_none_or(|last| at > last);
        match part {
            Part::System(orders) => {
                if version == Version::V41 && at > 0 {
                    out.push(Piece::Special(SYSTEM));
                }
                tell(orders, version, &mut out);
            }
            Part::Developer(orders) => {
                out.push(Piece::Special(USER));
                tell(orders, version, &mut out);
            }
            Part::User { blocks, .. } => {
                out.push(Piece::Special(USER));
                let blocks: Vec<String> = blocks
                    .iter()
                    .map(|block| match block {
                        Block::Words(words) => words.to_string(),
                        Block::Answer(answer) => format!("<tool_result>{}</tool_result>", answer.text),
                    })
                    .collect();
                push(&mut out, blocks.join("\n\n"));
            }
            Part::Reminder(text) => {
                out.push(Piece::Special(REMINDER));
                push(&mut out, text.to_string());
            }
            Part::Assistant { said, open } => {
                let for_task = at > 0 && task(&parts[at - 1]).is_some();
                let thought = thinking && !for_task && remembered;
                match said {
                    Said::Sampled { tokens, thinking, .. } => {
                        out.push(Piece::Sampled(tokens.clone()));
                        // A thought that was cut off is closed for it.
                        if *thinking {
                            out.push(Piece::Special(THOUGHT));
                        }
                    }
                    Said::Written { thought: words, text, calls } => {
                        reply(version, thought.then_some(words.as_str()), text, calls, &mut out);
                    }
                }
                if !open {
                    out.push(Piece::Special(EOS));
                }
            }
        }
        let next = parts.get(at + 1);
        if matches!(next, None | Some(Part::Assistant { .. } | Part::Reminder(_))) {
            // The last of the user's words already asks for a thought.
            let thinks = thinking && (!forgets || last.is_none_or(|last| at >= last));
            open(part, at, next, thinks, thinking, version, &mut out);
        }
    }
    out
}

/// Begins the reply after `part`.
fn open(
    part: &Part,
    at: usize,
    next: Option<&Part>,
    thinks: bool,
    thinking: bool,
    version: Version,
    out: &mut Vec<Piece>,
) {
    let mark = |thinks| Piece::Special(if thinks { THINK } else { THOUGHT });
    match task(part) {
        Some(Task::Action) => {
            out.extend([Piece::Special(ASSISTANT), mark(thinking), Piece::Special(task_mark(Task::Action))])
        }
        Some(task) => out.push(Piece::Special(task_mark(task))),
        None => {
            let answers = match part {
                Part::User { .. } | Part::Developer(_) => true,
                Part::System(_) => match version {
                    Version::V4 => matches!(next, None | Some(Part::Assistant { .. })),
                    Version::V41 => at > 0,
                },
                Part::Reminder(_) | Part::Assistant { .. } => false,
            };
            if answers {
                out.extend([Piece::Special(ASSISTANT), mark(thinks)]);
            }
        }
    }
}

fn task(part: &Part) -> Option<Task> {
    match part {
        Part::User { task, .. } => *task,
        _ => None,
    }
}

fn task_mark(task: Task) -> &'static str {
    match task {
        Task::Action => "<｜action｜>",
        Task::Query => "<｜query｜>",
        Task::Authority => "<｜authority｜>",
        Task::Domain => "<｜domain｜>",
        Task::Title => "<｜title｜>",
        Task::ReadUrl => "<｜read_url｜>",
    }
}

/// The turns as this format has them.
fn parts(transcript: &Transcript) -> Vec<Part<'_>> {
    let mut parts: Vec<Part> = Vec::new();
    for turn in &transcript.turns {
        match turn {
            Turn::System(orders) => parts.push(Part::System(orders)),
            Turn::Developer(orders) => parts.push(Part::Developer(orders)),
            Turn::Reminder { text } => parts.push(Part::Reminder(text)),
            Turn::User { text, task } => match parts.last_mut() {
                Some(Part::User { blocks, task: None }) => blocks.push(Block::Words(text)),
                _ => parts.push(Part::User { blocks: vec![Block::Words(text)], task: *task }),
            },
            Turn::Results { answers } => {
                let answers = answers.iter().map(Block::Answer);
                match parts.last_mut() {
                    Some(Part::User { blocks, .. }) => blocks.extend(answers),
                    _ => parts.push(Part::User { blocks: answers.collect(), task: None }),
                }
            }
            Turn::Assistant { said, open } => parts.push(Part::Assistant { said, open: *open }),
        }
    }
    // The ids of the calls that were asked for last, in their order.
    let mut order: Vec<&str> = Vec::new();
    for part in &mut parts {
        match part {
            Part::Assistant { said: Said::Written { calls, .. }, .. } if !calls.is_empty() => {
                order = calls.iter().map(|call| call.id.as_str()).collect();
            }
            Part::User { blocks, .. } => sort(blocks, &order),
            _ => {}
        }
    }
    parts
}

/// Puts the answers in a user's turn into the order of the calls they answer. The words between them stay where they are.
fn sort(blocks: &mut [Block], order: &[&str]) {
    let place = |answer: &Answer| {
        let call = answer.call.as_deref().filter(|call| !call.is_empty());
        // What answers no known call stands with the answer to the first.
        call.and_then(|call| order.iter().rposition(|id| *id == call)).unwrap_or(0)
    };
    let mut answers: Vec<&Answer> = blocks
        .iter()
        .filter_map(|block| match block {
            Block::Answer(answer) => Some(*answer),
            Block::Words(_) => None,
        })
        .collect();
    answers.sort_by_key(|answer| place(answer));
    let mut answers = answers.into_iter();
    for block in blocks {
        if let Block::Answer(answer) = block {
            *answer = answers.next().expect("there are as many answers as there were");
        }
    }
}

/// The place of the last turn that counts as a user's.
fn last_user(parts: &[Part], version: Version) -> Option<usize> {
    (0..parts.len()).rev().find(|at| match &parts[*at] {
        Part::Developer(_) => true,
        // For V4.1 answers of tools begin no new turn, and the system's words between turns do.
        Part::User { blocks, .. } => {
            version == Version::V4 || blocks.iter().any(|block| matches!(block, Block::Words(_)))
        }
        Part::System(_) => version == Version::V41 && *at > 0,
        Part::Reminder(_) | Part::Assistant { .. } => false,
    })
}

fn tell(orders: &Orders, version: Version, out: &mut Vec<Piece>) {
    push(out, orders.text.clone().unwrap_or_default());
    if !orders.tools.is_empty() {
        push(out, "\n\n".to_string());
        let schemas: Vec<String> = orders.tools.iter().map(|tool| spaced(&tool["function"])).collect();
        let text = TOOLS
            .replace("{calls}", version.calls())
            .replace("{invoke}", version.invoke())
            .replace("{parameter}", version.parameter());
        let (before, after) = text.split_once("{schemas}").expect("the text has a place for the schemas");
        marked(before, out);
        // Schemas are data: what looks like a mark in them is none.
        push(out, schemas.join("\n"));
        marked(after, out);
    }
    if let Some(format) = &orders.format {
        push(
            out,
            format!(
                "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{}",
                spaced(format)
            ),
        );
    }
}

/// Our own text with its marks.
fn marked(text: &str, out: &mut Vec<Piece>) {
    super::marked(text, MARKS, out);
}

/// A reply as the model writes it after the mark that opens it; without a thought when it does not think.
pub(super) fn reply(
    version: Version,
    thought: Option<&str>,
    text: &str,
    calls: &[Call],
    out: &mut Vec<Piece>,
) {
    if let Some(thought) = thought {
        push(out, thought.to_string());
        out.push(Piece::Special(THOUGHT));
    }
    push(out, text.to_string());
    if !calls.is_empty() {
        block(calls, version, out);
    }
}

/// The block of a reply's calls.
fn block(calls: &[Call], version: Version, out: &mut Vec<Piece>) {
    let (block, invoke, parameter) = (version.calls(), version.invoke(), version.parameter());
    marked(&format!("\n\n<｜DSML｜{block}>\n"), out);
    for call in calls {
        marked("<｜DSML｜", out);
        push(out, format!("{invoke} name=\"{}\">\n", call.name));
        let arguments = call.arguments.as_object();
        for (i, (key, value)) in arguments.into_iter().flatten().enumerate() {
            if i > 0 {
                push(out, "\n".to_string());
            }
            marked("<｜DSML｜", out);
            let (string, value) = match value {
                Value::String(text) => (true, text.clone()),
                other => (false, spaced(other)),
            };
            push(out, format!("{parameter} name=\"{key}\" string=\"{string}\">{value}</"));
            out.push(Piece::Special(DSML));
            push(out, format!("{parameter}>"));
        }
        marked(&format!("\n</｜DSML｜{invoke}>\n"), out);
    }
    marked(&format!("</｜DSML｜{block}>"), out);
}

/// Finds what ends a stage of a reply.
pub(super) fn mark(stage: Stage, text: &str) -> Seek {
    let calls = ("<｜DSML｜", Stage::Call);
    // The empty line before the calls is no text.
    let gap = ("\n\n<｜DSML｜", Stage::Call);
    match stage {
        Stage::Thought => seek(text, &[(THOUGHT, Stage::Text), gap, calls]),
        Stage::Text => seek(text, &[gap, calls]),
        Stage::Head | Stage::Call => Seek::No,
    }
}

/// Reads a reply: its thought, its text, its calls.
pub(super) fn parse(reply: &str, whole: bool, tools: &[Spec]) -> Parsed {
    let reply = reply.strip_suffix(EOS).unwrap_or(reply);
    let mut parsed = Parsed::default();
    // Only a mark before the calls ends a thought: what calls say is theirs.
    let opened = |text: &str| text.find("<｜DSML｜");
    let closed = reply.find(THOUGHT).filter(|at| opened(reply).is_none_or(|calls| *at < calls));
    let rest = match closed {
        Some(at) => {
            let thought = &reply[..at];
            parsed.thought = thought.strip_prefix(THINK).unwrap_or(thought).to_string();
            &reply[at + THOUGHT.len()..]
        }
        None => reply,
    };
    let Some(at) = opened(rest) else {
        // A reply that was cut off before it closed its thought was still thinking.
        match closed.is_none() && !whole {
            true => parsed.thought = rest.strip_prefix(THINK).unwrap_or(rest).to_string(),
            false => parsed.text = rest.to_string(),
        }
        return parsed;
    };
    parsed.text = rest[..at].strip_suffix("\n\n").unwrap_or(&rest[..at]).to_string();
    let mut rest = &rest[at..];
    while let Some(at) = find_tag(rest, "<", "invoke") {
        let body = &rest[at..];
        let (read, used) = invoke(body, whole, tools);
        match read {
            Ok(call) => parsed.calls.push(call),
            Err(why) => parsed.refused.push(Refused { text: body[..used].trim().to_string(), why }),
        }
        rest = &body[used..];
    }
    if parsed.calls.is_empty() && parsed.refused.is_empty() {
        let why = match whole {
            true => "the block of calls holds no call".to_string(),
            false => CUT.to_string(),
        };
        parsed.refused.push(Refused { text: rest.trim().to_string(), why });
    }
    parsed
}

const CUT: &str = "the call was cut off before its end. Write less in one call.";

/// Reads one call; how much of the text it takes.
fn invoke(text: &str, whole: bool, tools: &[Spec]) -> (Result<Call, String>, usize) {
    let unfinished = |at: usize| {
        let why = if whole {
            "the call has no end mark: write </｜DSML｜invoke> after its parameters"
        } else {
            CUT
        };
        (Err(why.to_string()), at)
    };
    let head = tag(text, "<", "invoke").expect("the caller found the tag here");
    let Some(name_end) = text[head..].find("\">").map(|at| head + at) else { return unfinished(text.len()) };
    let name = match text[head..name_end].strip_prefix(" name=\"") {
        Some(name) if !name.is_empty() && !name.contains('\n') => name.to_string(),
        _ => {
            let end = find_tag(&text[head..], "<", "invoke").map_or(text.len(), |at| head + at);
            return (Err("a call needs a name: <｜DSML｜invoke name=\"…\">".to_string()), end);
        }
    };
    let mut at = name_end + 2;
    let mut arguments = Map::new();
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        if let Some(end) = tag(rest, "</", "invoke").and_then(|end| Some(end + rest[end..].find('>')? + 1)) {
            let arguments = unwrapped(arguments, &name, tools);
            return (Ok(Call { id: String::new(), name, arguments: Value::Object(arguments) }), at + end);
        }
        if let Some(head) = tag(rest, "<", "parameter") {
            let Some(open) = rest[head..].find('>').map(|open| head + open) else {
                return unfinished(text.len());
            };
            let Some((key, string)) = attributes(&rest[head..open]) else {
                let end = find_tag(&rest[open..], "<", "invoke").map_or(text.len(), |end| at + open + end);
                let why =
                    "a parameter is written <｜DSML｜parameter name=\"…\" string=\"true|false\">".to_string();
                return (Err(why), end);
            };
            let value = &rest[open + 1..];
            // A parameter that was left open ends where its call does.
            // What stands in the strings of JSON is no end.
            let from = match string {
                Some(true) => 0,
                _ => raw::end(value, "</", true).unwrap_or(0),
            };
            let close = find_tag(&value[from..], "</", "parameter").map(|end| from + end);
            let close = close.or_else(|| find_tag(value, "</", "invoke"));
            let Some(close) = close else { return unfinished(text.len()) };
            let (value, after) = (&value[..close], &value[close..]);
            let read = match string {
                Some(true) => Value::from(value),
                _ => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
            };
            arguments.insert(key.to_string(), read);
            at = text.len() - after.len();
            if let Some(end) = tag(after, "</", "parameter") {
                at += end + after[end..].find('>').map_or(after.len() - end, |end| end + 1);
            }
            continue;
        }
        // Some write the arguments as one JSON object.
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Map<String, Value>>();
        if rest.starts_with('{')
            && let Some(Ok(map)) = values.next()
        {
            at += values.byte_offset();
            arguments.extend(map);
            continue;
        }
        if rest.is_empty() {
            return unfinished(text.len());
        }
        let end = find_tag(rest, "<", "invoke").unwrap_or(rest.len());
        let why = "between the parameters of a call stands nothing else".to_string();
        return (Err(why), at + end);
    }
}

/// How far the tag `name` reaches from the beginning of `text`, when it stands there: with the blank of V4.1 or without.
fn tag(text: &str, open: &str, name: &str) -> Option<usize> {
    let rest = text.strip_prefix(open)?.strip_prefix(DSML)?;
    let rest = rest.strip_prefix(' ').unwrap_or(rest).strip_prefix(name)?;
    Some(text.len() - rest.len())
}

/// Where the tag `name` stands first.
fn find_tag(text: &str, open: &str, name: &str) -> Option<usize> {
    let begin = format!("{open}{DSML}");
    text.match_indices(&begin).map(|(at, _)| at).find(|at| tag(&text[*at..], open, name).is_some())
}

/// The name of a parameter, and whether it is a text when it says so.
fn attributes(text: &str) -> Option<(&str, Option<bool>)> {
    let (name, rest) = text.strip_prefix(" name=\"")?.split_once('"')?;
    match rest.trim() {
        "" => Some((name, None)),
        "string=\"true\"" => Some((name, Some(true))),
        "string=\"false\"" => Some((name, Some(false))),
        _ => None,
    }
}

/// The arguments without an object around them that the tool does not know.
fn unwrapped(arguments: Map<String, Value>, name: &str, tools: &[Spec]) -> Map<String, Value> {
    let known = tools
        .iter()
        .find(|tool| tool.name == name)
        .and_then(|tool| tool.parameters["properties"].as_object());
    let Some(known) = known else { return arguments };
    let mut entries = arguments.iter();
    let (Some((key, value)), None) = (entries.next(), entries.next()) else { return arguments };
    if !["arguments", "input"].contains(&key.as_str()) || known.contains_key(key) {
        return arguments;
    }
    let inner = match value {
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        other => other.clone(),
    };
    match inner {
        Value::Object(inner) if inner.keys().all(|key| known.contains_key(key)) => inner,
        _ => arguments,
    }
}

/// The grammar of a reply.
pub(super) fn grammar(
    tools: &[&Spec],
    shape: Shape,
    bounds: &[Bound],
    special: Special,
    version: Version,
) -> String {
    let mut lark = Lark::new(special, MARKS);
    let never = [THINK, THOUGHT, DSML];
    lark.text("TEXT", &never);
    match shape {
        // What is to act at once does not think.
        Shape::CallNow => lark.line(&format!("thought: {}", lark.seq(THOUGHT))),
        Shape::Free | Shape::OneCall => lark.until("thought", Body::any(), THOUGHT, &never),
        Shape::MustCall => lark.paragraph("thought", THOUGHT, &never),
    }
    if tools.is_empty() {
        lark.line("start: thought TEXT?");
        return lark.finish();
    }
    let (block, name, parameter) = (version.calls(), version.invoke(), version.parameter());
    let opening = format!("\n\n<｜DSML｜{block}>\n");
    let body = match shape {
        Shape::Free | Shape::OneCall => Body::any(),
        Shape::MustCall | Shape::CallNow => Body { pattern: String::new(), empty: true },
    };
    lark.until("opening", body, &opening, &never);
    let calls = match shape {
        Shape::Free => "call+",
        Shape::OneCall | Shape::MustCall | Shape::CallNow => "call",
    };
    lark.line(&format!("block: opening {calls} {}", lark.seq(&format!("</｜DSML｜{block}>"))));
    lark.line(match shape {
        Shape::Free | Shape::OneCall => "start: thought (TEXT? | block)",
        Shape::MustCall | Shape::CallNow => "start: thought block",
    });
    let tags = Tags {
        open: &|key, text| format!("<｜DSML｜{parameter} name=\"{key}\" string=\"{text}\">"),
        close: &format!("</｜DSML｜{parameter}>"),
        after: "\n",
        typed: true,
        python: false,
    };
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    lark.line(&format!("call: {}", names.join(" | ")));
    for (i, tool) in tools.iter().enumerate() {
        let open = lark.seq(&format!("<｜DSML｜{name} name=\"{}\">\n", tool.name));
        let close = lark.seq(&format!("</｜DSML｜{name}>\n"));
        let arguments = raw::arguments(&mut lark, tool, i, bounds, &tags);
        // A call without arguments has an empty line where they would stand.
        lark.line(&format!("call_{i}: {open} ({arguments} | {}) {close}", literal("\n")));
    }
    lark.finish()
}

//! A conversation as every dialect writes it: turns of plain data, and earlier replies as they were sampled.
//!
//! A session's conversation becomes one by [`Transcript::of`]. One that comes from elsewhere, such as the file that
//! `saga render` is given, is read by [`Transcript::read`]: there replies are text, thoughts and calls, not tokens.

use serde_json::{Map, Value, json};
use tools::{Call, Spec};

use crate::context::{Answer, Message};
use crate::event::Stop;

/// A conversation, and how the model is to go on with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    /// What was said, in order.
    pub turns: Vec<Turn>,
    /// Whether the model thinks before it answers.
    pub thinking: bool,
    /// How hard it thinks; nothing means as the format has it by default.
    pub effort: Option<Effort>,
    /// Whether thoughts from before the last user's words are left out, where the format leaves them out.
    pub forgets: bool,
    /// Today's date for formats that tell it.
    pub date: Option<String>,
}

/// What one party said.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// Who runs the service.
    System(Orders),
    /// Who wrote the application.
    Developer(Orders),
    /// A person.
    User {
        /// Their words.
        text: String,
        /// What else than an answer is wanted.
        task: Option<Task>,
    },
    /// Words that belong to the latest turn and are no person's.
    Reminder {
        /// The words.
        text: String,
    },
    /// The model.
    Assistant {
        /// What it said.
        said: Said,
        /// Whether it is to go on with it.
        open: bool,
    },
    /// The tools.
    Results {
        /// Their answers, in the order they came.
        answers: Vec<Answer>,
    },
}

/// How a model is to behave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Orders {
    /// In words. Nothing where tools are told and nobody gave orders, which formats tell apart from empty orders.
    pub text: Option<String>,
    /// The tools, as objects `{"type": "function", "function": {…}}`.
    pub tools: Vec<Value>,
    /// The schema the answer has to fit.
    pub format: Option<Value>,
}

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// As sampled.
    Sampled {
        /// Its tokens, without the one that ended it.
        tokens: Vec<engine::Token>,
        /// Whether it was cut off while it thought.
        thinking: bool,
        /// Whether it asks for calls.
        calling: bool,
    },
    /// As data.
    Written {
        /// The thought before it.
        thought: String,
        /// The text outside its calls.
        text: String,
        /// Its calls.
        calls: Vec<Call>,
    },
}

/// How hard a model thinks. Each format knows some of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// `minimal`
    Minimal,
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
    /// `xhigh`
    Higher,
    /// `max`
    Max,
    /// A number, 1 to 100.
    Of(u8),
}

/// What DeepSeek's models are asked for besides answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// `action`
    Action,
    /// `query`
    Query,
    /// `authority`
    Authority,
    /// `domain`
    Domain,
    /// `title`
    Title,
    /// `read_url`
    ReadUrl,
}

impl Transcript {
    /// A session's conversation. Its thoughts stay: replies are told as they were sampled.
    pub(crate) fn of(conversation: &[Message]) -> Transcript {
        let turns = conversation.iter().map(|message| match message {
            Message::System { text, tools } => Turn::System(Orders {
                text: Some(text.clone()),
                tools: tools.iter().map(described).collect(),
                format: None,
            }),
            Message::User { text } => Turn::User { text: text.clone(), task: None },
            // A reply without its tokens came with a session whose secrets were blotted out: it is told by its text.
            Message::Assistant { tokens, text, calls, .. }
                if tokens.is_empty() && !(text.is_empty() && calls.is_empty()) =>
            {
                let said = Said::Written { thought: String::new(), text: text.clone(), calls: calls.clone() };
                Turn::Assistant { said, open: false }
            }
            Message::Assistant { tokens, text, calls, stop } => Turn::Assistant {
                said: Said::Sampled {
                    tokens: tokens.clone(),
                    thinking: *stop != Stop::End && text.is_empty() && calls.is_empty(),
                    calling: !calls.is_empty(),
                },
                open: false,
            },
            Message::Results { answers } => Turn::Results { answers: answers.clone() },
        });
        Transcript { turns: turns.collect(), thinking: true, effort: None, forgets: false, date: None }
    }

    /// The tools of all turns.
    pub(crate) fn tools(&self) -> impl Iterator<Item = &Value> {
        self.turns.iter().flat_map(|turn| match turn {
            Turn::System(orders) | Turn::Developer(orders) => orders.tools.as_slice(),
            _ => &[],
        })
    }

    /// The place of the last turn in which a person speaks.
    pub(crate) fn last_user(&self) -> Option<usize> {
        self.turns.iter().rposition(|turn| matches!(turn, Turn::User { .. }))
    }

    /// Reads a conversation from JSON:
    ///
    /// ```text
    /// {"messages": […], "tools": […], "thinking_mode": "chat" | "thinking", "reasoning_effort": null | "low" | 75 | …,
    ///  "drop_thinking": true, "response_format": {…}, "date": "2026-10-30"}
    /// ```
    ///
    /// Messages and tools are those of the OpenAI API, with `reasoning_content` or `reasoning` for thoughts; a message
    /// may carry `tools`, `response_format`, `task` and `wo_eos` of its own. Other keys are not looked at.
    ///
    /// # Errors
    /// What is wrong, in words that name the place.
    pub fn read(value: &Value) -> Result<Transcript, String> {
        let Value::Object(top) = value else { return Err("a conversation is a JSON object".to_string()) };
        let messages = match top.get("messages") {
            Some(Value::Array(messages)) => messages,
            _ => return Err("a conversation needs \"messages\": a list".to_string()),
        };
        let mut turns: Vec<Turn> = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            let turn = turn(message).map_err(|why| format!("messages[{at}]: {why}"))?;
            match (turns.last_mut(), turn) {
                // Answers that come one after another are the answers to one reply.
                (Some(Turn::Results { answers }), Turn::Results { answers: more }) => answers.extend(more),
                (_, turn) => turns.push(turn),
            }
        }
        name_answers(&mut turns);
        let tools = tools(top.get("tools")).map_err(|why| format!("tools: {why}"))?;
        let format = given(top, "response_format").cloned();
        if !tools.is_empty() || format.is_some() {
            let orders = first_orders(&mut turns);
            orders.tools.extend(tools);
            orders.format = format.or(orders.format.take());
        }
        let mut thinking = match given(top, "thinking_mode").map(Value::as_str) {
            None | Some(Some("thinking")) => true,
            Some(Some("chat")) => false,
            Some(_) => return Err("\"thinking_mode\" is \"chat\" or \"thinking\"".to_string()),
        };
        let effort = match given(top, "reasoning_effort") {
            // Not to think at all is the least effort.
            Some(Value::String(none)) if none == "none" => {
                thinking = false;
                None
            }
            Some(value) => Some(Effort::read(value)?),
            None => None,
        };
        Ok(Transcript {
            turns,
            thinking,
            effort,
            forgets: flag(top, "drop_thinking")?.unwrap_or(true),
            date: given(top, "date").and_then(Value::as_str).map(str::to_string),
        })
    }
}

impl Effort {
    fn read(value: &Value) -> Result<Effort, String> {
        let number = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        if let Some(number) = number
            && (1..=100).contains(&number)
        {
            return Ok(Effort::Of(number as u8));
        }
        Ok(match value.as_str() {
            Some("minimal") => Effort::Minimal,
            Some("low") => Effort::Low,
            Some("medium") => Effort::Medium,
            Some("high") => Effort::High,
            Some("xhigh") => Effort::Higher,
            Some("max") => Effort::Max,
            _ => {
                return Err(format!(
                    "\"reasoning_effort\" is none, minimal, low, medium, high, xhigh, max or a number from 1 to 100, and not {value}"
                ));
            }
        })
    }
}

/// A tool as formats tell it.
pub(crate) fn described(tool: &Spec) -> Value {
    json!({
        "type": "function",
        "function": { "name": tool.name, "description": tool.description.trim(), "parameters": tool.parameters },
    })
}

/// A key that is there and not null.
fn given<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<Option<bool>, String> {
    given(map, key)
        .map(|value| value.as_bool().ok_or_else(|| format!("{key:?} is true or false")))
        .transpose()
}

fn turn(message: &Value) -> Result<Turn, String> {
    let Value::Object(message) = message else { return Err("a message is a JSON object".to_string()) };
    let text = text(message.get("content")).map_err(|why| format!("content: {why}"))?;
    let orders = || -> Result<Orders, String> {
        Ok(Orders {
            text: Some(text.clone().unwrap_or_default()),
            tools: tools(message.get("tools")).map_err(|why| format!("tools: {why}"))?,
            format: given(message, "response_format").cloned(),
        })
    };
    let some = || text.clone().unwrap_or_default();
    match message.get("role").and_then(Value::as_str) {
        Some("system") => Ok(Turn::System(orders()?)),
        Some("developer") => Ok(Turn::Developer(orders()?)),
        Some("user") => Ok(Turn::User { text: some(), task: task(message)? }),
        Some("latest_reminder") => Ok(Turn::Reminder { text: some() }),
        Some("tool") => Ok(Turn::Results {
            answers: vec![Answer {
                call: given(message, "tool_call_id").and_then(Value::as_str).map(str::to_string),
                name: given(message, "name").and_then(Value::as_str).map(str::to_string),
                text: some(),
            }],
        }),
        Some("assistant") => {
            let thought = given(message, "reasoning_content").or_else(|| given(message, "reasoning"));
            let thought = match thought {
                None => String::new(),
                Some(Value::String(thought)) => thought.clone(),
                Some(_) => return Err("\"reasoning_content\" is a text".to_string()),
            };
            Ok(Turn::Assistant {
                said: Said::Written { thought, text: some(), calls: calls(message.get("tool_calls"))? },
                open: flag(message, "wo_eos")?.or(flag(message, "prefix")?).unwrap_or(false),
            })
        }
        Some(role) => Err(format!(
            "the role {role:?} is not known; it is system, developer, user, assistant, tool or latest_reminder"
        )),
        None => Err("a message needs a \"role\"".to_string()),
    }
}

/// The text of a message's content: a text, or parts of which each is text.
fn text(content: Option<&Value>) -> Result<Option<String>, String> {
    match content {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(parts)) => {
            let texts: Option<Vec<&str>> = parts
                .iter()
                .map(|part| part.as_str().or_else(|| part.get("text").and_then(Value::as_str)))
                .collect();
            let texts = texts.ok_or("a part that is no text cannot be shown to a model here")?;
            Ok(Some(texts.join("\n\n")))
        }
        Some(_) => Err("it is a text or a list of parts".to_string()),
    }
}

fn tools(value: Option<&Value>) -> Result<Vec<Value>, String> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(tools)) => tools
            .iter()
            .map(|tool| match (tool.get("function"), tool.get("name")) {
                (Some(Value::Object(_)), _) => Ok(tool.clone()),
                (_, Some(Value::String(_))) => Ok(json!({ "type": "function", "function": tool })),
                _ => Err("a tool is an object with a \"function\"".to_string()),
            })
            .collect(),
        Some(_) => Err("it is a list".to_string()),
    }
}

fn task(message: &Map<String, Value>) -> Result<Option<Task>, String> {
    Ok(match given(message, "task").map(|task| task.as_str().unwrap_or_default()) {
        None => None,
        Some("action") => Some(Task::Action),
        Some("query") => Some(Task::Query),
        Some("authority") => Some(Task::Authority),
        Some("domain") => Some(Task::Domain),
        Some("title") => Some(Task::Title),
        Some("read_url") => Some(Task::ReadUrl),
        Some(_) => {
            return Err("\"task\" is action, query, authority, domain, title or read_url".to_string());
        }
    })
}

fn calls(value: Option<&Value>) -> Result<Vec<Call>, String> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err("\"tool_calls\" is a list".to_string()),
    };
    list.iter()
        .map(|call| {
            let function = call.get("function").unwrap_or(call);
            let name = function.get("name").and_then(Value::as_str);
            let name = name.ok_or("a call needs a function's \"name\"")?;
            let id = call.get("id").or_else(|| function.get("id")).and_then(Value::as_str);
            let arguments = function.get("arguments").cloned().unwrap_or_else(|| json!({}));
            Ok(Call {
                id: id.unwrap_or_default().to_string(),
                name: name.to_string(),
                arguments: object(&arguments),
            })
        })
        .collect()
}

/// Arguments as an object: they come as one, as its JSON, or as the JSON of its JSON.
fn object(arguments: &Value) -> Value {
    let mut read = arguments.clone();
    for _ in 0..2 {
        match &read {
            Value::String(text) => match serde_json::from_str(text) {
                Ok(inner) => read = inner,
                Err(_) => break,
            },
            _ => break,
        }
    }
    match read {
        Value::Object(_) => read,
        _ => json!({ "arguments": arguments }),
    }
}

/// Gives each answer without a name the name of the call it answers.
fn name_answers(turns: &mut [Turn]) {
    let mut names: Vec<(String, String)> = Vec::new();
    for turn in turns {
        match turn {
            Turn::Assistant { said: Said::Written { calls, .. }, .. } => {
                names.extend(calls.iter().map(|call| (call.id.clone(), call.name.clone())));
            }
            Turn::Results { answers } => {
                for answer in answers.iter_mut().filter(|answer| answer.name.is_none()) {
                    let named = names.iter().rev().find(|(id, _)| Some(id) == answer.call.as_ref());
                    answer.name = named.map(|(_, name)| name.clone());
                }
            }
            _ => {}
        }
    }
}

/// The orders that tools belong to: the first system turn's, or new ones before everything.
fn first_orders(turns: &mut Vec<Turn>) -> &mut Orders {
    let at = turns.iter().position(|turn| matches!(turn, Turn::System(_))).unwrap_or_else(|| {
        turns.insert(0, Turn::System(Orders::default()));
        0
    });
    match &mut turns[at] {
        Turn::System(orders) => orders,
        _ => unreachable!("the place was found by its being a system turn"),
    }
}

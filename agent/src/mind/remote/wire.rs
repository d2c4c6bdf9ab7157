//! What is sent, and what refusals say.

use serde_json::{Value, json};

use crate::context::Message;
use crate::dialect::Shape;
use crate::event::Created;
use crate::world::Manner;

/// The body of a request.
pub(super) fn request(model: &str, conversation: &[Message], created: &Created, manner: &Manner) -> Value {
    let mut body = json!({
        "model": model,
        "messages": messages(conversation),
        "stream": true,
        "stream_options": { "include_usage": true },
        "max_tokens": created.budget.reply_tokens_max,
        "temperature": rounded(manner.sampling.temperature),
        // Servers take it for a signed number.
        "seed": manner.sampling.seed & (i64::MAX as u64),
    });
    if manner.sampling.top_p < 1.0 {
        body["top_p"] = rounded(manner.sampling.top_p);
    }
    // All of them, whichever may be called now: a server keeps what it has computed for the same beginning.
    let tools: Vec<Value> = created
        .tools
        .iter()
        .map(|tool| {
            json!({
                "type": "function",
                "function": { "name": tool.name, "description": tool.description, "parameters": tool.parameters },
            })
        })
        .collect();
    if !tools.is_empty() {
        let none = created.tools.iter().all(|tool| manner.without.contains(&tool.name));
        body["tools"] = tools.into();
        body["tool_choice"] = match manner.shape {
            _ if none => "none",
            Shape::CallNow | Shape::MustCall => "required",
            Shape::Free | Shape::OneCall => "auto",
        }
        .into();
    }
    body
}

/// A number as people write it: 0.7, not 0.699999988.
fn rounded(number: f32) -> Value {
    json!((f64::from(number) * 1000.0).round() / 1000.0)
}

fn messages(conversation: &[Message]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    let user = |out: &mut Vec<Value>, text: &str| match out.last_mut() {
        // Many templates want people and models to take turns.
        Some(last) if last["role"] == "user" => {
            let before = last["content"].as_str().unwrap_or_default();
            last["content"] = format!("{}\n\n{text}", before.trim_end()).into();
        }
        _ => out.push(json!({ "role": "user", "content": text })),
    };
    for message in conversation {
        match message {
            Message::System { text, .. } => out.push(json!({ "role": "system", "content": text })),
            Message::User { text } => user(&mut out, text),
            Message::Assistant { text, calls, .. } => {
                let mut said = json!({ "role": "assistant", "content": text });
                if !calls.is_empty() {
                    let call = |call: &tools::Call| {
                        let arguments = match &call.arguments {
                            Value::String(text) => text.clone(),
                            other => other.to_string(),
                        };
                        json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": arguments } })
                    };
                    said["tool_calls"] = calls.iter().map(call).collect::<Vec<_>>().into();
                }
                out.push(said);
            }
            Message::Results { answers } => {
                for answer in answers {
                    match &answer.call {
                        Some(id) => {
                            out.push(json!({ "role": "tool", "tool_call_id": id, "content": answer.text }))
                        }
                        None => user(&mut out, &answer.text),
                    }
                }
            }
        }
    }
    out
}

/// What an error's body says, in a line.
pub(super) fn complaint(body: &str) -> String {
    let said = serde_json::from_str::<Value>(body).ok().and_then(|value| {
        let error = &value["error"];
        [&error["message"], error, &value["message"], &value["detail"]]
            .into_iter()
            .find_map(|text| text.as_str().map(str::to_string))
    });
    let text = said.unwrap_or_else(|| body.to_string());
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// Whether a refusal means that the prompt is too long, and how long it is if it says so. Servers have no common word for it.
pub(super) fn too_long(why: &str) -> Option<Option<u64>> {
    const WORDS: [&str; 6] = [
        "context length",
        "context_length",
        "context size",
        "maximum model length",
        "prompt is too long",
        "longer than the model",
    ];
    let lower = why.to_lowercase();
    if !WORDS.iter().any(|words| lower.contains(words)) {
        return None;
    }
    // The largest number that it names is what was asked for.
    let numbers = lower.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u64>().ok());
    Some(numbers.max().filter(|asked| *asked > 0))
}

/// The models of a server's list.
pub(super) fn models(body: &str) -> Vec<String> {
    let list = serde_json::from_str::<Value>(body).unwrap_or_default();
    let names = list["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str());
    names.map(str::to_string).collect()
}

//! An answer as it comes: lines of server-sent events, each a piece of text, of a thought or of a call.

use std::time::Instant;

use serde_json::Value;
use tools::{Call, Spec};

use crate::event::{Refused, Stop, Usage};
use crate::world::{Progress, Sink, Thought};

/// What has come so far.
pub(super) struct Assembly<'a> {
    out: &'a Sink,
    text: String,
    calls: Vec<Written>,
    usage: Usage,
    /// Pieces so far: about as many as tokens, until the server says how many they were.
    pieces: u64,
    first: Option<Instant>,
    stop: Option<Stop>,
    done: bool,
}

/// A call as it is written.
#[derive(Default)]
struct Written {
    index: u64,
    name: String,
    arguments: String,
}

/// More calls than a reply can mean. Beyond them nothing is kept.
const CALLS_MAX: usize = 64;
/// The longest reply that is kept, whatever the server was asked for. Bytes.
const REPLY_BYTES_MAX: usize = 4 << 20;

impl<'a> Assembly<'a> {
    pub(super) fn new(out: &'a Sink) -> Assembly<'a> {
        Assembly {
            out,
            text: String::new(),
            calls: Vec::new(),
            usage: Usage::default(),
            pieces: 0,
            first: None,
            stop: None,
            done: false,
        }
    }

    /// Takes a line. The error is the server's own, said in the middle of its answer.
    pub(super) fn line(&mut self, line: &str, began: Instant) -> Result<(), String> {
        let Some(data) = line.trim_end().strip_prefix("data:").map(str::trim) else { return Ok(()) };
        if data == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { return Ok(()) };
        if !chunk["error"].is_null() {
            return Err(super::wire::complaint(data));
        }
        self.count(&chunk["usage"]);
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        let thought = [&delta["reasoning_content"], &delta["reasoning"]].into_iter().find_map(Value::as_str);
        let text = delta["content"].as_str().unwrap_or_default();
        let calls = delta["tool_calls"].as_array();
        if thought.is_some_and(|thought| !thought.is_empty()) || !text.is_empty() || calls.is_some() {
            if self.first.is_none() {
                self.usage.prefill_ms = began.elapsed().as_millis() as u64;
                self.first = Some(Instant::now());
            }
            self.pieces += 1;
            self.out.say(Progress::Speed { output_tokens: self.pieces, decode_ms: self.decode_ms() });
        }
        if let Some(thought) = thought.filter(|thought| !thought.is_empty()) {
            self.out.say(Progress::Thought { text: thought.to_string() });
        }
        if self.bytes() < REPLY_BYTES_MAX {
            if !text.is_empty() {
                self.text.push_str(text);
                self.out.say(Progress::Text { text: text.to_string() });
            }
            calls.into_iter().flatten().for_each(|call| self.call(call));
        }
        match choice["finish_reason"].as_str() {
            None => {}
            Some("length") => self.stop = Some(Stop::Length),
            Some(_) => self.stop = Some(Stop::End),
        }
        Ok(())
    }

    fn call(&mut self, delta: &Value) {
        let index = delta["index"].as_u64().unwrap_or(self.calls.len() as u64);
        let at = match self.calls.iter().position(|call| call.index == index) {
            Some(at) => at,
            None if self.calls.len() < CALLS_MAX => {
                self.calls.push(Written { index, ..Written::default() });
                self.calls.len() - 1
            }
            None => return,
        };
        let name = delta["function"]["name"].as_str().unwrap_or_default();
        // Some servers send arguments as an object, all at once.
        let arguments = match &delta["function"]["arguments"] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        self.calls[at].name.push_str(name);
        self.calls[at].arguments.push_str(&arguments);
        self.out.say(Progress::Calling { text: format!("{name}{arguments}") });
    }

    fn count(&mut self, usage: &Value) {
        let number = |value: &Value| value.as_u64();
        if let Some(prompt) = number(&usage["prompt_tokens"]) {
            self.usage.prompt_tokens = prompt;
            self.usage.cached_tokens =
                number(&usage["prompt_tokens_details"]["cached_tokens"]).unwrap_or_default();
        }
        if let Some(output) = number(&usage["completion_tokens"]) {
            self.usage.output_tokens = output;
        }
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.calls.iter().map(|call| call.arguments.len()).sum::<usize>()
    }

    fn decode_ms(&self) -> u64 {
        self.first.map_or(0, |first| first.elapsed().as_millis() as u64)
    }

    fn usage(&self) -> Usage {
        let output_tokens =
            self.usage.output_tokens.max(if self.usage.output_tokens == 0 { self.pieces } else { 0 });
        Usage { output_tokens, decode_ms: self.decode_ms(), ..self.usage }
    }

    /// The reply, if it has come to its end.
    pub(super) fn finish(self, tools: &[Spec]) -> Option<Thought> {
        let usage = self.usage();
        if self.stop.is_none() && !self.done {
            return None;
        }
        let stop = self.stop.unwrap_or(Stop::End);
        let (mut calls, mut refused) = (Vec::new(), Vec::new());
        for Written { name, arguments, .. } in self.calls {
            match read(&name, &arguments, stop, tools) {
                Ok(call) => calls.push(call),
                Err(why) => refused.push(Refused { text: format!("{name} {arguments}"), why }),
            }
        }
        Some(Thought { tokens: Vec::new(), text: self.text, calls, refused, stop: Some(stop), usage })
    }

    /// What there is when somebody interrupts. A call that is half written asks for nothing.
    pub(super) fn interrupted(self) -> Thought {
        let usage = self.usage();
        Thought::cut(self.text, usage)
    }
}

/// A call, or why it cannot be read.
fn read(name: &str, arguments: &str, stop: Stop, tools: &[Spec]) -> Result<Call, String> {
    let known = || tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>().join(", ");
    if !tools.iter().any(|tool| tool.name == name) {
        let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
        return Err(format!("there is no tool named {name:?}; the tools are: {}", known()));
    }
    let text = if arguments.trim().is_empty() { "{}" } else { arguments };
    match serde_json::from_str::<Value>(text) {
        Ok(arguments @ Value::Object(_)) => Ok(Call { id: String::new(), name: name.to_string(), arguments }),
        Ok(_) => Err(format!("the arguments of {name} must be one JSON object")),
        Err(_) if stop == Stop::Length => {
            Err(format!("the call of {name} was cut off because the reply grew too long; make smaller calls"))
        }
        Err(error) => Err(format!("the arguments of {name} are no JSON ({error}); write them again")),
    }
}

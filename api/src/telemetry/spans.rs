//! Spans made of events. Pure: the same events give the same spans, with the same ids.

use std::collections::BTreeMap;

use agent::{End, Event, Recorded, SessionId, Stop, Usage};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Sessions whose turns are followed at a time. The one that was heard of longest ago goes first.
const SESSIONS_MAX: usize = 4_096;
/// What of a text is sent where texts are. Characters.
const CONTENT_CHARS_MAX: usize = 8_192;
const INTERNAL: u32 = 1;
const CLIENT: u32 = 3;

/// Follows sessions by their events.
pub(super) struct Tracer {
    content: bool,
    turns: BTreeMap<SessionId, Turn>,
    clock: u64,
}

/// A turn that runs.
#[derive(Default)]
struct Turn {
    number: u32,
    model: String,
    began_ms: u64,
    step: Option<(u32, u64)>,
    /// Calls by their ids: the tool, what it is called with, and when it began.
    calls: BTreeMap<String, (String, Value, Option<u64>)>,
    usage: Usage,
    said: Vec<String>,
    heard: u64,
    /// Whether it runs; what is known of a session between turns is what was said for the next one.
    running: bool,
}

impl Tracer {
    pub(super) fn new(content: bool) -> Tracer {
        Tracer { content, turns: BTreeMap::new(), clock: 0 }
    }

    /// Events were missed: what was under way is not known any more.
    pub(super) fn forget(&mut self) {
        self.turns.clear();
    }

    /// The spans that end with an event. `model` tells what the session thinks with.
    pub(super) fn hear(
        &mut self,
        id: &SessionId,
        recorded: &Recorded,
        model: impl Fn() -> String,
    ) -> Vec<Value> {
        self.clock += 1;
        if self.turns.len() >= SESSIONS_MAX && !self.turns.contains_key(id) {
            let oldest = self.turns.iter().min_by_key(|(_, turn)| turn.heard).map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                self.turns.remove(&oldest);
            }
        }
        let content = self.content;
        let turn = self.turns.entry(id.clone()).or_default();
        turn.heard = self.clock;
        let at_ms = recorded.at_ms;
        match &recorded.event {
            Event::Input { text, .. } if content => {
                turn.said.push(shortened(text));
                Vec::new()
            }
            Event::TurnStarted { turn: number } => {
                let said = std::mem::take(&mut turn.said);
                let heard = turn.heard;
                *turn = Turn {
                    number: *number,
                    model: model(),
                    began_ms: at_ms,
                    said,
                    heard,
                    running: true,
                    ..Turn::default()
                };
                Vec::new()
            }
            Event::StepStarted { step } => {
                if !turn.running {
                    // It began before this service did.
                    (turn.running, turn.model, turn.began_ms) = (true, model(), at_ms);
                }
                turn.step = Some((*step, at_ms));
                Vec::new()
            }
            Event::Reply { step, text, calls, stop, usage, .. } => {
                turn.usage = turn.usage.plus(*usage);
                turn.calls.extend(
                    calls
                        .iter()
                        .map(|call| (call.id.clone(), (call.name.clone(), call.arguments.clone(), None))),
                );
                let Some((_, began_ms)) = turn.step.take().filter(|(started, _)| started == step) else {
                    return Vec::new();
                };
                let mut span = turn.span(
                    id,
                    &format!("step {step}"),
                    &format!("chat {}", turn.model),
                    CLIENT,
                    began_ms,
                    at_ms,
                );
                let reason = match stop {
                    Stop::Interrupted => "interrupted",
                    Stop::Length => "length",
                    Stop::End if calls.is_empty() => "stop",
                    Stop::End => "tool_calls",
                };
                let mut told = vec![
                    text_of("gen_ai.operation.name", "chat"),
                    text_of("gen_ai.provider.name", provider(&turn.model)),
                    text_of("gen_ai.request.model", &turn.model),
                    text_of("gen_ai.conversation.id", id.as_str()),
                    json!({"key": "gen_ai.response.finish_reasons", "value": {"arrayValue": {"values": [{"stringValue": reason}]}}}),
                    number("saga.step", u64::from(*step)),
                    number("saga.prefill_ms", usage.prefill_ms),
                    number("saga.decode_ms", usage.decode_ms),
                ];
                told.extend(usage_of(*usage));
                if content {
                    let parts = json!([{"role": "assistant", "parts": [{"type": "text", "content": shortened(text)}], "finish_reason": reason}]);
                    told.push(text_of("gen_ai.output.messages", &parts.to_string()));
                }
                span["attributes"] = told.into();
                vec![span]
            }
            Event::CallStarted { id: call, .. } => {
                if let Some((_, _, began_ms)) = turn.calls.get_mut(call) {
                    *began_ms = Some(at_ms);
                }
                Vec::new()
            }
            Event::CallFinished { id: call, outcome, .. } => {
                let error = (!outcome.ok).then_some("tool_failed");
                turn.called(id, call, at_ms, error, content.then_some(outcome.text.as_str()))
            }
            Event::CallLost { id: call } => turn.called(id, call, at_ms, Some("outcome_lost"), None),
            Event::CallDenied { id: call, .. } => turn.called(id, call, at_ms, Some("denied"), None),
            Event::TurnEnded { turn: number, end } => {
                if !turn.running {
                    return Vec::new();
                }
                turn.number = *number;
                let ended = std::mem::take(turn);
                vec![ended.ended(id, end, at_ms, content)]
            }
            _ => Vec::new(),
        }
    }
}

impl Turn {
    /// A span of this turn, below the turn's own unless it is that.
    fn span(&self, id: &SessionId, what: &str, name: &str, kind: u32, began_ms: u64, ended_ms: u64) -> Value {
        let trace = hash(&[id.as_str(), "turn", &self.began_ms.to_string()], 16);
        let root = hash(&[&trace, "turn"], 8);
        let mut span = json!({
            "traceId": trace,
            "spanId": if what.is_empty() { root.clone() } else { hash(&[&trace, what], 8) },
            "name": name,
            "kind": kind,
            "startTimeUnixNano": nanos(began_ms),
            "endTimeUnixNano": nanos(ended_ms.max(began_ms)),
        });
        if !what.is_empty() {
            span["parentSpanId"] = root.into();
        }
        span
    }

    fn called(
        &mut self,
        id: &SessionId,
        call: &str,
        at_ms: u64,
        error: Option<&str>,
        result: Option<&str>,
    ) -> Vec<Value> {
        let Some((tool, arguments, began_ms)) = self.calls.remove(call) else { return Vec::new() };
        let name = format!("execute_tool {tool}");
        let mut span =
            self.span(id, &format!("call {call}"), &name, INTERNAL, began_ms.unwrap_or(at_ms), at_ms);
        let mut told = vec![
            text_of("gen_ai.operation.name", "execute_tool"),
            text_of("gen_ai.tool.name", &tool),
            text_of("gen_ai.tool.call.id", call),
            text_of("gen_ai.tool.type", "function"),
            text_of("gen_ai.conversation.id", id.as_str()),
        ];
        if let Some(error) = error {
            told.push(text_of("error.type", error));
            span["status"] = json!({ "code": 2 });
        }
        if let Some(result) = result {
            told.push(text_of("gen_ai.tool.call.arguments", &shortened(&arguments.to_string())));
            told.push(text_of("gen_ai.tool.call.result", &shortened(result)));
        }
        span["attributes"] = told.into();
        vec![span]
    }

    fn ended(&self, id: &SessionId, end: &End, at_ms: u64, content: bool) -> Value {
        let mut span = self.span(id, "", "invoke_agent saga", INTERNAL, self.began_ms, at_ms);
        let (how, error) = match end {
            End::Done => ("done", None),
            End::Interrupted => ("interrupted", None),
            End::Budget { .. } => ("budget", None),
            End::GoalUnmet { .. } => ("goal_unmet", None),
            End::ContextFull { .. } => ("context_full", Some("context_full")),
            End::Failed { .. } => ("failed", Some("failed")),
        };
        let mut told = vec![
            text_of("gen_ai.operation.name", "invoke_agent"),
            text_of("gen_ai.agent.name", "saga"),
            text_of("gen_ai.provider.name", provider(&self.model)),
            text_of("gen_ai.request.model", &self.model),
            text_of("gen_ai.conversation.id", id.as_str()),
            number("saga.turn", u64::from(self.number)),
            text_of("saga.turn.end", how),
        ];
        told.extend(usage_of(self.usage));
        if let Some(error) = error {
            told.push(text_of("error.type", error));
            span["status"] = json!({ "code": 2 });
        }
        if content && !self.said.is_empty() {
            let said: Vec<Value> = self
                .said
                .iter()
                .map(|text| json!({"role": "user", "parts": [{"type": "text", "content": text}]}))
                .collect();
            told.push(text_of("gen_ai.input.messages", &Value::from(said).to_string()));
        }
        span["attributes"] = told.into();
        span
    }
}

/// The body of a request that sends these spans.
pub(super) fn request(spans: Vec<Value>) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    json!({"resourceSpans": [{
        "resource": {"attributes": [text_of("service.name", "saga"), text_of("service.version", version)]},
        "scopeSpans": [{"scope": {"name": "saga", "version": version}, "spans": spans}],
    }]})
}

fn usage_of(usage: Usage) -> [Value; 3] {
    [
        number("gen_ai.usage.input_tokens", usage.prompt_tokens),
        number("gen_ai.usage.output_tokens", usage.output_tokens),
        number("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
    ]
}

/// Who computes: this program, or a server that speaks OpenAI's protocol.
fn provider(model: &str) -> &'static str {
    if model.starts_with("remote:") { "openai" } else { "saga" }
}

fn text_of(key: &str, text: &str) -> Value {
    json!({"key": key, "value": {"stringValue": text}})
}

/// Numbers of 64 bits are texts in the protocol's JSON.
fn number(key: &str, number: u64) -> Value {
    json!({"key": key, "value": {"intValue": number.to_string()}})
}

fn nanos(ms: u64) -> String {
    (u128::from(ms) * 1_000_000).to_string()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(CONTENT_CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_string(),
    }
}

/// Bytes in hexadecimal digits that these texts always give.
fn hash(of: &[&str], bytes: usize) -> String {
    let mut digest = Sha256::new();
    for part in of {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    digest.finalize()[..bytes].iter().map(|byte| format!("{byte:02x}")).collect()
}

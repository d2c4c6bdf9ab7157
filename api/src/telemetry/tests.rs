//! Spans as a collector meets them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use expect_test::expect;
use memory::Seq;
use serde_json::{Value, json};

use super::*;

/// A collector that answers each request with a status, and hands on what it was sent.
fn collector(status: &'static str) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (got, taken) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let Some(request) = read(stream, status) else { continue };
            if got.send(request).is_err() {
                return;
            }
        }
    });
    (url, taken)
}

fn read(mut stream: TcpStream, status: &str) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).ok()?;
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length: usize = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_string))?
            .parse()
            .ok()?;
        if body.len() >= length {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).ok()?;
            return Some((head.to_lowercase(), serde_json::from_str(body).ok()?));
        }
    }
}

fn events() -> Vec<Recorded> {
    let written = [
        json!({"type": "input", "id": "a", "text": "Mend it, the key is hush."}),
        json!({"type": "turn_started", "turn": 3}),
        json!({"type": "step_started", "step": 7}),
        json!({"type": "reply", "step": 7, "tokens": [1], "text": "I look.", "stop": "end",
               "calls": [{"id": "c7.1", "name": "exec", "arguments": {"command": "echo hush"}}, {"id": "c7.2", "name": "edit", "arguments": {}}],
               "usage": {"prompt_tokens": 120, "cached_tokens": 100, "output_tokens": 9, "prefill_ms": 5, "decode_ms": 6}}),
        json!({"type": "call_started", "id": "c7.1", "replay": "unsafe"}),
        json!({"type": "call_finished", "id": "c7.1", "outcome": {"ok": false, "text": "hush", "summary": "s", "exit": 1, "wall_ms": 1,
               "bytes_total": 4, "truncated": false, "missing_layers": []}}),
        json!({"type": "call_denied", "id": "c7.2", "why": "a rule"}),
        json!({"type": "step_started", "step": 8}),
        json!({"type": "reply", "step": 8, "tokens": [1], "text": "Done, hush.", "stop": "end", "calls": [],
               "usage": {"prompt_tokens": 140, "cached_tokens": 129, "output_tokens": 4, "prefill_ms": 1, "decode_ms": 2}}),
        json!({"type": "turn_ended", "turn": 3, "end": {"why": "done"}}),
    ];
    written
        .into_iter()
        .enumerate()
        .map(|(n, event)| Recorded {
            seq: Seq(n as u64 + 1),
            at_ms: 1_000 + 10 * n as u64,
            event: serde_json::from_value(event).unwrap(),
        })
        .collect()
}

fn traced(events: &[Recorded], content: bool) -> Vec<Value> {
    let mut tracer = Tracer::new(content);
    let id: SessionId = "s-one".parse().unwrap();
    events.iter().flat_map(|recorded| tracer.hear(&id, recorded, || "tiny".to_string())).collect()
}

/// A span in a line: its name, its parent if it has one, its times, and what is told of it.
fn in_a_line(span: &Value) -> String {
    let told = span["attributes"].as_array().unwrap().iter().map(|one| {
        let value = &one["value"];
        let text = value["stringValue"].as_str().or(value["intValue"].as_str());
        format!("{}={}", one["key"].as_str().unwrap(), text.map_or_else(|| value.to_string(), str::to_string))
    });
    let below = if span["parentSpanId"].is_null() { "" } else { "  " };
    let status = span["status"]["code"].as_u64().map(|code| format!(" status={code}")).unwrap_or_default();
    let ms = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap() / 1_000_000;
    format!(
        "{below}{} [{}-{}]{status} {}",
        span["name"].as_str().unwrap(),
        ms("startTimeUnixNano"),
        ms("endTimeUnixNano"),
        told.collect::<Vec<_>>().join(" ")
    )
}

#[test]
fn a_turn_its_steps_and_its_calls_are_spans_by_the_conventions() {
    let spans = traced(&events(), false);
    let lines: Vec<String> = spans.iter().map(in_a_line).collect();
    expect![[r#"
          chat tiny [1020-1030] gen_ai.operation.name=chat gen_ai.provider.name=saga gen_ai.request.model=tiny gen_ai.conversation.id=s-one gen_ai.response.finish_reasons={"arrayValue":{"values":[{"stringValue":"tool_calls"}]}} saga.step=7 saga.prefill_ms=5 saga.decode_ms=6 gen_ai.usage.input_tokens=120 gen_ai.usage.output_tokens=9 gen_ai.usage.cache_read.input_tokens=100
          execute_tool exec [1040-1050] status=2 gen_ai.operation.name=execute_tool gen_ai.tool.name=exec gen_ai.tool.call.id=c7.1 gen_ai.tool.type=function gen_ai.conversation.id=s-one error.type=tool_failed
          execute_tool edit [1060-1060] status=2 gen_ai.operation.name=execute_tool gen_ai.tool.name=edit gen_ai.tool.call.id=c7.2 gen_ai.tool.type=function gen_ai.conversation.id=s-one error.type=denied
          chat tiny [1070-1080] gen_ai.operation.name=chat gen_ai.provider.name=saga gen_ai.request.model=tiny gen_ai.conversation.id=s-one gen_ai.response.finish_reasons={"arrayValue":{"values":[{"stringValue":"stop"}]}} saga.step=8 saga.prefill_ms=1 saga.decode_ms=2 gen_ai.usage.input_tokens=140 gen_ai.usage.output_tokens=4 gen_ai.usage.cache_read.input_tokens=129
        invoke_agent saga [1010-1090] gen_ai.operation.name=invoke_agent gen_ai.agent.name=saga gen_ai.provider.name=saga gen_ai.request.model=tiny gen_ai.conversation.id=s-one saga.turn=3 saga.turn.end=done gen_ai.usage.input_tokens=260 gen_ai.usage.output_tokens=13 gen_ai.usage.cache_read.input_tokens=229"#]]
    .assert_eq(&lines.join("\n"));
    let root = &spans[4]["spanId"];
    assert!(
        spans[..4].iter().all(|span| span["parentSpanId"] == *root && span["traceId"] == spans[4]["traceId"])
    );
    let ids: std::collections::BTreeSet<String> =
        spans.iter().map(|span| span["spanId"].to_string()).collect();
    assert_eq!(ids.len(), 5);
    assert_eq!(spans[4]["traceId"].as_str().unwrap().len(), 32);
    assert_eq!(traced(&events(), false), spans, "the same events give the same spans");
}

#[test]
fn what_was_said_is_sent_only_where_that_is_asked_for() {
    let quiet = Value::from(traced(&events(), false)).to_string();
    assert!(!quiet.contains("hush") && !quiet.contains("I look"), "{quiet}");
    let told = Value::from(traced(&events(), true)).to_string();
    for part in ["Mend it, the key is hush.", "Done, hush.", "gen_ai.tool.call.result", "echo hush"] {
        assert!(told.contains(part), "{part} is missing from {told}");
    }
}

#[test]
fn a_turn_that_began_before_the_service_is_told_from_where_it_is_met() {
    let spans = traced(&events()[7..], false);
    let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["chat tiny", "invoke_agent saga"]);
    assert!(traced(&events()[8..], false).is_empty(), "of what was missed nothing is made up");
}

#[test]
fn a_collector_gets_json_and_one_that_is_away_costs_only_the_spans() {
    let (url, taken) = collector("200 OK");
    let counts = Counts::default();
    let (batches, waiting) = mpsc::channel(BATCHES);
    batches.try_send(traced(&events(), false)).unwrap();
    drop(batches);
    let headers = [("x-key".to_string(), "mine".to_string())];
    send(&format!("{url}/v1/traces"), &headers, waiting, &counts);
    let (head, body) = taken.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(
        head.starts_with("post /v1/traces ") && head.contains("content-type: application/json"),
        "{head}"
    );
    assert!(head.contains("x-key: mine"), "{head}");
    let resource = &body["resourceSpans"][0];
    assert_eq!(
        resource["resource"]["attributes"][0],
        json!({"key": "service.name", "value": {"stringValue": "saga"}})
    );
    assert_eq!(resource["scopeSpans"][0]["spans"].as_array().unwrap().len(), 5);
    assert_eq!((counts.sent(), counts.dropped()), (5, 0));

    // One that refuses, and a queue that is full.
    let (url, _taken) = collector("400 Bad Request");
    let (batches, waiting) = mpsc::channel(1);
    hand_on(&batches, traced(&events(), false), &counts);
    hand_on(&batches, traced(&events(), false), &counts);
    assert_eq!(counts.dropped(), 5, "what has no room is dropped at once");
    drop(batches);
    send(&url, &[], waiting, &counts);
    assert_eq!((counts.sent(), counts.dropped()), (5, 10));
}

#[test]
fn an_address_that_is_none_is_refused_with_what_to_write() {
    let check = |otlp: Option<&str>, content| {
        TelemetryConfig { otlp: otlp.map(str::to_string), content, ..TelemetryConfig::default() }.check()
    };
    assert_eq!(check(None, false), Ok(()));
    assert_eq!(check(Some("http://127.0.0.1:4318"), true), Ok(()));
    assert!(check(Some("127.0.0.1:4318"), false).unwrap_err().contains("http://127.0.0.1:4318"));
    assert!(check(None, true).unwrap_err().contains("nothing is sent"));
}

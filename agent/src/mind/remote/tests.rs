//! Against a server that says what it is told to.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;

use expect_test::expect;
use serde_json::{Value, json};
use tools::Call;

use super::*;
use crate::context::Answer;
use crate::dialect::Shape;
use crate::event::Budget;
use crate::world::Progress;

/// Answers each request with the next of these, and keeps the requests' bodies.
fn server(answers: Vec<String>) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let bodies = heard.clone();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            loop {
                let read = stream.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length:")
                        .and_then(|n| n.trim().parse::<usize>().ok())
                });
                if body.len() >= length.unwrap_or(0) {
                    bodies.lock().unwrap().push(serde_json::from_str(body).unwrap_or_default());
                    break;
                }
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, heard)
}

fn stream(chunks: &[Value]) -> String {
    let lines: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{lines}data: [DONE]\n\n"
    )
}

fn refusal(status: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

fn remote(url: &str) -> Remote {
    Remote {
        name: "cluster".into(),
        url: url.into(),
        model: "big".into(),
        key: Some(Key::new(" secret\n")),
        context_tokens: 1_000,
        led: false,
        ca_file: None,
        price: Price { input_nanos: 1_000, cached_nanos: 100, output_nanos: 4_000 },
    }
}

fn created() -> Created {
    let tool = |name: &str| tools::Spec {
        name: name.into(),
        description: format!("The tool {name}."),
        parameters: json!({"type": "object", "properties": {"path": {"type": "string"}}}),
        replay: tools::Replay::Safe,
        bounds: Vec::new(),
        reach: tools::Reach::Workspace,
    };
    Created {
        workspace: "/w".into(),
        model: "remote:cluster".into(),
        dialect: DIALECT.into(),
        system: "Be good.".into(),
        tools: vec![tool("read"), tool("exec")],
        budget: Budget::default(),
        sampling: engine::Sampling { temperature: 0.7, ..engine::Sampling::default() },
        led: false,
        check: None,
        memory: false,
        checkpoints: false,
        told: Vec::new(),
        context_tokens: Some(1_000),
        ..Created::default()
    }
}

fn manner(created: &Created) -> Manner {
    Manner {
        sampling: created.sampling.clone(),
        shape: Shape::Free,
        without: Default::default(),
        bounds: Vec::new(),
    }
}

fn conversation(created: &Created) -> Vec<Message> {
    let call = Call { id: "c1.1".into(), name: "read".into(), arguments: json!({"path": "a.py"}) };
    vec![
        Message::System { text: created.system.clone(), tools: created.tools.clone() },
        Message::User { text: "Look.".into() },
        Message::User { text: "And soon.".into() },
        Message::Assistant {
            tokens: vec![1, 2],
            text: "I look.".into(),
            calls: vec![call.clone()],
            stop: Stop::End,
        },
        Message::Results {
            answers: vec![
                Answer { call: Some("c1.1".into()), name: Some("read".into()), text: "x = 1".into() },
                Answer { call: None, name: None, text: "not run: no JSON".into() },
            ],
        },
        Message::User { text: "Well?".into() },
    ]
}

async fn think(url: &str, cancel: &Cancel) -> (Result<Thought, Error>, Vec<Progress>) {
    let created = created();
    let said = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let said = said.clone();
        Sink::new(move |progress| said.lock().unwrap().push(progress))
    };
    let mut mind = RemoteMind::new(remote(url)).unwrap();
    let thought = mind.think(&conversation(&created), &created, &manner(&created), cancel, &sink).await;
    let said = said.lock().unwrap().clone();
    (thought, said)
}

#[test]
fn a_request_is_what_such_servers_take() {
    let created = created();
    let mut manner = manner(&created);
    let body = wire::request("big", &conversation(&created), &created, &manner);
    expect![[r#"
        [
          {
            "role": "system",
            "content": "Be good."
          },
          {
            "role": "user",
            "content": "Look.\n\nAnd soon."
          },
          {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
              {
                "id": "c1.1",
                "type": "function",
                "function": {
                  "name": "read",
                  "arguments": "{\"path\":\"a.py\"}"
                }
              }
            ]
          },
          {
            "role": "tool",
            "tool_call_id": "c1.1",
            "content": "x = 1"
          },
          {
            "role": "user",
            "content": "not run: no JSON\n\nWell?"
          }
        ]"#]]
    .assert_eq(&serde_json::to_string_pretty(&body["messages"]).unwrap());
    assert_eq!((&body["temperature"], &body["tool_choice"]), (&json!(0.7), &json!("auto")));
    // A summary calls nothing, and its prompt begins as the one before it.
    manner.without = created.tools.iter().map(|tool| tool.name.clone()).collect();
    let quiet = wire::request("big", &conversation(&created), &created, &manner);
    assert_eq!((&quiet["tools"], &quiet["tool_choice"]), (&body["tools"], &json!("none")));
}

#[tokio::test]
async fn a_stream_becomes_text_calls_and_what_they_cost() {
    let (url, heard) = server(vec![stream(&[
        json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]}),
        json!({"choices": [{"delta": {"reasoning_content": "hm"}}]}),
        json!({"choices": [{"delta": {"content": "I rea"}}]}),
        json!({"choices": [{"delta": {"content": "d."}}]}),
        json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "read", "arguments": "{\"pa"}}]}}]}),
        json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "th\": \"b\"}"}}]}}]}),
        json!({"choices": [{"delta": {"tool_calls": [{"index": 1, "function": {"name": "exec", "arguments": "{oops"}}]}}]}),
        json!({"choices": [{"delta": {"tool_calls": [{"index": 2, "function": {"name": "fly", "arguments": "{}"}}]}}]}),
        json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 64}}}),
    ])]);
    let (_switch, cancel) = Cancel::pair();
    let (thought, said) = think(&url, &cancel).await;
    let thought = thought.unwrap();
    assert_eq!((thought.text.as_str(), thought.stop), ("I read.", Some(Stop::End)));
    assert_eq!(thought.calls.len(), 1);
    assert_eq!(thought.calls[0].arguments, json!({"path": "b"}));
    assert_eq!(thought.refused.len(), 2);
    assert!(
        thought.refused[0].why.contains("no JSON")
            && thought.refused[1].why.contains("no tool named \"fly\"")
    );
    // 26 at 1, 64 at a tenth and 12 at 4 thousandths of a thousandth.
    assert_eq!(thought.usage.cost_nanos, 26_000 + 6_400 + 48_000);
    let Usage { prompt_tokens, cached_tokens, output_tokens, .. } = thought.usage;
    assert_eq!((prompt_tokens, cached_tokens, output_tokens), (90, 64, 12));
    assert!(
        said.contains(&Progress::Thought { text: "hm".into() })
            && said.contains(&Progress::Text { text: "d.".into() })
    );
    assert_eq!(heard.lock().unwrap()[0]["model"], "big");
}

#[tokio::test]
async fn what_may_go_well_the_next_time_is_tried_again_and_the_rest_is_told() {
    let good = stream(&[json!({"choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}]})]);
    let busy =
        refusal("429 Too Many Requests", "retry-after: 0\r\n", &json!({"error": {"message": "slow down"}}));
    let broken = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: {\"choices\": [{\"delta\": {\"content\": \"Ye\"}}]}\n\n";
    let (url, heard) = server(vec![busy, broken.to_string(), good]);
    let (_switch, cancel) = Cancel::pair();
    let (thought, _) = think(&url, &cancel).await;
    assert_eq!(thought.unwrap().text, "Yes.");
    assert_eq!(heard.lock().unwrap().len(), 3);

    let (url, heard) = server(vec![refusal("401 Unauthorized", "", &json!({"error": "bad key"}))]);
    let error = think(&url, &cancel).await.0.unwrap_err().to_string();
    assert!(error.contains("status 401: bad key; check the key") && !error.contains("secret"), "{error}");
    assert_eq!(heard.lock().unwrap().len(), 1);

    let long = json!({"error": {"message": "This model's maximum context length is 1000 tokens, your prompt has 1204."}});
    let (url, _) = server(vec![refusal("400 Bad Request", "", &long)]);
    let full = think(&url, &cancel).await.0.unwrap_err();
    assert!(matches!(full, Error::ContextFull { asked: 1204, limit: 1_000 }), "{full}");
}

#[tokio::test]
async fn an_interrupt_keeps_what_was_said() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\ndata: {\"choices\": [{\"delta\": {\"content\": \"So far\"}}]}\n\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(half.as_bytes());
        // Says no more, and does not hang up either.
        std::thread::sleep(Duration::from_secs(2));
    });
    let (switch, cancel) = Cancel::pair();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        switch.send_replace(true);
    });
    let (thought, _) = think(&url, &cancel).await;
    let thought = thought.unwrap();
    assert_eq!((thought.text.as_str(), thought.stop), ("So far", Some(Stop::Interrupted)));
}

//! This service as a server of the Model Context Protocol, byte by byte: who may ask, and what each sees.

use serde_json::{Value, json};

use super::*;

const HEADERS: &str = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
MCP-Protocol-Version: 2025-11-25\r\n";

/// Asks for a tool with a key, and reads what comes back in whatever form.
async fn call(service: &Fixture, key: &Key, tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let answer = service.ask_as(key, "POST", "/mcp", HEADERS, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let lines = answer.body.lines().map(|line| line.strip_prefix("data:").unwrap_or(line).trim());
    let mut said = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    said.find(|said| said["id"] == 1).unwrap_or_else(|| panic!("{}", answer.body))["result"].take()
}

#[tokio::test]
async fn every_key_reaches_its_own_sessions_and_no_others() {
    // The protocol is one more door to the same house, and must not be a way around its locks.
    let service = Fixture::start(Options { tenants: 2, ..Options::default() }).await;
    let keys = [service.key.clone(), service.tenants[0].clone(), service.tenants[1].clone()];
    for (n, key) in keys.iter().enumerate() {
        let task = json!({"workspace": "/srv/a", "task": format!("moonlight{n}")});
        let started = call(&service, key, "start_session", task).await;
        let session = started["structuredContent"]["session"].as_str().unwrap().to_string();
        let waited = call(&service, key, "wait", json!({"session": session})).await;
        assert_eq!(waited["structuredContent"]["answer"], "heard", "{waited}");
        for (other, key) in keys.iter().enumerate().filter(|(other, _)| *other != n) {
            let seen = call(&service, key, "list_sessions", json!({})).await.to_string();
            assert!(!seen.contains(&format!("moonlight{n}")), "{other} sees {n}: {seen}");
            let looked = call(&service, key, "wait", json!({"session": session, "timeout_s": 0})).await;
            assert_eq!(looked["isError"], true, "{looked}");
        }
        let own = call(&service, key, "list_sessions", json!({})).await.to_string();
        assert!(own.contains(&format!("moonlight{n}")), "{own}");
    }
}

#[tokio::test]
async fn without_the_key_there_is_nothing() {
    // Whoever may list the tools of an agent may soon call them.
    let service = Fixture::start(Options::default()).await;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let wrong = Key::new().unwrap();
    let answer = service.ask_as(&wrong, "POST", "/mcp", HEADERS, &body).await;
    assert_eq!(answer.problem(), "401 wrong_key");
    // A keyless service answers this machine and no web page.
    let keyless = Fixture::start(Options { keyless: true, ..Options::default() }).await;
    let page = format!("{HEADERS}Origin: http://example.org\r\n");
    assert_eq!(keyless.ask("POST", "/mcp", &page, &body).await.problem(), "403 strange_origin");
    let answer = keyless.ask("POST", "/mcp", HEADERS, &body).await;
    assert!(answer.status == 200 && answer.body.contains("start_session"), "{}", answer.body);
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(3 << 20));
    assert_eq!(service.ask("POST", "/mcp", HEADERS, &large).await.status, 413);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told_in_words() {
    // Another agent's model reads this and has to do better.
    let service = Fixture::start(Options::default()).await;
    let key = service.key.clone();
    let text = |result: &Value| result["content"][0]["text"].as_str().unwrap_or_default().to_string();
    let outside = call(&service, &key, "start_session", json!({"workspace": "/outside", "task": "x"})).await;
    assert!(outside["isError"] == true && text(&outside).contains("/srv"), "{outside}");
    let unknown = call(&service, &key, "wait", json!({"session": "s-1", "timeout": 3})).await;
    assert!(text(&unknown).contains("unknown field `timeout`"), "{unknown}");
    let code = call(&service, &key, "search_code", json!({"workspace": "/srv/a", "query": "x"})).await;
    assert!(text(&code).contains("no workspaces to search in"), "{code}");
    let idle =
        call(&service, &key, "approve", json!({"session": "s-1", "call": "c1", "allowed": true})).await;
    assert_eq!(idle["isError"], true, "{idle}");
}

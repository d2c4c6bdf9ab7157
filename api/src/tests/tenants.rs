//! No query, no id that was guessed and no export crosses from one tenant to another.

use serde_json::json;

use super::*;

const JSON: &str = "Content-Type: application/json\r\n";

/// What only one tenant may ever see.
fn secret(n: usize) -> String {
    format!("moonlight{n}")
}

/// Everything there is to ask, about the session and the notes that the others have as well.
fn probes() -> Vec<(&'static str, String, String)> {
    let mut probes: Vec<(&str, String, String)> = Vec::new();
    let mut add = |method, path: &str, body: serde_json::Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        probes.push((method, path.to_string(), body));
    };
    add("GET", "/v1/sessions", json!(null));
    add("GET", "/v1/sessions/theirs", json!(null));
    add("GET", "/v1/sessions/theirs/events?format=json&limit=1000", json!(null));
    add("POST", "/v1/sessions/theirs/inputs", json!({"text": "tell me"}));
    add("POST", "/v1/sessions/theirs/interrupt", json!(null));
    add("POST", "/v1/sessions/theirs/approvals", json!({"call": "c1.1", "allowed": true}));
    add("GET", "/v1/memories?limit=100", json!(null));
    add("GET", "/v1/memories/stats", json!(null));
    add("GET", "/v1/memories/history", json!(null));
    for query in ["moonlight0", "moonlight1", "moonlight2", ""] {
        for scope in ["repository:x", "user:me", "team:all", "session:theirs"] {
            add("POST", "/v1/memories/search", json!({"text": query, "scopes": [scope], "limit": 100}));
        }
    }
    for id in 1..=9 {
        add("GET", &format!("/v1/memories/{id}"), json!(null));
        add("GET", &format!("/v1/memories/{id}/history"), json!(null));
        add("POST", &format!("/v1/memories/{id}/accept"), json!({}));
    }
    add("GET", "/metrics", json!(null));
    add("POST", "/v1/memories/rollback", json!({"to": "2020-01-01"}));
    add("POST", "/v1/memories/forget", json!({"ids": [1, 2, 3, 4, 5, 6, 7, 8, 9]}));
    for id in 1..=9 {
        add("DELETE", &format!("/v1/memories/{id}"), json!(null));
    }
    add("DELETE", "/v1/sessions/theirs", json!(null));
    probes
}

#[tokio::test]
async fn a_tenant_sees_and_touches_nothing_of_another() {
    let service = Fixture::start(Options { tenants: 2, ..Options::default() }).await;
    let keys = [service.key.clone(), service.tenants[0].clone(), service.tenants[1].clone()];
    for (n, key) in keys.iter().enumerate().take(2) {
        let new = json!({"workspace": format!("/srv/{}", secret(n)), "id": "theirs"}).to_string();
        assert_eq!(service.ask_as(key, "POST", "/v1/sessions", JSON, &new).await.status, 201);
        let input = json!({"id": "one", "text": secret(n)}).to_string();
        assert_eq!(service.ask_as(key, "POST", "/v1/sessions/theirs/inputs", JSON, &input).await.status, 202);
        for scope in ["repository:x", "user:me", "session:theirs"] {
            let note = json!({"text": format!("{} in {scope}", secret(n)), "scope": scope, "kind": "fact"})
                .to_string();
            assert_eq!(service.ask_as(key, "POST", "/v1/memories", JSON, &note).await.status, 201);
        }
    }
    // The third has a session of the same name and nothing in it.
    let new = json!({"workspace": "/srv/empty", "id": "theirs"}).to_string();
    assert_eq!(service.ask_as(&keys[2], "POST", "/v1/sessions", JSON, &new).await.status, 201);
    let mut good = 0;
    for (method, path, body) in probes() {
        let answer = service.ask_as(&keys[2], method, &path, JSON, &body).await;
        for n in 0..2 {
            assert!(!answer.body.contains(&secret(n)), "{method} {path} {body}: {}", answer.body);
        }
        good += usize::from(answer.status < 300);
    }
    assert!(good > 20, "most of it was answered, and not refused: {good}");
    // The others have what they had, and see it.
    for (n, key) in keys.iter().enumerate().take(2) {
        let other = secret(1 - n);
        let events = service.ask_as(key, "GET", "/v1/sessions/theirs/events?format=json", "", "").await.body;
        assert!(events.contains(&secret(n)) && !events.contains("tell me") && !events.contains(&other));
        let query =
            json!({"text": secret(n), "scopes": ["repository:x", "user:me"], "limit": 10}).to_string();
        let found = service.ask_as(key, "POST", "/v1/memories/search", JSON, &query).await;
        assert_eq!(found.body.matches(&format!("{} in ", secret(n))).count(), 2, "{}", found.body);
        assert!(!found.body.contains(&other));
    }
    // Nor does anything lie in a folder of somebody else.
    for (folder, own) in [("memory", Some(0)), ("tenant-0", Some(1)), ("tenant-1", None)] {
        let bytes = everything(&service.dir.path().join(folder));
        for n in 0..2 {
            let is = bytes.windows(secret(n).len()).any(|window| window == secret(n).as_bytes());
            assert_eq!(is, own == Some(n), "{folder}, {n}");
        }
    }
    let wrong = service.ask_as(&Key::new().unwrap(), "GET", "/v1/sessions", "", "").await;
    assert_eq!(wrong.problem(), "401 wrong_key");
}

fn everything(folder: &std::path::Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            bytes.extend(everything(&path));
        } else {
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
    bytes
}

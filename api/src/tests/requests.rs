//! Requests and their answers.

use std::collections::BTreeSet;

use expect_test::{expect, expect_file};

use super::{Fixture, Options};
use crate::client::Client;
use crate::failure::Failure;
use crate::goals::Goal;
use crate::routes;
use crate::server::{bind, open_memory};
use crate::service::Readiness;
use crate::wire;

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn every_refusal_is_a_problem() {
    // Clients tell problems apart by one member, whatever part of the service refuses.
    let saga = Fixture::start(Options::default()).await;
    let session = format!("/v1/sessions/{}", saga.session().await.id);
    let inputs = format!("{session}/inputs");
    let huge = format!("{{\"text\":\"{}\"}}", "x".repeat(routes::BODY_BYTES_MAX));
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(300 * 1024));
    let cases: Vec<(&str, &str, &str, &str)> = vec![
        ("GET", "/nowhere", "", ""),
        ("GET", "/v1/nowhere", "", ""),
        ("PUT", "/v1/sessions", "", ""),
        ("GET", "/v1/sessions?limit=0", "", ""),
        ("GET", "/v1/sessions?limit=many", "", ""),
        ("GET", "/v1/sessions?cursor=x", "", ""),
        ("GET", "/v1/sessions/UPPER", "", ""),
        ("GET", "/v1/sessions/%ff", "", ""),
        ("GET", "/v1/sessions/s-none", "", ""),
        ("DELETE", "/v1/sessions/s-none", "", ""),
        ("POST", "/v1/sessions/s-none/interrupt", "", ""),
        ("GET", "/v1/sessions/s-none/events", "", ""),
        ("POST", "/v1/sessions", "", "{\"workspace\":\"/srv\"}"),
        ("POST", "/v1/sessions", JSON, "{\"workspace\":"),
        ("POST", "/v1/sessions", JSON, "{}"),
        ("POST", "/v1/sessions", JSON, "{\"workspace\":7}"),
        ("POST", "/v1/sessions", JSON, "{\"workspace\":\"/outside\"}"),
        ("POST", "/v1/sessions", JSON, "{\"workspace\":\"/srv\",\"id\":\"NO\"}"),
        ("POST", "/v1/sessions", JSON, "{\"workspace\":\"/srv\",\"budget\":{\"steps_max\":0}}"),
        ("POST", &inputs, JSON, "{\"text\":\"  \"}"),
        ("POST", &inputs, JSON, "{\"text\":\"x\",\"id\":\"\"}"),
        (
            "POST",
            &inputs,
            "Content-Type: application/json\r\nIdempotency-Key: a\r\n",
            "{\"text\":\"x\",\"id\":\"b\"}",
        ),
        ("POST", &inputs, JSON, &long),
        ("POST", &inputs, JSON, &huge),
    ];
    let mut said = String::new();
    for (method, path, headers, body) in cases {
        let answer = saga.ask(method, path, headers, body).await;
        let path = path.replace(&session, "/v1/sessions/ID");
        let body: String = body.chars().take(40).collect();
        said.push_str(
            &format!("{:28} {method} {path} {body}", answer.problem()).trim_end().replace('\n', " "),
        );
        said.push('\n');
    }
    let events = format!("{session}/events");
    for (path, headers) in [(format!("{events}?after=x"), ""), (events.clone(), "Last-Event-ID: x\r\n")] {
        said.push_str(&format!("{:28} {headers:?}\n", saga.ask("GET", &path, headers, "").await.problem()));
    }
    expect![[r#"
        404 no_route                 GET /nowhere
        404 no_route                 GET /v1/nowhere
        405 wrong_method             PUT /v1/sessions
        400 bad_request              GET /v1/sessions?limit=0
        400 bad_request              GET /v1/sessions?limit=many
        400 bad_request              GET /v1/sessions?cursor=x
        400 bad_request              GET /v1/sessions/UPPER
        400 bad_request              GET /v1/sessions/%ff
        404 no_session               GET /v1/sessions/s-none
        404 no_session               DELETE /v1/sessions/s-none
        404 no_session               POST /v1/sessions/s-none/interrupt
        404 no_session               GET /v1/sessions/s-none/events
        415 not_json                 POST /v1/sessions {"workspace":"/srv"}
        400 bad_json                 POST /v1/sessions {"workspace":
        422 bad_field                POST /v1/sessions {}
        422 bad_field                POST /v1/sessions {"workspace":7}
        403 outside_roots            POST /v1/sessions {"workspace":"/outside"}
        400 bad_request              POST /v1/sessions {"workspace":"/srv","id":"NO"}
        400 bad_request              POST /v1/sessions {"workspace":"/srv","budget":{"steps_max
        400 bad_request              POST /v1/sessions/ID/inputs {"text":"  "}
        400 bad_request              POST /v1/sessions/ID/inputs {"text":"x","id":""}
        400 bad_request              POST /v1/sessions/ID/inputs {"text":"x","id":"b"}
        400 bad_request              POST /v1/sessions/ID/inputs {"text":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
        413 too_large                POST /v1/sessions/ID/inputs {"text":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
        400 bad_request              ""
        400 bad_request              "Last-Event-ID: x\r\n"
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn a_wrong_method_says_which_are_right() {
    let saga = Fixture::start(Options::default()).await;
    let answer = saga.ask("PUT", "/v1/sessions", "", "").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: ") && answer.head.contains("post"), "{}", answer.head);
}

#[tokio::test]
async fn only_the_key_opens() {
    let saga = Fixture::start(Options::default()).await;
    let status = async |headers: &str| {
        let request = format!("GET /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        saga.raw(&request).await
    };
    let key = saga.key.as_str();
    assert_eq!(status(&format!("Authorization: Bearer {key}\r\n")).await.status, 200);
    assert_eq!(status(&format!("x-api-key: {key}\r\n")).await.status, 200);
    let none = status("").await;
    assert_eq!(none.problem(), "401 no_key");
    assert!(none.head.contains("www-authenticate: bearer"), "{}", none.head);
    assert_eq!(status(&format!("x-api-key: {key}x\r\n")).await.problem(), "401 wrong_key");
    assert_eq!(status("Authorization: Bearer saga-0\r\n").await.problem(), "401 wrong_key");
    let figures = async |headers: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        saga.raw(&request).await
    };
    // Figures tell how much is going on, and that is nobody else's business.
    assert_eq!(figures("").await.problem(), "401 no_key");
    let answer = figures(&format!("Authorization: Bearer {key}\r\n")).await;
    assert!(answer.status == 200 && answer.body.contains("saga_ready{model=\"echo\"}"), "{}", answer.body);
    // What says nothing about sessions is open to whoever watches over the service.
    for path in ["/health", "/ready", "/version", "/openapi.json"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(saga.raw(&request).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_keyless_service_answers_programs_and_not_pages() {
    let saga = Fixture::start(Options { keyless: true, ..Options::default() }).await;
    let port = saga.address.port();
    let ask = async |host: &str, headers: &str| {
        let request =
            format!("GET /v1/sessions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
        saga.raw(&request).await
    };
    assert_eq!(ask(&format!("127.0.0.1:{port}"), "").await.status, 200);
    assert_eq!(ask(&format!("localhost:{port}"), "").await.status, 200);
    assert_eq!(ask(&format!("rebound.example:{port}"), "").await.problem(), "403 strange_host");
    let page = "Origin: http://page.example\r\n";
    assert_eq!(ask(&format!("127.0.0.1:{port}"), page).await.problem(), "403 strange_origin");
}

#[tokio::test]
async fn what_is_remembered_is_found_shown_and_forgotten() {
    // A memory nobody can look into is a memory nobody trusts.
    let saga = Fixture::start(Options::default()).await;
    let add = async |body: &str| saga.post("/v1/memories", body).await;
    let old =
        add(r#"{"text":"the gateway listens on port 8080","scope":"repository:a","about":"gateway port"}"#)
            .await;
    assert_eq!((old.status, old.json()["id"].as_u64()), (201, Some(1)));
    let again = add(r#"{"text":"The gateway listens on port 8080.","scope":"repository:a"}"#).await;
    assert_eq!((again.status, again.json()["id"].as_u64()), (200, Some(1)));
    let new =
        add(r#"{"text":"it is 9090 now","scope":"repository:a","about":"gateway port","author":"ada"}"#)
            .await;
    assert_eq!(new.status, 201);
    add(r#"{"text":"the gateway is ugly","scope":"user:bob","kind":"preference"}"#).await;
    let found =
        saga.post("/v1/memories/search", r#"{"text":"gateway port","scopes":["repository:a"]}"#).await.json();
    let ids: Vec<_> =
        found["memories"].as_array().unwrap().iter().map(|note| note["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [2, 1], "{found}");
    assert_eq!(found["memories"][1]["superseded_by"], 2);
    assert!(found["memories"][1]["why"].as_str().unwrap().contains("gateway"), "{found}");
    let listed = saga.ask("GET", "/v1/memories?scope=user:bob", "", "").await.json();
    assert_eq!(
        (listed["memories"].as_array().unwrap().len(), &listed["memories"][0]["kind"]),
        (1, &"preference".into())
    );
    let waiting =
        add(r#"{"text":"always deploy on fridays","scope":"team:all","proposed":true}"#).await.json();
    let hidden = saga.post("/v1/memories/search", r#"{"text":"deploy"}"#).await.json();
    assert_eq!(hidden["memories"].as_array().unwrap().len(), 0);
    saga.post(&format!("/v1/memories/{}/accept", waiting["id"]), "{}").await;
    let told = saga.post("/v1/memories/search", r#"{"text":"deploy"}"#).await.json();
    assert_eq!(told["memories"].as_array().unwrap().len(), 1);
    let would = saga.post("/v1/memories/forget", r#"{"author":"ada","dry_run":true}"#).await.json();
    assert_eq!(
        (&would["ids"], &would["memories"][0]["text"]),
        (&serde_json::json!([2]), &"it is 9090 now".into())
    );
    let gone = saga.post("/v1/memories/forget", r#"{"author":"ada"}"#).await.json();
    assert_eq!(gone["ids"], serde_json::json!([2]));
    assert_eq!(saga.ask("GET", "/v1/memories/2", "", "").await.problem(), "404 no_memory");
    assert_eq!(saga.ask("DELETE", "/v1/memories/1", "", "").await.status, 204);
    assert_eq!(saga.ask("DELETE", "/v1/memories/1", "", "").await.problem(), "404 no_memory");
    let history = saga.ask("GET", "/v1/memories/history", "", "").await.json();
    assert!(!history.to_string().contains("9090"), "what was forgotten is not told: {history}");
    assert_eq!(
        saga.ask("GET", "/v1/memories/2/history", "", "").await.json()["changes"][0]["change"],
        "forgotten"
    );
    let stats = saga.ask("GET", "/v1/memories/stats", "", "").await.json();
    assert_eq!((&stats["notes"], &stats["scopes"]["user:bob"]), (&2.into(), &1.into()));
    for (path, body) in [
        ("/v1/memories", r#"{"text":" ","scope":"user:a"}"#),
        ("/v1/memories", r#"{"text":"x","scope":"a"}"#),
        ("/v1/memories", r#"{"text":"x","scope":"user:a","kind":"rumour"}"#),
        ("/v1/memories", r#"{"text":"x","scope":"user:a","happened":"soon"}"#),
        ("/v1/memories/search", r#"{"text":"x","since":"soon"}"#),
        ("/v1/memories/forget", "{}"),
    ] {
        assert_eq!(saga.post(path, body).await.problem(), "400 bad_request", "{path} {body}");
    }
    assert_eq!(saga.ask("GET", "/v1/memories/x", "", "").await.problem(), "400 bad_request");
}

#[tokio::test]
async fn sessions_are_found_by_what_was_said_in_them() {
    // Who looks for where something was decided wants the session, and not ten of its sentences.
    let saga = Fixture::start(Options::default()).await;
    for (session, text) in [
        ("s-1", "the importer reads protobuf"),
        ("s-1", "and the importer writes it back"),
        ("s-2", "the importer has a flaky test for its format"),
        ("s-3", "lunch is at noon"),
    ] {
        let body = serde_json::json!({ "text": text, "kind": "episode", "scope": "repository:a", "session": session });
        assert_eq!(saga.post("/v1/memories", &body.to_string()).await.status, 201);
    }
    let wish = r#"{"text":"which format does the importer read, protobuf","scopes":["repository:a"]}"#;
    let found = saga.post("/v1/memories/sessions", wish).await.json();
    let names: Vec<&str> =
        found["sessions"].as_array().unwrap().iter().map(|hit| hit["session"].as_str().unwrap()).collect();
    assert_eq!(names, ["s-1", "s-2"], "{found}");
    assert_eq!(found["sessions"][0]["best"]["text"], "the importer reads protobuf");
    let none = saga.post("/v1/memories/sessions", r#"{"text":"importer","scopes":["user:b"]}"#).await.json();
    assert_eq!(none["sessions"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn many_notes_are_brought_with_one_request_all_or_none() {
    // A store is moved into a running service in minutes and not in hours, and half of a part is never what is left.
    let saga = Fixture::start(Options::default()).await;
    let bring = async |memories: serde_json::Value| {
        saga.post("/v1/memories/import", &serde_json::json!({ "memories": memories }).to_string()).await
    };
    let note = |text: &str| serde_json::json!({ "text": text, "scope": "repository:a" });
    let first = bring(serde_json::json!([
        note("the port is 8080"),
        note("tests run with just"),
        note("the port is 8080")
    ]));
    assert_eq!(first.await.json()["ids"], serde_json::json!([1, 2, 1]));
    let again = bring(serde_json::json!([note("releases are on friday"), note("tests run with just")])).await;
    assert_eq!((again.status, &again.json()["ids"]), (200, &serde_json::json!([3, 2])));
    let count = async || saga.ask("GET", "/v1/memories/stats", "", "").await.json()["notes"].as_u64();
    for (bad, place) in [
        (serde_json::json!([note("a new one"), note(" ")]), "memory 2 of 2"),
        (serde_json::json!([note("a new one"), { "text": "x", "scope": "nobody" }]), "memory 2 of 2"),
        (
            serde_json::json!([note("a new one"), { "text": "x", "scope": "user:a", "happened": "soon" }]),
            "memory 2 of 2",
        ),
        (serde_json::Value::Array(vec![note("a new one"); 501]), "501"),
    ] {
        let answer = bring(bad).await;
        assert_eq!(answer.problem(), "400 bad_request");
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains(place), "{detail}");
        assert_eq!(count().await, Some(3), "none of them was kept");
    }
    assert_eq!(bring(serde_json::json!([])).await.json()["ids"], serde_json::json!([]));
}

#[tokio::test]
async fn a_session_is_made_once_for_an_id() {
    let saga = Fixture::start(Options::default()).await;
    let body = r#"{"workspace":"/srv/a","id":"mine","a_field_of_the_future":1}"#;
    let first = saga.post("/v1/sessions", body).await;
    assert_eq!((first.status, first.json()["id"].as_str()), (201, Some("mine")));
    assert!(first.head.contains("location: /v1/sessions/mine"), "{}", first.head);
    let again = saga.post("/v1/sessions", body).await;
    assert_eq!((again.status, again.json()["id"].as_str()), (200, Some("mine")));
    let other = saga.post("/v1/sessions", r#"{"workspace":"/srv/b","id":"mine"}"#).await;
    assert_eq!(other.problem(), "409 exists");
    // The header names a session as well, for clients that know nothing of our ids.
    let headers = "Content-Type: application/json\r\nIdempotency-Key: \"one of mine\"\r\n";
    let first = saga.ask("POST", "/v1/sessions", headers, r#"{"workspace":"/srv/a"}"#).await;
    let again = saga.ask("POST", "/v1/sessions", headers, r#"{"workspace":"/srv/a"}"#).await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json()["id"], again.json()["id"]);
}

#[tokio::test]
async fn an_input_is_taken_once_for_an_id() {
    let saga = Fixture::start(Options::default()).await;
    let id = saga.session().await.id;
    let inputs = format!("/v1/sessions/{id}/inputs");
    let first = saga.post(&inputs, r#"{"id":"i-1","text":"hello"}"#).await;
    assert_eq!((first.status, first.json()["fresh"].as_bool()), (202, Some(true)));
    let again = saga.post(&inputs, r#"{"id":"i-1","text":"hello"}"#).await;
    assert_eq!((again.status, again.json()["fresh"].as_bool()), (202, Some(false)));
    assert_eq!(first.json()["seq"], again.json()["seq"]);
    let headers = "Content-Type: application/json\r\nIdempotency-Key: i-1\r\n";
    let by_header = saga.ask("POST", &inputs, headers, r#"{"text":"hello"}"#).await;
    assert_eq!(by_header.json()["seq"], first.json()["seq"]);
    assert_eq!(saga.post(&inputs, r#"{"id":"i-1","text":"else"}"#).await.problem(), "422 input_id_reused");
    // Without an id each request is an input of its own.
    let one = saga.post(&inputs, r#"{"text":"hello"}"#).await.json();
    let two = saga.post(&inputs, r#"{"text":"hello"}"#).await.json();
    assert_ne!(one["id"], two["id"]);
    saga.rest(&id).await;
}

#[tokio::test]
async fn a_turn_is_counted() {
    let saga = Fixture::start(Options::default()).await;
    let id = saga.session().await.id;
    saga.say(&id, "hello\nthere").await;
    let now = saga.rest(&id).await;
    assert_eq!((now.title.as_deref(), now.turns, now.steps, now.tool_calls), (Some("hello"), 1, 2, 1));
    assert_eq!(now.ended, Some(wire::End::Done));
    assert_eq!((now.usage.prompt_tokens, now.usage.cached_tokens, now.usage.output_tokens), (20, 8, 6));
    // An interrupt of a session that rests changes nothing.
    let interrupt = saga.client.interrupt(&id).await.expect("it is answered");
    assert!(!interrupt.fresh);
    let deleted = saga.ask("DELETE", &format!("/v1/sessions/{id}"), "", "").await;
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    assert_eq!(saga.ask("GET", &format!("/v1/sessions/{id}"), "", "").await.problem(), "404 no_session");
}

#[tokio::test]
async fn sessions_are_listed_page_by_page() {
    let saga = Fixture::start(Options::default()).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(saga.session().await.id);
    }
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = saga.ask("GET", &format!("/v1/sessions?limit=2{cursor}"), "", "").await.json();
        let sessions = page["sessions"].as_array().expect("a page has sessions").clone();
        assert!(sessions.len() <= 2);
        listed.extend(sessions.iter().map(|session| session["id"].as_str().unwrap_or_default().to_string()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let distinct: BTreeSet<&String> = listed.iter().collect();
    assert_eq!(listed.len(), 5);
    assert_eq!(distinct, made.iter().collect());
    let running = saga.ask("GET", "/v1/sessions?status=running", "", "").await.json();
    assert_eq!(running["sessions"], serde_json::json!([]));
}

#[tokio::test]
async fn a_service_that_loads_says_so() {
    let saga = Fixture::start(Options::default()).await;
    saga.readiness.send_replace(Readiness::Starting("loading the model echo (7 %)".to_string()));
    let ready = saga.ask("GET", "/ready", "", "").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["detail"], "loading the model echo (7 %)");
    assert_eq!(saga.ask("GET", "/health", "", "").await.status, 200);
    let refused = saga.post("/v1/sessions", r#"{"workspace":"/srv/a"}"#).await;
    assert_eq!(refused.problem(), "503 not_ready");
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    // Somebody who names another model does not wait for the default one.
    assert_eq!(saga.post("/v1/sessions", r#"{"workspace":"/srv/a","model":"other"}"#).await.status, 201);
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_start_is_named() {
    let saga = Fixture::start(Options::default()).await;
    let taken = bind(saga.address).await.map(|_| ()).unwrap_err().to_string();
    assert!(taken.contains("--listen"), "{taken}");
    let memory = saga.dir.path().join("memory");
    let locked = open_memory(&memory).await.map(|_| ()).unwrap_err().to_string();
    assert!(locked.contains("in use by process") && locked.contains("SAGA_KEY"), "{locked}");
    let file = saga.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let blocked = open_memory(&file.join("memory")).await.map(|_| ()).unwrap_err().to_string();
    assert!(blocked.contains("cannot write"), "{blocked}");
}

#[tokio::test]
async fn a_client_says_what_to_do() {
    let saga = Fixture::start(Options::default()).await;
    let url = format!("http://{}", saga.address);
    let said = async |client: Client| match client.sessions(None).await {
        Ok(_) => "ok".to_string(),
        Err(refusal) => Failure::from(refusal).to_string(),
    };
    assert!(said(Client::new(&url, None).unwrap()).await.ends_with("set SAGA_KEY to the service's key"));
    // Nobody listens on port 1.
    assert!(said(Client::new("http://127.0.0.1:1", None).unwrap()).await.contains("start it with `saga up`"));
}

#[test]
fn the_document_is_checked_in() {
    // A change of the API is made on purpose: UPDATE_EXPECT=1 writes the file anew.
    let mut text = serde_json::to_string_pretty(routes::document()).expect("a document has only string keys");
    text.push('\n');
    expect_file!["../../openapi.json"].assert_eq(&text);
}

#[test]
fn every_route_is_in_the_document() {
    let document = serde_json::to_value(routes::document()).unwrap();
    let mut table = String::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap_or_default();
            table.push_str(&format!("{:6} {path} {id}\n", method.to_uppercase()));
        }
    }
    expect![[r#"
        GET    /health health
        GET    /metrics metrics
        GET    /openapi.json openapi
        GET    /ready ready
        POST   /v1/code/search search_code
        POST   /v1/hooks/{token} call_hook
        GET    /v1/memories list_memories
        POST   /v1/memories add_memory
        POST   /v1/memories/forget forget_memories
        GET    /v1/memories/history memory_history
        POST   /v1/memories/import import_memories
        POST   /v1/memories/rollback rollback_memories
        POST   /v1/memories/search search_memories
        POST   /v1/memories/sessions search_sessions
        GET    /v1/memories/stats memory_stats
        GET    /v1/memories/{id} get_memory
        DELETE /v1/memories/{id} delete_memory
        POST   /v1/memories/{id}/accept accept_memory
        GET    /v1/memories/{id}/history note_history
        GET    /v1/schedules list_schedules
        POST   /v1/schedules create_schedule
        DELETE /v1/schedules/{id} delete_schedule
        POST   /v1/schedules/{id}/run run_schedule
        GET    /v1/sessions list
        POST   /v1/sessions create
        POST   /v1/sessions/import import_session
        GET    /v1/sessions/{id} get
        DELETE /v1/sessions/{id} delete
        POST   /v1/sessions/{id}/approvals approve
        POST   /v1/sessions/{id}/budget budget
        GET    /v1/sessions/{id}/changes changes
        GET    /v1/sessions/{id}/checkpoints list
        POST   /v1/sessions/{id}/compact compact
        GET    /v1/sessions/{id}/context get
        GET    /v1/sessions/{id}/events events
        GET    /v1/sessions/{id}/export export
        GET    /v1/sessions/{id}/fork look_at_fork
        POST   /v1/sessions/{id}/fork fork
        DELETE /v1/sessions/{id}/goal drop_goal
        POST   /v1/sessions/{id}/inputs input
        POST   /v1/sessions/{id}/interrupt interrupt
        POST   /v1/sessions/{id}/rewind rewind
        POST   /v1/sessions/{id}/uncompact uncompact
        GET    /version version
    "#]]
    .assert_eq(&table);
}

#[tokio::test]
async fn a_goal_is_set_shown_and_taken_back() {
    let saga = Fixture::start(Options::default()).await;
    let until = wire::NewSession {
        workspace: "/srv/a".into(),
        until: Some(Goal { command: Some("make test".into()), ..Goal::default() }),
        ..wire::NewSession::default()
    };
    let session = saga.client.create(&until).await.unwrap();
    let goal = session.goal.unwrap();
    assert_eq!(
        (goal.goal.command.as_deref(), goal.goal.rounds_max, goal.met),
        (Some("make test"), Some(8), false)
    );
    // In this world all goes well, the check too.
    saga.say(&session.id, "go").await;
    let rested = saga.rest(&session.id).await;
    let goal = rested.goal.unwrap();
    assert!(goal.met && rested.ended == Some(wire::End::Done), "{goal:?}");
    let path = format!("/v1/sessions/{}", session.id);
    let body = "{\"text\":\"go on\",\"until\":{\"judged\":\"it flies\",\"rounds_max\":2}}";
    assert_eq!(saga.post(&format!("{path}/inputs"), body).await.status, 202);
    let rested = loop {
        let rested = saga.rest(&session.id).await;
        if rested.turns == 2 {
            break rested;
        }
    };
    assert!(matches!(rested.ended, Some(wire::End::GoalUnmet { .. })), "{:?}", rested.ended);
    assert!(saga.client.drop_goal(&session.id).await.unwrap().fresh);
    assert_eq!(saga.client.session(&session.id).await.unwrap().goal, None);
    for wrong in [
        "{}",
        "{\"command\":\"a\",\"judged\":\"b\"}",
        "{\"command\":\" \"}",
        "{\"command\":\"a\",\"rounds_max\":0}",
    ] {
        let body = format!("{{\"text\":\"x\",\"until\":{wrong}}}");
        assert_eq!(saga.post(&format!("{path}/inputs"), &body).await.problem(), "400 bad_request", "{wrong}");
        let body = format!("{{\"workspace\":\"/srv\",\"until\":{wrong}}}");
        assert_eq!(saga.post("/v1/sessions", &body).await.problem(), "400 bad_request", "{wrong}");
    }
}

#[tokio::test]
async fn a_schedule_is_kept_run_and_called_by_whoever_knows_its_hook() {
    let saga = Fixture::start(Options { tenants: 1, ..Options::default() }).await;
    let saga = &saga;
    let session = saga.session().await.id;
    let wake = format!(
        "{{\"cron\":\"0 9 * * 1-5\",\"zone\":\"Europe/Berlin\",\"session\":\"{session}\",\"prompt\":\"go on\"}}"
    );
    let made = saga.post("/v1/schedules", &wake).await;
    assert_eq!((made.status, made.json()["zone"].as_str()), (201, Some("Europe/Berlin")));
    let id = made.json()["id"].as_str().unwrap().to_string();
    let run = saga.client.run_schedule(&id).await.unwrap();
    assert_eq!((run.run, run.cause.as_str(), run.session.as_deref()), (1, "hand", Some(session.as_str())));
    let hook = saga
        .post("/v1/schedules", "{\"hook\":true,\"workspace\":\"/srv/a\",\"prompt\":\"look\"}")
        .await
        .json();
    let path = hook["hook_path"].as_str().unwrap().to_string();
    // The token is all that is asked for; it is told once, and kept as a digest.
    let call = |path: String, length: usize| {
        let body = "x".repeat(length);
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}",
            saga.address
        );
        async move { saga.raw(&text).await }
    };
    let called = call(path.clone(), 5).await;
    assert_eq!((called.status, called.json()["cause"].as_str()), (202, Some("hook")), "{}", called.body);
    let begun = called.json()["session"].as_str().unwrap().to_string();
    assert_eq!(saga.rest(&begun).await.title.as_deref(), Some("look"));
    assert_eq!(call(path.clone(), 300 * 1024).await.problem(), "413 too_large");
    assert_eq!(call("/v1/hooks/guess".to_string(), 5).await.problem(), "404 no_hook");
    let listed = saga.ask("GET", "/v1/schedules", "", "").await;
    assert!(!listed.body.contains(path.rsplit('/').next().unwrap()), "{}", listed.body);
    assert_eq!(listed.json()["schedules"].as_array().unwrap().len(), 2);
    // A tenant's hook is a tenant's, and called without its key.
    let json = "Content-Type: application/json\r\n";
    let theirs = "{\"hook\":true,\"workspace\":\"/srv/b\",\"prompt\":\"look\"}";
    let theirs = saga.ask_as(&saga.tenants[0], "POST", "/v1/schedules", json, theirs).await.json();
    assert_eq!(call(theirs["hook_path"].as_str().unwrap().to_string(), 5).await.status, 202);
    assert_eq!(saga.client.schedules().await.unwrap().schedules.len(), 2);
    saga.client.unschedule(&id).await.unwrap();
    assert_eq!(saga.client.schedules().await.unwrap().schedules.len(), 1);
    for (wrong, problem) in [
        ("{\"prompt\":\"x\",\"workspace\":\"/srv\"}", "400 bad_request"),
        ("{\"cron\":\"0 9 * * 1\",\"hook\":true,\"prompt\":\"x\",\"workspace\":\"/srv\"}", "400 bad_request"),
        ("{\"cron\":\"0 9\",\"prompt\":\"x\",\"workspace\":\"/srv\"}", "400 bad_request"),
        ("{\"at\":\"2020-01-01T00:00Z\",\"prompt\":\"x\",\"workspace\":\"/srv\"}", "400 bad_request"),
        ("{\"hook\":true,\"prompt\":\"x\"}", "400 bad_request"),
        ("{\"hook\":true,\"prompt\":\"x\",\"session\":\"s-none\"}", "404 no_session"),
        ("{\"hook\":true,\"prompt\":\" \",\"workspace\":\"/srv\"}", "400 bad_request"),
    ] {
        assert_eq!(saga.post("/v1/schedules", wrong).await.problem(), problem, "{wrong}");
    }
    assert_eq!(saga.ask("POST", "/v1/schedules/w-none/run", "", "").await.problem(), "404 no_schedule");
}

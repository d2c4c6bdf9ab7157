//! The events of a session, as streams and as pages.

use std::time::Duration;

use super::{Fixture, Options};
use crate::client::{Heard, Stream};

/// Reads the stream up to the event `last`; the ids of the recorded events, in the order they came.
async fn ids_until(stream: &mut Stream, last: u64) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.last() != Some(&last) {
        let heard = next(stream).await;
        ids.extend(heard.id);
    }
    ids
}

async fn next(stream: &mut Stream) -> Heard {
    let heard = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    heard.expect("the stream goes on").expect("the stream is open")
}

#[tokio::test]
async fn a_stream_replays_and_goes_on_without_gap_or_duplicate() {
    // Whoever connects, at whatever moment and from whatever place, sees each event after that place once, in order.
    let saga = Fixture::start(Options { takes: Duration::from_millis(3), ..Options::default() }).await;
    let id = saga.session().await.id;
    let (last, rests) = tokio::sync::watch::channel(u64::MAX);
    let mut readers = Vec::new();
    for n in 0..12 {
        saga.say(&id, &format!("input {n}")).await;
        let newest = saga.client.session(&id).await.expect("the session is there").last;
        // From the beginning, from the middle, and from the newest event there is.
        for after in [0, newest / 2, newest] {
            let stream = saga.client.follow(&id, after).await.expect("it can be followed");
            readers.push((after, tokio::spawn(read_until(stream, after, rests.clone()))));
        }
        tokio::time::sleep(Duration::from_millis(n * 2)).await;
    }
    let newest = saga.rest(&id).await.last;
    last.send_replace(newest);
    let mut open = Vec::new();
    for (after, reader) in readers {
        let (ids, stream) = reader.await.expect("a reader ends");
        assert_eq!(ids, (after + 1..=newest).collect::<Vec<u64>>(), "from {after}");
        open.push(stream);
    }
    // After the last event nothing comes but the end.
    saga.client.delete(&id).await.expect("it is deleted");
    for mut stream in open {
        let heard = next(&mut stream).await;
        assert_eq!((heard.kind.as_str(), heard.data.as_str()), ("end", r#"{"reason":"deleted"}"#));
    }
}

/// Reads until the event that `last` names once it is known; the ids in the order they came.
async fn read_until(
    mut stream: Stream,
    after: u64,
    mut last: tokio::sync::watch::Receiver<u64>,
) -> (Vec<u64>, Stream) {
    let mut ids = Vec::new();
    while ids.last().copied().unwrap_or(after) < *last.borrow_and_update() {
        tokio::select! {
            heard = next(&mut stream) => ids.extend(heard.id),
            changed = last.changed() => changed.expect("the test is still there"),
        }
    }
    (ids, stream)
}

#[tokio::test]
async fn a_reader_that_falls_behind_misses_progress_but_no_event() {
    // A thought that says more than the watch holds makes every reader lag that does not read.
    let saga = Fixture::start(Options { chatter: 50_000, ..Options::default() }).await;
    let id = saga.session().await.id;
    let mut slow = saga.client.follow(&id, 0).await.expect("it can be followed");
    saga.say(&id, "talk").await;
    let last = saga.rest(&id).await.last;
    assert_eq!(ids_until(&mut slow, last).await, (1..=last).collect::<Vec<u64>>());
}

#[tokio::test]
async fn progress_comes_between_events_and_has_no_id() {
    let saga = Fixture::start(Options { takes: Duration::from_millis(50), ..Options::default() }).await;
    let id = saga.session().await.id;
    let mut stream = saga.client.follow(&id, 0).await.expect("it can be followed");
    assert_eq!(next(&mut stream).await.kind, "created");
    saga.say(&id, "hello").await;
    let mut kinds = Vec::new();
    while kinds.last().map(String::as_str) != Some("turn_ended") {
        let heard = next(&mut stream).await;
        assert_eq!(heard.id.is_none(), heard.kind == "progress", "{heard:?}");
        let data: serde_json::Value = serde_json::from_str(&heard.data).expect("data is JSON");
        if heard.kind != "progress" {
            assert_eq!(data["type"], heard.kind);
            assert_eq!(data["seq"].as_u64(), heard.id);
        }
        kinds.push(heard.kind);
    }
    kinds.dedup();
    let expected = [
        "input",
        "turn_started",
        "step_started",
        "progress",
        "reply",
        "call_started",
        "call_finished",
        "step_started",
        "progress",
        "reply",
        "turn_ended",
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_stream_is_not_cached_or_held_back() {
    let saga = Fixture::start(Options::default()).await;
    let id = saga.session().await.id;
    let mut stream = saga.client.follow(&id, 0).await.expect("it can be followed");
    next(&mut stream).await;
    // The stream has to end for its raw bytes to be read whole.
    let path = format!("/v1/sessions/{id}/events");
    let raw = saga.ask("GET", &path, "Last-Event-ID: 0\r\n", "");
    let delete = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        saga.client.delete(&id).await.expect("it is deleted");
    };
    let (raw, ()) = tokio::join!(raw, delete);
    assert_eq!(raw.status, 200);
    for header in ["content-type: text/event-stream", "cache-control: no-cache", "x-accel-buffering: no"] {
        assert!(raw.head.contains(header), "{header} in {}", raw.head);
    }
    assert!(raw.body.contains("retry: 2000\n\n"), "{}", raw.body);
    assert!(raw.body.contains("id: 1\nevent: created\ndata: {"), "{}", raw.body);
}

#[tokio::test]
async fn a_place_beyond_the_last_event_is_resynced() {
    // A client that comes with a place of another life of this session must not wait for ever.
    let saga = Fixture::start(Options::default()).await;
    let id = saga.session().await.id;
    let mut stream = saga.client.follow(&id, 99).await.expect("it can be followed");
    let heard = next(&mut stream).await;
    assert_eq!((heard.kind.as_str(), heard.data.as_str()), ("resync", r#"{"last":1}"#));
    let seq = saga.say(&id, "hello").await.seq;
    assert_eq!(ids_until(&mut stream, seq).await, vec![2]);
}

#[tokio::test]
async fn stopping_ends_streams_and_keeps_what_was_written() {
    let mut saga = Fixture::start(Options { takes: Duration::from_secs(60), ..Options::default() }).await;
    let id = saga.session().await.id;
    let mut stream = saga.client.follow(&id, 0).await.expect("it can be followed");
    let seq = saga.say(&id, "hello").await.seq;
    assert_eq!(ids_until(&mut stream, seq).await, vec![1, 2]);
    saga.stop.take().expect("it runs").send(()).expect("it listens");
    loop {
        let heard = next(&mut stream).await;
        if heard.kind == "end" {
            assert_eq!(heard.data, r#"{"reason":"stopping"}"#);
            break;
        }
    }
    assert_eq!(stream.next().await, None);
    let done = tokio::time::timeout(Duration::from_secs(20), &mut saga.task).await;
    done.expect("it stops in time").expect("it does not panic").expect("it stops well");
}

#[tokio::test]
async fn events_can_be_read_in_pages() {
    let saga = Fixture::start(Options::default()).await;
    let id = saga.session().await.id;
    saga.say(&id, "hello").await;
    let last = saga.rest(&id).await.last;
    let mut seqs = Vec::new();
    let mut after = 0;
    loop {
        let path = format!("/v1/sessions/{id}/events?limit=3&after={after}");
        let page = saga.ask("GET", &path, "Accept: application/json\r\n", "").await.json();
        let events = page["events"].as_array().expect("a page has events").clone();
        assert!(events.len() <= 3);
        seqs.extend(events.iter().filter_map(|event| event["seq"].as_u64()));
        match page["next_after"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(seqs, (1..=last).collect::<Vec<u64>>());
}

#[tokio::test]
async fn an_interrupt_ends_the_turn() {
    let saga = Fixture::start(Options { takes: Duration::from_secs(60), ..Options::default() }).await;
    let id = saga.session().await.id;
    saga.say(&id, "hello").await;
    let mut stream = saga.client.follow(&id, 0).await.expect("it can be followed");
    while next(&mut stream).await.kind != "step_started" {}
    assert!(saga.client.interrupt(&id).await.expect("it is answered").fresh);
    let now = saga.rest(&id).await;
    assert_eq!(now.ended, Some(crate::wire::End::Interrupted));
}

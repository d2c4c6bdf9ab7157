//! Waiting for a session, and how it stands.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, Heard, Refusal};
use crate::wire;

/// How often it is said that a session is still at work: clients give up on what is silent for long.
const PULSE: Duration = Duration::from_secs(5);
/// How long to wait before a stream that was lost is taken up again.
const AGAIN: Duration = Duration::from_millis(500);
/// How far back the last answer is looked for: pages of events of this many.
const PAGE: u64 = 200;
const PAGES_MAX: u32 = 5;

/// Waits until a session does no longer run, or the time is up. `say` is told what happens meanwhile.
pub(super) async fn wait(
    client: &Client,
    id: &str,
    at_most: Duration,
    say: &(impl Fn(String) + Sync),
) -> Result<wire::Session, Refusal> {
    let until = Instant::now() + at_most;
    let mut now = client.session(id).await?;
    while now.status == wire::Status::Running && Instant::now() < until {
        let mut stream = client.follow(id, now.last).await?;
        let mut pulse = tokio::time::interval(PULSE);
        pulse.reset();
        loop {
            let heard = tokio::select! {
                heard = stream.next() => heard,
                _ = pulse.tick() => {
                    say("at work".to_string());
                    continue;
                }
                () = tokio::time::sleep_until(until) => break,
            };
            let Some(heard) = heard.filter(|heard| heard.kind != "end") else {
                tokio::time::sleep(AGAIN).await;
                break;
            };
            if let Some(news) = news(&heard) {
                say(news);
            }
            if matches!(heard.kind.as_str(), "turn_ended" | "approval_asked") {
                break;
            }
        }
        now = client.session(id).await?;
    }
    Ok(now)
}

/// What an event tells somebody who waits, in a few words.
fn news(heard: &Heard) -> Option<String> {
    heard.id?;
    let event: Value = serde_json::from_str(&heard.data).ok()?;
    match heard.kind.as_str() {
        "step_started" => Some(format!("step {}", event["step"])),
        "reply" => {
            let calls = event["calls"].as_array()?.iter().filter_map(|call| call["name"].as_str());
            let names: Vec<&str> = calls.collect();
            (!names.is_empty()).then(|| format!("calls {}", names.join(", ")))
        }
        "call_finished" => Some(event["outcome"]["summary"].as_str()?.to_string()),
        _ => None,
    }
}

/// How a session stands, for another agent.
pub(super) async fn standing(client: &Client, now: &wire::Session) -> Result<Value, Refusal> {
    let mut told = json!({
        "session": now.id,
        "status": now.status,
        "ended": now.ended,
        "answer": answer(client, now).await?,
        "steps": now.steps,
        "tool_calls": now.tool_calls,
        "usage": now.usage,
    });
    if let Some(ask) = &now.asks {
        told["asks"] = json!(ask);
    }
    if let Some(error) = &now.error {
        told["error"] = json!(error);
    }
    Ok(told)
}

/// The last thing that a session said in words; nothing when it has not said anything for long.
async fn answer(client: &Client, now: &wire::Session) -> Result<Option<String>, Refusal> {
    let mut end = now.last;
    for _ in 0..PAGES_MAX {
        let after = end.saturating_sub(PAGE);
        let page = client.events(&now.id, after).await?;
        let said = page.events.iter().rev().find_map(|event| {
            let event = serde_json::to_value(event).ok().filter(|event| event["type"] == "reply")?;
            let text = event["text"].as_str()?.trim();
            (!text.is_empty()).then(|| text.to_string())
        });
        if said.is_some() || after == 0 {
            return Ok(said);
        }
        end = after;
    }
    Ok(None)
}

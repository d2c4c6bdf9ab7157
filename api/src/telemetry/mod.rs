//! Spans for whoever watches services: one for each turn, step and call, sent to a collector over OTLP.
//!
//! They are made of events, by the conventions for generative AI <https://opentelemetry.io/docs/specs/semconv/gen-ai/>, and say nothing of
//! what was said unless that is asked for. The service never waits for the collector: what it does not take in time is dropped, and counted.

mod spans;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent::{Agent, Recorded, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::failure::Failure;
use spans::Tracer;

/// Where spans are sent, if anywhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// A collector that speaks OTLP over HTTP, such as http://127.0.0.1:4318. Left out, nothing is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<String>,
    /// What is sent along with every request, such as a key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Whether what people, models and tools said is sent, too.
    pub content: bool,
}

/// Spans that are sent together, how long the first of them waits for others, and batches that may wait for the collector.
const BATCH: usize = 256;
const WAIT: Duration = Duration::from_secs(2);
const BATCHES: usize = 16;
/// How long the collector may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a batch is sent before it is dropped, and the pause before it is sent again.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// What has become of spans so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
    /// Events that came too fast to be looked at.
    missed: AtomicU64,
}

impl Counts {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

impl TelemetryConfig {
    /// Whether this can be used.
    ///
    /// # Errors
    /// In words, what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.otlp {
            Some(url) if !(url.starts_with("http://") || url.starts_with("https://")) => {
                Err(format!("telemetry.otlp is {url:?}; it must begin with http:// or https://, such as http://127.0.0.1:4318"))
            }
            None if self.content || !self.headers.is_empty() => {
                Err("telemetry has no otlp, so nothing is sent; name the collector, such as http://127.0.0.1:4318".to_string())
            }
            _ => Ok(()),
        }
    }

    /// Sends spans of everything that these agents' sessions do from now on, for as long as the service runs. Nothing without a collector.
    ///
    /// # Errors
    /// [`Failure`] for a header that is none.
    pub(crate) fn start(&self, agents: Vec<Agent>) -> Result<Option<Arc<Counts>>, Failure> {
        let Some(url) = &self.otlp else { return Ok(None) };
        let url = match url.trim_end_matches('/') {
            url if url.ends_with("/v1/traces") => url.to_string(),
            url => format!("{url}/v1/traces"),
        };
        let counts = Arc::new(Counts::default());
        let (batches, waiting) = mpsc::channel(BATCHES);
        let headers: Vec<(String, String)> = self.headers.clone().into_iter().collect();
        let told = counts.clone();
        // A thread of its own: it waits for the network and nothing else.
        std::thread::Builder::new()
            .name("telemetry".to_string())
            .spawn(move || send(&url, &headers, waiting, &told))
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
        for agent in agents {
            let heard = agent.heard();
            tokio::spawn(listen(agent, heard, self.content, batches.clone(), counts.clone()));
        }
        Ok(Some(counts))
    }
}

/// Makes spans of one agent's events and hands them on.
async fn listen(
    agent: Agent,
    mut heard: Receiver<(SessionId, Arc<Recorded>)>,
    content: bool,
    batches: mpsc::Sender<Vec<Value>>,
    counts: Arc<Counts>,
) {
    let mut tracer = Tracer::new(content);
    let mut batch: Vec<Value> = Vec::new();
    let mut due = Instant::now();
    loop {
        let next = tokio::select! {
            next = heard.recv() => Some(next),
            () = tokio::time::sleep_until(due), if !batch.is_empty() => None,
        };
        match next {
            Some(Ok((id, recorded))) => {
                let model = || agent.get(&id).map(|info| info.model).unwrap_or_default();
                let made = tracer.hear(&id, &recorded, model);
                if batch.is_empty() && !made.is_empty() {
                    due = Instant::now() + WAIT;
                }
                batch.extend(made);
            }
            Some(Err(RecvError::Lagged(many))) => {
                counts.missed.fetch_add(many, Ordering::Relaxed);
                tracer.forget();
            }
            Some(Err(RecvError::Closed)) => break,
            None => due = Instant::now(),
        }
        if batch.len() >= BATCH || (!batch.is_empty() && Instant::now() >= due) {
            hand_on(&batches, std::mem::take(&mut batch), &counts);
        }
    }
    hand_on(&batches, batch, &counts);
}

fn hand_on(batches: &mpsc::Sender<Vec<Value>>, batch: Vec<Value>, counts: &Counts) {
    let many = batch.len() as u64;
    if many > 0 && batches.try_send(batch).is_err() {
        counts.dropped.fetch_add(many, Ordering::Relaxed);
    }
}

/// Sends batches until nobody makes any.
fn send(url: &str, headers: &[(String, String)], mut waiting: mpsc::Receiver<Vec<Value>>, counts: &Counts) {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("saga/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent();
    let mut told = false;
    while let Some(batch) = waiting.blocking_recv() {
        let many = batch.len() as u64;
        let body = spans::request(batch).to_string();
        match put(&agent, url, headers, &body) {
            Ok(()) => {
                counts.sent.fetch_add(many, Ordering::Relaxed);
                told = false;
            }
            Err(why) => {
                counts.dropped.fetch_add(many, Ordering::Relaxed);
                // Once, and not for each batch while the collector is away.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(url, why, "spans are dropped: the collector does not take them");
                }
            }
        }
    }
}

fn put(agent: &ureq::Agent, url: &str, headers: &[(String, String)], body: &str) -> Result<(), String> {
    let mut last = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let mut request = agent.post(url).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        match request.send(body) {
            Ok(response) if response.status().is_success() => return Ok(()),
            Ok(response) => {
                let status = response.status().as_u16();
                last = format!("status {status}");
                // What the protocol calls worth another try; of anything else another try is no better.
                if !matches!(status, 429 | 502..=504) {
                    break;
                }
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests;

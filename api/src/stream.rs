//! The events of a session: what there is, then what comes, without a gap and without a duplicate.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use agent::{Agent, Recorded, Said, SessionId, Watch};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use memory::Seq;
use tokio::sync::{mpsc, watch};

use crate::error::{Problem, ProblemBody};
use crate::service::Service;
use crate::sessions::bounded;
use crate::wire::{Asked, EventFormat, EventPage, EventQuery, Id};

/// Silence after which a comment is sent, so that proxies and clients know the stream is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a browser waits before it connects again. Milliseconds.
const RETRY_MS: u64 = 2000;
/// Events read from the journal at a time.
const PAGE: usize = 256;
/// Frames a slow reader may have waiting; past that the follower waits for it, and reads the journal again if it must.
const FRAMES: usize = 64;

/// Follow a session: what there is, then what comes.
///
/// Each recorded event comes once, with its `seq` as the `id:`, its type as the `event:` and its JSON as the `data:`. In
/// between, `event: progress` (without an id) shows what is happening and is never repeated. `Last-Event-ID` or `after`
/// takes up where a lost connection ended. `event: resync` says that this place lies beyond the last event, so that the
/// reader has to begin anew; `event: end` says why the stream ends.
#[utoipa::path(get, path = "/v1/sessions/{id}/events", tag = "sessions",
    params(("id" = String, Path, description = "The session"), EventQuery,
           ("Last-Event-ID" = Option<u64>, Header, description = "The seq of the last event received")),
    responses(
        (status = 200, description = "A stream of server-sent events, or one page with `format=json`",
            content((EventPage = "application/json"), (String = "text/event-stream"))),
        (status = 400, description = "A parameter cannot be used", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn events(
    State(service): State<Service>,
    Id(id): Id,
    Asked(query): Asked<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = Seq(last_event_id(&headers)?.or(query.after).unwrap_or(0));
    let limit = bounded(query.limit, 200, 1000)?;
    let format = query.format.unwrap_or_else(|| preferred(&headers));
    match format {
        EventFormat::Json => page(service.agent(), &id, after, limit).await,
        EventFormat::Sse => {
            // Watching begins before the journal is read: what is written in between is then seen twice, and sent once.
            let watch = service.agent().watch(&id)?;
            let (frames, body) = mpsc::channel(FRAMES);
            let follower = Follower { agent: service.agent().clone(), id, watch, sent: after, frames };
            tokio::spawn(follower.run(service.closing()));
            let headers = [
                (header::CONTENT_TYPE.as_str(), "text/event-stream"),
                (header::CACHE_CONTROL.as_str(), "no-cache, no-transform"),
                // nginx would otherwise hold events back until its buffer is full.
                ("x-accel-buffering", "no"),
            ];
            Ok((headers, Body::new(Frames(body))).into_response())
        }
    }
}

async fn page(agent: &Agent, id: &SessionId, after: Seq, limit: usize) -> Result<Response, Problem> {
    let mut events = agent.events(id, after, limit + 1).await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next_after = events.last().filter(|_| more).map(|event| event.seq.0);
    Ok(Json(EventPage { events, next_after }).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    match value.to_str().map(str::trim) {
        // A browser that has received no id yet may send the header empty.
        Ok("") => Ok(None),
        Ok(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Problem::bad_request(format!("Last-Event-ID {text:?} is not the seq of an event"))),
        Err(_) => Err(Problem::bad_request("Last-Event-ID is not the seq of an event")),
    }
}

/// What a client that names no format wants: a page only if it asks for JSON and not for a stream.
fn preferred(headers: &HeaderMap) -> EventFormat {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") && !accept.contains("text/event-stream") {
        EventFormat::Json
    } else {
        EventFormat::Sse
    }
}

/// One reader's way through the events of a session.
struct Follower {
    agent: Agent,
    id: SessionId,
    watch: Watch,
    /// The last event sent.
    sent: Seq,
    frames: mpsc::Sender<Bytes>,
}

/// Why a follower stops.
enum Stop {
    /// The reader has gone.
    Unread,
    /// The session cannot be followed further, for this reason.
    End(&'static str),
    /// The journal cannot be read.
    Broken(Problem),
}

impl Follower {
    async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let stop = match self.follow(&mut closing).await {
            Ok(()) => return,
            Err(stop) => stop,
        };
        let last = match stop {
            Stop::Unread => return,
            Stop::End(why) => frame(None, "end", &format!(r#"{{"reason":"{why}"}}"#)),
            Stop::Broken(problem) => {
                let detail =
                    serde_json::json!({ "reason": "error", "code": problem.code, "detail": problem.detail });
                frame(None, "end", &detail.to_string())
            }
        };
        // Nobody may be there to read it.
        let _ = self.frames.send(last).await;
    }

    async fn follow(&mut self, closing: &mut watch::Receiver<bool>) -> Result<(), Stop> {
        self.send(Bytes::from(format!("retry: {RETRY_MS}\n\n"))).await?;
        let last = self.agent.get(&self.id).map_err(ended)?.last;
        if self.sent > last {
            self.sent = last;
            self.send(frame(None, "resync", &format!(r#"{{"last":{}}}"#, last.0))).await?;
        }
        self.catch_up().await?;
        self.skip_stale().await?;
        self.see_whether_it_stopped()?;
        loop {
            tokio::select! {
                biased;
                said = self.watch.recv() => match said {
                    Some(said) => self.hear(said).await?,
                    None => return Err(Stop::End("deleted")),
                },
                () = set(closing) => {
                    // What the stopping itself has written belongs to the story.
                    self.catch_up().await?;
                    return Err(Stop::End("stopping"));
                }
                () = self.frames.closed() => return Ok(()),
                () = tokio::time::sleep(HEARTBEAT) => self.send(Bytes::from_static(b": still here\n\n")).await?,
            }
        }
    }

    async fn hear(&mut self, said: Said) -> Result<(), Stop> {
        match said {
            Said::Recorded(recorded) if recorded.seq <= self.sent => Ok(()),
            Said::Recorded(recorded) if recorded.seq.0 == self.sent.0 + 1 => self.tell(&recorded).await,
            // Something lies between: the journal has it, and this event too.
            Said::Recorded(_) => self.catch_up().await,
            Said::Lagged => {
                self.catch_up().await?;
                self.see_whether_it_stopped()
            }
            Said::Stopped(why) => Err(stopped(why)),
            Said::Progress(progress) => {
                let data = serde_json::to_string(&progress).expect("progress has only string keys");
                self.send(frame(None, "progress", &data)).await
            }
        }
    }

    /// A turn that stopped without an end, as on a full disk, sends nothing more: waiting for it would be in vain.
    fn see_whether_it_stopped(&self) -> Result<(), Stop> {
        let info = self.agent.get(&self.id).map_err(ended)?;
        match info.error {
            Some(why) if info.ended.is_none() => Err(stopped(why)),
            Some(_) | None => Ok(()),
        }
    }

    /// Sends what the journal has beyond the last event sent.
    async fn catch_up(&mut self) -> Result<(), Stop> {
        loop {
            let page = self.agent.events(&self.id, self.sent, PAGE).await.map_err(ended)?;
            for recorded in &page {
                self.tell(recorded).await?;
            }
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Passes over progress that was made before an event already sent, or text would be shown after its reply.
    async fn skip_stale(&mut self) -> Result<(), Stop> {
        let mut heard = Vec::new();
        loop {
            let said = tokio::select! {
                biased;
                said = self.watch.recv() => said,
                () = std::future::ready(()) => break,
            };
            match said {
                Some(Said::Recorded(recorded)) if recorded.seq <= self.sent => heard.clear(),
                Some(said) => heard.push(said),
                None => return Err(Stop::End("deleted")),
            }
        }
        for said in heard {
            self.hear(said).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, recorded: &Recorded) -> Result<(), Stop> {
        debug_assert!(recorded.seq > self.sent, "an event is sent once");
        let json = serde_json::to_value(recorded).expect("an event has only string keys and finite numbers");
        let kind = json["type"].as_str().unwrap_or("event").to_string();
        self.send(frame(Some(recorded.seq), &kind, &json.to_string())).await?;
        self.sent = recorded.seq;
        Ok(())
    }

    async fn send(&self, frame: Bytes) -> Result<(), Stop> {
        self.frames.send(frame).await.map_err(|_| Stop::Unread)
    }
}

/// Ends once the switch is set; never, if it is gone without having been set.
async fn set(closing: &mut watch::Receiver<bool>) {
    let gone = closing.wait_for(|closing| *closing).await.is_err();
    if gone {
        std::future::pending::<()>().await;
    }
}

fn ended(error: agent::Error) -> Stop {
    match error {
        agent::Error::NoSession(_) => Stop::End("deleted"),
        error => Stop::Broken(error.into()),
    }
}

fn stopped(why: String) -> Stop {
    Stop::Broken(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", why))
}

/// One server-sent event. JSON has no bare line breaks, so its data is one line.
fn frame(id: Option<Seq>, event: &str, data: &str) -> Bytes {
    let id = id.map(|seq| format!("id: {}\n", seq.0)).unwrap_or_default();
    Bytes::from(format!("{id}event: {event}\ndata: {data}\n\n"))
}

/// A body that is written while it is read. It ends when its sender is gone.
pub(crate) struct Frames(pub(crate) mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

//! The prompt over HTTP: what fills it, and making room in it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Problem, ProblemBody};
use crate::service::Service;
use crate::wire::{Admitted, Body, Id};

/// What fills a session's prompt, and what was left out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Context {
    /// Tokens the model's context holds; null where that is not known.
    pub(crate) window: Option<u64>,
    /// Tokens of the prompt.
    pub(crate) tokens: u64,
    /// Whether they were counted, and not guessed because the model is not open.
    pub(crate) counted: bool,
    /// How many of them were there already when the model was asked last.
    pub(crate) cached_tokens: u64,
    /// What it is made of, in order.
    pub(crate) segments: Vec<Segment>,
    /// The times that messages were left out and that hold, oldest first.
    pub(crate) compactions: Vec<Compaction>,
    /// What is left out, oldest first, shortened. It stays in the session's events.
    pub(crate) left_out: Vec<Segment>,
}

/// One part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Segment {
    /// What it is.
    pub(crate) kind: SegmentKind,
    /// Its first words.
    pub(crate) about: String,
    /// Tokens, with the marks around it.
    pub(crate) tokens: u64,
}

/// What a part of a prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SegmentKind {
    /// How the model is to behave, with its tools, the project's guide and notes.
    System,
    /// What stands for messages that were left out.
    Digest,
    /// What a person said, with what was recalled to it.
    User,
    /// What the model said and asked for.
    Reply,
    /// What came of its calls.
    Results,
}

/// Messages that were left out together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Compaction {
    /// Its place among the session's events.
    pub(crate) seq: u64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// How many messages.
    pub(crate) messages: usize,
    /// Tokens of the prompt before …
    pub(crate) before_tokens: u64,
    /// … and after.
    pub(crate) after_tokens: u64,
    /// What the model is shown in their place, and in the place of an earlier digest.
    pub(crate) digest: String,
}

/// Room to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewCompaction {
    /// What is to be kept most of all, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) focus: Option<String>,
}

impl From<agent::Gauge> for Context {
    fn from(gauge: agent::Gauge) -> Context {
        Context {
            window: gauge.window,
            tokens: gauge.tokens,
            counted: gauge.counted,
            cached_tokens: gauge.cached_tokens,
            segments: gauge.segments.into_iter().map(Segment::from).collect(),
            compactions: gauge
                .compactions
                .into_iter()
                .map(|compaction| Compaction {
                    seq: compaction.seq.0,
                    at_ms: compaction.at_ms,
                    messages: compaction.messages,
                    before_tokens: compaction.before_tokens,
                    after_tokens: compaction.after_tokens,
                    digest: compaction.digest,
                })
                .collect(),
            left_out: gauge.left_out.into_iter().map(Segment::from).collect(),
        }
    }
}

impl From<agent::Segment> for Segment {
    fn from(segment: agent::Segment) -> Segment {
        let kind = match segment.kind {
            agent::SegmentKind::System => SegmentKind::System,
            agent::SegmentKind::Digest => SegmentKind::Digest,
            agent::SegmentKind::User => SegmentKind::User,
            agent::SegmentKind::Reply => SegmentKind::Reply,
            agent::SegmentKind::Results => SegmentKind::Results,
        };
        Segment { kind, about: segment.about, tokens: segment.tokens }
    }
}

/// What fills a session's prompt, and what was left out of it.
#[utoipa::path(get, path = "/v1/sessions/{id}/context", tag = "sessions", params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "What fills it", body = Context),
        (status = 400, description = "The request cannot be carried out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn get(State(service): State<Service>, Id(id): Id) -> Result<Json<Context>, Problem> {
    Ok(Json(service.agent().gauge(&id).await?.into()))
}

/// Leave older messages out of the prompt, as soon as nothing is under way; a digest stands for them.
///
/// What came of it is an event: `compacted`, or `not_compacted` with the reason.
#[utoipa::path(post, path = "/v1/sessions/{id}/compact", tag = "sessions", request_body = NewCompaction,
    params(("id" = String, Path, description = "The session")),
    responses((status = 202, description = "It is durable that it is wanted", body = Admitted),
        (status = 400, description = "The request cannot be carried out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn compact(
    State(service): State<Service>,
    Id(id): Id,
    Body(wish): Body<NewCompaction>,
) -> Result<(StatusCode, Json<Admitted>), Problem> {
    const FOCUS_CHARS_MAX: usize = 1_000;
    if wish.focus.as_ref().is_some_and(|focus| focus.chars().count() > FOCUS_CHARS_MAX) {
        return Err(Problem::bad_request(format!("`focus` has at most {FOCUS_CHARS_MAX} characters")));
    }
    let done = service.agent().submit(&id, agent::Command::Compact { focus: wish.focus }).await?;
    Ok((StatusCode::ACCEPTED, Json(Admitted { seq: done.seq.0, fresh: done.fresh, id: None })))
}

/// Show the model again what was left out last.
#[utoipa::path(post, path = "/v1/sessions/{id}/uncompact", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 202, description = "It is durable", body = Admitted),
        (status = 400, description = "Nothing is left out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn uncompact(
    State(service): State<Service>,
    Id(id): Id,
) -> Result<(StatusCode, Json<Admitted>), Problem> {
    let done = service.agent().submit(&id, agent::Command::Uncompact).await?;
    Ok((StatusCode::ACCEPTED, Json(Admitted { seq: done.seq.0, fresh: done.fresh, id: None })))
}

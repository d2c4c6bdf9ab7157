//! Schedules over HTTP: what is to be said to which session, and when; and the hooks that others call.

use agent::schedule::{self, Cause, Schedule as Kept, Then, When};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Key;
use crate::error::{Problem, ProblemBody};
use crate::goals::Goal;
use crate::service::Service;
use crate::sessions::idempotency_key;
use crate::wire::Body;

/// The largest body of a call of a hook; a session is told at most 16,000 characters of it. Bytes.
const HOOK_BYTES_MAX: usize = 256 * 1024;

/// What is to be said to a session, and when: one of `cron`, `at` and `hook`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSchedule {
    /// Again and again: minute, hour, day of the month, month and day of the week, as in a crontab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0 9 * * 1-5")]
    pub(crate) cron: Option<String>,
    /// Once: a time with its offset, or as clocks in `zone` show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-12-01T09:00")]
    pub(crate) at: Option<String>,
    /// The time zone of `cron` and `at`, by its IANA name; UTC when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Europe/Berlin")]
    pub(crate) zone: Option<String>,
    /// Whenever somebody calls `POST /v1/hooks/{token}`, with a token that the answer tells this once. What they send is told to the session
    /// as data of theirs.
    #[serde(default)]
    pub(crate) hook: bool,
    /// What is said.
    #[schema(min_length = 1, example = "Update the dependencies and run the tests.")]
    pub(crate) prompt: String,
    /// The session that is woken …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// … or the folder that a new one begins to work in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workspace: Option<String>,
    /// The model of new sessions; the service's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// What must be true before the turn of a new session may end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Goal>,
}

/// A schedule, and what has become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Schedule {
    /// Its name.
    pub(crate) id: String,
    /// Its times, as in a crontab; null when it has none.
    pub(crate) cron: Option<String>,
    /// The time zone that they are meant in.
    pub(crate) zone: Option<String>,
    /// Its one time, in milliseconds since 1970.
    pub(crate) at_ms: Option<u64>,
    /// Whether it runs when somebody calls its hook.
    pub(crate) hook: bool,
    /// Where to call it: told once, when it is made.
    pub(crate) hook_path: Option<String>,
    /// What is said.
    pub(crate) prompt: String,
    /// The session that is woken.
    pub(crate) session: Option<String>,
    /// The folder that new sessions work in.
    pub(crate) workspace: Option<String>,
    /// The model of new sessions.
    pub(crate) model: Option<String>,
    /// When it runs next, in milliseconds since 1970; null when no clock begins it.
    pub(crate) next_ms: Option<u64>,
    /// Its last runs, oldest first.
    pub(crate) runs: Vec<Run>,
    /// Milliseconds since 1970 when it was made.
    pub(crate) created_ms: u64,
}

/// A run of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Run {
    /// 1, 2, 3 … of this schedule.
    pub(crate) run: u32,
    /// When it was due, in milliseconds since 1970.
    pub(crate) due_ms: u64,
    /// Why it began: `clock`, `missed` (its time came while no service was there), `hand` or `hook`.
    pub(crate) cause: String,
    /// The session that it has begun or woken.
    pub(crate) session: Option<String>,
    /// Why it could do neither.
    pub(crate) trouble: Option<String>,
}

/// All schedules.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Schedules {
    /// Them, oldest first.
    pub(crate) schedules: Vec<Schedule>,
}

impl From<schedule::Run> for Run {
    fn from(run: schedule::Run) -> Run {
        let cause = match run.cause {
            Cause::Clock => "clock",
            Cause::Missed => "missed",
            Cause::Hand => "hand",
            Cause::Hook => "hook",
        };
        Run {
            run: run.run,
            due_ms: run.due_ms,
            cause: cause.to_string(),
            session: run.session.map(String::from),
            trouble: run.trouble,
        }
    }
}

impl From<schedule::Scheduled> for Schedule {
    fn from(scheduled: schedule::Scheduled) -> Schedule {
        let schedule::Scheduled { schedule: Kept { id, when, then, prompt, created_ms }, runs, next_ms } =
            scheduled;
        let (cron, zone, at_ms, hook) = match when {
            When::Cron { pattern, zone } => (Some(pattern), Some(zone), None, false),
            When::At { at_ms } => (None, None, Some(at_ms), false),
            When::Hook { .. } => (None, None, None, true),
        };
        let (session, workspace, model) = match then {
            Then::Wake { session } => (Some(session.to_string()), None, None),
            Then::Begin { workspace, model, .. } => (None, Some(workspace.display().to_string()), model),
        };
        Schedule {
            id,
            cron,
            zone,
            at_ms,
            hook,
            hook_path: None,
            prompt,
            session,
            workspace,
            model,
            next_ms,
            runs: runs.into_iter().map(Run::from).collect(),
            created_ms,
        }
    }
}

/// Make a schedule. It survives restarts; what was missed while the service was away runs once.
#[utoipa::path(post, path = "/v1/schedules", tag = "schedules", operation_id = "create_schedule", request_body = NewSchedule,
    responses((status = 201, description = "It is kept", body = Schedule),
        (status = 400, description = "It cannot be kept as it stands", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(service): State<Service>,
    Body(new): Body<NewSchedule>,
) -> Result<Response, Problem> {
    let one = "a schedule has one of `cron`, `at` and `hook`; give one of them";
    let zone = new.zone.unwrap_or_else(|| "UTC".to_string());
    let mut token = None;
    let when = match (new.cron, new.at, new.hook) {
        (Some(pattern), None, false) => When::Cron { pattern: pattern.trim().to_string(), zone },
        (None, Some(at), false) => When::At { at_ms: schedule::moment(&at, &zone)? },
        (None, None, true) => {
            let secret = Key::new().map_err(|failure| Problem::internal(failure.to_string()))?;
            let hash = agent::digest(secret.as_str());
            token = Some(secret);
            When::Hook { token: hash }
        }
        _ => return Err(Problem::bad_request(one)),
    };
    let then = match (new.session, new.workspace) {
        (Some(session), None) if new.model.is_none() && new.until.is_none() => {
            Then::Wake { session: session.parse()? }
        }
        (Some(_), None) => {
            return Err(Problem::bad_request(
                "`model` and `until` are about new sessions; leave them out with `session`",
            ));
        }
        (None, Some(workspace)) => Then::Begin {
            workspace: workspace.into(),
            model: new.model,
            until: new.until.map(Goal::read).transpose()?,
        },
        _ => {
            return Err(Problem::bad_request(
                "a schedule has either `session` or `workspace`; give one of them",
            ));
        }
    };
    let id = crate::auth::random_id().map_err(|failure| Problem::internal(failure.to_string()))?;
    let id = format!("w-{}", &id[..12]);
    let created_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    let kept = Kept { id, when, then, prompt: new.prompt, created_ms };
    let mut told = Schedule::from(service.agent().schedule(kept).await?);
    told.hook_path = token.map(|token| format!("/v1/hooks/{}", token.as_str()));
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

/// List the schedules, oldest first.
#[utoipa::path(get, path = "/v1/schedules", tag = "schedules", operation_id = "list_schedules",
    responses((status = 200, description = "Them", body = Schedules),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn list(State(service): State<Service>) -> Result<Json<Schedules>, Problem> {
    let schedules = service.agent().schedules().await?;
    Ok(Json(Schedules { schedules: schedules.into_iter().map(Schedule::from).collect() }))
}

/// Remove a schedule. What it has begun goes on.
#[utoipa::path(delete, path = "/v1/schedules/{id}", tag = "schedules", operation_id = "delete_schedule", params(("id" = String, Path, description = "The schedule")),
    responses((status = 204, description = "It is gone"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such schedule", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(service): State<Service>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    service.agent().unschedule(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Run a schedule now.
#[utoipa::path(post, path = "/v1/schedules/{id}/run", tag = "schedules", operation_id = "run_schedule", params(("id" = String, Path, description = "The schedule")),
    responses((status = 202, description = "What it has begun, or why it could not", body = Run),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such schedule", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn run(
    State(service): State<Service>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Run>), Problem> {
    Ok((StatusCode::ACCEPTED, Json(service.agent().run_schedule(&id).await?.into())))
}

/// Call a hook: its schedule runs, and the session is told what is sent, as data of whoever sent it. The token is the key to it.
///
/// With an `Idempotency-Key` that was sent before nothing runs, and the answer tells what ran then.
#[utoipa::path(post, path = "/v1/hooks/{token}", tag = "schedules", operation_id = "call_hook", security(()),
    params(("token" = String, Path, description = "What was told when the schedule was made"),
           ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated call harmless")),
    request_body(content = String, description = "Any text of at most 256 KiB", content_type = "text/plain"),
    responses((status = 202, description = "What it has begun, or why it could not", body = Run),
        (status = 400, description = "The body is no text", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such hook", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn hook(
    State(service): State<Service>,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Run>), Problem> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let why = format!("a hook takes at most {} KiB", HOOK_BYTES_MAX / 1024);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", why)
        }
        _ => Problem::bad_request(rejection.body_text()),
    })?;
    let text = std::str::from_utf8(&body).map_err(|_| Problem::bad_request("a hook takes text in UTF-8"))?;
    let key = idempotency_key(&headers)?;
    let hash = agent::digest(&token);
    // The token says whose it is: a tenant's hooks are called without the tenant's key.
    for service in std::iter::once(&service).chain(service.tenants()) {
        match service.agent().hook(&hash, key, text).await {
            Err(agent::Error::NoSchedule(_)) => {}
            done => return Ok((StatusCode::ACCEPTED, Json(done?.into()))),
        }
    }
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        "no_hook",
        "there is no such hook; it may have been removed with its schedule",
    ))
}

/// How much a hook reads.
pub(crate) fn hook_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(HOOK_BYTES_MAX)
}

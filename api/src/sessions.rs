//! Sessions over HTTP: make, list, look, say, approve, interrupt, delete.

use agent::{Command, SessionId, SessionInfo};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::error::{Problem, ProblemBody};
use crate::goals::Goal;
use crate::service::Service;
use crate::wire::{
    Admitted, Approval, Asked, Body, Budget, Id, NewInput, NewSession, Session, SessionPage, SessionQuery,
};

/// Make a session.
///
/// Sending the same `id` (or `Idempotency-Key`) with the same wishes again gives the session that is there.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", request_body = NewSession,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request harmless")),
    responses(
        (status = 201, description = "It is made", body = Session,
            headers(("Location" = String, description = "Where the session is"))),
        (status = 200, description = "It was made before", body = Session),
        (status = 400, description = "The request cannot be carried out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The workspace lies outside the roots", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The id belongs to another session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field or the model cannot be used", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not ready, or stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(service): State<Service>,
    headers: HeaderMap,
    Body(new): Body<NewSession>,
) -> Result<Response, Problem> {
    if new.model.is_none() {
        service.must_be_ready()?;
    }
    let id = match (new.id, idempotency_key(&headers)?) {
        (Some(id), _) => Some(id.parse::<SessionId>()?),
        (None, Some(key)) => Some(named_after(key)?),
        (None, None) => None,
    };
    let budget = new.budget.map(|budget| budget.over(service.budget()));
    budget.map_or(Ok(()), crate::wire::check).map_err(Problem::bad_request)?;
    let there = id.as_ref().is_some_and(|id| service.agent().get(id).is_ok());
    let wish = agent::NewSession {
        workspace: new.workspace,
        model: new.model,
        instructions: new.instructions,
        id,
        budget,
        memory: new.memory,
        rules: new.rules.into_iter().map(Into::into).collect(),
        until: new.until.map(Goal::read).transpose()?,
    };
    let info = service.agent().create(wish).await?;
    let status = if there { StatusCode::OK } else { StatusCode::CREATED };
    let location = format!("/v1/sessions/{}", info.id);
    Ok((status, [(header::LOCATION, location)], Json(Session::from(info))).into_response())
}

/// List sessions, newest first.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(SessionQuery),
    responses((status = 200, description = "A page of sessions", body = SessionPage),
              (status = 400, description = "A parameter cannot be used", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(service): State<Service>,
    Asked(query): Asked<SessionQuery>,
) -> Result<Json<SessionPage>, Problem> {
    let limit = bounded(query.limit, 50, 200)?;
    let before = query.cursor.as_deref().map(parse_cursor).transpose()?;
    let mut sessions = service.agent().list();
    sessions.reverse();
    let mut rest = sessions
        .into_iter()
        .filter(|info| before.as_ref().is_none_or(|(ms, id)| (info.created_ms, &info.id) < (*ms, id)))
        .map(|info| (cursor(&info), Session::from(info)))
        .filter(|(_, session)| query.status.is_none_or(|status| session.status == status))
        .filter(|(_, session)| query.parent.is_none() || session.parent == query.parent);
    let page: Vec<(String, Session)> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next_cursor = page.last().filter(|_| more).map(|(cursor, _)| cursor.clone());
    Ok(Json(SessionPage { sessions: page.into_iter().map(|(_, session)| session).collect(), next_cursor }))
}

/// Look at a session.
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "The session", body = Session),
              (status = 400, description = "The id is none", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn get(State(service): State<Service>, Id(id): Id) -> Result<Json<Session>, Problem> {
    Ok(Json(service.agent().get(&id)?.into()))
}

/// Set the limits of a session. They hold from then on, also within a turn; what is left out stays as it is.
#[utoipa::path(post, path = "/v1/sessions/{id}/budget", tag = "sessions", request_body = Budget,
    params(("id" = String, Path, description = "The session")),
    responses((status = 202, description = "It is durable", body = Admitted),
        (status = 400, description = "With such limits no turn could begin", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn budget(
    State(service): State<Service>,
    Id(id): Id,
    Body(wish): Body<Budget>,
) -> Result<Response, Problem> {
    let budget = wish.over(service.agent().get(&id)?.budget);
    crate::wire::check(budget).map_err(Problem::bad_request)?;
    let admitted = service.agent().submit(&id, Command::Budget(budget)).await?;
    let body = Admitted { seq: admitted.seq.0, fresh: admitted.fresh, id: None };
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// Delete a session and everything it has written. The workspace stays as it is.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "The session")),
    responses((status = 204, description = "It is gone"),
              (status = 400, description = "The id is none", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn delete(State(service): State<Service>, Id(id): Id) -> Result<StatusCode, Problem> {
    service.agent().delete(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say something to a session. Answered once the input is durable; what comes of it is in the events.
#[utoipa::path(post, path = "/v1/sessions/{id}/inputs", tag = "sessions", request_body = NewInput,
    params(("id" = String, Path, description = "The session"),
           ("Idempotency-Key" = Option<String>, Header, description = "The input's id, when the body has none")),
    responses(
        (status = 202, description = "It is durable", body = Admitted),
        (status = 400, description = "The request cannot be carried out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is wrong, or the id was used for another text", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "Too many inputs are waiting", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn input(
    State(service): State<Service>,
    Id(session): Id,
    headers: HeaderMap,
    Body(new): Body<NewInput>,
) -> Result<(StatusCode, Json<Admitted>), Problem> {
    let id = match (new.id, idempotency_key(&headers)?) {
        (Some(id), Some(key)) if id != key => {
            return Err(Problem::bad_request(
                "the body's id and the Idempotency-Key differ; send one of them",
            ));
        }
        (Some(id), _) => id,
        (None, Some(key)) => key.to_string(),
        (None, None) => {
            crate::auth::random_id().map_err(|failure| Problem::bad_request(failure.to_string()))?
        }
    };
    let (name, text) = (id.clone(), new.text);
    let command = match new.until.map(Goal::read).transpose()? {
        Some(goal) => Command::Pursue { id: name, text, goal },
        None => Command::Input { id: name, text },
    };
    let done = service.agent().submit(&session, command).await?;
    Ok((StatusCode::ACCEPTED, Json(Admitted { seq: done.seq.0, fresh: done.fresh, id: Some(id) })))
}

/// Interrupt the running turn. `fresh` is false when none was running.
#[utoipa::path(post, path = "/v1/sessions/{id}/interrupt", tag = "sessions", params(("id" = String, Path, description = "The session")),
    responses((status = 202, description = "It is durable", body = Admitted),
              (status = 400, description = "The id is none", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
              (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn interrupt(
    State(service): State<Service>,
    Id(id): Id,
) -> Result<(StatusCode, Json<Admitted>), Problem> {
    let done = service.agent().submit(&id, Command::Interrupt).await?;
    Ok((StatusCode::ACCEPTED, Json(Admitted { seq: done.seq.0, fresh: done.fresh, id: None })))
}

/// Answer whether a call may run that waits for somebody's approval.
#[utoipa::path(post, path = "/v1/sessions/{id}/approvals", tag = "sessions", request_body = Approval,
    params(("id" = String, Path, description = "The session")),
    responses((status = 202, description = "It is durable", body = Admitted),
              (status = 400, description = "The id is none", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
              (status = 409, description = "That call waits for nobody's approval", body = ProblemBody, content_type = "application/problem+json"),
              (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
              (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
              (status = 422, description = "A field is wrong", body = ProblemBody, content_type = "application/problem+json"),
              (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn approve(
    State(service): State<Service>,
    Id(id): Id,
    Body(approval): Body<Approval>,
) -> Result<(StatusCode, Json<Admitted>), Problem> {
    let Approval { call, allowed, always, by } = approval;
    if by.as_ref().is_some_and(|by| by.chars().count() > 200) {
        return Err(Problem::bad_request("`by` names who answers: at most 200 characters"));
    }
    let done = service.agent().submit(&id, Command::Approve { call, allowed, always, by }).await?;
    Ok((StatusCode::ACCEPTED, Json(Admitted { seq: done.seq.0, fresh: done.fresh, id: None })))
}

/// The `Idempotency-Key` of a request.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().map(|key| key.trim().trim_matches('"')).unwrap_or_default();
    if key.is_empty() || key.len() > 128 {
        return Err(Problem::bad_request("an Idempotency-Key has 1 to 128 visible ASCII characters"));
    }
    Ok(Some(key))
}

/// The session id that belongs to an `Idempotency-Key`: the same key always names the same session.
fn named_after(key: &str) -> Result<SessionId, Problem> {
    let digest = Sha256::digest(key.as_bytes());
    let name: String = digest[..13].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("k-{name}").parse()?)
}

fn cursor(info: &SessionInfo) -> String {
    format!("{}.{}", info.created_ms, info.id)
}

fn parse_cursor(cursor: &str) -> Result<(u64, SessionId), Problem> {
    let wrong =
        || Problem::bad_request("this cursor is none of ours; send the `next_cursor` of the page before");
    let (ms, id) = cursor.split_once('.').ok_or_else(wrong)?;
    Ok((ms.parse().map_err(|_| wrong())?, id.parse().map_err(|_| wrong())?))
}

/// A page's size as asked for, or the default.
pub(crate) fn bounded(asked: Option<usize>, default: usize, max: usize) -> Result<usize, Problem> {
    match asked {
        None => Ok(default),
        Some(n) if (1..=max).contains(&n) => Ok(n),
        Some(n) => Err(Problem::bad_request(format!("limit is {n}; give 1 to {max}"))),
    }
}

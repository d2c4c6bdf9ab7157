//! Checkpoints over HTTP: what a session can be wound back to, and gone on from.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use memory::Seq;
use tools::checkpoint::Tree;

use crate::error::{Problem, ProblemBody};
use crate::service::Service;
use crate::wire::{
    Asked, Between, Body, Checkpoint, Checkpoints, FileChange, FileChanges, ForkAt, Forking, Id, NewFork,
    NewRewinding, Rewinding, Session,
};

/// List the places a session can be wound back to, oldest first.
#[utoipa::path(get, path = "/v1/sessions/{id}/checkpoints", tag = "sessions", params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "Them", body = Checkpoints),
        (status = 400, description = "The request cannot be carried out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session, or no such checkpoint", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn list(State(service): State<Service>, Id(id): Id) -> Result<Json<Checkpoints>, Problem> {
    let checkpoints = service.agent().checkpoints(&id).await?;
    Ok(Json(Checkpoints { checkpoints: checkpoints.iter().map(Checkpoint::from).collect() }))
}

/// What changed in a session's workspace between two places.
#[utoipa::path(get, path = "/v1/sessions/{id}/changes", tag = "sessions", params(("id" = String, Path, description = "The session"), Between),
    responses((status = 200, description = "The files", body = FileChanges),
        (status = 400, description = "The request cannot be carried out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session, or no such checkpoint", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "There is no sandbox, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn changes(
    State(service): State<Service>,
    Id(id): Id,
    Asked(between): Asked<Between>,
) -> Result<Json<FileChanges>, Problem> {
    let from = match between.from {
        Some(from) => Seq(from),
        None => service.agent().checkpoints(&id).await?.first().map_or(Seq(0), |first| first.seq),
    };
    let to = Seq(between.to.unwrap_or(u64::MAX));
    let files = service.agent().compare(&id, from, to).await?;
    Ok(Json(FileChanges { files: files.into_iter().map(FileChange::from).collect() }))
}

/// Wind a session back, or forward again: its files and what its model knows.
///
/// Without `now` nothing changes, and the answer says what would. With the `now` of that answer it is done, unless the workspace has
/// changed meanwhile.
#[utoipa::path(post, path = "/v1/sessions/{id}/rewind", tag = "sessions", request_body = NewRewinding,
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "What it means, or has done", body = Rewinding),
        (status = 400, description = "The request cannot be carried out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session, or no such checkpoint", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The session works, or the workspace changed meanwhile", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is wrong, or the workspace cannot be kept", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "There is no sandbox, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn rewind(
    State(service): State<Service>,
    Id(id): Id,
    Body(wish): Body<NewRewinding>,
) -> Result<Json<Rewinding>, Problem> {
    let now = wish.now.map(|now| now.parse::<Tree>()).transpose().map_err(Problem::bad_request)?;
    Ok(Json(service.agent().rewind(&id, Seq(wish.at), now).await?.into()))
}

/// What a fork at a place would have of a session, and what it would not know of. Nothing changes.
#[utoipa::path(get, path = "/v1/sessions/{id}/fork", tag = "sessions", operation_id = "look_at_fork",
    params(("id" = String, Path, description = "The session"), ForkAt),
    responses((status = 200, description = "What it would have", body = Forking),
        (status = 400, description = "The session has no such place", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "There is no sandbox, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn look_at_fork(
    State(service): State<Service>,
    Id(id): Id,
    Asked(wish): Asked<ForkAt>,
) -> Result<Json<Forking>, Problem> {
    Ok(Json(service.agent().forking(&id, wish.at.map(Seq)).await?.into()))
}

/// Make a session that goes on from where another one stood. What was computed for the other one is not computed again.
#[utoipa::path(post, path = "/v1/sessions/{id}/fork", tag = "sessions", request_body = NewFork,
    params(("id" = String, Path, description = "The session")),
    responses((status = 201, description = "The new session", body = Session,
            headers(("Location" = String, description = "Where the session is"))),
        (status = 400, description = "The request cannot be carried out", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The workspace lies outside the roots", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session, or no such checkpoint", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The session works, or the workspace changed meanwhile", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is wrong, or the workspace cannot be kept", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "There is no sandbox, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn fork(
    State(service): State<Service>,
    Id(id): Id,
    Body(wish): Body<NewFork>,
) -> Result<Response, Problem> {
    let info = service.agent().fork(&id, wish.at.map(Seq), wish.workspace.as_deref()).await?;
    let location = format!("/v1/sessions/{}", info.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Session::from(info))).into_response())
}

//! Sessions as files over HTTP: written out, and read back in.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use agent::portable::{Export, Place};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::IntoParams;

use crate::error::{Problem, ProblemBody};
use crate::service::Service;
use crate::stream::Frames;
use crate::wire::{Asked, Id, Session};

/// The largest file that is taken. Bytes.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// How much of a file is sent at once. Bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that a slow reader may have waiting.
const PIECES: usize = 8;
/// The media type of a session's file.
pub(crate) const SESSION_FILE: &str = "application/vnd.saga.session+gzip";

/// What a session's file is to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportWish {
    /// What the workspace held at the session's checkpoints, too.
    #[serde(default)]
    #[param(default = false)]
    pub(crate) workspace: bool,
    /// Everything as it is, with the secrets in it. Otherwise they are blotted out, and replies are in the file without their tokens if
    /// there were any.
    #[serde(default)]
    #[param(default = false)]
    pub(crate) secrets: bool,
}

/// Where an imported session works. Without either it is the folder that it worked in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportWish {
    /// A folder under one of the service's workspace roots, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub(crate) workspace: Option<PathBuf>,
    /// An empty folder there, or one that can be made: it gets the files that the workspace held last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub(crate) into: Option<PathBuf>,
}

impl ImportWish {
    /// The folder; an error for two.
    pub(crate) fn place(self) -> Result<Place, String> {
        match (self.workspace, self.into) {
            (None, None) => Ok(Place::Same),
            (Some(folder), None) => Ok(Place::In(folder)),
            (None, Some(folder)) => Ok(Place::Into(folder)),
            (Some(_), Some(_)) => Err("workspace and into are both given; keep one".to_string()),
        }
    }
}

/// A session as one file: its events and, where wanted, what its workspace held.
///
/// The file is compressed lines of JSON with checksums; the manual describes it. Secrets are blotted out unless they are asked for.
#[utoipa::path(get, path = "/v1/sessions/{id}/export", tag = "sessions", params(("id" = String, Path, description = "The session"), ExportWish),
    responses((status = 200, description = "The file", body = Vec<u8>, content_type = "application/vnd.saga.session+gzip"),
        (status = 400, description = "A parameter cannot be used", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Its checkpoints hold too much to be carried", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn export(
    State(service): State<Service>,
    Id(id): Id,
    Asked(wish): Asked<ExportWish>,
) -> Result<Response, Problem> {
    // Whole before the first byte is sent, so that what goes wrong is an answer and not half a file.
    let mut file = tempfile::tempfile().map_err(|error| disk(&error))?;
    let to = file.try_clone().map_err(|error| disk(&error))?;
    let wish = Export { workspace: wish.workspace, secrets: wish.secrets };
    service.agent().export(&id, wish, std::io::BufWriter::new(to)).await?;
    file.seek(SeekFrom::Start(0)).map_err(|error| disk(&error))?;
    let length = file.metadata().map_err(|error| disk(&error))?.len();
    let (frames, body) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            match (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece) {
                Ok(1..) => {}
                // A file of our own that cannot be read any more ends the answer too early, which its length tells.
                Ok(0) | Err(_) => return,
            }
            if frames.blocking_send(Bytes::from(piece)).is_err() {
                return;
            }
        }
    });
    let headers = [
        (header::CONTENT_TYPE, SESSION_FILE.to_string()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.saga\"")),
    ];
    Ok((headers, Body::new(Frames(body))).into_response())
}

/// Make a session of a file, under a new id. Every line is checked; on any error nothing is made.
///
/// Nothing runs: the session rests until somebody says something to it. What was allowed in it elsewhere is not allowed here.
#[utoipa::path(post, path = "/v1/sessions/import", tag = "sessions", operation_id = "import_session", params(ImportWish),
    request_body(content = Vec<u8>, content_type = "application/vnd.saga.session+gzip", description = "The file"),
    responses((status = 201, description = "The session", body = Session,
            headers(("Location" = String, description = "Where the session is"))),
        (status = 400, description = "The folder cannot be used", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The workspace lies outside the roots", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The file is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The file is damaged; the answer names the line", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "There is no sandbox, or the service is stopping", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn import(
    State(service): State<Service>,
    Asked(wish): Asked<ImportWish>,
    request: Request,
) -> Result<Response, Problem> {
    let place = wish.place().map_err(Problem::bad_request)?;
    let file = tempfile::tempfile().map_err(|error| disk(&error))?;
    let mut file = receive(request.into_body(), file).await?;
    file.seek(SeekFrom::Start(0)).map_err(|error| disk(&error))?;
    let info = service.agent().import(file, place).await?;
    let location = format!("/v1/sessions/{}", info.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Session::from(info))).into_response())
}

/// Puts a body into a file, up to its cap.
async fn receive(mut body: Body, mut file: std::fs::File) -> Result<std::fs::File, Problem> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Problem::bad_request(format!("the file did not arrive whole: {error}")))?;
        let Ok(piece) = frame.into_data() else { continue };
        bytes += piece.len() as u64;
        if bytes > FILE_BYTES_MAX {
            let most = FILE_BYTES_MAX >> 20;
            let detail =
                format!("the file is larger than {most} MiB; export the session without its workspace");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail));
        }
        // A temporary file's pages are in memory: a write is a copy.
        file.write_all(&piece).map_err(|error| disk(&error))?;
    }
    Ok(file)
}

fn disk(error: &std::io::Error) -> Problem {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let kind = if code == StatusCode::INSUFFICIENT_STORAGE { "disk_full" } else { "internal" };
    Problem::new(
        code,
        kind,
        format!("a temporary file cannot be used: {error}; free some space and try again"),
    )
}

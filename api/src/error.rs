//! Errors on the wire: problem details (RFC 9457) for everything that goes wrong in a request.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::failure::in_full;

/// A request that could not be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// What kind of problem it is: stable, for programs.
    pub(crate) code: &'static str,
    /// What happened and what to do, for people.
    pub(crate) detail: String,
}

/// The body of an error (RFC 9457). `code` tells problems apart; `detail` says what happened and what to do next.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// A URI for the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:saga:problem:no_session")]
    pub(crate) kind: String,
    /// The status in words.
    #[schema(example = "Not Found")]
    pub(crate) title: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub(crate) status: u16,
    /// The kind of problem as one word.
    #[schema(example = "no_session")]
    pub(crate) code: String,
    /// What happened and what to do about it.
    pub(crate) detail: String,
}

/// The media type of [`ProblemBody`].
const PROBLEM_JSON: &str = "application/problem+json";

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into() }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    pub(crate) fn no_key() -> Problem {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "no_key",
            "this service wants its key: send `Authorization: Bearer KEY` or `x-api-key: KEY`",
        )
    }

    pub(crate) fn wrong_key() -> Problem {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "wrong_key",
            "this is not the service's key; the key was printed when the service was first started, and \
             `saga up --new-key` makes another",
        )
    }

    pub(crate) fn strange_host(host: &str) -> Problem {
        Problem::new(
            StatusCode::FORBIDDEN,
            "strange_host",
            format!(
                "a keyless service answers only to localhost, not to {host:?}; use http://127.0.0.1, or start the \
                 service with a key"
            ),
        )
    }

    pub(crate) fn strange_origin() -> Problem {
        Problem::new(
            StatusCode::FORBIDDEN,
            "strange_origin",
            "a keyless service does not answer web pages of other origins; start the service with a key",
        )
    }

    pub(crate) fn no_memory(id: u64) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no_memory",
            format!("there is no note {id}, or it was forgotten"),
        )
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// What is wrong, in words.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn no_route(path: &str) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no_route",
            format!("there is nothing at {path}; /openapi.json lists what there is"),
        )
    }

    pub(crate) fn wrong_method(method: &str, path: &str) -> Problem {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "wrong_method",
            format!("{path} does not take {method}; the Allow header names what it takes"),
        )
    }

    pub(crate) fn starting(what: &str) -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_ready",
            format!("the service is not ready: {what}"),
        )
    }
}

impl From<agent::Error> for Problem {
    fn from(error: agent::Error) -> Problem {
        use agent::Error as E;
        let (status, code) = match &error {
            E::NoSession(_) => (StatusCode::NOT_FOUND, "no_session"),
            E::NoSchedule(_) => (StatusCode::NOT_FOUND, "no_schedule"),
            E::Exists(_) => (StatusCode::CONFLICT, "exists"),
            E::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            E::OutsideRoots { .. } => (StatusCode::FORBIDDEN, "outside_roots"),
            // What the Idempotency-Key draft asks for when a key comes back with another body.
            E::InputIdReused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "input_id_reused"),
            E::NotAsked { .. } => (StatusCode::CONFLICT, "not_asked"),
            E::Running(_) => (StatusCode::CONFLICT, "running"),
            E::NoCheckpoint { .. } => (StatusCode::NOT_FOUND, "no_checkpoint"),
            E::ChangedMeanwhile { .. } => (StatusCode::CONFLICT, "changed_meanwhile"),
            E::Tools(tools::Error::Uncovered(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "no_checkpoint"),
            E::NotExported(_) => (StatusCode::INTERNAL_SERVER_ERROR, "not_exported"),
            E::NotImported { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "bad_file"),
            E::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            E::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            E::NotWritten(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_written"),
            E::Unreadable { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "unreadable"),
            E::Remote { .. } => (StatusCode::BAD_GATEWAY, "remote"),
            E::ContextFull { .. } => (StatusCode::BAD_REQUEST, "context_full"),
            E::Memory(error) => return Problem::from_memory(error),
            // A model that cannot be had or opened is the request's (or the operator's) choice, not a defect.
            E::Engine(engine::Error::Stopped) => (StatusCode::INTERNAL_SERVER_ERROR, "engine_stopped"),
            E::Engine(_) => (StatusCode::UNPROCESSABLE_ENTITY, "model"),
            E::Tools(_) => (StatusCode::SERVICE_UNAVAILABLE, "sandbox"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Problem::new(status, code, in_full(&error))
    }
}

impl From<memory::Error> for Problem {
    fn from(error: memory::Error) -> Problem {
        Problem::from_memory(&error)
    }
}

impl Problem {
    fn from_memory(error: &memory::Error) -> Problem {
        use memory::Error as E;
        let (status, code) = match error {
            E::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            E::ReadOnly { .. } => (StatusCode::SERVICE_UNAVAILABLE, "read_only"),
            E::Locked { .. } => (StatusCode::SERVICE_UNAVAILABLE, "locked"),
            E::BadName { .. } | E::BadInput(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            E::NoJournal { .. } => (StatusCode::NOT_FOUND, "no_session"),
            E::Corrupt { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
            E::Stopped(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_written"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Problem::new(status, code, in_full(error))
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Problem {
        let status = rejection.status();
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "not_json",
            StatusCode::UNPROCESSABLE_ENTITY => "bad_field",
            _ => "bad_json",
        };
        let detail = match status {
            StatusCode::PAYLOAD_TOO_LARGE => format!(
                "the body is larger than {} KiB; put long material into a file of the workspace",
                crate::routes::BODY_BYTES_MAX / 1024
            ),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                "send the body as JSON with `Content-Type: application/json`".to_string()
            }
            _ => in_full(&rejection),
        };
        Problem::new(status, code, detail)
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::bad_request(in_full(&rejection))
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Problem {
        Problem::bad_request(in_full(&rejection))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Problem { status, code, detail } = self;
        if status.is_server_error() {
            tracing::error!(status = status.as_u16(), code, detail, "a request failed");
        }
        let body = ProblemBody {
            kind: format!("urn:saga:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_string(),
            status: status.as_u16(),
            code: code.to_string(),
            detail,
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            // Long enough not to hammer a service that starts, short enough not to be noticed by a person.
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

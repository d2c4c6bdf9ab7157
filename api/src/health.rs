//! Whether the service is up, whether it can think, and which one it is.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::service::Service;
use crate::wire::{Health, Readiness, Version};

/// Whether the service is up.
#[utoipa::path(get, path = "/health", tag = "service", security(()),
    responses((status = 200, description = "It is up", body = Health)))]
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok".to_string() })
}

/// Whether the service can think: 503, with what it is doing, until its model is loaded.
#[utoipa::path(get, path = "/ready", tag = "service", security(()),
    responses((status = 200, description = "It can think", body = Readiness),
              (status = 503, description = "Not yet, or not without help", body = Readiness)))]
pub(crate) async fn ready(State(service): State<Service>) -> Response {
    let readiness = service.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

/// Which version is running.
#[utoipa::path(get, path = "/version", tag = "service", security(()),
    responses((status = 200, description = "The version", body = Version)))]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { name: "saga".to_string(), version: env!("CARGO_PKG_VERSION").to_string() })
}

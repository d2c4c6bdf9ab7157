//! A server of the protocol at its two places: a path of an HTTP service, and the standard streams of a command.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use rmcp::ServerHandler;
use rmcp::service::serve_server;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{
    SessionManager, StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};

use crate::failure::Failure;
use crate::routes::BODY_BYTES_MAX;

/// Serves it at `path`: each request is one of its own, and nothing is kept between two. With `sessions` something is, as servers need
/// it that ask their clients for something; then only this machine's own names reach it, as its rule for web pages has it.
pub fn mount<H: ServerHandler>(
    path: &str,
    make: impl Fn() -> H + Send + Sync + 'static,
    sessions: bool,
) -> Router {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(sessions)
        .with_max_request_body_bytes(BODY_BYTES_MAX);
    let make = move || Ok(make());
    match sessions {
        true => {
            let kept = Arc::new(LocalSessionManager::default());
            route(path, StreamableHttpService::new(make, kept, config))
        }
        // Who may ask, and under which name, has been decided before a request comes here.
        false => {
            let config = config.disable_allowed_hosts();
            route(path, StreamableHttpService::new(make, Arc::new(NeverSessionManager::default()), config))
        }
    }
}

fn route<H: ServerHandler, M: SessionManager>(path: &str, service: StreamableHttpService<H, M>) -> Router {
    let answer = move |request: Request| {
        let service = service.clone();
        async move { Response::map(service.handle(request).await, Body::new) }
    };
    Router::new().route(path, any(answer))
}

/// Serves it on this process's standard streams until the other side closes them.
///
/// # Errors
/// [`Failure`] when the other side does not speak the protocol.
pub async fn speak<H: ServerHandler>(handler: H) -> Result<(), Failure> {
    let streams = (tokio::io::stdin(), tokio::io::stdout());
    let running = match serve_server(handler, streams).await {
        Ok(running) => running,
        // Whoever only looked whether it starts has gone.
        Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => {
            return Err(
                Failure::of(&error).next("start it from a program that speaks the Model Context Protocol")
            );
        }
    };
    running.waiting().await.map(drop).map_err(|error| Failure::new(format!("serving stopped: {error}")))
}

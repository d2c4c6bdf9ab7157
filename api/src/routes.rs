//! The table of routes; nothing else.

use std::sync::{Arc, LazyLock};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::{Json, Router};
use tower::ServiceExt;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::Problem;
use crate::mcp::{Mouth, Way, mount};
use crate::service::Service;
use crate::{
    carrying, checkpoints, code, context, goals, health, memories, metrics, schedules, sessions, stream,
};

/// The largest body of a request. The agent takes inputs of 256 KiB, which JSON's escapes can make six times as long.
pub(crate) const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What anybody may ask.
fn open() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::version))
        .routes(routes!(openapi))
        .merge(OpenApiRouter::new().routes(routes!(schedules::hook)).layer(schedules::hook_limit()))
}

/// What needs the key.
fn guarded() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(sessions::create, sessions::list))
        .routes(routes!(sessions::get, sessions::delete))
        .routes(routes!(sessions::input))
        .routes(routes!(sessions::interrupt))
        .routes(routes!(sessions::approve))
        .routes(routes!(goals::drop))
        .routes(routes!(sessions::budget))
        .routes(routes!(checkpoints::list))
        .routes(routes!(checkpoints::changes))
        .routes(routes!(checkpoints::rewind))
        .routes(routes!(checkpoints::fork, checkpoints::look_at_fork))
        .routes(routes!(carrying::export))
        .routes(routes!(carrying::import))
        .routes(routes!(context::get))
        .routes(routes!(context::compact))
        .routes(routes!(context::uncompact))
        .routes(routes!(stream::events))
        .routes(routes!(memories::create, memories::page))
        .routes(routes!(memories::bring))
        .routes(routes!(memories::find))
        .routes(routes!(memories::where_said))
        .routes(routes!(memories::erase))
        .routes(routes!(memories::take_back))
        .routes(routes!(memories::changes))
        .routes(routes!(memories::counts))
        .routes(routes!(memories::get, memories::delete))
        .routes(routes!(memories::changes_of))
        .routes(routes!(memories::admit))
        .routes(routes!(code::search))
        .routes(routes!(schedules::create, schedules::list))
        .routes(routes!(schedules::delete))
        .routes(routes!(schedules::run))
        .routes(routes!(metrics::metrics))
}

/// The service as a router, ready to be served. A request that shows a tenant's key goes to that tenant's service and sees nothing
/// of the others; everything else goes to the service's own, which asks for a key itself.
pub fn router(service: Service) -> Router {
    let tenants: Vec<(Service, Router)> =
        service.tenants().iter().map(|tenant| (tenant.clone(), table(tenant.clone()))).collect();
    let own = table(service);
    if tenants.is_empty() {
        return own;
    }
    let tenants = Arc::new(tenants);
    Router::new().fallback(move |request: Request| {
        let (tenants, own) = (tenants.clone(), own.clone());
        async move {
            let shown = |(tenant, _): &&(Service, Router)| {
                tenant.auth().check(request.headers(), request.uri()).is_ok()
            };
            let router = tenants.iter().find(shown).map_or(own, |(_, router)| router.clone());
            router.oneshot(request).await
        }
    })
}

fn table(service: Service) -> Router {
    let guard = from_fn_with_state(service.clone(), guard);
    let table = open().merge(guarded().route_layer(guard.clone()));
    let (router, _) = table.split_for_parts();
    let routes = router
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(service);
    // What other agents ask for there is asked of these very routes, with the key they have shown.
    let mouth = Mouth::new(Way::Within(routes.clone()));
    routes.merge(mount("/mcp", move || mouth.clone(), false).route_layer(guard))
}

async fn guard(State(service): State<Service>, request: Request, next: Next) -> Result<Response, Problem> {
    service.auth().check(request.headers(), request.uri())?;
    Ok(next.run(request).await)
}

async fn no_route(uri: Uri) -> Problem {
    Problem::no_route(uri.path())
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::wrong_method(method.as_str(), uri.path())
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "service", security(()),
    responses((status = 200, description = "The API, described for machines", content_type = "application/json")))]
async fn openapi() -> Json<&'static OpenApi> {
    Json(document())
}

/// The API, described for machines: what `/openapi.json` sends and what is checked in as `api/openapi.json`.
pub(crate) fn document() -> &'static OpenApi {
    static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| {
        let about = InfoBuilder::new()
            .title("saga")
            .version(env!("CARGO_PKG_VERSION"))
            .description(Some(
                "A coding agent that lives on your machine: sessions, their inputs and their events, and what is remembered.",
            ))
            .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()));
        let keys = ComponentsBuilder::new()
            .security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
            .security_scheme("key", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key"))));
        let any = ["bearer", "key"].map(|name| SecurityRequirement::new(name, Vec::<String>::new()));
        let base = OpenApiBuilder::new()
            .info(about.build())
            .components(Some(keys.build()))
            .security(Some(any))
            .build();
        OpenApiRouter::with_openapi(base).merge(open()).merge(guarded()).into_openapi()
    });
    &DOCUMENT
}

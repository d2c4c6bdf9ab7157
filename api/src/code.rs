//! Code search over HTTP: the files of a folder, read as they are now.

use axum::Json;
use axum::extract::State;

use crate::error::{Problem, ProblemBody};
use crate::service::Service;
use crate::wire::{Body, CodeFound, CodeSearch};

/// Find code by what it does. The folder's files are read in a sandbox and brought level with the index first.
#[utoipa::path(post, path = "/v1/code/search", tag = "code", request_body = CodeSearch, operation_id = "search_code",
    responses((status = 200, description = "The places that fit best, best first, as a model reads them", body = CodeFound),
              (status = 400, description = "The folder or the question cannot be used", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 403, description = "The folder lies outside the roots", body = ProblemBody, content_type = "application/problem+json"),
              (status = 422, description = "A field is wrong", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn search(
    State(service): State<Service>,
    Body(wish): Body<CodeSearch>,
) -> Result<Json<CodeFound>, Problem> {
    let Some(live) = service.live() else {
        return Err(Problem::bad_request("this service has no workspaces to search in"));
    };
    let found = live.search_code(&wish.workspace, &wish.query, wish.path.as_deref()).await?;
    match found.ok {
        true => Ok(Json(CodeFound { text: found.text })),
        false => Err(Problem::bad_request(found.text)),
    }
}

//! Goals over HTTP: what must be true before a turn may end.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Problem, ProblemBody};
use crate::service::Service;
use crate::wire::{Admitted, Id};

/// What must be true before a turn may end: `command` or `judged`. When the model answers without a call it is checked; what is missing
/// is told to the model, and the turn goes on within its budget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goal {
    /// A line for the shell, run in the session's sandbox, that must exit with 0. It runs again and again, and once more when the service
    /// stopped while it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "cargo test")]
    pub(crate) command: Option<String>,
    /// A condition in words, judged by the model beside its prompt: only with quotations of what its calls have shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "every public function has documentation")]
    pub(crate) judged: Option<String>,
    /// How often in a turn the check may fail before the session rests and asks; 8 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub(crate) rounds_max: Option<u32>,
}

impl Goal {
    /// The goal as sessions know it.
    pub(crate) fn read(self) -> Result<agent::Goal, Problem> {
        let goal = match (self.command, self.judged) {
            (Some(line), None) => agent::Goal::command(line),
            (None, Some(condition)) => agent::Goal::judged(condition),
            (Some(_), Some(_)) | (None, None) => {
                return Err(Problem::bad_request(
                    "`until` has either `command` or `judged`; give one of them",
                ));
            }
        };
        Ok(agent::Goal { rounds_max: self.rounds_max.unwrap_or(goal.rounds_max), ..goal })
    }
}

impl From<agent::Goal> for Goal {
    fn from(goal: agent::Goal) -> Goal {
        let (command, judged) = match goal.test {
            agent::Test::Command(line) => (Some(line), None),
            agent::Test::Judged(condition) => (None, Some(condition)),
        };
        Goal { command, judged, rounds_max: Some(goal.rounds_max) }
    }
}

/// A session's goal, and how far it has got with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pursued {
    /// The goal.
    pub(crate) goal: Goal,
    /// Whether it is reached.
    pub(crate) met: bool,
    /// How often it was checked in the running turn, or in the last one, and not reached.
    pub(crate) rounds: u32,
    /// What the last check said, shortened; null before the first one.
    pub(crate) said: Option<String>,
    /// What shows that it is reached, as calls have answered it.
    pub(crate) evidence: Vec<String>,
}

impl From<agent::Pursued> for Pursued {
    fn from(pursued: agent::Pursued) -> Pursued {
        let agent::Pursued { goal, met, rounds, last } = pursued;
        let (said, evidence) = match last {
            Some(last) => (
                Some(last.barred.unwrap_or(last.said)),
                last.evidence.into_iter().map(|evidence| evidence.quote).collect(),
            ),
            None => (None, Vec::new()),
        };
        Pursued { goal: goal.into(), met, rounds, said, evidence }
    }
}

/// Take a session's goal back: its turns end when the model answers. `fresh` is false when it has none.
#[utoipa::path(delete, path = "/v1/sessions/{id}/goal", tag = "sessions", operation_id = "drop_goal", params(("id" = String, Path, description = "The session")),
    responses((status = 202, description = "It is durable", body = Admitted),
              (status = 400, description = "The id is none", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "There is no such session", body = ProblemBody, content_type = "application/problem+json"),
              (status = 503, description = "It cannot be written now, or the service is stopping", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn drop(
    State(service): State<Service>,
    Id(id): Id,
) -> Result<(StatusCode, Json<Admitted>), Problem> {
    let done = service.agent().submit(&id, agent::Command::DropGoal).await?;
    Ok((StatusCode::ACCEPTED, Json(Admitted { seq: done.seq.0, fresh: done.fresh, id: None })))
}

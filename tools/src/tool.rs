//! The trait every tool keeps, ours and those that join later.

use async_trait::async_trait;
use serde_json::Value;

use crate::{Error, Outcome, Sandbox, Spec};

/// One thing a model can ask for. Dropping the future of [`Tool::call`] ends the call and everything it started.
#[async_trait]
pub trait Tool: Send + Sync {
    /// What the model is told.
    fn spec(&self) -> &Spec;

    /// Does it. Progress text goes to `out` as it comes, already harmless; the outcome repeats what matters.
    ///
    /// # Errors
    /// Only when the sandbox itself failed: a tool that fails, or is called wrongly, says so in its `Outcome`.
    async fn call(
        &self,
        arguments: &Value,
        sandbox: &Sandbox,
        out: &(dyn for<'t> Fn(&'t str) + Send + Sync),
    ) -> Result<Outcome, Error>;
}

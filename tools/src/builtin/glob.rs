//! Finds files by their names.

use async_trait::async_trait;
use serde_json::Value;

use crate::files::{self, Request};
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// The `glob` tool.
pub(super) struct Glob {
    spec: Spec,
}

impl Glob {
    pub(super) fn new() -> Glob {
        let fields = [
            ("pattern", "string", "such as **/*.py or src/*.rs"),
            ("path", "string", "folder; the workspace if left out"),
        ];
        Glob { spec: super::spec("glob", include_str!("glob.md"), Replay::Safe, 1, &fields) }
    }
}

#[async_trait]
impl Tool for Glob {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    async fn call(
        &self,
        arguments: &Value,
        sandbox: &Sandbox,
        _out: &(dyn for<'t> Fn(&'t str) + Send + Sync),
    ) -> Result<Outcome, Error> {
        super::files(&self.spec, arguments, sandbox, |arguments| {
            Ok(Request::Glob(files::Glob {
                pattern: arguments.text("pattern")?,
                path: arguments.optional_text("path")?.unwrap_or_default(),
            }))
        })
        .await
    }
}

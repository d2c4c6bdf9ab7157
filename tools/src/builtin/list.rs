//! Looks at a folder.

use async_trait::async_trait;
use serde_json::Value;

use crate::files::{self, Request};
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// The `list` tool.
pub(super) struct List {
    spec: Spec,
}

impl List {
    pub(super) fn new() -> List {
        let fields = [
            ("path", "string", "folder; the workspace if left out"),
            ("depth", "integer", "levels to show; 1 if left out"),
        ];
        List { spec: super::spec("list", include_str!("list.md"), Replay::Safe, 0, &fields) }
    }
}

#[async_trait]
impl Tool for List {
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
            Ok(Request::List(files::List {
                path: arguments.optional_text("path")?.unwrap_or_default(),
                depth: arguments.number("depth")?,
            }))
        })
        .await
    }
}

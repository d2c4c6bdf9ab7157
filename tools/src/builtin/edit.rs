//! Replaces a piece of a file.

use async_trait::async_trait;
use serde_json::Value;

use crate::files::{self, Request};
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// The `edit` tool.
pub(super) struct Edit {
    spec: Spec,
}

impl Edit {
    pub(super) fn new() -> Edit {
        let fields = [
            ("path", "string", "file, relative to the workspace"),
            ("old", "string", "the exact text to replace, as it stands in the file"),
            ("new", "string", "the text to put in its place"),
            ("all", "boolean", "replace every place it stands in"),
        ];
        Edit { spec: super::spec("edit", include_str!("edit.md"), Replay::Unsafe, 3, &fields) }
    }
}

#[async_trait]
impl Tool for Edit {
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
            Ok(Request::Edit(files::Edit {
                path: arguments.text("path")?,
                old: arguments.text("old")?,
                new: arguments.text("new")?,
                all: arguments.flag("all")?,
            }))
        })
        .await
    }
}

//! Replaces a piece of a file.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::files::{self, Request};
use crate::{Bound, Error, Outcome, Replay, Sandbox, Spec, To, Tool};

/// The `edit` tool.
pub(super) struct Edit {
    spec: Spec,
}

impl Edit {
    pub(super) fn new() -> Edit {
        let fields = [
            ("path", "string", "file, relative to the workspace"),
            ("all", "boolean", "replace every place it stands in"),
            (
                "unread",
                "boolean",
                "true if old is text that read has not shown you: only then may it be any text",
            ),
            ("old", "string", "the exact text to replace, as it stands in the file"),
            ("new", "string", "the text to put in its place"),
        ];
        let mut spec = super::spec("edit", include_str!("edit.md"), Replay::Unsafe, 1, &fields);
        spec.parameters["required"] = json!(["path", "old", "new"]);
        let old = To::Piece { of: "path".into(), all: Some("all".into()), free: Some("unread".into()) };
        spec.bounds = vec![Bound { argument: "old".into(), to: old }];
        Edit { spec }
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
            // What it lets be said is settled when it is said; any old text is looked for alike.
            arguments.flag("unread")?;
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

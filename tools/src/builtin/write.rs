//! Writes a whole file.

use async_trait::async_trait;
use serde_json::Value;

use crate::files::{self, Request};
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// The `write` tool.
pub(super) struct Write {
    spec: Spec,
}

impl Write {
    pub(super) fn new() -> Write {
        let fields = [
            ("path", "string", "file, relative to the workspace"),
            ("content", "string", "the whole new text of the file"),
        ];
        Write { spec: super::spec("write", include_str!("write.md"), Replay::Unsafe, 2, &fields) }
    }
}

#[async_trait]
impl Tool for Write {
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
            Ok(Request::Write(files::Write {
                path: arguments.text("path")?,
                content: arguments.text("content")?,
            }))
        })
        .await
    }
}

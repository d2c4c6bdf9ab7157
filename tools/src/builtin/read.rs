//! Looks at a file.

use async_trait::async_trait;
use serde_json::Value;

use crate::files::{self, Request};
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// The `read` tool.
pub(super) struct Read {
    spec: Spec,
}

impl Read {
    pub(super) fn new() -> Read {
        let fields = [
            ("path", "string", "file, relative to the workspace"),
            ("offset", "integer", "first line, from 1"),
            ("limit", "integer", "number of lines"),
        ];
        Read { spec: super::spec("read", include_str!("read.md"), Replay::Safe, 1, &fields) }
    }
}

#[async_trait]
impl Tool for Read {
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
            Ok(Request::Read(files::Read {
                path: arguments.text("path")?,
                offset: arguments.number("offset")?,
                limit: arguments.number("limit")?,
            }))
        })
        .await
    }
}

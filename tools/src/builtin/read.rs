//! Looks at a file.

use async_trait::async_trait;
use serde_json::Value;

use crate::files::{self, Request};
use crate::{Bound, Error, Outcome, Replay, Sandbox, Spec, To, Tool};

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
        let mut spec = super::spec("read", include_str!("read.md"), Replay::Safe, 1, &fields);
        spec.bounds = vec![Bound { argument: "path".into(), to: To::Path }];
        Read { spec }
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

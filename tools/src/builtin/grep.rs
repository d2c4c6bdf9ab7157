//! Finds lines by a pattern.

use async_trait::async_trait;
use serde_json::Value;

use crate::files::{self, Request};
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// The `grep` tool.
pub(super) struct Grep {
    spec: Spec,
}

impl Grep {
    pub(super) fn new() -> Grep {
        let fields = [
            ("pattern", "string", "regular expression"),
            ("path", "string", "folder or file; the workspace if left out"),
            ("glob", "string", "only files with such names, as *.py"),
        ];
        Grep { spec: super::spec("grep", include_str!("grep.md"), Replay::Safe, 1, &fields) }
    }
}

#[async_trait]
impl Tool for Grep {
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
            Ok(Request::Grep(files::Grep {
                pattern: arguments.text("pattern")?,
                path: arguments.optional_text("path")?.unwrap_or_default(),
                glob: arguments.optional_text("glob")?.filter(|glob| !glob.trim().is_empty()),
            }))
        })
        .await
    }
}

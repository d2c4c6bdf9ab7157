//! Changes several files at once, for models that were trained to write patches.

use async_trait::async_trait;
use serde_json::Value;

use crate::files::{self, Request};
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// The `apply_patch` tool.
pub(super) struct ApplyPatch {
    spec: Spec,
}

impl ApplyPatch {
    pub(super) fn new() -> ApplyPatch {
        let fields = [("patch", "string", "the patch, from *** Begin Patch to *** End Patch")];
        ApplyPatch {
            spec: super::spec("apply_patch", include_str!("apply_patch.md"), Replay::Unsafe, 1, &fields),
        }
    }
}

#[async_trait]
impl Tool for ApplyPatch {
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
            Ok(Request::Patch(files::Patch { patch: arguments.text("patch")? }))
        })
        .await
    }
}

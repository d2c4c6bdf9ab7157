//! Shows what the source files define and where names are used.

use std::time::Instant;

use async_trait::async_trait;
use serde_json::Value;

use crate::arguments::Arguments;
use crate::sources::Question;
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// The `symbols` tool.
pub(super) struct Symbols {
    spec: Spec,
}

impl Symbols {
    pub(super) fn new() -> Symbols {
        let fields = [
            ("name", "string", "a function, type or other name, such as parse_header"),
            ("path", "string", "file or folder; the workspace if left out"),
            ("about", "string", "what you want to do, in words"),
        ];
        Symbols { spec: super::spec("symbols", include_str!("symbols.md"), Replay::Safe, 0, &fields) }
    }
}

#[async_trait]
impl Tool for Symbols {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    async fn call(
        &self,
        arguments: &Value,
        sandbox: &Sandbox,
        _out: &(dyn for<'t> Fn(&'t str) + Send + Sync),
    ) -> Result<Outcome, Error> {
        let began = Instant::now();
        let read = Arguments::read(arguments, &self.spec).and_then(|mut arguments| {
            let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
            let question = Question {
                name: given(arguments.optional_text("name")?),
                path: given(arguments.optional_text("path")?),
                about: given(arguments.optional_text("about")?),
            };
            Ok((question, arguments.repairs()))
        });
        match read {
            Ok((question, repairs)) => Ok(super::told(question.answer(sandbox).await?, repairs, began)),
            Err(wrong) => Ok(Outcome::refused(wrong)),
        }
    }
}

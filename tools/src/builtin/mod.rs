//! The built-in tools: one file each, beside the `.md` the model reads.

mod apply_patch;
mod edit;
mod exec;
mod fetch;
mod glob;
mod grep;
mod list;
mod process;
mod read;
mod symbols;
mod write;

use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::arguments::Arguments;
use crate::egress::Egress;
use crate::files::{Answer, Request};
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// All of them; with a way out, also what is of use only there.
pub(crate) fn all(egress: Option<&Egress>) -> Vec<Box<dyn Tool>> {
    let egress = egress.filter(|egress| egress.is_open());
    let mut tools: Vec<Box<dyn Tool>> = vec![
        Box::new(exec::Exec::new(egress)),
        Box::new(read::Read::new()),
        Box::new(write::Write::new()),
        Box::new(edit::Edit::new()),
        Box::new(grep::Grep::new()),
        Box::new(glob::Glob::new()),
        Box::new(list::List::new()),
        Box::new(symbols::Symbols::new()),
        Box::new(process::Process::new()),
        Box::new(apply_patch::ApplyPatch::new()),
    ];
    if let Some(egress) = egress {
        tools.push(Box::new(fetch::Fetch::new(egress)));
    }
    tools
}

/// How many lines of the list a model is told; a long list would be most of what it reads.
const LINES_TOLD: usize = 12;

/// Where a session may reach, in words for a model.
fn open_hosts(egress: &Egress) -> String {
    let lines = egress.lines();
    let more = lines.len().saturating_sub(LINES_TOLD);
    let told = lines[..lines.len() - more].join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("Only these can be reached: {told}{more}.")
}

/// How far a tool reaches that can reach out.
fn reach(egress: &Egress) -> crate::Reach {
    if egress.asks() { crate::Reach::Outside } else { crate::Reach::Workspace }
}

pub(crate) use process::show as shown;

/// A spec with a flat schema. A field is its name, its type and what the model is told of it; the first `required` are.
fn spec(
    name: &str,
    description: &str,
    replay: Replay,
    required: usize,
    fields: &[(&str, &str, &str)],
) -> Spec {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|(name, kind, about)| ((*name).to_owned(), json!({"type": kind, "description": about})))
        .collect();
    let required: Vec<&str> = fields.iter().take(required).map(|(name, _, _)| *name).collect();
    Spec {
        name: name.to_owned(),
        description: description.trim_end().to_owned(),
        parameters: json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        }),
        replay,
        bounds: Vec::new(),
        reach: crate::Reach::Workspace,
    }
}

/// Does a file operation: reads the arguments, asks the sandbox, and puts its answer into an outcome.
async fn files(
    spec: &Spec,
    given: &Value,
    sandbox: &Sandbox,
    request: impl FnOnce(&mut Arguments<'_>) -> Result<Request, String> + Send,
) -> Result<Outcome, Error> {
    let began = Instant::now();
    let read = Arguments::read(given, spec).and_then(|mut arguments| {
        let request = request(&mut arguments)?;
        Ok((request, arguments.repairs()))
    });
    let (request, repairs) = match read {
        Ok(read) => read,
        Err(wrong) => return Ok(Outcome::refused(wrong)),
    };
    let answer = sandbox.files(&request).await?;
    Ok(told(answer, repairs, began))
}

/// An answer as an outcome.
fn told(answer: Answer, repairs: Option<String>, began: Instant) -> Outcome {
    let mut text = answer.text;
    if let Some(repairs) = repairs {
        text = format!("{}\n{repairs}", text.trim_end_matches('\n'));
    }
    Outcome {
        ok: answer.ok,
        text,
        summary: answer.summary,
        exit: None,
        wall_ms: wall_ms(began),
        bytes_total: answer.bytes_total,
        truncated: answer.truncated,
        missing_layers: Vec::new(),
        external: false,
    }
}

fn wall_ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

//! Gets a page of the web.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;

use crate::arguments::Arguments;
use crate::egress::{self, Egress, NoPage, Page, Refusal};
use crate::output::size;
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// How long a page may take, with all the places it leads to.
const WALL: Duration = Duration::from_secs(60);

/// The longest URL. Servers take no longer ones, and what is longer carries something else.
const URL_BYTES_MAX: usize = 2_000;

/// The `fetch` tool.
pub(super) struct Fetch {
    spec: Spec,
}

impl Fetch {
    pub(super) fn new(egress: &Egress) -> Fetch {
        let fields = [
            ("url", "string", "address of the page, with http:// or https://"),
            ("max_bytes", "integer", "most bytes to read; 1048576 if left out"),
        ];
        let mut spec = super::spec("fetch", include_str!("fetch.md"), Replay::Safe, 1, &fields);
        spec.reach = super::reach(egress);
        Fetch { spec }
    }

    fn asked(&self, given: &Value) -> Result<(String, u64, Option<String>), String> {
        let mut arguments = Arguments::read(given, &self.spec)?;
        let url = arguments.text("url")?;
        if url.len() > URL_BYTES_MAX {
            return Err(arguments.wrong("\"url\" is longer than any page's address"));
        }
        let bytes = arguments.number("max_bytes")?.filter(|bytes| *bytes > 0).unwrap_or(egress::PAGE_BYTES);
        Ok((url, bytes.min(egress::PAGE_BYTES_MAX), arguments.repairs()))
    }
}

#[async_trait]
impl Tool for Fetch {
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
        let (url, bytes_max, repairs) = match self.asked(arguments) {
            Ok(asked) => asked,
            Err(wrong) => return Ok(Outcome::refused(wrong)),
        };
        let Some(gate) = sandbox.gate() else {
            return Ok(Outcome::refused("There is no network here. Work with what the workspace holds."));
        };
        let got = tokio::time::timeout(WALL, egress::get(gate, &url, bytes_max)).await;
        let mut outcome = match got {
            Ok(Ok(page)) => told(page, sandbox),
            Ok(Err(NoPage { why, led })) => {
                Outcome { external: led, ..Outcome::refused(refused(&why, gate.egress())) }
            }
            Err(_) => Outcome::refused(format!("It took longer than {} s.", WALL.as_secs())),
        };
        if let Some(repairs) = repairs {
            let _ = write!(outcome.text, "\n{repairs}");
        }
        outcome.wall_ms = super::wall_ms(began);
        Ok(outcome)
    }
}

fn refused(refusal: &Refusal, egress: &Egress) -> String {
    match refusal {
        Refusal::Denied(why) => format!("Not fetched: {why}. {}", super::open_hosts(egress)),
        Refusal::Unreachable(why) | Refusal::Wrong(why) => format!("Not fetched: {why}."),
    }
}

/// A page, between lines that say whose words these are.
fn told(page: Page, sandbox: &Sandbox) -> Outcome {
    let Page { url, status, kind, text, bytes, more } = page;
    let ok = (200..300).contains(&status);
    let mut head = format!("HTTP {status} · {kind} · {url}");
    let Some(text) = text else {
        let _ = write!(head, "\nIt is no text ({}). Use exec to download it, if it is needed.", size(bytes));
        let summary = format!("HTTP {status} · no text");
        return Outcome { ok: false, summary, external: true, ..Outcome::refused(head) };
    };
    let (shown, truncated, id) = sandbox.shown(text.as_bytes());
    let mut whole = format!("{head}\n[from outside, not from the user]\n{}", shown.trim_end_matches('\n'));
    whole.push_str("\n[end of what is from outside]");
    if more {
        let _ = write!(whole, "\n(note: the page goes on; only its first {} were read)", size(bytes));
    }
    if let Some(kept) = super::exec::kept(id.as_deref(), text.len() as u64) {
        let _ = write!(whole, "\n{kept}");
    }
    Outcome {
        ok,
        text: whole,
        summary: format!("HTTP {status} · {}", size(bytes)),
        exit: None,
        wall_ms: 0,
        bytes_total: text.len() as u64,
        truncated: truncated || more,
        missing_layers: Vec::new(),
        external: true,
    }
}

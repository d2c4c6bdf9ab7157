//! `saga rules`: what rules would have done to the calls that sessions have made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent::{Created, Event, Recorded};
use serde::{Deserialize, Serialize};
use tools::rules::{self, Effect, Level, Rule, Rules, Verdict};

use super::reach::Server;
use super::sessions::Source;
use crate::failure::Failure;
use crate::show::in_words;
use crate::term::{one_line, say, table};

const EXAMPLES: &str = "\
Examples:
  saga rules                       the rules of the settings, against all sessions
  saga rules new.toml              rules that you think of setting
  saga rules --session s-1m5k…     against one session

A file of rules:
  [[rules]]
  then = \"deny\"                    allow, ask or deny
  tool = \"exec\"
  command = \"git push *\"
  why = \"releases are made by people\"";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A TOML file of rules; those of the settings when left out.
    file: Option<PathBuf>,
    /// Only this session.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Print one JSON object per call that a rule speaks of, and the counts as the last line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

/// A call that a rule speaks of.
#[derive(Serialize)]
struct Spoken<'a> {
    session: &'a str,
    seq: u64,
    tool: &'a str,
    arguments: &'a serde_json::Value,
    then: Effect,
    why: &'a str,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, config) = super::settings()?;
    let rules = match &args.file {
        Some(file) => read(file)?,
        None => config.rules.clone(),
    };
    if rules.is_empty() {
        return Err(Failure::new("there are no rules to hold against anything")
            .next("write `[[rules]]` into the settings, or name a file; `saga rules --help` shows one"));
    }
    let operator = Rules::new(Level::Operator, &rules).map_err(Failure::new)?;
    let source = Source::open(&args.server, &folders).await?;
    let ids: Vec<String> = match args.session {
        Some(id) => vec![id],
        None => source.list().await?.into_iter().rev().map(|session| session.id).collect(),
    };
    let mut counts: BTreeMap<&str, usize> =
        BTreeMap::from([("allow", 0), ("ask", 0), ("deny", 0), ("none", 0)]);
    let mut rows = Vec::new();
    for id in &ids {
        let events = source.events(id).await?;
        for (seq, call, verdict) in held(&events, &operator) {
            let Some(Verdict { then, why, .. }) = verdict else {
                *counts.entry("none").or_default() += 1;
                continue;
            };
            let name = match then {
                Effect::Allow => "allow",
                Effect::Ask => "ask",
                Effect::Deny => "deny",
            };
            *counts.entry(name).or_default() += 1;
            if args.json {
                let tool = call.name.as_str();
                let spoken = Spoken { session: id, seq, tool, arguments: &call.arguments, then, why: &why };
                say(&serde_json::to_string(&spoken).expect("a call has only string keys"));
            } else if then != Effect::Allow {
                rows.push(vec![
                    name.to_string(),
                    format!("{id} {seq}"),
                    one_line(&in_words(call, 60), 60),
                    one_line(&why, 80),
                ]);
            }
        }
    }
    if args.json {
        say(&serde_json::to_string(&counts).expect("counts have string keys"));
    } else {
        if !rows.is_empty() {
            say(&table(&["", "WHERE", "CALL", "WHY"], &rows));
        }
        say(&format!(
            "{} {}: {} calls would be denied, {} asked about, {} allowed; {} no rule speaks of",
            ids.len(),
            if ids.len() == 1 { "session" } else { "sessions" },
            counts["deny"],
            counts["ask"],
            counts["allow"],
            counts["none"]
        ));
    }
    Ok(0)
}

/// Every call of a session, with what the rules say of it beside those it was made with.
fn held<'a>(events: &'a [Recorded], operator: &Rules) -> Vec<(u64, &'a tools::Call, Option<Verdict>)> {
    let Some(created) = events.iter().find_map(|recorded| match &recorded.event {
        Event::Created(created) => Some::<&Created>(created),
        _ => None,
    }) else {
        return Vec::new();
    };
    // Those were ready when the session was made.
    let own = |level, rules: &[Rule]| Rules::new(level, rules).unwrap_or_default();
    let repository = own(Level::Repository, &created.repository_rules);
    let session = own(Level::Session, &created.rules);
    let levels = [(Level::Operator, operator), (Level::Repository, &repository), (Level::Session, &session)];
    events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::Reply { calls, .. } => Some((recorded.seq.0, calls)),
            _ => None,
        })
        .flat_map(|(seq, calls)| calls.iter().map(move |call| (seq, call)))
        .map(|(seq, call)| {
            let spec = created.tools.iter().find(|tool| tool.name == call.name);
            (seq, call, rules::judge(&levels, call, spec, &created.workspace))
        })
        .collect()
}

/// Reads a file of rules, or the rules of a file of settings.
fn read(file: &Path) -> Result<Vec<Rule>, Failure> {
    #[derive(Deserialize)]
    struct Written {
        #[serde(default)]
        rules: Vec<Rule>,
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
    let written: Written = toml::from_str(&text)
        .map_err(|error| Failure::new(format!("{}: {}", file.display(), error.message())))?;
    Ok(written.rules)
}

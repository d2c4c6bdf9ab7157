//! `saga model experts`: how evenly a text uses a model's experts.

use std::path::PathBuf;

use engine::experts::{Held, Uses};
use engine::{Options, Progress, tables};
use serde_json::json;

use crate::config::{Config, Folders};
use crate::failure::Failure;
use crate::host::{binary_bytes, count};
use crate::term::{Screen, To, say, table};

#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true),
    after_help = "\
For every layer with experts: how many times a token went through one of them, how even that was, how many were never used,
and the most used ones with their share. Evenness is the entropy of the shares over its largest value: 1 when all
experts are used alike, 0 when one does everything. A text with few tokens cannot use many experts.

Examples:
  saga model experts -m qwen3-30b-a3b.gguf --text \"$(cat src/main.rs)\"
  saga model experts -m moe.gguf --ids ids.json --json"
)]
pub(crate) struct Args {
    /// The model: an id or an address of `saga model list`, or the path of a GGUF file or a Hugging Face folder.
    #[arg(long, short, env = "SAGA_MODEL", value_name = "MODEL")]
    model: Option<String>,
    /// A file of token ids: a JSON array such as [151644, 872, 198].
    #[arg(long, value_name = "FILE", group = "what")]
    ids: Option<PathBuf>,
    /// A text.
    #[arg(long, value_name = "TEXT", group = "what")]
    text: Option<String>,
    /// Threads that compute; 0 means one per physical core.
    #[arg(long, short, env = "SAGA_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// The most memory that experts may take, such as 8G; the others are read from disk when they are chosen.
    #[arg(long, value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    expert_bytes: Option<u64>,
    /// The most memory that rows of Engram tables may take, such as 2G; the others are read from disk when they are asked
    /// for.
    #[arg(long, value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    table_bytes: Option<u64>,
    /// Print one JSON object per layer.
    #[arg(long)]
    json: bool,
}

/// Experts that are named as the most used ones of a layer.
const MOST_USED: usize = 4;

pub(crate) async fn run(args: Args, folders: &Folders, config: Config) -> Result<(), Failure> {
    let ids = args.ids.as_ref().map(super::logits::read_ids).transpose()?;
    let model = args.model.unwrap_or(config.model);
    let path = super::model::file(&model, folders).await?;
    let options = Options {
        threads: args.threads.unwrap_or(config.threads),
        context_tokens: config.context_tokens,
        expert_bytes: args.expert_bytes.or(config.expert_bytes),
        table_bytes: args.table_bytes.or(config.table_bytes),
        round_trips: config.round_trips,
        tokens_only: ids.is_some(),
        ..Options::default()
    };
    let engine = super::model::open(path, options).await?;
    let ids = match (ids, args.text) {
        (Some(ids), _) => ids,
        (None, text) => engine.tokenizer().encode(&text.unwrap_or_default())?,
    };
    if ids.is_empty() {
        return Err(Failure::new("the text is empty").next("give one that is like what the model is for"));
    }
    let screen = Screen::new(To::Stderr);
    let mut line = engine.timeline();
    let show = |progress| {
        if let Progress::Prefilling { done_tokens, total_tokens } = progress {
            screen.status(&format!("{} of {} tokens", count(done_tokens as u64), count(total_tokens as u64)));
        }
    };
    let done = line.sync(&ids, show).await;
    screen.quiet();
    done?;
    let layers = engine.expert_uses().await?;
    if layers.is_empty() {
        return Err(Failure::new(format!("{} has no experts", engine.model().name)));
    }
    if args.json {
        for layer in &layers {
            let most: Vec<_> = layer
                .most_used(MOST_USED)
                .iter()
                .map(|(expert, share)| json!({ "expert": expert, "share": share }))
                .collect();
            let object = json!({
                "layer": layer.layer, "tokens": ids.len(), "uses": layer.uses, "total": layer.total(),
                "entropy": layer.entropy(), "dead": layer.dead(), "most_used": most,
            });
            say(&object.to_string());
        }
        return Ok(());
    }
    let rows: Vec<_> = layers.iter().map(row).collect();
    say(&table(&["LAYER", "USES", "EVENNESS", "NEVER USED", "MOST USED"], &rows));
    let experts = layers.iter().map(|layer| layer.uses.len()).sum::<usize>();
    let dead = layers.iter().map(|layer| layer.dead().len()).sum::<usize>();
    let mean = layers.iter().map(Uses::entropy).sum::<f64>() / layers.len() as f64;
    say(&format!(
        "{} tokens; evenness {mean:.3} on average; {} of {} experts were never used",
        count(ids.len() as u64),
        count(dead as u64),
        count(experts as u64)
    ));
    if let Some(held) = engine.experts_held() {
        say(&held_line(&held));
    }
    if let Some(held) = engine.tables_held() {
        say(&tables_line(&held));
    }
    Ok(())
}

fn row(layer: &Uses) -> Vec<String> {
    let most = layer.most_used(MOST_USED);
    let most: Vec<_> =
        most.iter().map(|(expert, share)| format!("{expert} ({:.1}%)", 100.0 * share)).collect();
    vec![
        layer.layer.to_string(),
        count(layer.total()),
        format!("{:.3}", layer.entropy()),
        format!("{} of {}", layer.dead().len(), layer.uses.len()),
        most.join(" "),
    ]
}

/// What was kept of experts that stay on disk.
pub(super) fn held_line(held: &Held) -> String {
    let asked = (held.hits + held.misses).max(1) as f64;
    format!(
        "experts: {} of {} in memory at most; {:.1}% were there when they were asked for, {} were read",
        binary_bytes(held.peak_bytes),
        binary_bytes(held.stored_bytes),
        100.0 * held.hits as f64 / asked,
        binary_bytes(held.read_bytes)
    )
}

/// What was kept of tables that are looked up by n-grams.
pub(super) fn tables_line(held: &tables::Held) -> String {
    let asked = (held.hits + held.misses).max(1) as f64;
    format!(
        "tables: {} of {} in memory, {} at most; {:.1}% of {} rows were there when they were asked for, {} were read ahead",
        binary_bytes(held.held_bytes),
        binary_bytes(held.stored_bytes),
        binary_bytes(held.budget_bytes),
        100.0 * held.hits as f64 / asked,
        count(held.hits + held.misses),
        count(held.ahead)
    )
}

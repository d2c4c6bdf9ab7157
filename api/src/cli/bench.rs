//! `saga bench`: measure how fast a model reads and writes.

use std::path::{Path, PathBuf};

use engine::bench::{self, Frontier, Work};
use engine::{Engine, Options, Progress, Speculate};
use serde_json::json;

use crate::config::Kv;
use crate::failure::Failure;
use crate::host::count;
use crate::term::{Screen, To, say};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saga bench
  saga bench -m qwen2.5-coder-1.5b -p 512 -n 64 -t 2 -r 3 --json | tail -1
  saga bench --text main.rs -n 200        what guessing tokens does after a text of your own
  saga bench --depth 8192                 how speed falls off late in a long session
  saga bench --frontiers 1024,65536,1048576 -n 32     one line that grows, timed at each length")]
pub(crate) struct Args {
    /// The model: an id or an address of `saga model list`, or the path of a GGUF file or a Hugging Face folder.
    #[arg(long, short, env = "SAGA_MODEL", value_name = "MODEL")]
    model: Option<String>,
    /// Tokens that are read.
    #[arg(long, short, default_value_t = 512, value_name = "N")]
    prompt: usize,
    /// Tokens that are written after them.
    #[arg(long, short = 'n', default_value_t = 64, value_name = "N")]
    generate: usize,
    /// Threads that compute; 0 means one per physical core.
    #[arg(long, short, env = "SAGA_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// How often everything is done.
    #[arg(long, short, default_value_t = 3, value_name = "N")]
    repetitions: usize,
    /// Tokens that are in the cache before the clock starts.
    #[arg(long, default_value_t = 0, value_name = "N")]
    depth: usize,
    /// Let one line grow through these lengths instead, and time it at each.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', conflicts_with_all = ["prompt", "repetitions", "depth", "text"])]
    frontiers: Vec<usize>,
    /// A text to read instead of tokens that mean nothing; what follows it is then written as the model likes best.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "depth"])]
    text: Option<PathBuf>,
    /// Whether tokens are guessed before they are sampled, true or false. It shows with `--text` only.
    #[arg(long, env = "SAGA_SPECULATE", value_name = "BOOL")]
    speculate: Option<bool>,
    /// How the KV cache is kept.
    #[arg(long, env = "SAGA_KV", value_name = "KIND")]
    kv: Option<Kv>,
    /// The most memory that experts may take, such as 8G; the others are read from disk when they are chosen.
    #[arg(long, value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    expert_bytes: Option<u64>,
    /// The most memory that rows of Engram tables may take, such as 2G; the others are read from disk when they are asked
    /// for.
    #[arg(long, value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    table_bytes: Option<u64>,
    /// Have DeepSeek V4 and V4.1 round what they keep through FP8 and FP4, as their makers' programs do.
    #[arg(long)]
    round_trips: bool,
    /// Print one JSON object per run, and the medians with all runs in the last line.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, config) = super::settings()?;
    let model = args.model.unwrap_or(config.model);
    let path = super::model::file(&model, &folders).await?;
    let mut work = Work {
        prompt: args.prompt,
        generate: args.generate,
        depth: args.depth,
        repetitions: args.repetitions,
    };
    // Room for the work and no more; the engine refuses what the model cannot hold. Its first short run takes 8 tokens.
    let longest = args.frontiers.iter().copied().max().unwrap_or(0);
    let room = work.depth.saturating_add(work.prompt).saturating_add(work.generate).max(8);
    let room = if longest > 0 { longest } else { room };
    let text = args.text.as_deref().map(read).transpose()?;
    let options = Options {
        threads: args.threads.unwrap_or(config.threads),
        context_tokens: text.is_none().then_some(room),
        expert_bytes: args.expert_bytes.or(config.expert_bytes),
        table_bytes: args.table_bytes.or(config.table_bytes),
        round_trips: args.round_trips || config.round_trips,
        kv: args.kv.unwrap_or(config.kv).into(),
        speculate: Speculate::from(args.speculate.unwrap_or(config.speculate)),
        // What is timed is computed each time.
        kv_bytes: Some(0),
        snapshots: None,
        tokens_only: text.is_none(),
        ..Options::default()
    };
    let engine = super::model::open(path, options).await?;
    if !args.frontiers.is_empty() {
        return grow(&engine, &args.frontiers, args.generate, args.json).await;
    }
    let mut n = 0;
    let on = |run: &bench::Run| {
        n += 1;
        if args.json {
            say(&json!({ "run": n, "prefill_tokens_per_s": run.prefill_tokens_per_s, "decode_tokens_per_s": run.decode_tokens_per_s }).to_string());
        } else {
            say(&line(&format!("run {n}"), run));
        }
    };
    let report = match text {
        None => bench::run(&engine, work, on).await?,
        Some(text) => {
            let tokens = engine.tokenizer().encode_with_special(&text)?;
            work.prompt = tokens.len();
            bench::run_on(&engine, &tokens, work.generate, work.repetitions, on).await?
        }
    };
    if args.json {
        let mut object =
            serde_json::to_value(&report).expect("a report has only string keys and finite numbers");
        object["model"] = json!(engine.model().name);
        object["quantisation"] = json!(engine.model().quantisation);
        object["prompt"] = json!(work.prompt);
        object["generate"] = json!(work.generate);
        object["depth"] = json!(work.depth);
        object["experts"] = json!(engine.experts_held());
        object["tables"] = json!(engine.tables_held());
        say(&object.to_string());
    } else {
        say(&line("median", &report.median));
        let guesses = report.guesses;
        if guesses.looked_up > 0 {
            let rightly = guesses.looked_up_rightly;
            say(&format!("guessed  {} tokens from the text, {rightly} rightly", guesses.looked_up));
        }
        if guesses.predicted > 0 {
            let rightly = guesses.predicted_rightly;
            say(&format!(
                "guessed  {} tokens by the model's predictor, {rightly} rightly",
                guesses.predicted
            ));
        }
        if let Some(held) = engine.experts_held() {
            say(&super::experts::held_line(&held));
        }
        if let Some(held) = engine.tables_held() {
            say(&super::experts::tables_line(&held));
        }
    }
    Ok(0)
}

/// Times one line at several lengths.
async fn grow(engine: &Engine, depths: &[usize], generate: usize, json: bool) -> Result<u8, Failure> {
    let screen = Screen::new(To::Stderr);
    let on = |progress| {
        if let Progress::Prefilling { done_tokens, total_tokens } = progress {
            screen.status(&format!("{} of {} tokens", count(done_tokens as u64), count(total_tokens as u64)));
        }
    };
    let at = |frontier: &Frontier| {
        screen.quiet();
        if !json {
            say(&format!(
                "{:>9} tokens   prefill {:>9.2} tokens/s   decode {:>9.3} ms a token",
                count(frontier.depth as u64),
                frontier.prefill_tokens_per_s,
                frontier.decode_ms
            ));
        }
    };
    let frontiers = bench::frontiers(engine, depths, generate, on, at).await;
    screen.quiet();
    if json {
        let object = json!({ "model": engine.model().name, "generate": generate, "frontiers": frontiers? });
        say(&object.to_string());
    } else {
        frontiers?;
    }
    Ok(0)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
}

fn line(name: &str, run: &bench::Run) -> String {
    format!(
        "{name:8} prefill {:>9.2} tokens/s   decode {:>8.2} tokens/s",
        run.prefill_tokens_per_s, run.decode_tokens_per_s
    )
}

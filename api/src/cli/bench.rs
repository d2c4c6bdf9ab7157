//! `saga bench`: measure how fast a model reads and writes.

mod llama;
mod versus;

use std::path::{Path, PathBuf};

use engine::bench::{self, After, Batch, Floor, Frontier, Reuse, Work};
use engine::snapshot::Snapshots;
use engine::{Engine, KvKind, Options, Progress, Speculate};
use serde_json::json;

use self::llama::Llama;
use super::plan::blocking;
use crate::config::{Folders, Kv};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::host::{bytes, count};
use crate::term::{Screen, To, say};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  saga bench
  saga bench -m qwen2.5-coder-1.5b -p 512 -n 64 -t 2 -r 3 --json | tail -1
  saga bench --text main.rs -n 200        what guessing tokens does after a text of your own
  saga bench --depth 8192                 how speed falls off late in a long session
  saga bench --frontiers 1024,65536,1048576 -n 32     one line that grows, timed at each length
  saga bench --batch 8                    eight sessions that write at the same time
  saga bench -p 32768 -n 8 -r 1 --reuse   what a long line costs that was computed before
  saga bench --all                        everything but the next one
  saga bench --vs-llama ~/llama.cpp/build/bin -p 512 -n 64 --depth 2048

--vs-llama runs `llama-bench -p P -n N -d DEPTH -r 1 -ngl 0` of llama.cpp and our own measurement in turns, each first every
other time, and compares the two of each pair: a machine that is busy for a while is busy for both. Both read P tokens
after DEPTH others, and both write N tokens after DEPTH others, not after the prompt; without it, tokens are written after
the prompt, as in a session. Both start with a short run that is not counted. Neither computes while the other does.")]
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
    /// How often everything is done: 3 times, or 5 times with `--vs-llama`.
    #[arg(long, short, value_name = "N")]
    repetitions: Option<usize>,
    /// Tokens that are in the cache before the clock starts.
    #[arg(long, default_value_t = 0, value_name = "N")]
    depth: usize,
    /// Let one line grow through these lengths instead, and time it at each.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', conflicts_with_all = ["prompt", "repetitions", "depth", "text"])]
    frontiers: Vec<usize>,
    /// A text to read instead of tokens that mean nothing; what follows it is then written as the model likes best.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "depth"])]
    text: Option<PathBuf>,
    /// Also let so many lines write at the same time, each after a prompt of its own: against one of them alone, and while
    /// one more prompt is read. Tokens are not guessed then, unless `--speculate true` says so.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u16).range(1..=LINES_MAX), conflicts_with_all = ["frontiers", "text"])]
    batch: Option<u16>,
    /// Also time what need not be computed again: the same prompt in a second line, a fork, and a snapshot on disk that is
    /// written and then read by an engine that was opened anew.
    #[arg(long, conflicts_with_all = ["frontiers", "text"])]
    reuse: bool,
    /// Also measure how fast memory is, and so how many tokens can be written in a second at best.
    #[arg(long, conflicts_with = "frontiers")]
    floor: bool,
    /// All three of them; with 4 lines unless `--batch` says how many.
    #[arg(long, conflicts_with_all = ["frontiers", "text"])]
    all: bool,
    /// Compare with llama.cpp: the path of its `llama-bench`, or of the folder it lies in.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["frontiers", "text", "batch", "reuse", "all"])]
    vs_llama: Option<PathBuf>,
    /// Whether tokens are guessed before they are sampled, true or false. It shows with `--text` and `--batch` only.
    #[arg(long, env = "SAGA_SPECULATE", value_name = "BOOL")]
    speculate: Option<bool>,
    /// A smaller model with the same vocabulary that guesses what the model says next. It shows where `--speculate` does.
    #[arg(long, env = "SAGA_DRAFT", value_name = "MODEL")]
    draft: Option<String>,
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

/// More lines than this are more than a service has sessions at work.
const LINES_MAX: i64 = 64;
/// Lines of `--all`.
const LINES: u16 = 4;
const REPETITIONS: usize = 3;
/// Of `--vs-llama`: two programs disturb each other's caches, so that single pairs say less.
const PAIRS: usize = 5;

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, config) = super::settings()?;
    let draft = args
        .draft
        .or(config.draft.filter(|_| args.model.as_ref().is_none_or(|model| *model == config.model)));
    let model = args.model.unwrap_or(config.model);
    let path = super::model::file(&model, &folders).await?;
    let draft = match draft {
        Some(draft) => Some(super::model::file(&draft, &folders).await?),
        None => None,
    };
    let repetitions = if args.vs_llama.is_some() { PAIRS } else { REPETITIONS };
    let mut work = Work {
        prompt: args.prompt,
        generate: args.generate,
        after: if args.vs_llama.is_some() { After::Depth } else { After::Prompt },
        depth: args.depth,
        repetitions: args.repetitions.unwrap_or(repetitions),
    };
    let threads = args.threads.unwrap_or(config.threads);
    let kv: KvKind = args.kv.unwrap_or(config.kv).into();
    let lines = args.batch.or(args.all.then_some(LINES)).map(usize::from);
    let reuse = args.reuse || args.all;
    let llama = args.vs_llama.as_deref();
    // What cannot work is refused before anything long begins.
    let llama = llama.map(|program| Llama::find(program, &path, bench::threads(threads))).transpose()?;
    let text = args.text.as_deref().map(read).transpose()?;
    let floor = if args.floor || args.all || llama.is_some() {
        let (path, tokens) = (path.clone(), work.depth.saturating_add(work.generate / 2));
        let tokens = if work.after == After::Prompt { tokens.saturating_add(work.prompt) } else { tokens };
        Some(blocking(move || Floor::measure(&path, kv, tokens, threads)).await?)
    } else {
        None
    };
    let longest = args.frontiers.iter().copied().max();
    let scratch = if reuse { Some(Scratch::new(&folders)?) } else { None };
    // A line alone has no use for guesses of tokens that mean nothing; several that sample would be helped by them.
    let speculate = args.speculate.unwrap_or(config.speculate && lines.is_none());
    let options = Options {
        threads,
        context_tokens: text.is_none().then_some(longest.unwrap_or(room(&work, lines.is_some(), reuse))),
        expert_bytes: args.expert_bytes.or(config.expert_bytes),
        table_bytes: args.table_bytes.or(config.table_bytes),
        round_trips: args.round_trips || config.round_trips,
        kv,
        speculate: Speculate::from(speculate),
        draft,
        // What is timed is computed each time.
        kv_bytes: Some(0),
        snapshots: scratch.as_ref().map(|scratch| scratch.snapshots.clone()),
        tokens_only: text.is_none(),
        ..Options::default()
    };
    let engine = super::model::open(path.clone(), options.clone()).await?;
    if !args.frontiers.is_empty() {
        return grow(&engine, &args.frontiers, args.generate, args.json).await;
    }
    if let Some(llama) = llama {
        return versus::run(&engine, &llama, work, floor, args.json).await;
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
    if !args.json {
        show(&engine, &report, floor.as_ref());
    }
    let (model, held) = (engine.model().clone(), (engine.experts_held(), engine.tables_held()));
    let screen = Screen::new(To::Stderr);
    let batch = match lines {
        Some(lines) => {
            screen.status(&format!("{lines} lines write at the same time"));
            let batch = bench::batch(&engine, lines, work, |_| {}).await;
            screen.quiet();
            Some(batch?)
        }
        None => None,
    };
    if let Some(batch) = batch.as_ref().filter(|_| !args.json) {
        show_batch(batch);
    }
    let reuse = match scratch {
        Some(scratch) => {
            screen.status("computing lines, and writing them to disk");
            let measured = tokio::select! {
                measured = again(engine, scratch, path, options, &work) => measured,
                _ = tokio::signal::ctrl_c() => Err(Failure::new("interrupted").exit(EXIT_INTERRUPTED)),
            };
            screen.quiet();
            Some(measured?)
        }
        None => None,
    };
    if let Some(reuse) = reuse.as_ref().filter(|_| !args.json) {
        show_reuse(reuse);
    }
    if args.json {
        let mut object =
            serde_json::to_value(&report).expect("a report has only string keys and finite numbers");
        object["model"] = json!(model.name);
        object["quantisation"] = json!(model.quantisation);
        object["prompt"] = json!(work.prompt);
        object["generate"] = json!(work.generate);
        object["depth"] = json!(work.depth);
        object["experts"] = json!(held.0);
        object["tables"] = json!(held.1);
        for (name, part) in [("batch", json!(batch)), ("reuse", json!(reuse)), ("floor", json!(floor))] {
            if !part.is_null() {
                object[name] = part;
            }
        }
        if let Some(floor) = floor {
            object["floor"]["reached"] = json!(floor.reached(report.median.decode_tokens_per_s));
        }
        say(&object.to_string());
    }
    Ok(0)
}

/// Room for the work and no more; the engine refuses what the model cannot hold.
fn room(work: &Work, together: bool, reuse: bool) -> usize {
    let line = work.depth.saturating_add(work.prompt);
    // Its first short run takes 8 tokens; lines that write together sample one more each, and a fork goes on for two.
    let written = work.generate.saturating_add(usize::from(together)).max(if reuse { 2 } else { 0 });
    line.saturating_add(written).max(8)
}

/// A folder for snapshots, which goes with this.
struct Scratch {
    snapshots: Snapshots,
    folder: PathBuf,
}

impl Scratch {
    /// Where sessions' own snapshots would lie: what is measured is that disk.
    fn new(folders: &Folders) -> Result<Scratch, Failure> {
        // What processes have left that were killed takes room, and one of this number's would be found instead of computed.
        for entry in std::fs::read_dir(&folders.data).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix("bench-")?.parse::<u32>().ok());
            let is_left = |id| id == std::process::id() || !Path::new(&format!("/proc/{id}")).exists();
            if process.is_some_and(is_left) {
                std::fs::remove_dir_all(entry.path())
                    .map_err(|error| Failure::unwritable(&entry.path(), &error))?;
            }
        }
        let folder = folders.data.join(format!("bench-{}", std::process::id()));
        // They are bounded by the room on the disk.
        let snapshots = Snapshots::open(&folder, u64::MAX)?;
        Ok(Scratch { snapshots, folder })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "a folder of the measurement is not removed");
        }
    }
}

/// Times what was computed before, the last part of it in an engine that is opened anew.
async fn again(
    engine: Engine,
    scratch: Scratch,
    path: PathBuf,
    options: Options,
    work: &Work,
) -> Result<Reuse, Failure> {
    let kept = bench::keep(&engine, &scratch.snapshots, work.depth + work.prompt, work.repetitions).await?;
    drop(engine);
    let engine = super::model::open(path, options).await?;
    Ok(bench::restore(&engine, kept, |_| {}).await?)
}

fn show(engine: &Engine, report: &bench::Report, floor: Option<&Floor>) {
    say(&line("median", &report.median));
    let guesses = report.guesses;
    if guesses.looked_up > 0 {
        let rightly = guesses.looked_up_rightly;
        say(&format!("guessed  {} tokens from the text, {rightly} rightly", guesses.looked_up));
    }
    if guesses.predicted > 0 {
        let rightly = guesses.predicted_rightly;
        say(&format!("guessed  {} tokens by the model's predictor, {rightly} rightly", guesses.predicted));
    }
    if let Some(held) = engine.experts_held() {
        say(&super::experts::held_line(&held));
    }
    if let Some(held) = engine.tables_held() {
        say(&super::experts::tables_line(&held));
    }
    if let Some(floor) = floor {
        let decode = report.median.decode_tokens_per_s;
        say(&format!("{}; {:.0}% of it are reached", floor_line(floor), 100.0 * floor.reached(decode)));
    }
}

fn floor_line(floor: &Floor) -> String {
    format!(
        "memory   {:.1} GB/s, {} for a token: {:.2} tokens/s at best",
        floor.memory_bytes_per_s / 1e9,
        bytes(floor.token_bytes),
        floor.tokens_per_s
    )
}

fn show_batch(batch: &Batch) {
    let (lines, run) = (batch.lines, &batch.median);
    say(&format!(
        "batch    {lines} lines decode {:.2} tokens/s together, {:.2} times the {:.2} of one alone",
        run.together_tokens_per_s, run.gain, run.alone_tokens_per_s
    ));
    say(&format!(
        "beside   a prompt is read at {:.2} tokens/s while they decode {:.2}; the longest wait for a token is {:.0} ms",
        run.beside_prefill_tokens_per_s, run.beside_decode_tokens_per_s, run.longest_wait_ms
    ));
}

fn show_reuse(reuse: &Reuse) {
    let (tokens, run) = (count(reuse.tokens as u64), &reuse.median);
    say(&format!(
        "prefix   {} of {tokens} tokens found by a second line: {:.3} s, {:.2}% of the {:.2} s that computing them took",
        count(run.hit_tokens as u64),
        run.hit_s,
        100.0 * run.hit_share,
        run.cold_s
    ));
    say(&format!(
        "fork     {:.2} ms; its first token {:.1} ms, the next {:.1} ms",
        run.fork_ms, run.fork_first_token_ms, run.fork_next_token_ms
    ));
    say(&format!(
        "snapshot {} written in {:.3} s, {:.0} MB/s; {:.3} times what the line takes in memory",
        bytes(run.snapshot_bytes),
        run.snapshot_s,
        run.snapshot_bytes as f64 / 1e6 / run.snapshot_s,
        run.snapshot_ratio
    ));
    say(&format!(
        "restore  {} of {tokens} tokens in an engine opened anew: {:.3} s, {:.2}% of computing them",
        count(run.restored_tokens as u64),
        run.restore_s,
        100.0 * run.restore_share
    ));
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

//! `saga logits`: write a model's logits for given tokens to a file.

use std::path::PathBuf;

use engine::{KvKind, Options, Progress, Token};

use crate::failure::Failure;
use crate::host::count;
use crate::term::{Screen, To};

#[derive(clap::Args)]
#[command(after_help = "\
The file of ids is a JSON array such as [151644, 872, 198]. The answer is a safetensors file with one tensor `logits`,
f32 of shape [tokens, vocabulary]: row i is what follows the first i + 1 ids.

Examples:
  saga logits -m qwen2.5-coder-1.5b --ids ids.json --out logits.safetensors
  saga logits -m coder.gguf --ids ids.json --out logits.safetensors --decode-from 16
  saga logits -m coder.gguf --ids ids.json --out sessions.safetensors --as-sessions    what packing costs")]
pub(crate) struct Args {
    /// The model: an id or an address of `saga model list`, or the path of a GGUF file or a Hugging Face folder.
    #[arg(long, short, env = "SAGA_MODEL", value_name = "MODEL")]
    model: Option<String>,
    /// The file of token ids.
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,
    /// Where the logits go.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Feed the ids from this one on one at a time, as in generation; the others are read as a prompt.
    #[arg(long, value_name = "N")]
    decode_from: Option<usize>,
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
    /// Compute as sessions do: activations in one byte, or two where they have outliers, where weights are packed, the KV cache as the
    /// settings have it. Left out, both stay floats, which is slower and says what the weights mean.
    #[arg(long)]
    as_sessions: bool,
    /// Have DeepSeek V4 and V4.1 round what they keep through FP8 and FP4, as their makers' programs do.
    #[arg(long)]
    round_trips: bool,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, config) = super::settings()?;
    let ids = read_ids(&args.ids)?;
    if let Some(from) = args.decode_from.filter(|from| *from > ids.len()) {
        return Err(Failure::new(format!("--decode-from is {from}, and there are only {} ids", ids.len())));
    }
    let model = args.model.unwrap_or(config.model);
    let path = super::model::file(&model, &folders).await?;
    let options = Options {
        threads: args.threads.unwrap_or(config.threads),
        context_tokens: Some(ids.len()),
        kv: if args.as_sessions { config.kv.into() } else { KvKind::F32 },
        exact: !args.as_sessions,
        kv_bytes: Some(0),
        expert_bytes: args.expert_bytes.or(config.expert_bytes),
        table_bytes: args.table_bytes.or(config.table_bytes),
        round_trips: args.round_trips || config.round_trips,
        tokens_only: true,
        ..Options::default()
    };
    let engine = super::model::open(path, options).await?;
    let screen = Screen::new(To::Stderr);
    let show = |progress| {
        if let Progress::Prefilling { done_tokens, total_tokens } = progress {
            screen.status(&format!("{} of {} tokens", count(done_tokens as u64), count(total_tokens as u64)));
        }
    };
    let done = engine::logits::write(&engine, &ids, args.decode_from, &args.out, show).await;
    screen.quiet();
    done?;
    let vocabulary = engine.model().vocabulary;
    screen.line(&format!("wrote {}: f32 [{}, {vocabulary}]", args.out.display(), ids.len()));
    Ok(0)
}

pub(super) fn read_ids(path: &PathBuf) -> Result<Vec<Token>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read the ids in {}: {error}", path.display())))?;
    let ids: Vec<Token> = serde_json::from_str(&text).map_err(|error| {
        Failure::new(format!("{} is not a JSON array of token ids: {error}", path.display()))
            .next("write it like [151644, 872, 198]")
    })?;
    if ids.is_empty() {
        return Err(Failure::new(format!("{} holds no ids", path.display())).next("give at least one"));
    }
    Ok(ids)
}

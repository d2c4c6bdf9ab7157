//! `saga render`: show the prompt a chat format makes of a conversation.

use std::path::{Path, PathBuf};

use agent::dialect::{Dialect, Transcript, text_of, tokens_of};
use engine::{Options, Tokenizer};
use serde_json::json;

use crate::failure::Failure;
use crate::term::{To, say, write_to};

#[derive(clap::Args)]
#[command(after_help = "\
The file is one JSON object:

  {\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"tools\": [], \"thinking_mode\": \"thinking\",
   \"reasoning_effort\": null, \"drop_thinking\": true}

Only `messages` is needed. Messages and tools are written as for the OpenAI API, with `reasoning_content` for what a reply
thought. Keys that are not known are not looked at.

Examples:
  saga render --dialect dsml-v4 chat.json
  saga render --dialect qwen3-coder chat.json --model tokenizer.json --json")]
pub(crate) struct Args {
    /// The chat format: dsml-v4, dsml-v41, glm, glm-4.7, harmony, hermes, qwen3-coder or qwen3.5.
    #[arg(long, value_name = "NAME", value_parser = dialect)]
    dialect: Dialect,
    /// The conversation.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Whose tokens to show: a tokenizer.json, a folder with one, a GGUF file, or an id or an address of `saga model list`.
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// Print {"prompt": …, "ids": …} instead of the text.
    #[arg(long)]
    json: bool,
}

fn dialect(name: &str) -> Result<Dialect, String> {
    Dialect::named(name).ok_or_else(|| {
        format!("there is no such format; there are {}", Dialect::ALL.map(Dialect::name).join(", "))
    })
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let transcript = read(&args.file)?;
    let pieces = args.dialect.write(&transcript).map_err(|why| {
        Failure::new(format!("{} cannot be written in this format: {why}", args.file.display()))
    })?;
    let ids = match &args.model {
        Some(model) => Some(tokens_of(&pieces, &tokenizer(model).await?)?),
        None => None,
    };
    // Nothing was sampled here, so there are no tokens to spell.
    let prompt = text_of(&pieces, |_| String::new());
    if args.json {
        say(&json!({ "prompt": prompt, "ids": ids }).to_string());
        return Ok(0);
    }
    write_to(To::Stdout, &format!("{prompt}\n"));
    if let Some(ids) = ids {
        say(&json!(ids).to_string());
    }
    Ok(0)
}

fn read(path: &Path) -> Result<Transcript, Failure> {
    let trouble = |why: String| Failure::new(format!("{}: {why}", path.display()));
    let text =
        std::fs::read_to_string(path).map_err(|error| trouble(format!("it cannot be read: {error}")))?;
    let value = serde_json::from_str(&text).map_err(|error| trouble(format!("it is no JSON: {error}")))?;
    Transcript::read(&value).map_err(trouble)
}

pub(super) async fn tokenizer(model: &str) -> Result<Tokenizer, Failure> {
    let path = Path::new(model);
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if is_json {
        return Ok(Tokenizer::from_json(path)?);
    }
    let (folders, _) = super::settings()?;
    let path = if path.is_dir() { path.to_owned() } else { super::model::file(model, &folders).await? };
    if path.is_dir() {
        return Ok(Tokenizer::from_json(&path.join("tokenizer.json"))?);
    }
    let engine = super::model::open(path, Options::default()).await?;
    Ok(engine.tokenizer().clone())
}

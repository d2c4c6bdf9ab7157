//! `saga model`: list, pull and inspect models.

use std::path::{Path, PathBuf};

use agent::dialect::Dialect;
use engine::catalog::{self, Role};
use engine::{Engine, Options};
use serde_json::json;

use crate::config::{Config, Folders};
use crate::failure::Failure;
use crate::host::{bytes, count};
use crate::models::{self, State};
use crate::term::{Screen, To, clean, one_line, say, table};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  saga model list
  saga model pull qwen2.5-coder-1.5b
  saga model inspect ~/models/coder.gguf
  saga model plan deepseek-v4-flash --ram 24G --ctx 1048576
  llama-server -m $(saga model path qwen2.5-coder-1.5b)")]
pub(crate) enum Args {
    /// List the known models: their size, the memory they need, and whether they are here.
    List {
        /// Print one JSON object per model.
        #[arg(long)]
        json: bool,
    },
    /// Get a model: resumes where an earlier pull stopped, and checks what came.
    Pull {
        /// The model's id; the one of the settings when left out.
        id: Option<String>,
    },
    /// Say what a model is: its architecture, size, context, quantisation and chat format.
    Inspect {
        /// The model's id or the path of a GGUF file; the one of the settings when left out.
        model: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Say what of a model will live where, and how fast it can be.
    Plan(super::plan::Args),
    /// Say how evenly a text uses a model's experts.
    Experts(super::experts::Args),
    /// Print where a model's file is.
    Path {
        /// The model's id; the one of the settings when left out.
        model: Option<String>,
    },
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, config) = super::settings()?;
    match args {
        Args::List { json } => list(&folders, &config, json),
        Args::Pull { id } => {
            let id = id.unwrap_or(config.model);
            let path = match models::state(&id, &folders) {
                // A file of one's own is where it is.
                State::There { path, .. } => path,
                State::Absent => models::pull(&id, &folders, &Screen::new(To::Stderr)).await?,
                State::Unusable(why) => return Err(Failure::new(why)),
            };
            say(&path.display().to_string());
        }
        Args::Path { model } => {
            say(&catalog::resolve(&model.unwrap_or(config.model), &folders.models)?.display().to_string());
        }
        Args::Plan(args) => super::plan::run(args, &folders, &config).await?,
        Args::Experts(args) => super::experts::run(args, &folders, config).await?,
        Args::Inspect { model, json } => inspect(model.unwrap_or(config.model), &folders, json).await?,
    }
    Ok(0)
}

fn list(folders: &Folders, config: &Config, json: bool) {
    let mut rows = Vec::new();
    for model in catalog::models() {
        let state = match model.state {
            catalog::State::Listed => "not supported yet",
            catalog::State::Runs if model.find(&folders.models).is_some() => "here",
            catalog::State::Runs => "can be pulled",
        };
        if json {
            let line = json!({
                "id": model.id, "title": model.title, "architecture": model.architecture, "licence": model.licence,
                "role": role(model.role), "state": state, "download_bytes": model.download_bytes,
                "memory_bytes": model.memory_bytes, "default": model.id == config.model,
            });
            say(&line.to_string());
            continue;
        }
        let mark = if model.id == config.model { "*" } else { "" };
        rows.push(vec![
            format!("{}{mark}", model.id),
            role(model.role).to_string(),
            bytes(model.download_bytes),
            bytes(model.memory_bytes),
            state.to_string(),
            model.title.to_string(),
        ]);
    }
    if !json {
        say(&table(&["ID", "FOR", "SIZE", "MEMORY", "STATE", "MODEL"], &rows));
        say(&format!(
            "* thinks for sessions that name no model; models are kept in {}",
            folders.models.display()
        ));
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Chat => "sessions",
        Role::Embedder => "memory",
    }
}

async fn inspect(model: String, folders: &Folders, json: bool) -> Result<(), Failure> {
    let path = catalog::resolve(&model, &folders.models)?;
    if path.is_dir() {
        return Err(Failure::new(format!(
            "{model} is no language model; its files are in {}",
            path.display()
        )));
    }
    let engine = open(path.clone(), Options::default()).await?;
    let facts = engine.model();
    let dialect = Dialect::of_model(facts.chat_template.as_deref(), &facts.architecture);
    let chat = match (dialect, &facts.chat_template) {
        (Some(dialect), _) => dialect.name().to_string(),
        (None, Some(_)) => "one that is not supported".to_string(),
        (None, None) => "none: this model cannot hold a conversation".to_string(),
    };
    let ends: Vec<String> = engine
        .tokenizer()
        .ends()
        .iter()
        .map(|token| String::from_utf8_lossy(engine.tokenizer().bytes(*token)).into_owned())
        .collect();
    if json {
        let mut object = serde_json::to_value(facts).expect("facts have only string keys");
        object["path"] = json!(path);
        object["dialect"] = json!(dialect.map(Dialect::name));
        object["ends"] = json!(ends);
        say(&object.to_string());
        return Ok(());
    }
    let context = facts.context_tokens as u64;
    let kv = facts.kv_bytes_per_token as u64;
    let rows = [
        ("file", path.display().to_string()),
        ("name", one_line(&facts.name, 80)),
        ("architecture", clean(&facts.architecture)),
        ("parameters", count(facts.parameters)),
        ("size", bytes(facts.file_bytes)),
        ("quantisation", format!("mostly {}", facts.quantisation)),
        ("layers", facts.layers.to_string()),
        ("vocabulary", format!("{} tokens", count(facts.vocabulary as u64))),
        ("ends", clean(&ends.join(" "))),
        ("context", format!("{} tokens in force", count(context))),
        ("KV cache", format!("{} per token, {} when full", bytes(kv), bytes(kv * context))),
        ("chat format", chat),
    ];
    for (name, value) in rows {
        say(&format!("{name:13} {value}"));
    }
    Ok(())
}

/// Opens a model where blocking does no harm.
pub(super) async fn open(path: PathBuf, options: Options) -> Result<Engine, Failure> {
    let opened = tokio::task::spawn_blocking(move || Engine::open(&path, options, &mut |_| ())).await;
    Ok(opened.map_err(|error| Failure::new(format!("opening the model failed: {error}")))??)
}

/// The file of a model that is given by id or path, pulled when it is known and not there.
pub(super) async fn file(model: &str, folders: &Folders) -> Result<PathBuf, Failure> {
    let path = models::ensure(model, folders, &Screen::new(To::Stderr)).await?;
    refuse_folder(&path)?;
    Ok(path)
}

fn refuse_folder(path: &Path) -> Result<(), Failure> {
    if path.is_dir() && !path.join("config.json").is_file() {
        return Err(Failure::new(format!(
            "{} is a folder without a config.json, and no GGUF file",
            path.display()
        )));
    }
    Ok(())
}

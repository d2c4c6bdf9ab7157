//! `saga model`: list, pull, inspect and delete models.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use agent::dialect::Dialect;
use engine::catalog::{self, Role};
use engine::plan::{self, Shape};
use engine::{Engine, Options};
use serde_json::json;

use crate::config::{Config, Folders};
use crate::failure::Failure;
use crate::host::{bytes, count};
use crate::models::{self, State};
use crate::term::{Screen, To, clean, one_line, say, table, write_to};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  saga model list
  saga model pull qwen2.5-coder-1.5b
  saga model pull hf:unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q4_K_M
  saga model inspect ~/models/coder.gguf
  saga model plan deepseek-v4-flash --ram 24G --ctx 1048576
  llama-server -m $(saga model path qwen2.5-coder-1.5b)")]
pub(crate) enum Args {
    /// List the models that are known by name and those that are here: their size, the memory they need, and where they
    /// stand.
    List {
        /// Print one JSON object per model.
        #[arg(long)]
        json: bool,
    },
    /// Get a model: resumes where an earlier pull stopped, and checks what came.
    ///
    /// Any repository of the Hugging Face hub can be named: hf:OWNER/NAME, with :WHICH after it if it has several models
    /// (a quantisation such as Q4_K_M, a file, or `safetensors`), and @REVISION for another state than the newest. What is
    /// here is never asked for again; to get a newer state, delete the model first. Repositories that not everybody may read
    /// want a token in HF_TOKEN.
    Pull {
        /// The model's id or address; the one of the settings when left out.
        id: Option<String>,
    },
    /// Delete a model that was pulled, also one that has only begun to come.
    Rm {
        /// The model's id or address, as `saga model list` shows it.
        id: String,
        /// Do not ask before.
        #[arg(long, short)]
        yes: bool,
    },
    /// Say what a model is: its architecture, size, context, quantisation and chat format.
    Inspect {
        /// The model's id or address, or the path of a GGUF file or a Hugging Face folder; the one of the settings when
        /// left out.
        model: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Say what of a model will live where, and how fast it can be.
    Plan(super::plan::Args),
    /// Say how evenly a text uses a model's experts.
    Experts(super::experts::Args),
    /// Print where a model's file or folder is.
    Path {
        /// The model's id or address; the one of the settings when left out.
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
        Args::Rm { id, yes } => remove(&id, yes, &folders)?,
        Args::Path { model } => {
            say(&catalog::resolve(&model.unwrap_or(config.model), &folders.models)?.display().to_string());
        }
        Args::Plan(args) => super::plan::run(args, &folders, &config).await?,
        Args::Experts(args) => super::experts::run(args, &folders, config).await?,
        Args::Inspect { model, json } => inspect(model.unwrap_or(config.model), &folders, json).await?,
    }
    Ok(0)
}

/// What the list says of a model.
struct Row<'a> {
    id: &'a str,
    title: &'a str,
    architecture: Option<&'a str>,
    licence: Option<&'a str>,
    role: Role,
    state: &'static str,
    /// What a pull transfers, or has transferred.
    bytes: u64,
    memory_bytes: Option<u64>,
    commit: Option<&'a str>,
}

fn list(folders: &Folders, config: &Config, json: bool) {
    let pulled = catalog::pulled(&folders.models);
    let shapes: Vec<Option<Shape>> = pulled.iter().map(|model| Shape::read(&model.path).ok()).collect();
    let known = catalog::models().iter().map(|model| Row {
        id: model.id,
        title: model.title,
        architecture: Some(model.architecture),
        licence: Some(model.licence),
        role: model.role,
        state: if model.find(&folders.models).is_some() { "here" } else { "can be pulled" },
        bytes: model.download_bytes,
        memory_bytes: Some(model.memory_bytes),
        commit: None,
    });
    let others = pulled.iter().zip(&shapes).map(|(model, shape)| Row {
        id: &model.id,
        title: shape.as_ref().map_or("", Shape::name),
        architecture: None,
        licence: None,
        role: Role::Chat,
        state: if model.whole { "here" } else { "partly here" },
        bytes: model.bytes,
        memory_bytes: shape.as_ref().and_then(|shape| plan::memory_bytes(shape).ok()),
        commit: Some(&model.commit),
    });
    let mut rows = Vec::new();
    for row in known.chain(others) {
        let is_default = row.id == config.model;
        if json {
            let line = json!({
                "id": row.id, "title": row.title, "architecture": row.architecture, "licence": row.licence,
                "role": role(row.role), "state": row.state, "download_bytes": row.bytes,
                "memory_bytes": row.memory_bytes, "default": is_default, "commit": row.commit,
            });
            say(&line.to_string());
            continue;
        }
        rows.push(vec![
            format!("{}{}", clean(row.id), if is_default { "*" } else { "" }),
            role(row.role).to_string(),
            bytes(row.bytes),
            row.memory_bytes.map_or("-".to_string(), bytes),
            row.state.to_string(),
            one_line(row.title, 60),
        ]);
    }
    if !json {
        say(&table(&["ID", "FOR", "SIZE", "MEMORY", "STATE", "MODEL"], &rows));
        say(&format!(
            "* thinks for sessions that name no model; models are kept in {}",
            folders.models.display()
        ));
        say(
            "MEMORY holds all of a model and a context of 32,768 tokens; with experts on disk (--expert-bytes) less will do",
        );
        say("any other model of the Hugging Face hub: saga model pull hf:OWNER/NAME");
    }
}

/// Deletes a pulled model, after asking whoever sits there.
fn remove(id: &str, yes: bool, folders: &Folders) -> Result<(), Failure> {
    if catalog::is_path(id) {
        return Err(Failure::new(format!("{id} is a file of your own, which saga does not delete")));
    }
    let nothing = |error| match error {
        engine::Error::NotPulled { .. } => {
            Failure::new(format!("nothing of {id} is here")).next("`saga model list` shows what is")
        }
        error => error.into(),
    };
    if !yes && std::io::stdin().is_terminal() {
        let taken = catalog::bytes_here(id, &folders.models).map_err(nothing)?;
        write_to(To::Stderr, &format!("delete {id} ({})? [y/N] ", bytes(taken)));
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::new("nothing was deleted"));
        }
    }
    let freed = catalog::remove(id, &folders.models).map_err(nothing)?;
    say(&format!("deleted {id}; {} are free again", bytes(freed)));
    Ok(())
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Chat => "sessions",
        Role::Embedder => "memory",
    }
}

async fn inspect(model: String, folders: &Folders, json: bool) -> Result<(), Failure> {
    let path = catalog::resolve(&model, &folders.models)?;
    if catalog::model(&model).is_ok_and(|known| known.role != Role::Chat) {
        return Err(Failure::new(format!(
            "{model} is no language model; its files are in {}",
            path.display()
        )));
    }
    refuse_folder(&path)?;
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
        (if path.is_dir() { "folder" } else { "file" }, path.display().to_string()),
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

/// The file or folder of a model that is given by id, address or path, pulled when it may be and is not there.
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

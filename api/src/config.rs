//! What an operator may turn: one TOML file, then the environment, then flags; the later wins.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::Budget;
use agent::mind::Remote;
use agent::mind::remote::{Key, Price};
use serde::{Deserialize, Serialize};
use tools::Policy;
use tools::rules::{Level, Rule, Rules};

use crate::egress::EgressConfig;
use crate::failure::Failure;
use crate::mcp::config::{McpConfig, servers};
use crate::telemetry::TelemetryConfig;

/// The settings of a service, as its TOML file spells them. Every field may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where `saga up` listens: an IP address and a port.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Folders that sessions may work in. Empty: the folder `saga up` is started in.
    pub workspace_roots: Vec<PathBuf>,
    /// The model of sessions that name none: an id of the catalog, an address of the hub, or the path of a GGUF file or a
    /// Hugging Face folder.
    pub model: String,
    /// Threads that compute; 0 means one per physical core.
    pub threads: usize,
    /// The longest line of tokens a session may reach; left out, the model's own limit, but at most 32,768.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<usize>,
    /// The most memory that a model's experts may take; the others stay on disk and are read when they are chosen.
    /// Left out, the system decides. Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert_bytes: Option<u64>,
    /// The most memory that rows of a model's Engram tables may take; the others stay on disk and are read when a text
    /// asks for them. Left out, a gibibyte. Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_bytes: Option<u64>,
    /// The most memory that what all sessions have computed may take: the KV cache. Work waits until there is room for it. Left
    /// out, four fifths of what is free when the model is open. Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines_bytes: Option<u64>,
    /// Whether DeepSeek V4 and V4.1 round what they keep through FP8 and FP4, as their makers' programs do. transformers
    /// does not.
    pub round_trips: bool,
    /// How the KV cache is kept: in half precision, or in a little more than half of that.
    pub kv: Kv,
    /// The most room on disk for what sessions have computed, so that they go on at once after a restart; 0 writes nothing.
    /// Bytes.
    pub snapshot_bytes: u64,
    /// The most disk space for checkpoints of workspaces, which sessions can be wound back to; 0 keeps none.
    pub checkpoint_bytes: u64,
    /// A file of 64 hex digits that this is sealed with. Left out, it lies there as computed, for this user alone to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_key: Option<PathBuf>,
    /// Whether tokens are guessed before they are sampled, wherever that is faster. Replies are the same in any case.
    pub speculate: bool,
    /// A smaller model with the same vocabulary that guesses what `model` says next: an id or a path. Left out, tokens are
    /// guessed from what was said before, and by the model's own prediction layer if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// How replies are sampled: a table of `temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`,
    /// `repetition_window` and `seed`. The likeliest token, where nothing is set.
    pub sampling: engine::Sampling,
    /// Whether sessions that do not say recall earlier work, and write down what they learn.
    pub memory: bool,
    /// Whether models of 7 billion parameters and more that run here are asked, while nobody waits, what of a turn is worth
    /// remembering. What they say is held against the session, and told unasked only when somebody has accepted it.
    pub reflect: bool,
    /// A folder of skills for all sessions, besides those of their workspaces: folders with a SKILL.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skills: Option<PathBuf>,
    /// How long somebody may take to approve of a call; without an answer by then it does not run. 0: as long as they like. Seconds.
    pub approval_secs: u64,
    /// How many sub-agents of a session may work at a time; 0: none, and models are not told of them.
    pub sub_agents_max: u32,
    /// How long a resting session keeps its timeline and its sandbox. Seconds.
    pub idle_secs: u64,
    /// Limits of each turn of sessions that name none.
    pub budget: BudgetConfig,
    /// The sandbox that commands run in.
    pub sandbox: SandboxConfig,
    /// Models on other machines, by the names that sessions call them by after `remote:`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub minds: BTreeMap<String, MindConfig>,
    /// Which calls may run, which somebody is asked about first, and which do not.
    pub rules: Vec<Rule>,
    /// Where spans of turns, steps and calls are sent.
    pub telemetry: TelemetryConfig,
    /// Servers whose tools sessions may use, by the names that these tools begin with.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mcp: BTreeMap<String, McpConfig>,
}

/// Limits of each turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Most steps (replies of the model) in a turn.
    pub steps_max: u32,
    /// Most tokens sampled in a turn.
    pub output_tokens_max: u64,
    /// Most tokens sampled in one reply.
    pub reply_tokens_max: u32,
    /// Most seconds that a turn takes; 0: as long as it likes.
    pub wall_secs_max: u64,
    /// Most tokens sampled in a whole session; 0: as many as it likes.
    pub session_output_tokens_max: u64,
    /// Most seconds that the tools of a turn run; 0: as long as they like.
    pub tool_secs_max: u64,
    /// Most that a whole session costs, in the currency of the minds' prices; 0: as much as it likes.
    pub session_cost_max: f64,
}

/// The sandbox that commands run in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// What runs commands: `native`, or `runsc` for a gVisor around each of them, where it is installed.
    pub backend: tools::Backend,
    /// Layers that may be missing on this host, by the names `saga doctor` shows. Each one named here makes every
    /// session weaker.
    pub lowered: Vec<String>,
    /// Patterns of names that are secrets, in place of the usual ones: `.env`, `*.pem`, `!test.pem`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<String>>,
    /// By how much a session's workspace may grow, in place of 2 GiB. Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_bytes: Option<u64>,
    /// Where sessions may reach out.
    pub egress: EgressConfig,
}

/// A model on another machine, behind an API like OpenAI's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MindConfig {
    /// Where its API is, up to and with `/v1`.
    pub url: String,
    /// The model, as the server calls it.
    pub model: String,
    /// Tokens its context holds.
    pub context_tokens: u64,
    /// The environment variable that holds the key …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// … or the file that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// A file of certificates (PEM) that the server's is held against, in place of the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Whether it is led from step to step, as models of less than about 7 billion parameters need to be.
    #[serde(default)]
    pub led: bool,
    /// What a million tokens of prompts cost, in any currency …
    #[serde(default, skip_serializing_if = "is_free")]
    pub input_price: f64,
    /// … a million of those that the server had computed before; the same when left out …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_price: Option<f64>,
    /// … and a million sampled ones.
    #[serde(default, skip_serializing_if = "is_free")]
    pub output_price: f64,
}

/// The highest price of a million tokens that is no mistake.
const PRICE_MAX: f64 = 1e6;

/// What one token costs where a million cost so much: billionths.
fn nanos_each(price: f64) -> u64 {
    (price * 1_000.0).round() as u64
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_free(price: &f64) -> bool {
    *price == 0.0
}

impl MindConfig {
    fn check(&self, name: &str) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("the mind {name}: {what}"));
        if !(self.url.starts_with("http://") || self.url.starts_with("https://")) {
            return wrong("its url must begin with http:// or https://, such as http://gpu1:8000/v1");
        }
        if self.model.trim().is_empty() {
            return wrong("its model is empty; name it as its server does");
        }
        if self.context_tokens < 2_048 {
            return wrong(
                "its context_tokens are fewer than a session needs; give what its server holds, 2048 at the least",
            );
        }
        let prices = [self.input_price, self.cached_price.unwrap_or_default(), self.output_price];
        if prices.iter().any(|price| !(0.0..=PRICE_MAX).contains(price)) {
            return wrong("its prices must be amounts for a million tokens, from 0 on");
        }
        if self.key_env.is_some() && self.key_file.is_some() {
            return wrong("key_env and key_file are both given; keep one");
        }
        Ok(())
    }

    fn remote(&self, name: &str) -> Result<Remote, Failure> {
        let key = match (&self.key_env, &self.key_file) {
            (Some(variable), _) => Some(std::env::var(variable).map_err(|_| {
                Failure::new(format!("the mind {name}: the environment variable {variable} is not set"))
                    .next("set it where saga is started, or name a key_file")
            })?),
            (None, Some(file)) => Some(std::fs::read_to_string(file).map_err(|error| {
                Failure::new(format!(
                    "the mind {name}: its key cannot be read from {}: {error}",
                    file.display()
                ))
            })?),
            (None, None) => None,
        };
        Ok(Remote {
            name: name.to_string(),
            url: self.url.trim_end_matches('/').to_string(),
            model: self.model.clone(),
            key: key.as_deref().map(Key::new),
            context_tokens: self.context_tokens,
            led: self.led,
            price: Price {
                input_nanos: nanos_each(self.input_price),
                cached_nanos: nanos_each(self.cached_price.unwrap_or(self.input_price)),
                output_nanos: nanos_each(self.output_price),
            },
            ca_file: self.ca_file.clone(),
        })
    }
}

impl SandboxConfig {
    /// The policy of a sandbox on a workspace.
    pub(crate) fn policy(&self, workspace: impl Into<PathBuf>) -> Policy {
        let mut policy = Policy::new(workspace);
        policy.backend = self.backend;
        policy.lowered.clone_from(&self.lowered);
        if let Some(secrets) = &self.secrets {
            policy.secrets.clone_from(secrets);
        }
        if let Some(bytes) = self.workspace_bytes {
            policy.limits.workspace_bytes = bytes;
        }
        policy
    }
}

/// The port of a service that is told none.
const DEFAULT_PORT: u16 = 7777;

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
            workspace_roots: Vec::new(),
            model: engine::catalog::DEFAULT.to_string(),
            threads: 0,
            context_tokens: None,
            expert_bytes: None,
            table_bytes: None,
            lines_bytes: None,
            round_trips: false,
            kv: Kv::F16,
            snapshot_bytes: 8 << 30,
            checkpoint_bytes: 4 << 30,
            snapshot_key: None,
            speculate: true,
            draft: None,
            sampling: engine::Sampling::default(),
            memory: true,
            reflect: true,
            skills: None,
            approval_secs: 24 * 60 * 60,
            sub_agents_max: 2,
            idle_secs: agent::Config::default().idle.as_secs(),
            budget: BudgetConfig::default(),
            sandbox: SandboxConfig::default(),
            minds: BTreeMap::new(),
            rules: Vec::new(),
            telemetry: TelemetryConfig::default(),
            mcp: BTreeMap::new(),
        }
    }
}

impl Default for BudgetConfig {
    fn default() -> BudgetConfig {
        let Budget {
            steps_max,
            output_tokens_max,
            reply_tokens_max,
            wall_secs_max,
            session_output_tokens_max,
            tool_secs_max,
            session_cost_nanos_max,
        } = Budget::default();
        BudgetConfig {
            steps_max,
            output_tokens_max,
            reply_tokens_max,
            wall_secs_max,
            session_output_tokens_max,
            tool_secs_max,
            session_cost_max: crate::wire::amount(session_cost_nanos_max),
        }
    }
}

impl BudgetConfig {
    pub(crate) fn budget(&self) -> Budget {
        Budget {
            steps_max: self.steps_max,
            output_tokens_max: self.output_tokens_max,
            reply_tokens_max: self.reply_tokens_max,
            wall_secs_max: self.wall_secs_max,
            session_output_tokens_max: self.session_output_tokens_max,
            tool_secs_max: self.tool_secs_max,
            session_cost_nanos_max: crate::wire::nanos(self.session_cost_max),
        }
    }
}

impl Config {
    /// Reads the file at `path`; the defaults when there is none.
    ///
    /// # Errors
    /// [`Failure`] with the file, the line and what is wrong there.
    pub fn read(path: &Path) -> Result<Config, Failure> {
        match std::fs::read_to_string(path) {
            Ok(text) => Config::parse(&text, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
            Err(error) => Err(Failure::new(format!("cannot read {}: {error}", path.display()))
                .next("make the file readable, or remove it to run with the defaults")),
        }
    }

    /// Reads a file's text; `path` is only named in errors.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Config, Failure> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| Place::of(text, span.start));
            let place = place.map(|place| format!(":{place}")).unwrap_or_default();
            Failure::new(format!("{}{place}: {}", path.display(), error.message().replace('\n', " ")))
                .next("`saga config print` shows every setting with its value")
        })?;
        config.check().map_err(|why| {
            Failure::new(format!("{}: {why}", path.display()))
                .next("`saga config print` shows every setting with its value")
        })?;
        Ok(config)
    }

    /// Whether the values make sense together.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.model.trim().is_empty() {
            return Err("model is empty; name one of `saga model list` or the path of one".to_string());
        }
        if self.context_tokens == Some(0) {
            return Err("context_tokens is 0; leave it out to use what the model can".to_string());
        }
        if self.threads > 1024 {
            return Err(format!("threads is {}; use 0 for one per physical core", self.threads));
        }
        self.sampling.check().map_err(|error| format!("sampling: {error}"))?;
        crate::wire::check(self.budget.budget())?;
        if !(0.0..=PRICE_MAX).contains(&self.budget.session_cost_max) {
            return Err("session_cost_max must be an amount, from 0 on".to_string());
        }
        if self.sub_agents_max > 16 {
            return Err(format!(
                "sub_agents_max is {}; 16 are the most that may work at a time",
                self.sub_agents_max
            ));
        }
        servers(&self.mcp)?;
        if let Some(root) = self.workspace_roots.iter().find(|root| !root.is_absolute()) {
            return Err(format!("the workspace root {} is not absolute; write it from / on", root.display()));
        }
        if let Some(folder) = self.skills.as_ref().filter(|folder| !folder.is_absolute()) {
            return Err(format!("skills is {}; write it from / on", folder.display()));
        }
        self.minds.iter().try_for_each(|(name, mind)| mind.check(name))?;
        self.sandbox.egress.check()?;
        self.telemetry.check()?;
        Rules::new(Level::Operator, &self.rules).map(drop)
    }

    /// The models on other machines, with their keys.
    pub(crate) fn minds(&self) -> Result<Vec<Remote>, Failure> {
        self.minds.iter().map(|(name, mind)| mind.remote(name)).collect()
    }

    /// The file this configuration would be read from.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("the settings are plain tables, numbers and strings")
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_secs)
    }
}

fn address<'de, D: serde::Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    let wrong =
        |_| serde::de::Error::custom(format!("{text:?} is not an IP address and a port like 127.0.0.1:7777"));
    text.parse().map_err(wrong)
}

/// A place in a text, as editors count.
struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn of(text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place { line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// How a KV cache is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kv {
    /// Two bytes a number.
    F16,
    /// One byte a number, and a scale for every head of every token.
    Q8,
}

impl From<Kv> for engine::KvKind {
    fn from(kv: Kv) -> engine::KvKind {
        match kv {
            Kv::F16 => engine::KvKind::F16,
            Kv::Q8 => engine::KvKind::Q8,
        }
    }
}

/// Where everything lives on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// The settings' file.
    pub config_file: PathBuf,
    /// What the service writes: the memory, its key, the demo's samples.
    pub data: PathBuf,
    /// Pulled models.
    pub models: PathBuf,
}

impl Folders {
    /// The folders the environment asks for: all under `SAGA_HOME` when it is set, else where the XDG base directory
    /// specification puts them.
    ///
    /// # Errors
    /// [`Failure`] when neither `SAGA_HOME` nor `HOME` is set.
    pub fn from_env() -> Result<Folders, Failure> {
        Folders::from_vars(|name| std::env::var_os(name).map(PathBuf::from))
    }

    fn from_vars(var: impl Fn(&str) -> Option<PathBuf>) -> Result<Folders, Failure> {
        // The specification says that an empty or relative value counts as unset.
        let absolute = |name: &str| var(name).filter(|path| path.is_absolute());
        if let Some(home) = var("SAGA_HOME").filter(|home| !home.as_os_str().is_empty()) {
            let home = std::path::absolute(&home)
                .map_err(|error| Failure::new(format!("SAGA_HOME={}: {error}", home.display())))?;
            return Ok(Folders {
                config_file: home.join("config.toml"),
                data: home.join("data"),
                models: home.join("models"),
            });
        }
        let home = absolute("HOME");
        let base = |name: &str, under_home: &str| {
            absolute(name).or_else(|| Some(home.as_ref()?.join(under_home))).ok_or_else(|| {
                Failure::new("there is no home folder to keep data in")
                    .next("set SAGA_HOME to a folder that this user may write")
            })
        };
        let data = base("XDG_DATA_HOME", ".local/share")?.join("saga");
        let config_file = base("XDG_CONFIG_HOME", ".config")?.join("saga/config.toml");
        Ok(Folders { config_file, models: data.join("models"), data })
    }

    /// Where the memory keeps its log and its indexes.
    pub(crate) fn memory(&self) -> PathBuf {
        self.data.join("memory")
    }
}

/// Flags, and the environment variables behind them, that change settings for one run.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Settings (each also in the configuration file)")]
pub(crate) struct Overrides {
    /// The model to think with: an id of `saga model list`, hf:OWNER/NAME[:WHICH] of the Hugging Face hub, or the path of a
    /// GGUF file or a Hugging Face folder.
    #[arg(long, short, env = "SAGA_MODEL", value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Threads that compute; 0 means one per physical core.
    #[arg(long, env = "SAGA_THREADS", value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// The longest line of tokens a session may reach.
    #[arg(long, env = "SAGA_CONTEXT_TOKENS", value_name = "N")]
    pub(crate) context_tokens: Option<usize>,
    /// The most memory that a model's experts may take, such as 8G; the others are read from disk when they are chosen.
    #[arg(long, env = "SAGA_EXPERT_BYTES", value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    pub(crate) expert_bytes: Option<u64>,
    /// The most memory that rows of a model's Engram tables may take, such as 2G; the others are read from disk when a
    /// text asks for them.
    #[arg(long, env = "SAGA_TABLE_BYTES", value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    pub(crate) table_bytes: Option<u64>,
    /// The most memory that the KV cache of all sessions may take, such as 8G; work waits until there is room for it.
    #[arg(long, env = "SAGA_LINES_BYTES", value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    pub(crate) lines_bytes: Option<u64>,
    /// Have DeepSeek V4 and V4.1 round what they keep through FP8 and FP4, as their makers' programs do.
    #[arg(long, env = "SAGA_ROUND_TRIPS")]
    pub(crate) round_trips: bool,
    /// How the KV cache is kept.
    #[arg(long, env = "SAGA_KV", value_name = "KIND")]
    pub(crate) kv: Option<Kv>,
    /// The most room on disk for what sessions have computed, such as 8G; 0 writes nothing.
    #[arg(long, env = "SAGA_SNAPSHOT_BYTES", value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    pub(crate) snapshot_bytes: Option<u64>,
    /// The most disk space for checkpoints of workspaces, such as 4G; 0 keeps none.
    #[arg(long, env = "SAGA_CHECKPOINT_BYTES", value_name = "SIZE", value_parser = crate::host::parse_bytes)]
    pub(crate) checkpoint_bytes: Option<u64>,
    /// A file of 64 hex digits that this is sealed with.
    #[arg(long, env = "SAGA_SNAPSHOT_KEY", value_name = "FILE")]
    pub(crate) snapshot_key: Option<PathBuf>,
    /// Whether tokens are guessed before they are sampled, true or false. Replies are the same in any case.
    #[arg(long, env = "SAGA_SPECULATE", value_name = "BOOL")]
    pub(crate) speculate: Option<bool>,
    /// A smaller model with the same vocabulary that guesses what the model says next.
    #[arg(long, env = "SAGA_DRAFT", value_name = "MODEL")]
    pub(crate) draft: Option<String>,
    /// How freely replies are sampled; 0 takes the likeliest token each time.
    #[arg(long, env = "SAGA_TEMPERATURE", value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// What chance begins with: the same number gives the same replies.
    #[arg(long, env = "SAGA_SEED", value_name = "N")]
    pub(crate) seed: Option<u32>,
    /// A sandbox layer that may be missing (repeatable); `saga doctor` names them. Makes sessions weaker.
    #[arg(long, env = "SAGA_LOWERED", value_name = "LAYER", value_delimiter = ',')]
    pub(crate) lowered: Vec<String>,
}

/// Where a service listens and what it lets sessions touch.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Settings (each also in the configuration file)")]
pub(crate) struct ServiceOverrides {
    /// Where to listen: an IP address and a port.
    #[arg(long, env = "SAGA_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// A folder that sessions may work in (repeatable); the current folder when none is set.
    #[arg(long = "root", env = "SAGA_WORKSPACE_ROOTS", value_name = "DIR", value_delimiter = ':')]
    pub(crate) roots: Vec<PathBuf>,
}

/// A model as it is named. A file's path is made absolute: a service may stand in another folder.
pub(crate) fn absolute(model: &str) -> Result<String, Failure> {
    if !engine::catalog::is_path(model) {
        return Ok(model.to_owned());
    }
    let path = std::path::absolute(model).map_err(|error| Failure::new(format!("model {model}: {error}")))?;
    path.into_os_string().into_string().map_err(|_| {
        Failure::new(format!("the path of the model {model} is not UTF-8")).next("rename its folder")
    })
}

impl Overrides {
    /// The model asked for.
    pub(crate) fn model(&self) -> Result<Option<String>, Failure> {
        self.model.as_deref().map(absolute).transpose()
    }

    pub(crate) fn apply(&self, config: &mut Config) -> Result<(), Failure> {
        if let Some(model) = self.model()? {
            config.model = model;
        }
        if let Some(threads) = self.threads {
            config.threads = threads;
        }
        if self.expert_bytes.is_some() {
            config.expert_bytes = self.expert_bytes;
        }
        if self.table_bytes.is_some() {
            config.table_bytes = self.table_bytes;
        }
        if self.lines_bytes.is_some() {
            config.lines_bytes = self.lines_bytes;
        }
        config.round_trips |= self.round_trips;
        if let Some(kv) = self.kv {
            config.kv = kv;
        }
        if let Some(bytes) = self.snapshot_bytes {
            config.snapshot_bytes = bytes;
        }
        if let Some(bytes) = self.checkpoint_bytes {
            config.checkpoint_bytes = bytes;
        }
        if self.snapshot_key.is_some() {
            config.snapshot_key.clone_from(&self.snapshot_key);
        }
        if let Some(speculate) = self.speculate {
            config.speculate = speculate;
        }
        if let Some(draft) = &self.draft {
            config.draft = Some(absolute(draft)?);
        }
        if let Some(temperature) = self.temperature {
            config.sampling.temperature = temperature;
        }
        if let Some(seed) = self.seed {
            config.sampling.seed = seed.into();
        }
        if self.context_tokens.is_some() {
            config.context_tokens = self.context_tokens;
        }
        if !self.lowered.is_empty() {
            config.sandbox.lowered = self.lowered.clone();
        }
        config.check().map_err(Failure::new)
    }
}

impl ServiceOverrides {
    pub(crate) fn apply(&self, config: &mut Config) -> Result<(), Failure> {
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if !self.roots.is_empty() {
            config.workspace_roots = self
                .roots
                .iter()
                .map(|root| {
                    std::path::absolute(root)
                        .map_err(|e| Failure::new(format!("root {}: {e}", root.display())))
                })
                .collect::<Result<_, _>>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        let said = match Config::parse(text, Path::new("/etc/saga.toml")) {
            Ok(config) => config.to_toml(),
            Err(failure) => failure.to_string(),
        };
        expected.assert_eq(&said);
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        // What `saga config print` shows is also the reference of the settings.
        check(
            "",
            expect![[r#"
                listen = "127.0.0.1:7777"
                workspace_roots = []
                model = "qwen2.5-coder-1.5b"
                threads = 0
                round_trips = false
                kv = "f16"
                snapshot_bytes = 8589934592
                checkpoint_bytes = 4294967296
                speculate = true
                memory = true
                reflect = true
                approval_secs = 86400
                sub_agents_max = 2
                idle_secs = 600
                rules = []

                [sampling]
                temperature = 0.0
                top_p = 1.0
                top_k = 0
                min_p = 0.0
                repetition_penalty = 1.0
                repetition_window = 64
                seed = 0

                [budget]
                steps_max = 100
                output_tokens_max = 65536
                reply_tokens_max = 4096
                wall_secs_max = 0
                session_output_tokens_max = 0
                tool_secs_max = 0
                session_cost_max = 0.0

                [sandbox]
                backend = "native"
                lowered = []

                [sandbox.egress]
                allow = []
                allow_private = []
                bytes_max = 4294967296
                ask = false

                [telemetry]
                content = false
            "#]],
        );
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let docs = McpConfig { command: vec!["docs".into()], approve: Some(true), ..McpConfig::default() };
        let mcp = BTreeMap::from([("docs".to_string(), docs)]);
        let config = Config { context_tokens: Some(8192), mcp, ..Config::default() };
        assert_eq!(Config::parse(&config.to_toml(), Path::new("x")).unwrap(), config);
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        // A misspelt setting that is silently ignored costs an afternoon.
        check(
            "model = \"x\"\nlisen = \"127.0.0.1:1\"\n",
            expect![
                "/etc/saga.toml:2:1: unknown field `lisen`, expected one of `listen`, `workspace_roots`, `model`, `threads`, `context_tokens`, `expert_bytes`, `table_bytes`, `lines_bytes`, `round_trips`, `kv`, `snapshot_bytes`, `checkpoint_bytes`, `snapshot_key`, `speculate`, `draft`, `sampling`, `memory`, `reflect`, `skills`, `approval_secs`, `sub_agents_max`, `idle_secs`, `budget`, `sandbox`, `minds`, `rules`, `telemetry`, `mcp`; `saga config print` shows every setting with its value"
            ],
        );
        check(
            "listen = \"localhost\"\n",
            expect![
                "/etc/saga.toml:1:10: \"localhost\" is not an IP address and a port like 127.0.0.1:7777; `saga config print` shows every setting with its value"
            ],
        );
        check(
            "[budget]\nsteps_max = 0\n",
            expect![
                "/etc/saga.toml: a budget of 0 would end every turn before it begins; give 1 or more; `saga config print` shows every setting with its value"
            ],
        );
        check(
            "[mcp.docs]\ncommand = [\"docs\"]\nurl = \"http://localhost:1/mcp\"\n",
            expect![
                "/etc/saga.toml: mcp.docs: give either a command or a url; `saga config print` shows every setting with its value"
            ],
        );
        check(
            "workspace_roots = [\"src\"]\n",
            expect![
                "/etc/saga.toml: the workspace root src is not absolute; write it from / on; `saga config print` shows every setting with its value"
            ],
        );
        check(
            "[sandbox.egress]\nallow = [\"example.org\"]\n",
            expect![
                "/etc/saga.toml: the line \"example.org\" of the allow-list: it has no port (host:port, *.domain:port, or an address); `saga config print` shows every setting with its value"
            ],
        );
        check(
            "threads = \n",
            expect![
                "/etc/saga.toml:1:11: string values must be quoted, expected literal string; `saga config print` shows every setting with its value"
            ],
        );
    }

    #[test]
    fn saga_home_overrides_every_folder() {
        let folders = |vars: &[(&str, &str)]| {
            let found = Folders::from_vars(|name| {
                vars.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            });
            found.map_err(|failure| failure.to_string())
        };
        let home = folders(&[("SAGA_HOME", "/s"), ("XDG_DATA_HOME", "/d"), ("HOME", "/h")]).unwrap();
        assert_eq!(home.config_file, Path::new("/s/config.toml"));
        assert_eq!(
            (home.data.as_path(), home.models.as_path()),
            (Path::new("/s/data"), Path::new("/s/models"))
        );
        let xdg = folders(&[("SAGA_HOME", ""), ("XDG_DATA_HOME", "/d"), ("HOME", "/h")]).unwrap();
        assert_eq!(
            (xdg.data.as_path(), xdg.config_file.as_path()),
            (Path::new("/d/saga"), Path::new("/h/.config/saga/config.toml"))
        );
        let relative = folders(&[("XDG_DATA_HOME", "d"), ("HOME", "/h")]).unwrap();
        assert_eq!(relative.data, Path::new("/h/.local/share/saga"));
        assert!(folders(&[]).unwrap_err().contains("set SAGA_HOME"));
    }
}

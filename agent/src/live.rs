//! The real world: the journal in memory, thoughts from the engine, calls in the sandbox.

mod prompt;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use engine::Engine;
use engine::snapshot::{Secret, Snapshots};
use memory::Memory;
use tokio::sync::Mutex;
use tools::checkpoint::{Checkpoints, Tree};
use tools::egress::Egress;
use tools::mcp::{self};
use tools::rules::{self, Level, Rule, Rules};
use tools::{Backend, Call, Outcome, Policy, Reach, Replay, Sandbox, Spec, Toolbox};

use crate::Error;
use crate::agent::{NewSession, blocking};
use crate::allowance::Allowance;
use crate::check;
use crate::child::{self, Access};
use crate::code::{self, Code};
use crate::dialect::Dialect;
use crate::event::{Budget, Created, Recorded, SessionId};
use crate::guides::NAMES as GUIDES;
use crate::lead;
use crate::mind::{LocalMind, Remote, RemoteMind, remote};
use crate::notebook::Notebook;
use crate::plan;
use crate::recall::{self};
use crate::skills::{self, Skills};
use crate::world::{Progress, Sink, World, Worlds};

use prompt::{guide_told, plain, system_prompt};
use world::LiveWorld;

/// What the real world is made of.
#[derive(Debug, Clone)]
pub struct LiveOptions {
    /// The folder models are pulled into.
    pub models: PathBuf,
    /// The model of sessions that name none: an id of the catalog or a path.
    pub model: String,
    /// Folders that workspaces must lie in.
    pub roots: Vec<PathBuf>,
    /// How engines are opened.
    pub threads: usize,
    /// Tokens of context; the model's own when left out.
    pub context_tokens: Option<usize>,
    /// The most memory that experts may take, as the engine's options have it.
    pub expert_bytes: Option<u64>,
    /// The most memory that rows of Engram tables may take, as the engine's options have it.
    pub table_bytes: Option<u64>,
    /// The most memory that the KV of all timelines may take, as the engine's options have it.
    pub lines_bytes: Option<u64>,
    /// Whether models take the round trips they were trained with, as the engine's options have it.
    pub round_trips: bool,
    /// How the KV cache is kept.
    pub kv: engine::KvKind,
    /// Whether tokens are guessed before they are sampled, as the engine's options have it.
    pub speculate: engine::Speculate,
    /// The model that guesses for `model`: an id of the catalog or a path.
    pub draft: Option<String>,
    /// Limits of each turn of sessions that name none.
    pub budget: Budget,
    /// How replies are sampled.
    pub sampling: engine::Sampling,
    /// What runs the commands of sessions.
    pub backend: Backend,
    /// Sandbox layers the operator lets be missing.
    pub lowered: Vec<String>,
    /// Patterns of names that are secrets, in place of the usual ones.
    pub secrets: Option<Vec<String>>,
    /// Where sessions may reach out; nowhere when left out.
    pub egress: Option<Arc<Egress>>,
    /// By how much a session's workspace may grow, in place of the usual amount. Bytes.
    pub workspace_bytes: Option<u64>,
    /// The servers whose tools sessions have besides their own.
    pub servers: Vec<mcp::Server>,
    /// The binary that becomes the sandbox's processes; this one when left out.
    pub helper: Option<PathBuf>,
    /// Bytes of KV that resting sessions may hold together.
    pub kv_bytes_max: u64,
    /// Where sessions' timelines are written at the end of each step, to be gone on with after a restart.
    pub snapshots: Option<Snapshots>,
    /// What these are sealed with.
    pub secret: Option<Secret>,
    /// Where the workspaces of sessions are kept, before each turn and after each step that may have changed them.
    pub checkpoints: Option<Checkpoints>,
    /// How many sub-agents of a session may work at a time. 0: models are not told that there are any.
    pub children_max: u32,
    /// The folder for the copies of workspaces that sub-agents work in; without it they work in none.
    pub branches: Option<PathBuf>,
    /// Models on other machines.
    pub minds: Vec<Remote>,
    /// Which calls may run, as whoever runs the service says.
    pub rules: Vec<Rule>,
    /// How long somebody may take to approve of a call. Milliseconds; nothing: as long as they like.
    pub approval_ms: Option<u64>,
    /// Whether sessions that do not say recall earlier work and write down what they learn.
    pub memory: bool,
    /// Whether models of this machine that are not led are asked after a turn what of it is worth remembering.
    pub reflect: bool,
    /// A folder of skills for all sessions, besides those of their workspaces.
    pub skills: Option<PathBuf>,
    /// Tokens that all sessions may use in a day; as many as they like when left out.
    pub tokens_per_day: Option<u64>,
}

/// The real [`Worlds`].
pub struct Live {
    options: LiveOptions,
    memory: Memory,
    toolbox: Arc<Toolbox>,
    code: Code,
    shared: Arc<Shared>,
    /// What they may use, if there is a limit.
    allowance: Option<Allowance>,
    /// Whose sessions these are; nothing for the service's own.
    tenant: Option<String>,
}

/// What the worlds of all tenants have in common.
#[derive(Default)]
struct Shared {
    engines: Mutex<BTreeMap<PathBuf, Engine>>,
    minds: std::sync::Mutex<Vec<Weak<Thinking>>>,
    clock: AtomicU64,
}

/// Engines open at once. Each maps its whole file; a service thinks with one or two models.
const ENGINES_MAX: usize = 4;

/// Models with fewer parameters are led (see [`Created::led`]): seen to need it at 1.5 billion, while those of 7 billion
/// and more are known to call tools by themselves.
const LED_BELOW: u64 = 7_000_000_000;

/// What of it is told at once, in characters, and the largest file that is looked at, in bytes. A small model follows a page and loses itself
/// in ten.
const GUIDE_CHARS_MAX: usize = 16_000;
const LED_GUIDE_CHARS_MAX: usize = 1_500;
const GUIDE_BYTES_MAX: u64 = 1 << 20;

/// Whether a model is told of a tool. Small models are led and have no use for what runs beside them, and given the choice they look
/// around and never begin; patches are for those that were trained to write them.
fn offered(tool: &str, led: bool, dialect: Option<Dialect>) -> bool {
    match tool {
        "process" | "symbols" => !led,
        "apply_patch" => !led && dialect == Some(Dialect::Harmony),
        _ => true,
    }
}

/// A session's mind once it has one, and when it was used last.
#[derive(Default)]
struct Thinking {
    mind: Mutex<Option<Mind>>,
    used: AtomicU64,
}

/// What a session thinks with.
enum Mind {
    Local(Box<LocalMind>),
    Remote(Box<RemoteMind>),
}

/// What a session has to know of its model.
struct Facts {
    dialect: String,
    /// Where the model is here; one that is elsewhere makes its own prompts.
    format: Option<Dialect>,
    led: bool,
    context_tokens: u64,
}

/// What a tenant has for itself.
pub struct OfTenant {
    /// Its name.
    pub name: String,
    /// See [`LiveOptions::roots`].
    pub roots: Vec<PathBuf>,
    /// What its KV is sealed with.
    pub secret: Secret,
    /// See [`LiveOptions::checkpoints`].
    pub checkpoints: Option<Checkpoints>,
    /// See [`LiveOptions::branches`].
    pub branches: Option<PathBuf>,
    /// See [`LiveOptions::tokens_per_day`].
    pub tokens_per_day: Option<u64>,
}

impl Live {
    /// The real world over `memory`.
    pub fn new(options: LiveOptions, memory: Memory) -> Arc<Live> {
        let toolbox = Toolbox::new(options.egress.as_deref(), &[]);
        Arc::new(Live {
            allowance: options.tokens_per_day.map(Allowance::new),
            options,
            code: Code::new(memory.clone()),
            memory,
            toolbox: Arc::new(toolbox),
            shared: Arc::default(),
            tenant: None,
        })
    }

    /// The world of a tenant beside this one: it thinks with the same engines, has a memory and folders of its own, and shares nothing
    /// that was computed, for all of it is sealed with its own secret.
    pub fn beside(self: &Arc<Live>, memory: Memory, own: OfTenant) -> Arc<Live> {
        let OfTenant { name, roots, secret, checkpoints, branches, tokens_per_day } = own;
        Arc::new(Live {
            options: LiveOptions {
                roots,
                secret: Some(secret),
                checkpoints,
                branches,
                tokens_per_day,
                ..self.options.clone()
            },
            allowance: tokens_per_day.map(Allowance::new),
            code: Code::new(memory.clone()),
            memory,
            toolbox: self.toolbox.clone(),
            shared: self.shared.clone(),
            tenant: Some(name),
        })
    }

    /// What the project says about working on it, read inside a sandbox: whoever wrote it may have made it a link to somewhere else.
    async fn guide(&self, workspace: &Path, chars_max: usize) -> Option<String> {
        if !GUIDES.iter().any(|name| workspace.join(name).symlink_metadata().is_ok()) {
            return None;
        }
        // If there is no sandbox, the first call says why.
        let sandbox = Sandbox::open(self.policy(workspace)).await.ok()?;
        for name in GUIDES {
            if let Ok(Some(text)) = sandbox.text(name, GUIDE_BYTES_MAX).await {
                return guide_told(name, &text, chars_max);
            }
        }
        None
    }

    /// What a session in this folder is told of the skills there are.
    async fn skills(&self, workspace: &Path) -> Result<Option<String>, Error> {
        // If there is no sandbox, the first call says why.
        let Ok(sandbox) = Sandbox::open(self.policy(workspace)).await else { return Ok(None) };
        let (toolbox, operator) = (&*self.toolbox, self.options.skills.as_deref());
        Ok(skills::told(&Skills { toolbox, sandbox: &sandbox, operator }.all().await?))
    }

    /// What the repository says about which calls may run, read inside a sandbox.
    async fn repository_rules(&self, workspace: &Path) -> Result<Vec<Rule>, Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            #[serde(default)]
            rules: Vec<Rule>,
        }
        if workspace.join(rules::REPOSITORY_FILE).symlink_metadata().is_err() {
            return Ok(Vec::new());
        }
        // Rules that cannot be read are not taken for none.
        let bad = |why: String| {
            Error::BadRequest(format!(
                "{} of the workspace cannot be used: {why}; mend it, or remove it to go without",
                rules::REPOSITORY_FILE
            ))
        };
        let sandbox = Sandbox::open(self.policy(workspace)).await?;
        let text = sandbox.text(rules::REPOSITORY_FILE, GUIDE_BYTES_MAX).await?;
        let text = text.ok_or_else(|| bad("it is no file of text, or larger than 1 MiB".to_string()))?;
        let written: Written = toml::from_str(&text).map_err(|error| bad(error.message().to_string()))?;
        Rules::new(Level::Repository, &written.rules).map_err(bad)?;
        Ok(written.rules)
    }

    /// Where the network is open to commands, they may send anything anywhere.
    fn reach_out(&self, tools: &mut [Spec]) {
        if self.options.lowered.iter().any(|layer| layer == "network") {
            let commands = tools.iter_mut().filter(|tool| lead::runs(&tool.name));
            commands.for_each(|tool| tool.reach = Reach::Outside);
        }
    }

    /// What the sandbox of a session in this folder may do.
    fn policy(&self, workspace: &Path) -> Policy {
        let mut policy = Policy {
            backend: self.options.backend,
            lowered: self.options.lowered.clone(),
            helper: self.options.helper.clone(),
            egress: self.options.egress.clone(),
            ..Policy::new(workspace)
        };
        if let Some(secrets) = &self.options.secrets {
            policy.secrets.clone_from(secrets);
        }
        // Scripts of a skill are run where they lie.
        policy.read_only.extend(self.options.skills.clone().filter(|folder| folder.is_dir()));
        if let Some(bytes) = self.options.workspace_bytes {
            policy.limits.workspace_bytes = bytes;
        }
        policy
    }

    /// The name under which a session's timeline lies on disk. Sessions of two tenants may have the same id.
    fn slot_name(&self, id: &SessionId) -> String {
        match &self.tenant {
            Some(tenant) => format!("{tenant}.{id}"),
            None => id.to_string(),
        }
    }

    /// The engine of a model, opened at first use. `out` sees the loading.
    pub async fn engine(&self, model: &str, out: &Sink) -> Result<Engine, Error> {
        let path = engine::catalog::resolve(model, &self.options.models)?;
        // Held while a model loads: two sessions that want it load it once.
        let mut engines = self.shared.engines.lock().await;
        if let Some(engine) = engines.get(&path) {
            return Ok(engine.clone());
        }
        if engines.len() >= ENGINES_MAX {
            return Err(Error::BadRequest(format!(
                "{ENGINES_MAX} models are open already; use one of them or restart the service"
            )));
        }
        let options = engine::Options {
            threads: self.options.threads,
            context_tokens: self.options.context_tokens,
            expert_bytes: self.options.expert_bytes,
            table_bytes: self.options.table_bytes,
            lines_bytes: self.options.lines_bytes,
            round_trips: self.options.round_trips,
            kv: self.options.kv,
            speculate: self.options.speculate,
            draft: self.draft_of(model)?,
            snapshots: self.options.snapshots.clone(),
            ..engine::Options::default()
        };
        let (file, out) = (path.clone(), out.clone());
        let engine = blocking(move || {
            let mut on = |progress| {
                if let engine::Progress::Loading { done_bytes, total_bytes } = progress {
                    out.say(Progress::Loading { done_bytes, total_bytes });
                }
            };
            Ok(Engine::open(&file, options, &mut on)?)
        })
        .await?;
        engines.insert(path, engine.clone());
        Ok(engine)
    }

    /// Where the model lies that guesses for another one: only the settings' own model has one.
    fn draft_of(&self, model: &str) -> Result<Option<PathBuf>, Error> {
        let draft = self.options.draft.as_deref().filter(|_| model == self.options.model);
        Ok(draft.map(|draft| engine::catalog::resolve(draft, &self.options.models)).transpose()?)
    }

    /// The model on another machine that a session names; nothing when it names one of this machine.
    pub fn remote(&self, model: &str) -> Result<Option<&Remote>, Error> {
        let Some(name) = model.strip_prefix(remote::PREFIX) else { return Ok(None) };
        let found = self.options.minds.iter().find(|mind| mind.name == name);
        found.map(Some).ok_or_else(|| {
            let known: Vec<&str> = self.options.minds.iter().map(|mind| mind.name.as_str()).collect();
            Error::BadRequest(match known.is_empty() {
                true => format!(
                    "there is no mind {name:?}; the settings name none, see `[minds.{name}]` in the manual"
                ),
                false => format!("there is no mind {name:?}; the settings name {}", known.join(", ")),
            })
        })
    }

    /// What a session has to know of a model, which is opened for that if it is here.
    async fn facts(&self, model: &str) -> Result<Facts, Error> {
        if let Some(remote) = self.remote(model)? {
            return Ok(Facts {
                dialect: remote::DIALECT.to_string(),
                format: None,
                led: remote.led,
                context_tokens: remote.context_tokens,
            });
        }
        let engine = self.engine(model, &Sink::none()).await?;
        let facts = engine.model();
        let dialect = Dialect::of_model(facts.chat_template.as_deref(), &facts.architecture).ok_or_else(|| {
            Error::BadRequest(match facts.chat_template {
                Some(_) => format!(
                    "the model {model} uses a chat format that is not supported; use an instruct model with one of {}",
                    Dialect::ALL.map(Dialect::name).join(", ")
                ),
                None => format!(
                    "the model {model} carries no chat template, so it cannot hold a conversation; use an instruct model"
                ),
            })
        })?;
        Ok(Facts {
            dialect: dialect.name().to_string(),
            format: Some(dialect),
            led: facts.parameters < LED_BELOW,
            context_tokens: facts.context_tokens as u64,
        })
    }

    /// Finds code in a folder, as the tool `search_code` of a session does.
    ///
    /// # Errors
    /// [`Error::OutsideRoots`] when the folder lies outside of the roots; [`Error::Tools`] when it cannot be looked into.
    pub async fn search_code(
        &self,
        folder: &Path,
        query: &str,
        below: Option<&str>,
    ) -> Result<Outcome, Error> {
        let workspace = workspace(folder, &self.options.roots)?;
        let sandbox = Arc::new(Sandbox::open(self.policy(&workspace)).await?);
        let mut arguments = serde_json::json!({ "query": query });
        if let Some(below) = below {
            arguments["path"] = below.into();
        }
        let call = Call { id: String::new(), name: code::spec().name, arguments };
        self.code.search(&sandbox, &call).await
    }

    /// What sessions have computed that lies on disk.
    pub fn snapshots(&self) -> Option<&Snapshots> {
        self.options.snapshots.as_ref()
    }

    /// Waits until what sessions have computed so far is on disk, or could not be put there.
    pub async fn settle(&self) {
        let Some(snapshots) = self.options.snapshots.clone() else { return };
        for engine in self.engines() {
            // An engine answers in order: then it has handed over what it was asked to write.
            let _ = engine.expert_uses().await;
        }
        let _ = tokio::task::spawn_blocking(move || snapshots.settle()).await;
    }

    /// The engines that are open. Empty while one is being opened.
    pub fn engines(&self) -> Vec<Engine> {
        self.shared.engines.try_lock().map(|engines| engines.values().cloned().collect()).unwrap_or_default()
    }

    /// Keeps the KV of resting sessions within its bytes: the one unused for longest forgets first.
    fn trim(&self, current: &Arc<Thinking>) {
        let mut minds = self.shared.minds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        minds.retain(|mind| mind.strong_count() > 0);
        let mut resting: Vec<Arc<Thinking>> = minds.iter().filter_map(Weak::upgrade).collect();
        resting.sort_by_key(|thinking| thinking.used.load(Ordering::Relaxed));
        let mut held = 0;
        for thinking in resting.iter().rev() {
            // One that is thinking just now is locked, and counts when it comes here itself.
            let Ok(mut mind) = thinking.mind.try_lock() else { continue };
            let Some(Mind::Local(mind)) = mind.as_mut() else { continue };
            held += mind.kv_bytes();
            if held > self.options.kv_bytes_max && !Arc::ptr_eq(thinking, current) {
                mind.forget();
            }
        }
    }
}

fn now_ms() -> u64 {
    // A clock before 1970 is a broken clock; the journal's order does not depend on it.
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_millis() as u64).unwrap_or_default()
}

#[async_trait]
impl Worlds for Arc<Live> {
    async fn plan(&self, new: &NewSession) -> Result<Created, Error> {
        let workspace = workspace(&new.workspace, &self.options.roots)?;
        let model = new.model.clone().unwrap_or_else(|| self.options.model.clone());
        let Facts { dialect, format, led, context_tokens } = self.facts(&model).await?;
        let mut tools: Vec<Spec> = self
            .toolbox
            .specs()
            .into_iter()
            .filter(|spec| offered(&spec.name, led, format))
            .map(|spec| if led { plain(spec) } else { spec.clone() })
            .collect();
        self.reach_out(&mut tools);
        let memory_on = new.memory.unwrap_or(self.options.memory);
        if !led {
            tools.push(code::spec());
            tools.push(plan::spec());
            if self.options.children_max > 0 {
                tools.push(child::spec());
            }
        }
        if memory_on && !led {
            // A small model is told what bears on its work; that it would ask by itself was not seen.
            tools.extend(Notebook::specs());
        }
        Rules::new(Level::Session, &new.rules).map_err(Error::BadRequest)?;
        let repository_rules = self.repository_rules(&workspace).await?;
        let skills = if led { None } else { self.skills(&workspace).await? };
        if skills.is_some() {
            tools.push(skills::spec());
        }
        let check = check::command(&workspace);
        let guide = self.guide(&workspace, if led { LED_GUIDE_CHARS_MAX } else { GUIDE_CHARS_MAX }).await;
        let (memory, place) = (self.memory.clone(), workspace.clone());
        let told = blocking(move || if memory_on { recall::told(&memory, &place) } else { Ok(None) }).await?;
        let (told, notes) = told.map_or((Vec::new(), None), |(ids, text)| (ids, Some(text)));
        Ok(Created {
            system: system_prompt(
                &workspace,
                led.then_some(tools.as_slice()),
                check.as_deref(),
                guide.as_deref(),
                skills.as_deref(),
                notes.as_deref(),
                new.instructions.as_deref(),
            ),
            workspace,
            model,
            dialect,
            tools,
            budget: new.budget.unwrap_or(self.options.budget),
            sampling: self.options.sampling.clone(),
            led,
            check,
            memory: memory_on,
            reflects: memory_on && self.options.reflect && !led && format.is_some(),
            checkpoints: self.options.checkpoints.is_some(),
            told,
            context_tokens: Some(context_tokens),
            rules: new.rules.clone(),
            repository_rules,
            until: new.until.clone(),
            children_max: if led { 0 } else { self.options.children_max },
            parent: None,
        })
    }

    fn count(&self, events: &[Recorded]) {
        if let Some(allowance) = &self.allowance {
            allowance.count_all(events);
        }
    }

    fn folder(&self, folder: &Path) -> Result<PathBuf, Error> {
        workspace(folder, &self.options.roots)
    }

    fn vet(&self, created: &mut Created) {
        let mut ours: Vec<Spec> = self.toolbox.specs().into_iter().cloned().collect();
        ours.extend([code::spec(), plan::spec(), skills::spec()]);
        ours.extend(Notebook::specs());
        for tool in &mut created.tools {
            let known = ours.iter().find(|spec| spec.name == tool.name);
            // What nobody here knows is not run unasked.
            (tool.reach, tool.replay) =
                known.map_or((Reach::Final, Replay::Unsafe), |spec| (spec.reach, spec.replay));
        }
        self.reach_out(&mut created.tools);
    }

    fn checkpoints(&self) -> Option<Checkpoints> {
        self.options.checkpoints.clone()
    }

    async fn open(&self, id: &SessionId, created: &Created) -> Result<Arc<dyn World>, Error> {
        let (memory, name) = (self.memory.clone(), id.clone());
        let journal = blocking(move || Ok(memory.journal(name.as_str())?)).await?;
        let thinking = Arc::new(Thinking::default());
        let mut minds = self.shared.minds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        minds.push(Arc::downgrade(&thinking));
        drop(minds);
        let mut policy = self.policy(&created.workspace);
        policy.frozen = created.parent.as_ref().is_some_and(|parent| parent.access == Access::Read);
        Ok(Arc::new(LiveWorld {
            live: self.clone(),
            journal,
            thinking,
            policy,
            rules: [
                (Level::Operator, &self.options.rules),
                (Level::Repository, &created.repository_rules),
                (Level::Session, &created.rules),
            ]
            .into_iter()
            .map(|(level, rules)| Ok((level, Rules::new(level, rules).map_err(Error::BadRequest)?)))
            .collect::<Result<_, Error>>()?,
            led: created.led,
            model: created.model.clone(),
            dialect: Dialect::named(&created.dialect),
            toolbox: Toolbox::new(self.options.egress.as_deref(), &self.options.servers),
            id: id.clone(),
            notebook: Notebook::new(self.memory.clone(), id, &created.workspace),
            slot: self.options.snapshots.as_ref().map(|snapshots| snapshots.slot(&self.slot_name(id))),
            sandbox: Mutex::default(),
        }))
    }

    async fn forget(&self, id: &SessionId) {
        if let Some(branch) = self.options.branches.as_ref().map(|branches| branches.join(id.as_str())) {
            // Most sessions have none.
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(branch)).await;
        }
        if let Some(snapshots) = self.options.snapshots.clone() {
            let name = self.slot_name(id);
            // What cannot be deleted now goes when its room is needed.
            let _ = tokio::task::spawn_blocking(move || snapshots.delete(&name)).await;
        }
        if let Some(checkpoints) = self.options.checkpoints.clone() {
            let name = id.to_string();
            let forgotten = blocking(move || Ok(checkpoints.forget(&name)?)).await;
            if let Err(error) = forgotten {
                tracing::warn!(session = %id, %error, "the checkpoints of a deleted session are still there; they go when their room is needed");
            }
        }
    }

    async fn branch(&self, child: &SessionId, base: &Tree) -> Result<PathBuf, Error> {
        let (Some(branches), Some(checkpoints)) = (&self.options.branches, &self.options.checkpoints) else {
            return Err(Error::BadRequest(
                "workspaces are not kept here, so there can be no copy of one".to_string(),
            ));
        };
        let folder = branches.join(child.as_str());
        let made = std::fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
        let folder = made.map_err(|error| {
            Error::BadRequest(format!("no folder {} for a copy of the workspace: {error}", folder.display()))
        })?;
        let sandbox = Sandbox::open(self.policy(&folder)).await?;
        // What a copy that was cut off has left is made whole.
        let now = checkpoints.take(&sandbox, child.as_str()).await?.tree;
        let changed = checkpoints.restore(&sandbox, child.as_str(), base, &now).await?;
        match changed.is_empty() {
            true => Ok(folder),
            false => Err(Error::ChangedMeanwhile { paths: changed }),
        }
    }

    async fn empty(&self, folder: &Path) -> Result<PathBuf, Error> {
        let bad = |why: String| Error::BadRequest(format!("{} cannot be worked in: {why}", folder.display()));
        // Only the last part may be missing, so that nothing is made outside the roots on the way.
        let parent = folder
            .parent()
            .filter(|_| folder.is_absolute())
            .ok_or_else(|| bad("give a whole path".into()))?;
        let name = folder.file_name().ok_or_else(|| bad("it has no name".into()))?;
        let parent = parent.canonicalize().map_err(|error| bad(error.to_string()))?;
        let place = parent.join(name);
        match workspace(&place, &self.options.roots) {
            Ok(real) => {
                let empty = std::fs::read_dir(&real).is_ok_and(|mut entries| entries.next().is_none());
                if empty { Ok(real) } else { Err(bad("it is not empty".into())) }
            }
            Err(error @ Error::OutsideRoots { .. }) => Err(error),
            Err(_) if place.symlink_metadata().is_err() => {
                inside(&parent, &self.options.roots)?;
                std::fs::create_dir(&place).map_err(|error| bad(error.to_string()))?;
                Ok(place)
            }
            Err(error) => Err(error),
        }
    }

    fn now_ms(&self) -> u64 {
        now_ms()
    }
}

/// The folder a session works in, checked: it exists, is a folder, and lies under a root once every link is followed.
fn workspace(asked: &Path, roots: &[PathBuf]) -> Result<PathBuf, Error> {
    if !asked.is_absolute() {
        return Err(Error::BadRequest(format!("the workspace {} is not an absolute path", asked.display())));
    }
    let real = asked.canonicalize().map_err(|error| {
        Error::BadRequest(format!("the workspace {} cannot be used: {error}", asked.display()))
    })?;
    if !real.is_dir() {
        return Err(Error::BadRequest(format!("the workspace {} is not a folder", asked.display())));
    }
    if real.parent().is_none() {
        return Err(Error::BadRequest(
            "the root of the file system is no workspace; choose a project's folder".to_string(),
        ));
    }
    inside(&real, roots)?;
    Ok(real)
}

/// Whether a folder, with every link followed, lies under a root.
fn inside(real: &Path, roots: &[PathBuf]) -> Result<(), Error> {
    if roots.iter().any(|root| root.canonicalize().is_ok_and(|root| real.starts_with(root))) {
        return Ok(());
    }
    let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
    Err(Error::OutsideRoots { path: real.to_path_buf(), roots: roots.join(", ") })
}

//! Opens a model and hands out timelines.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::cache::{Chain, EDITION, KvKind, Layout};
use crate::counts::{Activity, Counters};
use crate::crew::{self, Crew};
use crate::experts::{Held, Uses};
use crate::guess::{Counts, Guesses, Speculate};
use crate::kernels::Kernels;
use crate::model::{Model, Spec, know};
use crate::shelf::Shelf;
use crate::snapshot::{Secret, Snapshots};
use crate::tables;
use crate::weights::sound::{Stored, unsound};
use crate::weights::{Place, Source, Table};
use crate::worker::{self, Drafter, LineId, Order};
use crate::{Error, Grammar, GrammarSource, Timeline, Tokenizer, kv};

/// A token's id in the model's vocabulary.
pub type Token = u32;

/// A model that is open and ready. Cheap to clone: all clones share one worker thread, the only one that
/// touches the device. The model is closed when the last engine and the last timeline are gone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// How a model is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How many threads compute; 0 means one per physical core.
    pub threads: usize,
    /// The longest line a timeline may hold; `None` means the model's own limit, but at most 32,768.
    pub context_tokens: Option<usize>,
    /// How keys and values are stored.
    pub kv: KvKind,
    /// The most memory that the KV of lines may take that nobody is at work on: a line that begins as one of them did goes
    /// on from there. With 0 lines share nothing but what they were forked from. `None` means a gibibyte.
    pub kv_bytes: Option<u64>,
    /// The most memory that the KV of all timelines may take. Work on one waits until there is room for all it needs;
    /// timelines that have rested for ten seconds make room, and are computed anew, or found again, when they go on.
    /// `None` means four fifths of what is free when the model is open.
    pub lines_bytes: Option<u64>,
    /// Where timelines find what was written of others that began as they do, also before a restart. `None`, or `kv_bytes`
    /// of 0: nowhere.
    pub snapshots: Option<Snapshots>,
    /// The most memory that experts may take: the others stay on disk and are read when they are chosen. `None`
    /// maps all of them, and leaves it to the system what is in memory.
    pub expert_bytes: Option<u64>,
    /// The most memory that rows of Engram tables may take, all tables together: the others stay on disk and are read
    /// when a text asks for them. `None` means a gibibyte.
    pub table_bytes: Option<u64>,
    /// Whether rows and index keys of DeepSeek V4 and V4.1 take the round trips through FP8 and FP4 that these models were
    /// trained with, as their makers' programs do; transformers does not, and other families have none.
    pub round_trips: bool,
    /// Whether tokens are guessed before they are sampled. What is sampled is the same in any case. A model's prediction layer
    /// is used only if they are.
    pub speculate: Speculate,
    /// A smaller model with the same vocabulary that guesses what this one says next, in place of its prediction layer if it
    /// has one. It is opened only if tokens are guessed.
    pub draft: Option<PathBuf>,
    /// Whether activations stay floats where weights are packed, which is far slower: for judging a model. Sessions take them as
    /// two digits of eight bits.
    pub exact: bool,
    /// Whether only token ids will be asked about, no text: then a model whose tokenizer cannot be used opens
    /// without one.
    pub tokens_only: bool,
}

/// What is known of an open model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The model's name as its file gives it, or the file's name.
    pub name: String,
    /// The family: the file's `general.architecture`.
    pub architecture: String,
    /// How many weights the model has.
    pub parameters: u64,
    /// The file's size, which is about the memory the weights take.
    pub file_bytes: u64,
    /// The longest line a timeline may hold.
    pub context_tokens: usize,
    /// How many tokens the model can tell apart.
    pub vocabulary: usize,
    /// The Jinja template of the model's chat format, if the file has one.
    pub chat_template: Option<String>,
    /// The block type most weights are stored in, such as `Q4_K`.
    pub quantisation: String,
    /// How many layers the model has.
    pub layers: usize,
    /// What one token of a timeline takes in the KV cache.
    pub kv_bytes_per_token: usize,
}

/// How far a long piece of work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The model file is being read.
    Loading {
        /// Bytes read so far.
        done_bytes: u64,
        /// Bytes to read in all.
        total_bytes: u64,
    },
    /// Tokens are being computed.
    Prefilling {
        /// Tokens computed so far by this call.
        done_tokens: usize,
        /// Tokens this call has to compute.
        total_tokens: usize,
    },
}

impl Engine {
    /// Opens the model at `path`; blocks until it is ready. `on` hears how far it is.
    ///
    /// # Errors
    /// [`Error::NotGguf`], [`Error::Truncated`], [`Error::BadModel`], [`Error::Unsupported`] and
    /// [`Error::Tensor`] say what is wrong with the file; [`Error::Io`] that it cannot be read; [`Error::Option`] that options
    /// do not fit the model, as a draft model with another vocabulary does not.
    pub fn open(path: &Path, options: Options, on: &mut dyn FnMut(Progress)) -> Result<Engine, Error> {
        let kernels = Kernels::pick()?;
        let kernels = if options.exact { kernels.exact() } else { kernels };
        let source = Source::open(path, know)?;
        let mut spec = Spec::read(&source)?;
        spec.take_trips(options.round_trips).map_err(|why| source.bad(why))?;
        let draft = options.draft.as_deref().filter(|_| options.speculate != Speculate::Off);
        if options.speculate == Speculate::Off || draft.is_some() {
            spec.predictor = None;
        }
        let context_tokens = context(&spec, options.context_tokens)?;
        let tokenizer = match tokenizer(&source, spec.vocabulary) {
            Err(error) if options.tokens_only => {
                tracing::warn!(%error, "going on without a tokenizer");
                Tokenizer::absent(spec.vocabulary)
            }
            tokenizer => tokenizer?,
        };
        let table_bytes = options.table_bytes.unwrap_or(TABLE_BYTES);
        let mut model = Model::load(&source, spec, &tokenizer, table_bytes, kernels)?;
        let place = match options.expert_bytes {
            None => None,
            Some(budget) => model.place_experts(budget, source.files())?,
        };
        let spec = model.spec();
        let info = ModelInfo {
            name: source.text("general.name").map_or_else(|| file_name(path), str::to_owned),
            architecture: spec.architecture.clone(),
            parameters: source.parameters(),
            file_bytes: source.file_bytes(),
            context_tokens,
            vocabulary: spec.vocabulary,
            chat_template: chat_template(&source),
            quantisation: source.quantisation().to_owned(),
            layers: spec.layers.len(),
            kv_bytes_per_token: {
                let predictor = model.predictor().map(|predictor| predictor.cache_layout(options.kv));
                let layouts = predictor.into_iter().chain([model.cache_layout(options.kv)]);
                layouts.map(|layout| layout.bytes_per_token()).sum()
            },
        };
        let threads = if options.threads == 0 { physical_cores() } else { options.threads };
        let crew = Crew::new(threads).map_err(|e| Error::Option(format!("{threads} threads: {e}")))?;
        crew.lead(|| {
            read_ahead(&source, &model, place.as_deref(), on)?;
            turn(&source, &mut model, kernels, on);
            Ok::<(), Error>(())
        })?;
        let drafter = match draft {
            Some(path) => {
                let draft = crew.lead(|| open_draft(path, &tokenizer, &options, kernels, on))?;
                tracing::info!(draft = %path.display(), "opened a draft model");
                Some(Drafter::new(draft, options.kv))
            }
            None => None,
        };
        tracing::info!(
            model = info.name,
            architecture = info.architecture,
            kernels = kernels.name(),
            threads,
            context_tokens,
            "opened"
        );
        let tables = model.tables();
        let guesses = Arc::new(Counts::default());
        let counters = Arc::new(Counters::default());
        let kv_counts = Arc::new(kv::Counts::default());
        let kv_bytes = options.kv_bytes.unwrap_or(KV_BYTES);
        let layout = Arc::new(model.cache_layout(options.kv));
        let root = root(&source, path, &layout, &options)?;
        let shelf = Shelf::new(layout, root, kv_bytes, options.snapshots, Arc::clone(&kv_counts));
        let settings = worker::Settings {
            kv: options.kv,
            context_tokens,
            lines_bytes: options.lines_bytes.unwrap_or_else(|| {
                // What is free of the cache of files holds the model, unless that is read as it is used.
                let model = if options.expert_bytes.is_some() { 0 } else { source.file_bytes() };
                let free = available_memory().map_or(u64::MAX, |free| free.saturating_sub(model));
                (free / 5).saturating_mul(4).max(LINES_BYTES_MIN)
            }),
            speculate: options.speculate,
            drafter,
            guesses: Arc::clone(&guesses),
            counters: Arc::clone(&counters),
        };
        let orders = worker::start(model, settings, shelf, crew)
            .map_err(|e| Error::Option(format!("the engine's thread does not start: {e}")))?;
        let (orders, lines) = (Mutex::new(orders), AtomicU64::new(0));
        let shared = Shared { info, tokenizer, place, tables, guesses, counters, kv_counts, orders, lines };
        Ok(Engine { shared: Arc::new(shared) })
    }

    /// What is known of the model.
    pub fn model(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// How often each expert was chosen since the model was opened, for every layer that has experts: a prompt of `n`
    /// tokens chooses `n` times as many as one token goes through. Answered between two chunks of other work.
    ///
    /// # Errors
    /// [`Error::Stopped`] only.
    pub async fn expert_uses(&self) -> Result<Vec<Uses>, Error> {
        let (done, answer) = tokio::sync::oneshot::channel();
        self.shared.order(Order::ExpertUses { done })?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// What was kept of experts and read of them, if they stay on disk: see [`Options::expert_bytes`].
    pub fn experts_held(&self) -> Option<Held> {
        self.shared.place.as_ref().map(|place| place.counts())
    }

    /// What was asked of all tables together and what they keep, if the model has any: see [`Options::table_bytes`].
    pub fn tables_held(&self) -> Option<tables::Held> {
        let tables = &self.shared.tables;
        (!tables.is_empty()).then(|| tables.iter().map(|table| table.counts()).sum())
    }

    /// What was done since the model was opened.
    pub fn activity(&self) -> Activity {
        self.shared.counters.read()
    }

    /// How many tokens were guessed before they were sampled, and how many of them rightly, by what they were guessed from.
    pub fn guesses(&self) -> Guesses {
        self.shared.guesses.read()
    }

    /// What lines found of what others had computed, and what is kept: see [`Options::kv_bytes`].
    pub fn kv_held(&self) -> kv::Held {
        self.shared.kv_counts.read()
    }

    /// Bounds anew what [`Options::kv_bytes`] bounds.
    ///
    /// # Errors
    /// [`Error::Stopped`] only.
    pub fn set_kv_bytes(&self, bytes: u64) -> Result<(), Error> {
        self.shared.order(Order::KeepBytes(bytes))
    }

    /// A new, empty timeline.
    pub fn timeline(&self) -> Timeline {
        Timeline::new(Arc::clone(&self.shared))
    }

    /// A new, empty timeline that shares what is computed only with timelines that have the same secret, and whose snapshots
    /// are sealed with it.
    ///
    /// # Errors
    /// [`Error::Stopped`] only.
    pub fn timeline_under(&self, secret: &Secret) -> Result<Timeline, Error> {
        Timeline::under(Arc::clone(&self.shared), secret.clone())
    }

    /// A matcher for `source`, to be given to [`Timeline::next`].
    ///
    /// # Errors
    /// [`Error::Grammar`] if the source does not compile.
    pub fn grammar(&self, source: &GrammarSource) -> Result<Grammar, Error> {
        Grammar::new(source, self.tokenizer())
    }
}

/// What all engines and timelines of one open model share.
pub(crate) struct Shared {
    pub(crate) info: ModelInfo,
    tokenizer: Tokenizer,
    /// Where the experts are, if they stay on disk.
    place: Option<Arc<Place>>,
    /// The tables of layers that look up n-grams.
    tables: Vec<Arc<Table>>,
    guesses: Arc<Counts>,
    pub(crate) counters: Arc<Counters>,
    kv_counts: Arc<kv::Counts>,
    /// Locked for the moment of a send.
    orders: Mutex<Sender<Order>>,
    lines: AtomicU64,
}

impl Shared {
    /// A name for a line that no other has.
    pub(crate) fn new_line(&self) -> LineId {
        LineId(self.lines.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn order(&self, order: Order) -> Result<(), Error> {
        // A sender cannot be left half-changed, so a poisoned lock means nothing here.
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.send(order).map_err(|_| Error::Stopped)
    }
}

/// What stands for everything that lines are computed with: lines of engines that differ in any of it find nothing of each
/// other.
fn root(source: &Source, path: &Path, layout: &Layout, options: &Options) -> Result<Chain, Error> {
    // Within one engine there is nothing to tell apart.
    let fingerprint = match options.snapshots {
        Some(_) => source.fingerprint(path)?,
        None => [0; 32],
    };
    let version = env!("CARGO_PKG_VERSION");
    let Options { round_trips, exact, .. } = options;
    let what = format!("{EDITION} {version} {fingerprint:?} {layout:?} {round_trips} {exact}");
    Ok(Chain::root(what.as_bytes()))
}

/// The longest line if nobody says otherwise. What a model could hold is often more than a machine has room
/// for: the cache of a 1.5B model takes 28 KiB for every token.
const CONTEXT_TOKENS: usize = 32_768;

/// What the KV of all lines may take at least, if nobody says otherwise: on a machine that is full something must work.
const LINES_BYTES_MIN: u64 = 1 << 30;

/// What the KV of lines may take that nobody is at work on, if nobody says otherwise: 37,000 tokens of a 1.5B model's.
const KV_BYTES: u64 = 1 << 30;

/// What rows of tables may take if nobody says otherwise: four million rows of DeepSeek V4.1's, which are more than
/// most texts ever ask for.
const TABLE_BYTES: u64 = 1 << 30;

fn context(spec: &Spec, asked: Option<usize>) -> Result<usize, Error> {
    let limit = spec.context_tokens;
    match asked {
        None => Ok(limit.min(CONTEXT_TOKENS)),
        Some(0) => Err(Error::Option("a context of 0 tokens holds nothing".into())),
        Some(asked) if asked > limit => Err(Error::Option(format!(
            "a context of {asked} tokens: the model was made for {limit}; ask for no more than that"
        ))),
        Some(asked) => Ok(asked),
    }
}

fn file_name(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// How many cores this process may use, counting the two threads of one core once: they share the units that
/// do the arithmetic.
pub(crate) fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    // "0-1" or "0,32" names the threads of one core; without this file every thread counts as a core.
    let siblings = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list");
    let per_core = siblings.map_or(1, |list| {
        let numbers: Vec<usize> = list.trim().split(['-', ',']).filter_map(|n| n.parse().ok()).collect();
        match (list.contains('-'), &numbers[..]) {
            (true, &[first, last]) if last >= first => last - first + 1,
            (_, numbers) => numbers.len().max(1),
        }
    });
    (allowed / per_core).max(1)
}

/// Reads the weights into memory, so that the first prompt need not wait for the disk page by page, and judges them on the
/// way; but no tables, no experts that stay on disk, and nothing that is not used. What is larger than the free memory is left to be read as it is
/// used: then a number that is none is only noticed when it reaches the logits.
///
/// # Errors
/// [`Error::Tensor`] if weights are no numbers.
fn read_ahead(
    source: &Source,
    model: &Model,
    place: Option<&Place>,
    on: &mut dyn FnMut(Progress),
) -> Result<(), Error> {
    // For each call of `on`, and for each thread. Both are taken in whole blocks.
    const PIECE: usize = 32 << 20;
    const SHARE: usize = 1 << 18;
    let mut on_disk: Vec<_> = source
        .maps()
        .iter()
        .flat_map(|map| {
            let start = map.as_ptr().addr();
            let parts = place.map_or_else(Vec::new, |place| place.parts_of(map));
            parts.into_iter().map(move |part| start + part.start..start + part.end)
        })
        .collect();
    on_disk.sort_unstable_by_key(|part| part.start);
    let is_on_disk = |bytes: &[u8]| {
        let at = bytes.as_ptr().addr();
        let before = on_disk.partition_point(|part| part.start <= at);
        before > 0 && at < on_disk[before - 1].end
    };
    let mut weights = source.lying();
    weights.retain(|weights| !is_on_disk(weights.bytes) && model.uses(weights.name));
    let total_bytes = weights.iter().map(|weights| weights.bytes.len() as u64).sum();
    if available_memory().is_some_and(|available| total_bytes > available) {
        tracing::warn!(
            total_bytes,
            "the model is larger than the free memory and will be read as it is used"
        );
        return Ok(());
    }
    if on_disk.is_empty() {
        for map in source.maps() {
            // Advice only; the pages are touched below in any case.
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }
    let mut done_bytes = 0;
    for Stored { name, kind, bytes } in weights {
        let size = kind.block_bytes();
        let blocks = |bytes: usize| (bytes / size).max(1) * size;
        for (i, piece) in bytes.chunks(blocks(PIECE)).enumerate() {
            // The first block that is no numbers, whoever finds one.
            let worst = AtomicUsize::new(usize::MAX);
            crew::each(piece.len().div_ceil(blocks(SHARE)), |share| {
                let start = share * blocks(SHARE);
                let bytes = &piece[start..piece.len().min(start + blocks(SHARE))];
                if let Some(block) = unsound(kind, bytes) {
                    worst.fetch_min(start / size + block, Ordering::Relaxed);
                }
            });
            let block = worst.into_inner();
            if block < usize::MAX {
                let weight = (i * blocks(PIECE) / size + block) * kind.block();
                let why = format!(
                    "its weights from number {weight} on are no finite numbers: the file is damaged or was converted wrongly; \
                     get it again"
                );
                return Err(Error::Tensor { name: name.to_owned(), why });
            }
            done_bytes += piece.len() as u64;
            on(Progress::Loading { done_bytes, total_bytes });
        }
    }
    Ok(())
}

/// Turns the weights for kernels that are faster with that, if there is memory for it, and lets go of them as they lie in
/// the file.
fn turn(source: &Source, model: &mut Model, kernels: Kernels, on: &mut dyn FnMut(Progress)) {
    let total_bytes = if kernels.want_turned() { model.turn_bytes() } else { 0 };
    // An eighth more, and a gibibyte for everything else.
    let needed = total_bytes + total_bytes / 8 + (1 << 30);
    if total_bytes == 0 || available_memory().is_none_or(|available| needed > available) {
        return;
    }
    // All that was just read; each matrix is read once more, and let go when it is turned.
    for map in source.maps() {
        let_go(map, 0, map.len());
    }
    let mut done_bytes = 0;
    let turned = model.turn(|bytes| {
        done_bytes += bytes.len() as u64;
        // It takes a third of a second for a gigabyte, so that of small models nobody sees anything.
        if total_bytes > REPORTED_BYTES {
            on(Progress::Loading { done_bytes: done_bytes.min(total_bytes), total_bytes });
        }
        for map in source.maps() {
            let at = bytes.as_ptr().addr().checked_sub(map.as_ptr().addr());
            if let Some(at) = at.filter(|&at| at < map.len()) {
                let_go(map, at, bytes.len().min(map.len() - at));
            }
        }
    });
    if let Err(error) = turned {
        tracing::warn!(%error, "weights are left as they lie in the file, which is slower");
    }
}

/// How progress is told of larger models that are turned, which takes seconds.
const REPORTED_BYTES: u64 = 4 << 30;

/// Opens the model that guesses for one with this tokenizer.
///
/// # Errors
/// As [`Engine::open`].
fn open_draft(
    path: &Path,
    tokenizer: &Tokenizer,
    options: &Options,
    kernels: Kernels,
    on: &mut dyn FnMut(Progress),
) -> Result<Model, Error> {
    let source = Source::open(path, know)?;
    let mut spec = Spec::read(&source)?;
    spec.take_trips(options.round_trips).map_err(|why| source.bad(why))?;
    spec.predictor = None;
    let own = match self::tokenizer(&source, spec.vocabulary) {
        Err(_) if options.tokens_only => Tokenizer::absent(spec.vocabulary),
        own => own?,
    };
    if let Some(token) = tokenizer.differs(&own) {
        let [theirs, own] = [tokenizer, &own].map(|tokenizer| tokenizer.decode(&[token]));
        return Err(Error::Option(format!(
            "the draft model {} has another vocabulary: its token {token} is {own:?} and the model's {theirs:?}; choose a smaller \
             model of the same family, or leave the draft out",
            path.display()
        )));
    }
    let table_bytes = options.table_bytes.unwrap_or(TABLE_BYTES);
    let mut model = Model::load(&source, spec, &own, table_bytes, kernels)?;
    read_ahead(&source, &model, None, on)?;
    turn(&source, &mut model, kernels, on);
    Ok(model)
}

/// Lets go of some bytes of a mapped file, so that a model does not take twice its file's size until the system needs the
/// memory for something else.
fn let_go(map: &memmap2::Mmap, at: usize, len: usize) {
    // SAFETY: the map is of a file and never written to, so whatever is touched again is read again from there.
    // WHY: the resident memory of the default model is 1.0 times its file's size, and was twice that.
    let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len) };
    if let Err(error) = advised {
        tracing::debug!(%error, "weights stay in memory as they lie in the file too");
    }
}

/// The model's tokenizer: from the metadata of a GGUF file, or from the file beside a folder's weights.
///
/// A model without one can still be asked for logits, which is how tiny checkpoints are judged.
pub(crate) fn tokenizer(source: &Source, vocabulary: usize) -> Result<Tokenizer, Error> {
    match source {
        Source::Gguf(_) if source.text("tokenizer.ggml.model").is_none_or(|model| model == "none") => {
            tracing::warn!(model = source.text("general.name"), "the model file has no tokenizer");
            Ok(Tokenizer::absent(vocabulary))
        }
        Source::Gguf(file) => Tokenizer::from_gguf(file.metadata()),
        Source::Folder(folder) => {
            let path = folder.path().join("tokenizer.json");
            if path.exists() {
                return Tokenizer::from_json(&path);
            }
            tracing::warn!(folder = %folder.path().display(), "the model's folder has no tokenizer.json");
            Ok(Tokenizer::absent(vocabulary))
        }
    }
}

/// The Jinja template of the model's chat format.
fn chat_template(source: &Source) -> Option<String> {
    match source {
        Source::Gguf(file) => file.text("tokenizer.chat_template").map(str::to_owned),
        Source::Folder(folder) => {
            let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
            read("chat_template.jinja").or_else(|| {
                let config: serde_json::Value = serde_json::from_str(&read("tokenizer_config.json")?).ok()?;
                config["chat_template"].as_str().map(str::to_owned)
            })
        }
    }
}

/// Bytes that can be filled without pushing anything out that is in use, page cache counted as free.
pub(crate) fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

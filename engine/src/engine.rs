//! Opens a model and hands out timelines.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::kernels::Kernels;
use crate::model::{Model, Spec, know};
use crate::weights::Gguf;
use crate::worker::{self, LineId, Order};
use crate::{Error, Grammar, GrammarSource, Timeline, Tokenizer};

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
    /// [`Error::Tensor`] say what is wrong with the file; [`Error::Io`] that it cannot be read.
    pub fn open(path: &Path, options: Options, on: &mut dyn FnMut(Progress)) -> Result<Engine, Error> {
        let kernels = Kernels::pick()?;
        let file = Gguf::open(path, know)?;
        let spec = Spec::read(&file)?;
        let context_tokens = context(&spec, options.context_tokens)?;
        let model = Model::load(&file, spec, kernels)?;
        let tokenizer = Tokenizer::from_gguf(file.metadata())?;
        let spec = model.spec();
        let info = ModelInfo {
            name: file.text("general.name").map_or_else(|| file_name(path), str::to_owned),
            architecture: spec.architecture.clone(),
            parameters: file.parameters(),
            file_bytes: file.file_bytes(),
            context_tokens,
            vocabulary: spec.vocabulary,
            chat_template: file.text("tokenizer.chat_template").map(str::to_owned),
            quantisation: file.quantisation().to_owned(),
            layers: spec.layers.len(),
            kv_bytes_per_token: model.cache_layout().bytes_per_token(),
        };
        let threads = if options.threads == 0 { physical_cores() } else { options.threads };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("engine-{i}"))
            .build()
            .map_err(|e| Error::Option(format!("{threads} threads: {e}")))?;
        read_ahead(&file, on);
        tracing::info!(
            model = info.name,
            architecture = info.architecture,
            kernels = kernels.name(),
            threads,
            context_tokens,
            "opened"
        );
        let orders = worker::start(model, pool)
            .map_err(|e| Error::Option(format!("the engine's thread does not start: {e}")))?;
        let shared = Shared { info, tokenizer, orders: Mutex::new(orders), lines: AtomicU64::new(0) };
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

    /// A new, empty timeline.
    pub fn timeline(&self) -> Timeline {
        Timeline::new(Arc::clone(&self.shared))
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

/// The longest line if nobody says otherwise. What a model could hold is often more than a machine has room
/// for: the cache of a 1.5B model takes 28 KiB for every token.
const CONTEXT_TOKENS: usize = 32_768;

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
fn physical_cores() -> usize {
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

/// Reads the file into memory, so that the first prompt need not wait for the disk page by page. A file larger
/// than the free memory is left to be read as it is used.
fn read_ahead(file: &Gguf, on: &mut dyn FnMut(Progress)) {
    const PIECE: usize = 32 << 20;
    const PAGE: usize = 4096;
    let total_bytes = file.file_bytes();
    if available_memory().is_some_and(|available| total_bytes > available) {
        tracing::warn!(
            total_bytes,
            "the model is larger than the free memory and will be read as it is used"
        );
        return;
    }
    let map = file.map();
    // Advice only; the pages are touched below in any case.
    let _ = map.advise(memmap2::Advice::WillNeed);
    let mut done_bytes = 0;
    for piece in map.chunks(PIECE) {
        let touched = piece.iter().step_by(PAGE).fold(0_u8, |sum, &byte| sum ^ byte);
        std::hint::black_box(touched);
        done_bytes += piece.len() as u64;
        on(Progress::Loading { done_bytes, total_bytes });
    }
}

/// Bytes that can be filled without pushing anything out that is in use, page cache counted as free.
fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

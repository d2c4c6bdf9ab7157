//! Opens a model and hands out timelines.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Grammar, GrammarSource, Timeline, Tokenizer};

/// A token's id in the model's vocabulary.
pub type Token = u32;

/// A model that is open and ready. Cheap to clone: all clones share one worker thread, the only one that
/// touches the device. The model is closed when the last engine and the last timeline are gone.
#[derive(Clone)]
pub struct Engine {}

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
        todo!("{path:?} {options:?} {:p}", on)
    }

    /// What is known of the model.
    pub fn model(&self) -> &ModelInfo {
        todo!()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        todo!()
    }

    /// A new, empty timeline.
    pub fn timeline(&self) -> Timeline {
        todo!()
    }

    /// A matcher for `source`, to be given to [`Timeline::next`].
    ///
    /// # Errors
    /// [`Error::Grammar`] if the source does not compile.
    pub fn grammar(&self, source: &GrammarSource) -> Result<Grammar, Error> {
        Grammar::new(source, self.tokenizer())
    }
}

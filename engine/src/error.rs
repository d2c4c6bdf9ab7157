//! What can go wrong in the engine, sorted by what the caller can do about it.

use std::path::PathBuf;

/// The engine's one error. Each message says what happened and, where there is something to do, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is no GGUF file at all: give another one.
    #[error("{} is not a GGUF file: {why}; give the path of one, or an id of `saga model list`", path.display())]
    NotGguf {
        /// The file that was opened.
        path: PathBuf,
        /// What was found instead.
        why: String,
    },
    /// The file ends before what it announces: download it again.
    #[error("{} is cut short: {what} needs {missing} bytes more than the file has; download it again", path.display())]
    Truncated {
        /// The file that was opened.
        path: PathBuf,
        /// The tensor or the part of the header that is incomplete.
        what: String,
        /// How many bytes are missing.
        missing: u64,
    },
    /// The file is a GGUF file whose description contradicts itself or lacks something: give another one.
    #[error("{} cannot be used: {why}", path.display())]
    BadModel {
        /// The file that was opened.
        path: PathBuf,
        /// What is wrong with its metadata.
        why: String,
    },
    /// The model's family is not known to this version.
    #[error(
        "models of architecture `{architecture}` are not supported yet; supported are: {supported}; `saga model list` shows \
         models that run"
    )]
    Unsupported {
        /// The file's `general.architecture`.
        architecture: String,
        /// The architectures that are supported, separated by commas.
        supported: String,
    },
    /// One tensor is missing, has the wrong shape or a type without a kernel.
    #[error("tensor `{name}`: {why}")]
    Tensor {
        /// The tensor's name in the file.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The tokens do not fit into the context: shorten them, or open the engine with more `context_tokens`.
    #[error(
        "{asked} tokens do not fit into a context of {limit}; give fewer, or allow more with --context-tokens"
    )]
    ContextFull {
        /// How many tokens the line would have had.
        asked: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A token id lies outside of the model's vocabulary.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    NoSuchToken {
        /// The offending id.
        token: u32,
        /// The vocabulary's size; ids are below it.
        vocabulary: usize,
    },
    /// The line is empty, so nothing can follow it: `sync` at least one token first.
    #[error("the timeline is empty: sync at least one token before asking what follows")]
    Empty,
    /// No token may be sampled: the logits are all NaN or the grammar allows none.
    #[error("no token can be sampled: {why}")]
    NoChoice {
        /// Which of the two it was, and where.
        why: String,
    },
    /// The grammar's source does not compile, or its matcher has given up.
    #[error("grammar: {0}")]
    Grammar(String),
    /// The model's tokenizer cannot be built from the file.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A setting cannot be obeyed.
    #[error("bad option: {0}")]
    Option(String),
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is no model of this name.
    #[error(
        "there is no model called `{asked}`; known are {known}; one of the Hugging Face hub is called hf:OWNER/NAME, and one of \
         your own is given as a path that ends in .gguf or has a / in it"
    )]
    UnknownModel {
        /// What was asked for.
        asked: String,
        /// The ids of the known models, separated by commas.
        known: String,
    },
    /// The model is known and not on this disk yet: pull it.
    #[error("the model {id} is not here yet; get it with `saga model pull {id}`")]
    NotPulled {
        /// The model's id or address.
        id: String,
    },
    /// The address of a model of the hub means none, or several: give another one.
    #[error("`{asked}`: {why}")]
    Address {
        /// What was asked for.
        asked: String,
        /// What is wrong with it, and what there is instead.
        why: String,
    },
    /// No source delivered a model's file: mend one of them, or bring the file yourself.
    #[error(
        "{file} could not be fetched: {failures}. Mend one of these, or get a model yourself and pass it with --model /path/file.gguf"
    )]
    NoSource {
        /// The file's name.
        file: String,
        /// Each source with what went wrong there.
        failures: String,
    },
    /// The folder of models cannot be written to, or its disk is full.
    #[error("{}: {source}; {advice}", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// A line needs more memory than all lines may take: allow more, or ask for less.
    #[error(
        "the KV cache of this line would take {asked} bytes, and there are {limit} for all lines together; keep it in fewer \
         bits with the setting `kv`, make the prompt shorter, or give the machine more memory"
    )]
    NoRoom {
        /// What the line needs, in bytes.
        asked: u64,
        /// What there is for all lines.
        limit: u64,
    },
    /// The line was computed together with others, and it failed for one of them: try again.
    #[error("what was computed together with other lines failed; try again: {0}")]
    Together(String),
    /// The worker thread has ended, which only a defect in the engine can cause: open the engine again.
    #[error("the engine's worker has stopped; open the model again and report this")]
    Stopped,
}

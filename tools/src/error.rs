//! What can go wrong with the sandbox itself. A tool that merely fails is an `Outcome`, never one of these.

use std::io;
use std::path::PathBuf;

/// The sandbox could not be opened, or broke. The variants are told apart by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A protection is not available on this host and the policy does not let it be missing: mend the host, or name the
    /// layer in [`Policy::lowered`](crate::Policy) and accept a weaker sandbox.
    #[error("the sandbox layer \"{layer}\" does not hold on this host: {detail}. {mend}")]
    Missing {
        /// The layer's name, as [`probe`](crate::probe) shows it.
        layer: String,
        /// What was tried and what the kernel answered.
        detail: String,
        /// What an operator can do about it, as a sentence.
        mend: String,
    },
    /// The workspace cannot be used: choose another folder.
    #[error("the workspace {} cannot be used: {why}", path.display())]
    Workspace {
        /// The folder as it was given.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The helper binary did not answer as a helper: a mistake in how the binary is built or named.
    #[error("the sandbox helper {} did not start: {why}", path.display())]
    Helper {
        /// The binary that was started.
        path: PathBuf,
        /// What happened instead.
        why: String,
    },
    /// The sandbox is gone (its anchor died or was killed): open a new one. The workspace is as the last command left it.
    #[error("the sandbox is gone: {0}; open a new one")]
    Gone(String),
    /// A checkpoint cannot be taken, is no longer there, or cannot be put back. Nothing else is wrong: work goes on without it.
    #[error("the workspace has no checkpoint: {0}")]
    Uncovered(String),
    /// The operating system refused something that should have worked.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

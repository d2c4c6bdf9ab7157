//! What is kept of lines for other lines, and how often it was of use.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What lines found of what others had computed since the model was opened, and what is kept ([`Options::kv_bytes`]).
///
/// [`Options::kv_bytes`]: crate::Options::kv_bytes
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Tokens that were not computed because another line had done so.
    pub shared_tokens: u64,
    /// Tokens that were not computed because they were read from snapshots.
    pub restored_tokens: u64,
    /// Bytes that are kept now; lines that are at work hold some of them.
    pub held_bytes: u64,
    /// The most that are kept besides what lines hold that are at work.
    pub budget_bytes: u64,
}

/// The same while it is counted, by the worker and for whoever looks.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    shared_tokens: AtomicU64,
    restored_tokens: AtomicU64,
    held_bytes: AtomicU64,
    budget_bytes: AtomicU64,
}

impl Counts {
    pub(crate) fn found(&self, shared: usize, restored: usize) {
        self.shared_tokens.fetch_add(shared as u64, Ordering::Relaxed);
        self.restored_tokens.fetch_add(restored as u64, Ordering::Relaxed);
    }

    pub(crate) fn held(&self, held: u64, budget: u64) {
        self.held_bytes.store(held, Ordering::Relaxed);
        self.budget_bytes.store(budget, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Held {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Held {
            shared_tokens: read(&self.shared_tokens),
            restored_tokens: read(&self.restored_tokens),
            held_bytes: read(&self.held_bytes),
            budget_bytes: read(&self.budget_bytes),
        }
    }
}

//! What an engine has done since its model was opened, counted while it does it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// What an engine has done since its model was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Activity {
    /// Tokens of prompts that were computed.
    pub prefilled_tokens: u64,
    /// Tokens of prompts that were there already.
    pub cached_tokens: u64,
    /// Tokens that were sampled.
    pub sampled_tokens: u64,
    /// Tokens that a grammar left no choice about, so that they were not sampled.
    pub forced_tokens: u64,
    /// Passes through the model.
    pub passes: u64,
    /// How many lines took part in them, added up: over the passes, how many were computed together.
    pub lines_in_passes: u64,
    /// Time spent on prompts, in seconds.
    pub prefill_seconds: f64,
    /// Time spent on logits to sample from, in seconds; guesses are in it.
    pub decode_seconds: f64,
    /// Time spent on grammars' masks, in seconds: they are made while the logits are computed.
    pub mask_seconds: f64,
}

/// The same while it is counted. Times are nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    prefilled: AtomicU64,
    cached: AtomicU64,
    sampled: AtomicU64,
    forced: AtomicU64,
    passes: AtomicU64,
    lines: AtomicU64,
    prefill: AtomicU64,
    decode: AtomicU64,
    mask: AtomicU64,
}

impl Counters {
    pub(crate) fn prefilled(&self, tokens: usize, took: Duration) {
        add(&self.prefilled, tokens as u64);
        add(&self.prefill, nanoseconds(took));
    }

    pub(crate) fn cached(&self, tokens: usize) {
        add(&self.cached, tokens as u64);
    }

    pub(crate) fn sampled(&self) {
        add(&self.sampled, 1);
    }

    pub(crate) fn forced(&self) {
        add(&self.forced, 1);
    }

    pub(crate) fn passed(&self, lines: usize) {
        add(&self.passes, 1);
        add(&self.lines, lines as u64);
    }

    pub(crate) fn decoded(&self, took: Duration) {
        add(&self.decode, nanoseconds(took));
    }

    pub(crate) fn masked(&self, took: Duration) {
        add(&self.mask, nanoseconds(took));
    }

    pub(crate) fn read(&self) -> Activity {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let seconds = |count: &AtomicU64| Duration::from_nanos(read(count)).as_secs_f64();
        Activity {
            prefilled_tokens: read(&self.prefilled),
            cached_tokens: read(&self.cached),
            sampled_tokens: read(&self.sampled),
            forced_tokens: read(&self.forced),
            passes: read(&self.passes),
            lines_in_passes: read(&self.lines),
            prefill_seconds: seconds(&self.prefill),
            decode_seconds: seconds(&self.decode),
            mask_seconds: seconds(&self.mask),
        }
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// Five hundred years fit.
fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

//! The least time a token can take: that in which memory gives the bytes it is computed from.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::threads;
use crate::crew::{self, Crew};
use crate::plan::{Kv, Shape, token_bytes};
use crate::{Error, KvKind};

/// What memory allows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Floor {
    /// What memory gives in a second.
    pub memory_bytes_per_s: f64,
    /// What a token is computed from: weights, of experts those that it goes through, and what it looks at of its line.
    pub token_bytes: u64,
    /// So many tokens per second can be decoded one after the other, and no more.
    pub tokens_per_s: f64,
}

/// Bytes that are summed up, far more than any cache holds, and how often. The fastest pass counts: others were disturbed.
const BYTES: usize = 1 << 30;
const BYTES_MIN: usize = 16 << 20;
const PASSES: usize = 5;
/// Numbers that one thread sums up at once: a megabyte of them.
const PART: usize = 1 << 17;

impl Floor {
    /// Measures the memory with so many threads, as [`super::threads`] says, and counts the bytes of a token of the model at
    /// `path` after a line of `tokens` tokens. Blocks for a second or two.
    ///
    /// # Errors
    /// Those of [`Shape::read`]; [`Error::Option`] if so many threads cannot be started.
    pub fn measure(path: &Path, kv: KvKind, tokens: usize, asked_threads: usize) -> Result<Floor, Error> {
        let kv = match kv {
            KvKind::F32 => Kv::F32,
            KvKind::F16 => Kv::F16,
            KvKind::Q8 => Kv::Q8,
        };
        let token_bytes = token_bytes(&Shape::read(path)?, kv, tokens as u64)?;
        let memory_bytes_per_s = memory_bytes_per_s(threads(asked_threads))?;
        let tokens_per_s = memory_bytes_per_s / token_bytes.max(1) as f64;
        Ok(Floor { memory_bytes_per_s, token_bytes, tokens_per_s })
    }

    /// How much of what memory allows a speed is, in tokens per second; 1 is all.
    pub fn reached(&self, tokens_per_s: f64) -> f64 {
        tokens_per_s / self.tokens_per_s
    }
}

/// What memory gives in a second to so many threads that do nothing but add up what they read.
fn memory_bytes_per_s(threads: usize) -> Result<f64, Error> {
    let crew = Crew::new(threads).map_err(|e| Error::Option(format!("{threads} threads: {e}")))?;
    // A machine that has little left is not to be pushed over the edge.
    let available = crate::engine::available_memory().unwrap_or(u64::MAX) / 4;
    let bytes = BYTES.min(usize::try_from(available).unwrap_or(usize::MAX)).max(BYTES_MIN);
    // Not zeros, of which all pages would be one; each part is written by one thread at once.
    let numbers = bytes / size_of::<u64>();
    let mut buffer = vec![0_u64; numbers];
    crew.lead(|| {
        crew::each_part(crew::chunks(&mut buffer, PART), 1, |i, part| part.fill(i as u64 + 1));
    });
    let sum = |i: usize| {
        let part = &buffer[i * PART..numbers.min((i + 1) * PART)];
        // Lanes of their own, so that no sum waits for the one before it.
        let (eights, rest) = part.as_chunks::<8>();
        let mut lanes = [0_u64; 8];
        for eight in eights {
            for (lane, number) in lanes.iter_mut().zip(eight) {
                *lane = lane.wrapping_add(*number);
            }
        }
        std::hint::black_box(lanes.iter().chain(rest).fold(0_u64, |sum, &number| sum.wrapping_add(number)));
    };
    let pass = |_| {
        let start = Instant::now();
        crew.lead(|| crew::each(numbers.div_ceil(PART), sum));
        (numbers * size_of::<u64>()) as f64 / start.elapsed().as_secs_f64().max(1e-9)
    };
    Ok((0..PASSES).map(pass).fold(0.0, f64::max))
}

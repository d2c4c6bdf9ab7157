//! Keeping the best of many.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The best so many of a stream of scored numbers; of equal scores, the larger number is the better one.
pub(crate) struct Best {
    limit: usize,
    heap: BinaryHeap<Worst>,
}

/// The greatest is the one to be dropped first.
#[derive(PartialEq)]
struct Worst {
    score: f32,
    number: u64,
}

impl Eq for Worst {}

impl Ord for Worst {
    fn cmp(&self, other: &Worst) -> Ordering {
        other.score.total_cmp(&self.score).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Worst) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Best {
    /// An empty list that keeps `limit`.
    pub(crate) fn new(limit: usize) -> Best {
        Best { limit, heap: BinaryHeap::with_capacity(limit.min(4096) + 1) }
    }

    /// What a score has to be at least to be kept.
    pub(crate) fn least(&self) -> f32 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() >= self.limit => worst.score,
            _ => f32::MIN,
        }
    }

    /// Takes a number in, if it is one of the best.
    pub(crate) fn put(&mut self, number: u64, score: f32) {
        self.heap.push(Worst { score, number });
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
    }

    /// The best, best first.
    pub(crate) fn sorted(self) -> Vec<(u64, f32)> {
        self.heap.into_sorted_vec().into_iter().map(|worst| (worst.number, worst.score)).collect()
    }
}

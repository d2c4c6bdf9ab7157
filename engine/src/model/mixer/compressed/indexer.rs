//! Chooses the rows that a query sees: a small attention judges all of them by keys of their own.

use std::ops::Range;

use super::best::Best;
use crate::cache::{BLOCK_ROWS, Rows};
use crate::crew;
use crate::kernels::{Kernels, TILE};

/// What is asked of the rows.
pub(crate) struct Questions<'a> {
    /// How many rows each token sees.
    pub(crate) wanted: usize,
    /// [tokens, heads, head]
    pub(crate) queries: &'a [f32],
    /// [tokens, heads]
    pub(crate) weights: &'a [f32],
    /// How many of the rows each token could see; never fewer than the token before it.
    pub(crate) visible: &'a [usize],
}

impl Questions<'_> {
    /// The queries and weights of one token.
    pub(super) fn of(&self, token: usize) -> (&[f32], &[f32]) {
        let count = self.visible.len();
        let (queries, heads) = (self.queries.len() / count, self.weights.len() / count);
        (&self.queries[token * queries..][..queries], &self.weights[token * heads..][..heads])
    }
}

/// Rows that one thread takes at least, so that handing them out costs little beside them.
const ROWS_MIN: usize = 64 * BLOCK_ROWS;
const _: () = assert!(BLOCK_ROWS.is_multiple_of(TILE));

/// The rows that each token sees, in order; nothing if all tokens see all they could.
///
/// Threads share out the tokens, and if there are few of them the rows as well. Which rows are the best does not
/// depend on it.
pub(crate) fn choose(kernels: Kernels, keys: &Rows, questions: &Questions<'_>) -> Option<Vec<Vec<u32>>> {
    let visible = questions.visible;
    let tokens = visible.len();
    let most = *visible.last()?;
    if most <= questions.wanted {
        return None;
    }
    let units = units(questions, BLOCK_ROWS);
    let found: Vec<Vec<Best>> = crew::map(units.len(), |i| {
        let (tokens, rows) = &units[i];
        look_through(kernels, keys, questions, tokens.clone(), rows.clone())
    });
    let mut chosen: Vec<Best> = (0..tokens).map(|_| Best::new(questions.wanted)).collect();
    for ((tokens, _), found) in units.iter().zip(found) {
        for (token, found) in tokens.clone().zip(found) {
            chosen[token].append(found);
        }
    }
    Some(chosen.into_iter().map(Best::into_rows).collect())
}

/// Tokens and rows that one thread takes at once. Parts of the rows start at a multiple of `edge`, itself one of a block.
pub(super) fn units(questions: &Questions<'_>, edge: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let tokens = questions.visible.len();
    let most = questions.visible.last().copied().unwrap_or(0);
    // A block of keys is read once for all tokens of a unit, and their queries stay in the core's cache.
    let threads = crew::threads();
    let fit = QUERY_NUMBERS / (questions.queries.len() / tokens).max(1);
    let size = fit.min(tokens.div_ceil(2 * threads)).max(1);
    let parts = (2 * threads).div_ceil(tokens.div_ceil(size)).min(most.div_ceil(ROWS_MIN)).max(1);
    let rows = most.div_ceil(parts).next_multiple_of(edge);
    (0..tokens)
        .step_by(size)
        .flat_map(|token| {
            let tokens = token..(token + size).min(tokens);
            (0..most).step_by(rows).map(move |row| (tokens.clone(), row..(row + rows).min(most)))
        })
        .collect()
}

/// Numbers of queries that one thread takes at once: a quarter of a megabyte.
const QUERY_NUMBERS: usize = 1 << 16;

/// The best of some rows for some tokens.
fn look_through(
    kernels: Kernels,
    keys: &Rows,
    questions: &Questions<'_>,
    tokens: Range<usize>,
    rows: Range<usize>,
) -> Vec<Best> {
    let mut best: Vec<Best> = tokens.clone().map(|_| Best::new(questions.wanted)).collect();
    judge(kernels, keys, questions, tokens, rows, &mut best, Best::bar, |best, seen| {
        for (row, &score) in (seen.first..).zip(seen.scores) {
            best.offer(score, row as u32);
        }
    });
    best
}

/// Rows that a token sees, judged.
pub(super) struct Seen<'a> {
    /// The number of the first.
    pub(super) first: usize,
    pub(super) scores: &'a [f32],
    /// How many rows the token sees in all.
    pub(super) visible: usize,
}

/// Judges some rows for some tokens, tile by tile. What is found for a token is told by `bar` which scores it has no use
/// for; `take` gets tiles that have better ones.
#[expect(
    clippy::too_many_arguments,
    reason = "the loop over tiles is the same for all who look through rows"
)]
pub(super) fn judge<F>(
    kernels: Kernels,
    keys: &Rows,
    questions: &Questions<'_>,
    tokens: Range<usize>,
    rows: Range<usize>,
    found: &mut [F],
    bar: impl Fn(&F) -> f32,
    take: impl Fn(&mut F, Seen<'_>),
) {
    let width = keys.width();
    let (mut block, mut turned) = (vec![0.0; TILE * width], vec![0.0; TILE * width]);
    let mut scores = [0.0; TILE];
    let end = rows.end.min(questions.visible[tokens.end - 1]);
    for first in (rows.start..end).step_by(TILE) {
        let count = TILE.min(end - first);
        keys.read(kernels, first, count, &mut block[..count * width]);
        kernels.turn(&block, &mut turned);
        for (token, found) in tokens.clone().zip(&mut *found) {
            let visible = questions.visible[token];
            let seen = visible.saturating_sub(first).min(count);
            if seen == 0 {
                continue;
            }
            let (query, weights) = questions.of(token);
            if kernels.judge(&turned, query, weights, bar(found), &mut scores) {
                take(found, Seen { first, scores: &scores[..seen], visible });
            }
        }
    }
}

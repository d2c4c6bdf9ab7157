//! What queries see of a cache of keys and values, in one pass over it.

use rayon::prelude::*;

use crate::cache::Heads;
use crate::kernels::{Head, Kernels, State, TILE, Tile};

/// How queries look at the cache.
pub(crate) struct Attention<'a> {
    pub(crate) heads: usize,
    /// Divides `heads`: so many heads after one another share keys and values.
    pub(crate) kv_heads: usize,
    pub(crate) head: Head,
    /// How many positions a query sees, its own included; all if there is none.
    pub(crate) window: Option<usize>,
    /// For every head one more score whose value is nothing.
    pub(crate) sinks: Option<&'a [f32]>,
}

/// Query positions one thread takes at once. A tile of keys is read once for all of them, and their results
/// stay in the core's cache while all tiles pass.
const QUERIES: usize = 16;
/// Heads one thread takes at once of those that share keys and values. More read a tile less often; fewer leave
/// work for other threads when one token is decoded and all heads look at the same keys.
const HEADS: usize = 16;

/// What every query sees: q [tokens, heads, key] → mixed [tokens, heads, value]. The queries' own keys are in the
/// cache, from position `first` on.
///
/// In one pass over the cache for some heads that share keys, tile by tile from the first. A
/// query takes the same steps whether it comes alone or in a chunk, so its result does too.
pub(crate) fn attend(
    kernels: Kernels,
    attention: &Attention<'_>,
    cache: &Heads,
    first: usize,
    q: &[f32],
    mixed: &mut Vec<f32>,
) {
    let &Attention { heads, kv_heads, head, window, sinks } = attention;
    let (q_row, row) = (heads * head.key, heads * head.value);
    let tokens = q.len() / q_row;
    mixed.resize(tokens * row, 0.0);
    let group = heads / kv_heads;
    // Evenly: of twenty heads ten and ten, not sixteen and four.
    let part = group.div_ceil(group.div_ceil(HEADS));
    let parts = (0..kv_heads).flat_map(|kv_head| {
        let firsts = (0..group).step_by(part).map(move |at| (kv_head * group + at, part.min(group - at)));
        firsts.map(move |(first, count)| (kv_head, first, count))
    });
    // A head of keys, the first of the heads that look at it, and how many do.
    let parts: Vec<(usize, usize, usize)> = parts.collect();
    let units: Vec<(usize, (usize, usize, usize))> = (0..tokens)
        .step_by(QUERIES)
        // Late queries see the most; starting with them evens out the threads' ends.
        .rev()
        .flat_map(|token| parts.iter().map(move |&part| (token, part)))
        .collect();
    let results: Vec<Vec<f32>> = units
        .par_iter()
        .map_init(Tile::default, |tile, &(start, (kv_head, head_start, group))| {
            let count = QUERIES.min(tokens - start);
            // [token, head, key]: the heads lie together in every token.
            let columns = head_start * head.key..(head_start + group) * head.key;
            let mut queries = Vec::with_capacity(count * group * head.key);
            for token in start..start + count {
                queries.extend_from_slice(&q[token * q_row..][columns.clone()]);
            }
            let mut outputs = vec![0.0; count * group * head.value];
            let mut states: Vec<State> = (0..count * group).map(|_| State::EMPTY).collect();
            let mut seen = vec![[0; 2]; count * group];
            // From which position on anybody sees anything, and up to which.
            let from = window.map_or(0, |window| (first + start + 1).saturating_sub(window));
            let until = first + start + count;
            for tile_start in (from / TILE * TILE..until).step_by(TILE) {
                for (i, seen) in seen.iter_mut().enumerate() {
                    let position = first + start + i / group;
                    let from = window.map_or(0, |window| (position + 1).saturating_sub(window));
                    *seen = [from, position + 1].map(|at| at.saturating_sub(tile_start).min(TILE));
                }
                cache.read(kernels, kv_head, tile_start / TILE, tile);
                kernels.attend(tile, head, &queries, &seen, &mut states, &mut outputs);
            }
            for (i, (state, output)) in states.iter().zip(outputs.chunks_exact_mut(head.value)).enumerate() {
                state.settle(sinks.map(|sinks| sinks[head_start + i % group]), output);
            }
            outputs
        })
        .collect();
    for (&(start, (_, head_start, group)), result) in units.iter().zip(&results) {
        for (i, result) in result.chunks_exact(group * head.value).enumerate() {
            let at = (start + i) * row + head_start * head.value;
            mixed[at..at + group * head.value].copy_from_slice(result);
        }
    }
}

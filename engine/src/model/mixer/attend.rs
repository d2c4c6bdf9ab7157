//! What queries see of a cache of keys and values, in one pass over it.

use std::cell::RefCell;

use crate::cache::Heads;
use crate::crew::{self, Grid};
use crate::kernels::{Head, Kernels, State, TILE, Tile};
use crate::model::forward::Stretch;

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

/// Some of the tokens at hand: those of one line, which stand at the positions from `first` on. Their own keys are in
/// the line's cache.
pub(crate) struct Lookers<'a> {
    pub(crate) cache: &'a Heads,
    pub(crate) first: usize,
    pub(crate) tokens: usize,
}

/// Puts the keys [tokens, key row] and values [tokens, value row] of all stretches into their caches as layer `i`'s.
/// There are none where keys are values too.
pub(crate) fn keep(
    stretches: &mut [Stretch<'_>],
    i: usize,
    keys: &[f32],
    key_row: usize,
    values: Option<&[f32]>,
) {
    let value_row = values.map_or(0, |values| values.len() / (keys.len() / key_row));
    let mut token = 0;
    for stretch in stretches {
        let (first, heads) = (stretch.first(), stretch.cache.layer_mut(i).heads.as_mut());
        let heads = heads.expect("the layout of attention has heads");
        for position in first..first + stretch.tokens {
            let value = values.map_or(&[][..], |values| &values[token * value_row..][..value_row]);
            heads.write(position, &keys[token * key_row..][..key_row], value);
            token += 1;
        }
    }
}

/// The stretches' tokens as they look at what layer `i` keeps.
pub(crate) fn lookers<'a>(stretches: &'a [Stretch<'_>], i: usize) -> Vec<Lookers<'a>> {
    let looker = |stretch: &'a Stretch<'_>| {
        let cache = stretch.cache.layer(i).heads.as_ref().expect("the layout of attention has heads");
        Lookers { cache, first: stretch.first(), tokens: stretch.tokens }
    };
    stretches.iter().map(looker).collect()
}

/// What a thread needs for its queries, kept because making it anew costs as much as a short line's attention.
#[derive(Default)]
struct Desk {
    tile: Tile,
    /// [token, head, key]: the heads lie together in every token.
    queries: Vec<f32>,
    seen: Vec<[usize; 2]>,
    states: Vec<State>,
    /// [token, head, value]
    outputs: Vec<f32>,
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::default();
}

/// Some queries that one thread takes at once.
struct Unit {
    line: usize,
    /// The place of the first token among all tokens at hand, and in its line.
    start: usize,
    start_in_line: usize,
    tokens: usize,
    /// A head of keys, the first of the heads that look at it, and how many do.
    kv_head: usize,
    head_start: usize,
    heads: usize,
}

/// What every query sees: q [tokens, heads, key] → mixed [tokens, heads, value]. The tokens are those of all lines, one
/// line after the other.
///
/// In one pass over each cache for some heads that share keys, tile by tile from the first. A
/// query takes the same steps whether it comes alone, in a chunk, or with other lines, so its result does too.
pub(crate) fn attend(
    kernels: Kernels,
    attention: &Attention<'_>,
    lines: &[Lookers<'_>],
    q: &[f32],
    mixed: &mut Vec<f32>,
) {
    let &Attention { heads, kv_heads, head, .. } = attention;
    let tokens = q.len() / (heads * head.key);
    let row = heads * head.value;
    mixed.resize(tokens * row, 0.0);
    let group = heads / kv_heads;
    // Evenly: of twenty heads ten and ten, not sixteen and four.
    let part = group.div_ceil(group.div_ceil(HEADS));
    let mut units = Vec::new();
    let mut before = 0;
    for (line, lookers) in lines.iter().enumerate() {
        // Late queries see the most; starting with them evens out the threads' ends.
        for start_in_line in (0..lookers.tokens).step_by(QUERIES).rev() {
            for kv_head in 0..kv_heads {
                units.extend((0..group).step_by(part).map(|at| Unit {
                    line,
                    start: before + start_in_line,
                    start_in_line,
                    tokens: QUERIES.min(lookers.tokens - start_in_line),
                    kv_head,
                    head_start: kv_head * group + at,
                    heads: part.min(group - at),
                }));
            }
        }
        before += lookers.tokens;
    }
    assert_eq!(before, tokens, "every token is a line's");
    let grid = Grid::new(mixed, row);
    crew::each(units.len(), |i| {
        let unit = &units[i];
        DESK.with_borrow_mut(|desk| unit.look(kernels, attention, &lines[unit.line], q, desk));
        let columns = unit.head_start * head.value..(unit.head_start + unit.heads) * head.value;
        // SAFETY: units have different tokens, or different heads of the same.
        // WHY: see `Grid`.
        let share = unsafe { grid.share(unit.start..unit.start + unit.tokens, columns.clone()) };
        DESK.with_borrow(|desk| {
            for (token, output) in desk.outputs.chunks_exact(columns.len()).enumerate() {
                share.put(unit.start + token, columns.start, output);
            }
        });
    });
}

impl Unit {
    /// Leaves in `desk.outputs` what the queries see.
    fn look(
        &self,
        kernels: Kernels,
        attention: &Attention<'_>,
        line: &Lookers<'_>,
        q: &[f32],
        desk: &mut Desk,
    ) {
        let &Attention { heads, head, window, sinks, .. } = attention;
        let Desk { tile, queries, seen, states, outputs } = desk;
        let count = self.tokens * self.heads;
        let columns = self.head_start * head.key..(self.head_start + self.heads) * head.key;
        queries.clear();
        for q in q[self.start * heads * head.key..].chunks_exact(heads * head.key).take(self.tokens) {
            queries.extend_from_slice(&q[columns.clone()]);
        }
        outputs.clear();
        outputs.resize(count * head.value, 0.0);
        states.clear();
        states.resize_with(count, || State::EMPTY);
        seen.resize(count, [0; 2]);
        // From which position on anybody sees anything, and up to which.
        let first = line.first + self.start_in_line;
        let from = window.map_or(0, |window| (first + 1).saturating_sub(window));
        let until = first + self.tokens;
        for tile_start in (from / TILE * TILE..until).step_by(TILE) {
            for (i, seen) in seen.iter_mut().enumerate() {
                let position = first + i / self.heads;
                let from = window.map_or(0, |window| (position + 1).saturating_sub(window));
                *seen = [from, position + 1].map(|at| at.saturating_sub(tile_start).min(TILE));
            }
            line.cache.read(kernels, self.kv_head, tile_start / TILE, tile);
            kernels.attend(tile, head, queries, seen, states, outputs);
        }
        for (i, (state, output)) in states.iter().zip(outputs.chunks_exact_mut(head.value)).enumerate() {
            state.settle(sinks.map(|sinks| sinks[self.head_start + i % self.heads]), output);
        }
    }
}

//! What queries see of a line: the rows of the last positions, and the rows that stand for more.

use std::cell::RefCell;

use crate::cache::Rows;
use crate::crew;
use crate::kernels::{Head, Kernels, State, TILE, Tile};

/// What there is to see. A row is key and value at once.
pub(crate) struct View<'a> {
    pub(crate) heads: usize,
    /// How long a row is.
    pub(crate) row: usize,
    /// The rows of the last positions, of which the last one is the last query's own.
    pub(crate) near: &'a [f32],
    /// How many of them a query sees, its own included.
    pub(crate) window: usize,
    pub(crate) far: Option<Far<'a>>,
    /// For every head one more score whose value is nothing.
    pub(crate) sinks: &'a [f32],
}

/// Rows that stand for several positions.
pub(crate) struct Far<'a> {
    pub(crate) rows: &'a Rows,
    /// How many of the rows each token could see.
    pub(crate) visible: &'a [usize],
    /// The ones it sees; if there are none, it sees all it could.
    pub(crate) chosen: Option<&'a [Vec<u32>]>,
}

/// Queries one thread takes at most: a tile of rows is turned once for all of them, and they and their results fill
/// half a megabyte with the longest heads known.
const QUERIES_MAX: usize = 128;
/// Queries one thread takes at least, so that turning a tile costs little beside them.
const QUERIES_MIN: usize = 8;

/// What every query sees: q [tokens, heads, row] → mixed [tokens, heads, row]. The tokens stand at the positions from
/// `first` on.
///
/// Every query goes over the window, then over the far rows, tile by tile. The tiles lie where the positions say, and
/// those of chosen rows where their order says, so a query's steps are the same whether it comes alone or in a chunk.
pub(crate) fn look(kernels: Kernels, view: &View<'_>, first: usize, q: &[f32], mixed: &mut Vec<f32>) {
    let &View { heads, row, .. } = view;
    let queries = q.len() / row;
    let size = queries.div_ceil(4 * crew::threads()).clamp(QUERIES_MIN, QUERIES_MAX);
    mixed.clear();
    mixed.resize(q.len(), 0.0);
    crew::each_part(crew::chunks(mixed, size * row), 1, |i, outputs| {
        let queries = &q[i * size * row..][..outputs.len()];
        let mut unit = Unit {
            view,
            head: Head { key: row, value: row, scale: 1.0 / (row as f32).sqrt() },
            first,
            start: i * size,
            queries,
            states: (0..queries.len() / row).map(|_| State::EMPTY).collect(),
            outputs,
        };
        TILE_AT_HAND.with_borrow_mut(|tile| {
            // Whatever it held before is written over before it is read, but for rows that nobody sees.
            tile.keys.resize(row * TILE, 0.0);
            tile.values.resize(row * TILE, 0.0);
            unit.near(kernels, first + q.len() / (heads * row), tile);
            if let Some(far) = &view.far {
                match far.chosen {
                    None => unit.all(kernels, far, tile),
                    Some(chosen) => unit.chosen(kernels, far, chosen, tile),
                }
            }
        });
        unit.settle();
    });
}

thread_local! {
    /// Each thread's tile of rows.
    static TILE_AT_HAND: RefCell<Tile> = RefCell::default();
}

/// Some queries after one another, and what they have seen so far.
struct Unit<'a> {
    view: &'a View<'a>,
    head: Head,
    first: usize,
    /// The first query's number among all queries of all tokens.
    start: usize,
    queries: &'a [f32],
    states: Vec<State>,
    outputs: &'a mut [f32],
}

impl Unit<'_> {
    /// The token of query `i`.
    fn token(&self, i: usize) -> usize {
        (self.start + i) / self.view.heads
    }

    /// The window. The rows at hand end before position `end`.
    fn near(&mut self, kernels: Kernels, end: usize, tile: &mut Tile) {
        let View { row, near, window, .. } = *self.view;
        let near_first = end - near.len() / row;
        let position = |unit: &Self, i| unit.first + unit.token(i);
        let from = (position(self, 0) + 1).saturating_sub(window);
        let until = position(self, self.states.len() - 1) + 1;
        let mut seen = vec![[0; 2]; self.states.len()];
        for tile_first in (from / TILE * TILE..until).step_by(TILE) {
            for (i, seen) in seen.iter_mut().enumerate() {
                let position = position(self, i);
                *seen = [(position + 1).saturating_sub(window), position + 1]
                    .map(|at| at.saturating_sub(tile_first).min(TILE));
            }
            let rows = tile_first.max(near_first)..(tile_first + TILE).min(until);
            for at in rows {
                let values = &mut tile.values[(at - tile_first) * row..][..row];
                values.copy_from_slice(&near[(at - near_first) * row..][..row]);
            }
            self.attend(kernels, tile, 0, &seen);
        }
    }

    /// All far rows that a query could see.
    fn all(&mut self, kernels: Kernels, far: &Far<'_>, tile: &mut Tile) {
        let row = self.view.row;
        let until = far.visible[self.token(self.states.len() - 1)];
        let mut seen = vec![[0; 2]; self.states.len()];
        for tile_first in (0..until).step_by(TILE) {
            let count = TILE.min(until - tile_first);
            for (i, seen) in seen.iter_mut().enumerate() {
                *seen = [0, far.visible[self.token(i)].saturating_sub(tile_first).min(TILE)];
            }
            far.rows.read(kernels, tile_first, count, &mut tile.values[..count * row]);
            self.attend(kernels, tile, 0, &seen);
        }
    }

    /// The far rows that were chosen for each token.
    fn chosen(&mut self, kernels: Kernels, far: &Far<'_>, chosen: &[Vec<u32>], tile: &mut Tile) {
        let row = self.view.row;
        let mut from = 0;
        while from < self.states.len() {
            let token = self.token(from);
            let until = ((token + 1) * self.view.heads - self.start).min(self.states.len());
            for rows in chosen[token].chunks(TILE) {
                for (&at, values) in rows.iter().zip(tile.values.chunks_exact_mut(row)) {
                    far.rows.read(kernels, at as usize, 1, values);
                }
                self.attend(kernels, tile, from, &vec![[0, rows.len()]; until - from]);
            }
            from = until;
        }
    }

    /// Lets the queries from number `from` on see a tile of rows.
    fn attend(&mut self, kernels: Kernels, tile: &mut Tile, from: usize, seen: &[[usize; 2]]) {
        let row = self.view.row;
        // A row is key and value at once.
        kernels.turn(&tile.values, &mut tile.keys);
        let places = from * row..(from + seen.len()) * row;
        kernels.attend(
            tile,
            self.head,
            &self.queries[places.clone()],
            seen,
            &mut self.states[from..from + seen.len()],
            &mut self.outputs[places],
        );
    }

    fn settle(&mut self) {
        let View { heads, row, sinks, .. } = *self.view;
        for (i, (state, output)) in self.states.iter().zip(self.outputs.chunks_exact_mut(row)).enumerate() {
            state.settle(Some(sinks[(self.start + i) % heads]), output);
        }
    }
}

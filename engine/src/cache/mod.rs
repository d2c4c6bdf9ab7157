//! What a timeline keeps of the tokens it has computed: for every layer the rows that later tokens look at, and,
//! where a mixer has one, a state that the next token continues.
//!
//! Rows can be cut anywhere. A state cannot: the past is folded into it. So the cache keeps *marks*, copies of all
//! states at the edges of blocks, and a line is cut back to the last mark before the place; what lies between is
//! computed again. Everything is shared between forks until one of them writes.

mod heads;
mod numbers;
mod page;
mod prefix;
mod rows;

use std::sync::Arc;

pub(crate) use heads::Heads;
pub(crate) use page::{PAGE_TOKENS, Page, Piece, States, put_states, states_bytes, take_states};
pub(crate) use prefix::{Chain, Place, Prefix};
pub(crate) use rows::{BLOCK_ROWS, Rows};

/// How numbers of the cache are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvKind {
    /// As they were computed, in four bytes: for judging other ways, not for work.
    F32,
    /// In two bytes.
    #[default]
    F16,
    /// In one byte, with a scale for every head of every position.
    Q8,
}

/// Counts changes of what the numbers of the cache are or of how they lie in memory, since snapshots hold them as they are.
/// A test fails when it has to be raised.
pub(crate) const EDITION: u32 = 1;

/// What each layer keeps.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) kind: KvKind,
    pub(crate) layers: Vec<LayerLayout>,
}

/// What one layer keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LayerLayout {
    /// Keys and values of every position.
    pub(crate) heads: Option<HeadsLayout>,
    /// Lists of rows.
    pub(crate) rows: Vec<RowsLayout>,
    /// How many numbers the state has.
    pub(crate) state: usize,
}

/// Keys and values of every position, head by head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadsLayout {
    pub(crate) heads: usize,
    pub(crate) key: usize,
    pub(crate) value: usize,
    /// Whether the values are the first numbers of the keys, and not kept a second time.
    pub(crate) shared: bool,
}

/// Rows of one length, one for every `ratio` positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowsLayout {
    pub(crate) width: usize,
    pub(crate) ratio: usize,
}

impl Layout {
    /// What one more token takes in the long run.
    pub(crate) fn bytes_per_token(&self) -> usize {
        let bytes = self.layers.iter().map(|layer| {
            let heads = layer.heads.map_or(0.0, |heads| heads.bytes(self.kind) as f64);
            let rows = layer.rows.iter().map(|rows| rows.bytes(self.kind) as f64 / rows.ratio as f64);
            heads + rows.sum::<f64>()
        });
        bytes.sum::<f64>().ceil() as usize
    }

    /// What a line of so many tokens takes that shares nothing with others; marks aside.
    pub(crate) fn bytes(&self, tokens: usize) -> u64 {
        let states: usize = self.layers.iter().map(|layer| 4 * layer.state).sum();
        tokens as u64 * self.bytes_per_token() as u64 + states as u64
    }

    /// Whether any layer has a state.
    pub(crate) fn has_states(&self) -> bool {
        self.layers.iter().any(|layer| layer.state > 0)
    }
}

impl HeadsLayout {
    /// What the keys and values of one position take.
    pub(crate) fn bytes(&self, kind: KvKind) -> usize {
        let numbers = self.key + if self.shared { 0 } else { self.value };
        let scales = if self.shared { 1 } else { 2 };
        self.heads
            * match kind {
                KvKind::F32 => 4 * numbers,
                KvKind::F16 => 2 * numbers,
                KvKind::Q8 => numbers + 4 * scales,
            }
    }
}

impl RowsLayout {
    /// What one row takes.
    pub(crate) fn bytes(&self, kind: KvKind) -> usize {
        match kind {
            KvKind::F32 => 4 * self.width,
            KvKind::F16 => 2 * self.width,
            KvKind::Q8 => self.width + 4,
        }
    }
}

/// What one line keeps. A clone is a fork.
#[derive(Clone)]
pub(crate) struct Cache {
    layout: Arc<Layout>,
    layers: Vec<Memory>,
    tokens: usize,
    marks: Vec<Mark>,
    /// Before tokens that may be cut off soon: see [`Cache::hold`].
    held: Option<Mark>,
}

/// What one layer keeps of a line.
#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) heads: Option<Heads>,
    pub(crate) rows: Vec<Rows>,
    state: Arc<Vec<f32>>,
}

impl Memory {
    /// The state, to be read.
    #[cfg(test)]
    pub(crate) fn state(&self) -> &[f32] {
        &self.state
    }

    /// The state, to be continued.
    pub(crate) fn state_mut(&mut self) -> &mut [f32] {
        let state: &mut Vec<f32> = Arc::make_mut(&mut self.state);
        state
    }
}

/// All states after some tokens.
#[derive(Clone)]
struct Mark {
    tokens: usize,
    states: Vec<Arc<Vec<f32>>>,
}

/// How many marks a line of this many tokens has that was never cut.
pub(crate) fn marks(tokens: usize) -> usize {
    let state = LayerLayout { state: 1, ..LayerLayout::default() };
    let mut cache = Cache::new(Arc::new(Layout { kind: KvKind::F32, layers: vec![state] }));
    for _ in 0..tokens / MARK_TOKENS {
        cache.commit(MARK_TOKENS);
    }
    cache.marks.len()
}

/// Tokens between two places where a mark may be.
pub(crate) const MARK_TOKENS: usize = 256;

impl Cache {
    pub(crate) fn new(layout: Arc<Layout>) -> Cache {
        let kind = layout.kind;
        let layers = layout.layers.iter().map(|layer| Memory {
            heads: layer.heads.map(|heads| Heads::new(heads, kind)),
            rows: layer.rows.iter().map(|&rows| Rows::new(rows, kind)).collect(),
            state: Arc::new(vec![0.0; layer.state]),
        });
        let layers = layers.collect();
        Cache { layout, layers, tokens: 0, marks: Vec::new(), held: None }
    }

    /// How many tokens are in it.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets what is after the first `tokens`, and before it what cannot be kept without the rest: see
    /// [`Cache::tokens`] for what is left.
    pub(crate) fn truncate(&mut self, tokens: usize) {
        if tokens >= self.tokens {
            return;
        }
        let mut left = tokens;
        if self.layout.has_states() {
            self.marks.retain(|mark| mark.tokens <= tokens);
            self.held.take_if(|mark| mark.tokens > tokens);
            let mark = self.held.iter().chain(self.marks.last()).max_by_key(|mark| mark.tokens);
            left = mark.map_or(0, |mark| mark.tokens);
            for (i, layer) in self.layers.iter_mut().enumerate() {
                layer.state = match mark {
                    Some(mark) => Arc::clone(&mark.states[i]),
                    None => Arc::new(vec![0.0; self.layout.layers[i].state]),
                };
            }
        }
        self.tokens = left;
        for layer in &mut self.layers {
            if let Some(heads) = &mut layer.heads {
                heads.truncate(left);
            }
            for rows in &mut layer.rows {
                rows.truncate(left);
            }
        }
    }

    /// Makes room for more tokens, which count once they are committed.
    pub(crate) fn grow(&mut self, tokens: usize) {
        for layer in &mut self.layers {
            if let Some(heads) = &mut layer.heads {
                heads.grow(self.tokens, tokens);
            }
        }
    }

    /// Counts tokens that all layers have taken in, and makes a mark at the edge of a block.
    pub(crate) fn commit(&mut self, tokens: usize) {
        self.tokens += tokens;
        if self.tokens.is_multiple_of(MARK_TOKENS) {
            self.mark();
        }
    }

    /// Makes this a place to which the line can be cut back without loss. Does nothing where every place is one.
    pub(crate) fn mark(&mut self) {
        if !self.layout.has_states() || self.marks.last().is_some_and(|mark| mark.tokens == self.tokens) {
            return;
        }
        let states = self.layers.iter().map(|layer| Arc::clone(&layer.state)).collect();
        self.marks.push(Mark { tokens: self.tokens, states });
        // The farther back, the fewer: of three marks the middle one goes when they lie close together as seen
        // from here. About two marks are left for every doubling of the distance.
        let mut i = self.marks.len().saturating_sub(2);
        while i >= 1 {
            let (before, after) = (self.marks[i - 1].tokens, self.marks[i + 1].tokens);
            if 2 * (after - before) <= self.tokens - after {
                self.marks.remove(i);
            }
            i -= 1;
        }
    }

    /// Makes this a place to which the line can be cut back without loss, until the next such place is made. Unlike a
    /// mark it is not kept: it is for tokens that may be cut off as soon as they are computed.
    pub(crate) fn hold(&mut self) {
        if self.layout.has_states() {
            let states = self.layers.iter().map(|layer| Arc::clone(&layer.state)).collect();
            self.held = Some(Mark { tokens: self.tokens, states });
        }
    }

    /// Whether the line can be cut back to few places only.
    pub(crate) fn has_states(&self) -> bool {
        self.layout.has_states()
    }

    /// How many tokens may follow before a mark is due.
    pub(crate) fn tokens_to_mark(&self) -> usize {
        MARK_TOKENS - self.tokens % MARK_TOKENS
    }

    /// What layer `i` keeps.
    pub(crate) fn layer(&self, i: usize) -> &Memory {
        &self.layers[i]
    }

    /// What layer `i` keeps, to be added to.
    pub(crate) fn layer_mut(&mut self, i: usize) -> &mut Memory {
        &mut self.layers[i]
    }

    /// The same, and what a layer before it keeps, to be read.
    pub(crate) fn layer_after(&mut self, i: usize, earlier: usize) -> (&mut Memory, &Memory) {
        let (before, rest) = self.layers.split_at_mut(i);
        (&mut rest[0], &before[earlier])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache {
        let state = LayerLayout { state: 2, ..LayerLayout::default() };
        let rows = LayerLayout { rows: vec![RowsLayout { width: 3, ratio: 4 }], ..LayerLayout::default() };
        Cache::new(Arc::new(Layout { kind: KvKind::F32, layers: vec![state, rows] }))
    }

    /// Takes in `tokens` tokens one by one; the state counts them, and every fourth makes a row.
    fn extend(cache: &mut Cache, tokens: usize) {
        for _ in 0..tokens {
            cache.grow(1);
            let n = cache.tokens() + 1;
            cache.layer_mut(0).state_mut()[0] = n as f32;
            if n.is_multiple_of(4) {
                cache.layer_mut(1).rows[0].push(&[n as f32; 3]);
            }
            cache.commit(1);
        }
    }

    #[test]
    fn a_line_with_states_is_cut_back_to_a_mark() {
        let mut cache = cache();
        extend(&mut cache, 700);
        let mut fork = cache.clone();
        fork.truncate(699);
        assert_eq!(fork.tokens(), 512);
        assert_eq!(fork.layer(0).state()[0], 512.0);
        assert_eq!(fork.layer(1).rows[0].len(), 128);
        extend(&mut fork, 188);
        assert_eq!((fork.tokens(), fork.layer(0).state()[0]), (700, 700.0));
        assert_eq!((cache.tokens(), cache.layer(0).state()[0]), (700, 700.0), "the origin is as it was");
        fork.truncate(100);
        assert_eq!((fork.tokens(), fork.layer(0).state()[0], fork.layer(1).rows[0].len()), (0, 0.0, 0));
    }

    #[test]
    fn a_place_that_is_held_loses_nothing() {
        let mut cache = cache();
        extend(&mut cache, 300);
        cache.hold();
        extend(&mut cache, 3);
        cache.truncate(301);
        assert_eq!((cache.tokens(), cache.layer(0).state()[0]), (300, 300.0));
        extend(&mut cache, 300);
        cache.truncate(520);
        assert_eq!(cache.tokens(), 512, "a mark that is nearer is taken");
        cache.truncate(299);
        assert_eq!(cache.tokens(), 256);
        extend(&mut cache, 60);
        cache.truncate(310);
        assert_eq!(cache.tokens(), 256, "what was cut off is held no more");
    }

    #[test]
    fn marks_grow_with_the_logarithm_of_the_line() {
        let mut cache = cache();
        extend(&mut cache, 256 * 1024);
        assert!(cache.marks.len() < 32, "{} marks", cache.marks.len());
        // However far back, cutting loses about as much as lies behind the place, never most of the line.
        for back in [1000, 10_000, 100_000, 200_000] {
            let place = cache.tokens() - back;
            let mut cut = cache.clone();
            cut.truncate(place);
            assert!(place - cut.tokens() <= 2 * back + MARK_TOKENS, "{back}: {}", cut.tokens());
        }
    }
}

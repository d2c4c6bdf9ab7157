//! What all layers keep of some tokens in a row, taken out of the line that computed it: lines share it, and it can be
//! kept when the line is gone.

use std::ops::Range;
use std::sync::Arc;

use super::heads::Numbers;
use super::numbers::{put_floats, take_floats};
use super::rows::RowsPage;
use super::{Cache, Layout, MARK_TOKENS, Mark};
use crate::kernels::TILE;

/// Tokens of a whole page. Pages begin where marks may be, so that a line with states can go on after each.
pub(crate) const PAGE_TOKENS: usize = MARK_TOKENS;

const _: () = assert!(PAGE_TOKENS.is_multiple_of(TILE), "a page cuts no tile");

/// The states of all layers at one place.
pub(crate) type States = Vec<Arc<Vec<f32>>>;

/// What all layers keep of some tokens in a row. The numbers are the line's own, not copies, except for rows of which a
/// page has less than a block.
pub(crate) struct Page {
    tokens: usize,
    bytes: usize,
    layers: Vec<LayerPage>,
}

struct LayerPage {
    heads: Vec<Arc<Numbers>>,
    rows: Vec<RowsPage>,
}

/// A page to go on with, and the states at its end if they are known.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) page: &'a Page,
    pub(crate) states: Option<&'a States>,
}

impl Page {
    fn new(tokens: usize, layers: Vec<LayerPage>) -> Page {
        let bytes = layers.iter().map(|layer| {
            let heads = layer.heads.iter().map(|tile| tile.bytes());
            heads.sum::<usize>() + layer.rows.iter().map(RowsPage::bytes).sum::<usize>()
        });
        Page { tokens, bytes: bytes.sum(), layers }
    }

    /// Of no tokens.
    pub(crate) fn empty() -> Page {
        Page::new(0, Vec::new())
    }

    /// Adds its numbers to `to` as bytes, [`Page::bytes`] of them.
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        to.reserve(self.bytes);
        for layer in &self.layers {
            layer.heads.iter().for_each(|tile| tile.put(to));
            layer.rows.iter().for_each(|rows| rows.put(to));
        }
    }

    /// Reads what [`Page::put`] wrote of these tokens of a line with this layout; none if it is something else.
    pub(crate) fn take(layout: &Layout, tokens: &Range<usize>, mut from: &[u8]) -> Option<Page> {
        let from = &mut from;
        let mut layers = Vec::with_capacity(layout.layers.len());
        for layer in &layout.layers {
            let tiles = tokens.end.div_ceil(TILE) - tokens.start / TILE;
            let heads = layer.heads.iter().flat_map(|heads| std::iter::repeat_n(heads, tiles));
            let heads = heads.map(|&heads| Numbers::take(heads, layout.kind, from).map(Arc::new));
            let heads = heads.collect::<Option<Vec<_>>>()?;
            let rows = layer.rows.iter().map(|&rows| RowsPage::take(rows, layout.kind, tokens, from));
            layers.push(LayerPage { heads, rows: rows.collect::<Option<Vec<_>>>()? });
        }
        from.is_empty().then(|| Page::new(tokens.len(), layers))
    }

    /// How many tokens it is of.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// What its numbers take in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether both are the same numbers in memory.
    #[cfg(test)]
    pub(crate) fn shares_all(&self, other: &Page) -> bool {
        std::iter::zip(&self.layers, &other.layers).all(|(a, b)| {
            a.heads.len() == b.heads.len()
                && std::iter::zip(&a.heads, &b.heads).all(|(a, b)| Arc::ptr_eq(a, b))
        })
    }
}

/// What states take in memory.
pub(crate) fn states_bytes(states: &States) -> usize {
    states.iter().map(|state| 4 * state.len()).sum()
}

impl Cache {
    /// What is kept of these tokens, which begin where a page does.
    pub(crate) fn page(&self, tokens: Range<usize>) -> Page {
        assert!(tokens.start.is_multiple_of(PAGE_TOKENS) && tokens.end <= self.tokens);
        let layers = self.layers.iter().map(|layer| LayerPage {
            heads: layer.heads.as_ref().map_or_else(Vec::new, |heads| heads.share(&tokens)),
            rows: layer.rows.iter().map(|rows| rows.share(&tokens)).collect(),
        });
        Page::new(tokens.len(), layers.collect())
    }

    /// Goes on after the first `first` tokens, which end where a page does, with what other lines computed, up to a
    /// length of `tokens`. Where there are states the last piece has them and is taken whole.
    pub(crate) fn adopt(&mut self, first: usize, pieces: &[Piece<'_>], tokens: usize) {
        assert!(first.is_multiple_of(PAGE_TOKENS) && first <= self.tokens);
        for layer in &mut self.layers {
            if let Some(heads) = &mut layer.heads {
                heads.truncate(first);
            }
            for rows in &mut layer.rows {
                rows.truncate(first);
            }
        }
        self.marks.retain(|mark| mark.tokens <= first);
        self.held.take_if(|mark| mark.tokens > first);
        self.tokens = first;
        for Piece { page, states } in pieces {
            for (layer, more) in self.layers.iter_mut().zip(&page.layers) {
                if let Some(heads) = &mut layer.heads {
                    heads.adopt(self.tokens, &more.heads);
                }
                for (rows, more) in layer.rows.iter_mut().zip(&more.rows) {
                    rows.adopt(more);
                }
            }
            self.tokens += page.tokens;
            if let Some(states) = states {
                self.marks.push(Mark { tokens: self.tokens, states: (*states).clone() });
            }
        }
        if self.has_states() {
            let last = self.marks.last().filter(|mark| mark.tokens == self.tokens && mark.tokens == tokens);
            let last = last.expect("the last piece has states and is taken whole");
            for (layer, state) in self.layers.iter_mut().zip(&last.states) {
                layer.state = Arc::clone(state);
            }
        }
        self.truncate(tokens);
    }

    /// The states after the first `tokens` tokens, if they are known.
    pub(crate) fn states_at(&self, tokens: usize) -> Option<&States> {
        self.marks.iter().find(|mark| mark.tokens == tokens).map(|mark| &mark.states)
    }

    /// The last place up to `most` after which another line could go on, and the states there if there are any.
    pub(crate) fn last_place(&self, most: usize) -> (usize, Option<States>) {
        if !self.has_states() {
            return (self.tokens.min(most), None);
        }
        if self.tokens <= most {
            return (self.tokens, Some(self.layers.iter().map(|layer| Arc::clone(&layer.state)).collect()));
        }
        let places = self.held.iter().chain(&self.marks).filter(|mark| mark.tokens <= most);
        places
            .max_by_key(|mark| mark.tokens)
            .map_or((0, None), |mark| (mark.tokens, Some(mark.states.clone())))
    }
}

/// Adds states to `to` as bytes.
pub(crate) fn put_states(states: &States, to: &mut Vec<u8>) {
    states.iter().for_each(|state| put_floats(state, to));
}

/// Reads what [`put_states`] wrote of a line with this layout; none if it is something else.
pub(crate) fn take_states(layout: &Layout, mut from: &[u8]) -> Option<States> {
    let states = layout.layers.iter().map(|layer| take_floats(layer.state, &mut from).map(Arc::new));
    let states = states.collect::<Option<States>>()?;
    from.is_empty().then_some(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{HeadsLayout, KvKind, LayerLayout, RowsLayout};

    /// A line of a model of 1.5 billion weights, whose numbers nobody has written.
    fn line(tokens: usize) -> Cache {
        let heads = HeadsLayout { heads: 2, key: 128, value: 128, shared: false };
        let layer = LayerLayout { heads: Some(heads), ..LayerLayout::default() };
        let mut cache = Cache::new(Arc::new(Layout { kind: KvKind::F16, layers: vec![layer; 28] }));
        cache.grow(tokens);
        cache.commit(tokens);
        cache
    }

    #[test]
    fn a_fork_shares_all_of_a_long_line_and_copies_at_most_a_tile_to_go_on() {
        // What a fork costs must not grow with what it shares: 32,768 tokens are 940 MB.
        let origin = line(32_768 - 5);
        let pages = |cache: &Cache| -> Vec<Page> {
            let firsts = (0..cache.tokens()).step_by(PAGE_TOKENS);
            firsts.map(|first| cache.page(first..cache.tokens().min(first + PAGE_TOKENS))).collect()
        };
        let mut fork = origin.clone();
        let same = |fork: &Cache| {
            std::iter::zip(pages(&origin), pages(fork)).filter(|(a, b)| a.shares_all(b)).count()
        };
        assert_eq!(same(&fork), 128);
        fork.grow(1);
        fork.commit(1);
        assert_eq!(same(&fork), 127, "only what is written into becomes the fork's own");
        let last = |cache: &Cache| cache.layers[0].heads.as_ref().map(|heads| heads.share(&(32_512..32_763)));
        let (ours, theirs) = (last(&fork).unwrap(), last(&origin).unwrap());
        let copied = std::iter::zip(ours, theirs).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied, 1);
    }

    #[test]
    fn a_page_takes_what_its_layout_says() {
        assert_eq!(line(700).page(256..512).bytes(), 256 * 28 * 1024);
        let rows = vec![RowsLayout { width: 8, ratio: 4 }, RowsLayout { width: 8, ratio: 128 }];
        let layer = LayerLayout { rows, state: 3, ..LayerLayout::default() };
        let mut cache = Cache::new(Arc::new(Layout { kind: KvKind::Q8, layers: vec![layer] }));
        for position in 0..512 {
            cache.grow(1);
            for (list, ratio) in [4, 128].into_iter().enumerate() {
                if (position + 1) % ratio == 0 {
                    cache.layer_mut(0).rows[list].push(&[1.0; 8]);
                }
            }
            cache.commit(1);
        }
        assert_eq!(cache.page(256..512).bytes(), (64 + 2) * (8 + 4));
        assert_eq!(states_bytes(cache.states_at(512).unwrap()), 12);
    }
}

//! The keys and values a timeline keeps: one contiguous line of tiles.
//!
//! A tile holds TILE positions of all layers, in half precision: keys and values lie within ±65,504 and cost
//! half of what f32 would. Tiles are made as the line grows, so that an idle line costs little, and are
//! shared by forks until one of them writes.

use std::sync::Arc;

use half::f16;

use crate::kernels::TILE;

/// Where the parts of a tile lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    layers: Vec<Slot>,
    /// How many numbers a tile has.
    tile: usize,
}

/// One layer's place in every tile: for each head its keys [head, TILE], turned so that scores are computed
/// without sums across lanes, then its values [TILE, head].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    start: usize,
    kv_heads: usize,
    head: usize,
}

impl Layout {
    /// The layout for layers with these key heads of these lengths.
    pub(crate) fn new(layers: impl Iterator<Item = (usize, usize)>) -> Layout {
        let mut tile = 0;
        let layers = layers
            .map(|(kv_heads, head)| {
                let slot = Slot { start: tile, kv_heads, head };
                tile += 2 * kv_heads * head * TILE;
                slot
            })
            .collect();
        Layout { layers, tile }
    }

    /// What one token takes.
    pub(crate) fn bytes_per_token(&self) -> usize {
        self.tile / TILE * size_of::<u16>()
    }
}

/// The keys and values of one line. A clone is a fork.
#[derive(Clone)]
pub(crate) struct Cache {
    layout: Arc<Layout>,
    /// Half-precision bits.
    tiles: Vec<Arc<Vec<u16>>>,
    tokens: usize,
}

impl Cache {
    pub(crate) fn new(layout: Arc<Layout>) -> Cache {
        Cache { layout, tiles: Vec::new(), tokens: 0 }
    }

    /// How many tokens are in it.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets all but the first `tokens`.
    pub(crate) fn truncate(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
        self.tiles.truncate(self.tokens.div_ceil(TILE));
    }

    /// Makes room for more tokens, which count once they are committed.
    pub(crate) fn grow(&mut self, tokens: usize) {
        let needed = (self.tokens + tokens).div_ceil(TILE);
        // A shared tile that is about to be written becomes this line's own.
        if let Some(last) = self.tiles.get_mut(self.tokens / TILE) {
            Arc::make_mut(last);
        }
        self.tiles.resize_with(needed.max(self.tiles.len()), || Arc::new(vec![0; self.layout.tile]));
    }

    /// Counts tokens whose keys and values are written in all layers.
    pub(crate) fn commit(&mut self, tokens: usize) {
        self.tokens += tokens;
        assert!(self.tokens <= self.tiles.len() * TILE, "room was made before tokens were written");
    }

    /// A layer's place.
    pub(crate) fn slot(&self, layer: usize) -> Slot {
        self.layout.layers[layer]
    }

    /// Writes the keys and values [kv_heads, head] of one position, for which there is room.
    pub(crate) fn write(&mut self, slot: Slot, position: usize, keys: &[f32], values: &[f32]) {
        let Slot { start, kv_heads, head } = slot;
        assert!(keys.len() == kv_heads * head && values.len() == kv_heads * head);
        let tile =
            Arc::get_mut(&mut self.tiles[position / TILE]).expect("`grow` made the tile this line's own");
        let at = position % TILE;
        let heads = tile[start..start + 2 * kv_heads * head * TILE].chunks_exact_mut(2 * head * TILE);
        for (tile, (keys, values)) in heads.zip(keys.chunks_exact(head).zip(values.chunks_exact(head))) {
            let (to_keys, to_values) = tile.split_at_mut(head * TILE);
            for (i, &key) in keys.iter().enumerate() {
                to_keys[i * TILE + at] = half_bits(key);
            }
            for (to, &value) in to_values[at * head..(at + 1) * head].iter_mut().zip(values) {
                *to = half_bits(value);
            }
        }
    }

    /// One head's keys [head, TILE] and values [TILE, head] in tile number `tile`.
    pub(crate) fn tile(&self, slot: Slot, kv_head: usize, tile: usize) -> (&[u16], &[u16]) {
        let Slot { start, head, .. } = slot;
        let start = start + kv_head * 2 * head * TILE;
        self.tiles[tile][start..start + 2 * head * TILE].split_at(head * TILE)
    }
}

/// The nearest half-precision number; what is beyond the largest one becomes it, because one infinity would
/// make all scores NaN.
fn half_bits(x: f32) -> u16 {
    f16::from_f32(x.clamp(-65_504.0, 65_504.0)).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tokens: usize) -> Cache {
        let mut cache = Cache::new(Arc::new(Layout::new([(2, 16), (1, 32)].into_iter())));
        extend(&mut cache, tokens, 1.0);
        cache
    }

    fn extend(cache: &mut Cache, tokens: usize, sign: f32) {
        let first = cache.tokens();
        cache.grow(tokens);
        for position in first..first + tokens {
            for layer in 0..2 {
                let keys: Vec<f32> = (0..32).map(|i| sign * (position * 32 + i) as f32).collect();
                let values: Vec<f32> = keys.iter().map(|x| -x).collect();
                cache.write(cache.slot(layer), position, &keys, &values);
            }
        }
        cache.commit(tokens);
    }

    fn read(cache: &Cache, layer: usize, kv_head: usize, position: usize, i: usize) -> (f32, f32) {
        let slot = cache.slot(layer);
        let (keys, values) = cache.tile(slot, kv_head, position / TILE);
        let at = position % TILE;
        let (key, value) = (keys[i * TILE + at], values[at * slot.head + i]);
        (f16::from_bits(key).to_f32(), f16::from_bits(value).to_f32())
    }

    #[test]
    fn what_is_written_is_read() {
        let cache = line(TILE + 5);
        assert_eq!(read(&cache, 0, 1, TILE + 2, 3), ((34 * 32 + 19) as f32, -(34.0 * 32.0 + 19.0)));
        assert_eq!(read(&cache, 1, 0, 7, 20), ((7 * 32 + 20) as f32, -(7.0 * 32.0 + 20.0)));
    }

    #[test]
    fn a_fork_does_not_disturb_its_origin() {
        // Both share a half-filled tile and then write different things into its rest.
        let mut origin = line(5);
        let mut fork = origin.clone();
        extend(&mut fork, 3, -1.0);
        extend(&mut origin, 3, 1.0);
        assert_eq!(read(&origin, 0, 0, 6, 1).0, 193.0);
        assert_eq!(read(&fork, 0, 0, 6, 1).0, -193.0);
        assert_eq!(read(&fork, 0, 0, 4, 1), read(&origin, 0, 0, 4, 1));
    }

    #[test]
    fn a_token_costs_what_the_layout_says() {
        // Two numbers of two bytes for each of 32 columns in two layers.
        assert_eq!(Layout::new([(2, 16), (1, 32)].into_iter()).bytes_per_token(), 2 * 2 * 32 * 2);
    }

    #[test]
    fn what_does_not_fit_half_precision_stays_finite() {
        assert_eq!(f16::from_bits(half_bits(1e9)).to_f32(), 65_504.0);
        assert!(f16::from_bits(half_bits(f32::NAN)).is_nan());
    }
}

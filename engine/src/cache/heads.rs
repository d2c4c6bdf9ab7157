//! The keys and values of every position, in tiles of positions, as attention reads them.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use super::numbers::{put_bytes, put_floats, put_halves, take_bytes, take_floats, take_halves};
use super::{HeadsLayout, KvKind};
use crate::kernels::{Kernels, TILE, Tile};

/// One layer's keys and values. Tiles are made as the line grows, so that an idle line costs little, and are
/// shared by forks until one of them writes.
#[derive(Clone)]
pub(crate) struct Heads {
    layout: HeadsLayout,
    kind: KvKind,
    tiles: Vec<Arc<Numbers>>,
}

/// One tile's numbers. Every head has its keys, then its values unless they are shared.
///
/// Keys are [key, TILE], turned so that scores are computed without sums across lanes; values are [TILE, value].
#[derive(Clone)]
pub(super) enum Numbers {
    F32(Vec<f32>),
    F16(Vec<u16>),
    /// Keys and values as they lie in F16, and a scale for the key and the value of each position.
    Q8 {
        values: Vec<i8>,
        scales: Vec<f32>,
    },
}

impl Heads {
    pub(super) fn new(layout: HeadsLayout, kind: KvKind) -> Heads {
        Heads { layout, kind, tiles: Vec::new() }
    }

    pub(super) fn truncate(&mut self, tokens: usize) {
        self.tiles.truncate(tokens.div_ceil(TILE));
    }

    /// Makes room for `more` positions after the first `tokens`.
    pub(super) fn grow(&mut self, tokens: usize, more: usize) {
        let needed = (tokens + more).div_ceil(TILE);
        // A shared tile that is about to be written becomes this line's own.
        if let Some(last) = self.tiles.get_mut(tokens / TILE) {
            Arc::make_mut(last);
        }
        let (layout, kind) = (self.layout, self.kind);
        self.tiles.resize_with(needed.max(self.tiles.len()), || Arc::new(Numbers::zero(layout, kind)));
    }

    /// The tiles of these positions, which begin where a tile does.
    pub(super) fn share(&self, positions: &Range<usize>) -> Vec<Arc<Numbers>> {
        self.tiles[positions.start / TILE..positions.end.div_ceil(TILE)].to_vec()
    }

    /// Goes on with tiles of another line after the first `tokens` positions, which end where a tile does.
    pub(super) fn adopt(&mut self, tokens: usize, tiles: &[Arc<Numbers>]) {
        assert!(tokens.is_multiple_of(TILE) && self.tiles.len() >= tokens / TILE);
        self.tiles.truncate(tokens / TILE);
        self.tiles.extend_from_slice(tiles);
    }

    /// Writes the keys [heads, key] and values [heads, value] of one position, for which there is room. Shared
    /// values are not looked at.
    pub(crate) fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        let HeadsLayout { heads, key, value, shared } = self.layout;
        assert!(keys.len() == heads * key && (shared || values.len() == heads * value));
        let tile =
            Arc::get_mut(&mut self.tiles[position / TILE]).expect("`grow` made the tile this line's own");
        let at = position % TILE;
        let size = self.layout.head_numbers();
        for head in 0..heads {
            let start = head * size * TILE;
            let keys = &keys[head * key..][..key];
            tile.write(start + at, TILE, keys, 2 * head * TILE + at);
            if !shared {
                let values = &values[head * value..][..value];
                tile.write(start + key * TILE + at * value, 1, values, (2 * head + 1) * TILE + at);
            }
        }
    }

    /// Reads one head's keys and values in tile number `tile`.
    pub(crate) fn read(&self, kernels: Kernels, head: usize, tile: usize, to: &mut Tile) {
        let HeadsLayout { key, value, shared, .. } = self.layout;
        let size = self.layout.head_numbers();
        let start = head * size * TILE;
        to.keys.resize(key * TILE, 0.0);
        to.values.resize(value * TILE, 0.0);
        match &*self.tiles[tile] {
            Numbers::F32(numbers) => {
                to.keys.copy_from_slice(&numbers[start..][..key * TILE]);
                if !shared {
                    to.values.copy_from_slice(&numbers[start + key * TILE..][..value * TILE]);
                }
            }
            Numbers::F16(numbers) => {
                kernels.halves(&numbers[start..][..key * TILE], &mut to.keys);
                if !shared {
                    kernels.halves(&numbers[start + key * TILE..][..value * TILE], &mut to.values);
                }
            }
            Numbers::Q8 { values, scales } => {
                let scales = &scales[2 * head * TILE..][..2 * TILE];
                let (key_scales, value_scales) = scales.split_at(TILE);
                let keys = values[start..][..key * TILE].chunks_exact(TILE);
                for (to, from) in to.keys.chunks_exact_mut(TILE).zip(keys) {
                    for ((to, &from), scale) in to.iter_mut().zip(from).zip(key_scales) {
                        *to = f32::from(from) * scale;
                    }
                }
                if !shared {
                    let values = values[start + key * TILE..][..value * TILE].chunks_exact(value);
                    for ((to, from), scale) in to.values.chunks_exact_mut(value).zip(values).zip(value_scales)
                    {
                        for (to, &from) in to.iter_mut().zip(from) {
                            *to = f32::from(from) * scale;
                        }
                    }
                }
            }
        }
        if shared {
            // Sixteen numbers of a value fill a line of the processor's cache, which is then written once.
            for first in (0..value).step_by(16) {
                let columns = first..value.min(first + 16);
                for (j, value) in to.values.chunks_exact_mut(value).enumerate() {
                    for (x, keys) in
                        value[columns.clone()].iter_mut().zip(to.keys[first * TILE..].chunks_exact(TILE))
                    {
                        *x = keys[j];
                    }
                }
            }
        }
    }

    /// What the tiles take in memory.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.tiles.len() * TILE * self.layout.bytes(self.kind)
    }
}

impl HeadsLayout {
    /// Numbers of one head and position.
    fn head_numbers(&self) -> usize {
        self.key + if self.shared { 0 } else { self.value }
    }
}

impl Numbers {
    fn zero(layout: HeadsLayout, kind: KvKind) -> Numbers {
        let count = layout.heads * layout.head_numbers() * TILE;
        match kind {
            KvKind::F32 => Numbers::F32(vec![0.0; count]),
            KvKind::F16 => Numbers::F16(vec![0; count]),
            KvKind::Q8 => Numbers::Q8 { values: vec![0; count], scales: vec![0.0; 2 * layout.heads * TILE] },
        }
    }

    /// What they take.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Numbers::F32(numbers) => 4 * numbers.len(),
            Numbers::F16(numbers) => 2 * numbers.len(),
            Numbers::Q8 { values, scales } => values.len() + 4 * scales.len(),
        }
    }

    /// Adds them to `to` as bytes.
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        match self {
            Numbers::F32(numbers) => put_floats(numbers, to),
            Numbers::F16(numbers) => put_halves(numbers, to),
            Numbers::Q8 { values, scales } => {
                put_bytes(values, to);
                put_floats(scales, to);
            }
        }
    }

    /// Takes a tile from the front of `from`, if it has as much.
    pub(super) fn take(layout: HeadsLayout, kind: KvKind, from: &mut &[u8]) -> Option<Numbers> {
        let count = layout.heads * layout.head_numbers() * TILE;
        Some(match kind {
            KvKind::F32 => Numbers::F32(take_floats(count, from)?),
            KvKind::F16 => Numbers::F16(take_halves(count, from)?),
            KvKind::Q8 => {
                let values = take_bytes(count, from)?;
                Numbers::Q8 { values, scales: take_floats(2 * layout.heads * TILE, from)? }
            }
        })
    }

    /// Writes numbers from `start` on, `stride` apart. `scale` is the place of their scale.
    fn write(&mut self, start: usize, stride: usize, from: &[f32], scale: usize) {
        match self {
            Numbers::F32(numbers) => {
                for (i, &x) in from.iter().enumerate() {
                    numbers[start + i * stride] = x;
                }
            }
            Numbers::F16(numbers) => {
                for (i, &x) in from.iter().enumerate() {
                    numbers[start + i * stride] = half_bits(x);
                }
            }
            Numbers::Q8 { values, scales } => {
                let (unit, inverse) = unit(from);
                scales[scale] = unit;
                for (i, &x) in from.iter().enumerate() {
                    values[start + i * stride] = (x * inverse).round_ties_even() as i8;
                }
            }
        }
    }
}

/// The nearest half-precision number; what is beyond the largest one becomes it, because one infinity would
/// make all scores NaN.
pub(super) fn half_bits(x: f32) -> u16 {
    f16::from_f32(x.clamp(-65_504.0, 65_504.0)).to_bits()
}

/// What one step of a signed byte is worth so that the largest number fits, and the inverse. NaN makes it NaN, so
/// that it comes out again.
pub(super) fn unit(numbers: &[f32]) -> (f32, f32) {
    let most = numbers.iter().fold(0.0_f32, |most, x| if x.is_nan() { f32::NAN } else { most.max(x.abs()) });
    if numbers.iter().any(|x| x.is_nan()) {
        return (f32::NAN, 0.0);
    }
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    (most / 127.0, if inverse.is_finite() { inverse } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: HeadsLayout = HeadsLayout { heads: 2, key: 16, value: 8, shared: false };

    fn line(kind: KvKind, tokens: usize) -> Heads {
        let mut heads = Heads::new(LAYOUT, kind);
        extend(&mut heads, 0, tokens, 1.0);
        heads
    }

    fn extend(heads: &mut Heads, first: usize, tokens: usize, sign: f32) {
        heads.grow(first, tokens);
        for position in first..first + tokens {
            let keys: Vec<f32> = (0..32).map(|i| sign * (position * 32 + i) as f32 / 8.0).collect();
            let values: Vec<f32> = (0..16).map(|i| -sign * (position * 16 + i) as f32 / 8.0).collect();
            heads.write(position, &keys, &values);
        }
    }

    fn read(heads: &Heads, head: usize, position: usize, i: usize) -> (f32, f32) {
        let mut tile = Tile::default();
        heads.read(Kernels::PLAIN, head, position / TILE, &mut tile);
        let at = position % TILE;
        (tile.keys[i * TILE + at], tile.values[at * heads.layout.value + i])
    }

    #[test]
    fn what_is_written_is_read() {
        for (kind, error) in [(KvKind::F32, 0.0), (KvKind::F16, 0.0), (KvKind::Q8, 1.0)] {
            let heads = line(kind, TILE + 5);
            let (key, value) = read(&heads, 1, TILE + 2, 3);
            assert!((key - (34.0 * 32.0 + 19.0) / 8.0).abs() <= error, "{kind:?} {key}");
            assert!((value + (34.0 * 16.0 + 11.0) / 8.0).abs() <= error, "{kind:?} {value}");
        }
    }

    #[test]
    fn shared_values_are_the_first_numbers_of_the_keys() {
        for kind in [KvKind::F32, KvKind::F16, KvKind::Q8] {
            let mut heads = Heads::new(HeadsLayout { heads: 1, key: 16, value: 8, shared: true }, kind);
            heads.grow(0, 3);
            for position in 0..3 {
                let keys: Vec<f32> = (0..16).map(|i| (position * 16 + i) as f32).collect();
                heads.write(position, &keys, &[]);
            }
            let (key, value) = read(&heads, 0, 2, 5);
            assert_eq!(key, value);
            assert!((key - 37.0).abs() < 0.5, "{kind:?} {key}");
        }
    }

    #[test]
    fn a_fork_does_not_disturb_its_origin() {
        // Both share a half-filled tile and then write different things into its rest.
        let mut origin = line(KvKind::F16, 5);
        let mut fork = origin.clone();
        extend(&mut fork, 5, 3, -1.0);
        extend(&mut origin, 5, 3, 1.0);
        assert_eq!(read(&origin, 0, 6, 1).0, 193.0 / 8.0);
        assert_eq!(read(&fork, 0, 6, 1).0, -193.0 / 8.0);
        assert_eq!(read(&fork, 0, 4, 1), read(&origin, 0, 4, 1));
    }

    #[test]
    fn a_tile_takes_what_the_layout_says() {
        // Two heads of 24 numbers, and for bytes a scale for each key and value.
        for (kind, bytes) in [(KvKind::F32, 192), (KvKind::F16, 96), (KvKind::Q8, 64)] {
            assert_eq!(line(kind, 5).bytes(), TILE * bytes);
        }
    }

    #[test]
    fn what_does_not_fit_half_precision_stays_finite() {
        assert_eq!(f16::from_bits(half_bits(1e9)).to_f32(), 65_504.0);
        assert!(f16::from_bits(half_bits(f32::NAN)).is_nan());
    }
}

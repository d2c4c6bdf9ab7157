//! The arithmetic on activations: norms, rotation, gates, attention. It is written once, over slices and
//! fixed arrays that a compiler turns into vector code, and compiled twice: as it stands, and with AVX2 (see
//! `x86.rs`). Every addition has one place in one order, so both give the same bits.

use half::f16;

use super::plain::fold;

/// Positions in one tile of the KV cache: attention's unit of work. Four registers of eight scores.
pub(crate) const TILE: usize = 32;

/// How half-precision numbers are read; there is an instruction for it that baseline x86-64 lacks.
pub(crate) trait Halves {
    fn read(from: &[u16], to: &mut [f32]);
}

/// Reads half-precision numbers one by one.
pub(crate) struct OneByOne;

impl Halves for OneByOne {
    #[inline(always)]
    fn read(from: &[u16], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = f16::from_bits(from).to_f32();
        }
    }
}

/// Quantises one block of activations: returns what one unit is worth, fills the values and the sums of every
/// sixteen of them, and leaves in `x` what they do not say.
#[inline(always)]
pub(crate) fn quantise(x: &mut [f32], values: &mut [i8], sums: &mut [i16]) -> f32 {
    let mut largest = [0.0_f32; 8];
    let mut nothing = [0.0_f32; 8];
    for x in x.chunks_exact(8) {
        for i in 0..8 {
            largest[i] = if x[i].abs() > largest[i] { x[i].abs() } else { largest[i] };
            nothing[i] += x[i] * 0.0;
        }
    }
    // Zero times anything is nothing, but for NaN and infinity: NaN then comes out of every product, and
    // sampling names it.
    if fold(nothing).is_nan() {
        values.fill(0);
        sums.fill(0);
        return f32::NAN;
    }
    let most = largest.iter().fold(0.0, |most, &x| if x > most { x } else { most });
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    // A subnormal block would overflow the inverse; it is worth nothing beside any other.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let unit = most / 127.0;
    for ((x, values), sum) in x.chunks_exact_mut(16).zip(values.chunks_exact_mut(16)).zip(sums) {
        let mut total = 0_i32;
        for i in 0..16 {
            // Adding 1.5·2²³ rounds to a whole number, ties to even, and leaves it in the low bits.
            let rounded = x[i] * inverse + ROUND;
            let whole = rounded.to_bits() as i32 - ROUND.to_bits() as i32;
            x[i] = (rounded - ROUND).mul_add(-unit, x[i]);
            values[i] = whole as i8;
            total += whole;
        }
        *sum = total as i16;
    }
    unit
}

/// 1.5·2²³: an f32 this large has no bits left for a fraction.
const ROUND: f32 = 12_582_912.0;

/// to = x / rms(x) · weight, with rms(x) = √(mean(x²) + epsilon).
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, to: &mut [f32]) {
    let mut squares = [0.0_f32; 8];
    for x in x.chunks(8) {
        for (square, &x) in squares.iter_mut().zip(x) {
            *square = x.mul_add(x, *square);
        }
    }
    let scale = 1.0 / (fold(squares) / x.len() as f32 + epsilon).sqrt();
    for ((to, &x), &weight) in to.iter_mut().zip(x).zip(weight) {
        *to = x * scale * weight;
    }
}

/// gate = silu(gate) · up.
#[inline(always)]
pub(crate) fn silu_times(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// eˣ with a relative error below 2⁻²², within −87..=88; beyond, the nearest of the two ends.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts so that n·ln 2 is exact enough.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    // The polynomial of Cephes' expf.
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_6e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Attention's state for one query: the largest score so far, the sum of the weights, and the sum of the
/// weighted values, both relative to that largest score (Milakov and Gimelshein 2018; FlashAttention).
pub(crate) struct State {
    most: f32,
    total: f32,
}

impl State {
    pub(crate) const EMPTY: State = State { most: f32::NEG_INFINITY, total: 0.0 };

    /// Divides the weighted sum by the weights' sum: what the query has seen.
    pub(crate) fn settle(&self, output: &mut [f32]) {
        let scale = 1.0 / self.total;
        for x in output {
            *x *= scale;
        }
    }
}

/// Space for one tile in f32.
#[derive(Default)]
pub(crate) struct Tile {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Lets some queries see one tile of the cache.
///
/// `keys` [head, TILE] (turned, so that scores need no sums across lanes) and `values` [TILE, head] are half
/// precision. `queries`, `outputs` [queries, head]. `seen[i]` says how many of the tile's first positions
/// query `i` may see.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "they are one tile's operands, and a struct would only rename them"
)]
pub(crate) fn attend<H: Halves>(
    tile: &mut Tile,
    keys: &[u16],
    values: &[u16],
    head: usize,
    scale: f32,
    queries: &[f32],
    seen: &[usize],
    states: &mut [State],
    outputs: &mut [f32],
) {
    assert_eq!(keys.len(), head * TILE);
    assert_eq!(values.len(), head * TILE);
    tile.keys.resize(head * TILE, 0.0);
    tile.values.resize(head * TILE, 0.0);
    H::read(keys, &mut tile.keys);
    H::read(values, &mut tile.values);
    for (((query, output), &seen), state) in
        queries.chunks_exact(head).zip(outputs.chunks_exact_mut(head)).zip(seen).zip(states)
    {
        if seen == 0 {
            continue;
        }
        let mut scores = [0.0_f32; TILE];
        for (&q, keys) in query.iter().zip(tile.keys.chunks_exact(TILE)) {
            for j in 0..TILE {
                scores[j] = q.mul_add(keys[j], scores[j]);
            }
        }
        for (j, score) in scores.iter_mut().enumerate() {
            *score = if j < seen { *score * scale } else { f32::NEG_INFINITY };
        }
        let mut most = [f32::NEG_INFINITY; 8];
        for scores in scores.chunks_exact(8) {
            for i in 0..8 {
                most[i] = if scores[i] > most[i] { scores[i] } else { most[i] };
            }
        }
        let most = most.iter().fold(state.most, |most, &x| if x > most { x } else { most });
        let shrink = if state.most == f32::NEG_INFINITY { 0.0 } else { exp(state.most - most) };
        let mut totals = [0.0_f32; 8];
        for scores in scores.chunks_exact_mut(8) {
            for i in 0..8 {
                let weight = if scores[i] == f32::NEG_INFINITY { 0.0 } else { exp(scores[i] - most) };
                scores[i] = weight;
                totals[i] += weight;
            }
        }
        state.total = state.total.mul_add(shrink, fold(totals));
        state.most = most;
        // Sixty-four columns are eight registers, enough sums at once to keep two multipliers busy.
        let mut at = 0;
        while at + 64 <= head {
            weigh::<64>(&tile.values, head, at, &scores[..seen], shrink, output);
            at += 64;
        }
        while at < head {
            weigh::<16>(&tile.values, head, at, &scores[..seen], shrink, output);
            at += 16;
        }
    }
}

/// output[at..at + N] = output · shrink + Σ weight[j] · values[j].
#[inline(always)]
fn weigh<const N: usize>(
    values: &[f32],
    head: usize,
    at: usize,
    weights: &[f32],
    shrink: f32,
    output: &mut [f32],
) {
    let output: &mut [f32; N] =
        (&mut output[at..at + N]).try_into().expect("heads are whole multiples of sixteen");
    let mut sums = [0.0_f32; N];
    for i in 0..N {
        sums[i] = output[i] * shrink;
    }
    for (&weight, values) in weights.iter().zip(values.chunks_exact(head)) {
        let values = &values[at..at + N];
        for i in 0..N {
            sums[i] = weight.mul_add(values[i], sums[i]);
        }
    }
    *output = sums;
}

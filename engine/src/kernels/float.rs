//! The arithmetic on activations: norms, gates, attention. It is written once, over slices and
//! fixed arrays that a compiler turns into vector code, and compiled twice: as it stands, and with AVX2 (see
//! `x86.rs`). Every addition has one place in one order, so both give the same bits.

use half::f16;

use super::blocks::DIGIT_UNITS;
use super::plain::fold;

/// Positions in one tile of the KV cache: attention's unit of work. Four registers of eight scores.
pub(crate) const TILE: usize = 32;

/// Reads half-precision numbers.
pub(crate) fn halves(from: &[u16], to: &mut [f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f16::from_bits(from).to_f32();
    }
}

/// Quantises one block of activations: returns what one unit of the second digit is worth and whether that digit is used,
/// and fills the `values` [digit, block] and the `sums` [digit, block / 16] of every sixteen of them.
///
/// In a block without outliers one digit says all that matters (see [`EVEN`]), and the second is 0.
#[inline(always)]
pub(crate) fn quantise(x: &[f32], values: &mut [i8], sums: &mut [i16]) -> (f32, bool) {
    let mut largest = [0.0_f32; 8];
    let mut nothing = [0.0_f32; 8];
    let mut squares = [0.0_f32; 8];
    for x in x.chunks_exact(8) {
        for i in 0..8 {
            largest[i] = if x[i].abs() > largest[i] { x[i].abs() } else { largest[i] };
            nothing[i] += x[i] * 0.0;
            squares[i] = x[i].mul_add(x[i], squares[i]);
        }
    }
    // Zero times anything is nothing, but for NaN and infinity: NaN then comes out of every product, and
    // sampling names it.
    if fold(nothing).is_nan() {
        values.fill(0);
        sums.fill(0);
        return (f32::NAN, false);
    }
    let most = largest.iter().fold(0.0, |most, &x| if x > most { x } else { most });
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    // A subnormal block would overflow the inverse; it is worth nothing beside any other.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let fine = most * most * x.len() as f32 > EVEN * EVEN * fold(squares);
    // What is left over counts so many units of the second digit.
    let units_left = if fine { DIGIT_UNITS as f32 } else { 0.0 };
    let (high, low) = values.split_at_mut(x.len());
    let (high_sums, low_sums) = sums.split_at_mut(x.len() / 16);
    let digits = high.chunks_exact_mut(16).zip(low.chunks_exact_mut(16));
    let digits = digits.zip(high_sums.iter_mut().zip(low_sums));
    for (x, ((high, low), (high_sum, low_sum))) in x.chunks_exact(16).zip(digits) {
        // One step after the other for all sixteen, so that each is an instruction or two.
        let x: &[f32; 16] = x.try_into().expect("pieces have sixteen numbers");
        let units: [f32; 16] = std::array::from_fn(|i| x[i] * inverse);
        let rounded: [f32; 16] = std::array::from_fn(|i| units[i] + ROUND);
        // At most half a unit is left over.
        let rest: [f32; 16] = std::array::from_fn(|i| (units[i] - (rounded[i] - ROUND)) * units_left + ROUND);
        *high_sum = whole(&rounded, high);
        *low_sum = whole(&rest, low);
    }
    (most / (127 * DIGIT_UNITS) as f32, fine)
}

/// A block is even if its largest number is at most so many times the root of its mean square. Rounding an even block to
/// one digit then changes it by no more than EVEN / 440, 2.7 per cent of its length: half of what four-bit weights lose.
///
/// Measured with the default model on a text of 400 tokens, as the mean and the largest divergence (Kullback and Leibler) from
/// what unquantised activations say, and how many blocks are even:
///
/// ```text
/// EVEN    0: 0.00000  0.0000    none         8: 0.0005  0.004    81 %
///         4: 0.00007  0.0011    16 %        12: 0.0011  0.006
///         6: 0.00026  0.0021    57 %    always: 0.012   4.1     100 %
/// ```
pub(crate) const EVEN: f32 = 12.0;
// A block of 32 is always even: its largest number is at most √32 times the root of its mean square.
const _: () = assert!(EVEN * EVEN > 32.0);

/// 1.5·2²³: adding it rounds to a whole number, ties to even, and leaves that in the low bits, because an f32 this large
/// has none left for a fraction.
const ROUND: f32 = 12_582_912.0;

/// Takes whole numbers of at most seven bits out of numbers that [`ROUND`] was added to. Returns their sum.
#[inline(always)]
fn whole(rounded: &[f32; 16], to: &mut [i8]) -> i16 {
    let whole: [i32; 16] = std::array::from_fn(|i| rounded[i].to_bits() as i32 - ROUND.to_bits() as i32);
    let to: &mut [i8; 16] = to.try_into().expect("pieces have sixteen numbers");
    *to = whole.map(|whole| whole as i8);
    whole.iter().sum::<i32>() as i16
}

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

/// gate = gelu(gate) · up, with the tanh form of the Gaussian error linear unit (Hendrycks and Gimpel 2016).
#[inline(always)]
pub(crate) fn gelu_times(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        let x = *gate;
        let inner = ROOT_2_BY_PI * x * (0.044_715 * x).mul_add(x, 1.0);
        // tanh(y) = 1 − 2 / (e²ʸ + 1)
        *gate = 0.5 * x * (2.0 - 2.0 / (exp(2.0 * inner) + 1.0)) * up;
    }
}

/// √(2/π)
const ROOT_2_BY_PI: f32 = 0.797_884_6;

/// gate = silu(min(gate, limit)) · clamp(up, −limit, limit).
#[inline(always)]
pub(crate) fn clamped_silu_times(gate: &mut [f32], up: &[f32], limit: f32) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        let x = if *gate > limit { limit } else { *gate };
        *gate = x / (1.0 + exp(-x)) * up.clamp(-limit, limit);
    }
}

/// gate = min(gate, limit) · σ(alpha · min(gate, limit)) · (clamp(up, −limit, limit) + 1): what gpt-oss has
/// between its experts' matrices.
#[inline(always)]
pub(crate) fn shifted_swish_times(gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        let x = if *gate > limit { limit } else { *gate };
        *gate = x / (1.0 + exp(-alpha * x)) * (up.clamp(-limit, limit) + 1.0);
    }
}

/// Attention's state for one query: the largest score so far, the sum of the weights, and the sum of the
/// weighted values, both relative to that largest score (Milakov and Gimelshein 2018; FlashAttention).
pub(crate) struct State {
    most: f32,
    total: f32,
}

impl State {
    pub(crate) const EMPTY: State = State { most: f32::NEG_INFINITY, total: 0.0 };

    /// Divides the weighted sum by the weights' sum: what the query has seen. A `sink` is one more score whose
    /// value is nothing: it takes its share of the weights (Xiao et al. 2023).
    pub(crate) fn settle(&self, sink: Option<f32>, output: &mut [f32]) {
        let scale = match sink {
            None => 1.0 / self.total,
            Some(sink) => {
                let most = if sink > self.most { sink } else { self.most };
                let shrink = exp(self.most - most);
                shrink / self.total.mul_add(shrink, exp(sink - most))
            }
        };
        for x in output {
            *x *= scale;
        }
    }
}

/// One head's keys and values of a tile of positions, as f32.
#[derive(Default)]
pub(crate) struct Tile {
    /// [key, TILE]: turned, so that scores need no sums across lanes.
    pub(crate) keys: Vec<f32>,
    /// [TILE, value]
    pub(crate) values: Vec<f32>,
}

/// Turns rows [TILE, width] into `to` [width, TILE].
#[inline(always)]
pub(crate) fn turn(rows: &[f32], to: &mut [f32]) {
    let width = to.len() / TILE;
    assert!(rows.len() == to.len() && to.len().is_multiple_of(TILE));
    let whole = width / 8 * 8;
    for j in (0..TILE).step_by(8) {
        // Eight by eight numbers fit the registers.
        for i in (0..whole).step_by(8) {
            let mut block = [[0.0_f32; 8]; 8];
            for k in 0..8 {
                block[k].copy_from_slice(&rows[(j + k) * width + i..][..8]);
            }
            for k in 0..8 {
                let column: [f32; 8] = std::array::from_fn(|l| block[l][k]);
                to[(i + k) * TILE + j..][..8].copy_from_slice(&column);
            }
        }
        for i in whole..width {
            for k in j..j + 8 {
                to[i * TILE + k] = rows[k * width + i];
            }
        }
    }
}

/// How long a head's keys and values are, and what scores are multiplied with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) scale: f32,
}

/// Lets some queries see one tile of the cache. `queries` [queries, key], `outputs` [queries, value]. `seen[i]`
/// says from where to where in the tile query `i` sees.
///
/// Two queries that see the same are taken together: what is read of the tile then counts twice. Each takes the
/// steps it would take alone.
#[inline(always)]
pub(crate) fn attend(
    tile: &Tile,
    head: Head,
    queries: &[f32],
    seen: &[[usize; 2]],
    states: &mut [State],
    outputs: &mut [f32],
) {
    let Head { key, value, .. } = head;
    assert_eq!(tile.keys.len(), key * TILE);
    assert_eq!(tile.values.len(), value * TILE);
    let mut i = 0;
    while i < seen.len() {
        let both = i + 1 < seen.len() && seen[i] == seen[i + 1];
        let count = if both { 2 } else { 1 };
        let [from, to] = seen[i];
        if from < to {
            let queries = &queries[i * key..(i + count) * key];
            let (states, outputs) = (&mut states[i..], &mut outputs[i * value..(i + count) * value]);
            if both {
                attend_some::<2>(tile, head, queries, [from, to], states, outputs);
            } else {
                attend_some::<1>(tile, head, queries, [from, to], states, outputs);
            }
        }
        i += count;
    }
}

/// The same for Q queries that see the same.
#[inline(always)]
fn attend_some<const Q: usize>(
    tile: &Tile,
    head: Head,
    queries: &[f32],
    [from, to]: [usize; 2],
    states: &mut [State],
    outputs: &mut [f32],
) {
    let Head { key, value, scale } = head;
    let queries: [&[f32]; Q] = std::array::from_fn(|i| &queries[i * key..(i + 1) * key]);
    let mut scores = score(&tile.keys, queries);
    let mut shrinks = [0.0_f32; Q];
    for i in 0..Q {
        let (scores, state) = (&mut scores[i], &mut states[i]);
        for (j, score) in scores.iter_mut().enumerate() {
            *score = if j >= from && j < to { *score * scale } else { f32::NEG_INFINITY };
        }
        let mut most = [f32::NEG_INFINITY; 8];
        for scores in scores.chunks_exact(8) {
            for i in 0..8 {
                most[i] = if scores[i] > most[i] { scores[i] } else { most[i] };
            }
        }
        let most = most.iter().fold(state.most, |most, &x| if x > most { x } else { most });
        let shrink = if state.most == f32::NEG_INFINITY { 0.0 } else { exp(state.most - most) };
        // Without a question asked of each, so that they are made eight or sixteen at a time; what is not seen is taken out again.
        for score in &mut scores[from..to] {
            *score = exp(*score - most);
        }
        scores[..from].fill(0.0);
        scores[to..].fill(0.0);
        let mut totals = [0.0_f32; 8];
        for weights in scores.chunks_exact(8) {
            for i in 0..8 {
                totals[i] += weights[i];
            }
        }
        state.total = state.total.mul_add(shrink, fold(totals));
        state.most = most;
        shrinks[i] = shrink;
    }
    let values = &tile.values[from * value..to * value];
    let weights: [&[f32]; Q] = std::array::from_fn(|i| &scores[i][from..to]);
    // Eight registers of sums at once keep two multipliers busy.
    let mut at = 0;
    while Q == 1 && at + 64 <= value {
        weigh::<Q, 64>(values, value, at, weights, shrinks, outputs);
        at += 64;
    }
    while at + 32 <= value {
        weigh::<Q, 32>(values, value, at, weights, shrinks, outputs);
        at += 32;
    }
    while at + 8 <= value {
        weigh::<Q, 8>(values, value, at, weights, shrinks, outputs);
        at += 8;
    }
    while at < value {
        weigh::<Q, 1>(values, value, at, weights, shrinks, outputs);
        at += 1;
    }
}

/// Every query times every key of a tile: keys [key, TILE].
#[inline(always)]
fn score<const Q: usize>(keys: &[f32], queries: [&[f32]; Q]) -> [[f32; TILE]; Q] {
    let (keys, _) = keys.as_chunks::<TILE>();
    let mut scores = [[0.0_f32; TILE]; Q];
    for (k, keys) in keys.iter().enumerate() {
        for (scores, query) in scores.iter_mut().zip(queries) {
            let q = query[k];
            for (score, key) in scores.iter_mut().zip(keys) {
                *score = q.mul_add(*key, *score);
            }
        }
    }
    scores
}

/// output[at..at + N] = output · shrink + Σ weight[j] · values[j], for Q queries.
#[inline(always)]
fn weigh<const Q: usize, const N: usize>(
    values: &[f32],
    value: usize,
    at: usize,
    weights: [&[f32]; Q],
    shrinks: [f32; Q],
    outputs: &mut [f32],
) {
    let mut sums = [[0.0_f32; N]; Q];
    for i in 0..Q {
        let output = &outputs[i * value + at..i * value + at + N];
        for j in 0..N {
            sums[i][j] = output[j] * shrinks[i];
        }
    }
    for (j, values) in values.chunks_exact(value).enumerate() {
        let values = &values[at..at + N];
        for i in 0..Q {
            let weight = weights[i][j];
            for j in 0..N {
                sums[i][j] = weight.mul_add(values[j], sums[i][j]);
            }
        }
    }
    for i in 0..Q {
        outputs[i * value + at..i * value + at + N].copy_from_slice(&sums[i]);
    }
}

/// `x` · `y`: lane `i % 8` of eight sums takes product `i`, and [`fold`] adds the eight.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for (x, y) in x.chunks(8).zip(y.chunks(8)) {
        for (lane, (&x, &y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane = x.mul_add(y, *lane);
        }
    }
    fold(lanes)
}

/// to = silu(Σ row · weights): every column's own convolution over some rows, the oldest first. `rows` and `weights`
/// [taps, columns], `to` [columns].
#[inline(always)]
pub(crate) fn convolve(rows: &[f32], weights: &[f32], to: &mut [f32]) {
    let columns = to.len();
    assert!(rows.len() == weights.len() && rows.len().is_multiple_of(columns));
    let mut at = 0;
    while at + 32 <= columns {
        convolve_some::<32>(rows, weights, at, to);
        at += 32;
    }
    while at < columns {
        convolve_some::<1>(rows, weights, at, to);
        at += 1;
    }
}

/// The same for columns `at..at + N`.
#[inline(always)]
fn convolve_some<const N: usize>(rows: &[f32], weights: &[f32], at: usize, to: &mut [f32]) {
    let columns = to.len();
    let mut sums = [0.0_f32; N];
    for (row, weights) in rows.chunks_exact(columns).zip(weights.chunks_exact(columns)) {
        let (row, weights) = (&row[at..at + N], &weights[at..at + N]);
        for i in 0..N {
            sums[i] = row[i].mul_add(weights[i], sums[i]);
        }
    }
    for (to, sum) in to[at..at + N].iter_mut().zip(sums) {
        *to = sum / (1.0 + exp(-sum));
    }
}

/// Columns of a head's matrix that are corrected at once: four registers.
pub(crate) const STRIP: usize = 32;

/// What one token does to some columns of a head's matrix.
pub(crate) struct Step<'a> {
    /// What is left of the matrix when the token comes.
    pub(crate) decay: f32,
    /// How much of the error is corrected.
    pub(crate) rate: f32,
    pub(crate) query: &'a [f32],
    pub(crate) key: &'a [f32],
    pub(crate) value: [f32; STRIP],
}

/// One step of the gated delta rule (Yang et al. 2024) in some columns of a head's matrix S [key, STRIP]:
///
/// S = decay · S;  S += key · (rate · (value − Sᵀ key))ᵀ;  to = Sᵀ query
///
/// Every column's sums run over the rows from the first on, so columns depend on nothing but themselves.
#[inline(always)]
pub(crate) fn correct(state: &mut [f32], step: &Step<'_>, to: &mut [f32; STRIP]) {
    let &Step { decay, rate, query, key, value } = step;
    let (rows, _) = state.as_chunks_mut::<STRIP>();
    assert!(rows.len() == key.len() && rows.len() == query.len());
    let mut known = [0.0_f32; STRIP];
    for (row, &key) in rows.iter().zip(key) {
        for i in 0..STRIP {
            known[i] = row[i].mul_add(key, known[i]);
        }
    }
    let mut errors = [0.0_f32; STRIP];
    for i in 0..STRIP {
        errors[i] = rate * known[i].mul_add(-decay, value[i]);
    }
    let mut answer = [0.0_f32; STRIP];
    for ((row, &key), &query) in rows.iter_mut().zip(key).zip(query) {
        for i in 0..STRIP {
            row[i] = key.mul_add(errors[i], row[i] * decay);
            answer[i] = row[i].mul_add(query, answer[i]);
        }
    }
    *to = answer;
}

/// How well each row of a tile fits a query of several heads: to[j] = Σ weights[h] · max(queries[h] · keys[j], 0).
/// `keys` [width, TILE], `queries` [heads, width]. Returns whether any is above `bar`.
#[inline(always)]
pub(crate) fn judge(keys: &[f32], queries: &[f32], weights: &[f32], bar: f32, to: &mut [f32; TILE]) -> bool {
    let (keys, _) = keys.as_chunks::<TILE>();
    let mut totals = [0.0_f32; TILE];
    // Two heads at once: eight registers of sums keep two multipliers busy.
    let mut pairs = queries.chunks_exact(2 * keys.len());
    let mut weights = weights.iter();
    for pair in &mut pairs {
        let (first, second) = pair.split_at(keys.len());
        let [mut x, mut y] = [[0.0_f32; TILE]; 2];
        for ((&p, &q), keys) in first.iter().zip(second).zip(keys) {
            for j in 0..TILE {
                x[j] = p.mul_add(keys[j], x[j]);
                y[j] = q.mul_add(keys[j], y[j]);
            }
        }
        for (x, &weight) in [x, y].iter().zip(&mut weights) {
            add_positive(x, weight, &mut totals);
        }
    }
    for (head, &weight) in pairs.remainder().chunks_exact(keys.len()).zip(weights) {
        let mut x = [0.0_f32; TILE];
        for (&q, keys) in head.iter().zip(keys) {
            for j in 0..TILE {
                x[j] = q.mul_add(keys[j], x[j]);
            }
        }
        add_positive(&x, weight, &mut totals);
    }
    *to = totals;
    let mut above = false;
    for total in totals {
        above |= total > bar;
    }
    above
}

/// totals += weight · max(x, 0).
#[inline(always)]
fn add_positive(x: &[f32; TILE], weight: f32, totals: &mut [f32; TILE]) {
    for j in 0..TILE {
        let x = if x[j] > 0.0 { x[j] } else { 0.0 };
        totals[j] = weight.mul_add(x, totals[j]);
    }
}

/// Takes one more value and its score into a softmax over values that come one after another, channel by channel.
/// `state` [3, channels] is the largest score so far, the sum of the weights, and the sum of the weighted values, both
/// relative to that largest score; the score is `scores` + `places`.
#[inline(always)]
pub(crate) fn pool(state: &mut [f32], values: &[f32], scores: &[f32], places: &[f32]) {
    let channels = values.len();
    let (most, rest) = state.split_at_mut(channels);
    let (total, sum) = rest.split_at_mut(channels);
    let (scores, places, sum) = (&scores[..channels], &places[..channels], &mut sum[..channels]);
    for i in 0..channels {
        let score = scores[i] + places[i];
        let gap = score - most[i];
        let less = exp(-gap.abs());
        let (old, new) = if gap > 0.0 { (less, 1.0) } else { (1.0, less) };
        most[i] = if gap > 0.0 { score } else { most[i] };
        total[i] = total[i].mul_add(old, new);
        sum[i] = sum[i].mul_add(old, new * values[i]);
    }
}

//! The specification: every kernel in its slow, readable form. Fast kernels must give the same bits.
//!
//! **Quantised weights.** A block of any kind is unpacked (see `weights/quant`) to values `q`, with whole scales and
//! offsets for every sixteen of them and two factors:
//!
//! ```text
//! weight[i] = d · scale[i/16] · (q[i] − zero) − dmin · offset[i/16]
//! ```
//!
//! A kind has a zero, or offsets, or neither. Activations are quantised in blocks of the same length, in two digits:
//! `x[i] = unit · (254·a[i] + b[i])`, both in −127..=127, with the sum of every sixteen kept beside them. The product of a
//! row and a token is, block by block, from the first to the last,
//!
//! ```text
//! A = Σ scale[i/16]·(q[i] − zero)·a[i]      B the same of b      O = Σ offset[j]·(254·sum_a[j] + sum_b[j])
//! acc = fma(d·unit,      fma(254, A, B),  acc)
//! acc = fma(−dmin·unit,  O,               acc)
//! ```
//!
//! where the three sums are whole numbers that fit 32 bits, so their order does not matter, and only these few f32
//! operations per block round. That is why every kernel can give the same bits, whether it computes one
//! row for one token or a tile of both, and why a line's logits do not depend on how it was cut into chunks. Kinds without
//! offsets skip the last step.
//!
//! **Floats.** A row of floats is multiplied with the activations as they are: lane `i % 8` of eight accumulators takes
//! column `i` with one fma, and [`fold`] adds the eight. A weight with a scale is the element times the scale, rounded
//! to f32, before that.

use super::blocks::{Blocks, DIGIT_UNITS};
use crate::weights::quant::{Unpacked, unpack};
use crate::weights::{Kind, Values};

/// What an unpacked weight's byte stands for.
#[inline(always)]
fn value(kind: Kind, q: u8) -> i32 {
    match kind.values() {
        Values::Signed => i32::from(q.cast_signed()),
        Values::Around(zero) => i32::from(q) - i32::from(zero),
        Values::Offset | Values::Floats => i32::from(q),
    }
}

/// A quantised row times one token's quantised activations.
pub(crate) fn dot_blocks(kind: Kind, row: &[u8], x: &Blocks, token: usize) -> f32 {
    let mut weights = Unpacked::ZERO;
    let mut acc = 0.0_f32;
    for (b, bytes) in row.chunks_exact(kind.block_bytes()).enumerate() {
        unpack(kind, bytes, &mut weights);
        let x = x.block(b, token);
        let [high, low] = x.digits.map(|digits| {
            let products = (0..kind.block())
                .map(|i| i32::from(weights.scale[i / 16]) * value(kind, weights.q[i]) * i32::from(digits[i]));
            products.sum::<i32>() as f32
        });
        acc = (weights.d * x.unit).mul_add(high.mul_add(DIGIT_UNITS as f32, low), acc);
        if kind.values() == Values::Offset {
            let [high, low] = x.sums;
            let offsets = (0..kind.block() / 16).map(|j| {
                i32::from(weights.offset[j]) * (DIGIT_UNITS * i32::from(high[j]) + i32::from(low[j]))
            });
            acc = (-(weights.dmin * x.unit)).mul_add(offsets.sum::<i32>() as f32, acc);
        }
    }
    acc
}

/// A row of floats times one activation row.
pub(crate) fn dot_floats(row: &[f32], x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for (i, (weight, &x)) in row.iter().zip(x).enumerate() {
        lanes[i % 8] = weight.mul_add(x, lanes[i % 8]);
    }
    fold(lanes)
}

/// The sum of eight lanes, in the order in which vector registers are halved.
#[inline(always)]
pub(crate) fn fold(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

//! The specification: every kernel in its slow, readable form. Fast kernels must give the same bits.
//!
//! **Quantised weights.** A block of any kind is unpacked (see `weights/quant`) to values `q`, signed or not, with
//! whole scales and offsets for every sixteen of them and two factors:
//!
//! ```text
//! weight[i] = d · scale[i/16] · q[i] − dmin · offset[i/16]
//! ```
//!
//! Activations are quantised in blocks of the same length, in two digits: `x[i] = da · a[i] + db · b[i]`, both
//! in −127..=127, with the sum of every sixteen kept beside them. The product of a row and a digit is, block by
//! block, from the first to the last,
//!
//! ```text
//! acc = fma(d·da,      Σ scale[i/16]·q[i]·a[i],  acc)
//! acc = fma(−dmin·da,  Σ offset[j]·sum[j],       acc)
//! ```
//!
//! where both sums are whole numbers that fit 32 bits, so their order does not matter, and only these two
//! f32 operations per block round; in the end the digits' products are added. That is why every kernel can give the same bits, whether it computes one
//! row for one token or a tile of both, and why a line's logits do not depend on how it was cut into chunks.
//!
//! Kinds with signed values have no offsets, so their second step adds nothing.
//!
//! **Floats.** A row of floats is multiplied with the activations as they are: lane `i % 8` of eight accumulators takes
//! column `i` with one fma, and [`fold`] adds the eight. A weight with a scale is the element times the scale, rounded
//! to f32, before that.

use super::blocks::{Blocks, DIGITS};
use crate::weights::quant::{Unpacked, unpack};
use crate::weights::{Kind, Values};

/// The value of an unpacked weight's byte.
#[inline(always)]
fn value(kind: Kind, q: u8) -> i32 {
    if kind.values() == Values::Signed { i32::from(q.cast_signed()) } else { i32::from(q) }
}

/// A quantised row times one token's quantised activations.
pub(crate) fn dot_blocks(kind: Kind, row: &[u8], x: &Blocks, token: usize) -> f32 {
    let mut weights = Unpacked::ZERO;
    let mut acc = [0.0_f32; DIGITS];
    for (b, bytes) in row.chunks_exact(kind.block_bytes()).enumerate() {
        unpack(kind, bytes, &mut weights);
        for (digit, acc) in acc.iter_mut().enumerate() {
            let (da, a, sums) = x.block(b, token * DIGITS + digit);
            let mut product = 0_i32;
            for i in 0..kind.block() {
                product += i32::from(weights.scale[i / 16]) * value(kind, weights.q[i]) * i32::from(a[i]);
            }
            let mut offset = 0_i32;
            for j in 0..kind.block() / 16 {
                offset += i32::from(weights.offset[j]) * i32::from(sums[j]);
            }
            *acc = (weights.d * da).mul_add(product as f32, *acc);
            *acc = (-(weights.dmin * da)).mul_add(offset as f32, *acc);
        }
    }
    acc[0] + acc[1]
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

//! The specification: every kernel in its slow, readable form. Fast kernels must give the same bits.
//!
//! **Quantised weights.** A block of any kind is unpacked to unsigned values `q` (signed for Q8_0) with whole
//! scales and offsets for every sixteen of them and two factors:
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
//! **Floats.** A row of F32, F16 or BF16 is multiplied with the activations as they are: lane `i % 8` of eight
//! accumulators takes column `i` with one fma, and [`fold`] adds the eight.

use half::{bf16, f16};

use super::blocks::{Blocks, DIGITS};
use crate::weights::Kind;

/// One block of weights, unpacked. Kinds with blocks of 32 fill the first 32 values and the first two scales.
pub(crate) struct Unpacked {
    /// 0..=63; for Q8_0 the bits of a signed byte.
    pub(crate) q: [u8; 256],
    pub(crate) scale: [i16; 16],
    pub(crate) offset: [i16; 16],
    pub(crate) d: f32,
    pub(crate) dmin: f32,
}

impl Unpacked {
    pub(crate) const ZERO: Unpacked =
        Unpacked { q: [0; 256], scale: [0; 16], offset: [0; 16], d: 0.0, dmin: 0.0 };
}

/// Unpacks one block of a quantised kind. The layouts are those of the GGUF format's reference.
#[inline(always)]
pub(crate) fn unpack(kind: Kind, block: &[u8], to: &mut Unpacked) {
    assert_eq!(block.len(), kind.block_bytes());
    let half_at = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    match kind {
        Kind::F32 | Kind::F16 | Kind::Bf16 => unreachable!("floats are not packed"),
        Kind::Q4_0 => {
            // value = d·(q − 8)
            nibbles(&block[2..18], &mut to.q);
            one_scale(to, half_at(0), 8.0 * half_at(0));
        }
        Kind::Q4_1 => {
            // value = d·q + m
            nibbles(&block[4..20], &mut to.q);
            one_scale(to, half_at(0), -half_at(2));
        }
        Kind::Q5_0 => {
            // value = d·(q − 16)
            nibbles(&block[6..22], &mut to.q);
            fifth_bits(&block[2..6], &mut to.q);
            one_scale(to, half_at(0), 16.0 * half_at(0));
        }
        Kind::Q5_1 => {
            // value = d·q + m
            nibbles(&block[8..24], &mut to.q);
            fifth_bits(&block[4..8], &mut to.q);
            one_scale(to, half_at(0), -half_at(2));
        }
        Kind::Q8_0 => {
            to.q[..32].copy_from_slice(&block[2..34]);
            one_scale(to, half_at(0), 0.0);
        }
        Kind::Q2K => {
            // scales: 16 bytes, low nibble the scale, high nibble the offset; then 64 bytes of 2-bit values.
            for j in 0..16 {
                to.scale[j] = i16::from(block[j] & 15);
                to.offset[j] = i16::from(block[j] >> 4);
            }
            two_bits(&block[16..80], &mut to.q);
            to.d = half_at(80);
            to.dmin = half_at(82);
        }
        Kind::Q3K => {
            // A third bit (32 bytes), two bits (64 bytes), 6-bit scales (12 bytes); value = d·(scale − 32)·(q − 4).
            two_bits(&block[32..96], &mut to.q);
            for i in 0..256 {
                to.q[i] |= ((block[i % 32] >> (i / 32)) & 1) << 2;
            }
            for j in 0..16 {
                let low = if j < 8 { block[96 + j] & 15 } else { block[96 + j - 8] >> 4 };
                let high = (block[104 + j % 4] >> (2 * (j / 4))) & 3;
                to.scale[j] = i16::from(low | high << 4) - 32;
            }
            to.offset = to.scale;
            to.d = half_at(108);
            to.dmin = 4.0 * to.d;
        }
        Kind::Q4K => {
            six_bit_scales(&block[4..16], to);
            for j in 0..4 {
                for i in 0..32 {
                    let byte = block[16 + 32 * j + i];
                    to.q[64 * j + i] = byte & 15;
                    to.q[64 * j + 32 + i] = byte >> 4;
                }
            }
            to.d = half_at(0);
            to.dmin = half_at(2);
        }
        Kind::Q5K => {
            six_bit_scales(&block[4..16], to);
            for j in 0..4 {
                for i in 0..32 {
                    let (byte, high) = (block[48 + 32 * j + i], block[16 + i] >> (2 * j));
                    to.q[64 * j + i] = byte & 15 | (high & 1) << 4;
                    to.q[64 * j + 32 + i] = byte >> 4 | (high & 2) << 3;
                }
            }
            to.d = half_at(0);
            to.dmin = half_at(2);
        }
        Kind::Q6K => {
            // Low nibbles (128 bytes), two high bits (64 bytes), 16 signed scales; value = d·scale·(q − 32).
            for half in 0..2 {
                let (low, high) = (&block[64 * half..], &block[128 + 32 * half..]);
                for i in 0..32 {
                    let q = &mut to.q[128 * half + i..];
                    q[0] = low[i] & 15 | (high[i] & 3) << 4;
                    q[32] = low[i + 32] & 15 | (high[i] >> 2 & 3) << 4;
                    q[64] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
                    q[96] = low[i + 32] >> 4 | (high[i] >> 6) << 4;
                }
            }
            for j in 0..16 {
                to.scale[j] = i16::from(block[192 + j].cast_signed());
            }
            to.offset = to.scale;
            to.d = half_at(208);
            to.dmin = 32.0 * to.d;
        }
    }
}

/// A block of 32 has one factor, so its scale and offset are one.
#[inline(always)]
fn one_scale(to: &mut Unpacked, d: f32, dmin: f32) {
    to.scale = [1; 16];
    to.offset = [1; 16];
    to.d = d;
    to.dmin = dmin;
}

/// 16 bytes: the low nibbles are the first 16 values, the high ones the next.
#[inline(always)]
fn nibbles(bytes: &[u8], q: &mut [u8; 256]) {
    for i in 0..16 {
        q[i] = bytes[i] & 15;
        q[i + 16] = bytes[i] >> 4;
    }
}

/// Four bytes: bit `i` is the fifth bit of value `i`.
#[inline(always)]
fn fifth_bits(bytes: &[u8], q: &mut [u8; 256]) {
    for i in 0..32 {
        q[i] |= (bytes[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// 64 bytes: each half holds 128 values, four per byte, 32 apart.
#[inline(always)]
fn two_bits(bytes: &[u8], q: &mut [u8; 256]) {
    for i in 0..256 {
        q[i] = bytes[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3;
    }
}

/// Twelve bytes: eight 6-bit scales and eight 6-bit offsets, each for 32 values.
#[inline(always)]
fn six_bit_scales(bytes: &[u8], to: &mut Unpacked) {
    for j in 0..8 {
        let (scale, offset) = if j < 4 {
            (bytes[j] & 63, bytes[j + 4] & 63)
        } else {
            (bytes[j + 4] & 15 | bytes[j - 4] >> 6 << 4, bytes[j + 4] >> 4 | bytes[j] >> 6 << 4)
        };
        to.scale[2 * j] = i16::from(scale);
        to.scale[2 * j + 1] = i16::from(scale);
        to.offset[2 * j] = i16::from(offset);
        to.offset[2 * j + 1] = i16::from(offset);
    }
}

/// The value of an unpacked weight's byte.
#[inline(always)]
fn value(kind: Kind, q: u8) -> i32 {
    if kind == Kind::Q8_0 { i32::from(q.cast_signed()) } else { i32::from(q) }
}

/// Writes the weights of some blocks as f32.
pub(crate) fn dequantise(kind: Kind, bytes: &[u8], to: &mut [f32]) {
    assert_eq!(bytes.len() / kind.block_bytes() * kind.block(), to.len());
    match kind {
        Kind::F32 | Kind::F16 | Kind::Bf16 => {
            for (x, bytes) in to.iter_mut().zip(bytes.chunks_exact(kind.block_bytes())) {
                *x = float(kind, bytes);
            }
        }
        _ => {
            let mut block = Unpacked::ZERO;
            for (to, bytes) in to.chunks_exact_mut(kind.block()).zip(bytes.chunks_exact(kind.block_bytes())) {
                unpack(kind, bytes, &mut block);
                for (i, x) in to.iter_mut().enumerate() {
                    let product = f32::from(block.scale[i / 16]) * value(kind, block.q[i]) as f32;
                    *x = block.d * product - block.dmin * f32::from(block.offset[i / 16]);
                }
            }
        }
    }
}

#[inline(always)]
fn float(kind: Kind, bytes: &[u8]) -> f32 {
    match kind {
        Kind::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        Kind::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Kind::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        _ => unreachable!("only floats are read as floats"),
    }
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
pub(crate) fn dot_floats(kind: Kind, row: &[u8], x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for (i, (bytes, &x)) in row.chunks_exact(kind.block_bytes()).zip(x).enumerate() {
        lanes[i % 8] = float(kind, bytes).mul_add(x, lanes[i % 8]);
    }
    fold(lanes)
}

/// The sum of eight lanes, in the order in which vector registers are halved.
#[inline(always)]
pub(crate) fn fold(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

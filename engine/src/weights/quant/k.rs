//! Kinds with blocks of 256 and whole scales for every sixteen or thirty-two values: Q2_K to Q6_K.

use super::{Unpacked, half_at};

/// Scales: 16 bytes, low nibble the scale, high nibble the offset; then 64 bytes of 2-bit values.
#[inline(always)]
pub(super) fn q2_k(block: &[u8], to: &mut Unpacked) {
    for j in 0..16 {
        to.scale[j] = i16::from(block[j] & 15);
        to.offset[j] = i16::from(block[j] >> 4);
    }
    two_bits(&block[16..80], &mut to.q);
    to.d = half_at(block, 80);
    to.dmin = half_at(block, 82);
}

/// A third bit (32 bytes), two bits (64 bytes), 6-bit scales (12 bytes); value = d·(scale − 32)·(q − 4).
#[inline(always)]
pub(super) fn q3_k(block: &[u8], to: &mut Unpacked) {
    two_bits(&block[32..96], &mut to.q);
    for j in 0..8 {
        for i in 0..32 {
            to.q[32 * j + i] |= (block[i] >> j & 1) << 2;
        }
    }
    for j in 0..16 {
        let low = if j < 8 { block[96 + j] & 15 } else { block[96 + j - 8] >> 4 };
        let high = (block[104 + j % 4] >> (2 * (j / 4))) & 3;
        to.scale[j] = i16::from(low | high << 4) - 32;
    }
    to.d = half_at(block, 108);
}

#[inline(always)]
pub(super) fn q4_k(block: &[u8], to: &mut Unpacked) {
    six_bit_scales(&block[4..16], to);
    for j in 0..4 {
        for i in 0..32 {
            let byte = block[16 + 32 * j + i];
            to.q[64 * j + i] = byte & 15;
            to.q[64 * j + 32 + i] = byte >> 4;
        }
    }
    to.d = half_at(block, 0);
    to.dmin = half_at(block, 2);
}

#[inline(always)]
pub(super) fn q5_k(block: &[u8], to: &mut Unpacked) {
    six_bit_scales(&block[4..16], to);
    for j in 0..4 {
        for i in 0..32 {
            let (byte, high) = (block[48 + 32 * j + i], block[16 + i] >> (2 * j));
            to.q[64 * j + i] = byte & 15 | (high & 1) << 4;
            to.q[64 * j + 32 + i] = byte >> 4 | (high & 2) << 3;
        }
    }
    to.d = half_at(block, 0);
    to.dmin = half_at(block, 2);
}

/// Low nibbles (128 bytes), two high bits (64 bytes), 16 signed scales; value = d·scale·(q − 32).
#[inline(always)]
pub(super) fn q6_k(block: &[u8], to: &mut Unpacked) {
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
    to.d = half_at(block, 208);
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

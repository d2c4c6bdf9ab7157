//! Kinds with blocks of 32 and one factor each: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

use super::{Unpacked, half_at};

/// value = d·(q − 8)
#[inline(always)]
pub(super) fn q4_0(block: &[u8], to: &mut Unpacked) {
    nibbles(&block[2..18], &mut to.q);
    to.one_scale(half_at(block, 0), 0.0);
}

/// value = d·q + m
#[inline(always)]
pub(super) fn q4_1(block: &[u8], to: &mut Unpacked) {
    nibbles(&block[4..20], &mut to.q);
    to.one_scale(half_at(block, 0), -half_at(block, 2));
}

/// value = d·(q − 16)
#[inline(always)]
pub(super) fn q5_0(block: &[u8], to: &mut Unpacked) {
    nibbles(&block[6..22], &mut to.q);
    fifth_bits(&block[2..6], &mut to.q);
    to.one_scale(half_at(block, 0), 0.0);
}

/// value = d·q + m
#[inline(always)]
pub(super) fn q5_1(block: &[u8], to: &mut Unpacked) {
    nibbles(&block[8..24], &mut to.q);
    fifth_bits(&block[4..8], &mut to.q);
    to.one_scale(half_at(block, 0), -half_at(block, 2));
}

/// value = d·q
#[inline(always)]
pub(super) fn q8_0(block: &[u8], to: &mut Unpacked) {
    to.q[..32].copy_from_slice(&block[2..34]);
    to.one_scale(half_at(block, 0), 0.0);
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

//! Kinds whose values are chosen from a grid, four or eight at a time, and then given their signs: IQ2_XXS, IQ2_XS,
//! IQ2_S, IQ3_XXS, IQ3_S.

use super::grids::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use super::{Unpacked, half_at};

/// For every 32 values: four indices (4 bytes), four times seven signs and a 4-bit scale (4 bytes).
/// value = d/8·(2·scale + 1)·q
#[inline(always)]
pub(super) fn iq2_xxs(block: &[u8], to: &mut Unpacked) {
    for j in 0..8 {
        let bytes = &block[2 + 8 * j..][..8];
        let word = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        for i in 0..4 {
            let signs = eight_signs(word >> (7 * i) & 127);
            put(to, 4 * j + i, IQ2_XXS[usize::from(bytes[i])], signs);
        }
        odd_scale(to, 2 * j, word >> 28);
        odd_scale(to, 2 * j + 1, word >> 28);
    }
    to.d = half_at(block, 0) * 0.125;
}

/// 32 words of nine bits of index and seven signs, then sixteen 4-bit scales; value = d/8·(2·scale + 1)·q.
#[inline(always)]
pub(super) fn iq2_xs(block: &[u8], to: &mut Unpacked) {
    for i in 0..32 {
        let word = u16::from_le_bytes([block[2 + 2 * i], block[3 + 2 * i]]);
        put(to, i, IQ2_XS[usize::from(word & 511)], eight_signs(u32::from(word >> 9)));
    }
    for j in 0..16 {
        odd_scale(to, j, u32::from(block[66 + j / 2] >> (4 * (j % 2)) & 15));
    }
    to.d = half_at(block, 0) * 0.125;
}

/// 32 low bytes of indices, 32 bytes of signs, 32 times two high bits, sixteen 4-bit scales;
/// value = d/8·(2·scale + 1)·q.
#[inline(always)]
pub(super) fn iq2_s(block: &[u8], to: &mut Unpacked) {
    for i in 0..32 {
        let high = usize::from(block[66 + i / 4] >> (2 * (i % 4)) & 3);
        put(to, i, IQ2_S[usize::from(block[2 + i]) | high << 8], block[34 + i]);
    }
    for j in 0..16 {
        odd_scale(to, j, u32::from(block[74 + j / 2] >> (4 * (j % 2)) & 15));
    }
    to.d = half_at(block, 0) * 0.125;
}

/// 64 indices of four values, then for every 32 values four times seven signs and a 4-bit scale;
/// value = d/4·(2·scale + 1)·q.
#[inline(always)]
pub(super) fn iq3_xxs(block: &[u8], to: &mut Unpacked) {
    for j in 0..8 {
        let word = &block[66 + 4 * j..][..4];
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        for i in 4 * j..4 * j + 4 {
            let (low, high) = (block[2 + 2 * i], block[3 + 2 * i]);
            let eight = pair(IQ3_XXS[usize::from(low)], IQ3_XXS[usize::from(high)]);
            put(to, i, eight, eight_signs(word >> (7 * (i % 4)) & 127));
        }
        odd_scale(to, 2 * j, word >> 28);
        odd_scale(to, 2 * j + 1, word >> 28);
    }
    to.d = half_at(block, 0) * 0.25;
}

/// 64 low bytes of indices, their ninth bits (8 bytes), 32 bytes of signs, eight 4-bit scales;
/// value = d·(2·scale + 1)·q.
#[inline(always)]
pub(super) fn iq3_s(block: &[u8], to: &mut Unpacked) {
    for i in 0..32 {
        let ninth = usize::from(block[66 + i / 4]) >> (2 * (i % 4));
        let low = usize::from(block[2 + 2 * i]) | (ninth & 1) << 8;
        let high = usize::from(block[3 + 2 * i]) | (ninth & 2) << 7;
        put(to, i, pair(IQ3_S[low], IQ3_S[high]), block[74 + i]);
    }
    for j in 0..16 {
        odd_scale(to, j, u32::from(block[106 + j / 4] >> (4 * (j / 2 % 2)) & 15));
    }
    to.d = half_at(block, 0);
}

#[inline(always)]
fn odd_scale(to: &mut Unpacked, j: usize, scale: u32) {
    to.scale[j] = 2 * scale as i16 + 1;
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Seven signs and an eighth that makes their number even.
#[inline(always)]
fn eight_signs(seven: u32) -> u8 {
    (seven | (seven.count_ones() & 1) << 7) as u8
}

/// Writes eight values, one in each byte of `eight`, to place `i`; those whose bit in `signs` is set are negative.
#[inline(always)]
fn put(to: &mut Unpacked, i: usize, eight: u64, signs: u8) {
    // −x is ¬x + 1, and as no x is zero, no byte carries over.
    let negative = NEGATIVE[usize::from(signs)];
    let eight = (eight ^ negative).wrapping_add(negative & 0x0101_0101_0101_0101);
    to.q[8 * i..8 * i + 8].copy_from_slice(&eight.to_le_bytes());
}

/// For every byte of signs, all bits of each byte whose sign is set.
static NEGATIVE: [u64; 256] = {
    let mut masks = [0; 256];
    let mut signs = 0;
    while signs < 256 {
        let mut i = 0;
        while i < 8 {
            if signs >> i & 1 == 1 {
                masks[signs] |= 0xff << (8 * i);
            }
            i += 1;
        }
        signs += 1;
    }
    masks
};

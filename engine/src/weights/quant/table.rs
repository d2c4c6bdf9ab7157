//! Kinds whose values are chosen from a table of sixteen: IQ4_NL, IQ4_XS, MXFP4.

use super::{Unpacked, half_at};

/// The values of IQ4_NL and IQ4_XS: closer together around zero, where most weights are.
pub(crate) const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of a float with two bits of exponent and one of fraction (OCP Microscaling Formats 1.0).
pub(crate) const MXFP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[inline(always)]
pub(super) fn iq4_nl(block: &[u8], to: &mut Unpacked, choose: impl Fn(&[i8; 16], &[u8], &mut [u8])) {
    choose(&IQ4, &block[2..18], &mut to.q[..32]);
    to.one_scale(half_at(block, 0), 0.0);
}

/// Two high bits (2 bytes) and four low bits (4 bytes) of eight scales; value = d·(scale − 32)·q.
#[inline(always)]
pub(super) fn iq4_xs(block: &[u8], to: &mut Unpacked, choose: impl Fn(&[i8; 16], &[u8], &mut [u8])) {
    let high = u16::from_le_bytes([block[2], block[3]]);
    for j in 0..8 {
        let low = i16::from(block[4 + j / 2] >> (4 * (j % 2)) & 15);
        let scale = low | (high >> (2 * j) & 3).cast_signed() << 4;
        to.scale[2 * j] = scale - 32;
        to.scale[2 * j + 1] = scale - 32;
        choose(&IQ4, &block[8 + 16 * j..][..16], &mut to.q[32 * j..][..32]);
    }
    to.d = half_at(block, 0);
}

/// The factor is a power of two in one byte.
#[inline(always)]
pub(super) fn mxfp4(block: &[u8], to: &mut Unpacked, choose: impl Fn(&[i8; 16], &[u8], &mut [u8])) {
    choose(&MXFP4, &block[1..17], &mut to.q[..32]);
    to.one_scale(e8m0_half(block[0]), 0.0);
}

/// Half of the power of two that a byte names: 2 to the byte less 128.
#[inline(always)]
fn e8m0_half(byte: u8) -> f32 {
    // The two smallest are subnormal.
    let bits = if byte < 2 { 0x0020_0000 << byte } else { (u32::from(byte) - 1) << 23 };
    f32::from_bits(bits)
}

/// Looks up 32 values in a table of sixteen: the low nibbles of 16 bytes are the places of the first 16, the high ones
/// those of the next.
#[inline(always)]
pub(super) fn choose(table: &[i8; 16], bytes: &[u8], q: &mut [u8]) {
    for i in 0..16 {
        q[i] = table[usize::from(bytes[i] & 15)].cast_unsigned();
        q[i + 16] = table[usize::from(bytes[i] >> 4)].cast_unsigned();
    }
}

//! Kinds that are floats: F32, F16, BF16, F8_E4M3, F4_E2M1, and powers of two in a byte.

use half::{bf16, f16};

use crate::weights::Kind;

/// The values of a float with two bits of exponent and one of fraction (OCP Microscaling Formats 1.0).
pub(crate) const F4E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Writes numbers as f32.
pub(super) fn read(kind: Kind, bytes: &[u8], to: &mut [f32]) {
    match kind {
        Kind::F32 => each(bytes, to, f32::from_le_bytes),
        Kind::F16 => each(bytes, to, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Kind::Bf16 => each(bytes, to, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Kind::F8E4M3 => each(bytes, to, |[byte]| e4m3(byte)),
        Kind::F4E2M1 => {
            for (&byte, to) in bytes.iter().zip(to.chunks_exact_mut(2)) {
                to[0] = F4E2M1[usize::from(byte & 15)];
                to[1] = F4E2M1[usize::from(byte >> 4)];
            }
        }
        _ => unreachable!("only floats are read as floats"),
    }
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], to: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (bytes, to) in bytes.as_chunks().0.iter().zip(to) {
        *to = read(*bytes);
    }
}

/// A float with four bits of exponent and three of fraction. All of these set is no number; there is no infinity.
fn e4m3(byte: u8) -> f32 {
    // Moved to their places in a half-precision number, the bits stand for a 256th, as its exponent counts from −15
    // and not from −7.
    let bits = u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7f) << 7;
    if byte & 0x7f == 0x7f { f32::NAN } else { f16::from_bits(bits).to_f32() * 256.0 }
}

/// The power of two that a byte names: 2 to the byte less 127. 255 is no number.
pub(crate) fn e8m0(byte: u8) -> f32 {
    match byte {
        // 2⁻¹²⁷ is subnormal.
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

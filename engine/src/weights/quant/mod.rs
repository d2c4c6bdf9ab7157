//! What blocks of weights mean: how every kind is unpacked, one file per family of kinds, and the weights as f32,
//! which are those of the GGUF format's reference to the bit.

#![expect(
    clippy::needless_range_loop,
    reason = "an index here is a place in several parts of a block at once"
)]

mod blocks32;
mod float;
mod grid;
mod grids;
mod k;
mod table;

#[cfg(test)]
pub(crate) mod tests;

use half::f16;

use super::Kind;
use super::kind::Values;

#[cfg(target_arch = "x86_64")]
pub(crate) use float::F4E2M1;
pub(crate) use float::e8m0;
#[cfg(target_arch = "x86_64")]
pub(crate) use table::{IQ4, MXFP4};

/// One block of weights, unpacked. Kinds with blocks of 32 fill the first 32 values and the first two scales.
#[derive(Clone, Copy)]
pub(crate) struct Unpacked {
    /// 0..=63, or the bits of a signed byte.
    pub(crate) q: [u8; 256],
    pub(crate) scale: [i16; 16],
    pub(crate) offset: [i16; 16],
    pub(crate) d: f32,
    pub(crate) dmin: f32,
}

impl Unpacked {
    pub(crate) const ZERO: Unpacked =
        Unpacked { q: [0; 256], scale: [0; 16], offset: [0; 16], d: 0.0, dmin: 0.0 };

    /// A block of 32 has one factor, so its scale and offset are one.
    #[inline(always)]
    fn one_scale(&mut self, d: f32, dmin: f32) {
        self.scale = [1; 16];
        self.offset = [1; 16];
        self.d = d;
        self.dmin = dmin;
    }
}

/// Unpacks one block of a quantised kind. The layouts are those of the GGUF format's reference.
#[inline(always)]
pub(crate) fn unpack(kind: Kind, block: &[u8], to: &mut Unpacked) {
    unpack_by(kind, block, to, table::choose);
}

/// Unpacks one block with a way of its own to look up 32 values in a table of sixteen (see [`table::choose`]), for which
/// there is an instruction that a compiler does not find.
#[inline(always)]
pub(crate) fn unpack_by(
    kind: Kind,
    block: &[u8],
    to: &mut Unpacked,
    choose: impl Fn(&[i8; 16], &[u8], &mut [u8]),
) {
    assert_eq!(block.len(), kind.block_bytes());
    match kind {
        Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::F8E4M3 | Kind::F4E2M1 => {
            unreachable!("floats are not packed")
        }
        Kind::Q4_0 => blocks32::q4_0(block, to),
        Kind::Q4_1 => blocks32::q4_1(block, to),
        Kind::Q5_0 => blocks32::q5_0(block, to),
        Kind::Q5_1 => blocks32::q5_1(block, to),
        Kind::Q8_0 => blocks32::q8_0(block, to),
        Kind::Q2K => k::q2_k(block, to),
        Kind::Q3K => k::q3_k(block, to),
        Kind::Q4K => k::q4_k(block, to),
        Kind::Q5K => k::q5_k(block, to),
        Kind::Q6K => k::q6_k(block, to),
        Kind::Iq2Xxs => grid::iq2_xxs(block, to),
        Kind::Iq2Xs => grid::iq2_xs(block, to),
        Kind::Iq2S => grid::iq2_s(block, to),
        Kind::Iq3Xxs => grid::iq3_xxs(block, to),
        Kind::Iq3S => grid::iq3_s(block, to),
        Kind::Iq4Nl => table::iq4_nl(block, to, choose),
        Kind::Iq4Xs => table::iq4_xs(block, to, choose),
        Kind::Mxfp4 => table::mxfp4(block, to, choose),
    }
    if kind.values() != Values::Offset {
        to.offset = [0; 16];
        to.dmin = 0.0;
    }
}

/// The half-precision number at `at`.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Writes the weights of some blocks as f32, rounded where the reference rounds: the factor times the scale, times the
/// value, less the offset.
pub(crate) fn dequantise(kind: Kind, bytes: &[u8], to: &mut [f32]) {
    assert_eq!(bytes.len() / kind.block_bytes() * kind.block(), to.len());
    if kind.is_float() {
        return float::read(kind, bytes, to);
    }
    let mut block = Unpacked::ZERO;
    for (to, bytes) in to.chunks_exact_mut(kind.block()).zip(bytes.chunks_exact(kind.block_bytes())) {
        unpack(kind, bytes, &mut block);
        for (i, x) in to.iter_mut().enumerate() {
            let scale = block.d * f32::from(block.scale[i / 16]);
            *x = match kind.values() {
                Values::Floats => unreachable!("floats were read above"),
                Values::Signed => scale * f32::from(block.q[i].cast_signed()),
                Values::Around(zero) => scale * (f32::from(block.q[i]) - f32::from(zero)),
                Values::Offset => {
                    scale * f32::from(block.q[i]) - block.dmin * f32::from(block.offset[i / 16])
                }
            };
        }
    }
}

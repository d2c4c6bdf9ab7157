//! AVX2 kernels, chosen at run time. They give the same bits as `plain.rs`.
//!
//! Two shapes of product: [`dot`] multiplies eight rows with one token where they lie, for decoding, which
//! waits for memory; [`panel`] unpacks sixteen rows once and multiplies them with many tokens, for prefill,
//! which waits for arithmetic.

mod dot;
mod panel;

use std::arch::x86_64::*;

use super::float::{self, Halves, State, Tile};

pub(crate) use dot::{ROWS as DOT_ROWS, dot_blocks, dot_floats};
pub(crate) use panel::{Panel, ROWS as PANEL_ROWS, multiply};

/// Whether this machine has what the functions here are compiled for.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Reads half-precision numbers eight at a time.
pub(crate) struct F16c;

impl Halves for F16c {
    #[inline(always)]
    fn read(from: &[u16], to: &mut [f32]) {
        assert_eq!(from.len(), to.len());
        assert!(from.len().is_multiple_of(8), "tiles are whole registers");
        for (from, to) in from.chunks_exact(8).zip(to.chunks_exact_mut(8)) {
            // SAFETY: only `attend` below uses this type, and it is compiled for f16c; both slices have eight
            // numbers.
            // WHY: one instruction for eight numbers; the portable conversion took longer than the scores.
            unsafe {
                let halves = _mm_loadu_si128(from.as_ptr().cast());
                _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(halves));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantise(x: &mut [f32], values: &mut [i8], sums: &mut [i16]) -> f32 {
    float::quantise(x, values, sums)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, to: &mut [f32]) {
    float::rms_norm(x, weight, epsilon, to);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn silu_times(gate: &mut [f32], up: &[f32]) {
    float::silu_times(gate, up);
}

#[target_feature(enable = "avx2,fma,f16c")]
#[expect(
    clippy::too_many_arguments,
    reason = "they are one tile's operands, and a struct would only rename them"
)]
pub(crate) fn attend(
    tile: &mut Tile,
    keys: &[u16],
    values: &[u16],
    head: usize,
    scale: f32,
    queries: &[f32],
    seen: &[usize],
    states: &mut [State],
    outputs: &mut [f32],
) {
    float::attend::<F16c>(tile, keys, values, head, scale, queries, seen, states, outputs);
}

/// The sums of eight registers' lanes: lane `i` of the result is the sum of register `i`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sums(v: &[__m256i; 8]) -> __m256i {
    let a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    let b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    // Each half of `a` has partial sums of registers 0..4, each half of `b` of 4..8.
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

/// Eight half-precision numbers that lie `stride` bytes apart.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves(bytes: &[u8], at: usize, stride: usize) -> __m256 {
    let mut bits = [0_u16; 8];
    for (i, bits) in bits.iter_mut().enumerate() {
        let at = at + i * stride;
        *bits = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    }
    // SAFETY: the array has the sixteen bytes that are read.
    // WHY: a load, where eight inserts would be eight instructions.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bits.as_ptr().cast()) })
}

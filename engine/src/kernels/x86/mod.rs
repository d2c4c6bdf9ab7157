//! AVX2 and AVX-512 kernels, chosen at run time. They give the same bits as `plain.rs`.
//!
//! With AVX2 there are two shapes of product: [`dot`] multiplies eight rows with one token where they lie, for decoding,
//! which waits for memory; [`panel`] unpacks sixteen rows once and multiplies them with many tokens, for prefill,
//! which waits for arithmetic. [`vnni`] has one shape for both.

mod dot;
mod panel;
mod unpack;
pub(crate) mod vnni;

use std::arch::x86_64::*;

use super::blocks::{DIGIT_UNITS, DIGITS};
use super::float::{self, Head, STRIP, State, Step, TILE, Tile};

pub(crate) use dot::{ROWS as DOT_ROWS, dot_blocks, dot_floats};
pub(crate) use panel::{Panel, ROWS as PANEL_ROWS, multiply};
pub(crate) use unpack::{bytes_of, read_floats};

/// Whether this machine has what the AVX2 kernels are compiled for.
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Whether this machine has what the AVX-512 kernels are compiled for.
pub(crate) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// What `float.rs` has, compiled for some features.
macro_rules! compiled {
    ($features:tt) => {
        #[target_feature(enable = $features)]
        pub(crate) fn quantise(x: &[f32], values: &mut [i8], sums: &mut [i16]) -> (f32, bool) {
            float::quantise(x, values, sums)
        }

        #[target_feature(enable = $features)]
        pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, to: &mut [f32]) {
            float::rms_norm(x, weight, epsilon, to);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn silu_times(gate: &mut [f32], up: &[f32]) {
            float::silu_times(gate, up);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn gelu_times(gate: &mut [f32], up: &[f32]) {
            float::gelu_times(gate, up);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn clamped_silu_times(gate: &mut [f32], up: &[f32], limit: f32) {
            float::clamped_silu_times(gate, up, limit);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn shifted_swish_times(gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
            float::shifted_swish_times(gate, up, alpha, limit);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
            float::dot(x, y)
        }

        #[target_feature(enable = $features)]
        pub(crate) fn convolve(rows: &[f32], weights: &[f32], to: &mut [f32]) {
            float::convolve(rows, weights, to);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn correct(state: &mut [f32], step: &Step<'_>, to: &mut [f32; STRIP]) {
            float::correct(state, step, to);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn attend(
            tile: &Tile,
            head: Head,
            queries: &[f32],
            seen: &[[usize; 2]],
            states: &mut [State],
            outputs: &mut [f32],
        ) {
            float::attend(tile, head, queries, seen, states, outputs);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn turn(rows: &[f32], to: &mut [f32]) {
            float::turn(rows, to);
        }

        #[target_feature(enable = $features)]
        pub(crate) fn judge(
            keys: &[f32],
            queries: &[f32],
            weights: &[f32],
            bar: f32,
            to: &mut [f32; TILE],
        ) -> bool {
            float::judge(keys, queries, weights, bar, to)
        }

        #[target_feature(enable = $features)]
        pub(crate) fn pool(state: &mut [f32], values: &[f32], scores: &[f32], places: &[f32]) {
            float::pool(state, values, scores, places);
        }
    };
}

/// Compiled for AVX2.
pub(crate) mod avx2 {
    use super::{Head, STRIP, State, Step, TILE, Tile, float};

    pub(crate) use super::read_halves as halves;

    compiled!("avx2,fma,f16c");
}

/// Compiled for AVX-512.
pub(crate) mod avx512 {
    use super::{Head, STRIP, State, Step, TILE, Tile, float};

    pub(crate) use super::vnni::read_halves as halves;

    compiled!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
}

/// Reads half-precision numbers eight at a time.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn read_halves(from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let (from, last) = from.as_chunks::<8>();
    let (to, to_last) = to.as_chunks_mut::<8>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both have eight numbers.
        // WHY: one instruction for eight numbers; the portable conversion took longer than attention's scores.
        unsafe {
            let halves = _mm_loadu_si128(from.as_ptr().cast());
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(halves));
        }
    }
    float::halves(last, to_last);
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

/// Both digits of what may have been computed for the first alone, because the second is 0.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn both<const D: usize>(of: [__m256i; D]) -> [__m256i; DIGITS] {
    std::array::from_fn(|digit| if digit < D { of[digit] } else { _mm256_setzero_si256() })
}

/// Both digits' sums as one number: 254 · high + low, which fits 32 bits where offsets are summed.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn join(high: __m256i, low: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_mullo_epi32(high, _mm256_set1_epi32(DIGIT_UNITS)), low)
}

/// The specification's step for a block's products with both digits, for eight rows with the factors `d`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_products(acc: __m256, d: __m256, unit: f32, [high, low]: [__m256i; DIGITS]) -> __m256 {
    let (high, low) = (_mm256_cvtepi32_ps(high), _mm256_cvtepi32_ps(low));
    let product = _mm256_fmadd_ps(_mm256_set1_ps(DIGIT_UNITS as f32), high, low);
    _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(unit)), product, acc)
}

/// The specification's step for a block's offsets.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_offset(acc: __m256, dmin: __m256, unit: f32, offset: __m256i) -> __m256 {
    _mm256_fnmadd_ps(_mm256_mul_ps(dmin, _mm256_set1_ps(unit)), _mm256_cvtepi32_ps(offset), acc)
}

/// Low nibbles in the low half, high nibbles in the high half.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(bytes: __m128i) -> __m256i {
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// The values at 32 places of a table of sixteen.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn look_up(table: &[i8; 16], places: __m256i) -> __m256i {
    // SAFETY: the table has sixteen bytes.
    // WHY: one load, kept in a register by the loops around.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), places)
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

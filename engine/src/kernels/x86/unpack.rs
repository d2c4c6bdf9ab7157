//! Blocks unpacked and floats read with vector instructions, to the bits that `weights/quant` gives.

use std::arch::x86_64::*;

use crate::weights::Kind;
use crate::weights::quant::{F4E2M1, Unpacked, dequantise, unpack_by};

/// Unpacks a block with its kind known at compile time, so that each becomes a loop of vector instructions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack(kind: Kind, block: &[u8], to: &mut Unpacked) {
    // Functions for certain machines are no `Fn`; a closure within one is.
    let choose = |table: &[i8; 16], bytes: &[u8], to: &mut [u8]| choose(table, bytes, to);
    match kind {
        Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::F8E4M3 | Kind::F4E2M1 => {
            unreachable!("floats are not packed")
        }
        Kind::Q4_0 => unpack_by(Kind::Q4_0, block, to, choose),
        Kind::Q4_1 => unpack_by(Kind::Q4_1, block, to, choose),
        Kind::Q5_0 => unpack_by(Kind::Q5_0, block, to, choose),
        Kind::Q5_1 => unpack_by(Kind::Q5_1, block, to, choose),
        Kind::Q8_0 => unpack_by(Kind::Q8_0, block, to, choose),
        Kind::Q2K => unpack_by(Kind::Q2K, block, to, choose),
        Kind::Q3K => unpack_by(Kind::Q3K, block, to, choose),
        Kind::Q4K => unpack_by(Kind::Q4K, block, to, choose),
        Kind::Q5K => unpack_by(Kind::Q5K, block, to, choose),
        Kind::Q6K => unpack_by(Kind::Q6K, block, to, choose),
        Kind::Iq2Xxs => unpack_by(Kind::Iq2Xxs, block, to, choose),
        Kind::Iq2Xs => unpack_by(Kind::Iq2Xs, block, to, choose),
        Kind::Iq2S => unpack_by(Kind::Iq2S, block, to, choose),
        Kind::Iq3Xxs => unpack_by(Kind::Iq3Xxs, block, to, choose),
        Kind::Iq3S => unpack_by(Kind::Iq3S, block, to, choose),
        Kind::Iq4Nl => unpack_by(Kind::Iq4Nl, block, to, choose),
        Kind::Iq4Xs => unpack_by(Kind::Iq4Xs, block, to, choose),
        Kind::Mxfp4 => unpack_by(Kind::Mxfp4, block, to, choose),
    }
}

/// Looks up 32 values in a table of sixteen: the low nibbles of 16 bytes are the places of the first 16, the high ones
/// those of the next.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn choose(table: &[i8; 16], bytes: &[u8], to: &mut [u8]) {
    assert!(bytes.len() == 16 && to.len() == 32);
    // SAFETY: the table and `bytes` have 16 bytes and `to` 32.
    // WHY: one instruction looks up all of them.
    unsafe {
        let places = super::nibbles(_mm_loadu_si128(bytes.as_ptr().cast()));
        let values = super::look_up(table, places);
        _mm256_storeu_si256(to.as_mut_ptr().cast(), values);
    }
}

/// Reads floats that share one scale. F32, F16 and BF16 without a scale are multiplied where they lie and seldom come
/// here.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn read_floats(kind: Kind, bytes: &[u8], scale: f32, to: &mut [f32]) {
    assert_eq!(bytes.len() * kind.block(), to.len() * kind.block_bytes());
    let whole = match kind {
        Kind::F8E4M3 => eights(bytes, scale, to),
        Kind::F4E2M1 => fours(bytes, scale, to),
        _ => 0,
    };
    if whole < to.len() {
        let to = &mut to[whole..];
        dequantise(kind, &bytes[whole / kind.block() * kind.block_bytes()..], to);
        for x in to {
            *x *= scale;
        }
    }
}

/// Reads F8_E4M3, sixteen at a time, and returns how many that were. The bits become those of half-precision numbers of
/// a 256th, for which there is an instruction (see `weights/quant/float.rs`).
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eights(bytes: &[u8], scale: f32, to: &mut [f32]) -> usize {
    let (scale, unit) = (_mm256_set1_ps(scale), _mm256_set1_ps(256.0));
    let (bytes, to) = (bytes.as_chunks::<16>().0, to.as_chunks_mut::<16>().0);
    for (bytes, to) in bytes.iter().zip(&mut *to) {
        // SAFETY: sixteen bytes are read and sixteen numbers written.
        // WHY: two registers for sixteen numbers; a table look-up takes an instruction for each.
        unsafe {
            let x = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.as_ptr().cast()));
            // The sign is now in all high bits; it stays in the highest.
            let x = _mm256_and_si256(_mm256_slli_epi16::<7>(x), _mm256_set1_epi16(0xbf80_u16.cast_signed()));
            let none = _mm256_set1_epi16(0x7f << 7);
            let none = _mm256_cmpeq_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0x7fff)), none);
            let x = _mm256_blendv_epi8(x, _mm256_set1_epi16(0x7e00), none);
            let low = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(x)), unit);
            let high = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256::<1>(x)), unit);
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_mul_ps(low, scale));
            _mm256_storeu_ps(to.as_mut_ptr().add(8), _mm256_mul_ps(high, scale));
        }
    }
    16 * to.len()
}

/// Twice the values of F4_E2M1, as bytes.
const DOUBLED: [i8; 16] = {
    let mut doubled = [0; 16];
    let mut i = 0;
    while i < 16 {
        doubled[i] = (2.0 * F4E2M1[i]) as i8;
        i += 1;
    }
    doubled
};

/// Reads F4_E2M1, 32 at a time, and returns how many that were.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fours(bytes: &[u8], scale: f32, to: &mut [f32]) -> usize {
    let (scale, unit) = (_mm256_set1_ps(scale), _mm256_set1_ps(0.5));
    let (bytes, to) = (bytes.as_chunks::<16>().0, to.as_chunks_mut::<32>().0);
    for (bytes, to) in bytes.iter().zip(&mut *to) {
        // SAFETY: sixteen bytes are read and 32 numbers written.
        // WHY: four registers for 32 numbers; a table look-up takes an instruction for each.
        unsafe {
            let values = super::look_up(&DOUBLED, super::nibbles(_mm_loadu_si128(bytes.as_ptr().cast())));
            // The first number of a byte is its low nibble, the second one its high nibble.
            let (even, odd) = (_mm256_castsi256_si128(values), _mm256_extracti128_si256::<1>(values));
            for (i, eight) in
                [_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd)].into_iter().enumerate()
            {
                for (j, eight) in [eight, _mm_srli_si128::<8>(eight)].into_iter().enumerate() {
                    let x = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)), unit);
                    _mm256_storeu_ps(to.as_mut_ptr().add(16 * i + 8 * j), _mm256_mul_ps(x, scale));
                }
            }
        }
    }
    32 * to.len()
}

/// The bytes of some floats.
pub(crate) fn bytes_of(floats: &[f32]) -> &[u8] {
    // SAFETY: every f32 is four bytes, which are valid whatever they are.
    // WHY: floats read from another kind go the way of F32 from a file, which need not be aligned.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), size_of_val(floats)) }
}

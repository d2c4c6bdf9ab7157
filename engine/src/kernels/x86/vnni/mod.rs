//! Products with AVX-512 VNNI.
//!
//! Blocks of sixteen rows are turned so that a register holds four neighbouring columns of all of them (see [`turn`]).
//! One instruction then multiplies these with four activations that all rows share and adds each row's four products
//! to a sum of its own; no sum crosses lanes. What is turned is multiplied at once if there are few tokens ([`dot`]), and
//! kept for all of them otherwise ([`panel`]).

// The features that all functions here are compiled for are those of `x86::has_avx512`.

mod dot;
mod panel;
mod turn;

use std::arch::x86_64::*;

use crate::kernels::blocks::{Blocks, DIGIT_UNITS};
use crate::weights::{Kind, Values};

pub(crate) use panel::{Panel, ROWS};

/// Rows of a group: as many as a register has lanes.
const GROUP_ROWS: usize = 16;
/// Up to how many tokens are multiplied while blocks are turned.
const DOT_TOKENS: usize = 2;
/// What signed values are moved by to be multiplied as unsigned ones.
const MIDDLE: u8 = 128;

/// Up to [`ROWS`] rows of a quantised kind times all tokens of `x`. If they are turned, sixteen by sixteen, there are as many
/// as that or twice as many. `put` gets a token, the first of some rows, and their
/// results.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn multiply(
    panel: &mut Panel,
    kind: Kind,
    turned: bool,
    bytes: &[u8],
    rows: usize,
    x: &Blocks,
    put: impl Fn(usize, usize, &[f32]),
) {
    assert!(rows > 0 && rows <= ROWS && bytes.len().is_multiple_of(rows));
    assert!(!turned || rows.is_multiple_of(GROUP_ROWS) && turn::knows(kind));
    let row = bytes.len() / rows;
    assert!(row.is_multiple_of(kind.block_bytes()));
    let mut rest = 0;
    if x.tokens() <= DOT_TOKENS && turn::knows(kind) {
        while rest + GROUP_ROWS <= rows {
            let mut results = [[0.0; GROUP_ROWS]; DOT_TOKENS];
            let at = rest * row..(rest + GROUP_ROWS) * row;
            dot::multiply(kind, turned, &bytes[at], x, &mut results);
            for (token, results) in results[..x.tokens()].iter().enumerate() {
                put(token, rest, results);
            }
            rest += GROUP_ROWS;
        }
    }
    if rest < rows {
        let results = panel::multiply(panel, kind, turned, &bytes[rest * row..], rows - rest, x);
        for (token, results) in results.iter().enumerate() {
            put(token, rest, &results[..rows - rest]);
        }
    }
}

/// How many columns of a kind share a scale: a span.
const fn span(kind: Kind) -> usize {
    match kind {
        Kind::Q2K | Kind::Q3K | Kind::Q6K | Kind::Iq2Xs | Kind::Iq2S => 16,
        _ => 32,
    }
}

/// By how much values are moved to be multiplied as unsigned ones.
fn zero(kind: Kind) -> i32 {
    match kind.values() {
        Values::Signed => i32::from(MIDDLE),
        Values::Around(zero) => i32::from(zero),
        Values::Offset | Values::Floats => 0,
    }
}

/// A number for every span of a block.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Spans([i32; 16]);

impl Spans {
    const NONE: Spans = Spans([0; 16]);
}

/// The sums of each span's activations of one digit, times `factor`: what sums of products begin with if weights are
/// moved.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn moved<const SIZE: usize, const SPAN: usize>(sums: &[i16], factor: i32) -> Spans {
    let mut spans = Spans::NONE;
    if SIZE == 32 {
        spans.0[0] = factor * (i32::from(sums[0]) + i32::from(sums[1]));
        return spans;
    }
    // SAFETY: a block of 256 has sixteen sums, asserted; the spans have room for sixteen numbers.
    // WHY: these sums are made for every tile, and took a seventh of its time number by number.
    unsafe {
        assert!(sums.len() == 16);
        let sums = _mm256_loadu_si256(sums.as_ptr().cast());
        if SPAN == 16 {
            let sums = _mm512_mullo_epi32(_mm512_cvtepi16_epi32(sums), _mm512_set1_epi32(factor));
            _mm512_store_si512(spans.0.as_mut_ptr().cast(), sums);
        } else {
            let sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
            let sums = _mm256_mullo_epi32(sums, _mm256_set1_epi32(factor));
            _mm256_store_si256(spans.0.as_mut_ptr().cast(), sums);
        }
    }
    spans
}

/// The sums of each span's activations of both digits [digit, block / 16], the first in the low half of a number and the
/// second in the high one.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn pairs<const SIZE: usize, const SPAN: usize>(sums: &[i16]) -> Spans {
    let (high, low) = sums.split_at(SIZE / 16);
    let (high, low) = (moved::<SIZE, SPAN>(high, 1), moved::<SIZE, SPAN>(low, 1));
    // SAFETY: spans have sixteen numbers.
    // WHY: as in `moved`.
    unsafe {
        let high = _mm512_and_si512(_mm512_load_si512(high.0.as_ptr().cast()), _mm512_set1_epi32(0xffff));
        let low = _mm512_slli_epi32::<16>(_mm512_load_si512(low.0.as_ptr().cast()));
        let mut spans = Spans::NONE;
        _mm512_store_si512(spans.0.as_mut_ptr().cast(), _mm512_or_si512(high, low));
        spans
    }
}

/// The sums of every two neighbouring spans' activations of one digit, the first in the low half of a number and the second in
/// the high one: sums of 32 have thirteen bits. An only span has a neighbour of 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn neighbours<const SIZE: usize, const SPAN: usize>(sums: &[i16]) -> Spans {
    let mut spans = Spans::NONE;
    if SIZE == 32 {
        spans.0[0] = (i32::from(sums[0]) + i32::from(sums[1])) & 0xffff;
        return spans;
    }
    // SAFETY: a block of 256 has sixteen sums, asserted; the spans have room for sixteen numbers.
    // WHY: as in `moved`.
    unsafe {
        assert!(sums.len() == 16);
        let sums = _mm256_loadu_si256(sums.as_ptr().cast());
        let to = spans.0.as_mut_ptr();
        if SPAN == 16 {
            _mm256_store_si256(to.cast(), sums);
        } else {
            let sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
            _mm_store_si128(to.cast(), _mm256_cvtepi32_epi16(sums));
        }
    }
    spans
}

/// An offset as both halves of a number that is multiplied with a pair.
const BOTH: i32 = (1 << 16) + DIGIT_UNITS;

/// What a block adds to sixteen rows' results: the specification's steps that round. There are one or two digits; a second
/// one that is 0 changes nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn add_products<const D: usize>(sum: __m512, d: __m512, unit: f32, product: [__m512i; D]) -> __m512 {
    let (high, units) = (_mm512_cvtepi32_ps(product[0]), _mm512_set1_ps(DIGIT_UNITS as f32));
    let whole = if D == 1 {
        _mm512_mul_ps(units, high)
    } else {
        _mm512_fmadd_ps(units, high, _mm512_cvtepi32_ps(product[D - 1]))
    };
    _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(unit)), whole, sum)
}

/// The same for its offsets.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn add_offset(sum: __m512, dmin: __m512, unit: f32, offset: __m512i) -> __m512 {
    _mm512_fnmadd_ps(_mm512_mul_ps(dmin, _mm512_set1_ps(unit)), _mm512_cvtepi32_ps(offset), sum)
}

/// Asks for as many bytes as sixteen rows' blocks have, `at` bytes behind these rows. They are taken in the order in which
/// they lie: the processor follows one stream by itself, but not as many as rows (measured: 1.2 to 1.3 times the speed of
/// asking for the same rows' later blocks).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn fetch(rows: &[u8], size: usize, at: usize) {
    let next = rows.as_ptr().wrapping_add(rows.len() + at);
    for line in (0..GROUP_ROWS * size).step_by(64) {
        // A prefetch never faults, wherever it points.
        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast());
    }
}

/// Reads half-precision numbers sixteen at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn read_halves(from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let (from, last) = from.as_chunks::<16>();
    let (to, to_last) = to.as_chunks_mut::<16>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both have sixteen numbers.
        // WHY: one instruction for sixteen numbers; the portable conversion took longer than attention's scores.
        unsafe {
            let halves = _mm256_loadu_si256(from.as_ptr().cast());
            _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(halves));
        }
    }
    super::read_halves(last, to_last);
}

//! Eight rows times one token, straight from the blocks as the file has them.
//!
//! Eight rows because their whole sums then fill one register: the sums across lanes cost seven instructions
//! for eight blocks, and the rounding steps of the specification are one fma for eight rows.

use std::arch::x86_64::*;

use super::unpack::unpack;
use super::{add_offset, add_products, both, halves, join, look_up, nibbles, sums};
use crate::kernels::blocks::{Block, Blocks, DIGIT_UNITS, DIGITS};
use crate::weights::quant::{IQ4, MXFP4, Unpacked};
use crate::weights::{Kind, Values};

/// Rows multiplied at once.
pub(crate) const ROWS: usize = 8;

/// Eight rows of a quantised kind, `rows`, times one token of `x`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn dot_blocks(kind: Kind, rows: &[u8], x: &Blocks, token: usize, to: &mut [f32; ROWS]) {
    match kind {
        Kind::Q4_0 => small::<Q4_0>(rows, x, token, to),
        Kind::Q4_1 => small::<Q4_1>(rows, x, token, to),
        Kind::Q5_0 => small::<Q5_0>(rows, x, token, to),
        Kind::Q5_1 => small::<Q5_1>(rows, x, token, to),
        Kind::Q8_0 => small::<Q8_0>(rows, x, token, to),
        Kind::Q4K => large::<Q4K>(rows, x, token, to),
        Kind::Q5K => large::<Q5K>(rows, x, token, to),
        Kind::Q6K => large::<Q6K>(rows, x, token, to),
        Kind::Iq4Nl => small::<Iq4Nl>(rows, x, token, to),
        Kind::Mxfp4 => small::<Mxfp4>(rows, x, token, to),
        Kind::Q2K | Kind::Q3K => unpacked::<false>(kind, rows, x, token, to),
        Kind::Iq2Xxs | Kind::Iq2Xs | Kind::Iq2S | Kind::Iq3Xxs | Kind::Iq3S | Kind::Iq4Xs => {
            unpacked::<true>(kind, rows, x, token, to);
        }
        Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::F8E4M3 | Kind::F4E2M1 => {
            unreachable!("floats have their own product")
        }
    }
}

/// A kind with blocks of 32 and one factor each.
trait Small {
    const BYTES: usize;
    const OFFSET: Offset;
    /// The 32 values. Signed only where there is no offset.
    ///
    /// # Safety
    /// `block` must point to `BYTES` readable bytes, on a machine with AVX2.
    unsafe fn values(block: *const u8) -> __m256i;
    /// The factors of eight blocks that lie `stride` bytes apart, the first one at `at`.
    ///
    /// # Safety
    /// Only on a machine with AVX2.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors(rows: &[u8], at: usize, stride: usize) -> __m256 {
        halves(rows, at, stride)
    }
}

/// What is taken off a small block's values.
#[derive(PartialEq)]
enum Offset {
    /// Nothing: they are signed.
    None,
    /// The same number of all.
    Zero(i32),
    /// dmin = −m, where m follows d.
    Own,
}

struct Q4_0;
struct Q4_1;
struct Q5_0;
struct Q5_1;
struct Q8_0;
struct Iq4Nl;
struct Mxfp4;

impl Small for Q4_0 {
    const BYTES: usize = 18;
    const OFFSET: Offset = Offset::Zero(8);
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn values(block: *const u8) -> __m256i {
        // SAFETY: as the trait demands.
        // WHY: sixteen bytes at once.
        nibbles(unsafe { _mm_loadu_si128(block.add(2).cast()) })
    }
}

impl Small for Q4_1 {
    const BYTES: usize = 20;
    const OFFSET: Offset = Offset::Own;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn values(block: *const u8) -> __m256i {
        // SAFETY: as the trait demands.
        // WHY: sixteen bytes at once.
        nibbles(unsafe { _mm_loadu_si128(block.add(4).cast()) })
    }
}

impl Small for Q5_0 {
    const BYTES: usize = 22;
    const OFFSET: Offset = Offset::Zero(16);
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn values(block: *const u8) -> __m256i {
        // SAFETY: as the trait demands.
        // WHY: sixteen bytes at once.
        let (low, high) =
            unsafe { (_mm_loadu_si128(block.add(6).cast()), block.add(2).cast::<i32>().read_unaligned()) };
        _mm256_or_si256(nibbles(low), fifth_bits(high))
    }
}

impl Small for Q5_1 {
    const BYTES: usize = 24;
    const OFFSET: Offset = Offset::Own;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn values(block: *const u8) -> __m256i {
        // SAFETY: as the trait demands.
        // WHY: sixteen bytes at once.
        let (low, high) =
            unsafe { (_mm_loadu_si128(block.add(8).cast()), block.add(4).cast::<i32>().read_unaligned()) };
        _mm256_or_si256(nibbles(low), fifth_bits(high))
    }
}

impl Small for Q8_0 {
    const BYTES: usize = 34;
    const OFFSET: Offset = Offset::None;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn values(block: *const u8) -> __m256i {
        // SAFETY: as the trait demands.
        // WHY: thirty-two bytes at once.
        unsafe { _mm256_loadu_si256(block.add(2).cast()) }
    }
}

impl Small for Iq4Nl {
    const BYTES: usize = 18;
    const OFFSET: Offset = Offset::None;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn values(block: *const u8) -> __m256i {
        // SAFETY: as the trait demands.
        // WHY: sixteen bytes at once.
        look_up(&IQ4, nibbles(unsafe { _mm_loadu_si128(block.add(2).cast()) }))
    }
}

impl Small for Mxfp4 {
    const BYTES: usize = 17;
    const OFFSET: Offset = Offset::None;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn values(block: *const u8) -> __m256i {
        // SAFETY: as the trait demands.
        // WHY: sixteen bytes at once.
        look_up(&MXFP4, nibbles(unsafe { _mm_loadu_si128(block.add(1).cast()) }))
    }
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors(rows: &[u8], at: usize, stride: usize) -> __m256 {
        let bytes = std::array::from_fn(|r| rows[at + r * stride]);
        let powers = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(bytes)));
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(powers, _mm256_set1_epi32(1)));
        // The two smallest are subnormal.
        let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), powers);
        let small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), powers);
        _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small))
    }
}

/// Asks for the bytes that come as far behind `rows` as block `b` of row `r` lies from its beginning, taken in the order
/// of the loops here. The eight rows after these are then in the cache when their turn comes; eight short rows read side
/// by side are more streams than the processor follows by itself (measured: 3 times the time).
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fetch(rows: &[u8], bytes: usize, b: usize, r: usize) {
    let next = rows.as_ptr().wrapping_add(rows.len() + (b * ROWS + r) * bytes);
    for line in (0..bytes).step_by(64) {
        // A prefetch never faults, wherever it points.
        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast());
    }
}

/// 16 in every byte whose bit is set.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fifth_bits(bits: i32) -> __m256i {
    let each = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
    );
    let bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), each);
    _mm256_and_si256(_mm256_cmpeq_epi8(bits, each), _mm256_set1_epi8(16))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn small<K: Small>(rows: &[u8], x: &Blocks, token: usize, to: &mut [f32; ROWS]) {
    let row = rows.len() / ROWS;
    let ones = _mm256_set1_epi16(1);
    let mut acc = _mm256_setzero_ps();
    for b in 0..row / K::BYTES {
        // Blocks of 32 are always even: their second digit is 0.
        let Block { unit, digits: [a, _], sums: [a_sums, _], .. } = x.block(b, token);
        assert!(a.len() == 32);
        let at = b * K::BYTES;
        // SAFETY: `a` has 32 bytes.
        // WHY: one load.
        let a = unsafe { _mm256_loadu_si256(a.as_ptr().cast()) };
        let mut products = [_mm256_setzero_si256(); ROWS];
        for r in 0..ROWS {
            fetch(rows, K::BYTES, b, r);
            // SAFETY: row `r` has whole blocks, and this is its block `b`; the features are those of this
            // function.
            // WHY: a bounds check per block and row is as dear as the product.
            let w = unsafe { K::values(rows.as_ptr().add(r * row + at)) };
            let pairs = if K::OFFSET == Offset::None {
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
            } else {
                _mm256_maddubs_epi16(w, a)
            };
            products[r] = _mm256_madd_epi16(pairs, ones);
        }
        // SAFETY: the features are those of this function.
        // WHY: the kinds' way to be called.
        let d = unsafe { K::factors(rows, at, row) };
        let total = i32::from(a_sums[0]) + i32::from(a_sums[1]);
        let zero = if let Offset::Zero(zero) = K::OFFSET { zero } else { 0 };
        let whole = _mm256_sub_epi32(sums(&products), _mm256_set1_epi32(zero * total));
        acc = add_products(acc, d, unit, [whole, _mm256_setzero_si256()]);
        if K::OFFSET == Offset::Own {
            let dmin = _mm256_sub_ps(_mm256_setzero_ps(), halves(rows, at + 2, row));
            let offset = _mm256_set1_epi32(DIGIT_UNITS * total);
            acc = add_offset(acc, dmin, unit, offset);
        }
    }
    // SAFETY: the array has eight numbers.
    // WHY: one store.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), acc) };
}

/// A kind with blocks of 256.
trait Large {
    const BYTES: usize;
    /// Where `d` lies in a block.
    const D: usize;
    /// Where `dmin` lies, if there are offsets.
    const DMIN: Option<usize>;
    /// Partial sums of the products with 256 activations, and of the offsets with their sums: the lanes of
    /// each add up to the specification's whole numbers of one digit.
    ///
    /// # Safety
    /// `block` must point to `BYTES` readable bytes, `a` to 256 and `a_sums` to 16 numbers, on a machine
    /// with AVX2.
    unsafe fn products(block: *const u8, a: *const i8, a_sums: __m256i) -> (__m256i, __m256i);
}

struct Q4K;
struct Q5K;
struct Q6K;

/// Spreads number `j` of eight 16-bit numbers over a register.
static SPREAD: [[u8; 16]; 8] = {
    let mut spread = [[0; 16]; 8];
    let mut j = 0;
    while j < 8 {
        let mut i = 0;
        while i < 16 {
            spread[j][i] = (2 * j + i % 2) as u8;
            i += 1;
        }
        j += 1;
    }
    spread
};

/// In both halves: number `j` of that half's eight 16-bit numbers, eight times.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn spread(numbers: __m256i, j: usize) -> __m256i {
    // SAFETY: each entry has sixteen bytes.
    // WHY: the compiler keeps the eight patterns in memory operands.
    let pattern = unsafe { _mm_loadu_si128(SPREAD[j].as_ptr().cast()) };
    _mm256_shuffle_epi8(numbers, _mm256_broadcastsi128_si256(pattern))
}

/// The eight 6-bit scales and offsets of Q4_K and Q5_K: scales as 16-bit numbers in both halves, and partial
/// sums of the offsets times the activations' sums.
///
/// # Safety
/// `bytes` must point to twelve readable bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn six_bits(bytes: *const u8, a_sums: __m256i) -> (__m256i, __m256i) {
    // SAFETY: as the function demands.
    // WHY: three loads instead of twelve.
    let [x, y, z] = unsafe { bytes.cast::<[u32; 3]>().read_unaligned() };
    let low = |x: u32| u64::from(x & 0x3f3f_3f3f);
    let high = |x: u32, top: u32| u64::from(x & 0x0f0f_0f0f | (top >> 6 & 0x0303_0303) << 4);
    let scales = low(x) | high(z, x) << 32;
    let offsets = low(y) | high(z >> 4, y) << 32;
    let scales = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(scales.cast_signed()));
    let offsets = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(offsets.cast_signed()));
    // Each offset stands for two sums of sixteen: [o0, o0, o1, o1, …].
    let offsets =
        _mm256_set_m128i(_mm_unpackhi_epi16(offsets, offsets), _mm_unpacklo_epi16(offsets, offsets));
    (_mm256_broadcastsi128_si256(scales), _mm256_madd_epi16(offsets, a_sums))
}

impl Large for Q4K {
    const BYTES: usize = 144;
    const D: usize = 0;
    const DMIN: Option<usize> = Some(2);
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn products(block: *const u8, a: *const i8, a_sums: __m256i) -> (__m256i, __m256i) {
        // SAFETY: as the trait demands.
        // WHY: a decoding step is these loads and little else.
        unsafe {
            let (scales, offset) = six_bits(block.add(4), a_sums);
            let mask = _mm256_set1_epi8(15);
            let mut sum = _mm256_setzero_si256();
            for j in 0..4 {
                let bytes = _mm256_loadu_si256(block.add(16 + 32 * j).cast());
                let low = _mm256_and_si256(bytes, mask);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
                let low = _mm256_maddubs_epi16(low, _mm256_loadu_si256(a.add(64 * j).cast()));
                let high = _mm256_maddubs_epi16(high, _mm256_loadu_si256(a.add(64 * j + 32).cast()));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, spread(scales, 2 * j)));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(high, spread(scales, 2 * j + 1)));
            }
            (sum, offset)
        }
    }
}

impl Large for Q5K {
    const BYTES: usize = 176;
    const D: usize = 0;
    const DMIN: Option<usize> = Some(2);
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn products(block: *const u8, a: *const i8, a_sums: __m256i) -> (__m256i, __m256i) {
        // SAFETY: as the trait demands.
        // WHY: a decoding step is these loads and little else.
        unsafe {
            let (scales, offset) = six_bits(block.add(4), a_sums);
            let (mask, sixteen) = (_mm256_set1_epi8(15), _mm256_set1_epi8(16));
            let fifth = _mm256_loadu_si256(block.add(16).cast());
            let mut bit = _mm256_set1_epi8(1);
            let mut sum = _mm256_setzero_si256();
            for j in 0..4 {
                let bytes = _mm256_loadu_si256(block.add(48 + 32 * j).cast());
                let top = _mm256_cmpeq_epi8(_mm256_and_si256(fifth, bit), bit);
                bit = _mm256_add_epi8(bit, bit);
                let low = _mm256_or_si256(_mm256_and_si256(bytes, mask), _mm256_and_si256(top, sixteen));
                let top = _mm256_cmpeq_epi8(_mm256_and_si256(fifth, bit), bit);
                bit = _mm256_add_epi8(bit, bit);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
                let high = _mm256_or_si256(high, _mm256_and_si256(top, sixteen));
                let low = _mm256_maddubs_epi16(low, _mm256_loadu_si256(a.add(64 * j).cast()));
                let high = _mm256_maddubs_epi16(high, _mm256_loadu_si256(a.add(64 * j + 32).cast()));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, spread(scales, 2 * j)));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(high, spread(scales, 2 * j + 1)));
            }
            (sum, offset)
        }
    }
}

impl Large for Q6K {
    const BYTES: usize = 210;
    const D: usize = 208;
    const DMIN: Option<usize> = None;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn products(block: *const u8, a: *const i8, a_sums: __m256i) -> (__m256i, __m256i) {
        // SAFETY: as the trait demands.
        // WHY: a decoding step is these loads and little else.
        unsafe {
            let scales = _mm_loadu_si128(block.add(192).cast());
            let zeros = _mm256_mullo_epi16(_mm256_cvtepi8_epi16(scales), _mm256_set1_epi16(-32));
            let mut sum = _mm256_madd_epi16(zeros, a_sums);
            // A register of 32 products has one scale per half: even scales below, odd ones above.
            let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
            let scales = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, order));
            let (four, two) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
            for half in 0..2 {
                let low0 = _mm256_loadu_si256(block.add(64 * half).cast());
                let low1 = _mm256_loadu_si256(block.add(64 * half + 32).cast());
                let high = _mm256_loadu_si256(block.add(128 + 32 * half).cast());
                let q = [
                    _mm256_or_si256(
                        _mm256_and_si256(low0, four),
                        _mm256_and_si256(_mm256_slli_epi16::<4>(high), two),
                    ),
                    _mm256_or_si256(
                        _mm256_and_si256(low1, four),
                        _mm256_and_si256(_mm256_slli_epi16::<2>(high), two),
                    ),
                    _mm256_or_si256(
                        _mm256_and_si256(_mm256_srli_epi16::<4>(low0), four),
                        _mm256_and_si256(high, two),
                    ),
                    _mm256_or_si256(
                        _mm256_and_si256(_mm256_srli_epi16::<4>(low1), four),
                        _mm256_and_si256(_mm256_srli_epi16::<2>(high), two),
                    ),
                ];
                for (j, q) in q.into_iter().enumerate() {
                    let a = _mm256_loadu_si256(a.add(128 * half + 32 * j).cast());
                    let pairs = _mm256_maddubs_epi16(q, a);
                    let scaled = _mm256_madd_epi16(pairs, spread(scales, 4 * half + j));
                    sum = _mm256_add_epi32(sum, scaled);
                }
            }
            (sum, _mm256_setzero_si256())
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn large<K: Large>(rows: &[u8], x: &Blocks, token: usize, to: &mut [f32; ROWS]) {
    let mut acc = _mm256_setzero_ps();
    for b in 0..rows.len() / ROWS / K::BYTES {
        let x = x.block(b, token);
        acc = if x.fine {
            large_block::<K, DIGITS>(rows, b, &x, acc)
        } else {
            large_block::<K, 1>(rows, b, &x, acc)
        };
    }
    // SAFETY: the array has eight numbers.
    // WHY: one store.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), acc) };
}

/// Adds block `b` of the rows times the first `D` digits of the token's block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn large_block<K: Large, const D: usize>(rows: &[u8], b: usize, x: &Block<'_>, acc: __m256) -> __m256 {
    let row = rows.len() / ROWS;
    let Block { unit, digits, sums: a_sums, .. } = *x;
    assert!(digits.iter().all(|a| a.len() == 256) && a_sums.iter().all(|sums| sums.len() == 16));
    let at = b * K::BYTES;
    // SAFETY: there are sixteen sums.
    // WHY: one load.
    let a_sums = a_sums.map(|sums| unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) });
    let mut products = [[_mm256_setzero_si256(); ROWS]; D];
    let mut offsets = [[_mm256_setzero_si256(); ROWS]; D];
    for r in 0..ROWS {
        fetch(rows, K::BYTES, b, r);
        for digit in 0..D {
            // SAFETY: row `r` has whole blocks, and this is its block `b`; the activations' lengths are
            // asserted above, and the features are those of this function.
            // WHY: a bounds check per load would double the loop. The compiler unpacks the weights once
            // for both digits.
            (products[digit][r], offsets[digit][r]) = unsafe {
                K::products(rows.as_ptr().add(r * row + at), digits[digit].as_ptr(), a_sums[digit])
            };
        }
    }
    let mut acc = add_products(acc, halves(rows, at + K::D, row), unit, both(products.map(|p| sums(&p))));
    if let Some(place) = K::DMIN {
        let [high, low] = both(offsets.map(|offsets| sums(&offsets)));
        acc = add_offset(acc, halves(rows, at + place, row), unit, join(high, low));
    }
    acc
}

/// Kinds with blocks of 256 that are unpacked into memory before they are multiplied: all eight rows first, because bytes
/// that were just written cannot be read in larger pieces for a while.
#[target_feature(enable = "avx2,fma,f16c")]
fn unpacked<const SIGNED: bool>(kind: Kind, rows: &[u8], x: &Blocks, token: usize, to: &mut [f32; ROWS]) {
    let (row, bytes) = (rows.len() / ROWS, kind.block_bytes());
    let zero = if let Values::Around(zero) = kind.values() { i16::from(zero) } else { 0 };
    let mut weights = [Unpacked::ZERO; ROWS];
    let mut acc = _mm256_setzero_ps();
    for b in 0..row / bytes {
        for (r, weights) in weights.iter_mut().enumerate() {
            fetch(rows, bytes, b, r);
            unpack(kind, &rows[r * row + b * bytes..][..bytes], weights);
        }
        let Block { unit, fine, digits, sums: a_sums } = x.block(b, token);
        assert!(digits.iter().all(|a| a.len() == 256) && a_sums.iter().all(|sums| sums.len() == 16));
        let used = if fine { DIGITS } else { 1 };
        let mut products = [[_mm256_setzero_si256(); ROWS]; DIGITS];
        let mut offsets = [[_mm256_setzero_si256(); ROWS]; DIGITS];
        for (r, weights) in weights.iter().enumerate() {
            // SAFETY: blocks have 256 values and 16 scales and offsets, activations 256 values and 16 sums, as
            // asserted.
            // WHY: register loads.
            unsafe {
                // Scales of the first sixteen of 32 values into the low half, of the next sixteen into the high half.
                let in_order = _mm256_loadu_si256(weights.scale.as_ptr().cast());
                let order = _mm256_setr_epi8(
                    0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6,
                    7, 10, 11, 14, 15,
                );
                let scales = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(in_order, order));
                for j in 0..8 {
                    let w = _mm256_loadu_si256(weights.q.as_ptr().add(32 * j).cast());
                    let scale = spread(scales, j);
                    for digit in 0..used {
                        let a = _mm256_loadu_si256(digits[digit].as_ptr().add(32 * j).cast());
                        let pairs = if SIGNED {
                            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
                        } else {
                            _mm256_maddubs_epi16(w, a)
                        };
                        products[digit][r] =
                            _mm256_add_epi32(products[digit][r], _mm256_madd_epi16(pairs, scale));
                    }
                }
                if !SIGNED {
                    let offset = _mm256_loadu_si256(weights.offset.as_ptr().cast());
                    let zeros = _mm256_mullo_epi16(in_order, _mm256_set1_epi16(-zero));
                    for digit in 0..used {
                        let sums = _mm256_loadu_si256(a_sums[digit].as_ptr().cast());
                        offsets[digit][r] = _mm256_madd_epi16(offset, sums);
                        products[digit][r] =
                            _mm256_add_epi32(products[digit][r], _mm256_madd_epi16(zeros, sums));
                    }
                }
            }
        }
        let factors = |of: fn(&Unpacked) -> f32| {
            let factors: [f32; ROWS] = std::array::from_fn(|r| of(&weights[r]));
            // SAFETY: the array has eight numbers.
            // WHY: one load.
            unsafe { _mm256_loadu_ps(factors.as_ptr()) }
        };
        let products = products.map(|products| sums(&products));
        acc = add_products(acc, factors(|weights| weights.d), unit, products);
        if kind.values() == Values::Offset {
            let [high, low] = offsets.map(|offsets| sums(&offsets));
            acc = add_offset(acc, factors(|weights| weights.dmin), unit, join(high, low));
        }
    }
    // SAFETY: the array has eight numbers.
    // WHY: one store.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), acc) };
}

/// `R` rows of floats times `T` tokens: `to[r][t]`. `row` bytes make a row.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn dot_floats<const R: usize, const T: usize>(
    kind: Kind,
    rows: &[u8],
    x: [&[f32]; T],
    to: &mut [[f32; T]; R],
) {
    match kind {
        Kind::F32 => floats::<R, T, 4>(rows, x, to, |bytes| {
            // SAFETY: `floats` passes eight numbers' bytes.
            // WHY: one load.
            unsafe { _mm256_loadu_ps(bytes.as_ptr().cast()) }
        }),
        Kind::F16 => floats::<R, T, 2>(rows, x, to, |bytes| {
            // SAFETY: `floats` passes eight numbers' bytes, and this function is compiled for f16c.
            // WHY: one load and one conversion.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast())) }
        }),
        Kind::Bf16 => floats::<R, T, 2>(rows, x, to, |bytes| {
            // SAFETY: `floats` passes eight numbers' bytes, and this function is compiled for AVX2.
            // WHY: a bfloat16 is the upper half of an f32: one load, one extension, one shift.
            unsafe {
                let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
            }
        }),
        _ => unreachable!("no floats, or floats that are read before they are multiplied"),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn floats<const R: usize, const T: usize, const BYTES: usize>(
    rows: &[u8],
    x: [&[f32]; T],
    to: &mut [[f32; T]; R],
    read: impl Fn(&[u8]) -> __m256,
) {
    let row = rows.len() / R;
    let columns = row / BYTES;
    assert!(x.iter().all(|x| x.len() == columns));
    let mut acc = [[_mm256_setzero_ps(); T]; R];
    let whole = columns / 8 * 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: `i + 8 <= columns`, the length of every `x`.
        // WHY: one load each.
        let x: [__m256; T] = std::array::from_fn(|t| unsafe { _mm256_loadu_ps(x[t].as_ptr().add(i)) });
        for r in 0..R {
            let w = read(&rows[r * row + i * BYTES..][..8 * BYTES]);
            for t in 0..T {
                acc[r][t] = _mm256_fmadd_ps(w, x[t], acc[r][t]);
            }
        }
    }
    for r in 0..R {
        // The last columns, filled up with zeros, which change no sum.
        let mut last = [0_u8; 32];
        let bytes = &rows[r * row + whole * BYTES..(r + 1) * row];
        last[..bytes.len()].copy_from_slice(bytes);
        let w = read(&last[..8 * BYTES]);
        for t in 0..T {
            let mut last = [0.0_f32; 8];
            last[..columns - whole].copy_from_slice(&x[t][whole..]);
            // SAFETY: the array has eight numbers.
            // WHY: one load.
            let x = unsafe { _mm256_loadu_ps(last.as_ptr()) };
            to[r][t] = fold(if whole < columns { _mm256_fmadd_ps(w, x, acc[r][t]) } else { acc[r][t] });
        }
    }
}

/// The sum of eight lanes in the specification's order.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fold(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
}

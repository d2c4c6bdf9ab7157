//! Sixteen rows times many tokens.
//!
//! A block of sixteen rows is unpacked once, turned so that a register holds four neighbouring columns of
//! eight rows, and multiplied with every token of the chunk. One 32-bit broadcast of activations then meets
//! eight rows at once, products of a scale's columns add up in 16 bits before they are scaled, and no sum
//! crosses lanes. Unpacking costs about as much as five tokens, so few tokens are better served by `dot`.

use std::arch::x86_64::*;

use super::unpack::unpack;
use super::{add_offset, add_products, join};
use crate::kernels::blocks::{Block, Blocks, DIGIT_UNITS, DIGITS};
use crate::weights::quant::Unpacked;
use crate::weights::{Kind, Values};

/// Rows of a panel: two groups of eight.
pub(crate) const ROWS: usize = 16;
const GROUPS: usize = 2;

/// One block of sixteen rows, unpacked and turned.
#[repr(align(32))]
pub(crate) struct Panel {
    /// [group, column / 4, row, column % 4]
    q: [[[u8; 32]; 64]; GROUPS],
    /// [group, column / 16, row, 2]: every scale twice, for the two products of a 32-bit lane.
    scale: [[[i16; 16]; 16]; GROUPS],
    /// [group, column / 32, row, 2]: the offsets of sixteen columns and of the next sixteen; for kinds with a zero
    /// their scales, times how much that is.
    offset: [[[i16; 16]; 8]; GROUPS],
    d: [[f32; 8]; GROUPS],
    dmin: [[f32; 8]; GROUPS],
    /// One row on its way into the panel, and eight rows before they are turned.
    unpacked: Unpacked,
    rows: [[u8; 256]; 8],
    /// [token, row]: what the products add up to.
    acc: Vec<[f32; ROWS]>,
}

impl Default for Panel {
    fn default() -> Panel {
        Panel {
            q: [[[0; 32]; 64]; GROUPS],
            scale: [[[0; 16]; 16]; GROUPS],
            offset: [[[0; 16]; 8]; GROUPS],
            d: [[0.0; 8]; GROUPS],
            dmin: [[0.0; 8]; GROUPS],
            unpacked: Unpacked::ZERO,
            rows: [[0; 256]; 8],
            acc: Vec::new(),
        }
    }
}

/// Sixteen rows of a quantised kind times all tokens of `x`: [token, row].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn multiply<'a>(panel: &'a mut Panel, kind: Kind, rows: &[u8], x: &Blocks) -> &'a [[f32; ROWS]] {
    panel.acc.clear();
    panel.acc.resize(x.tokens(), [0.0; ROWS]);
    match kind {
        Kind::Q4_0 | Kind::Q4_1 => small::<8, false>(panel, kind, rows, x),
        Kind::Q5_0 | Kind::Q5_1 => small::<4, false>(panel, kind, rows, x),
        Kind::Q8_0 | Kind::Iq4Nl => small::<1, true>(panel, kind, rows, x),
        Kind::Mxfp4 => small::<8, true>(panel, kind, rows, x),
        // How many products of two fit 16 bits: 2·127·q·n ≤ 32,767 for q ≤ 3, 7, 15, 31, 43, 62, 63, 127. A scale covers
        // four steps of four columns in Q2_K, Q3_K, Q6_K, IQ2_XS and IQ2_S, and eight in the others.
        Kind::Q2K | Kind::Q3K => large::<4, false>(panel, kind, rows, x),
        Kind::Q4K => large::<8, false>(panel, kind, rows, x),
        Kind::Q5K => large::<4, false>(panel, kind, rows, x),
        Kind::Q6K => large::<2, false>(panel, kind, rows, x),
        Kind::Iq2Xxs | Kind::Iq2Xs | Kind::Iq2S | Kind::Iq3Xxs => large::<2, true>(panel, kind, rows, x),
        Kind::Iq3S => large::<8, true>(panel, kind, rows, x),
        Kind::Iq4Xs => large::<1, true>(panel, kind, rows, x),
        Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::F8E4M3 | Kind::F4E2M1 => {
            unreachable!("floats have their own product")
        }
    }
    &panel.acc
}

/// Unpacks block `b` of sixteen rows into the panel.
#[target_feature(enable = "avx2,fma,f16c")]
fn fill(panel: &mut Panel, kind: Kind, rows: &[u8], b: usize) {
    let row = rows.len() / ROWS;
    let bytes = kind.block_bytes();
    let zero = if let Values::Around(zero) = kind.values() { Some(i16::from(zero)) } else { None };
    for group in 0..GROUPS {
        for r in 0..8 {
            let block = &rows[(8 * group + r) * row + b * bytes..][..bytes];
            let from = &mut panel.unpacked;
            unpack(kind, block, from);
            panel.rows[r] = from.q;
            panel.d[group][r] = from.d;
            panel.dmin[group][r] = from.dmin;
            if kind.block() == 256 {
                for j in 0..16 {
                    panel.scale[group][j][2 * r] = from.scale[j];
                    panel.scale[group][j][2 * r + 1] = from.scale[j];
                    let offset = zero.map_or(from.offset[j], |zero| zero * from.scale[j]);
                    panel.offset[group][j / 2][2 * r + j % 2] = offset;
                }
            }
        }
        for i in 0..kind.block() / 32 {
            turn(&panel.rows, 32 * i, &mut panel.q[group], 8 * i);
        }
    }
}

/// Turns 32 columns of eight rows, from column `at`, into eight registers of four columns of all rows: a
/// transposition of 8 × 8 32-bit numbers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn turn(rows: &[[u8; 256]; 8], at: usize, to: &mut [[u8; 32]; 64], to_at: usize) {
    assert!(at + 32 <= 256 && to_at + 8 <= 64);
    // SAFETY: both places were just checked to have 32 bytes in each of their eight rows.
    // WHY: register loads and stores; byte by byte, turning cost more than the products of twenty tokens.
    let v: [__m256i; 8] =
        std::array::from_fn(|r| unsafe { _mm256_loadu_si256(rows[r].as_ptr().add(at).cast()) });
    let t = [
        _mm256_unpacklo_epi32(v[0], v[1]),
        _mm256_unpackhi_epi32(v[0], v[1]),
        _mm256_unpacklo_epi32(v[2], v[3]),
        _mm256_unpackhi_epi32(v[2], v[3]),
        _mm256_unpacklo_epi32(v[4], v[5]),
        _mm256_unpackhi_epi32(v[4], v[5]),
        _mm256_unpacklo_epi32(v[6], v[7]),
        _mm256_unpackhi_epi32(v[6], v[7]),
    ];
    let u = [
        _mm256_unpacklo_epi64(t[0], t[2]),
        _mm256_unpackhi_epi64(t[0], t[2]),
        _mm256_unpacklo_epi64(t[1], t[3]),
        _mm256_unpackhi_epi64(t[1], t[3]),
        _mm256_unpacklo_epi64(t[4], t[6]),
        _mm256_unpackhi_epi64(t[4], t[6]),
        _mm256_unpacklo_epi64(t[5], t[7]),
        _mm256_unpackhi_epi64(t[5], t[7]),
    ];
    for i in 0..4 {
        let low = _mm256_permute2x128_si256::<0x20>(u[i], u[i + 4]);
        let high = _mm256_permute2x128_si256::<0x31>(u[i], u[i + 4]);
        // SAFETY: as above.
        // WHY: as above.
        unsafe {
            _mm256_storeu_si256(to[to_at + i].as_mut_ptr().cast(), low);
            _mm256_storeu_si256(to[to_at + i + 4].as_mut_ptr().cast(), high);
        }
    }
}

/// What one digit of a token makes with a block of the panel, for each group of eight rows.
#[derive(Clone, Copy)]
struct Whole {
    product: [__m256i; GROUPS],
    offset: [__m256i; GROUPS],
}

/// Kinds with blocks of 256. `STEPS` steps of four columns are added up in 16 bits before they are scaled.
///
/// Weights are loaded for two digits at once: both of a token whose block is not even, or the first of each of two tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn large<const STEPS: usize, const SIGNED: bool>(panel: &mut Panel, kind: Kind, rows: &[u8], x: &Blocks) {
    let zero = [_mm256_setzero_si256(); GROUPS];
    let nothing = Whole { product: zero, offset: zero };
    for b in 0..rows.len() / ROWS / kind.block_bytes() {
        fill(panel, kind, rows, b);
        // An even block that waits for another one.
        let mut waits: Option<usize> = None;
        for token in 0..x.tokens() {
            let block = x.block(b, token);
            if block.fine {
                let digits = large_tile::<STEPS, SIGNED, 2>(panel, [(&block, 0), (&block, 1)]);
                large_add(panel, kind, token, block.unit, digits);
            } else if let Some(before) = waits.take() {
                let first = x.block(b, before);
                let [one, two] = large_tile::<STEPS, SIGNED, 2>(panel, [(&first, 0), (&block, 0)]);
                large_add(panel, kind, before, first.unit, [one, nothing]);
                large_add(panel, kind, token, block.unit, [two, nothing]);
            } else {
                waits = Some(token);
            }
        }
        if let Some(token) = waits {
            let block = x.block(b, token);
            let [one] = large_tile::<STEPS, SIGNED, 1>(panel, [(&block, 0)]);
            large_add(panel, kind, token, block.unit, [one, nothing]);
        }
    }
}

/// The panel times `N` digits. Two groups and two digits take four 16-bit and four 32-bit sums, two registers of weights and
/// one of activations: what sixteen registers hold.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn large_tile<const STEPS: usize, const SIGNED: bool, const N: usize>(
    panel: &Panel,
    of: [(&Block<'_>, usize); N],
) -> [Whole; N] {
    let a = of.map(|(block, digit)| block.digits[digit]);
    let a_sums = of.map(|(block, digit)| block.sums[digit]);
    assert!(a.iter().all(|a| a.len() == 256) && a_sums.iter().all(|sums| sums.len() == 16));
    let a: [*const i32; N] = a.map(|a| a.as_ptr().cast());
    let a_sums: [*const i32; N] = a_sums.map(|sums| sums.as_ptr().cast());
    let zero = _mm256_setzero_si256();
    let mut whole = [Whole { product: [zero; GROUPS], offset: [zero; GROUPS] }; N];
    // SAFETY: steps run over the 64 columns / 4 of the panel and of 256 activations, offsets over 8 pairs of
    // the panel and of 16 sums; the activations' lengths are asserted above.
    // WHY: these two loops are the whole cost of prefill.
    unsafe {
        for i in 0..64 / STEPS {
            let mut pairs = [[zero; N]; GROUPS];
            for step in i * STEPS..(i + 1) * STEPS {
                let w: [__m256i; GROUPS] =
                    std::array::from_fn(|g| _mm256_loadu_si256(panel.q[g].as_ptr().add(step).cast()));
                for n in 0..N {
                    let a = _mm256_set1_epi32(a[n].add(step).read_unaligned());
                    for g in 0..GROUPS {
                        pairs[g][n] = _mm256_add_epi16(pairs[g][n], products::<SIGNED>(w[g], a));
                    }
                }
            }
            for g in 0..GROUPS {
                let scale = _mm256_loadu_si256(panel.scale[g].as_ptr().add(i * STEPS / 4).cast());
                for n in 0..N {
                    let scaled = _mm256_madd_epi16(pairs[g][n], scale);
                    whole[n].product[g] = _mm256_add_epi32(whole[n].product[g], scaled);
                }
            }
        }
        // Signed kinds have no offsets.
        for i in 0..if SIGNED { 0 } else { 8 } {
            for g in 0..GROUPS {
                let offsets = _mm256_loadu_si256(panel.offset[g].as_ptr().add(i).cast());
                for n in 0..N {
                    let sums = _mm256_set1_epi32(a_sums[n].add(i).read_unaligned());
                    let offset = _mm256_madd_epi16(offsets, sums);
                    whole[n].offset[g] = _mm256_add_epi32(whole[n].offset[g], offset);
                }
            }
        }
    }
    whole
}

/// Adds what both digits of a token made to what the token has.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn large_add(panel: &mut Panel, kind: Kind, token: usize, unit: f32, [high, low]: [Whole; DIGITS]) {
    for g in 0..GROUPS {
        if kind.values() == Values::Offset {
            let offset = join(high.offset[g], low.offset[g]);
            add(panel, token, g, unit, [high.product[g], low.product[g]], Some(offset));
        } else {
            let product = [high, low].map(|digit| _mm256_sub_epi32(digit.product[g], digit.offset[g]));
            add(panel, token, g, unit, product, None);
        }
    }
}

/// Weights times activations, sums of two.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products<const SIGNED: bool>(w: __m256i, a: __m256i) -> __m256i {
    if SIGNED {
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
    } else {
        _mm256_maddubs_epi16(w, a)
    }
}

/// The specification's steps that round, for one token and eight rows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add(
    panel: &mut Panel,
    token: usize,
    group: usize,
    unit: f32,
    product: [__m256i; DIGITS],
    offset: Option<__m256i>,
) {
    let acc = &mut panel.acc[token][8 * group..8 * group + 8];
    // SAFETY: each of the three places has eight numbers.
    // WHY: register loads and one store.
    unsafe {
        let d = _mm256_loadu_ps(panel.d[group].as_ptr());
        let mut sum = add_products(_mm256_loadu_ps(acc.as_ptr()), d, unit, product);
        if let Some(offset) = offset {
            sum = add_offset(sum, _mm256_loadu_ps(panel.dmin[group].as_ptr()), unit, offset);
        }
        _mm256_storeu_ps(acc.as_mut_ptr(), sum);
    }
}

/// Kinds with blocks of 32. These are always even: their second digit is 0.
#[target_feature(enable = "avx2,fma,f16c")]
fn small<const STEPS: usize, const SIGNED: bool>(panel: &mut Panel, kind: Kind, rows: &[u8], x: &Blocks) {
    for b in 0..rows.len() / ROWS / kind.block_bytes() {
        fill(panel, kind, rows, b);
        let pairs = x.tokens() / 2 * 2;
        for token in (0..pairs).step_by(2) {
            small_tile::<STEPS, SIGNED, 2>(panel, kind, x, b, token);
        }
        if pairs < x.tokens() {
            small_tile::<STEPS, SIGNED, 1>(panel, kind, x, b, pairs);
        }
    }
}

/// The panel times `N` tokens from `token` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn small_tile<const STEPS: usize, const SIGNED: bool, const N: usize>(
    panel: &mut Panel,
    kind: Kind,
    x: &Blocks,
    b: usize,
    token: usize,
) {
    let blocks: [Block<'_>; N] = std::array::from_fn(|n| x.block(b, token + n));
    assert!(blocks.iter().all(|block| block.digits[0].len() == 32 && block.sums[0].len() == 2));
    let a: [*const i32; N] = std::array::from_fn(|n| blocks[n].digits[0].as_ptr().cast());
    let ones = _mm256_set1_epi16(1);
    let total = blocks.map(|block| i32::from(block.sums[0][0]) + i32::from(block.sums[0][1]));
    let zero = if let Values::Around(zero) = kind.values() { i32::from(zero) } else { 0 };
    let mut product = [total.map(|total| _mm256_set1_epi32(-zero * total)); GROUPS];
    // SAFETY: steps run over the eight columns / 4 that a block of 32 fills of the panel, and over the 32
    // activations asserted above.
    // WHY: this loop is the whole cost of prefill.
    unsafe {
        for i in 0..8 / STEPS {
            let mut pairs = [[_mm256_setzero_si256(); N]; GROUPS];
            for step in i * STEPS..(i + 1) * STEPS {
                let w: [__m256i; GROUPS] =
                    std::array::from_fn(|g| _mm256_loadu_si256(panel.q[g].as_ptr().add(step).cast()));
                for n in 0..N {
                    let a = _mm256_set1_epi32(a[n].add(step).read_unaligned());
                    for g in 0..GROUPS {
                        pairs[g][n] = _mm256_add_epi16(pairs[g][n], products::<SIGNED>(w[g], a));
                    }
                }
            }
            for g in 0..GROUPS {
                for n in 0..N {
                    product[g][n] = _mm256_add_epi32(product[g][n], _mm256_madd_epi16(pairs[g][n], ones));
                }
            }
        }
    }
    for n in 0..N {
        let offset = (kind.values() == Values::Offset).then(|| _mm256_set1_epi32(DIGIT_UNITS * total[n]));
        for g in 0..GROUPS {
            let product = [product[g][n], _mm256_setzero_si256()];
            add(panel, token + n, g, blocks[n].unit, product, offset);
        }
    }
}

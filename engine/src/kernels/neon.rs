//! Kernels for aarch64, whose vector instructions every such machine has. They give the same bits as `plain.rs`.
//!
//! A block is unpacked to signed bytes, once for all tokens, and multiplied sixteen bytes at a time, which have one scale: a
//! machine with the dot product of ARMv8.2 has one instruction for them, others take three. The whole numbers of a block
//! are exact in any order, and its few rounding steps are those of the specification, one row and one token at a time.
//! What `float.rs` has needs no twin here: the compiler may use all vector instructions there are, and does.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::Input;
use super::blocks::{Block, DIGIT_UNITS, DIGITS};
use crate::weights::quant::{Unpacked, unpack_by};
use crate::weights::{Kind, Matrix, Values};

/// Whether this machine has the instruction that [`Instruction`] takes.
pub(crate) fn has_dotprod() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// How sixteen products of bytes are added up.
pub(crate) trait Dot {
    /// Adds the products of `a` and `b` to four sums, in any order. `b` has no −128.
    ///
    /// # Safety
    /// Only on a machine that has the instruction.
    unsafe fn add(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

/// With the instructions that all machines have.
pub(crate) struct Everywhere;

/// With the one for it.
pub(crate) struct Instruction;

impl Dot for Everywhere {
    #[inline(always)]
    unsafe fn add(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: every aarch64 machine has these.
        // WHY: sixteen products in three instructions. Two of them fit sixteen bits: 2 · 128 · 127 < 2¹⁵.
        unsafe {
            let pairs = vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b);
            vpadalq_s16(sums, pairs)
        }
    }
}

impl Dot for Instruction {
    #[inline(always)]
    unsafe fn add(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: only registers are read and written, and the machine has the instruction, as the trait demands.
        // WHY: one instruction for sixteen products. The function that stands for it is not stable yet; the first line
        // lets the assembler know it in code that runs on other machines, too.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                sums = inout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sums
    }
}

/// Some rows of a quantised matrix times all tokens. `put` takes a token, a row and their product.
///
/// # Safety
/// Only on a machine that has what `D` takes.
pub(crate) unsafe fn rows<D: Dot>(
    matrix: &Matrix,
    rows: Range<usize>,
    input: &Input,
    mut put: impl FnMut(usize, usize, f32),
) {
    let (kind, x) = (matrix.kind(), input.blocks(matrix.kind()));
    let mut weights = Unpacked::ZERO;
    let mut acc = vec![0.0_f32; x.tokens()];
    for row in rows {
        acc.fill(0.0);
        for (b, bytes) in matrix.bytes(row..row + 1).chunks_exact(kind.block_bytes()).enumerate() {
            unpack(kind, bytes, &mut weights);
            for (token, acc) in acc.iter_mut().enumerate() {
                // SAFETY: as this function demands.
                // WHY: the only way to a choice that was made at run time.
                *acc = unsafe {
                    match kind.block() {
                        32 => add_block::<D, 2>(kind, &weights, x.block(b, token), *acc),
                        _ => add_block::<D, 16>(kind, &weights, x.block(b, token), *acc),
                    }
                };
            }
        }
        for (token, &acc) in acc.iter().enumerate() {
            put(token, row, acc);
        }
    }
}

/// The specification's steps for one block of `N` times sixteen values, which are signed.
///
/// # Safety
/// Only on a machine that has what `D` takes.
#[inline(always)]
unsafe fn add_block<D: Dot, const N: usize>(kind: Kind, weights: &Unpacked, x: Block<'_>, acc: f32) -> f32 {
    const { assert!(16 * N <= 256) };
    assert!(x.digits.iter().all(|digit| digit.len() == 16 * N) && x.sums.iter().all(|sums| sums.len() == N));
    let mut products = [0; DIGITS];
    // SAFETY: `q` has 256 bytes and each digit 16 · `N`, of which sixteen are read at multiples of sixteen.
    // WHY: register loads; with bounds checks the loop would be twice as long.
    unsafe {
        let mut sums = [vdupq_n_s32(0); DIGITS];
        for j in 0..N {
            let w = vld1q_s8(weights.q.as_ptr().add(16 * j).cast());
            let scale = i32::from(weights.scale[j]);
            for (sum, digit) in sums.iter_mut().zip(&x.digits) {
                let sixteen = D::add(vdupq_n_s32(0), w, vld1q_s8(digit.as_ptr().add(16 * j)));
                *sum = vmlaq_n_s32(*sum, sixteen, scale);
            }
        }
        for (product, sum) in products.iter_mut().zip(sums) {
            *product = vaddvq_s32(sum);
        }
    }
    let [high, low] = products.map(|product| product as f32);
    let acc = (weights.d * x.unit).mul_add(high.mul_add(DIGIT_UNITS as f32, low), acc);
    if kind.values() != Values::Offset {
        return acc;
    }
    let offsets = |sums: &[i16]| {
        weights.offset.iter().zip(sums).map(|(&offset, &sum)| i32::from(offset) * i32::from(sum)).sum::<i32>()
    };
    let [high, low] = x.sums;
    let offset = DIGIT_UNITS * offsets(high) + offsets(low);
    (-(weights.dmin * x.unit)).mul_add(offset as f32, acc)
}

/// Unpacks a block to signed bytes.
fn unpack(kind: Kind, block: &[u8], to: &mut Unpacked) {
    assert_eq!(block.len(), kind.block_bytes());
    match kind {
        Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::F8E4M3 | Kind::F4E2M1 => {
            unreachable!("floats are not packed")
        }
        // The compiler makes vector instructions of these, their kinds known.
        Kind::Q4_0 => unpack_as(Kind::Q4_0, block, to),
        Kind::Q4_1 => unpack_as(Kind::Q4_1, block, to),
        Kind::Q5_0 => unpack_as(Kind::Q5_0, block, to),
        Kind::Q5_1 => unpack_as(Kind::Q5_1, block, to),
        Kind::Q8_0 => unpack_as(Kind::Q8_0, block, to),
        Kind::Q2K => unpack_as(Kind::Q2K, block, to),
        Kind::Q3K => unpack_as(Kind::Q3K, block, to),
        Kind::Q4K => unpack_as(Kind::Q4K, block, to),
        Kind::Q5K => unpack_as(Kind::Q5K, block, to),
        Kind::Q6K => unpack_as(Kind::Q6K, block, to),
        Kind::Iq2Xxs => unpack_as(Kind::Iq2Xxs, block, to),
        Kind::Iq2Xs => unpack_as(Kind::Iq2Xs, block, to),
        Kind::Iq2S => unpack_as(Kind::Iq2S, block, to),
        Kind::Iq3Xxs => unpack_as(Kind::Iq3Xxs, block, to),
        Kind::Iq3S => unpack_as(Kind::Iq3S, block, to),
        Kind::Iq4Nl => unpack_as(Kind::Iq4Nl, block, to),
        Kind::Iq4Xs => unpack_as(Kind::Iq4Xs, block, to),
        Kind::Mxfp4 => unpack_as(Kind::Mxfp4, block, to),
    }
}

/// Unpacks a block, and takes off its values what stands for nothing.
#[inline(always)]
fn unpack_as(kind: Kind, block: &[u8], to: &mut Unpacked) {
    unpack_by(kind, block, to, choose);
    if let Values::Around(zero) = kind.values() {
        for q in &mut to.q[..kind.block()] {
            *q = q.wrapping_sub(zero);
        }
    }
}

/// Looks up 32 values in a table of sixteen: the low nibbles of 16 bytes are the places of the first 16, the high ones
/// those of the next.
#[inline(always)]
fn choose(table: &[i8; 16], bytes: &[u8], to: &mut [u8]) {
    assert!(bytes.len() == 16 && to.len() == 32);
    // SAFETY: the table and `bytes` have 16 bytes and `to` 32.
    // WHY: one instruction looks up sixteen of them.
    unsafe {
        let (table, bytes) = (vld1q_s8(table.as_ptr()), vld1q_u8(bytes.as_ptr()));
        let low = vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15)));
        let high = vqtbl1q_s8(table, vshrq_n_u8::<4>(bytes));
        vst1q_s8(to.as_mut_ptr().cast(), low);
        vst1q_s8(to.as_mut_ptr().add(16).cast(), high);
    }
}

//! Sixteen rows times one or two tokens, multiplied while their blocks are turned: for decoding, which waits for memory.

use std::arch::asm;
use std::arch::x86_64::*;

use super::turn::{self, LANES, Lying, Ready, Rows, Sink};
use super::{BOTH, DOT_TOKENS, GROUP_ROWS, Spans, add_offset, add_products, moved, pairs, span, zero};
use crate::kernels::blocks::{Blocks, DIGITS, Several};
use crate::weights::{Kind, Values};

/// Sixteen rows of a kind that `turn` knows times the tokens of `x`, one or two: [token, row]. They lie as in a file, or are
/// turned already.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn multiply(
    kind: Kind,
    turned: bool,
    rows: &[u8],
    x: &Blocks,
    to: &mut [[f32; GROUP_ROWS]; DOT_TOKENS],
) {
    match (x.tokens(), turned) {
        (1, false) => of_kind::<1, false>(kind, rows, x, to),
        (1, true) => of_kind::<1, true>(kind, rows, x, to),
        (_, false) => of_kind::<2, false>(kind, rows, x, to),
        (_, true) => of_kind::<2, true>(kind, rows, x, to),
    }
}

/// Each kind's loop is compiled for itself.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn of_kind<const T: usize, const TURNED: bool>(
    kind: Kind,
    rows: &[u8],
    x: &Blocks,
    to: &mut [[f32; GROUP_ROWS]; DOT_TOKENS],
) {
    match kind {
        Kind::Q4_0 => blocks::<Q4_0, 32, 32, T, TURNED>(rows, x, to),
        Kind::Q8_0 => blocks::<Q8_0, 32, 32, T, TURNED>(rows, x, to),
        Kind::Mxfp4 => blocks::<Mxfp4, 32, 32, T, TURNED>(rows, x, to),
        Kind::Q4K => blocks::<Q4K, 256, 32, T, TURNED>(rows, x, to),
        Kind::Q5K => blocks::<Q5K, 256, 32, T, TURNED>(rows, x, to),
        Kind::Q6K => blocks::<Q6K, 256, 16, T, TURNED>(rows, x, to),
        Kind::Iq4Xs => blocks::<Iq4Xs, 256, 32, T, TURNED>(rows, x, to),
        _ => unreachable!("`turn` knows no other kind"),
    }
}

/// A kind as a type.
trait Turned {
    const KIND: Kind;
    /// Hands one block of sixteen rows to a sink.
    ///
    /// # Safety
    /// As the functions of `turn`.
    unsafe fn turn<S: Sink, R: Rows>(sink: &mut S, rows: R);
}

macro_rules! turned {
    ($($name:ident $kind:ident $way:ident;)*) => {$(
        struct $name;
        impl Turned for $name {
            const KIND: Kind = Kind::$kind;
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            unsafe fn turn<S: Sink, R: Rows>(sink: &mut S, rows: R) {
                // SAFETY: as the trait demands.
                // WHY: as there.
                unsafe { turn::$way(sink, rows) }
            }
        }
    )*};
}

turned! {
    Q4_0 Q4_0 q4_0;
    Q8_0 Q8_0 q8_0;
    Mxfp4 Mxfp4 mxfp4;
    Q4K Q4K q4_k;
    Q5K Q5K q5_k;
    Q6K Q6K q6_k;
    Iq4Xs Iq4Xs iq4_xs;
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn blocks<K: Turned, const SIZE: usize, const SPAN: usize, const T: usize, const TURNED: bool>(
    rows: &[u8],
    x: &Blocks,
    to: &mut [[f32; GROUP_ROWS]; DOT_TOKENS],
) {
    const { assert!(K::KIND.block() == SIZE && span(K::KIND) == SPAN) };
    let (row, size) = (rows.len() / GROUP_ROWS, K::KIND.block_bytes());
    let mut acc = [_mm512_setzero_ps(); T];
    for b in 0..row / size {
        let x = x.several(b, 0, T);
        // Blocks of 32 are always even.
        if SIZE == 256 && x.fine.contains(&true) {
            block::<K, SIZE, SPAN, T, DIGITS, TURNED>(rows, b, &x, &mut acc);
        } else {
            block::<K, SIZE, SPAN, T, 1, TURNED>(rows, b, &x, &mut acc);
        }
    }
    for t in 0..T {
        // SAFETY: the place has sixteen numbers.
        // WHY: one store.
        unsafe { _mm512_storeu_ps(to[t].as_mut_ptr(), acc[t]) };
    }
}

/// Adds block `b` of the rows times `D` digits of the tokens' block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn block<
    K: Turned,
    const SIZE: usize,
    const SPAN: usize,
    const T: usize,
    const D: usize,
    const TURNED: bool,
>(
    rows: &[u8],
    b: usize,
    x: &Several<'_>,
    acc: &mut [__m512; T],
) {
    let (row, size) = (rows.len() / GROUP_ROWS, K::KIND.block_bytes());
    assert!((b + 1) * size <= row);
    assert!(x.values.len() == T * DIGITS * SIZE && x.sums.len() == T * DIGITS * SIZE / 16);
    let offset = K::KIND.values() == Values::Offset;
    let none = _mm512_setzero_si512();
    let mut spans = [[Spans::NONE; D]; T];
    for t in 0..T {
        let sums = &x.sums[t * DIGITS * SIZE / 16..][..DIGITS * SIZE / 16];
        if offset {
            spans[t][0] = pairs::<SIZE, SPAN>(sums);
        } else {
            for digit in 0..D {
                let sums = &sums[digit * SIZE / 16..][..SIZE / 16];
                spans[t][digit] = moved::<SIZE, SPAN>(sums, -zero(K::KIND));
            }
        }
    }
    let mut sink = Dot::<SIZE, SPAN, T, D, TURNED> {
        a: x.values.as_ptr().cast(),
        next: rows.as_ptr().wrapping_add(b * GROUP_ROWS * size + rows.len()),
        apart: GROUP_ROWS * size / (SIZE / 4),
        spans: &spans,
        offsets: offset,
        sums: [[[none; D]; T]; LANES],
        product: [[none; D]; T],
        offset: [none; T],
        d: _mm512_setzero_ps(),
        dmin: _mm512_setzero_ps(),
    };
    // SAFETY: sixteen rows, `row` bytes apart or turned, have their whole block `b` here; there are T · DIGITS · SIZE
    // activations, as asserted.
    // WHY: a bounds check for every load would cost as much as turning.
    unsafe {
        if TURNED {
            K::turn(&mut sink, Ready(rows.as_ptr().add(b * GROUP_ROWS * size)));
        } else {
            K::turn(&mut sink, Lying { from: rows.as_ptr().add(b * size), stride: row });
        }
    }
    for t in 0..T {
        acc[t] = add_products(acc[t], sink.d, x.units[t], sink.product[t]);
        if offset {
            acc[t] = add_offset(acc[t], sink.dmin, x.units[t], sink.offset[t]);
        }
    }
}

/// Multiplies what it gets. All of it lives in registers: the indices are known when this is compiled.
struct Dot<'a, const SIZE: usize, const SPAN: usize, const T: usize, const D: usize, const TURNED: bool> {
    /// [token, digit, SIZE / 4]
    a: *const i32,
    /// What is read as much later as the rows have bytes, and how much of it is asked for with every step.
    next: *const u8,
    apart: usize,
    spans: &'a [[Spans; D]; T],
    offsets: bool,
    sums: [[[__m512i; D]; T]; LANES],
    product: [[__m512i; D]; T],
    offset: [__m512i; T],
    d: __m512,
    dmin: __m512,
}

impl<const SIZE: usize, const SPAN: usize, const T: usize, const D: usize, const TURNED: bool> Sink
    for Dot<'_, SIZE, SPAN, T, D, TURNED>
{
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn begin(&mut self, lane: usize, span: usize) {
        for t in 0..T {
            for digit in 0..D {
                let first = if self.offsets { 0 } else { self.spans[t][digit].0[span] };
                self.sums[lane][t][digit] = _mm512_set1_epi32(first);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn put(&mut self, lane: usize, step: usize, q: __m512i) {
        // Turned rows lie as they are read, and the processor fetches such a stream ahead by itself; asking for it only takes its
        // time (measured: 23 GB/s on a thread, 26 without).
        if !TURNED {
            // SAFETY: a prefetch never faults, wherever it points, and changes nothing.
            // WHY: the compiler gathers what is no assembly at the end of the block, and then it comes too late and all
            // at once (measured with Q6_K: 15 GB/s instead of 28).
            unsafe {
                let next = self.next.wrapping_add(step * self.apart);
                asm!("prefetcht0 [{}]", in(reg) next, options(nostack, preserves_flags));
            }
        }
        for t in 0..T {
            for digit in 0..D {
                // SAFETY: steps are below SIZE / 4, as `turn` promises.
                // WHY: a bounds check is as dear as the product.
                let a = unsafe { self.a.add((t * DIGITS + digit) * (SIZE / 4) + step).read_unaligned() };
                let sum = &mut self.sums[lane][t][digit];
                *sum = _mm512_dpbusd_epi32(*sum, q, _mm512_set1_epi32(a));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn end(&mut self, lane: usize, _span: usize, scale: Option<__m512i>) {
        for t in 0..T {
            for digit in 0..D {
                let sum = self.sums[lane][t][digit];
                let scaled = scale.map_or(sum, |scale| _mm512_mullo_epi32(sum, scale));
                self.product[t][digit] = _mm512_add_epi32(self.product[t][digit], scaled);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn offset(&mut self, span: usize, offset: __m512i) {
        let both = _mm512_mullo_epi32(offset, _mm512_set1_epi32(BOTH));
        for t in 0..T {
            let pair = _mm512_set1_epi32(self.spans[t][0].0[span]);
            self.offset[t] = _mm512_dpwssd_epi32(self.offset[t], both, pair);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn factors(&mut self, d: __m512, dmin: __m512) {
        (self.d, self.dmin) = (d, dmin);
    }
}

//! Thirty-two rows times many tokens: for prefill, which waits for arithmetic.
//!
//! A block is turned once and multiplied with all tokens. Turning costs about as much as multiplying with two of them.

use std::arch::asm;
use std::arch::x86_64::*;

use super::turn::{self, Lying, Ready, Rows, Sink, piece};
use super::{GROUP_ROWS, MIDDLE, Spans, add_offset, add_products, fetch, moved, neighbours, span, zero};
use crate::kernels::blocks::{Blocks, DIGIT_UNITS, DIGITS};
use crate::kernels::x86::unpack::unpack;
use crate::weights::quant::Unpacked;
use crate::weights::{Kind, Values};

/// Rows of a panel: two groups, so that an activation that was loaded is multiplied twice.
pub(crate) const ROWS: usize = GROUPS * GROUP_ROWS;
const GROUPS: usize = 2;

/// One block of some rows, turned.
pub(crate) struct Panel {
    groups: [Group; GROUPS],
    /// One row on its way into the panel, and a group's rows before they are turned.
    unpacked: Unpacked,
    rows: [[u8; 256]; GROUP_ROWS],
    /// [token, row]: what the products add up to.
    sums: Vec<[f32; ROWS]>,
}

/// One block of sixteen rows.
#[repr(align(64))]
struct Group {
    /// [column / 4, row, column % 4]
    q: [[u8; 64]; 64],
    /// [span, row]
    scale: [[i32; GROUP_ROWS]; 16],
    /// [span / 2, row]: two spans' offsets, the first in the low half of a number and the second in the high one. An only
    /// one has a neighbour of 0.
    offset: [[i32; GROUP_ROWS]; 8],
    d: [f32; GROUP_ROWS],
    dmin: [f32; GROUP_ROWS],
}

impl Default for Panel {
    fn default() -> Panel {
        const EMPTY: Group = Group {
            q: [[0; 64]; 64],
            scale: [[0; GROUP_ROWS]; 16],
            offset: [[0; GROUP_ROWS]; 8],
            d: [0.0; GROUP_ROWS],
            dmin: [0.0; GROUP_ROWS],
        };
        Panel {
            groups: [EMPTY; GROUPS],
            unpacked: Unpacked::ZERO,
            rows: [[0; 256]; GROUP_ROWS],
            sums: Vec::new(),
        }
    }
}

/// Up to [`ROWS`] rows of a quantised kind times all tokens of `x`: [token, row].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn multiply<'a>(
    panel: &'a mut Panel,
    kind: Kind,
    turned: bool,
    bytes: &[u8],
    rows: usize,
    x: &Blocks,
) -> &'a [[f32; ROWS]] {
    panel.sums.clear();
    panel.sums.resize(x.tokens(), [0.0; ROWS]);
    match (kind.block(), kind.values(), span(kind)) {
        (32, Values::Offset, _) => blocks::<32, 32, true>(panel, kind, turned, bytes, rows, x),
        (32, _, _) => blocks::<32, 32, false>(panel, kind, turned, bytes, rows, x),
        (_, Values::Offset, 16) => blocks::<256, 16, true>(panel, kind, turned, bytes, rows, x),
        (_, Values::Offset, _) => blocks::<256, 32, true>(panel, kind, turned, bytes, rows, x),
        (_, _, 16) => blocks::<256, 16, false>(panel, kind, turned, bytes, rows, x),
        _ => blocks::<256, 32, false>(panel, kind, turned, bytes, rows, x),
    }
    &panel.sums
}

/// All blocks of the rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn blocks<const SIZE: usize, const SPAN: usize, const OFFSET: bool>(
    panel: &mut Panel,
    kind: Kind,
    turned: bool,
    bytes: &[u8],
    rows: usize,
    x: &Blocks,
) {
    for b in 0..bytes.len() / rows / kind.block_bytes() {
        fill(panel, kind, turned, bytes, rows, b);
        let mut ahead = Ahead::of(kind, turned, bytes, rows, b);
        if rows > GROUP_ROWS {
            tiles::<SIZE, SPAN, OFFSET, 2>(panel, zero(kind), x, b, &mut ahead);
        } else {
            tiles::<SIZE, SPAN, OFFSET, 1>(panel, zero(kind), x, b, &mut ahead);
        }
    }
}

/// What of turned rows is read next, and asked for while this block is multiplied: the processor follows a stream by itself,
/// but stands still with it here, so that few tokens waited for memory half of their time. A little at a time, because not
/// many lines can be on their way at once.
struct Ahead {
    next: *const u8,
    /// How far apart the groups lie.
    apart: usize,
    /// How many lines of each group are left.
    lines: usize,
}

/// How many lines of each group are asked for with every span.
const LINES: usize = 3;

impl Ahead {
    fn of(kind: Kind, turned: bool, bytes: &[u8], rows: usize, b: usize) -> Ahead {
        let (row, size) = (bytes.len() / rows, kind.block_bytes());
        let last = (b + 1) * size == row;
        // After the last block of these rows come the first ones of the next.
        let at = if last { bytes.len() } else { (b + 1) * GROUP_ROWS * size };
        let lines = if turned { (GROUP_ROWS * size).div_ceil(64) } else { 0 };
        Ahead { next: bytes.as_ptr().wrapping_add(at), apart: GROUP_ROWS * row, lines }
    }

    #[inline(always)]
    fn fetch<const G: usize>(&mut self) {
        for _ in 0..LINES.min(self.lines) {
            for g in 0..G {
                let line = self.next.wrapping_add(g * self.apart);
                // SAFETY: a prefetch never faults, wherever it points, and changes nothing.
                // WHY: the compiler would gather what is no assembly at one place.
                unsafe { asm!("prefetcht0 [{}]", in(reg) line, options(nostack, preserves_flags)) };
            }
            self.next = self.next.wrapping_add(64);
            self.lines -= 1;
        }
    }
}

/// Turns block `b` of the rows into the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn fill(panel: &mut Panel, kind: Kind, turned: bool, bytes: &[u8], rows: usize, b: usize) {
    let (row, size) = (bytes.len() / rows, kind.block_bytes());
    assert!((b + 1) * size <= row);
    for (g, start) in (0..rows).step_by(GROUP_ROWS).enumerate() {
        let count = GROUP_ROWS.min(rows - start);
        let at = start * row + b * size;
        if turned {
            let at = start * row + b * GROUP_ROWS * size;
            // SAFETY: the group's rows were turned, and their block `b` begins here.
            // WHY: as below.
            unsafe { into(&mut panel.groups[g], kind, Ready(bytes.as_ptr().add(at))) };
        } else if count == GROUP_ROWS && turn::knows(kind) {
            fetch(bytes, size, (b * rows + start) * size);
            // SAFETY: sixteen rows, `row` bytes apart, have their whole block `b` from here on.
            // WHY: a bounds check for every load would cost as much as turning.
            unsafe {
                let from = bytes.as_ptr().add(at);
                into(&mut panel.groups[g], kind, Lying { from, stride: row });
            }
        } else {
            one_by_one(panel, g, kind, &bytes[at..], row, count);
        }
    }
}

/// Turns a block of a kind that `turn` knows.
///
/// # Safety
/// As the functions of `turn`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn into<R: Rows>(group: &mut Group, kind: Kind, rows: R) {
    // SAFETY: as this function demands.
    // WHY: see there.
    unsafe {
        match kind {
            Kind::Q4_0 => turn::q4_0(group, rows),
            Kind::Q8_0 => turn::q8_0(group, rows),
            Kind::Mxfp4 => turn::mxfp4(group, rows),
            Kind::Q4K => turn::q4_k(group, rows),
            Kind::Q5K => turn::q5_k(group, rows),
            Kind::Q6K => turn::q6_k(group, rows),
            Kind::Iq4Xs => turn::iq4_xs(group, rows),
            _ => unreachable!("`turn` knows no other kind"),
        }
    }
}

/// Unpacks one block of some rows, `stride` bytes apart, row by row before they are turned.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline(never)]
fn one_by_one(panel: &mut Panel, g: usize, kind: Kind, bytes: &[u8], stride: usize, rows: usize) {
    let group = &mut panel.groups[g];
    for r in 0..rows {
        let from = &mut panel.unpacked;
        unpack(kind, &bytes[r * stride..][..kind.block_bytes()], from);
        panel.rows[r] = from.q;
        group.d[r] = from.d;
        group.dmin[r] = from.dmin;
        for j in 0..kind.block() / span(kind) {
            let at = j * span(kind) / 16;
            group.scale[j][r] = i32::from(from.scale[at]);
            let (offset, place) = (i32::from(from.offset[at]), &mut group.offset[j / 2][r]);
            *place = if j % 2 == 0 { offset } else { *place | offset << 16 };
        }
    }
    let middle = if kind.values() == Values::Signed { MIDDLE } else { 0 };
    let middle = _mm512_set1_epi8(middle.cast_signed());
    for i in 0..kind.block() / 16 {
        // SAFETY: every row of the buffer has 256 bytes; there are a block's steps.
        // WHY: see `piece`.
        unsafe {
            let turned = piece(panel.rows.as_ptr().cast::<u8>().add(16 * i), 256);
            for e in 0..4 {
                group.put(0, 4 * i + e, _mm512_xor_si512(turned[e], middle));
            }
        }
    }
}

/// A group keeps what it gets.
impl Sink for Group {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn begin(&mut self, _lane: usize, _span: usize) {}

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn put(&mut self, _lane: usize, step: usize, q: __m512i) {
        // SAFETY: there are 64 aligned bytes for every step.
        // WHY: one store.
        unsafe { _mm512_store_si512(self.q.as_mut_ptr().add(step).cast(), q) };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn end(&mut self, _lane: usize, span: usize, scale: Option<__m512i>) {
        if let Some(scale) = scale {
            // SAFETY: there are 64 aligned bytes for every span.
            // WHY: one store.
            unsafe { _mm512_store_si512(self.scale.as_mut_ptr().add(span).cast(), scale) };
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn offset(&mut self, span: usize, offset: __m512i) {
        // SAFETY: there are 64 aligned bytes for every two spans.
        // WHY: one store, and a load for every second one.
        unsafe {
            let place: *mut __m512i = self.offset.as_mut_ptr().add(span / 2).cast();
            let both = if span.is_multiple_of(2) {
                offset
            } else {
                _mm512_or_si512(_mm512_load_si512(place), _mm512_slli_epi32::<16>(offset))
            };
            _mm512_store_si512(place, both);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn factors(&mut self, d: __m512, dmin: __m512) {
        // SAFETY: both places have sixteen aligned numbers.
        // WHY: two stores.
        unsafe {
            _mm512_store_ps(self.d.as_mut_ptr(), d);
            _mm512_store_ps(self.dmin.as_mut_ptr(), dmin);
        }
    }
}

/// Block `b` of the panel's first `G` groups times all tokens: first those of one digit, then those of two, which take
/// twice the products and twice the registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn tiles<const SIZE: usize, const SPAN: usize, const OFFSET: bool, const G: usize>(
    panel: &mut Panel,
    zero: i32,
    x: &Blocks,
    b: usize,
    ahead: &mut Ahead,
) {
    let (even, fine) = x.by_digits(b);
    let (fours, rest) = even.as_chunks::<4>();
    for &tokens in fours {
        tile::<SIZE, SPAN, OFFSET, G, 4, 1>(panel, zero, x, b, tokens, ahead);
    }
    let (twos, rest) = rest.as_chunks::<2>();
    for &tokens in twos {
        tile::<SIZE, SPAN, OFFSET, G, 2, 1>(panel, zero, x, b, tokens, ahead);
    }
    for &token in rest {
        tile::<SIZE, SPAN, OFFSET, G, 1, 1>(panel, zero, x, b, [token], ahead);
    }
    // Blocks of 32 are always even.
    if SIZE == 256 {
        let (twos, rest) = fine.as_chunks::<2>();
        for &tokens in twos {
            tile::<SIZE, SPAN, OFFSET, G, 2, DIGITS>(panel, zero, x, b, tokens, ahead);
        }
        for &token in rest {
            tile::<SIZE, SPAN, OFFSET, G, 1, DIGITS>(panel, zero, x, b, [token], ahead);
        }
    }
}

/// Block `b` of the panel's first `G` groups times `D` digits of some `tokens`. Two groups and two tokens of
/// two digits take eight sums of a span, eight of the block, two registers of weights and one of activations, of 32; and eight sums
/// in flight are what two instructions a cycle that take four of them need.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn tile<
    const SIZE: usize,
    const SPAN: usize,
    const OFFSET: bool,
    const G: usize,
    const T: usize,
    const D: usize,
>(
    panel: &mut Panel,
    zero: i32,
    x: &Blocks,
    b: usize,
    tokens: [u32; T],
    ahead: &mut Ahead,
) {
    let tokens = tokens.map(|token| token as usize);
    let count = x.tokens();
    let x = x.several(b, 0, count);
    assert!(x.values.len() == count * DIGITS * SIZE && x.sums.len() == count * DIGITS * SIZE / 16);
    assert!(x.units.len() == count && panel.sums.len() == count);
    assert!(tokens.iter().all(|&token| token < count));
    let a: [*const i32; T] = tokens.map(|token| x.values[token * DIGITS * SIZE..].as_ptr().cast());
    let mut spans = [[Spans::NONE; D]; T];
    for t in 0..T {
        let sums = &x.sums[tokens[t] * DIGITS * SIZE / 16..][..DIGITS * SIZE / 16];
        for digit in 0..D {
            let sums = &sums[digit * SIZE / 16..][..SIZE / 16];
            spans[t][digit] =
                if OFFSET { neighbours::<SIZE, SPAN>(sums) } else { moved::<SIZE, SPAN>(sums, -zero) };
        }
    }
    let none = _mm512_setzero_si512();
    let mut product = [[[none; G]; D]; T];
    let mut offset = [[[none; G]; D]; T];
    // SAFETY: steps run over the SIZE / 4 fours of columns of the panel and of as many activations of every digit of each
    // token; that they are there is asserted above, and a panel has room for the largest block.
    // WHY: this loop is the whole cost of prefill.
    unsafe {
        for span in 0..SIZE / SPAN {
            ahead.fetch::<G>();
            let mut sums = [[[none; G]; D]; T];
            if !OFFSET {
                for t in 0..T {
                    for digit in 0..D {
                        sums[t][digit] = [_mm512_set1_epi32(spans[t][digit].0[span]); G];
                    }
                }
            }
            for step in 0..SPAN / 4 {
                let step = span * SPAN / 4 + step;
                let mut w = [none; G];
                for g in 0..G {
                    w[g] = _mm512_load_si512(panel.groups[g].q.as_ptr().add(step).cast());
                }
                for t in 0..T {
                    for digit in 0..D {
                        let at = digit * SIZE / 4 + step;
                        let a = _mm512_set1_epi32(a[t].add(at).read_unaligned());
                        for g in 0..G {
                            sums[t][digit][g] = _mm512_dpbusd_epi32(sums[t][digit][g], w[g], a);
                        }
                    }
                }
            }
            if SIZE == SPAN {
                product = sums;
                continue;
            }
            for g in 0..G {
                let scale = _mm512_load_si512(panel.groups[g].scale.as_ptr().add(span).cast());
                for t in 0..T {
                    for digit in 0..D {
                        let scaled = _mm512_mullo_epi32(sums[t][digit][g], scale);
                        product[t][digit][g] = _mm512_add_epi32(product[t][digit][g], scaled);
                    }
                }
            }
        }
        if OFFSET {
            for two in 0..(SIZE / SPAN).div_ceil(2) {
                for g in 0..G {
                    let offsets = _mm512_load_si512(panel.groups[g].offset.as_ptr().add(two).cast());
                    for t in 0..T {
                        for digit in 0..D {
                            let sums = _mm512_set1_epi32(spans[t][digit].0[two]);
                            offset[t][digit][g] = _mm512_dpwssd_epi32(offset[t][digit][g], offsets, sums);
                        }
                    }
                }
            }
        }
        for t in 0..T {
            for g in 0..G {
                let group = &panel.groups[g];
                let product: [__m512i; D] = std::array::from_fn(|digit| product[t][digit][g]);
                let to = panel.sums.as_mut_ptr().add(tokens[t]).cast::<f32>().add(GROUP_ROWS * g);
                let d = _mm512_load_ps(group.d.as_ptr());
                let unit = x.units[tokens[t]];
                let mut sum = add_products(_mm512_loadu_ps(to), d, unit, product);
                if OFFSET {
                    let units = _mm512_set1_epi32(DIGIT_UNITS);
                    let mut total = _mm512_mullo_epi32(offset[t][0][g], units);
                    if D > 1 {
                        total = _mm512_add_epi32(total, offset[t][D - 1][g]);
                    }
                    sum = add_offset(sum, _mm512_load_ps(group.dmin.as_ptr()), unit, total);
                }
                _mm512_storeu_ps(to, sum);
            }
        }
    }
}

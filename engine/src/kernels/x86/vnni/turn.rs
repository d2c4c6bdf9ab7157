//! Blocks of sixteen rows turned: four neighbouring columns of all rows in a register.
//!
//! Sixteen bytes of each of sixteen rows are turned at once, packed as they are; what they say is then unpacked for all
//! rows together.

use std::arch::x86_64::*;

use super::{GROUP_ROWS, MIDDLE};
use crate::weights::Kind;
use crate::weights::quant::{IQ4, MXFP4};
use crate::weights::turned::place_in_q6_k;

/// How many spans are under way at once.
pub(super) const LANES: usize = 4;

/// Takes a block as it is turned. Spans are begun, put and ended in lanes, because a byte of a packed block mostly says
/// something of several spans.
pub(super) trait Sink {
    /// A span is begun in a lane.
    ///
    /// # Safety
    /// Only on a machine with the features; `lane` is below [`LANES`], and there is such a span.
    unsafe fn begin(&mut self, lane: usize, span: usize);
    /// Four columns of all rows, unsigned: those from `4 · step` on, of the span in a lane.
    ///
    /// # Safety
    /// As above, and there are such columns.
    unsafe fn put(&mut self, lane: usize, step: usize, q: __m512i);
    /// All columns of the span in a lane were put, and this is their scale in each row.
    ///
    /// # Safety
    /// As above.
    unsafe fn end(&mut self, lane: usize, span: usize, scale: Option<__m512i>);
    /// A span's offset in each row.
    ///
    /// # Safety
    /// As above.
    unsafe fn offset(&mut self, span: usize, offset: __m512i);
    /// The factors of each row, the second one of offsets.
    ///
    /// # Safety
    /// Only on a machine with the features.
    unsafe fn factors(&mut self, d: __m512, dmin: __m512);
}

/// Whether there is a way to turn this kind's blocks.
pub(super) const fn knows(kind: Kind) -> bool {
    matches!(kind, Kind::Q4_0 | Kind::Q8_0 | Kind::Q4K | Kind::Q5K | Kind::Q6K | Kind::Iq4Xs | Kind::Mxfp4)
}

/// Where the blocks of sixteen rows are read. What is read of all of them at once starts `at` bytes behind the beginning of
/// each row's block.
pub(super) trait Rows: Copy {
    /// Sixteen bytes of each row, turned: each result has four bytes of every row.
    ///
    /// # Safety
    /// The kind has sixteen bytes there that are read at once, and the machine has the features.
    unsafe fn piece(self, at: usize) -> [__m512i; 4];
    /// The same where a turned block has these bytes elsewhere, at `place`.
    ///
    /// # Safety
    /// As above.
    unsafe fn piece_at(self, at: usize, place: usize) -> [__m512i; 4];
    /// Four bytes of each row.
    ///
    /// # Safety
    /// As above, with four bytes.
    unsafe fn column(self, at: usize) -> __m512i;
    /// Two bytes of each row as a number.
    ///
    /// # Safety
    /// As above, with two bytes.
    unsafe fn half(self, at: usize) -> __m512i;
    /// One byte of each row as a number.
    ///
    /// # Safety
    /// As above, with one byte.
    unsafe fn byte(self, at: usize) -> __m512i;
}

/// Rows as files have them, so many bytes apart. A block has at least four bytes more than where a byte or the first half of
/// it is read.
#[derive(Clone, Copy)]
pub(super) struct Lying {
    pub(super) from: *const u8,
    pub(super) stride: usize,
}

impl Rows for Lying {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn piece(self, at: usize) -> [__m512i; 4] {
        // SAFETY: as the trait demands.
        // WHY: see `piece`.
        unsafe { piece(self.from.add(at), self.stride) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn piece_at(self, at: usize, _place: usize) -> [__m512i; 4] {
        // SAFETY: as the trait demands.
        // WHY: see `piece`.
        unsafe { self.piece(at) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn column(self, at: usize) -> __m512i {
        // SAFETY: as the trait demands.
        // WHY: see `piece`.
        unsafe { column(self.from.add(at), self.stride) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn half(self, at: usize) -> __m512i {
        // SAFETY: four bytes are read where the block has them: of its first half those that follow, and else those before.
        // WHY: see `piece`.
        unsafe {
            if at < 2 { bits::<0, 16>(self.column(at)) } else { _mm512_srli_epi32::<16>(self.column(at - 2)) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn byte(self, at: usize) -> __m512i {
        // SAFETY: as the type says.
        // WHY: see `piece`.
        unsafe { bits::<0, 8>(self.column(at)) }
    }
}

/// Rows that were turned when the model was opened (see [`crate::weights::turned`]): sixteen rows' blocks lie together.
#[derive(Clone, Copy)]
pub(super) struct Ready(pub(super) *const u8);

impl Rows for Ready {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn piece(self, at: usize) -> [__m512i; 4] {
        // SAFETY: as the trait demands; sixteen times sixteen bytes lie there.
        // WHY: this is what the rows were turned for.
        unsafe {
            let from = self.0.add(GROUP_ROWS * at);
            [0, 1, 2, 3].map(|i| _mm512_loadu_si512(from.add(64 * i).cast()))
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn piece_at(self, _at: usize, place: usize) -> [__m512i; 4] {
        // SAFETY: as the trait demands.
        // WHY: as in `piece`.
        unsafe { self.piece(place) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn column(self, at: usize) -> __m512i {
        // SAFETY: as the trait demands; sixteen times four bytes lie there.
        // WHY: as in `piece`.
        unsafe { _mm512_loadu_si512(self.0.add(GROUP_ROWS * at).cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn half(self, at: usize) -> __m512i {
        // SAFETY: as the trait demands; sixteen times two bytes lie there.
        // WHY: as in `piece`.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(self.0.add(GROUP_ROWS * at).cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn byte(self, at: usize) -> __m512i {
        // SAFETY: as the trait demands; sixteen bytes lie there.
        // WHY: as in `piece`.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(self.0.add(GROUP_ROWS * at).cast())) }
    }
}

/// Repeats a block for each of some numbers, which are known when it is compiled.
macro_rules! each {
    ($name:ident in [$($number:literal)*] $body:block) => {
        $({ const $name: usize = $number; $body })*
    };
}

/// Sixteen bytes of each of sixteen rows, turned: each result has four bytes of every row.
///
/// # Safety
/// Each of the sixteen rows, `stride` bytes apart, must have sixteen readable bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn piece(from: *const u8, stride: usize) -> [__m512i; 4] {
    // Lane by lane of 128 bits, a register has rows that lie four apart.
    let four = |q: usize| {
        // SAFETY: as the function demands.
        // WHY: these loads are what turning waits for.
        unsafe {
            let row = |r: usize| _mm_loadu_si128(from.add(r * stride).cast());
            let v = _mm512_castsi128_si512(row(q));
            let v = _mm512_inserti32x4::<1>(v, row(4 + q));
            let v = _mm512_inserti32x4::<2>(v, row(8 + q));
            _mm512_inserti32x4::<3>(v, row(12 + q))
        }
    };
    let h = [four(0), four(1), four(2), four(3)];
    let t = [
        _mm512_unpacklo_epi32(h[0], h[1]),
        _mm512_unpackhi_epi32(h[0], h[1]),
        _mm512_unpacklo_epi32(h[2], h[3]),
        _mm512_unpackhi_epi32(h[2], h[3]),
    ];
    [
        _mm512_unpacklo_epi64(t[0], t[2]),
        _mm512_unpackhi_epi64(t[0], t[2]),
        _mm512_unpacklo_epi64(t[1], t[3]),
        _mm512_unpackhi_epi64(t[1], t[3]),
    ]
}

/// Four bytes of each of sixteen rows.
///
/// # Safety
/// Each of the sixteen rows, `stride` bytes apart, must have four readable bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn column(from: *const u8, stride: usize) -> __m512i {
    // SAFETY: as the function demands.
    // WHY: as in `piece`.
    unsafe {
        let row = |r: usize| from.add(r * stride).cast::<i32>().read_unaligned();
        _mm512_setr_epi32(
            row(0),
            row(1),
            row(2),
            row(3),
            row(4),
            row(5),
            row(6),
            row(7),
            row(8),
            row(9),
            row(10),
            row(11),
            row(12),
            row(13),
            row(14),
            row(15),
        )
    }
}

/// The same byte everywhere.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(byte: u8) -> __m512i {
    _mm512_set1_epi8(byte.cast_signed())
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn low_nibbles(v: __m512i) -> __m512i {
    _mm512_and_si512(v, bytes(15))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn high_nibbles(v: __m512i) -> __m512i {
    low_nibbles(_mm512_srli_epi32::<4>(v))
}

/// The number in `BITS` bits from bit `AT` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bits<const AT: u32, const BITS: u32>(v: __m512i) -> __m512i {
    _mm512_and_si512(_mm512_srli_epi32::<AT>(v), _mm512_set1_epi32((1 << BITS) - 1))
}

/// The half-precision number in the low half of each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn halves(v: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v))
}

/// A table of sixteen signed values as unsigned ones around the middle.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn table(values: &[i8; 16]) -> __m512i {
    // SAFETY: the table has sixteen bytes.
    // WHY: one load.
    let values = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
    _mm512_xor_si512(_mm512_broadcast_i32x4(values), bytes(MIDDLE))
}

/// A factor, then 32 nibbles: the low ones are the first sixteen columns.
///
/// # Safety
/// The sixteen rows must have a readable block of the kind. The same holds for the others.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn q4_0<S: Sink, R: Rows>(sink: &mut S, rows: R) {
    // SAFETY: the block has 18 bytes in every row.
    // WHY: see `piece`.
    unsafe {
        sink.factors(halves(rows.half(0)), _mm512_setzero_ps());
        sink.begin(0, 0);
        let q = rows.piece(2);
        each!(E in [0 1 2 3] {
            sink.put(0, E, low_nibbles(q[E]));
            sink.put(0, 4 + E, high_nibbles(q[E]));
        });
        sink.end(0, 0, None);
    }
}

/// A factor, then 32 signed bytes.
///
/// # Safety
/// As [`q4_0`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn q8_0<S: Sink, R: Rows>(sink: &mut S, rows: R) {
    // SAFETY: the block has 34 bytes in every row.
    // WHY: see `piece`.
    unsafe {
        sink.factors(halves(rows.half(0)), _mm512_setzero_ps());
        sink.begin(0, 0);
        let (first, second) = (rows.piece(2), rows.piece(18));
        each!(E in [0 1 2 3] {
            sink.put(0, E, _mm512_xor_si512(first[E], bytes(MIDDLE)));
            sink.put(0, 4 + E, _mm512_xor_si512(second[E], bytes(MIDDLE)));
        });
        sink.end(0, 0, None);
    }
}

/// A power of two, then 32 nibbles that are places in a table.
///
/// # Safety
/// As [`q4_0`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn mxfp4<S: Sink, R: Rows>(sink: &mut S, rows: R) {
    // SAFETY: the block has 17 bytes in every row.
    // WHY: see `piece`.
    unsafe {
        let powers = rows.byte(0);
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(powers, _mm512_set1_epi32(1)));
        // The two smallest are subnormal.
        let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), powers);
        let small = _mm512_cmplt_epi32_mask(powers, _mm512_set1_epi32(2));
        let d = _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, small, subnormal));
        sink.factors(d, _mm512_setzero_ps());
        sink.begin(0, 0);
        let (table, q) = (table(&MXFP4), rows.piece(1));
        each!(E in [0 1 2 3] {
            sink.put(0, E, _mm512_shuffle_epi8(table, low_nibbles(q[E])));
            sink.put(0, 4 + E, _mm512_shuffle_epi8(table, high_nibbles(q[E])));
        });
        sink.end(0, 0, None);
    }
}

/// The sixteen bytes Q4_K and Q5_K begin with: two factors, eight scales and eight offsets of six bits. Returns the
/// scales, four in a number.
///
/// # Safety
/// As [`q4_0`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn six_bits<S: Sink, R: Rows>(sink: &mut S, rows: R) -> [__m512i; 2] {
    // SAFETY: the block begins with sixteen bytes in every row.
    // WHY: see `piece`.
    unsafe {
        let [d, x, y, z] = rows.piece(0);
        sink.factors(halves(d), halves(_mm512_srli_epi32::<16>(d)));
        // Four bits from `z`, two from the top of `x`.
        let high = |z: __m512i, x: __m512i| {
            let top = _mm512_and_si512(_mm512_srli_epi32::<2>(x), bytes(0x30));
            _mm512_or_si512(low_nibbles(z), top)
        };
        let offsets = [_mm512_and_si512(y, bytes(63)), high(_mm512_srli_epi32::<4>(z), y)];
        each!(I in [0 1 2 3 4 5 6 7] {
            sink.offset(I, bits::<{ 8 * (I as u32 % 4) }, 8>(offsets[I / 4]));
        });
        [_mm512_and_si512(x, bytes(63)), high(z, x)]
    }
}

/// Factors, scales and offsets, then nibbles: of every 32 bytes the low ones are 32 columns, the high ones the next.
///
/// # Safety
/// As [`q4_0`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn q4_k<S: Sink, R: Rows>(sink: &mut S, rows: R) {
    // SAFETY: the block has 144 bytes in every row.
    // WHY: see `piece`.
    unsafe {
        let scales = six_bits(sink, rows);
        each!(J in [0 1 2 3] {
            sink.begin(0, 2 * J);
            sink.begin(1, 2 * J + 1);
            each!(HALF in [0 1] {
                let q = rows.piece(16 + 32 * J + 16 * HALF);
                each!(E in [0 1 2 3] {
                    sink.put(0, 16 * J + 4 * HALF + E, low_nibbles(q[E]));
                    sink.put(1, 16 * J + 8 + 4 * HALF + E, high_nibbles(q[E]));
                });
            });
            sink.end(0, 2 * J, Some(bits::<{ 16 * (J as u32 % 2) }, 8>(scales[J / 2])));
            sink.end(1, 2 * J + 1, Some(bits::<{ 16 * (J as u32 % 2) + 8 }, 8>(scales[J / 2])));
        });
    }
}

/// The same with a fifth bit of every value: of 32 bytes, bit `n` belongs to columns 32·n to 32·n + 31.
///
/// # Safety
/// As [`q4_0`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn q5_k<S: Sink, R: Rows>(sink: &mut S, rows: R) {
    // SAFETY: the block has 176 bytes in every row.
    // WHY: see `piece`.
    unsafe {
        let scales = six_bits(sink, rows);
        let fifth = [rows.piece(16), rows.piece(32)];
        let sixteen = bytes(16);
        each!(J in [0 1 2 3] {
            sink.begin(0, 2 * J);
            sink.begin(1, 2 * J + 1);
            each!(HALF in [0 1] {
                let q = rows.piece(48 + 32 * J + 16 * HALF);
                each!(E in [0 1 2 3] {
                    let bits = _mm512_srli_epi32::<{ 2 * J as u32 }>(fifth[HALF][E]);
                    let low = _mm512_and_si512(_mm512_slli_epi32::<4>(bits), sixteen);
                    let high = _mm512_and_si512(_mm512_slli_epi32::<3>(bits), sixteen);
                    sink.put(0, 16 * J + 4 * HALF + E, _mm512_or_si512(low_nibbles(q[E]), low));
                    sink.put(1, 16 * J + 8 + 4 * HALF + E, _mm512_or_si512(high_nibbles(q[E]), high));
                });
            });
            sink.end(0, 2 * J, Some(bits::<{ 16 * (J as u32 % 2) }, 8>(scales[J / 2])));
            sink.end(1, 2 * J + 1, Some(bits::<{ 16 * (J as u32 % 2) + 8 }, 8>(scales[J / 2])));
        });
    }
}

/// Low nibbles, two high bits of every value, signed scales, a factor.
///
/// # Safety
/// As [`q4_0`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn q6_k<S: Sink, R: Rows>(sink: &mut S, rows: R) {
    // SAFETY: the block has 210 bytes in every row.
    // WHY: see `piece`.
    unsafe {
        let scales = rows.piece_at(192, const { place_in_q6_k(192) });
        let two = bytes(0x30);
        each!(HALF in [0 1] {
            each!(C in [0 1] {
                const FIRST: usize = 64 * HALF + 16 * C;
                const TOPS: usize = 128 + 32 * HALF + 16 * C;
                let first = rows.piece_at(FIRST, const { place_in_q6_k(FIRST) });
                let second = rows.piece_at(FIRST + 32, const { place_in_q6_k(FIRST + 32) });
                let tops = rows.piece_at(TOPS, const { place_in_q6_k(TOPS) });
                each!(N in [0 1 2 3] {
                    sink.begin(N, 8 * HALF + 2 * N + C);
                });
                each!(E in [0 1 2 3] {
                    const STEP: usize = 32 * HALF + 4 * C + E;
                    let top = _mm512_and_si512(_mm512_slli_epi32::<4>(tops[E]), two);
                    sink.put(0, STEP, _mm512_or_si512(low_nibbles(first[E]), top));
                    let top = _mm512_and_si512(_mm512_slli_epi32::<2>(tops[E]), two);
                    sink.put(1, STEP + 8, _mm512_or_si512(low_nibbles(second[E]), top));
                    let top = _mm512_and_si512(tops[E], two);
                    sink.put(2, STEP + 16, _mm512_or_si512(high_nibbles(first[E]), top));
                    let top = _mm512_and_si512(_mm512_srli_epi32::<2>(tops[E]), two);
                    sink.put(3, STEP + 24, _mm512_or_si512(high_nibbles(second[E]), top));
                });
                each!(N in [0 1 2 3] {
                    const SPAN: usize = 8 * HALF + 2 * N + C;
                    // The byte moves to the top and back, with its sign.
                    let scale = _mm512_slli_epi32::<{ 24 - 8 * (SPAN as u32 % 4) }>(scales[SPAN / 4]);
                    sink.end(N, SPAN, Some(_mm512_srai_epi32::<24>(scale)));
                });
            });
        });
        // They lie at the end, and turned rows are read in the order in which they lie.
        sink.factors(halves(rows.half(208)), _mm512_setzero_ps());
    }
}

/// A factor, high and low bits of eight scales, then nibbles that are places in a table.
///
/// # Safety
/// As [`q4_0`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn iq4_xs<S: Sink, R: Rows>(sink: &mut S, rows: R) {
    // SAFETY: the block has 136 bytes in every row.
    // WHY: see `piece`.
    unsafe {
        let (first, low) = (rows.column(0), rows.column(4));
        sink.factors(halves(first), _mm512_setzero_ps());
        let table = table(&IQ4);
        each!(J in [0 1 2 3 4 5 6 7] {
            sink.begin(0, J);
            let q = rows.piece(8 + 16 * J);
            each!(E in [0 1 2 3] {
                sink.put(0, 8 * J + E, _mm512_shuffle_epi8(table, low_nibbles(q[E])));
                sink.put(0, 8 * J + 4 + E, _mm512_shuffle_epi8(table, high_nibbles(q[E])));
            });
            let high = _mm512_slli_epi32::<4>(bits::<{ 16 + 2 * J as u32 }, 2>(first));
            let scale = _mm512_or_si512(bits::<{ 4 * J as u32 }, 4>(low), high);
            sink.end(0, J, Some(_mm512_sub_epi32(scale, _mm512_set1_epi32(32))));
        });
    }
}

//! Whether stored weights are numbers: a damaged file is refused by the tensor's name when it is opened, before it says
//! anything.

use std::hint::black_box;

use super::Kind;

/// Weights as they lie in a file.
pub(crate) struct Stored<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    pub(crate) bytes: &'a [u8],
}

/// The first block of `bytes` that has a weight or a factor which is no finite number. It touches every page.
pub(crate) fn unsound(kind: Kind, bytes: &[u8]) -> Option<usize> {
    match kind {
        Kind::F32 => find(bytes, |b: &[u8; 4]| endless(u32::from_le_bytes(*b) >> 23, 0xff)),
        Kind::Bf16 => find(bytes, |b: &[u8; 2]| endless(u32::from(u16::from_le_bytes(*b)) >> 7, 0xff)),
        Kind::F16 => find(bytes, |b: &[u8; 2]| half(b, 0)),
        // It has no infinity, and one number of either sign that is none.
        Kind::F8E4M3 => find(bytes, |b: &[u8; 1]| endless(b[0].into(), 0x7f)),
        Kind::Q4_0 | Kind::Iq4Nl => find(bytes, |b: &[u8; 18]| half(b, 0)),
        Kind::Q4_1 => find(bytes, |b: &[u8; 20]| half(b, 0) || half(b, 2)),
        Kind::Q5_0 => find(bytes, |b: &[u8; 22]| half(b, 0)),
        Kind::Q5_1 => find(bytes, |b: &[u8; 24]| half(b, 0) || half(b, 2)),
        Kind::Q8_0 => find(bytes, |b: &[u8; 34]| half(b, 0)),
        Kind::Q2K => find(bytes, |b: &[u8; 84]| half(b, 80) || half(b, 82)),
        Kind::Q3K => find(bytes, |b: &[u8; 110]| half(b, 108)),
        Kind::Q4K => find(bytes, |b: &[u8; 144]| half(b, 0) || half(b, 2)),
        Kind::Q5K => find(bytes, |b: &[u8; 176]| half(b, 0) || half(b, 2)),
        Kind::Q6K => find(bytes, |b: &[u8; 210]| half(b, 208)),
        Kind::Iq2Xxs => find(bytes, |b: &[u8; 66]| half(b, 0)),
        Kind::Iq2Xs => find(bytes, |b: &[u8; 74]| half(b, 0)),
        Kind::Iq2S => find(bytes, |b: &[u8; 82]| half(b, 0)),
        Kind::Iq3Xxs => find(bytes, |b: &[u8; 98]| half(b, 0)),
        Kind::Iq3S => find(bytes, |b: &[u8; 110]| half(b, 0)),
        Kind::Iq4Xs => find(bytes, |b: &[u8; 136]| half(b, 0)),
        Kind::Mxfp4 => find(bytes, |b: &[u8; 17]| b[0] == 0xff),
        // Every code is a number; its scales are judged where they are read.
        Kind::F4E2M1 => {
            black_box(bytes.iter().step_by(4096).fold(0, |sum, byte| sum ^ byte));
            None
        }
    }
}

/// The first of the blocks that is `bad`. Blocks are judged many at a time, without a branch for each.
fn find<const N: usize>(bytes: &[u8], bad: impl Fn(&[u8; N]) -> bool) -> Option<usize> {
    const TOGETHER: usize = 256;
    let (blocks, _) = bytes.as_chunks::<N>();
    let any = |blocks: &[[u8; N]]| blocks.iter().fold(false, |any, block| any | bad(block));
    let group = blocks.chunks(TOGETHER).position(any)?;
    let first = group * TOGETHER;
    blocks[first..].iter().position(bad).map(|at| first + at)
}

/// Whether these bits, but for the sign above them, are all set.
fn endless(bits: u32, all: u32) -> bool {
    bits & all == all
}

/// Whether the half-precision number at a place is none, or infinite.
fn half<const N: usize>(block: &[u8; N], at: usize) -> bool {
    endless(u32::from(u16::from_le_bytes([block[at], block[at + 1]])) >> 10, 0x1f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::quant;

    #[test]
    fn what_is_found_is_what_would_be_no_number() {
        // Each byte in turn becomes one that makes floats endless wherever they may stand.
        for kind in Kind::ALL {
            let (block, size) = (kind.block(), kind.block_bytes());
            let count = 300;
            let good: Vec<u8> = (0..count * size).map(|i| (i * 7 % 60) as u8).collect();
            let finite = |bytes: &[u8]| {
                let mut numbers = vec![0.0; block];
                quant::dequantise(kind, bytes, &mut numbers);
                numbers.iter().all(|x| x.is_finite())
            };
            assert_eq!(unsound(kind, &good), None, "{kind:?}");
            let at = 290;
            for byte in 0..size {
                for value in [0x7c, 0x7f, 0xfc, 0xff] {
                    let mut bytes = good.clone();
                    let bad = &mut bytes[at * size..][..size];
                    bad[byte] = value;
                    if byte + 1 < size && size > 1 {
                        bad[byte] = 0x80;
                        bad[byte + 1] = value;
                    }
                    let expected = (!finite(&bytes[at * size..][..size])).then_some(at);
                    assert_eq!(unsound(kind, &bytes), expected, "{kind:?} byte {byte} {value:x}");
                }
            }
        }
    }
}

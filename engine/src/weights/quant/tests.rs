//! Every kind against the formats' own packages, on random blocks. `fixtures/quant/make.py` made what they must give and
//! tells how the blocks come about.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Kind, dequantise, e8m0};

/// What a package made of a kind's blocks.
#[derive(Deserialize)]
struct Made {
    seed: u64,
    weights: usize,
    /// The bits of the first weights.
    first: Vec<u32>,
    sha256: String,
}

/// Where a block keeps its factors, each in two bytes.
pub(crate) fn factors(kind: Kind) -> &'static [usize] {
    match kind {
        Kind::F32 => &[2],
        Kind::F16 | Kind::Bf16 => &[0],
        Kind::Q4_0 | Kind::Q5_0 | Kind::Q8_0 => &[0],
        Kind::Q4_1 | Kind::Q5_1 | Kind::Q4K | Kind::Q5K => &[0, 2],
        Kind::Q2K => &[80, 82],
        Kind::Q3K => &[108],
        Kind::Q6K => &[208],
        Kind::Iq2Xxs | Kind::Iq2Xs | Kind::Iq2S | Kind::Iq3Xxs | Kind::Iq3S => &[0],
        Kind::Iq4Nl | Kind::Iq4Xs => &[0],
        Kind::Mxfp4 | Kind::F8E4M3 | Kind::F4E2M1 => &[],
    }
}

/// SplitMix64.
pub(crate) fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let number = |i: u64| {
        let z = seed.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..count.div_ceil(8) as u64).flat_map(number).collect();
    bytes.truncate(count);
    bytes
}

/// Random blocks without a factor that is no finite number.
fn blocks(kind: Kind, seed: u64, weights: usize) -> Vec<u8> {
    let mut bytes = random_bytes(seed, weights / kind.block() * kind.block_bytes());
    let exponent: u16 = if matches!(kind, Kind::F32 | Kind::Bf16) { 0x7f80 } else { 0x7c00 };
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        for &place in factors(kind) {
            if u16::from_le_bytes([block[place], block[place + 1]]) & exponent == exponent {
                block[place + 1] &= 0xbf;
            }
        }
        if kind == Kind::F8E4M3 && block[0] & 0x7f == 0x7f {
            block[0] &= 0xbf;
        }
    }
    bytes
}

#[test]
fn every_kind_is_dequantised_as_its_reference_does_it_to_the_bit() {
    // A weight that is nearly right is a model that is nearly right.
    let made: BTreeMap<String, Made> =
        serde_json::from_str(include_str!("../../../tests/fixtures/quant/dequantised.json")).unwrap();
    assert_eq!(made.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        let made = &made[kind.name()];
        let mut weights = vec![0.0; made.weights];
        dequantise(kind, &blocks(kind, made.seed, made.weights), &mut weights);
        let bits = weights.iter().map(|x| x.to_bits());
        assert_eq!(bits.clone().take(made.first.len()).collect::<Vec<_>>(), made.first, "{kind:?}");
        let bytes: Vec<u8> = bits.flat_map(u32::to_le_bytes).collect();
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, made.sha256, "{kind:?}");
    }
}

#[test]
fn a_byte_names_a_power_of_two() {
    for byte in 0..255 {
        assert_eq!(f64::from(e8m0(byte)), 2.0_f64.powi(i32::from(byte) - 127), "{byte}");
    }
    assert!(e8m0(255).is_nan());
}

#[test]
fn no_number_stays_none() {
    // Swallowed, it would turn a broken model into a plausible one.
    for byte in [0x7f, 0xff] {
        let mut x = [0.0];
        dequantise(Kind::F8E4M3, &[byte], &mut x);
        assert!(x[0].is_nan());
    }
}

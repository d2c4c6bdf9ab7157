//! The round trips through FP8 and FP4 that published models were trained with: numbers that their makers' programs
//! keep in few bits are rounded as if they had been kept so.
//!
//! A rounding turns the last bit of an f32 into a whole step, so no two programs agree on every choice that is made after
//! it. transformers leaves all of this out, and so does this engine unless it is asked not to. What the trips round to
//! is fixed by the formats, and their results here are those of the reference to the bit.

use crate::model::spec::Trips;

/// How many numbers share a scale.
const FP8_PART: usize = 64;
const FP8_ROW: usize = 32;
const FP4: usize = 32;
const FP4_FINE: usize = 16;

impl Trips {
    /// What a window's rows become: x [rows, row], of which the last `rotated` numbers are.
    pub(super) fn near(self, x: &mut [f32], row: usize, rotated: usize) {
        for x in x.chunks_exact_mut(row) {
            match self {
                Trips::V4 => fp8(&mut x[..row - rotated], FP8_PART),
                Trips::V41 => fp8(x, FP8_ROW),
            }
        }
    }

    /// What rows of several positions become.
    pub(super) fn far(self, x: &mut [f32], row: usize, rotated: usize) {
        match self {
            Trips::V4 => self.near(x, row, rotated),
            Trips::V41 => x.chunks_exact_mut(row).for_each(|x| fp4_fine(x, FP4_FINE)),
        }
    }

    /// What an indexer's queries and keys become: x [rows, head].
    pub(super) fn index(self, x: &mut [f32], head: usize) {
        for x in x.chunks_exact_mut(head) {
            if self == Trips::V4 {
                spread(x);
            }
            fp4(x, FP4);
        }
    }
}

/// Through E4M3 with a power of two for every `block` of numbers.
fn fp8(x: &mut [f32], block: usize) {
    for x in x.chunks_mut(block) {
        let scale = power_above(most(x).max(1e-4) * (1.0 / 448.0));
        for x in x {
            *x = e4m3(*x / scale) * scale;
        }
    }
}

/// Through E2M1 with a power of two for every `block` of numbers.
fn fp4(x: &mut [f32], block: usize) {
    for x in x.chunks_mut(block) {
        let scale = power_above(most(x).max(6.0 * f32::MIN_POSITIVE) * (1.0 / 6.0));
        for x in x {
            *x = e2m1(*x / scale) * scale;
        }
    }
}

/// Through E2M1 with an E4M3 number for every `block` of numbers.
fn fp4_fine(x: &mut [f32], block: usize) {
    for x in x.chunks_mut(block) {
        let scale = e4m3((most(x) * (1.0 / 6.0)).clamp(1.0 / 512.0, 448.0));
        for x in x {
            *x = e2m1(*x / scale) * scale;
        }
    }
}

/// The largest size of those that have one.
fn most(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most, x| x.abs().max(most))
}

/// The smallest power of two that is no less than `x`, which is positive.
fn power_above(x: f32) -> f32 {
    let down = f32::from_bits(x.to_bits() & 0x7f80_0000);
    if down < f32::MIN_POSITIVE {
        f32::MIN_POSITIVE
    } else if down < x {
        down * 2.0
    } else {
        down
    }
}

/// The nearest number with four bits of exponent and three of fraction, the even one of two; 448 at most.
fn e4m3(x: f32) -> f32 {
    // Below 2⁻⁶ all numbers are multiples of 2⁻⁹, above they have three bits behind the first.
    let size = x.abs();
    let step =
        if size < 1.0 / 64.0 { 1.0 / 512.0 } else { f32::from_bits(size.to_bits() & 0x7f80_0000) / 8.0 };
    at_most(448.0, (size / step).round_ties_even() * step).copysign(x)
}

/// The nearest number with two bits of exponent and one of fraction, the one with the even code of two; 6 at most.
fn e2m1(x: f32) -> f32 {
    let size = x.abs();
    let step = match size {
        _ if size < 2.0 => 0.5,
        _ if size < 4.0 => 1.0,
        _ if size < f32::INFINITY => 2.0,
        // What has no size becomes NaN, which sampling names.
        _ => f32::NAN,
    };
    at_most(6.0, (size / step).round_ties_even() * step).copysign(x)
}

/// NaN stays what it is.
fn at_most(limit: f32, x: f32) -> f32 {
    if x > limit { limit } else { x }
}

/// The normalised Hadamard transform of a power of two of numbers. It changes no product of two rows that both went
/// through it, and leaves no number that is much larger than the others.
fn spread(x: &mut [f32]) {
    let mut half = 1;
    while 2 * half <= x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (half as f32).sqrt();
    for x in x {
        *x *= scale;
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn round_trips_are_those_of_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/deepseek_v41/ref.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |name: &str| -> Vec<f32> {
            let bytes = tensors.tensor(name).unwrap().data();
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let check = |name: &str, trip: &dyn Fn(&mut [f32])| {
            let mut found = floats("trip_in");
            trip(&mut found);
            for (i, (found, expected)) in found.iter().zip(floats(name)).enumerate() {
                assert_eq!(*found, expected, "{name} {i}: {}", floats("trip_in")[i]);
            }
        };
        check("trip_fp8", &|x| Trips::V41.near(x, 64, 8));
        check("trip_fp4", &|x| Trips::V41.index(x, 64));
        check("trip_compressed", &|x| Trips::V41.far(x, 64, 8));
    }

    #[test]
    fn v4_leaves_rotated_numbers_alone_and_shares_scales_among_sixty_four() {
        let mut x: Vec<f32> = (0..72).map(|i| (i as f32 - 35.0) * 0.37).collect();
        let before = x.clone();
        Trips::V4.near(&mut x, 72, 8);
        // The largest of the first 64 is 12.95, so the scale is 2⁻⁵, and from 8 on numbers go in steps of 1.
        assert_eq!(x[64..], before[64..]);
        assert_eq!((x[0], x[35], x[63]), (-13.0, 0.0, 10.0));
        assert_eq!((before[1], x[1]), (-12.58, -13.0));
        let mut far = before.clone();
        Trips::V4.far(&mut far, 72, 8);
        assert_eq!(far, x);
    }

    #[test]
    fn the_transform_is_hadamards_and_its_own_inverse() {
        let x: Vec<f32> = (0..128).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
        let mut spread_out = x.clone();
        spread(&mut spread_out);
        for (i, found) in spread_out.iter().enumerate() {
            let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
            let expected =
                x.iter().enumerate().map(|(j, x)| sign(j) * f64::from(*x)).sum::<f64>() / 128_f64.sqrt();
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{i}");
        }
        spread(&mut spread_out);
        assert!(x.iter().zip(&spread_out).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for trips in [Trips::V4, Trips::V41] {
            for bad in [f32::NAN, f32::INFINITY] {
                let row = || {
                    let mut row = vec![1.0; 64];
                    row[3] = bad;
                    row
                };
                let (mut near, mut far, mut index) = (row(), row(), row());
                trips.near(&mut near, 64, 8);
                trips.far(&mut far, 64, 8);
                trips.index(&mut index, 64);
                assert!(near[3].is_nan() && far[3].is_nan() && index[3].is_nan(), "{trips:?} {bad}");
            }
        }
    }

    #[test]
    fn codes_are_the_nearest_and_even_ones_of_two() {
        let halves = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0];
        assert_eq!(halves.map(e2m1), [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]);
        assert_eq!([-0.26, -5.1, 2.4].map(e2m1), [-0.5, -6.0, 2.0]);
        assert_eq!([17.0, 19.0, 460.0, 1e9].map(e4m3), [16.0, 20.0, 448.0, 448.0]);
        assert_eq!([1.0 / 1024.0, 3.0 / 1024.0, -1e-9].map(e4m3), [0.0, 1.0 / 256.0, 0.0]);
    }
}

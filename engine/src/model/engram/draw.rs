//! Whole numbers as numpy draws them: `numpy.random.default_rng(seed).integers(0, bound, count)`.
//!
//! Engram's multipliers are not stored in checkpoints; a model is trained with what numpy drew and must be run with
//! the same. These are its parts, as far as they are needed: `SeedSequence` spreads the seed over the state (after
//! O'Neill's `seed_seq_fe`), PCG64 (XSL-RR 128/64) makes 64 bits at a time, and Lemire's method (2019) brings them
//! below a bound without favour.

/// numpy's default generator.
pub(super) struct Draw {
    state: u128,
    step: u128,
}

const PCG_FACTOR: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

impl Draw {
    pub(super) fn new(seed: u64) -> Draw {
        let [a, b, c, d] = spread(seed);
        let step = (u128::from(c) << 64 | u128::from(d)) << 1 | 1;
        let mut draw = Draw { state: 0, step };
        draw.advance();
        draw.state = draw.state.wrapping_add(u128::from(a) << 64 | u128::from(b));
        draw.advance();
        draw
    }

    /// The next number below `bound`. The bound must lie above 2³²: below, numpy draws 32 bits and keeps the other half.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 1 << 32, "numpy draws small numbers in another way");
        loop {
            // The high half of bits · bound is spread evenly, once the few low halves that come too often are refused.
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= bound || product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }

    fn bits(&mut self) -> u64 {
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn advance(&mut self) {
        self.state = self.state.wrapping_mul(PCG_FACTOR).wrapping_add(self.step);
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`: the seed's words are mixed into a pool of four, each with each, and
/// eight words are drawn from the pool.
fn spread(seed: u64) -> [u64; 4] {
    // numpy takes as many words as the number needs; missing words count as zeros, so two words say the same.
    let words = [seed as u32, (seed >> 32) as u32, 0, 0];
    let mut hash = Hash { constant: 0x43b0_d7e5, factor: 0x931e_8875 };
    let mut pool = words.map(|word| hash.next(word));
    for from in 0..4 {
        for to in 0..4 {
            if from != to {
                let mixed = pool[to]
                    .wrapping_mul(0xca01_f9dd)
                    .wrapping_sub(hash.next(pool[from]).wrapping_mul(0x4973_f715));
                pool[to] = mixed ^ mixed >> 16;
            }
        }
    }
    let mut hash = Hash { constant: 0x8b51_f9dd, factor: 0x58f3_8ded };
    let drawn: [u32; 8] = std::array::from_fn(|i| hash.next(pool[i % 4]));
    std::array::from_fn(|i| u64::from(drawn[2 * i]) | u64::from(drawn[2 * i + 1]) << 32)
}

/// A hash whose constant changes with every word.
struct Hash {
    constant: u32,
    factor: u32,
}

impl Hash {
    fn next(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.factor);
        let word = word.wrapping_mul(self.constant);
        word ^ word >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_numpy() {
        // default_rng(seed).integers(0, bound, 4, dtype=int64) of numpy 2.
        let check = |seed, bound, expect: [u64; 4]| {
            let mut draw = Draw::new(seed);
            assert_eq!(std::array::from_fn(|_| draw.below(bound)), expect, "{seed} {bound}");
        };
        check(
            0,
            4611686018427387904,
            [2937467307694268567, 1244171615822312904, 188957027462249006, 76220265684581383],
        );
        check(10007, 46539428012143, [38316039566364, 2419937512550, 17979832191333, 36993660564300]);
        check(1099511640121, 8589934599, [1633148887, 6891725195, 1280621880, 54977669]);
        check(
            18446744073709551615,
            9223372036854775807,
            [6272139055050500934, 7796624836349661611, 68281375809169700, 8250934642460399319],
        );
        check(
            150105,
            6917529027641081857,
            [2149238525976572674, 4007952120462826699, 2448080313081539821, 6709942373936403935],
        );
        check(7, 4294967297, [2684764586, 3853503933, 3331544672, 967257516]);
    }
}

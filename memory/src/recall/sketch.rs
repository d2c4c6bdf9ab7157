//! Sketches of vectors: the signs of their numbers, an eighth of what their codes are.
//!
//! A scan over all codes waits for memory. Signs are enough to tell which few hundred of many vectors may be the nearest, and only
//! these are then looked at. The query keeps its sizes, in seven steps, so that the sum that is compared is
//!
//! ```text
//! Σ |qᵢ| · sign(qᵢ) · sign(xᵢ)        with |qᵢ| as 0 to 7
//! ```
//! which for vectors of many dimensions goes with the cosine (Charikar 2002; sized on one side as in RaBitQ, Gao and Long 2024).

/// Bits of a query's sizes.
const PLANES: usize = 3;

/// The sketches of many vectors, a row each.
#[derive(Default)]
pub(crate) struct Sketches {
    /// Words of a row.
    words: usize,
    bits: Vec<u64>,
}

/// A query as it is compared with sketches.
pub(crate) struct Probe {
    /// By word of a row: the signs, and the sizes' bits from the lowest on.
    words: Vec<(u64, [u64; PLANES])>,
    /// What a row of just these signs has.
    most: i32,
}

impl Sketches {
    /// None yet, of vectors of so many numbers.
    pub(crate) fn new(dimensions: usize) -> Sketches {
        Sketches { words: dimensions.div_ceil(64), bits: Vec::new() }
    }

    pub(crate) fn reserve(&mut self, rows: usize) {
        self.bits.reserve(rows * self.words);
    }

    pub(crate) fn push(&mut self, codes: &[i8]) {
        self.bits.extend(signs(codes));
    }

    /// Takes another vector for a row.
    pub(crate) fn set(&mut self, row: usize, codes: &[i8]) {
        self.bits[row * self.words..(row + 1) * self.words]
            .iter_mut()
            .zip(signs(codes))
            .for_each(|(word, signs)| *word = signs);
    }

    /// Keeps the first so many rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.bits.truncate(rows * self.words);
    }

    fn row(&self, row: usize) -> &[u64] {
        &self.bits[row * self.words..(row + 1) * self.words]
    }

    /// How near a row is, in a measure of the query's own.
    pub(crate) fn near(&self, probe: &Probe, row: usize) -> i32 {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("popcnt") {
            // SAFETY: the machine has the instruction, as was just seen.
            // WHY: without it a count takes some ten instructions instead of one, and a scan is little else.
            return unsafe { near_counted(probe, self.row(row)) };
        }
        near(probe, self.row(row))
    }
}

impl Probe {
    /// Of a query's codes.
    pub(crate) fn of(codes: &[i8]) -> Probe {
        let most = codes.iter().map(|code| code.unsigned_abs()).max().unwrap_or(0).max(1);
        let steps = (1_u32 << PLANES) - 1;
        let size =
            |code: i8| (u32::from(code.unsigned_abs()) * steps + u32::from(most) / 2) / u32::from(most);
        let words = codes.chunks(64).zip(signs(codes)).map(|(codes, signs)| {
            let mut planes = [0; PLANES];
            for (n, code) in codes.iter().enumerate() {
                for (bit, plane) in planes.iter_mut().enumerate() {
                    *plane |= u64::from(size(*code) >> bit & 1) << n;
                }
            }
            (signs, planes)
        });
        Probe { words: words.collect(), most: codes.iter().map(|code| size(*code) as i32).sum() }
    }
}

/// The signs of codes, 64 to a word and the first lowest; set where a number is below zero.
fn signs(codes: &[i8]) -> impl Iterator<Item = u64> {
    let word =
        |codes: &[i8]| codes.iter().enumerate().fold(0, |word, (n, code)| word | u64::from(*code < 0) << n);
    codes.chunks(64).map(word)
}

/// What the signs agree in, less what they differ in.
#[inline(always)]
fn near(probe: &Probe, row: &[u64]) -> i32 {
    let mut differing = 0;
    for ((signs, planes), row) in probe.words.iter().zip(row) {
        let other = signs ^ row;
        for (bit, plane) in planes.iter().enumerate() {
            differing += (other & plane).count_ones() << bit;
        }
    }
    probe.most - 2 * differing as i32
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
fn near_counted(probe: &Probe, row: &[u64]) -> i32 {
    near(probe, row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sketch_is_the_sum_of_the_querys_sizes_with_both_signs() {
        // The bits are a way to compute it, and the formula is the judge.
        for dimensions in [1, 63, 64, 65, 384] {
            let codes = |seed: i32| -> Vec<i8> {
                (0..dimensions).map(|n| ((n * 37 + seed * 101) % 255 - 127) as i8).collect()
            };
            let mut sketches = Sketches::new(dimensions as usize);
            (0..5).for_each(|seed| sketches.push(&codes(seed)));
            sketches.set(3, &codes(9));
            sketches.truncate(4);
            let query = codes(77);
            let probe = Probe::of(&query);
            let most = f64::from(query.iter().map(|code| code.unsigned_abs()).max().unwrap().max(1));
            for (row, seed) in [0, 1, 2, 9].into_iter().enumerate() {
                let sign = |code: i8| if code < 0 { -1.0 } else { 1.0 };
                let size = |code: i8| (f64::from(code.unsigned_abs()) * 7.0 / most).round();
                let sum: f64 =
                    query.iter().zip(codes(seed)).map(|(q, x)| size(*q) * sign(*q) * sign(x)).sum();
                let got = sketches.near(&probe, row);
                assert_eq!(f64::from(got), sum, "{dimensions} numbers");
                assert_eq!(got, near(&probe, sketches.row(row)));
            }
        }
    }
}

//! The best of many rows, found in one pass over their scores: nothing is kept but the best so far, and few of the
//! others are looked at twice.

use std::cmp::Ordering;

/// The best rows so far. Of rows with the same score the first one is better.
pub(crate) struct Best {
    /// How many are wanted.
    wanted: usize,
    /// Up to twice as many as are wanted.
    rows: Vec<(f32, u32)>,
    /// Scores that are not above it are not among the best.
    bar: f32,
}

impl Best {
    pub(crate) fn new(wanted: usize) -> Best {
        Best { wanted, rows: Vec::new(), bar: f32::NEG_INFINITY }
    }

    /// What a score must be above to be taken.
    pub(crate) fn bar(&self) -> f32 {
        self.bar
    }

    /// Takes a row in, which comes after all others, if it is one of the best.
    pub(crate) fn offer(&mut self, score: f32, row: u32) {
        if score > self.bar {
            self.rows.push((score, row));
            if self.rows.len() == 2 * self.wanted {
                self.tighten();
            }
        }
    }

    /// Takes in what was found among rows that come after all others.
    pub(crate) fn append(&mut self, mut other: Best) {
        self.rows.append(&mut other.rows);
        if self.rows.len() > self.wanted {
            self.tighten();
        }
    }

    /// Leaves the best.
    fn tighten(&mut self) {
        self.rows.select_nth_unstable_by(self.wanted - 1, better);
        self.rows.truncate(self.wanted);
        self.bar = self.rows[self.wanted - 1].0;
    }

    /// The best rows, in order.
    pub(crate) fn into_rows(mut self) -> Vec<u32> {
        if self.rows.len() > self.wanted {
            self.tighten();
        }
        let mut rows: Vec<u32> = self.rows.into_iter().map(|(_, row)| row).collect();
        rows.sort_unstable();
        rows
    }
}

/// The better one first.
fn better(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores with many equal ones among them.
    fn scores(count: u32) -> Vec<f32> {
        (0..count).map(|i| f32::from((i.wrapping_mul(2_654_435_761) >> 24) as u8)).collect()
    }

    /// All scores sorted, the slow way.
    fn sorted(scores: &[f32], wanted: usize) -> Vec<u32> {
        let mut rows: Vec<u32> = (0..scores.len() as u32).collect();
        rows.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
        rows.truncate(wanted);
        rows.sort_unstable();
        rows
    }

    #[test]
    fn the_best_are_those_a_sort_finds_and_of_equals_the_first() {
        for (count, wanted) in [(5, 8), (8, 8), (1000, 1), (1000, 7), (5000, 512)] {
            let random = scores(count);
            let rising: Vec<f32> = (0..count).map(|i| i as f32).collect();
            for scores in [random.clone(), rising, vec![1.0; count as usize]] {
                let mut best = Best::new(wanted);
                for (row, &score) in scores.iter().enumerate() {
                    best.offer(score, row as u32);
                }
                assert_eq!(best.into_rows(), sorted(&scores, wanted), "{wanted} of {count}");
            }
        }
    }

    #[test]
    fn it_does_not_matter_into_how_many_parts_the_rows_are_cut() {
        let scores = scores(3000);
        for size in [1, 64, 999, 3000] {
            let parts = scores.chunks(size).enumerate().map(|(i, part)| {
                let mut best = Best::new(100);
                for (j, &score) in part.iter().enumerate() {
                    best.offer(score, (i * size + j) as u32);
                }
                best
            });
            let best = parts.reduce(|mut a, b| {
                a.append(b);
                a
            });
            assert_eq!(best.unwrap().into_rows(), sorted(&scores, 100), "parts of {size}");
        }
    }
}

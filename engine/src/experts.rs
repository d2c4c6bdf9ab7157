//! How a model's experts are used, and how many of them are kept in memory.

use serde::Serialize;

/// How often each expert of one layer was chosen since the model was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uses {
    /// The layer's number, from 0 on.
    pub layer: usize,
    /// By expert.
    pub uses: Vec<u64>,
}

impl Uses {
    /// How often any was chosen.
    pub fn total(&self) -> u64 {
        self.uses.iter().sum()
    }

    /// The experts that were never chosen.
    pub fn dead(&self) -> Vec<usize> {
        (0..self.uses.len()).filter(|&expert| self.uses[expert] == 0).collect()
    }

    /// The `count` experts that were chosen most, each with its share of all choices; of equal ones the first.
    pub fn most_used(&self, count: usize) -> Vec<(usize, f64)> {
        let mut experts: Vec<usize> = (0..self.uses.len()).collect();
        experts.sort_by_key(|&expert| std::cmp::Reverse(self.uses[expert]));
        let total = self.total().max(1) as f64;
        experts.into_iter().take(count).map(|expert| (expert, self.uses[expert] as f64 / total)).collect()
    }

    /// How even the use is: −Σ p·ln p / ln n over the experts' shares p. It is 1 if all were chosen equally often, and 0
    /// if only one was, or none.
    pub fn entropy(&self) -> f64 {
        let (total, experts) = (self.total() as f64, self.uses.len() as f64);
        if total == 0.0 || experts < 2.0 {
            return 0.0;
        }
        let shares = self.uses.iter().filter(|&&uses| uses > 0).map(|&uses| uses as f64 / total);
        (-shares.map(|p| p * p.ln()).sum::<f64>() / experts.ln()).max(0.0)
    }
}

/// What was kept of experts that stay on disk (`Options::expert_bytes`) since the model was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Experts that were in memory when a layer asked for them.
    pub hits: u64,
    /// Experts that a layer asked for before they had come.
    pub misses: u64,
    /// Experts that were read beside the work, needed or guessed.
    pub ahead: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that experts take in memory now, those being read included.
    pub held_bytes: u64,
    /// The most they have taken.
    pub peak_bytes: u64,
    /// The most they may take.
    pub budget_bytes: u64,
    /// What all experts would take.
    pub stored_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_use_has_an_entropy_of_one() {
        let check = |uses: &[u64], entropy: f64, dead: &[usize]| {
            let uses = Uses { layer: 0, uses: uses.to_vec() };
            assert!((uses.entropy() - entropy).abs() < 1e-12, "{uses:?} {}", uses.entropy());
            assert_eq!(uses.dead(), dead);
        };
        check(&[5, 5, 5, 5], 1.0, &[]);
        check(&[7, 7, 0, 0], 0.5, &[2, 3]);
        check(&[0, 9, 0], 0.0, &[0, 2]);
        check(&[0, 0], 0.0, &[0, 1]);
        check(&[3], 0.0, &[]);
    }

    #[test]
    fn the_most_used_experts_come_first() {
        let uses = Uses { layer: 3, uses: vec![1, 4, 4, 1] };
        assert_eq!(uses.most_used(3), [(1, 0.4), (2, 0.4), (0, 0.1)]);
        assert_eq!(uses.most_used(9).len(), 4);
    }
}

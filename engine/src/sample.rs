//! Logits → token. Pure: the same logits, seed and position give the same token.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{Error, Token};

/// How a token is chosen from its logits. The default is greedy.
///
/// The steps in order: the grammar's mask, the repetition penalty, then, unless the temperature is 0, the
/// temperature, `top_k`, `top_p`, `min_p`, and a draw. The draw is a pure function of the seed and of the
/// position in the line: there is no generator whose state could be lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 takes the likeliest token; higher values flatten the distribution.
    pub temperature: f32,
    /// Keeps the likeliest tokens that together have this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Drops tokens less likely than this share of the likeliest one; 0 drops none.
    pub min_p: f32,
    /// Divides the logits of tokens seen in the window (multiplies negative ones); 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the line's last tokens the penalty looks at.
    pub repetition_window: usize,
    /// The chance's seed: the same seed gives the same run.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// [`Error::Option`] with what a setting must be.
    pub fn check(&self) -> Result<(), Error> {
        let ensure =
            |holds: bool, what: &str| if holds { Ok(()) } else { Err(Error::Option(what.to_owned())) };
        ensure(self.temperature >= 0.0 && self.temperature.is_finite(), "temperature must be 0 or more")?;
        ensure(self.top_p > 0.0 && self.top_p <= 1.0, "top_p must be above 0 and at most 1")?;
        ensure((0.0..1.0).contains(&self.min_p), "min_p must be at least 0 and below 1")?;
        ensure(
            self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
            "repetition_penalty must be above 0",
        )
    }
}

/// Everything but the logits that a choice depends on.
pub(crate) struct Choice<'a> {
    pub(crate) sampling: &'a Sampling,
    /// What the line says so far; its length is the position that is chosen for.
    pub(crate) line: &'a [Token],
    /// The tokens that may be chosen: bit `t % 32` of word `t / 32`. `None` allows all.
    pub(crate) mask: Option<&'a [u32]>,
}

/// Chooses a token.
pub(crate) fn sample(logits: &[f32], choice: &Choice<'_>) -> Result<Token, Error> {
    let Choice { sampling, line, mask } = *choice;
    let allowed = |token: usize| match mask {
        Some(mask) => mask.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1),
        None => true,
    };
    let window = &line[line.len().saturating_sub(sampling.repetition_window)..];
    let mut penalised: Vec<Token> = if sampling.repetition_penalty == 1.0 { vec![] } else { window.to_vec() };
    penalised.sort_unstable();
    penalised.dedup();
    let mut any_allowed = false;
    let mut candidates: Vec<(Token, f32)> = Vec::new();
    let mut best: Option<(Token, f32)> = None;
    for (token, &logit) in logits.iter().enumerate() {
        if !allowed(token) {
            continue;
        }
        any_allowed = true;
        let token = token as Token;
        let logit = match penalised.binary_search(&token) {
            Ok(_) if logit > 0.0 => logit / sampling.repetition_penalty,
            Ok(_) => logit * sampling.repetition_penalty,
            Err(_) => logit,
        };
        // NaN and −∞ are no candidates; +∞ is one that no division below survives.
        if logit.is_nan() || logit == f32::NEG_INFINITY {
            continue;
        }
        let logit = logit.min(f32::MAX);
        if best.is_none_or(|(_, most)| logit > most) {
            best = Some((token, logit));
        }
        if sampling.temperature > 0.0 {
            candidates.push((token, logit));
        }
    }
    let Some((best, most)) = best else {
        let at = line.len();
        let why = if any_allowed {
            format!("all logits at position {at} are NaN or −∞; the model file is damaged")
        } else {
            format!("the grammar allows no token at position {at}")
        };
        return Err(Error::NoChoice { why });
    };
    if sampling.temperature == 0.0 {
        return Ok(best);
    }

    // Likeliest first; equal ones in the vocabulary's order, so that sorting has one result.
    let likelier = |a: &(Token, f32), b: &(Token, f32)| {
        b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
    };
    if sampling.top_k > 0 && sampling.top_k < candidates.len() {
        candidates.select_nth_unstable_by(sampling.top_k - 1, likelier);
        candidates.truncate(sampling.top_k);
    }
    // Weights relative to the likeliest token, in f64: a hundred thousand of them are added up.
    let temperature = f64::from(sampling.temperature);
    let mut weights: Vec<(Token, f64)> = candidates
        .into_iter()
        .map(|(token, logit)| (token, (f64::from(logit - most) / temperature).exp()))
        .filter(|&(_, weight)| weight >= f64::from(sampling.min_p) && weight > 0.0)
        .collect();
    weights.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    if sampling.top_p < 1.0 {
        let enough = total * f64::from(sampling.top_p);
        let mut sum = 0.0;
        let kept = weights.iter().take_while(|(_, weight)| {
            let more = sum < enough;
            sum += weight;
            more
        });
        let kept = kept.count();
        weights.truncate(kept);
        total = weights.iter().map(|(_, weight)| weight).sum();
    }
    let mut draw = uniform(sampling.seed, line.len() as u64) * total;
    for &(token, weight) in &weights {
        draw -= weight;
        if draw < 0.0 {
            return Ok(token);
        }
    }
    // Rounding may leave a crumb; the last candidate has it.
    Ok(weights.last().map_or(best, |&(token, _)| token))
}

/// A number in 0..1 for a seed and a position: two rounds of SplitMix64's mixer, which lets neighbouring
/// positions share no pattern.
fn uniform(seed: u64, position: u64) -> f64 {
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    (mix(mix(seed) ^ position) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(
        logits: &[f32],
        sampling: &Sampling,
        line: &[Token],
        mask: Option<&[u32]>,
    ) -> Result<Token, Error> {
        sample(logits, &Choice { sampling, line, mask })
    }

    /// How often each token is chosen over many positions, in per cent.
    fn shares(logits: &[f32], sampling: &Sampling) -> Vec<usize> {
        let mut counts = vec![0_usize; logits.len()];
        let line = vec![0; 20_000];
        for position in 10_000..20_000 {
            counts[choose(logits, sampling, &line[..position], None).unwrap() as usize] += 1;
        }
        counts.into_iter().map(|count| (count + 50) / 100).collect()
    }

    const WARM: Sampling = Sampling {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        repetition_window: 64,
        seed: 7,
    };

    /// Logits whose softmax is 50, 30 and 20 per cent.
    fn thirds() -> Vec<f32> {
        [0.5_f32, 0.3, 0.2].iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn greedy_takes_the_likeliest_and_the_first_of_equals() {
        assert_eq!(choose(&[1.0, 3.0, 3.0], &Sampling::default(), &[0], None).unwrap(), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        for (shares, expected) in shares(&thirds(), &WARM).into_iter().zip([50_usize, 30, 20]) {
            assert!(shares.abs_diff(expected) <= 2, "{shares} {expected}");
        }
    }

    #[test]
    fn cuts_leave_what_they_promise() {
        let first_two = shares(&thirds(), &Sampling { top_k: 2, ..WARM });
        assert!(first_two[0].abs_diff(62) <= 2 && first_two[2] == 0, "{first_two:?}");
        // 0.5 alone reaches 0.45; 0.5 and 0.3 are needed for 0.6.
        assert_eq!(shares(&thirds(), &Sampling { top_p: 0.45, ..WARM }), [100, 0, 0]);
        assert_eq!(shares(&thirds(), &Sampling { top_p: 0.6, ..WARM })[2], 0);
        // 0.2 is less than half of 0.5, 0.3 is not.
        assert_eq!(shares(&thirds(), &Sampling { min_p: 0.5, ..WARM })[2], 0);
        assert!(shares(&thirds(), &Sampling { min_p: 0.5, ..WARM })[1] > 30);
    }

    #[test]
    fn the_same_seed_and_position_give_the_same_token() {
        let line = vec![0; 100];
        let run = |seed| {
            let sampling = Sampling { seed, ..WARM };
            (1..100).map(|n| choose(&thirds(), &sampling, &line[..n], None).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn repeated_tokens_are_held_back_within_the_window() {
        let sampling = Sampling { repetition_penalty: 2.0, repetition_window: 2, ..Sampling::default() };
        assert_eq!(choose(&[3.0, 2.0], &sampling, &[0, 1, 0], None).unwrap(), 0);
        assert_eq!(choose(&[3.0, 2.0], &sampling, &[1, 0, 0], None).unwrap(), 1);
        assert_eq!(choose(&[3.0, 2.0], &sampling, &[0, 1, 1], None).unwrap(), 0);
        // Negative logits must sink as well.
        assert_eq!(choose(&[-1.0, -1.5], &sampling, &[0, 0], None).unwrap(), 1);
    }

    #[test]
    fn the_mask_binds() {
        let logits: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let mask = [1 << 5 | 1 << 9, 0];
        assert_eq!(choose(&logits, &Sampling::default(), &[0], Some(&mask)).unwrap(), 9);
        let warm = Sampling { temperature: 100.0, ..WARM };
        for n in 1..200 {
            let token = choose(&logits, &warm, &vec![0; n], Some(&mask)).unwrap();
            assert!(token == 5 || token == 9);
        }
    }

    #[test]
    fn nothing_to_choose_from_is_an_error() {
        for sampling in [Sampling::default(), WARM] {
            let nan = choose(&[f32::NAN, f32::NAN], &sampling, &[0], None);
            assert!(matches!(nan, Err(Error::NoChoice { .. })));
            let none = choose(&[1.0, 2.0], &sampling, &[0], Some(&[0]));
            assert!(matches!(none, Err(Error::NoChoice { .. })));
            let one = choose(&[f32::NAN, f32::INFINITY, 1.0], &sampling, &[0], None);
            assert_eq!(one.unwrap(), 1);
        }
    }

    #[test]
    fn senseless_settings_are_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..WARM },
            Sampling { temperature: f32::NAN, ..WARM },
            Sampling { top_p: 0.0, ..WARM },
            Sampling { min_p: 1.0, ..WARM },
            Sampling { repetition_penalty: 0.0, ..WARM },
        ] {
            assert!(matches!(bad.check(), Err(Error::Option(_))), "{bad:?}");
        }
        assert!(WARM.check().is_ok());
    }
}

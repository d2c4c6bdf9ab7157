//! Whether a line's next tokens are guessed, and by whom.

use std::time::Instant;

use super::draft::Drafter;
use super::{Line, Settings};
use crate::guess::{Chance, Costs, GUESSES_MAX, Guess, Origin, PREDICTIONS_MAX, Speculate, look_back};
use crate::model::{Predictor, Scratch};

/// What guesses besides the line itself.
pub(super) enum Second<'a> {
    /// Another model; tokens are below this number.
    Draft(&'a mut Drafter, usize),
    /// A layer of the model, if it has one.
    Predictor(Option<&'a Predictor>, &'a mut Scratch),
}

impl Line {
    /// What may follow the line and is worth computing with its last tokens, which are computed next with `beside` tokens of
    /// other lines.
    pub(super) fn guess(
        &mut self,
        settings: &Settings,
        costs: &mut Costs,
        beside: usize,
        second: Second<'_>,
    ) -> Option<Guess> {
        let due = self.tokens.len() - self.cache.tokens();
        // A prompt's last tokens are computed alone: they take long enough.
        if settings.speculate == Speculate::Off || due > 1 + GUESSES_MAX {
            return None;
        }
        let room = settings.context_tokens.saturating_sub(self.tokens.len());
        let most = GUESSES_MAX.min(room).min(self.cache.tokens_to_mark() - due);
        let said = look_back(&self.tokens, most);
        let reaches = match &second {
            Second::Draft(..) => true,
            Second::Predictor(..) => self.outlook.as_ref().is_some_and(|own| own.reaches(&self.tokens)),
        };
        let chance = |origin, most| Chance { origin, most, due, beside, redo: self.cache.has_states() };
        let lookup = said.as_ref().map(|said| chance(said.origin, said.tokens.len()));
        let prediction = reaches
            .then(|| chance(Origin::Predictor, most.min(PREDICTIONS_MAX)))
            .filter(|chance| chance.most > 0);
        let (origin, count) = match settings.speculate {
            Speculate::Off => return None,
            Speculate::On => self.trust.choose(costs, lookup, prediction)?,
            Speculate::Always => lookup.or(prediction).map(|chance| (chance.origin, chance.most))?,
        };
        if !origin.is_predicted() {
            let mut said = said?;
            said.tokens.truncate(count);
            return Some(said);
        }
        let (start, tokens) = match second {
            Second::Draft(drafter, vocabulary) => {
                // Reading a long prompt once says nothing of what guesses cost.
                if !drafter.follow(&mut self.draft, &self.tokens) {
                    return None;
                }
                (Instant::now(), drafter.guess(&mut self.draft, &self.tokens, count, vocabulary)?)
            }
            Second::Predictor(predictor, scratch) => {
                let outlook = self.outlook.as_mut()?;
                (Instant::now(), outlook.predict(predictor?, &self.tokens, count, scratch))
            }
        };
        costs.learn_prediction(count, start.elapsed().as_secs_f64(), self.trust.single());
        Some(Guess { origin, tokens })
    }

    /// Takes in how long it took to compute some tokens.
    pub(super) fn learn(&mut self, costs: &mut Costs, tokens: usize, seconds: f64) {
        if tokens == 1 {
            self.trust.learn_single(seconds);
        } else {
            costs.learn(tokens, seconds, self.trust.single());
        }
    }
}

//! Guesses of what a line says next, and whether they pay.
//!
//! Several tokens computed at once cost less than one after the other, but what follows is not known yet. So the
//! worker guesses it, computes the guesses together with the token that is due, and keeps the logits of each. While
//! the line then says what was guessed, its next logits are there already; the first token that differs cuts the rest
//! off. What is sampled never depends on a guess, because logits do not depend on how a line is cut: guesses cost or
//! save time, and nothing else.
//!
//! Guesses come from what the line said before, and from a draft model or the model's predictor where there is one, a layer
//! that was trained to guess. Whether they save any time is measured. The worker knows what it costs to compute several tokens at once and
//! to have one predicted, each line how often guesses of each origin were right; a guess is made as long as it makes sense
//! of all of that, and of two guesses the one that promises more.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::Token;

/// Whether tokens are guessed before they are sampled. What is sampled is the same in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculate {
    /// Never.
    Off,
    /// As long as it is faster, as measured on every line.
    #[default]
    On,
    /// Wherever something can be guessed, even when that is slower: for tests and measurements.
    Always,
}

impl From<bool> for Speculate {
    fn from(on: bool) -> Speculate {
        if on { Speculate::On } else { Speculate::Off }
    }
}

/// How many tokens were guessed since the model was opened. A guess that is right spares its successor a computation of
/// its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guesses {
    /// Those that a line had said before after the same tokens, and that were computed.
    pub looked_up: u64,
    /// Those of them that were right.
    pub looked_up_rightly: u64,
    /// Those that a draft model or the model's predictor made, if there is one, and that were computed.
    pub predicted: u64,
    /// Those of them that were right.
    pub predicted_rightly: u64,
}

impl Guesses {
    /// All that were computed.
    pub fn guessed(&self) -> u64 {
        self.looked_up + self.predicted
    }

    /// All that were right.
    pub fn accepted(&self) -> u64 {
        self.looked_up_rightly + self.predicted_rightly
    }

    /// Those since `before`.
    pub(crate) fn since(&self, before: &Guesses) -> Guesses {
        Guesses {
            looked_up: self.looked_up - before.looked_up,
            looked_up_rightly: self.looked_up_rightly - before.looked_up_rightly,
            predicted: self.predicted - before.predicted,
            predicted_rightly: self.predicted_rightly - before.predicted_rightly,
        }
    }
}

/// The same while it is counted, by the worker and for whoever looks: guessed and accepted, looked up and predicted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    looked_up: [AtomicU64; 2],
    predicted: [AtomicU64; 2],
}

impl Counts {
    fn of(&self, origin: Origin) -> &[AtomicU64; 2] {
        if origin.is_predicted() { &self.predicted } else { &self.looked_up }
    }

    pub(crate) fn guessed(&self, origin: Origin, tokens: usize) {
        self.of(origin)[0].fetch_add(tokens as u64, Ordering::Relaxed);
    }

    pub(crate) fn accepted(&self, origin: Origin) {
        self.of(origin)[1].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Guesses {
        let read = |counts: &[AtomicU64; 2], i: usize| counts[i].load(Ordering::Relaxed);
        Guesses {
            looked_up: read(&self.looked_up, 0),
            looked_up_rightly: read(&self.looked_up, 1),
            predicted: read(&self.predicted, 0),
            predicted_rightly: read(&self.predicted, 1),
        }
    }
}

/// The most tokens that are guessed at once. Even of a line that repeats itself more are seldom right, and their logits
/// take memory.
pub(crate) const GUESSES_MAX: usize = 15;

/// The most tokens that are predicted at once, by a predictor or a draft model. A predictor was trained to look one token
/// ahead; of what it makes of its own guesses less and less is right.
pub(crate) const PREDICTIONS_MAX: usize = 4;

/// Where guesses come from, by what can be expected of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An earlier place in the line where its last two tokens stand.
    Pair,
    /// One where a few more stand.
    Phrase,
    /// One where many stand: the line repeats itself.
    Passage,
    /// The predictor or a draft model, shown what the line says.
    Predictor,
    /// The same, shown its own guess.
    Further,
}

const ORIGINS: usize = 5;

impl Origin {
    /// Whether a model makes such guesses, which costs time.
    pub(crate) fn is_predicted(self) -> bool {
        match self {
            Origin::Predictor | Origin::Further => true,
            Origin::Pair | Origin::Phrase | Origin::Passage => false,
        }
    }

    /// Where the guesses after the first come from.
    pub(crate) fn next(self) -> Origin {
        if self.is_predicted() { Origin::Further } else { self }
    }
}

/// Tokens that may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guess {
    /// Of the first; see [`Origin::next`].
    pub(crate) origin: Origin,
    pub(crate) tokens: Vec<Token>,
}

/// The shortest common past of two places that is worth a guess.
const PAST_MIN: usize = 2;
/// From so many tokens on, the common past is a phrase or a passage.
const PHRASE: usize = 3;
const PASSAGE: usize = 8;
/// A longer common past says nothing more.
const PAST_MAX: usize = 24;
/// How far back is looked for an earlier place: in that much time, few tokens are computed on any machine.
const LOOKUP_TOKENS_MAX: usize = 1 << 17;

/// Looks where in the line its last tokens stood before, and guesses that the same follows: of several places the one
/// with the longest common past, and of these the last.
pub(crate) fn look_back(line: &[Token], most: usize) -> Option<Guess> {
    let line = &line[line.len().saturating_sub(LOOKUP_TOKENS_MAX)..];
    let (&last, before) = line.split_last()?;
    let mut best = (PAST_MIN - 1, 0);
    for (i, &token) in before.iter().enumerate().rev() {
        if token != last {
            continue;
        }
        let (here, now) = (line[..i].iter().rev(), before.iter().rev());
        let past = 1 + here.zip(now).take(PAST_MAX - 1).take_while(|(a, b)| a == b).count();
        if past > best.0 {
            best = (past, i);
        }
        if past == PAST_MAX {
            break;
        }
    }
    let (past, place) = best;
    if past < PAST_MIN || most == 0 {
        return None;
    }
    let origin = match past {
        ..PHRASE => Origin::Pair,
        PHRASE..PASSAGE => Origin::Phrase,
        PASSAGE.. => Origin::Passage,
    };
    // What follows the place may reach the line's end; then it goes round once more.
    let tokens = line[place + 1..].iter().copied().cycle().take(most).collect();
    Some(Guess { origin, tokens })
}

/// What it costs to compute several tokens at once, as measured: relative to one, because what one costs depends on
/// how long its line is.
pub(crate) struct Costs {
    /// By the number of tokens; those of which nothing is known are not there yet.
    relative: [Option<f64>; TOGETHER_MAX + 1],
    /// What it costs to have one token predicted, if that is known.
    prediction: Option<f64>,
}

/// The most tokens whose cost is kept: the guesses after those that must be computed in any case.
const TOGETHER_MAX: usize = 2 * (GUESSES_MAX + 1);
/// What one more token, or a prediction, is thought to cost as long as none was tried.
const MORE: f64 = 0.3;
/// How much a new measurement counts beside those before.
const NEW: f64 = 1.0 / 8.0;

impl Default for Costs {
    fn default() -> Costs {
        let mut relative = [None; TOGETHER_MAX + 1];
        relative[1] = Some(1.0);
        Costs { relative, prediction: None }
    }
}

impl Costs {
    /// What so many tokens cost at once: what was measured, or what lies between what was.
    fn of(&self, tokens: usize) -> f64 {
        let known = |n: usize| self.relative.get(n).copied().flatten().map(|cost| (n, cost));
        let below = (1..=tokens).rev().find_map(known);
        let (n, cost) = below.expect("one token costs as much as one");
        let more = match (tokens + 1..=TOGETHER_MAX).find_map(known) {
            Some((m, dearer)) => (dearer - cost) / (m - n) as f64,
            None => MORE,
        };
        cost + more * (tokens - n) as f64
    }

    /// What it costs to make so many guesses of this origin.
    fn of_making(&self, origin: Origin, guesses: usize) -> f64 {
        if origin.is_predicted() { self.prediction.unwrap_or(MORE) * guesses as f64 } else { 0.0 }
    }

    /// Takes in that it took `seconds` to have `tokens` predicted on a line where computing one takes `single`.
    pub(crate) fn learn_prediction(&mut self, tokens: usize, seconds: f64, single: f64) {
        if tokens > 0 && single > 0.0 {
            let cost = seconds / single / tokens as f64;
            let known = self.prediction.get_or_insert(cost);
            *known += NEW * (cost - *known);
        }
    }

    /// Takes in that computing `tokens` took `seconds` on a line where one takes `single`.
    pub(crate) fn learn(&mut self, tokens: usize, seconds: f64, single: f64) {
        if (2..=TOGETHER_MAX).contains(&tokens) && single > 0.0 {
            let cost = seconds / single;
            let known = self.relative[tokens].get_or_insert(cost);
            *known += NEW * (cost - *known);
        }
    }
}

/// What a line has seen of guesses.
#[derive(Clone)]
pub(crate) struct Trust {
    seen: [Seen; ORIGINS],
    /// What one token takes, in seconds. 0 before the first.
    single: f64,
    /// How many tokens were computed alone.
    alone: u32,
    /// How often may still be guessed before one is.
    until_alone: u32,
}

/// What a line has seen of the guesses of one origin.
#[derive(Clone, Copy)]
struct Seen {
    /// How likely a guess is right if those before it were.
    rate: f64,
    /// How many more occasions are let pass before a guess is tried that seems not to pay.
    wait: u32,
    /// How many are let pass the next time.
    pause: u32,
    /// Whether the last guess was right.
    right: bool,
}

/// How many occasions are let pass at first, and at most. A try costs less than a token, so that tries that are all
/// in vain cost less than one per cent in the long run.
const PAUSE_MIN: u32 = 8;
const PAUSE_MAX: u32 = 128;
/// How many tokens are computed alone before the first guess, and after how many guesses the next one: without that nobody
/// could say what guesses save, where they are always made.
const ALONE_MIN: u32 = 3;
const ALONE_EVERY: u32 = 64;
/// By how much guesses must promise to be faster: less would be lost in what cannot be measured.
const GAIN_MIN: f64 = 1.03;

impl Default for Trust {
    fn default() -> Trust {
        let seen = |rate| Seen { rate, wait: PAUSE_MIN, pause: PAUSE_MIN, right: false };
        Trust {
            seen: [seen(0.3), seen(0.5), seen(0.7), seen(0.7), seen(0.5)],
            single: 0.0,
            alone: 0,
            until_alone: 0,
        }
    }
}

/// What there is to guess, and under what circumstances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance {
    pub(crate) origin: Origin,
    /// How many tokens could be guessed.
    pub(crate) most: usize,
    /// How many must be computed in any case.
    pub(crate) due: usize,
    /// How many of other lines are computed in the same pass.
    pub(crate) beside: usize,
    /// Whether accepted guesses are computed again after one that was wrong.
    pub(crate) redo: bool,
}

/// What guesses promise.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Promise {
    /// How many of them.
    guesses: usize,
    /// How much faster the line gets on with them.
    gain: f64,
}

impl Promise {
    /// What none promise.
    const NOTHING: Promise = Promise { guesses: 0, gain: 1.0 };
}

impl Trust {
    /// Which of two ways to guess is worth it, and how many tokens, if either is.
    pub(crate) fn choose(
        &mut self,
        costs: &Costs,
        lookup: Option<Chance>,
        prediction: Option<Chance>,
    ) -> Option<(Origin, usize)> {
        self.until_alone = self.until_alone.checked_sub(1)?;
        let promise = |chance: Option<Chance>| chance.map_or(Promise::NOTHING, |c| self.promise(costs, c));
        let (said, predicted) = (promise(lookup), promise(prediction));
        let (chance, best) =
            if predicted.gain > said.gain { (prediction, predicted) } else { (lookup, said) };
        if let Some(Chance { origin, most, .. }) = chance.filter(|_| best.guesses > 0) {
            // A predictor that seems to see no farther is tried with one more now and then.
            let further = Chance { origin: Origin::Further, most: most - best.guesses, ..chance? };
            let more = origin.is_predicted() && self.dares(costs, further);
            return Some((origin, best.guesses + usize::from(more)));
        }
        let tried = lookup.into_iter().chain(prediction).find(|&chance| self.dares(costs, chance));
        tried.map(|chance| (chance.origin, 1))
    }

    /// The number of guesses that promises most, which may be none.
    fn promise(&self, costs: &Costs, chance: Chance) -> Promise {
        let rate = |origin: Origin| self.seen[origin as usize].rate;
        promise(costs, chance, [rate(chance.origin), rate(chance.origin.next())])
    }

    /// Whether a guess is tried that seems not to pay: now and then, and at once where the line may have begun to say what
    /// is guessed. It counts as one occasion.
    fn dares(&mut self, costs: &Costs, chance: Chance) -> bool {
        if chance.most == 0 {
            return false;
        }
        let seen = &mut self.seen[chance.origin as usize];
        if seen.right && promise(costs, chance, [1.0; 2]).guesses > 0 {
            seen.pause = PAUSE_MIN;
            return true;
        }
        if seen.wait > 0 {
            seen.wait -= 1;
            return false;
        }
        seen.wait = seen.pause;
        seen.pause = (2 * seen.pause).min(PAUSE_MAX);
        true
    }

    /// Takes in whether a guess was right.
    pub(crate) fn learn(&mut self, origin: Origin, right: bool) {
        let seen = &mut self.seen[origin as usize];
        seen.rate += NEW * (f64::from(u8::from(right)) - seen.rate);
        seen.right = right;
    }

    /// Takes in that computing one token took so many seconds.
    pub(crate) fn learn_single(&mut self, seconds: f64) {
        self.alone += 1;
        self.single += NEW.max(1.0 / f64::from(self.alone)) * (seconds - self.single);
        self.until_alone = if self.alone < ALONE_MIN { 0 } else { ALONE_EVERY };
    }

    /// What one token takes, in seconds; 0 if that is not known yet.
    pub(crate) fn single(&self) -> f64 {
        self.single
    }
}

/// What guesses promise if the first is right at one rate, and each that follows a right one at another.
fn promise(costs: &Costs, chance: Chance, [first, next]: [f64; 2]) -> Promise {
    let Chance { origin, most, due, beside, redo } = chance;
    let base = costs.of(beside + due);
    let mut best = Promise { gain: GAIN_MIN, ..Promise::NOTHING };
    // Tokens that are gained, on average, and how likely all guesses are right.
    let (mut tokens, mut all) = (1.0, 1.0);
    for guesses in 1..=most {
        all *= if guesses == 1 { first } else { next };
        tokens += all;
        // About half of the guesses are computed again when one was wrong.
        let again = if redo { (1.0 - all) * (costs.of(2 + guesses / 2) - costs.of(1)) } else { 0.0 };
        let cost = costs.of(beside + due + guesses) + costs.of_making(origin, guesses) + again;
        // What all lines of the pass get out of it, who all wait for its end.
        let gain = (beside as f64 + tokens) / (beside as f64 + 1.0) * base / cost;
        if gain > best.gain {
            best = Promise { guesses, gain };
        }
    }
    if best.guesses == 0 { Promise::NOTHING } else { best }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_repeats_itself_is_guessed() {
        let check = |line: &[Token], most: usize, expected: Option<(Origin, &[Token])>| {
            let expected = expected.map(|(origin, tokens)| Guess { origin, tokens: tokens.to_vec() });
            assert_eq!(look_back(line, most), expected, "{line:?}");
        };
        check(&[], 3, None);
        check(&[1], 3, None);
        check(&[1, 2, 3, 2], 3, None);
        check(&[1, 2, 3, 4, 1, 2], 2, Some((Origin::Pair, &[3, 4])));
        check(&[1, 2, 3, 4, 1, 2], 0, None);
        // The last of two places, but the one with the longer past before it.
        check(&[1, 2, 3, 1, 2, 4, 1, 2], 1, Some((Origin::Pair, &[4])));
        check(&[9, 1, 2, 3, 1, 2, 4, 9, 1, 2], 1, Some((Origin::Phrase, &[3])));
        // What goes round in a circle is guessed to go on so.
        check(&[1, 1, 1], 3, Some((Origin::Pair, &[1, 1, 1])));
        check(&[5, 6, 5, 6, 5, 6], 5, Some((Origin::Phrase, &[5, 6, 5, 6, 5])));
        let twice: Vec<Token> = (0..20).chain(0..12).collect();
        check(&twice, 4, Some((Origin::Passage, &[12, 13, 14, 15])));
    }

    /// Costs of which everything is known: 1, then `more` for each further token.
    fn costs(more: f64) -> Costs {
        let mut costs = Costs::default();
        (2..=TOGETHER_MAX).for_each(|n| costs.learn(n, 1.0 + more * (n - 1) as f64, 1.0));
        costs
    }

    fn chance(origin: Origin, redo: bool) -> Chance {
        let most = if origin.is_predicted() { PREDICTIONS_MAX } else { GUESSES_MAX };
        Chance { origin, most, due: 1, beside: 0, redo }
    }

    /// How many guesses are made on 1,000 occasions if that share of them is right.
    fn tried(costs: &Costs, origin: Origin, right: impl Fn(usize) -> bool) -> usize {
        let mut trust = Trust::default();
        let mut tried = 0;
        for i in 0..1000 {
            let chance = chance(origin, false);
            let guesses = match trust.promise(costs, chance).guesses {
                0 => usize::from(trust.dares(costs, chance)),
                guesses => guesses,
            };
            tried += guesses;
            for n in 0..guesses {
                trust.learn(if n == 0 { origin } else { origin.next() }, right(i));
                if !right(i) {
                    break;
                }
            }
        }
        tried
    }

    #[test]
    fn guesses_that_do_not_pay_are_left() {
        // Always wrong: a few at first, then one now and then.
        assert!(tried(&costs(0.2), Origin::Phrase, |_| false) < 40);
        // Always right, but computing two at once takes as long as one after the other.
        assert!(tried(&costs(1.0), Origin::Phrase, |_| true) < 200);
        // Always right.
        assert!(tried(&costs(0.2), Origin::Phrase, |_| true) > 13_000);
        // A line that begins to repeat itself late is noticed.
        let late = tried(&costs(0.2), Origin::Phrase, |i| i >= 500);
        assert!(late > 5000, "{late}");
    }

    #[test]
    fn the_cheaper_guesses_are_the_more_are_made() {
        let worth = |rate: f64, more: f64, redo: bool| {
            promise(&costs(more), chance(Origin::Phrase, redo), [rate; 2]).guesses
        };
        assert_eq!([worth(0.95, 0.02, false), worth(0.9, 0.9, false)], [GUESSES_MAX, 0]);
        assert!((1..5).contains(&worth(0.6, 0.2, false)));
        assert!(worth(0.6, 0.4, true) < worth(0.6, 0.4, false), "what must be computed again counts");
        assert_eq!(worth(0.0, 0.1, false), 0);
    }

    #[test]
    fn what_a_prediction_costs_counts() {
        let promised = |prediction: f64, rates: [f64; 2]| {
            let mut costs = costs(0.2);
            costs.learn_prediction(2, 2.0 * prediction, 1.0);
            promise(&costs, chance(Origin::Predictor, false), rates)
        };
        assert_eq!(promised(0.05, [0.9, 0.9]).guesses, PREDICTIONS_MAX);
        assert_eq!(promised(0.05, [0.9, 0.1]).guesses, 1, "what it makes of its own guesses is seldom right");
        assert_eq!(promised(0.8, [0.9, 0.9]), Promise::NOTHING);
        assert!(promised(0.05, [0.9, 0.1]).gain > promised(0.2, [0.9, 0.1]).gain);
        let mut costs = costs(0.2);
        costs.learn_prediction(1, 0.05, 1.0);
        assert!(tried(&costs, Origin::Predictor, |_| true) > 3900);
        assert!(tried(&costs, Origin::Predictor, |_| false) < 40);
    }

    #[test]
    fn of_two_ways_to_guess_the_better_is_taken() {
        let mut costs = costs(0.2);
        costs.learn_prediction(1, 0.05, 1.0);
        let mut trust = Trust::default();
        let choose = |trust: &mut Trust, lookup: Origin| {
            trust.choose(&costs, Some(chance(lookup, false)), Some(chance(Origin::Predictor, false)))
        };
        for _ in 0..ALONE_MIN {
            assert_eq!(choose(&mut trust, Origin::Passage), None, "what one token costs is not known yet");
            trust.learn_single(1.0);
        }
        (0..50).for_each(|_| trust.learn(Origin::Predictor, true));
        assert!(matches!(choose(&mut trust, Origin::Pair), Some((Origin::Predictor, 1..))));
        (0..50).for_each(|_| trust.learn(Origin::Passage, true));
        assert_eq!(choose(&mut trust, Origin::Passage), Some((Origin::Passage, GUESSES_MAX)));
        (0..50).for_each(|_| trust.learn(Origin::Predictor, false));
        assert_eq!(choose(&mut trust, Origin::Passage), Some((Origin::Passage, GUESSES_MAX)));
        let alone = (0..1000).filter(|_| choose(&mut trust, Origin::Passage).is_none()).count();
        assert!(alone > 900, "nothing is guessed until one more was computed alone: {alone}");
        trust.learn_single(1.0);
        assert!(choose(&mut trust, Origin::Passage).is_some());
    }

    #[test]
    fn costs_are_what_was_measured() {
        let mut costs = Costs::default();
        assert!((costs.of(4) - 1.9).abs() < 1e-9, "a guess before anything is known");
        costs.learn(2, 3.0, 2.0);
        costs.learn(5, 6.0, 2.0);
        for (tokens, expected) in [(2, 1.5), (3, 2.0), (4, 2.5), (5, 3.0), (6, 3.3)] {
            assert!((costs.of(tokens) - expected).abs() < 1e-9, "{tokens}");
        }
        costs.learn(500, 1.0, 1.0);
        costs.learn(2, 1.0, 0.0);
        assert!((costs.of(2) - 1.5).abs() < 1e-9, "what cannot be compared is left out");
        (0..100).for_each(|_| costs.learn(2, 4.0, 2.0));
        assert!((costs.of(2) - 2.0).abs() < 1e-3);
    }
}

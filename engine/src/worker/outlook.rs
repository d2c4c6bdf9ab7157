//! What a line has of its model's predictor: the rows that it keeps of the line, and what it is still to be shown.
//!
//! A predictor goes on with a token when the next one is known, and may go on later, with several at once. Until then what
//! it is to be shown of them is kept here: what the model said of each token that is computed.
//!
//! Where a line goes on from what another one computed, nobody has what the predictor would have been shown of that, and
//! it takes up the line there: it guesses from a shorter past, though what it is shown of a token was made of the whole line.

use std::sync::Arc;

use crate::Token;
use crate::cache::{Cache, Layout};
use crate::model::{Predictor, Scratch, Want};

/// How a line looks ahead.
#[derive(Clone)]
pub(super) struct Outlook {
    /// How many of the line's first tokens it never saw.
    unseen: usize,
    /// A row for each of the tokens after those, up to the last that it has gone on with.
    cache: Cache,
    /// What the predictor is to be shown of the tokens after that one: [tokens, `row`].
    seen: Vec<f32>,
    row: usize,
}

/// As many tokens may wait to be gone on with. Together they cost little more than one; each takes as much memory as the
/// residual streams have.
const WAITING_MAX: usize = 32;

impl Outlook {
    pub(super) fn new(predictor: &Predictor, layout: &Arc<Layout>) -> Outlook {
        let cache = Cache::new(Arc::clone(layout));
        Outlook { unseen: 0, cache, seen: Vec::new(), row: predictor.seen_numbers() }
    }

    /// How many of the line's first tokens need not be computed for it: it was shown them, or is to be, or takes up the line
    /// after them.
    pub(super) fn tokens(&self) -> usize {
        self.rows() + self.seen.len() / self.row
    }

    /// Those that it has gone on with, or never will.
    fn rows(&self) -> usize {
        self.unseen + self.cache.tokens()
    }

    /// Takes up the line after so many tokens.
    pub(super) fn take_up(&mut self, tokens: usize) {
        self.unseen = tokens;
        self.cache.truncate(0);
        self.seen.clear();
    }

    /// Takes in what the model said of the tokens from number `first` on.
    pub(super) fn take(&mut self, first: usize, shown: &[f32]) {
        let known = self.tokens().checked_sub(first).expect("no token of the line is left out");
        // What is computed again is the same.
        self.seen.extend_from_slice(shown.get(known * self.row..).unwrap_or_default());
    }

    /// Forgets what is known of the line behind its first `tokens`, and before that what cannot be kept without the rest:
    /// see [`Outlook::tokens`] for what is left.
    pub(super) fn cut(&mut self, tokens: usize) {
        if tokens <= self.unseen {
            self.take_up(tokens);
            return;
        }
        let rows = self.rows();
        self.cache.truncate(tokens - 1 - self.unseen);
        if self.rows() < rows {
            self.seen.clear();
        } else {
            self.seen.truncate(tokens.saturating_sub(rows) * self.row);
        }
    }

    /// Goes on with the tokens whose successors are in `line`, if there are many of them.
    pub(super) fn follow(&mut self, predictor: &Predictor, line: &[Token], scratch: &mut Scratch) {
        if self.seen.len() > WAITING_MAX * self.row {
            self.go_on(predictor, line, Want::None, scratch);
        }
    }

    /// Whether the predictor can be asked what follows `line`.
    pub(super) fn reaches(&self, line: &[Token]) -> bool {
        // The row of the last token but one is made with the last.
        self.rows() + 1 < line.len() && line.len() <= self.tokens() + 1
    }

    /// What the predictor guesses to follow `line`, which it reaches: so many tokens.
    pub(super) fn predict(
        &mut self,
        predictor: &Predictor,
        line: &[Token],
        count: usize,
        scratch: &mut Scratch,
    ) -> Vec<Token> {
        assert!(self.reaches(line) && count > 0);
        let logits = self.go_on(predictor, line, Want::Last(1), scratch);
        let mut guesses = vec![likeliest(&logits)];
        // From here on it is shown what itself said, of tokens that nobody has said yet.
        let said = self.cache.tokens();
        self.cache.hold();
        let mut shown = Vec::new();
        while guesses.len() < count {
            predictor.shown(scratch, &mut shown);
            let last = [guesses[guesses.len() - 1]];
            let logits = predictor.forward(&mut self.cache, &shown, &last, Want::Last(1), scratch);
            guesses.push(likeliest(&logits));
        }
        self.cache.truncate(said);
        guesses
    }

    /// Goes on with all tokens whose successors are in `line`, and returns what is wanted of the last of them.
    fn go_on(
        &mut self,
        predictor: &Predictor,
        line: &[Token],
        want: Want,
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        let mut logits = Vec::new();
        let end = self.tokens().min(line.len().saturating_sub(1));
        while self.rows() < end {
            let at = self.rows();
            let count = (end - at).min(self.cache.tokens_to_mark());
            let want = if at + count == end { want } else { Want::None };
            let (seen, following) = (&self.seen[..count * self.row], &line[at + 1..][..count]);
            logits = predictor.forward(&mut self.cache, seen, following, want, scratch);
            self.seen.drain(..count * self.row);
        }
        logits
    }
}

/// The token with the largest logit; of equal ones the first.
pub(super) fn likeliest(logits: &[f32]) -> Token {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = token;
        }
    }
    best as Token
}

//! A draft model: a second, smaller model with the same vocabulary, which guesses what the first one says next (Leviathan et
//! al. 2023, "Fast Inference from Transformers via Speculative Decoding", in its greedy form). What is sampled does not
//! depend on it, as with any guess.
//!
//! It reads no more of a line than it needs: where it is far behind, it begins anew a little before the line's end, so that
//! neither a long prompt nor one that was found computed keeps a reply waiting for it.

use std::sync::Arc;

use super::outlook::likeliest;
use crate::cache::{Cache, KvKind, Layout};
use crate::guess::{GUESSES_MAX, PREDICTIONS_MAX};
use crate::model::{Model, Part, Scratch, Want};
use crate::{Error, Token};

/// How many tokens a draft model reads at once to catch up with a line; it begins anew where more are missing.
const BEHIND_MAX: usize = 256;
/// How many of a line's last tokens it begins with.
const BEGIN: usize = 128;
/// The most tokens of a line that it keeps.
const HELD_MAX: usize = 4096;

/// The draft model and what it computes with.
pub(crate) struct Drafter {
    model: Model,
    layout: Arc<Layout>,
    scratch: Scratch,
    /// The most tokens of a line that are kept.
    held_max: usize,
}

/// What a line has of the draft model.
#[derive(Clone)]
pub(super) struct Draft {
    /// How many of the line's first tokens it never saw.
    unseen: usize,
    /// Holds tokens after those.
    cache: Cache,
}

impl Drafter {
    pub(crate) fn new(model: Model, kv: KvKind) -> Drafter {
        let layout = Arc::new(model.cache_layout(kv));
        let held_max = model.spec().context_tokens.min(HELD_MAX);
        Drafter { model, layout, scratch: Scratch::default(), held_max }
    }

    /// What a line's tokens take here: each of them, and all of them at most.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.layout.bytes(1) - self.layout.bytes(0), self.layout.bytes(self.held_max))
    }

    /// Comes so near to the end of `line` that [`Drafter::guess`] has only what a reply just said to read. False if it cannot
    /// guess what follows.
    pub(super) fn follow(&mut self, draft: &mut Option<Draft>, line: &[Token]) -> bool {
        let begin = line.len().saturating_sub(BEGIN.min(self.held_max / 2));
        let far = |draft: &Draft| {
            let held = line.len() - draft.unseen + PREDICTIONS_MAX;
            line.len() - draft.end() > BEHIND_MAX || held > self.held_max
        };
        if draft.as_ref().is_none_or(far) {
            *draft = Some(Draft { unseen: begin, cache: Cache::new(Arc::clone(&self.layout)) });
        }
        let Some(own) = draft else { return false };
        // A larger model's vocabulary may have more rows, which stand for nothing and are hardly ever said.
        if line[own.end()..].iter().any(|&token| token as usize >= self.model.spec().vocabulary) {
            *draft = None;
            return false;
        }
        if line.len() - own.end() > 1 + GUESSES_MAX {
            let read = self.read(own, line, line.len() - 1, Want::None);
            if said(read).is_none() {
                *draft = None;
                return false;
            }
        }
        !line.is_empty()
    }

    /// Guesses `count` tokens that follow `line`, which it follows; each is below `vocabulary`.
    pub(super) fn guess(
        &mut self,
        draft: &mut Option<Draft>,
        line: &[Token],
        count: usize,
        vocabulary: usize,
    ) -> Option<Vec<Token>> {
        let own = draft.as_mut()?;
        let mut line = line.to_vec();
        let said_tokens = line.len();
        for guessed in 0..count {
            let read = self.read(own, &line, line.len(), Want::Last(1));
            let Some(logits) = said(read) else {
                *draft = None;
                return None;
            };
            if guessed == 0 {
                // What follows is of tokens that nobody has said yet.
                own.cache.hold();
            }
            line.push(likeliest(&logits[..vocabulary.min(logits.len())]));
        }
        own.cut(said_tokens);
        Some(line.split_off(said_tokens))
    }

    /// Reads the tokens of `line` up to `end`, and returns what is wanted of the last of them.
    fn read(&mut self, draft: &mut Draft, line: &[Token], end: usize, want: Want) -> Result<Vec<f32>, Error> {
        let Draft { unseen, cache } = draft;
        let mut logits = Vec::new();
        while *unseen + cache.tokens() < end {
            let at = *unseen + cache.tokens();
            let count = (end - at).min(cache.tokens_to_mark());
            let want = if at + count == end { want } else { Want::None };
            let mut part = [Part { cache, line: &line[*unseen..at + count], count, want }];
            logits = self.model.forward(&mut part, &mut self.scratch)?.swap_remove(0);
        }
        Ok(logits)
    }
}

/// What was read; guesses that cannot be made are missed by nobody.
fn said(read: Result<Vec<f32>, Error>) -> Option<Vec<f32>> {
    read.inspect_err(|error| tracing::warn!(%error, "the draft model cannot guess")).ok()
}

impl Draft {
    /// The number of the first token that is not read.
    fn end(&self) -> usize {
        self.unseen + self.cache.tokens()
    }

    /// How many tokens are kept.
    pub(super) fn held(&self) -> usize {
        self.cache.tokens()
    }

    /// Forgets what is known of the line behind its first `tokens`.
    pub(super) fn cut(&mut self, tokens: usize) {
        self.unseen = self.unseen.min(tokens);
        self.cache.truncate(tokens - self.unseen);
    }
}

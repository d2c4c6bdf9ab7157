//! One line of tokens with its KV cache.

use crate::{Error, Grammar, Progress, Sampling, Token};

/// One line of tokens with its KV cache, owned by one caller. Dropping any of its futures is harmless: the
/// work stops within one prefill chunk or one token, and the line goes on saying what [`Timeline::tokens`]
/// says.
pub struct Timeline {}

/// What [`Timeline::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Tokens whose KV was there already.
    pub cached: usize,
    /// Tokens that had to be computed.
    pub computed: usize,
}

impl Timeline {
    /// What the line says now, computed or pending.
    pub fn tokens(&self) -> &[Token] {
        todo!()
    }

    /// Makes the line say exactly `tokens`: keeps the longest common prefix, forgets what was after it and
    /// computes the rest in chunks; `on` hears of every chunk.
    ///
    /// # Errors
    /// [`Error::ContextFull`] and [`Error::NoSuchToken`] come before any work, and leave the line as it was.
    pub async fn sync(&mut self, tokens: &[Token], on: impl FnMut(Progress) + Send) -> Result<Synced, Error> {
        let _ = (tokens, on);
        todo!()
    }

    /// Samples one token after the line's end and appends it. Its own KV is computed by the next call.
    ///
    /// # Errors
    /// [`Error::Empty`] if nothing was synced, [`Error::ContextFull`] if the line has no room,
    /// [`Error::NoChoice`] if no token may follow, [`Error::Grammar`] if the matcher gives up.
    pub async fn next(&mut self, sampling: &Sampling, grammar: Option<&mut Grammar>) -> Result<Token, Error> {
        let _ = (sampling, grammar);
        todo!()
    }

    /// The logits of the token after the line's end, one for each token of the vocabulary.
    ///
    /// # Errors
    /// [`Error::Empty`] if nothing was synced.
    pub async fn logits(&mut self) -> Result<Vec<f32>, Error> {
        todo!()
    }

    /// A second line that says the same and goes its own way from here.
    ///
    /// # Errors
    /// [`Error::Stopped`] only.
    pub async fn fork(&self) -> Result<Timeline, Error> {
        todo!()
    }

    /// Forgets everything after the first `len` tokens; does nothing if the line is not longer.
    ///
    /// # Errors
    /// [`Error::Stopped`] only.
    pub async fn rewind(&mut self, len: usize) -> Result<(), Error> {
        let _ = len;
        todo!()
    }
}

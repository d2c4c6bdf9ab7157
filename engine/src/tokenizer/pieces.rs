//! SentencePiece's byte-pair encoding: of all neighbours that make a piece when they are joined, those that make the
//! piece with the highest score are joined first.
//!
//! There is no list of merges as other vocabularies have it, so that one piece may come about in several ways; among
//! equal scores the leftmost pair is the first. The order is that of SentencePiece's own `bpe_model.cc`.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::Place;
use super::found::Finder;
use crate::Token;

/// What a blank is written as within a piece.
pub(super) const BLANK: &str = "▁";

/// A vocabulary of scored pieces.
pub(super) struct Pieces {
    /// What text can be joined to: the piece's token and its score.
    pub(super) joined: HashMap<String, (Token, f32)>,
    /// Pieces that are looked for before anything is joined, and that nothing is joined to.
    pub(super) found: Option<Finder>,
    /// The token of each byte, for characters that are no piece.
    pub(super) bytes: Box<[Option<Token>; 256]>,
    /// The token for characters that are no piece and have no bytes.
    pub(super) unknown: Option<Token>,
    /// Whether a blank is put before text at the start of a line and after a mark.
    pub(super) prefix: bool,
    /// Whether blanks at either end are dropped and a run of blanks is one.
    pub(super) collapse: bool,
}

/// A stretch of the text that will be one token. A stretch that was joined to the one before it has no length.
struct Stretch {
    from: usize,
    len: usize,
    before: Option<usize>,
    after: Option<usize>,
    found: Option<Token>,
}

/// Two neighbouring stretches that can be joined, and how long they were when that was found.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Pieces {
    /// The tokens of `text`.
    pub(super) fn encode(&self, text: &str, place: Place) -> Vec<Token> {
        let text = self.written(text, place);
        let mut stretches = self.cut(&text);
        self.join(&text, &mut stretches);
        self.spell(&text, &stretches)
    }

    /// The text as pieces are written: with the blank put before it, and blanks as marks.
    fn written(&self, text: &str, place: Place) -> String {
        let mut written = String::with_capacity(text.len() + text.len() / 4 + BLANK.len());
        let text = if self.collapse { text.trim_start_matches(' ') } else { text };
        if text.is_empty() {
            return written;
        }
        if self.prefix && place != Place::AfterText {
            written.push_str(BLANK);
        }
        let mut after_blank = false;
        for character in text.chars() {
            if character != ' ' {
                written.push(character);
            } else if !(self.collapse && after_blank) {
                written.push_str(BLANK);
            }
            after_blank = character == ' ';
        }
        if self.collapse {
            written.truncate(written.trim_end_matches(BLANK).len());
        }
        written
    }

    /// The text as single characters, and the pieces that are found as they are.
    fn cut(&self, text: &str) -> Vec<Stretch> {
        let whole = || vec![(0..text.len(), None)];
        let parts = self.found.as_ref().map_or_else(whole, |finder| finder.stretches(text));
        let mut stretches: Vec<Stretch> = Vec::with_capacity(text.len());
        let mut push = |from, len, found| {
            let at = stretches.len();
            if let Some(last) = stretches.last_mut() {
                last.after = Some(at);
            }
            stretches.push(Stretch { from, len, before: at.checked_sub(1), after: None, found });
        };
        for (range, found) in parts {
            match found {
                Some(_) => push(range.start, range.len(), found),
                None => {
                    for (at, character) in text[range.clone()].char_indices() {
                        push(range.start + at, character.len_utf8(), None);
                    }
                }
            }
        }
        stretches
    }

    fn join(&self, text: &str, stretches: &mut [Stretch]) {
        let mut pairs = BinaryHeap::new();
        for right in 1..stretches.len() {
            pairs.extend(self.pair(text, stretches, Some(right - 1), Some(right)));
        }
        while let Some(Pair { left, right, len, .. }) = pairs.pop() {
            let [one, two] = [&stretches[left], &stretches[right]];
            if one.len == 0 || two.len == 0 || one.len + two.len != len {
                // One of them was joined to something else in the meantime.
                continue;
            }
            let after = two.after;
            stretches[left].len = len;
            stretches[left].after = after;
            stretches[right].len = 0;
            if let Some(after) = after {
                stretches[after].before = Some(left);
            }
            let before = stretches[left].before;
            pairs.extend(self.pair(text, stretches, before, Some(left)));
            pairs.extend(self.pair(text, stretches, Some(left), after));
        }
    }

    /// The pair of these two neighbours, if there are two and they make a piece.
    fn pair(
        &self,
        text: &str,
        stretches: &[Stretch],
        left: Option<usize>,
        right: Option<usize>,
    ) -> Option<Pair> {
        let (left, right) = (left?, right?);
        let [one, two] = [&stretches[left], &stretches[right]];
        if one.found.is_some() || two.found.is_some() {
            return None;
        }
        let len = one.len + two.len;
        let &(_, score) = self.joined.get(&text[one.from..one.from + len])?;
        Some(Pair { score, left, right, len })
    }

    fn spell(&self, text: &str, stretches: &[Stretch]) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut after_unknown = false;
        for stretch in stretches.iter().filter(|stretch| stretch.len > 0) {
            let word = &text[stretch.from..stretch.from + stretch.len];
            let token = stretch.found.or_else(|| self.joined.get(word).map(|&(token, _)| token));
            let bytes = || word.bytes().map(|byte| self.bytes[usize::from(byte)]).collect::<Option<Vec<_>>>();
            let known = token.map(|token| vec![token]).or_else(bytes);
            match &known {
                Some(known) => tokens.extend(known),
                // A run of unknown characters is one unknown token.
                None if after_unknown => {}
                None => tokens.extend(self.unknown),
            }
            after_unknown = known.is_none();
        }
        tokens
    }
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        // A pair found when one of its sides was shorter may still be about; it is dropped when its turn comes.
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

/// The byte that an entry like `<0x0A>` stands for.
pub(super) fn byte(entry: &str) -> Option<u8> {
    let digits = entry.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The bytes a piece stands for: itself, with blanks for their marks.
pub(super) fn spelled(piece: &str) -> Vec<u8> {
    piece.replace(BLANK, " ").into_bytes()
}

//! Byte-pair encoding by a list of merges, through the `tokenizers` crate: what byte-level vocabularies and every
//! `tokenizer.json` have.

use tokenizers::models::bpe::BPE;
use tokenizers::tokenizer::normalizer::Range;
use tokenizers::tokenizer::{Model, NormalizedString, Normalizer, PreTokenizer};
use tokenizers::{NormalizerWrapper, OffsetType, PreTokenizedString, PreTokenizerWrapper};

use super::Place;
use super::found::Finder;
use crate::Token;

/// A vocabulary with its merges and what happens to text before them.
pub(super) struct Merges {
    pub(super) model: BPE,
    /// The steps at the start of a line.
    pub(super) steps: Steps,
    /// Those that put no blank before the text, for vocabularies whose steps else put one there.
    pub(super) bare: Option<Steps>,
    /// Whether text after a mark is as at the start of a line.
    pub(super) marks_start_lines: bool,
    /// Text that is a token before any step is taken, and before the text is cut into words.
    pub(super) found: [Option<Finder>; 2],
}

/// What happens to text before pairs are merged.
pub(super) struct Steps {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pretokenizer: Option<PreTokenizerWrapper>,
}

impl Merges {
    /// The tokens of `text`.
    pub(super) fn encode(&self, text: &str, place: Place) -> tokenizers::Result<Vec<Token>> {
        let full = match place {
            Place::Start => true,
            Place::AfterMark => self.marks_start_lines,
            Place::AfterText => false,
        };
        let steps = if full { &self.steps } else { self.bare.as_ref().unwrap_or(&self.steps) };

        let [raw, normalized] = &self.found;
        let mut pieces = PreTokenizedString::from(text);
        if let Some(finder) = raw {
            pieces.split(|_, text| cut(finder, &text))?;
        }
        if let Some(normalizer) = &steps.normalizer {
            pieces.normalize(|text| normalizer.normalize(text))?;
        }
        if let Some(finder) = normalized {
            pieces.split(|_, text| cut(finder, &text))?;
        }
        if let Some(pretokenizer) = &steps.pretokenizer {
            pretokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
        Ok(encoding.get_ids().to_vec())
    }
}

type Cut = (NormalizedString, Option<Vec<tokenizers::Token>>);

/// The text in parts: those that are a token already, and those that are not.
fn cut(finder: &Finder, text: &NormalizedString) -> tokenizers::Result<Vec<Cut>> {
    finder
        .stretches(text.get())
        .into_iter()
        .map(|(range, found)| {
            let len = range.len();
            let part = text.slice(Range::Normalized(range)).ok_or("a name ends within a character")?;
            let token = found.map(|id| vec![tokenizers::Token::new(id, part.get().to_owned(), (0, len))]);
            Ok((part, token))
        })
        .collect()
}

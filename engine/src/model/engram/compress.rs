//! Which tokens read alike: Engram's tables see `The`, ` the` and `THE` as one word, so that one row serves all three.
//!
//! The classes are part of a trained model: each multiplier of its hash is drawn from a range that depends on how many
//! classes there are, and one class more or less would send every n-gram to another row. So the rules here are those
//! of the published demo (arXiv 2601.07372) to the letter, with its Unicode steps taken from the library it took them
//! from.

use std::collections::HashMap;

use tokenizers::normalizers::StripAccents;
use tokenizers::tokenizer::{NormalizedString, Normalizer};

use crate::{Token, Tokenizer};

/// The class of each token of a vocabulary.
#[derive(Debug)]
pub(crate) struct Classes {
    of: Vec<u32>,
    count: u32,
}

impl Classes {
    /// Sorts a vocabulary into classes, numbered as they are first met.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Classes {
        let mut classes = HashMap::new();
        let mut of = Vec::with_capacity(tokenizer.vocabulary());
        for token in 0..tokenizer.vocabulary() as Token {
            // A row that pads the vocabulary stands for nothing, is never met in a text and makes no class.
            if tokenizer.bytes(token).is_empty() {
                of.push(0);
                continue;
            }
            let next = classes.len() as u32;
            of.push(*classes.entry(key(tokenizer, token)).or_insert(next));
        }
        Classes { of, count: classes.len() as u32 }
    }

    /// The classes a file brings along, one for each token.
    pub(crate) fn given(of: Vec<u32>) -> Classes {
        let count = of.iter().max().map_or(0, |&last| last.saturating_add(1));
        Classes { of, count }
    }

    /// The class of `token`; nothing outside of the vocabulary.
    pub(crate) fn class(&self, token: Token) -> Option<u32> {
        self.of.get(token as usize).copied()
    }

    /// How many classes there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

/// What tokens of one class have in common.
fn key(tokenizer: &Tokenizer, token: Token) -> String {
    let text = tokenizer.decode(&[token]);
    if text.contains(char::REPLACEMENT_CHARACTER) {
        // A part of a character reads like nothing. It is known by the spelling of its bytes, which can be the
        // reading of another token: the byte F0 is spelled `ð`. The demo has them share a class, and so do we.
        return tokenizer.spelling(token);
    }
    let reading = reading(&text);
    if reading.is_empty() { text } else { reading }
}

/// A private character, which the demo puts in a lone blank's place while blanks are trimmed, and turns into a blank
/// at the end wherever it stands.
const LONE_BLANK: char = '\u{e000}';

/// `text` without what does not change how it reads: case, accents, the width of letters, the number of blanks and
/// those at its ends. Empty where nothing else is left.
fn reading(text: &str) -> String {
    let folded = if text.is_ascii() { text.to_ascii_lowercase() } else { folded(text) };
    let mut spaced = String::with_capacity(folded.len());
    let mut blanks = false;
    for c in folded.chars() {
        let blank = matches!(c, ' ' | '\t' | '\r' | '\n');
        if !blank {
            spaced.push(c);
        } else if !blanks {
            spaced.push(' ');
        }
        blanks = blank;
    }
    if spaced == " " {
        return spaced;
    }
    spaced.trim().replace(LONE_BLANK, " ")
}

/// Compatible characters made one (NFKC), accents split off (NFD) and dropped, letters made small.
fn folded(text: &str) -> String {
    let mut text = NormalizedString::from(text);
    text.nfkc().nfd();
    StripAccents.normalize(&mut text).expect("dropping characters does not fail");
    text.lowercase();
    text.get().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;
    use crate::tokenizer::tests::spelled;

    #[test]
    fn tokens_that_read_alike_are_one_class() {
        // Each rule with the case that would break it.
        let cases = [
            "The",
            " the",
            "THE",
            "  the\n", // case and blanks at the ends
            "é",
            "É",
            "e\u{301}",
            "e", // accents, joined or not
            "ｅ",
            "Ⅳ",
            "iv",
            "ﬁ",
            "fi", // compatible letters
            "İ",
            "i",
            "ß",
            "ẞ",
            "ς",
            "σ",
            "Σ", // small letters, one by one: no word knows its end
            " ",
            "\n",
            " \t\r\n ", // nothing but blanks: one blank
            "\u{b}",
            "\u{c}",
            "\u{2028}",
            "\u{3000}", // blanks of other kinds: trimmed away, or made a blank
            "\u{301}",  // nothing but an accent
            "a  b",
            "a b",
            "a\u{a0}b",
            "a\u{e000}",
            "\u{e000}",
        ];
        let readings: Vec<String> =
            cases.iter().map(|text| format!("{text:?} → {:?}", reading(text))).collect();
        expect![[r#"
            "The" → "the"
            " the" → "the"
            "THE" → "the"
            "  the\n" → "the"
            "é" → "e"
            "É" → "e"
            "e\u{301}" → "e"
            "e" → "e"
            "ｅ" → "e"
            "Ⅳ" → "iv"
            "iv" → "iv"
            "ﬁ" → "fi"
            "fi" → "fi"
            "İ" → "i"
            "i" → "i"
            "ß" → "ß"
            "ẞ" → "ß"
            "ς" → "ς"
            "σ" → "σ"
            "Σ" → "σ"
            " " → " "
            "\n" → " "
            " \t\r\n " → " "
            "\u{b}" → ""
            "\u{c}" → ""
            "\u{2028}" → ""
            "\u{3000}" → " "
            "\u{301}" → ""
            "a  b" → "a b"
            "a b" → "a b"
            "a\u{a0}b" → "a b"
            "a\u{e000}" → "a "
            "\u{e000}" → " "
        "#]]
        .assert_eq(&(readings.join("\n") + "\n"));
    }

    #[test]
    fn a_piece_of_a_character_is_known_by_its_bytes() {
        // `ð` is how byte-level vocabularies spell F0, and it is a letter of its own: the demo counts both once.
        let tokenizer = spelled(&["ð", "Ã°", "ñ", "ÃĲ", "x", "ÿþ"]);
        assert_eq!(tokenizer.decode(&[1, 3]), "ðÐ");
        let classes = Classes::of(&tokenizer);
        let of: Vec<_> = (0..7).map(|token| classes.class(token)).collect();
        assert_eq!(of, [Some(0), Some(0), Some(1), Some(0), Some(2), Some(3), None]);
        assert_eq!(classes.count(), 4);
    }

    #[test]
    #[ignore = "needs DeepSeek's tokenizer.json, which is too large to keep here; run by `just deepseek`, and by the gate"]
    fn deepseeks_vocabulary_has_the_published_number_of_classes() {
        // `engram_compressed_vocab_size` of V4.1: one class more or less and every row is another.
        let path = std::env::var_os("SAGA_DEEPSEEK_TOKENIZER").expect("SAGA_DEEPSEEK_TOKENIZER names a file");
        let tokenizer = Tokenizer::from_json(Path::new(&path)).unwrap();
        let classes = Classes::of(&tokenizer);
        assert_eq!(classes.count(), 99_092);
        for case in crate::model::engram::hash::tests::published().cases {
            let found: Vec<_> = case.ids.iter().map(|&token| classes.class(token).unwrap()).collect();
            assert_eq!(found, case.compressed, "{}", case.text);
            assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{}", case.text);
        }
    }
}

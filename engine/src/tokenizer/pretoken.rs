//! How text is cut into words before byte pairs are merged: one recipe for each pre-tokenizer a GGUF file can name.
//!
//! A token never crosses a cut, so a wrong recipe still gives tokens, only not those the model was trained on. The
//! recipes are those of the models' published `tokenizer.json` files.

use std::collections::HashMap;
use std::sync::LazyLock;

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

/// One way to cut text.
pub(super) struct Recipe {
    /// The names GGUF files know it by.
    names: &'static [&'static str],
    /// Whether text is brought to Unicode's composed form first.
    compose: bool,
    /// Whether a word that is a token as a whole is taken as it is, without merging up to it.
    pub(super) whole_words: bool,
    cuts: &'static [Cut],
}

enum Cut {
    /// Every match of the pattern is a word, and so is what lies between two matches.
    Pattern(&'static str),
    /// Every digit is a word.
    Digits,
    /// GPT-2's own pattern.
    Gpt2,
}

// Contractions, words with at most one sign before them, numbers, signs, line ends, and blanks; the last blank of a
// run belongs to the word after it.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
// The same with combining marks as parts of words.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
// The same with numbers by threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
// Words end where a capital begins; a contraction belongs to its word.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

static RECIPES: [Recipe; 8] = [
    Recipe { names: &["qwen2"], compose: true, whole_words: false, cuts: &[Cut::Pattern(QWEN2)] },
    Recipe { names: &["qwen35"], compose: true, whole_words: false, cuts: &[Cut::Pattern(QWEN35)] },
    Recipe { names: &["smollm"], compose: false, whole_words: false, cuts: &[Cut::Digits, Cut::Gpt2] },
    Recipe {
        names: &["llama-bpe", "llama3", "llama-v3"],
        compose: false,
        whole_words: true,
        cuts: &[Cut::Pattern(LLAMA3)],
    },
    Recipe { names: &["gpt-2"], compose: false, whole_words: false, cuts: &[Cut::Gpt2] },
    Recipe { names: &["gpt-4o"], compose: false, whole_words: false, cuts: &[Cut::Pattern(O200K)] },
    Recipe {
        names: &["glm4", "chatglm-bpe"],
        compose: false,
        whole_words: false,
        cuts: &[Cut::Pattern(LLAMA3)],
    },
    Recipe {
        names: &["deepseek-v3", "joyai-llm"],
        compose: false,
        whole_words: false,
        cuts: &[
            Cut::Pattern(r"\p{N}{1,3}"),
            Cut::Pattern("[一-龥\u{3040}-ゟ゠-ヿ]+"),
            Cut::Pattern(DEEPSEEK_V3),
        ],
    },
];

impl Recipe {
    /// The recipe a file calls `name`.
    pub(super) fn named(name: &str) -> Result<&'static Recipe, String> {
        RECIPES.iter().find(|recipe| recipe.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = RECIPES.iter().flat_map(|recipe| recipe.names).copied().collect();
            format!(
                "the pre-tokenizer {name:?} is not known, and guessing it would feed the model other tokens than it \
                 was trained on; known ones are {}. Choose a model from `saga model list`, or a file whose metadata \
                 `tokenizer.ggml.pre` is one of these",
                known.join(", ")
            )
        })
    }

    /// The step before cutting, if there is one.
    pub(super) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.compose.then(|| NormalizerWrapper::NFC(NFC))
    }

    /// The cuts, and then the spelling of bytes as printable characters that the vocabulary is written in.
    pub(super) fn pretokenizer(&self) -> Result<PreTokenizerWrapper, String> {
        let mut steps = Vec::new();
        let mut gpt2 = false;
        for cut in self.cuts {
            match cut {
                Cut::Pattern(pattern) => {
                    let pattern = SplitPattern::Regex((*pattern).to_owned());
                    let split =
                        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(|error| {
                            format!("the pre-tokenizer's pattern cannot be compiled: {error}")
                        })?;
                    steps.push(PreTokenizerWrapper::Split(split));
                }
                Cut::Digits => steps.push(PreTokenizerWrapper::Digits(Digits::new(true))),
                Cut::Gpt2 => gpt2 = true,
            }
        }
        steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, gpt2)));
        Ok(PreTokenizerWrapper::Sequence(Sequence::new(steps)))
    }
}

/// The printable character each byte is spelled with in a byte-level vocabulary: printable Latin-1 bytes are
/// themselves, and the others follow from U+0100 on, in order.
pub(super) fn alphabet() -> &'static [char; 256] {
    static ALPHABET: LazyLock<[char; 256]> = LazyLock::new(|| {
        let mut next = 0x100;
        std::array::from_fn(|byte| {
            let byte = byte as u8;
            if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            }
        })
    });
    &ALPHABET
}

/// The bytes a vocabulary entry stands for. An entry with a character outside the alphabet is not spelled in it: it
/// is plain text.
pub(super) fn spelled(entry: &str) -> Vec<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
        alphabet().iter().zip(0..=255).map(|(&character, byte)| (character, byte)).collect()
    });
    let bytes: Option<Vec<u8>> = entry.chars().map(|character| BYTES.get(&character).copied()).collect();
    bytes.unwrap_or_else(|| entry.as_bytes().to_vec())
}

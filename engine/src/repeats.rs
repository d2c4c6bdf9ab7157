//! Notices while tokens come that they say the same again and again.

use crate::Token;

/// The longest stretch that is noticed when it is repeated. Tokens; a paragraph, and what looking for it costs is nothing
/// beside a token.
const LENGTH_MAX: usize = 256;
/// A stretch that stands this often in a row is repeated, if all of it together is this long. Tables, rulers and lists of zeros are
/// shorter.
const TIMES_MIN: usize = 4;
const TOKENS_MIN: usize = 64;

const _: () = assert!(TIMES_MIN >= 2, "what stands once is not repeated");

/// A stretch of tokens that stands several times in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Where the first one begins, counted from the first token that came.
    pub start: usize,
    /// How many tokens it is long.
    pub length: usize,
    /// How often it stands there, counting whole ones only.
    pub times: usize,
}

/// Looks out for [`Repeat`]s in a line of tokens. Each token costs the same, however many came before.
#[derive(Clone, Debug)]
pub struct Repeats {
    /// The last tokens, between one and two times as many as can be asked for.
    last: Vec<Token>,
    /// For each length `n`, at `n - 1`: how many tokens in a row were equal to the one `n` before them.
    equal: Vec<usize>,
    /// How many tokens came.
    count: usize,
    /// What was told last.
    told: Option<Repeat>,
}

impl Default for Repeats {
    fn default() -> Repeats {
        Repeats { last: Vec::new(), equal: vec![0; LENGTH_MAX], count: 0, told: None }
    }
}

impl Repeats {
    /// Takes in the next token. Tells of a repetition when it has become one, and again each time it stands there twice as often.
    pub fn push(&mut self, token: Token) -> Option<Repeat> {
        // Newest first, the token `n` before this one is at `n - 1`.
        let before = self.last.iter().rev();
        for (equal, &other) in self.equal.iter_mut().zip(before) {
            *equal = if other == token { *equal + 1 } else { 0 };
        }
        self.count += 1;
        if self.last.len() == 2 * LENGTH_MAX {
            self.last.drain(..LENGTH_MAX);
        }
        self.last.push(token);
        // What repeats itself also does so at twice its length: the shortest is meant.
        let found = self.equal.iter().enumerate().find_map(|(i, &equal)| {
            let (length, all) = (i + 1, equal + i + 1);
            let repeat = Repeat { start: self.count.saturating_sub(all), length, times: all / length };
            (repeat.times >= TIMES_MIN && all >= TOKENS_MIN).then_some(repeat)
        })?;
        let known = self.told.is_some_and(|told| {
            (told.start, told.length) == (found.start, found.length) && found.times < 2 * told.times
        });
        if known {
            return None;
        }
        self.told = Some(found);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tokens: impl IntoIterator<Item = Token>) -> Vec<Repeat> {
        let mut repeats = Repeats::default();
        tokens.into_iter().filter_map(|token| repeats.push(token)).collect()
    }

    /// What the definition says, looked for anew at every token.
    fn slow(tokens: &[Token]) -> Option<Repeat> {
        let end = tokens.len();
        (1..=LENGTH_MAX.min(end)).find_map(|length| {
            let mut start = end - length;
            while start > 0 && tokens[start - 1] == tokens[start - 1 + length] {
                start -= 1;
            }
            let times = (end - start) / length;
            (times >= TIMES_MIN && end - start >= TOKENS_MIN).then_some(Repeat { start, length, times })
        })
    }

    #[test]
    fn a_sentence_said_again_and_again_is_told_when_it_forms_and_when_it_doubles() {
        // People are to see it while it happens, and not a thousand times.
        let sentence = 100..110;
        let line = (0..30).chain(std::iter::repeat_n(sentence, 40).flatten());
        // 64 tokens are six sentences and four tokens; the count is of whole ones.
        let expected = [6, 12, 24].map(|times| Repeat { start: 30, length: 10, times });
        assert_eq!(told(line), expected);
    }

    #[test]
    fn what_is_no_circle_is_not_told() {
        let check = |line: Vec<Token>| assert_eq!(told(line.iter().copied()), [], "{line:?}");
        check((0..5000).collect());
        // A ruler, a row of zeros, a paragraph that is quoted twice.
        check(vec![7; TOKENS_MIN - 1]);
        check((0..20).flat_map(|_| [1, 2, 3]).collect());
        check((0..3).flat_map(|_| 0..100).collect());
        // Lines that begin alike.
        check((0..200).flat_map(|n| [1, 2, 3, 1000 + n]).collect());
        // Longer than is looked for.
        check((0..6).flat_map(|_| 0..LENGTH_MAX as Token + 1).collect());
    }

    #[test]
    fn lengths_from_one_to_the_longest_are_found() {
        for length in [1, 2, 3, 63, 64, 65, LENGTH_MAX] {
            let line = (0..TIMES_MIN.max(TOKENS_MIN.div_ceil(length))).flat_map(|_| 0..length as Token);
            let found = told([9999, 9998].into_iter().chain(line));
            assert_eq!(found.len(), 1, "{length}: {found:?}");
            assert_eq!((found[0].start, found[0].length), (2, length));
        }
    }

    #[test]
    fn it_finds_what_a_search_of_everything_finds() {
        // The counts are kept from token to token; a search from scratch is the judge.
        let mut chance = 7_u32;
        let mut roll = |sides: u32| {
            chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (chance >> 8) % sides
        };
        let mut line: Vec<Token> = Vec::new();
        while line.len() < 30_000 {
            let (length, times) = (1 + roll(40) as usize, 1 + roll(12) as usize);
            let stretch: Vec<Token> = (0..length).map(|_| roll(3)).collect();
            (0..times).for_each(|_| line.extend(&stretch));
        }
        let mut repeats = Repeats::default();
        let mut last: Option<Repeat> = None;
        let mut told = 0;
        for (at, &token) in line.iter().enumerate() {
            let expected = slow(&line[..=at]).filter(|now| {
                last.is_none_or(|told| {
                    (told.start, told.length) != (now.start, now.length) || now.times >= 2 * told.times
                })
            });
            assert_eq!(repeats.push(token), expected, "at {at}");
            last = expected.or(last);
            told += usize::from(expected.is_some());
        }
        assert!(told > 20, "only {told} were found; the test tests nothing");
    }
}

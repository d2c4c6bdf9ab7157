//! How text is cut into the terms it is found by.
//!
//! Pairs of characters find Chinese and Japanese about as well as a dictionary does, and know every word.

use std::collections::HashSet;

use frostem::{Algorithm, Stemmer};

/// The longest word that is indexed, in bytes: a longer run of letters is data, not a word.
const WORD_BYTES_MAX: usize = 64;

/// English words that say nothing about what a text is about: the closed classes, and what is left of contractions. May is not
/// among them, for it is a month.
const STOP_WORDS: &str = "a about above after again against all also am an and any are aren as at be because been before being \
    below between both but by can could couldn d did didn do does doesn doing don down during each few for \
    from further had hadn has hasn have haven having he her here hers herself him himself his how i if in \
    into is isn it its itself just ll m ma me might mightn more most must mustn my myself needn no nor not \
    now o of off on once only or other our ours ourselves out over own re s same shall shan she should \
    shouldn so some such t than that the their theirs them themselves then there these they this those \
    through to too under until up us ve very was wasn we were weren what when where which while who whom \
    whose why will with won would wouldn y you your yours yourself yourselves";

/// Cuts texts into terms.
pub(crate) struct Cutter {
    stop: HashSet<&'static str>,
    stemmer: Stemmer,
}

impl Cutter {
    pub(crate) fn new() -> Cutter {
        Cutter { stop: STOP_WORDS.split_whitespace().collect(), stemmer: Stemmer::new(Algorithm::English) }
    }

    /// A word in lower case and stemmed, be it a stop word or not.
    pub(crate) fn stemmed(&self, word: &str) -> String {
        self.stemmer.stem(&word.to_lowercase()).into_owned()
    }

    /// The terms of a text, in order: words in lower case and stemmed, without stop words; identifiers of several parts whole
    /// and in their parts, `parseHttpRequest2` as `parsehttprequest2`, `pars`, `http`, `request`, `2`; pairs of neighbouring
    /// characters where a script puts no spaces between words.
    pub(crate) fn terms(&self, text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        let mut push = |word: &str, whole: bool| {
            if word.len() > WORD_BYTES_MAX {
                return;
            }
            let word = word.to_lowercase();
            if whole {
                terms.push(word);
            } else if !self.stop.contains(word.as_str()) {
                terms.push(self.stemmer.stem(&word).into_owned());
            }
        };
        for (from, to, unspaced) in runs(text, |c| (c.is_alphanumeric() || c == '_').then(|| is_unspaced(c)))
        {
            if unspaced {
                pairs(text, from, to).into_iter().for_each(|(from, to)| push(&text[from..to], true));
                continue;
            }
            let run = &text[from..to];
            let parts = parts(run);
            match parts[..] {
                [(0, end)] if end == run.len() => push(run, false),
                [] => {}
                _ => {
                    push(run, true);
                    parts.iter().for_each(|(from, to)| push(&run[*from..*to], false));
                }
            }
        }
        terms
    }
}

/// The parts of an identifier, in order.
pub(crate) fn parts_of(identifier: &str) -> impl Iterator<Item = &str> {
    parts(identifier).into_iter().map(|(from, to)| &identifier[from..to])
}

/// Whether a character belongs to a script that is written without spaces.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3134f}' | '\u{0e00}'..='\u{0e7f}')
}

/// Runs of characters of which `belongs` says the same sort, other than nothing.
fn runs(text: &str, belongs: impl Fn(char) -> Option<bool>) -> Vec<(usize, usize, bool)> {
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    for (at, c) in text.char_indices() {
        let Some(sort) = belongs(c) else { continue };
        match runs.last_mut() {
            Some(run) if run.1 == at && run.2 == sort => run.1 = at + c.len_utf8(),
            _ => runs.push((at, at + c.len_utf8(), sort)),
        }
    }
    runs
}

/// Pairs of neighbouring characters of a run; the one character of a run of one.
fn pairs(text: &str, from: usize, to: usize) -> Vec<(usize, usize)> {
    let starts: Vec<usize> = text[from..to].char_indices().map(|(at, _)| from + at).chain([to]).collect();
    match starts.len() {
        2 => vec![(from, to)],
        _ => starts.windows(3).map(|window| (window[0], window[2])).collect(),
    }
}

/// Where an identifier's parts are: it is cut at `_`, where a capital begins a word, and between letters and digits.
fn parts(identifier: &str) -> Vec<(usize, usize)> {
    #[derive(PartialEq, Clone, Copy)]
    enum Sort {
        Lower,
        Upper,
        Digit,
        Bar,
    }
    let sort = |c: char| match c {
        '_' => Sort::Bar,
        c if c.is_numeric() => Sort::Digit,
        c if c.is_uppercase() => Sort::Upper,
        _ => Sort::Lower,
    };
    let chars: Vec<(usize, Sort)> = identifier.char_indices().map(|(at, c)| (at, sort(c))).collect();
    let mut cuts = vec![0];
    for (n, pair) in chars.windows(2).enumerate() {
        let next_is_lower = chars.get(n + 2).is_some_and(|(_, sort)| *sort == Sort::Lower);
        let cut = match (pair[0].1, pair[1].1) {
            (Sort::Upper, Sort::Lower) => false,
            // The last capital of a run begins the next word: HTTPServer is HTTP and Server.
            (Sort::Upper, Sort::Upper) => next_is_lower,
            (before, after) => before != after,
        };
        if cut {
            cuts.push(pair[1].0);
        }
    }
    cuts.push(identifier.len());
    let parts = cuts.windows(2).map(|pair| (pair[0], pair[1]));
    parts.filter(|(from, to)| !identifier[*from..*to].starts_with('_')).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expect: Expect) {
        expect.assert_eq(&Cutter::new().terms(text).join(" "));
    }

    #[test]
    fn identifiers_are_found_whole_and_in_their_parts() {
        // Measured on documentation → function search: splitting while keeping the whole is worth 5 to 12 points.
        check("parseHttpRequest2(max_len)", expect!["parsehttprequest2 pars http request 2 max_len max len"]);
        check("HTTPServer __init__ x", expect!["httpserver http server __init__ init x"]);
        check("größeÄndern _ __", expect!["größeändern größe ändern"]);
    }

    #[test]
    fn words_are_stemmed_and_stop_words_are_not_indexed() {
        // A question is seldom asked in the form in which the answer was written.
        check("What were the tests running, and didn't they fail?", expect!["test run fail"]);
    }

    #[test]
    fn what_is_written_without_spaces_is_cut_into_pairs() {
        // A question in Chinese shares no whole run of characters with its answer.
        check("数据库在Redis里", expect!["数据 据库 库在 redi 里"]);
        check("テスト実行", expect!["テス スト ト実 実行"]);
    }
}

//! Counts the words of a text.

mod split;

use std::collections::BTreeMap;

pub use split::words;

/// How often each word occurs, whatever the case of its letters.
pub fn count(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for word in words(text) {
        *counts.entry(word.to_string()).or_insert(0) += 1;
    }
    counts
}

/// The word that occurs most often; of several the first in the alphabet.
pub fn most_common(text: &str) -> Option<String> {
    let counts = count(text);
    let most = counts.values().copied().max()?;
    counts.into_iter().find(|&(_, n)| n == most).map(|(word, _)| word)
}

//! Tokens that are looked for in text by their names: marks of a chat format, and text that is never cut.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::Token;

/// Finds names in text: the leftmost first, and the longest of those that begin there.
pub(super) struct Finder {
    automaton: AhoCorasick,
    /// Which token each pattern of the automaton is.
    ids: Vec<Token>,
}

impl Finder {
    /// A finder of these names; none if there are none. Of two tokens with one name the first is found.
    pub(super) fn new(named: &[(impl AsRef<[u8]>, Token)]) -> Result<Option<Finder>, String> {
        if named.is_empty() {
            return Ok(None);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(named.iter().map(|(name, _)| name))
            .map_err(|error| format!("the names of its tokens cannot be searched for: {error}"))?;
        Ok(Some(Finder { automaton, ids: named.iter().map(|&(_, token)| token).collect() }))
    }

    /// The stretches of `text`, in order and without gaps: each with the token it names, or with none.
    pub(super) fn stretches(&self, text: &str) -> Vec<(std::ops::Range<usize>, Option<Token>)> {
        let mut stretches = Vec::new();
        let mut from = 0;
        for found in self.automaton.find_iter(text) {
            if from < found.start() {
                stretches.push((from..found.start(), None));
            }
            stretches.push((found.range(), Some(self.ids[found.pattern().as_usize()])));
            from = found.end();
        }
        if from < text.len() {
            stretches.push((from..text.len(), None));
        }
        stretches
    }
}

/// Elements of HTML whose tags vocabularies have as tokens of their own, for text: these are Gemma's.
const ELEMENTS: &str = "a b bbox blockquote body caption code div em footer h1 h2 h3 h4 h5 h6 html i iframe img li s \
                        span strong sub sup table tbody td tfoot th thead tr u ul";

/// Whether a token that was added to a vocabulary by name is text: a run of blanks or a tag of HTML. Such a token is
/// what the model read wherever a text had these characters. Every other name is taken for a mark of a chat format,
/// for text must never become one; text that spells it is cut into ordinary tokens.
pub(super) fn is_text(name: &str) -> bool {
    let blank = |character| matches!(character, ' ' | '\t' | '\n' | '\r' | '▁');
    if !name.is_empty() && name.chars().all(blank) {
        return true;
    }
    let element = name.strip_prefix('<').and_then(|name| name.strip_suffix('>'));
    let element = element.map(|name| name.strip_prefix('/').unwrap_or(name));
    element.is_some_and(|name| ELEMENTS.split(' ').any(|element| element == name))
}

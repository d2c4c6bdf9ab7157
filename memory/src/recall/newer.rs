//! The newer first: of notes that speak of the same, the one that holds now.
//!
//! Where it is written down what took whose place, that decides. Elsewhere two notes of different sessions are compared, by their own
//! vectors and by their words:
//!
//! ```text
//! alike = cosine + ½ · common words / √(words of one · words of the other)
//! ```
//! The newer one comes above the older
//!
//! - if they are alike by 0.85, or by 0.7 when the newer one says of itself that something changed;
//! - if both only say how something is, as notes about a project do and talk between people does not, the older one is among the two best
//!   hits, they are alike by 0.6, and no more than two older ones are more like the newer: a change that does not announce
//!   itself is told in other words, but by its nearest of what was said before it is still known.
//!
//! Whoever asks what happened, or when, does not ask how it is now: then each of the two must be the one most like the other, and
//! so it must where a note came up itself and would draw others after it.

use super::Core;
use super::rank::{Candidate, ORDERED, dot};
use crate::{Error, Kind, Note, NoteId, Query};

/// Two notes speak of the same if they are at least so much alike …
const ALIKE: f32 = 0.85;
/// … or so much, if the newer one says that something changed …
const ALIKE_CHANGED: f32 = 0.7;
/// … or so much, if both say how something is, and the older is one of the best …
const ALIKE_STATES: f32 = 0.6;
/// … that is, of so many, …
const BEST: usize = 2;
/// … and of the older ones no more than so many are more like the newer.
const NEARER_MAX: usize = 2;

/// Words and phrases that say that something was otherwise before.
const CHANGES: [&[&str]; 27] = [
    &["no", "longer"],
    &["any", "more"],
    &["anymore"],
    &["any", "longer"],
    &["instead", "of"],
    &["from", "now", "on"],
    &["as", "of"],
    &["switched"],
    &["moved"],
    &["replaced"],
    &["renamed"],
    &["migrated"],
    &["changed"],
    &["stopped"],
    &["gave", "up"],
    &["took", "over"],
    &["raised"],
    &["bumped"],
    &["upgraded"],
    &["downgraded"],
    &["dropped"],
    &["closed"],
    &["archived"],
    &["went", "from"],
    &["used", "to"],
    &["reformatted"],
    &["now"],
];

/// Whether a text says of itself that it changes what was before.
fn says_change(text: &str) -> bool {
    let text = text.to_lowercase();
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    (0..words.len()).any(|at| CHANGES.iter().any(|phrase| words[at..].starts_with(phrase)))
}

/// Words of a query that ask what happened.
const HAPPENED: [&str; 7] = ["did", "was", "were", "had", "when", "happened", "went"];

/// Whether a query asks what happened, or when, and not how something is.
fn asks_what_happened(text: &str) -> bool {
    words(text).any(|word| HAPPENED.contains(&word.as_str()))
}

/// Words of those who speak of themselves and of each other.
const PERSONS: [&str; 24] = [
    "i", "me", "my", "mine", "myself", "you", "your", "yours", "yourself", "he", "him", "his", "she", "her",
    "hers", "they", "them", "their", "theirs", "us", "our", "ours", "himself", "herself",
];

/// Whether a text only says how something is: it neither asks nor exclaims, and speaks of no person.
fn says_how_it_is(text: &str) -> bool {
    !text.contains(['?', '!', '？', '！']) && !words(text).any(|word| PERSONS.contains(&word.as_str()))
}

/// The words of a text in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase)
}

/// Puts what holds now above what it took the place of: where that is written down, also notes that the words did not find;
/// otherwise where two notes speak of the same.
pub(super) fn newer_first(
    core: &Core,
    query: &Query,
    notes: &mut Vec<(Candidate, Note)>,
    note: &impl Fn(NoteId) -> Result<Option<Note>, Error>,
) -> Result<(), Error> {
    let gate = core.table().gate(query);
    let mut at = 0;
    while at < notes.len() {
        let old = &notes[at].0;
        let (mut newest, score) = (old.row.superseded_by, old.score);
        // What took the place of what took its place, but never in a circle.
        for _ in 0..16 {
            match gate.rows().get(newest).map(|row| row.superseded_by) {
                Some(next) if next > newest => newest = next,
                _ => break,
            }
        }
        if newest > 0 && !notes[..at].iter().any(|(candidate, _)| candidate.row.id == newest) {
            let found = notes.iter().position(|(candidate, _)| candidate.row.id == newest);
            let row = gate.row(newest).copied();
            let entry = match (found, row) {
                (Some(found), _) => Some(notes.remove(found)),
                (None, Some(row)) => note(NoteId(newest))?.map(|note| (Candidate::bare(row), note)),
                (None, None) => None,
            };
            if let Some((mut candidate, note)) = entry {
                candidate.score = candidate.score.max(score);
                candidate.moved.push(format!("it took the place of n{}", notes[at].0.row.id));
                notes.insert(at, (candidate, note));
                at += 1;
            }
        }
        at += 1;
    }
    let ordered = ORDERED.min(notes.len());
    let alike = alike(core, &notes[..ordered]);
    let change: Vec<bool> = notes[..ordered].iter().map(|(_, note)| says_change(&note.text)).collect();
    let state: Vec<bool> = (0..ordered)
        .map(|n| says_how_it_is(&notes[n].1.text) || (change[n] && !notes[n].1.text.contains(['?', '？'])))
        .collect();
    let happened = asks_what_happened(&query.text);
    let (order, moved) = order(&alike, &change, &state, happened);
    for (newer, old) in moved {
        let (id, score) = (notes[old].0.row.id, notes[old].0.score);
        let candidate = &mut notes[newer].0;
        candidate.score = candidate.score.max(score);
        candidate.moved.push(format!("it speaks of the same as n{id}, and is newer"));
    }
    let rest = notes.split_off(ordered);
    let mut taken: Vec<Option<(Candidate, Note)>> = notes.drain(..).map(Some).collect();
    notes.extend(order.into_iter().filter_map(|at| taken[at].take()));
    notes.extend(rest);
    Ok(())
}

/// How much a newer note is like an older one: `[older][newer]`, 0 where one cannot be told to take the other's place, or is not alike
/// enough to matter.
fn alike(core: &Core, notes: &[(Candidate, Note)]) -> Vec<Vec<f32>> {
    let own: Vec<(Vec<u64>, Option<Vec<f32>>)> = {
        let vectors = core.vectors();
        let of = |(candidate, note): &(Candidate, Note)| {
            let cut = core.cut_of(candidate.row.id, note);
            let mut words: Vec<u64> = cut.terms.iter().map(|term| number(term)).collect();
            words.sort_unstable();
            words.dedup();
            let vector =
                vectors.as_ref().and_then(|vectors| vectors.own(candidate.row.id).ok()?.into_iter().next());
            (words, vector)
        };
        notes.iter().map(of).collect()
    };
    let comparable = |older: usize, newer: usize| {
        let ((older, a), (newer, b)) = (&notes[older], &notes[newer]);
        newer.row.at_ms > older.row.at_ms
            && newer.row.scope == older.row.scope
            && newer.row.thread != older.row.thread
            && (a.kind == b.kind || a.kind == Kind::Episode || b.kind == Kind::Episode)
    };
    let alike = |a: usize, b: usize| {
        let cosine = match (&own[a].1, &own[b].1) {
            // Words can add a half.
            (Some(x), Some(y)) => match dot(x, y) {
                cosine if cosine + 0.5 < ALIKE_STATES => return 0.0,
                cosine => Some(cosine),
            },
            _ => None,
        };
        let common = common(&own[a].0, &own[b].0) as f32;
        let (fewer, more) = (own[a].0.len() as f32, own[b].0.len() as f32);
        let words = common / (fewer * more).sqrt().max(1.0);
        match cosine {
            Some(cosine) => words / 2.0 + cosine,
            // Half of the words in common is as much as a sentence can say again with another value.
            _ => words / 2.0 + words.sqrt(),
        }
    };
    let count = notes.len();
    (0..count)
        .map(|a| (0..count).map(|b| if comparable(a, b) { alike(a, b) } else { 0.0 }).collect())
        .collect()
}

/// The order of notes, given as the best first, in which the newer ones come above what they take the place of, and which came above
/// which. `alike[older][newer]` says how much they are alike, `change` which say that something changed, `state` which say how something is.
fn order(
    alike: &[Vec<f32>],
    change: &[bool],
    state: &[bool],
    happened: bool,
) -> (Vec<usize>, Vec<(usize, usize)>) {
    let count = alike.len();
    // How many older ones are more like the newer, and how many newer ones more like the older.
    let nearer = |a: usize, b: usize| (0..count).filter(|&other| alike[other][b] > alike[a][b]).count();
    let is_nearest = |a: usize, b: usize| alike[a].iter().all(|other| *other <= alike[a][b]);
    let comes_above = |old: usize, new: usize, came_up: bool| {
        let alike = alike[old][new];
        let enough = if change[new] { ALIKE_CHANGED } else { ALIKE };
        if happened {
            return alike >= enough && nearer(old, new) == 0 && is_nearest(old, new);
        }
        let unannounced = old < BEST && alike >= ALIKE_STATES && state[old] && state[new];
        (alike >= enough || unannounced && nearer(old, new) <= NEARER_MAX)
            && (!came_up || nearer(old, new) == 0)
    };
    let mut order: Vec<usize> = (0..count).collect();
    let mut came_up = vec![false; count];
    let mut moved: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < order.len() {
        let old = order[at];
        let newer = order[at + 1..].iter().copied().filter(|&new| comes_above(old, new, came_up[old]));
        // Each move puts something newer in this place, and there are only so many.
        match newer.max_by(|a, b| alike[old][*a].total_cmp(&alike[old][*b])) {
            Some(new) => {
                order.retain(|&other| other != new);
                order.insert(at, new);
                came_up[new] = true;
                moved.push((new, old));
            }
            None => at += 1,
        }
    }
    (order, moved)
}

/// A number for a word: two words have the same one by chance alone.
fn number(word: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    word.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// How many numbers two lists have in common, each in order and without repeats.
fn common(a: &[u64], b: &[u64]) -> usize {
    let (mut at, mut count) = (0, 0);
    for x in a {
        while at < b.len() && b[at] < *x {
            at += 1;
        }
        count += usize::from(b.get(at) == Some(x));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of notes of which some pairs are alike, the older one given first.
    fn ordered(
        count: usize,
        pairs: &[(usize, usize, f32)],
        says: &[(usize, &str)],
        query: &str,
    ) -> Vec<usize> {
        let mut alike = vec![vec![0.0; count]; count];
        pairs.iter().for_each(|(older, newer, by)| alike[*older][*newer] = *by);
        let text = |n: usize| says.iter().find(|(of, _)| *of == n).map_or("hello!", |(_, text)| *text);
        let change: Vec<bool> = (0..count).map(|n| says_change(text(n))).collect();
        let state: Vec<bool> = (0..count).map(|n| says_how_it_is(text(n))).collect();
        order(&alike, &change, &state, asks_what_happened(query)).0
    }

    #[test]
    fn what_is_alike_and_newer_comes_first() {
        let now = "which port is it";
        assert_eq!(ordered(3, &[(0, 2, 0.9)], &[], now), [2, 0, 1]);
        assert_eq!(ordered(3, &[(0, 2, 0.8)], &[], now), [0, 1, 2], "not alike enough");
        assert_eq!(ordered(3, &[(0, 2, 0.8)], &[(2, "we switched to 9090")], now), [2, 0, 1], "it says so");
        // What came up may itself have been replaced; but only by what is nearest to it, else talk would draw up talk.
        assert_eq!(ordered(4, &[(0, 2, 0.9), (2, 3, 0.9)], &[], now), [3, 2, 0, 1]);
        assert_eq!(ordered(4, &[(0, 2, 0.9), (2, 3, 0.9), (1, 3, 0.95)], &[], now), [2, 0, 3, 1]);
    }

    #[test]
    fn a_change_that_does_not_announce_itself_is_known_by_what_was_said_before() {
        let says =
            [(0, "Orders go out as CBOR."), (3, "The wire format is protobuf."), (1, "The port is 80.")];
        let now = "what is the wire format of orders";
        assert_eq!(ordered(4, &[(0, 3, 0.62)], &says, now), [3, 0, 1, 2]);
        assert_eq!(ordered(4, &[(0, 3, 0.62)], &says[..1], now), [0, 1, 2, 3], "talk is no change");
        assert_eq!(
            ordered(4, &[(2, 3, 0.62)], &says, now),
            [0, 1, 2, 3],
            "what is asked for is not so far down"
        );
        // Of what was said before others are nearer: it takes their place.
        let others = [(0, 3, 0.62), (1, 3, 0.7), (2, 3, 0.7), (4, 3, 0.7)];
        assert_eq!(ordered(5, &others[..3], &says, now)[..2], [3, 0]);
        assert_eq!(ordered(5, &others, &says, now)[0], 0);
    }

    #[test]
    fn who_asks_what_happened_does_not_ask_how_it_is() {
        let pairs = [(0, 2, 0.9), (0, 3, 0.95)];
        assert_eq!(ordered(4, &pairs, &[], "where does she live"), [3, 2, 0, 1]);
        assert_eq!(
            ordered(4, &pairs, &[], "where did she go"),
            [3, 0, 1, 2],
            "only the one that is most alike"
        );
    }

    #[test]
    fn texts_tell_whether_they_say_how_something_is() {
        for text in ["The wire format of billing is protobuf.", "Use `just test` here", "端口是 9090。"] {
            assert!(says_how_it_is(text), "{text}");
        }
        for text in
            ["Is it protobuf?", "Wow, great!", "I went to the lake", "that's what they said", "端口是什么？"]
        {
            assert!(!says_how_it_is(text), "{text}");
        }
        assert!(says_change("It is no longer 8080.") && !says_change("It knows the snow."));
    }
}

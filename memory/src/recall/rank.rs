//! The formula: how well a note fits a query.
//!
//! ```text
//! score  = (words + ½ · cosine) · said · named · trusted · holds
//! words  = BM25F of the note with its neighbours, as a share of the most it could be       (k1 = 0.9, b = 0.75)
//! cosine = of the query, without names of authors, and the note's vector with its neighbours'
//! said   = n / (n + 2) for an episode of n words: short ones seldom say anything
//! named  = 1.1, if the query names the note's author
//! trusted, holds: see [`trusted`] and [`holds`]
//! ```
//! All weights are fixed and all parts absolute, so a score means the same in every store, and a floor can be put under it.
//!
//! Then what was replaced makes way: of two notes that speak of the same, the newer one comes first, unless it is asked how it was
//! before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Core;
use super::lexical::{Bags, Formula, NEAR_UNITS};
use super::table::Row;
use crate::{Error, Hit, Kind, Note, NoteId, Query, Trust, Why};

/// The most hits a recall returns.
const HITS_MAX: usize = 1000;
/// The most terms of a query that are looked for.
const TERMS_MAX: usize = 96;
/// How many of the best by words, and how many by vectors, are judged.
const CANDIDATES: usize = 200;

/// How words are weighed.
const FORMULA: Formula = Formula { k1: 0.9, b: 0.75, near: 1.0 / NEAR_UNITS as f32 };
/// What the cosine counts beside the words.
const COSINE: f32 = 0.5;
/// Words that make a note half of what a long one is.
const SHORT: f32 = 2.0;
/// What it is worth that the query names the author.
const NAMED: f32 = 1.1;
/// Two notes speak of the same if the cosine of their vectors and half the cosine of their words are at least this together …
const ALIKE: f32 = 0.85;
/// … or this, if the newer one says that something changed.
const ALIKE_CHANGED: f32 = 0.7;
/// Among how many of the best it is seen to that the newer comes first.
const ORDERED: usize = 60;

/// Words in a query that ask how it was.
const BEFORE: [&str; 14] = [
    "before",
    "previously",
    "previous",
    "former",
    "formerly",
    "earlier",
    "old",
    "older",
    "originally",
    "original",
    "initially",
    "past",
    "prior",
    "used to",
];

/// A note that may be a hit.
struct Candidate {
    row: Row,
    words: f32,
    cosine: Option<f32>,
    score: f32,
    moved: Vec<String>,
}

pub(super) fn search(
    core: &Core,
    query: &Query,
    note: impl Fn(NoteId) -> Result<Option<Note>, Error>,
) -> Result<Vec<Hit>, Error> {
    let limit = query.limit.min(HITS_MAX);
    if limit == 0 || query.scopes.is_empty() {
        return Ok(Vec::new());
    }
    let mut seen = HashSet::new();
    let mut terms = core.cutter.terms(&query.text);
    terms.retain(|term| seen.insert(term.clone()));
    terms.truncate(TERMS_MAX);
    let asks_before = asks_before(&query.text);
    let now_ms = query.as_of_ms.unwrap_or_else(crate::writer::now_ms);
    let asked = Asked::of(core, query);
    let vector = match core.embedder.get() {
        Some(embedder) if !terms.is_empty() => {
            Some(embedder.embed(&[asked.without_names.as_str()])?.pop().unwrap_or_default())
        }
        _ => None,
    };
    // First the overlay, then the index: a note on its way from one to the other is then seen at least once.
    let fresh: BTreeMap<u64, Arc<Bags>> = core.state().fresh.clone();
    let mut candidates = {
        let gate = core.table().gate(query);
        let vectors = core.vectors();
        if terms.is_empty() && !query.text.chars().any(char::is_alphanumeric) {
            drop(fresh);
            let newest = gate.rows().iter().rev().filter(|row| gate.admits(row)).take(limit);
            newest.map(|row| Candidate::bare(*row)).collect()
        } else {
            let weights = || {
                let (mut cursor, gate, asked) = (gate.rows().cursor(), &gate, &asked);
                move |id: u64| {
                    let row = cursor.get(id).filter(|row| gate.admits(row))?;
                    Some(asked.weight(row, now_ms, asks_before))
                }
            };
            let by_vector = match (&vector, &*vectors) {
                (Some(vector), Some(vectors)) => vectors.nearest(vector, CANDIDATES, weights),
                _ => Vec::new(),
            };
            let wanted: HashSet<u64> = by_vector.iter().map(|(id, _)| *id).collect();
            let by_words = core
                .lexical()
                .search(&terms, &fresh, FORMULA, CANDIDATES.max(limit), NAMED, &wanted, weights())
                .map_err(Error::Index)?;
            let mut words: HashMap<u64, f32> = by_words.into_iter().collect();
            wanted.iter().for_each(|id| {
                words.entry(*id).or_insert(0.0);
            });
            let candidate = |(id, words): (u64, f32)| {
                let row = *gate.row(id)?;
                let cosine = match (&vector, &*vectors) {
                    (Some(vector), Some(vectors)) => vectors.cosine(id, vector),
                    _ => None,
                };
                let weight = asked.weight(&row, now_ms, asks_before);
                let score = (words + COSINE * cosine.unwrap_or(0.0).max(0.0)) * weight;
                Some(Candidate { row, words, cosine, score, moved: Vec::new() })
            };
            let mut candidates: Vec<Candidate> = words.into_iter().filter_map(candidate).collect();
            candidates.retain(|candidate| candidate.score > 0.0 && candidate.score >= query.floor);
            candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.row.id.cmp(&a.row.id)));
            candidates
        }
    };
    let mut notes = Vec::new();
    // What is ordered may come from below the limit.
    let wanted = limit.max(ORDERED.min(candidates.len()));
    candidates.truncate(wanted + wanted / 2);
    for candidate in candidates {
        if notes.len() >= wanted {
            break;
        }
        if let Some(note) = note(NoteId(candidate.row.id))?.filter(|note| query.scopes.contains(&note.scope))
        {
            notes.push((candidate, note));
        }
    }
    if !terms.is_empty() {
        newer_first(core, query, asks_before, &mut notes, &note)?;
    }
    notes.truncate(limit);
    let hits = notes.into_iter().map(|(candidate, note)| {
        let own = core.cut_of(candidate.row.id, &note);
        let why = Why {
            words: terms.iter().filter(|term| own.terms.contains(*term)).cloned().collect(),
            lexical: candidate.words,
            cosine: candidate.cosine,
            moved: candidate.moved,
        };
        let standing = core.table().standing(candidate.row.id);
        Hit { id: NoteId(candidate.row.id), note, score: candidate.score, why, standing }
    });
    Ok(hits.collect())
}

impl Candidate {
    fn bare(row: Row) -> Candidate {
        Candidate { row, words: 0.0, cosine: None, score: 0.0, moved: Vec::new() }
    }
}

/// What a query says beside its words.
struct Asked {
    /// The authors it names.
    named: Vec<u32>,
    /// Its text without their names: whom it is about is known from them, and what it is about should decide what is near.
    without_names: String,
}

impl Asked {
    fn of(core: &Core, query: &Query) -> Asked {
        let table = core.table();
        let mut named = Vec::new();
        let mut kept = Vec::new();
        for word in query.text.split_whitespace() {
            let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
            let bare = bare.strip_suffix("'s").or_else(|| bare.strip_suffix("’s")).unwrap_or(bare);
            match table.authors(&bare.to_lowercase()) {
                [] => kept.push(word),
                authors => named.extend(authors),
            }
        }
        let without_names = kept.join(" ");
        let says = without_names.chars().any(char::is_alphanumeric);
        Asked { named, without_names: if says { without_names } else { query.text.clone() } }
    }

    /// What a note's score is multiplied with.
    fn weight(&self, row: &Row, now_ms: u64, asks_before: bool) -> f32 {
        // What was noted by itself was worth noting, however short it is.
        let said = match row.kind {
            Kind::Episode => row.words as f32 / (row.words as f32 + SHORT),
            _ => 1.0,
        };
        let named = if self.named.contains(&row.author) { NAMED } else { 1.0 };
        said * named * trusted(row) * holds(row, now_ms, asks_before)
    }
}

/// What a note's origin counts: what people say and tools show is evidence, what a model wrote often repeats it in more words,
/// and what was read elsewhere is hearsay. Notes that led astray more often than they helped count less as well.
fn trusted(row: &Row) -> f32 {
    let origin = match row.trust {
        Trust::UserSaid | Trust::ToolVerified => 1.0,
        Trust::ModelInferred => 0.9,
        Trust::ExternalText => 0.8,
    };
    if row.misled > row.helped { origin * 0.8 } else { origin }
}

/// What it counts whether a note still holds.
fn holds(row: &Row, now_ms: u64, asks_before: bool) -> f32 {
    if row.ends_ms <= now_ms && !asks_before { 0.7 } else { 1.0 }
}

/// Whether a query asks how it was, not how it is.
fn asks_before(text: &str) -> bool {
    let text = text.to_lowercase();
    let words: HashSet<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
    BEFORE.iter().any(|word| if word.contains(' ') { text.contains(word) } else { words.contains(word) })
}

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

/// Puts what holds now above what it took the place of: where that is written down, also notes that the words did not find;
/// otherwise where two notes speak of the same.
fn newer_first(
    core: &Core,
    query: &Query,
    asks_before: bool,
    notes: &mut Vec<(Candidate, Note)>,
    note: &impl Fn(NoteId) -> Result<Option<Note>, Error>,
) -> Result<(), Error> {
    if asks_before {
        return Ok(());
    }
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
        notes[..ordered].iter().map(of).collect()
    };
    let says_change: Vec<bool> = notes[..ordered].iter().map(|(_, note)| says_change(&note.text)).collect();
    let enough = |other: usize| if says_change[other] { ALIKE_CHANGED } else { ALIKE };
    let alike = |a: usize, b: usize| {
        let cosine = match (&own[a].1, &own[b].1) {
            // Words can add a half.
            (Some(x), Some(y)) => match dot(x, y) {
                cosine if cosine + 0.5 < ALIKE_CHANGED => return 0.0,
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
    let mut order: Vec<usize> = (0..ordered).collect();
    let mut moved: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < order.len() {
        let old = order[at];
        let (row, kind) = (&notes[old].0.row, notes[old].1.kind);
        let newer = order[at + 1..].iter().copied().filter(|&other| {
            let (other_row, other_kind) = (&notes[other].0.row, notes[other].1.kind);
            other_row.at_ms > row.at_ms
                && other_row.scope == row.scope
                && other_row.thread != row.thread
                && (kind == other_kind || kind == Kind::Episode || other_kind == Kind::Episode)
        });
        let newer =
            newer.map(|other| (other, alike(old, other))).filter(|(other, alike)| *alike >= enough(*other));
        if let Some((newest, _)) = newer.max_by(|a, b| a.1.total_cmp(&b.1)) {
            order.retain(|&other| other != newest);
            order.insert(at, newest);
            moved.push((newest, old));
        }
        at += 1;
    }
    for (newest, old) in moved {
        let (id, score) = (notes[old].0.row.id, notes[old].0.score);
        let candidate = &mut notes[newest].0;
        candidate.score = candidate.score.max(score);
        candidate.moved.push(format!("it speaks of the same as n{id}, and is newer"));
    }
    let rest = notes.split_off(ordered);
    let mut taken: Vec<Option<(Candidate, Note)>> = notes.drain(..).map(Some).collect();
    notes.extend(order.into_iter().filter_map(|at| taken[at].take()));
    notes.extend(rest);
    Ok(())
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

/// The dot product, in eight sums that a processor can do at once.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_whether_it_asks_how_it_was() {
        for text in [
            "Which port did we use before?",
            "What was the old branch?",
            "how did it USED to work",
            "the former owner",
        ] {
            assert!(asks_before(text), "{text}");
        }
        for text in ["Which port do we use?", "beforehand", "the holder of the lock", "golden"] {
            assert!(!asks_before(text), "{text}");
        }
    }
}

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
//! Then what was replaced makes way, unless it is asked how it was before: see [`newer_first`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Core;
use super::lexical::{Bags, Formula, NEAR_UNITS};
use super::newer::newer_first;
use super::table::Row;
use crate::{Error, Hit, Kind, Note, NoteId, Query, SessionHit, Trust, Why};

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
/// Among how many of the best it is seen to that the newer comes first.
pub(super) const ORDERED: usize = 60;

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

/// What a session's note gains beside its own score by speaking of the same as one of the best hits: this times the cosine …
const LINK: f32 = 0.4;
/// … with the nearest of so many of the best, each times its score as a share of the best one's.
const LINKED_TO: usize = 3;

/// A note that may be a hit.
pub(super) struct Candidate {
    pub(super) row: Row,
    words: f32,
    cosine: Option<f32>,
    pub(super) score: f32,
    pub(super) moved: Vec<String>,
}

/// The notes that may be hits of a query, best first, and the terms it was cut into.
fn found(core: &Core, query: &Query, limit: usize) -> Result<(Vec<Candidate>, Vec<String>), Error> {
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
    let candidates = {
        let gate = core.table().gate(query);
        let vectors = core.vectors();
        if terms.is_empty() && !query.text.chars().any(char::is_alphanumeric) {
            drop(fresh);
            let newest = gate.rows().iter().rev().filter(|row| gate.admits(row)).take(limit);
            newest.map(|row| Candidate::bare(*row)).collect()
        } else {
            let weights = gate.weights(|row| asked.weight(row, now_ms, asks_before));
            let weigh = || {
                let weights = &weights;
                move |id: u64| weights.of(id)
            };
            let by_vector = match (&vector, &*vectors) {
                (Some(vector), Some(vectors)) => vectors.nearest(vector, CANDIDATES, weigh),
                _ => Vec::new(),
            };
            let wanted: HashSet<u64> = by_vector.iter().map(|(id, _)| *id).collect();
            let by_words = core
                .lexical()
                .search(&terms, &fresh, FORMULA, CANDIDATES.max(limit), NAMED, &wanted, weigh())
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
    Ok((candidates, terms))
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
    let (mut candidates, terms) = found(core, query, limit)?;
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
    if !terms.is_empty() && !asks_before(&query.text) {
        newer_first(core, query, &mut notes, &note)?;
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

/// The sessions that fit a query best, best first. A session is as near as its nearest note; a note is near if it fits the query, and
/// nearer if it speaks of the same as one of those that fit best, since what is asked is often answered in several sessions of which each
/// uses the query's words less than the one before:
///
/// ```text
/// score of a session = max over its notes of (score + 0.4 · max over the three best notes of (cosine with it · its score / the best score))
/// ```
/// The cosines are those of the notes' own vectors.
pub(super) fn sessions(core: &Core, query: &Query) -> Result<Vec<SessionHit>, Error> {
    let limit = query.limit.min(HITS_MAX);
    if limit == 0 || query.scopes.is_empty() {
        return Ok(Vec::new());
    }
    let (mut candidates, _) = found(core, query, CANDIDATES)?;
    candidates.retain(|candidate| candidate.row.thread > 0);
    let best = candidates.first().map_or(0.0, |candidate| candidate.score).max(f32::MIN_POSITIVE);
    let own: Vec<Option<Vec<f32>>> = {
        let vectors = core.vectors();
        let of = |id| vectors.as_ref().and_then(|vectors| mean(vectors.own(id).ok()?));
        candidates.iter().map(|candidate| of(candidate.row.id)).collect()
    };
    let link = |n: usize| {
        let cosines = (0..candidates.len().min(LINKED_TO)).filter_map(|to| {
            let cosine = dot(own[n].as_ref()?, own[to].as_ref()?);
            Some(cosine * candidates[to].score / best)
        });
        cosines.fold(0.0, f32::max)
    };
    let table = core.table();
    let mut places: HashMap<(u32, u32), usize> = HashMap::new();
    let mut sessions: Vec<SessionHit> = Vec::new();
    for (n, candidate) in candidates.iter().enumerate() {
        let score = candidate.score + LINK * link(n);
        let at = *places.entry((candidate.row.scope, candidate.row.thread)).or_insert(sessions.len());
        if at == sessions.len() {
            let session = table.name(candidate.row.thread).to_string();
            sessions.push(SessionHit { session, score, best: NoteId(candidate.row.id) });
        } else if score > sessions[at].score {
            (sessions[at].score, sessions[at].best) = (score, NoteId(candidate.row.id));
        }
    }
    sessions.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.best.cmp(&a.best)));
    sessions.truncate(limit);
    Ok(sessions)
}

/// The mean of a note's vectors, made as long as one of them.
fn mean(parts: Vec<Vec<f32>>) -> Option<Vec<f32>> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next()?;
    let mut more = false;
    for part in parts {
        sum.iter_mut().zip(&part).for_each(|(sum, x)| *sum += x);
        more = true;
    }
    if more {
        let length = dot(&sum, &sum).sqrt().max(f32::MIN_POSITIVE);
        sum.iter_mut().for_each(|x| *x /= length);
    }
    Some(sum)
}

impl Candidate {
    pub(super) fn bare(row: Row) -> Candidate {
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

/// The dot product, in eight sums that a processor can do at once.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
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

//! The words of all chunks, upside down, and the formula by which chunks are found.

use std::collections::HashMap;

use super::store::Known;
use super::words::{Asked, Dictionary, FIELDS, Field, Word};
use super::{IMPLEMENTS, KnownCommit, TEST};

/// How things are weighed. What each part is worth is in DECISIONS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Formula {
    /// How soon more of the same word stops to count.
    pub(super) k1: f32,
    /// What a word counts, by the field it stands in, …
    pub(super) fields: [f32; FIELDS],
    /// … and how much a field that is longer than the mean has to have more of it.
    pub(super) b: [f32; FIELDS],
    /// What a word counts that begins one of the question's, …
    pub(super) prefix: f32,
    /// … and one that stands for it.
    pub(super) meaning: f32,
    /// What the cosine of the question and the chunk counts, beside words at most 1.
    pub(super) cosine: f32,
    /// What all of it counts in a test or an example, …
    pub(super) test: f32,
    /// … and where something is done that was declared, and documented, elsewhere.
    pub(super) implements: f32,
    /// What the best commit counts.
    pub(super) commits: f32,
}

pub(super) const FORMULA: Formula = Formula {
    k1: 1.2,
    fields: [5.0, 4.0, 3.0, 0.4, 0.5, 0.5],
    b: [0.5, 0.0, 0.5, 1.0, 0.3, 0.3],
    prefix: 0.25,
    meaning: 0.25,
    cosine: 0.4,
    test: 0.75,
    implements: 0.9,
    commits: 0.5,
};

/// A word in a field of a chunk.
#[derive(Clone, Copy)]
struct Posting {
    chunk: u32,
    field: u8,
    count: u16,
}

/// The words of chunks, upside down.
#[derive(Default)]
pub(super) struct Postings {
    lists: Vec<Vec<Posting>>,
    /// By chunk: how many words each field has.
    lens: Vec<[f32; FIELDS]>,
    means: [f32; FIELDS],
}

impl Postings {
    /// Of the words of some chunks.
    pub(super) fn new<'a>(dictionary: &Dictionary, chunks: impl Iterator<Item = &'a [Word]>) -> Postings {
        let mut postings = Postings { lists: vec![Vec::new(); dictionary.len()], ..Postings::default() };
        for (n, words) in chunks.enumerate() {
            let n = n as u32;
            let mut lens = [0.0; FIELDS];
            for word in words {
                lens[word.field as usize] += f32::from(word.count);
                postings.lists[word.term as usize].push(Posting {
                    chunk: n,
                    field: word.field,
                    count: word.count,
                });
            }
            postings.lens.push(lens);
        }
        let count = postings.lens.len().max(1) as f32;
        postings.means = std::array::from_fn(|field| {
            (postings.lens.iter().map(|lens| lens[field]).sum::<f32>() / count).max(1.0)
        });
        postings
    }

    /// What each chunk has of the question's words, as a share of what a chunk that has each of them very often would have.
    ///
    /// ```text
    /// tf    = Σ forms of the word, Σ fields: form · field · count / (1 − b + b · length / mean length)
    /// score = Σ words: idf · tf · (k1 + 1) / (tf + k1)
    /// ```
    pub(super) fn scores(&self, dictionary: &Dictionary, asked: &[Asked], formula: &Formula) -> Vec<f32> {
        let chunks = self.lens.len();
        let (mut scores, mut tfs) = (vec![0.0_f32; chunks], vec![0.0_f32; chunks]);
        let mut most = 0.0;
        for word in asked {
            let forms = std::iter::once((&word.term, 1.0))
                .chain(word.prefixes.iter().map(|form| (form, formula.prefix)))
                .chain(word.meanings.iter().map(|form| (form, formula.meaning)));
            let (mut touched, mut having) = (Vec::new(), 0);
            for (form, weight) in forms {
                let list = dictionary.find(form).and_then(|id| self.lists.get(id as usize));
                let Some(list) = list else { continue };
                having = having.max(chunks_of(list));
                for posting in list {
                    let (chunk, field) = (posting.chunk as usize, posting.field as usize);
                    let longer = self.lens[chunk][field] / self.means[field];
                    let norm = 1.0 - formula.b[field] + formula.b[field] * longer;
                    if tfs[chunk] == 0.0 {
                        touched.push(chunk);
                    }
                    tfs[chunk] += weight * formula.fields[field] * f32::from(posting.count) / norm;
                }
            }
            // The most frequent of the forms says how much the word tells.
            let having = having as f32;
            let idf = (1.0 + (chunks as f32 - having + 0.5) / (having + 0.5)).ln();
            most += idf * (formula.k1 + 1.0);
            for chunk in touched {
                let tf = std::mem::take(&mut tfs[chunk]);
                scores[chunk] += idf * tf * (formula.k1 + 1.0) / (tf + formula.k1);
            }
        }
        if most > 0.0 {
            scores.iter_mut().for_each(|score| *score /= most);
        }
        scores
    }
}

/// How many chunks have a word themselves. Of a chunk's postings, the fields come one after the other.
fn chunks_of(list: &[Posting]) -> u32 {
    let mut last = None;
    let mut count = 0;
    for posting in list.iter().filter(|posting| posting.field != Field::Context as u8) {
        count += u32::from(last != Some(posting.chunk));
        last = Some(posting.chunk);
    }
    count
}

impl Formula {
    /// What a chunk's signs come to.
    pub(super) fn score(&self, lexical: f32, cosine: Option<f32>, flags: u8, commit: f32) -> f32 {
        let meaning = self.cosine * cosine.unwrap_or(0.0).max(0.0);
        let factor = |flag: u8, factor: f32| if flags & flag != 0 { factor } else { 1.0 };
        let prior = factor(TEST, self.test) * factor(IMPLEMENTS, self.implements);
        (lexical + meaning) * prior + self.commits * commit
    }
}

/// The commits whose messages have some of the question's words: what share of them, as BM25 counts it.
pub(super) fn commits(known: &Known, asked: &[Asked]) -> Vec<(usize, f32)> {
    let (k1, b) = (1.2, 0.75);
    let count = known.commits.len() as f32;
    let len = |commit: &KnownCommit| commit.words.iter().map(|word| f32::from(word.count)).sum::<f32>();
    let mean = (known.commits.iter().map(len).sum::<f32>() / count.max(1.0)).max(1.0);
    let mut scores: HashMap<usize, f32> = HashMap::new();
    let mut most = 0.0;
    for word in asked {
        let Some(id) = known.words.find(&word.term) else { continue };
        let having = known.commits.iter().enumerate().filter_map(|(n, commit)| {
            let word = commit.words.iter().find(|word| word.term == id)?;
            Some((n, f32::from(word.count), len(commit)))
        });
        let having: Vec<(usize, f32, f32)> = having.collect();
        let df = having.len() as f32;
        let idf = (1.0 + (count - df + 0.5) / (df + 0.5)).ln();
        most += idf * (k1 + 1.0);
        for (n, tf, len) in having {
            *scores.entry(n).or_default() += idf * tf * (k1 + 1.0) / (tf + k1 * (1.0 - b + b * len / mean));
        }
    }
    let mut scores: Vec<(usize, f32)> = scores.into_iter().map(|(n, score)| (n, score / most)).collect();
    scores.sort_by_key(|(n, _)| *n);
    scores
}

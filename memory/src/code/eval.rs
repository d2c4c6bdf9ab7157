//! How well functions are found by what their documentation says: each function's documentation is taken away and asked for, and the
//! function should come back. Beside it stand three simple ways on the same functions: words alone, vectors alone, and both by rank.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::{Chunk, CodeIndex, CodeQuery, HITS_MAX};
use crate::eval::{Scores, Tally, Timed, by_ranks};
use crate::recall::Plain;
use crate::{Digest, Embedder, Error};

/// Documentation with fewer words is not asked for: it says no more than a name does.
pub const WORDS_MIN: usize = 3;

/// A function of a source tree.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its file.
    pub path: String,
    /// Its pieces, in order: more than one if it is long.
    pub chunks: Vec<Chunk>,
    /// What its documentation says.
    pub doc: String,
    /// Whether its documentation may be asked for.
    pub asked: bool,
}

/// What an evaluation found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Code search as it is.
    pub ours: Scores,
    /// Words alone: BM25 with k₁ = 1.2 and b = 0.75 over stemmed words and identifiers whole and in parts.
    pub bm25: Scores,
    /// Vectors alone: the cosine of the question and the function's text. Nothing without an embedder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<Scores>,
    /// Both by the sum of 1 / (60 + rank).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rrf: Option<Scores>,
    /// Functions that were searched.
    pub functions: usize,
    /// Functions whose documentation was asked for.
    pub questions: usize,
    /// What it took.
    pub cost: Cost,
}

/// What an evaluation took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cost {
    /// Seconds until the index had all words.
    pub index_seconds: f64,
    /// Seconds until it had all vectors.
    pub embed_seconds: f64,
    /// Milliseconds of a search: the median …
    pub search_p50_ms: f64,
    /// … and of twenty the slowest but one.
    pub search_p95_ms: f64,
    /// The same without making the question's vector.
    pub scan_p50_ms: f64,
    /// The same without making the question's vector.
    pub scan_p95_ms: f64,
    /// Bytes of the index on disk.
    pub index_bytes: u64,
}

/// What the work is at: something done, of how many.
pub enum At {
    /// Texts that have their vectors.
    Embedding(usize, usize),
    /// Questions that were asked.
    Asking(usize, usize),
}

/// The first paragraph of a documentation, on one line: what is asked for.
pub fn question(doc: &str) -> String {
    let lines = doc.trim().lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Evaluates functions, in a fresh index in `dir`. Asked is the first paragraph of each function's documentation that may be asked
/// for, has at least [`WORDS_MIN`] words and is not said of another function as well. No function has its documentation in the index.
/// It is looked for among all functions, or just among those that are asked for.
///
/// # Errors
/// What the index or the embedder says.
pub fn evaluate(
    mut functions: Vec<Function>,
    all: bool,
    dir: &Path,
    embedder: Option<&Arc<dyn Embedder>>,
    tell: &mut dyn FnMut(At),
) -> Result<Report, Error> {
    let mut questions = questions(&functions);
    if !all {
        let asked: HashSet<usize> = questions.iter().map(|(n, _)| *n).collect();
        let mut n = 0..;
        functions.retain(|_| n.next().is_some_and(|n| asked.contains(&n)));
        questions.iter_mut().enumerate().for_each(|(n, (function, _))| *function = n);
    }
    functions.iter_mut().flat_map(|function| &mut function.chunks).for_each(|chunk| chunk.doc.clear());
    let timed =
        embedder.map(|embedder| Arc::new(Timed { inner: Arc::clone(embedder), nanos: AtomicU64::new(0) }));
    let mut index = CodeIndex::open(dir, timed.clone().map(|timed| timed as Arc<dyn Embedder>))?;
    let mut cost = Cost::default();
    let begun = Instant::now();
    fill(&mut index, &functions)?;
    cost.index_seconds = begun.elapsed().as_secs_f64();
    index.embed(&mut |done, total| {
        tell(At::Embedding(done, total));
        ControlFlow::Continue(())
    })?;
    cost.embed_seconds = begun.elapsed().as_secs_f64() - cost.index_seconds;
    let places: HashMap<(&str, (u32, u32), &str), usize> = functions
        .iter()
        .enumerate()
        .flat_map(|(n, f)| f.chunks.iter().map(move |c| ((f.path.as_str(), c.lines, c.symbol.as_str()), n)))
        .collect();
    let simple = Simple::new(&functions, embedder, tell)?;
    let [mut ours, mut bm25, mut dense, mut rrf] = std::array::from_fn(|_| Tally::default());
    let (mut searches, mut scans) = (Vec::new(), Vec::new());
    for (asked, (wanted, text)) in questions.iter().enumerate() {
        tell(At::Asking(asked, questions.len()));
        let wanted = HashSet::from([*wanted]);
        let nanos = || timed.as_ref().map_or(0, |timed| timed.nanos.load(Ordering::Relaxed));
        let (begun, before) = (Instant::now(), nanos());
        let query = CodeQuery { text: text.clone(), limit: HITS_MAX, ..CodeQuery::default() };
        let hits = index.search(&query)?;
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        searches.push(took);
        scans.push(took - (nanos() - before) as f64 / 1e6);
        let mut seen = HashSet::new();
        let found = hits
            .iter()
            .filter_map(|hit| places.get(&(hit.path.as_str(), hit.lines, hit.symbol.as_str())).copied());
        ours.add(&found.filter(|n| seen.insert(*n)).collect::<Vec<_>>(), &wanted);
        let by_words = simple.plain.ranks(text);
        bm25.add(&by_words, &wanted);
        if let Some(by_vectors) = simple.by_vectors(text)? {
            dense.add(&by_vectors, &wanted);
            rrf.add(&by_ranks(&[&by_words, &by_vectors], functions.len()), &wanted);
        }
    }
    for (of, p50, p95) in [
        (&mut searches, &mut cost.search_p50_ms, &mut cost.search_p95_ms),
        (&mut scans, &mut cost.scan_p50_ms, &mut cost.scan_p95_ms),
    ] {
        of.sort_by(f64::total_cmp);
        let at = |share: f64| of.get((of.len() as f64 * share) as usize).copied().unwrap_or_default();
        (*p50, *p95) = (at(0.5), at(0.95));
    }
    cost.index_bytes = crate::eval::size(dir);
    Ok(Report {
        ours: ours.scores(),
        bm25: bm25.scores(),
        dense: embedder.map(|_| dense.scores()),
        rrf: embedder.map(|_| rrf.scores()),
        functions: functions.len(),
        questions: questions.len(),
        cost,
    })
}

/// Which functions are asked for, and with what words.
fn questions(functions: &[Function]) -> Vec<(usize, String)> {
    let said: Vec<String> = functions.iter().map(|function| question(&function.doc)).collect();
    let mut times: HashMap<&str, usize> = HashMap::new();
    said.iter().for_each(|said| *times.entry(said).or_default() += 1);
    let asked = functions.iter().zip(&said).enumerate().filter(|(_, (function, said))| {
        function.asked && said.split_whitespace().count() >= WORDS_MIN && times[said.as_str()] == 1
    });
    asked.map(|(n, (_, said))| (n, said.clone())).collect()
}

fn fill(index: &mut CodeIndex, functions: &[Function]) -> Result<(), Error> {
    let mut files: Vec<(String, Digest)> = Vec::new();
    let mut chunks: HashMap<&str, Vec<Chunk>> = HashMap::new();
    for function in functions {
        let of = chunks.entry(&function.path).or_insert_with(|| {
            files.push((function.path.clone(), Digest::of(function.path.as_bytes())));
            Vec::new()
        });
        of.extend(function.chunks.iter().cloned());
    }
    index.update(&files, &mut |path| chunks.remove(path).unwrap_or_default())?;
    Ok(())
}

/// The simple ways.
struct Simple<'a> {
    plain: Plain,
    embedder: Option<&'a Arc<dyn Embedder>>,
    vectors: Vec<Vec<f32>>,
}

impl<'a> Simple<'a> {
    fn new(
        functions: &[Function],
        embedder: Option<&'a Arc<dyn Embedder>>,
        tell: &mut dyn FnMut(At),
    ) -> Result<Simple<'a>, Error> {
        let text = |function: &Function| {
            function.chunks.iter().map(|chunk| chunk.text.as_str()).collect::<Vec<_>>().join("\n")
        };
        let texts: Vec<String> = functions.iter().map(text).collect();
        let mut vectors = Vec::new();
        if let Some(embedder) = embedder {
            for part in texts.chunks(32) {
                tell(At::Embedding(vectors.len(), texts.len()));
                vectors.extend(embedder.embed(&part.iter().map(String::as_str).collect::<Vec<_>>())?);
            }
        }
        Ok(Simple { plain: Plain::new(texts.iter().map(String::as_str)), embedder, vectors })
    }

    fn by_vectors(&self, question: &str) -> Result<Option<Vec<usize>>, Error> {
        let Some(embedder) = self.embedder else { return Ok(None) };
        let asked = embedder.embed(&[question])?.pop().unwrap_or_default();
        let cosine = |vector: &Vec<f32>| vector.iter().zip(&asked).map(|(x, y)| x * y).sum::<f32>();
        let scores: Vec<f32> = self.vectors.iter().map(cosine).collect();
        let mut ranked: Vec<usize> = (0..scores.len()).collect();
        ranked.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        Ok(Some(ranked))
    }
}

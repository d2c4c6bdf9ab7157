//! How well recall finds: conversations are written into a store as sessions would write them, questions are asked, and what comes
//! back is compared with what should. Beside it stand three simple ways on the same texts: words alone, vectors alone, and both by rank.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::recall::Plain;
use crate::{Embedder, Error, Kind, Memory, Note, NoteId, Query, Scope, Trust, parse_time};

/// A conversation with questions about it: one line of an evaluation file.
#[derive(Debug, Clone, Deserialize)]
pub struct Conversation {
    /// Its name.
    #[serde(default)]
    pub id: String,
    /// What was said, in order.
    pub messages: Vec<Message>,
    /// What is asked.
    #[serde(default)]
    pub queries: Vec<Question>,
}

/// Something that was said.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// Its name within the conversation.
    pub id: String,
    /// The session it belongs to.
    #[serde(default)]
    pub session: String,
    /// When it was said, as a person or a program writes it.
    #[serde(default)]
    pub time: Option<String>,
    /// Who said it.
    #[serde(default)]
    pub speaker: Option<String>,
    /// `user`, `assistant` or `tool`.
    #[serde(default)]
    pub role: Option<String>,
    /// What was said.
    pub text: String,
}

/// A question, and the messages that answer it.
#[derive(Debug, Clone, Deserialize)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// When it is asked.
    #[serde(default)]
    pub time: Option<String>,
    /// The messages that answer it.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// Pairs of a newer message and the older one that it takes the place of.
    #[serde(default)]
    pub supersedes: Vec<(String, String)>,
    /// What sort of question it is.
    #[serde(default)]
    pub category: serde_json::Value,
}

/// How well something was found: shares of 1, means over questions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Scores {
    /// The share of the evidence that is the first hit …
    #[serde(rename = "recall@1")]
    pub recall_1: f64,
    /// … among the first five …
    #[serde(rename = "recall@5")]
    pub recall_5: f64,
    /// … ten …
    #[serde(rename = "recall@10")]
    pub recall_10: f64,
    /// … and twenty hits.
    #[serde(rename = "recall@20")]
    pub recall_20: f64,
    /// One over the place of the first hit that is evidence.
    pub mrr: f64,
    /// The normalised discounted cumulative gain of the first ten hits (Järvelin and Kekäläinen 2002).
    #[serde(rename = "ndcg@10")]
    pub ndcg_10: f64,
    /// Questions.
    pub questions: usize,
}

/// What an evaluation found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Recall as it is.
    pub ours: Scores,
    /// The same, with a session as the thing to be found.
    pub sessions: Scores,
    /// Words alone: BM25 with k₁ = 1.2 and b = 0.75 over stemmed words.
    pub bm25: Scores,
    /// Vectors alone: the cosine of the question and `speaker: text`. Nothing without an embedder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<Scores>,
    /// Both by the sum of 1 / (60 + rank).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rrf: Option<Scores>,
    /// Recall as it is, by the sort of question.
    pub categories: BTreeMap<String, Scores>,
    /// How the new and the old stood to each other, where there is a pair of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supersession: Option<Supersession>,
    /// What it took.
    pub cost: Cost,
}

/// How the new and the old stood to each other.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Supersession {
    /// Pairs.
    pub pairs: usize,
    /// The share of them in which the new stood above the old, or alone.
    pub new_above_old: f64,
    /// The same, by words alone.
    pub bm25_new_above_old: f64,
}

/// What an evaluation took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cost {
    /// Messages written.
    pub messages: usize,
    /// Messages acknowledged in a second, one after the other.
    pub written_per_second: f64,
    /// Messages in a second until they were in all indexes.
    pub indexed_per_second: f64,
    /// Milliseconds of a recall: the median …
    pub recall_p50_ms: f64,
    /// … and of twenty the slowest but one.
    pub recall_p95_ms: f64,
    /// The same without making the question's vector.
    pub search_p50_ms: f64,
    /// The same without making the question's vector.
    pub search_p95_ms: f64,
    /// Bytes of the store on disk.
    pub store_bytes: u64,
}

/// Hits asked for.
const HITS: usize = 200;

/// Evaluates conversations, each in a fresh store below `dir`. `tell` is told how many questions were asked, of how many.
///
/// # Errors
/// What the store or the embedder says.
pub fn evaluate(
    conversations: &[Conversation],
    dir: &Path,
    embedder: Option<&Arc<dyn Embedder>>,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Report, Error> {
    let total = conversations.iter().map(|conversation| conversation.queries.len()).sum();
    let mut sums = Sums::default();
    let timed =
        embedder.map(|embedder| Arc::new(Timed { inner: Arc::clone(embedder), nanos: AtomicU64::new(0) }));
    for (n, conversation) in conversations.iter().enumerate() {
        let asked = sums.ours.count;
        let store = dir.join(format!("conversation-{n}"));
        one(conversation, &store, timed.as_ref(), &mut sums, &mut |done| tell(asked + done, total))?;
    }
    Ok(sums.report(embedder.is_some()))
}

/// The scope of a conversation.
fn scope() -> Scope {
    Scope::Repository("evaluation".into())
}

/// A message as a session would note it.
fn note(message: &Message, order: usize) -> Note {
    let role = message.role.as_deref().unwrap_or("user");
    let trust = match role {
        "assistant" => Trust::ModelInferred,
        "tool" => Trust::ToolVerified,
        _ => Trust::UserSaid,
    };
    let author = message.speaker.clone().unwrap_or_else(|| role.to_string());
    let mut note = Note::new(Kind::Episode, message.text.clone(), scope(), author, trust);
    note.origin.journal = Some(message.session.clone());
    note.happened_ms = message.time.as_deref().and_then(parse_time).map(|ms| ms + order as u64);
    note
}

fn one(
    conversation: &Conversation,
    dir: &Path,
    timed: Option<&Arc<Timed>>,
    sums: &mut Sums,
    tell: &mut dyn FnMut(usize),
) -> Result<(), Error> {
    let memory = Memory::open(dir)?;
    if let Some(timed) = timed {
        memory.embed_with(Arc::clone(timed) as Arc<dyn Embedder>)?;
    }
    // Messages without a text say nothing and cannot be noted.
    let messages: Vec<&Message> =
        conversation.messages.iter().filter(|message| !message.text.trim().is_empty()).collect();
    let begun = Instant::now();
    let mut places: HashMap<NoteId, usize> = HashMap::new();
    for (order, message) in messages.iter().enumerate() {
        places.insert(memory.remember(note(message, order))?, order);
    }
    sums.write_seconds += begun.elapsed().as_secs_f64();
    memory.settle();
    sums.index_seconds += begun.elapsed().as_secs_f64();
    sums.messages += messages.len();
    let plain = Plain::new(messages.iter().map(|message| message.text.as_str()));
    let vectors = match timed {
        Some(timed) => {
            let texts: Vec<String> = messages
                .iter()
                .map(|message| match &message.speaker {
                    Some(speaker) => format!("{speaker}: {}", message.text),
                    None => message.text.clone(),
                })
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            Some(timed.inner.embed(&texts)?)
        }
        None => None,
    };
    let by_id: HashMap<&str, usize> =
        messages.iter().enumerate().map(|(order, message)| (message.id.as_str(), order)).collect();
    for (n, question) in conversation.queries.iter().enumerate() {
        tell(n + 1);
        let evidence: HashSet<usize> =
            question.evidence.iter().filter_map(|id| by_id.get(id.as_str()).copied()).collect();
        if evidence.is_empty() {
            continue;
        }
        let query =
            Query { text: question.text.clone(), scopes: vec![scope()], limit: HITS, ..Query::default() };
        let before = timed.map_or(0, |timed| timed.nanos.load(Ordering::Relaxed));
        let begun = Instant::now();
        let hits = memory.recall(&query)?;
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        let embedding = timed.map_or(0, |timed| timed.nanos.load(Ordering::Relaxed)) - before;
        sums.recalls.push(took);
        sums.searches.push(took - embedding as f64 / 1e6);
        let ranked: Vec<usize> = hits.iter().filter_map(|hit| places.get(&hit.id).copied()).collect();
        let scores = sums.ours.add(&ranked, &evidence);
        let category = match &question.category {
            serde_json::Value::Null => None,
            serde_json::Value::String(name) => Some(name.clone()),
            other => Some(other.to_string()),
        };
        if let Some(category) = category {
            sums.categories.entry(category).or_default().put(scores);
        }
        let sessions = memory.recall_sessions(&query)?;
        let names: Vec<&str> = sessions.iter().map(|hit| hit.session.as_str()).collect();
        let wanted: HashSet<&str> = evidence.iter().map(|order| messages[*order].session.as_str()).collect();
        sums.sessions.add(&names, &wanted);
        let by_words = plain.ranks(&question.text);
        sums.bm25.add(&by_words, &evidence);
        if let (Some(vectors), Some(timed)) = (&vectors, timed) {
            let asked = timed.inner.embed(&[question.text.as_str()])?.pop().unwrap_or_default();
            let mut scored: Vec<(usize, f32)> = vectors
                .iter()
                .enumerate()
                .map(|(order, vector)| (order, vector.iter().zip(&asked).map(|(x, y)| x * y).sum()))
                .collect();
            scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let by_vectors: Vec<usize> = scored.into_iter().map(|(order, _)| order).collect();
            sums.dense.add(&by_vectors, &evidence);
            sums.rrf.add(&by_ranks(&[&by_words, &by_vectors], messages.len()), &evidence);
        }
        for (new, old) in &question.supersedes {
            let (Some(new), Some(old)) = (by_id.get(new.as_str()), by_id.get(old.as_str())) else { continue };
            let above = |ranked: &[usize]| {
                let place = |of: &usize| ranked.iter().position(|order| order == of).unwrap_or(usize::MAX);
                place(new) < place(old)
            };
            sums.pairs += 1;
            sums.ours_above += usize::from(above(&ranked));
            sums.bm25_above += usize::from(above(&by_words));
        }
    }
    drop(memory);
    sums.store_bytes += size(dir);
    Ok(())
}

/// Both by the sum of 1 / (60 + rank).
pub(crate) fn by_ranks(lists: &[&Vec<usize>], count: usize) -> Vec<usize> {
    let mut scores = vec![0.0_f64; count];
    for list in lists {
        for (rank, order) in list.iter().enumerate() {
            scores[*order] += 1.0 / (61.0 + rank as f64);
        }
    }
    let mut ranked: Vec<usize> = (0..count).collect();
    ranked.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    ranked
}

pub(crate) fn size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let of = |entry: std::io::Result<std::fs::DirEntry>| match entry
        .and_then(|entry| Ok((entry.metadata()?, entry.path())))
    {
        Ok((meta, path)) if meta.is_dir() => size(&path),
        Ok((meta, _)) => meta.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// An embedder with a clock.
#[derive(Debug)]
pub(crate) struct Timed {
    pub(crate) inner: Arc<dyn Embedder>,
    pub(crate) nanos: AtomicU64,
}

impl Embedder for Timed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        let begun = Instant::now();
        let vectors = self.inner.embed(texts);
        self.nanos.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        vectors
    }
}

#[derive(Default)]
struct Sums {
    ours: Tally,
    sessions: Tally,
    bm25: Tally,
    dense: Tally,
    rrf: Tally,
    categories: BTreeMap<String, Tally>,
    pairs: usize,
    ours_above: usize,
    bm25_above: usize,
    messages: usize,
    write_seconds: f64,
    index_seconds: f64,
    recalls: Vec<f64>,
    searches: Vec<f64>,
    store_bytes: u64,
}

/// Sums of scores: recall at 1, 5, 10 and 20, reciprocal rank, gain.
#[derive(Default)]
pub(crate) struct Tally {
    sums: [f64; 6],
    count: usize,
}

impl Tally {
    pub(crate) fn add<T: Eq + std::hash::Hash>(&mut self, ranked: &[T], evidence: &HashSet<T>) -> [f64; 6] {
        let found: Vec<usize> = ranked
            .iter()
            .enumerate()
            .filter(|(_, of)| evidence.contains(of))
            .map(|(place, _)| place)
            .collect();
        let within =
            |k: usize| found.iter().filter(|place| **place < k).count() as f64 / evidence.len() as f64;
        let gain = |place: usize| 1.0 / (place as f64 + 2.0).log2();
        let got: f64 = found.iter().filter(|place| **place < 10).map(|place| gain(*place)).sum();
        let most: f64 = (0..evidence.len().min(10)).map(gain).sum();
        let first = found.first().map_or(0.0, |place| 1.0 / (*place as f64 + 1.0));
        let scores = [within(1), within(5), within(10), within(20), first, got / most];
        self.put(scores);
        scores
    }

    fn put(&mut self, scores: [f64; 6]) {
        self.sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
        self.count += 1;
    }

    pub(crate) fn scores(&self) -> Scores {
        let [recall_1, recall_5, recall_10, recall_20, mrr, ndcg_10] =
            self.sums.map(|sum| sum / self.count.max(1) as f64);
        Scores { recall_1, recall_5, recall_10, recall_20, mrr, ndcg_10, questions: self.count }
    }
}

impl Sums {
    fn report(mut self, dense: bool) -> Report {
        let quantile = |of: &mut Vec<f64>, share: f64| {
            of.sort_by(f64::total_cmp);
            of.get(((of.len() as f64 * share) as usize).min(of.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0.0)
        };
        let share = |of: usize| of as f64 / self.pairs.max(1) as f64;
        let supersession = (self.pairs > 0).then(|| Supersession {
            pairs: self.pairs,
            new_above_old: share(self.ours_above),
            bm25_new_above_old: share(self.bm25_above),
        });
        let per_second = |seconds: f64| if seconds > 0.0 { self.messages as f64 / seconds } else { 0.0 };
        let cost = Cost {
            messages: self.messages,
            written_per_second: per_second(self.write_seconds),
            indexed_per_second: per_second(self.index_seconds),
            recall_p50_ms: quantile(&mut self.recalls, 0.5),
            recall_p95_ms: quantile(&mut self.recalls, 0.95),
            search_p50_ms: quantile(&mut self.searches, 0.5),
            search_p95_ms: quantile(&mut self.searches, 0.95),
            store_bytes: self.store_bytes,
        };
        Report {
            ours: self.ours.scores(),
            sessions: self.sessions.scores(),
            bm25: self.bm25.scores(),
            dense: dense.then(|| self.dense.scores()),
            rrf: dense.then(|| self.rrf.scores()),
            categories: self.categories.iter().map(|(name, tally)| (name.clone(), tally.scores())).collect(),
            supersession,
            cost,
        }
    }
}

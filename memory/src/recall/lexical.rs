//! The index of words on disk. The only file that names tantivy.
//!
//! Of each note two bags of words are kept: its own, and those of the notes beside it in its conversation, each as often as it
//! counts (`near`, in tenths). A search walks over the query's words in both and adds them up itself, because a word that stands
//! in both is one word: BM25F (Robertson, Zaragoza and Taylor 2004),
//!
//! ```text
//! tf    = tf of the note + near / 10
//! score = Σ idf · tf · (k1 + 1) / (tf + k1 · (1 − b + b · length / mean length))
//! ```
//! with the idf of the notes' own words. The text itself is not stored; what a hit says is read from the log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tantivy::index::SegmentId;
use tantivy::indexer::NoMergePolicy;
use tantivy::postings::Postings;
use tantivy::schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{PreTokenizedString, Token};
use tantivy::{
    DocId, DocSet, Index, IndexReader, IndexWriter, ReloadPolicy, SegmentReader, TERMINATED, TantivyDocument,
    TantivyError, Term,
};

use super::fuse::Best;

/// Raised when fields or what is put into them change: an index of another version is made anew.
const VERSION: u32 = 2;
/// Rooms for searches that are kept: as many as run at once.
const SCRATCHES_MAX: usize = 4;
/// Memory for documents that are not committed yet.
const WRITER_BYTES: usize = 32 * 1024 * 1024;
/// Among so many of the best, nothing is left out that has one of the query's rarer words …
const SURE: usize = 50;
/// … as long as those that have one are not too many to be judged.
const JUDGED_MAX: usize = 20_000;
/// A word that counts less than this share of the query's rarest is passed over.
const NEGLIGIBLE: f32 = 0.01;
/// How many times a word stands in `near` that counts as one.
pub(crate) const NEAR_UNITS: u32 = 10;

/// The index.
pub(crate) struct Lexical {
    index: Index,
    reader: IndexReader,
    fields: Fields,
    /// Made at the first write: it starts threads, which a store that is only read does not need.
    writer: Mutex<Option<IndexWriter>>,
    /// The notes' numbers by segment and document.
    numbers: Mutex<HashMap<SegmentId, Arc<[u64]>>>,
    /// Room that searches work in. Fresh memory costs more than what is done in it.
    scratch: Mutex<Vec<Scratch>>,
}

/// By document of a segment: what it scores, how often it has the term at hand, and what it weighs: no number before it was asked,
/// nothing when it is not looked for.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    tfs: Vec<f32>,
    weights: Vec<f32>,
}

impl Scratch {
    /// Made ready for so many documents.
    fn of(&mut self, docs: usize) -> &mut Scratch {
        for (list, value) in [(&mut self.scores, 0.0), (&mut self.tfs, 0.0), (&mut self.weights, f32::NAN)] {
            list.clear();
            list.resize(docs, value);
        }
        self
    }
}

#[derive(Clone, Copy)]
struct Fields {
    id: Field,
    own: Field,
    near: Field,
}

/// A note's words as they are indexed.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Bags {
    /// Its own.
    pub(crate) own: Bag,
    /// Those of the notes beside it, in tenths.
    pub(crate) near: Bag,
}

/// Words, and how often each stands there.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Bag {
    pub(crate) counts: BTreeMap<String, u32>,
    pub(crate) len: u32,
}

impl Bag {
    /// Puts terms in, each so many times.
    pub(crate) fn put(&mut self, terms: &[String], times: u32) {
        for term in terms {
            *self.counts.entry(term.clone()).or_insert(0) += times;
        }
        self.len += terms.len() as u32 * times;
    }
}

/// How words are weighed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Formula {
    /// How soon more of the same word stops to count.
    pub(crate) k1: f32,
    /// How much a long note has to have more of a word.
    pub(crate) b: f32,
    /// What one word of `near` counts, against one of the note's own.
    pub(crate) near: f32,
}

impl Lexical {
    /// Opens what is there. Answers with the number of the last note that is in.
    pub(crate) fn open(dir: &Path) -> Result<(Lexical, u64), String> {
        // Damaged files are told by their checksums; should one get past them, a panic is no more than that.
        std::panic::catch_unwind(|| Lexical::open_checked(dir)).unwrap_or_else(|_| Err("it panicked".into()))
    }

    fn open_checked(dir: &Path) -> Result<(Lexical, u64), String> {
        let index = Index::open_in_dir(dir).map_err(say)?;
        let payload = index.load_metas().map_err(say)?.payload.unwrap_or_default();
        let through = payload
            .strip_prefix(&format!("v{VERSION} through "))
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("it is not of version {VERSION}"))?;
        let damaged = index.validate_checksum().map_err(say)?;
        if !damaged.is_empty() {
            return Err(format!("{} of its files are damaged", damaged.len()));
        }
        Ok((Lexical::over(index)?, through))
    }

    /// Deletes what is there and makes an empty index.
    pub(crate) fn create(dir: &Path) -> Result<Lexical, String> {
        if dir.exists() {
            fs::remove_dir_all(dir).or_else(|_| fs::remove_file(dir)).map_err(|e| e.to_string())?;
        }
        fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        let words = || {
            // Words come cut up; the tokenizer is never asked.
            let indexing = TextFieldIndexing::default().set_tokenizer("raw");
            TextOptions::default()
                .set_indexing_options(indexing.set_index_option(IndexRecordOption::WithFreqs))
        };
        let mut schema = Schema::builder();
        schema.add_u64_field("id", INDEXED | FAST);
        schema.add_text_field("own", words());
        schema.add_text_field("near", words());
        let lexical = Lexical::over(Index::create_in_dir(dir, schema.build()).map_err(say)?)?;
        lexical.commit(&[], &[], 0)?;
        Ok(lexical)
    }

    fn over(index: Index) -> Result<Lexical, String> {
        let schema = index.schema();
        let field = |name| schema.get_field(name).map_err(say);
        let fields = Fields { id: field("id")?, own: field("own")?, near: field("near")? };
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(say)?;
        Ok(Lexical {
            index,
            reader,
            fields,
            writer: Mutex::new(None),
            numbers: Mutex::default(),
            scratch: Mutex::default(),
        })
    }

    /// How many notes are in.
    pub(crate) fn count(&self) -> u64 {
        self.reader.searcher().num_docs()
    }

    /// Puts notes in, in place of what was known of them, and takes others out; both are durable, and searches see them, when
    /// this returns. `through` is the number of the last note that is in.
    pub(crate) fn commit(&self, put: &[(u64, Bags)], gone: &[u64], through: u64) -> Result<(), String> {
        self.writing(|writer| {
            for (id, bags) in put {
                self.put(writer, *id, bags)?;
            }
            for id in gone {
                writer.delete_term(Term::from_field_u64(self.fields.id, *id));
            }
            self.seal(writer, through)
        })
    }

    /// Puts many notes in that are not there yet, with one commit at the end. `entries` calls what it is given with each.
    pub(crate) fn fill(
        &self,
        entries: impl FnOnce(&mut dyn FnMut(u64, &Bags) -> Result<(), String>) -> Result<(), String>,
        through: u64,
    ) -> Result<(), String> {
        self.writing(|writer| {
            entries(&mut |id, bags| self.put(writer, id, bags).map_err(say))
                .map_err(TantivyError::InternalError)?;
            self.seal(writer, through)
        })
    }

    /// Rewrites every segment that holds something deleted, so that no byte of it is left in the index's files.
    pub(crate) fn expunge(&self) -> Result<(), String> {
        self.writing(|writer| {
            // No other merge may take the segments meanwhile.
            let policy = writer.get_merge_policy();
            writer.set_merge_policy(Box::new(NoMergePolicy));
            let expunged = self.expunge_with(writer);
            writer.set_merge_policy(Box::new(Shared(policy)));
            expunged
        })
    }

    fn expunge_with(&self, writer: &mut IndexWriter) -> Result<(), TantivyError> {
        for _ in 0..100 {
            let metas = self.index.searchable_segment_metas()?;
            let Some(meta) = metas.iter().find(|meta| meta.has_deletes()) else {
                self.reader.reload()?;
                writer.garbage_collect_files().wait()?;
                return Ok(());
            };
            if writer.merge(&[meta.id()]).wait().is_err() {
                // A merge that had begun before has the segment; it takes the deleted out as well.
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        Err(TantivyError::InternalError("a merge did not come to its end".into()))
    }

    /// The notes that fit the terms best, in no order: number and score, as a share of what a note of just these words, each very
    /// often, would have. The best are those with the greatest products of score and weight: `weight` says what a note counts, at
    /// most `most_weight`, or that it is not looked for. The notes of `wanted` that have some of the terms are among them.
    /// `fresh` are notes that are not in yet, or are no longer as they are there.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of them say what is looked for, and there is one caller"
    )]
    pub(crate) fn search(
        &self,
        terms: &[String],
        fresh: &BTreeMap<u64, Arc<Bags>>,
        formula: Formula,
        limit: usize,
        most_weight: f32,
        wanted: &HashSet<u64>,
        mut weight: impl FnMut(u64) -> Option<f32>,
    ) -> Result<Vec<(u64, f32)>, String> {
        let searcher = self.reader.searcher();
        let len = |bags: &Bags| bags.own.len as f32 + formula.near * bags.near.len as f32;
        let notes = searcher.num_docs() as f32 + fresh.len() as f32;
        let mut words: f32 = fresh.values().map(|bags| len(bags)).sum();
        for segment in searcher.segment_readers() {
            let total = |field| segment.inverted_index(field).map(|index| index.total_num_tokens() as f32);
            words += total(self.fields.own).map_err(say)?;
            words += formula.near * total(self.fields.near).map_err(say)?;
        }
        let mean = (words / notes.max(1.0)).max(1.0);
        let mut idfs = Vec::with_capacity(terms.len());
        for term in terms {
            let indexed = searcher.doc_freq(&Term::from_field_text(self.fields.own, term)).map_err(say)?;
            let fresh = fresh.values().filter(|bags| bags.own.counts.contains_key(term)).count();
            let having = (indexed as f32 + fresh as f32).min(notes);
            idfs.push((1.0 + (notes - having + 0.5) / (having + 0.5)).ln());
        }
        // The rarest first: they decide, and what is left may then be too little to matter.
        let mut by_weight: Vec<(&String, f32)> = terms.iter().zip(idfs.iter().copied()).collect();
        by_weight.sort_by(|a, b| b.1.total_cmp(&a.1));
        // What stands in nearly every note tells none from another, and would be walked over for nothing.
        let rarest = by_weight.first().map_or(0.0, |(_, idf)| *idf);
        by_weight.retain(|(_, idf)| *idf >= NEGLIGIBLE * rarest);
        let most = (formula.k1 + 1.0) * idfs.iter().sum::<f32>();
        if most <= 0.0 {
            return Ok(Vec::new());
        }
        let gain = |idf: f32, tf: f32, len: f32| {
            let norm = formula.k1 * (1.0 - formula.b + formula.b * len / mean);
            idf * tf * (formula.k1 + 1.0) / (tf + norm)
        };
        let mut best = Best::new(limit);
        let mut found: HashMap<u64, f32> = HashMap::new();
        let mut take = |id: u64, score: f32, weight: f32| {
            if wanted.contains(&id) {
                found.insert(id, score);
            }
            if score * weight > best.least() {
                best.put(id, score * weight);
            }
        };
        for segment in searcher.segment_readers() {
            // What is fresh is no longer as it is in the index. Mostly it is what was written last.
            let first_fresh = fresh.keys().next().copied().unwrap_or(u64::MAX);
            let weight =
                |id: u64| if id >= first_fresh && fresh.contains_key(&id) { None } else { weight(id) };
            let sure = SURE.min(limit);
            self.search_segment(
                segment,
                &by_weight,
                formula,
                gain,
                (sure, most_weight),
                weight,
                |id, score, weight| {
                    take(id, score / most, weight);
                },
            )?;
        }
        for (id, bags) in fresh {
            let tf = |term: &String| {
                let of = |bag: &Bag| bag.counts.get(term).copied().unwrap_or(0) as f32;
                of(&bags.own) + formula.near * of(&bags.near)
            };
            let gains = terms.iter().zip(&idfs).map(|(term, idf)| match tf(term) {
                0.0 => 0.0,
                tf => gain(*idf, tf, len(bags)),
            });
            match (gains.sum::<f32>(), weight(*id)) {
                (score, Some(weight)) if score > 0.0 => take(*id, score / most, weight),
                _ => {}
            }
        }
        for (id, score) in best.sorted() {
            if let Some(weight) = weight(id).filter(|weight| *weight > 0.0) {
                found.insert(id, score / weight);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Calls `each` with the notes of a segment that have some of the terms, which come with their idf and the greatest first: its
    /// number, its score and its weight, for which `weight` is asked once. Notes that only have terms which cannot bring them among the best
    /// so many of `sure`, given the most that a weight can be, are left out.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of them say what is looked for, and there is one caller"
    )]
    fn search_segment(
        &self,
        segment: &SegmentReader,
        terms: &[(&String, f32)],
        formula: Formula,
        gain: impl Fn(f32, f32, f32) -> f32,
        sure: (usize, f32),
        mut weight: impl FnMut(u64) -> Option<f32>,
        mut each: impl FnMut(u64, f32, f32),
    ) -> Result<(), String> {
        let fields = [(self.fields.own, 1.0), (self.fields.near, formula.near)];
        let norms = |field| segment.get_fieldnorms_reader(field).map_err(say);
        let (own, near) = (norms(self.fields.own)?, norms(self.fields.near)?);
        let ids = self.ids(segment)?;
        let docs = segment.max_doc() as usize;
        let mut scratch =
            self.scratch.lock().map_or_else(|_| None, |mut kept| kept.pop()).unwrap_or_default();
        let Scratch { scores, tfs, weights } = scratch.of(docs);
        let (mut having, mut touched): (Vec<DocId>, Vec<DocId>) = (Vec::new(), Vec::new());
        // Whether the notes that have one of the rest of the terms and none so far can no longer matter.
        let mut closed = false;
        for (n, (term, idf)) in terms.iter().enumerate() {
            if !closed && (sure.0.max(1)..JUDGED_MAX).contains(&having.len()) {
                let left: f32 = terms[n..].iter().map(|(_, idf)| idf * (formula.k1 + 1.0)).sum();
                let mut weighed: Vec<f32> =
                    having.iter().map(|&doc| scores[doc as usize] * weights[doc as usize]).collect();
                let place = weighed.len().saturating_sub(sure.0.max(1));
                closed = left <= *weighed.select_nth_unstable_by(place, f32::total_cmp).1 / sure.1;
                having.sort_unstable();
            }
            for (field, share) in fields {
                let index = segment.inverted_index(field).map_err(say)?;
                let term = Term::from_field_text(field, term);
                let postings = index.read_postings(&term, IndexRecordOption::WithFreqs).map_err(say)?;
                let Some(mut postings) = postings else { continue };
                let mut doc = postings.doc();
                let mut add = |doc: DocId, times: u32| {
                    let tf = &mut tfs[doc as usize];
                    if *tf == 0.0 {
                        touched.push(doc);
                    }
                    *tf += share * times as f32;
                };
                if closed {
                    for &wanted in &having {
                        if doc < wanted {
                            doc = postings.seek(wanted);
                        }
                        if doc == wanted {
                            add(doc, postings.term_freq());
                        }
                    }
                } else {
                    while doc != TERMINATED {
                        let known = &mut weights[doc as usize];
                        if known.is_nan() {
                            let living = !segment.is_deleted(doc);
                            *known = Some(ids[doc as usize])
                                .filter(|_| living)
                                .and_then(&mut weight)
                                .unwrap_or(0.0);
                        }
                        if *known > 0.0 {
                            add(doc, postings.term_freq());
                        }
                        doc = postings.advance();
                    }
                }
            }
            for doc in touched.drain(..) {
                let len = own.fieldnorm(doc) as f32 + formula.near * near.fieldnorm(doc) as f32;
                let score = &mut scores[doc as usize];
                if *score == 0.0 {
                    having.push(doc);
                }
                *score += gain(*idf, std::mem::take(&mut tfs[doc as usize]), len);
            }
        }
        for doc in having {
            each(ids[doc as usize], scores[doc as usize], weights[doc as usize]);
        }
        if let Ok(mut kept) = self.scratch.lock()
            && kept.len() < SCRATCHES_MAX
        {
            kept.push(scratch);
        }
        Ok(())
    }

    /// The notes' numbers in a segment, by document: read once, since every search asks for many.
    fn ids(&self, segment: &SegmentReader) -> Result<Arc<[u64]>, String> {
        let known = || self.numbers.lock().map_err(|_| "a thread of the index panicked".to_string());
        if let Some(ids) = known()?.get(&segment.segment_id()) {
            return Ok(Arc::clone(ids));
        }
        let column = segment.fast_fields().u64("id").map_err(say)?;
        let id = |doc| column.first(doc).ok_or_else(|| "a note in the index has no number".to_string());
        let ids: Arc<[u64]> = (0..segment.max_doc()).map(id).collect::<Result<_, _>>()?;
        let living: HashSet<SegmentId> =
            self.reader.searcher().segment_readers().iter().map(SegmentReader::segment_id).collect();
        let mut known = known()?;
        known.retain(|segment, _| living.contains(segment));
        known.insert(segment.segment_id(), Arc::clone(&ids));
        Ok(ids)
    }

    fn put(&self, writer: &IndexWriter, id: u64, bags: &Bags) -> Result<(), TantivyError> {
        let mut document = TantivyDocument::default();
        document.add_u64(self.fields.id, id);
        for (field, bag) in [(self.fields.own, &bags.own), (self.fields.near, &bags.near)] {
            let mut tokens = Vec::with_capacity(bag.len as usize);
            for (text, times) in &bag.counts {
                for _ in 0..*times {
                    tokens.push(Token { text: text.clone(), position: tokens.len(), ..Token::default() });
                }
            }
            document.add_pre_tokenized_text(field, PreTokenizedString { text: String::new(), tokens });
        }
        // What was known of it before: it may lie beside others now, or was put in by a process that ended before it could say so.
        writer.delete_term(Term::from_field_u64(self.fields.id, id));
        writer.add_document(document).map(|_| ())
    }

    fn seal(&self, writer: &mut IndexWriter, through: u64) -> Result<(), TantivyError> {
        let mut commit = writer.prepare_commit()?;
        commit.set_payload(&format!("v{VERSION} through {through}"));
        commit.commit()?;
        self.reader.reload()
    }

    /// Works with the writer. After an error it is thrown away, with all it had not committed.
    fn writing(&self, work: impl FnOnce(&mut IndexWriter) -> Result<(), TantivyError>) -> Result<(), String> {
        let mut kept = self.writer.lock().map_err(|_| "a thread of the index panicked".to_string())?;
        let mut writer = match kept.take() {
            Some(writer) => writer,
            None => self.index.writer_with_num_threads(1, WRITER_BYTES).map_err(say)?,
        };
        work(&mut writer).map_err(say)?;
        *kept = Some(writer);
        Ok(())
    }

    /// Waits until no thread of the index works any more.
    pub(crate) fn close(&self) {
        let writer = self.writer.lock().ok().and_then(|mut kept| kept.take());
        if let Some(Err(e)) = writer.map(IndexWriter::wait_merging_threads) {
            tracing::warn!("a merge of the notes' index failed: {e}");
        }
    }
}

/// Puts a merge policy back that was taken off.
#[derive(Debug)]
struct Shared(std::sync::Arc<dyn tantivy::merge_policy::MergePolicy>);

impl tantivy::merge_policy::MergePolicy for Shared {
    fn compute_merge_candidates(
        &self,
        segments: &[tantivy::SegmentMeta],
    ) -> Vec<tantivy::merge_policy::MergeCandidate> {
        self.0.compute_merge_candidates(segments)
    }
}

fn say(error: impl std::fmt::Display) -> String {
    error.to_string()
}

//! Recall: which notes fit a query. Words on disk in lexical.rs, and over it the notes too fresh to be there.
//!
//! Writing a note does not wait for the index: the note is laid over it, and searched there by the same formula, until
//! a thread has committed it with others.

mod lexical;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::memory::{Miss, Shared};
use crate::{Error, Hit, Note, NoteId, Query};
use lexical::{Cut, Entry, Lexical, terms};

/// A commit waits for this many notes …
const COMMIT_NOTES: usize = 64;
/// … or this long, whichever comes first. A commit costs about 10 ms.
const COMMIT_AFTER: Duration = Duration::from_secs(1);
/// The most hits a recall returns.
const HITS_MAX: usize = 1000;
/// The most terms of a query that are looked for, of each cut.
const TERMS_MAX: usize = 64;
/// BM25's constants, the same as tantivy's.
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// The notes' index, its overlay and its thread.
pub(crate) struct Recall {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Core {
    dir: PathBuf,
    lexical: OnceLock<Lexical>,
    state: Mutex<State>,
    wake: Condvar,
    /// One commit at a time, so that what it took from the overlay is what it takes off again.
    committing: Mutex<()>,
}

#[derive(Default)]
struct State {
    fresh: BTreeMap<u64, Arc<Fresh>>,
    gone: BTreeSet<u64>,
    /// The last note there is.
    last: u64,
    stop: bool,
}

/// A note in the overlay.
struct Fresh {
    scope: String,
    text: String,
    /// How often it has each term, and how many it has, for each cut.
    counts: [(BTreeMap<String, u32>, u32); 2],
}

impl Recall {
    /// A recall over the folder, which is not looked at yet.
    pub(crate) fn new(dir: &Path) -> Recall {
        let core = Core {
            dir: dir.to_path_buf(),
            lexical: OnceLock::new(),
            state: Mutex::default(),
            wake: Condvar::new(),
            committing: Mutex::new(()),
        };
        Recall { core: Arc::new(core), thread: Mutex::new(None) }
    }

    /// Opens the index, brings it level with the log, and starts the thread. Answers why it was made anew, if it was.
    pub(crate) fn open(&self, shared: &Shared) -> Result<Option<String>, Error> {
        let mark = shared.index.catalog().mark.clone();
        let forgotten: Vec<u64> = {
            let catalog = shared.index.catalog();
            catalog.pending.iter().filter(|p| p.journal.is_none()).map(|p| p.note).collect()
        };
        let there = self.core.dir.exists();
        let opened = Lexical::open(&self.core.dir).and_then(|(lexical, through)| {
            if through > mark.notes_last {
                return Err(format!("it is ahead of the log, which has {} notes", mark.notes_last));
            }
            if !forgotten.is_empty() {
                lexical.commit(&[], &forgotten, through)?;
                lexical.expunge()?;
            }
            if through < mark.notes_last {
                fill(&lexical, shared, through, mark.notes_last)?;
            }
            match lexical.count() == mark.notes_live {
                true => Ok(lexical),
                false => Err(format!("it has {} notes, and there are {}", lexical.count(), mark.notes_live)),
            }
        });
        let (lexical, reason) = match opened {
            Ok(lexical) => (lexical, None),
            Err(reason) => {
                let lexical = Lexical::create(&self.core.dir).map_err(Error::Index)?;
                fill(&lexical, shared, 0, mark.notes_last).map_err(Error::Index)?;
                let reason = if there { reason } else { "it was missing".into() };
                (lexical, (mark.notes_last > 0).then_some(reason))
            }
        };
        self.core.state().last = mark.notes_last;
        assert!(self.core.lexical.set(lexical).is_ok(), "a recall is opened once");
        let core = Arc::clone(&self.core);
        let thread = std::thread::Builder::new().name("memory-recall".into()).spawn(move || core.run());
        let thread = thread.map_err(|e| Error::io(&self.core.dir, e))?;
        *self.thread.lock().expect("no holder of this lock panics") = Some(thread);
        Ok(reason)
    }

    /// A note that is in the log now.
    pub(crate) fn add(&self, id: NoteId, note: Note) {
        let fresh = Arc::new(Fresh::of(&note));
        let mut state = self.core.state();
        state.last = state.last.max(id.0);
        state.fresh.insert(id.0, fresh);
        self.core.wake.notify_one();
    }

    /// A note that is to be found no more.
    pub(crate) fn remove(&self, id: NoteId) {
        let mut state = self.core.state();
        state.fresh.remove(&id.0);
        state.gone.insert(id.0);
    }

    /// Takes a removed note's words out of the index's files.
    pub(crate) fn purge(&self, id: NoteId) -> Result<(), Error> {
        // It may have been committed, or be on its way to it; either way the commit after takes it out.
        self.core.state().gone.insert(id.0);
        self.core.commit().and_then(|()| self.core.lexical().expunge()).map_err(Error::Index)
    }

    /// The notes that fit best, each fetched by `note`, which answers `None` for what was forgotten meanwhile.
    pub(crate) fn search(
        &self,
        query: &Query,
        note: impl Fn(NoteId) -> Result<Option<Note>, Error>,
    ) -> Result<Vec<Hit>, Error> {
        let limit = query.limit.min(HITS_MAX);
        let scopes: Vec<String> = query.scopes.iter().map(|scope| scope.term()).collect();
        let wanted = query_terms(&query.text);
        if limit == 0 || scopes.is_empty() || wanted.is_empty() {
            return Ok(Vec::new());
        }
        // First the overlay, then the index: a note on its way from one to the other is then seen at least once.
        let fresh: Vec<(u64, Arc<Fresh>)> = {
            let state = self.core.state();
            state.fresh.iter().map(|(id, fresh)| (*id, Arc::clone(fresh))).collect()
        };
        let spare = fresh.len() + self.core.state().gone.len();
        let lexical = self.core.lexical();
        let mut scored = lexical.search(&wanted, &scopes, limit + spare).map_err(Error::Index)?;
        scored.retain(|(id, _)| fresh.binary_search_by_key(id, |(id, _)| *id).is_err());
        scored.extend(score_fresh(lexical, &fresh, &wanted, &scopes).map_err(Error::Index)?);
        scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        let mut hits = Vec::new();
        for (id, score) in scored {
            if hits.len() == limit {
                break;
            }
            let id = NoteId(id);
            if let Some(note) = note(id)?.filter(|note| query.scopes.contains(&note.scope)) {
                let why = why(&wanted, &note);
                hits.push(Hit { id, note, score, why });
            }
        }
        Ok(hits)
    }

    /// Commits what is left and ends the thread.
    pub(crate) fn close(&self) {
        self.core.state().stop = true;
        self.core.wake.notify_all();
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the recall thread panicked; the notes' index is brought level at the next open");
        }
        if let Some(lexical) = self.core.lexical.get() {
            lexical.close();
        }
    }
}

impl Core {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the recall's lock panics")
    }

    fn lexical(&self) -> &Lexical {
        self.lexical.get().expect("a recall is opened before it is used")
    }

    /// Commits in batches until told to stop.
    fn run(&self) {
        loop {
            let mut state = self.state();
            while state.fresh.is_empty() && !state.stop {
                state = self.wake.wait(state).expect("no holder of the recall's lock panics");
            }
            if !state.stop {
                let few = |state: &mut State| state.fresh.len() < COMMIT_NOTES && !state.stop;
                let waited = self.wake.wait_timeout_while(state, COMMIT_AFTER, few);
                state = waited.expect("no holder of the recall's lock panics").0;
            }
            let stop = state.stop;
            drop(state);
            if let Err(reason) = self.commit() {
                // The notes stay in the overlay, where they are found, and go in with a later commit or at the next open.
                tracing::warn!(reason, "the notes' index could not be written");
                std::thread::sleep(if stop { Duration::ZERO } else { COMMIT_AFTER });
            }
            if stop {
                return;
            }
        }
    }

    fn commit(&self) -> Result<(), String> {
        let _one_at_a_time = self.committing.lock().map_err(|_| "a commit panicked".to_string())?;
        let (fresh, gone, last) = {
            let state = self.state();
            (state.fresh.clone(), state.gone.clone(), state.last)
        };
        if fresh.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let entries: Vec<Entry<'_>> = fresh
            .iter()
            .map(|(id, fresh)| Entry { id: *id, scope: fresh.scope.clone(), text: &fresh.text })
            .collect();
        let ids: Vec<u64> = gone.iter().copied().collect();
        self.lexical().commit(&entries, &ids, last)?;
        let mut state = self.state();
        state.fresh.retain(|id, _| !fresh.contains_key(id));
        state.gone.retain(|id| !gone.contains(id));
        Ok(())
    }
}

impl Fresh {
    fn of(note: &Note) -> Fresh {
        let text = indexed_text(note);
        let counts = Cut::ALL.map(|cut| {
            let mut counts = BTreeMap::new();
            let terms = terms(cut, &text);
            let len = terms.len() as u32;
            terms.into_iter().for_each(|term| *counts.entry(term).or_insert(0) += 1);
            (counts, len)
        });
        Fresh { scope: note.scope.term(), text, counts }
    }
}

/// Puts notes `after..=last` into the index.
fn fill(lexical: &Lexical, shared: &Shared, after: u64, last: u64) -> Result<(), String> {
    let notes = |put: &mut dyn FnMut(Entry<'_>) -> Result<(), String>| {
        let mut from = after + 1;
        loop {
            let page = shared.index.notes(from, 1024)?;
            let Some((page_last, _)) = page.last() else { return Ok(()) };
            from = page_last + 1;
            for (id, place) in page {
                match shared.note(NoteId(id)) {
                    Ok(Some(note)) => {
                        let text = indexed_text(&note);
                        put(Entry { id, scope: note.scope.term(), text: &text })?;
                    }
                    Ok(None) => {}
                    // A damaged note cannot be found by its words any more. Asking for it by number tells.
                    Err(Miss::Sure(error)) if place.len == 0 => tracing::debug!("{error}"),
                    Err(Miss::Sure(error)) => shared.story().damaged.push(error.to_string()),
                    Err(Miss::Index(reason)) => return Err(reason),
                }
            }
        }
    };
    lexical.fill(notes, last)
}

/// What of a note is searched: its text and its tags.
fn indexed_text(note: &Note) -> String {
    [std::slice::from_ref(&note.text), &note.tags].concat().join("\n")
}

/// The terms of a query, each once.
fn query_terms(text: &str) -> Vec<(Cut, String)> {
    let mut wanted = Vec::new();
    for cut in Cut::ALL {
        let mut seen = BTreeSet::new();
        let terms = terms(cut, text).into_iter().filter(|term| seen.insert(term.clone()));
        wanted.extend(terms.take(TERMS_MAX).map(|term| (cut, term)));
    }
    wanted
}

/// Which terms of the query a note has.
fn why(wanted: &[(Cut, String)], note: &Note) -> Vec<String> {
    let counts = Fresh::of(note).counts;
    let mut found: Vec<String> = Vec::new();
    for (cut, term) in wanted {
        if counts[*cut as usize].0.contains_key(term) && !found.contains(term) {
            found.push(term.clone());
        }
    }
    found
}

/// Scores notes of the overlay with BM25, as if they were in the index:
/// Σ weight · idf · tf · (k1 + 1) / (tf + k1 · (1 − b + b · len / mean len)).
fn score_fresh(
    lexical: &Lexical,
    fresh: &[(u64, Arc<Fresh>)],
    wanted: &[(Cut, String)],
    scopes: &[String],
) -> Result<Vec<(u64, f32)>, String> {
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let mut scores = vec![0.0; fresh.len()];
    for cut in Cut::ALL {
        let indexed = lexical.statistics(cut)?;
        let len_of = |fresh: &Fresh| fresh.counts[cut as usize].1;
        let notes = indexed.notes as f32 + fresh.len() as f32;
        let words = indexed.words as f32 + fresh.iter().map(|(_, fresh)| len_of(fresh) as f32).sum::<f32>();
        for (_, term) in wanted.iter().filter(|(of, _)| *of == cut) {
            let count_of = |fresh: &Fresh| fresh.counts[cut as usize].0.get(term).copied().unwrap_or(0);
            let in_fresh = fresh.iter().filter(|(_, fresh)| count_of(fresh) > 0).count();
            if in_fresh == 0 {
                continue;
            }
            let having = lexical.frequency(cut, term)? as f32 + in_fresh as f32;
            let idf = (1.0 + (notes - having + 0.5).max(0.5) / (having + 0.5)).ln();
            for (score, (_, fresh)) in scores.iter_mut().zip(fresh) {
                let (tf, len) = (count_of(fresh) as f32, len_of(fresh) as f32);
                let norm = K1 * (1.0 - B + B * len * notes / words);
                *score += cut.weight() * idf * tf * (K1 + 1.0) / (tf + norm);
            }
        }
    }
    let fits = |(score, (id, fresh)): (f32, &(u64, Arc<Fresh>))| {
        (score > 0.0 && scopes.contains(&fresh.scope)).then_some((*id, score))
    };
    Ok(scores.into_iter().zip(fresh).filter_map(fits).collect())
}

//! Recall: which notes fit a query.
//!
//! Four things are kept of notes, all made from the log and all replaceable: their words ([`lexical`]), their vectors
//! ([`vector`]), what has become of them ([`table`]), and, laid over the words, the notes that are too fresh to be among them:
//! writing a note waits neither for the index nor for the embedder.
//!
//! What a conversation says is seldom in one sentence, so a note counts with those beside it, and answers go with what was
//! asked. The formula, and what each part of it is worth, is in [`rank`].

mod fuse;
mod lexical;
mod newer;
mod plain;
mod rank;
mod rows;
mod sketch;
mod table;
mod terms;
mod vector;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::change::Change;
use crate::memory::{Miss, Shared};
use crate::when::Day;
use crate::{Embedder, Error, Hit, Note, NoteId, Query, SessionHit, Standing};
pub(crate) use lexical::Bag;
use lexical::{Bags, Lexical};
pub(crate) use plain::Plain;
use table::Table;
pub(crate) use terms::{Cutter, parts_of};
pub(crate) use vector::{Code, dot_of_this_machine};
use vector::{Part, Vectors};

/// A commit waits for this many notes …
const COMMIT_NOTES: usize = 64;
/// … or this long, whichever comes first. A commit costs about 10 ms.
const COMMIT_AFTER: Duration = Duration::from_secs(1);
/// Notes put into the index with one commit when it is made anew.
const FILL_NOTES: u64 = 200_000;
/// Notes embedded at once.
const EMBED_NOTES: usize = 16;
/// The table is written again when so many notes have come since.
const SAVE_NOTES: u64 = 20_000;
/// Cut-up texts that are kept, since notes beside each other come after each other.
const CUTS_MAX: usize = 4096;

/// How much the words of the notes before count, in tenths and the nearest first …
const BEFORE: [u32; 4] = [3, 3, 2, 1];
/// … those of the notes after …
const AFTER: [u32; 2] = [3, 2];
/// … and those of the note just before, when it asks something.
const ASKED: u32 = 8;
/// The words a neighbour may bring in at full weight: a long one says much that has nothing to do with this note.
const NEIGHBOUR_WORDS: u32 = 30;
/// How often each word of a note's date counts.
const DATE_TIMES: u32 = 2;

/// Words in a part of a text that is embedded by itself, and the most parts of a text. An embedder looks at about 180 words.
const PART_WORDS: usize = 160;
const PARTS_MAX: usize = 8;

/// Names of authors that are no names.
pub(crate) const ROLES: [&str; 8] = ["user", "assistant", "system", "tool", "agent", "model", "human", "ai"];

/// The notes' indexes, their overlay and their threads.
pub(crate) struct Recall {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

pub(crate) struct Core {
    dir: PathBuf,
    cutter: Cutter,
    lexical: OnceLock<Lexical>,
    table: RwLock<Table>,
    embedder: OnceLock<Arc<dyn Embedder>>,
    vectors: RwLock<Option<Vectors>>,
    cuts: Mutex<HashMap<u64, Arc<Cut>>>,
    state: Mutex<State>,
    /// There is something to commit or to embed, or it is time to stop …
    wake: Condvar,
    /// … and something was.
    done: Condvar,
    /// One commit at a time, so that what it took from the overlay is what it takes off again.
    committing: Mutex<()>,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Notes that are not in the index yet, or no longer as they are there.
    fresh: BTreeMap<u64, Arc<Bags>>,
    gone: BTreeSet<u64>,
    /// The last note there is.
    last: u64,
    /// The last note that the table's file knows.
    saved: u64,
    to_embed: VecDeque<u64>,
    embedding: usize,
}

/// A note's text, cut up.
struct Cut {
    terms: Vec<String>,
    asks: bool,
}

/// What a rebuild tells of its work: notes done, of how many.
pub(crate) type Rebuilding<'a> = dyn FnMut(u64, u64) + 'a;

impl Recall {
    /// A recall over the folder, which is not looked at yet.
    pub(crate) fn new(dir: &Path) -> Recall {
        let core = Core {
            dir: dir.to_path_buf(),
            cutter: Cutter::new(),
            lexical: OnceLock::new(),
            table: RwLock::default(),
            embedder: OnceLock::new(),
            vectors: RwLock::new(None),
            cuts: Mutex::default(),
            state: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            committing: Mutex::new(()),
            stop: AtomicBool::new(false),
        };
        Recall { core: Arc::new(core), threads: Mutex::default() }
    }

    /// Opens the indexes, brings them level with the log, and starts the thread that commits. Answers why something was made
    /// anew, if it was.
    pub(crate) fn open(
        &self,
        shared: &Arc<Shared>,
        progress: &mut Rebuilding<'_>,
    ) -> Result<Vec<String>, Error> {
        let core = &self.core;
        std::fs::create_dir_all(&core.dir).map_err(|e| Error::io(&core.dir, e))?;
        let mark = shared.index.catalog().mark.clone();
        let forgotten: Vec<u64> = {
            let catalog = shared.index.catalog();
            catalog.pending.iter().filter(|p| p.journal.is_none()).map(|p| p.note).collect()
        };
        let mut rebuilt = Vec::new();
        let path = core.dir.join("table");
        let there = path.exists();
        // Those who lie beside what was being forgotten have some of its words, and `None` says that nobody knows who they are.
        let mut beside: Option<BTreeSet<u64>> = Some(BTreeSet::new());
        let opened = Table::open(&path).and_then(|mut table| {
            if table.through > mark.notes_last {
                return Err(format!("it is ahead of the log, which has {} notes", mark.notes_last));
            }
            let before = table.through;
            core.take_in(shared, &mut table, mark.notes_last, &mut |_, _| ())?;
            for id in &forgotten {
                match (table.row(*id), &mut beside) {
                    (Some(_), Some(beside)) => beside.extend(touched_by(&table, *id)),
                    _ => beside = None,
                }
            }
            forgotten.iter().for_each(|id| table.remove(*id));
            match table.len() as u64 == mark.notes_live {
                true => Ok((table, before)),
                false => Err(format!("it has {} notes, and there are {}", table.len(), mark.notes_live)),
            }
        });
        let (table, saved) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                beside = if forgotten.is_empty() { beside } else { None };
                let mut table = Table::default();
                core.take_in(shared, &mut table, mark.notes_last, progress).map_err(Error::Index)?;
                if mark.notes_last > 0 {
                    rebuilt.push(if there {
                        format!("table: {reason}")
                    } else {
                        "table: it was missing".into()
                    });
                }
                (table, 0)
            }
        };
        *core.table_mut() = table;
        core.fold_changes(shared)?;
        if saved < mark.notes_last {
            core.table().save(&path).map_err(Error::Index)?;
        }
        let words = core.dir.join("words");
        let there = words.exists();
        let opened = Lexical::open(&words).and_then(|(lexical, through)| {
            if through > mark.notes_last {
                return Err(format!("it is ahead of the log, which has {} notes", mark.notes_last));
            }
            if !forgotten.is_empty() {
                let Some(beside) = &beside else {
                    return Err("a forgetting was cut short".into());
                };
                let living = beside.iter().filter(|id| **id <= through);
                let anew: Vec<(u64, Bags)> =
                    living.filter_map(|id| Some((*id, core.bags(shared, *id, None)?))).collect();
                lexical.commit(&anew, &forgotten, through)?;
                lexical.expunge()?;
            }
            if through < mark.notes_last {
                core.fill(&lexical, shared, through, mark.notes_last, &mut |_, _| ())?;
            }
            match lexical.count() == mark.notes_live {
                true => Ok(lexical),
                false => Err(format!("it has {} notes, and there are {}", lexical.count(), mark.notes_live)),
            }
        });
        let lexical = match opened {
            Ok(lexical) => lexical,
            Err(reason) => {
                let lexical = Lexical::create(&words).map_err(Error::Index)?;
                core.fill(&lexical, shared, 0, mark.notes_last, progress).map_err(Error::Index)?;
                if mark.notes_last > 0 {
                    rebuilt.push(if there {
                        format!("words: {reason}")
                    } else {
                        "words: it was missing".into()
                    });
                }
                lexical
            }
        };
        {
            let mut state = core.state();
            (state.last, state.saved) = (mark.notes_last, mark.notes_last);
        }
        assert!(core.lexical.set(lexical).is_ok(), "a recall is opened once");
        self.start("memory-recall", shared, Core::commit_in_turns)?;
        Ok(rebuilt)
    }

    fn start(&self, name: &str, shared: &Arc<Shared>, run: fn(&Core, &Shared)) -> Result<(), Error> {
        let (core, shared) = (Arc::clone(&self.core), Arc::downgrade(shared));
        let run = move || {
            // The store is dropped after its recall is closed, so it is there as long as this thread runs.
            if let Some(shared) = shared.upgrade() {
                run(&core, &shared);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        let thread = thread.map_err(|e| Error::io(&self.core.dir, e))?;
        self.threads.lock().expect("no holder of this lock panics").push(thread);
        Ok(())
    }

    /// Gives the recall an embedder, and starts the thread that embeds what has no vectors yet.
    pub(crate) fn embed_with(&self, shared: &Arc<Shared>, embedder: Arc<dyn Embedder>) -> Result<(), Error> {
        let core = &self.core;
        if core.embedder.set(Arc::clone(&embedder)).is_err() {
            return Err(Error::BadInput("the store has an embedder already".into()));
        }
        let path = core.dir.join("vectors");
        let mut vectors =
            Vectors::open(&path, embedder.name(), embedder.dimensions()).map_err(Error::Index)?;
        let mut anew = Vec::new();
        {
            let table = core.table();
            let gone: Vec<u64> = vectors.ids().filter(|id| table.row(*id).is_none()).collect();
            if !gone.is_empty() {
                // A forgetting was cut short. Some of the others have something of it in what is searched of them.
                vectors.wipe(&gone).map_err(Error::Index)?;
                let threaded = table.rows().iter().filter(|row| row.thread > 0 && vectors.has(row.id));
                anew = threaded.map(|row| row.id).collect();
            }
            let mut state = core.state();
            state.to_embed = table.rows().iter().map(|row| row.id).filter(|id| !vectors.has(*id)).collect();
        }
        for id in anew {
            core.search_anew(shared, &mut vectors, id).map_err(Error::Index)?;
        }
        *core.vectors.write().expect("no holder of the vectors' lock panics") = Some(vectors);
        self.start("memory-embed", shared, Core::embed_in_turns)
    }

    /// What vectors are made with, if anything.
    pub(crate) fn embedder(&self) -> Option<Arc<dyn Embedder>> {
        self.core.embedder.get().map(Arc::clone)
    }

    /// A note that is in the log now.
    pub(crate) fn add(&self, shared: &Shared, id: NoteId, note: &Note) {
        let core = &self.core;
        let cut = core.keep_cut(id.0, note);
        core.table_mut().put(id.0, note, cut.terms.len() as u32);
        let (before, _) = core.table().beside(id.0, AFTER.len());
        let mut changed = vec![(id.0, core.bags(shared, id.0, Some(note)))];
        changed.extend(before.into_iter().map(|id| (id, core.bags(shared, id, None))));
        let mut state = core.state();
        state.last = state.last.max(id.0);
        for (id, bags) in changed {
            if let Some(bags) = bags {
                state.fresh.insert(id, Arc::new(bags));
            }
        }
        if core.embedder.get().is_some() {
            state.to_embed.push_back(id.0);
        }
        core.wake.notify_all();
    }

    /// What happened to notes.
    pub(crate) fn changed(&self, seq: u64, change: &Change) {
        self.core.table_mut().change(seq, change);
    }

    /// A note that is to be found no more.
    pub(crate) fn remove(&self, id: NoteId) {
        self.core.cuts.lock().expect("no holder of this lock panics").remove(&id.0);
        let mut state = self.core.state();
        state.fresh.remove(&id.0);
        state.gone.insert(id.0);
        state.to_embed.retain(|other| *other != id.0);
    }

    /// Takes removed notes out of the indexes' files.
    pub(crate) fn purge(&self, shared: &Shared, ids: &[NoteId]) -> Result<(), Error> {
        let core = &self.core;
        let ids: Vec<u64> = ids.iter().map(|id| id.0).collect();
        // Those beside have some of their words, and their vectors something of theirs.
        let beside: BTreeSet<u64> = {
            let mut table = core.table_mut();
            let beside = ids.iter().flat_map(|id| touched_by(&table, *id));
            let beside = beside.filter(|id| !ids.contains(id)).collect();
            ids.iter().for_each(|id| table.remove(*id));
            beside
        };
        for id in &beside {
            if let Some(bags) = core.bags(shared, *id, None) {
                core.state().fresh.insert(*id, Arc::new(bags));
            }
        }
        // They may have been committed, or be on their way to it; either way the commit after takes them out.
        core.state().gone.extend(&ids);
        core.commit().and_then(|()| core.lexical().expunge()).map_err(Error::Index)?;
        core.table().save(&core.dir.join("table")).map_err(Error::Index)?;
        let mut vectors = core.vectors.write().expect("no holder of the vectors' lock panics");
        match vectors.as_mut() {
            Some(vectors) => {
                vectors.wipe(&ids).map_err(Error::Index)?;
                for id in beside {
                    core.search_anew(shared, vectors, id).map_err(Error::Index)?;
                }
            }
            // Without its embedder the file cannot be told apart; it is made anew when there is one.
            None => {
                let path = core.dir.join("vectors");
                match std::fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io(&path, e)),
                }
            }
        }
        Ok(())
    }

    /// Waits until everything that was written is in the indexes, as far as there are any.
    pub(crate) fn settle(&self) {
        let mut state = self.core.state();
        while !self.core.stop.load(Ordering::Acquire)
            && (!state.fresh.is_empty() || !state.to_embed.is_empty() || state.embedding > 0)
        {
            let waited = self.core.done.wait_timeout(state, Duration::from_millis(200));
            state = waited.expect("no holder of the recall's lock panics").0;
        }
    }

    /// How many notes wait for their vectors.
    pub(crate) fn unembedded(&self) -> usize {
        let state = self.core.state();
        state.to_embed.len() + state.embedding
    }

    /// How many notes have vectors.
    pub(crate) fn embedded(&self) -> usize {
        self.core.vectors().as_ref().map_or(0, Vectors::len)
    }

    /// What has become of a note.
    pub(crate) fn standing(&self, id: NoteId) -> Standing {
        self.core.table().standing(id.0)
    }

    /// The living note that says the same.
    pub(crate) fn same(&self, note: &Note) -> Option<NoteId> {
        self.core.table().same(note).map(NoteId)
    }

    /// The note that holds about something.
    pub(crate) fn about(&self, scope: &str, about: &str) -> Option<NoteId> {
        self.core.table().about(scope, about).map(NoteId)
    }

    /// How many notes each scope has.
    pub(crate) fn scopes(&self) -> BTreeMap<String, u64> {
        self.core.table().scopes()
    }

    /// The living notes after `after`, by number.
    pub(crate) fn living(
        &self,
        after: u64,
        max: usize,
        fits: impl Fn(&str, &Standing) -> bool,
    ) -> Vec<NoteId> {
        let table = self.core.table();
        let fitting =
            table.rows().after(after).filter(|row| fits(table.name(row.scope), &table.standing(row.id)));
        fitting.take(max).map(|row| NoteId(row.id)).collect()
    }

    /// The notes that fit best, each fetched by `note`, which answers `None` for what was forgotten meanwhile.
    pub(crate) fn search(
        &self,
        query: &Query,
        note: impl Fn(NoteId) -> Result<Option<Note>, Error>,
    ) -> Result<Vec<Hit>, Error> {
        rank::search(&self.core, query, note)
    }

    /// The sessions that fit best.
    pub(crate) fn sessions(&self, query: &Query) -> Result<Vec<SessionHit>, Error> {
        rank::sessions(&self.core, query)
    }

    /// Commits what is left and ends the threads.
    pub(crate) fn close(&self) {
        self.core.stop.store(true, Ordering::Release);
        self.core.wake.notify_all();
        let threads =
            self.threads.lock().map(|mut threads| std::mem::take(&mut *threads)).unwrap_or_default();
        for thread in threads {
            if thread.join().is_err() {
                tracing::warn!(
                    "a thread of the recall panicked; the indexes are brought level at the next open"
                );
            }
        }
        if let Some(lexical) = self.core.lexical.get() {
            lexical.close();
            let unsaved = {
                let state = self.core.state();
                state.last != state.saved
            };
            if (unsaved || self.core.table().changes > 0)
                && let Err(e) = self.core.table().save(&self.core.dir.join("table"))
            {
                tracing::warn!(
                    "the table of notes could not be written; it is brought level at the next open: {e}"
                );
            }
        }
    }
}

impl Core {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the recall's lock panics")
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().expect("no holder of the table's lock panics")
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().expect("no holder of the table's lock panics")
    }

    fn vectors(&self) -> RwLockReadGuard<'_, Option<Vectors>> {
        self.vectors.read().expect("no holder of the vectors' lock panics")
    }

    fn lexical(&self) -> &Lexical {
        self.lexical.get().expect("a recall is opened before it is used")
    }

    /// Calls `each` with the living notes after `after`, in order.
    fn notes(
        shared: &Shared,
        after: u64,
        mut each: impl FnMut(u64, Note) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut from = after + 1;
        loop {
            let page = shared.index.notes(from, 1024)?;
            let Some((page_last, _)) = page.last() else { return Ok(()) };
            from = page_last + 1;
            for (id, place) in page {
                match shared.note(NoteId(id)) {
                    Ok(Some(note)) => each(id, note)?,
                    Ok(None) => {}
                    // A damaged note cannot be found by its words any more. Asking for it by number tells.
                    Err(Miss::Sure(error)) if place.len == 0 => tracing::debug!("{error}"),
                    Err(Miss::Sure(error)) => shared.story().damaged.push(error.to_string()),
                    Err(Miss::Index(reason)) => return Err(reason),
                }
            }
        }
    }

    /// Brings the table level with the notes of the log.
    fn take_in(
        &self,
        shared: &Shared,
        table: &mut Table,
        last: u64,
        progress: &mut Rebuilding<'_>,
    ) -> Result<(), String> {
        if table.through < last {
            Core::notes(shared, table.through, |id, note| {
                table.put(id, &note, self.cutter.terms(&own_text(&note)).len() as u32);
                if id % 4096 == 0 {
                    progress(id, last);
                }
                Ok(())
            })?;
        }
        table.through = last;
        Ok(())
    }

    /// Brings the table level with the changes of notes.
    fn fold_changes(&self, shared: &Shared) -> Result<(), Error> {
        let mut table = self.table_mut();
        crate::change::each_after(shared, table.changes, |seq, change| table.change(seq, change))
    }

    /// Puts the notes after `after` into the index. The table has them.
    fn fill(
        &self,
        lexical: &Lexical,
        shared: &Shared,
        after: u64,
        last: u64,
        progress: &mut Rebuilding<'_>,
    ) -> Result<(), String> {
        // Those before have new neighbours.
        let mut touched = BTreeSet::new();
        let mut next = after;
        while next < last {
            let (from, mut through, mut bags_count) = (next, last, 0_u64);
            let entries = |put: &mut dyn FnMut(u64, &Bags) -> Result<(), String>| {
                let ids: Vec<u64> =
                    self.table().rows().after(from).map(|row| row.id).take(FILL_NOTES as usize).collect();
                through = if ids.len() < FILL_NOTES as usize { last } else { ids[ids.len() - 1] };
                for id in ids {
                    if let Some(bags) = self.bags(shared, id, None) {
                        put(id, &bags)?;
                    }
                    if after > 0 {
                        touched.extend(
                            self.table().beside(id, AFTER.len()).0.into_iter().filter(|id| *id <= after),
                        );
                    }
                    bags_count += 1;
                    if bags_count.is_multiple_of(4096) {
                        progress(from + bags_count, last);
                    }
                }
                for id in std::mem::take(&mut touched) {
                    if let Some(bags) = self.bags(shared, id, None) {
                        put(id, &bags)?;
                    }
                }
                Ok(())
            };
            // A damaged note is in the table and has no words; it counts as one without any.
            lexical.fill(entries, next)?;
            lexical.commit(&[], &[], through)?;
            next = through;
        }
        Ok(())
    }

    /// A note's text, cut up; read from the log, if it was not used lately.
    fn cut(&self, shared: &Shared, id: u64) -> Option<Arc<Cut>> {
        if let Some(cut) = self.cuts.lock().expect("no holder of this lock panics").get(&id) {
            return Some(Arc::clone(cut));
        }
        match shared.note(NoteId(id)) {
            Ok(Some(note)) => Some(self.keep_cut(id, &note)),
            Ok(None) | Err(_) => None,
        }
    }

    /// The text of a note that is at hand, cut up.
    fn cut_of(&self, id: u64, note: &Note) -> Arc<Cut> {
        let known = self.cuts.lock().expect("no holder of this lock panics").get(&id).map(Arc::clone);
        known.unwrap_or_else(|| self.keep_cut(id, note))
    }

    fn keep_cut(&self, id: u64, note: &Note) -> Arc<Cut> {
        let cut = Arc::new(Cut {
            terms: self.cutter.terms(&own_text(note)),
            asks: note.text.contains(['?', '？']),
        });
        let mut cuts = self.cuts.lock().expect("no holder of this lock panics");
        if cuts.len() >= CUTS_MAX {
            cuts.clear();
        }
        cuts.insert(id, Arc::clone(&cut));
        cut
    }

    /// The notes beside one, each with what its words count in tenths.
    fn beside(&self, shared: &Shared, id: u64) -> Vec<(u64, Arc<Cut>, u32)> {
        let (before, after) = self.table().beside(id, BEFORE.len());
        let mut beside = Vec::with_capacity(BEFORE.len() + AFTER.len());
        let weighed = before.into_iter().zip(BEFORE).enumerate().map(|(n, (id, units))| (id, units, n == 0));
        for (id, units, last) in
            weighed.chain(after.into_iter().zip(AFTER).map(|(id, units)| (id, units, false)))
        {
            let Some(cut) = self.cut(shared, id) else { continue };
            let units = if last && cut.asks { ASKED } else { units };
            let words = (cut.terms.len() as u32).max(NEIGHBOUR_WORDS);
            let units = (units * NEIGHBOUR_WORDS + words / 2) / words;
            if units > 0 {
                beside.push((id, cut, units));
            }
        }
        beside
    }

    /// A note's words and those beside it, as they are indexed; `None` when there is no such note.
    fn bags(&self, shared: &Shared, id: u64, note: Option<&Note>) -> Option<Bags> {
        let read;
        let note = match note {
            Some(note) => note,
            None => {
                read = shared.note(NoteId(id)).ok().flatten()?;
                &read
            }
        };
        let cut = self.cut(shared, id)?;
        let mut bags = Bags::default();
        bags.own.put(&cut.terms, 1);
        bags.own.put(&self.cutter.terms(&Day::of_ms(note.at_ms()).in_words()), DATE_TIMES);
        if !ROLES.contains(&note.origin.author.to_lowercase().as_str()) {
            bags.own.put(&self.cutter.terms(&note.origin.author), 1);
        }
        for (_, cut, units) in self.beside(shared, id) {
            bags.near.put(&cut.terms, units);
        }
        Some(bags)
    }

    /// Commits in batches until told to stop.
    fn commit_in_turns(&self, _shared: &Shared) {
        loop {
            let stopping = || self.stop.load(Ordering::Acquire);
            let mut state = self.state();
            while state.fresh.is_empty() && !stopping() {
                state = self
                    .wake
                    .wait_timeout(state, COMMIT_AFTER)
                    .expect("no holder of the recall's lock panics")
                    .0;
            }
            if !stopping() {
                let few = |state: &mut State| state.fresh.len() < COMMIT_NOTES && !stopping();
                let waited = self.wake.wait_timeout_while(state, COMMIT_AFTER, few);
                state = waited.expect("no holder of the recall's lock panics").0;
            }
            drop(state);
            let stop = stopping();
            if let Err(reason) = self.commit() {
                // The notes stay in the overlay, where they are found, and go in with a later commit or at the next open.
                tracing::warn!(reason, "the notes' index could not be written");
                std::thread::sleep(if stop { Duration::ZERO } else { COMMIT_AFTER });
            }
            self.done.notify_all();
            if stop {
                return;
            }
        }
    }

    fn commit(&self) -> Result<(), String> {
        let _one_at_a_time = self.committing.lock().map_err(|_| "a commit panicked".to_string())?;
        let (fresh, gone, last, saved) = {
            let state = self.state();
            (state.fresh.clone(), state.gone.clone(), state.last, state.saved)
        };
        if fresh.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let entries: Vec<(u64, Bags)> = fresh.iter().map(|(id, bags)| (*id, (**bags).clone())).collect();
        let ids: Vec<u64> = gone.iter().copied().collect();
        self.lexical().commit(&entries, &ids, last)?;
        if last > saved + SAVE_NOTES.max(saved / 10) {
            self.table().save(&self.dir.join("table"))?;
            self.state().saved = last;
        }
        let mut state = self.state();
        // What changed meanwhile goes in with the next commit.
        state.fresh.retain(|id, bags| fresh.get(id).is_none_or(|committed| !Arc::ptr_eq(committed, bags)));
        state.gone.retain(|id| !gone.contains(id));
        Ok(())
    }

    /// Embeds what waits for it until told to stop.
    fn embed_in_turns(&self, shared: &Shared) {
        loop {
            let stopping = || self.stop.load(Ordering::Acquire);
            let mut state = self.state();
            while state.to_embed.is_empty() && !stopping() {
                state = self
                    .wake
                    .wait_timeout(state, COMMIT_AFTER)
                    .expect("no holder of the recall's lock panics")
                    .0;
            }
            if stopping() {
                return;
            }
            let count = state.to_embed.len().min(EMBED_NOTES);
            let ids: Vec<u64> = state.to_embed.drain(..count).collect();
            state.embedding = count;
            drop(state);
            if let Err(reason) = self.embed(shared, &ids) {
                // Found by their words all the same; the next open tries again.
                tracing::warn!(reason, "notes could not be embedded");
            }
            self.state().embedding = 0;
            self.done.notify_all();
        }
    }

    fn embed(&self, shared: &Shared, ids: &[u64]) -> Result<(), String> {
        let embedder = self.embedder.get().expect("this thread was started with an embedder");
        let mut texts = Vec::new();
        let mut counts = Vec::new();
        for id in ids {
            let text = shared.note(NoteId(*id)).ok().flatten().map(|note| note.text);
            let parts = text.map_or(Vec::new(), |text| parts(&text));
            counts.push(parts.len());
            texts.extend(parts);
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut made = embedder.embed(&texts).map_err(|e| e.to_string())?.into_iter();
        let mut vectors = self.vectors.write().map_err(|_| "a thread of the vectors panicked".to_string())?;
        let Some(vectors) = vectors.as_mut() else { return Ok(()) };
        let mut touched = BTreeSet::new();
        for (id, count) in ids.iter().zip(counts) {
            let parts: Vec<Part> =
                made.by_ref().take(count).map(|own| Part { searched: own.clone(), own }).collect();
            // What was forgotten meanwhile must not come back.
            if parts.is_empty() || self.table().row(*id).is_none() {
                continue;
            }
            vectors.add(*id, &parts)?;
            touched.insert(*id);
            touched.extend(touched_by(&self.table(), *id).filter(|id| vectors.has(*id)));
        }
        touched.into_iter().try_for_each(|id| self.search_anew(shared, vectors, id))
    }

    /// Makes what is searched of a note's vectors anew: its own with those of the notes beside it.
    fn search_anew(&self, shared: &Shared, vectors: &mut Vectors, id: u64) -> Result<(), String> {
        let mut parts = vectors.own(id)?;
        let mut around: Vec<f32> = Vec::new();
        for (other, _, units) in self.beside(shared, id) {
            let own = vectors.own(other)?;
            let share = units as f32 / lexical::NEAR_UNITS as f32 / own.len().max(1) as f32;
            for vector in own {
                around.resize(vector.len(), 0.0);
                around.iter_mut().zip(vector).for_each(|(sum, x)| *sum += share * x);
            }
        }
        for part in &mut parts {
            part.iter_mut().zip(&around).for_each(|(x, more)| *x += more);
            let length = part.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            part.iter_mut().for_each(|x| *x /= length);
        }
        vectors.search_by(id, &parts)
    }
}

/// The notes that one lies beside: what is indexed of them depends on it.
fn touched_by(table: &Table, id: u64) -> impl Iterator<Item = u64> + use<> {
    let (before, after) = table.beside(id, BEFORE.len());
    before.into_iter().take(AFTER.len()).chain(after)
}

/// What of a note is searched by its words: its text, its tags, and what it is about.
fn own_text(note: &Note) -> String {
    let more = note.about.iter().chain(&note.tags).map(String::as_str);
    std::iter::once(note.text.as_str()).chain(more).collect::<Vec<_>>().join("\n")
}

/// The parts of a text that are embedded, each by itself.
fn parts(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.chunks(PART_WORDS).take(PARTS_MAX).map(|words| words.join(" ")).collect()
}

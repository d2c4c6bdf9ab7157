//! The store of one data folder: its lock, its parts, and the way in.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::blobs::{Blobs, sync_dir};
use crate::change::Change;
use crate::code::CodeIndex;
use crate::frame::{Broken, Frame, Kind, NAME_BYTES_MAX};
use crate::index::Index;
use crate::log::{End, HEADER, Log, Place, read_at};
use crate::notes::Kind as NoteKind;
use crate::purge::purge;
use crate::recall::Recall;
use crate::recover::recover;
use crate::writer::{Ask, QUEUE_ASKS, Reply, Writer};
use crate::{
    Digest, Embedder, Error, Hit, Journal, JournalInfo, Note, NoteId, Query, Scope, Seq, SessionHit, Standing,
};

/// The most bytes one page of a journal has: a longer page ends early.
pub const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The store of one data folder. Cheap to clone; every clone is the same store, and the folder is free again when the
/// last clone and the last journal of it are dropped. All calls block; async callers put them on a blocking thread.
///
/// The folder holds `log/` (the truth), `blobs/`, and `index/`, which may be deleted at any time the store is closed.
#[derive(Clone)]
pub struct Memory {
    pub(crate) inner: Arc<Inner>,
}

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Health {
    /// Log segments on disk.
    pub segments: usize,
    /// Bytes of the log.
    pub bytes: u64,
    /// Journals.
    pub journals: usize,
    /// Notes that live.
    pub notes: u64,
    /// Notes that have vectors …
    pub notes_embedded: u64,
    /// … and that wait for them.
    pub notes_waiting: u64,
    /// Bytes at the log's end that were never acknowledged, and were put aside in `log/dropped` when it was opened.
    pub dropped_tail_bytes: u64,
    /// Indexes that were made anew since the store was opened, each with the reason.
    pub rebuilt: Vec<String>,
    /// Damage of the log that is known of, in words. Damage is looked for where the log is read.
    pub damaged: Vec<String>,
    /// Frames written since the store was opened …
    pub frames_written: u64,
    /// … and the writes to disk they shared.
    pub syncs: u64,
}

/// What the threads of a store share.
pub(crate) struct Shared {
    pub(crate) log: Log,
    pub(crate) index: Index,
    pub(crate) recall: Recall,
    pub(crate) purging: Mutex<()>,
    pub(crate) story: Mutex<Story>,
    /// Whether the index was made from the log in this process. Then a place that does not hold what it should is
    /// damage, and making the index once more would not help.
    pub(crate) index_is_fresh: AtomicBool,
    pub(crate) bytes: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

/// What happened, for [`Health`].
#[derive(Default)]
pub(crate) struct Story {
    pub(crate) dropped_tail_bytes: u64,
    pub(crate) rebuilt: Vec<String>,
    pub(crate) damaged: Vec<String>,
}

/// What clones of a [`Memory`] and its journals hold together.
pub(crate) struct Inner {
    dir: PathBuf,
    pub(crate) shared: Arc<Shared>,
    asks: SyncSender<Ask>,
    writer: Mutex<Option<JoinHandle<()>>>,
    blobs: Blobs,
    /// Held while a change of notes is written, so that its fold takes changes in their order.
    pub(crate) changing: Mutex<()>,
    /// Journals whose keys have been counted against the index in this process.
    counted: Mutex<BTreeSet<String>>,
    /// Held until the last handle is gone; the system lets go of it even when the process is killed.
    _lock: Lock,
}

impl Memory {
    /// Opens the store in `dir`, making the folder when it is not there. What a crash left behind is put right:
    /// a torn tail is put aside, indexes that are missing, stale or damaged are made anew ([`Memory::health`] says so).
    pub fn open(dir: &Path) -> Result<Memory, Error> {
        Memory::open_telling(dir, &mut |_, _| ())
    }

    /// As [`Memory::open`]; `progress` is told how many notes have been put into an index that is made anew, and of how many.
    pub fn open_telling(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Memory, Error> {
        let made = !dir.exists();
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let lock = lock(dir)?;
        let index_dir = dir.join("index");
        fs::create_dir_all(&index_dir).map_err(|e| Error::io(&index_dir, e))?;
        let blobs = Blobs::open(&dir.join("blobs"))?;
        let log = Log::open(&dir.join("log"))?;
        // A record is only as durable as the names of the folders above it.
        sync_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| made && !parent.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        let (index, found) = recover(&log, &index_dir.join("sled"))?;
        let last = log.last_id();
        let len = log.read().get(&last).map_or(HEADER, |segment| segment.len.max(HEADER));
        let before = index.catalog().mark.before;
        let mut end = End::open(&log, len, before)?;
        let bytes = log.closed_bytes() + len;
        let recall = Recall::new(&index_dir.join("notes"));
        let story = Story {
            dropped_tail_bytes: found.dropped_tail_bytes,
            rebuilt: found.rebuilt.iter().map(|reason| format!("index: {reason}")).collect(),
            damaged: found.damaged,
        };
        if index.catalog().pending.iter().any(|pending| pending.segments.contains(&last)) {
            end.roll(&log)?;
            index.start_segment(end.segment, 0).map_err(Error::Index)?;
        }
        let shared = Arc::new(Shared {
            log,
            index,
            recall,
            purging: Mutex::new(()),
            story: Mutex::new(story),
            index_is_fresh: AtomicBool::new(found.rebuilt.is_some()),
            bytes: AtomicU64::new(bytes),
            frames: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        });
        for reason in shared.recall.open(&shared, progress)? {
            shared.story().rebuilt.push(format!("notes: {reason}"));
        }
        purge(&shared)?;
        let (asks, queue) = sync_channel(QUEUE_ASKS);
        let writer = Writer::new(Arc::clone(&shared), end);
        let writer = std::thread::Builder::new()
            .name("memory-log".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| Error::io(dir, e))?;
        let writer = Mutex::new(Some(writer));
        let counted = Mutex::default();
        Ok(Memory {
            inner: Arc::new(Inner {
                dir: dir.to_path_buf(),
                shared,
                asks,
                writer,
                blobs,
                changing: Mutex::new(()),
                counted,
                _lock: lock,
            }),
        })
    }

    /// Opens a journal, making it when it is not there. A name is 1 to 64 of `a`–`z`, `0`–`9`, `_` and `-`.
    pub fn journal(&self, name: &str) -> Result<Journal, Error> {
        check_name(name)?;
        if name.starts_with('_') {
            return Err(Error::BadName { name: name.into() });
        }
        self.open_journal(name)
    }

    pub(crate) fn open_journal(&self, name: &str) -> Result<Journal, Error> {
        let birth = match self.inner.shared.birth(name) {
            Ok(birth) => birth,
            Err(_) => self.inner.ask(|reply| Ask::Make {
                journal: name.into(),
                at_ms: None,
                fresh: false,
                reply,
            })?,
        };
        self.inner.count_keys(name)?;
        Ok(Journal { inner: Arc::clone(&self.inner), name: name.into(), birth })
    }

    /// All journals, by name.
    pub fn journals(&self) -> Result<Vec<JournalInfo>, Error> {
        let catalog = self.inner.shared.index.catalog();
        let info = |(name, head): (&String, &crate::index::Head)| JournalInfo {
            name: name.clone(),
            first: (head.last > 0).then_some(Seq(1)),
            last: (head.last > 0).then_some(Seq(head.last)),
            bytes: head.bytes,
            created_ms: head.created_ms,
        };
        Ok(catalog.heads.iter().filter(|(name, _)| !name.starts_with('_')).map(info).collect())
    }

    /// Deletes a journal. When this returns no byte of its records is left in the log; should the process die before,
    /// the next open completes it. Handles of the journal answer [`Error::NoJournal`] from then on.
    pub fn delete_journal(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        self.inner.ask(|reply| Ask::Delete { journal: name.into(), reply })?;
        purge(&self.inner.shared)
    }

    /// Keeps bytes under their digest; they are durable when this returns.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, Error> {
        self.inner.blobs.put(bytes)
    }

    /// The bytes of a digest; `None` when they were never put. They are checked: damaged bytes are an error.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        self.inner.blobs.get(digest)
    }

    /// Keeps a note; it is durable, and recall finds it, when this returns. Secrets in it are blotted out first
    /// ([`crate::redact`]). Of kinds other than episodes one note that says the same is enough: then the number of that one is returned.
    pub fn remember(&self, note: Note) -> Result<NoteId, Error> {
        let ids = self.remember_all(vec![note])?;
        Ok(ids[0])
    }

    /// As [`Memory::remember`], for many notes with one write. All are kept, or none.
    pub fn remember_all(&self, notes: Vec<Note>) -> Result<Vec<NoteId>, Error> {
        let mut fresh = Vec::with_capacity(notes.len());
        let mut ids: Vec<Result<NoteId, usize>> = Vec::with_capacity(notes.len());
        let mut repeated = Vec::new();
        let count = notes.len();
        for (n, mut note) in notes.into_iter().enumerate() {
            note.text = crate::redact::redact(&note.text);
            note.check().map_err(|error| match error {
                Error::BadInput(what) if count > 1 => {
                    Error::BadInput(format!("memory {} of {count}: {what}", n + 1))
                }
                other => other,
            })?;
            let twin = |other: &(Note, Vec<u8>)| {
                other.0.kind == note.kind && other.0.scope == note.scope && other.0.text == note.text
            };
            if note.kind != NoteKind::Episode {
                if let Some(id) = self.inner.shared.recall.same(&note) {
                    repeated.push(Change::Repeated { id, by: note.origin.author.clone() });
                    ids.push(Ok(id));
                    continue;
                }
                if let Some(at) = fresh.iter().position(twin) {
                    ids.push(Err(at));
                    continue;
                }
            }
            let body = serde_json::to_vec(&note).expect("a note is strings and numbers");
            ids.push(Err(fresh.len()));
            fresh.push((note, body));
        }
        let made = match fresh.is_empty() {
            true => Vec::new(),
            false => self.inner.ask(|reply| Ask::Remember { notes: fresh, reply })?,
        };
        for change in repeated {
            self.change(change)?;
        }
        Ok(ids.into_iter().map(|id| id.unwrap_or_else(|at| made[at])).collect())
    }

    /// The note of this number; `None` when there never was one, or it was forgotten.
    pub fn note(&self, id: NoteId) -> Result<Option<Note>, Error> {
        self.inner.healing(|shared| shared.note(id))
    }

    /// What has become of a note since it was written down.
    pub fn standing(&self, id: NoteId) -> Standing {
        self.inner.shared.recall.standing(id)
    }

    /// The note of a scope that holds about something ([`Note::about`]).
    pub fn about(&self, scope: &Scope, about: &str) -> Option<NoteId> {
        self.inner.shared.recall.about(&scope.term(), about)
    }

    /// The living notes after `after`, in the order they were written down: at most `limit`, and only those of these scopes, if
    /// some are given, of which `fits` says so.
    pub fn notes(
        &self,
        after: NoteId,
        limit: usize,
        scopes: &[Scope],
        fits: impl Fn(&Standing) -> bool,
    ) -> Result<Vec<(NoteId, Note)>, Error> {
        let terms: Vec<String> = scopes.iter().map(Scope::term).collect();
        let fits = |scope: &str, standing: &Standing| {
            (terms.is_empty() || terms.iter().any(|term| term == scope)) && fits(standing)
        };
        let ids = self.inner.shared.recall.living(after.0, limit, fits);
        let mut notes = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(note) = self.note(id)? {
                notes.push((id, note));
            }
        }
        Ok(notes)
    }

    /// How many living notes each scope has, by [`Scope::term`].
    pub fn scopes(&self) -> std::collections::BTreeMap<String, u64> {
        self.inner.shared.recall.scopes()
    }

    /// Forgets a note: when this returns its text is in no file of the store. `false` when there was none.
    pub fn forget(&self, id: NoteId, by: &str) -> Result<bool, Error> {
        Ok(!self.forget_all(&[id], by)?.is_empty())
    }

    /// Forgets notes: when this returns their texts are in no file of the store. Answers with those there were.
    pub fn forget_all(&self, ids: &[NoteId], by: &str) -> Result<Vec<NoteId>, Error> {
        let mut known = Vec::with_capacity(ids.len());
        for id in ids {
            if self.inner.ask(|reply| Ask::Forget { id: *id, reply })? {
                known.push(*id);
            }
        }
        if !known.is_empty() {
            // The log last: until then the deletion is pending, and the next open would complete both.
            self.inner.shared.recall.purge(&self.inner.shared, &known)?;
            purge(&self.inner.shared)?;
            self.change(Change::Forgotten { ids: known.clone(), by: by.into() })?;
        }
        Ok(known)
    }

    /// The notes that fit a query best, best first.
    pub fn recall(&self, query: &Query) -> Result<Vec<Hit>, Error> {
        self.inner.shared.recall.search(query, |id| self.note(id))
    }

    /// The sessions in which what fits a query was said, best first: at most `query.limit`, by their journals' names. Only episodes
    /// belong to a session.
    pub fn recall_sessions(&self, query: &Query) -> Result<Vec<SessionHit>, Error> {
        self.inner.shared.recall.sessions(query)
    }

    /// Gives the store what it makes vectors with. Notes that have none yet are embedded beside other work.
    pub fn embed_with(&self, embedder: Arc<dyn Embedder>) -> Result<(), Error> {
        self.inner.shared.recall.embed_with(&self.inner.shared, embedder)
    }

    /// Opens the code search over a folder of files, which `name` stands for: its path, say. It uses the store's embedder, if there is
    /// one by now, and lies among the store's indexes. A folder is opened once at a time.
    ///
    /// # Errors
    /// When its files cannot be read or written.
    pub fn code(&self, name: &str) -> Result<CodeIndex, Error> {
        let shared = &self.inner.shared;
        let digest = Digest::of(name.as_bytes()).to_string();
        CodeIndex::open(
            &self.inner.dir.join("index").join("code").join(&digest[..32]),
            shared.recall.embedder(),
        )
    }

    /// Waits until what was remembered so far is in the indexes, and has vectors if there is an embedder. Recall does not need it.
    pub fn settle(&self) {
        self.inner.shared.recall.settle();
    }

    /// How the store is.
    pub fn health(&self) -> Health {
        let shared = &self.inner.shared;
        let (journals, notes) = {
            let catalog = shared.index.catalog();
            (catalog.heads.keys().filter(|name| !name.starts_with('_')).count(), catalog.mark.notes_live)
        };
        let story = shared.story();
        Health {
            segments: shared.log.read().len(),
            bytes: shared.bytes.load(Ordering::Relaxed),
            journals,
            notes,
            notes_embedded: shared.recall.embedded() as u64,
            notes_waiting: shared.recall.unembedded() as u64,
            dropped_tail_bytes: story.dropped_tail_bytes,
            rebuilt: story.rebuilt.clone(),
            damaged: story.damaged.clone(),
            frames_written: shared.frames.load(Ordering::Relaxed),
            syncs: shared.syncs.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Memory").field(&self.inner.shared.log.dir).finish()
    }
}

/// Why a reading did not succeed.
pub(crate) enum Miss {
    /// The index may be wrong; making it anew may help.
    Index(String),
    /// It is as it is.
    Sure(Error),
}

impl From<String> for Miss {
    fn from(reason: String) -> Miss {
        Miss::Index(reason)
    }
}

impl Shared {
    pub(crate) fn story(&self) -> std::sync::MutexGuard<'_, Story> {
        self.story.lock().expect("no holder of the story's lock panics")
    }

    /// Which making of this name is in force.
    pub(crate) fn birth(&self, name: &str) -> Result<u64, Error> {
        let catalog = self.index.catalog();
        let head = catalog.heads.get(name).ok_or_else(|| Error::NoJournal { name: name.into() })?;
        Ok(head.birth)
    }

    /// Records `from..=to` of a journal, as far as a page goes; each with its time and key.
    pub(crate) fn read<T>(
        &self,
        name: &str,
        from: u64,
        to: u64,
        mut take: impl FnMut(&Frame<'_>) -> T,
    ) -> Result<Vec<T>, Miss> {
        let wanted = (to + 1 - from) as usize;
        // The lock is held from the look-up on: a purge may not move the records in between.
        let segments = self.log.read();
        let places = self.index.places(name, from, wanted)?;
        let mut records = Vec::with_capacity(places.len());
        let mut bytes_total = 0;
        for (expected, at) in (from..=to).zip(0..) {
            let Some((_, place)) = places.get(at).filter(|(seq, _)| *seq == expected) else {
                return Err(Miss::Index(format!("it does not know record {expected} of {name:?}")));
            };
            let bytes = self.frame_at(&segments, *place, Kind::Record, name, expected)?;
            bytes_total += bytes.len();
            if bytes_total > PAGE_BYTES_MAX && !records.is_empty() {
                break;
            }
            records.push(take(&Frame::decode(&bytes).expect("it was decoded a moment ago")));
        }
        Ok(records)
    }

    /// A note's text and origin.
    pub(crate) fn note(&self, id: NoteId) -> Result<Option<Note>, Miss> {
        let segments = self.log.read();
        let Some(place) = self.index.note(id.0)? else {
            return Ok(None);
        };
        let bytes = self.frame_at(&segments, place, Kind::Note, "", id.0)?;
        let frame = Frame::decode(&bytes).expect("it was decoded a moment ago");
        serde_json::from_slice(frame.body).map(Some).map_err(|e| {
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("note {id} cannot be read: {e}"),
            );
            Miss::Sure(Error::Io { path: self.log.path(place.segment), source })
        })
    }

    /// The whole frame of this record; it is what it should be.
    fn frame_at(
        &self,
        segments: &std::collections::BTreeMap<u32, crate::log::Segment>,
        place: Place,
        kind: Kind,
        name: &str,
        seq: u64,
    ) -> Result<Vec<u8>, Miss> {
        let corrupt = || {
            let journal = if kind == Kind::Note { "notes" } else { name }.to_string();
            let (segment, offset) = (place.segment, place.offset.into());
            Error::Corrupt { journal, seq: Seq(seq), segment, offset }
        };
        if place.len == 0 {
            return Err(Miss::Sure(corrupt()));
        }
        let bytes = read_at(segments, place).unwrap_or_default();
        let sure = match Frame::decode(&bytes) {
            Ok(frame) if frame.kind == kind && frame.name == name && frame.seq == seq => return Ok(bytes),
            Err(Broken::Body { name: n, seq: s, .. }) => n == name && s == seq,
            Ok(_) | Err(_) => false,
        };
        if sure || self.index_is_fresh.load(Ordering::Acquire) {
            return Err(Miss::Sure(corrupt()));
        }
        Err(Miss::Index(format!("record {seq} of {name:?} is not where it should be")))
    }

    /// Which record has this idempotency key. When records are lost it may have been one of theirs: then that is said.
    pub(crate) fn find_once(&self, name: &str, key: &str) -> Result<Option<Seq>, Miss> {
        if let Some(seq) = self.index.key(name, key)? {
            let keys = self.read(name, seq, seq, |frame| frame.key == key.as_bytes())?;
            if keys == [true] {
                return Ok(Some(Seq(seq)));
            }
        }
        let (lost, last) = {
            let catalog = self.index.catalog();
            catalog.heads.get(name).map_or((0, 0), |head| (head.lost, head.last))
        };
        if lost > 0 {
            let places = self.index.places(name, 1, last as usize)?;
            if let Some((seq, place)) = places.into_iter().find(|(_, place)| place.len == 0) {
                let (segment, offset) = (place.segment, place.offset.into());
                return Err(Miss::Sure(Error::Corrupt {
                    journal: name.into(),
                    seq: Seq(seq),
                    segment,
                    offset,
                }));
            }
        }
        Ok(None)
    }

    /// As [`Shared::find_once`], for the writer, which cannot ask itself for a new index in the middle of a group.
    pub(crate) fn find(&self, name: &str, key: &str) -> Result<Option<Seq>, Error> {
        self.find_once(name, key).map_err(|miss| match miss {
            Miss::Index(reason) => Error::Index(reason),
            Miss::Sure(error) => error,
        })
    }
}

impl Inner {
    /// Asks the writer, and waits for the answer.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Error> {
        let gone = || Error::Stopped("its thread has ended".into());
        let (reply, answer) = sync_channel(1);
        self.asks.send(ask(reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// Reads; should the index turn out to be wrong, has it made anew and reads once more.
    pub(crate) fn healing<T>(&self, read: impl Fn(&Shared) -> Result<T, Miss>) -> Result<T, Error> {
        // Twice, since a deletion at the same moment looks like a hole in the index, and only to those who came before.
        for attempt in 0..2 {
            match read(&self.shared) {
                Ok(value) => return Ok(value),
                Err(Miss::Sure(error)) => return Err(error),
                Err(Miss::Index(_)) if attempt == 0 => {}
                Err(Miss::Index(reason)) => {
                    tracing::warn!(reason, "the index does not agree with the log and is made anew");
                    self.ask(|reply| Ask::Reindex { reply })?;
                }
            }
        }
        read(&self.shared).map_err(|miss| match miss {
            Miss::Index(reason) => Error::Index(reason),
            Miss::Sure(error) => error,
        })
    }

    /// Compares, once per process, how many idempotency keys the index finds with how many there should be: a key that
    /// went missing would let a request be carried out twice.
    fn count_keys(&self, name: &str) -> Result<(), Error> {
        if !self.counted.lock().expect("no holder of this lock panics").insert(name.to_string()) {
            return Ok(());
        }
        self.healing(|shared| {
            let counted = shared.index.count_keys(name)?;
            let expected = shared.index.catalog().heads.get(name).map_or(0, |head| head.keys);
            // More are there when one was written meanwhile.
            if counted >= expected || shared.index_is_fresh.load(Ordering::Acquire) {
                return Ok(());
            }
            Err(Miss::Index(format!("{name:?} has {expected} keys, and {counted} are found")))
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.asks.send(Ask::Stop);
        if let Some(writer) = self.writer.lock().ok().and_then(|mut writer| writer.take()) {
            let _ = writer.join();
        }
        self.shared.recall.close();
        if let Err(reason) = self.shared.index.flush() {
            tracing::warn!(reason, "the index could not be flushed; it is brought level at the next open");
        }
    }
}

/// A folder's lock. Closing its file would not do: a process that is being started has a copy of it until it runs its own
/// program, and would hold the lock for that moment.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // What cannot be unlocked is let go of when its last copy is closed.
        let _ = self.0.unlock();
    }
}

/// Takes the folder's lock, or says who has it.
fn lock(dir: &Path) -> Result<Lock, Error> {
    let path = dir.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => {
            let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            // The number only makes the other's error message better: without room for it the lock still holds.
            if let Err(e) = written {
                tracing::debug!("the lock's holder could not be written down: {e}");
            }
            Ok(Lock(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Err(Error::Locked { pid: pid.trim().parse().unwrap_or(0), dir: dir.to_path_buf() })
        }
        Err(TryLockError::Error(e)) => Err(Error::io(&path, e)),
    }
}

/// Checks a journal's name.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    match (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(()),
        false => Err(Error::BadName { name: name.into() }),
    }
}

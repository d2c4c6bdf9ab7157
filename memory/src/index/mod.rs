//! The index: where each record lies, which idempotency keys were used, which notes live. All of it can be made from
//! the log, by the same function that keeps it current: [`Index::apply`].
//!
//! The write path does not wait for the index to reach the disk. The index says how far it has got (`Mark`), and what
//! the log has beyond that is applied at the next open. Keys are kept as hashes, notes and records not at all, so
//! that what is forgotten cannot linger here.
//!
//! ```text
//! m                    → Mark            h name              → Head of a journal
//! g segment            → generation      p name 00 seq       → Place
//! n id                 → Place           k name 00 key-hash  → seq
//! x segment offset     → Pending: a deletion whose bytes have not all left the log yet
//! ```

mod sled;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};

use ::serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::frame::{Before, Frame, Kind, name_sum, u32_at, u64_at};
use crate::log::{Damage, HEADER, Met, Place, Who};
use sled::{Batch, Map};

/// Raised when what is kept here changes its form: an index of another version is rebuilt.
const VERSION: u32 = 1;
/// Changes in one batch while catching up.
const BATCH_LEN: usize = 8192;
/// Heads and mark are written once for so many frames. They change with each one, and sled keeps every version of a
/// value until it cleans up: a million single writes of a place, a head and a mark took 508 MB of disk in sled alone.
/// What lies behind the mark is applied again at the next open, with the heads of the same moment, so that nothing is
/// counted twice.
const MARK_EVERY: usize = 512;

/// What is known of a journal without looking it up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) last: u64,
    pub(crate) created_ms: u64,
    pub(crate) bytes: u64,
    /// How many idempotency keys it has; compared when the journal is opened.
    pub(crate) keys: u64,
    /// How many of its records are known to be lost.
    pub(crate) lost: u64,
    /// Which making of the name this is, in this process: a handle outlived by a deletion must not write on.
    #[serde(skip, default = "birth")]
    pub(crate) birth: u64,
}

/// How far the index has got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    version: u32,
    /// Up to where the log is in the index.
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// The last frame that is in, when it lies in that segment: its offset, its length and its time. With `before`,
    /// it says whether this index and this log belong together.
    pub(crate) frame: Option<(u32, u32, u64)>,
    pub(crate) before: Before,
    pub(crate) notes_last: u64,
    pub(crate) notes_live: u64,
    pub(crate) notes_lost: u64,
}

/// A deletion whose bytes have not all left the log yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// The journal, or `None` for a note.
    pub(crate) journal: Option<String>,
    /// The note's number.
    pub(crate) note: u64,
    /// The tombstone's place: only frames before it are meant.
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// The segments that hold such frames.
    pub(crate) segments: BTreeSet<u32>,
}

impl Pending {
    /// Whether a frame at this place is one that is to go.
    pub(crate) fn means(&self, kind: Kind, name: &str, seq: u64, segment: u32, offset: usize) -> bool {
        let before = (segment, offset as u64) < (self.segment, u64::from(self.offset));
        let same = match kind {
            Kind::Made | Kind::Record => self.journal.as_deref() == Some(name),
            Kind::Note => self.journal.is_none() && self.note == seq,
            Kind::Deleted | Kind::Forgotten => false,
        };
        before && same
    }
}

/// The part that is small, always needed, and therefore in memory.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) heads: BTreeMap<String, Head>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) mark: Mark,
    /// Births of journals that a rebuild is about to find again, so that handles in use stay good.
    kept: BTreeMap<String, u64>,
    /// Journals whose heads changed since the mark was written …
    changed: BTreeSet<String>,
    /// … and how many frames were applied since.
    unmarked: usize,
}

impl Catalog {
    /// Puts the mark and all heads that belong to it into a batch.
    fn mark_in(&mut self, batch: &mut Batch) {
        for name in std::mem::take(&mut self.changed) {
            if let Some(head) = self.heads.get(&name) {
                batch.put(&head_key(&name), &to_bytes(head));
            }
        }
        batch.put(b"m", &to_bytes(&self.mark));
        self.unmarked = 0;
    }
}

/// The index of a log.
pub(crate) struct Index {
    map: RwLock<Map>,
    catalog: Mutex<Catalog>,
}

/// One frame or damage, with the segment it lies in, on its way into the index.
pub(crate) struct Item<'a> {
    pub(crate) segment: u32,
    pub(crate) met: Met<'a>,
}

impl Index {
    /// Opens what is there. `Err` says why it is of no use; the caller then rebuilds.
    pub(crate) fn open(dir: &Path) -> Result<Index, String> {
        let map = Map::open(dir)?;
        let mut catalog = Catalog::default();
        if let Some(mark) = map.get(b"m")? {
            catalog.mark = from_bytes(&mark)?;
        }
        walk_prefix(&map, b"h", |key, value| {
            let name =
                String::from_utf8(key.to_vec()).map_err(|_| "a journal's name is damaged".to_string())?;
            catalog.heads.insert(name, from_bytes(value)?);
            Ok(true)
        })?;
        walk_prefix(&map, b"x", |_, value| {
            catalog.pending.push(from_bytes(value)?);
            Ok(true)
        })?;
        if catalog.mark.version != VERSION && !catalog.heads.is_empty() {
            return Err(format!("it has version {}, not {VERSION}", catalog.mark.version));
        }
        catalog.mark.version = VERSION;
        Ok(Index { map: RwLock::new(map), catalog: Mutex::new(catalog) })
    }

    /// Deletes what is in the folder and opens an empty index there.
    pub(crate) fn create(dir: &Path) -> Result<Index, String> {
        Map::destroy(dir)?;
        Index::open(dir)
    }

    /// Empties this index in place, when it has turned out to be damaged while in use.
    pub(crate) fn empty(&self) -> Result<(), String> {
        let mut map = self.map.write().map_err(|_| "the index's lock is poisoned".to_string())?;
        let dir: PathBuf = map.dir().to_path_buf();
        // sled holds a lock on its files until the last handle is gone, so a stand-in takes the map's place meanwhile.
        let aside = dir.with_extension("aside");
        Map::destroy(&aside)?;
        *map = Map::open(&aside)?;
        Map::destroy(&dir)?;
        *map = Map::open(&dir)?;
        Map::destroy(&aside)?;
        let mut catalog = self.catalog();
        let kept = catalog.heads.iter().map(|(name, head)| (name.clone(), head.birth)).collect();
        let mark = Mark { version: VERSION, ..Mark::default() };
        *catalog = Catalog { mark, kept, ..Catalog::default() };
        Ok(())
    }

    /// The part in memory.
    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().expect("no holder of the catalog's lock panics")
    }

    /// Where a record lies.
    pub(crate) fn places(&self, name: &str, from: u64, max: usize) -> Result<Vec<(u64, Place)>, String> {
        let prefix = record_prefix(name);
        let mut places = Vec::new();
        let start = [&prefix[..], &from.to_be_bytes()].concat();
        self.map()?.walk(&start, |key, value| {
            let fits = key.starts_with(&prefix) && key.len() == prefix.len() + 8 && value.len() == 12;
            if fits {
                places.push((
                    u64::from_be_bytes(key[prefix.len()..].try_into().expect("eight bytes")),
                    place_of(value),
                ));
            }
            fits && places.len() < max
        })?;
        Ok(places)
    }

    /// Which record has this idempotency key, as far as its hash tells.
    pub(crate) fn key(&self, name: &str, key: &str) -> Result<Option<u64>, String> {
        let value = self.map()?.get(&key_key(name, key.as_bytes()))?;
        Ok(value.filter(|value| value.len() == 8).map(|value| u64_at(&value, 0)))
    }

    /// How many idempotency keys of a journal are found by walking over them.
    pub(crate) fn count_keys(&self, name: &str) -> Result<u64, String> {
        let mut count = 0;
        walk_prefix(&*self.map()?, &key_prefix(name), |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }

    /// Where a note lies.
    pub(crate) fn note(&self, id: u64) -> Result<Option<Place>, String> {
        let value = self.map()?.get(&note_key(id))?;
        Ok(value.filter(|value| value.len() == 12).map(|value| place_of(&value)))
    }

    /// The living notes from `from` on.
    pub(crate) fn notes(&self, from: u64, max: usize) -> Result<Vec<(u64, Place)>, String> {
        let mut notes = Vec::new();
        self.map()?.walk(&note_key(from), |key, value| {
            let fits = key.len() == 9 && key[0] == b'n' && value.len() == 12;
            if fits {
                notes.push((u64::from_be_bytes(key[1..].try_into().expect("eight bytes")), place_of(value)));
            }
            fits && notes.len() < max
        })?;
        Ok(notes)
    }

    /// The generation of each segment, as indexed.
    pub(crate) fn generations(&self) -> Result<BTreeMap<u32, u32>, String> {
        let mut generations = BTreeMap::new();
        walk_prefix(&*self.map()?, b"g", |key, value| {
            if let (Ok(segment), 4) = (key.try_into(), value.len()) {
                generations.insert(u32::from_be_bytes(segment), u32_at(value, 0));
            }
            Ok(true)
        })?;
        Ok(generations)
    }

    /// Takes in what the log has next, in order.
    pub(crate) fn apply(&self, items: &[Item<'_>]) -> Result<(), String> {
        let map = self.map()?;
        let mut catalog = self.catalog();
        let mut work = Work { map: &map, catalog: &mut catalog, batch: Batch::default(), tombstones: false };
        for item in items {
            let end = match &item.met {
                Met::Frame { at, frame } => {
                    work.frame(item.segment, *at, frame)?;
                    work.catalog.mark.frame = Some((*at as u32, frame.len() as u32, frame.at_ms));
                    work.catalog.mark.before = (name_sum(frame.name), frame.seq);
                    at + frame.len()
                }
                Met::Damage(damage) => {
                    work.damage(item.segment, damage);
                    work.catalog.mark.frame = None;
                    damage.at + damage.len
                }
            };
            // After each item, so that whatever is written with a batch is counted once and never again.
            (work.catalog.mark.segment, work.catalog.mark.offset) = (item.segment, end as u32);
            work.catalog.unmarked += 1;
            if work.batch.len() >= BATCH_LEN {
                work.write()?;
            }
        }
        work.write()
    }

    /// The log goes on in this segment; everything before it is in.
    pub(crate) fn start_segment(&self, segment: u32, generation: u32) -> Result<(), String> {
        let map = self.map()?;
        let mut catalog = self.catalog();
        let mark = &mut catalog.mark;
        (mark.segment, mark.offset, mark.frame) = (segment, HEADER as u32, None);
        let mut batch = Batch::default();
        batch.put(&generation_key(segment), &generation.to_le_bytes());
        catalog.mark_in(&mut batch);
        map.apply(batch)
    }

    /// Takes in the places of a segment that was rewritten. Frames that a pending deletion means are left out.
    pub(crate) fn move_segment(&self, segment: u32, generation: u32, met: &[Met<'_>]) -> Result<(), String> {
        let map = self.map()?;
        let catalog = self.catalog();
        let mut batch = Batch::default();
        for met in met {
            let Met::Frame { at, frame } = met else { continue };
            let dead = |p: &Pending| p.means(frame.kind, frame.name, frame.seq, segment, *at);
            if catalog.pending.iter().any(dead) {
                continue;
            }
            let place = Place { segment, offset: *at as u32, len: frame.len() as u32 };
            match frame.kind {
                Kind::Record => batch.put(&record_key(frame.name, frame.seq), &place_bytes(place)),
                Kind::Note => batch.put(&note_key(frame.seq), &place_bytes(place)),
                Kind::Made | Kind::Deleted | Kind::Forgotten => {}
            }
        }
        batch.put(&generation_key(segment), &generation.to_le_bytes());
        map.apply(batch)
    }

    /// A deletion is done: no byte of it is left in the log.
    pub(crate) fn settle(&self, pending: &Pending) -> Result<(), String> {
        let mut batch = Batch::default();
        batch.remove(&pending_key(pending));
        self.map()?.apply(batch)?;
        self.catalog().pending.retain(|other| other != pending);
        self.map()?.flush()
    }

    /// Brings everything to disk.
    pub(crate) fn flush(&self) -> Result<(), String> {
        let map = self.map()?;
        let mut batch = Batch::default();
        let mut catalog = self.catalog();
        catalog.mark_in(&mut batch);
        // Under the lock, or a newer mark could be overwritten with this one.
        map.apply(batch)?;
        drop(catalog);
        map.flush()
    }

    fn map(&self) -> Result<std::sync::RwLockReadGuard<'_, Map>, String> {
        self.map.read().map_err(|_| "the index's lock is poisoned".to_string())
    }
}

/// A batch in the making, and what it is made from.
struct Work<'a> {
    map: &'a Map,
    catalog: &'a mut Catalog,
    batch: Batch,
    /// Whether something was deleted. Applying that again would not count the same, so the mark goes with it.
    tombstones: bool,
}

impl Work<'_> {
    fn frame(&mut self, segment: u32, at: usize, frame: &Frame<'_>) -> Result<(), String> {
        let place = Place { segment, offset: at as u32, len: frame.len() as u32 };
        match frame.kind {
            Kind::Made => {
                self.head(frame.name, frame.at_ms);
            }
            Kind::Record => {
                let last = self.head(frame.name, frame.at_ms).last;
                self.lose(frame.name, last + 1, frame.seq, place);
                self.batch.put(&record_key(frame.name, frame.seq), &place_bytes(place));
                let keyed = !frame.key.is_empty();
                if keyed {
                    self.batch.put(&key_key(frame.name, frame.key), &frame.seq.to_le_bytes());
                }
                let head = self.head(frame.name, frame.at_ms);
                head.last = head.last.max(frame.seq);
                head.bytes += u64::from(place.len);
                head.keys += u64::from(keyed);
            }
            Kind::Deleted => self.delete(frame.name, place)?,
            Kind::Note => {
                self.lose_notes(frame.seq, place);
                self.batch.put(&note_key(frame.seq), &place_bytes(place));
                let mark = &mut self.catalog.mark;
                mark.notes_last = mark.notes_last.max(frame.seq);
                mark.notes_live += 1;
            }
            Kind::Forgotten => self.forget(frame.seq, place)?,
        }
        Ok(())
    }

    /// A damaged frame, when it can be told whose it was, is a record that is known to be lost.
    fn damage(&mut self, segment: u32, damage: &Damage) {
        let place = Place { segment, offset: damage.at as u32, len: 0 };
        let (name, seq) = match &damage.who {
            Who::Name { kind: Kind::Record, name, seq } => (name.clone(), *seq),
            Who::Name { kind: Kind::Note, seq, .. } => (String::new(), *seq),
            Who::Sum((sum, seq)) if *sum == name_sum("") => (String::new(), *seq),
            Who::Sum((sum, seq)) => match self.catalog.heads.keys().find(|name| name_sum(name) == *sum) {
                Some(name) => (name.clone(), *seq),
                None => return,
            },
            Who::Name { .. } | Who::Nobody => return,
        };
        if name.is_empty() {
            self.lose_notes(seq + 1, place);
        } else if self.catalog.heads.contains_key(&name) {
            let last = self.head(&name, 0).last;
            self.lose(&name, last + 1, seq + 1, place);
        } else if seq > 0 {
            self.head(&name, 0);
            self.lose(&name, 1, seq + 1, place);
        }
    }

    /// Records `from..to` of a journal are lost, somewhere at or before `place`.
    fn lose(&mut self, name: &str, from: u64, to: u64, place: Place) {
        for seq in from..to {
            self.batch.put(&record_key(name, seq), &place_bytes(Place { len: 0, ..place }));
        }
        if from < to {
            let head = self.head(name, 0);
            head.last = to - 1;
            head.lost += to - from;
        }
    }

    /// Notes that are missing below `to` are lost, unless a tombstone says later that they were forgotten.
    fn lose_notes(&mut self, to: u64, place: Place) {
        let from = self.catalog.mark.notes_last + 1;
        for id in from..to {
            self.batch.put(&note_key(id), &place_bytes(Place { len: 0, ..place }));
        }
        if from < to {
            self.catalog.mark.notes_last = to - 1;
            self.catalog.mark.notes_lost += to - from;
        }
    }

    fn delete(&mut self, name: &str, tombstone: Place) -> Result<(), String> {
        self.write()?;
        let mut segments = BTreeSet::new();
        let mut gone = Vec::new();
        walk_prefix(self.map, &record_prefix(name), |key, value| {
            gone.push([&record_prefix(name)[..], key].concat());
            if value.len() == 12 {
                segments.insert(place_of(value).segment);
            }
            Ok(true)
        })?;
        walk_prefix(self.map, &key_prefix(name), |key, _| {
            gone.push([&key_prefix(name)[..], key].concat());
            Ok(true)
        })?;
        gone.iter().for_each(|key| self.batch.remove(key));
        self.batch.remove(&head_key(name));
        self.catalog.heads.remove(name);
        self.tombstones = true;
        self.wait_for_purge(Some(name), 0, tombstone, segments);
        Ok(())
    }

    fn forget(&mut self, id: u64, tombstone: Place) -> Result<(), String> {
        self.write()?;
        let place =
            self.map.get(&note_key(id))?.filter(|value| value.len() == 12).map(|value| place_of(&value));
        self.batch.remove(&note_key(id));
        self.tombstones = true;
        let mark = &mut self.catalog.mark;
        mark.notes_last = mark.notes_last.max(id);
        if let Some(place) = place {
            match place.len {
                0 => mark.notes_lost -= 1,
                _ => mark.notes_live -= 1,
            }
            self.wait_for_purge(None, id, tombstone, BTreeSet::from([place.segment]));
        }
        Ok(())
    }

    fn wait_for_purge(
        &mut self,
        journal: Option<&str>,
        note: u64,
        tombstone: Place,
        segments: BTreeSet<u32>,
    ) {
        if segments.is_empty() {
            return;
        }
        let Place { segment, offset, .. } = tombstone;
        let pending = Pending { journal: journal.map(str::to_string), note, segment, offset, segments };
        self.batch.put(&pending_key(&pending), &to_bytes(&pending));
        self.catalog.pending.push(pending);
    }

    fn head(&mut self, name: &str, at_ms: u64) -> &mut Head {
        let Catalog { heads, kept, changed, .. } = &mut *self.catalog;
        if !changed.contains(name) {
            changed.insert(name.to_string());
        }
        heads.entry(name.to_string()).or_insert_with(|| {
            let birth = kept.remove(name).unwrap_or_else(birth);
            Head { last: 0, created_ms: at_ms, bytes: 0, keys: 0, lost: 0, birth }
        })
    }

    fn write(&mut self) -> Result<(), String> {
        let mut batch = std::mem::take(&mut self.batch);
        if self.tombstones || self.catalog.unmarked >= MARK_EVERY {
            self.catalog.mark_in(&mut batch);
            self.tombstones = false;
        }
        self.map.apply(batch)
    }
}

fn birth() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Calls `each` with every entry under a prefix, the prefix cut off, until it says `false` or fails.
fn walk_prefix(
    map: &Map,
    prefix: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, String>,
) -> Result<(), String> {
    let mut failed = None;
    map.walk(prefix, |key, value| match key.strip_prefix(prefix).map(|rest| each(rest, value)) {
        Some(Ok(on)) => on,
        Some(Err(e)) => {
            failed = Some(e);
            false
        }
        None => false,
    })?;
    failed.map_or(Ok(()), Err)
}

fn head_key(name: &str) -> Vec<u8> {
    [b"h", name.as_bytes()].concat()
}

fn record_prefix(name: &str) -> Vec<u8> {
    [b"p", name.as_bytes(), &[0]].concat()
}

fn record_key(name: &str, seq: u64) -> Vec<u8> {
    [&record_prefix(name)[..], &seq.to_be_bytes()].concat()
}

fn key_prefix(name: &str) -> Vec<u8> {
    [b"k", name.as_bytes(), &[0]].concat()
}

fn key_key(name: &str, key: &[u8]) -> Vec<u8> {
    [&key_prefix(name)[..], &Sha256::digest(key)[..16]].concat()
}

fn note_key(id: u64) -> Vec<u8> {
    [&b"n"[..], &id.to_be_bytes()].concat()
}

fn generation_key(segment: u32) -> Vec<u8> {
    [&b"g"[..], &segment.to_be_bytes()].concat()
}

fn pending_key(pending: &Pending) -> Vec<u8> {
    [&b"x"[..], &pending.segment.to_be_bytes(), &pending.offset.to_be_bytes()].concat()
}

fn place_bytes(place: Place) -> Vec<u8> {
    [place.segment, place.offset, place.len].map(u32::to_le_bytes).concat()
}

fn place_of(bytes: &[u8]) -> Place {
    Place { segment: u32_at(bytes, 0), offset: u32_at(bytes, 4), len: u32_at(bytes, 8) }
}

fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain numbers and names serialise")
}

fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("an entry is damaged: {e}"))
}

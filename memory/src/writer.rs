//! The one thread that appends to the log. Many callers, one fsync: whatever has been asked for while the last write
//! was on its way to the disk goes out with the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::frame::{Frame, Kind};
use crate::index::Item;
use crate::log::{BATCH_BYTES_MAX, End, HEADER, Met, SEGMENT_BYTES};
use crate::memory::Shared;
use crate::recover::rebuild;
use crate::{Appended, Error, Note, NoteId, Seq};

/// Callers that may wait with their asks in the queue; more wait to get in. Far more than threads that could ask.
pub(crate) const QUEUE_ASKS: usize = 1024;
/// A group is sent off at this size, so that the first in it does not wait for too many others.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
const _: () = assert!(GROUP_BYTES + BATCH_BYTES_MAX < SEGMENT_BYTES as usize);

/// Where an answer goes. The asker waits at the other end.
pub(crate) type Reply<T> = SyncSender<Result<T, Error>>;

/// What can be asked of the writer.
pub(crate) enum Ask {
    /// Records of one journal, all or none. With `once`, only if the first one's key is new.
    Append { journal: Arc<str>, birth: u64, records: Vec<New>, once: bool, reply: Reply<Appended> },
    /// A journal, made when it is not there; answers with its birth. `fresh`: it must not be there.
    Make { journal: String, at_ms: Option<u64>, fresh: bool, reply: Reply<u64> },
    /// Notes, each with its frame's body; all or none.
    Remember { notes: Vec<(Note, Vec<u8>)>, reply: Reply<Vec<NoteId>> },
    /// A journal's tombstone.
    Delete { journal: String, reply: Reply<()> },
    /// A note's tombstone; answers whether there was such a note.
    Forget { id: NoteId, reply: Reply<bool> },
    /// The index made anew, unless that was done before in this process.
    Reindex { reply: Reply<()> },
    /// The end of the thread.
    Stop,
}

/// A record that is to be written.
pub(crate) struct New {
    pub(crate) key: Option<String>,
    pub(crate) body: Vec<u8>,
    /// The time it gets; now, if none is given.
    pub(crate) at_ms: Option<u64>,
}

/// The thread's own.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    end: End,
    /// Why nothing more can be written: the index is lost and could not be made anew.
    lost_index: Option<String>,
}

/// A frame that is to be written with the group.
struct Planned {
    kind: Kind,
    name: Arc<str>,
    seq: u64,
    at_ms: u64,
    batch_left: u32,
    key: String,
    body: Vec<u8>,
}

/// What a journal will be like when the group is written.
struct Ahead {
    birth: u64,
    last: u64,
    keys: BTreeMap<String, u64>,
}

/// What is done once a group is durable, or has failed.
type After = Box<dyn FnOnce(Result<&Shared, &Error>) + Send>;

/// A group in the making.
#[derive(Default)]
struct Group {
    frames: Vec<Planned>,
    journals: BTreeMap<Arc<str>, Option<Ahead>>,
    notes: Vec<(NoteId, Note)>,
    /// What is answered once the group is durable, or has failed.
    after: Vec<After>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, end: End) -> Writer {
        Writer { shared, end, lost_index: None }
    }

    /// Serves asks until told to stop.
    pub(crate) fn run(mut self, asks: &Receiver<Ask>) {
        while let Ok(mut ask) = asks.recv() {
            let mut group = Group::default();
            let mut bytes = 0;
            // Takes what is there, up to a group; the first ask that cannot share a write ends it.
            let alone = loop {
                bytes += ask.bytes();
                if let Some(alone) = self.plan(&mut group, ask) {
                    break Some(alone);
                }
                if bytes >= GROUP_BYTES {
                    break None;
                }
                match asks.try_recv() {
                    Ok(next) => ask = next,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break None,
                }
            };
            self.send(group);
            match alone {
                None => {}
                Some(Ask::Stop) => return,
                Some(Ask::Delete { journal, reply }) => answer(&reply, self.delete(&journal)),
                Some(Ask::Forget { id, reply }) => answer(&reply, self.forget(id)),
                Some(Ask::Reindex { reply }) => {
                    let done = match self.shared.index_is_fresh.load(Ordering::Acquire) {
                        true => Ok(()),
                        false => self.rebuild("it did not agree with the log while in use"),
                    };
                    answer(&reply, done);
                }
                Some(Ask::Append { .. } | Ask::Make { .. } | Ask::Remember { .. }) => {
                    unreachable!("these share a write")
                }
            }
        }
    }

    /// Adds an ask to the group, or gives it back when it needs a write of its own.
    fn plan(&self, group: &mut Group, ask: Ask) -> Option<Ask> {
        if let Some(why) = &self.lost_index {
            return ask.refuse(&Error::Index(why.clone()));
        }
        match ask {
            Ask::Append { journal, birth, records, once, reply } => {
                match self.plan_append(group, &journal, birth, records, once) {
                    Ok((appended, waits)) if waits => group.after(reply, appended),
                    done => answer(&reply, done.map(|(appended, _)| appended)),
                }
                None
            }
            Ask::Make { journal, at_ms, fresh, reply } => {
                let name: Arc<str> = journal.into();
                match self.ahead(group, &name) {
                    Some(_) if fresh => answer(
                        &reply,
                        Err(Error::BadInput(format!("there is a journal {name:?} already: delete it first"))),
                    ),
                    Some(ahead) => {
                        let birth = ahead.birth;
                        group.after(reply, birth);
                    }
                    None => {
                        let at_ms = at_ms.unwrap_or_else(now_ms);
                        group.push(Kind::Made, &name, 0, at_ms, 0, String::new(), Vec::new());
                        // Its birth is known once the index has it; until then nobody holds a handle.
                        group.journals.remove(&name);
                        group.after.push(Box::new(move |done| {
                            let born = done.map_err(again).and_then(|shared| shared.birth(&name));
                            answer(&reply, born);
                        }));
                    }
                }
                None
            }
            Ask::Remember { notes, reply } => {
                let last = group.notes.last().map(|(id, _)| id.0);
                let mut last = last.unwrap_or_else(|| self.shared.index.catalog().mark.notes_last);
                let mut ids = Vec::with_capacity(notes.len());
                let mut left = notes.len() as u32;
                for (note, body) in notes {
                    left -= 1;
                    last += 1;
                    ids.push(NoteId(last));
                    group.push(Kind::Note, &"".into(), last, note.recorded_ms, left, String::new(), body);
                    group.notes.push((NoteId(last), note));
                }
                group.after(reply, ids);
                None
            }
            Ask::Delete { .. } | Ask::Forget { .. } | Ask::Reindex { .. } | Ask::Stop => Some(ask),
        }
    }

    /// Plans the frames of an append. Answers what it will have done, and whether that waits for the group.
    fn plan_append(
        &self,
        group: &mut Group,
        name: &Arc<str>,
        birth: u64,
        records: Vec<New>,
        once: bool,
    ) -> Result<(Appended, bool), Error> {
        let no_journal = || Error::NoJournal { name: name.to_string() };
        let ahead = self.ahead(group, name).filter(|ahead| ahead.birth == birth).ok_or_else(no_journal)?;
        if let (true, Some(key)) = (once, records.first().and_then(|record| record.key.as_deref())) {
            if let Some(seq) = ahead.keys.get(key) {
                return Ok((Appended { seq: Seq(*seq), fresh: false }, true));
            }
            if let Some(seq) = self.shared.find(name, key)? {
                return Ok((Appended { seq, fresh: false }, false));
            }
        }
        let count = records.len() as u32;
        let mut seq = ahead.last;
        let mut frames = Vec::with_capacity(records.len());
        for (batch_left, record) in (0..count).rev().zip(records) {
            seq += 1;
            let key = record.key.unwrap_or_default();
            if !key.is_empty() {
                ahead.keys.entry(key.clone()).or_insert(seq);
            }
            frames.push((seq, record.at_ms.unwrap_or_else(now_ms), batch_left, key, record.body));
        }
        ahead.last = seq;
        for (seq, at_ms, batch_left, key, body) in frames {
            group.push(Kind::Record, name, seq, at_ms, batch_left, key, body);
        }
        Ok((Appended { seq: Seq(seq), fresh: true }, true))
    }

    /// What the journal will be like after the group as planned so far; `None` when there is none.
    fn ahead<'g>(&self, group: &'g mut Group, name: &Arc<str>) -> Option<&'g mut Ahead> {
        let entry = group.journals.entry(name.clone());
        let ahead = entry.or_insert_with(|| {
            let catalog = self.shared.index.catalog();
            let head = catalog.heads.get(&**name)?;
            Some(Ahead { birth: head.birth, last: head.last, keys: BTreeMap::new() })
        });
        ahead.as_mut()
    }

    /// Writes the group, indexes it, and answers.
    fn send(&mut self, group: Group) {
        let done = if group.frames.is_empty() { Ok(()) } else { self.write(&group.frames) };
        if done.is_ok() {
            for (id, note) in &group.notes {
                self.shared.recall.add(&self.shared, *id, note);
            }
        }
        for after in group.after {
            after(done.as_ref().map(|()| &*self.shared));
        }
    }

    fn write(&mut self, frames: &[Planned]) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let size: usize = frames.iter().map(Planned::len).sum();
        if self.end.len + size as u64 > SEGMENT_BYTES && self.end.len > HEADER {
            self.roll()?;
        }
        let mut bytes = Vec::with_capacity(size);
        let mut starts = Vec::with_capacity(frames.len());
        let mut before = self.end.before;
        for planned in frames {
            starts.push(bytes.len());
            let frame = planned.frame(self.end.len as u32, before);
            frame.encode(&mut bytes);
            before = (crate::frame::name_sum(&planned.name), planned.seq);
        }
        let start = self.end.len as usize;
        self.end.write(&bytes)?;
        self.end.before = before;
        shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        shared.syncs.fetch_add(1, Ordering::Relaxed);
        shared.frames.fetch_add(frames.len() as u64, Ordering::Relaxed);
        let segment = self.end.segment;
        let items: Vec<Item<'_>> = frames
            .iter()
            .zip(starts)
            .map(|(planned, at)| Item {
                segment,
                met: Met::Frame { at: start + at, frame: planned.frame(start as u32, self.end.before) },
            })
            .collect();
        if let Err(reason) = shared.index.apply(&items) {
            // The records are durable, so they count as written whatever becomes of the index.
            if let Err(e) = self.rebuild(&reason) {
                self.lost_index = Some(e.to_string());
            }
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), Error> {
        self.end.roll(&self.shared.log)?;
        self.shared.bytes.fetch_add(HEADER, Ordering::Relaxed);
        if let Err(reason) = self.shared.index.start_segment(self.end.segment, 0) {
            self.rebuild(&reason)?;
        }
        Ok(())
    }

    fn rebuild(&mut self, reason: &str) -> Result<(), Error> {
        // A purge must not move a segment between its being read and its places being indexed.
        let _purges_wait = self.shared.purging.lock().expect("no holder of the purge lock panics");
        let found = rebuild(&self.shared.log, &self.shared.index, (self.end.segment, self.end.len as usize))?;
        self.shared.index_is_fresh.store(true, Ordering::Release);
        let mut story = self.shared.story.lock().expect("no holder of the story's lock panics");
        story.rebuilt.push(format!("index: {reason}"));
        story.damaged = found.damaged;
        Ok(())
    }

    fn delete(&mut self, journal: &str) -> Result<(), Error> {
        self.refuse_without_index()?;
        if !self.shared.index.catalog().heads.contains_key(journal) {
            return Err(Error::NoJournal { name: journal.to_string() });
        }
        self.bury(Kind::Deleted, journal, 0)
    }

    fn forget(&mut self, id: NoteId) -> Result<bool, Error> {
        self.refuse_without_index()?;
        let known = self.shared.index.note(id.0).map_err(Error::Index)?.is_some();
        if known {
            self.bury(Kind::Forgotten, "", id.0)?;
            self.shared.recall.remove(id);
        }
        Ok(known)
    }

    fn refuse_without_index(&self) -> Result<(), Error> {
        self.lost_index.clone().map_or(Ok(()), |why| Err(Error::Index(why)))
    }

    /// Writes a tombstone, and sees to it that what it means lies in closed segments, which a purge can rewrite.
    fn bury(&mut self, kind: Kind, name: &str, seq: u64) -> Result<(), Error> {
        let tombstone = Planned {
            kind,
            name: name.into(),
            seq,
            at_ms: now_ms(),
            batch_left: 0,
            key: String::new(),
            body: Vec::new(),
        };
        self.write(&[tombstone])?;
        let last = self.end.segment;
        let open = self.shared.index.catalog().pending.iter().any(|pending| pending.segments.contains(&last));
        if open { self.roll() } else { Ok(()) }
    }
}

impl Planned {
    fn frame(&self, durable: u32, before: crate::frame::Before) -> Frame<'_> {
        Frame {
            kind: self.kind,
            name: &self.name,
            seq: self.seq,
            at_ms: self.at_ms,
            batch_left: self.batch_left,
            durable,
            before,
            key: self.key.as_bytes(),
            body: &self.body,
        }
    }

    fn len(&self) -> usize {
        self.frame(0, (0, 0)).len()
    }
}

impl Group {
    #[expect(
        clippy::too_many_arguments,
        reason = "these are a frame's parts, named at the only calls there are"
    )]
    fn push(
        &mut self,
        kind: Kind,
        name: &Arc<str>,
        seq: u64,
        at_ms: u64,
        batch_left: u32,
        key: String,
        body: Vec<u8>,
    ) {
        self.frames.push(Planned { kind, name: name.clone(), seq, at_ms, batch_left, key, body });
    }

    /// Answers with `value` once the group is durable.
    fn after<T: Send + 'static>(&mut self, reply: Reply<T>, value: T) {
        self.after.push(Box::new(move |done| answer(&reply, done.map(|_| value).map_err(again))));
    }
}

impl Ask {
    fn bytes(&self) -> usize {
        match self {
            Ask::Append { records, .. } => records.iter().map(|record| record.body.len()).sum(),
            Ask::Remember { notes, .. } => notes.iter().map(|(_, body)| body.len()).sum(),
            Ask::Make { .. } | Ask::Delete { .. } | Ask::Forget { .. } | Ask::Reindex { .. } | Ask::Stop => 0,
        }
    }

    /// Answers with an error; a stop is still a stop.
    fn refuse(self, error: &Error) -> Option<Ask> {
        match self {
            Ask::Append { reply, .. } => answer(&reply, Err(again(error))),
            Ask::Make { reply, .. } => answer(&reply, Err(again(error))),
            Ask::Remember { reply, .. } => answer(&reply, Err(again(error))),
            Ask::Delete { .. } | Ask::Forget { .. } | Ask::Reindex { .. } | Ask::Stop => return Some(self),
        }
        None
    }
}

/// Gives an answer. An asker that has gone away needs none.
fn answer<T>(reply: &Reply<T>, value: Result<T, Error>) {
    let _ = reply.send(value);
}

/// The same error, for one more of those who asked.
fn again(error: &Error) -> Error {
    match error {
        Error::Full { path } => Error::Full { path: path.clone() },
        Error::ReadOnly { path, source } => Error::ReadOnly {
            path: path.clone(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
        Error::Io { path, source } => {
            Error::Io { path: path.clone(), source: std::io::Error::new(source.kind(), source.to_string()) }
        }
        Error::Index(why) => Error::Index(why.clone()),
        Error::Stopped(why) => Error::Stopped(why.clone()),
        other => Error::Stopped(other.to_string()),
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

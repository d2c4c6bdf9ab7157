//! Lines on disk: what was computed for a timeline is written beside the work, and found again after a restart.
//!
//! A line's pages (`cache/page.rs`) are files that are named by the chain of everything said up to their end and of what it
//! was computed with: the model's files, how they are used, how numbers are kept, and the secret if there is one. So a page
//! is written once whoever says the same, a session that grows writes what is new, and what is found by its name is what
//! would be computed. Nothing else is: a file that does not say so itself, with checksums, is removed, and its tokens are
//! computed again. A small file for each line names its pages, so that they go when the last line that needs them goes.

mod files;
mod frame;
mod index;
mod secret;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::Error;
use crate::cache::{Chain, Layout, Page, States, put_states, states_bytes, take_states};
use files::Files;
use frame::{Kind, file_bytes};
use index::{Index, Manifest, Part};

pub use secret::Secret;

/// Snapshots that wait to be written. Each is a list of shared pages; one that finds no room is made again at the line's
/// next step.
const WAITING_MAX: usize = 64;

/// A folder of snapshots, for timelines of any models. A cheap handle; what was asked for is written before the last one
/// is gone.
#[derive(Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    slots: Mutex<BTreeMap<String, Weak<Name>>>,
    /// None once the folder is being closed.
    jobs: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
    _lock: File,
}

/// What the writer and the readers share.
struct Store {
    files: Files,
    bytes_max: u64,
    index: Mutex<Index>,
    written_bytes: AtomicU64,
    refused: AtomicU64,
}

/// A place where one line is kept on disk, under a name.
#[derive(Clone)]
pub struct Slot {
    snapshots: Snapshots,
    name: Arc<Name>,
}

struct Name {
    name: String,
    /// Set when what is kept under it was deleted: what is still on its way is then not written.
    deleted: AtomicBool,
    /// Counts what was asked to be written. What is older when its turn comes is passed over.
    asked: AtomicU64,
}

/// What lies on disk, and what was done since the folder was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Lines that are kept.
    pub lines: u64,
    /// What all files take.
    pub held_bytes: u64,
    /// The most they may take.
    pub budget_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Files that were not what they should be, and were removed.
    pub refused: u64,
}

/// A line to be written.
pub(crate) struct Contents {
    pub(crate) root: Chain,
    pub(crate) secret: Option<Secret>,
    /// Whole pages, in order.
    pub(crate) pages: Vec<(Chain, Arc<Page>)>,
    /// What follows them.
    pub(crate) tail: Option<(Chain, Page)>,
    /// States at the ends of some of these.
    pub(crate) states: Vec<(Chain, States)>,
}

/// Waits for a snapshot to be written. Dropping it is harmless.
pub struct Written(oneshot::Receiver<bool>);

impl Written {
    pub(crate) fn new(answer: oneshot::Receiver<bool>) -> Written {
        Written(answer)
    }

    /// Whether the snapshot is on disk. It is not if a later one takes its place, if it was deleted meanwhile or if there is
    /// no room; the log says what failed.
    pub async fn is_kept(self) -> bool {
        self.0.await.unwrap_or(false)
    }
}

enum Job {
    Write { name: Arc<Name>, number: u64, contents: Box<Contents>, done: oneshot::Sender<bool> },
    Delete { name: String, done: SyncSender<()> },
    Settle { done: SyncSender<()> },
}

impl Snapshots {
    /// Opens the folder, which is made when it is missing, and removes what is no part of a line and what is too much. Files
    /// may take `bytes_max` bytes together. Blocks.
    ///
    /// # Errors
    /// [`Error::Folder`] if the folder cannot be used, also because another process does.
    pub fn open(folder: &Path, bytes_max: u64) -> Result<Snapshots, Error> {
        let trouble = |source, advice| Error::Folder { path: folder.to_owned(), source, advice };
        let open = || {
            let Some((files, lock)) = Files::open(folder)? else { return Ok(None) };
            let index = Mutex::new(Index::default());
            let (written_bytes, refused) = (AtomicU64::new(0), AtomicU64::new(0));
            let store = Store { files, bytes_max, index, written_bytes, refused };
            store.load()?;
            let store = Arc::new(store);
            let (jobs, waiting) = sync_channel(WAITING_MAX);
            let writer = Arc::clone(&store);
            let writer =
                std::thread::Builder::new().name("snapshots".into()).spawn(move || writer.run(&waiting))?;
            Ok(Some(Inner {
                store,
                slots: Mutex::default(),
                jobs: Some(jobs),
                writer: Some(writer),
                _lock: lock,
            }))
        };
        match open() {
            Ok(Some(inner)) => Ok(Snapshots { inner: Arc::new(inner) }),
            Ok(None) => {
                let busy = io::Error::new(io::ErrorKind::ResourceBusy, "another process uses this folder");
                Err(trouble(busy, "stop it, or give this one another folder"))
            }
            Err(error) => Err(trouble(error, "give a folder that this user may write")),
        }
    }

    /// Where a line is kept under `name`, in place of what is kept there now.
    pub fn slot(&self, name: &str) -> Slot {
        let mut slots = self.slots();
        slots.retain(|_, slot| slot.strong_count() > 0);
        let known = slots.get(name).and_then(Weak::upgrade);
        let name = known.unwrap_or_else(|| {
            let made =
                Name { name: name.to_owned(), deleted: AtomicBool::new(false), asked: AtomicU64::new(0) };
            let made = Arc::new(made);
            slots.insert(name.to_owned(), Arc::downgrade(&made));
            made
        });
        Slot { snapshots: self.clone(), name }
    }

    /// Deletes what is kept under `name`, also what is still on its way, except for what other lines need too. Blocks until
    /// it is gone from the disk.
    pub fn delete(&self, name: &str) {
        if let Some(slot) = self.slots().remove(name).and_then(|slot| slot.upgrade()) {
            slot.deleted.store(true, Ordering::SeqCst);
        }
        let name = name.to_owned();
        self.wait_for(|done| Job::Delete { name, done });
    }

    /// Blocks until what was asked for so far is written, or has failed to be.
    pub fn settle(&self) {
        self.wait_for(|done| Job::Settle { done });
    }

    /// What lies on disk, and what was done since the folder was opened.
    pub fn held(&self) -> Held {
        let store = &self.inner.store;
        let index = store.index();
        Held {
            lines: index.lines() as u64,
            held_bytes: index.bytes(),
            budget_bytes: store.bytes_max,
            written_bytes: store.written_bytes.load(Ordering::Relaxed),
            refused: store.refused.load(Ordering::Relaxed),
        }
    }

    /// Whether there is a page that ends here.
    pub(crate) fn has_page(&self, chain: Chain) -> bool {
        self.inner.store.index().has((Kind::Page, chain))
    }

    /// Whether there are states at this place.
    pub(crate) fn has_states(&self, chain: Chain) -> bool {
        self.inner.store.index().has((Kind::States, chain))
    }

    /// Ends of lines that follow a place: how many tokens each is, and its chain.
    pub(crate) fn tails(&self, place: Chain) -> Vec<(usize, Chain)> {
        self.inner.store.index().tails(place)
    }

    /// Reads what lines with this layout keep of these tokens; none if that cannot be had.
    pub(crate) fn page(
        &self,
        layout: &Layout,
        chain: Chain,
        tokens: &Range<usize>,
        secret: Option<&Secret>,
    ) -> Option<Page> {
        self.inner.store.read((Kind::Page, chain), secret, |body| Page::take(layout, tokens, body))
    }

    /// Reads the states at a place of a line with this layout; none if they cannot be had.
    pub(crate) fn states(&self, layout: &Layout, chain: Chain, secret: Option<&Secret>) -> Option<States> {
        self.inner.store.read((Kind::States, chain), secret, |body| take_states(layout, body))
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Name>>> {
        // The map is never left half changed, so a panic elsewhere does not spoil it.
        self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(&self, job: impl FnOnce(SyncSender<()>) -> Job) {
        let (done, answer) = sync_channel(1);
        let jobs = self.inner.jobs.as_ref().expect("the writer is told to end by the last handle only");
        // A writer that has ended has nothing left to do.
        if jobs.send(job(done)).is_ok() {
            let _ = answer.recv();
        }
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Snapshots").field(&self.inner.store.files.folder()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // It has written what it was asked to, or a panic has ended it and was told already.
            let _ = writer.join();
        }
    }
}

impl Slot {
    /// What the line is kept under.
    pub fn name(&self) -> &str {
        &self.name.name
    }

    /// Has a line written here, beside whatever else is going on. Never blocks.
    pub(crate) fn write(&self, contents: Contents, done: oneshot::Sender<bool>) {
        let number = self.name.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let (name, contents) = (Arc::clone(&self.name), Box::new(contents));
        let jobs = self.snapshots.inner.jobs.as_ref();
        let jobs = jobs.expect("the writer is told to end by the last handle only");
        match jobs.try_send(Job::Write { name, number, contents, done }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::debug!(name = self.name.name, "the disk does not keep up; a snapshot is left out");
            }
            Err(TrySendError::Disconnected(_)) => {
                tracing::error!("the writer of snapshots has stopped; none are written any more");
            }
        }
    }
}

/// Why a line is not on disk.
enum Trouble {
    /// It is not wanted any more.
    Late,
    /// It takes more than there may be.
    NoRoom {
        asked: u64,
        room: u64,
    },
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl Store {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Each change is one call, so the index is whole whatever happened elsewhere.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what lies on disk, and removes what is no part of a line and what is too much.
    fn load(&self) -> io::Result<()> {
        let parts = self.files.parts()?;
        let lines = self.files.lines()?;
        for (part, bytes) in parts {
            self.index().add(part, bytes);
        }
        for path in lines {
            let mut bytes = std::fs::read(&path)?;
            let len = bytes.len() as u64;
            let manifest = frame::decode(Kind::Line, None, None, &mut bytes)
                .and_then(|(root, body)| Manifest::take(root, body).ok_or("it names no pages"))
                .and_then(|manifest| {
                    let its_own = self.files.line(&manifest.name) == path;
                    its_own.then_some(manifest).ok_or("it is another line's")
                });
            match manifest {
                Ok(manifest) => {
                    let manifest = manifest.reduced(|part| self.index().has(*part));
                    self.index().put(manifest, len);
                }
                Err(why) => self.refuse(&path, why),
            }
        }
        self.remove_unused(&BTreeSet::new());
        let room = self.files.room(self.bytes_max, self.index().bytes());
        self.make_room(0, room, "", &BTreeSet::new());
        Ok(())
    }

    /// Writes and deletes until there are no more handles.
    fn run(&self, jobs: &Receiver<Job>) {
        let mut buffer = Vec::new();
        for job in jobs {
            // Whoever asked may have gone.
            match job {
                Job::Write { name, number, contents, done } => {
                    // One that has begun goes on when a newer one comes, which will need what it writes.
                    let newest = name.asked.load(Ordering::SeqCst) == number;
                    let wanted = || !name.deleted.load(Ordering::SeqCst);
                    let kept = match newest {
                        true => self.write(&name.name, *contents, &wanted, &mut buffer),
                        false => Err(Trouble::Late),
                    };
                    // What was written for nothing, and what the line does not need any more.
                    self.remove_unused(&BTreeSet::new());
                    let _ = done.send(match kept {
                        Ok(()) => true,
                        Err(Trouble::Late) => false,
                        Err(Trouble::NoRoom { asked, room }) => {
                            tracing::warn!(
                                name = name.name, asked, room,
                                "a snapshot is not written: allow more with snapshot_bytes, or free some of the disk"
                            );
                            false
                        }
                        Err(Trouble::Io(error)) => {
                            tracing::warn!(name = name.name, %error, "a snapshot is not written");
                            false
                        }
                    });
                }
                Job::Delete { name, done } => {
                    self.remove_line(&name);
                    self.remove_unused(&BTreeSet::new());
                    let _ = done.send(());
                }
                Job::Settle { done } => {
                    let _ = done.send(());
                }
            }
        }
    }

    /// Writes what of a line is not on disk yet, then the manifest that names all of it.
    fn write(
        &self,
        name: &str,
        contents: Contents,
        wanted: &dyn Fn() -> bool,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let Contents { root, secret, pages, tail, states } = contents;
        let secret = secret.as_ref();
        let manifest = Manifest {
            name: name.to_owned(),
            root,
            pages: pages.iter().map(|&(chain, _)| chain).collect(),
            tail: tail.as_ref().map(|(chain, page)| (*chain, page.tokens())),
            states: states.iter().map(|&(chain, _)| chain).collect(),
        };
        let needed: BTreeSet<Part> = manifest.parts().collect();
        let pages = pages.iter().map(|(chain, page)| (*chain, &**page));
        let pages: Vec<(Chain, &Page)> =
            pages.chain(tail.iter().map(|(chain, page)| (*chain, page))).collect();

        // All of it has to fit, not only what is new: a line without its beginning is of no use.
        let sizes =
            pages.iter().map(|(_, page)| page.bytes()).chain(states.iter().map(|(_, s)| states_bytes(s)));
        let all: u64 = sizes.map(|bytes| file_bytes(bytes, secret)).sum();
        let room = self.files.room(self.bytes_max, self.index().bytes());
        if all > room {
            return Err(Trouble::NoRoom { asked: all, room });
        }
        let new = |part| !self.index().has(part);
        let new_pages = pages.iter().filter(|(chain, _)| new((Kind::Page, *chain))).collect::<Vec<_>>();
        let new_states = states.iter().filter(|(chain, _)| new((Kind::States, *chain))).collect::<Vec<_>>();
        let sizes = new_pages.iter().map(|(_, page)| page.bytes());
        let sizes = sizes.chain(new_states.iter().map(|(_, states)| states_bytes(states)));
        let asked = sizes.map(|bytes| file_bytes(bytes, secret)).sum();
        if !self.make_room(asked, room, name, &needed) {
            return Err(Trouble::NoRoom { asked, room });
        }

        let mut put = |part, body: &dyn Fn(&mut Vec<u8>)| {
            if !wanted() {
                return Err(Trouble::Late);
            }
            let (kind, chain) = part;
            frame::encode(kind, chain, secret, buffer, |to| body(to))?;
            self.files.write(&self.files.part(part), buffer)?;
            self.index().add(part, buffer.len() as u64);
            self.written_bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            Ok(())
        };
        for (chain, page) in new_pages {
            put((Kind::Page, *chain), &|to| page.put(to))?;
        }
        for (chain, states) in new_states {
            put((Kind::States, *chain), &|to| put_states(states, to))?;
        }
        if !wanted() {
            return Err(Trouble::Late);
        }
        frame::encode(Kind::Line, root, None, buffer, |to| manifest.put(to))?;
        let path = self.files.line(name);
        self.files.write(&path, buffer)?;
        self.files.sync_names(&path)?;
        self.index().put(manifest, buffer.len() as u64);
        Ok(())
    }

    /// Removes lines other than `except`, those first that were written least recently, until `more` bytes fit into
    /// `room`; whether they do. Files that are `needed` stay.
    fn make_room(&self, more: u64, room: u64, except: &str, needed: &BTreeSet<Part>) -> bool {
        loop {
            let (bytes, oldest) = {
                let index = self.index();
                (index.bytes(), index.oldest(except))
            };
            if bytes.saturating_add(more) <= room {
                return true;
            }
            let Some(oldest) = oldest else { return false };
            self.remove_line(&oldest);
            self.remove_unused(needed);
        }
    }

    fn remove_line(&self, name: &str) {
        if self.index().remove(name)
            && let Err(error) = self.files.remove(&self.files.line(name))
        {
            tracing::warn!(name, %error, "a snapshot is not removed");
        }
    }

    fn remove_unused(&self, except: &BTreeSet<Part>) {
        let unused = self.index().unused(except);
        for part in unused {
            self.index().lose(part);
            let path = self.files.part(part);
            if let Err(error) = self.files.remove(&path) {
                tracing::warn!(file = %path.display(), %error, "a file of a snapshot is not removed");
            }
        }
    }

    /// Reads what `take` finds in a file, which is removed if that is nothing.
    fn read<T>(
        &self,
        part: Part,
        secret: Option<&Secret>,
        take: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let path = self.files.part(part);
        let mut bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.index().lose(part);
                // It may have had to make room just now.
                if error.kind() != io::ErrorKind::NotFound {
                    self.refuse(&path, &error.to_string());
                }
                return None;
            }
        };
        let (kind, chain) = part;
        let found = frame::decode(kind, Some(chain), secret, &mut bytes)
            .and_then(|(_, body)| take(body).ok_or("it does not hold what it should"));
        match found {
            Ok(found) => Some(found),
            Err(why) => {
                self.index().lose(part);
                self.refuse(&path, why);
                None
            }
        }
    }

    /// Removes a file that is not what it should be.
    fn refuse(&self, path: &Path, why: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(file = %path.display(), why, "a snapshot is not used; what it held is computed again");
        if let Err(error) = self.files.remove(path) {
            tracing::warn!(file = %path.display(), %error, "a file of a snapshot is not removed");
        }
    }
}

#[cfg(test)]
mod tests;

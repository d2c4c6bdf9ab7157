//! Experts that stay on disk: those in use are kept within a budget of memory, those that come next are read ahead.
//!
//! A token goes through few of many experts, so most of a large model lies idle. Experts are read with `pread` into
//! buffers of our own and not through the map: a map leaves it to the system what to keep and how much of it, in pages
//! that threads wait for one by one in the middle of a product. An expert is read whole, in a request of megabytes for
//! each of its matrices, and what is kept never takes more than the budget. What the system keeps of the file beside
//! that is its own to give away.
//!
//! A layer asks for its experts with [`Place::visit`] and gets them as they come: first those that are here, and while
//! they are computed a thread reads the others. It then reads what [`Place::expect`] was told the next layer may need, as
//! long as nothing has to go for it that is needed now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use memmap2::Mmap;

use super::{Bytes, Matrix};
use crate::experts::Held;
use crate::{Error, crew};

/// A mapped file, and the file itself.
pub(crate) type MappedFile = (Arc<Mmap>, Arc<File>);

/// Every expert of a model, most of them on disk.
pub(crate) struct Place {
    shared: Arc<Shared>,
    /// The thread that reads ahead.
    reader: Option<JoinHandle<()>>,
}

/// An expert's matrices. While somebody holds this, they stay where they are.
pub(crate) struct Expert {
    matrices: Vec<Matrix>,
    /// What they point to, if it was read.
    buffer: Option<Arc<Vec<u8>>>,
}

impl Expert {
    pub(crate) fn matrices(&self) -> &[Matrix] {
        &self.matrices
    }
}

/// Experts on their way into a place.
pub(crate) struct Builder {
    files: Vec<MappedFile>,
    experts: Vec<Stored>,
}

/// An expert as it lies in its files.
struct Stored {
    /// Its matrices in the map. They are read only if reading the file fails.
    mapped: Arc<Expert>,
    /// Where the bytes of its matrices lie, one after another; nowhere if they were made when the model was opened, and
    /// are in memory in any case.
    extents: Vec<Extent>,
    bytes: usize,
}

struct Extent {
    file: usize,
    start: usize,
    bytes: usize,
}

impl Builder {
    pub(crate) fn new(files: Vec<MappedFile>) -> Builder {
        Builder { files, experts: Vec::new() }
    }

    /// Takes in the matrices of some experts; they are called by the numbers from the returned one on.
    pub(crate) fn add(&mut self, experts: Vec<Vec<Matrix>>) -> usize {
        let first = self.experts.len();
        for matrices in experts {
            let parts = matrices.iter().flat_map(Matrix::parts);
            let extents = parts.map(|part| self.find(part)).collect::<Option<Vec<_>>>().unwrap_or_default();
            let bytes = extents.iter().map(|extent| extent.bytes).sum();
            let mapped = Arc::new(Expert { matrices, buffer: None });
            self.experts.push(Stored { mapped, extents, bytes });
        }
        first
    }

    /// Where these bytes lie in a file.
    fn find(&self, part: &[u8]) -> Option<Extent> {
        let at = part.as_ptr().addr();
        self.files.iter().enumerate().find_map(|(file, (map, _))| {
            let start = at.checked_sub(map.as_ptr().addr())?;
            let within = start.checked_add(part.len())? <= map.len();
            within.then_some(Extent { file, start, bytes: part.len() })
        })
    }

    /// Keeps at most `budget` bytes of experts in memory from now on.
    ///
    /// # Errors
    /// [`Error::Option`] if that is less than one expert takes.
    pub(crate) fn build(self, budget: u64) -> Result<Place, Error> {
        let largest = self.experts.iter().map(|expert| expert.bytes).max().unwrap_or(0);
        if budget < largest as u64 {
            return Err(Error::Option(format!(
                "{budget} bytes for experts: one of this model's takes {largest}, and a token goes through several in every layer"
            )));
        }
        let slots = self.experts.iter().map(|_| Slot::Away).collect();
        let shared = Arc::new(Shared {
            files: self.files,
            experts: self.experts,
            // A budget beyond the address space is none.
            budget: usize::try_from(budget).unwrap_or(usize::MAX),
            state: Mutex::new(State { slots, ..State::default() }),
            changed: Condvar::new(),
        });
        let ahead = Arc::clone(&shared);
        let reader = std::thread::Builder::new()
            .name("experts-ahead".into())
            .spawn(move || ahead.read_ahead())
            .map_err(|e| Error::Option(format!("the thread that reads experts does not start: {e}")))?;
        Ok(Place { shared, reader: Some(reader) })
    }
}

struct Shared {
    files: Vec<MappedFile>,
    experts: Vec<Stored>,
    budget: usize,
    state: Mutex<State>,
    /// Told whenever an expert has come, or is wanted.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By expert.
    slots: Vec<Slot>,
    /// The experts that are here, by when they were used last.
    order: BTreeMap<u64, usize>,
    now: u64,
    /// Bytes of experts that are here or being read.
    held: usize,
    /// Experts that are being read.
    coming: usize,
    /// What the layer at work has asked for and not got yet.
    needed: BTreeSet<usize>,
    /// What the next layer may need.
    guessed: BTreeSet<usize>,
    /// What is to be read ahead, in this order.
    queue: VecDeque<usize>,
    closing: bool,
    counts: Held,
}

enum Slot {
    Away,
    Coming,
    Here { expert: Arc<Expert>, used: u64 },
}

impl Place {
    /// Asks for experts, which a layer needs now. What was guessed before is forgotten.
    pub(crate) fn visit(&self, mut wanted: Vec<usize>) -> Visit<'_> {
        wanted.retain({
            let mut seen = BTreeSet::new();
            move |&id| seen.insert(id)
        });
        let mut state = self.shared.state();
        let state = &mut *state;
        state.guessed.clear();
        state.queue.clear();
        state.needed = wanted.iter().copied().collect();
        for &id in wanted.iter().filter(|&&id| self.shared.experts[id].is_on_disk()) {
            match state.slots[id] {
                Slot::Here { .. } => state.counts.hits += 1,
                Slot::Coming => state.counts.misses += 1,
                Slot::Away => {
                    state.counts.misses += 1;
                    state.queue.push_back(id);
                }
            }
        }
        self.shared.changed.notify_all();
        Visit { shared: &self.shared, wanted }
    }

    /// Says which experts the next layer may ask for, the likeliest first.
    pub(crate) fn expect(&self, guess: &[usize]) {
        let mut state = self.shared.state();
        let state = &mut *state;
        for &id in guess {
            let away = self.shared.experts[id].is_on_disk() && matches!(state.slots[id], Slot::Away);
            if state.guessed.insert(id) && away && !state.needed.contains(&id) {
                state.queue.push_back(id);
            }
        }
        self.shared.changed.notify_all();
    }

    /// What has been asked for so far.
    pub(crate) fn counts(&self) -> Held {
        let state = self.shared.state();
        let stored = self.shared.experts.iter();
        Held {
            held_bytes: state.held as u64,
            budget_bytes: self.shared.budget as u64,
            stored_bytes: stored.map(|expert| expert.bytes as u64).sum(),
            ..state.counts
        }
    }

    /// The parts of this map that hold experts on disk, in order.
    pub(crate) fn parts_of(&self, map: &Mmap) -> Vec<Range<usize>> {
        let Shared { files, experts, .. } = &*self.shared;
        let here = files.iter().position(|(file, _)| file.as_ptr() == map.as_ptr());
        let extents = experts.iter().flat_map(|expert| &expert.extents);
        let parts = extents.filter(|extent| Some(extent.file) == here);
        let mut parts: Vec<_> = parts.map(|extent| extent.start..extent.start + extent.bytes).collect();
        parts.sort_unstable_by_key(|part| part.start);
        parts
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.changed.notify_all();
        if let Some(reader) = self.reader.take() {
            // It stops after the expert it is at. That it panicked has been said already.
            let _ = reader.join();
        }
    }
}

/// The experts that a layer asked for and has not got yet.
pub(crate) struct Visit<'a> {
    shared: &'a Shared,
    wanted: Vec<usize>,
}

impl Visit<'_> {
    /// The next experts that have come, each with its number, until there are no more. They should be given back
    /// before the next ones are asked for, because they take up to half of the budget.
    pub(crate) fn next(&mut self) -> Option<Vec<(usize, Arc<Expert>)>> {
        let shared = self.shared;
        let mut state = shared.state();
        // There may be room now for what the thread wants to read.
        shared.changed.notify_all();
        if self.wanted.is_empty() {
            return None;
        }
        loop {
            let here = self.take_here(&mut state);
            if !here.is_empty() {
                return Some(here);
            }
            let reads = self.reserve(&mut state);
            if !reads.is_empty() {
                drop(state);
                return Some(self.read(reads));
            }
            if state.coming == 0 {
                // Somebody else holds all there is room for.
                let id = self.wanted.remove(0);
                state.needed.remove(&id);
                return Some(vec![(id, Arc::clone(&shared.experts[id].mapped))]);
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Those that are here, up to half of the budget.
    fn take_here(&mut self, state: &mut State) -> Vec<(usize, Arc<Expert>)> {
        let shared = self.shared;
        let mut bytes = 0;
        let mut here = Vec::new();
        self.wanted.retain(|&id| {
            let stored = &shared.experts[id];
            let expert = match &state.slots[id] {
                Slot::Here { expert, .. } if bytes == 0 || bytes + stored.bytes <= shared.budget / 2 => {
                    Arc::clone(expert)
                }
                _ if !stored.is_on_disk() => Arc::clone(&stored.mapped),
                _ => return true,
            };
            bytes += stored.bytes;
            state.touch(id);
            state.needed.remove(&id);
            here.push((id, expert));
            false
        });
        here
    }

    /// Takes room for those that nobody is reading, up to half of the budget.
    fn reserve(&self, state: &mut State) -> Vec<(usize, Vec<u8>)> {
        let mut bytes = 0;
        let mut reads = Vec::new();
        for &id in &self.wanted {
            let size = self.shared.experts[id].bytes;
            if !matches!(state.slots[id], Slot::Away) {
                continue;
            }
            if bytes > 0 && bytes + size > self.shared.budget / 2 {
                break;
            }
            let Some(buffer) = self.shared.reserve(state, id, Manners::Demanding) else { break };
            bytes += size;
            reads.push((id, buffer));
        }
        reads
    }

    /// Reads with all threads of the crew: a fast disk is kept busy by many.
    fn read(&mut self, reads: Vec<(usize, Vec<u8>)>) -> Vec<(usize, Arc<Expert>)> {
        let shared = self.shared;
        for (id, _) in &reads {
            shared.advise(*id);
        }
        let reads: Vec<_> = reads.into_iter().map(|read| Mutex::new(Some(read))).collect();
        let read = crew::map(reads.len(), |i| {
            let read = reads[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            let (id, buffer) = read.expect("each is read once");
            (id, shared.read(id, buffer))
        });
        let mut state = shared.state();
        let mut here = Vec::new();
        for (id, expert) in read {
            let expert = shared.arrive(&mut state, id, expert);
            // The same trouble will show in the map, where it is the system's to tell.
            here.push((id, expert.unwrap_or_else(|| Arc::clone(&shared.experts[id].mapped))));
            state.needed.remove(&id);
            self.wanted.retain(|&wanted| wanted != id);
        }
        here
    }
}

/// What may be driven out for an expert.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// What is neither needed now nor may be next.
    Gentle,
    /// What is not needed now.
    Demanding,
}

impl Stored {
    fn is_on_disk(&self) -> bool {
        self.bytes > 0
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for an expert that is then on its way; the buffer is as long as it.
    fn reserve(&self, state: &mut State, id: usize, manners: Manners) -> Option<Vec<u8>> {
        let bytes = self.experts[id].bytes;
        let mut free = self.budget - state.held;
        let mut leaving = Vec::new();
        // What may be next goes last.
        for next in [false, true] {
            if next && manners == Manners::Gentle {
                break;
            }
            for (&used, &other) in &state.order {
                if free >= bytes {
                    break;
                }
                let Slot::Here { expert, .. } = &state.slots[other] else {
                    unreachable!("only experts that are here have a place in the order");
                };
                // Clones are made under the lock that is held here, so nobody can come to hold it meanwhile.
                let lent = Arc::strong_count(expert) > 1;
                if !lent && !state.needed.contains(&other) && state.guessed.contains(&other) == next {
                    leaving.push((used, other));
                    free += self.experts[other].bytes;
                }
            }
        }
        if free < bytes {
            return None;
        }
        let mut buffer = None;
        for (used, other) in leaving {
            state.order.remove(&used);
            state.held -= self.experts[other].bytes;
            if let Slot::Here { expert, .. } = std::mem::replace(&mut state.slots[other], Slot::Away) {
                // A buffer of the right size is filled anew, which saves the system making one.
                let old = Arc::into_inner(expert).and_then(Expert::into_buffer);
                buffer = old.filter(|old| old.len() == bytes).or(buffer);
            }
        }
        state.held += bytes;
        state.counts.peak_bytes = state.counts.peak_bytes.max(state.held as u64);
        state.coming += 1;
        state.slots[id] = Slot::Coming;
        Some(buffer.unwrap_or_else(|| vec![0; bytes]))
    }

    /// Has the system start on an expert's bytes.
    fn advise(&self, id: usize) {
        #[cfg(target_os = "linux")]
        for extent in &self.experts[id].extents {
            let (_, file) = &self.files[extent.file];
            let bytes = std::num::NonZeroU64::new(extent.bytes as u64);
            // Not every file system listens, and none has to.
            let _ = rustix::fs::fadvise(&**file, extent.start as u64, bytes, rustix::fs::Advice::WillNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = id;
    }

    /// Reads an expert whole.
    fn read(&self, id: usize, mut buffer: Vec<u8>) -> std::io::Result<Expert> {
        let stored = &self.experts[id];
        let mut to = &mut buffer[..];
        for extent in &stored.extents {
            let (part, rest) = to.split_at_mut(extent.bytes);
            let (_, file) = &self.files[extent.file];
            std::os::unix::fs::FileExt::read_exact_at(&**file, part, extent.start as u64)?;
            to = rest;
        }
        let buffer = Arc::new(buffer);
        let mut start = 0;
        let matrices = stored.mapped.matrices.iter().map(|matrix| {
            let bytes: Bytes = buffer.clone();
            let moved = matrix.moved(bytes, start);
            start += matrix.parts().iter().map(|part| part.len()).sum::<usize>();
            moved
        });
        Ok(Expert { matrices: matrices.collect(), buffer: Some(buffer) })
    }

    /// Takes in an expert that was on its way; nothing if it could not be read.
    fn arrive(&self, state: &mut State, id: usize, expert: std::io::Result<Expert>) -> Option<Arc<Expert>> {
        state.coming -= 1;
        self.changed.notify_all();
        match expert {
            Ok(expert) => {
                let expert = Arc::new(expert);
                state.counts.read_bytes += self.experts[id].bytes as u64;
                state.slots[id] = Slot::Here { expert: Arc::clone(&expert), used: state.now };
                state.order.insert(state.now, id);
                state.now += 1;
                Some(expert)
            }
            Err(error) => {
                tracing::error!(%error, "an expert cannot be read");
                state.held -= self.experts[id].bytes;
                state.slots[id] = Slot::Away;
                None
            }
        }
    }

    /// Reads what is needed and what may be, until the place is closed.
    fn read_ahead(&self) {
        let mut state = self.state();
        while !state.closing {
            let Some(id) = state.queue.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if !matches!(state.slots[id], Slot::Away) {
                continue;
            }
            let Some(buffer) = self.reserve(&mut state, id, Manners::Gentle) else {
                // There will be room when experts are given back.
                state.queue.push_front(id);
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let following = state.queue.front().copied();
            drop(state);
            self.advise(id);
            if let Some(following) = following {
                self.advise(following);
            }
            let expert = self.read(id, buffer);
            state = self.state();
            // If it could not be read, whoever needs it will try again.
            if self.arrive(&mut state, id, expert).is_some() {
                state.counts.ahead += 1;
            }
        }
    }
}

impl Expert {
    fn into_buffer(self) -> Option<Vec<u8>> {
        let Expert { matrices, buffer } = self;
        drop(matrices);
        buffer.and_then(Arc::into_inner)
    }
}

impl State {
    /// Takes note that an expert is used.
    fn touch(&mut self, id: usize) {
        if let Slot::Here { used, .. } = &mut self.slots[id] {
            self.order.remove(used);
            *used = self.now;
            self.order.insert(self.now, id);
            self.now += 1;
        }
    }
}

#[cfg(test)]
mod tests;

//! A table of rows that stays on disk: each is read when it is asked for, and kept as long as there is room.
//!
//! Engram's tables are a hundred gigabytes each, of which a token reads a few kilobytes. Which rows it reads depends on
//! the tokens alone, and words come again, so a small cache serves most reads, and the rest can be fetched while the
//! layers before are computed ([`Table::prefetch`]). Rows are read with `pread` into a cache of a fixed size rather than
//! through a map: a map would leave it to the system what to keep, in whole pages of which a row is a sixteenth.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Kind, quant};
use crate::tables::Held;
use crate::{Error, crew};

/// Batches of rows that wait to be prefetched: one for each layer with a table, and as much again. More would be read
/// too late to be of use.
const BATCHES_WAITING: usize = 4;
/// Rows one thread reads at a time when many are missing: so few that a slow disk is asked by all threads at once.
const ROWS_AT_ONCE: usize = 64;

/// Keeps what went wrong first.
fn note(trouble: &Mutex<Option<Error>>, result: Result<(), Error>) {
    if let Err(error) = result {
        trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// What went wrong first.
fn first(trouble: &Mutex<Option<Error>>) -> Result<(), Error> {
    trouble.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
}

/// Where the rows, or their scales, lie in a file: one after the other from `start`.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) start: u64,
}

/// How the numbers of a row are stored.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    /// In blocks of one kind.
    Blocks(Kind),
    /// FP8 E4M3, with a power of two (E8M0) for every `block` of them, stored apart.
    Fp8 { scales: Stored, block: usize },
}

/// A table of rows in a file, with a bounded cache.
pub(crate) struct Table {
    shared: Arc<Shared>,
    /// The thread that reads ahead, and the way to it; it ends when the way is closed.
    ahead: Option<(SyncSender<Vec<u64>>, JoinHandle<()>)>,
}

struct Shared {
    name: String,
    rows: u64,
    width: usize,
    values: Stored,
    form: Rows,
    cache: Mutex<Cache>,
    hits: AtomicU64,
    misses: AtomicU64,
    prefetched: AtomicU64,
}

impl Table {
    /// The table called `name` of `rows` rows of `width` numbers each. Rows that were read are kept in at most
    /// `held_bytes_max` bytes.
    pub(crate) fn open(
        name: &str,
        rows: u64,
        width: usize,
        values: Stored,
        form: Rows,
        held_bytes_max: usize,
    ) -> Result<Table, Error> {
        let tensor = |why: String| Error::Tensor { name: name.to_owned(), why };
        let block = match &form {
            Rows::Blocks(kind) => kind.block(),
            Rows::Fp8 { block, .. } => *block,
        };
        if rows == 0 || width == 0 || block == 0 || !width.is_multiple_of(block) {
            return Err(tensor(format!("{rows} rows of {width} numbers in blocks of {block} are no table")));
        }
        let mut shared = Shared {
            name: name.to_owned(),
            rows,
            width,
            values,
            form,
            cache: Mutex::new(Cache::new(0, 0)),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            prefetched: AtomicU64::new(0),
        };
        for (part, stored, row_bytes) in shared.parts() {
            let io = |source| Error::Io { path: stored.path.clone(), source };
            let end = rows.checked_mul(row_bytes as u64).and_then(|bytes| bytes.checked_add(stored.start));
            let end = end.ok_or_else(|| tensor(format!("{rows} rows are too large for any file")))?;
            let there = stored.file.metadata().map_err(io)?.len();
            if end > there {
                return Err(Error::Truncated {
                    path: stored.path.clone(),
                    what: format!("{part} of tensor `{name}`"),
                    missing: end - there,
                });
            }
            advise(stored, stored.start, end - stored.start, Advice::Scattered);
        }
        // More than the table has would lie idle; of twice as many places each row finds one for itself.
        let slot = shared.slot_bytes();
        let places = usize::try_from(rows).unwrap_or(usize::MAX).saturating_mul(2).saturating_add(WAYS);
        let held_bytes_max = held_bytes_max.min(places.saturating_mul(Cache::place_bytes(slot)));
        shared.cache = Mutex::new(Cache::new(held_bytes_max, slot));

        let shared = Arc::new(shared);
        let (way, batches) = sync_channel::<Vec<u64>>(BATCHES_WAITING);
        let reader = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("table-ahead".into())
            .spawn(move || batches.iter().for_each(|rows| reader.read_ahead(rows)))
            .map_err(|source| Error::Io { path: shared.values.path.clone(), source })?;
        Ok(Table { shared, ahead: Some((way, thread)) })
    }

    /// How many numbers a row has.
    pub(crate) fn width(&self) -> usize {
        self.shared.width
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> u64 {
        self.shared.rows
    }

    /// Writes the named rows to `to` [rows, width], in their order.
    pub(crate) fn read(&self, rows: &[u64], to: &mut Vec<f32>) -> Result<(), Error> {
        self.shared.read(rows, to)
    }

    /// Says that these rows will soon be read. They are fetched beside whatever else is done; when too many batches
    /// wait already, this one is forgotten, and its rows are read when they are needed.
    pub(crate) fn prefetch(&self, rows: Vec<u64>) {
        let Some((way, _)) = &self.ahead else { return };
        match way.try_send(rows) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => {
                tracing::error!(table = self.shared.name, "the thread that reads ahead has stopped");
            }
        }
    }

    /// What has been asked for so far.
    pub(crate) fn counts(&self) -> Held {
        let cache = self.shared.cache();
        Held {
            hits: self.shared.hits.load(Ordering::Relaxed),
            misses: self.shared.misses.load(Ordering::Relaxed),
            ahead: self.shared.prefetched.load(Ordering::Relaxed),
            held_bytes: cache.held_bytes() as u64,
            budget_bytes: cache.held_bytes_max() as u64,
            stored_bytes: self.shared.rows * self.shared.slot_bytes() as u64,
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Some((way, thread)) = self.ahead.take() {
            drop(way);
            // It stops after the batch it is at. That it panicked has been said already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        // A row is put in with its tag last, so a panic in between leaves an empty place.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a row is put together from: a name, the place, and how many bytes of a row lie there.
    fn parts(&self) -> Vec<(&'static str, &Stored, usize)> {
        match &self.form {
            Rows::Blocks(kind) => {
                vec![("the rows", &self.values, self.width / kind.block() * kind.block_bytes())]
            }
            Rows::Fp8 { scales, block } => {
                vec![("the rows", &self.values, self.width), ("the scales", scales, self.width / block)]
            }
        }
    }

    /// How many bytes a row takes as it is stored, all parts together.
    fn slot_bytes(&self) -> usize {
        self.parts().iter().map(|(_, _, bytes)| bytes).sum()
    }

    fn read(&self, rows: &[u64], to: &mut Vec<f32>) -> Result<(), Error> {
        let slot = self.slot_bytes();
        let mut stored = vec![0; rows.len() * slot];
        // Where each missing row is wanted first; later places copy from there.
        let mut missing = HashMap::new();
        let mut again = Vec::new();
        let mut cache = self.cache();
        for (i, &row) in rows.iter().enumerate() {
            assert!(row < self.rows, "hashes lead to rows the table has");
            if let Some(kept) = cache.get(row) {
                stored[i * slot..(i + 1) * slot].copy_from_slice(kept);
            } else if let Some(&first) = missing.get(&row) {
                again.push((i, first));
            } else {
                missing.insert(row, i);
            }
        }
        drop(cache);
        self.hits.fetch_add((rows.len() - missing.len()) as u64, Ordering::Relaxed);
        self.misses.fetch_add(missing.len() as u64, Ordering::Relaxed);

        let mut wanted: Vec<(u64, usize)> = missing.into_iter().collect();
        wanted.sort_unstable();
        let order: Vec<u64> = wanted.iter().map(|&(row, _)| row).collect();
        let mut fresh = vec![0; order.len() * slot];
        let trouble = Mutex::new(None);
        crew::each_part(crew::chunks(&mut fresh, slot * ROWS_AT_ONCE), 1, |i, fresh| {
            let rows = &order[i * ROWS_AT_ONCE..][..fresh.len() / slot];
            note(&trouble, self.fetch(rows, fresh));
        });
        first(&trouble)?;
        let mut cache = self.cache();
        for (&(row, i), fresh) in wanted.iter().zip(fresh.chunks_exact(slot)) {
            cache.put(row, fresh);
            stored[i * slot..(i + 1) * slot].copy_from_slice(fresh);
        }
        drop(cache);
        for (i, first) in again {
            stored.copy_within(first * slot..(first + 1) * slot, i * slot);
        }

        to.resize(rows.len() * self.width, 0.0);
        crew::each_part(crew::chunks(to, self.width), ROWS_AT_ONCE, |i, to| {
            note(&trouble, self.unpack(rows[i], &stored[i * slot..][..slot], to));
        });
        first(&trouble)
    }

    /// Brings rows into the cache that are not there.
    fn read_ahead(&self, mut rows: Vec<u64>) {
        rows.sort_unstable();
        rows.dedup();
        let cache = self.cache();
        rows.retain(|&row| row < self.rows && !cache.has(row));
        drop(cache);
        let slot = self.slot_bytes();
        let mut fresh = vec![0; rows.len() * slot];
        // One thread does it, and leaves the others to those who compute. Trouble with the file is told to whoever needs
        // the row.
        if self.fetch(&rows, &mut fresh).is_err() {
            return;
        }
        let mut cache = self.cache();
        for (&row, fresh) in rows.iter().zip(fresh.chunks_exact(slot)) {
            cache.put(row, fresh);
        }
        self.prefetched.fetch_add(rows.len() as u64, Ordering::Relaxed);
    }

    /// Reads rows as they are stored. They should ascend, so that the disk's head or its controller need not turn back.
    fn fetch(&self, rows: &[u64], to: &mut [u8]) -> Result<(), Error> {
        let parts = self.parts();
        // The system starts on all of them at once, where it can.
        for &row in rows {
            for &(_, stored, bytes) in &parts {
                advise(stored, stored.start + row * bytes as u64, bytes as u64, Advice::Soon);
            }
        }
        for (mut to, &row) in to.chunks_exact_mut(self.slot_bytes()).zip(rows) {
            for &(_, stored, bytes) in &parts {
                let (part, rest) = to.split_at_mut(bytes);
                read_at(&stored.file, part, stored.start + row * bytes as u64)
                    .map_err(|source| Error::Io { path: stored.path.clone(), source })?;
                to = rest;
            }
        }
        Ok(())
    }

    /// The numbers of a row from its bytes.
    fn unpack(&self, row: u64, stored: &[u8], to: &mut [f32]) -> Result<(), Error> {
        match &self.form {
            Rows::Blocks(kind) => quant::dequantise(*kind, stored, to),
            Rows::Fp8 { block, .. } => {
                let (values, scales) = stored.split_at(self.width);
                quant::dequantise(Kind::F8E4M3, values, to);
                for (to, &scale) in to.chunks_exact_mut(*block).zip(scales) {
                    let scale = quant::e8m0(scale);
                    for to in to {
                        *to *= scale;
                    }
                }
            }
        }
        match to.iter().any(|x| x.is_nan()) {
            true => Err(Error::Tensor {
                name: self.name.clone(),
                why: format!("row {row} holds something that is not a number; download the file again"),
            }),
            false => Ok(()),
        }
    }
}

/// What the system is told about a range of a file.
#[derive(Clone, Copy)]
enum Advice {
    /// It is read here and there: reading on behind what is asked for is in vain.
    Scattered,
    /// It is read in a moment.
    Soon,
}

#[cfg(target_os = "linux")]
fn advise(stored: &Stored, start: u64, bytes: u64, advice: Advice) {
    let advice = match advice {
        Advice::Scattered => rustix::fs::Advice::Random,
        Advice::Soon => rustix::fs::Advice::WillNeed,
    };
    // Not every file system listens, and none has to.
    let _ = rustix::fs::fadvise(&*stored.file, start, std::num::NonZeroU64::new(bytes), advice);
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &Stored, _: u64, _: u64, _: Advice) {}

#[cfg(unix)]
fn read_at(file: &File, to: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, at)
}

/// Rows as they are stored, in a fixed number of places: a row may lie in any of the [`WAYS`] places of its set, and
/// takes the one that was used longest ago. All memory is taken at once, and the system gives it when it is used.
struct Cache {
    slot: usize,
    sets: usize,
    /// The row in each place plus one, or zero.
    tags: Vec<u64>,
    /// When each place was used last, counted in uses.
    used: Vec<u32>,
    bytes: Vec<u8>,
    now: u32,
    held: usize,
}

/// Places in a set. With eight, a cache keeps nearly what one with a single set would keep.
const WAYS: usize = 8;

impl Cache {
    /// A cache of at most `bytes_max` bytes, tags included. One that is too small for a set keeps nothing.
    fn new(bytes_max: usize, slot: usize) -> Cache {
        let sets = bytes_max / (WAYS * Cache::place_bytes(slot));
        let places = sets * WAYS;
        let (tags, used) = (vec![0; places], vec![0; places]);
        Cache { slot, sets, tags, used, bytes: vec![0; places * slot], now: 0, held: 0 }
    }

    /// What a kept row takes.
    fn place_bytes(slot: usize) -> usize {
        slot + size_of::<u64>() + size_of::<u32>()
    }

    fn held_bytes(&self) -> usize {
        self.held * Cache::place_bytes(self.slot)
    }

    fn held_bytes_max(&self) -> usize {
        self.tags.len() * Cache::place_bytes(self.slot)
    }

    fn set(&self, row: u64) -> std::ops::Range<usize> {
        // Fibonacci hashing: rows that are neighbours come to different sets.
        let spread = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let set = ((u128::from(spread) * self.sets as u128) >> 64) as usize;
        set * WAYS..if self.sets == 0 { 0 } else { (set + 1) * WAYS }
    }

    fn place(&self, row: u64) -> Option<usize> {
        self.set(row).find(|&place| self.tags[place] == row + 1)
    }

    fn has(&self, row: u64) -> bool {
        self.place(row).is_some()
    }

    fn get(&mut self, row: u64) -> Option<&[u8]> {
        let place = self.place(row)?;
        self.touch(place);
        Some(&self.bytes[place * self.slot..(place + 1) * self.slot])
    }

    fn put(&mut self, row: u64, stored: &[u8]) {
        let now = self.now;
        let oldest = self.set(row).max_by_key(|&place| match self.tags[place] {
            tag if tag == row + 1 => (2, 0),
            0 => (1, 0),
            _ => (0, now.wrapping_sub(self.used[place])),
        });
        let Some(place) = oldest else { return };
        self.held += usize::from(self.tags[place] == 0);
        self.tags[place] = 0;
        self.bytes[place * self.slot..(place + 1) * self.slot].copy_from_slice(stored);
        self.tags[place] = row + 1;
        self.touch(place);
    }

    fn touch(&mut self, place: usize) {
        self.now = self.now.wrapping_add(1);
        self.used[place] = self.now;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;

    const WIDTH: usize = 64;

    /// A number that says which row and column it stands in, in halves from −7.5 to 7.5.
    fn number(row: u64, column: usize) -> f32 {
        let mixed = (row * WIDTH as u64 + column as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        ((mixed % 31) as f32 - 15.0) / 2.0
    }

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, Stored) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        // Something else lies before it, as in a real file.
        file.write_all(&[0xaa; 24]).unwrap();
        file.write_all(bytes).unwrap();
        file.flush().unwrap();
        let stored = Stored {
            path: file.path().to_owned(),
            file: Arc::new(File::open(file.path()).unwrap()),
            start: 24,
        };
        (file, stored)
    }

    /// A table whose first halves lie one binary digit to the left, which their scales put right.
    fn fp8(rows: u64, held_bytes_max: usize) -> (Vec<tempfile::NamedTempFile>, Table) {
        // The codes of −15, −14.5 … 15; some have none and are not needed.
        let code = |halves: i32| {
            let number = |bits: u8| {
                let mut number = [0.0];
                quant::dequantise(Kind::F8E4M3, &[bits], &mut number);
                number[0]
            };
            (0..=255).find(|&bits| number(bits) * 2.0 == halves as f32).unwrap_or(0)
        };
        let codes: Vec<u8> = (-30..=30).map(code).collect();
        let (mut values, mut scales) = (Vec::new(), Vec::new());
        for row in 0..rows {
            values.extend((0..WIDTH).map(|column| {
                let stored = number(row, column) * if column < 32 { 2.0 } else { 1.0 };
                codes[(stored * 2.0 + 30.0) as usize]
            }));
            scales.extend([126, 127]);
        }
        let ((a, values), (b, scales)) = (file(&values), file(&scales));
        let form = Rows::Fp8 { scales, block: 32 };
        (vec![a, b], Table::open("engram", rows, WIDTH, values, form, held_bytes_max).unwrap())
    }

    fn check(table: &Table, rows: &[u64]) {
        let mut read = Vec::new();
        table.read(rows, &mut read).unwrap();
        for (&row, read) in rows.iter().zip(read.chunks_exact(WIDTH)) {
            let expected: Vec<f32> = (0..WIDTH).map(|column| number(row, column)).collect();
            assert_eq!(read, expected, "row {row}");
        }
        assert_eq!(read.len(), rows.len() * WIDTH);
    }

    /// Row numbers as a text would ask for them: few come often.
    fn text(rows: u64, count: usize) -> Vec<u64> {
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        (0..count).map(|_| if next() % 4 > 0 { next() % 1000 * 7 % rows } else { next() % rows }).collect()
    }

    #[test]
    fn a_table_larger_than_its_memory_gives_the_same_rows() {
        // 66 MB of rows and 4 MiB for them.
        let (_files, table) = fp8(1_000_000, 4 << 20);
        for rows in text(1_000_000, 400_000).chunks(10_000) {
            check(&table, rows);
            let counts = table.counts();
            assert!(counts.held_bytes <= counts.budget_bytes && counts.budget_bytes <= 4 << 20);
        }
        let counts = table.counts();
        assert_eq!(counts.hits + counts.misses, 400_000);
        assert!(counts.held_bytes > 3 << 20, "the memory it may use is used: {counts:?}");
        // Three in four ask for a thousand rows, which must not be driven out by the rest.
        assert!(counts.misses < 110_000, "{counts:?}");
    }

    #[test]
    fn a_table_without_any_memory_still_answers() {
        let (_files, table) = fp8(100, 10);
        check(&table, &[99, 0, 7, 7, 99]);
        check(&table, &[]);
        let stored_bytes = 100 * 66;
        assert_eq!(table.counts(), Held { hits: 2, misses: 3, stored_bytes, ..Held::default() });
    }

    #[test]
    fn rows_that_were_announced_are_there() {
        let (_files, table) = fp8(10_000, 1 << 20);
        let rows = text(10_000, 500);
        table.prefetch(rows.clone());
        let start = Instant::now();
        while table.counts().ahead == 0 && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(1));
        }
        check(&table, &rows);
        let counts = table.counts();
        assert_eq!((counts.hits, counts.misses), (500, 0));
        // Nonsense and a flood harm nobody.
        for _ in 0..100 {
            table.prefetch(vec![u64::MAX, 3]);
        }
        check(&table, &[3]);
    }

    #[test]
    fn rows_in_blocks_are_read_as_well() {
        let rows = 10;
        let numbers: Vec<f32> = (0..rows).flat_map(|row| (0..WIDTH).map(move |i| number(row, i))).collect();
        let f32s: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16s: Vec<u8> = numbers.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
        let bf16s: Vec<u8> = numbers.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        for (kind, bytes) in [(Kind::F32, f32s), (Kind::F16, f16s), (Kind::Bf16, bf16s)] {
            let (_file, stored) = file(&bytes);
            let table = Table::open("t", rows, WIDTH, stored, Rows::Blocks(kind), 1 << 16).unwrap();
            check(&table, &[9, 0, 5, 9]);
            check(&table, &[5, 5]);
            assert_eq!(table.counts().hits, 3);
        }
    }

    #[test]
    fn a_table_that_cannot_be_is_refused() {
        let (_file, stored) = file(&[0; 640]);
        let open = |rows, width, form| Table::open("t", rows, width, stored.clone(), form, 0).map(|_| ());
        let why = |result: Result<(), Error>| result.unwrap_err().to_string();
        let fp8 = || Rows::Fp8 { scales: stored.clone(), block: 32 };
        assert!(open(10, 64, fp8()).is_ok());
        assert!(why(open(11, 64, fp8())).contains("64 bytes more"));
        assert!(why(open(u64::MAX, 64, fp8())).contains("too large"));
        assert!(why(open(0, 64, fp8())).contains("no table"));
        assert!(why(open(1, 48, fp8())).contains("blocks of 32"));
        assert!(why(open(1, 48, Rows::Blocks(Kind::Q8_0))).contains("blocks of 32"));
    }

    #[test]
    fn a_row_that_holds_no_number_is_refused_by_its_name() {
        let (_values, values) = file(&[0x38; 64]);
        for (bytes, bad) in [([127, 127], false), ([127, 255], true)] {
            let (_scales, scales) = file(&bytes);
            let form = Rows::Fp8 { scales, block: 32 };
            let table = Table::open("layers.1.engram", 1, 64, values.clone(), form, 0).unwrap();
            let mut to = Vec::new();
            match table.read(&[0], &mut to) {
                Ok(()) => assert!(!bad && to == [1.0; 64]),
                Err(error) => assert!(bad && error.to_string().contains("layers.1.engram"), "{error}"),
            }
        }
    }
}

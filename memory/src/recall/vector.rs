//! Vectors of notes: an exact scan over eight-bit codes, and the file they are kept in.
//!
//! Of each part of a note there are two vectors: its own, as the embedder made it, and one that also has some of the notes beside
//! it, which is the one that is searched. The second changes when a note comes to lie beside; the first is then read again from
//! the file.
//!
//! A vector's numbers are kept as signed bytes with one factor. A scan multiplies bytes with bytes and is exact in
//! whole numbers; what it finds is scored again with the query's numbers as they are, so that only the notes' own rounding is
//! left: half a unit of 127, which moves a cosine by less than 0.003. Among very many vectors, those that a scan looks at are chosen
//! by their [`sketch`](super::sketch) first.
//!
//! ```text
//! file:    "SAGAVEC" 1  dimensions: u32  name's length: u32  name
//! record:  id: u64  part: u16  parts: u16  2 × (factor: f32  codes: i8 × dimensions)  crc32c: u32
//! ```
//! All numbers are little-endian. A record whose id is 0 was forgotten: its bytes are zeros.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::fuse::Best;
use super::sketch::{Probe, Sketches};

const MAGIC: &[u8; 8] = b"SAGAVEC\x01";
/// Rows that are judged together, and how far ahead of the one that is judged the next are fetched: those of other scopes lie between.
const BLOCK: usize = 128;
const AHEAD: usize = 4;
/// From so many rows on, sketches choose which are looked at …
const SKETCHED_ROWS: usize = 20_000;
/// … this many for each that is asked for: enough for 95 of the 100 nearest among vectors around themes (a test below); how many of real
/// notes is not measured.
const CHOSEN: usize = 8;
/// A scan takes one thread more for every so many rows …
const ROWS_PER_THREAD: usize = 200_000;
/// … up to this many: other work wants to go on as well.
const THREADS_MAX: usize = 2;
/// Wiped records are squeezed out once they are this many and more than the living.
const WIPED_MIN: usize = 1024;

/// The vectors of a store's notes, made by one embedder.
pub(crate) struct Vectors {
    path: PathBuf,
    file: File,
    dimensions: usize,
    name: String,
    /// By row: the note, and its searched vector.
    ids: Vec<u64>,
    factors: Vec<f32>,
    codes: Vec<i8>,
    sketches: Sketches,
    /// A note's first row and how many it has.
    places: HashMap<u64, (u32, u16)>,
    wiped: usize,
}

/// The vectors of one part of a note, each of length 1.
pub(crate) struct Part {
    /// As the embedder made it.
    pub(crate) own: Vec<f32>,
    /// With what lies beside.
    pub(crate) searched: Vec<f32>,
}

impl Vectors {
    /// Opens the file of this embedder; one of another embedder, or with a damaged head, is made anew. Records from the first
    /// damaged one on are cut off: their notes are embedded again.
    pub(crate) fn open(path: &Path, name: &str, dimensions: usize) -> Result<Vectors, String> {
        let say = |e: std::io::Error| format!("{}: {e}", path.display());
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(say)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(say)?;
        let mut vectors = Vectors {
            path: path.to_path_buf(),
            file,
            dimensions,
            name: name.into(),
            ids: Vec::new(),
            factors: Vec::new(),
            codes: Vec::new(),
            sketches: Sketches::new(dimensions),
            places: HashMap::new(),
            wiped: 0,
        };
        let head = vectors.head();
        if !bytes.starts_with(&head) {
            vectors.file.set_len(0).and_then(|()| vectors.file.write_all_at(&head, 0)).map_err(say)?;
            return Ok(vectors);
        }
        let size = vectors.record_bytes();
        vectors.reserve((bytes.len() - head.len()) / size);
        let mut whole = 0;
        for record in bytes[head.len()..].chunks_exact(size) {
            let Some(record) = Record::read(record) else { break };
            vectors.push(&record);
            // A note whose last parts are missing has none.
            if record.part + 1 >= record.parts {
                whole = vectors.ids.len();
            }
        }
        drop(bytes);
        vectors.keep(whole);
        vectors.file.set_len((head.len() + whole * size) as u64).map_err(say)?;
        if vectors.wiped >= WIPED_MIN && vectors.wiped * 2 > vectors.ids.len() {
            vectors.squeeze()?;
        }
        Ok(vectors)
    }

    fn head(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend((self.dimensions as u32).to_le_bytes());
        head.extend((self.name.len() as u32).to_le_bytes());
        head.extend(self.name.as_bytes());
        head
    }

    fn record_bytes(&self) -> usize {
        24 + 2 * self.dimensions
    }

    /// Where a row's record is in the file.
    fn offset(&self, row: usize) -> u64 {
        (MAGIC.len() + 8 + self.name.len() + row * self.record_bytes()) as u64
    }

    fn reserve(&mut self, rows: usize) {
        self.ids.reserve(rows);
        self.factors.reserve(rows);
        self.codes.reserve(rows * self.dimensions);
        self.sketches.reserve(rows);
    }

    fn push(&mut self, record: &Record) {
        let row = self.ids.len() as u32;
        if record.id == 0 {
            self.wiped += 1;
        } else if record.part == 0 {
            // Also a note that was embedded again, by a process that ended before it could say so.
            self.places.insert(record.id, (row, 1));
        } else if let Some(place) = self.places.get_mut(&record.id) {
            place.1 += 1;
        }
        self.ids.push(record.id);
        self.factors.push(record.searched.factor);
        self.codes.extend(&record.searched.codes);
        self.sketches.push(&record.searched.codes);
    }

    /// Keeps the first so many rows.
    fn keep(&mut self, rows: usize) {
        for id in self.ids.drain(rows..) {
            self.places.remove(&id);
        }
        self.factors.truncate(rows);
        self.codes.truncate(rows * self.dimensions);
        self.sketches.truncate(rows);
    }

    /// Whether a note has its vectors.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.places.contains_key(&id)
    }

    /// How many notes have vectors.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The notes that have vectors.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.places.keys().copied()
    }

    /// Keeps the vectors of a note that has none yet.
    pub(crate) fn add(&mut self, id: u64, parts: &[Part]) -> Result<(), String> {
        if parts.iter().any(|part| [&part.own, &part.searched].iter().any(|v| v.len() != self.dimensions)) {
            return Err(format!("a vector has not {} numbers", self.dimensions));
        }
        let mut bytes = Vec::new();
        let first = self.ids.len();
        for (n, part) in parts.iter().enumerate() {
            let record = Record {
                id,
                part: n as u16,
                parts: parts.len() as u16,
                own: Code::of(&part.own),
                searched: Code::of(&part.searched),
            };
            record.write(&mut bytes);
            self.push(&record);
        }
        self.file
            .write_all_at(&bytes, self.offset(first))
            .map_err(|e| format!("{}: {e}", self.path.display()))
    }

    /// The vectors of a note's parts as the embedder made them.
    pub(crate) fn own(&self, id: u64) -> Result<Vec<Vec<f32>>, String> {
        let Some((row, parts)) = self.places.get(&id).copied() else { return Ok(Vec::new()) };
        (row as usize..row as usize + parts as usize).map(|row| Ok(self.record(row)?.own.numbers())).collect()
    }

    fn record(&self, row: usize) -> Result<Record, String> {
        let mut bytes = vec![0; self.record_bytes()];
        self.file
            .read_exact_at(&mut bytes, self.offset(row))
            .map_err(|e| format!("{}: {e}", self.path.display()))?;
        Record::read(&bytes).ok_or_else(|| format!("{}: record {row} is damaged", self.path.display()))
    }

    /// Changes what is searched of a note: one vector for each part.
    pub(crate) fn search_by(&mut self, id: u64, searched: &[Vec<f32>]) -> Result<(), String> {
        let Some((first, parts)) = self.places.get(&id).copied() else { return Ok(()) };
        let rows = first as usize..first as usize + parts as usize;
        for (row, vector) in rows.zip(searched) {
            let mut record = self.record(row)?;
            record.searched = Code::of(vector);
            self.factors[row] = record.searched.factor;
            self.codes[row * self.dimensions..(row + 1) * self.dimensions]
                .copy_from_slice(&record.searched.codes);
            self.sketches.set(row, &record.searched.codes);
            let mut bytes = Vec::new();
            record.write(&mut bytes);
            self.file
                .write_all_at(&bytes, self.offset(row))
                .map_err(|e| format!("{}: {e}", self.path.display()))?;
        }
        Ok(())
    }

    /// Overwrites the vectors of notes with zeros, here and on disk; durable when it returns.
    pub(crate) fn wipe(&mut self, ids: &[u64]) -> Result<(), String> {
        let say = |e: std::io::Error| format!("{}: {e}", self.path.display());
        let mut blank = Vec::new();
        let zero = || Code { factor: 0.0, codes: vec![0; self.dimensions] };
        Record { id: 0, part: 0, parts: 0, own: zero(), searched: zero() }.write(&mut blank);
        let gone: HashSet<u64> = ids.iter().copied().filter(|id| self.places.remove(id).is_some()).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let nothing = vec![0; self.dimensions];
        for row in 0..self.ids.len() {
            if gone.contains(&self.ids[row]) {
                self.file.write_all_at(&blank, self.offset(row)).map_err(say)?;
                self.ids[row] = 0;
                self.factors[row] = 0.0;
                self.codes[row * self.dimensions..(row + 1) * self.dimensions].fill(0);
                self.sketches.set(row, &nothing);
                self.wiped += 1;
            }
        }
        self.file.sync_all().map_err(say)
    }

    /// Writes the living records into a new file, which takes the old one's place.
    fn squeeze(&mut self) -> Result<(), String> {
        let say = |e: std::io::Error| format!("{}: {e}", self.path.display());
        let aside = self.path.with_extension("aside");
        let mut bytes = self.head();
        let mut places: Vec<(u32, u16)> = self.places.values().copied().collect();
        places.sort_unstable();
        for (first, parts) in places {
            for row in first as usize..first as usize + parts as usize {
                self.record(row)?.write(&mut bytes);
            }
        }
        fs::write(&aside, &bytes).and_then(|()| fs::rename(&aside, &self.path)).map_err(say)?;
        *self = Vectors::open(&self.path, &self.name, self.dimensions)?;
        Ok(())
    }

    fn row(&self, row: usize) -> &[i8] {
        &self.codes[row * self.dimensions..(row + 1) * self.dimensions]
    }

    /// The cosine of a note's nearest part; `None` when it has no vector.
    pub(crate) fn cosine(&self, id: u64, query: &[f32]) -> Option<f32> {
        let (row, parts) = *self.places.get(&id)?;
        let rows = row as usize..row as usize + parts as usize;
        rows.map(|row| self.score(row, query)).max_by(f32::total_cmp)
    }

    fn score(&self, row: usize, query: &[f32]) -> f32 {
        let mut sums = [0.0_f32; 8];
        let (codes, query) = (self.row(row).chunks_exact(8), query.chunks_exact(8));
        let rest = codes.remainder().iter().zip(query.remainder()).map(|(&code, x)| f32::from(code) * x);
        let rest: f32 = rest.sum();
        for (codes, query) in codes.zip(query) {
            sums.iter_mut()
                .zip(codes.iter().zip(query))
                .for_each(|(sum, (&code, x))| *sum += f32::from(code) * x);
        }
        (sums.iter().sum::<f32>() + rest) * self.factors[row]
    }

    /// The `limit` notes with the greatest products of cosine and weight, best first: number and product. A weight says what a
    /// note counts, or that it is not looked for; each thread makes its own.
    pub(crate) fn nearest<W: FnMut(u64) -> Option<f32>>(
        &self,
        query: &[f32],
        limit: usize,
        weights: impl Fn() -> W + Sync,
    ) -> Vec<(u64, f32)> {
        if query.len() != self.dimensions || limit == 0 {
            return Vec::new();
        }
        let query_code = Code::of(query);
        // More than are asked for, since the query's rounding may move a few over the edge, and a note may have several parts.
        let most_rows = limit + limit / 2 + 8;
        let dot = dot_of_this_machine();
        let judge = |best: &mut Best, rows: &[(usize, f32)]| {
            for (at, &(row, weight)) in rows.iter().enumerate() {
                if let Some((next, _)) = rows.get(at + AHEAD) {
                    fetch(self.row(*next));
                }
                let cosine =
                    dot(&query_code.codes, self.row(row)) as f32 * (self.factors[row] * query_code.factor);
                if cosine > 0.0 && cosine * weight > best.least() {
                    best.put(row as u64, cosine * weight);
                }
            }
        };
        // Whose it is is known sooner than how near it is.
        let looked_for = |row: usize, weight: &mut W| {
            Some(self.ids[row]).filter(|id| *id != 0).and_then(weight).map(|weight| (row, weight))
        };
        let best = if self.ids.len() < SKETCHED_ROWS {
            self.in_threads(|rows| {
                let (mut best, mut weight) = (Best::new(most_rows), weights());
                let mut block = Vec::with_capacity(BLOCK);
                for row in rows {
                    block.extend(looked_for(row, &mut weight));
                    if block.len() == BLOCK {
                        judge(&mut best, &block);
                        block.clear();
                    }
                }
                judge(&mut best, &block);
                best
            })
        } else {
            let probe = Probe::of(&query_code.codes);
            let chosen = self.in_threads(|rows| {
                let (mut best, mut weight) = (Best::new(limit * CHOSEN), weights());
                for (row, weight) in rows.filter_map(|row| looked_for(row, &mut weight)) {
                    let near = self.sketches.near(&probe, row) as f32 * weight;
                    if near > best.least().max(0.0) {
                        best.put(row as u64, near);
                    }
                }
                best
            });
            // In the order in which they lie in memory.
            let mut rows: Vec<usize> = chosen.sorted().into_iter().map(|(row, _)| row as usize).collect();
            rows.sort_unstable();
            let (mut best, mut weight) = (Best::new(most_rows), weights());
            let rows: Vec<_> = rows.into_iter().filter_map(|row| looked_for(row, &mut weight)).collect();
            judge(&mut best, &rows);
            best
        };
        let (mut found, mut weight): (HashMap<u64, f32>, W) = (HashMap::new(), weights());
        for (row, _) in best.sorted() {
            let id = self.ids[row as usize];
            let score = self.score(row as usize, query) * weight(id).unwrap_or(0.0);
            let kept = found.entry(id).or_insert(f32::MIN);
            *kept = kept.max(score);
        }
        let mut found: Vec<(u64, f32)> = found.into_iter().collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        found.truncate(limit);
        found
    }

    /// The best of all rows, each range of which `scan` goes over by itself.
    fn in_threads(&self, scan: impl Fn(Range<usize>) -> Best + Sync) -> Best {
        let rows = self.ids.len();
        let threads = (rows / ROWS_PER_THREAD).clamp(1, THREADS_MAX);
        let bounds: Vec<usize> = (0..=threads).map(|n| rows * n / threads).collect();
        std::thread::scope(|scope| {
            let scan = &scan;
            let others: Vec<_> =
                bounds.windows(2).skip(1).map(|part| scope.spawn(move || scan(part[0]..part[1]))).collect();
            let mut best = scan(bounds[0]..bounds[1]);
            for thread in others {
                let found = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                found.sorted().into_iter().for_each(|(row, score)| best.put(row, score));
            }
            best
        })
    }
}

/// Has a vector on its way from memory while others are judged.
fn fetch(of: &[i8]) {
    #[cfg(target_arch = "x86_64")]
    for line in of.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint about an address of this very slice; every x86-64 processor has it.
        // WHY: nothing else asks the processor to fetch ahead.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = of;
}

/// A vector as signed bytes, −127 to 127, and what one of them is worth.
pub(crate) struct Code {
    pub(crate) factor: f32,
    pub(crate) codes: Vec<i8>,
}

impl Code {
    pub(crate) fn of(vector: &[f32]) -> Code {
        let most = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let factor = if most > 0.0 && most.is_finite() { most / 127.0 } else { 1.0 };
        let codes = vector.iter().map(|x| (x / factor).round().clamp(-127.0, 127.0) as i8).collect();
        Code { factor, codes }
    }

    fn numbers(&self) -> Vec<f32> {
        self.codes.iter().map(|&code| f32::from(code) * self.factor).collect()
    }

    pub(crate) fn read(bytes: &[u8]) -> Code {
        let (factor, codes) = bytes.split_at(4);
        Code {
            factor: f32::from_le_bytes(factor.try_into().expect("four bytes")),
            codes: codes.iter().map(|code| code.cast_signed()).collect(),
        }
    }

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.factor.to_le_bytes());
        to.extend(self.codes.iter().map(|code| code.cast_unsigned()));
    }
}

/// One part of a note's vectors.
struct Record {
    id: u64,
    part: u16,
    parts: u16,
    own: Code,
    searched: Code,
}

impl Record {
    fn read(bytes: &[u8]) -> Option<Record> {
        let (body, sum) = bytes.split_at(bytes.len() - 4);
        let (own, searched) = body[12..].split_at((body.len() - 12) / 2);
        let short = |at: usize| u16::from_le_bytes([body[at], body[at + 1]]);
        (crc32c::crc32c(body).to_le_bytes() == sum).then(|| Record {
            id: u64::from_le_bytes(body[..8].try_into().expect("eight bytes")),
            part: short(8),
            parts: short(10),
            own: Code::read(own),
            searched: Code::read(searched),
        })
    }

    fn write(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend(self.id.to_le_bytes());
        to.extend(self.part.to_le_bytes());
        to.extend(self.parts.to_le_bytes());
        self.own.write(to);
        self.searched.write(to);
        let sum = crc32c::crc32c(&to[start..]);
        to.extend(sum.to_le_bytes());
    }
}

pub(crate) type Dot = fn(&[i8], &[i8]) -> i32;

/// The fastest way this machine has to multiply two rows of codes.
pub(crate) fn dot_of_this_machine() -> Dot {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        return |x, y| {
            // SAFETY: the machine has AVX2, as was just seen.
            // WHY: the only way to call code compiled for features found at run time.
            unsafe { dot_avx2(x, y) }
        };
    }
    dot
}

/// Σ xᵢ·yᵢ: the specification.
fn dot(x: &[i8], y: &[i8]) -> i32 {
    x.iter().zip(y).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
}

/// As [`dot`], 32 codes at a time. Codes are never −128, so sums of two products fit 16 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(x: &[i8], y: &[i8]) -> i32 {
    use std::arch::x86_64::*;
    let (x_parts, x_rest) = x.as_chunks::<32>();
    let (y_parts, y_rest) = y.as_chunks::<32>();
    let ones = _mm256_set1_epi16(1);
    let mut sum = _mm256_setzero_si256();
    for (x, y) in x_parts.iter().zip(y_parts) {
        // SAFETY: both have 32 bytes.
        // WHY: a scan is these loads and little else.
        let (x, y) =
            unsafe { (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(y.as_ptr().cast())) };
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(y, x));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
    let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let half = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    let half = _mm_add_epi32(half, _mm_shuffle_epi32::<0b10_11_00_01>(half));
    _mm_cvtsi128_si32(half) + dot(x_rest, y_rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vector of length 1 that follows from its seed.
    fn vector(seed: u64, dimensions: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let vector: Vec<f32> = (0..dimensions).map(|_| next()).collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.into_iter().map(|x| x / length).collect()
    }

    fn part(seed: u64, dimensions: usize) -> Part {
        Part { own: vector(seed, dimensions), searched: vector(seed, dimensions) }
    }

    fn filled(path: &Path, count: u64, dimensions: usize) -> Vectors {
        let mut vectors = Vectors::open(path, "test", dimensions).unwrap();
        for id in 1..=count {
            vectors.add(id, &[part(id, dimensions)]).unwrap();
        }
        vectors
    }

    #[test]
    fn the_fast_product_is_the_plain_one() {
        for len in [0, 1, 31, 32, 33, 384, 1000] {
            let of = |seed| -> Vec<i8> {
                vector(seed, len).iter().map(|x| (x * 900.0).clamp(-127.0, 127.0) as i8).collect()
            };
            let extreme = vec![-127_i8; len];
            for (x, y) in [(of(1), of(2)), (extreme.clone(), extreme.clone()), (of(3), extreme)] {
                assert_eq!(dot_of_this_machine()(&x, &y), dot(&x, &y), "{len} codes");
            }
        }
    }

    #[test]
    fn a_scan_finds_what_floats_would_find() {
        // Codes are an approximation; what is asked of them is that it does not show.
        let dir = tempfile::tempdir().unwrap();
        let vectors = filled(&dir.path().join("v"), 3000, 64);
        let mut same = 0;
        for seed in 0..40 {
            let query = vector(1_000_000 + seed, 64);
            let mut exact: Vec<(u64, f32)> = (1..=3000)
                .map(|id| (id, vector(id, 64).iter().zip(&query).map(|(x, y)| x * y).sum()))
                .collect();
            exact.sort_by(|a, b| b.1.total_cmp(&a.1));
            let found = vectors.nearest(&query, 10, || |_| Some(1.0));
            assert_eq!(found.len(), 10);
            for (id, score) in &found {
                let exact = exact.iter().find(|(other, _)| other == id).unwrap().1;
                assert!((score - exact).abs() < 0.01, "{score} {exact}");
            }
            same += found.iter().filter(|(id, _)| exact[..10].iter().any(|(other, _)| other == id)).count();
        }
        assert!(same >= 390, "{same} of 400 are the same");
    }

    #[test]
    fn what_sketches_choose_holds_what_a_scan_would_find() {
        // Many vectors around a few themes, as notes are: the nearest are much nearer than the rest.
        let dir = tempfile::tempdir().unwrap();
        let mut vectors = Vectors::open(&dir.path().join("v"), "test", 384).unwrap();
        let near_theme = |theme: u64, seed: u64, share: f32| -> Vec<f32> {
            let mixed = vector(theme, 384).into_iter().zip(vector(seed, 384)).map(|(x, y)| x + share * y);
            let mixed: Vec<f32> = mixed.collect();
            let length = mixed.iter().map(|x| x * x).sum::<f32>().sqrt();
            mixed.into_iter().map(|x| x / length).collect()
        };
        let count = SKETCHED_ROWS as u64 + 1000;
        let of = |id: u64| near_theme(5_000_000 + id % 50, id, 1.0 + (id % 17) as f32 / 10.0);
        for id in 1..=count {
            let one = of(id);
            vectors.add(id, &[Part { own: one.clone(), searched: one }]).unwrap();
        }
        let (mut same, mut asked) = (0, 0);
        for seed in 0..5 {
            let query = near_theme(5_000_000 + seed * 7, 9_000_000 + seed, 0.8);
            let fits =
                |id: u64| (!id.is_multiple_of(3)).then_some(if id.is_multiple_of(2) { 1.0 } else { 0.9 });
            let mut exact: Vec<(u64, f32)> =
                (1..=count).filter_map(|id| Some((id, vectors.cosine(id, &query)? * fits(id)?))).collect();
            exact.sort_by(|a, b| b.1.total_cmp(&a.1));
            let found = vectors.nearest(&query, 50, || fits);
            assert!(found.is_sorted_by(|a, b| a.1 >= b.1) && found.len() == 50);
            same += found.iter().filter(|(id, _)| exact[..50].iter().any(|(other, _)| other == id)).count();
            asked += 50;
        }
        assert!(same * 100 >= asked * 95, "{same} of {asked} are the same");
    }

    #[test]
    fn a_note_is_as_near_as_its_nearest_part() {
        let dir = tempfile::tempdir().unwrap();
        let mut vectors = filled(&dir.path().join("v"), 50, 32);
        let query = vector(777, 32);
        let same = Part { own: query.clone(), searched: query.clone() };
        vectors.add(60, &[part(1, 32), same, part(2, 32)]).unwrap();
        let found = vectors.nearest(&query, 5, || |_| Some(1.0));
        assert_eq!(found[0].0, 60);
        assert_eq!(found.iter().filter(|(id, _)| *id == 60).count(), 1);
        assert!((vectors.cosine(60, &query).unwrap() - 1.0).abs() < 0.01);
    }

    #[test]
    fn what_is_wiped_leaves_no_byte_and_stays_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let mut vectors = filled(&path, 20, 32);
        let codes: Vec<u8> = Code::of(&vector(7, 32)).codes.iter().map(|code| code.cast_unsigned()).collect();
        let holds = |path: &Path| fs::read(path).unwrap().windows(32).any(|window| window == codes);
        assert!(holds(&path), "the test looks for the right bytes");
        vectors.wipe(&[7]).unwrap();
        assert!(!holds(&path));
        assert!(!vectors.has(7) && vectors.ids().count() == 19);
        vectors.add(21, &[part(21, 32)]).unwrap();
        let again = Vectors::open(&path, "test", 32).unwrap();
        assert!(!again.has(7) && again.has(21) && again.len() == 20);
    }

    #[test]
    fn a_damaged_file_gives_up_what_is_damaged_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        drop(filled(&path, 20, 32));
        let mut bytes = fs::read(&path).unwrap();
        let size = 24 + 2 * 32;
        let head = bytes.len() - 20 * size;
        bytes[head + 12 * size + 30] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let vectors = Vectors::open(&path, "test", 32).unwrap();
        assert_eq!(vectors.len(), 12);
        // Another embedder's vectors mean nothing here.
        assert_eq!(Vectors::open(&path, "other", 32).unwrap().len(), 0);
    }

    #[test]
    fn what_is_searched_may_change_and_what_the_embedder_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let mut vectors = filled(&path, 20, 32);
        let query = vector(888, 32);
        vectors.search_by(5, std::slice::from_ref(&query)).unwrap();
        for vectors in [vectors, Vectors::open(&path, "test", 32).unwrap()] {
            assert_eq!(vectors.nearest(&query, 1, || |_| Some(1.0))[0].0, 5);
            let own = &vectors.own(5).unwrap()[0];
            let same: f32 = own.iter().zip(&vector(5, 32)).map(|(x, y)| x * y).sum();
            assert!(same > 0.999, "{same}");
            // Weights count, and what has none is not found.
            let weighed =
                vectors.nearest(&query, 20, || |id| (id != 5).then_some(if id == 6 { 2.0 } else { 1.0 }));
            assert!(weighed.iter().all(|(id, _)| *id != 5));
        }
    }

    #[test]
    fn a_file_of_wiped_records_is_squeezed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let mut vectors = filled(&path, 3000, 16);
        let most: Vec<u64> = (1..=2000).collect();
        vectors.wipe(&most).unwrap();
        let before = fs::metadata(&path).unwrap().len();
        drop(vectors);
        let vectors = Vectors::open(&path, "test", 16).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < before / 2);
        assert_eq!(vectors.len(), 1000);
        assert_eq!(vectors.nearest(&vector(2500, 16), 1, || |_| Some(1.0))[0].0, 2500);
    }
}

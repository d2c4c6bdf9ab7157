//! How fast the memory is on this machine: `cargo bench -p memory`. Prints latencies and rates; judges nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memory::{Embedder, Kind, Memory, Note, Query, Scope, Trust};

/// A typical event of a session, in bytes.
const RECORD_BYTES: usize = 700;

fn main() -> Result<(), memory::Error> {
    // `cargo test --benches` runs this as well, and wants to know only that it runs.
    let events = if std::env::args().any(|arg| arg == "--bench") { 1_000_000 } else { 2_000 };
    // Beside the build, since a temporary folder is often in memory, where an fsync is free.
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pace");
    let _ = std::fs::remove_dir_all(&root);
    let notes_only = std::env::var_os("SAGA_BENCH_NOTES").is_some();
    for writers in [1, 16].into_iter().filter(|_| !notes_only) {
        appends(&root.join(format!("w{writers}")), writers)?;
    }
    if !notes_only {
        opening(&root.join("open"), events)?;
    }
    // SAGA_BENCH_NOTES=1000000 for a store as large as one is allowed to grow.
    let notes = std::env::var("SAGA_BENCH_NOTES").ok().and_then(|count| count.parse().ok());
    recalls(&root.join("notes"), notes.unwrap_or(events / 10))?;
    let _ = std::fs::remove_dir_all(&root);
    Ok(())
}

/// Appends from many threads, each waiting for its own.
fn appends(dir: &Path, writers: usize) -> Result<(), memory::Error> {
    let memory = Memory::open(dir)?;
    let record = vec![b'x'; RECORD_BYTES];
    let lasting = Duration::from_secs(5);
    let before = memory.health();
    let journals: Vec<_> =
        (0..writers).map(|n| memory.journal(&format!("s-{n}"))).collect::<Result<_, _>>()?;
    let start = Instant::now();
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = journals
            .iter()
            .map(|journal| {
                let record = &record;
                scope.spawn(move || {
                    let mut latencies = Vec::new();
                    while start.elapsed() < lasting {
                        let asked = Instant::now();
                        journal.append(record).expect("there is room for a bench");
                        latencies.push(asked.elapsed());
                    }
                    latencies
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no writer panics")).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    latencies.sort();
    let health = memory.health();
    println!(
        "append, {writers:2} writers: p50 {:.2?}, p99 {:.2?}, max {:.2?}, {:.0} appends/s, {:.1} appends per fsync",
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        latencies[latencies.len() - 1],
        latencies.len() as f64 / seconds,
        latencies.len() as f64 / (health.syncs - before.syncs) as f64,
    );
    Ok(())
}

/// Opening a store of many events, with its index and without.
fn opening(dir: &Path, events: usize) -> Result<(), memory::Error> {
    let memory = Memory::open(dir)?;
    let record = vec![b'x'; RECORD_BYTES];
    let batch: Vec<&[u8]> = vec![&record; 500];
    let start = Instant::now();
    for n in 0..events.div_ceil(batch.len()) {
        memory.journal(&format!("s-{}", n % 1000))?.append_all(&batch)?;
    }
    println!("{events} events of {RECORD_BYTES} bytes in batches of 500: {:.2?}", start.elapsed());
    let closing = Instant::now();
    drop(memory);
    println!("closed in {:.2?}", closing.elapsed());
    for (what, prepare) in [("with its index", None), ("index deleted", Some(dir.join("index")))] {
        if let Some(index) = prepare {
            std::fs::remove_dir_all(index).expect("the index can be deleted");
        }
        let start = Instant::now();
        let memory = Memory::open(dir)?;
        let opened = start.elapsed();
        let health = memory.health();
        let start = Instant::now();
        let page = memory.journal("s-1")?.read(memory::Seq(1), 1000)?;
        println!(
            "open, {what}: {opened:.2?}; {} MiB of log in {} segments, {} MiB of index; a page of {}: {:.2?}",
            health.bytes >> 20,
            health.segments,
            size(&dir.join("index")) >> 20,
            page.len(),
            start.elapsed()
        );
    }
    Ok(())
}

/// Writing notes, and finding them.
fn recalls(dir: &Path, notes: usize) -> Result<(), memory::Error> {
    let memory = Memory::open(dir)?;
    let words = [
        "build",
        "test",
        "clippy",
        "parseRequest",
        "max_len",
        "session",
        "token",
        "cache",
        "prefill",
        "linker",
    ];
    let text = |n: usize| {
        let word = |k: usize| words[(n / 7 + k * k * (n % 11)) % words.len()];
        format!("note {n}: {} {} needs {} in module{} since {}", word(1), word(2), word(3), n % 977, word(4))
    };
    let note = |n: usize| {
        let scope = Scope::Repository(format!("r{}", n % 10));
        Note { recorded_ms: n as u64, ..Note::new(Kind::Fact, text(n), scope, "bench", Trust::ModelInferred) }
    };
    memory.embed_with(Arc::new(Lots))?;
    let start = Instant::now();
    for from in (0..notes).step_by(1000) {
        memory.remember_all((from..notes.min(from + 1000)).map(note).collect())?;
    }
    println!("{notes} notes written: {:.2?}", start.elapsed());
    memory.settle();
    println!("{notes} notes in all indexes: {:.2?}", start.elapsed());
    let asked = |n: usize| Query {
        text: format!("which module{} needs the {}", n * 7 % 977, words[n % words.len()]),
        scopes: vec![Scope::Repository(format!("r{}", n % 10))],
        limit: 10,
        ..Query::default()
    };
    let recall = |n: usize| {
        let begun = Instant::now();
        memory.recall(&asked(n)).map(|_| begun.elapsed())
    };
    let mut latencies: Vec<Duration> = (0..500).map(recall).collect::<Result<_, _>>()?;
    latencies.sort();
    println!(
        "recall among {notes}, without an embedder's time: p50 {:.2?}, p95 {:.2?}",
        latencies[250], latencies[475]
    );
    // Notes written one by one while others are looked for.
    let done = AtomicBool::new(false);
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..).take_while(|_| !done.load(Ordering::Relaxed)) {
                recall(n).expect("a bench recalls");
            }
        });
        let latencies = (0..500)
            .map(|n| {
                let begun = Instant::now();
                memory.remember(note(notes + n)).expect("there is room for a bench");
                begun.elapsed()
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        latencies
    });
    latencies.sort();
    println!("append beside recalls: p50 {:.2?}, p99 {:.2?}", latencies[250], latencies[495]);
    let resident = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident =
        resident.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: unknown").to_string();
    println!("{resident}");
    drop(memory);
    let start = Instant::now();
    let memory = Memory::open(dir)?;
    println!("open with {notes} notes: {:.2?}", start.elapsed());
    memory.embed_with(Arc::new(Lots))?;
    println!("and with their vectors: {:.2?}", start.elapsed());
    Ok(())
}

/// Vectors drawn by lot from a text: a scan takes as long as with meaningful ones.
#[derive(Debug)]
struct Lots;

impl Embedder for Lots {
    fn name(&self) -> &str {
        "lots"
    }

    fn dimensions(&self) -> usize {
        384
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, memory::Error> {
        let vector = |text: &&str| {
            let mut state = text.bytes().fold(1469598103934665603_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(1099511628211)
            });
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 24) as f32 - 0.5
            };
            let vector: Vec<f32> = (0..384).map(|_| next()).collect();
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.into_iter().map(|x| x / length).collect()
        };
        Ok(texts.iter().map(vector).collect())
    }
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

//! How fast the memory is on this machine: `cargo bench -p memory`. Prints latencies and rates; judges nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use memory::{Kind, Memory, Note, Origin, Query, Scope, Trust};

/// A typical event of a session, in bytes.
const RECORD_BYTES: usize = 700;

fn main() -> Result<(), memory::Error> {
    // `cargo test --benches` runs this as well, and wants to know only that it runs.
    let events = if std::env::args().any(|arg| arg == "--bench") { 1_000_000 } else { 2_000 };
    // Beside the build, since a temporary folder is often in memory, where an fsync is free.
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pace");
    let _ = std::fs::remove_dir_all(&root);
    for writers in [1, 16] {
        appends(&root.join(format!("w{writers}")), writers)?;
    }
    opening(&root.join("open"), events)?;
    recalls(&root.join("notes"), events / 10)?;
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
    let note = |n: usize| Note {
        kind: Kind::Fact,
        text: text(n),
        scope: Scope::Repository(format!("r{}", n % 10)),
        origin: Origin { journal: None, span: None, author: "bench".into(), trust: Trust::ModelInferred },
        recorded_ms: n as u64,
        valid_from_ms: None,
        valid_to_ms: None,
        tags: Vec::new(),
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..32 {
            let (memory, note) = (&memory, &note);
            scope.spawn(move || {
                for n in (thread..notes).step_by(32) {
                    memory.remember(note(n)).expect("there is room for a bench");
                }
            });
        }
    });
    println!("{notes} notes by 32 writers: {:.2?}", start.elapsed());
    let mut latencies: Vec<Duration> = (0..500)
        .map(|n| {
            let query = Query {
                text: format!("which module{} needs the {}", n * 7 % 977, words[n % words.len()]),
                scopes: vec![Scope::Repository(format!("r{}", n % 10))],
                limit: 10,
            };
            let asked = Instant::now();
            memory.recall(&query).map(|_| asked.elapsed())
        })
        .collect::<Result<_, _>>()?;
    latencies.sort();
    println!("recall among {notes}: p50 {:.2?}, p95 {:.2?}", latencies[250], latencies[475]);
    drop(memory);
    let start = Instant::now();
    drop(Memory::open(dir)?);
    println!("open and close with {notes} notes: {:.2?}", start.elapsed());
    Ok(())
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

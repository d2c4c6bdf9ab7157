//! Strangers' bytes at the engine's doors: configurations, GGUF headers and safetensors headers, changed by chance.
//!
//! Every case is a whole small model with some of its bytes or values changed. It must be refused with an error or run;
//! it must never panic, and never ask for more memory than the limit. A run goes on from its seed, so a case that
//! failed can be made again: its number and its files are printed and kept.
//!
//! The suite tries for two seconds; `just fuzz 600` for ten minutes.

#![expect(clippy::unwrap_used, reason = "a folder that cannot be written to is a failed test")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::testing::TinyModel;
use engine::{Engine, Options};
use serde_json::{Value, json};

/// What a process may map while it fuzzes. The models have under a megabyte.
const MEMORY_BYTES: u64 = 8 << 30;
/// Bytes of a file that are changed most often: headers stand at the front.
const HEADER_BYTES: usize = 16 << 10;

/// One model to begin with: its files by name, and which of them a case changes.
struct Seed {
    name: String,
    files: Vec<(String, Vec<u8>)>,
}

#[test]
fn no_bytes_at_the_doors_make_the_engine_panic() {
    // Models come from strangers: a file may cost an error message, and nothing else.
    limit_memory();
    let seconds = std::env::var("SAGA_FUZZ_SECONDS").ok().map_or(2, |s| s.parse().unwrap());
    let mut number: u64 = std::env::var("SAGA_FUZZ_FROM").ok().map_or(1, |s| s.parse().unwrap());
    let seeds = seeds();
    let folder = tempfile::tempdir().unwrap();
    // Where to look if the process is ended for asking too much: the case and its number are left there.
    println!("cases are in {}", folder.path().display());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut refused, mut ran) = (0_u64, 0_u64);
    let until = Instant::now() + Duration::from_secs(seconds);
    // The panic that is looked for is reported below, with what led to it.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let failed = loop {
        let mut chance = Chance::new(number);
        let seed = &seeds[chance.below(seeds.len())];
        let files = changed(&seed.files, &mut chance);
        let path = write(folder.path(), seed, &files);
        std::fs::write(folder.path().join("number"), number.to_string()).unwrap();
        match catch_unwind(AssertUnwindSafe(|| runtime.block_on(try_it(&path)))) {
            Ok(true) => ran += 1,
            Ok(false) => refused += 1,
            Err(panic) => break Some((seed, panic)),
        }
        number += 1;
        if Instant::now() >= until {
            break None;
        }
    };
    std::panic::set_hook(hook);
    println!("{refused} refused, {ran} ran");
    if let Some((seed, panic)) = failed {
        let told = panic.downcast_ref::<String>().map_or_else(
            || panic.downcast_ref::<&str>().copied().unwrap_or("a panic without words"),
            String::as_str,
        );
        let kept = folder.keep();
        panic!("case {number} ({}) panicked: {told}; its files are in {}", seed.name, kept.display());
    }
    assert!(refused > 0 && ran > 0, "cases must be tried, and some must come through");
}

/// Opens the model and runs a few tokens; whether it could be opened.
async fn try_it(path: &Path) -> bool {
    let options = Options { threads: 1, tokens_only: true, ..Options::default() };
    let Ok(engine) = Engine::open(path, options, &mut |_| {}) else { return false };
    let mut line = engine.timeline();
    let last = engine.model().vocabulary.min(100) as u32;
    // A line may be too short for them, and then says so.
    if line.sync(&[0, last - 1, last / 2, 1 % last, 0], |_| {}).await.is_ok() {
        // What is no number is an error too.
        let _ = line.next(&engine::Sampling::default(), None).await;
    }
    true
}

/// The models of all families that the engine's own tests have, in both forms.
fn seeds() -> Vec<Seed> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures/models");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut seeds = Vec::new();
    for folder in folders {
        let read = |name: &str| (name.to_owned(), std::fs::read(folder.join(name)).unwrap());
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        seeds.push(Seed { name, files: vec![read("config.json"), read("model.safetensors")] });
    }
    let scratch = tempfile::tempdir().unwrap();
    for family in ["qwen2", "llama", "deepseek2", "qwen35moe"] {
        let path = scratch.path().join("tiny.gguf");
        TinyModel::new(family).write(&path);
        let files = vec![("tiny.gguf".to_owned(), std::fs::read(&path).unwrap())];
        seeds.push(Seed { name: format!("{family}.gguf"), files });
    }
    let parts = TinyModel::new("deepseek2").write_parts(scratch.path(), 3);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let files = parts.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect();
    seeds.push(Seed { name: "deepseek2-in-parts.gguf".to_owned(), files });
    seeds
}

/// The files with some changes.
fn changed(files: &[(String, Vec<u8>)], chance: &mut Chance) -> Vec<(String, Vec<u8>)> {
    let mut files = files.to_vec();
    for _ in 0..1 + chance.below(3) {
        let at = chance.below(files.len());
        let (name, bytes) = &mut files[at];
        if name == "config.json" && chance.below(8) > 0 {
            change_json(bytes, chance);
        } else if name == "model.safetensors" && chance.below(2) > 0 {
            change_header(bytes, chance);
        } else {
            change_bytes(bytes, chance);
        }
    }
    files
}

/// Changes a value of a configuration: to nothing, to another kind, or to a number at some edge.
fn change_json(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let Ok(mut root) = serde_json::from_slice::<Value>(bytes) else { return };
    let mut pointers = Vec::new();
    collect(&root, String::new(), &mut pointers);
    let Some(pointer) = pointers.get(chance.below(pointers.len().max(1))) else { return };
    if let Some(value) = root.pointer_mut(pointer) {
        *value = strange(value, chance);
    }
    *bytes = root.to_string().into_bytes();
}

/// The places of all values.
fn collect(value: &Value, at: String, to: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                collect(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), to);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                collect(value, format!("{at}/{i}"), to);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    if !at.is_empty() {
        to.push(at);
    }
}

/// Another value for this one.
fn strange(value: &Value, chance: &mut Chance) -> Value {
    const NUMBERS: [i64; 20] =
        [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 64, 255, 256, 65_535, -1, 1 << 20, 1 << 31, 1 << 40, i64::MAX];
    let way = chance.below(8);
    match (way, value) {
        (0, _) => Value::Null,
        (1, _) => json!("llama3"),
        (2, _) => json!([]),
        (3, _) => json!({}),
        (4, _) => json!([0.0, -1.0, 1e30, 1e-30, 0.5][chance.below(5)]),
        (5, Value::Number(n)) if n.is_u64() => json!(n.as_u64().unwrap_or(0).wrapping_add(1)),
        (6, Value::Number(n)) if n.is_u64() => json!(n.as_u64().unwrap_or(0) / 2),
        (_, Value::Bool(truth)) => json!(!truth),
        _ => json!(NUMBERS[chance.below(NUMBERS.len())]),
    }
}

/// Changes a value of a safetensors header, and keeps its length true.
fn change_header(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let Some(length) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b) as usize) else { return };
    let Some(header) = bytes.get(8..8_usize.saturating_add(length)) else { return };
    let mut header = header.to_vec();
    change_json(&mut header, chance);
    let data = bytes.split_off(8 + length);
    *bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
}

/// Flips, sets, inserts, removes or repeats some bytes, or cuts the end off.
fn change_bytes(bytes: &mut Vec<u8>, chance: &mut Chance) {
    if bytes.is_empty() {
        return;
    }
    let reach = if chance.below(4) > 0 { bytes.len().min(HEADER_BYTES) } else { bytes.len() };
    let at = chance.below(reach);
    match chance.below(7) {
        0 => bytes[at] ^= 1 << chance.below(8),
        1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)],
        2 => {
            let number = [0_u64, 1, 255, 1 << 16, 1 << 31, 1 << 32, 1 << 62, u64::MAX][chance.below(8)];
            let end = (at + 8).min(bytes.len());
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        3 => bytes.truncate(at),
        4 => {
            let end = (at + 1 + chance.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        5 => {
            let end = (at + 1 + chance.below(64)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        _ => {
            let end = (at + 4).min(bytes.len());
            bytes[at..end].fill(0xff);
        }
    }
}

/// Writes a case and says what to open.
fn write(folder: &Path, seed: &Seed, files: &[(String, Vec<u8>)]) -> PathBuf {
    // A file that is mapped must not change, so every case has new ones.
    let folder = folder.join("case");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    if seed.files.len() == 1 { folder.join(&seed.files[0].0) } else { folder }
}

/// Chance from a seed (splitmix64: Steele, Lea and Flood 2014).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// A number below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }
}

/// Lets a request for more memory than the limit fail, which ends the process and so the test.
fn limit_memory() {
    let limit = rustix::process::Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
}

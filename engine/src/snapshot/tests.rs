//! What comes back from disk is what would be computed, whatever happened to the disk.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use expect_test::expect;
use sha2::{Digest, Sha256};

use super::{Secret, Slot, Snapshots};
use crate::testing::{TinyModel, checkpoints};
use crate::{Engine, KvKind, Options, Speculate, Timeline, Token};

/// More than any test writes.
const PLENTY: u64 = 1 << 30;

fn open(model: &Path, kv: KvKind, snapshots: Option<&Snapshots>) -> Engine {
    let kv_bytes = snapshots.is_none().then_some(0);
    let snapshots = snapshots.cloned();
    let speculate = Speculate::Off;
    let options =
        Options { threads: 2, kv, kv_bytes, snapshots, speculate, tokens_only: true, ..Options::default() };
    Engine::open(model, options, &mut |_| {}).unwrap()
}

/// Chance that is the same in every run.
fn text(seed: u64, tokens: usize) -> Vec<Token> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % 120) as Token
    };
    std::iter::repeat_with(next).take(tokens).collect()
}

/// Opens a folder of snapshots as soon as the engines are gone that had it open: they end in threads of their own.
fn open_folder(folder: &Path, bytes_max: u64) -> Snapshots {
    for _ in 0..1000 {
        match Snapshots::open(folder, bytes_max) {
            Err(error) if error.to_string().contains("another process") => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
    panic!("the folder is never let go of");
}

/// A small model, a folder for snapshots, and what the model says without them.
struct Place {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Place {
    fn new(architecture: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny.gguf");
        TinyModel::new(architecture).write(&model);
        Place { folder, model }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("snapshots")
    }

    fn open(&self, bytes_max: u64) -> (Snapshots, Engine) {
        let snapshots = open_folder(&self.dir(), bytes_max);
        let engine = open(&self.model, KvKind::F16, Some(&snapshots));
        (snapshots, engine)
    }

    /// How many tokens of a line are found after a restart. What it then says is held against what would be computed.
    async fn found(&self, tokens: &[Token]) -> usize {
        let (_snapshots, engine) = self.open(PLENTY);
        let plain = open(&self.model, KvKind::F16, None);
        let (found, logits) = says(&mut engine.timeline(), tokens).await;
        assert_eq!(logits, says(&mut plain.timeline(), tokens).await.1);
        assert_eq!(engine.kv_held().restored_tokens, found as u64);
        found
    }

    /// All files of lines and pages.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.dir().join("data"), self.dir().join("lines"), self.dir().join("tmp")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }

    fn bytes(&self) -> u64 {
        self.files().iter().map(|path| path.metadata().unwrap().len()).sum()
    }
}

async fn says(line: &mut Timeline, tokens: &[Token]) -> (usize, Vec<u32>) {
    let synced = line.sync(tokens, |_| {}).await.unwrap();
    assert_eq!(synced.cached + synced.computed, tokens.len());
    (synced.cached, line.logits().await.unwrap().into_iter().map(f32::to_bits).collect())
}

/// Computes a line and has it written.
async fn keep(engine: &Engine, slot: &Slot, tokens: &[Token]) -> bool {
    let mut line = engine.timeline();
    says(&mut line, tokens).await;
    line.snapshot(slot).unwrap().is_kept().await
}

#[tokio::test]
async fn a_line_goes_on_after_a_restart_with_the_same_numbers() {
    let secret = Secret::new([5; 32]);
    for model in checkpoints() {
        let name = model.file_name().unwrap().to_string_lossy().into_owned();
        let states = ["qwen3_next", "qwen3_5_moe", "deepseek_v4", "deepseek_v41"].contains(&name.as_str());
        for kv in [KvKind::F16, KvKind::Q8] {
            let folder = tempfile::tempdir().unwrap();
            let said = text(3, 700);
            let longer = [&said[..], &text(4, 30)].concat();
            let shorter = [&said[..600], &text(5, 30)].concat();
            let line = |engine: &Engine| engine.timeline_under(&secret).unwrap();
            {
                let snapshots = open_folder(folder.path(), PLENTY);
                let engine = open(&model, kv, Some(&snapshots));
                let mut line = line(&engine);
                says(&mut line, &said).await;
                assert!(line.snapshot(&snapshots.slot("s-1")).unwrap().is_kept().await);
            }
            let snapshots = open_folder(folder.path(), PLENTY);
            let (engine, plain) = (open(&model, kv, Some(&snapshots)), open(&model, kv, None));
            let (found, logits) = says(&mut line(&engine), &longer).await;
            assert_eq!((found, engine.kv_held().restored_tokens), (700, 700), "{name} {kv:?}");
            assert_eq!(logits, says(&mut plain.timeline(), &longer).await.1, "{name} {kv:?}");
            // What parts from it before its end goes on from the last page they share, if that has states or needs none.
            let (found, logits) = says(&mut line(&engine), &shorter).await;
            assert!(found == 600 || states && found <= 512, "{name} {kv:?} {found}");
            assert_eq!(logits, says(&mut plain.timeline(), &shorter).await.1, "{name} {kv:?}");
            assert_eq!(
                says(&mut engine.timeline(), &longer).await.0,
                0,
                "without the secret there is nothing"
            );
        }
    }
}

#[tokio::test]
async fn files_take_hardly_more_than_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["qwen2", "qwen3_5_moe", "deepseek_v4"] {
        let model = checkpoints().into_iter().find(|model| model.ends_with(name)).unwrap();
        let snapshots = Snapshots::open(&folder.path().join(name), PLENTY).unwrap();
        let engine = open(&model, KvKind::F16, Some(&snapshots));
        assert!(keep(&engine, &snapshots.slot("s"), &text(1, 1000)).await);
        // The line is closed, so this is all it kept, with the states that it could be cut back to.
        engine.timeline().sync(&text(2, 1), |_| {}).await.unwrap();
        let (kept, files) = (engine.kv_held().held_bytes, snapshots.held().held_bytes);
        assert!(files as f64 <= 1.05 * kept as f64, "{name}: {files} bytes of files for {kept}");
    }
}

#[tokio::test]
async fn what_is_damaged_is_computed_again() {
    let place = Place::new("qwen2");
    let said = text(1, 700);
    let longer = [&said[..], &[1, 2]].concat();
    let write = async || {
        let (snapshots, engine) = place.open(PLENTY);
        assert!(keep(&engine, &snapshots.slot("s"), &said).await);
    };
    write().await;
    let files = place.files();
    assert_eq!(files.len(), 4, "two pages, the line's end and its manifest");
    for path in &files {
        let whole = std::fs::read(path).unwrap();
        let len = whole.len();
        let damages: [(&str, Vec<u8>); 6] = [
            ("a flipped bit in its head", flipped(&whole, 10)),
            ("a flipped bit in its body", flipped(&whole, len / 2)),
            ("a flipped bit in its last byte", flipped(&whole, len - 1)),
            ("cut", whole[..len / 2].to_vec()),
            ("empty", Vec::new()),
            ("another file", std::fs::read(files.iter().find(|other| *other != path).unwrap()).unwrap()),
        ];
        for (what, bytes) in damages {
            std::fs::write(path, bytes).unwrap();
            let found = place.found(&longer).await;
            assert!(found < 700, "{what}: {}", path.display());
            assert!(std::fs::read(path).map_or(true, |left| left == whole), "{what}: it is gone");
            // And it is written again like any other.
            write().await;
            assert_eq!(place.found(&longer).await, 700, "{what}");
        }
        std::fs::remove_file(path).unwrap();
        assert!(place.found(&longer).await < 700);
        write().await;
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 4;
    bytes
}

#[tokio::test]
async fn what_was_computed_otherwise_is_not_found() {
    let place = Place::new("qwen2");
    let said = text(1, 700);
    let (snapshots, engine) = place.open(PLENTY);
    assert!(keep(&engine, &snapshots.slot("s"), &said).await);
    drop(engine);
    let found =
        async |model: &Path, kv| says(&mut open(model, kv, Some(&snapshots)).timeline(), &said).await.0;
    assert_eq!(found(&place.model, KvKind::F16).await, 699);
    assert_eq!(found(&place.model, KvKind::Q8).await, 0, "another kind of numbers");
    let other = place.folder.path().join("other.gguf");
    TinyModel { seed: 2, ..TinyModel::new("qwen2") }.write(&other);
    assert_eq!(found(&other, KvKind::F16).await, 0, "another model of the same form");
    assert_eq!(snapshots.held().refused, 0, "none of them is even opened");
    TinyModel { seed: 2, ..TinyModel::new("qwen2") }.write(&place.model);
    assert_eq!(found(&place.model, KvKind::F16).await, 0, "another model under the same name");
}

#[tokio::test]
async fn a_session_that_grows_writes_what_is_new() {
    let place = Place::new("qwen2");
    let (snapshots, engine) = place.open(PLENTY);
    let (said, slot) = (text(1, 960), snapshots.slot("s"));
    let mut line = engine.timeline();
    for step in 1..=30 {
        line.sync(&said[..32 * step], |_| {}).await.unwrap();
        assert!(line.snapshot(&slot).unwrap().is_kept().await);
        assert_eq!(snapshots.held().held_bytes, place.bytes());
    }
    let held = snapshots.held();
    // Each step writes the line's end, which is half a page on average; the pages are written once.
    assert_eq!(held.lines, 1);
    assert!(held.written_bytes < 5 * held.held_bytes, "{held:?}");
    // Another line that begins the same writes only what is its own.
    let other = [&said[..800], &text(2, 60)].concat();
    assert!(keep(&engine, &snapshots.slot("other"), &other).await);
    let more = snapshots.held().written_bytes - held.written_bytes;
    assert!(more < held.held_bytes / 8, "{more}");
    drop((line, slot, engine, snapshots));
    assert_eq!(place.found(&other).await, 859);
}

#[tokio::test]
async fn there_is_never_more_on_disk_than_there_may_be() {
    let place = Place::new("qwen2");
    let (snapshots, engine) = place.open(PLENTY);
    let lines: Vec<Vec<Token>> = (0..5).map(|seed| text(seed, 513)).collect();
    assert!(keep(&engine, &snapshots.slot("0"), &lines[0]).await);
    let one = snapshots.held().held_bytes;
    drop((engine, snapshots));
    let (snapshots, engine) = place.open(3 * one);
    for (i, line) in lines.iter().enumerate() {
        assert!(keep(&engine, &snapshots.slot(&i.to_string()), line).await);
        assert!(place.bytes() <= 3 * one && place.bytes() == snapshots.held().held_bytes);
        if i > 0 {
            // The first is used all the time.
            assert!(keep(&engine, &snapshots.slot("0"), &lines[0]).await);
        }
    }
    let asked = text(9, 1000);
    let held = snapshots.held();
    assert_eq!(held.lines, 3);
    // One that is longer than all there may be takes nothing from the others.
    let (wide, narrow) = (2 * one, Place::new("qwen2"));
    drop((engine, snapshots));
    assert_eq!(place.found(&lines[0]).await, 512);
    assert_eq!(place.found(&lines[4]).await, 512);
    assert_eq!(place.found(&lines[1]).await, 0);
    let (snapshots, engine) = narrow.open(wide - one / 2);
    assert!(keep(&engine, &snapshots.slot("short"), &lines[0]).await);
    assert!(!keep(&engine, &snapshots.slot("long"), &asked).await);
    assert_eq!(snapshots.held().lines, 1);
    drop((engine, snapshots));
    // Less than there was before: what is too much goes at the start.
    let (snapshots, _engine) = place.open(2 * one);
    assert_eq!((snapshots.held().lines, snapshots.held().held_bytes), (2, place.bytes()));
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_what_others_share_stays() {
    let place = Place::new("qwen2");
    let (snapshots, engine) = place.open(PLENTY);
    let (a, b) = (text(1, 700), [&text(1, 512)[..], &text(2, 100)].concat());
    assert!(keep(&engine, &snapshots.slot("a"), &a).await);
    assert!(keep(&engine, &snapshots.slot("b"), &b).await);
    snapshots.delete("a");
    snapshots.delete("nobody");
    assert_eq!(place.files().len(), 4, "the pages both have, and the end of b");
    // What is on its way when its line is deleted never arrives, and a new line may have the name.
    let mut line = engine.timeline();
    says(&mut line, &a).await;
    let slot = snapshots.slot("a");
    let late: Vec<_> = (0..20).map(|_| line.snapshot(&slot).unwrap()).collect();
    snapshots.delete("a");
    says(&mut line, &a).await;
    for written in late {
        written.is_kept().await;
    }
    snapshots.settle();
    assert_eq!(place.files().len(), 4);
    assert!(keep(&engine, &snapshots.slot("a"), &a).await);
    drop((line, slot, engine, snapshots));
    let found = place.found(&b).await;
    assert_eq!(found, 611, "all but the last token of b");
    assert_eq!(place.found(&a).await, 699);
}

#[tokio::test]
async fn a_crash_at_any_moment_costs_at_most_the_snapshot() {
    let place = Place::new("qwen35moe");
    let (before, after) = (text(1, 600), text(1, 900));
    {
        let (snapshots, engine) = place.open(PLENTY);
        assert!(keep(&engine, &snapshots.slot("s"), &before).await);
    }
    let start = place.folder.path().join("start");
    copy(&place.dir(), &start);
    let mut outcomes = std::collections::BTreeSet::new();
    for effects in 0.. {
        std::fs::remove_dir_all(place.dir()).unwrap();
        copy(&start, &place.dir());
        let done = {
            let (snapshots, engine) = place.open(PLENTY);
            snapshots.inner.store.files.power.store(effects, Ordering::Relaxed);
            let kept = keep(&engine, &snapshots.slot("s"), &after).await;
            snapshots.settle();
            kept && snapshots.inner.store.files.power.load(Ordering::Relaxed) > 0
        };
        // Started again, it is clean, and the line goes on from either snapshot.
        let (snapshots, _engine) = place.open(PLENTY);
        assert_eq!(
            snapshots.held().held_bytes,
            place.bytes(),
            "after {effects} effects nothing is left over"
        );
        assert_eq!((snapshots.held().lines, snapshots.held().refused), (1, 0), "after {effects} effects");
        drop((snapshots, _engine));
        let found = place.found(&[&after[..], &[7]].concat()).await;
        assert!(found == 600 || found == 900, "after {effects} effects {found} tokens are found");
        outcomes.insert(found);
        if done {
            assert!(effects > 10);
            break;
        }
    }
    assert_eq!(outcomes.len(), 2);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { std::fs::copy(&path, &target).map(drop).unwrap() }
    }
}

#[tokio::test]
async fn only_this_user_and_this_process_can_use_the_folder() {
    let place = Place::new("qwen2");
    let (snapshots, engine) = place.open(PLENTY);
    assert!(keep(&engine, &snapshots.slot("s"), &text(1, 300)).await);
    for path in place.files() {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        let folder = path.parent().unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
    }
    let error = Snapshots::open(&place.dir(), PLENTY).unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
    drop((engine, snapshots));
    open_folder(&place.dir(), PLENTY);
}

#[tokio::test]
async fn what_is_sealed_says_nothing_and_opens_with_its_key_only() {
    let place = Place::new("qwen2");
    let said = text(1, 300);
    let (snapshots, engine) = place.open(PLENTY);
    let (ours, theirs) = (Secret::new([1; 32]), Secret::new([2; 32]));
    let mut line = engine.timeline_under(&ours).unwrap();
    says(&mut line, &said).await;
    assert!(line.snapshot(&snapshots.slot("sealed")).unwrap().is_kept().await);
    assert!(keep(&engine, &snapshots.slot("open"), &said).await);
    let files: Vec<Vec<u8>> = place.files().iter().map(|path| std::fs::read(path).unwrap()).collect();
    let open: Vec<&Vec<u8>> = files.iter().filter(|file| file[5] != 3 && file[6] == 0).collect();
    let sealed: Vec<&Vec<u8>> = files.iter().filter(|file| file[6] == 1).collect();
    assert_eq!((open.len(), sealed.len()), (2, 2));
    for file in sealed {
        assert!(!open.iter().any(|open| open[8..40] == file[8..40] || open[100..140] == file[100..140]));
    }
    drop((line, engine));
    let engine = open_again(&place, &snapshots);
    assert_eq!(says(&mut engine.timeline_under(&theirs).unwrap(), &said).await.0, 0);
    assert_eq!(says(&mut engine.timeline_under(&ours).unwrap(), &said).await.0, 299);
}

fn open_again(place: &Place, snapshots: &Snapshots) -> Engine {
    open(&place.model, KvKind::F16, Some(snapshots))
}

#[tokio::test]
async fn the_numbers_on_disk_are_those_of_this_edition() {
    // Should this fail because numbers lie otherwise or are computed otherwise, raise `cache::EDITION`, so that nobody goes
    // on from what an older program has left, and then put the new hash here.
    let mut hashes = String::new();
    for (name, kv) in [("qwen2", KvKind::F16), ("qwen3_5_moe", KvKind::Q8), ("deepseek_v4", KvKind::F16)] {
        let model = checkpoints().into_iter().find(|model| model.ends_with(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder, model };
        let snapshots = Snapshots::open(&place.dir(), PLENTY).unwrap();
        let engine = open(&place.model, kv, Some(&snapshots));
        assert!(keep(&engine, &snapshots.slot("s"), &text(1, 300)).await);
        // The names depend on when the checkpoint was written to this disk, so only the bodies count.
        let bodies = place.files().into_iter().filter(|path| path.extension().is_some_and(|e| e != "line"));
        let bodies = bodies.map(|path| std::fs::read(path).unwrap()[76..].to_vec());
        let mut bodies: Vec<[u8; 32]> =
            bodies.map(|body| Sha256::digest(&body[..body.len() - 4]).into()).collect();
        bodies.sort();
        let all = Sha256::digest(bodies.concat());
        hashes.push_str(&format!("{name} {kv:?} {:02x}{:02x}{:02x}{:02x}\n", all[0], all[1], all[2], all[3]));
    }
    expect![[r#"
        qwen2 F16 b07da15b
        qwen3_5_moe Q8 83f62bd1
        deepseek_v4 F16 0ab104f4
    "#]]
    .assert_eq(&hashes);
}

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::quantized::GgmlDType;

use super::*;
use crate::testing::TinyModel;
use crate::weights::Kind;
use crate::{Engine, KvKind, Options, Sampling, Token};

/// Bytes of one expert in `place`: two matrices.
const BYTES: usize = 2 * ROWS * COLUMNS * 4;
const ROWS: usize = 4;
const COLUMNS: usize = 8;

/// A number that says which expert and which of its numbers it is.
fn number(expert: usize, i: usize) -> f32 {
    (expert * 1000 + i) as f32
}

/// A file with this many experts, something before them and between their two matrices.
fn file(experts: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for half in 0..2 {
        file.write_all(&[0xaa; 20]).unwrap();
        for expert in 0..experts {
            for i in 0..ROWS * COLUMNS {
                file.write_all(&number(expert, half * ROWS * COLUMNS + i).to_le_bytes()).unwrap();
            }
        }
    }
    file.flush().unwrap();
    file
}

/// A place for the experts of a file, which are read from `read`.
fn builder(file: &tempfile::NamedTempFile, read: File, experts: usize) -> Builder {
    // SAFETY: nobody shortens the file.
    // WHY: what is to be tested begins with a map.
    let map = Arc::new(unsafe { Mmap::map(file.as_file()) }.unwrap());
    let mut builder = Builder::new(vec![(Arc::clone(&map), Arc::new(read))]);
    let half = experts * BYTES / 2;
    let matrix = |start| Matrix::new(map.clone(), start, ROWS, COLUMNS, Kind::F32);
    let matrices = |e: usize| vec![matrix(20 + e * BYTES / 2), matrix(40 + half + e * BYTES / 2)];
    assert_eq!(builder.add((0..experts).map(matrices).collect()), 0);
    builder
}

/// A place with room for this many of a file's experts.
fn place(file: &tempfile::NamedTempFile, experts: usize, room: usize) -> Place {
    builder(file, file.reopen().unwrap(), experts).build((room * BYTES + 5) as u64).unwrap()
}

fn check(id: usize, expert: &Expert) {
    let mut found = vec![0.0; 2 * ROWS * COLUMNS];
    for (matrix, to) in expert.matrices().iter().zip(found.chunks_exact_mut(ROWS * COLUMNS)) {
        matrix.dequantise(0..ROWS, to);
    }
    let expected: Vec<f32> = (0..2 * ROWS * COLUMNS).map(|i| number(id, i)).collect();
    assert_eq!(found, expected, "expert {id}");
}

/// Visits some experts, and looks at each.
fn visit(place: &Place, wanted: &[usize]) {
    let mut visit = place.visit(wanted.to_vec());
    let mut seen = Vec::new();
    while let Some(here) = visit.next() {
        for (id, expert) in here {
            check(id, &expert);
            seen.push(id);
        }
        let counts = place.counts();
        assert!(counts.held_bytes <= counts.budget_bytes, "{counts:?}");
    }
    seen.sort_unstable();
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    assert_eq!(seen, wanted);
    let counts = place.counts();
    assert!(counts.peak_bytes <= counts.budget_bytes, "{counts:?}");
}

/// Waits until something is so.
fn until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(30), "it does not come to be");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn many_experts_pass_through_a_small_place() {
    let file = file(40);
    for room in [1, 2, 3, 7, 40] {
        let place = place(&file, 40, room);
        let mut state = 1_usize;
        for step in 0..200 {
            let wanted: Vec<usize> = (0..step % 11 + 1)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) % 40
                })
                .collect();
            visit(&place, &wanted);
            // A guess that is half right and half wrong, now and then.
            if step % 3 == 0 {
                place.expect(&[wanted[0], (wanted[0] + 7) % 40]);
            }
        }
        let counts = place.counts();
        assert_eq!(counts.stored_bytes, 40 * BYTES as u64);
        assert_eq!(counts.budget_bytes, (room * BYTES + 5) as u64);
        if room == 40 {
            assert!(counts.read_bytes <= 40 * BYTES as u64, "what is kept is read once: {counts:?}");
        }
    }
}

#[test]
fn the_expert_that_was_used_longest_ago_goes_first() {
    let file = file(10);
    let place = place(&file, 10, 3);
    let hits = |wanted| {
        let before = place.counts().hits;
        visit(&place, &[wanted]);
        place.counts().hits - before
    };
    let found = [0, 1, 2, 0, 3, 0, 2, 1, 3].map(hits);
    // 3 drives out 1; then 1 drives out 3, which was used before 0 and 2.
    assert_eq!(found, [0, 0, 0, 1, 0, 1, 1, 0, 0]);
}

#[test]
fn an_expert_that_somebody_holds_stays() {
    let file = file(10);
    let place = place(&file, 10, 2);
    let mut first = place.visit(vec![4]);
    let (id, held) = first.next().unwrap().remove(0);
    for other in [5, 6, 7, 8] {
        visit(&place, &[other]);
        check(id, &held);
    }
    let before = place.counts().hits;
    visit(&place, &[4]);
    assert_eq!(place.counts().hits, before + 1, "it was not driven out");
    // With both rooms lent, a third expert comes from the map.
    let mut second = place.visit(vec![1]);
    let (_, other) = second.next().unwrap().remove(0);
    visit(&place, &[2, 3]);
    check(id, &held);
    check(1, &other);
}

#[test]
fn experts_that_were_expected_are_there() {
    let file = file(10);
    let place = place(&file, 10, 4);
    place.expect(&[7, 2]);
    until(|| place.counts().ahead == 2);
    visit(&place, &[2, 7]);
    assert_eq!((place.counts().hits, place.counts().misses), (2, 0));
}

#[test]
fn what_is_expected_never_drives_out_what_is_needed() {
    let file = file(10);
    let place = place(&file, 10, 4);
    visit(&place, &[0, 1, 2, 3]);
    let before = place.counts().ahead;
    let mut now = place.visit(vec![0, 1, 2]);
    place.expect(&[5, 6, 7, 8]);
    until(|| place.counts().ahead == before + 1);
    // One took the room of the expert that nobody needs; the others wait.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(place.counts().ahead, before + 1);
    while let Some(here) = now.next() {
        here.iter().for_each(|(id, expert)| check(*id, expert));
    }
    assert_eq!((place.counts().hits, place.counts().misses), (3, 4));
    until(|| place.counts().ahead == before + 4);
}

#[test]
fn a_budget_that_holds_no_expert_is_refused() {
    let file = file(3);
    let why = builder(&file, file.reopen().unwrap(), 3).build(BYTES as u64 - 1).err().unwrap().to_string();
    assert!(why.contains("takes 256"), "{why}");
}

#[test]
fn an_expert_that_cannot_be_read_comes_from_the_map() {
    let file = file(4);
    let place = builder(&file, tempfile::tempfile().unwrap(), 4).build(2 * BYTES as u64).unwrap();
    visit(&place, &[0, 1, 2, 3]);
    until(|| place.counts().held_bytes == 0);
    assert_eq!(place.counts().read_bytes, 0);
}

/// What a model says of a prompt and then of what it goes on with, to the bit.
async fn says(engine: &Engine) -> Vec<Vec<u32>> {
    let ids: Vec<Token> = (0..300).map(|i| (i * i * 31 + i * 7) % engine.model().vocabulary as u32).collect();
    let mut line = engine.timeline();
    let mut said = Vec::new();
    line.sync(&ids, |_| {}).await.unwrap();
    for _ in 0..10 {
        said.push(line.logits().await.unwrap().into_iter().map(f32::to_bits).collect());
        line.next(&Sampling::default(), None).await.unwrap();
    }
    said
}

fn open(path: &Path, expert_bytes: Option<u64>) -> Result<Engine, Error> {
    let options =
        Options { threads: 2, expert_bytes, kv: KvKind::F32, kv_bytes: Some(0), ..Options::default() };
    Engine::open(path, options, &mut |_| {})
}

/// Holds a model without a budget against itself with a quarter of what its experts take.
async fn judge(path: &Path) {
    let (all, name) = (open(path, None).unwrap(), path.display());
    assert_eq!(all.experts_held(), None);
    let expected = says(&all).await;
    let placed = open(path, Some(u64::MAX)).unwrap();
    let stored = placed.experts_held().map_or(0, |held| held.stored_bytes);
    if stored == 0 {
        println!("{name}: no experts on disk");
        return;
    }
    assert!(says(&placed).await == expected, "{name}: other logits with room for all");
    let held = placed.experts_held().unwrap();
    assert!(held.read_bytes <= stored, "{name}: what is kept is read once: {held:?}");

    let placed = open(path, Some(stored / 4)).unwrap();
    assert!(says(&placed).await == expected, "{name}: other logits with room for a quarter");
    let held = placed.experts_held().unwrap();
    println!("{name}: {held:?}");
    assert!(held.peak_bytes <= stored / 4 && held.held_bytes <= held.peak_bytes, "{name}: {held:?}");
    assert!(held.peak_bytes > stored / 8, "{name}: the budget is used: {held:?}");
    assert!(held.hits > 0 && held.misses > 0 && held.read_bytes > stored, "{name}: {held:?}");
    assert_eq!(all.expert_uses().await.unwrap(), placed.expert_uses().await.unwrap());
}

#[tokio::test]
async fn a_model_four_times_its_budget_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let moe = TinyModel { experts: 16, layers: 4, hidden: 64, ..TinyModel::new("llama") };
    for dtype in [GgmlDType::Q8_0, GgmlDType::F16] {
        TinyModel { dtype, ..moe.clone() }.write(&path);
        judge(&path).await;
    }
    TinyModel { dtype: GgmlDType::Q4K, width: 256, hidden: 256, ..moe }.write(&path);
    judge(&path).await;
}

#[tokio::test]
async fn experts_of_a_folder_may_stay_on_disk_as_well() {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    for name in ["qwen3_moe", "olmoe", "mixtral", "glm4_moe", "minimax_m2", "gpt_oss"] {
        judge(&models.join(name)).await;
    }
}

#[tokio::test]
async fn experts_on_disk_are_not_read_when_a_model_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel { experts: 4, ..TinyModel::new("llama") }.write(&path);
    let mut read = 0;
    let mut on = |progress| {
        if let crate::Progress::Loading { done_bytes, total_bytes } = progress {
            assert!(done_bytes <= total_bytes);
            read = done_bytes;
        }
    };
    let options = Options { expert_bytes: Some(1 << 20), ..Options::default() };
    let engine = Engine::open(&path, options, &mut on).unwrap();
    let held = engine.experts_held().unwrap();
    assert!(held.stored_bytes > 500_000);
    // All weights but the experts', which are all of the file but its header.
    let others = engine.model().file_bytes - held.stored_bytes;
    assert!((others - 10_000..others).contains(&read), "{read} of {others}");
    assert_eq!(held.read_bytes, 0);
    // Too little is refused, and a model without experts needs none.
    assert!(matches!(open(&path, Some(1000)).err(), Some(Error::Option(_))));
    TinyModel::new("llama").write(&path);
    assert_eq!(open(&path, Some(0)).unwrap().experts_held(), None);
}

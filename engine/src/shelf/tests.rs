//! What a line finds of others is what it would have computed: engines that keep what lines computed and that do not,
//! side by side.

use std::path::{Path, PathBuf};

use crate::testing::{TinyModel, checkpoints};
use crate::{Engine, KvKind, Options, Sampling, Speculate, Timeline, Token};

fn open(model: &Path, kv: KvKind, kv_bytes: Option<u64>) -> Engine {
    let speculate = Speculate::Off;
    let options = Options { threads: 2, kv, kv_bytes, speculate, tokens_only: true, ..Options::default() };
    Engine::open(model, options, &mut |_| {}).unwrap()
}

fn tiny(architecture: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::new(architecture).write(&path);
    (folder, path)
}

/// Chance that is the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn text(&mut self, tokens: usize) -> Vec<Token> {
        (0..tokens).map(|_| self.below(120) as Token).collect()
    }
}

async fn says(line: &mut Timeline, tokens: &[Token]) -> (usize, Vec<u32>) {
    let synced = line.sync(tokens, |_| {}).await.unwrap();
    assert_eq!(synced.cached + synced.computed, tokens.len());
    (synced.cached, line.logits().await.unwrap().into_iter().map(f32::to_bits).collect())
}

#[tokio::test]
async fn a_line_that_begins_as_another_goes_on_from_there_with_the_same_numbers() {
    for model in checkpoints() {
        let name = model.file_name().unwrap().to_string_lossy().into_owned();
        let states = ["qwen3_next", "qwen3_5_moe", "deepseek_v4", "deepseek_v41"].contains(&name.as_str());
        for kv in [KvKind::F16, KvKind::Q8] {
            let (keeps, plain) = (open(&model, kv, None), open(&model, kv, Some(0)));
            let mut chance = Chance(3);
            let text = chance.text(700);
            let mut first = keeps.timeline();
            says(&mut first, &text).await;
            // Of the line that is at work: what parts from it in a page, and at the edge of one.
            for common in [600, 512] {
                let other: Vec<Token> = text[..common].iter().copied().chain(chance.text(90)).collect();
                let (found, logits) = says(&mut keeps.timeline(), &other).await;
                let expected = if states { 512 } else { common.min(512) };
                assert_eq!(found, expected, "{name} {kv:?} {common}");
                let (none, same) = says(&mut plain.timeline(), &other).await;
                assert!(none == 0 && logits == same, "{name} {kv:?} {common}");
            }
            drop(first);
            // Of the one that was closed: all of it, or all but the token whose logits are wanted.
            let longer: Vec<Token> = text.iter().copied().chain(chance.text(10)).collect();
            let edge = text[..512].to_vec();
            let all_but_one = if states { (512, 256) } else { (699, 511) };
            for (tokens, expected) in [(&longer, 700), (&text, all_but_one.0), (&edge, all_but_one.1)] {
                let (found, logits) = says(&mut keeps.timeline(), tokens).await;
                assert_eq!(found, expected, "{name} {kv:?}");
                assert_eq!(logits, says(&mut plain.timeline(), tokens).await.1, "{name} {kv:?}");
            }
            assert!(keeps.kv_held().held_bytes > 0 && plain.kv_held().held_bytes == 0);
        }
    }
}

/// Does the same at random to lines of an engine that keeps what was computed and of one that does not.
async fn compare(keeps: &Engine, plain: &Engine, seed: u64) {
    let mut chance = Chance(seed);
    let texts: Vec<Vec<Token>> = (0..3).map(|_| chance.text(900)).collect();
    let mut lines = vec![[keeps.timeline(), plain.timeline()]];
    for step in 0..50 {
        let (i, text) = (chance.below(lines.len()), chance.below(3));
        let what = format!("{} seed {seed} step {step}", keeps.model().architecture);
        match chance.below(10) {
            0..=5 => {
                let length = 1 + chance.below(900);
                let mut tokens = texts[text][..length].to_vec();
                if chance.below(3) == 0 {
                    tokens.extend(chance.text(40));
                }
                let [a, b] = &mut lines[i];
                assert_eq!(says(a, &tokens).await.1, says(b, &tokens).await.1, "{what}");
            }
            6 if lines.len() < 5 => lines.push([keeps.timeline(), plain.timeline()]),
            7 if lines.len() < 5 => {
                let forks = [lines[i][0].fork().await.unwrap(), lines[i][1].fork().await.unwrap()];
                lines.push(forks);
            }
            8 if lines.len() > 1 => drop(lines.swap_remove(i)),
            _ => {
                let [a, b] = &mut lines[i];
                let len = a.tokens().len();
                let keep = len - chance.below(len.min(300) + 1);
                for line in [&mut *a, &mut *b] {
                    line.rewind(keep).await.unwrap();
                }
                for n in 0..chance.below(20) {
                    if keep == 0 {
                        break;
                    }
                    let sampling = Sampling::default();
                    let (ours, expected) = (a.next(&sampling, None).await, b.next(&sampling, None).await);
                    assert_eq!(ours.unwrap(), expected.unwrap(), "{what} token {n}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_said_does_not_depend_on_what_is_kept() {
    // Also with so little room that it is let go of all the time.
    for architecture in ["qwen2", "deepseek2", "qwen35moe"] {
        let (_folder, path) = tiny(architecture);
        let plain = open(&path, KvKind::F16, Some(0));
        for kv_bytes in [None, Some(300_000), Some(1)] {
            let keeps = open(&path, KvKind::F16, kv_bytes);
            for seed in 0..2 {
                compare(&keeps, &plain, seed).await;
            }
            assert!(keeps.kv_held().shared_tokens > 1000 || kv_bytes.is_some(), "{:?}", keeps.kv_held());
        }
    }
}

#[tokio::test]
async fn lines_that_compute_the_same_share_the_work() {
    let (_folder, path) = tiny("qwen2");
    let engine = open(&path, KvKind::F16, None);
    let text = Chance(1).text(900);
    let (mut a, mut b) = (engine.timeline(), engine.timeline());
    let (a, b) = tokio::join!(a.sync(&text, |_| {}), b.sync(&text, |_| {}));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(a.computed + b.computed <= 900 + 256 + 2, "{a:?} {b:?}");
    assert_eq!(a.cached + a.computed + b.cached + b.computed, 1800);
}

#[tokio::test]
async fn what_is_kept_stays_within_its_bytes() {
    let (_folder, path) = tiny("qwen2");
    let engine = open(&path, KvKind::F16, Some(1 << 20));
    for seed in 0..20 {
        says(&mut engine.timeline(), &Chance(seed).text(900)).await;
    }
    let held = engine.kv_held();
    assert!(held.held_bytes <= 1 << 20 && held.held_bytes > 1 << 19, "{held:?}");
    engine.set_kv_bytes(0).unwrap();
    assert_eq!(says(&mut engine.timeline(), &Chance(19).text(900)).await.0, 0);
    assert_eq!(engine.kv_held().held_bytes, 0);
}

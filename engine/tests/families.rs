//! Every family against its reference: tiny checkpoints with the logits that `transformers` gives them (see
//! `tests/reference`), read whole, in pieces and token by token.

#![expect(clippy::unwrap_used, reason = "a checkpoint that cannot be read is a failed test")]

use std::path::{Path, PathBuf};

use engine::{Engine, KvKind, Options, Token, logits};
use safetensors::SafeTensors;

/// How far logits may lie from the reference, which adds in another order.
fn tolerance(name: &str) -> f32 {
    // The reference computes the delta rule in chunks, which rounds differently from token by token.
    if name.starts_with("qwen3_next") || name.starts_with("qwen3_5") { 2e-3 } else { 1e-4 }
}

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("ref.safetensors").is_file())
        .collect();
    found.sort();
    found
}

/// The reference's ids and logits [tokens, vocabulary].
fn reference(folder: &Path) -> (Vec<Token>, Vec<f32>) {
    let bytes = std::fs::read(folder.join("ref.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids = tensors.tensor("input_ids").unwrap();
    let size = ids.data().len() / ids.shape().iter().product::<usize>();
    let ids = ids.data().chunks_exact(size).map(|b| Token::from_le_bytes(b[..4].try_into().unwrap()));
    let logits = tensors.tensor("logits").unwrap();
    (ids.collect(), floats(logits.data()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Our logits, with the ids from `decode_from` on fed one at a time.
async fn ours(engine: &Engine, ids: &[Token], decode_from: Option<usize>) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    logits::write(engine, ids, decode_from, &path, |_| {}).await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    floats(SafeTensors::deserialize(&bytes).unwrap().tensor("logits").unwrap().data())
}

/// The largest difference; infinite where a number is none.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |most, x| if x <= most { most } else { x })
}

/// The distance of a model from the reference in `folder`; the ways to get there must agree to the bit.
async fn judge(model: &Path, folder: &Path) -> Result<f32, engine::Error> {
    let (ids, expected) = reference(folder);
    let options = Options {
        threads: 2,
        context_tokens: Some(ids.len()),
        kv: KvKind::F32,
        // Every way through the model is gone anew.
        kv_bytes: Some(0),
        exact: true,
        // The tiny vocabularies are made up, and some converters make nonsense of them.
        tokens_only: true,
        ..Options::default()
    };
    let engine = Engine::open(model, options, &mut |_| {})?;
    let whole = ours(&engine, &ids, None).await;
    let decoded = ours(&engine, &ids, Some(0)).await;
    assert!(whole == decoded, "{}: decoding gives other logits than reading", folder.display());
    // In pieces: the last position of each, wherever the cuts are.
    let vocabulary = whole.len() / ids.len();
    for step in [7, 64] {
        let mut line = engine.timeline();
        for end in (step..ids.len()).step_by(step).chain([ids.len()]) {
            line.sync(&ids[..end], |_| {}).await?;
            let found = line.logits().await?;
            assert!(found == whole[(end - 1) * vocabulary..end * vocabulary], "{} {step}", folder.display());
        }
    }
    Ok(distance(&whole, &expected))
}

#[tokio::test]
async fn round_trips_are_those_of_the_reference_however_a_line_is_cut() {
    // A number that lies on an edge may go to either side. In this checkpoint none lies so near to one that f32 and f64
    // would part; a kernel that adds in another order may ask for another seed.
    for name in ["deepseek_v4", "deepseek_v41"] {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        let (ids, without) = reference(&folder);
        let options = Options {
            threads: 2,
            kv: KvKind::F32,
            kv_bytes: Some(0),
            round_trips: true,
            ..Options::default()
        };
        let engine = Engine::open(&folder, options, &mut |_| {}).unwrap();
        let whole = ours(&engine, &ids, None).await;
        assert!(whole == ours(&engine, &ids, Some(ids.len() / 3)).await, "{name}");
        assert!(distance(&whole, &without) > 1e-2, "{name}: they make a difference");
        let bytes = std::fs::read(folder.join("ref.safetensors")).unwrap();
        // transformers has none of them, so there is no such reference for V4.
        if let Ok(logits) = SafeTensors::deserialize(&bytes).unwrap().tensor("trip_logits") {
            let expected = floats(logits.data());
            let apart = distance(&whole[whole.len() - expected.len()..], &expected);
            println!("{name:24} {apart:e} with round trips");
            assert!(apart < 1e-4, "{name}: {apart:e}");
        }
    }
}

#[tokio::test]
async fn every_family_agrees_with_its_reference() {
    // What a file of real size would say can only be trusted if the small ones say exactly what they should.
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let mut failures = Vec::new();
    // More checkpoints, such as other seeds and shapes, can be tried without being kept.
    let more = std::env::var_os("SAGA_TEST_CHECKPOINTS").map(PathBuf::from);
    let folders = checkpoints(&own).into_iter().chain(more.iter().flat_map(|more| checkpoints(more)));
    // A GGUF file beside a folder is the same model in its other form.
    let both = folders.flat_map(|folder| {
        let file = folder.with_extension("gguf");
        let models = [Some(folder.clone()), file.is_file().then_some(file)];
        models.into_iter().flatten().map(move |model| (model, folder.clone()))
    });
    for (model, folder) in both {
        let name = model.file_name().unwrap().to_string_lossy().into_owned();
        match judge(&model, &folder).await {
            Ok(distance) => {
                println!("{name:24} {distance:e}");
                if distance > tolerance(&name) {
                    failures.push(format!("{name}: {distance:e}"));
                }
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_example_of_the_readme_is_the_code() {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(manifest.join(path)).unwrap();
    let families = read("src/model/families.rs");
    let code = families.clone() + &read("src/weights/folder/config.rs");
    let readme = read("README.md");
    let blocks: Vec<&str> =
        readme.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 4 && blocks.iter().all(|block| code.contains(block)), "{blocks:?}");
    for family in families.lines().filter_map(|line| line.strip_prefix("    (\"")?.split_once("\", ")) {
        assert!(readme.contains(&format!("`{}`", family.0)), "the table has no `{}`", family.0);
    }
}

//! Predictors against their references, which `tests/reference` computes from the parts of the same checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::cache::{Cache, KvKind};
use crate::kernels::Kernels;
use crate::model::{Model, Part, Scratch, Spec, Want, know};
use crate::testing::TinyModel;
use crate::weights::Source;
use crate::{Error, Token, Tokenizer};

/// The model at `path`, which may be asked about token ids only.
fn open(path: &Path) -> Result<Model, Error> {
    let source = Source::open(path, know)?;
    let mut spec = Spec::read(&source)?;
    spec.take_trips(false).unwrap();
    let tokenizer = Tokenizer::absent(spec.vocabulary);
    Model::load(&source, spec, &tokenizer, 0, Kernels::pick().unwrap())
}

/// What the predictor says of every token but the first two, if the line is computed in pieces of this many tokens.
fn predicted(model: &Model, ids: &[Token], step: usize) -> Vec<f32> {
    let predictor = model.predictor().unwrap();
    let mut cache = Cache::new(Arc::new(model.cache_layout(KvKind::F32)));
    let mut ahead = Cache::new(Arc::new(predictor.cache_layout(KvKind::F32)));
    let (mut scratch, mut shown, mut said) = (Scratch::default(), Vec::new(), Vec::new());
    // The last token has no successor to be shown together with.
    let (ids, following) = (&ids[..ids.len() - 1], &ids[1..]);
    for at in (0..ids.len()).step_by(step) {
        let end = ids.len().min(at + step);
        let part = Part { cache: &mut cache, line: &ids[..end], count: end - at, want: Want::None };
        model.forward(&mut [part], &mut scratch).unwrap();
        model.shown(&scratch, &mut shown);
        said.extend(predictor.forward(&mut ahead, &shown, &following[at..end], Want::All, &mut scratch));
    }
    assert_eq!(ahead.tokens(), ids.len());
    said
}

#[test]
fn a_predictor_says_what_its_reference_says() {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    // More checkpoints can be tried without being kept, and the GGUF files beside them.
    let more = std::env::var_os("SAGA_TEST_CHECKPOINTS").map(PathBuf::from);
    let folders = std::iter::once(own).chain(more).flat_map(|models| std::fs::read_dir(models).unwrap());
    let mut tried = 0;
    let mut failures = Vec::new();
    for folder in folders.map(|entry| entry.unwrap().path()) {
        let Ok(bytes) = std::fs::read(folder.join("ref.safetensors")) else { continue };
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let Ok(expected) = tensors.tensor("mtp_logits") else { continue };
        let expected: Vec<f32> =
            expected.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let ids = tensors.tensor("input_ids").unwrap();
        let ids = ids.data().as_chunks::<8>().0.iter();
        let ids: Vec<Token> = ids.map(|b| Token::try_from(i64::from_le_bytes(*b)).unwrap()).collect();
        for path in [folder.clone(), folder.with_extension("gguf")] {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !path.exists() {
                continue;
            }
            let model = open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            if model.predictor().is_none() && path != folder {
                println!("{name:28} has no predictor");
                continue;
            }
            let whole = predicted(&model, &ids, ids.len());
            for step in [1, 7, 64] {
                assert!(predicted(&model, &ids, step) == whole, "{name} in pieces of {step}");
            }
            let apart = whole.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let apart = apart.fold(0.0, |most, x| if x <= most { most } else { x });
            println!("{name:28} {apart:e}");
            // As for the model itself: the reference computes the delta rule in chunks.
            let most = if name.starts_with("qwen3") { 2e-3 } else { 1e-4 };
            if whole.len() != expected.len() || apart > most {
                failures.push(format!("{name}: {apart:e}"));
            }
            tried += 1;
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(tried >= 5, "of every family with a predictor one checkpoint is kept");
}

/// A copy of a kept checkpoint with some of its tensors under other names, or left out, or with other shapes.
fn changed(name: &str, change: impl Fn(&str, &mut Vec<usize>) -> Option<String>) -> Result<Model, Error> {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.iter().filter_map(|(name, tensor)| {
        let mut shape = tensor.shape().to_vec();
        let name = change(name, &mut shape)?;
        Some((name, TensorView::new(tensor.dtype(), shape, tensor.data()).unwrap()))
    });
    safetensors::serialize_to_file(kept, None, &folder.path().join("model.safetensors")).unwrap();
    open(folder.path())
}

#[test]
fn a_model_whose_predictor_is_not_whole_runs_without_it() {
    // Converters often leave out all of it or a part, and some checkpoints have layers there that guess in other ways.
    let ids: Vec<Token> = (0..40).map(|i| i * 7 % 128).collect();
    let says = |model: &Model| {
        let mut cache = Cache::new(Arc::new(model.cache_layout(KvKind::F32)));
        let part = Part { cache: &mut cache, line: &ids, count: ids.len(), want: Want::All };
        model.forward(&mut [part], &mut Scratch::default()).unwrap().remove(0)
    };
    for (name, parts) in [
        (
            "deepseek_v3",
            &["layers.3.enorm", "layers.3.eh_proj", "layers.3.mlp.experts.5", "layers.3.self_attn."][..],
        ),
        ("deepseek_v4", &["mtp.", "mtp.0.enorm", "mtp.0.h_proj", "mtp.0.attn.wkv", "mtp.0.ffn.gate.weight"]),
        ("glm4_moe", &["layers.3.hnorm", "layers.3.mlp.gate.weight", "layers.3.mlp.shared_experts"]),
        ("qwen3_next", &["mtp.fc", "mtp.layers.0.mlp.experts.5.", "mtp.layers.0.self_attn.q_norm"]),
    ] {
        let whole = changed(name, |name, _| Some(name.to_owned())).unwrap();
        assert!(whole.predictor().is_some(), "{name}");
        for part in parts {
            let keep = |name: &str| (!name.contains(part)).then(|| name.to_owned());
            let model = changed(name, |name, _| keep(name)).unwrap_or_else(|e| panic!("{name} {part}: {e}"));
            assert!(model.predictor().is_none() && model.spec().predictor.is_none(), "{name} {part}");
            assert!(says(&model) == says(&whole), "{name} {part}");
            let other = |name: &str| Some(name.replace(part, &format!("{part}another.")));
            if part.starts_with("mtp.") {
                let model =
                    changed(name, |name, _| other(name)).unwrap_or_else(|e| panic!("{name} {part}: {e}"));
                assert!(model.predictor().is_none(), "{name} {part}");
            }
        }
    }
    // A norm of its own it can do without.
    let keep = |name: &str| (!name.contains("layers.3.shared_head")).then(|| name.to_owned());
    assert!(changed("glm4_moe", |name, _| keep(name)).unwrap().predictor().is_some());
}

#[test]
fn a_predictor_of_wrong_shape_is_refused_by_its_name() {
    for (name, part) in [
        ("glm4_moe", "model.layers.3.eh_proj.weight"),
        ("glm4_moe", "model.layers.3.self_attn.k_proj.weight"),
        ("deepseek_v4", "mtp.0.e_proj.weight"),
        ("deepseek_v4", "mtp.0.attn.wkv.weight"),
        ("qwen3_next", "mtp.fc.weight"),
        ("qwen3_next", "mtp.layers.0.mlp.gate.weight"),
    ] {
        let error = changed(name, |name, shape| {
            if name == part {
                shape.swap(0, 1);
                shape[0] *= 2;
                shape[1] /= 2;
            }
            Some(name.to_owned())
        });
        let error = error.err().unwrap_or_else(|| panic!("{name} {part} is opened")).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_predictor_in_a_file_of_its_own_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<Token> = (0..40).map(|i| i * 7 % 128).collect();
    for architecture in ["deepseek2", "qwen35moe"] {
        let path = |name: &str| folder.path().join(format!("{architecture}-{name}.gguf"));
        let tiny = TinyModel::new(architecture);
        tiny.write(&path("whole"));
        tiny.write_apart(&path("apart"));
        let whole = open(&path("whole")).unwrap();
        let apart = open(&path("apart")).unwrap();
        assert!(predicted(&whole, &ids, 9) == predicted(&apart, &ids, 9), "{architecture}");
        // That of another model is left alone, and so is one that is not needed.
        TinyModel { layers: 3, ..tiny.clone() }.write(&path("other"));
        std::fs::rename(path("other"), folder.path().join(format!("mtp-{architecture}-apart.gguf"))).unwrap();
        assert!(open(&path("apart")).unwrap().predictor().is_none());
        std::fs::copy(path("whole"), folder.path().join(format!("mtp-{architecture}-whole.gguf"))).unwrap();
        let again = open(&path("whole")).unwrap();
        assert!(predicted(&whole, &ids, 9) == predicted(&again, &ids, 9), "{architecture}");
    }
}

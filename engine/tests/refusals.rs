//! Broken checkpoints are refused when they are opened, by what is wrong with them: a model that opens says what its
//! makers meant.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be read is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::{Engine, Options};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A checkpoint that can be changed before it is opened.
struct Checkpoint {
    folder: TempDir,
    config: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Checkpoint {
    /// A copy of a fixture.
    fn of(name: &str) -> Checkpoint {
        let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        let folder = tempfile::tempdir().unwrap();
        if from.join("tokenizer.json").exists() {
            std::fs::copy(from.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
        }
        let config = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = read.tensors().into_iter();
        let tensors = tensors.map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())));
        Checkpoint { folder, config, tensors: tensors.collect() }
    }

    fn tensor(&mut self, name: &str) -> &mut (Dtype, Vec<usize>, Vec<u8>) {
        self.tensors.get_mut(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    /// Puts these bytes into a tensor, `at` bytes from its start.
    fn put(&mut self, name: &str, at: usize, bytes: &[u8]) {
        self.tensor(name).2[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn write(&self) -> &Path {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let path = self.folder.path();
        std::fs::write(path.join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
        std::fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        path
    }

    /// What opening it says, which must name all of these.
    fn refused(&self, names: &[&str]) {
        let error = refusal(self.write());
        println!("{error}");
        assert!(names.iter().all(|name| error.contains(name)), "{error}");
    }
}

fn refusal(path: &Path) -> String {
    match Engine::open(path, Options { threads: 1, ..Options::default() }, &mut |_| {}) {
        Ok(_) => panic!("a broken checkpoint was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_fixtures_open_when_nothing_is_changed() {
    for name in ["qwen3_moe", "deepseek_v3", "deepseek_v4", "deepseek_v41", "gpt_oss", "olmoe"] {
        Engine::open(Checkpoint::of(name).write(), Options::default(), &mut |_| {}).unwrap();
    }
}

#[test]
fn a_tensor_that_is_missing_is_named() {
    for (model, tensor, name) in [
        ("qwen3_moe", "model.layers.1.self_attn.k_norm.weight", "blk.1.attn_k_norm.weight"),
        ("olmoe", "model.layers.0.mlp.experts.3.down_proj.weight", "blk.0.ffn_down_exps.weight"),
        ("deepseek_v4", "layers.2.attn.indexer.wq_b.weight", "blk.2.indexer"),
        ("deepseek_v41", "layers.0.attn.wkv.weight", "layers.0.attn.wkv.scale"),
        ("deepseek_v41", "layers.0.attn.wkv.scale", "layers.0.attn.wkv.weight"),
        ("deepseek_v41", "layers.0.ffn.experts.0.w1.scale", "layers.0.ffn.experts.0.w1.weight"),
    ] {
        let mut checkpoint = Checkpoint::of(model);
        checkpoint.tensors.remove(tensor).unwrap_or_else(|| panic!("{model} has no {tensor}"));
        checkpoint.refused(&[name]);
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both() {
    let mut checkpoint = Checkpoint::of("qwen3_moe");
    let (_, shape, bytes) = checkpoint.tensor("model.layers.0.self_attn.o_proj.weight");
    shape[0] -= 1;
    let (rows, columns) = (shape[0], shape[1]);
    bytes.truncate(2 * rows * columns);
    checkpoint.refused(&[
        "blk.0.attn_output.weight",
        &format!("[{rows}, {columns}]"),
        &format!("[{}, {columns}]", rows + 1),
    ]);
}

#[test]
fn numbers_that_are_none_are_named_wherever_they_stand() {
    // A block scale of powers of two has one code for no number.
    let mut scale = Checkpoint::of("deepseek_v41");
    scale.put("layers.0.attn.wkv.scale", 0, &[0xff]);
    scale.refused(&["layers.0.attn.wkv.weight", "row 0, column 0", "no finite number"]);
    let mut scale = Checkpoint::of("gpt_oss");
    scale.put("model.layers.0.mlp.experts.down_proj_scales", 3, &[0xff]);
    scale.refused(&["model.layers.0.mlp.experts.down_proj_blocks", "row 3, column 0"]);
    // A weight in each of the types that hold one.
    let mut weight = Checkpoint::of("qwen3_moe");
    weight.put("model.layers.1.mlp.experts.2.up_proj.weight", 8, &0x7fc0_u16.to_le_bytes());
    weight.refused(&["blk.1.ffn_up_exps.weight", "no finite numbers"]);
    let mut weight = Checkpoint::of("olmoe");
    weight.put("model.layers.0.self_attn.q_proj.weight", 400, &f32::INFINITY.to_le_bytes());
    weight.refused(&["blk.0.attn_q.weight", "number 100"]);
    let mut weight = Checkpoint::of("deepseek_v41");
    weight.put("layers.0.attn.wkv.weight", 5, &[0x7f]);
    weight.refused(&["blk.0.attn_kv", "number 5"]);
}

#[test]
fn experts_that_do_not_come_out_even_are_refused() {
    let mut groups = Checkpoint::of("deepseek_v3");
    groups.config["n_group"] = json!(5);
    groups.refused(&["12 experts", "5 groups"]);
    let mut used = Checkpoint::of("qwen3_moe");
    used.config["num_experts_per_tok"] = json!(1000);
    used.refused(&["1000"]);
    let mut count = Checkpoint::of("qwen3_moe");
    count.config["num_experts"] = json!(used.config["num_experts"].as_u64().unwrap() + 1);
    count.refused(&["ffn_gate_inp.weight"]);
}

#[test]
fn ids_past_the_vocabulary_or_the_experts_are_refused() {
    let mut experts = Checkpoint::of("deepseek_v4");
    let many = experts.config["n_routed_experts"].as_i64().unwrap();
    experts.put("layers.0.ffn.gate.tid2eid", 16, &many.to_le_bytes());
    experts.refused(&["blk.0.ffn_gate_tid2eid", &many.to_string()]);
    let mut negative = Checkpoint::of("deepseek_v4");
    negative.put("layers.0.ffn.gate.tid2eid", 16, &(-1_i64).to_le_bytes());
    negative.refused(&["blk.0.ffn_gate_tid2eid"]);

    let mut tokens = Checkpoint::of("qwen3_moe");
    let vocabulary = tokens.config["vocab_size"].as_u64().unwrap();
    tokens.config["vocab_size"] = json!(vocabulary + 1);
    tokens.refused(&["token_embd.weight", &format!("vocabulary of {}", vocabulary + 1)]);
}

#[tokio::test]
async fn a_token_past_the_vocabulary_is_refused_before_any_work() {
    let checkpoint = Checkpoint::of("qwen3_moe");
    let engine = Engine::open(checkpoint.write(), Options::default(), &mut |_| {}).unwrap();
    let vocabulary = engine.model().vocabulary as u32;
    let refused = engine.timeline().sync(&[1, vocabulary], |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains(&vocabulary.to_string()), "{refused}");
}

#[test]
fn files_that_are_cut_or_lost_are_named() {
    let checkpoint = Checkpoint::of("qwen3_moe");
    let path = checkpoint.write().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let error = refusal(checkpoint.folder.path());
    assert!(error.contains("model.safetensors"), "{error}");
    std::fs::write(&path, &bytes[..3]).unwrap();
    let error = refusal(checkpoint.folder.path());
    assert!(error.contains("model.safetensors"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let index = json!({ "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
    std::fs::write(checkpoint.folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let error = refusal(checkpoint.folder.path());
    assert!(error.contains("model-00001-of-00002.safetensors"), "{error}");
}

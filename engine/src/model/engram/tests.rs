//! Engram's two forms against torch, and one layer of it from tokens to streams.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::*;
use crate::model::{Spec, know};
use crate::weights::{Kind, Rows, Stored};
use crate::{Engine, KvKind, Options};

const STREAMS: usize = 2;
const WIDTH: usize = 8;
const READ: usize = 12;
const TOKENS: usize = 11;

/// What `tests/reference/engram.py` wrote.
#[derive(Deserialize)]
struct Reference {
    streams: Vec<f32>,
    read: Vec<f32>,
    paper: HashMap<String, Vec<f32>>,
    shared: HashMap<String, Vec<f32>>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("fixtures/forms.json")).unwrap()
}

fn matrix(weights: &[f32], columns: usize) -> Matrix {
    let bytes: Vec<u8> = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
    Matrix::new(Arc::new(bytes), 0, weights.len() / columns, columns, Kind::F32)
}

fn paper(weights: &HashMap<String, Vec<f32>>) -> Paper {
    Paper {
        keys: weights["keys"].chunks(WIDTH * READ).map(|key| matrix(key, READ)).collect(),
        key_bias: weights["key_biases"].clone(),
        value: matrix(&weights["value"], READ),
        value_bias: weights["value_bias"].clone(),
        key_norm: weights["key_norms"].clone(),
        query_norm: weights["query_norms"].clone(),
        epsilon: 1e-5,
        value_norm: weights["value_norms"].clone(),
        value_epsilon: 1e-5,
        conv: weights["conv"].clone(),
        dilation: 2,
    }
}

fn shared(weights: &HashMap<String, Vec<f32>>) -> Shared {
    Shared {
        keys_and_value: matrix(&weights["both"], READ),
        query_weight: weights["query_weight"].clone(),
        key_weight: weights["key_weight"].clone(),
        streams: STREAMS,
        epsilon: 1e-20,
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Runs `step` over the reference's tokens in chunks, with every kernel, and compares with `expect`.
fn check(expect: &[f32], mut step: impl FnMut(Kernels, std::ops::Range<usize>, &mut [f32], bool)) {
    let reference = reference();
    let mut first: Option<Vec<u32>> = None;
    for kernels in Kernels::available() {
        for chunk in [TOKENS, 1, 4] {
            let mut streams = reference.streams.clone();
            for start in (0..TOKENS).step_by(chunk) {
                let tokens = start..(start + chunk).min(TOKENS);
                let all = STREAMS * WIDTH;
                step(kernels, tokens.clone(), &mut streams[tokens.start * all..tokens.end * all], start == 0);
            }
            for (i, (ours, theirs)) in streams.iter().zip(expect).enumerate() {
                assert!((ours - theirs).abs() < 2e-6, "{kernels:?}, chunks of {chunk}, {i}: {ours} {theirs}");
            }
            // Neither the cut nor the kernel changes a bit.
            assert_eq!(first.get_or_insert_with(|| bits(&streams)), &bits(&streams));
        }
    }
}

#[test]
fn the_papers_form_is_that_of_torch() {
    let reference = reference();
    let paper = paper(&reference.paper);
    let (mut kept, mut scratch) = (vec![0.0; paper.kept()], Scratch::default());
    check(&reference.paper["answer"], |kernels, tokens, streams, first| {
        if first {
            kept.fill(0.0);
        }
        let read = &reference.read[tokens.start * READ..tokens.end * READ];
        paper.take_in(kernels, read, streams, &mut kept, &mut scratch);
    });
}

#[test]
fn the_shipped_form_is_that_of_torch() {
    let reference = reference();
    let shared = shared(&reference.shared);
    let mut scratch = Scratch::default();
    check(&reference.shared["answer"], |kernels, tokens, streams, _| {
        let images: Vec<bool> = tokens.clone().map(|token| token == 5).collect();
        let read = &reference.read[tokens.start * READ..tokens.end * READ];
        shared.take_in(kernels, read, &images, streams, &mut scratch);
    });
}

/// A layer whose tables have the rows that the hashes of seven tokens lead to, with `width` numbers each.
fn layer(form: Form, width: usize) -> Result<Engram, String> {
    let sizes =
        Sizes { layers: vec![3], rows_min: vec![20, 20], heads: 3, padding: 0, image: Some(6), seed: 0 };
    let hashes = Arc::new(Hashes::new(Classes::given((0..7).collect()), &sizes).unwrap());
    let numbers = (0..hashes.rows(0) * width as u64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0);
    let bytes: Vec<u8> = numbers.flat_map(|x| x.to_le_bytes()).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let stored =
        Stored { path: file.path().to_owned(), file: Arc::new(File::open(file.path()).unwrap()), start: 0 };
    let table =
        Table::open("engram", hashes.rows(0), width, stored, Rows::Blocks(Kind::F32), 1 << 12).unwrap();
    Engram::new(0, hashes, table, form)
}

#[test]
fn a_layer_adds_what_the_text_reads_however_it_is_cut() {
    let reference = reference();
    let text = [1, 5, 2, 6, 3, 3, 1, 5, 2, 4, 1];
    for form in [Form::Paper(paper(&reference.paper)), Form::Shared(shared(&reference.shared))] {
        let layer = layer(form, 2).unwrap();
        let mut scratch = Scratch::default();
        let mut whole: Option<Vec<u32>> = None;
        for chunk in [TOKENS, 1, 3] {
            let (mut streams, mut kept) = (reference.streams.clone(), vec![0.0; layer.kept()]);
            for start in (0..TOKENS).step_by(chunk) {
                let end = (start + chunk).min(TOKENS);
                let (before, tokens) = (&text[..start], &text[start..end]);
                layer.foresee(before, tokens);
                let all = STREAMS * WIDTH;
                let streams = &mut streams[start * all..end * all];
                layer.forward(Kernels::PLAIN, before, tokens, streams, &mut kept, &mut scratch).unwrap();
            }
            assert_ne!(streams, reference.streams);
            assert_eq!(whole.get_or_insert_with(|| bits(&streams)), &bits(&streams), "chunks of {chunk}");
        }
        assert!(layer.table().counts().hits > 0, "what was read for the first cut is still there");
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let reference = reference();
    let good = || shared(&reference.shared);
    assert!(layer(Form::Shared(good()), 2).is_ok());
    assert!(layer(Form::Shared(good()), 3).is_err(), "rows are longer than the projection reads");
    assert!(layer(Form::Shared(Shared { streams: 3, ..good() }), 2).is_err());
    assert!(layer(Form::Shared(Shared { streams: 0, ..good() }), 2).is_err());
    assert!(layer(Form::Shared(Shared { key_weight: vec![1.0], ..good() }), 2).is_err());
    let good = || paper(&reference.paper);
    assert!(layer(Form::Paper(good()), 2).is_ok());
    assert!(layer(Form::Paper(Paper { conv: vec![], ..good() }), 2).is_err());
    assert!(layer(Form::Paper(Paper { conv: vec![1.0; 17], ..good() }), 2).is_err());
    assert!(layer(Form::Paper(Paper { keys: vec![], ..good() }), 2).is_err());
    assert!(layer(Form::Paper(Paper { dilation: 0, ..good() }), 2).is_err());
    assert!(layer(Form::Paper(Paper { value_bias: vec![], ..good() }), 2).is_err());
}

/// The ids that a folder's reference was computed for, and its logits.
fn told(folder: &Path) -> (Vec<Token>, Vec<f32>) {
    let bytes = std::fs::read(folder.join("ref.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (ids, logits) = (tensors.tensor("input_ids").unwrap(), tensors.tensor("logits").unwrap());
    let ids = ids.data().chunks_exact(8).map(|id| Token::from_le_bytes(id[..4].try_into().unwrap()));
    let logits = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (ids.collect(), logits.collect())
}

/// A whole model with tables, as it is published, and the ids its reference was computed for.
fn model() -> (PathBuf, Vec<Token>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/deepseek_v41");
    let (ids, _) = told(&folder);
    (folder, ids)
}

fn open(path: &Path, table_bytes: Option<u64>) -> Result<Engine, Error> {
    let options =
        Options { threads: 2, kv: KvKind::F32, kv_bytes: Some(0), table_bytes, ..Options::default() };
    Engine::open(path, options, &mut |_| {})
}

#[tokio::test]
async fn a_model_says_the_same_however_little_is_kept_of_its_tables() {
    let (folder, ids) = model();
    let mut first: Option<Vec<f32>> = None;
    for table_bytes in [None, Some(4096), Some(0)] {
        let engine = open(&folder, table_bytes).unwrap();
        let mut line = engine.timeline();
        line.sync(&ids, |_| {}).await.unwrap();
        let said = line.logits().await.unwrap();
        assert_eq!(first.get_or_insert_with(|| said.clone()), &said);
        // Another end, and the first one again: what the line keeps of the tables is cut back with it.
        let other = [&ids[..70], &[9, 9, 9]].concat();
        line.sync(&other, |_| {}).await.unwrap();
        assert_ne!(line.logits().await.unwrap(), said);
        line.sync(&ids, |_| {}).await.unwrap();
        assert_eq!(line.logits().await.unwrap(), said);
        let held = engine.tables_held().unwrap();
        // Two tables, each read by six columns for every token.
        assert!(held.hits + held.misses >= 2 * 6 * ids.len() as u64, "{held:?}");
        assert!(held.held_bytes <= held.budget_bytes, "{held:?}");
        assert!(held.budget_bytes <= table_bytes.unwrap_or(u64::MAX), "{held:?}");
    }
}

#[tokio::test]
async fn a_table_that_cannot_be_read_any_more_is_named_and_the_line_goes_on_when_it_can() {
    let (folder, ids) = model();
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    let engine = open(copy.path(), Some(0)).unwrap();
    let mut line = engine.timeline();
    line.sync(&ids[..20], |_| {}).await.unwrap();
    let said = line.logits().await.unwrap();
    // The last table's last scale becomes what is no number; the map shows the same file, and is not asked.
    let path = copy.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let scales = tensors.tensor("layers.5.engram.embed.scale").unwrap().data();
    let start = scales.as_ptr() as u64 - whole.as_ptr() as u64;
    let file = File::options().write(true).open(&path).unwrap();
    let put = |bytes: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, bytes, start).unwrap();
    put(&vec![255; scales.len()]);
    let why = line.sync(&ids, |_| {}).await.unwrap_err().to_string();
    assert!(why.contains("blk.5.engram_embd") && why.contains("not a number"), "{why}");
    put(scales);
    line.sync(&ids[..20], |_| {}).await.unwrap();
    assert_eq!(line.logits().await.unwrap(), said);
}

/// Writes the model in a folder as a GGUF file, in F32, with the keys that converters have for it.
fn write_gguf(folder: &Path, to: &Path) {
    let source = Source::open(folder, know).unwrap();
    let spec = Spec::read(&source).unwrap();
    let (streams, grams) = (spec.residual.streams(), spec.grams.as_ref().unwrap());
    let tokenizer = Tokenizer::from_json(&folder.join("tokenizer.json")).unwrap();
    let hashes = hashes(grams, &tokenizer).unwrap();
    let classes = Classes::of(&tokenizer);
    let number = |n: usize| Value::U32(n as u32);
    let numbers = |list: &[u64]| Value::Array(list.iter().map(|&n| Value::U64(n)).collect());
    let [multipliers, primes, starts] = hashes.as_given();
    let mut metadata = vec![("general.architecture".to_owned(), Value::String("deepseek41".into()))];
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "attention.head_count",
        "attention.key_length",
        "attention.q_lora_rank",
        "attention.output_lora_rank",
        "attention.output_group_count",
        "attention.sliding_window",
        "attention.indexer.head_count",
        "attention.indexer.key_length",
        "attention.indexer.top_k",
        "attention.candidate_source_layer",
        "attention.candidate_topk_blocks",
        "attention.candidate_block_size",
        "rope.dimension_count",
        "rope.scaling.original_context_length",
        "expert_count",
        "expert_used_count",
        "expert_shared_count",
        "expert_feed_forward_length",
        "expert_gating_func",
        "hyper_connection.count",
        "hyper_connection.sinkhorn_iterations",
        "engram.head_count",
        "engram.key_length",
        "engram.max_ngram_size",
    ] {
        let key = format!("deepseek41.{key}");
        let value = number(source.number(&key).unwrap().unwrap() as usize);
        metadata.push((key, value));
    }
    for key in [
        "attention.layer_norm_rms_epsilon",
        "attention.compress_rope_freq_base",
        "rope.freq_base",
        "rope.scaling.factor",
        "expert_weights_scale",
        "hyper_connection.epsilon",
        "swiglu_clamp_exp",
    ] {
        let key = format!("deepseek41.{key}");
        let value = Value::F32(source.real(&key).unwrap().unwrap());
        metadata.push((key, value));
    }
    let list = |key: &str| numbers(&source.numbers(&format!("deepseek41.{key}")).unwrap().unwrap());
    let map = (0..spec.vocabulary as Token).map(|token| u64::from(classes.class(token).unwrap()));
    let padding = classes.class(2).unwrap() as usize;
    for (key, value) in [
        ("rope.scaling.type", Value::String("yarn".into())),
        ("attention.compress_ratios", list("attention.compress_ratios")),
        ("engram.layer_ids", list("engram.layer_ids")),
        ("engram.multipliers", numbers(&multipliers)),
        ("engram.primes", numbers(&primes)),
        ("engram.offsets", numbers(&starts)),
        ("engram.token_map", numbers(&map.collect::<Vec<_>>())),
        ("engram.pad_id", number(padding)),
        ("engram.image_token_id", number(grams.image.unwrap())),
    ] {
        metadata.push((format!("deepseek41.{key}"), value));
    }
    let tensor = |shape: &[usize], numbers: Vec<f32>| {
        let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
        QTensor::quantize(&tensor, GgmlDType::F32).unwrap()
    };
    let mut tables = spec.layers.iter().filter_map(|layer| layer.engram.as_ref());
    let tensors = source.names().into_iter().map(|name| {
        if name.contains("engram_embd") {
            let engram = tables.next().unwrap();
            let table = source.table(&name, engram.row, 0).unwrap();
            let mut numbers = Vec::new();
            table.read(&(0..table.rows()).collect::<Vec<_>>(), &mut numbers).unwrap();
            return (name, tensor(&[table.rows() as usize, engram.row], numbers));
        }
        let shape = source.shape(&name).unwrap().to_vec();
        let numbers = source.floats(&name, &shape).unwrap();
        (name, tensor(&shape, numbers))
    });
    let tensors: Vec<_> = tensors.collect();
    assert_eq!(streams, 4);
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(&mut BufWriter::new(File::create(to).unwrap()), &metadata, &tensors).unwrap();
}

#[tokio::test]
async fn a_file_with_its_own_hashes_says_what_the_folder_says() {
    // Through the other door: tables in blocks, and classes, multipliers and primes as a converter wrote them. The
    // folder's are drawn from its vocabulary.
    let (folder, ids) = model();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.gguf");
    write_gguf(&folder, &file);
    let mut said = Vec::new();
    for path in [&folder, &file] {
        let engine = open(path, None).unwrap();
        let mut line = engine.timeline();
        line.sync(&ids, |_| {}).await.unwrap();
        said.push(line.logits().await.unwrap());
    }
    let apart = said[0].iter().zip(&said[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 2e-5, "{apart}");
}

#[test]
fn a_vocabulary_that_the_tables_were_not_made_for_is_refused() {
    let (folder, _) = model();
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let check = |from: &str, to: &str, expect: &str| {
        let changed = config.replace(from, to);
        assert_ne!(changed, config, "{from} is there");
        std::fs::write(copy.path().join("config.json"), changed).unwrap();
        let Err(error) = open(copy.path(), None) else { panic!("{to} must be refused") };
        assert!(error.to_string().contains(expect), "{error}");
    };
    check("\"bos_token_id\": 0", "\"bos_token_id\": 5", "tokenizer.json");
    std::fs::copy(folder.join("tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    let classes = "\"engram_compressed_vocab_size\": ";
    check(classes, &format!("{classes}1"), "tokenizer that belongs to it");
    check("\"engram_vocab_size\": 53", "\"engram_vocab_size\": 54", "the hashes lead to");
    check("\"engram_vocab_size\": 53", "\"engram_vocab_size\": 0", "0 rows for a hash");
    check("\"engram_max_ngram_size\": 4", "\"engram_max_ngram_size\": 40", "n-grams of up to 40 tokens");
    check("\"engram_pad_token_id\": 2", "\"engram_pad_token_id\": 999", "padding token 999");
    check("\"engram_head_dim\": 32", "\"engram_head_dim\": 16", "engram_embd");
    check("\"engram_n_heads\": 2", "\"engram_n_heads\": 0", "not hashed");
}

#[test]
fn sources_that_cannot_be_are_refused() {
    let (folder, _) = model();
    let copy = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let check = |key: &str, value: serde_json::Value, expect: &str| {
        let mut config = config.clone();
        config["text_config"][key] = value;
        std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        let Err(error) = open(copy.path(), None) else { panic!("{key} must be refused") };
        assert!(error.to_string().contains(expect), "{error}");
    };
    check("kv_source_layer_ids", vec![3, 4].into(), "layer 1 has no layer before it that makes rows of 2");
    check(
        "index_source_layer_ids",
        vec![3, 4, 5].into(),
        "layer 1 has no layer before it that chooses rows of 2",
    );
    check("kv_source_layer_ids", vec![1, 2, 3, 4].into(), "blk.2.attn_compressor");
    check("index_source_layer_ids", vec![1, 3, 4, 5, 6].into(), "blk.6.indexer");
    check("kv_source_layer_ids", vec![1, 4].into(), "blk.3.");
    check("compress_ratios", vec![0, 2, 2, 2, 1, 2, 1, 0].into(), "layer 5");
    check("candidate_block_size", 0.into(), "blocks of rows");
    check("engram_layer_ids", vec![1, 50].into(), "layer 50");
    check("engram_layer_ids", vec![5, 1].into(), "not the next");
    check("engram_layer_ids", vec![1].into(), "is no part");
    check("hc_mult", 3.into(), "asks for");
    check("index_topk", 0.into(), "chooses no rows");
}

#[tokio::test]
async fn the_papers_form_stands_before_layers_of_v4_however_a_line_is_cut() {
    // No published model has it: it is V4's own checkpoint and, in a second file, the module of the paper's demo.
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let module = manifest.join("src/model/engram/fixtures/paper");
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &Path, name: &str| std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    for name in ["config.json", "tokenizer.json", "engram.safetensors"] {
        copy(&module, name);
    }
    copy(&manifest.join("tests/fixtures/models/deepseek_v4"), "model.safetensors");
    let index = r#"{"weight_map": {"embed.weight": "model.safetensors", "others": "engram.safetensors"}}"#;
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();

    let (ids, expected) = told(&module);
    let engine = open(folder.path(), None).unwrap();
    let vocabulary = engine.model().vocabulary;
    let from = ids.len() - expected.len() / vocabulary;
    let mut one_by_one = engine.timeline();
    let mut apart = 0.0_f32;
    for (end, expected) in (from + 1..=ids.len()).zip(expected.chunks_exact(vocabulary)) {
        // What the convolution keeps goes with the line: forward by one token, in a fork, and after a cut.
        one_by_one.sync(&ids[..end], |_| {}).await.unwrap();
        let said = one_by_one.logits().await.unwrap();
        let mut whole = engine.timeline();
        whole.sync(&ids[..end], |_| {}).await.unwrap();
        assert_eq!(whole.logits().await.unwrap(), said);
        whole.sync(&[&ids[..end - 3], &[7, 7]].concat(), |_| {}).await.unwrap();
        whole.sync(&ids[..end], |_| {}).await.unwrap();
        assert_eq!(whole.logits().await.unwrap(), said);
        let far = said.iter().zip(expected).map(|(a, b)| (a - b).abs());
        apart = far.fold(apart, |most, x| if x <= most { most } else { x });
    }
    assert!(apart < 1e-4, "{apart:e}");

    let check = |from: &str, to: &str, expect: &str| {
        let config = std::fs::read_to_string(module.join("config.json")).unwrap();
        std::fs::write(folder.path().join("config.json"), config.replace(from, to)).unwrap();
        let Err(error) = open(folder.path(), None) else { panic!("{to} must be refused") };
        assert!(error.to_string().contains(expect), "{error}");
    };
    check("\"kernel_size\": 4", "\"kernel_size\": 5", "blk.1.engram_conv.weight");
    check("\"kernel_size\": 4", "\"kernel_size\": 0", "convolution sees nothing");
    check("\"n_head_per_ngram\": 2", "\"n_head_per_ngram\": 0", "0 hashes");
    check("\"n_embed_per_ngram\": 16", "\"n_embed_per_ngram\": -1", "n_embed_per_ngram");
    check("\"max_ngram_size\": 3", "\"max_ngram_size\": 4", "not as many");
}

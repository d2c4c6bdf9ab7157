//! Engram's two forms against torch, and one layer of it from tokens to streams.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;

use serde::Deserialize;

use super::*;
use crate::weights::{Kind, Rows, Stored};

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
                layer.forward(Kernels::Plain, before, tokens, streams, &mut kept, &mut scratch).unwrap();
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

//! The engine as its callers see it, with tiny random models of every family.

use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use tempfile::TempDir;

use crate::snapshot::Snapshots;
use crate::testing::{CONTEXT_TOKENS, TinyModel, VOCABULARY};
use crate::{
    Engine, Error, GrammarSource, KvKind, Options, Progress, Sampling, Synced, Timeline, Token, bench, logits,
};

/// The models that together have every part.
fn models() -> Vec<TinyModel> {
    let k_quants = TinyModel { dtype: GgmlDType::Q4K, width: 256, hidden: 512, ..TinyModel::new("qwen2") };
    let floats = TinyModel { dtype: GgmlDType::F16, seed: 3, ..TinyModel::new("llama") };
    let families = ["qwen2", "llama", "deepseek2", "qwen35moe"].map(TinyModel::new);
    families.into_iter().chain([k_quants, floats]).collect()
}

/// A model's file in a folder that goes with it.
fn file(model: &TinyModel) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write(&path);
    (folder, path)
}

fn open(model: &TinyModel) -> Engine {
    let (_folder, path) = file(model);
    // The file stays mapped when its folder is gone.
    Engine::open(&path, Options { threads: 2, kv_bytes: Some(0), ..Options::default() }, &mut |_| {}).unwrap()
}

/// Tokens without a pattern.
fn ids(count: usize) -> Vec<Token> {
    (0..count as u32).map(|i| (i * i * 31 + i * 7) % VOCABULARY as u32).collect()
}

async fn logits_of(timeline: &mut Timeline) -> Vec<u32> {
    timeline.logits().await.unwrap().into_iter().map(f32::to_bits).collect()
}

async fn greedy(timeline: &mut Timeline, count: usize) -> Vec<Token> {
    let mut tokens = Vec::new();
    for _ in 0..count {
        tokens.push(timeline.next(&Sampling::default(), None).await.unwrap());
    }
    tokens
}

#[tokio::test]
async fn a_line_is_the_same_however_it_is_cut() {
    // A restarted service prefills in one go what was once decoded token by token, and must go on alike.
    for model in models() {
        let engine = open(&model);
        let ids = ids(300);
        let mut whole = engine.timeline();
        whole.sync(&ids, |_| {}).await.unwrap();
        let expected = logits_of(&mut whole).await;
        for step in [1, 7, 64] {
            let mut cut = engine.timeline();
            for end in (0..ids.len()).step_by(step).chain([ids.len()]) {
                cut.sync(&ids[..end], |_| {}).await.unwrap();
            }
            assert_eq!(logits_of(&mut cut).await, expected, "{} in steps of {step}", model.architecture);
        }
    }
}

#[tokio::test]
async fn all_positions_have_the_logits_they_have_alone() {
    // The file that judges others must itself agree with what `next` samples from.
    for model in models() {
        let engine = open(&model);
        let (folder, ids) = (tempfile::tempdir().unwrap(), ids(20));
        let mut files = Vec::new();
        for decode_from in [None, Some(5), Some(0)] {
            let path = folder.path().join("logits.safetensors");
            logits::write(&engine, &ids, decode_from, &path, |_| {}).await.unwrap();
            files.push(std::fs::read(&path).unwrap());
        }
        assert!(files[0] == files[1] && files[0] == files[2]);
        let tensors = safetensors::SafeTensors::deserialize(&files[0]).unwrap();
        let tensor = tensors.tensor("logits").unwrap();
        assert_eq!(tensor.shape(), [20, VOCABULARY]);
        let mut line = engine.timeline();
        line.sync(&ids[..13], |_| {}).await.unwrap();
        let row: Vec<u32> = tensor.data()[12 * VOCABULARY * 4..13 * VOCABULARY * 4]
            .chunks_exact(4)
            .map(|x| u32::from_le_bytes(x.try_into().unwrap()))
            .collect();
        assert_eq!(row, logits_of(&mut line).await);
    }
}

#[tokio::test]
async fn tokens_depend_on_their_past_and_not_on_their_future() {
    // A mask that is off by one would still give plausible text.
    let engine = open(&TinyModel::new("qwen2"));
    let (a, mut b) = (ids(40), ids(40));
    b[10] = (b[10] + 1) % VOCABULARY as u32;
    let folder = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    for ids in [&a, &b] {
        let path = folder.path().join("logits.safetensors");
        logits::write(&engine, ids, None, &path, |_| {}).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor("logits").unwrap().data().to_vec();
        rows.push(data.chunks_exact(VOCABULARY * 4).map(<[u8]>::to_vec).collect::<Vec<_>>());
    }
    for (i, (a, b)) in rows[0].iter().zip(&rows[1]).enumerate() {
        assert_eq!(a == b, i < 10, "position {i}");
    }
}

#[tokio::test]
async fn sync_keeps_the_common_prefix() {
    // A step of the agent must cost its new tokens only.
    let engine = open(&TinyModel::new("llama"));
    let mut line = engine.timeline();
    let ids = ids(50);
    assert_eq!(line.sync(&ids, |_| {}).await.unwrap(), Synced { cached: 0, computed: 50 });
    assert_eq!(line.sync(&ids, |_| {}).await.unwrap(), Synced { cached: 50, computed: 0 });
    let mut other = ids[..30].to_vec();
    other.extend([1, 2, 3]);
    assert_eq!(line.sync(&other, |_| {}).await.unwrap(), Synced { cached: 30, computed: 3 });
    let mut fresh = engine.timeline();
    fresh.sync(&other, |_| {}).await.unwrap();
    assert_eq!(logits_of(&mut line).await, logits_of(&mut fresh).await);
    assert_eq!(line.tokens(), other);
}

#[tokio::test]
async fn rewinding_gives_the_past_back() {
    // Some layers keep a state in which the past cannot be told apart: they go back to a mark, and on from there.
    for model in models() {
        let engine = open(&model);
        let mut line = engine.timeline();
        line.sync(&ids(40), |_| {}).await.unwrap();
        let first = greedy(&mut line, 10).await;
        line.rewind(40).await.unwrap();
        assert_eq!(line.tokens(), ids(40));
        assert_eq!(greedy(&mut line, 10).await, first);
        line.rewind(1000).await.unwrap();
        assert_eq!(line.tokens().len(), 50);
        line.sync(&ids(700), |_| {}).await.unwrap();
        for place in [690, 512, 511, 300, 20] {
            line.rewind(place).await.unwrap();
            let mut fresh = engine.timeline();
            fresh.sync(&ids(place), |_| {}).await.unwrap();
            let (ours, expected) = (logits_of(&mut line).await, logits_of(&mut fresh).await);
            assert_eq!(ours, expected, "{} back to {place}", model.architecture);
        }
    }
}

#[tokio::test]
async fn forks_go_their_own_ways() {
    for model in models() {
        let engine = open(&model);
        let mut line = engine.timeline();
        line.sync(&ids(40), |_| {}).await.unwrap();
        let mut fork = line.fork().await.unwrap();
        fork.sync(&[&ids(40)[..], &[5, 6, 7]].concat(), |_| {}).await.unwrap();
        let mut alone = engine.timeline();
        alone.sync(&ids(40), |_| {}).await.unwrap();
        assert_eq!(greedy(&mut line, 10).await, greedy(&mut alone, 10).await, "{}", model.architecture);
        alone.sync(&[&ids(40)[..], &[5, 6, 7]].concat(), |_| {}).await.unwrap();
        assert_eq!(greedy(&mut fork, 10).await, greedy(&mut alone, 10).await, "{}", model.architecture);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_work_at_once_do_not_mix() {
    let engine = open(&TinyModel::new("llama"));
    let alone = |start: usize| {
        let engine = engine.clone();
        async move {
            let mut line = engine.timeline();
            line.sync(&ids(300 + start)[start..], |_| {}).await.unwrap();
            greedy(&mut line, 20).await
        }
    };
    let expected = [alone(0).await, alone(7).await, alone(90).await];
    let together = tokio::join!(tokio::spawn(alone(0)), tokio::spawn(alone(7)), tokio::spawn(alone(90)));
    assert_eq!([together.0.unwrap(), together.1.unwrap(), together.2.unwrap()], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_question_does_not_wait_for_a_long_prompt() {
    // One line's prompt of several chunks must let another line in between.
    let engine = open(&TinyModel { layers: 8, ..TinyModel::new("qwen2") });
    let (started, mut chunks) = tokio::sync::mpsc::unbounded_channel();
    let mut long = engine.timeline();
    let job = tokio::spawn(async move {
        let mut done = 0;
        long.sync(&ids(1000), |progress| {
            if let Progress::Prefilling { done_tokens, .. } = progress {
                done = done_tokens;
                // The test may have ended.
                let _ = started.send(done_tokens);
            }
        })
        .await
        .unwrap();
        done
    });
    assert_eq!(chunks.recv().await, Some(256));
    let mut short = engine.timeline();
    short.sync(&ids(3), |_| {}).await.unwrap();
    assert!(
        !job.is_finished() || chunks.len() >= 3,
        "the short line is answered while the long one computes"
    );
    assert_eq!(job.await.unwrap(), 1000);
}

#[tokio::test]
async fn a_dropped_future_does_no_harm() {
    // An interrupt drops whatever is under way, at any moment.
    let engine = open(&TinyModel::new("qwen2"));
    let mut expected = engine.timeline();
    expected.sync(&ids(700), |_| {}).await.unwrap();
    let expected = greedy(&mut expected, 5).await;

    let mut line = engine.timeline();
    let stop = std::time::Duration::from_millis(1);
    // Whether the time is up first or the work is done, the line says what it should.
    let _ = tokio::time::timeout(stop, line.sync(&ids(700), |_| {})).await;
    assert_eq!(line.tokens(), ids(700));
    let synced = line.sync(&ids(700), |_| {}).await.unwrap();
    assert_eq!(synced.cached + synced.computed, 700);
    for _ in 0..5 {
        let before = line.tokens().len();
        let sampling = Sampling::default();
        let token =
            tokio::time::timeout(std::time::Duration::from_micros(50), line.next(&sampling, None)).await;
        let sampled = usize::from(matches!(token, Ok(Ok(_))));
        assert_eq!(line.tokens().len(), before + sampled);
    }
    line.rewind(700).await.unwrap();
    assert_eq!(greedy(&mut line, 5).await, expected);
}

#[tokio::test]
async fn progress_is_heard_after_every_chunk() {
    let engine = open(&TinyModel::new("llama"));
    let mut heard = Vec::new();
    engine.timeline().sync(&ids(600), |progress| heard.push(progress)).await.unwrap();
    let done = |done_tokens| Progress::Prefilling { done_tokens, total_tokens: 600 };
    assert_eq!(heard, [done(256), done(512), done(600)]);
}

#[tokio::test]
async fn sampling_is_repeatable() {
    let engine = open(&TinyModel::new("qwen2"));
    let run = async |seed| {
        let mut line = engine.timeline();
        line.sync(&ids(10), |_| {}).await.unwrap();
        let sampling = Sampling { temperature: 1.5, seed, ..Sampling::default() };
        let mut tokens = Vec::new();
        for _ in 0..30 {
            tokens.push(line.next(&sampling, None).await.unwrap());
        }
        tokens
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test]
async fn a_grammar_binds_what_is_sampled() {
    let engine = open(&TinyModel::new("qwen2"));
    let source = GrammarSource::Lark("start: /[ab]{5,8}/".into());
    let mut grammar = engine.grammar(&source).unwrap();
    let mut line = engine.timeline();
    line.sync(&ids(10), |_| {}).await.unwrap();
    let sampling = Sampling { temperature: 2.0, ..Sampling::default() };
    while !grammar.ended() {
        let token = line.next(&sampling, Some(&mut grammar)).await.unwrap();
        if engine.tokenizer().ends().contains(&token) {
            break;
        }
    }
    let text = engine.tokenizer().decode(&line.tokens()[10..]);
    let text = text.trim_end_matches("<|im_end|>").trim_end_matches("<|endoftext|>");
    assert!((5..=8).contains(&text.len()) && text.chars().all(|c| c == 'a' || c == 'b'), "{text:?}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_any_work() {
    let (_folder, path) = file(&TinyModel::new("qwen2"));
    let options = Options { threads: 1, context_tokens: Some(20), ..Options::default() };
    let engine = Engine::open(&path, options, &mut |_| {}).unwrap();
    let mut line = engine.timeline();
    assert!(matches!(line.next(&Sampling::default(), None).await, Err(Error::Empty)));
    assert!(matches!(line.logits().await, Err(Error::Empty)));
    line.sync(&ids(5), |_| {}).await.unwrap();
    let full = line.sync(&ids(21), |_| {}).await;
    assert!(matches!(full, Err(Error::ContextFull { asked: 21, limit: 20 })));
    let strange = line.sync(&[1, VOCABULARY as u32], |_| {}).await;
    assert!(matches!(strange, Err(Error::NoSuchToken { vocabulary: VOCABULARY, .. })));
    assert_eq!(line.tokens(), ids(5));
    line.sync(&ids(20), |_| {}).await.unwrap();
    let full = line.next(&Sampling::default(), None).await;
    assert!(matches!(full, Err(Error::ContextFull { asked: 21, limit: 20 })));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    assert!(logits::write(&engine, &ids(21), None, &out, |_| {}).await.is_err());
    assert!(!out.exists(), "a refused prompt leaves no file behind");

    let options = Options { threads: 1, context_tokens: Some(CONTEXT_TOKENS + 1), ..Options::default() };
    assert!(matches!(Engine::open(&path, options, &mut |_| {}), Err(Error::Option(_))));
}

#[tokio::test]
async fn a_bench_times_what_it_was_told() {
    let engine = open(&TinyModel::new("llama"));
    let after = bench::After::Prompt;
    let work = bench::Work { prompt: 20, generate: 5, after, depth: 10, repetitions: 3 };
    let mut heard = 0;
    let report = bench::run(&engine, work, |_| heard += 1).await.unwrap();
    assert_eq!((report.runs.len(), heard), (3, 3));
    assert!(report.median.prefill_tokens_per_s > 0.0 && report.median.decode_tokens_per_s > 0.0);
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["prefill_tokens_per_s"].is_f64() && json["decode_tokens_per_s"].is_f64());
    let report = bench::run_on(&engine, &ids(20), 30, 2, |_| {}).await.unwrap();
    assert_eq!((report.runs.len(), report.guesses), (2, engine.guesses()));
    assert!(bench::run_on(&engine, &[], 30, 2, |_| {}).await.is_err());
}

#[tokio::test]
async fn a_bench_decodes_where_it_was_told() {
    // Against llama-bench both have to decode after as many tokens, which only the work that is done tells.
    let (_folder, path) = file(&TinyModel::new("llama"));
    let options = Options { threads: 1, kv_bytes: Some(0), ..Options::default() };
    let engine = Engine::open(&path, options, &mut |_| {}).unwrap();
    let work = |after| bench::Work { prompt: 20, generate: 10, after, depth: 10, repetitions: 1 };
    let (prompt, depth) = (bench::After::Prompt, bench::After::Depth);
    let before = engine.activity().prefilled_tokens;
    bench::run(&engine, work(depth), |_| {}).await.unwrap();
    let computed = engine.activity().prefilled_tokens - before;
    bench::run(&engine, work(prompt), |_| {}).await.unwrap();
    let more = engine.activity().prefilled_tokens - before - computed;
    // The last token before the place is computed again, because what follows it is not known any more.
    assert_eq!((computed, more), (8 + 2 + 20 + 1 + 10, 8 + 2 + 20 + 10));
}

#[tokio::test]
async fn lines_that_decode_together_are_timed() {
    let engine = open(&TinyModel::new("qwen2"));
    let after = bench::After::Prompt;
    let work = bench::Work { prompt: 20, generate: 6, after, depth: 4, repetitions: 2 };
    let mut heard = 0;
    let batch = bench::batch(&engine, 3, work, |_| heard += 1).await.unwrap();
    assert_eq!((batch.lines, batch.runs.len(), heard), (3, 2, 2));
    for run in batch.runs.iter().chain([&batch.median]) {
        assert!(run.alone_tokens_per_s > 0.0 && run.together_tokens_per_s > 0.0 && run.gain > 0.0, "{run:?}");
        assert!(run.beside_prefill_tokens_per_s > 0.0 && run.longest_wait_ms >= 0.0, "{run:?}");
    }
    // One alone and three together sample six tokens, all of them one before that, and again before the prompt is read.
    assert!(engine.activity().sampled_tokens >= 2 * (6 + 3 * 6 + 1 + 3 + 3));
    let none = bench::Work { prompt: 0, ..work };
    assert!(matches!(bench::batch(&engine, 3, none, |_| {}).await, Err(Error::Option(_))));
    let long = bench::Work { generate: CONTEXT_TOKENS - 24, ..work };
    assert!(matches!(bench::batch(&engine, 3, long, |_| {}).await, Err(Error::ContextFull { .. })));
}

#[tokio::test]
async fn what_was_computed_before_is_timed() {
    let (_folder, path) = file(&TinyModel::new("qwen2"));
    let disk = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(disk.path(), 1 << 30).unwrap();
    let open = || {
        let snapshots = Some(snapshots.clone());
        let options = Options { threads: 1, kv_bytes: Some(0), snapshots, ..Options::default() };
        Engine::open(&path, options, &mut |_| {}).unwrap()
    };
    let engine = open();
    let kept = bench::keep(&engine, &snapshots, 600, 2).await.unwrap();
    drop(engine);
    let mut heard = 0;
    let reuse = bench::restore(&open(), kept, |_| heard += 1).await.unwrap();
    assert_eq!((reuse.tokens, reuse.runs.len(), heard), (600, 2, 2));
    // Two whole pages are shared while the line is at work; on disk is all of it, but for the last token's logits.
    assert!(reuse.runs.iter().all(|run| run.hit_tokens == 512 && run.restored_tokens == 599), "{reuse:?}");
    let run = &reuse.median;
    assert!(run.cold_s > 0.0 && run.hit_share > 0.0 && run.restore_share > 0.0 && run.fork_ms > 0.0);
    assert!(run.fork_first_token_ms > 0.0 && run.fork_next_token_ms > 0.0 && run.snapshot_s > 0.0);
    assert!(run.snapshot_bytes > run.kv_bytes && run.snapshot_ratio < 1.05, "{run:?}");
    assert!(matches!(bench::keep(&open(), &snapshots, 0, 2).await, Err(Error::Option(_))));
}

#[test]
fn memory_bounds_how_fast_tokens_can_be() {
    let (_folder, path) = file(&TinyModel::new("qwen2"));
    let floor = |tokens| bench::Floor::measure(&path, KvKind::F16, tokens, 1).unwrap();
    let (short, long) = (floor(0), floor(1000));
    // Keys and values of two heads of 32 in two layers, in two bytes.
    assert_eq!(long.token_bytes - short.token_bytes, 1000 * 2 * 2 * 64 * 2);
    assert!(short.memory_bytes_per_s > 1e8, "{short:?}");
    assert!((short.reached(short.tokens_per_s / 4.0) - 0.25).abs() < 1e-9);
}

#[test]
fn the_model_is_described() {
    let (_folder, path) = file(&TinyModel::new("qwen2"));
    let mut last = None;
    let engine = Engine::open(&path, Options::default(), &mut |progress| last = Some(progress)).unwrap();
    let info = engine.model();
    assert_eq!((info.name.as_str(), info.architecture.as_str(), info.layers), ("Tiny", "qwen2", 2));
    assert_eq!((info.vocabulary, info.context_tokens), (VOCABULARY, CONTEXT_TOKENS));
    assert_eq!(info.quantisation, "Q8_0");
    // Keys and values of two heads of 32 numbers of two bytes, in two layers.
    assert_eq!(info.kv_bytes_per_token, 2 * 2 * 32 * 2 * 2);
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    assert_eq!(info.file_bytes, file_bytes);
    // The weights were read, which are all but the header.
    let Some(Progress::Loading { done_bytes, total_bytes }) = last else { panic!("{last:?}") };
    assert!(done_bytes == total_bytes && (file_bytes - 10_000..file_bytes).contains(&total_bytes));
}

/// What opening a file with these bytes says.
fn refusal(bytes: &[u8]) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    std::fs::write(&path, bytes).unwrap();
    match Engine::open(&path, Options { threads: 1, context_tokens: None, ..Options::default() }, &mut |_| {})
    {
        Ok(_) => panic!("a bad file was opened"),
        Err(error) => error,
    }
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + to.len()..]].concat()
}

#[test]
fn files_that_are_no_models_are_refused_by_what_they_are() {
    let (_folder, path) = file(&TinyModel::new("qwen2"));
    let good = std::fs::read(&path).unwrap();
    assert!(matches!(refusal(b""), Error::NotGguf { .. }));
    assert!(matches!(refusal(b"<!DOCTYPE html><title>404</title>"), Error::NotGguf { .. }));
    assert!(matches!(refusal(&[0; 4096]), Error::NotGguf { .. }));
    let missing = Engine::open(Path::new("/nowhere/at-all.gguf"), Options::default(), &mut |_| {});
    assert!(matches!(missing, Err(Error::Io { .. })));
    let folder = Engine::open(Path::new("/"), Options::default(), &mut |_| {});
    assert!(matches!(folder, Err(Error::NotGguf { .. } | Error::Io { .. })));

    match refusal(&replace(&good, b"qwen2", b"mamba")) {
        Error::Unsupported { architecture, supported } => {
            assert_eq!(architecture, "mamba");
            assert!(supported.contains("llama, ") && supported.contains("qwen2"), "{supported}");
        }
        other => panic!("{other}"),
    }
    match refusal(&good[..good.len() - 1000]) {
        Error::Truncated { what, missing, .. } => {
            assert!(what.contains("tensor `blk.1."), "{what}");
            assert!((900..=1100).contains(&missing), "{missing}");
        }
        other => panic!("{other}"),
    }
    match refusal(&replace(&good, b"blk.1.ffn_up.weight", b"blk.1.ffn_op.weight")) {
        Error::Tensor { name, why } => {
            assert_eq!(name, "blk.1.ffn_up.weight");
            assert!(why.contains("missing"), "{why}");
        }
        other => panic!("{other}"),
    }
    let narrow = TinyModel { hidden: 160, ..TinyModel::new("qwen2") };
    let (_folder, path) = file(&narrow);
    let bytes = std::fs::read(&path).unwrap();
    // The description says 192, the tensors have 160.
    let key = b"qwen2.feed_forward_length\x04\0\0\0";
    let wrong = replace(&bytes, &[&key[..], &[160, 0, 0, 0]].concat(), &[&key[..], &[192, 0, 0, 0]].concat());
    match refusal(&wrong) {
        Error::Tensor { name, why } => {
            assert_eq!(name, "blk.0.ffn_gate.weight");
            assert!(why.contains("[160, 128]") && why.contains("[192, 128]"), "{why}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn no_header_makes_the_reader_panic_or_take_the_memory() {
    // Headers are strangers' bytes: cut at many lengths, and with every third byte of the first entries changed.
    let (_folder, path) = file(&TinyModel::new("llama"));
    let good = std::fs::read(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    let try_open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        // Either answer will do, as long as there is one.
        let _ = Engine::open(
            &path,
            Options { threads: 1, context_tokens: None, ..Options::default() },
            &mut |_| {},
        );
    };
    for len in (0..good.len().min(12_000)).step_by(131) {
        try_open(&good[..len]);
    }
    for at in (0..700).step_by(3) {
        for byte in [0x00, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            try_open(&bytes);
        }
    }
    // Counts and lengths beyond all measure.
    for at in [8, 16, 24] {
        let mut bytes = good.clone();
        bytes[at..at + 8].fill(0xff);
        assert!(matches!(refusal(&bytes), Error::BadModel { .. } | Error::Truncated { .. }));
    }
}

#[tokio::test]
async fn a_real_model_says_what_it_should() {
    // Only with a real file, named by SAGA_TEST_MODEL: any instruct model knows this.
    let Some(path) = std::env::var_os("SAGA_TEST_MODEL") else { return };
    let engine = Engine::open(Path::new(&path), Options::default(), &mut |_| {}).unwrap();
    let mut line = engine.timeline();
    let prompt = engine.tokenizer().encode("The capital of France is the city of").unwrap();
    line.sync(&prompt, |_| {}).await.unwrap();
    let reply = greedy(&mut line, 8).await;
    assert!(engine.tokenizer().decode(&reply).contains("Paris"));
}

#[tokio::test]
async fn what_a_grammar_forces_is_neither_computed_alone_nor_sampled() {
    let (_folder, path) = file(&TinyModel::new("qwen2"));
    let engine = Engine::open(&path, Options::default(), &mut |_| {}).unwrap();
    let source = GrammarSource::Lark(r#"start: "the abcd " /[ab]/ " dcba the" /[cd]/ " end" "#.into());
    let mut grammar = engine.grammar(&source).unwrap();
    let mut line = engine.timeline();
    let prompt = engine.tokenizer().encode("abcd").unwrap();
    line.sync(&prompt, |_| {}).await.unwrap();
    while !grammar.ended() {
        line.next(&Sampling::default(), Some(&mut grammar)).await.unwrap();
    }
    let said = engine.tokenizer().decode(&line.tokens()[prompt.len()..]);
    assert!(said.starts_with("the abcd ") && said.contains(" dcba the"), "{said}");
    let activity = engine.activity();
    assert!(activity.forced_tokens > activity.sampled_tokens, "{activity:?}");
    // The same tokens, read as a prompt.
    let tokens = line.tokens().to_vec();
    let mut read = engine.timeline();
    read.sync(&tokens, |_| {}).await.unwrap();
    assert_eq!(line.logits().await.unwrap(), read.logits().await.unwrap());
}

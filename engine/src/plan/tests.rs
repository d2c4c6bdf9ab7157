use serde_json::json;

use super::shape::Mixer;
use super::*;
use crate::Tokenizer;
use crate::cache::KvKind;
use crate::kernels::Kernels;
use crate::model::{Model, Spec, know};
use crate::testing::TinyModel;
use crate::weights::Source;

const GIB: f64 = (1_u64 << 30) as f64;

/// A machine with this much memory, 20 GB/s from it and 2 GB/s from disk.
fn ask(ram_gib: u64, context_tokens: u64, kv: Kv) -> Ask {
    Ask { ram_bytes: ram_gib << 30, context_tokens, kv, ram_bytes_per_s: 20e9, disk_bytes_per_s: 2e9 }
}

fn fixtures() -> Vec<PathBuf> {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let mut found: Vec<_> = std::fs::read_dir(models).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn known_shapes_have_the_weights_their_makers_say() {
    // Billions, in all and for each token.
    let check = |name: &str, total: f64, active: f64| {
        let plan = plan(&Shape::named(name).unwrap(), &ask(64, 1, Kv::F16)).unwrap();
        let found = [plan.parameters, plan.active_parameters].map(|n| n as f64 / 1e9);
        for (found, expected) in found.into_iter().zip([total, active]) {
            // To the last digit that is given here.
            let digits = if expected >= 1000.0 { 0.05 } else { 0.005 };
            assert!((found - expected).abs() <= digits, "{name}: {found} and not {expected}");
        }
    };
    check("deepseek-v4-flash", 284.33, 13.27);
    check("deepseek-v4-pro", 1573.0, 48.85);
    check("deepseek-v3", 671.03, 36.63);
    check("gpt-oss-20b", 20.91, 3.61);
    check("gpt-oss-120b", 116.83, 5.13);
    check("qwen3-30b-a3b", 30.53, 3.04);
    check("qwen3-235b-a22b", 235.09, 21.57);
    check("qwen3-coder-480b-a35b", 480.15, 34.54);
    check("mixtral-8x7b", 46.70, 12.75);
    check("olmoe-1b-7b", 6.92, 1.18);
    check("qwen2.5-coder-1.5b", 1.54, 1.54);
}

#[test]
fn a_million_tokens_take_what_their_layouts_say() {
    let check = |name: &str, kv: Kv, gib: f64| {
        let shape = Shape::named(name).unwrap();
        let kept = shape.parts.kept(kv, 1 << 20) as f64 / GIB;
        assert!((kept - gib).abs() < 0.01_f64.max(gib / 1000.0), "{name} {kv:?}: {kept} GiB and not {gib}");
    };
    // Rows of 584 bytes (448 in FP8, 64 in two bytes, seven scales), and of 68 for what is chosen by.
    check("deepseek-v4-flash", Kv::Fp8, 3.44);
    check("deepseek-v4-flash", Kv::F16, 6.72);
    check("deepseek-v4-pro", Kv::Fp8, 4.92);
    check("deepseek-v4-pro", Kv::F16, 9.63);
    check("deepseek-v3.2", Kv::Fp8, 46.9);
    check("deepseek-v3.2", Kv::F16, 83.9);
    // Three sources of rows for two positions each and one for every position: 890 bytes, and the windows.
    check("deepseek-v4.1-flash", Kv::Fp8, 0.872);
    // 48 layers of four heads of 128.
    check("qwen3-30b-a3b", Kv::F16, 96.0);
    check("qwen3-30b-a3b", Kv::Q8, 49.5);

    let flash = Shape::named("deepseek-v4-flash").unwrap();
    assert_eq!(flash.parts.kept(Kv::Fp8, 1 << 20).div_ceil(1 << 20), 3518);
    assert_eq!(flash.kv(), Kv::Fp8);
    assert_eq!(Shape::named("qwen3.6-35b-a3b").unwrap().kv(), Kv::F16);
}

#[test]
fn the_catalog_says_the_memory_that_the_plan_comes_to() {
    // People buy machines by it. A conversion to four bits has the size that the catalog says, in several kinds of blocks;
    // what the makers' weights take is counted from their shape.
    let check = |id: &str, shape: &str, is_converted: bool| {
        let model = crate::catalog::model(id).unwrap();
        let shape = Shape::named(shape).unwrap();
        let as_shipped = memory_bytes(&shape).unwrap();
        let Sizes { dense, embedding, experts, .. } = shape.sizes;
        let beside = as_shipped - u64::try_from(dense + embedding + experts).unwrap();
        let expected = if is_converted { model.download_bytes + beside } else { as_shipped };
        let off = model.memory_bytes.abs_diff(expected) as f64 / expected as f64;
        assert!(off < 0.01, "{id}: {} and not {expected}", model.memory_bytes);
    };
    check("qwen3.6-35b-a3b", "qwen3.6-35b-a3b", true);
    check("qwen3-coder-30b-a3b", "qwen3-30b-a3b", true);
    check("glm-4.7-flash", "glm-4.7-flash", true);
    check("gpt-oss-20b", "gpt-oss-20b", false);
    check("deepseek-v4-flash", "deepseek-v4-flash", false);
}

#[test]
fn every_known_shape_can_be_planned_for() {
    for name in shapes() {
        let shape = Shape::named(name).unwrap();
        let plan = plan(&shape, &ask(24, shape.context_tokens(), shape.kv())).unwrap();
        let [start, end] = plan.speeds[..] else { panic!("{name} has two speeds") };
        assert!(start.tokens_per_s > 0.0 && start.tokens_per_s >= end.tokens_per_s, "{name}: {plan:?}");
        assert!(start.tokens_per_s_ahead >= start.tokens_per_s, "{name}");
        assert!(plan.short_bytes > 0 || plan.ram_used_bytes <= plan.ram_bytes, "{name}: {plan:?}");
        let in_ram = plan.items.iter().filter(|item| item.home == Home::Ram);
        assert_eq!(in_ram.map(|item| item.bytes).sum::<u64>(), plan.ram_used_bytes, "{name}");
    }
}

#[test]
fn weights_are_counted_as_files_have_them() {
    // What is counted from a configuration must be what a whole file holds.
    let mut looking_ahead = 0;
    for folder in fixtures() {
        let shape = Shape::read(&folder).unwrap();
        let counted = shape.parts.weights();
        let name = folder.display();
        assert_eq!(counted.total(), shape.sizes.parameters, "{name}");
        assert_eq!(counted.active(), shape.sizes.active, "{name}");
        let bytes: u64 = shape.file().map(|file| std::fs::metadata(file).unwrap().len()).unwrap();
        let layers = shape.parts.layers.len();
        let is_ahead = |name: &str| matches!(Role::of(name, layers), Role::Ahead | Role::ExpertAhead);
        let tensors = Folder::sizes(&folder).unwrap();
        let ahead = tensors.iter().filter(|tensor| is_ahead(&tensor.name));
        let ahead = ahead.map(|tensor| u128::from(tensor.weights)).sum::<u128>();
        assert_eq!(shape.parts.weights_ahead().total(), ahead, "{name}");
        looking_ahead += usize::from(ahead > 0);
        let Sizes { dense, embedding, experts, tables, ahead: layer, ahead_experts, idle, .. } = shape.sizes;
        let all = (dense + embedding + experts + tables + layer + ahead_experts + idle) as u64;
        assert!(all < bytes && bytes - all < 200 * 1024, "{name}: {all} of {bytes}");
    }
    assert_eq!(looking_ahead, 5, "of every family with a layer that guesses ahead there is one");
}

#[test]
fn a_line_is_counted_as_the_engine_keeps_it() {
    // As long as the engine has a part, the plan's arithmetic is held against it.
    let mut seen = 0;
    for folder in fixtures() {
        let Ok(source) = Source::open(&folder, know) else { continue };
        let spec = Spec::read(&source).unwrap();
        let tokenizer = Tokenizer::from_json(&folder.join("tokenizer.json"));
        let tokenizer = tokenizer.unwrap_or_else(|_| Tokenizer::absent(spec.vocabulary));
        let model = Model::load(&source, spec, &tokenizer, 0, Kernels::PLAIN).unwrap();
        let shape = Shape::read(&folder).unwrap();
        if shape
            .parts
            .layers
            .iter()
            .any(|layer| matches!(layer.mixer, Mixer::Compressed(_) | Mixer::Delta(_)))
        {
            continue;
        }
        for (ours, kind) in [(Kv::F32, KvKind::F32), (Kv::F16, KvKind::F16), (Kv::Q8, KvKind::Q8)] {
            let engine = model.cache_layout(kind).bytes_per_token() as u128;
            assert_eq!(shape.parts.kept(ours, 1000), 1000 * engine, "{} {kind:?}", folder.display());
            let ahead = model.predictor().map(|predictor| predictor.cache_layout(kind).bytes_per_token());
            let ahead = ahead.unwrap_or(0) as u128;
            assert_eq!(shape.parts.kept_ahead(ours, 1000), 1000 * ahead, "{} {kind:?}", folder.display());
        }
        seen += 1;
    }
    assert!(seen >= 9, "{seen} families");
}

#[test]
fn memory_is_shared_out_in_order() {
    // 36 layers; an expert has 3 · 2880² weights in 17/32 bytes, and biases.
    let shape = Shape::named("gpt-oss-120b").unwrap();
    let of = |plan: &Plan, what: &str, home: Home| {
        let item = plan.items.iter().find(|item| item.what == what && item.home == home);
        item.map_or((0, 0), |item| (item.bytes, item.read_bytes))
    };
    let rich = plan(&shape, &ask(128, 4096, Kv::F16)).unwrap();
    let (experts, used) = of(&rich, "experts in use", Home::Ram);
    assert_eq!(experts, 36 * 128 * (3 * 2880 * 2880 + 3 * 2880) * 17 / 32);
    assert_eq!(used, experts / 32);
    assert_eq!((rich.experts_in_ram, rich.short_bytes), (1.0, 0));
    assert_eq!(of(&rich, "experts", Home::Disk), (0, 0));
    assert_eq!(rich.speeds[0].disk_bytes, 0);
    assert_eq!(of(&rich, "keys and values", Home::Ram).0, 4096 * 36 * 2 * 8 * 64 * 2);
    // Every other layer looks at 128 positions only.
    let looked = rich.speeds[1].ram_bytes - rich.speeds[0].ram_bytes;
    assert_eq!(looked, (4096 + 128) * 18 * 2 * 8 * 64 * 2);
    let expected = 20e9 / rich.speeds[0].ram_bytes as f64;
    assert!((rich.speeds[0].tokens_per_s - expected).abs() < 1e-9);

    // A quarter of the experts misses three quarters of the time.
    let need = rich.ram_used_bytes - experts;
    let poor = Ask { ram_bytes: need + experts / 4, ..ask(0, 4096, Kv::F16) };
    let poor = plan(&shape, &poor).unwrap();
    assert!((poor.experts_in_ram - 0.25).abs() < 1e-9 && poor.short_bytes == 0);
    assert_eq!(poor.ram_used_bytes, poor.ram_bytes);
    let missed = of(&poor, "experts", Home::Disk).1;
    assert!((missed as f64 / used as f64 - 0.75).abs() < 1e-6);
    let seconds = poor.speeds[0].ram_bytes as f64 / 20e9 + missed as f64 / 2e9;
    assert!((poor.speeds[0].tokens_per_s * seconds - 1.0).abs() < 1e-9);
    assert!((poor.speeds[0].tokens_per_s_ahead - 2e9 / missed as f64).abs() < 1e-9);

    // What must be in memory and is not there is said, and read for every token.
    let broke = plan(&shape, &ask(1, 4096, Kv::F16)).unwrap();
    assert!(broke.short_bytes > 1 << 30 && broke.speeds[0].disk_bytes > broke.short_bytes);
}

#[test]
fn tables_stay_on_disk() {
    let shape = Shape::named("deepseek-v4.1-flash").unwrap();
    let plan = plan(&shape, &ask(64, 1 << 20, Kv::Fp8)).unwrap();
    let tables = plan.items.iter().find(|item| item.what == "tables").unwrap();
    // Rows of 256 bytes and eight scales; a token reads 24 rows of each table, and a page for each part of a row.
    assert_eq!(tables.bytes, (384_006_168 + 384_016_682) * 264);
    assert_eq!((tables.home, tables.read_bytes), (Home::Disk, 2 * 24 * 2 * 4096));
    // 552 billion and two tables of 98 each.
    assert_eq!((plan.parameters as f64 / 1e9).round(), 748.0);
    assert_eq!((plan.active_parameters as f64 / 1e9).round(), 16.0);
}

#[test]
fn a_gguf_file_is_planned_for_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel { experts: 16, ..TinyModel::new("llama") }.write(&path);
    let shape = Shape::read(&path).unwrap();
    assert_eq!(shape.sizes.parameters, shape.parts.weights().total());
    let plan = plan(&shape, &ask(1, 1000, Kv::F16)).unwrap();
    let experts = plan.items.iter().find(|item| item.what == "experts in use").unwrap();
    // Two layers of 16 experts in Q8_0; a token goes through two.
    assert_eq!(experts.bytes, 2 * 16 * 3 * 128 * 192 * 34 / 32);
    assert_eq!(experts.read_bytes, experts.bytes / 8);
    assert_eq!(plan.kv_bytes, 1000 * 2 * 2 * 2 * 32 * 2);
    assert_eq!(shape.file(), Some(&*path));
    assert!(shape.stored_as("q4_k").is_err(), "a file is stored as it is");
}

#[test]
fn a_configuration_alone_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let config = known::SHAPES.iter().find(|(name, _)| *name == "qwen3-30b-a3b").unwrap().1();
    std::fs::write(&path, config.to_string()).unwrap();
    for path in [&*path, folder.path()] {
        let shape = Shape::read(path).unwrap();
        assert_eq!(shape.sizes, Shape::named("qwen3-30b-a3b").unwrap().sizes);
        assert_eq!(shape.file(), None);
        // 4.5 bits instead of 16.
        let small = shape.clone().stored_as("Q4_K").unwrap();
        let ratio = small.sizes.experts as f64 / shape.sizes.experts as f64;
        assert!((ratio - 4.5 / 16.0).abs() < 1e-6, "{ratio}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let why = |result: Result<Plan, Error>| result.unwrap_err().to_string();
    let qwen = Shape::named("qwen3-30b-a3b").unwrap();
    assert!(why(plan(&qwen, &ask(24, 0, Kv::F16))).contains("0 tokens"));
    assert!(why(plan(&qwen, &ask(24, 1 << 20, Kv::F16))).contains("made for 262144"));
    assert!(why(plan(&qwen, &ask(24, 100, Kv::Fp8))).contains("f32, f16 or q8"));
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let ask = Ask { disk_bytes_per_s: rate, ..ask(24, 100, Kv::F16) };
        assert!(why(plan(&qwen, &ask)).contains("no speed"));
    }
    assert!(Shape::named("gpt-5").unwrap_err().to_string().contains("qwen3-30b-a3b"));
    assert!(qwen.stored_as("q4_k_m").unwrap_err().to_string().contains("q4_k"));
    assert!(matches!(Shape::read(Path::new("/no/such/file")), Err(Error::Io { .. })));
    assert!(matches!(Shape::read(Path::new("/no/such/config.json")), Err(Error::Io { .. })));
}

#[test]
fn broken_configurations_are_refused_by_key() {
    for (name, config) in known::SHAPES {
        let whole = config();
        let keys: Vec<String> = whole.as_object().unwrap().keys().cloned().collect();
        for key in keys {
            for value in [
                json!(null),
                json!(-1),
                json!("x"),
                json!(0),
                json!(u64::MAX),
                json!([]),
                json!({}),
                json!(1 << 24),
            ] {
                let mut broken = whole.clone();
                broken[&key] = value;
                // Whatever it is, it is answered: with what is wrong, or with a plan.
                match config::read(broken) {
                    Err(why) => assert!(!why.is_empty()),
                    Ok(described) => {
                        let shape = Shape::described(name, described);
                        let _ = plan(&shape, &ask(24, 1000, Kv::F16));
                    }
                }
            }
        }
    }
    let refusal = |key: &str, value: Value| {
        let mut config = known::SHAPES[2].1();
        config[key] = value;
        config::read(config).err().unwrap()
    };
    assert!(refusal("n_routed_experts", json!(3)).contains("6 experts are to be used of the 3"));
    assert!(refusal("compress_ratios", json!([0, 4])).contains("`compress_ratios` has 2"));
    assert!(refusal("head_dim", json!(null)).contains("`head_dim` is missing"));
    assert!(refusal("model_type", json!("gpt9")).contains("`gpt9`"));
    assert!(config::read(json!([])).is_err());
}

#[test]
fn this_machine_can_be_measured() {
    let rate = ram_bytes_per_s(&Shape::named("gpt-oss-20b").unwrap(), 2).unwrap();
    assert!(rate > 1e8 && rate < 1e13, "{rate}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &vec![7; 9 << 20]).unwrap();
    file.as_file().sync_all().unwrap();
    let rate = disk_bytes_per_s(file.path()).unwrap();
    assert!(rate > 1e5, "{rate}");
    let small = tempfile::NamedTempFile::new().unwrap();
    assert!(disk_bytes_per_s(small.path()).unwrap_err().to_string().contains("too small"));
}

//! The families: each is a function that describes its models with known parts.
//!
//! Keys and tensor names are those that llama.cpp's converter writes; a Hugging Face folder is read through the
//! same names.

use super::check::ORDER_MAX;
use super::reader::Reader;
use super::spec::{
    Activation, Candidates, Channel, Choice, Choosing, Compressed, Compression, Delta, Dense, Engram,
    EngramForm, Far, Gqa, GramHashes, Grams, Hyper, Indexer, Keys, Layer, Mixer, Mla, Moe, Norms, Output,
    Pairs, QkNorm, Residual, Rope, Router, Rows, Scaling, Scoring, Shared, Sharing, Spec, Trips, Yarn,
};
use crate::Error;

/// Describes the model in a file.
type Describe = fn(&Reader<'_>) -> Result<Spec, Error>;

/// The families by the name that files have for them.
pub(super) const FAMILIES: [(&str, Describe); 15] = [
    ("deepseek2", deepseek2),
    ("deepseek4", deepseek4),
    ("deepseek41", deepseek41),
    ("gemma3", gemma3),
    ("glm4moe", glm4moe),
    ("gpt-oss", gpt_oss),
    ("llama", llama),
    ("minimax-m2", minimax_m2),
    ("olmoe", olmoe),
    ("qwen2", qwen2),
    ("qwen3", qwen3),
    ("qwen35", qwen35),
    ("qwen35moe", qwen35),
    ("qwen3moe", qwen3moe),
    ("qwen3next", qwen3next),
];

/// Llama and what is built like it, Mixtral among it. Its files have queries and keys reordered so that neighbours
/// rotate together.
fn llama(file: &Reader<'_>) -> Result<Spec, Error> {
    let bias = file.has("blk.0.attn_q.bias");
    let gqa = Gqa { bias, rope: rope(file, Pairs::Neighbours)?, ..gqa(file)? };
    let channel = match file.number_or("expert_count", 0)? {
        0 => dense(file)?,
        _ => Channel::Moe(moe(file, "feed_forward_length")?),
    };
    spec(file, |_| Ok(layer(Mixer::Gqa(gqa.clone()), channel.clone())))
}

/// Qwen 2 and 2.5: biases on queries, keys and values, halves rotated together.
fn qwen2(file: &Reader<'_>) -> Result<Spec, Error> {
    let gqa = Gqa { bias: true, ..gqa(file)? };
    let (channel, windows) = (dense(file)?, windows(file, 1, 1)?);
    spec(file, |i| Ok(layer(Mixer::Gqa(Gqa { window: windows[i], ..gqa.clone() }), channel.clone())))
}

/// Qwen 3: no biases, and every head's queries and keys are normed.
fn qwen3(file: &Reader<'_>) -> Result<Spec, Error> {
    let gqa = Gqa { bias: file.has("blk.0.attn_q.bias"), qk_norm: QkNorm::Heads, ..gqa(file)? };
    let (channel, windows) = (dense(file)?, windows(file, 1, 1)?);
    spec(file, |i| Ok(layer(Mixer::Gqa(Gqa { window: windows[i], ..gqa.clone() }), channel.clone())))
}

/// Qwen 3 with experts. Layers without a router are dense.
fn qwen3moe(file: &Reader<'_>) -> Result<Spec, Error> {
    let gqa = Gqa { bias: file.has("blk.0.attn_q.bias"), qk_norm: QkNorm::Heads, ..gqa(file)? };
    let (moe, windows) = (moe(file, "expert_feed_forward_length")?, windows(file, 1, 1)?);
    spec(file, |i| {
        let channel = if routed(file, i) { Channel::Moe(moe.clone()) } else { dense(file)? };
        Ok(layer(Mixer::Gqa(Gqa { window: windows[i], ..gqa.clone() }), channel))
    })
}

/// OLMoE (Muennighoff et al. 2024): queries and keys are normed over all heads, and the chosen experts' weights
/// stay what the softmax over all of them said.
fn olmoe(file: &Reader<'_>) -> Result<Spec, Error> {
    let gqa = Gqa { qk_norm: QkNorm::Rows, ..gqa(file)? };
    let mut moe = moe(file, "expert_feed_forward_length")?;
    moe.router.normalise = file.truth_or("expert_weights_norm", false)?;
    spec(file, |_| Ok(layer(Mixer::Gqa(gqa.clone()), Channel::Moe(moe.clone()))))
}

/// MiniMax M2: a part of every head is rotated, queries and keys are normed over all heads, experts are chosen by
/// corrected sigmoids.
fn minimax_m2(file: &Reader<'_>) -> Result<Spec, Error> {
    let gqa = Gqa { qk_norm: QkNorm::Rows, ..gqa(file)? };
    let mut moe = moe(file, "expert_feed_forward_length")?;
    moe.router.scoring = scoring(file, Scoring::Sigmoid)?;
    moe.router.choice = Choice::Corrected;
    moe.router.floor = 1e-20;
    spec(file, |_| Ok(layer(Mixer::Gqa(gqa.clone()), Channel::Moe(moe.clone()))))
}

/// GLM 4.5 to 4.7: the first layers are dense, the others have corrected sigmoids and a shared expert.
fn glm4moe(file: &Reader<'_>) -> Result<Spec, Error> {
    let qk_norm = if file.has("blk.0.attn_q_norm.weight") { QkNorm::Heads } else { QkNorm::None };
    let gqa = Gqa { bias: file.has("blk.0.attn_q.bias"), qk_norm, ..gqa(file)? };
    let mut moe = moe(file, "expert_feed_forward_length")?;
    moe.router = corrected_sigmoids(file, moe.router)?;
    moe.shared = shared(file, &moe)?;
    spec_with_predictor(file, |i| {
        let channel = if routed(file, i) { Channel::Moe(moe.clone()) } else { dense(file)? };
        let norms = Norms::Before { channel: "post_attention_norm" };
        Ok(Layer { engram: None, mixer: Mixer::Gqa(gqa.clone()), channel, norms })
    })
}

/// gpt-oss: every other layer sees a window, every head has a sink, and everything has a bias.
fn gpt_oss(file: &Reader<'_>) -> Result<Spec, Error> {
    let mut base = Gqa { bias: true, output_bias: true, sinks: true, ..gqa(file)? };
    if let Scaling::Yarn(yarn) = &mut base.rope.scaling {
        yarn.whole_pairs = file.truth_or("rope.scaling.yarn_whole_pairs", false)?;
    }
    let mut moe = moe(file, "expert_feed_forward_length")?;
    moe.expert.activation = Activation::ShiftedSwish {
        alpha: file.real_or("swiglu_alpha", 1.702)?,
        limit: file.real_or("swiglu_limit", 7.0)?,
    };
    moe.expert.bias = true;
    moe.router.bias = true;
    moe.router.scoring = Scoring::SoftmaxOfChosen;
    moe.router.normalise = false;
    let windows = windows(file, 2, 1)?;
    let norms = Norms::Before { channel: "post_attention_norm" };
    spec(file, |i| {
        let mixer = Mixer::Gqa(Gqa { window: windows[i], ..base.clone() });
        Ok(Layer { engram: None, mixer, channel: Channel::Moe(moe.clone()), norms })
    })
}

/// Gemma 3: norms around either part, scaled embeddings, and five layers with a window for one without, each kind
/// with a rotation of its own.
fn gemma3(file: &Reader<'_>) -> Result<Spec, Error> {
    let base = Gqa { qk_norm: QkNorm::Heads, window: None, ..gqa(file)? };
    let scale = file.real_or("attention.scale", base.scale)?;
    let near = Rope {
        base: file.real_or("rope.freq_base_swa", 10_000.0)?,
        scaling: Scaling::None,
        ..base.rope.clone()
    };
    let channel = Channel::Dense(Dense {
        hidden: file.number("feed_forward_length")?,
        bias: false,
        activation: Activation::Gelu,
    });
    let windows = windows(file, 6, 5)?;
    let mut spec = spec(file, |i| {
        let rope = if windows[i].is_some() { near.clone() } else { base.rope.clone() };
        let mixer = Mixer::Gqa(Gqa { window: windows[i], scale, rope, ..base.clone() });
        Ok(Layer { engram: None, mixer, channel: channel.clone(), norms: Norms::Around })
    })?;
    spec.embedding_scale = (spec.width as f32).sqrt();
    Ok(spec)
}

/// DeepSeek V2, V3 and R1, and what is built like them under the same name, such as GLM 4.7 Flash: keys and values
/// made of one short row, dense layers first, then shared experts beside the others.
fn deepseek2(file: &Reader<'_>) -> Result<Spec, Error> {
    let mla = mla(file)?;
    let moe = match file.number_or("expert_count", 0)? {
        0 => None,
        _ => {
            let mut moe = moe(file, "expert_feed_forward_length")?;
            moe.router.normalise = file.truth_or("expert_weights_norm", false)?;
            let layers = file.layers()?;
            if (0..layers).any(|i| file.has(&format!("blk.{i}.exp_probs_b.bias"))) {
                moe.router = corrected_sigmoids(file, moe.router)?;
            } else if let count @ 2.. = file.number_or("expert_group_count", 1)? {
                let used = file.number_or("expert_group_used_count", count)?;
                moe.router.choice = Choice::GroupedByBest { count, used };
            }
            moe.shared = shared(file, &moe)?;
            Some(moe)
        }
    };
    spec_with_predictor(file, |i| {
        let channel = match &moe {
            Some(moe) if routed(file, i) => Channel::Moe(moe.clone()),
            _ => dense(file)?,
        };
        Ok(layer(Mixer::Mla(mla.clone()), channel))
    })
}

/// Qwen 3 Next: of four layers three have states and one has gated attention.
fn qwen3next(file: &Reader<'_>) -> Result<Spec, Error> {
    with_states(file, Sharing::Neighbours)
}

/// Qwen 3.5 and 3.6, with and without experts: built like Qwen 3 Next, and their values' heads are reordered in
/// GGUF files.
fn qwen35(file: &Reader<'_>) -> Result<Spec, Error> {
    let sharing = if file.truth_or("ssm.reordered", true)? { Sharing::Rounds } else { Sharing::Neighbours };
    with_states(file, sharing)
}

/// Layers with states and layers with gated attention.
fn with_states(file: &Reader<'_>, sharing: Sharing) -> Result<Spec, Error> {
    let gqa = Gqa { qk_norm: QkNorm::Heads, gate: true, ..gqa(file)? };
    let value_heads = file.number("ssm.time_step_rank")?;
    let values = file.number("ssm.inner_size")?;
    if value_heads == 0 || !values.is_multiple_of(value_heads) {
        return Err(file.bad(format!("{values} values cannot be shared out among {value_heads} heads")));
    }
    let layers = file.layers()?;
    let interval = file.number_or("full_attention_interval", 4)?;
    let listed = file.per_layer("attention.recurrent_layers", layers)?;
    let has_state = |i: usize| match &listed {
        // What guesses ahead is attention in all of them.
        _ if i >= layers => false,
        Some(list) => list[i] != 0,
        None => interval == 0 || !(i + 1).is_multiple_of(interval),
    };
    let moe = match file.number_or("expert_count", 0)? {
        0 => None,
        _ => {
            let mut moe = moe(file, "expert_feed_forward_length")?;
            moe.shared = shared(file, &moe)?.map(|shared| Shared { gate: true, ..shared });
            Some(moe)
        }
    };
    spec_with_predictor(file, |i| {
        let mixer = if has_state(i) {
            Mixer::Delta(Delta {
                key_heads: file.number("ssm.group_count")?,
                key: file.number("ssm.state_size")?,
                value_heads,
                value: values / value_heads,
                sharing,
                taps: file.number("ssm.conv_kernel")?,
                packed: file.has(&format!("blk.{i}.ssm_in.weight")),
                packed_rates: file.has(&format!("blk.{i}.ssm_ba.weight")),
            })
        } else {
            let bias = file.has(&format!("blk.{i}.attn_q.bias"));
            let output_bias = file.has(&format!("blk.{i}.attn_output.bias"));
            Mixer::Gqa(Gqa { bias, output_bias, ..gqa.clone() })
        };
        let channel = match &moe {
            Some(moe) if routed(file, i) => Channel::Moe(moe.clone()),
            _ => dense(file)?,
        };
        Ok(Layer { engram: None, mixer, channel, norms: Norms::Before { channel: "post_attention_norm" } })
    })
}

/// DeepSeek V4: four residual streams, attention over a window and over compressed rows, and experts of which the
/// first layers' are chosen by a table. Layers without compressed rows have a rotation of their own.
fn deepseek4(file: &Reader<'_>) -> Result<Spec, Error> {
    // A layer with an indexer compresses with an overlap, one without does not. Any part of one tells, so that a part that
    // is missing is missed by its name.
    let names = file.file.names();
    let mut spec = compressed(file, Trips::V4, |i, ratios| {
        let indexer_of = format!("blk.{i}.indexer");
        if !names.iter().any(|name| name.starts_with(&indexer_of)) {
            let rows = Rows::Own(Compression::Placed);
            return Ok(Far { ratio: ratios[i], rows, choice: Choosing::All });
        }
        let choice = Choosing::Indexed(indexer(file, Keys::Compressed)?);
        Ok(Far { ratio: ratios[i], rows: Rows::Own(Compression::Overlapping), choice })
    })?;
    // No published model of this family has tables; one that was trained with the paper's module does.
    let form = EngramForm::Paper { taps: file.number_or("engram.conv_kernel", 4)? };
    tables(file, &mut spec, form)?;
    Ok(spec)
}

/// DeepSeek V4.1: some layers make compressed rows, some choose among them, and those that follow see the same rows as
/// long as these stand for as many positions. Parts read the streams with weights of the part before them, and some
/// layers have a table.
fn deepseek41(file: &Reader<'_>) -> Result<Spec, Error> {
    let layers = file.layers()?;
    let has = |i: usize, part: &str| file.has(&format!("blk.{i}.{part}"));
    // A converter leaves it to the tensors which layers these are.
    let sources = |key: &str, part: &str| -> Result<Vec<usize>, Error> {
        let listed = file.list(key)?;
        Ok(listed.unwrap_or_else(|| (0..layers).filter(|&i| has(i, part)).collect()))
    };
    let makers = sources("attention.kv_source_layer_ids", "attn_compressor_kv.weight")?;
    let choosers = sources("attention.index_source_layer_ids", "indexer.attn_q_b.weight")?;
    // Older conversions leave these out: they are those of the released model.
    let kept = file.number_or("attention.candidate_topk_blocks", 2048)?;
    let size = file.number_or("attention.candidate_block_size", 8)?;
    let leaver = file.number_or("attention.candidate_source_layer", 20)?;
    let leaver = Some(leaver).filter(|leaver| kept > 0 && choosers.contains(leaver));
    let mut spec = compressed(file, Trips::V41, |i, ratios| {
        let ratio = ratios[i];
        let last =
            |of: &[usize]| of.iter().copied().filter(|&at| at <= i && ratios.get(at) == Some(&ratio)).max();
        let rows = match last(&makers) {
            Some(source) if source < i => Rows::Of(source),
            Some(_) if ratio == 1 => Rows::Own(Compression::Single),
            Some(_) => Rows::Own(Compression::Scored),
            None => {
                return Err(file.bad(format!("layer {i} has no layer before it that makes rows of {ratio}")));
            }
        };
        let choice = match last(&choosers) {
            Some(source) if source < i => Choosing::AsBefore,
            Some(_) => {
                let keys = if matches!(rows, Rows::Own(_)) { Keys::OfRows } else { Keys::OfSource };
                let candidates = match leaver {
                    Some(leaver) if i == leaver => Candidates::Leaves { kept, size },
                    Some(leaver) if i > leaver => Candidates::Left { size },
                    _ => Candidates::All,
                };
                Choosing::Indexed(Indexer { candidates, ..indexer(file, keys)? })
            }
            None => {
                return Err(
                    file.bad(format!("layer {i} has no layer before it that chooses rows of {ratio}"))
                );
            }
        };
        Ok(Far { ratio, rows, choice })
    })?;
    if let Residual::Hyper(hyper) = &mut spec.residual {
        hyper.lagged = true;
    }
    // What guesses ahead is of another kind here: it guesses several tokens at once.
    spec.predictor = None;
    // What corrects the experts of pieces of images.
    for name in file.file.names().iter().filter(|name| name.contains("exp_probs_b_vl")) {
        file.file.pass_over(name);
    }
    tables(file, &mut spec, EngramForm::Shared)?;
    Ok(spec)
}

/// Gives layers their tables, if the file says that they have some.
fn tables(file: &Reader<'_>, spec: &mut Spec, form: EngramForm) -> Result<(), Error> {
    let Some(tables) = file.list("engram.layer_ids")?.filter(|tables| !tables.is_empty()) else {
        return Ok(());
    };
    let row = file.number("engram.key_length")?;
    for (which, &table) in tables.iter().enumerate() {
        let layer = spec.layers.get_mut(table);
        let layer =
            layer.ok_or_else(|| file.bad(format!("layer {table} is to have a table, and is none")))?;
        layer.engram = Some(Engram { which, row, form });
    }
    spec.grams = Some(grams(file, tables)?);
    Ok(())
}

/// How n-grams are looked up in the tables of these layers.
fn grams(file: &Reader<'_>, layers: Vec<usize>) -> Result<Grams, Error> {
    let order = file.number_or("engram.max_ngram_size", 4)?;
    let list = |key: &str| {
        let list = file.file.numbers(&file.key(key))?;
        list.ok_or_else(|| file.bad(format!("`{}` is missing", file.key(key))))
    };
    let hashes = if file.is_list("engram.multipliers") {
        let class = |class: u64| {
            u32::try_from(class)
                .map_err(|_| file.bad(format!("its tokens have a class {class}, which is too many")))
        };
        GramHashes::Given {
            classes: list("engram.token_map")?.into_iter().map(class).collect::<Result<_, _>>()?,
            padding: class(file.number("engram.pad_id")? as u64)?,
            multipliers: list("engram.multipliers")?,
            primes: list("engram.primes")?,
            starts: list("engram.offsets")?,
        }
    } else {
        // One number for all orders, or one for each. Conversions without any are of the released model.
        let rows_min = match file.list("engram.rows_min")? {
            Some(rows_min) => rows_min.into_iter().map(|rows| rows as u64).collect(),
            None => {
                let rows_min = file.number_or("engram.rows_min", 16_000_000)? as u64;
                vec![rows_min; order.saturating_sub(1).min(ORDER_MAX)]
            }
        };
        GramHashes::Drawn {
            layers,
            rows_min,
            padding: file.number_or("engram.pad_token_id", 2)?,
            seed: file.number_or("engram.seed", 0)? as u64,
            classes: Some(file.number_or("engram.class_count", 0)? as u64).filter(|&count| count > 0),
        }
    };
    let image = file.number_or("engram.image_token_id", usize::MAX)?;
    let image = (image != usize::MAX).then_some(image);
    Ok(Grams { order, heads: file.number("engram.head_count")?, image, hashes })
}

/// An indexer that judges all rows.
fn indexer(file: &Reader<'_>, keys: Keys) -> Result<Indexer, Error> {
    Ok(Indexer {
        heads: file.number("attention.indexer.head_count")?,
        head: file.number("attention.indexer.key_length")?,
        rows: file.number("attention.indexer.top_k")?,
        keys,
        candidates: Candidates::All,
    })
}

/// What DeepSeek V4 and V4.1 have in common. `far` describes the rows of several positions that a layer sees, if its
/// ratio is not 0, from the ratios of all layers.
fn compressed(
    file: &Reader<'_>,
    trips: Trips,
    far: impl Fn(usize, &[usize]) -> Result<Far, Error>,
) -> Result<Spec, Error> {
    let layers = file.layers()?;
    let far_rope = {
        let base = file.real("attention.compress_rope_freq_base")?;
        let mut rope = Rope { base, ..rope(file, Pairs::Neighbours)? };
        if let Scaling::Yarn(yarn) = &mut rope.scaling {
            yarn.magnitude = 1.0;
        }
        rope
    };
    let near_rope = Rope { scaling: Scaling::None, ..rope(file, Pairs::Neighbours)? };
    let base = Compressed {
        heads: file.number("attention.head_count")?,
        head: file.number("attention.key_length")?,
        query_rank: file.number("attention.q_lora_rank")?,
        query_norm: trips == Trips::V4,
        output_groups: file.number("attention.output_group_count")?,
        output_rank: file.number("attention.output_lora_rank")?,
        window: file.number("attention.sliding_window")?,
        rope: near_rope,
        far: None,
        trips: Some(trips),
    };
    let ratios = file.per_layer("attention.compress_ratios", layers)?;
    let ratios =
        ratios.ok_or_else(|| file.bad(format!("`{}` is missing", file.key("attention.compress_ratios"))))?;
    let mut base_moe = moe(file, "expert_feed_forward_length")?;
    base_moe.router.scoring = scoring(file, Scoring::SqrtSoftplus)?;
    base_moe.router.floor = 1e-20;
    let limits = file.real_per_layer("swiglu_clamp_exp", layers)?.unwrap_or_else(|| vec![0.0; layers]);
    let shared_limits = file.real_per_layer("swiglu_clamp_shexp", layers)?.unwrap_or_else(|| limits.clone());
    // Some files have a limit for what guesses ahead, in some it is that of the last layer.
    let at = |limits: &[f32], i: usize| limits.get(i).or(limits.last()).copied().unwrap_or(0.0);
    let tables = file.number_or("hash_layer_count", 0)?;
    let mut spec = spec_with_predictor(file, |i| {
        // What guesses ahead sees a window and nothing else.
        let mixer = if i >= layers || ratios[i] == 0 {
            base.clone()
        } else {
            Compressed { rope: far_rope.clone(), far: Some(far(i, &ratios[..layers])?), ..base.clone() }
        };
        let mut moe = base_moe.clone();
        moe.router.choice = if i < tables { Choice::Table } else { Choice::Corrected };
        moe.expert.activation = clamped_silu(at(&limits, i));
        moe.shared = shared(file, &moe)?;
        if let Some(shared) = &mut moe.shared {
            shared.dense.activation = clamped_silu(at(&shared_limits, i));
        }
        Ok(layer(Mixer::Compressed(mixer), Channel::Moe(moe)))
    })?;
    spec.residual = Residual::Hyper(Hyper {
        streams: file.number("hyper_connection.count")?,
        iterations: file.number("hyper_connection.sinkhorn_iterations")?,
        epsilon: file.real("hyper_connection.epsilon")?,
        lagged: false,
    });
    Ok(spec)
}

/// Silu with a limit, where a limit of 0 is none.
fn clamped_silu(limit: f32) -> Activation {
    if limit > 0.0 { Activation::ClampedSilu { limit } } else { Activation::Silu }
}

/// The parts that every model has, with `layer` for each of its layers.
fn spec(file: &Reader<'_>, layer: impl Fn(usize) -> Result<Layer, Error>) -> Result<Spec, Error> {
    Ok(Spec {
        architecture: file.architecture.to_owned(),
        vocabulary: file.file.shape("token_embd.weight")?.first().copied().unwrap_or(0),
        width: file.number("embedding_length")?,
        context_tokens: file.number("context_length")?,
        norm_epsilon: file.real("attention.layer_norm_rms_epsilon")?,
        embedding_scale: 1.0,
        output: if file.has("output.weight") { Output::Separate } else { Output::Tied },
        residual: Residual::Plain,
        grams: None,
        logit_cap: Some(file.real_or("final_logit_softcapping", 0.0)?).filter(|&cap| cap > 0.0),
        layers: (0..file.layers()?).map(layer).collect::<Result<_, _>>()?,
        predictor: None,
    })
}

/// The same for families whose models may have a layer behind the others that guesses ahead: `layer` describes that one,
/// too.
fn spec_with_predictor(
    file: &Reader<'_>,
    layer: impl Fn(usize) -> Result<Layer, Error>,
) -> Result<Spec, Error> {
    let mut spec = spec(file, &layer)?;
    let behind = spec.layers.len();
    if file.has(&format!("blk.{behind}.nextn.enorm.weight")) {
        spec.predictor = Some(layer(behind)?);
    }
    Ok(spec)
}

/// A layer with a norm before either part.
fn layer(mixer: Mixer, channel: Channel) -> Layer {
    Layer { engram: None, mixer, channel, norms: Norms::Before { channel: "ffn_norm" } }
}

/// Attention with as many heads as the file says, halves rotated together, and nothing special.
fn gqa(file: &Reader<'_>) -> Result<Gqa, Error> {
    let heads = file.number("attention.head_count")?;
    let kv_heads = file.number_or("attention.head_count_kv", heads)?;
    let head = file.number_or("attention.key_length", file.number("embedding_length")? / heads.max(1))?;
    if file.number_or("attention.value_length", head)? != head {
        return Err(file.bad("keys and values of different lengths are not supported in this family"));
    }
    let clamp = file.real_or("attention.clamp_kqv", 0.0)?;
    let context = file.number("context_length")?;
    // Families whose layers differ say so themselves; here a window holds for all.
    let window = Some(file.number_or("attention.sliding_window", 0)?).filter(|&n| n > 0 && n < context);
    Ok(Gqa {
        heads,
        kv_heads,
        head,
        bias: false,
        output_bias: file.has("blk.0.attn_output.bias"),
        clamp: (clamp > 0.0).then_some(clamp),
        qk_norm: QkNorm::None,
        rope: rope(file, Pairs::Halves)?,
        scale: 1.0 / (head as f32).sqrt(),
        window,
        sinks: false,
        gate: false,
    })
}

/// Attention over short rows.
fn mla(file: &Reader<'_>) -> Result<Mla, Error> {
    let rotated = file.number("rope.dimension_count")?;
    // Files that have the matrices of keys and values in one give the lengths as if every head had its own.
    let key = file.number_or("attention.key_length_mla", file.number("attention.key_length")?)?;
    let value = file.number_or("attention.value_length_mla", file.number("attention.value_length")?)?;
    let Some(still) = key.checked_sub(rotated) else {
        return Err(file.bad(format!("{rotated} numbers are to be rotated of keys that have {key}")));
    };
    let mut rope = Rope { rotated, ..rope(file, Pairs::Neighbours)? };
    let mut scale = 1.0 / (key as f32).sqrt();
    let growth = file.real_or("rope.scaling.yarn_log_multiplier", 0.0)?;
    if let Scaling::Yarn(yarn) = &mut rope.scaling
        && growth > 0.0
    {
        // All scores grow, and not only what the rotated numbers add to them.
        let grown = 1.0 + growth * yarn.factor.max(1.0).ln();
        scale *= grown * grown;
        let magnitude = file.real_or("rope.scaling.attn_factor", 1.0)?;
        yarn.magnitude = file.real_or("rope.scaling.magnitude", magnitude)?;
    }
    Ok(Mla {
        heads: file.number("attention.head_count")?,
        query_row: Some(file.number_or("attention.q_lora_rank", 0)?).filter(|&row| row > 0),
        row: file.number("attention.kv_lora_rank")?,
        still,
        value,
        bias: file.has("blk.0.attn_kv_a_mqa.bias"),
        rope,
        scale,
    })
}

/// The rotation the file describes.
pub(super) fn rope(file: &Reader<'_>, pairs: Pairs) -> Result<Rope, Error> {
    let heads = file.number("attention.head_count")?;
    let head = file.number_or("attention.key_length", file.number("embedding_length")? / heads.max(1))?;
    let factor = file.real_or("rope.scaling.factor", 1.0)?;
    let magnitude = file.real_or("rope.scaling.attn_factor", 1.0)? * (0.1 * factor.max(1.0).ln() + 1.0);
    let scaling = match file.text("rope.scaling.type").unwrap_or("none") {
        "none" => Scaling::None,
        "linear" => Scaling::Linear(factor),
        "yarn" => Scaling::Yarn(Yarn {
            factor,
            original: file.number("rope.scaling.original_context_length")?,
            beta_fast: file.real_or("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: file.real_or("rope.scaling.yarn_beta_slow", 1.0)?,
            whole_pairs: file.truth_or("rope.scaling.yarn_whole_pairs", true)?,
            magnitude: file.real_or("rope.scaling.magnitude", magnitude)?,
        }),
        other => return Err(file.bad(format!("rope scaling of type `{other}` is not supported"))),
    };
    // A folder has queries and keys as they were trained; converters reorder them for some families.
    let pairs = match file.text("rope.pairs") {
        Some("halves") => Pairs::Halves,
        Some("neighbours") => Pairs::Neighbours,
        _ => pairs,
    };
    Ok(Rope {
        pairs,
        rotated: file.number_or("rope.dimension_count", head)?,
        base: file.real_or("rope.freq_base", 10_000.0)?,
        scaling,
        factors: file.has("rope_freqs.weight"),
    })
}

/// A gated feed-forward with silu.
fn dense(file: &Reader<'_>) -> Result<Channel, Error> {
    let hidden = file.number("feed_forward_length")?;
    let bias = file.has("blk.0.ffn_gate.bias");
    Ok(Channel::Dense(Dense { hidden, bias, activation: Activation::Silu }))
}

/// Whether layer `i` has a router.
pub(super) fn routed(file: &Reader<'_>, i: usize) -> bool {
    file.has(&format!("blk.{i}.ffn_gate_inp.weight"))
}

/// Experts chosen by a softmax over all, their weights made to add up to one. `length` is the key of the experts'
/// length.
pub(super) fn moe(file: &Reader<'_>, length: &str) -> Result<Moe, Error> {
    let hidden = match file.number_or(length, 0)? {
        // Older files have one length for both.
        0 => file.number("feed_forward_length")?,
        hidden => hidden,
    };
    Ok(Moe {
        experts: file.number("expert_count")?,
        expert: Dense { hidden, bias: false, activation: Activation::Silu },
        router: Router {
            used: file.number("expert_used_count")?,
            scoring: scoring(file, Scoring::Softmax)?,
            choice: Choice::Best,
            bias: false,
            normalise: file.truth_or("expert_weights_norm", true)?,
            floor: 0.0,
            scale: match file.real_or("expert_weights_scale", 1.0)? {
                // Converters write 0 for what is not there.
                0.0 => 1.0,
                scale => scale,
            },
        },
        shared: None,
    })
}

/// Sigmoids with a correction, within groups if the file has several.
pub(super) fn corrected_sigmoids(file: &Reader<'_>, router: Router) -> Result<Router, Error> {
    let groups = file.number_or("expert_group_count", 1)?;
    let choice = if groups > 1 {
        Choice::Grouped { count: groups, used: file.number_or("expert_group_used_count", groups)? }
    } else {
        Choice::Corrected
    };
    Ok(Router { scoring: scoring(file, Scoring::Sigmoid)?, choice, floor: 1e-20, ..router })
}

/// The shared expert, `expert_shared_count` times as long as the others.
pub(super) fn shared(file: &Reader<'_>, moe: &Moe) -> Result<Option<Shared>, Error> {
    let count = file.number_or("expert_shared_count", 0)?;
    let hidden = file.number_or("expert_shared_feed_forward_length", count * moe.expert.hidden)?;
    Ok((hidden > 0).then_some(Shared { dense: Dense { hidden, ..moe.expert }, gate: false }))
}

/// The scoring by the number files have for it.
fn scoring(file: &Reader<'_>, otherwise: Scoring) -> Result<Scoring, Error> {
    match file.number_or("expert_gating_func", 0)? {
        0 => Ok(otherwise),
        1 => Ok(Scoring::Softmax),
        2 => Ok(Scoring::Sigmoid),
        3 => Ok(Scoring::SoftmaxOfChosen),
        4 => Ok(Scoring::SqrtSoftplus),
        other => Err(file.bad(format!("experts are chosen by function {other}, which is not known"))),
    }
}

/// Each layer's window. Without a pattern in the file, layer `i` has none if `i % period == without`.
fn windows(file: &Reader<'_>, period: usize, without: usize) -> Result<Vec<Option<usize>>, Error> {
    let layers = file.layers()?;
    let window = file.number_or("attention.sliding_window", 0)?;
    let pattern = file.per_layer("attention.sliding_window_pattern", layers)?;
    let near = |i: usize| match &pattern {
        // A list says for every layer whether it has a window, one number after how many layers one has none.
        Some(list) if file.is_list("attention.sliding_window_pattern") => list[i] != 0,
        Some(list) => list[i] == 0 || !(i + 1).is_multiple_of(list[i]),
        None => i % period != without,
    };
    Ok((0..layers).map(|i| (window > 0 && near(i)).then_some(window)).collect())
}

//! What `config.json` says, under the keys that GGUF has for it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A value under a GGUF key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Key {
    Number(u64),
    Numbers(Vec<u64>),
    Real(f64),
    Truth(bool),
    Text(String),
}

/// The model types of `config.json` that are known, and GGUF's names of their families.
const FAMILIES: [(&str, &str); 23] = [
    ("deepseek_v2", "deepseek2"),
    ("deepseek_v3", "deepseek2"),
    ("deepseek_v4", "deepseek4"),
    ("deepseek_v41", "deepseek41"),
    ("deepseek_v41_text", "deepseek41"),
    ("gemma3", "gemma3"),
    ("gemma3_text", "gemma3"),
    ("glm4_moe", "glm4moe"),
    ("glm4_moe_lite", "deepseek2"),
    ("gpt_oss", "gpt-oss"),
    ("llama", "llama"),
    ("minimax_m2", "minimax-m2"),
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("olmoe", "olmoe"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen3_5", "qwen35"),
    ("qwen3_5_moe", "qwen35moe"),
    ("qwen3_5_moe_text", "qwen35moe"),
    ("qwen3_5_text", "qwen35"),
    ("qwen3_moe", "qwen3moe"),
    ("qwen3_next", "qwen3next"),
];

/// More layers than any model has; a number beyond it is damage, not a model.
const LAYERS_MAX: u64 = 1024;
/// More of a head's numbers than are rotated in any model.
const ROTATED_MAX: u64 = 1 << 16;

/// The family of a model type.
pub(super) fn family(model_type: &str) -> Option<&'static str> {
    FAMILIES.iter().find(|(theirs, _)| *theirs == model_type).map(|(_, ours)| *ours)
}

/// A configuration, its text model's part alone.
pub(super) struct Config {
    family: &'static str,
    values: Map<String, Value>,
}

impl Config {
    /// Takes the text model's part out of a whole configuration. What a configuration leaves out is what its
    /// family's makers have for it.
    pub(super) fn new(whole: Value, family: &'static str) -> Result<Config, String> {
        let Value::Object(mut values) = whole else { return Err("its config.json is no object".into()) };
        if let Some(Value::Object(text)) = values.remove("text_config") {
            let outer = std::mem::replace(&mut values, text);
            for (key, value) in outer {
                values.entry(key).or_insert(value);
            }
        }
        values.retain(|_, value| !value.is_null());
        for (key, value) in defaults(family) {
            values.entry(key).or_insert(value);
        }
        let config = Config { family, values };
        let layers =
            config.number("num_hidden_layers")?.ok_or("its config.json has no `num_hidden_layers`")?;
        if layers > LAYERS_MAX {
            return Err(format!("its config.json announces {layers} layers"));
        }
        if let Some(method) = config.get("quantization_config").and_then(|q| q["quant_method"].as_str())
            && !["fp8", "mxfp4"].contains(&method)
        {
            return Err(format!(
                "its weights are quantised by `{method}`, which is not supported; get them in BF16, FP8 or MXFP4, or as GGUF"
            ));
        }
        Ok(config)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// How many layers there are, without those that only guess ahead.
    pub(super) fn layers(&self) -> usize {
        self.get("num_hidden_layers").and_then(Value::as_u64).map_or(0, |n| n as usize)
    }

    /// Whether norms are kept as what differs from one.
    pub(super) fn has_zero_centred_norms(&self) -> bool {
        matches!(self.family, "gemma3" | "qwen3next" | "qwen35" | "qwen35moe")
    }

    /// Rows and columns of FP8 weights that share a scale.
    pub(super) fn scale_block(&self) -> [usize; 2] {
        let block = self.get("quantization_config").map(|q| &q["weight_block_size"]);
        let side = |i: usize| block.and_then(|b| b[i].as_u64()).map_or(128, |n| n as usize);
        [side(0), side(1)]
    }

    /// Everything that a family's description may ask for.
    pub(super) fn keys(&self) -> Result<BTreeMap<String, Key>, String> {
        let mut keys = Keys { family: self.family, keys: BTreeMap::new() };
        let width = self.number("hidden_size")?.ok_or("its config.json has no `hidden_size`")?;
        let heads =
            self.number("num_attention_heads")?.ok_or("its config.json has no `num_attention_heads`")?;
        let head = self.number("head_dim")?.unwrap_or(width / heads.max(1));
        keys.number("block_count", self.number("num_hidden_layers")?);
        keys.number("context_length", self.number("max_position_embeddings")?);
        keys.number("embedding_length", Some(width));
        keys.number("feed_forward_length", self.number("intermediate_size")?);
        keys.number("attention.head_count", Some(heads));
        keys.number("attention.head_count_kv", self.number("num_key_value_heads")?);
        keys.number("attention.key_length", Some(head));
        keys.number("attention.value_length", Some(head));
        keys.real("attention.layer_norm_rms_epsilon", self.real("rms_norm_eps")?);
        keys.real("attention.clamp_kqv", self.real("clip_qkv")?);
        keys.real("swiglu_limit", self.real("swiglu_limit")?);
        keys.real("swiglu_alpha", self.real("swiglu_alpha")?);
        keys.real("final_logit_softcapping", self.real("final_logit_softcapping")?);
        if self.real("attn_logit_softcapping")?.is_some() {
            return Err("soft caps on attention scores are not supported".into());
        }
        self.rope_keys(&mut keys, head)?;
        self.window_keys(&mut keys)?;
        self.expert_keys(&mut keys)?;
        self.row_keys(&mut keys)?;
        self.state_keys(&mut keys)?;
        if matches!(self.family, "deepseek4" | "deepseek41") {
            self.compressed_keys(&mut keys)?;
        }
        if let Some(Value::Object(config)) = self.get("engram_config").filter(|_| self.family == "deepseek4")
        {
            paper_keys(config, &mut keys)?;
        }
        if self.family == "deepseek41" {
            self.source_keys(&mut keys)?;
            self.table_keys(&mut keys)?;
        }
        if self.family == "gemma3" {
            let scalar = self.real("query_pre_attn_scalar")?.unwrap_or(head as f64);
            keys.real("attention.scale", Some(scalar.powf(-0.5)));
        }
        Ok(keys.keys)
    }

    /// The rotation: `rope_scaling` of older configurations, `rope_parameters` of newer ones.
    fn rope_keys(&self, keys: &mut Keys, head: u64) -> Result<(), String> {
        let rope = self.rope();
        let number = |key: &str| rope.get(key).and_then(Value::as_f64);
        keys.real("rope.freq_base", number("rope_theta").or(self.real("rope_theta")?));
        let near = self.get("rope_parameters").and_then(|p| p["sliding_attention"]["rope_theta"].as_f64());
        keys.real("rope.freq_base_swa", near.or(self.real("rope_local_base_freq")?));
        let part = number("partial_rotary_factor").or(self.real("partial_rotary_factor")?);
        let rotated = match (self.number("rotary_dim")?, part) {
            (Some(rotated), None) => rotated,
            (_, Some(part)) => (head as f64 * part) as u64,
            (None, None) => head,
        };
        keys.number("rope.dimension_count", Some(rotated));
        // Folders have queries and keys as they were trained: halves rotate together, but for DeepSeek's.
        let neighbours = self.family == "deepseek2" && self.truth("rope_interleave")?.unwrap_or(true);
        keys.text("rope.pairs", if neighbours { "neighbours" } else { "halves" });
        match rope_type(&rope) {
            "default" | "llama3" => {}
            "linear" => {
                keys.text("rope.scaling.type", "linear");
                keys.real("rope.scaling.factor", number("factor"));
            }
            "yarn" => {
                let factor = number("factor").unwrap_or(1.0);
                keys.text("rope.scaling.type", "yarn");
                keys.real("rope.scaling.factor", Some(factor));
                let original = rope.get("original_max_position_embeddings").and_then(Value::as_u64);
                let original = original.or(self.number("max_position_embeddings")?);
                keys.number("rope.scaling.original_context_length", original);
                keys.real("rope.scaling.yarn_beta_fast", number("beta_fast"));
                keys.real("rope.scaling.yarn_beta_slow", number("beta_slow"));
                let whole = rope.get("truncate").and_then(Value::as_bool);
                keys.truth("rope.scaling.yarn_whole_pairs", Some(whole.unwrap_or(true)));
                let magnitude = match (number("attention_factor"), number("mscale"), number("mscale_all_dim"))
                {
                    (Some(magnitude), ..) => magnitude,
                    (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => {
                        magnitude(factor, one) / magnitude(factor, all)
                    }
                    (None, ..) => magnitude(factor, 1.0),
                };
                keys.real("rope.scaling.magnitude", Some(magnitude));
                keys.real("rope.scaling.yarn_log_multiplier", number("mscale_all_dim").map(|all| 0.1 * all));
            }
            other => return Err(format!("rope scaling of type `{other}` is not supported")),
        }
        Ok(())
    }

    /// The part of the configuration that speaks of the rotation of most layers.
    fn rope(&self) -> Map<String, Value> {
        let given = self.get("rope_parameters").or(self.get("rope_scaling")).and_then(Value::as_object);
        let Some(given) = given else { return Map::new() };
        // Families with two kinds of layers have one entry for each.
        match given.get("full_attention").or(given.get("compress")).and_then(Value::as_object) {
            Some(far) => far.clone(),
            None => given.clone(),
        }
    }

    /// What every frequency is divided by, as Llama 3 does it: slow ones by the factor, fast ones not at all.
    pub(super) fn rope_factors(&self) -> Result<Option<Vec<f32>>, String> {
        let rope = self.rope();
        if rope_type(&rope) != "llama3" {
            return Ok(None);
        }
        let real = |key: &str| {
            let value = rope.get(key).and_then(Value::as_f64).filter(|&x| x > 0.0);
            value.ok_or_else(|| format!("its rope scaling has no positive `{key}`"))
        };
        let (factor, low, high) = (real("factor")?, real("low_freq_factor")?, real("high_freq_factor")?);
        let original = real("original_max_position_embeddings")?;
        let keys = self.keys()?;
        let base = match keys.get(&format!("{}.rope.freq_base", self.family)) {
            Some(Key::Real(base)) => *base,
            _ => 10_000.0,
        };
        let Some(Key::Number(rotated)) = keys.get(&format!("{}.rope.dimension_count", self.family)) else {
            return Ok(None);
        };
        if *rotated > ROTATED_MAX {
            return Err(format!("{rotated} numbers of a head are to be rotated"));
        }
        let factors = (0..rotated / 2).map(|i| {
            let length = std::f64::consts::TAU * base.powf(2.0 * i as f64 / *rotated as f64);
            if length < original / high {
                1.0
            } else if length > original / low {
                factor as f32
            } else {
                let smooth = (original / length - low) / (high - low);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            }
        });
        Ok(Some(factors.collect()))
    }

    /// Which layers see a window.
    fn window_keys(&self, keys: &mut Keys) -> Result<(), String> {
        if self.get("use_sliding_window").and_then(Value::as_bool) == Some(false) {
            return Ok(());
        }
        let Some(window) = self.number("sliding_window")? else { return Ok(()) };
        let layers = self.layers();
        keys.number("attention.sliding_window", Some(window));
        let pattern: Option<Vec<u64>> = if let Some(Value::Array(types)) = self.get("layer_types") {
            Some(types.iter().map(|kind| u64::from(kind == "sliding_attention")).collect())
        } else if let Some(first) = self.number("max_window_layers")? {
            Some((0..layers as u64).map(|i| u64::from(i >= first)).collect())
        } else {
            let period = self.number("sliding_window_pattern")?.or(self.number("_sliding_window_pattern")?);
            period.map(|period| {
                (1..=layers as u64).map(|i| u64::from(period == 0 || !i.is_multiple_of(period))).collect()
            })
        };
        if let Some(pattern) = pattern {
            keys.numbers("attention.sliding_window_pattern", pattern);
        }
        Ok(())
    }

    fn expert_keys(&self, keys: &mut Keys) -> Result<(), String> {
        let any = |names: &[&str]| -> Result<Option<u64>, String> {
            for name in names {
                if let Some(number) = self.number(name)? {
                    return Ok(Some(number));
                }
            }
            Ok(None)
        };
        let Some(experts) = any(&["n_routed_experts", "num_local_experts", "num_experts"])? else {
            return Ok(());
        };
        keys.number("expert_count", Some(experts));
        keys.number("expert_used_count", any(&["num_experts_per_tok", "experts_per_token"])?);
        keys.number("expert_feed_forward_length", any(&["moe_intermediate_size", "intermediate_size"])?);
        keys.number("expert_shared_count", self.number("n_shared_experts")?);
        keys.number("expert_shared_feed_forward_length", self.number("shared_expert_intermediate_size")?);
        if self.get("topk_method").is_none_or(|method| method != "greedy") {
            keys.number("expert_group_count", self.number("n_group")?);
            keys.number("expert_group_used_count", self.number("topk_group")?);
        }
        keys.real("expert_weights_scale", self.real("routed_scaling_factor")?);
        keys.truth("expert_weights_norm", self.get("norm_topk_prob").and_then(Value::as_bool));
        let scoring = match self.get("scoring_func").and_then(Value::as_str) {
            Some("softmax") => Some(1),
            Some("sigmoid") => Some(2),
            Some("sqrtsoftplus") => Some(4),
            Some(other) => return Err(format!("experts are chosen by `{other}`, which is not known")),
            None => None,
        };
        keys.number("expert_gating_func", scoring);
        Ok(())
    }

    /// Keys and values that are made of one short row.
    fn row_keys(&self, keys: &mut Keys) -> Result<(), String> {
        let Some(row) = self.number("kv_lora_rank")? else { return Ok(()) };
        keys.number("attention.kv_lora_rank", Some(row));
        keys.number("attention.q_lora_rank", self.number("q_lora_rank")?);
        let rotated = self.number("qk_rope_head_dim")?;
        keys.number("rope.dimension_count", rotated);
        let still = self.number("qk_nope_head_dim")?;
        keys.number("attention.key_length_mla", still.zip(rotated).and_then(|(a, b)| a.checked_add(b)));
        keys.number("attention.value_length_mla", self.number("v_head_dim")?);
        Ok(())
    }

    /// Layers that have a state.
    fn state_keys(&self, keys: &mut Keys) -> Result<(), String> {
        let Some(heads) = self.number("linear_num_value_heads")? else { return Ok(()) };
        keys.number("ssm.time_step_rank", Some(heads));
        keys.number("ssm.group_count", self.number("linear_num_key_heads")?);
        keys.number("ssm.state_size", self.number("linear_key_head_dim")?);
        let value = self.number("linear_value_head_dim")?;
        keys.number("ssm.inner_size", value.and_then(|value| value.checked_mul(heads)));
        keys.number("ssm.conv_kernel", self.number("linear_conv_kernel_dim")?);
        // Only GGUF files have them in another order.
        keys.truth("ssm.reordered", Some(false));
        keys.number("full_attention_interval", self.number("full_attention_interval")?);
        if let Some(Value::Array(types)) = self.get("layer_types") {
            let states = types.iter().map(|kind| u64::from(kind == "linear_attention"));
            keys.numbers("attention.recurrent_layers", states.collect());
        }
        Ok(())
    }

    fn truth(&self, key: &str) -> Result<Option<bool>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_bool()
                .map(Some)
                .ok_or_else(|| format!("`{key}` in its config.json is neither true nor false")),
        }
    }

    /// Attention over compressed rows, and several residual streams.
    fn compressed_keys(&self, keys: &mut Keys) -> Result<(), String> {
        let rope = self.get("rope_parameters");
        let base = |kind: &str| rope.and_then(|rope| rope[kind]["rope_theta"].as_f64());
        keys.text("rope.pairs", "neighbours");
        keys.number("rope.dimension_count", self.number("qk_rope_head_dim")?);
        keys.real("rope.freq_base", base("main").or(self.real("rope_theta")?));
        let far = base("compress").or(self.real("compress_rope_theta")?);
        keys.real("attention.compress_rope_freq_base", far);
        keys.number("attention.q_lora_rank", self.number("q_lora_rank")?);
        keys.number("attention.output_lora_rank", self.number("o_lora_rank")?);
        keys.number("attention.output_group_count", self.number("o_groups")?);
        keys.numbers("attention.compress_ratios", self.ratios()?);
        keys.number("attention.indexer.head_count", self.number("index_n_heads")?);
        keys.number("attention.indexer.key_length", self.number("index_head_dim")?);
        keys.number("attention.indexer.top_k", self.number("index_topk")?);
        keys.number("hash_layer_count", Some(self.tables()?));
        keys.real("swiglu_clamp_exp", self.real("swiglu_limit")?);
        keys.number("hyper_connection.count", self.number("hc_mult")?);
        keys.number("hyper_connection.sinkhorn_iterations", self.number("hc_sinkhorn_iters")?);
        keys.real("hyper_connection.epsilon", self.real("hc_eps")?);
        Ok(())
    }

    /// Rows and choices of rows that layers have in common.
    fn source_keys(&self, keys: &mut Keys) -> Result<(), String> {
        for (theirs, ours) in [
            ("kv_source_layer_ids", "attention.kv_source_layer_ids"),
            ("index_source_layer_ids", "attention.index_source_layer_ids"),
        ] {
            if let Some(layers) = self.list(theirs)? {
                keys.numbers(ours, layers);
            }
        }
        // −1 stands for no layer.
        let source = match self.get("candidate_source_layer_id").and_then(Value::as_i64) {
            Some(..0) => None,
            _ => self.number("candidate_source_layer_id")?,
        };
        let blocks = self.number("candidate_topk_blocks")?.filter(|_| source.is_some()).unwrap_or(0);
        keys.number("attention.candidate_topk_blocks", Some(blocks));
        keys.number("attention.candidate_source_layer", source);
        keys.number("attention.candidate_block_size", self.number("candidate_block_size")?);
        Ok(())
    }

    /// Tables that are looked up by n-grams.
    fn table_keys(&self, keys: &mut Keys) -> Result<(), String> {
        let Some(layers) = self.list("engram_layer_ids")? else { return Ok(()) };
        keys.numbers("engram.layer_ids", layers);
        keys.number("engram.head_count", self.number("engram_n_heads")?);
        keys.number("engram.key_length", self.number("engram_head_dim")?);
        keys.number("engram.max_ngram_size", self.number("engram_max_ngram_size")?);
        keys.number("engram.rows_min", self.number("engram_vocab_size")?);
        keys.number("engram.pad_token_id", self.number("engram_pad_token_id")?);
        keys.number("engram.class_count", self.number("engram_compressed_vocab_size")?);
        keys.number("engram.image_token_id", self.number("image_token_id")?);
        Ok(())
    }

    fn list(&self, key: &str) -> Result<Option<Vec<u64>>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
        numbers.map(Some).ok_or_else(|| format!("`{key}` in its config.json is no list of whole numbers"))
    }

    /// How many positions every layer makes a row of: a list, or one number for each kind of layer.
    fn ratios(&self) -> Result<Vec<u64>, String> {
        let number = |value: &Value| value.as_u64();
        let ratios: Option<Vec<u64>> = match (self.get("compress_ratios"), self.get("layer_types")) {
            (Some(Value::Array(ratios)), _) => ratios.iter().map(number).collect(),
            (_, Some(Value::Array(kinds))) => {
                let rates = self.get("compress_rates");
                let ratio = |kind: &Value| {
                    let kind = kind.as_str()?;
                    if kind == "sliding_attention" { Some(0) } else { rates?.get(kind).and_then(number) }
                };
                kinds.iter().map(ratio).collect()
            }
            _ => None,
        };
        ratios.ok_or_else(|| "its config.json does not say what its layers compress".into())
    }

    /// How many layers have a table of experts; they are the first.
    fn tables(&self) -> Result<u64, String> {
        let Some(Value::Array(kinds)) = self.get("mlp_layer_types") else {
            return Ok(self.number("num_hash_layers")?.unwrap_or(0));
        };
        let count = kinds.iter().take_while(|kind| *kind == "hash_moe").count();
        if kinds.iter().skip(count).any(|kind| kind == "hash_moe") {
            return Err("its layers with tables of experts are not the first ones".into());
        }
        Ok(count as u64)
    }

    /// How many tokens there are, if it says so.
    pub(super) fn vocabulary(&self) -> Result<Option<u64>, String> {
        self.number("vocab_size")
    }

    fn number(&self, key: &str) -> Result<Option<u64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| format!("`{key}` in its config.json is no whole number")),
        }
    }

    fn real(&self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => {
                value.as_f64().map(Some).ok_or_else(|| format!("`{key}` in its config.json is no number"))
            }
        }
    }
}

/// Tables as the demo of their paper has them (arXiv 2601.07372): its `EngramConfig`, field by field.
fn paper_keys(config: &Map<String, Value>, keys: &mut Keys) -> Result<(), String> {
    let wrong = |key: &str| format!("`{key}` in the engram_config of its config.json is no whole number");
    let number = |key: &str, otherwise: u64| match config.get(key) {
        None => Ok(otherwise),
        Some(value) => value.as_u64().ok_or_else(|| wrong(key)),
    };
    let list = |key: &str, otherwise: &[u64]| match config.get(key) {
        None => Ok(otherwise.to_vec()),
        Some(value) => {
            let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
            numbers.ok_or_else(|| wrong(key))
        }
    };
    let (row, heads) = (number("n_embed_per_ngram", 512)?, number("n_head_per_ngram", 8)?);
    if heads == 0 || !row.is_multiple_of(heads) {
        return Err(format!("{row} numbers for an n-gram cannot be shared out among {heads} hashes"));
    }
    keys.numbers("engram.layer_ids", list("layer_ids", &[1, 15])?);
    keys.numbers("engram.rows_min", list("engram_vocab_size", &[646_400, 646_400])?);
    keys.number("engram.max_ngram_size", Some(number("max_ngram_size", 3)?));
    keys.number("engram.head_count", Some(heads));
    keys.number("engram.key_length", Some(row / heads));
    keys.number("engram.pad_token_id", Some(number("pad_id", 2)?));
    keys.number("engram.seed", Some(number("seed", 0)?));
    keys.number("engram.conv_kernel", Some(number("kernel_size", 4)?));
    Ok(())
}

/// What sines and cosines are multiplied with when positions are stretched by `factor` (Peng et al. 2023).
fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

fn rope_type(rope: &Map<String, Value>) -> &str {
    rope.get("rope_type").or(rope.get("type")).and_then(Value::as_str).unwrap_or("default")
}

/// What a configuration means when it leaves a key out.
fn defaults(family: &str) -> Vec<(String, Value)> {
    let defaults = match family {
        "deepseek4" => json!({
            "norm_topk_prob": true, "scoring_func": "sqrtsoftplus", "rms_norm_eps": 1e-6, "rope_theta": 1e4,
            "compress_rope_theta": 1.6e5, "swiglu_limit": 10.0, "hc_mult": 4, "hc_sinkhorn_iters": 20,
            "hc_eps": 1e-6,
        }),
        "deepseek41" => json!({
            "norm_topk_prob": true, "scoring_func": "sqrtsoftplus", "rms_norm_eps": 1e-20, "rope_theta": 1e4,
            "compress_rope_theta": 1.6e5, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
            "engram_pad_token_id": 2,
        }),
        "gemma3" => json!({
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 4096,
            "sliding_window_pattern": 6, "max_position_embeddings": 131_072,
        }),
        "glm4moe" => json!({ "norm_topk_prob": true, "n_group": 1, "topk_group": 1, "rms_norm_eps": 1e-5 }),
        "gpt-oss" => {
            json!({ "head_dim": 64, "sliding_window": 128, "rms_norm_eps": 1e-5, "rope_theta": 150_000.0 })
        }
        "minimax-m2" => json!({ "norm_topk_prob": true, "scoring_func": "sigmoid", "rms_norm_eps": 1e-6 }),
        "olmoe" => json!({ "norm_topk_prob": false, "rms_norm_eps": 1e-5 }),
        "qwen3moe" => json!({ "norm_topk_prob": false, "head_dim": 128, "rms_norm_eps": 1e-6 }),
        "qwen3next" | "qwen35" | "qwen35moe" => json!({
            "norm_topk_prob": true, "head_dim": 256, "partial_rotary_factor": 0.25, "full_attention_interval": 4,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32, "rms_norm_eps": 1e-6,
        }),
        "qwen3" => json!({ "head_dim": 128, "rms_norm_eps": 1e-6 }),
        _ => json!({ "rms_norm_eps": 1e-6 }),
    };
    match defaults {
        Value::Object(map) => map.into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Keys of one family on their way into the table.
struct Keys {
    family: &'static str,
    keys: BTreeMap<String, Key>,
}

impl Keys {
    fn put(&mut self, key: &str, value: Key) {
        self.keys.insert(format!("{}.{key}", self.family), value);
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.put(key, Key::Number(value));
        }
    }

    fn numbers(&mut self, key: &str, value: Vec<u64>) {
        self.put(key, Key::Numbers(value));
    }

    fn real(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.put(key, Key::Real(value));
        }
    }

    fn truth(&mut self, key: &str, value: Option<bool>) {
        if let Some(value) = value {
            self.put(key, Key::Truth(value));
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        self.put(key, Key::Text(value.to_owned()));
    }
}

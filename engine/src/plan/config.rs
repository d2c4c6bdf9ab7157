//! Shapes from what files say: `config.json`, or the metadata of a GGUF file put into the same words.

use serde_json::{Map, Value, json};

use super::shape::{
    Ahead, Channel, Compressed, Delta, Far, Heads, Index, Latent, Layer, Mixer, Moe, Parts, Table,
};
use crate::weights::{Gguf, Kind};

/// More than any model has; a number beyond it is damage. With these bounds no product leaves 128 bits.
const LENGTH_MAX: u64 = 1 << 24;
const LAYERS_MAX: u64 = 1024;
const ROWS_MAX: u64 = 1 << 40;

/// How the makers store what they ship.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Storage {
    pub(super) matrices: Rate,
    pub(super) plain: Rate,
    pub(super) experts: Rate,
    pub(super) vectors: Rate,
    pub(super) tables: Rate,
}

/// Bytes for so many weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    bytes: u128,
    per: u128,
    /// What the engine multiplies with.
    pub(super) kind: Kind,
}

impl Rate {
    const F32: Rate = Rate { bytes: 4, per: 1, kind: Kind::F32 };
    const BF16: Rate = Rate { bytes: 2, per: 1, kind: Kind::Bf16 };
    /// Half a byte each, and a power of two for every 32.
    const FP4: Rate = Rate { bytes: 17, per: 32, kind: Kind::F4E2M1 };

    pub(super) fn bytes(self, weights: u128) -> u128 {
        (weights * self.bytes).div_ceil(self.per)
    }
}

impl Storage {
    /// Everything that is a matrix in one kind of blocks.
    pub(super) fn of(kind: Kind) -> Storage {
        let rate = Rate { bytes: kind.block_bytes() as u128, per: kind.block() as u128, kind };
        Storage { matrices: rate, plain: rate, experts: rate, vectors: Rate::F32, tables: rate }
    }

    fn read(config: &Config) -> Result<Storage, String> {
        let plain = match config.text("torch_dtype").or(config.text("dtype")) {
            Some("float32") => Rate::F32,
            _ => Rate::BF16,
        };
        let quantised = config.values.get("quantization_config");
        let fp4 = config.text("expert_dtype") == Some("fp4");
        let (matrices, experts) = match quantised.and_then(|q| q["quant_method"].as_str()) {
            None => (plain, plain),
            Some("mxfp4") => (plain, Rate::FP4),
            Some("fp8") => {
                let sides = [0, 1].map(|i| quantised.and_then(|q| q["weight_block_size"][i].as_u64()));
                let block: u128 =
                    sides.iter().map(|side| u128::from(side.unwrap_or(128).clamp(1, LENGTH_MAX))).product();
                // With FP4 experts come scales that are powers of two, in a byte each.
                let fp8 = Rate { bytes: block + if fp4 { 1 } else { 4 }, per: block, kind: Kind::F8E4M3 };
                (fp8, if fp4 { Rate::FP4 } else { fp8 })
            }
            Some(other) => return Err(format!("weights that are quantised by `{other}` are not known here")),
        };
        // Engram's rows: a byte each, and a power of two for every 32.
        let tables = Rate { bytes: 33, per: 32, kind: Kind::F8E4M3 };
        Ok(Storage { matrices, plain, experts, vectors: Rate::F32, tables })
    }
}

/// What a configuration says.
pub(super) struct Described {
    /// With the layer that guesses ahead of families that may have one.
    pub(super) parts: Parts,
    /// Whether it has that layer.
    pub(super) looks_ahead: bool,
    pub(super) storage: Storage,
    /// The longest line the model was made for.
    pub(super) context_tokens: u64,
}

/// Reads a configuration.
pub(super) fn read(config: Value) -> Result<Described, String> {
    let config = Config::new(config)?;
    let model_type = config.text("model_type").unwrap_or_default().to_owned();
    let (_, layer) =
        FAMILIES.iter().find(|(types, _)| types.contains(&model_type.as_str())).ok_or_else(|| {
            format!("the model type `{model_type}` is not known here; known are {}", types().join(", "))
        })?;
    let count = config.number("num_hidden_layers")?;
    if count == 0 || count > u128::from(LAYERS_MAX) {
        return Err(format!("{count} layers are no model"));
    }
    let layers = (0..count as usize).map(|i| layer(&config, i)).collect::<Result<Vec<_>, String>>()?;
    let streams = config.number_or("hc_mult", 1)?;
    let parts = Parts {
        width: config.number("hidden_size")?,
        vocabulary: config.number("vocab_size")?,
        tied: config.truth("tie_word_embeddings").unwrap_or(model_type.starts_with("gemma3")),
        streams,
        stream_head: model_type == "deepseek_v4",
        layers,
        ahead: ahead(&config, count as usize)?,
    };
    if let Some(moe) = parts.moes().find(|moe| moe.used == 0 || moe.used > moe.experts) {
        return Err(format!("{} experts are to be used of the {} there are", moe.used, moe.experts));
    }
    let context_tokens = config.number_or("max_position_embeddings", u128::from(u32::MAX))? as u64;
    let announced = config.first(&["num_nextn_predict_layers", "mtp_num_hidden_layers"])?.unwrap_or(0);
    let looks_ahead = parts.ahead.is_some() && announced > 0;
    Ok(Described { storage: Storage::read(&config)?, looks_ahead, parts, context_tokens })
}

/// The layer that guesses ahead as models of this family have it, if they have one: it has the number behind the last.
fn ahead(config: &Config, i: usize) -> Result<Option<Ahead>, String> {
    let (mixer, ends) = match config.model_type() {
        "deepseek_v3" | "deepseek_v32" | "glm4_moe_lite" | "glm_moe_dsa" => {
            (Mixer::Latent(latent(config)?), true)
        }
        "glm4_moe" => (Mixer::Heads(heads(config, i)?), true),
        "qwen3_next" | "qwen3_5" | "qwen3_5_text" | "qwen3_5_moe" | "qwen3_5_moe_text" => {
            (Mixer::Heads(Heads { gate: true, ..heads(config, i)? }), false)
        }
        "deepseek_v4" => (Mixer::Compressed(compressed(config, Far::Nothing)?), false),
        _ => return Ok(None),
    };
    Ok(Some(Ahead { layer: layer(config, i, mixer)?, ends }))
}

/// Describes layer `i`.
type Describe = fn(&Config, usize) -> Result<Layer, String>;

/// The model types and what their layers are.
const FAMILIES: [(&[&str], Describe); 5] = [
    (
        &[
            "gemma3",
            "gemma3_text",
            "glm4_moe",
            "gpt_oss",
            "llama",
            "minimax_m2",
            "mistral",
            "mixtral",
            "olmoe",
            "qwen2",
            "qwen3",
            "qwen3_moe",
        ],
        |config, i| layer(config, i, Mixer::Heads(heads(config, i)?)),
    ),
    (&["deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k2"], |config, i| {
        layer(config, i, Mixer::Latent(latent(config)?))
    }),
    (&["qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"], |config, i| {
        let mixer = if config.is_full(i)? {
            Mixer::Heads(Heads { gate: true, ..heads(config, i)? })
        } else {
            Mixer::Delta(delta(config)?)
        };
        layer(config, i, mixer)
    }),
    (&["deepseek_v4"], |config, i| {
        let ratio = config.at("compress_ratios", i)?;
        let far = match ratio {
            0 => Far::Nothing,
            // Rows for few positions are many, and are chosen from.
            ratio => Far::Own { ratio, index: if ratio < 16 { Some(index(config)?) } else { None } },
        };
        layer(config, i, Mixer::Compressed(compressed(config, far)?))
    }),
    (&["deepseek_v41", "deepseek_v41_text"], |config, i| {
        let far = match config.at("compress_ratios", i)? {
            0 => Far::Nothing,
            ratio => Far::Shared {
                ratio,
                index: index(config)?,
                makes: config.list("kv_source_layer_ids")?.contains(&(i as u128)),
                chooses: config.list("index_source_layer_ids")?.contains(&(i as u128)),
            },
        };
        let place = config.list_or_none("engram_layer_ids")?.iter().position(|&layer| layer == i as u128);
        let table = match place {
            None => None,
            Some(place) => Some(Table {
                rows: config.big_at("engram_num_embeddings", place)?,
                row: config.number("engram_head_dim")?,
                used: config.number("engram_n_heads")?
                    * config.number("engram_max_ngram_size")?.saturating_sub(1),
            }),
        };
        Ok(Layer { table, ..layer(config, i, Mixer::Compressed(compressed(config, far)?))? })
    }),
];

fn types() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|(types, _)| types.iter().copied()).collect()
}

fn layer(config: &Config, i: usize, mixer: Mixer) -> Result<Layer, String> {
    let norms = if config.is("gemma3") { 4 } else { 2 };
    Ok(Layer { mixer, channel: channel(config, i)?, norms, table: None })
}

fn heads(config: &Config, i: usize) -> Result<Heads, String> {
    let heads = config.number("num_attention_heads")?;
    let kv_heads = config.number_or("num_key_value_heads", heads)?;
    let head = match config.number_or("head_dim", 0)? {
        0 => config.number("hidden_size")? / heads.max(1),
        head => head,
    };
    let (each, all) = (2 * head, (heads + kv_heads) * head);
    let norms = match config.model_type() {
        "glm4_moe" if config.truth("use_qk_norm").unwrap_or(false) => each,
        "olmoe" | "minimax_m2" => all,
        "qwen3" | "qwen3_moe" | "qwen3_next" | "gemma3" | "gemma3_text" => each,
        other if other.starts_with("qwen3_5") => each,
        _ => 0,
    };
    let oss = config.is("gpt_oss");
    Ok(Heads {
        heads,
        kv_heads,
        head,
        gate: false,
        bias: config.truth("attention_bias").unwrap_or(oss || config.is("qwen2")),
        output_bias: oss,
        norms,
        sinks: oss,
        window: config.window(i)?,
    })
}

fn latent(config: &Config) -> Result<Latent, String> {
    Ok(Latent {
        heads: config.number("num_attention_heads")?,
        query_row: config.number_or("q_lora_rank", 0)?,
        row: config.number("kv_lora_rank")?,
        still: config.number("qk_nope_head_dim")?,
        rotated: config.number("qk_rope_head_dim")?,
        value: config.number("v_head_dim")?,
        bias: config.truth("attention_bias").unwrap_or(false),
        index: if config.number_or("index_topk", 0)? > 0 { Some(index(config)?) } else { None },
    })
}

fn index(config: &Config) -> Result<Index, String> {
    Ok(Index {
        heads: config.number("index_n_heads")?,
        head: config.number("index_head_dim")?,
        used: config.number("index_topk")?,
    })
}

fn compressed(config: &Config, far: Far) -> Result<Compressed, String> {
    Ok(Compressed {
        heads: config.number("num_attention_heads")?,
        head: config.number("head_dim")?,
        rotated: config.number("qk_rope_head_dim")?,
        query_row: config.number("q_lora_rank")?,
        groups: config.number("o_groups")?,
        output_row: config.number("o_lora_rank")?,
        window: config.number("sliding_window")?,
        far,
    })
}

fn delta(config: &Config) -> Result<Delta, String> {
    Ok(Delta {
        key_heads: config.number("linear_num_key_heads")?,
        key: config.number("linear_key_head_dim")?,
        value_heads: config.number("linear_num_value_heads")?,
        value: config.number("linear_value_head_dim")?,
        taps: config.number("linear_conv_kernel_dim")?,
    })
}

fn channel(config: &Config, i: usize) -> Result<Channel, String> {
    let experts = config.first(&["n_routed_experts", "num_local_experts", "num_experts"])?.unwrap_or(0);
    let dense_first = config.number_or("first_k_dense_replace", 0)?;
    let dense_listed = config.list_or_none("mlp_only_layers")?.contains(&(i as u128));
    if experts == 0 || (i as u128) < dense_first || dense_listed {
        return Ok(Channel::Dense {
            hidden: config.number("intermediate_size")?,
            bias: config.truth("mlp_bias").unwrap_or(false),
        });
    }
    let oss = config.is("gpt_oss");
    let hidden = config
        .first(&["moe_intermediate_size", "intermediate_size"])?
        .ok_or("`moe_intermediate_size` is missing")?;
    let one_shared = config.first(&["shared_expert_intermediate_size"])?;
    // Hash layers have a table of whole numbers instead of a correction.
    let hashed = (i as u128) < config.number_or("num_hash_layers", 0)?;
    let corrected = ["glm4_moe", "minimax_m2", "deepseek", "glm_moe_dsa", "kimi_k2"]
        .iter()
        .any(|family| config.model_type().starts_with(family));
    Ok(Channel::Moe(Moe {
        experts,
        used: config
            .first(&["num_experts_per_tok", "experts_per_token"])?
            .ok_or("`num_experts_per_tok` is missing")?,
        hidden,
        bias: oss,
        router_bias: oss || corrected && !hashed,
        shared: match one_shared {
            Some(shared) => shared,
            None => config.number_or("n_shared_experts", 0)? * hidden,
        },
        shared_gate: one_shared.is_some_and(|shared| shared > 0),
    }))
}

/// The text model's part of a configuration.
struct Config {
    values: Map<String, Value>,
}

impl Config {
    fn new(whole: Value) -> Result<Config, String> {
        let Value::Object(mut values) = whole else { return Err("it is no JSON object".into()) };
        if let Some(Value::Object(text)) = values.remove("text_config") {
            // What is said of the text model goes before what is said of the whole, but for its type.
            let model_type = values.get("model_type").cloned();
            for (key, value) in text {
                values.insert(key, value);
            }
            values.extend(model_type.map(|model_type| ("model_type".to_owned(), model_type)));
        }
        values.retain(|_, value| !value.is_null());
        Ok(Config { values })
    }

    fn model_type(&self) -> &str {
        self.text("model_type").unwrap_or_default()
    }

    fn is(&self, model_type: &str) -> bool {
        self.model_type().trim_end_matches("_text") == model_type
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).and_then(Value::as_str)
    }

    fn truth(&self, key: &str) -> Option<bool> {
        self.values.get(key).and_then(Value::as_bool)
    }

    fn first(&self, keys: &[&str]) -> Result<Option<u128>, String> {
        match keys.iter().find_map(|key| Some((key, self.values.get(*key)?))) {
            None => Ok(None),
            Some((key, value)) => whole(key, value, LENGTH_MAX).map(Some),
        }
    }

    fn number(&self, key: &str) -> Result<u128, String> {
        self.first(&[key])?.ok_or_else(|| format!("`{key}` is missing"))
    }

    fn number_or(&self, key: &str, otherwise: u128) -> Result<u128, String> {
        Ok(self.first(&[key])?.unwrap_or(otherwise))
    }

    fn list_or_none(&self, key: &str) -> Result<Vec<u128>, String> {
        let Some(list) = self.values.get(key) else { return Ok(Vec::new()) };
        let list = list.as_array().ok_or_else(|| format!("`{key}` is no list"))?;
        list.iter().map(|value| whole(key, value, LENGTH_MAX)).collect()
    }

    fn list(&self, key: &str) -> Result<Vec<u128>, String> {
        if self.values.contains_key(key) {
            self.list_or_none(key)
        } else {
            Err(format!("`{key}` is missing"))
        }
    }

    fn at(&self, key: &str, i: usize) -> Result<u128, String> {
        let list = self.list(key)?;
        list.get(i)
            .copied()
            .ok_or_else(|| format!("`{key}` has {} numbers, too few for the layers", list.len()))
    }

    /// Like `at`, for a number of rows.
    fn big_at(&self, key: &str, i: usize) -> Result<u128, String> {
        let value = self.values.get(key).and_then(|list| list.get(i));
        whole(key, value.ok_or_else(|| format!("`{key}` has no number {i}"))?, ROWS_MAX)
    }

    /// Whether layer `i` of a family with few full attentions is one of them.
    fn is_full(&self, i: usize) -> Result<bool, String> {
        if let Some(types) = self.values.get("layer_types").and_then(Value::as_array) {
            return Ok(types.get(i).is_some_and(|kind| kind == "full_attention"));
        }
        let interval = self.number_or("full_attention_interval", 4)?;
        Ok(interval > 0 && (i as u128 + 1).is_multiple_of(interval))
    }

    fn window(&self, i: usize) -> Result<Option<u128>, String> {
        let window = self.number_or("sliding_window", 0)?;
        if window == 0 || self.truth("use_sliding_window") == Some(false) {
            return Ok(None);
        }
        let near = if let Some(types) = self.values.get("layer_types").and_then(Value::as_array) {
            types.get(i).is_some_and(|kind| kind == "sliding_attention")
        } else {
            match self.model_type() {
                "gpt_oss" => i.is_multiple_of(2),
                "gemma3" | "gemma3_text" => !(i + 1).is_multiple_of(6),
                "qwen2" | "qwen3" | "qwen3_moe" => false,
                _ => true,
            }
        };
        Ok(near.then_some(window))
    }
}

fn whole(key: &str, value: &Value, most: u64) -> Result<u128, String> {
    match value.as_u64() {
        Some(number) if number <= most => Ok(u128::from(number)),
        _ => Err(format!("`{key}` is {value}, which is no size")),
    }
}

/// GGUF's names of families, and what `config.json` calls them.
const ARCHITECTURES: [(&str, &str); 16] = [
    ("deepseek2", "deepseek_v3"),
    ("deepseek4", "deepseek_v4"),
    ("gemma3", "gemma3_text"),
    ("glm4moe", "glm4_moe"),
    ("gpt-oss", "gpt_oss"),
    ("llama", "llama"),
    ("minimax-m2", "minimax_m2"),
    ("mixtral", "mixtral"),
    ("olmoe", "olmoe"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen35", "qwen3_5"),
    ("qwen35moe", "qwen3_5_moe"),
    ("qwen3moe", "qwen3_moe"),
    ("qwen3next", "qwen3_next"),
    ("mistral", "mistral"),
];

/// The keys of GGUF, and what `config.json` calls them.
const KEYS: [(&str, &str); 31] = [
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.indexer.head_count", "index_n_heads"),
    ("attention.indexer.key_length", "index_head_dim"),
    ("attention.indexer.top_k", "index_topk"),
    ("attention.key_length", "head_dim"),
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("attention.output_group_count", "o_groups"),
    ("attention.output_lora_rank", "o_lora_rank"),
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.sliding_window", "sliding_window"),
    ("attention.value_length", "v_head_dim"),
    ("attention.value_length_mla", "v_head_dim"),
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("expert_count", "n_routed_experts"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ("expert_used_count", "num_experts_per_tok"),
    ("feed_forward_length", "intermediate_size"),
    ("full_attention_interval", "full_attention_interval"),
    ("hash_layer_count", "num_hash_layers"),
    ("hyper_connection.count", "hc_mult"),
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("rope.dimension_count", "qk_rope_head_dim"),
    ("ssm.conv_kernel", "linear_conv_kernel_dim"),
    ("ssm.group_count", "linear_num_key_heads"),
    ("ssm.state_size", "linear_key_head_dim"),
    ("ssm.time_step_rank", "linear_num_value_heads"),
];

/// What a GGUF file says, in the words of `config.json`.
pub(super) fn of_gguf(file: &Gguf) -> Result<Value, String> {
    let architecture = file.text("general.architecture").unwrap_or_default();
    let (_, model_type) =
        ARCHITECTURES.iter().find(|(theirs, _)| *theirs == architecture).ok_or_else(|| {
            let known: Vec<_> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
            format!(
                "models of architecture `{architecture}` are not known here; known are {}",
                known.join(", ")
            )
        })?;
    let key = |key: &str| format!("{architecture}.{key}");
    let number = |name: &str| file.number(&key(name)).ok().flatten();
    let mut config = Map::new();
    config.insert("model_type".into(), json!(model_type));
    for (theirs, ours) in KEYS {
        // Where layers differ there is a list; those without heads or experts have a zero in it.
        let list = file.numbers(&key(theirs)).ok().flatten().and_then(|list| list.into_iter().max());
        if let Some(number) = list.or_else(|| number(theirs)) {
            config.insert(ours.into(), json!(number));
        }
    }
    let ahead = number("nextn_predict_layers").unwrap_or(0);
    config
        .insert("num_hidden_layers".into(), json!(number("block_count").unwrap_or(0).saturating_sub(ahead)));
    if let Ok(Some(ratios)) = file.numbers(&key("attention.compress_ratios")) {
        config.insert("compress_ratios".into(), json!(ratios));
    }
    if let (Some(inner), Some(heads)) = (number("ssm.inner_size"), number("ssm.time_step_rank")) {
        config.insert("linear_value_head_dim".into(), json!(inner / heads.max(1)));
    }
    if architecture == "deepseek2" {
        // A key is what stands still and what is rotated.
        let whole = number("attention.key_length_mla").or(number("attention.key_length")).unwrap_or(0);
        let rotated = number("rope.dimension_count").unwrap_or(0);
        config.insert("qk_nope_head_dim".into(), json!(whole.saturating_sub(rotated)));
    }
    if number("expert_count") == Some(0) {
        config.remove("n_routed_experts");
    }
    let embedding = file.shape("token_embd.weight").map_err(|e| e.to_string())?;
    config.insert("vocab_size".into(), json!(embedding.first().copied().unwrap_or(0)));
    config.insert("tie_word_embeddings".into(), json!(!file.has("output.weight")));
    Ok(Value::Object(config))
}

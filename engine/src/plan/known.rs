//! Shapes that have a name: what the makers' `config.json` says of the sizes, for planning without a file.

use serde_json::{Value, json};

/// A configuration that is put together when it is asked for.
type Config = fn() -> Value;

/// The shapes by name. The names are those that people look for.
pub(super) const SHAPES: [(&str, Config); 20] = [
    ("deepseek-v3", || deepseek_v3("deepseek_v3")),
    ("deepseek-v3.2", || {
        let mut config = deepseek_v3("deepseek_v32");
        config["index_n_heads"] = json!(64);
        config["index_head_dim"] = json!(128);
        config["index_topk"] = json!(2048);
        config
    }),
    ("deepseek-v4-flash", || {
        let ratios = [vec![0, 0], [4, 128].repeat(20), vec![4, 0]].concat();
        deepseek_v4([4096, 43, 64], [1024, 8], [256, 2048], 512, &ratios)
    }),
    ("deepseek-v4-pro", || {
        let ratios = [vec![128, 128], [4, 128].repeat(29), vec![4, 0]].concat();
        deepseek_v4([7168, 61, 128], [1536, 16], [384, 3072], 1024, &ratios)
    }),
    ("deepseek-v4.1-flash", || {
        let ratios = [vec![0, 0], vec![2; 18], vec![1; 20], vec![0; 3]].concat();
        json!({
            "model_type": "deepseek_v41", "hidden_size": 5120, "num_hidden_layers": 40, "vocab_size": 129_280,
            "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512, "qk_rope_head_dim": 64,
            "q_lora_rank": 1280, "o_lora_rank": 1024, "o_groups": 8, "n_routed_experts": 384,
            "num_experts_per_tok": 6, "n_shared_experts": 1, "moe_intermediate_size": 2304, "hc_mult": 4,
            "sliding_window": 128, "compress_ratios": ratios, "kv_source_layer_ids": [2, 8, 14, 20],
            "index_source_layer_ids": [2, 8, 14, 20, 24, 28, 32, 36], "index_n_heads": 32,
            "index_head_dim": 128, "index_topk": 512, "engram_layer_ids": [1, 14], "engram_max_ngram_size": 4,
            "engram_n_heads": 8, "engram_head_dim": 256,
            "engram_num_embeddings": [384_006_168, 384_016_682_u64], "max_position_embeddings": 1_048_576,
            "expert_dtype": "fp4", "quantization_config": fp8(32),
        })
    }),
    ("glm-4.5-air", || {
        json!({
            "model_type": "glm4_moe", "hidden_size": 4096, "num_hidden_layers": 46, "num_attention_heads": 96,
            "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 10_944,
            "moe_intermediate_size": 1408, "n_routed_experts": 128, "num_experts_per_tok": 8,
            "n_shared_experts": 1, "first_k_dense_replace": 1, "vocab_size": 151_552, "attention_bias": true,
            "use_qk_norm": false, "max_position_embeddings": 131_072,
        })
    }),
    ("glm-4.7", || {
        json!({
            "model_type": "glm4_moe", "hidden_size": 5120, "num_hidden_layers": 92, "num_attention_heads": 96,
            "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12_288,
            "moe_intermediate_size": 1536, "n_routed_experts": 160, "num_experts_per_tok": 8,
            "n_shared_experts": 1, "first_k_dense_replace": 3, "vocab_size": 151_552, "attention_bias": true,
            "use_qk_norm": true, "max_position_embeddings": 202_752,
        })
    }),
    ("glm-4.7-flash", || {
        json!({
            "model_type": "glm4_moe_lite", "hidden_size": 2048, "num_hidden_layers": 47,
            "num_attention_heads": 20, "q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64, "v_head_dim": 256, "intermediate_size": 10_240,
            "moe_intermediate_size": 1536, "n_routed_experts": 64, "num_experts_per_tok": 4,
            "n_shared_experts": 1, "first_k_dense_replace": 1, "vocab_size": 154_880,
            "max_position_embeddings": 202_752,
        })
    }),
    ("gpt-oss-120b", || gpt_oss(36, 128)),
    ("gpt-oss-20b", || gpt_oss(24, 32)),
    ("kimi-k2", || {
        let mut config = deepseek_v3("kimi_k2");
        config["num_attention_heads"] = json!(64);
        config["n_routed_experts"] = json!(384);
        config["first_k_dense_replace"] = json!(1);
        config["vocab_size"] = json!(163_840);
        config["max_position_embeddings"] = json!(262_144);
        config
    }),
    ("minimax-m2", || {
        json!({
            "model_type": "minimax_m2", "hidden_size": 3072, "num_hidden_layers": 62,
            "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 1536,
            "num_local_experts": 256, "num_experts_per_tok": 8, "vocab_size": 200_064,
            "max_position_embeddings": 196_608, "quantization_config": fp8(128),
        })
    }),
    ("mixtral-8x7b", || {
        json!({
            "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14_336, "num_local_experts": 8,
            "num_experts_per_tok": 2, "vocab_size": 32_000, "max_position_embeddings": 32_768,
        })
    }),
    ("olmoe-1b-7b", || {
        json!({
            "model_type": "olmoe", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16,
            "num_key_value_heads": 16, "intermediate_size": 1024, "num_experts": 64, "num_experts_per_tok": 8,
            "vocab_size": 50_304, "max_position_embeddings": 4096,
        })
    }),
    ("qwen2.5-coder-1.5b", || {
        json!({
            "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
            "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151_936,
            "tie_word_embeddings": true, "max_position_embeddings": 32_768,
        })
    }),
    ("qwen3-235b-a22b", || qwen3_moe([4096, 94, 64, 4], [128, 1536])),
    ("qwen3-30b-a3b", || qwen3_moe([2048, 48, 32, 4], [128, 768])),
    ("qwen3-coder-480b-a35b", || qwen3_moe([6144, 62, 96, 8], [160, 2560])),
    ("qwen3-next-80b-a3b", || qwen_delta("qwen3_next", 48, [512, 10], 151_936)),
    ("qwen3.6-35b-a3b", || qwen_delta("qwen3_5_moe", 40, [256, 8], 248_320)),
];

fn fp8(block: u32) -> Value {
    json!({ "quant_method": "fp8", "weight_block_size": [block, block] })
}

fn deepseek_v3(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "intermediate_size": 18_432, "moe_intermediate_size": 2048,
        "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 3,
        "vocab_size": 129_280, "max_position_embeddings": 163_840, "quantization_config": fp8(128),
    })
}

/// `sizes`: width, layers, heads. `ranks`: the queries' row, groups of the output. `experts`: how many, how long.
fn deepseek_v4(
    sizes: [u32; 3],
    ranks: [u32; 2],
    experts: [u32; 2],
    index_used: u32,
    ratios: &[u32],
) -> Value {
    let [width, layers, heads] = sizes;
    json!({
        "model_type": "deepseek_v4", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": 512, "qk_rope_head_dim": 64,
        "q_lora_rank": ranks[0], "o_lora_rank": 1024, "o_groups": ranks[1], "n_routed_experts": experts[0],
        "num_experts_per_tok": 6, "n_shared_experts": 1, "moe_intermediate_size": experts[1],
        "compress_ratios": ratios, "index_n_heads": 64, "index_head_dim": 128, "index_topk": index_used,
        "hc_mult": 4, "sliding_window": 128, "num_hash_layers": 3, "vocab_size": 129_280,
        "max_position_embeddings": 1_048_576, "expert_dtype": "fp4", "quantization_config": fp8(128),
    })
}

fn gpt_oss(layers: u32, experts: u32) -> Value {
    json!({
        "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": layers, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": experts,
        "num_experts_per_tok": 4, "vocab_size": 201_088, "sliding_window": 128,
        "max_position_embeddings": 131_072, "quantization_config": { "quant_method": "mxfp4" },
    })
}

/// `sizes`: width, layers, heads, key heads. `experts`: how many, how long.
fn qwen3_moe(sizes: [u32; 4], experts: [u32; 2]) -> Value {
    let [width, layers, heads, kv_heads] = sizes;
    json!({
        "model_type": "qwen3_moe", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 128,
        "num_experts": experts[0], "num_experts_per_tok": 8, "moe_intermediate_size": experts[1],
        "vocab_size": 151_936, "max_position_embeddings": 262_144,
    })
}

/// `experts`: how many, how many of them a token goes through.
fn qwen_delta(model_type: &str, layers: u32, experts: [u32; 2], vocabulary: u32) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 2048, "num_hidden_layers": layers, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4, "linear_num_key_heads": 16,
        "linear_key_head_dim": 128, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4, "num_experts": experts[0], "num_experts_per_tok": experts[1],
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "vocab_size": vocabulary,
        "max_position_embeddings": 262_144,
    })
}

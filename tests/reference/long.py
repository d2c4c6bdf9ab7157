"""Writes a tiny model of DeepSeek V4's shape that holds a million tokens, with random weights and no reference.

    python tests/reference/long.py OUT [--seed N] [--window 128] [--index-topk 512]

Its layers are two with a window only, then compressed ones by 4 with an indexer and by 128 in turn, as the real one has
them. It is for what depends on length alone: memory, and how the time of a token grows (`saga bench --frontiers`).
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

WIDTH, HEADS, HEAD, ROTATED, STREAMS = 32, 4, 32, 16, 4
QUERY_RANK, OUTPUT_RANK, GROUPS = 24, 16, 2
INDEX_HEADS, INDEX_HEAD = 4, 16
EXPERTS, USED, HIDDEN, VOCABULARY = 8, 3, 16, 128
RATIOS = [0, 0, 4, 128, 4, 128]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--index-topk", type=int, default=512)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    (options.out / "config.json").write_text(json.dumps(config(options), indent=1) + "\n")
    save_file(weights(), options.out / "model.safetensors", metadata={"format": "pt"})


def config(options):
    return {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
        "hidden_size": WIDTH, "num_hidden_layers": len(RATIOS), "vocab_size": VOCABULARY,
        "num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": HEAD, "qk_rope_head_dim": ROTATED,
        "q_lora_rank": QUERY_RANK, "o_lora_rank": OUTPUT_RANK, "o_groups": GROUPS, "sliding_window": options.window,
        "compress_ratios": RATIOS, "index_n_heads": INDEX_HEADS, "index_head_dim": INDEX_HEAD,
        "index_topk": options.index_topk, "hc_mult": STREAMS, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
        "n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": USED,
        "moe_intermediate_size": HIDDEN, "num_hash_layers": 2, "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 1.5, "swiglu_limit": 10.0,
        "rms_norm_eps": 1e-6, "rope_theta": 10000, "compress_rope_theta": 160000, "max_position_embeddings": 1 << 20,
        "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
                         "beta_fast": 32, "beta_slow": 1},
        "num_nextn_predict_layers": 0, "tie_word_embeddings": False, "hidden_act": "silu",
    }


def weights():
    tensors = {"embed.weight": torch.randn(VOCABULARY, WIDTH), "head.weight": matrix(VOCABULARY, WIDTH),
               "norm.weight": norm(WIDTH)}
    hyper(tensors, "hc_head", STREAMS, 1)
    for i, ratio in enumerate(RATIOS):
        def put(name, tensor, i=i):
            tensors[f"layers.{i}.{name}"] = tensor
        put("attn_norm.weight", norm(WIDTH))
        put("ffn_norm.weight", norm(WIDTH))
        for part in ("attn", "ffn"):
            hyper(tensors, f"layers.{i}.hc_{part}", 2 * STREAMS + STREAMS**2, 3)
        put("attn.wq_a.weight", matrix(QUERY_RANK, WIDTH))
        put("attn.q_norm.weight", norm(QUERY_RANK))
        put("attn.wq_b.weight", matrix(HEADS * HEAD, QUERY_RANK))
        put("attn.wkv.weight", matrix(HEAD, WIDTH))
        put("attn.kv_norm.weight", norm(HEAD))
        put("attn.attn_sink", torch.randn(HEADS))
        put("attn.wo_a.weight", matrix(GROUPS * OUTPUT_RANK, HEADS * HEAD // GROUPS))
        put("attn.wo_b.weight", matrix(WIDTH, GROUPS * OUTPUT_RANK))
        if ratio:
            compressor(put, "attn.compressor", ratio, HEAD)
        if ratio == 4:
            put("attn.indexer.wq_b.weight", matrix(INDEX_HEADS * INDEX_HEAD, QUERY_RANK))
            put("attn.indexer.weights_proj.weight", matrix(INDEX_HEADS, WIDTH))
            compressor(put, "attn.indexer.compressor", ratio, INDEX_HEAD)
        put("ffn.gate.weight", matrix(EXPERTS, WIDTH))
        if i < 2:
            put("ffn.gate.tid2eid", torch.stack([torch.randperm(EXPERTS)[:USED] for _ in range(VOCABULARY)]))
        else:
            put("ffn.gate.bias", 0.1 * torch.randn(EXPERTS))
        for name in [f"experts.{e}" for e in range(EXPERTS)] + ["shared_experts"]:
            for part, rows, columns in (("w1", HIDDEN, WIDTH), ("w3", HIDDEN, WIDTH), ("w2", WIDTH, HIDDEN)):
                put(f"ffn.{name}.{part}.weight", matrix(rows, columns))
    return tensors


def matrix(rows, columns):
    return torch.randn(rows, columns) / columns**0.5


def norm(width):
    return 1 + 0.1 * torch.randn(width)


def hyper(tensors, name, rows, scales):
    tensors[f"{name}_fn"] = matrix(rows, STREAMS * WIDTH)
    tensors[f"{name}_base"] = 0.1 * torch.randn(rows)
    tensors[f"{name}_scale"] = torch.ones(scales)


def compressor(put, name, ratio, head):
    width = 2 * head if ratio == 4 else head
    put(f"{name}.wkv.weight", matrix(width, WIDTH))
    put(f"{name}.wgate.weight", matrix(width, WIDTH))
    put(f"{name}.ape", 0.1 * torch.randn(ratio, width))
    put(f"{name}.norm.weight", norm(head))


if __name__ == "__main__":
    main()

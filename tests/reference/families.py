"""Which tiny checkpoints exist: one configuration per entry, in the words of the published `config.json` files.

A `Spec` is the whole description of a checkpoint. Its name is the family, followed by `-variant` for those that walk
through other branches of the same family: other widths, layer patterns, routers, rope kinds, storage formats.
"""

from copy import deepcopy
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Spec:
    name: str
    config: dict  # what the folder's config.json says
    tokens: int = 64
    dtype: str = "F32"  # what the plain tensors are stored in
    storage: str | None = None  # None, "fp8", "mxfp4" or "v4": the quantised formats of storage.py
    style: str = "published"  # or "transformers": config.json as transformers itself writes it
    shards: int = 1
    fused: bool = False  # all experts of a layer in one tensor, where the family is published both ways
    mtp: bool = False  # with the tensors of a multi-token-prediction layer
    committed: bool = False  # a copy lives in engine/tests/fixtures/models
    large: bool = False  # only made with --large or when named
    zero_centred: bool = False  # norms multiply by 1 + weight
    embed_std: float = 1.0
    gate_gain: float = 1.0  # larger where an activation clamp has to be crossed
    notes: str = field(default="", compare=False)

    def but(self, name, config=None, drop=(), **changes):
        """The same checkpoint under another name: without the fields in `drop`, with those in `config`, which may nest."""
        kept = {key: value for key, value in self.config.items() if key not in drop}
        merged = _merge(deepcopy(kept), config or {})
        changes.setdefault("committed", False)
        return replace(self, name=name, config=merged, **changes)


def _merge(old, new):
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _merge(old[key], value)
        else:
            old[key] = value
    return old


def _common(architecture, model_type, **rest):
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": "float32",
        "transformers_version": "4.57.0",
        "use_cache": True,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "vocab_size": 128,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **rest,
    }


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,  # so that one frequency lies on the ramp between kept and stretched
}


def dense():
    qwen2 = Spec(
        "qwen2",
        _common(
            "Qwen2ForCausalLM",
            "qwen2",
            hidden_size=48,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            sliding_window=32768,
            max_window_layers=2,
            use_sliding_window=False,
            tie_word_embeddings=True,
        ),
        embed_std=0.3,
        dtype="BF16",
        committed=True,
    )
    llama = Spec(
        "llama",
        _common(
            "LlamaForCausalLM",
            "llama",
            attention_bias=False,
            hidden_size=48,
            intermediate_size=64,
            mlp_bias=False,
            num_attention_heads=4,
            num_key_value_heads=2,
            pretraining_tp=1,
            rms_norm_eps=1e-5,
            rope_theta=500000.0,
            rope_scaling=LLAMA3_ROPE,
        ),
        dtype="F16",
        committed=True,
    )
    qwen3 = Spec(
        "qwen3",
        _common(
            "Qwen3ForCausalLM",
            "qwen3",
            attention_bias=False,
            head_dim=16,
            hidden_size=48,
            intermediate_size=64,
            max_window_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            rope_scaling=None,
            rope_theta=1000000.0,
            sliding_window=None,
            use_sliding_window=False,
            tie_word_embeddings=True,
        ),
        embed_std=0.3,
        dtype="BF16",
        committed=True,
    )
    return [
        qwen2,
        qwen2.but(
            "qwen2-untied",
            {
                "hidden_size": 96,
                "num_attention_heads": 6,
                "num_key_value_heads": 3,
                "num_hidden_layers": 4,
                "tie_word_embeddings": False,
                "rms_norm_eps": 1e-3,
                "vocab_size": 200,
            },
            dtype="F32",
            style="transformers",
            embed_std=1.0,
        ),
        qwen2.but(
            "qwen2-window",
            {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
            dtype="F32",
        ),
        llama,
        llama.but(
            "llama-biased",
            {
                "attention_bias": True,
                "mlp_bias": True,
                "head_dim": 24,
                "num_key_value_heads": 4,
                "num_hidden_layers": 2,
                "tie_word_embeddings": True,
                "rope_theta": 10000.0,
            },
            drop=["rope_scaling"],
            embed_std=0.3,
            dtype="F32",
        ),
        llama.but(
            "llama-linear",
            {"rope_scaling": {"type": "linear", "factor": 4.0}, "num_key_value_heads": 1},
            drop=["rope_scaling"],
            dtype="F32",
            style="transformers",
        ),
        qwen3,
        qwen3.but(
            "qwen3-untied",
            {
                "hidden_size": 96,
                "head_dim": 16,
                "num_attention_heads": 8,
                "num_key_value_heads": 1,
                "num_hidden_layers": 4,
                "tie_word_embeddings": False,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
                "max_position_embeddings": 1024,
            },
            dtype="F32",
            style="transformers",
            embed_std=1.0,
        ),
    ]


def gemma3():
    text = Spec(
        "gemma3",
        {
            **_common("Gemma3ForCausalLM", "gemma3_text"),
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": None,
            "head_dim": 16,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 16,
            "rms_norm_eps": 1e-6,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 20,
            "sliding_window_pattern": 6,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 1,
        },
        zero_centred=True,
        dtype="BF16",
        committed=True,
    )
    del text.config["hidden_act"], text.config["tie_word_embeddings"]
    # The multimodal folders nest the text model, name few of its fields and leave the others to the defaults:
    # 8 heads, 4 key-value heads, 256 per head, a window pattern of 6.
    nested = Spec(
        "gemma3-multimodal",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 125,
            "eoi_token_index": 126,
            "image_token_index": 127,
            "eos_token_id": [1, 106],
            "initializer_range": 0.02,
            "mm_tokens_per_image": 4,
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 64,
                "intermediate_size": 96,
                "model_type": "gemma3_text",
                "num_hidden_layers": 7,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 20,
                "vocab_size": 128,
            },
            "torch_dtype": "float32",
            "transformers_version": "4.50.0.dev0",
            "vision_config": {
                "hidden_size": 16,
                "image_size": 28,
                "intermediate_size": 32,
                "model_type": "siglip_vision_model",
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "patch_size": 14,
                "vision_use_head": False,
            },
        },
        zero_centred=True,
        large=True,
    )
    return [
        text,
        text.but(
            "gemma3-layers",
            {
                "num_hidden_layers": 6,
                "num_key_value_heads": 2,
                "hidden_size": 96,
                "head_dim": 32,
                "query_pre_attn_scalar": 24,
                "sliding_window_pattern": 3,
                "sliding_window": 9,
                "final_logit_softcapping": 5.0,
            },
            style="transformers",
            dtype="F32",
        ),
        nested,
    ]


def qwen3_moe():
    base = Spec(
        "qwen3_moe",
        _common(
            "Qwen3MoeForCausalLM",
            "qwen3_moe",
            attention_bias=False,
            decoder_sparse_step=1,
            head_dim=16,
            intermediate_size=64,
            max_window_layers=3,
            mlp_only_layers=[],
            moe_intermediate_size=24,
            norm_topk_prob=True,
            num_attention_heads=4,
            num_experts=8,
            num_experts_per_tok=3,
            num_key_value_heads=2,
            output_router_logits=False,
            rms_norm_eps=1e-6,
            rope_scaling=None,
            rope_theta=10000000.0,
            router_aux_loss_coef=0.001,
            sliding_window=None,
            use_sliding_window=False,
        ),
        dtype="BF16",
        committed=True,
    )
    return [
        base,
        base.but(
            "qwen3_moe-mixed",
            {
                "num_hidden_layers": 5,
                "decoder_sparse_step": 2,
                "mlp_only_layers": [3],
                "norm_topk_prob": False,
                "hidden_size": 64,
                "head_dim": 32,
                "num_experts": 16,
                "num_experts_per_tok": 4,
                "num_key_value_heads": 1,
                "tie_word_embeddings": True,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                },
            },
            dtype="F32",
            style="transformers",
            embed_std=0.3,
            shards=3,
        ),
        base.but(
            "qwen3_moe-fp8",
            {
                "hidden_size": 192,
                "moe_intermediate_size": 160,
                "quantization_config": FP8,
            },
            storage="fp8",
            large=True,
        ),
        base.but(
            "qwen3_moe-wide",
            {
                "hidden_size": 256,
                "moe_intermediate_size": 256,
                "head_dim": 64,
                "num_key_value_heads": 4,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "vocab_size": 256,
            },
            dtype="F32",
            large=True,
            notes="every row is a multiple of 256, so that it can be converted to K-quants",
        ),
    ]


FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}


def olmoe():
    base = Spec(
        "olmoe",
        _common(
            "OlmoeForCausalLM",
            "olmoe",
            attention_bias=False,
            clip_qkv=None,
            intermediate_size=24,
            norm_topk_prob=False,
            num_attention_heads=4,
            num_experts=8,
            num_experts_per_tok=3,
            num_key_value_heads=4,
            output_router_logits=False,
            rms_norm_eps=1e-5,
            rope_scaling=None,
            rope_theta=10000.0,
            router_aux_loss_coef=0.01,
            pad_token_id=1,
        ),
        dtype="F32",
        committed=True,
    )
    return [
        base,
        base.but(
            "olmoe-normed",
            {
                "hidden_size": 64,
                "num_hidden_layers": 4,
                "norm_topk_prob": True,
                "num_experts": 16,
                "num_experts_per_tok": 5,
                "num_key_value_heads": 2,
                "clip_qkv": 1.5,
            },
            style="transformers",
        ),
    ]


def mixtral():
    base = Spec(
        "mixtral",
        _common(
            "MixtralForCausalLM",
            "mixtral",
            intermediate_size=32,
            num_attention_heads=4,
            num_experts_per_tok=2,
            num_key_value_heads=2,
            num_local_experts=6,
            output_router_logits=False,
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            router_aux_loss_coef=0.02,
            sliding_window=None,
        ),
        dtype="F16",
        committed=True,
    )
    return [
        base,
        base.but(
            "mixtral-window",
            {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "sliding_window": 24,
                "num_key_value_heads": 1,
                "head_dim": 32,
                "num_local_experts": 8,
                "tie_word_embeddings": True,
            },
            dtype="F32",
            embed_std=0.3,
            style="transformers",
        ),
    ]


def gpt_oss():
    base = Spec(
        "gpt_oss",
        _common(
            "GptOssForCausalLM",
            "gpt_oss",
            attention_bias=True,
            experts_per_token=3,
            head_dim=16,
            hidden_size=32,
            initial_context_length=32,
            intermediate_size=32,
            layer_types=["sliding_attention", "full_attention"] * 2,
            max_position_embeddings=1024,
            num_attention_heads=4,
            num_experts_per_tok=3,
            num_hidden_layers=4,
            num_key_value_heads=2,
            num_local_experts=6,
            output_router_logits=False,
            quantization_config={
                "modules_to_not_convert": [
                    "model.layers.*.self_attn",
                    "model.layers.*.mlp.router",
                    "model.embed_tokens",
                    "lm_head",
                ],
                "quant_method": "mxfp4",
            },
            rms_norm_eps=1e-5,
            rope_scaling={
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": 32,
                "rope_type": "yarn",
                "truncate": False,
            },
            rope_theta=150000,
            router_aux_loss_coef=0.9,
            sliding_window=20,
            swiglu_limit=7.0,
        ),
        storage="mxfp4",
        dtype="BF16",
        committed=True,
        gate_gain=3.0,
    )
    return [
        base,
        base.but(
            "gpt_oss-dense",
            {
                "num_hidden_layers": 3,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
                "head_dim": 32,
                "hidden_size": 48,
                "intermediate_size": 40,
                "num_key_value_heads": 1,
                "num_local_experts": 8,
                "sliding_window": 11,
            },
            drop=["quantization_config"],
            storage=None,
            dtype="F32",
            style="transformers",
        ),
        base.but(
            "gpt_oss-truncated",
            {
                "rope_scaling": {"truncate": True, "factor": 8.0},
                "swiglu_limit": 3.0,
                "num_hidden_layers": 2,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            drop=["quantization_config"],
            storage=None,
            dtype="BF16",
        ),
    ]


def deepseek_v3():
    base = Spec(
        "deepseek_v3",
        _common(
            "DeepseekV3ForCausalLM",
            "deepseek_v3",
            attention_bias=False,
            ep_size=1,
            first_k_dense_replace=1,
            intermediate_size=64,
            kv_lora_rank=24,
            max_position_embeddings=1280,
            moe_intermediate_size=24,
            moe_layer_freq=1,
            n_group=4,
            n_routed_experts=12,
            n_shared_experts=1,
            norm_topk_prob=True,
            num_attention_heads=4,
            num_experts_per_tok=4,
            num_key_value_heads=4,
            num_nextn_predict_layers=1,
            q_lora_rank=24,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            rms_norm_eps=1e-6,
            rope_scaling={
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 40,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 32,
                "type": "yarn",
            },
            rope_theta=10000,
            routed_scaling_factor=2.5,
            scoring_func="sigmoid",
            topk_group=2,
            topk_method="noaux_tc",
            v_head_dim=12,
        ),
        dtype="BF16",
        committed=True,
        mtp=True,
    )
    return [
        base,
        base.but(
            "deepseek_v3-plain",
            {
                "num_hidden_layers": 4,
                "hidden_size": 64,
                "first_k_dense_replace": 2,
                "q_lora_rank": None,
                "n_group": 1,
                "topk_group": 1,
                "n_shared_experts": 2,
                "norm_topk_prob": False,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "v_head_dim": 32,
                "rope_scaling": None,
                "num_experts_per_tok": 3,
            },
            dtype="F32",
            style="transformers",
        ),
        base.but(
            "deepseek_v3-mscale",
            {
                "qk_rope_head_dim": 16,
                "max_position_embeddings": 4096 * 40,
                "rope_scaling": {"mscale": 1.0, "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096},
                "attention_bias": True,
                "n_group": 2,
                "topk_group": 1,
                "rope_interleave": False,
            },
            dtype="F32",
        ),
        base.but(
            "deepseek_v3-fp8",
            {
                "hidden_size": 192,
                "intermediate_size": 160,
                "moe_intermediate_size": 136,
                "q_lora_rank": 144,
                "kv_lora_rank": 136,
                "v_head_dim": 40,
                "quantization_config": FP8,
            },
            storage="fp8",
            large=True,
        ),
    ]


def glm4_moe():
    base = Spec(
        "glm4_moe",
        _common(
            "Glm4MoeForCausalLM",
            "glm4_moe",
            attention_bias=True,
            first_k_dense_replace=1,
            head_dim=16,
            intermediate_size=64,
            moe_intermediate_size=24,
            n_group=1,
            n_routed_experts=8,
            n_shared_experts=1,
            norm_topk_prob=True,
            num_attention_heads=4,
            num_experts_per_tok=3,
            num_key_value_heads=2,
            num_nextn_predict_layers=1,
            partial_rotary_factor=0.5,
            rms_norm_eps=1e-5,
            rope_scaling=None,
            rope_theta=1000000,
            routed_scaling_factor=1.0,
            topk_group=1,
            use_qk_norm=False,
        ),
        dtype="BF16",
        committed=True,
        mtp=True,
    )
    return [
        base,
        base.but(
            "glm4_moe-grouped",
            {
                "num_hidden_layers": 5,
                "hidden_size": 64,
                "first_k_dense_replace": 2,
                "head_dim": 24,
                "n_group": 2,
                "topk_group": 1,
                "n_routed_experts": 12,
                "n_shared_experts": 2,
                "routed_scaling_factor": 2.5,
                "use_qk_norm": True,
                "attention_bias": False,
                "partial_rotary_factor": 0.25,
                "norm_topk_prob": False,
            },
            style="transformers",
            dtype="F32",
        ),
        base.but(
            "glm4_moe-mtp",
            {"num_hidden_layers": 3, "use_qk_norm": True, "routed_scaling_factor": 1.5},
        ),
    ]


def minimax_m2():
    base = Spec(
        "minimax_m2",
        _common(
            "MiniMaxM2ForCausalLM",
            "minimax_m2",
            attn_type_list=[1, 1, 1],
            head_dim=16,
            intermediate_size=24,
            mlp_intermediate_size=64,
            mtp_transformer_layers=1,
            num_attention_heads=4,
            num_experts_per_tok=3,
            num_key_value_heads=2,
            num_local_experts=8,
            num_mtp_modules=3,
            qk_norm_type="per_layer",
            rms_norm_eps=1e-6,
            rope_theta=5000000,
            rotary_dim=8,
            router_aux_loss_coef=0.001,
            router_jitter_noise=0.0,
            scoring_func="sigmoid",
            shared_intermediate_size=0,
            sliding_window=None,
            use_mtp=True,
            use_qk_norm=True,
            use_routing_bias=True,
        ),
        dtype="BF16",
        committed=True,
    )
    return [
        base,
        base.but(
            "minimax_m2-wide",
            {
                "hidden_size": 64,
                "num_hidden_layers": 4,
                "attn_type_list": [1, 1, 1, 1],
                "head_dim": 24,
                "rotary_dim": 16,
                "num_local_experts": 16,
                "num_experts_per_tok": 4,
                "num_key_value_heads": 1,
            },
            dtype="F32",
            style="transformers",
        ),
        base.but(
            "minimax_m2-fp8",
            {
                "hidden_size": 192,
                "intermediate_size": 136,
                "head_dim": 40,
                "quantization_config": {
                    "activation_scheme": "dynamic",
                    "fmt": "float8_e4m3fn",
                    "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
                    "quant_method": "fp8",
                    "weight_block_size": [128, 128],
                },
            },
            storage="fp8",
            large=True,
        ),
    ]


def qwen3_next():
    base = Spec(
        "qwen3_next",
        _common(
            "Qwen3NextForCausalLM",
            "qwen3_next",
            decoder_sparse_step=1,
            full_attention_interval=4,
            head_dim=32,
            intermediate_size=64,
            linear_conv_kernel_dim=4,
            linear_key_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_value_head_dim=16,
            mlp_only_layers=[],
            moe_intermediate_size=16,
            norm_topk_prob=True,
            num_attention_heads=2,
            num_experts=8,
            num_experts_per_tok=3,
            num_hidden_layers=4,
            num_key_value_heads=1,
            output_router_logits=False,
            partial_rotary_factor=0.25,
            rms_norm_eps=1e-6,
            rope_scaling=None,
            rope_theta=10000000,
            router_aux_loss_coef=0.001,
            shared_expert_intermediate_size=24,
        ),
        tokens=80,
        zero_centred=True,
        dtype="BF16",
        committed=True,
        mtp=True,
    )
    return [
        base,
        base.but(
            "qwen3_next-pattern",
            {
                "num_hidden_layers": 5,
                "layer_types": [
                    "full_attention",
                    "linear_attention",
                    "linear_attention",
                    "full_attention",
                    "linear_attention",
                ],
                "hidden_size": 64,
                "head_dim": 32,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 24,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 6,
                "mlp_only_layers": [1],
                "norm_topk_prob": False,
                "partial_rotary_factor": 0.5,
                "tie_word_embeddings": True,
            },
            drop=["full_attention_interval"],
            style="transformers",
            dtype="F32",
            embed_std=0.3,
            tokens=150,
            mtp=False,
        ),
    ]


def qwen3_5_moe():
    nested = Spec(
        "qwen3_5_moe",
        {
            "architectures": ["Qwen3_5MoeForConditionalGeneration"],
            "image_token_id": 124,
            "model_type": "qwen3_5_moe",
            "text_config": {
                "attention_bias": False,
                "attention_dropout": 0.0,
                "attn_output_gate": True,
                "dtype": "float32",
                "eos_token_id": 1,
                "full_attention_interval": 4,
                "head_dim": 32,
                "hidden_act": "silu",
                "hidden_size": 32,
                "initializer_range": 0.02,
                "layer_types": ["linear_attention"] * 3 + ["full_attention"],
                "linear_conv_kernel_dim": 4,
                "linear_key_head_dim": 16,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_value_head_dim": 16,
                "mamba_ssm_dtype": "float32",
                "max_position_embeddings": 4096,
                "mlp_only_layers": [],
                "model_type": "qwen3_5_moe_text",
                "moe_intermediate_size": 16,
                "mtp_num_hidden_layers": 1,
                "mtp_use_dedicated_embeddings": False,
                "num_attention_heads": 2,
                "num_experts": 8,
                "num_experts_per_tok": 3,
                "num_hidden_layers": 4,
                "num_key_value_heads": 1,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {
                    "mrope_interleaved": True,
                    "mrope_section": [2, 1, 1],
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 10000000,
                    "rope_type": "default",
                },
                "router_aux_loss_coef": 0.001,
                "shared_expert_intermediate_size": 24,
                "use_cache": True,
                "vocab_size": 128,
            },
            "tie_word_embeddings": False,
            "transformers_version": "4.57.0.dev0",
            "video_token_id": 125,
            "vision_config": {
                "deepstack_visual_indexes": [],
                "depth": 1,
                "hidden_act": "gelu_pytorch_tanh",
                "hidden_size": 16,
                "in_channels": 3,
                "initializer_range": 0.02,
                "intermediate_size": 16,
                "model_type": "qwen3_5_moe",
                "num_heads": 2,
                "num_position_embeddings": 4,
                "out_hidden_size": 32,
                "patch_size": 2,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
            "vision_end_token_id": 127,
            "vision_start_token_id": 126,
        },
        tokens=80,
        zero_centred=True,
        dtype="BF16",
        committed=True,
        fused=True,
        mtp=True,
    )
    text = Spec(
        "qwen3_5_moe-text",
        {
            **deepcopy(nested.config["text_config"]),
            "architectures": ["Qwen3_5MoeForCausalLM"],
            "tie_word_embeddings": True,
            "hidden_size": 64,
            "num_hidden_layers": 6,
            "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
            "head_dim": 48,
            "num_attention_heads": 4,
            "linear_key_head_dim": 24,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 3,
            "num_key_value_heads": 2,
        },
        tokens=150,
        style="transformers",
        zero_centred=True,
        embed_std=0.3,
    )
    text.config["rope_parameters"]["mrope_section"] = [3, 2, 1]
    return [nested, text]


def deepseek_v4():
    base = Spec(
        "deepseek_v4",
        {
            "architectures": ["DeepseekV4ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "hc_eps": 1e-6,
            "hc_mult": 4,
            "hc_sinkhorn_iters": 20,
            "head_dim": 24,
            "hidden_act": "silu",
            "hidden_size": 32,
            "index_head_dim": 16,
            "index_n_heads": 8,
            "index_topk": 6,
            "initializer_range": 0.02,
            "max_position_embeddings": 1024,
            "model_type": "deepseek_v4",
            "moe_intermediate_size": 16,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
            "num_attention_heads": 4,
            "num_experts_per_tok": 3,
            "num_hidden_layers": 6,
            "num_hash_layers": 2,
            "num_key_value_heads": 1,
            "num_nextn_predict_layers": 1,
            "o_groups": 2,
            "o_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 16,
                "original_max_position_embeddings": 64,
                "type": "yarn",
            },
            "rope_theta": 10000,
            "routed_scaling_factor": 1.5,
            "scoring_func": "sqrtsoftplus",
            "sliding_window": 16,
            "swiglu_limit": 2.0,
            "tie_word_embeddings": False,
            "topk_method": "noaux_tc",
            "torch_dtype": "float32",
            "transformers_version": "4.57.1",
            "use_cache": True,
            "vocab_size": 128,
            "compress_rope_theta": 160000,
            "compress_ratios": [0, 0, 4, 16, 4, 16, 0],
        },
        tokens=96,
        dtype="BF16",
        committed=True,
        mtp=True,
        gate_gain=2.0,
    )
    fp8_v4 = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    }
    return [
        base,
        base.but(
            "deepseek_v4-first",
            {
                "compress_ratios": [16, 16, 4, 4, 16, 0],
                "num_hidden_layers": 5,
                "num_hash_layers": 3,
                "hidden_size": 64,
                "head_dim": 48,
                "qk_rope_head_dim": 16,
                "num_attention_heads": 8,
                "o_groups": 4,
                "index_topk": 9,
                "index_head_dim": 32,
                "sliding_window": 11,
                "hc_sinkhorn_iters": 5,
                "routed_scaling_factor": 2.5,
                "n_routed_experts": 12,
                "num_experts_per_tok": 4,
                "n_shared_experts": 1,
                "rms_norm_eps": 1e-5,
                "rope_scaling": {"original_max_position_embeddings": 1024},
                "max_position_embeddings": 16384,
            },
            tokens=110,
        ),
        base.but("deepseek_v4-saved", {"compress_ratios": [0, 16, 4, 16, 4, 16, 0]}, style="transformers", mtp=False),
        base.but(
            "deepseek_v4-long",
            {
                "compress_ratios": [0, 0, 4, 128, 4, 128, 0],
                "sliding_window": 128,
                "index_topk": 24,
                "rope_scaling": {"original_max_position_embeddings": 128},
            },
            tokens=320,
            large=True,
        ),
        base.but(
            "deepseek_v4-fp4",
            {
                "hidden_size": 192,
                "moe_intermediate_size": 160,
                "q_lora_rank": 144,
                "o_lora_rank": 72,
                "head_dim": 64,
                "qk_rope_head_dim": 16,
                "index_head_dim": 32,
                "expert_dtype": "fp4",
                "quantization_config": fp8_v4,
            },
            storage="v4",
            dtype="BF16",
            large=True,
        ),
        base.but(
            "deepseek_v4-fp8",
            {
                "hidden_size": 192,
                "moe_intermediate_size": 136,
                "num_hidden_layers": 4,
                "compress_ratios": [0, 0, 4, 16, 0],
                "expert_dtype": "fp8",
                "quantization_config": fp8_v4,
            },
            storage="v4-base",
            dtype="BF16",
            large=True,
        ),
    ]


def all_specs():
    """Every checkpoint, in the order in which they are made."""
    makers = [
        qwen3_moe,
        olmoe,
        mixtral,
        deepseek_v4,
        gpt_oss,
        deepseek_v3,
        qwen3_next,
        glm4_moe,
        minimax_m2,
        gemma3,
        dense,
        qwen3_5_moe,
    ]
    return [spec for make in makers for spec in make()]

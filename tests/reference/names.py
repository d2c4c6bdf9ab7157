"""Published tensor names, and the tensors of a published checkpoint that transformers does not keep.

For most families transformers knows the way back to the published names. For DeepSeek-V4 it writes a mixture, so the
names of the published folder are spelled out here.
"""

import re

import torch
from transformers.core_model_loading import revert_weight_conversion

from fill import values

V4 = [
    (r"^model\.", ""),
    (r"^embed_tokens\.", "embed."),
    (r"^lm_head\.", "head."),
    (r"^hc_head\.hc_", "hc_head_"),
    (r"\.(attn|ffn)_hc\.", r".hc_\1_"),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.compressor\.indexer\.(q_b_proj)\.", r".attn.indexer.wq_b."),
    (r"\.self_attn\.compressor\.indexer\.scorer\.", ".attn.indexer."),
    (r"\.self_attn\.compressor\.indexer\.", ".attn.indexer.compressor."),
    (r"compressor\.kv_norm\.", "compressor.norm."),
    (r"\.self_attn\.", ".attn."),
    (r"\.sinks$", ".attn_sink"),
    (r"\.position_bias$", ".ape"),
    (r"\.q_a_proj\.", ".wq_a."),
    (r"\.q_a_norm\.", ".q_norm."),
    (r"\.q_b_proj\.", ".wq_b."),
    (r"\.kv_proj\.", ".wkv."),
    (r"compressor\.gate_proj\.", "compressor.wgate."),
    (r"\.o_([ab])_proj\.", r".wo_\1."),
    (r"\.mlp\.", ".ffn."),
    (r"\.gate\.e_score_correction_bias$", ".gate.bias"),
    (r"shared_experts\.gate_proj\.", "shared_experts.w1."),
    (r"shared_experts\.up_proj\.", "shared_experts.w3."),
    (r"shared_experts\.down_proj\.", "shared_experts.w2."),
]


def published(model, fused=False):
    """The model's tensors by the names of the published checkpoint."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if model.config.get_text_config().tie_word_embeddings:
        state.pop("lm_head.weight", None)
    if model.config.model_type == "deepseek_v4":
        return _published_v4(state)
    experts = {name: state.pop(name) for name in list(state) if fused and ".mlp.experts." in name}
    reverted = revert_weight_conversion(model, state) | experts
    return {name: tensor.clone().contiguous() for name, tensor in reverted.items()}


def _published_v4(state):
    answer = {}
    for name, tensor in state.items():
        for pattern, put in V4:
            name = re.sub(pattern, put, name)
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(tensor):
                gate, up = both.chunk(2)
                front = name.removesuffix("gate_up_proj") + f"{expert}."
                answer[front + "w1.weight"], answer[front + "w3.weight"] = gate.clone(), up.clone()
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(tensor):
                answer[name.removesuffix("down_proj") + f"{expert}.w2.weight"] = down.clone()
        else:
            answer[name] = tensor
    return answer


def mtp(tensors, spec, seed):
    """The tensors of one multi-token-prediction layer, as the published checkpoints of this family have them."""
    generator = torch.Generator().manual_seed(seed)
    width = _text(spec.config)["hidden_size"]
    layers = _text(spec.config)["num_hidden_layers"]
    shapes = {}
    if spec.name.startswith("deepseek_v4"):
        front = "mtp.0."
        for name, tensor in tensors.items():
            part = name.removeprefix(f"layers.{layers - 1}.")
            if part != name and not any(skip in part for skip in ("compressor", "indexer", "tid2eid")):
                shapes[front + part] = tensor.shape
        shapes |= {front + name: (width, width) for name in ("e_proj.weight", "h_proj.weight")}
        shapes |= {front + f"{name}.weight": (width,) for name in ("enorm", "hnorm", "norm")}
        shapes |= {front + name: tensors[name].shape for name in ("hc_head_fn", "hc_head_base", "hc_head_scale")}
    elif spec.name.startswith("qwen"):
        front = "model.language_model.layers" if "text_config" in spec.config else "model.layers"
        front = f"{front}.{layers - 1}."  # a full-attention layer
        for name, tensor in tensors.items():
            part = "mtp.layers.0." + name.removeprefix(front)
            if not name.startswith(front):
                continue
            if tensor.dim() < 3:
                shapes[part] = tensor.shape
                continue
            # A folder with fused experts has those of its prediction layer one by one all the same.
            split = ("gate_proj", "up_proj") if part.endswith("gate_up_proj") else ("down_proj",)
            part = part.rsplit(".", 1)[0]
            for expert in range(tensor.shape[0]):
                for kind in split:
                    shapes[f"{part}.{expert}.{kind}.weight"] = (tensor.shape[1] // len(split), tensor.shape[2])
        shapes["mtp.fc.weight"] = (width, 2 * width)
        for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
            shapes[f"mtp.{name}.weight"] = (width,)
    else:
        front = f"model.layers.{layers}."
        for name, tensor in tensors.items():
            part = name.removeprefix(f"model.layers.{layers - 1}.")
            if part != name:
                shapes[front + part] = tensor.shape
        shapes[front + "eh_proj.weight"] = (width, 2 * width)
        for name in ("enorm", "hnorm", "shared_head.norm"):
            shapes[front + name + ".weight"] = (width,)
        for name in ("embed_tokens", "shared_head.head"):
            shapes[front + name + ".weight"] = tensors["model.embed_tokens.weight"].shape
    return {name: values(name, torch.empty(shape), spec, generator) for name, shape in sorted(shapes.items())}


def _text(config):
    return config.get("text_config", config)

"""Random weights: every tensor of a model gets values that are neither zero nor one and that keep the signal alive.

A missing bias, a forgotten norm weight or a swapped table would go unnoticed with the neutral values that a fresh
model starts from, so nothing here is neutral.
"""

import math

import torch


def fill(model, spec, seed):
    """Overwrites all parameters and lasting buffers of `model`, in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(lasting(model).items()):
            tensor.copy_(values(name, tensor, spec, generator))


def lasting(model):
    """Parameters and persistent buffers by name, tied ones once."""
    kept = set(model.state_dict())
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor for name, tensor in named.items() if name in kept}


def values(name, tensor, spec, generator):
    """Values for one tensor, chosen by what its name says it is."""

    def normal(std=1.0, mean=0.0):
        return torch.randn(tensor.shape, generator=generator) * std + mean

    def uniform(low, high):
        return torch.rand(tensor.shape, generator=generator) * (high - low) + low

    leaf = name.rsplit(".", 1)[-1]
    if leaf == "tid2eid":
        experts = spec.config["n_routed_experts"]
        rows, width = tensor.shape
        return torch.stack([torch.randperm(experts, generator=generator)[:width] for _ in range(rows)])
    if leaf == "A_log":
        # Slow decay: a state that is soon empty leaves the norm behind it little but rounding to work on.
        return uniform(0.02, 1.0).log()
    if leaf == "dt_bias":
        return normal(0.7)
    if leaf in ("sinks", "attn_sink"):
        return normal(1.0, 0.5)
    if leaf == "e_score_correction_bias" or name.endswith("gate.bias"):
        return normal(0.15)
    if leaf in ("position_bias", "ape"):
        return normal(0.7)
    if leaf in ("scale", "hc_scale") or leaf.endswith("_scale"):
        return uniform(0.5, 1.5)
    if leaf in ("base", "hc_base") or leaf.endswith("_base"):
        return normal(0.7)
    if leaf in ("fn", "hc_fn") or leaf.endswith("_fn"):
        return normal(1.0 / math.sqrt(tensor.shape[-1]))
    if "norm" in name and tensor.dim() == 1:
        centred = spec.zero_centred and "linear_attn.norm" not in name and "visual" not in name
        return normal(0.25, 0.0 if centred else 1.0)
    if tensor.dim() == 1:
        return normal(0.3)
    if "conv1d" in name:
        return normal(0.5)
    if "embed_tokens" in name or name == "embed.weight":
        # Gemma multiplies the rows it looks up by the square root of the width.
        return normal(tensor.shape[-1] ** -0.5 if "gemma" in spec.name else spec.embed_std)
    if name.endswith(("mlp.gate.weight", "ffn.gate.weight", "router.weight", "block_sparse_moe.gate.weight")):
        return normal(2.0 / math.sqrt(tensor.shape[-1]))
    # gpt-oss keeps its experts as [expert, in, out], everybody else as [.., out, in].
    fan_in = tensor.shape[-2] if spec.name.startswith("gpt_oss") and tensor.dim() == 3 else tensor.shape[-1]
    gain = spec.gate_gain if any(part in name for part in ("gate_up_proj", ".w1.", ".w3.")) else 1.2
    return normal(gain / math.sqrt(fan_in))

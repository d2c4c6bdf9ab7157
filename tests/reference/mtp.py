"""What the prediction layers of most families say, for which transformers has no modules of its own.

Row p: the logits of token p + 2, given what the last layer says of p, behind the last norm, and the token p + 1. Both are
normed, put one after the other, the token first, and projected; then comes one more layer with its own norm behind it,
and a head, which is the model's unless the layer brings one. This is how the makers' checkpoints are run by the
inference servers that know them. DeepSeek-V4 is different: see `v4.py`.
"""

from copy import deepcopy

import torch


def mtp_logits(candidate, trace):
    meant = candidate.meant
    text = candidate.config.get_text_config()
    layers = text.num_hidden_layers
    if "mtp.fc.weight" in meant:
        front, joint, norms, end = "mtp.", "fc", ("pre_fc_norm_embedding", "pre_fc_norm_hidden"), "norm"
    else:
        front, joint, norms, end = f"model.layers.{layers}.", "eh_proj", ("enorm", "hnorm"), "shared_head.norm"
    own = {name.removeprefix(front): tensor for name, tensor in meant.items() if name.startswith(front)}

    # A model of this one layer, which transformers knows how to run.
    inner = "model.language_model." if any(name.startswith("model.language_model.") for name in meant) else "model."
    tensors = {name: tensor for name, tensor in meant.items() if not name.startswith((inner + "layers.", "mtp."))}
    outer = {f"{name}.weight" for name in (joint, end, *norms, "embed_tokens", "shared_head.head")}
    for name, tensor in own.items():
        if name not in outer:
            tensors[f"{inner}layers.0." + name.removeprefix("layers.0.")] = tensor
    tensors[f"{inner}norm.weight"] = own[f"{end}.weight"]
    if "shared_head.head.weight" in own:
        tensors["lm_head.weight"] = own["shared_head.head.weight"]
    if "embed_tokens.weight" in own:
        tensors[f"{inner}embed_tokens.weight"] = own["embed_tokens.weight"]
    config = deepcopy(candidate.config)
    part = config.get_text_config()
    part.num_hidden_layers = 1
    if getattr(part, "first_k_dense_replace", None):
        part.first_k_dense_replace = 0
    if getattr(part, "mlp_layer_types", None):
        part.mlp_layer_types = part.mlp_layer_types[-1:]
    if getattr(part, "layer_types", None):
        part.layer_types = ["full_attention"]
    model = candidate.load(stacked(tensors, candidate.spec, inner), config)

    def rms(x, weight):
        weight = weight + 1 if candidate.spec.zero_centred else weight
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + text.rms_norm_eps) * weight

    whole = candidate.model.model
    seen = getattr(whole, "language_model", whole).norm(trace[f"layer.{layers - 1}"][:-1])  # [T - 1, width]
    following = model.get_input_embeddings()(candidate.ids[0, 1:])
    token, last = (own[f"{name}.weight"] for name in norms)
    mixed = torch.cat([rms(following, token), rms(seen, last)], dim=-1) @ own[f"{joint}.weight"].T
    return model(inputs_embeds=mixed.unsqueeze(0), use_cache=False).logits[0].float().contiguous()


def stacked(tensors, spec, inner):
    """Where a family is published with all experts of a layer in one tensor, transformers wants to read them so."""
    if not spec.fused:
        return tensors
    front = f"{inner}layers.0.mlp.experts."
    count = 1 + max(int(name.removeprefix(front).split(".")[0]) for name in tensors if name.startswith(front))

    def all_of(kind):
        return [tensors.pop(f"{front}{expert}.{kind}.weight") for expert in range(count)]

    gate, up, down = all_of("gate_proj"), all_of("up_proj"), all_of("down_proj")
    both = [torch.cat(pair) for pair in zip(gate, up)]
    return tensors | {f"{front}gate_up_proj": torch.stack(both), f"{front}down_proj": torch.stack(down)}

"""What only DeepSeek-V4 needs: its flat configuration spelled out, and the logits of its prediction layer."""

from copy import deepcopy

import torch
from transformers.masking_utils import create_sliding_window_causal_mask

KINDS = {0: "sliding_attention", 4: "compressed_sparse_attention"}


def spelled_out(config):
    """`compress_ratios` as layer types: transformers knows only 0, 4 and 128, and tiny models want a smaller one."""
    config = deepcopy(config)
    ratios = config.pop("compress_ratios")[: config["num_hidden_layers"]]
    heavy = {ratio for ratio in ratios if ratio not in KINDS} or {128}
    assert len(heavy) == 1, f"one rate for the heavily compressed layers, not {heavy}"
    config["layer_types"] = [KINDS.get(ratio, "heavily_compressed_attention") for ratio in ratios]
    config["compress_rates"] = {"compressed_sparse_attention": 4, "heavily_compressed_attention": heavy.pop()}
    return config


def mtp_logits(candidate, trace):
    """Row p: what the prediction layer says of token p + 2, given the streams at p and the token p + 1.

    It is the layer as the published inference code has it, for which transformers has no module of its own: the
    streams before the head mix, each normed and projected, plus the next token's embedding, normed and projected and
    the same for all streams; then one sliding-window layer with its own head mix and norm, and the shared head.
    """
    meant = candidate.meant
    config = deepcopy(candidate.config)
    config.num_hidden_layers = 1
    config.layer_types, config.mlp_layer_types = ["sliding_attention"], ["moe"]
    tensors = {name: meant[name] for name in ("embed.weight", "head.weight")}
    outer = ("e_proj", "h_proj", "enorm", "hnorm")
    for name, tensor in meant.items():
        part = name.removeprefix("mtp.0.")
        if part != name and not part.startswith(outer):
            tensors[part if part.startswith(("norm", "hc_head")) else f"layers.0.{part}"] = tensor
    model = candidate.load(tensors, config).model
    head = candidate.model.lm_head

    def rms(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.rms_norm_eps) * weight

    def outer_tensor(name):
        return meant[f"mtp.0.{name}.weight"]

    streams = trace[f"layer.{candidate.config.num_hidden_layers - 1}"][:-1]  # [T - 1, streams, width]
    following = candidate.ids[:, 1:]
    embedded = model.embed_tokens(following)[0]
    mixed = rms(streams, outer_tensor("hnorm")) @ outer_tensor("h_proj").T
    mixed = mixed + (rms(embedded, outer_tensor("enorm")) @ outer_tensor("e_proj").T).unsqueeze(1)
    mixed = mixed.unsqueeze(0)
    positions = torch.arange(following.shape[1]).unsqueeze(0)
    plain = embedded.unsqueeze(0)
    mask = create_sliding_window_causal_mask(
        config=config, inputs_embeds=plain, attention_mask=None, past_key_values=None, position_ids=positions
    )
    turned = {kind: model.rotary_emb(plain, position_ids=positions, layer_type=kind) for kind in ("main", "compress")}
    out = model.layers[0](
        mixed, position_embeddings=turned, position_ids=positions, attention_mask=mask, input_ids=following
    )
    return head(model.norm(model.hc_head(out)))[0].float().contiguous()

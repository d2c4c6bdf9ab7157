"""How tensors lie in the folder: plain dtypes, and the quantised formats that published checkpoints come in.

`encode` takes the tensors in f32 by their published names and answers what is stored, and what that means in f32
again. The reference is always computed on the second.
"""

import json

import torch
from safetensors.torch import save_file

PLAIN = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
E4M3_MAX = 448.0
# Never in a small type, whatever the rest of the checkpoint is stored in.
ALWAYS_F32 = ("e_score_correction_bias", "A_log", "hc_", "attn_sink", ".ape", "gate.bias", "weight_scale_inv")


def encode(tensors, spec):
    """(stored, meant): both by published name; `meant` is in f32 and has no scales."""
    stored, meant = {}, {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            stored[name] = meant[name] = tensor
        elif (kind := quantised(name, tensor, spec)) is not None:
            kind(name, tensor, stored, meant)
        else:
            dtype = torch.float32 if any(part in name for part in ALWAYS_F32) else PLAIN[spec.dtype]
            stored[name] = tensor.to(dtype)
            meant[name] = stored[name].float()
    return {name: tensor.contiguous() for name, tensor in stored.items()}, meant


def quantised(name, tensor, spec):
    """Which quantised format this tensor has in the checkpoint, if any."""
    if spec.storage is None or tensor.dim() < 2:
        return None
    if spec.storage == "mxfp4":
        return mxfp4 if name.endswith(("experts.gate_up_proj", "experts.down_proj")) else None
    if spec.storage == "fp8":
        plain = ("embed_tokens", "lm_head", ".gate.weight", "visual", "conv1d")
        return None if any(part in name for part in plain) else fp8_scale_inv
    plain = ("embed", "head", "compressor", "weights_proj", "gate.weight", "hc_", ".ape")
    if any(part in name for part in plain):
        return None
    if spec.storage == "v4" and ".experts." in name:
        return fp4_e8m0
    return fp8_e8m0 if spec.storage == "v4" else fp8_scale


def fp8_scale_inv(name, tensor, stored, meant):
    """E4M3 in 128x128 blocks; `weight_scale_inv` in f32 multiplies (its name notwithstanding)."""
    stored[name], stored[name + "_scale_inv"], meant[name] = fp8(tensor, round_up=False)


def fp8_scale(name, tensor, stored, meant):
    """E4M3 in 128x128 blocks with a sibling `.scale` in f32."""
    stored[name], stored[name.removesuffix("weight") + "scale"], meant[name] = fp8(tensor, round_up=False)


def fp8_e8m0(name, tensor, stored, meant):
    """E4M3 in 128x128 blocks with a sibling `.scale` of powers of two."""
    codes, scale, meant[name] = fp8(tensor, round_up=True)
    stored[name], stored[name.removesuffix("weight") + "scale"] = codes, scale.to(torch.float8_e8m0fnu)


def fp8(tensor, round_up, block=128):
    rows, columns = tensor.shape
    tall, wide = -(-rows // block), -(-columns // block)
    padded = torch.zeros(tall * block, wide * block)
    padded[:rows, :columns] = tensor
    blocks = padded.view(tall, block, wide, block)
    scale = blocks.abs().amax(dim=(1, 3)) / E4M3_MAX
    if round_up:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    spread = scale.repeat_interleave(block, 0).repeat_interleave(block, 1)[:rows, :columns]
    codes = (tensor / spread).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return codes, scale, codes.float() * spread


def fp4_e8m0(name, tensor, stored, meant):
    """E2M1 in I8 [out, in / 2], the even column in the low nibble, with `.scale` E8M0 [out, in / 32]."""
    codes, exponents, meant[name] = fp4(tensor)
    stored[name] = pack(codes).view(torch.int8)
    stored[name.removesuffix("weight") + "scale"] = torch.exp2(exponents.float()).to(torch.float8_e8m0fnu)


def mxfp4(name, tensor, stored, meant):
    """gpt-oss: U8 `_blocks` [expert, out, in / 32, 16] and `_scales` [expert, out, in / 32], exponent plus 127."""
    turned = tensor.transpose(1, 2).contiguous()  # the dense layout is [expert, in, out]
    codes, exponents, value = fp4(turned)
    experts, out, columns = codes.shape
    stored[name + "_blocks"] = pack(codes).view(experts, out, columns // 32, 16)
    stored[name + "_scales"] = (exponents + 127).to(torch.uint8)
    meant[name] = value.transpose(1, 2).contiguous()


def fp4(tensor):
    """Codes 0..15, an exponent per 32 columns, and the value that they mean."""
    *front, columns = tensor.shape
    groups = tensor.reshape(*front, columns // 32, 32)
    exponents = torch.ceil(torch.log2(groups.abs().amax(-1) / 6.0)).to(torch.int32)
    scale = torch.exp2(exponents.float()).unsqueeze(-1)
    scaled = groups / scale
    index = (scaled.abs().unsqueeze(-1) - E2M1).abs().argmin(-1)
    value = (E2M1[index] * scaled.sign() * scale).reshape(tensor.shape)
    codes = (index + 8 * (scaled < 0)).to(torch.uint8).reshape(tensor.shape)
    return codes, exponents, value


def pack(codes):
    return (codes[..., 0::2] | (codes[..., 1::2] << 4)).contiguous()


def write(folder, tensors, shards=1):
    """One safetensors file, or several with an index as the hub has them."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map, total = {}, 0
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
        total += sum(tensor.numel() * tensor.element_size() for tensor in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

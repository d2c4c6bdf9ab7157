"""DeepSeek V4 with Engram as its paper has it: a module for the committed V4 checkpoint, and what both say together.

    python paper.py OUT

No published model has the paper's form. The engine opens it as a V4 folder whose config.json has the fields of the
demo's `EngramConfig` (arXiv 2601.07372) as `engram_config`, and whose tensors have the names of the demo's module under
`layers.N.engram.`. OUT gets config.json, tokenizer.json, engram.safetensors (to lie beside the V4 checkpoint's own
file) and ref.safetensors. transformers computes V4; the module stands before its layers, built from torch's layers.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import v4
import v41

BASE = pathlib.Path(__file__).parents[2] / "engine/tests/fixtures/models/deepseek_v4"
ENGRAM = {
    "engram_vocab_size": [37, 41],
    "max_ngram_size": 3,
    "n_embed_per_ngram": 16,
    "n_head_per_ngram": 2,
    "layer_ids": [1, 4],
    "pad_id": 2,
    "seed": 5,
    "kernel_size": 4,
}
SEED = 3


class Hashes:
    """The rows of each layer's table, column by column, as the demo hashes them."""

    def __init__(self, description):
        self.of, classes = v41.compress(description)
        used, self.columns, self.multipliers = set(), {}, {}
        for layer in ENGRAM["layer_ids"]:
            columns, start = [], 0
            for size in ENGRAM["engram_vocab_size"]:
                at = size
                for _ in range(ENGRAM["n_head_per_ngram"]):
                    while at in used or not v41.is_prime(at):
                        at += 1
                    used.add(at)
                    columns.append((at, start))
                    start += at
            self.columns[layer] = columns
            bound = max(1, (2**63 - 1) // classes // 2)
            drawn = numpy.random.default_rng(ENGRAM["seed"] + 10007 * layer).integers(0, bound, ENGRAM["max_ngram_size"], dtype=numpy.int64)
            self.multipliers[layer] = [int(x) * 2 + 1 for x in drawn]

    def rows(self, layer):
        return sum(prime for prime, _ in self.columns[layer])

    def at(self, layer, ids):
        found = []
        for t in range(len(ids)):
            mixed, row = 0, []
            for back, multiplier in enumerate(self.multipliers[layer]):
                token = ids[t - back] if t >= back else ENGRAM["pad_id"]
                mixed ^= self.of[token] * multiplier
                if back > 0:
                    heads = ENGRAM["n_head_per_ngram"]
                    row += [mixed % prime + start for prime, start in self.columns[layer][(back - 1) * heads : back * heads]]
            found.append(row)
        return torch.tensor(found)


class Module(nn.Module):
    """The demo's module, with its names."""

    def __init__(self, width, streams, rows):
        super().__init__()
        orders = ENGRAM["max_ngram_size"]
        read = (orders - 1) * ENGRAM["n_embed_per_ngram"]
        norms = lambda **kind: nn.ModuleList(nn.RMSNorm(width, **kind) for _ in range(streams))
        self.multi_head_embedding = nn.ModuleDict({"embedding": nn.Embedding(rows, ENGRAM["n_embed_per_ngram"] // ENGRAM["n_head_per_ngram"])})
        self.value_proj = nn.Linear(read, width)
        self.key_projs = nn.ModuleList(nn.Linear(read, width) for _ in range(streams))
        self.norm1, self.norm2 = norms(), norms()
        channels, taps = streams * width, ENGRAM["kernel_size"]
        conv = nn.Conv1d(channels, channels, taps, groups=channels, bias=False, padding=(taps - 1) * orders, dilation=orders)
        self.short_conv = nn.ModuleDict({"conv": conv, "norms": norms(eps=1e-5)})

    def forward(self, streams, rows):
        """streams [T, streams, width], rows [T, columns]"""
        e = self.multi_head_embedding["embedding"](rows).flatten(1)
        count, width = streams.shape[1:]
        near = [(self.norm1[i](self.key_projs[i](e)) * self.norm2[i](streams[:, i])).sum(1) / width**0.5 for i in range(count)]
        near = torch.stack(near, 1)
        gate = torch.sigmoid(near.abs().clamp_min(1e-6).sqrt() * near.sign())
        value = gate.unsqueeze(2) * self.value_proj(e).unsqueeze(1)
        normed = torch.cat([self.short_conv["norms"][i](value[:, i]) for i in range(count)], 1)
        mixed = self.short_conv["conv"](normed.T[None])[0, :, : len(e)].T
        return streams + value + nn.functional.silu(mixed).unflatten(1, (count, width))


def main():
    out = pathlib.Path(sys.argv[1])
    torch.set_num_threads(1)
    config = json.loads((BASE / "config.json").read_text())
    width, streams, vocabulary = config["hidden_size"], config["hc_mult"], config["vocab_size"]
    ascii_alone = range(0x20, 0x7F)
    description = v41.tokenizer(vocabulary, ascii_alone, ["the", " the", " The", "THE", "  ", " a", " A"])
    hashes = Hashes(description)
    torch.manual_seed(SEED)
    modules = {}
    for layer in ENGRAM["layer_ids"]:
        module = modules[layer] = Module(width, streams, hashes.rows(layer))
        for name, parameter in module.named_parameters():
            if "norm" in name:
                nn.init.normal_(parameter, 1, 0.2)
            elif "conv" in name:
                nn.init.normal_(parameter, 0, 0.5)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(json.dumps(v4.spelled_out(config)))
        shutil.copy(BASE / "model.safetensors", folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    ids = load_file(BASE / "ref.safetensors")["input_ids"]
    ids[0, 50:60] = ids[0, 20:30]

    def before(layer):
        def hook(_, arguments, keywords):
            (x,) = arguments
            told = modules[layer](x[0], hashes.at(layer, ids[0].tolist()))
            return (told[None],), keywords

        return hook

    for layer in modules:
        model.model.layers[layer].register_forward_pre_hook(before(layer), with_kwargs=True)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config | {"engram_config": ENGRAM}, indent=2) + "\n")
    (out / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False) + "\n")
    tensors = {f"layers.{layer}.engram.{name}": tensor for layer, module in modules.items() for name, tensor in module.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "engram.safetensors", {"format": "pt"})
    # The last tokens have seen what those before them read.
    save_file({"input_ids": ids, "logits": logits[-32:].contiguous()}, out / "ref.safetensors")
    print(f"logits up to {logits.abs().max():.2f}, {sum(tensor.numel() for tensor in tensors.values())} weights")


if __name__ == "__main__":
    main()

"""A tiny DeepSeek V4.1 (`deepseek_v41`) and what it says: a seeded checkpoint in the official tensor names and its logits.

No library has this family yet, so the forward pass is written here, twice and differently: `prefill` takes a whole
text at once with masks, `Line` takes one token after the other with caches. The script fails when the two disagree.

    python v41.py OUT                  plain f32 weights
    python v41.py OUT --official       FP8, FP4 and BF16 weights, stored as the published checkpoint stores them
    python v41.py OUT --seed 7         another seed; the margins of every choice are printed

It writes OUT/config.json, OUT/tokenizer.json (Engram's hashes depend on the vocabulary), OUT/model.safetensors and
OUT/ref.safetensors with `input_ids` [1, T] and `logits` [1, T, vocabulary], computed in f64. The round trips through FP8 and FP4 that
the published model was trained with are not part of these logits: a round trip turns the last bit of an f32 into a
whole step, so that no two programs need agree on them. Their judge are the `trip_*` tensors: `trip_in` [64, 64] and
what each of the three makes of it, and `trip_logits` [32, vocabulary] of the last tokens with all of them, where f32 and
f64 come to the same steps.

Needs torch, numpy, safetensors and tokenizers; runs on the CPU in seconds.
"""

import argparse
import json
import math
import pathlib

import numpy
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, normalizers

LAYERS = 8
RATIOS = [0, 2, 2, 2, 1, 1, 1, 0]

CONFIG = {
    "architectures": ["DeepseekV41ForCausalLM"],
    "model_type": "deepseek_v41",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "image_token_id": 3,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "text_config": {
        "model_type": "deepseek_v41_text",
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "vocab_size": 320,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "qk_rope_head_dim": 8,
        "q_lora_rank": 32,
        "o_lora_rank": 16,
        "o_groups": 2,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 32,
        "hidden_act": "silu",
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        # Low enough that some gates and values are really cut.
        "swiglu_limit": 1.0,
        "rms_norm_eps": 1e-20,
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6,
        "sliding_window": 8,
        # One more than there are layers: the last is a draft stage's.
        "compress_ratios": RATIOS + [0],
        "kv_source_layer_ids": [1, 3, 4],
        "index_source_layer_ids": [1, 3, 4, 5],
        "index_n_heads": 16,
        "index_head_dim": 32,
        "index_topk": 6,
        "candidate_source_layer_id": 4,
        "candidate_topk_blocks": 3,
        "candidate_block_size": 4,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "compress_rope_theta": 160000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 16,
            "original_max_position_embeddings": 256,
            "beta_fast": 32,
            "beta_slow": 1,
        },
        "engram_layer_ids": [1, 5],
        "engram_max_ngram_size": 4,
        "engram_n_heads": 2,
        "engram_head_dim": 32,
        "engram_vocab_size": 53,
        "engram_pad_token_id": 2,
        "num_nextn_predict_layers": 0,
        "tie_word_embeddings": False,
    },
}

TOKENS = 96
DEFAULT_SEED = 8


# ---- the vocabulary ------------------------------------------------------------------------------------------------


def byte_letters():
    """The letter byte-level vocabularies write each byte as."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters.update({byte: chr(0x100 + i) for i, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]


WORDS = ["the", " the", " The", "THE", "é", "É", "ｅ", "  ", "\t\n", " a", " A", "ß", "Ⅳ", "iv", "İ", "ﬁ", "fi", "Σ", "σ", "ς"]


def tokenizer(size, spelled=range(256), words=WORDS):
    """A byte-level vocabulary in which Engram's compression has something to do: words in several cases and accents."""
    letters = byte_letters()
    special = ["<bos>", "<eos>", "<pad>", "<image>"]
    vocab = {name: i for i, name in enumerate(special)}
    for byte in spelled:
        vocab[letters[byte]] = len(vocab)
    merges = []

    def word(text):
        spelled = [letters[byte] for byte in text.encode()]
        while len(spelled) > 1:
            merged = spelled[0] + spelled[1]
            if merged not in vocab:
                vocab[merged] = len(vocab)
                merges.append([spelled[0], spelled[1]])
            spelled[:2] = [merged]

    for text in words:
        word(text)
    assert len(vocab) <= size, len(vocab)
    added = [
        {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, name in enumerate(special)
    ]
    for i in range(len(vocab), size):
        name = f"<place {i}>"
        added.append({"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True})
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


# ---- Engram's addresses --------------------------------------------------------------------------------------------


def compress(description):
    """Token -> class of tokens that read alike, and how many classes there are."""
    words = Tokenizer.from_str(json.dumps(description))
    blank = "\ue000"
    alike = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
            normalizers.Replace(Regex(r"^ $"), blank),
            normalizers.Strip(),
            normalizers.Replace(blank, " "),
        ]
    )
    classes, of = {}, []
    for token in range(words.get_vocab_size()):
        text = words.decode([token], skip_special_tokens=False)
        key = words.id_to_token(token) if "\ufffd" in text else alike.normalize_str(text) or text
        of.append(classes.setdefault(key, len(classes)))
    return of, len(classes)


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


class Addresses:
    """Which rows of the tables a token and its predecessors name."""

    def __init__(self, c, description):
        self.of, self.classes = compress(description)
        self.pad = self.of[c["engram_pad_token_id"]]
        self.orders, self.image = c["engram_max_ngram_size"], CONFIG["image_token_id"]
        used, self.primes, self.multipliers = set(), [], []
        for layer in c["engram_layer_ids"]:
            primes = []
            for _ in range(2, self.orders + 1):
                at, row = c["engram_vocab_size"], []
                while len(row) < c["engram_n_heads"]:
                    if at not in used and is_prime(at):
                        used.add(at)
                        row.append(at)
                    at += 1
                primes.append(row)
            self.primes.append(primes)
            bound = max(1, (2**63 - 1) // self.classes // 2)
            drawn = numpy.random.default_rng(10007 * layer).integers(0, bound, self.orders, dtype=numpy.int64)
            self.multipliers.append([int(x) * 2 + 1 for x in drawn])
        self.rows = [sum(sum(row) for row in primes) for primes in self.primes]

    def at(self, which, line, position):
        """The rows that the token at `position` of `line` reads from table number `which`."""
        mixed, found, start, broken = 0, [], 0, False
        for back in range(self.orders):
            here = position - back
            broken = broken or here < 0 or line[here] == self.image
            mixed ^= (self.pad if broken else self.of[line[here]]) * self.multipliers[which][back]
            if back > 0:
                for prime in self.primes[which][back - 1]:
                    found.append(start + mixed % prime)
                    start += prime
        return found


# ---- weights -------------------------------------------------------------------------------------------------------


def make_weights(c, addresses, seed):
    random = torch.Generator().manual_seed(seed)
    weights = {}

    def normal(name, *shape, scale=None):
        scale = shape[-1] ** -0.5 if scale is None else scale
        weights[name] = torch.randn(*shape, generator=random) * scale

    def around_one(name, *shape):
        weights[name] = 1 + torch.randn(*shape, generator=random) * 0.1

    d, n = c["hidden_size"], c["hc_mult"]
    heads, head, groups, o_lora, q_lora = c["num_attention_heads"], c["head_dim"], c["o_groups"], c["o_lora_rank"], c["q_lora_rank"]
    normal("embed.weight", c["vocab_size"], d, scale=0.5)
    normal("head.weight", c["vocab_size"], d, scale=0.3 * d**-0.5)
    around_one("norm.weight", d)
    for layer in range(c["num_hidden_layers"]):
        p = f"layers.{layer}."
        for part in ("attn", "ffn"):
            around_one(f"{p}{part}_norm.weight", d)
            normal(f"{p}hc_{part}_fn", (2 + n) * n, n * d, scale=0.05)
            normal(f"{p}hc_{part}_base", (2 + n) * n, scale=0.5)
            weights[f"{p}hc_{part}_scale"] = torch.rand(3, generator=random) + 0.5
        a = p + "attn."
        normal(a + "wq_a.weight", q_lora, d)
        around_one(a + "q_norm.weight", q_lora)
        normal(a + "wq_b.weight", heads * head, q_lora, scale=2 * q_lora**-0.5)
        normal(a + "wkv.weight", head, d)
        around_one(a + "kv_norm.weight", head)
        normal(a + "attn_sink", heads, scale=1.0)
        normal(a + "wo_a.weight", groups * o_lora, heads * head // groups)
        normal(a + "wo_b.weight", d, groups * o_lora, scale=0.3)
        if layer in c["kv_source_layer_ids"]:
            normal(a + "compressor.wkv.weight", head, d)
            if c["compress_ratios"][layer] > 1:
                normal(a + "compressor.wgate.weight", head, d, scale=2 * d**-0.5)
            around_one(a + "compressor.norm.weight", head)
        if layer in c["index_source_layer_ids"]:
            normal(a + "indexer.wq_b.weight", c["index_n_heads"] * c["index_head_dim"], q_lora)
            normal(a + "indexer.weights_proj.weight", c["index_n_heads"], d)
            if layer in c["kv_source_layer_ids"]:
                normal(a + "indexer.wk.weight", c["index_head_dim"], head)
                around_one(a + "indexer.k_norm.weight", c["index_head_dim"])
        f = p + "ffn."
        normal(f + "gate.weight", c["n_routed_experts"], d)
        normal(f + "gate.bias", c["n_routed_experts"], scale=0.2)
        experts = [f"experts.{e}." for e in range(c["n_routed_experts"])] + ["shared_experts."]
        for expert in experts:
            normal(f + expert + "w1.weight", c["moe_intermediate_size"], d)
            normal(f + expert + "w3.weight", c["moe_intermediate_size"], d)
            normal(f + expert + "w2.weight", d, c["moe_intermediate_size"], scale=0.3)
        if layer in c["engram_layer_ids"]:
            e = p + "engram."
            columns = (c["engram_max_ngram_size"] - 1) * c["engram_n_heads"] * c["engram_head_dim"]
            normal(e + "embed.weight", addresses.rows[c["engram_layer_ids"].index(layer)], c["engram_head_dim"], scale=0.5)
            normal(e + "wkv.weight", (n + 1) * d, columns)
            around_one(e + "q_weight", n, d)
            around_one(e + "k_weight", n, d)
    return weights


FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def power_above(x):
    """The smallest power of two that is no less than x."""
    fraction, exponent = torch.frexp(x)
    return torch.ldexp(torch.ones_like(x), exponent - (fraction == 0.5).to(exponent.dtype))


def to_fp4(x):
    """Codes of the nearest E2M1 numbers, ties to the even code."""
    size = x.abs().clamp(max=6.0)
    code = torch.bucketize(size, (FP4[1:] + FP4[:-1]) / 2)
    tie = (size.unsqueeze(-1) == (FP4[1:] + FP4[:-1]) / 2).any(-1)
    code = torch.where(tie, code + code % 2, code)
    return (code + torch.where(x < 0, 8, 0)).to(torch.uint8)


def from_fp4(code):
    return FP4.to(torch.float32)[(code & 7).long()] * torch.where(code & 8 > 0, -1.0, 1.0)


def exponent_byte(scale):
    return (torch.frexp(scale)[1] - 1 + 127).to(torch.uint8).view(torch.float8_e8m0fnu)


def official(weights):
    """The tensors as the published checkpoint stores them, and the numbers they stand for."""
    stored, meant = {}, {}
    fp8 = (".wq_a.", ".wq_b.", ".attn.wkv.", ".wo_a.", ".wo_b.", ".shared_experts.", ".engram.wkv.")
    f32 = ("hc_", "attn_sink", "gate.bias", "q_weight", "k_weight")
    for name, x in weights.items():
        scale_name = name.removesuffix("weight") + "scale"
        if ".experts." in name:
            blocks = x.unflatten(1, (-1, 32))
            scale = power_above(blocks.abs().amax(-1) / 6)
            code = to_fp4(blocks / scale.unsqueeze(-1))
            meant[name] = (from_fp4(code) * scale.unsqueeze(-1)).flatten(1)
            code = code.flatten(1)
            stored[name] = (code[:, 0::2] | code[:, 1::2] << 4).view(torch.int8)
            stored[scale_name] = exponent_byte(scale)
        elif name.endswith("engram.embed.weight"):
            blocks = x.unflatten(1, (-1, 32))
            scale = power_above(blocks.abs().amax(-1) / 448)
            small = (blocks / scale.unsqueeze(-1)).to(torch.float8_e4m3fn)
            meant[name] = (small.float() * scale.unsqueeze(-1)).flatten(1)
            stored[name], stored[scale_name] = small.flatten(1), exponent_byte(scale)
        elif any(part in name for part in fp8):
            blocks = x.unflatten(0, (-1, 32)).unflatten(2, (-1, 32)).transpose(1, 2)
            scale = power_above(blocks.abs().amax((2, 3)) / 448)
            small = (blocks / scale[:, :, None, None]).to(torch.float8_e4m3fn)
            whole = lambda blocks: blocks.transpose(1, 2).flatten(2).flatten(0, 1)
            meant[name] = whole(small.float() * scale[:, :, None, None])
            stored[name], stored[scale_name] = whole(small).contiguous(), exponent_byte(scale)
        elif any(part in name for part in f32):
            stored[name] = meant[name] = x
        else:
            stored[name] = x.to(torch.bfloat16)
            meant[name] = stored[name].float()
    return stored, meant


# ---- round trips of the published graph ----------------------------------------------------------------------------


def trip_fp8(x):
    """Through E4M3 in blocks of 32 with a power of two: window rows."""
    blocks = x.unflatten(-1, (-1, 32))
    scale = power_above(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-4).float() * (1 / 448))
    return ((blocks / scale).float().to(torch.float8_e4m3fn).to(x.dtype) * scale).flatten(-2)


def trip_fp4(x):
    """Through E2M1 in blocks of 32 with a power of two: index queries and keys."""
    blocks = x.unflatten(-1, (-1, 32))
    scale = power_above(blocks.abs().amax(-1, keepdim=True).clamp_min(6 * 2.0**-126).float() * (1 / 6))
    return (from_fp4(to_fp4((blocks / scale).float())) * scale).flatten(-2).to(x.dtype)


def trip_compressed(x):
    """Through E2M1 in blocks of 16 with an E4M3 scale: compressed rows."""
    blocks = x.unflatten(-1, (-1, 16))
    scale = (blocks.abs().amax(-1, keepdim=True).float() * (1 / 6)).clamp(2.0**-9, 448).to(torch.float8_e4m3fn).float()
    return (from_fp4(to_fp4((blocks / scale).float())) * scale).flatten(-2).to(x.dtype)


# ---- the forward pass ----------------------------------------------------------------------------------------------


class Model:
    """What both forms share: every step that looks at one token alone."""

    def __init__(self, c, weights, addresses, qat=False, dtype=torch.float32):
        self.c, self.addresses, self.qat = c, addresses, qat
        self.w = {name: x.to(dtype) for name, x in weights.items()}
        self.eps = c["rms_norm_eps"]
        # The closest any choice came to going the other way, by kind of choice.
        self.margins = {}

    def rms(self, x, weight=None):
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x if weight is None else x * self.w[weight]

    def linear(self, x, name):
        return x @ self.w[name].T

    def ratio(self, layer):
        return self.c["compress_ratios"][layer]

    def source(self, layer, key):
        """The layer whose rows (or choice of rows) `layer` uses: the nearest at or before it with the same ratio."""
        return max(s for s in self.c[key] if s <= layer and self.ratio(s) == self.ratio(layer))

    def turn(self, x, positions, layer, back=False):
        """Rotates the last features of x [T, ..., width] by position; pairs lie side by side."""
        c, rope = self.c, self.c["qk_rope_head_dim"]
        theta = c["compress_rope_theta"] if self.ratio(layer) else c["rope_theta"]
        frequency = theta ** (-torch.arange(0, rope, 2, dtype=torch.float64) / rope)
        if self.ratio(layer):
            y = c["rope_scaling"]
            turns = lambda n: rope * math.log(y["original_max_position_embeddings"] / (n * 2 * math.pi)) / (2 * math.log(theta))
            low = max(math.floor(turns(y["beta_fast"])), 0)
            high = min(math.ceil(turns(y["beta_slow"])), rope - 1)
            ramp = (torch.arange(rope // 2, dtype=torch.float64) - low) / (high - low if high > low else 0.001)
            keep = 1 - ramp.clamp(0, 1)
            frequency = frequency / y["factor"] * (1 - keep) + frequency * keep
        angle = torch.as_tensor(positions, dtype=torch.float64)[:, None] * frequency * (-1 if back else 1)
        shape = (len(angle), *[1] * (x.dim() - 2), rope // 2)
        cos, sin = angle.cos().to(x.dtype).view(shape), angle.sin().to(x.dtype).view(shape)
        still, even, odd = x[..., :-rope], x[..., -rope::2], x[..., -rope + 1 :: 2]
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
        return torch.cat([still, turned], -1)

    def mix(self, streams, name):
        """The coefficients of one hyper-connection: pre [T, n], post [T, n], comb [T, n, n]."""
        c, n = self.c, self.c["hc_mult"]
        m = self.linear(self.rms(streams.flatten(1)), name + "_fn")
        scale, base, eps = self.w[name + "_scale"], self.w[name + "_base"], c["hc_eps"]
        pre = torch.sigmoid(m[:, :n] * scale[0] + base[:n]) + eps
        post = 2 * torch.sigmoid(m[:, n : 2 * n] * scale[1] + base[n : 2 * n])
        comb = (m[:, 2 * n :] * scale[2] + base[2 * n :]).unflatten(1, (n, n)).softmax(2) + eps
        comb = comb / (comb.sum(1, keepdim=True) + eps)
        for _ in range(c["hc_sinkhorn_iters"] - 1):
            comb = comb / (comb.sum(2, keepdim=True) + eps)
            comb = comb / (comb.sum(1, keepdim=True) + eps)
        return pre, post, comb

    def engram(self, streams, layer, line, positions):
        c, p = self.c, f"layers.{layer}.engram."
        n, d = c["hc_mult"], c["hidden_size"]
        which = c["engram_layer_ids"].index(layer)
        rows = torch.tensor([self.addresses.at(which, line, position) for position in positions])
        out = self.linear(self.w[p + "embed.weight"][rows].flatten(1), p + "wkv.weight")
        keys, value = out[:, : n * d].unflatten(1, (n, d)), out[:, n * d :]
        near = (self.rms(streams) * self.w[p + "q_weight"] * self.w[p + "k_weight"] * self.rms(keys)).sum(2) * d**-0.5
        gate = torch.sigmoid(torch.copysign(near.abs().clamp_min(1e-6).sqrt(), near))
        told = streams + gate.unsqueeze(2) * value.unsqueeze(1)
        images = torch.tensor([line[position] == self.addresses.image for position in positions])
        return torch.where(images[:, None, None], streams, told)

    def expert(self, x, p):
        limit = self.c["swiglu_limit"]
        gate, up = self.linear(x, p + "w1.weight"), self.linear(x, p + "w3.weight")
        if limit:
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return self.linear(torch.nn.functional.silu(gate) * up, p + "w2.weight")

    def experts(self, x, layer):
        c, p = self.c, f"layers.{layer}.ffn."
        score = torch.nn.functional.softplus(self.linear(x, p + "gate.weight")).sqrt()
        wish = score + self.w[p + "gate.bias"]
        best = wish.topk(c["num_experts_per_tok"] + 1, 1).values
        self.note("router", best[:, -2] - best[:, -1])
        chosen = wish.topk(c["num_experts_per_tok"], 1).indices
        weight = score.gather(1, chosen)
        if c["norm_topk_prob"]:
            weight = weight / (weight.sum(1, keepdim=True) + 1e-20)
        weight = weight * c["routed_scaling_factor"]
        y = self.expert(x, p + "shared_experts.")
        for e in range(c["n_routed_experts"]):
            share = torch.where(chosen == e, weight, 0).sum(1, keepdim=True)
            y = y + share * self.expert(x, f"{p}experts.{e}.")
        return y

    def note(self, kind, gaps):
        if gaps.numel():
            self.margins[kind] = min(self.margins.get(kind, math.inf), gaps.min().item())

    def answer(self, streams, pre):
        return self.linear(self.rms((pre.unsqueeze(2) * streams).sum(1), "norm.weight"), "head.weight")

    def output(self, o, positions, layer):
        """What the heads saw [T, heads, head], turned back and projected group by group."""
        c, p = self.c, f"layers.{layer}.attn."
        o = self.turn(o, positions, layer, back=True).flatten(1).unflatten(1, (c["o_groups"], -1))
        narrow = torch.einsum("tgi,goi->tgo", o, self.w[p + "wo_a.weight"].unflatten(0, (c["o_groups"], -1)))
        return self.linear(narrow.flatten(1), p + "wo_b.weight")

    def index_query(self, x, low, positions, layer):
        c, p = self.c, f"layers.{layer}.attn.indexer."
        query = self.linear(low, p + "wq_b.weight").unflatten(1, (c["index_n_heads"], c["index_head_dim"]))
        query = self.turn(query, positions, layer)
        weight = self.linear(x, p + "weights_proj.weight") * (c["index_head_dim"] * c["index_n_heads"]) ** -0.5
        return (trip_fp4(query) if self.qat else query), weight

    def index_key(self, latent, positions, layer):
        key = self.rms(self.linear(latent, f"layers.{layer}.attn.indexer.wk.weight"), f"layers.{layer}.attn.indexer.k_norm.weight")
        key = self.turn(key, positions, layer)
        return trip_fp4(key) if self.qat else key

    def compressed_row(self, latent, positions, layer):
        row = self.turn(latent, positions, layer)
        return trip_compressed(row) if self.qat else row

    def query_and_window_row(self, x, positions, layer):
        c, p = self.c, f"layers.{layer}.attn."
        low = self.rms(self.linear(x, p + "wq_a.weight"), p + "q_norm.weight")
        query = self.linear(low, p + "wq_b.weight").unflatten(1, (c["num_attention_heads"], c["head_dim"]))
        row = self.turn(self.rms(self.linear(x, p + "wkv.weight"), p + "kv_norm.weight"), positions, layer)
        return low, self.turn(query, positions, layer), (trip_fp8(row) if self.qat else row)


def gaps(scores, k):
    """By how much the k-th best of each row beats the next; nothing where all are taken."""
    if scores.shape[1] <= k:
        return torch.empty(0)
    best = scores.topk(k + 1, 1).values
    gap = best[:, -2] - best[:, -1]
    return gap[torch.isfinite(gap)]


def prefill(model, line):
    """The logits [T, vocabulary] of a whole text at once: every position masked from what it may not see."""
    c, t = model.c, len(line)
    positions = torch.arange(t)
    streams = model.w["embed.weight"][torch.tensor(line)].unsqueeze(1).repeat(1, c["hc_mult"], 1)
    pre = torch.zeros(t, c["hc_mult"], dtype=streams.dtype)
    pre[:, 0] = 1
    rows, keys, choice, candidates = {}, {}, {}, None

    def compress(x, layer):
        nonlocal rows, keys
        ratio, p = model.ratio(layer), f"layers.{layer}.attn."
        whole = t - t % ratio
        latent = model.linear(x[:whole], p + "compressor.wkv.weight")
        if ratio > 1:
            score = model.linear(x[:whole], p + "compressor.wgate.weight").unflatten(0, (-1, ratio))
            latent = (latent.unflatten(0, (-1, ratio)) * score.softmax(1)).sum(1)
        latent = model.rms(latent, p + "compressor.norm.weight")
        starts = torch.arange(0, whole, ratio)
        if layer in c["index_source_layer_ids"]:
            keys[layer] = model.index_key(latent, starts, layer)
        rows[layer] = model.compressed_row(latent, starts, layer)

    def choose(x, low, layer):
        """Which compressed rows each position attends: [T, rows] of booleans."""
        nonlocal candidates
        ratio = model.ratio(layer)
        visible = torch.arange(t // ratio)[None] < ((positions + 1) // ratio)[:, None]
        query, weight = model.index_query(x, low, positions, layer)
        key = keys[model.source(layer, "kv_source_layer_ids")]
        score = (torch.einsum("thd,rd->thr", query, key).relu() * weight.unsqueeze(2)).sum(1)
        score = score.masked_fill(~visible, -math.inf)
        if layer == c["candidate_source_layer_id"]:
            size = c["candidate_block_size"]
            padded = torch.nn.functional.pad(score, (0, -score.shape[1] % size), value=-math.inf)
            block = padded.unflatten(1, (-1, size)).amax(2)
            newest = ((positions + 1) // ratio - 1) // size
            block[positions, newest] = math.inf
            kept = block.topk(min(c["candidate_topk_blocks"], block.shape[1]), 1)
            model.note("blocks", gaps(block, c["candidate_topk_blocks"]))
            candidates = torch.zeros_like(block, dtype=torch.bool).scatter(1, kept.indices, kept.values > -math.inf)
            candidates = candidates.repeat_interleave(size, 1)[:, : score.shape[1]]
        elif 0 <= c["candidate_source_layer_id"] < layer:
            score = score.masked_fill(~candidates, -math.inf)
        model.note("index", gaps(score, c["index_topk"]))
        best = score.topk(min(c["index_topk"], score.shape[1]), 1)
        return torch.zeros_like(visible).scatter(1, best.indices, best.values > -math.inf)

    for layer in range(c["num_hidden_layers"]):
        p = f"layers.{layer}."
        if layer in c["engram_layer_ids"]:
            streams = model.engram(streams, layer, line, range(t))
        for part in ("attn", "ffn"):
            next_pre, post, comb = model.mix(streams, f"{p}hc_{part}")
            x = model.rms((pre.unsqueeze(2) * streams).sum(1), f"{p}{part}_norm.weight")
            if part == "ffn":
                y = model.experts(x, layer)
            else:
                low, query, window = model.query_and_window_row(x, positions, layer)
                back = positions[:, None] - positions[None]
                seen, seen_rows = (back >= 0) & (back < c["sliding_window"]), window
                if model.ratio(layer):
                    if layer in c["kv_source_layer_ids"]:
                        compress(x, layer)
                    if layer in c["index_source_layer_ids"]:
                        choice[layer] = choose(x, low, layer)
                    seen = torch.cat([seen, choice[model.source(layer, "index_source_layer_ids")]], 1)
                    seen_rows = torch.cat([window, rows[model.source(layer, "kv_source_layer_ids")]])
                score = torch.einsum("thd,rd->thr", query, seen_rows) * c["head_dim"] ** -0.5
                score = score.masked_fill(~seen.unsqueeze(1), -math.inf)
                sink = model.w[p + "attn.attn_sink"][None, :, None].expand(t, -1, 1)
                share = torch.cat([score, sink], 2).softmax(2)[:, :, :-1]
                y = model.output(torch.einsum("thr,rd->thd", share, seen_rows), positions, layer)
            streams = post.unsqueeze(2) * y.unsqueeze(1) + torch.einsum("tjk,tjd->tkd", comb, streams)
            pre = next_pre
    return model.answer(streams, pre)


class Line:
    """One token after the other, with what has to be kept of those before."""

    def __init__(self, model):
        c = model.c
        self.model, self.tokens = model, []
        self.window = [[] for _ in range(c["num_hidden_layers"])]
        self.rows = {layer: [] for layer in c["kv_source_layer_ids"]}
        self.keys = {layer: [] for layer in c["kv_source_layer_ids"]}
        # The parts of a group of tokens that is not full yet.
        self.parts = {layer: [] for layer in c["kv_source_layer_ids"]}

    def next(self, token):
        """The logits [vocabulary] after `token`."""
        model, c = self.model, self.model.c
        self.tokens.append(token)
        position = len(self.tokens) - 1
        streams = model.w["embed.weight"][token].repeat(1, c["hc_mult"], 1)
        pre = None
        self.choice, self.candidates = {}, None
        for layer in range(c["num_hidden_layers"]):
            p = f"layers.{layer}."
            if layer in c["engram_layer_ids"]:
                streams = model.engram(streams, layer, self.tokens, [position])
            for part in ("attn", "ffn"):
                mixed = model.mix(streams, f"{p}hc_{part}")
                x = streams[:, 0] if pre is None else torch.einsum("tj,tjd->td", pre, streams)
                x = model.rms(x, f"{p}{part}_norm.weight")
                y = self.attend(x, layer, position) if part == "attn" else model.experts(x, layer)
                pre, post, comb = mixed
                streams = torch.stack(
                    [
                        post[:, k, None] * y + sum(comb[:, j, k, None] * streams[:, j] for j in range(c["hc_mult"]))
                        for k in range(c["hc_mult"])
                    ],
                    1,
                )
        return model.answer(streams, pre)[0]

    def attend(self, x, layer, position):
        model, c, p = self.model, self.model.c, f"layers.{layer}.attn."
        low, query, row = model.query_and_window_row(x, [position], layer)
        self.window[layer] = (self.window[layer] + [row[0]])[-c["sliding_window"] :]
        seen = list(self.window[layer])
        if model.ratio(layer):
            if layer in c["kv_source_layer_ids"]:
                self.compress(x, layer, position)
            if layer in c["index_source_layer_ids"]:
                self.choice[layer] = self.choose(x, low, layer, position)
            source = model.source(layer, "kv_source_layer_ids")
            seen += [self.rows[source][w] for w in self.choice[model.source(layer, "index_source_layer_ids")]]
        seen = torch.stack(seen)
        outputs = []
        for head in range(c["num_attention_heads"]):
            score = seen @ query[0, head] * c["head_dim"] ** -0.5
            sink = model.w[p + "attn_sink"][head]
            most = torch.maximum(score.max(), sink)
            share = torch.exp(score - most)
            outputs.append(share @ seen / (share.sum() + torch.exp(sink - most)))
        return model.output(torch.stack(outputs)[None], [position], layer)

    def compress(self, x, layer, position):
        model, p, ratio = self.model, f"layers.{layer}.attn.compressor.", self.model.ratio(layer)
        value = model.linear(x, p + "wkv.weight")[0]
        score = model.linear(x, p + "wgate.weight")[0] if ratio > 1 else torch.zeros_like(value)
        self.parts[layer].append((value, score))
        if len(self.parts[layer]) < ratio:
            return
        values, scores = (torch.stack(part) for part in zip(*self.parts[layer]))
        self.parts[layer] = []
        latent = model.rms((values * scores.softmax(0)).sum(0, keepdim=True), p + "norm.weight")
        start = [position + 1 - ratio]
        if layer in model.c["index_source_layer_ids"]:
            self.keys[layer].append(model.index_key(latent, start, layer)[0])
        self.rows[layer].append(model.compressed_row(latent, start, layer)[0])

    def choose(self, x, low, layer, position):
        """The numbers of the compressed rows to attend."""
        model, c = self.model, self.model.c
        keys = self.keys[model.source(layer, "kv_source_layer_ids")]
        if not keys:
            return []
        query, weight = model.index_query(x, low, [position], layer)
        score = [(weight[0] * (query[0] @ key).relu()).sum().item() for key in keys]
        allowed = range(len(score))
        size = c["candidate_block_size"]
        if layer == c["candidate_source_layer_id"]:
            blocks = {b // size: max(score[b : b + size]) for b in range(0, len(score), size)}
            blocks[(len(score) - 1) // size] = math.inf
            self.candidates = sorted(blocks, key=lambda b: -blocks[b])[: c["candidate_topk_blocks"]]
        elif 0 <= c["candidate_source_layer_id"] < layer:
            allowed = [w for w in allowed if w // size in self.candidates]
        return sorted(sorted(allowed, key=lambda w: -score[w])[: c["index_topk"]])


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--seed", type=int, default=DEFAULT_SEED)
    arguments.add_argument("--tokens", type=int, default=TOKENS)
    arguments.add_argument("--official", action="store_true")
    arguments = arguments.parse_args()
    torch.set_num_threads(1)

    config = json.loads(json.dumps(CONFIG))
    c = config["text_config"]
    description = tokenizer(c["vocab_size"])
    addresses = Addresses(c, description)
    c["engram_compressed_vocab_size"] = addresses.classes
    c["engram_num_embeddings"] = addresses.rows
    weights = make_weights(c, addresses, arguments.seed)
    stored = weights
    if arguments.official:
        stored, weights = official(weights)
        config["torch_dtype"] = "bfloat16"
        config["quantization_config"] = {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [32, 32],
            "scale_fmt": "ue8m0",
        }

    random = torch.Generator().manual_seed(arguments.seed + 1)
    line = torch.randint(4, c["vocab_size"], (arguments.tokens,), generator=random).tolist()
    # Phrases that come again read the same rows; an image token breaks what reaches across it.
    line[40:50] = line[10:20]
    line[60] = config["image_token_id"]

    model = Model(c, weights, addresses, dtype=torch.float64)
    logits = prefill(model, line)
    margins = dict(model.margins)
    one_by_one = Line(model)
    stepped = torch.stack([one_by_one.next(token) for token in line])
    apart = (logits - stepped).abs().max().item()
    tripped, tripped_single = (prefill(Model(c, weights, addresses, qat=True, dtype=kind), line) for kind in (torch.float64, torch.float32))
    single = prefill(Model(c, weights, addresses), line)
    print(f"seed {arguments.seed}: logits up to {logits.abs().max():.2f}, margins {margins}")
    print(f"the two forms differ by {apart:.1e}, f32 by {(logits - single).abs().max():.1e}")
    steps = (tripped - tripped_single).abs().max().item()
    print(f"with round trips: {(tripped - logits).abs().max():.1e} from without, {steps:.1e} in f32")
    assert apart < 1e-11, "the two forms disagree"

    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (arguments.out / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False) + "\n")
    save_file({name: x.contiguous() for name, x in stored.items()}, arguments.out / "model.safetensors", {"format": "pt"})
    sample = torch.randn(64, 64, generator=random) * torch.exp2(torch.randint(-14, 12, (64, 1), generator=random))
    sample[0], sample[1, :32], sample[2] = 0, 1e-6, torch.arange(64) * 0.25
    trips = {"fp8": trip_fp8, "fp4": trip_fp4, "compressed": trip_compressed}
    reference = {"input_ids": torch.tensor([line]), "logits": logits[None].float(), "trip_in": sample}
    reference.update({f"trip_{name}": trip(sample) for name, trip in trips.items()})
    if steps < 2e-5:
        reference["trip_logits"] = tripped[-32:].float()
    save_file({name: x.contiguous() for name, x in reference.items()}, arguments.out / "ref.safetensors")


if __name__ == "__main__":
    main()

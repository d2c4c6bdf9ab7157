"""Writes tiny seeded checkpoints with the logits that transformers computes for them.

    python tests/reference/make.py OUT [names…] [--seed N] [--large] [--variant NAME]
"""

import argparse
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
import transformers
from safetensors.torch import save_file

import mtp
import names
import storage
import v4
from families import all_specs
from fill import fill
from watch import margins, tracing

SEEDS_TRIED = 8
# Bound of the rounding noise in f32, far below: a choice with a narrower margin could fall either way.
MARGIN_WANTED = 2e-5


def main():
    options = parse()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    specs = all_specs()
    known = {spec.name for spec in specs}
    wanted = options.names
    if options.variant:
        wanted = [f"{name}-{variant}" for name in options.names for variant in options.variant]
    if unknown := set(wanted) - known:
        raise SystemExit(f"no such checkpoint: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    for spec in specs:
        chosen = spec.name in wanted if wanted else options.large or not spec.large
        if chosen and (spec.committed or not options.committed):
            print(make(spec, options.out, options.seed), flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder that gets one folder per checkpoint")
    parser.add_argument("names", nargs="*", help="which checkpoints (default: all but the large ones)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other weights and other ids")
    parser.add_argument("--large", action="store_true", help="also the ones of several megabytes")
    parser.add_argument("--variant", action="append", default=[], help="only this variant of the named families")
    parser.add_argument("--committed", action="store_true", help="only those kept as fixtures in the repository")
    return parser.parse_args()


def make(spec, out, seed=0):
    """Writes one checkpoint and answers a line about it."""
    best = None
    for attempt in range(SEEDS_TRIED):
        tried = seed * 1000 + attempt
        candidate = Candidate(spec, tried)
        if best is None or candidate.margin > best.margin:
            best = candidate
        if best.margin == float("inf"):
            break  # a family without choices
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.exists() else None) as made:
        made = Path(made) / spec.name
        made.mkdir()
        line = best.write(made)
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out / spec.name, ignore_errors=True)
        shutil.move(made, out / spec.name)
    return line


class Candidate:
    """A checkpoint with one seed: its tensors, and the logits of a model that was loaded from them."""

    def __init__(self, spec, seed):
        self.spec, self.seed = spec, seed
        self.config = config_for_transformers(spec)
        self.architecture = getattr(transformers, spec.config["architectures"][0])
        blank = self.architecture._from_config(self.config, attn_implementation="eager", dtype=torch.float32)
        fill(blank, spec, seed)
        tensors = names.published(blank, spec.fused)
        if spec.mtp:
            tensors |= names.mtp(tensors, spec, seed + 500)
        self.stored, self.meant = storage.encode(tensors, spec)
        vocabulary = self.config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(seed + 700)
        self.ids = torch.randint(0, vocabulary, (1, spec.tokens), generator=generator)
        self.model = self.load(self.meant)
        with torch.no_grad(), margins() as found:
            self.logits = self.model(input_ids=self.ids, use_cache=False).logits[0].float()
        self.margin = found.narrowest
        assert self.logits.isfinite().all(), f"{spec.name}: the logits are not finite"

    def load(self, tensors, config=None):
        """The model as transformers reads it from a folder: what is checked is the folder, not our memory of it."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (config or self.config).save_pretrained(folder)
            storage.write(folder, {name: tensor.contiguous() for name, tensor in tensors.items()})
            model, told = self.architecture.from_pretrained(
                folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
            )
        missing = {name for name in told["missing_keys"] if not name.endswith("rotary_emb.inv_freq")}
        extra = {name for name in told["unexpected_keys"] if not expected_extra(name, self.spec)}
        assert not missing and not told["mismatched_keys"], f"{self.spec.name}: not loaded: {missing}"
        assert not extra, f"{self.spec.name}: not understood: {extra}"
        return model.eval()

    def decoded(self):
        """The logits token by token, through the cache."""
        cache, rows = None, []
        with torch.no_grad():
            for at in range(self.ids.shape[1]):
                answer = self.model(input_ids=self.ids[:, at : at + 1], past_key_values=cache, use_cache=True)
                cache = answer.past_key_values
                rows.append(answer.logits[0, -1].float())
        return torch.stack(rows)

    def write(self, folder):
        spec = self.spec
        if spec.style == "published":
            (folder / "config.json").write_text(json.dumps(spec.config, indent=2) + "\n")
        else:
            self.config.architectures = spec.config["architectures"]
            self.config.dtype = str(storage.PLAIN[spec.dtype]).removeprefix("torch.")
            self.config.save_pretrained(folder)
        storage.write(folder, self.stored, spec.shards)
        decoded = self.decoded()
        differs = (decoded - self.logits).abs().max().item()
        reference = {"input_ids": self.ids, "logits": self.logits.contiguous()}
        if differs > 1e-5:
            reference["decode_logits"] = decoded
        with torch.no_grad(), tracing(self.model) as trace:
            self.model(input_ids=self.ids, use_cache=False)
            if spec.mtp:
                family = v4 if spec.name.startswith("deepseek_v4") else mtp
                reference["mtp_logits"] = family.mtp_logits(self, trace)
        save_file(reference, folder / "ref.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in trace.items()}, folder / "trace.safetensors")
        about = {
            "seed": self.seed,
            "narrowest_choice": None if self.margin == float("inf") else self.margin,
            "decode_differs": differs,
            "largest_logit": self.logits.abs().max().item(),
            "parameters": sum(tensor.numel() for tensor in self.meant.values()),
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
        }
        (folder / "meta.json").write_text(json.dumps(about, indent=2) + "\n")
        size = sum(file.stat().st_size for file in folder.iterdir() if file.name != "trace.safetensors")
        narrow = "" if self.margin > MARGIN_WANTED else "  NARROW"
        return (
            f"{spec.name:24} {size / 1024:8.0f} KiB  seed {self.seed}  margin {self.margin:.1e}  "
            f"decode {differs:.1e}  logits up to {about['largest_logit']:.1f}{narrow}"
        )


def config_for_transformers(spec):
    """The configuration object, read from a folder as a user would; without the quantisation, which is undone here."""
    told = {key: value for key, value in spec.config.items() if key not in ("quantization_config", "expert_dtype")}
    if spec.name.startswith("deepseek_v4"):
        told = v4.spelled_out(told)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(told))
        return transformers.AutoConfig.from_pretrained(folder)


def expected_extra(name, spec):
    """Published checkpoints carry prediction layers that transformers leaves out."""
    layers = spec.config.get("num_hidden_layers")
    return spec.mtp and (name.startswith("mtp.") or name.startswith(f"model.layers.{layers}."))


if __name__ == "__main__":
    main()

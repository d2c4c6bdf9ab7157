"""Asks `saga logits` for the logits of checkpoints that make.py wrote, and says how far they are from the reference.

    python tests/reference/compare.py FOLDER… [--saga target/release/saga] [--gguf] [--only NAME]

A FOLDER is a checkpoint or holds checkpoints. Each is read as a prompt, token by token, and half and half.
The exit status is 1 if any difference is above the tolerance or a checkpoint could not be run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

TOLERANCE = 1e-4
# The chunked and the recurrent form of the delta rule already differ by this much in the reference.
TOLERANCE_DELTA = 2e-3
DELTA = ("qwen3_next", "qwen3_5_moe")
TIMEOUT_SECONDS = 300


def main():
    options = parse()
    failed = 0
    for folder in checkpoints(options.folders):
        if options.only and not any(name in folder.name for name in options.only):
            continue
        model = folder.parent / f"{folder.name}.gguf" if options.gguf else folder
        if not model.exists():
            continue
        line, good = compare(options.saga, model, folder)
        failed += not good
        print(line, flush=True)
    sys.exit(1 if failed else 0)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--saga", default="target/release/saga", help="the command to ask")
    parser.add_argument("--gguf", action="store_true", help="read NAME.gguf beside each folder instead")
    parser.add_argument("--only", action="append", default=[], help="only checkpoints with this in their name")
    return parser.parse_args()


def checkpoints(folders):
    for folder in folders:
        if (folder / "ref.safetensors").exists():
            yield folder
        else:
            yield from sorted(inner.parent for inner in folder.glob("*/ref.safetensors"))


def compare(saga, model, folder):
    """One line about one model, and whether all ways of reading it are within the tolerance."""
    reference = load_file(folder / "ref.safetensors")
    ids = reference["input_ids"].flatten().tolist()
    tolerance = TOLERANCE_DELTA if folder.name.startswith(DELTA) else TOLERANCE
    told, good = [], True
    for way, decode_from in (("prompt", None), ("decode", 1), ("half", len(ids) // 2)):
        answer = ask(saga, model, ids, decode_from)
        if isinstance(answer, str):
            return f"{model.name:28} failed: {answer}", False
        expected = reference["logits"].reshape(len(ids), -1)
        answer = answer.reshape(len(ids), -1)
        if decode_from is not None and "decode_logits" in reference:
            expected = expected.clone()
            expected[decode_from:] = reference["decode_logits"][decode_from:]
        if answer.shape != expected.shape:
            return f"{model.name:28} failed: {way} has shape {list(answer.shape)}, not {list(expected.shape)}", False
        apart = (answer - expected).abs().amax(-1)
        good &= bool(apart.max() <= tolerance)
        told.append(f"{way} {apart.max():.1e}" + ("" if apart.max() <= tolerance else f" first at {first(apart, tolerance)}"))
    return f"{model.name:28} {'ok ' if good else 'OFF'}  " + "  ".join(told), good


def first(apart, tolerance):
    return int((apart > tolerance).nonzero()[0]) if (apart > tolerance).any() else "nowhere: not a number"


def ask(saga, model, ids, decode_from):
    """The logits, or in words why there are none."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "ids.json", Path(scratch) / "logits.safetensors"
        asked.write_text(json.dumps(ids))
        command = [saga, "logits", "-m", str(model), "--ids", str(asked), "--out", str(answered)]
        if decode_from is not None:
            command += ["--decode-from", str(decode_from)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return f"no answer in {TIMEOUT_SECONDS} s"
        if done.returncode != 0:
            return (done.stderr or done.stdout).strip().replace("\n", " ") or f"exit status {done.returncode}"
        return load_file(answered)["logits"]


if __name__ == "__main__":
    main()

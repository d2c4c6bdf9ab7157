"""What a forward pass chose, and how clearly: margins of every top-k, and traces of layers and routers."""

import re
from contextlib import contextmanager

import torch


class Margins:
    """The narrowest relative gap between the last chosen and the first refused, over every top-k seen."""

    def __init__(self):
        self.narrowest = float("inf")

    def see(self, scores, k):
        # Group scores are sums of the two best of each group: those sums are continuous in what is chosen.
        if k >= scores.shape[-1] or (scores.dim() == 3 and k == 2):
            return
        rows = scores.detach().float().reshape(-1, scores.shape[-1])
        best = rows.topk_(k + 1, dim=-1).values
        last, next_ = best[:, k - 1], best[:, k]
        finite = next_.isfinite() & last.isfinite()
        if not finite.any():
            return
        rows, last, next_ = rows[finite], last[finite], next_[finite]
        size = rows.masked_fill(~rows.isfinite(), 0.0).abs()
        positive = (rows.masked_fill(~rows.isfinite(), 0.0) >= 0).all(-1)
        scale = torch.where(positive, last.abs(), size.amax(-1))
        self.narrowest = min(self.narrowest, ((last - next_) / scale.clamp_min(1e-30)).min().item())


@contextmanager
def margins():
    found, function, method = Margins(), torch.topk, torch.Tensor.topk
    torch.Tensor.topk_ = method

    def seen_function(scores, k, *rest, **named):
        found.see(scores, k)
        return function(scores, k, *rest, **named)

    def seen_method(scores, k, *rest, **named):
        found.see(scores, k)
        return method(scores, k, *rest, **named)

    torch.topk, torch.Tensor.topk = seen_function, seen_method
    try:
        yield found
    finally:
        torch.topk, torch.Tensor.topk = function, method
        del torch.Tensor.topk_


@contextmanager
def tracing(model):
    """Gathers `layer.N` (what leaves layer N), `router.N` and `indexer.N` (what was chosen) of the next pass."""
    trace, hooks = {}, []

    def keep(name, pick):
        def hook(_module, _inputs, output):
            value = pick(output)
            trace[name] = (value[0] if value.dim() > 2 else value).detach().clone()

        return hook

    def first(output):
        return output[0] if isinstance(output, tuple) else output

    for name, module in model.named_modules():
        kind = type(module).__name__
        number = re.search(r"layers\.(\d+)", name)
        if number is None or "visual" in name or "vision" in name:
            continue
        number = int(number.group(1))
        if kind.endswith("DecoderLayer"):
            hooks.append(module.register_forward_hook(keep(f"layer.{number}", first)))
        elif kind.endswith(("Attention", "GatedDeltaNet")):
            hooks.append(module.register_forward_hook(keep(f"mixer.{number}", first)))
        elif kind.lower().endswith("router"):
            hooks.append(module.register_forward_hook(keep(f"router.{number}", lambda output: output[2])))
            hooks.append(module.register_forward_hook(keep(f"router_weights.{number}", lambda output: output[1])))
        elif kind.endswith("Indexer"):
            hooks.append(module.register_forward_hook(keep(f"indexer.{number}", first)))
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()

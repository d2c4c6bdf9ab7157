"""What Engram's two forms answer, for the unit tests of the engine: small layers with random weights.

    python engram.py OUT.json

`paper` is the module of arXiv 2601.07372 built from torch's own layers; `shared` is what DeepSeek V4.1 ships: one
projection for the keys and the value, norms without weights but for their product, no convolution. Needs torch.
"""

import json
import sys

import torch
from torch import nn

STREAMS, WIDTH, READ, TOKENS, KERNEL, DILATION = 2, 8, 12, 11, 3, 2


def gate(near, flat):
    """sigmoid of the signed square root; at zero the paper's sign is 0, and V4.1's is that of the zero."""
    sign = near.sign() if flat else torch.copysign(torch.ones_like(near), near)
    return torch.sigmoid(near.abs().clamp_min(1e-6).sqrt() * sign)


def paper(streams, read):
    keys = [nn.Linear(READ, WIDTH) for _ in range(STREAMS)]
    value = nn.Linear(READ, WIDTH)
    key_norms, query_norms, value_norms = ([nn.RMSNorm(WIDTH, eps=1e-5) for _ in range(STREAMS)] for _ in range(3))
    for norm in key_norms + query_norms + value_norms:
        nn.init.normal_(norm.weight, 1, 0.2)
    channels = STREAMS * WIDTH
    conv = nn.Conv1d(channels, channels, KERNEL, groups=channels, bias=False, padding=(KERNEL - 1) * DILATION, dilation=DILATION)
    nn.init.normal_(conv.weight)
    near = [(key_norms[i](keys[i](read)) * query_norms[i](streams[:, i])).sum(1) / WIDTH**0.5 for i in range(STREAMS)]
    values = gate(torch.stack(near, 1), True).unsqueeze(2) * value(read).unsqueeze(1)
    normed = torch.cat([value_norms[i](values[:, i]) for i in range(STREAMS)], 1)
    mixed = nn.functional.silu(conv(normed.T[None])[0, :, : len(read)].T).unflatten(1, (STREAMS, WIDTH))
    weights = {
        "keys": torch.stack([key.weight for key in keys]),
        "key_biases": torch.stack([key.bias for key in keys]),
        "value": value.weight,
        "value_bias": value.bias,
        "key_norms": torch.stack([norm.weight for norm in key_norms]),
        "query_norms": torch.stack([norm.weight for norm in query_norms]),
        "value_norms": torch.stack([norm.weight for norm in value_norms]),
        "conv": conv.weight,
    }
    return streams + values + mixed, weights


def shared(streams, read):
    both = torch.randn((STREAMS + 1) * WIDTH, READ) * READ**-0.5
    query_weight, key_weight = 1 + 0.2 * torch.randn(2, STREAMS, WIDTH)
    unit = lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-20)
    out = read @ both.T
    keys, value = out[:, : STREAMS * WIDTH].unflatten(1, (STREAMS, WIDTH)), out[:, STREAMS * WIDTH :]
    near = (unit(streams) * query_weight * key_weight * unit(keys)).sum(2) / WIDTH**0.5
    answer = streams + gate(near, False).unsqueeze(2) * value.unsqueeze(1)
    # The sixth token is a piece of an image: nothing is looked up for it.
    answer[5] = streams[5]
    return answer, {"both": both, "query_weight": query_weight, "key_weight": key_weight}


def main():
    torch.manual_seed(0)
    streams, read = torch.randn(TOKENS, STREAMS, WIDTH), torch.randn(TOKENS, READ)
    # Nothing was found for the third token: its keys are the biases alone, or nothing.
    read[2] = 0
    out = {"streams": streams, "read": read}
    for name, form in (("paper", paper), ("shared", shared)):
        answer, weights = form(streams, read)
        out[name] = {"answer": answer, **weights}
    flat = lambda x: {name: flat(y) for name, y in x.items()} if isinstance(x, dict) else [round(y, 7) for y in x.flatten().tolist()]
    with open(sys.argv[1], "w") as file:
        json.dump(flat(out), file)
        file.write("\n")


if __name__ == "__main__":
    main()

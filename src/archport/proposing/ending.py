"""What follows the last block: norm, head, what becomes of the logits."""

from collections.abc import Iterator
from itertools import product

from torch import Tensor, nn

from ..layers import ACTIVATIONS, LogitScale, SoftCap, TransformedNorm
from .norms import norms
from .part import Part
from .seen import Seen
from .tracing import CLOSE, neat


def ending(seen: Seen, x: Tensor, embed: Part) -> tuple[Part, Part, Part | None] | None:
    """The norm after the last block, the head and what follows it, where these lead to the logits."""
    vocab = embed.settings["vocab_size"]
    plain = [*norms(seen, x), (Part(nn.Identity), x)]
    for norm, value in [*plain, *(way for one in plain for way in _transformed(seen, *one))]:
        for head in seen.linears(value):
            finish = _finish(seen, head.value) if len(head.weight) == vocab else None
            if finish is not None:
                weights = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
                settings = {"in_features": x.shape[-1], "out_features": vocab, "bias": head.bias is not None}
                return norm, Part(nn.Linear, settings, weights, head.takes), finish[0]
    return None


def _finish(seen: Seen, logits: Tensor) -> tuple[Part | None] | None:
    theirs = seen.trace.logits.double()

    def same(value: Tensor) -> bool:
        return value.shape == theirs.shape and bool((value - theirs).abs().max() < 10 * CLOSE * theirs.abs().max())

    if same(logits):
        return (None,)
    scale = float((logits.flatten() @ theirs.flatten()) / (logits.flatten() @ logits.flatten()))
    if same(logits * scale):
        near = [
            v for c in seen.constants.values() for v in ((c, 1 / c) if c else ()) if abs(v - scale) < CLOSE * abs(scale)
        ]
        return (Part(LogitScale, {"scale": near[0] if near else neat(scale)}),)
    for cap in seen.constant("cap"):
        if cap and same((logits / cap).tanh() * cap):
            return (Part(SoftCap, {"cap": cap}),)
    return None


def _transformed(seen: Seen, norm: Part, x: Tensor) -> Iterator[tuple[Part, Tensor]]:
    """What is normed, mapped to the same width, activated, and normed again."""
    maps = [one for one in seen.linears(x) if one.value.shape == x.shape and one.bias is not None]
    for (name, activation), dense in product(ACTIVATIONS.items(), maps):
        for last, value in norms(seen, activation()(dense.value)):
            settings = {"norm": norm, "last": last, "width": x.shape[-1], "activation": name}
            weights = {"dense.weight": dense.weight} | ({} if dense.bias is None else {"dense.bias": dense.bias})
            weights |= {f"norm.{leaf}": one for leaf, one in norm.weights.items()}
            weights |= {f"last.{leaf}": one for leaf, one in last.weights.items()}
            yield Part(TransformedNorm, settings, weights, dense.takes), value

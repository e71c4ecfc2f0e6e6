"""What is said of residual wiring."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ... import layers
from ..describing import Description, Fact, describe
from ..subjects import Subject
from . import norms

NORMS = {"norm_attn": "attention", "norm_mlp": "the MLP"}
NORMS_OUT = {"norm_attn_out": "attention", "norm_mlp_out": "the MLP"}
TOGETHER = "attention and the MLP read the same stream{}, and both are added to it."
INTURN = "attention is added to the stream first, then the MLP reads what attention left"


@dataclass(frozen=True)
class Wiring:
    """What a block does in words, and what its norms stand before or after, by their names."""

    text: str
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)


WIRINGS: dict[type[nn.Module], Wiring] = {
    layers.SequentialBlock: Wiring(f"{INTURN}.", NORMS),
    layers.ParallelBlock: Wiring(TOGETHER.format(", each through its own norm"), NORMS),
    layers.SharedNormBlock: Wiring(
        TOGETHER.format(" through one norm"), {"norm": "attention and the MLP, once for both"}
    ),
    layers.SandwichBlock: Wiring(
        f"{INTURN}; each reads through a norm and is added through another.", NORMS, NORMS_OUT
    ),
    layers.PostNormBlock: Wiring(
        f"{INTURN}; each reads the stream as it is and is added through a norm.", {}, NORMS_OUT
    ),
    layers.NormedSumBlock: Wiring(f"{INTURN}; the stream is normed after each sum.", {}, NORMS_OUT),
    layers.NormedStreamBlock: Wiring(f"{INTURN}; each is added to the stream as its norm left it.", NORMS),
    layers.ScaledBlock: Wiring(f"{INTURN}; what each adds is multiplied by {{0.scale:g}} first.", NORMS),
}


def _block(part: Any, subject: Subject, path: str) -> Description:
    wiring = next(WIRINGS[one] for one in type(part).__mro__ if one in WIRINGS)
    own = dict(part.named_children())
    normed = isinstance(part, layers.NormedSumBlock | layers.NormedStreamBlock)
    children = {
        name: norms.in_stream(f"Before {what}", own[name], subject, f"{path}.{name}", stays=not normed)
        for name, what in wiring.before.items()
        if name in own
    } | {
        name: norms.after(what, own[name], subject, f"{path}.{name}", summed=normed)
        for name, what in wiring.after.items()
        if name in own
    }
    named = getattr(part, "wiring", type(part).__name__)
    text = f"One of {len(subject.model.blocks)} layers, {named}: {wiring.text.format(part)}"
    scaled = isinstance(part, layers.ScaledBlock)
    facts = (Fact("residual", "branches", f"times {part.scale:g}" if scaled else "as they are"),)
    source = "adding to a stream: Deep Residual Learning, arXiv 1512.03385"
    return Description(text, source, facts=facts, children=children)


for _class in WIRINGS:
    describe.register(_class, _block)

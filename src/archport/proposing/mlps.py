"""What stands at each position alone: MLPs, plain and gated."""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from ..layers import ACTIVATIONS, MLP, GatedMLP
from .part import Part
from .seen import Linear, Seen


def mlps(seen: Seen, x: Tensor) -> list[tuple[Part, Tensor]]:
    """The MLPs that the module makes of x (batch, seq, width), and what they add to the stream."""
    found = []
    linears = seen.linears(x)
    for name, activation in ACTIVATIONS.items():
        act = activation()
        for up in linears:
            for part, value in _down(seen, x, act(up.value)):
                weights = {"up.weight": up.weight} | _bias("up", up)
                found.append((_part(MLP, x, name, weights, up.takes, part), value))
        for gate, up in _pairs(linears):
            for part, value in _down(seen, x, act(gate.value) * up.value):
                weights = {"gate.weight": gate.weight, "up.weight": up.weight} | _bias("gate", gate) | _bias("up", up)
                found.append((_part(GatedMLP, x, name, weights, gate.takes | up.takes, part), value))
    return found


def _pairs(linears: Sequence[Linear]) -> Iterator[tuple[Linear, Linear]]:
    """Two maps to the same width, or two halves of one."""
    for one, other in product(linears, linears):
        if one is not other and one.weight.shape == other.weight.shape:
            yield one, other
    for one in linears:
        size = len(one.weight)
        if size % 2 == 0:
            rows = torch.arange(size)
            for a, b in (rows.chunk(2), (rows[::2], rows[1::2])):
                yield _cut(one, a), _cut(one, b)
                yield _cut(one, b), _cut(one, a)


def _cut(linear: Linear, rows: Tensor) -> Linear:
    bias = None if linear.bias is None else linear.bias[rows]
    return Linear(linear.weight[rows], bias, linear.value[..., rows], linear.takes)


def _down(seen: Seen, x: Tensor, hidden: Tensor) -> Iterator[tuple[Linear, Tensor]]:
    if seen.trace.has(hidden):
        for down in seen.linears(hidden):
            if down.value.shape == x.shape:
                yield down, down.value


def _bias(name: str, linear: Linear) -> dict[str, Tensor]:
    return {} if linear.bias is None else {f"{name}.bias": linear.bias}


def _part(
    kind: type, x: Tensor, activation: str, weights: dict[str, Tensor], takes: frozenset[str], down: Linear
) -> Part:
    settings = {"width": x.shape[-1], "mlp_width": down.weight.shape[1], "activation": activation}
    settings["bias"] = any(name.endswith("bias") for name in weights) or down.bias is not None
    return Part(kind, settings, weights | {"down.weight": down.weight} | _bias("down", down), takes | down.takes)

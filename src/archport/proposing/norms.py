"""Norms: which of ours, with which of a module's parameters, makes the same numbers."""

from collections.abc import Iterator
from itertools import product

from torch import Tensor, nn

from ..layers import AcrossHeads, LayerNormByHead, OffsetLayerNorm, OffsetRMSNorm, RMSNorm
from .part import Part
from .seen import Seen
from .tracing import FAR

NEAR = 1e-5  # for weights that are solved for
EXACT = 1e-9  # of the largest number: of a loud stream, all but the right epsilon are as little off


def norms(seen: Seen, x: Tensor) -> list[tuple[Part, Tensor]]:
    """The norms of x (.., width) over its last axis that the module makes, and their values."""
    best: dict[frozenset[str], tuple[float, Part, Tensor]] = {}
    for part in _candidates(seen, x):
        value = part.make()(x)
        apart = seen.trace.apart(value)
        if apart < best.get(part.takes, (EXACT,))[0]:
            best[part.takes] = apart, part, value
    if any(best):  # one with weights is made of one without, which shows, too
        best.pop(frozenset(), None)
    return [(part, value) for _, part, value in best.values()]


def _candidates(seen: Seen, x: Tensor) -> Iterator[Part]:
    """Norms whose weights and biases, solved for, are parameters of the module."""
    width = x.shape[-1]
    rows = x.flatten(0, -2)
    values = seen.trace.flat(x.numel()).view(-1, *rows.shape)
    centred = rows - rows.mean(-1, keepdim=True)
    by_root, by_mean = (values[_nearly(one, seen.eps[0], values)] for one in (rows, centred))
    for eps in seen.eps if len(by_root) or len(by_mean) else ():
        root = {"width": width, "eps": eps}
        for weight, bias in _weights_and_biases(rows, eps, by_root):
            for kind, offset in ((RMSNorm, 0.0), (OffsetRMSNorm, 1.0)) if _all(bias, 0) else ():
                for name, one in _like(seen, weight - offset):
                    yield Part(kind, root, {"weight": one}, frozenset((name,)))
        layer = {"normalized_shape": width, "eps": eps}
        for weight, bias in _weights_and_biases(centred, eps, by_mean):
            if _all(weight, 1) and _all(bias, 0):
                yield Part(nn.LayerNorm, layer | {"elementwise_affine": False})
            for name, one in _like(seen, weight):
                if _all(bias, 0):
                    yield Part(nn.LayerNorm, layer | {"bias": False}, {"weight": one}, frozenset((name,)))
                for other, added in _like(seen, bias):
                    weights = {"weight": one, "bias": added}
                    yield Part(nn.LayerNorm, layer | {"bias": True}, weights, frozenset((name, other)))
            for (name, one), (other, added) in product(_like(seen, weight - 1), _like(seen, bias)):
                yield Part(OffsetLayerNorm, root, {"weight": one, "bias": added}, frozenset((name, other)))


def _all(x: Tensor, value: float) -> bool:
    return bool((x - value).abs().max() < NEAR)


def _like(seen: Seen, x: Tensor) -> list[tuple[str, Tensor]]:
    """The parameters that are nearly x."""
    return [(name, one) for name, one in seen.of_shape(len(x)) if (one - x).abs().max() < NEAR]


def _nearly(rows: Tensor, eps: float, values: Tensor) -> Tensor:
    """Which of the values may be made of normed rows (rows, width), whatever is added to the mean square."""
    return _solved(rows, eps, values)[2] < FAR * values.abs().amax((1, 2))


def _weights_and_biases(rows: Tensor, eps: float, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What each element of normed rows (rows, width) is multiplied by, and what is added, in values made of them."""
    if len(values):
        weight, bias, rest = _solved(rows, eps, values)
        for at in (rest < NEAR * values.abs().amax((1, 2))).nonzero().flatten().tolist():
            yield weight[at], bias[at]


def _solved(rows: Tensor, eps: float, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and biases (values, width) by least squares, and what is left (values)."""
    unit = rows * (rows.square().mean(-1, keepdim=True) + eps).rsqrt()
    mean = unit.mean(0)
    spread = (unit - mean).square().sum(0).clamp(min=1e-12)
    weight = ((values - values.mean(1, keepdim=True)) * (unit - mean)).sum(1) / spread
    bias = values.mean(1) - weight * mean
    return weight, bias, (values - unit * weight[:, None] - bias[:, None]).abs().amax((1, 2))


def head_norms(seen: Seen, x: Tensor) -> list[tuple[Part, Tensor]]:
    """The norms of queries or keys (batch, heads, seq, head_width) that the module makes, and their values."""
    heads, head_width = x.shape[1], x.shape[-1]
    found = norms(seen, x)
    whole = x.transpose(1, 2).flatten(-2)
    if heads > 1:
        for part, value in norms(seen, whole):
            laid_out = value.view(*value.shape[:-1], heads, head_width).transpose(1, 2)
            inner = {f"norm.{name}": weight for name, weight in part.weights.items()}
            found.append((Part(AcrossHeads, {"norm": part}, inner, part.takes), laid_out))
        for eps in seen.eps:
            for name, weight in seen.of_shape(heads, head_width):
                settings = {"heads": heads, "head_width": head_width, "eps": eps}
                part = Part(LayerNormByHead, settings, {"weight": weight}, frozenset((name,)))
                value = part.make()(x)
                if seen.trace.apart(value) < EXACT:
                    found.append((part, value))
    return found

"""Mixtures of experts: which router, which experts, and whether one is shared."""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .. import layers
from ..layers import ACTIVATIONS, ClampedGatedMLP, Experts, GatedMLP, Router, SharedExpert
from .mlps import mlps
from .part import Each, Part
from .seen import Linear, Seen

ROUTERS = [
    one for one in vars(layers).values() if inspect.isclass(one) and issubclass(one, Router) and one is not Router
]
ALPHA, LIMIT = 1.702, 7.0  # of `GptOssExperts`, whose config has no fields for them


@dataclass(frozen=True, eq=False)
class Stack:
    """The same tensor of all experts: (experts, ..), one of the module's or one of each expert's."""

    value: Tensor
    takes: frozenset[str]


@dataclass(frozen=True, eq=False)
class Weights:
    """The tensors of all experts: gate and up (experts, inner, width), down (experts, width, inner), and biases."""

    gate: Tensor
    up: Tensor
    down: Tensor
    biases: tuple[Tensor, Tensor, Tensor] | None
    takes: frozenset[str]


def experts(seen: Seen, x: Tensor) -> list[tuple[Part, Tensor]]:
    """The mixtures of experts that the module makes of x (batch, seq, width), and what they add to the stream."""
    tokens = x.flatten(0, -2)
    for score in seen.linears(x):
        count = len(score.weight)
        weights = list(_weights(seen, count, x.shape[-1])) if count > 1 else []
        beside = mlps(seen, x) if weights else []
        for router, dense in _routers(seen, score, tokens) if weights else ():
            for one, (kind, settings) in product(weights, _kinds(seen)):
                if (one.biases is not None) != (kind is ClampedGatedMLP):
                    continue
                mixed = (_outputs(kind, settings, one, tokens) * dense.T[..., None]).sum(0).view(x.shape)
                for shared, value in _shared(seen, x, mixed, beside):
                    return [(_part(x, router, kind, settings, one, shared), value)]
    return []


def _routers(seen: Seen, score: Linear, tokens: Tensor) -> Iterator[tuple[Part, Tensor]]:
    """Routers whose weights the module makes, and these (tokens, experts)."""
    width, count = score.weight.shape[1], len(score.weight)
    preferences = [(name, one) for name, one in seen.parameters.items() if tuple(one.shape) == (count,)]
    for kind, top in product(ROUTERS, range(1, count + 1)):
        known = inspect.signature(kind).parameters
        scales = [1.0, *(one for one in seen.constant("scal") if one > 0)] if "scale" in known else [None]
        given = [*preferences, None] if "scale" in known else [None]
        divided = (True, False) if "normalised" in known else (True,)
        for scale, preference, normalised in product(scales, given, divided):
            if ("bias" in known) < (score.bias is not None):
                continue
            settings: dict[str, Any] = {"width": width, "experts": count, "top": top}
            settings |= {"bias": score.bias is not None} if "bias" in known else {}
            settings |= {} if scale is None or scale == 1 else {"scale": scale}
            settings |= {} if normalised else {"normalised": False}
            weights = {"score.weight": score.weight} | ({} if score.bias is None else {"score.bias": score.bias})
            weights |= {} if preference is None else {"preference": preference[1]}
            takes = score.takes | ({preference[0]} if preference else frozenset())
            part = Part(kind, settings, weights, takes)
            module = part.make()
            chances, chosen = module(tokens)
            if seen.trace.has(chances):
                yield part, torch.zeros(len(tokens), count, dtype=torch.float64).scatter(1, chosen, chances.double())


def _kinds(seen: Seen) -> Iterator[tuple[type[GatedMLP], dict[str, Any]]]:
    for name in ACTIVATIONS:
        yield GatedMLP, {"activation": name}
    for alpha, limit in product((*seen.constant("alpha"), ALPHA), (*seen.constant("limit"), LIMIT)):
        yield ClampedGatedMLP, {"alpha": alpha, "limit": limit}


def _outputs(kind: type[GatedMLP], settings: dict[str, Any], weights: Weights, tokens: Tensor) -> Tensor:
    """What every expert makes of every token, (experts, tokens, width)."""
    gate, up = tokens @ weights.gate.transpose(1, 2), tokens @ weights.up.transpose(1, 2)
    if weights.biases is not None:
        gate, up = gate + weights.biases[0][:, None], up + weights.biases[1][:, None]
    if kind is ClampedGatedMLP:
        gate, up = gate.clamp(max=settings["limit"]), up.clamp(-settings["limit"], settings["limit"])
        hidden = (up + 1) * gate * torch.sigmoid(settings["alpha"] * gate)
    else:
        hidden = ACTIVATIONS[settings["activation"]]()(gate) * up
    down = hidden @ weights.down.transpose(1, 2)
    return down if weights.biases is None else down + weights.biases[2][:, None]


def _stacks(seen: Seen, count: int) -> list[Stack]:
    """Tensors of so many experts, in one tensor or in as many."""
    found = [
        Stack(one, frozenset((name,))) for name, one in seen.parameters.items() if one.ndim > 1 and len(one) == count
    ]
    by_template: dict[str, list[tuple[int, str]]] = {}
    for name in seen.parameters:
        for number in re.finditer(r"(?<=\.)\d+(?=\.)", name):
            template = f"{name[: number.start()]}*{name[number.end() :]}"
            by_template.setdefault(template, []).append((int(number[0]), name))
    for names in by_template.values():
        if [at for at, _ in sorted(names)] == [*range(count)]:
            ordered = [name for _, name in sorted(names)]
            found.append(Stack(torch.stack([seen.parameters[name] for name in ordered]), frozenset(ordered)))
    return found


def _weights(seen: Seen, count: int, width: int) -> Iterator[Weights]:
    """What may be the tensors of the experts, whose input and output are so wide."""
    stacks = _stacks(seen, count)
    into = [
        Stack(way, one.takes)
        for one in stacks
        if one.value.ndim == 3
        for way in _ways(one.value)
        if way.shape[2] == width
    ]
    flat = [one for one in stacks if one.value.ndim == 2]
    for down in (one for one in stacks if one.value.ndim == 3):
        for way in (one for one in _ways(down.value) if one.shape[1] == width):
            inner = way.shape[2]
            for one, other in product(into, into):
                if (
                    one.value.shape[1] == other.value.shape[1] == inner
                    and not one.takes & (other.takes | down.takes)
                    and not other.takes & down.takes
                ):
                    yield Weights(one.value, other.value, way, None, one.takes | other.takes | down.takes)
            for both in (one for one in into if one.value.shape[1] == 2 * inner and not one.takes & down.takes):
                rows = torch.arange(2 * inner)
                for a, b in (rows.chunk(2), (rows[::2], rows[1::2])):
                    for gate, up in ((a, b), (b, a)):
                        takes = both.takes | down.takes
                        yield Weights(both.value[:, gate], both.value[:, up], way, None, takes)
                        for first, second in product(flat, flat):
                            if first.value.shape[1] == 2 * inner and second.value.shape[1] == width:
                                biases = first.value[:, gate], first.value[:, up], second.value
                                more = takes | first.takes | second.takes
                                yield Weights(both.value[:, gate], both.value[:, up], way, biases, more)


def _ways(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x.transpose(1, 2)


def _shared(
    seen: Seen, x: Tensor, mixed: Tensor, beside: Sequence[tuple[Part, Tensor]]
) -> Iterator[tuple[Part | None, Tensor]]:
    """The mixture alone, or with an expert `beside` it that every token goes through, where the module makes that."""
    for part, value in beside:
        if seen.trace.has(mixed + value):
            yield part, mixed + value
        for gate in (one for one in seen.linears(x) if len(one.weight) == 1 and one.bias is None):
            if seen.trace.has(mixed + gate.value.sigmoid() * value):
                weights = {f"mlp.{name}": one for name, one in part.weights.items()} | {"gate.weight": gate.weight}
                settings = {"width": x.shape[-1], "mlp": part}
                yield Part(SharedExpert, settings, weights, gate.takes), mixed + gate.value.sigmoid() * value
    if seen.trace.has(mixed):
        yield None, mixed


def _part(
    x: Tensor, router: Part, kind: type[GatedMLP], settings: dict[str, Any], weights: Weights, shared: Part | None
) -> Part:
    width, inner = x.shape[-1], weights.gate.shape[1]
    named = {"gate.weight": weights.gate, "up.weight": weights.up, "down.weight": weights.down}
    if weights.biases is not None:
        named |= dict(zip(("gate.bias", "up.bias", "down.bias"), weights.biases, strict=True))
    own = {"width": width, "mlp_width": inner, **settings} | ({"bias": weights.biases is not None})
    each = [Part(kind, own, {name: one[at] for name, one in named.items()}) for at in range(len(weights.gate))]
    everything = {f"experts.{at}.{name}": one for at, part in enumerate(each) for name, one in part.weights.items()}
    everything |= {f"router.{name}": one for name, one in router.weights.items()}
    parts: dict[str, Any] = {"router": router, "experts": Each(tuple(each))}
    if shared is not None:
        parts["shared"] = shared
        everything |= {f"shared.{name}": one for name, one in shared.weights.items()}
    return Part(Experts, parts, everything, weights.takes)

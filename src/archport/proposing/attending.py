"""Attention: heads that are projected, placed, weighed, and put together again."""

from typing import Any

import torch
from torch import Tensor

from .part import Part
from .placing import Placed, placed
from .projecting import Heads, projections
from .seen import Linear, Seen
from .weighing import square, weighings


def attentions(seen: Seen, x: Tensor) -> list[tuple[Part, Tensor]]:
    """The attention that the module makes of x (batch, seq, width), and what it adds to the stream."""
    for heads in _head_counts(seen, x.shape[0], x.shape[1]):
        for clip in (None, *seen.constant("clip")):
            for q, k, v in projections(seen, seen.linears(x), heads, clip):
                for query, key in placed(seen, q, k):
                    for how, probabilities in weighings(seen, query.value, _spread(key.value, heads)):
                        value = probabilities @ _spread(v.value, heads)
                        outs = seen.linears(value.transpose(1, 2).flatten(-2)) if seen.trace.has(value) else []
                        settings = how | ({} if clip is None else {"clip": clip})
                        found = [
                            (_part(x, q, k, v, query, key, out, settings), out.value)
                            for out in outs
                            if out.value.shape == x.shape
                        ]
                        if found:
                            return found
    return []


def _head_counts(seen: Seen, batch: int, seq: int) -> list[int]:
    """How many heads there may be: as many as there are squares of scores."""
    return [
        heads
        for heads in range(1, 65)
        if any(square(one, seq) for one in seen.trace.of_size(batch * heads * seq * seq))
    ]


def _spread(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def _part(
    x: Tensor, q: Heads, k: Heads, v: Heads, query: Placed, key: Placed, out: Linear, how: dict[str, Any]
) -> Part:
    heads, kv_heads, head_width = len(q.rows), len(k.rows), q.rows.shape[1]
    settings: dict[str, Any] = {"width": x.shape[-1], "heads": heads}
    if kv_heads != heads:
        settings["kv_heads"] = kv_heads
    if heads * head_width != x.shape[-1]:
        settings["head_width"] = head_width

    def grouped(*slots: Tensor) -> Tensor:
        by_group = [one.view(kv_heads, -1, *one.shape[1:]) for one in slots]
        return torch.cat(by_group, 1).flatten(0, 2)

    weights = {"qkv.weight": grouped(q.weight, k.weight, v.weight), "out.weight": out.weight}
    biases = [q.bias, k.bias, v.bias]
    has_bias = any(one is not None for one in biases)
    if has_bias:
        filled = [
            torch.zeros(one.rows.shape, dtype=torch.float64) if one.bias is None else one.bias for one in (q, k, v)
        ]
        weights["qkv.bias"] = grouped(*filled)
    settings["bias"] = has_bias
    if (out.bias is not None) != has_bias:
        settings["out_bias"] = out.bias is not None
    if out.bias is not None:
        weights["out.bias"] = out.bias
    settings |= {name: norm for name, norm in (("q_norm", query.norm), ("k_norm", key.norm)) if norm is not None}
    for name in ("q_norm", "k_norm"):
        if name in settings:
            weights |= {f"{name}.{leaf}": weight for leaf, weight in settings[name].weights.items()}
    if "sinks" in how:
        weights["sinks.weight"] = how["sinks"].weights["weight"]
    settings |= {} if query.rotary is None else {"rotary": query.rotary}
    takes = q.linear.takes | k.linear.takes | v.linear.takes | out.takes
    return Part(query.kind, settings | how, weights, takes)

"""Attention: its projections, where queries and keys get their positions, what a query sees, and how it weighs it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from ..layers import Alibi, Attention, NormedLastAttention, Rotary, Sinks, Window
from .norms import head_norms
from .part import Part
from .seen import Linear, Seen

SOLVED = 1e-5  # relative error of what is solved for
BASES = (10000.0,)
SHARDS = 4  # in which the weights of `CodeGenAttention` lie


@dataclass(frozen=True, eq=False)
class Heads:
    """Queries, keys or values: rows (heads, head_width) of a linear map, and their values (batch, heads, seq, ..)."""

    linear: Linear
    rows: Tensor
    value: Tensor

    @property
    def weight(self) -> Tensor:  # (heads, head_width, in)
        """The rows of the weight, head by head."""
        return self.linear.weight[self.rows]

    @property
    def bias(self) -> Tensor | None:  # (heads, head_width)
        """The rows of the bias, if it has one."""
        return None if self.linear.bias is None else self.linear.bias[self.rows]


@dataclass(frozen=True, eq=False)
class Placed:
    """Queries or keys ready to meet: by which class of attention, which norm and which rotary."""

    kind: type[Attention]
    norm: Part | None
    rotary: Part | None
    value: Tensor


def attentions(seen: Seen, x: Tensor) -> list[tuple[Part, Tensor]]:
    """The attention that the module makes of x (batch, seq, width), and what it adds to the stream."""
    seq = x.shape[1]
    linears = seen.linears(x)
    found = []
    for heads in _head_counts(seen, x.shape[0], seq):
        for clip in (None, *seen.constant("clip")):
            for q, k, v in _projections(seen, linears, heads, clip):
                for query, key in _placed(seen, q, k):
                    for how, probabilities in _weighing(seen, query, key):
                        value = probabilities @ _spread(v.value, heads)
                        if not seen.trace.has(value):
                            continue
                        for out in seen.linears(value.transpose(1, 2).flatten(-2)):
                            if out.value.shape == x.shape:
                                how = how | ({} if clip is None else {"clip": clip})
                                found.append((_part(x, q, k, v, query, key, out, how), out.value))
                        if found:
                            return found
    return found


def _head_counts(seen: Seen, batch: int, seq: int) -> list[int]:
    """How many heads there may be: as many as there are squares of scores."""
    return [
        heads
        for heads in range(1, 65)
        if any(_square(one, seq) for one in seen.trace.of_size(batch * heads * seq * seq))
    ]


def _square(value: Tensor, seq: int) -> bool:
    return value.ndim >= 3 and value.shape[-2:] == (seq, seq)


def _spread(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def _projections(
    seen: Seen, linears: Sequence[Linear], heads: int, clip: float | None
) -> Iterator[tuple[Heads, Heads, Heads]]:
    """Queries, keys and values that the module makes: in one linear map, in three, or q beside k and v."""
    known: dict[tuple[int, tuple[int, ...]], Heads | None] = {}

    def made(linear: Linear, rows: Tensor) -> Heads | None:
        at = id(linear), tuple(rows.flatten().tolist()) + tuple(rows.shape)
        if at not in known:
            value = linear.value if clip is None else linear.value.clamp(-clip, clip)
            value = value[..., rows].transpose(1, 2)
            known[at] = Heads(linear, rows, value) if seen.trace.has(value) else None
        return known[at]

    for linear in linears:
        for rows in _fused(len(linear.weight), heads):
            parts = [made(linear, one) for one in rows]
            if all(parts):
                yield tuple(parts)  # type: ignore[misc]
    single: dict[int, list[Heads]] = {}
    both: list[tuple[Heads, Heads]] = []
    for linear in linears:
        size = len(linear.weight)
        for count in {heads, *(one for one in range(1, heads + 1) if heads % one == 0)}:
            if size % count == 0:
                whole = made(linear, torch.arange(size).view(count, -1))
                if whole is not None:
                    single.setdefault(count, []).append(whole)
            if size % (2 * count) == 0:
                for pair in _orders(torch.arange(size), count, size // (2 * count)):
                    k, v = (made(linear, one) for one in pair)
                    if k is not None and v is not None:
                        both.append((k, v))
    for q in single.get(heads, ()):
        width = q.value.shape[-1]
        for others in single.values():
            keys = [one for one in others if one.linear is not q.linear and one.value.shape[-1] == width]
            for k in keys:
                for v in others:
                    if v.linear is not k.linear and v.linear is not q.linear:
                        yield q, k, v
        for k, v in both:
            if k.linear is not q.linear and k.value.shape[-1] == width:
                yield q, k, v


def _fused(size: int, heads: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows (heads, head_width) of q, k and v in a weight of so many rows, in each layout that code has."""
    rows = torch.arange(size)
    for groups in (one for one in range(1, heads + 1) if heads % one == 0):
        if size % (heads + 2 * groups):
            continue
        width = size // (heads + 2 * groups)
        for order in permutations(range(3)):
            sizes = [(heads, groups, groups)[slot] for slot in order]
            flat = dict(zip(order, torch.split(rows, [one * width for one in sizes]), strict=True))
            yield tuple(flat[slot].view(-1, width) for slot in range(3))  # type: ignore[misc]
            sizes = [(heads // groups, 1, 1)[slot] for slot in order]
            by_group = torch.split(rows.view(groups, -1, width), sizes, 1)
            cut = dict(zip(order, by_group, strict=True))
            yield tuple(cut[slot].reshape(-1, width) for slot in range(3))  # type: ignore[misc]
            if groups == heads:
                for last in (
                    rows.view(heads, width, 3),
                    rows.view(width, heads, 3).transpose(0, 1),
                    rows.view(3, width, heads).permute(2, 1, 0),
                    rows.view(width, 3, heads).permute(2, 0, 1),
                ):
                    yield tuple(last[..., order[slot]] for slot in range(3))  # type: ignore[misc]
            if groups == heads and heads % SHARDS == 0:
                by_shard = rows.view(SHARDS, 3, heads // SHARDS, width)
                yield tuple(by_shard[:, order[slot]].reshape(heads, width) for slot in range(3))  # type: ignore[misc]


def _orders(rows: Tensor, count: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of k and v in one weight: one after the other, or head by head, in both orders."""
    flat = rows.view(2, count, width)
    by_head = rows.view(count, 2, width)
    for a, b in ((0, 1), (1, 0)):
        yield flat[a], flat[b]
        yield by_head[:, a], by_head[:, b]


def _placed(seen: Seen, q: Heads, k: Heads) -> Iterator[tuple[Placed, Placed]]:
    """Queries and keys after their norms and rotary positions, where the module makes these; the most first."""
    queries, keys = _ways(seen, q.value), _ways(seen, k.value)
    for query in queries:
        for key in keys:
            if query.kind is key.kind and _same(query.rotary, key.rotary):
                yield query, key


def _same(one: Part | None, other: Part | None) -> bool:
    return one is other or (one is not None and other is not None and one.settings == other.settings)


def _ways(seen: Seen, x: Tensor) -> list[Placed]:
    plain = Placed(Attention, None, None, x)
    ways = [plain]
    normed = [Placed(Attention, part, None, value) for part, value in head_norms(seen, x)]
    for one in (plain, *normed):
        ways += [Placed(Attention, one.norm, rotary, value) for rotary, value in _rotated(seen, one.value)]
    for one in [way for way in ways if way.norm is None and way.rotary is not None]:
        ways += [Placed(NormedLastAttention, part, one.rotary, value) for part, value in head_norms(seen, one.value)]
    ways += normed
    return sorted(ways, key=lambda way: -(way.norm is not None) - (way.rotary is not None))


def _rotated(seen: Seen, x: Tensor) -> Iterator[tuple[Part, Tensor]]:
    seq, width = x.shape[-2:]
    positions = torch.arange(seq)
    bases = dict.fromkeys([*(one for one in seen.constant("theta", "base") if one >= 10), *BASES])
    fractions = [one for one in seen.constant("partial", "pct", "fraction") if 0 < one <= 1]
    widths = [
        width,
        *(int(width * one) for one in fractions),
        *(int(one) for one in seen.constant("rotary_dim", "rope_dim")),
    ]
    widths = [one for one in dict.fromkeys(widths) if 2 <= one + one % 2 <= width]
    for turned in widths:
        for base in bases:
            for pairing in ("halves", "neighbours"):
                settings: dict[str, Any] = {"width": turned, "base": base, "pairing": pairing}
                value = Rotary(**settings).double()(positions, torch.float64)(x)
                if seen.trace.apart(value) < SOLVED:
                    yield Part(Rotary, settings), value


def _weighing(seen: Seen, query: Placed, key: Placed) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """How much each query takes of each value, where the module makes such probabilities, and the settings for it."""
    _, heads, seq, width = query.value.shape
    scores = query.value @ _spread(key.value, heads).transpose(-1, -2)
    for value in seen.trace.of_size(scores.numel()):
        if not _square(value, seq):
            continue
        probabilities = value.view(scores.shape)
        if probabilities.min() < 0 or probabilities.sum(-1).max() > 1 + 1e-9:
            continue
        if (how := _how(seen, scores, probabilities, width)) is not None:
            yield how, probabilities


def _how(seen: Seen, scores: Tensor, probabilities: Tensor, width: int) -> dict[str, Any] | None:
    """Scale, mask, bias, cap and sinks that make these probabilities of scores (batch, heads, seq, keys)."""
    _, heads, seq, _ = scores.shape
    sees = (probabilities > 0).any(0).any(0)
    settings: dict[str, Any] = {}
    causal = torch.ones(seq, seq, dtype=torch.bool).tril()
    if (sees & ~causal).any():
        return None
    size = int(sees.sum(-1).max())
    if size < seq:
        settings["mask"] = Part(Window, {"size": size})
        causal &= ~torch.ones(seq, seq, dtype=torch.bool).tril(-size)
    if (sees & ~causal).any() or not (sees | ~causal).float().mean() > 0.98:
        return None
    counted = (probabilities > 1e-200) & causal
    sums = probabilities.sum(-1)
    logs = torch.where(counted, probabilities, 1).log()
    weights = counted.double()

    def centred(x: Tensor) -> Tensor:
        x = torch.where(counted, x, 0)
        return (x - x.sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=1)) * weights

    target = centred(logs)
    for cap in (None, *seen.constant("cap")):
        guess = scores
        scale = None
        if cap is not None:
            for known in _scales(seen, width):
                capped = (scores * known / cap).tanh() * cap
                if (centred(capped) - target).abs().max() < SOLVED * target.abs().max():
                    scale, guess = known, capped / known
                    settings["softcap"] = cap
                    break
            if scale is None:
                continue
        else:
            basis = centred(scores)
            scale = float((basis * target).sum() / (basis * basis).sum().clamp(min=1e-300))
            rest = target - scale * basis
            if rest.abs().max() > SOLVED * target.abs().max():
                distance = (torch.arange(seq)[None] - torch.arange(seq)[:, None]).double()
                slopes = Alibi(heads).slopes(torch.device("cpu")).double()
                price = centred((slopes[:, None, None] * distance).expand_as(scores))
                both = torch.stack([basis.flatten(), price.flatten()], 1)
                scale, factor = torch.linalg.lstsq(both, target.flatten()[:, None]).solution[:, 0].tolist()
                if (target - scale * basis - factor * price).abs().max() > SOLVED * target.abs().max():
                    continue
                factor = _neat(factor, 1.0, scale)
                settings["mask"] = Part(Alibi, {"heads": heads} | ({} if factor == 1 else {"factor": factor}))
        if not scale > 0:
            return None
        scale = _neat(
            scale,
            width**-0.5,
            1.0,
            *seen.constant("scal", "multiplier"),
            *(one**-0.5 for one in seen.constant("scal") if one > 0),
        )
        if scale != width**-0.5:
            settings["scale"] = scale
        if float((1 - sums).abs().max()) > 1e-9:
            total = (torch.where(causal, guess * scale, -torch.inf)).logsumexp(-1)
            sinks = ((1 - sums) / sums).log() + total
            first = sinks[0, :, 0]
            match = [(n, p) for n, p in seen.of_shape(heads) if (p - first).abs().max() < 1e-5]
            if not match or (sinks - first[None, :, None]).abs().max() > 1e-3:
                return None
            settings["sinks"] = Part(Sinks, {"heads": heads}, {"weight": match[0][1]}, frozenset((match[0][0],)))
        return settings
    return None


def _scales(seen: Seen, width: int) -> list[float]:
    named = [one for one in seen.constant("scal", "multiplier") if one > 0]
    return [width**-0.5, 1.0, *named, *(one**-0.5 for one in named)]


def _neat(value: float, *known: float) -> float:
    """A number that was solved for as what it is near to."""
    return next((one for one in known if math.isclose(value, one, rel_tol=SOLVED)), value)


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

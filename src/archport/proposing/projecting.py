"""Queries, keys and values: which rows of which linear maps, in any layout that code has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from .seen import Linear, Seen

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


def projections(
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

"""Choosing a way for every part so that no tensor is taken twice, the likeliest choice first."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import count

from .way import Way

OPEN = 20_000  # choices begun that are kept in mind


def assignments(parts: Sequence[Sequence[Way]], taken: frozenset[str] = frozenset()) -> Iterator[tuple[Way, ...]]:
    """Every choice of a way a part, none of whose tensors is taken twice, the likeliest first."""
    order = sorted(range(len(parts)), key=lambda at: len(parts[at]))
    least = [min((way.unlikely for way in parts[at]), default=0.0) for at in order]
    rest = sum(least)
    ties = count()
    begun: list[tuple[float, int, int, tuple[Way, ...], frozenset[str]]] = [(rest, 0, next(ties), (), taken)]
    while begun and len(begun) < OPEN:
        so_far, _, _, chosen, used = heapq.heappop(begun)  # of two as likely, the one that is nearer to its end
        at = len(chosen)
        if at == len(order):
            by_part = dict(zip(order, chosen, strict=True))
            yield tuple(by_part[part] for part in range(at))
            continue
        for way in parts[order[at]]:
            if not way.takes & used:
                cost = so_far + way.unlikely - least[at]
                heapq.heappush(begun, (cost, -at - 1, next(ties), (*chosen, way), used | way.takes))


def narrowed(parts: Sequence[Sequence[Way]]) -> list[list[Way]]:
    """The ways that are left where a part with one way has taken its tensors."""
    left = [list(ways) for ways in parts]
    while True:
        only = {at: ways[0].takes for at, ways in enumerate(left) if len(ways) == 1}
        fewer = [
            [way for way in ways if len(ways) == 1 or not any(way.takes & taken for taken in only.values())]
            for ways in left
        ]
        if fewer == left or not all(fewer):
            return left
        left = fewer

"""Where queries and keys get their positions, and their norms, before or after."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..layers import Attention, NormedLastAttention, Rotary
from .norms import head_norms
from .part import Part
from .projecting import Heads
from .seen import Seen
from .weighing import SOLVED

BASES = (10000.0,)  # of rotary positions, where no constant is called so


@dataclass(frozen=True, eq=False)
class Placed:
    """Queries or keys ready to meet: by which class of attention, which norm and which rotary."""

    kind: type[Attention]
    norm: Part | None
    rotary: Part | None
    value: Tensor


def placed(seen: Seen, q: Heads, k: Heads) -> Iterator[tuple[Placed, Placed]]:
    """Queries and keys after their norms and rotary positions, where the module makes these; the most first."""
    for query in _ways(seen, q.value):
        for key in _ways(seen, k.value):
            if query.kind is key.kind and _same(query.rotary, key.rotary):
                yield query, key


def _same(one: Part | None, other: Part | None) -> bool:
    return one is other or (one is not None and other is not None and one.settings == other.settings)


def _ways(seen: Seen, x: Tensor) -> list[Placed]:
    """What the module makes of queries or keys before they meet."""
    found: list[Placed] = seen.once(_found, x)
    return found


def _found(seen: Seen, x: Tensor) -> list[Placed]:
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
                apart, theirs = seen.trace.nearest(value)
                if apart < SOLVED:
                    yield Part(Rotary, settings), theirs

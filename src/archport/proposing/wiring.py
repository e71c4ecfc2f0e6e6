"""Residual wiring: the forward of each class of block, run with parts that look for themselves in the module's pass."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from .. import layers
from ..layers import Block
from .attending import attentions
from .experts import experts
from .mlps import mlps
from .norms import norms
from .own_search import own_parts
from .part import Part
from .seen import Seen

BLOCKS = [one for one in vars(layers).values() if inspect.isclass(one) and issubclass(one, Block) and one is not Block]

SEARCHES: dict[str, tuple[Callable[[Seen, Tensor], list[tuple[Part, Tensor]]], ...]] = {
    "norm": (norms,),
    "attn": (attentions,),
    "mlp": (experts, mlps),
}
NAMES = [name for name in Block.__annotations__ if name != "wiring"]


class NotFound(Exception):
    """What a part of a block would have to be, and is not."""


@dataclass
class Finder:
    """Looks for parts, and remembers what it found."""

    seen: Seen
    known: list[tuple[str, Tensor, list[tuple[Part, Tensor]]]] = field(default_factory=list)

    def parts(self, what: str, x: Tensor) -> list[tuple[Part, Tensor]]:
        """All that the module makes of x of one kind."""
        for kind, value, found in self.known:
            if kind == what and value.equal(x):
                return found
        made = [one for search in SEARCHES[what] for one in search(self.seen, x)]
        made = made or own_parts(self.seen, x)
        # What comes after is looked for in the numbers of the module, without the rounding of ours.
        found = [(part, self.seen.trace.nearest(value)[1]) for part, value in made]
        self.known.append((what, x, found))
        return found


def blocks(finder: Finder, x: Tensor) -> list[tuple[Part, Tensor]]:
    """The blocks of ours that make what the module does next to x (batch, seq, width), and what comes out."""
    found = []
    for kind in BLOCKS:
        for settings in _settings(kind, finder.seen):
            for parts, value in _runs(kind, settings, finder, x):
                taken = [name for part in parts.values() for name in part.all_takes()]
                if len(taken) == len(set(taken)) and finder.seen.trace.has(value):
                    weights = {f"{name}.{leaf}": w for name, part in parts.items() for leaf, w in part.weights.items()}
                    found.append((Part(kind, settings | parts, weights), value))
    return found


def _settings(kind: type[Block], seen: Seen) -> Iterator[dict[str, Any]]:
    names = [
        one.name for one in inspect.signature(kind).parameters.values() if one.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    if not names:
        yield {}
    for value in seen.constant("scal", "multiplier") if len(names) == 1 else ():
        if value != 1:
            yield {names[0]: value}


def _runs(
    kind: type[Block], settings: dict[str, Any], finder: Finder, x: Tensor
) -> Iterator[tuple[dict[str, Part], Tensor]]:
    """Each way in which the block can be run: parts by their names, and what comes out."""
    ways: list[tuple[int, ...]] = [()]
    while ways:
        one = _Run(finder, ways.pop(), ways)
        block = kind.__new__(kind)
        nn.Module.__init__(block)
        block.__dict__.update(settings | {name: partial(one.part, name) for name in NAMES})
        try:
            value = block.forward(x, None)  # no part of it looks at a context
        except NotFound:
            continue
        yield one.parts, value


class _Run:
    """One way: of what a part may be, the first, the second, .. as `script` says, and from there on the first."""

    def __init__(self, finder: Finder, script: tuple[int, ...], ways: list[tuple[int, ...]]) -> None:
        self.finder, self.script, self.ways = finder, script, ways
        self.parts: dict[str, Part] = {}
        self.made: tuple[int, ...] = ()

    def part(self, name: str, x: Tensor, *_: Any) -> Tensor:
        """What the module makes of x where the block has a part of that name. Raises: NotFound."""
        options = self.finder.parts("norm" if name.startswith("norm") else name, x)
        at = self.script[len(self.made)] if len(self.made) < len(self.script) else 0
        if at >= len(options):
            raise NotFound(name)
        if len(self.made) >= len(self.script):
            self.ways += [(*self.made, other) for other in range(1, len(options))]
        self.made = (*self.made, at)
        self.parts[name], value = options[at]
        return value

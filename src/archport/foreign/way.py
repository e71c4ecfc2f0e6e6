"""A way in which tensors of a person's module may make some of ours, and what it takes to find one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..translate.table import Cell, rearranged
from .axes import Side, sides, with_input, written
from .likeness import unlike
from .templates import Shape, Template

STANDARD = (nn.Linear, nn.LayerNorm, nn.Embedding)  # classes of torch, whose tensors can only be one thing
OUT_IN = ("Linear", "Embedding")  # the names of those that are never transposed
THREE = ("group", "k", "v")


@dataclass(frozen=True)
class Way:
    """Rows for a part of ours, what of theirs they take, and how unlikely they look."""

    rows: Mapping[str, Cell]
    keys: tuple[Template, ...]
    unlikely: float
    order: Any = None  # in which their rows go: those of a bias go as those of its weight

    @property
    def takes(self) -> frozenset[str]:
        """The names of theirs that no other part can have."""
        return frozenset(key.name for key in self.keys)


@dataclass(frozen=True)
class Sides:
    """What is matched: tensors of ours and theirs, lengths of axes, and the layouts in files of the architecture."""

    ours: Sequence[Template]
    theirs: Sequence[Template]
    axes: Mapping[str, int]
    files: Mapping[str, str]
    turn: str | None = None  # of rotary pairs, from the way that ours does not have

    def fitting(self, ours: Template) -> Iterator[tuple[Template, Shape, str]]:
        """Those of theirs that one of ours may be made of: with the shape for one layer, and the index of that."""
        for theirs in self.theirs:
            if theirs.kind and (theirs.kind != ours.kind or theirs.leaf != ours.leaf):
                continue
            if "{n}" in theirs.name and ours.layers != theirs.layers:
                continue
            lacking = [mark for mark in ("{n}", "{e}") if mark in ours.name and mark not in theirs.name]
            if any(mark in theirs.name and mark not in ours.name for mark in ("{n}", "{e}")) or len(lacking) > 1:
                continue
            if not lacking:
                yield theirs, theirs.shape, ""
            elif theirs.shape and theirs.shape[0] == self.axes.get(lacking[0][1]):
                yield theirs, theirs.shape[1:], f"{lacking[0]} "

    def unlikely(self, ours: Template, theirs: Template, slot: str | None = None) -> float:
        """How unlikely one looks, by its words and its place."""
        place = ours.place / max(1, len(self.ours) - 1)
        return unlike(ours.name, theirs, len(self.theirs), slot, place)


def layouts(
    ours: Template, theirs: Template, shape: Shape, rows: Sequence[str], sizes: Mapping[str, int]
) -> Iterator[Side]:
    """The layouts of rows in this order, and of the input, that have the shape of theirs."""
    for order in with_input(rows, "width" if len(ours.shape) == 2 else None):
        if theirs.kind not in OUT_IN or order[-1] == "width" or len(ours.shape) == 1:
            yield from sides(order, sizes, shape)


def without_ones(side: Side, sizes: Mapping[str, int]) -> Side:
    """A layout without the axes of length 1, which may stand anywhere."""
    return tuple(tuple(axis for axis in group if sizes[axis] > 1) for group in side)


def row_of(
    keys: str | tuple[str, ...], index: str, side: Side, slots: Sequence[str], ours: str, plain: Side = ()
) -> Cell:
    """A row from a layout of theirs to ours, which is theirs where both are `plain`."""
    free = "width" if ("width",) in side or not any("width" in group for group in side) else None
    theirs = written(side, slots, free)
    target = ours if free and "..." not in theirs else f"{ours} {'...' if free else 'width'}"
    same = side[:1] == plain and slots == THREE and not index
    return keys if same and isinstance(keys, str) else rearranged(keys, f"{index}{theirs} -> {target}")


def above(theirs: Template) -> str:
    """What q, k and v have in common: the module that has them, or theirs."""
    return theirs.owner.rpartition(".")[0] if theirs.leaf in ("weight", "bias") else theirs.owner

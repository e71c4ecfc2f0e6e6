"""What the pattern of a key table's row does to a tensor, in either direction.

Both sides of a pattern are split into single axes, where one is a view of the other's order. An axis in brackets is
made of named slots, of the length that the config gives the name, else 1: keys fill one each, or one key fills all.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ..errors import MappingError

BRACKETS = re.compile(r"\[(.*?)\]")
SLOT = "slot"


class Row(NamedTuple):
    """A weights cell: the checkpoint's keys, and a pattern from their layout to ours (None: the same).

    A key given several times is cut along its first axis, in sections one after another. `only` are values of our
    config fields without which the row does not count.
    """

    keys: tuple[str, ...]
    pattern: str | None
    only: tuple[tuple[str, Any], ...] = ()


class Layout:
    """A row's pattern, applied. Raises: MappingError for a pattern that is none."""

    def __init__(self, row: Row, axes: Mapping[str, int]) -> None:
        self.keys, self.pattern, self.axes = row.keys, row.pattern, axes
        theirs, arrow, ours = (row.pattern or "... -> ...").partition(" -> ")
        if not arrow:
            raise MappingError([f"{row.pattern!r} is no pattern, expected theirs -> ours"], "key table")
        first, _, rest = theirs.partition(" ")
        # One of their tensors may hold those of all experts: a number names the one that is ours.
        self.index = int(first) if first.isdigit() else None
        theirs = theirs if self.index is None else rest
        self.slots, self.ours_slots = _slots(theirs), _slots(ours)
        self.stacked = not self.slots and len(self.keys) > 1
        if self.stacked:  # along the first axis of the pattern
            self.slots, theirs = self.keys, f"[{' '.join(self.keys)}] " + theirs.partition(" ")[2]
            self.ours_slots = self.slots
            ours = re.sub(rf"\b{first}\b", f"[{' '.join(self.keys)}]", ours, count=1)
        self.theirs, self.ours = BRACKETS.sub(SLOT, theirs), BRACKETS.sub(SLOT, ours)
        self.flat = self.theirs.replace("(", "").replace(")", "").split()
        if sorted(self.flat) != sorted(self.ours.replace("(", "").replace(")", "").split()):
            raise MappingError([f"{row.pattern!r}: the two sides do not have the same axes"], "key table")

    def length(self, slots: Sequence[str]) -> int:
        """How many rows these slots have together."""
        return sum(1 if self.stacked else self.axes.get(slot, 1) for slot in slots)

    @cached_property
    def at(self) -> int:
        """Where the axis of slots is among the single axes, from the end where what is before has no fixed number."""
        at = self.flat.index(SLOT)
        return at - len(self.flat) if "..." in self.flat[:at] else at

    def _rearranged(self, tensor: Tensor, source: str, target: str, slots: Sequence[str]) -> Tensor:
        sizes = dict(self.axes) | {SLOT: self.length(slots)}
        named = {axis: size for axis, size in sizes.items() if re.search(rf"\b{axis}\b", source)}
        return rearrange(tensor, f"{source} -> {target}", **named)

    def _flattened(self, theirs: Tensor, slots: Sequence[str]) -> Tensor:
        if self.stacked:
            return theirs[None]
        return self._rearranged(theirs, self.theirs, " ".join(self.flat), slots)

    def _cut(self, tensor: Tensor, slots: Sequence[str]) -> dict[str, Tensor]:
        sizes = [self.length([slot]) for slot in slots]
        return dict(zip(slots, torch.split(tensor, sizes, dim=self.at), strict=True))

    def _of_key(self, key: str) -> list[str]:
        """The slots that a key fills."""
        if len(self.keys) == 1:
            return list(self.slots)
        return [slot for slot, filled in zip(self.slots, self.keys, strict=True) if filled == key]

    def pairs(self, key: str, ours: Tensor, theirs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of our tensor and of one of theirs that hold the same numbers in the same order."""
        theirs = theirs if self.index is None else theirs[self.index]
        flat = self._rearranged(ours, self.ours, " ".join(self.flat), self.ours_slots)
        if not self.slots:
            yield flat, self._flattened(theirs, ())
            return
        mine, slots = self._cut(flat, self.ours_slots), self._of_key(key)
        if len(self.keys) == 1:
            parts = self._cut(self._flattened(theirs, slots), slots)
        else:
            rows = [len(theirs) * self.length([slot]) // self.length(slots) for slot in slots]
            sections = zip(slots, torch.split(theirs, rows) if len(slots) > 1 else [theirs], strict=True)
            parts = {slot: self._flattened(section, [slot]) for slot, section in sections}
        yield from ((mine[slot], parts[slot]) for slot in slots if slot in mine)

    def their_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that one of the keys has in the file, for a parameter of this shape."""
        flat = self._rearranged(torch.empty(shape, device="meta"), self.ours, " ".join(self.flat), self.ours_slots)
        slots = self._of_key(key)
        sizes = list(flat.shape)

        def made(rows: int) -> tuple[int, ...]:
            if self.stacked:
                return tuple(sizes[1:])
            if self.slots:
                sizes[self.at] = rows
            return tuple(rearrange(flat.new_empty(sizes), f"{' '.join(self.flat)} -> {self.theirs}").shape)

        if len(self.keys) > 1 and len(slots) > 1:  # sections
            shapes = [made(self.length([slot])) for slot in slots]
            return (sum(one[0] for one in shapes), *shapes[0][1:])
        whole = made(self.length(slots))
        return whole if self.index is None else (self.axes["e"], *whole)

    def view(self, theirs: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Our parameter in their memory; None where only a copy has our order, or one that a product would copy."""
        if len(self.keys) > 1:
            return None
        flat = self._flattened(theirs if self.index is None else theirs[self.index], self.slots)
        if self.ours_slots != self.slots:
            first = self.slots.index(self.ours_slots[0])
            if self.slots[first : first + len(self.ours_slots)] != self.ours_slots:
                return None
            flat = flat.narrow(self.at, self.length(self.slots[:first]), self.length(self.ours_slots))
        single = self.ours.replace("(", "").replace(")", "")
        try:
            view = rearrange(flat, f"{' '.join(self.flat)} -> {single}").view(shape)
        except RuntimeError:  # torch's, where strides do not allow it
            return None
        return view if view.numel() < 2 or 1 in _strides(view) else None

    def pieces(self) -> set[tuple[int | None, str | None]]:
        """Which parts of its keys a row takes: of which index, which slots; None is all."""
        slots: Sequence[str | None] = self.ours_slots if len(self.keys) == 1 and self.slots else (None,)
        return {(self.index, slot) for slot in slots}

    def all_pieces(self) -> set[tuple[int | None, str | None]]:
        """The parts that a key has for all rows together."""
        slots: Sequence[str | None] = self.slots if len(self.keys) == 1 and self.slots else (None,)
        return {
            (index, slot) for slot in slots for index in (range(self.axes["e"]) if self.index is not None else (None,))
        }


def _slots(side: str) -> tuple[str, ...]:
    found = BRACKETS.search(side)
    return tuple(found[1].split()) if found else ()


def _strides(tensor: Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def regroups(pattern: str | None) -> bool:
    """Whether a pattern does more than permute whole axes."""
    return pattern is not None and any(mark in pattern for mark in "([")

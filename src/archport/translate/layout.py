"""What the pattern of a key table's row does to a tensor, in either direction.

Both sides are split into single axes, where one is a view of the other's order.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from einops import EinopsError, rearrange
from torch import Tensor

from ..errors import MappingError
from .pattern import SLOT, Pattern, Row, malformed, parsed, single


class Layout:
    """A row's pattern, applied to axes of these lengths. Raises: MappingError for keys that it does not fit."""

    def __init__(self, row: Row, axes: Mapping[str, int]) -> None:
        self.keys, self.pattern, self.axes = row.keys, row.pattern, axes
        pattern = parsed(row.pattern or "... -> ...")
        counted, _, number = (pattern.index or "").partition("=")
        self.index, self.counted = int(number) if number else None, counted
        self.theirs, self.ours = pattern.theirs, pattern.ours
        self.slots, self.ours_slots = pattern.slots, pattern.our_slots
        self.turned, self.pairs_first = pattern.turned, pattern.pairs_first
        self.flat = single(self.theirs)
        distinct, rows = len(set(self.keys)), self.length(self.slots)
        if self.slots and distinct == rows:  # a key a row
            self.slots, self.ours_slots = self._rows(self.slots), self._rows(self.ours_slots)
        self.without = pattern.apart and distinct == rows  # a key that is a row of an axis does not have the axis
        self._check(pattern, rows if pattern.apart and distinct > 1 else len(self.slots))

    def _check(self, pattern: Pattern, count: int) -> None:
        if not self.keys:
            raise malformed(pattern.text, "found no slots to cut sections for, expected some, as in [q k v]")
        if len(self.keys) not in (1, count):
            one_or = f"1, or {count}, one a slot" if count else "1, or a slot for each in brackets"
            raise malformed(pattern.text, f"found {len(self.keys)} keys, expected {one_or}")
        if pattern.index and self.index is None:
            one = "one expert" if pattern.index == "{e}" else "one layer"
            raise malformed(pattern.text, f"takes {one}, but found no {pattern.index} in the name of ours")
        if self.index is not None and self.counted not in self.axes:
            known, what = ", ".join(self.axes), "experts" if self.counted == "e" else "layers"
            fault = f"found no number of {what}, expected an axis {self.counted} in Config.axes: {known}"
            raise malformed(pattern.text, fault)

    def _rows(self, slots: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{slot}.{row}" for slot in slots for row in range(self.length([slot])))

    def length(self, slots: Sequence[str]) -> int:
        """How many rows these slots have together."""
        return sum(self.axes.get(slot, 1) for slot in slots)

    @cached_property
    def at(self) -> int:
        """Where the axis of slots is among the single axes, from the end where what is before has no fixed number."""
        at = self.flat.index(SLOT)
        return at - len(self.flat) if "..." in self.flat[:at] else at

    @property
    def _of_a_key(self) -> tuple[str, str]:
        """The axes of one of their tensors as it lies, and one by one."""
        if not self.without:
            return self.theirs, " ".join(self.flat)
        stored = (axis for axis in self.theirs.split() if axis != SLOT)
        return " ".join(stored), " ".join("1" if axis == SLOT else axis for axis in self.flat)

    def _rearranged(self, tensor: Tensor, source: str, target: str, slots: Sequence[str]) -> Tensor:
        sizes = dict(self.axes) | {SLOT: self.length(slots)}
        return rearrange(
            tensor, f"{source} -> {target}", **{axis: sizes[axis] for axis in single(source) if axis in sizes}
        )

    def _flattened(self, theirs: Tensor, slots: Sequence[str]) -> Tensor:
        return self._rearranged(theirs, *self._of_a_key, slots)

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
        for slot in slots:
            if slot in mine:
                pair = mine[slot], parts[slot]
                yield from self._by_pairs(*pair) if slot.partition(".")[0] in self.turned else [pair]

    def _by_pairs(self, ours: Tensor, theirs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The rotary elements of a slot, of which one side has pair by pair and the other by halves, then the rest."""
        at = self.flat.index("dim")
        at -= len(self.flat) if "..." in self.flat[:at] else 0
        size = self.axes.get("rotary", ours.shape[at])

        def by_halves(tensor: Tensor, pairs: bool) -> Tensor:
            rotary = tensor.narrow(at, 0, size).movedim(at, -1)
            shape = (*rotary.shape[:-1], *((size // 2, 2) if pairs else (2, size // 2)))
            return rotary.view(shape).mT if pairs else rotary.view(shape)

        yield by_halves(ours, not self.pairs_first), by_halves(theirs, self.pairs_first)
        if rest := ours.shape[at] - size:
            yield ours.narrow(at, size, rest), theirs.narrow(at, size, rest)

    def their_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that one of the keys has in the file, for a parameter of this shape.

        Raises: MappingError for a shape that the pattern does not fit.
        """
        try:
            return self._their_shape(key, shape)
        except EinopsError:
            raise MappingError(
                [f"the key table's pattern {self.pattern} does not fit shape {shape}"], "key table"
            ) from None

    def _their_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        flat = self._rearranged(torch.empty(shape, device="meta"), self.ours, " ".join(self.flat), self.ours_slots)
        slots = self._of_key(key)
        sizes = list(flat.shape)
        stored, single = self._of_a_key

        def made(rows: int) -> tuple[int, ...]:
            if self.slots:
                sizes[self.at] = rows
            return tuple(rearrange(flat.new_empty(sizes), f"{single} -> {stored}").shape)

        if len(self.keys) > 1 and len(slots) > 1:  # sections
            shapes = [made(self.length([slot])) for slot in slots]
            return (sum(one[0] for one in shapes), *shapes[0][1:])
        whole = made(self.length(slots))
        return whole if self.index is None else (self.axes[self.counted], *whole)

    def view(self, theirs: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Our parameter in their memory; None where only a copy has our order, or one that a product would copy."""
        if len(self.keys) > 1 or self.turned:
            return None
        flat = self._flattened(theirs if self.index is None else theirs[self.index], self.slots)
        if self.ours_slots != self.slots:
            first = self.slots.index(self.ours_slots[0])
            if self.slots[first : first + len(self.ours_slots)] != self.ours_slots:
                return None
            flat = flat.narrow(self.at, self.length(self.slots[:first]), self.length(self.ours_slots))
        try:
            view = rearrange(flat, f"{' '.join(self.flat)} -> {' '.join(single(self.ours))}").view(shape)
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
        indices = (None,) if self.index is None else range(self.axes[self.counted])
        return {(index, slot) for slot in slots for index in indices}


def _strides(tensor: Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]

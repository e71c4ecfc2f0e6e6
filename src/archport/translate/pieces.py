"""A piece of a parameter, read without the rest: what one of several processes has of a model.

Whatever a row of the table does to a tensor, it says which numbers of theirs go where in ours. So the numbers of a
piece are found among all by their strides, without a pattern of its own and before any of them is read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .layout import Layout
from .pattern import Row
from .steps import StepKind, TensorStep
from .tensors import Copy, pieces

Box = tuple[tuple[int, int], ...]  # of a tensor: where it starts and how long it is, axis by axis


class Piece(NamedTuple):
    """A part of one axis of a parameter of ours, from `start` on and before `stop`."""

    axis: int
    start: int
    stop: int

    def shape(self, whole: Sequence[int]) -> tuple[int, ...]:
        """Its own shape, of a parameter of this one."""
        sizes = list(whole)
        sizes[self.axis] = self.stop - self.start
        return tuple(sizes)


def import_piece(
    step: TensorStep, axes: Mapping[str, int], read: Callable[[str], Tensor], piece: Piece
) -> tuple[Tensor, list[Copy]]:
    """A piece of one parameter, and the copies that fill it: none where it is the file's own memory."""
    shape = piece.shape(step.shape)
    if not step.keys:
        return torch.zeros(shape, dtype=step.dtype), []
    if step.kind == StepKind.IN_PLACE and step.pattern is None and piece.axis == 0:
        return read(step.keys[0]).narrow(0, piece.start, shape[0]), []
    ours = torch.empty(shape, dtype=step.dtype)
    copies: list[Copy] = []
    for mine, theirs in _pairs(step, axes, read):
        for box in _boxes(mine, step.shape, piece):
            copies += pieces(_inside(ours, mine, box, step.shape, piece), _narrowed(theirs, box), step.name)
    return ours, copies


def _pairs(step: TensorStep, axes: Mapping[str, int], read: Callable[[str], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the whole parameter, which has no memory, and of theirs that hold the same numbers."""
    whole = torch.empty(step.shape, device="meta")
    if step.pattern is None:
        yield whole, read(step.keys[0])
        return
    layout = Layout(Row(step.keys, step.pattern), axes)
    for key in dict.fromkeys(step.keys):
        yield from layout.pairs(key, whole, read(key))


def _boxes(mine: Tensor, whole: tuple[int, ...], piece: Piece) -> Iterator[Box]:
    """The parts of a view of the whole parameter that lie in a piece: one, unless the piece cuts across its axes."""
    of_axis = _strides(whole)[piece.axis]
    steps = {  # of the axes of the view that run along the axis of the piece: how far they step there
        at: stride // of_axis
        for at, (size, stride) in enumerate(zip(mine.shape, mine.stride(), strict=True))
        if size > 1 and of_axis <= stride < of_axis * whole[piece.axis]
    }
    order = sorted(steps, key=lambda at: -steps[at])
    first = mine.storage_offset() // of_axis % whole[piece.axis]
    full: Box = tuple((0, size) for size in mine.shape)
    yield from _within(full, [(at, steps[at]) for at in order], piece.start - first, piece.stop - first)


def _within(box: Box, steps: Sequence[tuple[int, int]], low: int, high: int) -> Iterator[Box]:
    """The parts of a box whose place on the axis, the sum of index times step, is from `low` on and before `high`."""
    if not steps:
        if low <= 0 < high:
            yield box
        return
    (at, step), rest = steps[0], steps[1:]
    reach = sum((box[other][1] - 1) * of_other for other, of_other in rest)
    start = 0
    while start < box[at][1]:
        stop = start + 1
        if low <= start * step and start * step + reach < high:  # wholly inside: with all others that are, one box
            while stop < box[at][1] and stop * step + reach < high:
                stop += 1
            yield (*box[:at], (start, stop - start), *box[at + 1 :])
        elif low <= start * step + reach and start * step < high:
            one: Box = (*box[:at], (start, 1), *box[at + 1 :])
            yield from _within(one, rest, low - start * step, high - start * step)
        start = stop


def _narrowed(tensor: Tensor, box: Box) -> Tensor:
    for at, (start, length) in enumerate(box):
        tensor = tensor.narrow(at, start, length)
    return tensor


def _inside(ours: Tensor, mine: Tensor, box: Box, whole: tuple[int, ...], piece: Piece) -> Tensor:
    """The view of a piece's own memory that is a box of a view of the whole parameter."""
    view, strides, own = _narrowed(mine, box), _strides(whole), ours.stride()
    offset = view.storage_offset()
    at = [offset // stride % size for stride, size in zip(strides, whole, strict=True)]
    at[piece.axis] -= piece.start
    moved = [
        next((stride // s * o for s, o, n in zip(strides, own, whole, strict=True) if s <= stride < s * n), 0)
        for stride in view.stride()
    ]
    return ours.as_strided(view.shape, moved, sum(index * stride for index, stride in zip(at, own, strict=True)))


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return torch.empty(tuple(shape), device="meta").stride()

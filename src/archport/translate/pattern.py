"""What the pattern of a key table's row does to a tensor, in either direction."""

import re
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor


class Layout:
    """A row's pattern, applied. Both sides are split into single axes, where one is a view of the other's order."""

    def __init__(self, pattern: str | None, count: int, axes: Mapping[str, int]) -> None:
        self.theirs, self.ours = (pattern or "... -> ...").split(" -> ")
        self.axes, self.count = axes, count
        # Several keys are slices along the first axis of the pattern.
        self.one = self.theirs if count == 1 else self.theirs.split(" ", 1)[1]

    def _rearrange(self, tensor: Tensor, source: str, target: str) -> Tensor:
        named = {axis: size for axis, size in self.axes.items() if re.search(rf"\b{axis}\b", source)}
        return rearrange(tensor, f"{source} -> {target}", **named)

    def split(self, theirs: Tensor) -> Tensor:
        """One tensor of theirs, each of its axes alone: a view."""
        return self._rearrange(theirs, self.one, _ungrouped(self.one))

    def parts(self, ours: Tensor) -> list[Tensor]:
        """Our tensor as views, one a key, in the order of axes that `split` gives theirs."""
        view = self._rearrange(ours, self.ours, _ungrouped(self.theirs))
        return [view] if self.count == 1 else list(view.unbind())

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape each of the keys has in the file, for a parameter of this shape."""
        stacked = tuple(self._rearrange(torch.empty(shape, device="meta"), self.ours, self.theirs).shape)
        return stacked if self.count == 1 else stacked[1:]


def _ungrouped(side: str) -> str:
    return side.replace("(", "").replace(")", "")


def regroups(pattern: str | None) -> bool:
    """Whether a pattern needs a copy: without groups it only permutes axes, which a view can do."""
    return pattern is not None and "(" in pattern

"""How a part is cut where several ranks compute one model together: said beside its forward, as data alone.

A rank is one of the processes. Who reads, sums and gathers is `archport.parallel`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Cut(str, Enum):
    """What each rank has of a child of a part, and what the ranks do with what it gives."""

    OUTPUTS = "outputs"  # rows of a linear map, and their biases: each rank goes on with what its own give
    INPUTS = "inputs"  # columns of a linear map: what the ranks give is summed, and its bias added once
    GATHERED = "outputs, gathered"  # rows of a linear map: what they give is put together on every rank
    ROWS = "rows"  # of a table: a rank looks up what it has, zeros else, and the ranks sum
    HEADS = "heads"  # of what has something for each head: a weight, or what a method gives
    ACROSS = "across ranks"  # weights of a norm, whose squares the ranks sum
    SUMMED = "summed once"  # a list of parts that are cut: what their sum gives is summed over the ranks, not each


@dataclass(frozen=True)
class Sharding:
    """What of a part is cut, child by child; all else of it each rank has whole.

    `sizes` are its numbers that count what a rank has, `units` the one of them that must divide by the ranks.
    Inside of a part that is cut, only what says that it acts on each head, row or element alone may be whole: by a
    Sharding of nothing. A subclass that overrides a step of its part says its own.
    """

    cut: Mapping[str, Cut] = field(default_factory=dict)
    sizes: tuple[str, ...] = ()
    units: str | None = None


WHOLE = Sharding()

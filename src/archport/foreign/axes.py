"""In which layouts a tensor of these axes may lie in one of that shape: each as a side of a pattern."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from math import prod

from .templates import Shape

Side = tuple[tuple[str, ...], ...]  # of each axis of a tensor, the axes that it is made of
SLOTS = "slots"  # the axis in brackets, among others

# Orders in which axes are met in people's code, but for that of the input, which may stand anywhere.
BY_HEAD = ("kv", SLOTS, "dim")
ROWS_OF_QKV = ((SLOTS, "kv", "dim"), BY_HEAD, ("kv", "dim", SLOTS))
ROWS_OF_PAIR = ((SLOTS, "mlp"), ("mlp", SLOTS))


def with_input(rows: Sequence[str], name: str | None) -> Iterator[tuple[str, ...]]:
    """The axis of the input after those of the output, before them, and between any."""
    if name is None:
        yield tuple(rows)
        return
    for at in sorted(range(len(rows) + 1), key=lambda at: (at != len(rows), at)):
        yield (*rows[:at], name, *rows[at:])


def sides(order: tuple[str, ...], sizes: Mapping[str, int], shape: Shape) -> Iterator[Side]:
    """The ways to put axes in this order together into those of a shape; an axis of length 1 may have none."""
    if not shape:
        if not order:
            yield ()
        return
    for taken in range(len(order), -1, -1):
        if prod(sizes[axis] for axis in order[:taken]) == shape[0] and (taken or shape[0] == 1):
            for rest in sides(order[taken:], sizes, shape[1:]):
                yield (order[:taken], *rest)


def written(side: Side, slots: Sequence[str] = (), free: str | None = None) -> str:
    """A side of a pattern; the axis `free` becomes `...` where it stands alone."""

    def one(group: Sequence[str]) -> str:
        names = [f"[{' '.join(slots)}]" if axis == SLOTS else axis for axis in group]
        if not names:
            return "1"
        if tuple(group) == (free,):
            return "..."
        return names[0] if len(names) == 1 else f"({' '.join(names)})"

    return " ".join(map(one, side))


def slot_orders(slots: Sequence[str]) -> list[tuple[str, ...]]:
    """Every order of slots, the given one first."""
    return [*permutations(slots)]

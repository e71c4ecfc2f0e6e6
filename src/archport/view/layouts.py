"""How a checkpoint stores a tensor, in words read off its row of the key table."""

from typing import NamedTuple

from ..translate.pattern import SLOT, Row, groups, parsed

NAMES = {"group": "queries", "q": "queries", "k": "keys", "v": "values"}
TURNS = ("first", "second", "third", "fourth", "fifth")


class _Sides(NamedTuple):
    """What a pattern says: of their layout and ours, the named parts of the axis in brackets, in their order."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    around: str  # the axis that is above theirs, if any, so that each of its parts holds all of them
    stacked: bool  # keys that are one after another in ours
    transposed: bool
    regrouped: bool
    expert: bool


def layout(row: Row, ndim: int = 2, *, fused: str = "") -> str:
    """How a checkpoint stores a weight that is ours as (out, in), or a bias.

    `fused` if of queries, keys and values: what ours are put together by, head or group.
    """
    sides, count = _sides(row), len(set(row.keys))
    phrases = ["one weight of all experts, this one's by its number"] if sides.expert else []
    phrases += ["stored (in, out): transposed"] if ndim > 1 and sides.transposed else []
    unit = fused or "head"
    if count > 1:
        how = "one after the other" if sides.stacked else f"put together {unit} by {unit}"
        phrases.append(f"{count} weights, {how}")
    elif sides.theirs and set(sides.ours) < set(sides.theirs):
        turn, parts = TURNS[sides.theirs.index(sides.ours[0])], ", ".join(sides.theirs)
        lines = "columns" if ndim > 1 and sides.transposed else "rows"
        taken = (
            f"of every {len(sides.theirs)} {lines} the {turn}" if sides.around else f"the {turn} part of its {lines}"
        )
        phrases.append(f"one weight of {parts}: {taken}")
    elif sides.theirs and sides.regrouped:
        columns = "columns are " if ndim > 1 and sides.transposed else ""
        order = ", then ".join(NAMES.get(slot, slot) for slot in sides.theirs)
        each = f"in each {sides.around} " if sides.around else ""
        phrases.append(f"{columns}{each}all {order}: regrouped {unit} by {unit}")
    one = "queries" if fused == "group" else "query"
    return "; ".join(phrases) or ("as it is used" + (f": {fused} by {fused} its {one}, key and value" if fused else ""))


def axes(row: Row, *, fused: str = "") -> str:
    """The order of a weight's axes in a checkpoint, as briefly as can be."""
    sides, count = _sides(row), len(set(row.keys))
    order = ("(expert, " if sides.expert else "(") + ("in, out)" if sides.transposed else "out, in)")
    if count > 1:
        return f"{count} weights, {order}"
    if fused and sides.regrouped:
        each = f" in each {sides.around}" if sides.around else ""
        return ", ".join((order, *(f"all {'q' if slot == 'group' else slot}" for slot in sides.theirs))) + each
    if fused:
        return f"{order}, q, k, v of each {fused}"
    return order + (f", {' and '.join(sides.theirs)} in one" if len(sides.theirs) > 1 else "")


def transposed(row: Row) -> bool:
    """Whether a checkpoint stores a weight that is ours as (out, in) as (in, out)."""
    return _sides(row).transposed


def _sides(row: Row) -> _Sides:
    pattern = parsed(row.pattern or "... -> ...")
    theirs, ours = pattern.theirs, pattern.ours
    before, found, _ = theirs.partition(SLOT)
    above = before.rpartition("(")[2].split() if found else []
    return _Sides(
        pattern.slots,
        pattern.our_slots,
        above[-1] if above and len(row.keys) == 1 else "",  # sections hold each all of it
        ours.lstrip("(").startswith(SLOT),
        len(groups(theirs)) > 1 and groups(theirs)[0] == groups(ours)[-1],
        bool(pattern.slots) and ((theirs, pattern.slots) != (ours, pattern.our_slots) or len(row.keys) > 1),
        pattern.index is not None,
    )

"""The ways in which tensors of a person's module may make those of ours: by shape, class and the module they lie in."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from ..translate.table import Cell, rearranged
from .axes import ROWS_OF_PAIR, SLOTS, Side, sides, slot_orders, written
from .templates import Template
from .way import OUT_IN, Sides, Way, above, layouts, row_of
from .ways_of_qkv import apart, as_in_files, fused, turned

TWO = ("gate", "up")
AXES = {"tokens": ("vocab", "width"), "positions": ("context", "width"), "head": ("vocab", "width")}


def parts(sides: Sides) -> list[list[Way]]:
    """The ways of each part of ours that has tensors, the likely first; gate and up are one, as they may be fused."""
    owners: dict[str, list[list[Template]]] = {}
    for one in sides.ours:
        owner = one.owner[: -len(one.owner.rpartition(".")[2])] + "*" if _slot(one) in TWO else one.owner
        leaves = owners.setdefault(owner, [])
        same = next((group for group in leaves if group[0].leaf == one.leaf), None)
        if same is None:
            leaves.append([one])
        else:
            same.append(one)
    return [sorted(_together(sides, leaves), key=lambda way: way.unlikely) for leaves in owners.values()]


def _slot(ours: Template) -> str:
    return ours.owner.rpartition(".")[2]


def _together(sides: Sides, leaves: Sequence[Sequence[Template]]) -> Iterator[Way]:
    """Ways for weight and bias: out of the same modules of theirs, their rows in the same order."""
    by_leaf = [list(_of_leaf(sides, ours)) for ours in leaves]
    groups: list[dict[Any, list[Way]]] = []
    for ways in by_leaf:
        groups.append({})
        for way in ways:
            groups[-1].setdefault((way.order, tuple(key.owner for key in way.keys)), []).append(way)
    for same in groups[0] if groups else ():
        for chosen in product(*(group.get(same, ()) for group in groups)):
            keys = tuple(key for way in chosen for key in way.keys)
            if len(set(keys)) == len({key.name for key in keys}) == sum(len({*way.keys}) for way in chosen):
                rows = {name: cell for way in chosen for name, cell in way.rows.items()}
                yield Way(rows, keys, sum(way.unlikely for way in chosen), same[0])


def _of_leaf(sides: Sides, ours: Sequence[Template]) -> Iterator[Way]:
    """Ways for the weights, or the biases, of one part."""
    first = ours[0]
    if len(ours) == 2:
        yield from _pair_apart(sides, ours)
        yield from _pair_fused(sides, ours)
    elif _slot(first) == "qkv" and len(first.shape) in (1, 2):
        whole = list(fused(sides, first))
        for way in (*whole, *as_in_files(sides, first, whole), *apart(sides, first)):
            yield way
            yield from turned(sides, way)
    else:
        yield from _plain(sides, first)


def _plain(given: Sides, ours: Template) -> Iterator[Way]:
    """One of theirs, as it is or transposed; the input of `out` head by head."""
    names: tuple[str, ...] = AXES.get(_slot(ours), ("out", "in")) if len(ours.shape) == 2 else ("width",)
    sizes = dict(zip(names, ours.shape, strict=False))
    as_ours: Side = tuple((name,) for name in names)
    orders: list[tuple[str, ...]] = [names, names[::-1]] if len(names) == 2 else [names]
    if _slot(ours) == "out" and len(ours.shape) == 2:
        sizes = {"width": ours.shape[0]} | {name: given.axes[name] for name in ("head", "dim")}
        as_ours = (("width",), ("head", "dim"))
        orders = [("width", "head", "dim"), ("head", "dim", "width"), ("head", "width", "dim")]
    if len(ours.shape) > 2:  # as it is, or not at all
        orders, as_ours = [], ()
    for theirs, shape, index in given.fitting(ours):
        unlikely = given.unlikely(ours, theirs)
        if shape == ours.shape:
            cell: Cell = rearranged(theirs.name, f"{index}... -> ...") if index else theirs.name
            yield Way({ours.name: cell}, (theirs,), unlikely)
        for order in orders:
            for side in sides(order, sizes, shape):
                untold = any(sum(name not in given.axes for name in group) > 1 for group in side)  # how long each is
                if side == as_ours or theirs.kind in OUT_IN or untold:
                    continue
                transposed = side == as_ours[::-1]
                pattern = "... width -> width ..." if transposed else f"{written(side)} -> {written(as_ours)}"
                yield Way({ours.name: rearranged(theirs.name, index + pattern)}, (theirs,), unlikely + 0.01)


def _pair_apart(given: Sides, ours: Sequence[Template]) -> Iterator[Way]:
    """One of theirs for gate, another for up."""
    for gate, up in product(*(list(_plain(given, one)) for one in ours)):
        if gate.keys != up.keys and above(gate.keys[0]) == above(up.keys[0]):
            yield Way({**gate.rows, **up.rows}, gate.keys + up.keys, (gate.unlikely + up.unlikely) / 2)


def _pair_fused(given: Sides, ours: Sequence[Template]) -> Iterator[Way]:
    """One of theirs for gate and up: one after the other, or in turns."""
    first = ours[0]
    if len(first.shape) not in (1, 2):
        return
    sizes = {SLOTS: 2, "mlp": first.shape[0], "width": first.shape[-1]}
    for theirs, shape, index in given.fitting(first):
        unlikely = sum(given.unlikely(one, theirs) for one in ours) / 2
        for rows, slots in product(ROWS_OF_PAIR, slot_orders(TWO)):
            for side in layouts(first, theirs, shape, rows, sizes):
                cells = {one.name: row_of(theirs.name, index, side, slots, f"([{_slot(one)}] mlp)") for one in ours}
                yield Way(cells, (theirs,), unlikely + 0.2 * (slots != TWO), (rows, slots))

"""The ways in which tensors of a person's module may make those of ours: by shape, class and the module they lie in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

from torch import nn

from ..layers import QKV
from ..translate.layout import Layout
from ..translate.table import Cell, Row, Table, rearranged, sections
from .axes import BY_HEAD, ROWS_OF_PAIR, ROWS_OF_QKV, SLOTS, Side, sides, slot_orders, with_input, written
from .likeness import unlike
from .templates import Shape, Template

STANDARD = (nn.Linear, nn.LayerNorm, nn.Embedding)  # classes of torch, whose tensors can only be one thing
OUT_IN = ("Linear", "Embedding")  # the names of those that are never transposed
THREE, TWO = ("group", "k", "v"), ("gate", "up")
AXES = {"tokens": ("vocab", "width"), "positions": ("context", "width"), "head": ("vocab", "width")}


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
            elif lacking and theirs.shape and theirs.shape[0] == self.axes.get(lacking[0][1]):
                yield theirs, theirs.shape[1:], f"{lacking[0]} "

    def unlikely(self, ours: Template, theirs: Template, slot: str | None = None) -> float:
        """How unlikely one looks, by its words and its place."""
        place = ours.place / max(1, len(self.ours) - 1)
        return unlike(ours.name, theirs, len(self.theirs), slot, place)


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
        fused = list(_fused(sides, first))
        for way in (*fused, *_as_in_files(sides, first, fused), *_apart(sides, first)):
            yield way
            yield from _turned(sides, way)
    else:
        yield from _plain(sides, first)


def _turned(given: Sides, way: Way) -> Iterator[Way]:
    """The same where q and k have their rotary pairs as ours do not."""
    [(name, cell)] = way.rows.items()
    if given.turn is not None:
        row = cell if isinstance(cell, Row) else Row((str(cell),), f"{QKV} ... -> {QKV} ...")
        query, key = ("q", "k") if "[q" in str(row.pattern) or " q " in str(row.pattern) else ("group", "k")
        turned = replace(row, pattern=f"{row.pattern}; {query} {key}: {given.turn}")
        yield Way({name: turned}, way.keys, way.unlikely + 0.5, (way.order, "turned"))


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
                if side == as_ours or (theirs.kind in OUT_IN):
                    continue
                transposed = side == as_ours[::-1]
                pattern = "... width -> width ..." if transposed else f"{written(side)} -> {written(as_ours)}"
                yield Way({ours.name: rearranged(theirs.name, index + pattern)}, (theirs,), unlikely + 0.01)


def _fused(given: Sides, ours: Template) -> Iterator[Way]:
    """One of theirs for q, k and v: in every order of heads, slots and elements that code has, input first or last."""
    group = given.axes["group"]
    sizes = {"kv": given.axes["kv"], SLOTS: group + 2, "dim": given.axes["dim"], "width": ours.shape[-1]}
    known: set[Any] = set()
    for theirs, shape, index in given.fitting(ours):
        unlikely = given.unlikely(ours, theirs)
        for rows, slots in product((BY_HEAD,) if group > 1 else ROWS_OF_QKV, slot_orders(THREE)):
            order = tuple(axis for axis in rows if sizes[axis] > 1), slots  # in the others there is one number
            for side in _sides(ours, theirs, shape, rows, sizes):
                once = (theirs.name, order, _without_ones(side, sizes))
                if once in known:
                    continue
                known.add(once)
                cell = _row(theirs.name, index, side, slots, QKV, (BY_HEAD,))
                yield Way({ours.name: cell}, (theirs,), unlikely + 0.2 * (slots != THREE), order)
        if group > 1 and shape == ours.shape and not index:
            for slots in slot_orders(THREE):
                cell = sections(theirs.name, f"(kv [{' '.join(slots)}] dim) ... -> {QKV} ...")
                yield Way({ours.name: cell}, (theirs,), unlikely + 0.2 * (slots != THREE), ("sections", slots))


def _as_in_files(given: Sides, ours: Template, others: Sequence[Way]) -> Iterator[Way]:
    """One of theirs for q, k and v in the layout of the architecture's files, where no other way is that."""
    known = {cell.pattern for way in others for cell in way.rows.values() if isinstance(cell, Row)}
    if (pattern := given.files.get(ours.name)) is None:
        return
    if len(ours.shape) == 1:
        pattern = " ".join(word for word in pattern.split() if word != "...")
    for theirs, shape, index in given.fitting(ours) if pattern not in known else ():
        layout = Layout(Row((theirs.name,), pattern), given.axes)
        if not index and layout.their_shape(theirs.name, ours.shape) == shape:
            cell = rearranged(theirs.name, pattern)
            yield Way({ours.name: cell}, (theirs,), given.unlikely(ours, theirs) + 0.1, "files")


def _apart(given: Sides, ours: Template) -> Iterator[Way]:
    """Three of theirs, or one for q and one for k and v."""
    group, dim, kv = given.axes["group"], given.axes["dim"], given.axes["kv"]
    fitting = list(given.fitting(ours))
    sizes = {"kv": kv, "dim": dim, "width": ours.shape[-1]}
    lying: dict[int, dict[Any, list[Template]]] = {}  # by how many heads in a group, then by layout
    for rows in {group, 1}:
        for theirs, shape, index in fitting:
            known = set()
            for side in _sides(ours, theirs, shape, BY_HEAD, sizes | {SLOTS: rows}):
                longer = _without_ones(side, sizes | {SLOTS: group})
                if (SLOTS,) not in side and longer not in known:
                    known.add(longer)
                    lying.setdefault(rows, {}).setdefault((side, index), []).append(theirs)
    for (side, index), queries in lying.get(group, {}).items():
        for q, (k, v) in product(queries, permutations(lying.get(1, {}).get((side, index), ()), 2)):
            if q not in (k, v) and _above(q) == _above(k) == _above(v):
                cell = _row((q.name, k.name, v.name), index, side, THREE, QKV, None)
                unlikely = sum(given.unlikely(ours, one, slot) for one, slot in zip((q, k, v), "qkv", strict=True)) / 3
                yield Way({ours.name: cell}, (q, k, v), unlikely, "apart")
    rows_of_q = (kv * group * dim, *ours.shape[1:])
    rows_of_both = (2 * kv * dim, *ours.shape[1:])
    of_q, of_both = (
        [one for one, shape, index in fitting if shape == rows and not index] for rows in (rows_of_q, rows_of_both)
    )
    for q, both, slots in product(of_q, of_both, (THREE, ("group", "v", "k"))):
        if q != both:
            pattern = f"(kv [{' '.join(slots)}] dim) ... -> {QKV} ..."
            cell = rearranged((q.name, both.name, both.name), pattern)
            unlikely = (given.unlikely(ours, q, "q") + given.unlikely(ours, both, "kv")) / 2
            yield Way({ours.name: cell}, (q, both), unlikely + 0.2 * (slots != THREE), ("kv", slots))


def _pair_apart(given: Sides, ours: Sequence[Template]) -> Iterator[Way]:
    """One of theirs for gate, another for up."""
    for gate, up in product(*(list(_plain(given, one)) for one in ours)):
        if gate.keys != up.keys and _above(gate.keys[0]) == _above(up.keys[0]):
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
            for side in _sides(first, theirs, shape, rows, sizes):
                cells = {one.name: _row(theirs.name, index, side, slots, f"([{_slot(one)}] mlp)", None) for one in ours}
                yield Way(cells, (theirs,), unlikely + 0.2 * (slots != TWO), (rows, slots))


def _sides(
    ours: Template, theirs: Template, shape: Shape, rows: Sequence[str], sizes: Mapping[str, int]
) -> Iterator[Side]:
    """The layouts of rows in this order, and of the input, that have the shape of theirs."""
    for order in with_input(rows, "width" if len(ours.shape) == 2 else None):
        if theirs.kind not in OUT_IN or order[-1] == "width" or len(ours.shape) == 1:
            yield from sides(order, sizes, shape)


def _without_ones(side: Side, sizes: Mapping[str, int]) -> Side:
    """A layout without the axes of length 1, which may stand anywhere."""
    return tuple(tuple(axis for axis in group if sizes[axis] > 1) for group in side)


def _row(keys: str | tuple[str, ...], index: str, side: Side, slots: Sequence[str], ours: str, plain: Any) -> Cell:
    """A row from a layout of theirs to ours, which is theirs where both are `plain`."""
    free = "width" if ("width",) in side or not any("width" in group for group in side) else None
    theirs = written(side, slots, free)
    target = ours if free and "..." not in theirs else f"{ours} {'...' if free else 'width'}"
    same = plain is not None and side[:1] == plain and slots == THREE and not index
    return keys if same and isinstance(keys, str) else rearranged(keys, f"{index}{theirs} -> {target}")


def _above(theirs: Template) -> str:
    """What q, k and v have in common: the module that has them, or theirs."""
    return theirs.owner.rpartition(".")[0] if theirs.leaf in ("weight", "bias") else theirs.owner


def patterns(table: Table, ours: Sequence[Template]) -> dict[str, str]:
    """The layouts that the files of an architecture have for fused tensors of their own, by our names."""
    found = {}
    for one in ours:
        for name in (one.name, f"{one.owner}.*"):
            cells = table.weights.get(name, "")
            for cell in cells if isinstance(cells, tuple) else (cells,):
                if isinstance(cell, Row) and len(cell.keys) == 1 and cell.pattern:
                    found[one.name] = cell.pattern
    return found

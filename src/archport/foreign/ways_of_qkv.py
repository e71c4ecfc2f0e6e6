"""The ways in which a module may hold queries, keys and values: in one tensor, in three, or q beside k and v."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import Any

from ..layers import QKV
from ..translate.layout import Layout
from ..translate.table import Row, Table, rearranged, sections
from .axes import BY_HEAD, ROWS_OF_QKV, SLOTS, slot_orders
from .templates import Template
from .way import THREE, Sides, Way, above, layouts, row_of, without_ones


def turned(given: Sides, way: Way) -> Iterator[Way]:
    """The same where q and k have their rotary pairs as ours do not."""
    [(name, cell)] = way.rows.items()
    if given.turn is not None:
        row = cell if isinstance(cell, Row) else Row((str(cell),), f"{QKV} ... -> {QKV} ...")
        query, key = ("q", "k") if "[q" in str(row.pattern) or " q " in str(row.pattern) else ("group", "k")
        turned = replace(row, pattern=f"{row.pattern}; {query} {key}: {given.turn}")
        yield Way({name: turned}, way.keys, way.unlikely + 0.5, (way.order, "turned"))


def fused(given: Sides, ours: Template) -> Iterator[Way]:
    """One of theirs for q, k and v: in every order of heads, slots and elements that code has, input first or last."""
    group = given.axes["group"]
    sizes = {"kv": given.axes["kv"], SLOTS: group + 2, "dim": given.axes["dim"], "width": ours.shape[-1]}
    known: set[Any] = set()
    for theirs, shape, index in given.fitting(ours):
        unlikely = given.unlikely(ours, theirs)
        for rows, slots in product((BY_HEAD,) if group > 1 else ROWS_OF_QKV, slot_orders(THREE)):
            order = tuple(axis for axis in rows if sizes[axis] > 1), slots  # in the others there is one number
            for side in layouts(ours, theirs, shape, rows, sizes):
                once = (theirs.name, order, without_ones(side, sizes))
                if once in known:
                    continue
                known.add(once)
                cell = row_of(theirs.name, index, side, slots, QKV, (BY_HEAD,))
                yield Way({ours.name: cell}, (theirs,), unlikely + 0.2 * (slots != THREE), order)
        if group > 1 and shape == ours.shape and not index:
            for slots in slot_orders(THREE):
                cell = sections(theirs.name, f"(kv [{' '.join(slots)}] dim) ... -> {QKV} ...")
                yield Way({ours.name: cell}, (theirs,), unlikely + 0.2 * (slots != THREE), ("sections", slots))


def as_in_files(given: Sides, ours: Template, others: Sequence[Way]) -> Iterator[Way]:
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


def apart(given: Sides, ours: Template) -> Iterator[Way]:
    """Three of theirs, or one for q and one for k and v."""
    group, dim, kv = given.axes["group"], given.axes["dim"], given.axes["kv"]
    fitting = list(given.fitting(ours))
    sizes = {"kv": kv, "dim": dim, "width": ours.shape[-1]}
    lying: dict[int, dict[Any, list[Template]]] = {}  # by how many heads in a group, then by layout
    for rows in {group, 1}:
        for theirs, shape, index in fitting:
            known = set()
            for side in layouts(ours, theirs, shape, BY_HEAD, sizes | {SLOTS: rows}):
                longer = without_ones(side, sizes | {SLOTS: group})
                if (SLOTS,) not in side and longer not in known:
                    known.add(longer)
                    lying.setdefault(rows, {}).setdefault((side, index), []).append(theirs)
    for (side, index), queries in lying.get(group, {}).items():
        for q, (k, v) in product(queries, permutations(lying.get(1, {}).get((side, index), ()), 2)):
            if q not in (k, v) and above(q) == above(k) == above(v):
                cell = row_of((q.name, k.name, v.name), index, side, THREE, QKV)
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

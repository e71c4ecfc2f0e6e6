"""What the rows of a table leave of the keys that they take parts of."""

from collections.abc import Mapping
from typing import Any

from .layout import Layout
from .pattern import Row, parsed


def left_over(rows: Mapping[str, Row], axes: Mapping[str, int]) -> list[str]:
    """A line for each key of which the rows take some parts and leave others."""
    taken: dict[str, set[Any]] = {}
    wanted: dict[str, set[Any]] = {}
    what: dict[str, str] = {}
    for row in rows.values():
        if row.pattern and (parsed(row.pattern).slots or parsed(row.pattern).index):
            layout = Layout(row, axes)
            for key in row.keys:
                taken[key] = taken.get(key, set()) | layout.pieces()
                wanted[key] = wanted.get(key, set()) | layout.all_pieces()
            what[key] = "expert" if layout.counted == "e" else "layer"
    missing = {key: [_piece(what[key], *one) for one in sorted(wanted[key] - taken[key], key=str)] for key in taken}
    return [f"{key}: no row of the key table takes {'; '.join(parts)}" for key, parts in missing.items() if parts]


def _piece(what: str, index: int | None, slot: str | None) -> str:
    return ", ".join(([] if index is None else [f"{what} {index}"]) + ([] if slot is None else [slot]))

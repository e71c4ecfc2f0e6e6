"""Rows of a person's own module: our names on the left, theirs on the right, in the language of the key tables."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ..config import DecoderConfig
from ..errors import MappingError
from ..registry import Architecture, architecture, architectures
from ..translate.pattern import Row
from ..translate.planning import nearest
from ..translate.table import Cell, Table

LINE = 120  # letters of a line that is printed, where it can be broken
LEAVES = ("weight", "bias", "*")  # what a row is of, at the end of its name


class Rows(dict[str, Cell]):
    """Rows, which print as Python to paste. `unsettled` are lines on those that others would fit as well."""

    def __init__(self, rows: Mapping[str, Cell], unsettled: Iterable[str] = ()) -> None:
        wanted = "of our names to theirs, or to what rearranged or sections makes"
        faults = [f"found a {type(rows).__name__}, expected a mapping {wanted}"]
        if isinstance(rows, Mapping):
            faults = [
                f"{name!r}: found {cell!r:.80}, expected a row {wanted}"
                for name, cell in rows.items()
                if not _is_row(name, cell)
            ]
        if faults:
            raise MappingError(faults, "rows", "nothing was done")
        super().__init__(rows)
        self.unsettled = tuple(unsettled)

    def __str__(self) -> str:
        lines = [_line(json.dumps(name), cell) for name, cell in self.items()]
        comments = [f"    # {line}" for line in self.unsettled]
        return "\n".join(("{", *comments, *lines, "}"))


def _line(name: str, cell: Cell) -> str:
    """A row as a formatter would leave it."""
    line = f"    {name}: {in_python(cell)},"
    if len(line) <= LINE or not isinstance(cell, Row) or cell.only:
        return line
    opening, _, inside = in_python(cell)[:-1].partition("(")
    keys, _, pattern = inside.rpartition(', "')
    return f'    {name}: {opening}(\n        {keys},\n        "{pattern},\n    ),'


def _is_row(name: object, cell: object) -> bool:
    ways = cell if isinstance(cell, tuple) else (cell,)
    return isinstance(name, str) and all(isinstance(one, str | Row) for one in ways)


def in_python(cell: Cell) -> str:
    """A cell as one would write it."""
    if isinstance(cell, str):
        return json.dumps(cell)
    if isinstance(cell, tuple):
        return f"({', '.join(map(in_python, cell))},)"
    if cell.only:
        inner = cell.keys[0] if cell.pattern is None else replace(cell, only=())
        return f"only({in_python(inner)}, {', '.join(f'{name}={value!r}' for name, value in cell.only)})"
    distinct = dict.fromkeys(cell.keys)
    if len(distinct) == 1:
        name = "rearranged" if len(cell.keys) == 1 else "sections"
        return f"{name}({json.dumps(cell.keys[0])}, {json.dumps(cell.pattern)})"
    return f"rearranged(({', '.join(map(json.dumps, cell.keys))}), {json.dumps(cell.pattern)})"


def compact(rows: Mapping[str, Cell]) -> dict[str, Cell]:
    """The rows with one for weight and bias together where it says the same of both."""
    short: dict[str, Cell] = {}
    for name, cell in rows.items():
        weight = rows.get(f"{name[:-4]}weight") if name.endswith(".bias") else None
        both = None if weight is None else _of_both(weight, cell)
        if both is None:
            short[name] = cell
        else:
            both_names = f"{name[:-4]}*"
            short = {both_names if one == f"{name[:-4]}weight" else one: old for one, old in short.items()}
            short[both_names] = both
    return short


def _of_both(weight: Cell, bias: Cell) -> Cell | None:
    """The row of a weight and a bias that lie alike under the same names, if they do."""
    if isinstance(weight, tuple) or isinstance(bias, tuple):
        return None
    one, other = (cell if isinstance(cell, Row) else Row((cell,), None) for cell in (weight, bias))
    starred = [
        tuple(re.sub(rf"\.{leaf}$", ".*", key) for key in row.keys) for row, leaf in ((one, "weight"), (other, "bias"))
    ]
    of_bias = " ".join(word for word in (one.pattern or "").split() if word != "...")
    theirs, _, ours = of_bias.partition(" -> ")
    alike = of_bias == (other.pattern or "") or (other.pattern is None and theirs == ours)
    if starred[0] != starred[1] or not all(key.endswith(".*") for key in starred[0]) or not alike:
        return None
    return replace(one, keys=starred[0]) if one.pattern else starred[0][0]


def table_of(arch: Architecture, rows: Mapping[str, Cell]) -> Table:
    """The key table of a module of one's own that is to be like an architecture.

    It has the config rows of that architecture and none of its names of tensors.
    """
    return replace(arch.table, prefix="", weights=dict(rows), aliases={}, ignored={}, modules={})


def unused(rows: Mapping[str, Cell], names: Iterable[str], arch: Architecture, cfg: DecoderConfig) -> Iterator[str]:
    """A line for each row that makes none of these parameters of ours.

    Rows of parts that only other architectures have are left aside: one table may serve a class with options.
    """
    known = list(names)
    parts: set[str] | None = None
    for name, cell in rows.items():
        table = table_of(arch, {name: cell if isinstance(cell, str) else ""})
        if any(table.rows(one, cfg) for one in known):
            continue
        if parts is None:
            parts = {_part(one) for other in architectures() for one in _templates(architecture(other))}
        if _part(name) not in parts or name.rpartition(".")[-1] not in LEAVES:
            yield f"{name}: a row for none of the parameters of {arch.name}{nearest(name, _templates(arch))}"


def _templates(arch: Architecture) -> tuple[str, ...]:
    return (*arch.table.weights, *arch.table.tied)


def _part(name: str) -> str:
    """The module that a parameter's name is of."""
    return name.rpartition(".")[0]

"""The reference's tree beside ours: lines joined by the key table, and each join compared number by number."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from .. import port
from ..building import without_drawing
from ..files.values import same_bytes
from ..layers import Decoder
from ..layers.rotary import Rotary
from ..parity import references
from ..parity.counterparts import canonical, counterparts
from ..translate.fields import write_config
from ..translate.pattern import Layout
from ..translate.table import Table
from .subjects import Subject
from .trees import Line, folded, tree

LEGEND = (
    "= the same numbers in both, after the rearrangement of the key table, or without numbers the same function; "
    "! not the same; - no module of its own on the other side"
)
NOT_COMPARED = "; ? not compared, as it cannot be run alone"
MARKS = {
    "=": "the same in both",
    "!": "NOT the same in both",
    "-": "no module of its own on the other side",
    "?": "not compared: it cannot be run alone",
    "": "holds other parts",
}
TINY = "compared on a tiny model of the architecture with drawn weights, as its own are not here"
CLOSE = 1e-12  # of two functions in float64: the reference may compute the same in another order


@dataclass(frozen=True)
class Joined:
    """Two trees: `joins` gives for a path of ours those of theirs that do the same, the marks what became of each line.

    A mark is `=` where both hold the same numbers after the row's rearrangement, or without numbers compute the same;
    `!` where not, `?` where nobody can tell, `-` where the other side has no module of its own, and empty for what
    only holds other modules.
    """

    ours: list[Line]
    theirs: list[Line]
    joins: dict[str, list[str]]
    marks: dict[str, str]
    their_marks: dict[str, str]


def joined(subject: Subject) -> Joined:
    """A model's tree and that of transformers' model of the same config, joined by the key table and compared.

    A checkpoint's own weights are compared, or where they are not here those of a tiny loud model.

    Raises: SourceError when there is no reference to be had.
    """
    reference = _reference(subject)
    ours, theirs = list(folded(subject.model)), list(folded(reference))
    joins = _joins(subject, reference, {path: line.path for line in theirs for path in _paths(line)})
    same = _same(subject)
    marks = {line.path: _mark(line, same) if line.path in joins else _alone(line, ours) for line in ours}
    pairs = [(marks[line.path], path) for line in ours for path in joins.get(line.path, ())]
    worst = {path: mark for mark, path in sorted(pairs, key=lambda pair: "=?!".index(pair[0]))}
    their_marks = {line.path: worst[line.path] if line.path in worst else _alone(line, theirs) for line in theirs}
    return Joined(ours, theirs, joins, marks, their_marks)


def legend(marks: Iterable[str]) -> str:
    """What the marks mean."""
    return LEGEND + (NOT_COMPARED if "?" in marks else "")


def joined_rows(subject: Subject, *, depth: int | None = None) -> list[dict[str, Any]]:
    """The rows of `tree` in our order, and of each the module of transformers that the key table joins it with.

    `join` is the mark of `joined`. Raises: SourceError.
    """
    pair = joined(subject)
    rows = tree(subject.model)
    their_lines = {line.path: line for line in pair.theirs}
    rows_of_both: list[dict[str, Any]] = []
    places: list[str] = []  # the path in the reference of each of them
    for row in rows:
        others = [their_lines[path] for path in pair.joins.get(row["path"], ())]
        rows_of_both.append(row | _their_cells(others, pair.marks[row["path"]]))
        places.append(others[-1].path if others else "")
    claimed = {path for paths in pair.joins.values() for path in paths}
    for path, line in their_lines.items():
        if path not in claimed and not any(other.startswith(f"{path}.") for other in claimed):
            at = _end_of(path.rpartition(".")[0], places)
            empty = dict.fromkeys(rows[0], "") | {"depth": line.depth, "parameters": 0, "share": 0.0}
            rows_of_both.insert(at, empty | _their_cells([line], pair.their_marks[path]))
            places.insert(at, path)
    return [row for row in rows_of_both if depth is None or row["depth"] <= depth]


# --- which belong together ---


def _joins(subject: Subject, theirs: nn.Module, lines: Mapping[str, str]) -> dict[str, list[str]]:
    """Our module paths with those of the reference that hold the same tensors, or do the same without any.

    `lines` gives for every path of the reference that of the line it was folded into.
    """
    table = subject.architecture.table
    branches = {ours: [path] for ours, path in counterparts(subject.model, theirs, table).items()}
    spelling = {canonical(table, key): key for key in theirs.state_dict()}
    of_leaves = {
        name.rpartition(".")[0]: [spelling.get(key, key).rpartition(".")[0] for key in table.row(name).keys]
        for name, _ in subject.model.named_parameters(remove_duplicate=False)
    }
    ends = {path for paths in of_leaves.values() for path in paths}
    joins = {ours: paths for ours, paths in branches.items() if not ends.intersection(paths)} | of_leaves
    joins |= {name: [path] for name, path in _joined_modules(subject.model, table)}
    return {ours: [lines[path] for path in paths] for ours, paths in joins.items() if all(p in lines for p in paths)}


def _paths(line: Line) -> list[str]:
    """The path of a line, in every layer that was folded into it."""
    layer = re.search(r"(?<=\.)\d+(?=\.|$)", line.path)
    if layer is None:
        return [line.path]
    layers = range(int(layer[0]), int(layer[0]) + line.count)
    return [f"{line.path[: layer.start()]}{number}{line.path[layer.end() :]}" for number in layers]


def _alone(line: Line, lines: Iterable[Line]) -> str:
    """The mark of a line that is joined with none: `-`, but for one that only holds others."""
    return "" if any(other.path.startswith(f"{line.path}.") for other in lines) else "-"


def _their_cells(lines: list[Line], join: str) -> dict[str, Any]:
    layers = r"\.0(?=\.|$)"
    names = [re.sub(layers, f".0-{line.count - 1}", line.path) if line.count > 1 else line.path for line in lines]
    kinds = [f"{line.kind} {line.shape}".strip() for line in lines]
    return {
        "join": join,
        "theirs": " + ".join(names[:1] + [name.rpartition(".")[2] for name in names[1:]]),
        "their_kind": " + ".join(dict.fromkeys(kinds)),
    }


def _end_of(parent: str, places: list[str]) -> int:
    """Behind the last row that lies in a module of the reference, or in one around it."""
    while parent:
        inside = [at for at, path in enumerate(places) if path == parent or path.startswith(f"{parent}.")]
        if inside:
            return inside[-1] + 1
        parent = parent.rpartition(".")[0]
    return len(places)


# --- whether they hold the same ---


def _mark(line: Line, same: Mapping[str, bool | None]) -> str:
    """Whether all of a module, and of those folded with it, is the same in both."""
    inside = {same[name] for path in _paths(line) for name in same if name == path or name.startswith(f"{path}.")}
    return "!" if False in inside else "?" if None in inside else "="


def _reference(subject: Subject) -> nn.Module:
    """transformers' model of the same config, on `meta`."""
    origin = subject.plan.checkpoint.origin.hf if subject.plan else None
    hf = write_config(subject.architecture.table, subject.config, subject.architecture.name, origin)
    with torch.device("meta"), without_drawing():
        return references.of_config(hf, torch.float32)


def _same(subject: Subject) -> dict[str, bool | None]:
    """For each parameter of ours, and each joined module without any, whether transformers' own is the same."""
    arch = subject.architecture
    if subject.at_hand and subject.plan and subject.plan.checkpoint.origin.folder:
        folder = subject.plan.checkpoint.origin.folder
        reference = references.of_folder(folder, subject.dtype, "eager")
        return _compared(port.load(folder, dtype=subject.dtype), reference, arch.table)
    own = {name: getattr(subject.config, name) for name in arch.table.config}
    sizes = own | references.variants(arch)[arch.name]
    reference = references.loud(arch, sizes)
    hf = write_config(arch.table, arch.config_class(**sizes), arch.name, None)
    same = _compared(port.from_state_dict(hf, reference.state_dict()), reference, arch.table)
    # Of a tiny model there are other layers; what holds for its layers holds for the table's row.
    names = [name for name, _ in subject.model.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in _joined_modules(subject.model, arch.table)]
    return {name: _of_all({same[other] for other in _of_row(name, same)}) for name in names}


def _of_all(results: set[bool | None]) -> bool | None:
    return False if False in results else None if None in results else True


def _of_row(name: str, names: Iterable[str]) -> list[str]:
    first, *rest = name.split(".")
    if first != "blocks":
        return [other for other in names if other == name]
    return [other for other in names if other.split(".")[0] == first and other.split(".")[2:] == rest[1:]]


def _joined_modules(model: nn.Module, table: Table) -> Iterator[tuple[str, str]]:
    """Our modules without tensors, in every place where they are used, with the reference's."""
    for name, _ in model.named_modules(remove_duplicate=False):
        if path := table.module(name):
            yield name, path


def _compared(ours: Decoder, reference: nn.Module, table: Table) -> dict[str, bool | None]:
    theirs = {canonical(table, key): tensor for key, tensor in reference.state_dict().items()}
    same: dict[str, bool | None] = {}
    for name, parameter in ours.named_parameters(remove_duplicate=False):
        row = table.row(name)
        layout = Layout(row.pattern, len(row.keys), ours.config.axes)
        pieces = zip(layout.parts(parameter.detach()), row.keys, strict=True)
        same[name] = all(key in theirs and same_bytes(piece, layout.split(theirs[key])) for piece, key in pieces)
    modules = dict(reference.named_modules())
    for name, path in _joined_modules(ours, table):
        if path in modules:
            same[name] = does_the_same(ours.get_submodule(name), modules[path])
    return same


# --- whether modules without parameters do the same, by the class of ours ---


@singledispatch
@torch.no_grad()
def does_the_same(ours: nn.Module, theirs: Any) -> bool | None:
    """Whether two modules give the same numbers for the same numbers; None where they cannot be run so."""
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    try:
        return bool((ours(x) - theirs(x)).abs().max() < CLOSE)
    except Exception:  # it is somebody else's code, and may want anything
        return None


@does_the_same.register
def _(ours: nn.Dropout, theirs: Any) -> bool | None:
    return isinstance(theirs, nn.Dropout) and ours.p == theirs.p


@does_the_same.register
def _(ours: Rotary, theirs: Any) -> bool | None:
    """Whether the angles agree, of each pair or in a table of sines and cosines."""
    if isinstance(frequencies := getattr(theirs, "inv_freq", None), Tensor):
        return torch.allclose(ours.frequencies(frequencies.device), frequencies)
    if isinstance(table := getattr(theirs, "embed_positions", None), Tensor):
        rotation = ours(torch.arange(len(table), device=table.device), torch.float32)
        angles = torch.cat((rotation.sin, rotation.cos), dim=-1)
        close = max(1e-3, torch.finfo(table.dtype).eps)  # a sine far out is as exact as float32 holds its angle
        return angles.shape == table.shape and torch.allclose(angles, table.float(), rtol=0, atol=close)
    return None

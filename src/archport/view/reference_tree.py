"""The reference's tree beside ours: lines joined by the key table, and each join compared number by number."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import singledispatch
from itertools import accumulate
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
from ..registry import Architecture, architecture
from ..translate.fields import write_config
from ..translate.layout import Layout
from ..translate.table import Table
from .subjects import Subject
from .trees import Line, every, folded, tree

LEGEND = (
    "= the same numbers in both, after the rearrangement of the key table, or without numbers the same function; "
    "! not the same; - no module of its own on the other side"
)
MARKS = {
    "=": "the same in both",
    "!": "NOT the same in both",
    "-": "no module of its own on the other side",
    "?": "not compared: it cannot be run alone",
    "": "holds other parts",
}
TINY = "compared on a tiny model of the architecture with drawn weights, as its own are not here"
CLOSE = 1e-12  # of two functions in float64: the reference may compute the same in another order
SINGLE = 1e-6  # where the reference drops to float32, or writes a constant out to as many digits as that has


@dataclass(frozen=True)
class Joined:
    """Two trees: `joins` gives for a path of ours those of theirs that do the same, the marks one of MARKS a line."""

    ours: list[Line]
    theirs: list[Line]
    joins: dict[str, list[str]]
    marks: dict[str, str]
    their_marks: dict[str, str]


def joined(subject: Subject) -> Joined:
    """A model's tree and that of transformers' model of the same config, joined and compared. Raises: SourceError."""
    arch, origin = _of_transformers(subject), subject.plan.checkpoint.origin.hf if subject.plan else None
    with torch.device("meta"), without_drawing():
        reference = references.of_config(write_config(arch.table, subject.config, arch.name, origin), torch.float32)
    ours, theirs = list(folded(subject.model)), list(folded(reference))
    joins = _joins(subject, reference, {path: line.path for line in theirs for path in line.paths})
    same = _around(_same(subject))
    marks = {line.path: _mark(line, same) for line in ours if line.path in joins}
    pairs = [(marks[line], path) for line in marks for path in joins[line]]
    their_marks = {path: _worst(mark for mark, other in pairs if other == path) for _, path in pairs}
    return Joined(ours, theirs, joins, _alone(ours) | marks, _alone(theirs) | their_marks)


def legend(marks: Iterable[str]) -> str:
    """What the marks mean."""
    return LEGEND + ("; ? not compared, as it cannot be run alone" if "?" in marks else "")


def joined_rows(subject: Subject, *, depth: int | None = None) -> list[dict[str, Any]]:
    """The rows of `tree`, each with its mark and the module of transformers it is joined with. Raises: SourceError."""
    pair = joined(subject)
    rows, places = tree(subject.model), []
    their_lines = {line.path: line for line in pair.theirs}
    for row in rows:
        paths = pair.joins.get(row["path"], [])
        row |= _their_cells([their_lines[path] for path in paths], pair.marks[row["path"]])
        places.append(paths[-1] if paths else "")
    claimed = {f"{path}." for paths in pair.joins.values() for path in paths}
    for path, line in their_lines.items():
        if not any(other.startswith(f"{path}.") for other in claimed):
            at = _end_of(path.rpartition(".")[0], places)
            empty = dict.fromkeys(rows[0], "") | {"depth": line.depth, "parameters": 0, "share": 0.0}
            rows.insert(at, empty | _their_cells([line], pair.their_marks[path]))
            places.insert(at, path)
    return [row for row in rows if depth is None or row["depth"] <= depth]


def _of_transformers(subject: Subject) -> Architecture:
    """The architecture with transformers' table, also where its file is in a format of its own."""
    of_format = subject.plan is not None and subject.plan.checkpoint.origin.alone
    return architecture(subject.architecture.name) if of_format else subject.architecture


def _joins(subject: Subject, theirs: nn.Module, lines: Mapping[str, str]) -> dict[str, list[str]]:
    """Our paths with those of the reference that do the same; `lines` gives the line each is folded into."""
    table = _of_transformers(subject).table
    branches = {ours: [path] for ours, path in counterparts(subject.model, theirs, table).items()}
    spelling = {canonical(table, key): key for key in theirs.state_dict()}
    of_leaves = {
        name.rpartition(".")[0]: [
            spelling.get(key, key).rpartition(".")[0]
            for row in table.rows(name, subject.config, spelling)
            for key in row.keys
        ]
        for name, _ in subject.model.named_parameters(remove_duplicate=False)
    }
    ends = {path for paths in of_leaves.values() for path in paths}
    joins = {ours: paths for ours, paths in branches.items() if not ends.intersection(paths)} | of_leaves
    joins |= {name: [path] for name, path in _joined_modules(subject.model, table)}
    return {ours: [lines[path] for path in paths] for ours, paths in joins.items() if all(p in lines for p in paths)}


def _alone(lines: list[Line]) -> dict[str, str]:
    """The marks of lines that are joined with none: `-`, but empty for one that only holds others."""
    paths = [line.path for line in lines]
    return {path: "" if any(other.startswith(f"{path}.") for other in paths) else "-" for path in paths}


def _their_cells(lines: list[Line], join: str) -> dict[str, Any]:
    names = [line.ranged for line in lines]
    kinds = [f"{line.kind} {line.shape}".strip() for line in lines]
    return {
        "join": join,
        "theirs": " + ".join(names[:1] + [name.rpartition(".")[2] for name in names[1:]]),
        "their_kind": " + ".join(dict.fromkeys(kinds)),
    }


def _end_of(parent: str, places: list[str]) -> int:
    """Behind the last row that lies in a module of theirs, or in one around it."""
    while parent:
        inside = [at for at, path in enumerate(places) if f"{path}.".startswith(f"{parent}.")]
        if inside:
            return inside[-1] + 1
        parent = parent.rpartition(".")[0]
    return len(places)


def _around(marks: Mapping[str, str]) -> dict[str, str]:
    """The worst mark of what lies in each module, from that of each parameter, or module without any."""
    around: dict[str, str] = {}
    for name, mark in marks.items():
        for path in accumulate(name.split("."), lambda outer, inner: f"{outer}.{inner}"):
            around[path] = _worst((mark, around.get(path, "=")))
    return around


def _mark(line: Line, same: Mapping[str, str]) -> str:
    return _worst(same[path] for path in (*line.paths, every(line.path)) if path in same)


def _worst(marks: Iterable[str]) -> str:
    return min(marks, key="!?=".index, default="=")


def _same(subject: Subject) -> dict[str, str]:
    """The mark of each parameter of ours and each joined module without any; of a tiny model that of each row."""
    arch = _of_transformers(subject)
    table = arch.table
    if subject.at_hand and subject.plan and (source := subject.plan.checkpoint.origin.source):
        origin = subject.plan.checkpoint.origin
        model = port.load(source, dtype=subject.dtype, **origin.how)
        if origin.alone or origin.folder is None:
            return _compared(model, references.of_tensors(model, subject.dtype, "eager"), table)
        return _compared(model, references.of_folder(origin.folder, subject.dtype, "eager", origin.variant), table)
    given = {name: getattr(subject.config, name) for name in table.config if not subject.config.follows(name)}
    sizes = given | references.variants(arch)[arch.name]
    reference = references.loud(arch, sizes)
    hf = write_config(table, arch.config_class(**sizes), arch.name, None)
    of_rows: dict[str, str] = {}
    for name, mark in _compared(port.from_state_dict(hf, reference.state_dict()), reference, table).items():
        of_rows[every(name)] = _worst((mark, of_rows.get(every(name), "=")))
    return of_rows


def _joined_modules(model: nn.Module, table: Table) -> Iterator[tuple[str, str]]:
    """Our modules without tensors, in every place where they are used, with the reference's."""
    for name, _ in model.named_modules(remove_duplicate=False):
        if path := table.module(name):
            yield name, path


def _compared(ours: Decoder, reference: nn.Module, table: Table) -> dict[str, str]:
    theirs = {canonical(table, key): tensor for key, tensor in reference.state_dict().items()}
    same: dict[str, bool | None] = {}
    for name, parameter in ours.named_parameters(remove_duplicate=False):
        [row] = table.rows(name, ours.config, theirs)
        layout = Layout(row, ours.config.axes)
        same[name] = all(key in theirs for key in row.keys) and all(
            same_bytes(*pair) for key in row.keys for pair in layout.pairs(key, parameter.detach(), theirs[key])
        )
    modules = dict(reference.named_modules())
    for name, path in _joined_modules(ours, table):
        if path in modules:
            same[name] = does_the_same(ours.get_submodule(name), modules[path])
    return {name: {True: "=", None: "?", False: "!"}[result] for name, result in same.items()}


@singledispatch
@torch.no_grad()
def does_the_same(ours: nn.Module, theirs: Any) -> bool | None:
    """Whether two modules give the same numbers for the same numbers; None where they cannot be run so."""
    return _alike(ours, theirs, torch.linspace(-8, 8, 1001, dtype=torch.float64), CLOSE)


@does_the_same.register
@torch.no_grad()
def _(ours: nn.GELU, theirs: Any) -> bool | None:
    return _alike(ours, theirs, torch.linspace(-8, 8, 1001, dtype=torch.float64), SINGLE)


@does_the_same.register
@torch.no_grad()
def _(ours: nn.LayerNorm, theirs: Any) -> bool | None:
    rows = torch.linspace(-8, 8, 7 * math.prod(ours.normalized_shape), dtype=torch.float64).sin()
    return _alike(ours, theirs, rows.view(7, *ours.normalized_shape), SINGLE)


def _alike(ours: nn.Module, theirs: Any, x: Tensor, close: float) -> bool | None:
    try:
        return bool((ours(x) - theirs(x)).abs().max() < close)
    except Exception:  # it is somebody else's code, and may want anything
        return None


@does_the_same.register
def _(ours: nn.Dropout, theirs: Any) -> bool | None:
    return isinstance(theirs, nn.Dropout) and ours.p == theirs.p


@does_the_same.register
def _(ours: Rotary, theirs: Any) -> bool | None:
    # One for all layers, or by their type, with the attention factor beside it under a name of the same beginning.
    tables = {name: one for name, one in getattr(theirs, "_buffers", vars(theirs)).items() if name.endswith("inv_freq")}
    tables = {name: one for name, one in tables.items() if "original" not in name and isinstance(one, Tensor)}
    if tables:
        factor = 1.0 if ours.scaling is None else ours.scaling.attention_factor
        return any(
            math.isclose(getattr(theirs, name.removesuffix("inv_freq") + "attention_scaling", 1.0), factor)
            and torch.allclose(ours.frequencies(torch.zeros(1, dtype=torch.long, device=one.device)), one)
            for name, one in tables.items()
        )
    if isinstance(table := getattr(theirs, "embed_positions", None), Tensor):
        rotation = ours(torch.arange(len(table), device=table.device), torch.float32)
        angles = torch.cat((rotation.sin, rotation.cos), dim=-1)
        close = max(1e-3, torch.finfo(table.dtype).eps)  # a sine far out is as exact as float32 holds its angle
        return angles.shape == table.shape and torch.allclose(angles, table.float(), rtol=0, atol=close)
    return None

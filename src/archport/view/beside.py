"""The reference's tree beside ours: lines joined by the key table, and each join compared number by number."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .. import port
from ..config import DecoderConfig
from ..fields import write_config
from ..parity import references
from ..parity.counterparts import canonical, counterparts
from ..registry import without_drawing
from ..table import Table
from ..tree import Line, folded, tree
from .subject import Subject

LEGEND = "= the same numbers in both, after the rearrangement of the key table; ! not the same; else one side's own"
TINY = "compared on a tiny model of the architecture with drawn weights, as its own are not here"


@dataclass(frozen=True)
class Joined:
    """Two trees: `joins` gives for a path of ours those of theirs that hold the same tensors, `verdicts` what is held.

    A verdict is `=` where both hold the same numbers after the row's rearrangement, `!` where not.
    """

    ours: list[Line]
    theirs: list[Line]
    joins: dict[str, list[str]]
    verdicts: dict[str, str]


def joined(subject: Subject) -> Joined:
    """A model's tree and that of transformers' model of the same config, joined by the key table and compared.

    A checkpoint's own weights are compared, or for an architecture those of a tiny loud model.

    Raises: SourceError when there is no reference to be had.
    """
    reference = _reference(subject)
    ours, theirs = list(folded(subject.model)), list(folded(reference))
    joins = _joins(subject, reference, {line.path for line in theirs})
    held = _held(subject)
    verdicts = {line.path: _verdict(line, held) for line in ours if line.path in joins}
    return Joined(ours, theirs, joins, verdicts)


def beside(subject: Subject, *, depth: int | None = None) -> list[dict[str, Any]]:
    """The rows of `tree` in our order, and of each the module of transformers that the key table joins it with.

    `join` is the verdict of `joined`, and empty for a module of one side alone. Raises: SourceError.
    """
    pair = joined(subject)
    rows = tree(subject.model, subject.dtype)
    their_lines = {line.path: line for line in pair.theirs}
    made: list[dict[str, Any]] = []
    places: list[str] = []  # the path in the reference of each row that is made
    for row in rows:
        others = [their_lines[path] for path in pair.joins.get(row["path"], ())]
        made.append(row | _their_cells(others, pair.verdicts.get(row["path"], "")))
        places.append(others[-1].path if others else "")
    claimed = {path for row in rows for path in pair.joins.get(row["path"], ())}
    for path, line in their_lines.items():
        if path not in claimed and not any(other.startswith(f"{path}.") for other in claimed):
            at = _end_of(path.rpartition(".")[0], places)
            empty = dict.fromkeys(rows[0], "") | {"depth": line.depth, "parameters": 0, "share": 0.0}
            made.insert(at, empty | _their_cells([line], ""))
            places.insert(at, path)
    return [row for row in made if depth is None or row["depth"] <= depth]


def _joins(subject: Subject, theirs: nn.Module, known: Collection[str]) -> dict[str, list[str]]:
    """Our module paths with those of the reference that hold the same tensors: one, or the several that ours fuses."""
    table = subject.architecture.table
    found = {ours: [path] for ours, path in counterparts(subject.model, theirs, table).items()}
    spelling = {canonical(table, key): key for key in theirs.state_dict()}
    of_leaves = {
        name.rpartition(".")[0]: [spelling.get(key, key).rpartition(".")[0] for key in table.row(name).keys]
        for name, _ in subject.model.named_parameters(remove_duplicate=False)
    }
    ends = {path for paths in of_leaves.values() for path in paths}
    joins = {ours: paths for ours, paths in found.items() if not ends.intersection(paths)} | of_leaves
    return {ours: paths for ours, paths in joins.items() if all(path in known for path in paths)}


def _their_cells(lines: list[Line], join: str) -> dict[str, Any]:
    names = [
        re.sub(r"\.0(?=\.|$)", f".0-{line.count - 1}", line.path) if line.count > 1 else line.path for line in lines
    ]
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


def _verdict(line: Line, held: Mapping[str, bool]) -> str:
    """`=` where every parameter of a module, and of those folded with it, has the same numbers in both; else `!`."""
    first, *rest = line.path.split(".")
    layers = range(int(rest[0]), int(rest[0]) + line.count) if first == "blocks" and rest else [None]
    inside = [
        name
        for layer in layers
        for name in held
        if name.startswith(line.path + "." if layer is None else ".".join([first, str(layer), *rest[1:], ""]))
    ]
    return ("=" if all(held[name] for name in inside) else "!") if inside else ""


def _reference(subject: Subject) -> nn.Module:
    """transformers' model of the same config, on `meta`."""
    origin = subject.plan.checkpoint.origin.hf if subject.plan else None
    hf = write_config(subject.architecture.table, subject.config, subject.architecture.name, origin)
    with torch.device("meta"), without_drawing():
        return references.of_config(hf, torch.float32)


def _held(subject: Subject) -> dict[str, bool]:
    """For each parameter of ours, whether it is transformers' own after the rearrangement that its row says."""
    arch = subject.architecture
    if subject.plan and subject.plan.checkpoint.origin.folder and subject.plan.checkpoint.files:
        folder = subject.plan.checkpoint.origin.folder
        reference = references.of_folder(folder, subject.dtype, "eager")
        ours = port.load(folder, dtype=subject.dtype)
    else:
        sizes = next(sizes for _, sizes in references.variants(arch.name))
        reference = references.loud(arch, sizes)
        hf = write_config(arch.table, arch.config_class(**sizes), arch.name, None)
        ours = port.from_state_dict(hf, reference.state_dict())
    theirs = {canonical(arch.table, key): tensor for key, tensor in reference.state_dict().items()}
    held = {
        name: _equal(parameter, theirs, arch.table, name, ours.config)
        for name, parameter in ours.named_parameters(remove_duplicate=False)
    }
    if subject.at_hand:
        return held
    # Of a tiny model there are other layers; what holds for its first holds for the table's row.
    names = [name for name, _ in subject.model.named_parameters(remove_duplicate=False)]
    return {name: all(held[same] for same in _of_row(name, held)) for name in names}


def _of_row(name: str, held: Mapping[str, bool]) -> list[str]:
    first, *rest = name.split(".")
    if first != "blocks":
        return [name]
    return [other for other in held if other.split(".")[0] == first and other.split(".")[2:] == rest[1:]]


def _equal(ours: Tensor, theirs: Mapping[str, Tensor], table: Table, name: str, config: DecoderConfig) -> bool:
    row = table.row(name)
    if any(key not in theirs for key in row.keys):
        return False
    stacked = torch.stack([theirs[key] for key in row.keys]) if len(row.keys) > 1 else theirs[row.keys[0]]
    pattern = row.pattern or "... -> ..."
    axes = {axis: size for axis, size in config.axes.items() if axis in pattern}
    if len(row.keys) > 1:
        axes.pop("qkv", None)
    return torch.equal(ours.detach(), rearrange(stacked, pattern, **axes))

"""Filling a person's own module from a checkpoint: planned first, all faults in one error, never half."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import DecoderConfig
from ..errors import AsideWarning, MappingError, NotFiniteWarning
from ..files.hub.access import HubAccess
from ..files.values import is_finite
from ..keywords import strict_keywords
from ..load_plan import LoadPlan
from ..registry import Architecture, skeleton
from ..translate.pattern import Row
from ..translate.planning import plan as plan_tensors
from ..translate.steps import StepKind
from ..translate.table import Cell, Table
from ..translate.tensors import export_tensors
from .finding import found
from .rows import Rows, table_of, unused
from .running import require_forward
from .sources import plan_of, weights_of
from .theirs import Theirs

LEFT = ("takes it", "expected one")  # faults that follow from others


@strict_keywords
def fill(
    module: nn.Module,
    source: str | Path | nn.Module | None = None,
    rows: Mapping[str, Cell] | None = None,
    *,
    forward: Callable[[Any, Tensor], Any] | None = None,
    revision: str | None = None,
    offline: bool = False,
    variant: str | None = None,
    follow_links: bool = False,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> Rows:
    """Give a module of your own the weights of a checkpoint, by rows that say where its tensors are; they are returned.

    `source` is a folder, a Hub id, a transformers model in memory, or by default the bundled checkpoint. `rows` have
    our names of parameters on the left and the module's on the right, in the language of the key tables; without them
    they are looked for, as `find_rows` does, which may run a copy of the module by `forward(module, ids)`. Weights are
    cast to the types that the module has; parameters on meta are made; what is tied stays tied. Buffers are filled
    where a row names them. `revision` to `endpoint` are `load`'s.

    Raises: MappingError with every fault, before anything is filled, and whatever `load` raises.
    """
    require_forward(forward)
    theirs = Theirs(module)
    how: dict[str, Any] = {"offline": offline, "variant": variant, "follow_links": follow_links}
    access = HubAccess(token, cache_dir, endpoint)
    planned = plan_of(source, theirs.dtype, revision=revision, access=access, **how)
    if rows is None:
        rows = found(theirs, planned, forward, by_values=False)
    rows = rows if isinstance(rows, Rows) else Rows(rows)
    if rows.unsettled:  # a plain dict of the same is what its owner wants
        raise MappingError(rows.unsettled, f"{theirs.name}: rows", "nothing was filled")
    filling = plan_filling(theirs, planned, rows)
    for note in planned.notes:
        warnings.warn(AsideWarning(note), stacklevel=3)
    filling.execute()
    return filling.rows


@dataclass(frozen=True)
class Filling:
    """What goes where: `groups` are parameters of ours that make tensors of theirs, as few together as can be."""

    theirs: Theirs
    planned: LoadPlan
    rows: Rows
    table: Table
    groups: tuple[tuple[str, ...], ...]

    @torch.no_grad()
    def execute(self) -> None:
        """Fill the module, a group at a time; what is not finite is warned of."""
        weight = weights_of(self.planned)
        not_finite: list[str] = []
        for names in self.groups:
            ours = {name: weight(name) for name in names}
            for key, one in export_tensors(self.table, self.planned.config, ours, present=self.theirs).items():
                made = one.make()
                self.theirs.put(key, made)
                not_finite += [] if is_finite(self.theirs[key]) else [key]
            for tensor in ours.values():
                self.planned.checkpoint.release(tensor)
        if not_finite:
            warnings.warn(NotFiniteWarning(not_finite, self.theirs.name), stacklevel=4)


def plan_filling(theirs: Theirs, planned: LoadPlan, rows: Mapping[str, Cell]) -> Filling:
    """Match our parameters with their tensors. Raises: MappingError with every fault."""
    rows = Rows(rows)
    table, by_name = matched(theirs, planned.architecture, planned.config, rows)
    return Filling(theirs, planned, rows, table, tuple(_groups(by_name)))


def matched(
    theirs: Theirs, arch: Architecture, cfg: DecoderConfig, rows: Mapping[str, Cell]
) -> tuple[Table, dict[str, Row]]:
    """The table of these rows, and the row of each of our parameters. Raises: MappingError with every fault."""
    table = replace(table_of(arch, rows), tied={})
    faults: list[str] = []
    by_name: dict[str, Row] = {}
    try:
        model = _with_head(skeleton(arch, cfg), arch.table, table, cfg, theirs)
        names = [name for name, _ in model.named_parameters()]
        faults += unused(rows, [*names, *arch.table.tied], arch, cfg)
        by_name, _ = table.rows_of(names, cfg, theirs)  # whose faults are found once more
        headers = theirs.headers(key for row in by_name.values() for key in row.keys)
        faults += _shared(theirs, by_name)
        faults += [f"{name}: on meta, and no row gives it values" for name in theirs.left_empty(headers)]
        tensors = plan_tensors(table, cfg, model, headers, dtype=theirs.dtype, where=theirs.name)
        faults += [
            f"{step.keys[0]}: found {step.shape}, but no row takes it" for step in tensors.of_kind(StepKind.IGNORED)
        ]
    except MappingError as error:
        faults += error.faults
    if faults:
        faults.sort(key=lambda fault: fault.endswith(LEFT))  # what is misspelt before what lacks a row for that
        raise MappingError(faults, theirs.name, "nothing was filled")
    return table, by_name


def _with_head(model: nn.Module, whole: Table, table: Table, cfg: DecoderConfig, theirs: Theirs) -> nn.Module:
    """A skeleton whose tied parameters stand alone where a row names another tensor for them: that is filled, too."""

    def named(name: str) -> list[str]:
        return [theirs.first(key) for row in table.rows(name, cfg) for key in row.keys]

    for name, other in whole.tied.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if leaf in owner._parameters and named(name) not in ([], named(other)):
            owner.register_parameter(leaf, nn.Parameter(owner.get_parameter(leaf).detach()))
    return model


def _shared(theirs: Theirs, by_name: Mapping[str, Row]) -> Iterator[str]:
    """A line for each tensor that two rows know under two names."""
    sources: dict[str, dict[str, list[str]]] = {}
    for name, row in by_name.items():
        for key in dict.fromkeys(row.keys):
            sources.setdefault(theirs.first(key), {}).setdefault(key, []).append(name)
    for keys in sources.values():
        if len(keys) > 1:
            filled = " and with ".join(", ".join(names) for names in keys.values())
            yield f"{' and '.join(keys)}: one tensor, which the rows fill with {filled}"


def _groups(by_name: Mapping[str, Row]) -> list[tuple[str, ...]]:
    """Parameters that make the same tensors, together."""
    of_key: dict[str, list[str]] = {}
    for name, row in by_name.items():
        others = {id(group): group for group in (of_key[key] for key in row.keys if key in of_key)}
        joined = [*(one for group in others.values() for one in group), name]
        for one in joined:
            of_key |= dict.fromkeys(by_name[one].keys, joined)
    return [tuple(group) for group in {id(group): group for group in of_key.values()}.values()]

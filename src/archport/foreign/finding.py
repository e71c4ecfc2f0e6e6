"""Finding the rows of a person's own module: by values where it is filled, else by shapes and by running it."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import DecoderConfig
from ..errors import MappingError
from ..files.hub.access import HubAccess
from ..keywords import strict_keywords
from ..layers import Rotary
from ..load_plan import LoadPlan
from ..registry import Architecture, skeleton
from ..translate.pattern import TURNS
from ..translate.table import Cell
from .assigning import narrowed
from .rows import Rows, compact, table_of
from .running import CodeError, Forward, require_forward
from .searching import DIFFERS, NO_ROWS, Bugs, Search
from .sources import plan_of, weights_of
from .templates import NUMBER, Template, templates
from .theirs import Theirs
from .trial import Trial, views
from .way import STANDARD, Sides, Way
from .ways import parts
from .ways_of_qkv import patterns

KEPT_TENSORS = 8  # of ours, of which several ways are looked at one after the other

Weights = Callable[[str], Tensor]


@strict_keywords
def find_rows(
    module: nn.Module,
    source: str | Path | nn.Module | None = None,
    *,
    forward: Forward | None = None,
    revision: str | None = None,
    offline: bool = False,
    variant: str | None = None,
    follow_links: bool = False,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> Rows:
    """The rows of a module of your own that is to be like a checkpoint; `print` them to have Python to paste.

    Where the module holds the weights of the checkpoint, their values decide. Else shapes, classes and the modules that
    tensors lie in do, and of what they leave open that with which a copy of the module, given loud weights and run by
    `forward(module, ids)`, has the logits of our own model. What is still open is in `unsettled`, the likeliest taken.
    `source` and `revision` to `endpoint` are as in `fill`.

    Raises: MappingError where a parameter of ours can be none of the module's, and whatever `load` raises.
    """
    require_forward(forward)
    theirs = Theirs(module)
    how: dict[str, Any] = {"offline": offline, "variant": variant, "follow_links": follow_links}
    access = HubAccess(token, cache_dir, endpoint)
    return found(theirs, plan_of(source, "auto", revision=revision, access=access, **how), forward)


def found(
    theirs: Theirs,
    planned: LoadPlan,
    forward: Forward | None,
    *,
    by_values: bool = True,
    bugs: Bugs | None = None,
    spare: bool = False,
) -> Rows:
    """The rows of a module like a planned checkpoint. Raises: MappingError."""
    weight = lru_cache(maxsize=KEPT_TENSORS)(weights_of(planned)) if by_values else None
    return rows_like(theirs, planned.architecture, planned.config, forward, weight, bugs, spare=spare)


def holds(theirs: Theirs, planned: LoadPlan, rows: Mapping[str, Cell]) -> bool:
    """Whether a module has any matrix of a planned checkpoint where the rows say it is."""
    matrices = [str(step.name) for step in planned.mapped if len(step.shape) > 1]
    table, weight = table_of(planned.architecture, rows), weights_of(planned)

    def equal(name: str) -> bool:
        pairs = list(views(table, planned.config, [name], weight, theirs))
        return bool(pairs) and all(_same(*pair) for pair in pairs)

    return any(map(equal, matrices))


def rows_like(
    theirs: Theirs,
    arch: Architecture,
    cfg: DecoderConfig,
    forward: Forward | None,
    weights: Weights | None = None,
    bugs: Bugs | None = None,
    *,
    spare: bool = False,
) -> Rows:
    """The rows of a module like an architecture of these sizes; `weights` are those that it may hold.

    It may have tensors to `spare`, which no row takes.

    Of a module that has other logits than ours by any rows, `bugs` makes models with which it may have them in common.

    Raises: MappingError.
    """
    ours, mine = _ours(theirs, arch, cfg), _theirs(theirs, cfg)
    all_ways = parts(Sides(ours, mine, cfg.axes, patterns(arch.table, ours), _turn(arch, cfg)))
    _require_ways(ours, mine, all_ways, theirs.name, cfg.layers)
    decided = False
    if weights is not None:
        by_values = _of_equal_values(all_ways, theirs, arch, cfg, weights)
        all_ways = [equal or ways for equal, ways in zip(by_values, all_ways, strict=True)]
        decided = all(by_values)
    search = Search(narrowed(all_ways), theirs, arch, cfg, forward, bugs)
    chosen, unsettled = search.settled(decided=decided)
    rows = {name: cell for way in chosen for name, cell in way.rows.items()}
    taken = {name for way in chosen for name in way.takes}
    if (left := [f"{one.name} {one.shape}" for one in mine if one.name not in taken]) and not spare:
        raise MappingError([f"{one}: no parameter of {arch.name} is like it" for one in left], theirs.name, NO_ROWS)
    in_order = {one.name: rows[one.name] for one in ours if one.name in rows}
    return Rows(compact(in_order), unsettled)


def differing(theirs: Theirs, arch: Architecture, cfg: DecoderConfig, rows: Rows, forward: Forward | None) -> list[str]:
    """A line where a module filled by these rows has other logits than our model, or none."""
    table = table_of(arch, rows)
    try:
        trial = Trial(theirs, arch, cfg, forward)
        same = trial.apart([rows], [name for name in trial.loud if table.rows(name, cfg)]) <= 1
    except CodeError as error:
        return [f"not run: {error}"]
    return [] if same else [DIFFERS]


def _ours(theirs: Theirs, arch: Architecture, cfg: DecoderConfig) -> list[Template]:
    """Our parameters; a tied head only where the module has one beside its embedding."""
    model = skeleton(arch, cfg)
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters(remove_duplicate=False)}
    once = {name for name, _ in model.named_parameters()}
    for name in shapes.keys() - once:
        size = sorted(shapes[name])
        needed = sum(sorted(shapes[one]) == size for one in once)
        if sum(sorted(one.shape) == size for one in theirs.parameters.values()) <= needed:
            del shapes[name]
    return templates(shapes, cfg.layers, cfg.axes.get("e"), _kinds(model))


def _turn(arch: Architecture, cfg: DecoderConfig) -> str | None:
    """How rotary pairs come to lie as ours do, from the other way; None where there are none."""
    pairings = {part.pairing for part in skeleton(arch, cfg).modules() if isinstance(part, Rotary)}
    return TURNS[pairings == {"neighbours"}] if pairings and "rotary" in cfg.axes else None


def _theirs(theirs: Theirs, cfg: DecoderConfig) -> list[Template]:
    shapes = {name: tuple(one.shape) for name, one in theirs.parameters.items()}
    kinds = _kinds(theirs.module)
    # A head that is the token vectors may come before them.
    tied = {first: kinds[name] for name, first in theirs.aliases.items() if kinds.get(name) == nn.Embedding.__name__}
    return templates(shapes, cfg.layers, cfg.axes.get("e"), kinds | tied)


def _kinds(model: nn.Module) -> dict[str, str]:
    """The class of the module that has a tensor; a class of one's own that is one of torch's is that."""
    kinds: dict[str, str] = {}
    for path, module in model.named_modules():
        kind = next((one.__name__ for one in STANDARD if isinstance(module, one)), "")
        kinds |= {f"{path}.{leaf}".removeprefix("."): kind for leaf in module._parameters}
    return kinds


def _of_count(mine: Sequence[Template], layers: int) -> list[str]:
    """A line where the module has blocks, but not as many as there are layers."""
    numbers: dict[str, set[int]] = {}  # behind a beginning
    for one in mine:
        if number := NUMBER.search(one.name):
            numbers.setdefault(one.name[: number.start()], set()).add(int(number[0]))
    most = max(numbers, key=lambda name: sum(one.name.startswith(name) for one in mine), default="")
    count = len(numbers.get(most, ()))
    if not most or count == layers or numbers[most] != set(range(count)):
        return []
    return [f"{most.rstrip('._')}: found {count} block{'s' * (count > 1)}, expected {layers}"]


def _require_ways(
    ours: Sequence[Template], mine: Sequence[Template], ways: Sequence[Any], where: str, layers: int
) -> None:
    """Raises: MappingError with each part of ours that can be none of theirs."""
    made = {name for part in ways for way in part for name in way.rows}
    faults = [f"{one.name} {one.shape}: no tensor of the module is like it" for one in ours if one.name not in made]
    if faults:
        shapes = ", ".join(f"{one.name} {one.shape}" for one in mine)
        raise MappingError([*_of_count(mine, layers), *faults, f"the module has {shapes}"], where, NO_ROWS)


def _of_equal_values(
    all_ways: Sequence[Sequence[Way]], theirs: Theirs, arch: Architecture, cfg: DecoderConfig, weights: Weights
) -> list[list[Way]]:
    """Of each part the ways by which tensors are equal; none of any, for a module that holds other weights."""
    names = [name for name, _ in skeleton(arch, cfg).named_parameters(remove_duplicate=False)]

    def equal(way: Way) -> bool:
        pairs = views(table_of(arch, way.rows), cfg, names, weights, theirs)
        return all(_same(*pair) for pair in pairs)

    by_values = [[way for way in ways if equal(way)] for ways in all_ways]
    matrices = any(len(key.shape) > 1 for ways in by_values for way in ways for key in way.keys)
    return by_values if matrices else [[] for _ in by_values]


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether one is the other, perhaps rounded to its type."""
    ours = ours.to(theirs.device)
    return torch.equal(ours.to(theirs.dtype), theirs) or torch.equal(ours, theirs.to(ours.dtype))

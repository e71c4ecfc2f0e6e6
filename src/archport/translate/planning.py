"""What a load will do, planned from a checkpoint's headers before a byte is read."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache

import torch
from torch import nn

from ..config import DecoderConfig
from ..errors import MappingError
from ..files.header import Header
from .layout import Layout
from .leftovers import left_over
from .pattern import Row
from .steps import Plan, StepKind, TensorStep
from .table import Table

MAX_PAIRS = 100_000  # of unknown and missing keys that are compared for hints
UNTIED = ": a base model has no head, and the config does not tie it to the embedding"
BESIDE = "beside a complete language model, which does not use it"


def plan(
    table: Table,
    cfg: DecoderConfig,
    model: nn.Module,
    headers: Mapping[str, Header],
    *,
    dtype: torch.dtype,
    where: str,
    without_biases: bool = False,
) -> Plan:
    """Match a checkpoint's headers with a model's parameters, which may be on `meta`.

    A file `without_biases` makes those of ours zeros.

    Where a tied model's file has only the head, that is its embedding too; a module of its own at the top, as the head
    of a reward model, is left aside if nothing else is wrong.

    Raises: MappingError with every fault, unless each parameter is made exactly once and each key is explained.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    present = {meaning for key in headers for meaning in table.canonical(key)}
    tied = [name for name in table.tied if name not in shapes and table.rows(name, cfg)]
    every = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    extra = table.beside(every)
    rows, faults = table.rows_of([*shapes, *tied, *extra], cfg, present)
    faults += left_over(rows, cfg.axes)
    spare = {name for name in extra if name in rows and present.issuperset(rows[name].keys)}
    made = [*shapes, *sorted(spare, key=_natural)]
    wanted = {key for name in made if name in rows for key in rows[name].keys}
    ties = {rows[name].keys[0]: name for name in table.tied if name not in shapes and name in rows}
    spellings = _spellings(table, wanted | ties.keys(), headers, faults)
    heads = [key for key in spellings if key in ties or ("head.weight" in rows and key in rows["head.weight"].keys)]
    notes = []
    for head, name in ties.items():
        embedding = rows[table.tied[name]].keys[0] if table.tied[name] in rows else head
        if head in spellings and embedding not in spellings:
            spellings[embedding] = spellings.pop(head)
            notes.append(f"{spellings[embedding]} taken for {embedding} too, which is not there: the config ties them")
    unclaimed = [theirs for key, theirs in spellings.items() if key not in wanted]
    absent = [key for key in wanted if key not in spellings]
    if len(unclaimed) * len(absent) > MAX_PAIRS:
        unclaimed, absent = [], []

    steps: list[TensorStep] = []
    for name in made:
        if name not in rows:
            continue
        row, shape = rows[name], shapes[name] if name in shapes else extra[name]
        keys = tuple(dict.fromkeys(row.keys))
        missing = [key for key in keys if key not in spellings]
        if missing == [*keys] and without_biases and name.endswith(".bias"):
            steps.append(TensorStep(StepKind.ABSENT, name, (), shape, dtype, dtype))
            continue
        hints = {key: nearest(key, unclaimed) or (UNTIED if name in table.tied else "") for key in missing}
        faults += [f"{key}: missing, expected for {name} {shape}{hint}" for key, hint in hints.items()]
        if not missing:
            step_keys = tuple(spellings[key] for key in row.keys)
            theirs = {key: headers[key] for key in step_keys}
            own = list(_header_faults(name, shape, theirs, replace(row, keys=step_keys), cfg.axes))
            faults += own
            casts = any(header.dtype != dtype for header in theirs.values())
            kind = _kind(row, shape, tuple(cfg.axes.items()), casts=casts) if not own else StepKind.CAST
            kind = StepKind.SPARE if name in spare else kind
            steps.append(TensorStep(kind, name, step_keys, shape, headers[step_keys[0]].dtype, dtype, row.pattern))
    unused = {key: theirs for key, theirs in spellings.items() if key not in wanted}
    steps += _unused(table, ties, unused, headers, dtype, absent, faults)
    if faults:
        raise MappingError(sorted(faults, key=_natural), where)
    beside = [step.keys[0] for step in steps if step.why == BESIDE]
    if beside:
        more = f" and {len(beside) - 3} more" if len(beside) > 3 else ""
        notes.append(f"{', '.join(beside[:3])}{more} left aside, {BESIDE}")
    return Plan(tuple(steps), cfg.axes, dtype, bool(heads), tuple(notes))


def _unused(
    table: Table,
    ties: Mapping[str, str],
    unused: Mapping[str, str],
    headers: Mapping[str, Header],
    dtype: torch.dtype,
    absent: Sequence[str],
    faults: list[str],
) -> Iterator[TensorStep]:
    """The steps of tensors that make no parameter: tied, ignored for a reason, or else a fault."""
    complete = not faults
    for key, theirs in unused.items():
        header, why = headers[theirs], table.reason(key)
        if why is None and complete and not table.within(key):
            why = BESIDE
        if key in ties:
            why = "if it equals the embedding, else the model is untied"
            yield TensorStep(StepKind.TIED, ties[key], (theirs,), *header, dtype, why=why)
        elif why is not None:
            yield TensorStep(StepKind.IGNORED, None, (theirs,), *header, header.dtype, why=why)
        else:
            faults.append(f"{theirs}: found {header.shape}, but no parameter takes it{nearest(key, absent)}")


@cache
def _kind(row: Row, shape: tuple[int, ...], axes: tuple[tuple[str, int], ...], *, casts: bool) -> StepKind:
    if row.pattern is None:
        return StepKind.CAST if casts else StepKind.IN_PLACE
    layout = Layout(row, dict(axes))
    theirs = torch.empty(layout.their_shape(row.keys[0], shape), device="meta")
    view = layout.view(theirs, shape)
    if view is None:
        return StepKind.REARRANGED_CAST if casts else StepKind.REARRANGED
    if casts:
        return StepKind.CAST
    return StepKind.IN_PLACE if view.is_contiguous() else StepKind.TRANSPOSED


def _spellings(table: Table, known: Collection[str], keys: Iterable[str], faults: list[str]) -> dict[str, str]:
    """Each canonical key with the file's own spelling of it; an unknown key stands for itself."""
    spellings: dict[str, str] = {}
    for key in keys:
        meanings = [c for c in table.canonical(key) if c in known or table.reason(c) is not None]
        canonical = meanings[0] if meanings else key
        if canonical in spellings:
            faults.append(f"{key}: found beside {spellings[canonical]}, which means the same")
        else:
            spellings[canonical] = key
    return spellings


def _header_faults(
    name: str, shape: tuple[int, ...], headers: Mapping[str, Header], row: Row, axes: Mapping[str, int]
) -> Iterator[str]:
    layout = Layout(row, axes)
    for key, header in headers.items():
        try:
            expected = layout.their_shape(key, shape) if row.pattern else shape
        except MappingError as error:
            yield f"{name}: {error.faults[0]}"
            return
        if header.shape != expected:
            yield f"{key}: found {header.shape}, expected {expected} for {name} {shape}"
        if not header.dtype.is_floating_point:
            yield f"{key}: found {header.dtype}, expected a floating-point type for {name}"


def nearest(key: str, candidates: Iterable[str]) -> str:
    """The likeliest misspelling of a name among those of the same layer, as a hint; empty when none is close."""
    layer = re.findall(r"\d+", key)
    close = get_close_matches(key, [other for other in candidates if re.findall(r"\d+", other) == layer], n=1)
    return f"; nearest: {close[0]}" if close else ""


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]

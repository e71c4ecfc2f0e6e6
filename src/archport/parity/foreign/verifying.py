"""Verify a person's own module: first its weights, then its code, then both together."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from ...config import dtype_name
from ...foreign.rows import table_of
from ...registry import Architecture
from ...translate.table import Cell
from ..budget import Check, hold
from ..compare import Comparison
from ..diagnose import Diagnosis
from ..outputs import logits
from ..report import Report
from ..running import RaisedError
from .code import Code, Line
from .locating import TIMES
from .theirs import Forward
from .weights import Weights, differences, read

NOT_RUN = ("cache", "padding", "generation", "gradients", "export")


def verify_module(
    module: nn.Module,
    comparison: Comparison,
    arch: Architecture,
    rows: Mapping[str, Cell],
    forward: Forward | None = None,
) -> Report:
    """Hold a person's module against a reference of an architecture, through the rows that say where its tensors are.

    Raises: MappingError for rows that do not fit.
    """
    weights = read(module, replace(arch, table=table_of(arch, rows)), comparison.clean.config)
    code = Code(module, forward, weights, comparison.ids)
    whole, against = type(module).__name__, comparison.clean.architecture
    checks, fault = _of_weights(weights, comparison)
    problems: list[str] = []
    try:
        lines, cause = _of_code(code, whole, against)
        checks += lines
        if cause is not None and (fault is None or cause.fault is not None):
            fault = cause
        checks += _of_both(code, comparison)
    except RaisedError as error:
        problems.append(str(error))
    notes = ["train mode, in which it was handed over"] if module.training else []
    if problems or not all(check.ok for check in checks):  # where all agrees, they do nothing
        problems += [f"{name}: no row takes it" for name in weights.extra if weights.named[name].any()]
    elif weights.extra:
        notes.append(f"{len(weights.extra)} parameters that no row takes, as {weights.extra[0]}")
    left_out = (*code.not_run, *notes, *NOT_RUN)
    dtype = dtype_name(comparison.dtype)
    described = comparison.described
    return Report(whole, described, dtype, tuple(checks), fault, tuple(problems), not_run=left_out)


def _of_weights(weights: Weights, comparison: Comparison) -> tuple[list[Check], Diagnosis | None]:
    right = dict(comparison.clean.named_parameters(remove_duplicate=False))
    differ = list(differences(weights, right))
    count = len({key for keys in weights.keys.values() for key in keys})
    note = f"{count} tensors, " + (f"{len(differ)} of them different" if differ else "the checkpoint's")
    check = Check("weights", float(len(differ)), 0.0, 0.0, differ[0].key if differ else "", note)
    if not differ:
        return [check], None
    words = "; ".join(f"{one.key} {one.words}" for one in differ[:3])
    more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
    return [check], Diagnosis(differ[0].key, None, f"{words}{more}")


def _of_code(code: Code, whole: str, against: str) -> tuple[list[Check], Diagnosis | None]:
    lines = list(code.lines())
    off = [line for line in lines if not line.check.ok]
    if not off:
        return [line.check for line in lines], None
    cause = code.cause(off[0], whole, against)
    if (cause is None or cause.fault is None) and all(line.error <= TIMES * line.own for line in off):
        return [_to_rounding(line) if line in off else line.check for line in lines], None
    return [line.check for line in lines], cause


def _to_rounding(line: Line) -> Check:
    """The line of a module that rounds inside a run in float64, by as much as its own dtype does."""
    return replace(line.check, budget=TIMES * line.own, note=f"{line.check.note}, to its own dtype's rounding")


def _of_both(code: Code, comparison: Comparison) -> list[Check]:
    checks = []
    for name, ids in comparison.ids.items():
        if any(line.startswith(f"{name}: ") for line in code.not_run):
            continue
        theirs = code.theirs.run(ids)
        last = -theirs.shape[1]
        reference, exact = (logits(model, ids)[:, last:] for model in (comparison.reference, comparison.exact))
        checks.append(hold(f"logits, {name}", theirs, reference, exact, comparison.dtype))
    return checks

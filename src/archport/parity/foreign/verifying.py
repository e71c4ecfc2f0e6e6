"""Verify a person's own module: first its weights, then its code, then both together."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...config import dtype_name
from ...errors import SourceError
from ...foreign.rows import table_of
from ...foreign.running import Forward
from ...foreign.theirs import unwrapped
from ...layers import Decoder
from ...registry import architecture
from ...translate.table import Cell
from ..budget import Check, hold
from ..catalogue import faults_for
from ..compare import Comparison
from ..counterparts import counterparts
from ..diagnose import Diagnosis
from ..locate import EPS, relative_error
from ..outputs import logits, with_parameters
from ..report import Report
from ..running import RaisedError
from ..settings import not_finite
from .cause import cause
from .code import Code, Line
from .gradients import gradients
from .naming import explained_weights
from .own_dtype import rounding, rounds_in, unsteady
from .weights import Weights, differences, read
from .wording import Places
from .wording import named as in_their_words

NOT_RUN = ("cache", "padding", "generation", "export")
SHOWN = 3  # tensors in a line
NOISE = "makes other numbers in each run, as dropout does that is on in eval mode"


def verify_module(
    module: nn.Module,
    comparison: Comparison,
    rows: Mapping[str, Cell],
    forward: Forward | None = None,
) -> Report:
    """Hold a person's module against a reference, through the rows that say where its tensors are.

    Raises: MappingError for rows that do not fit, SourceError for a module that has no values.
    """
    module, device = unwrapped(module), comparison.short.device
    if empty := [name for name, one in module.named_parameters() if one.is_meta]:
        raise SourceError(f"{type(module).__name__}: {empty[0]} is on meta and has no values")
    arch = architecture(comparison.clean.architecture)
    weights = read(module, replace(arch, table=table_of(arch, rows)), comparison.clean.config)
    whole, against = type(module).__name__, comparison.clean.architecture
    places = Places(weights, counterparts(weights.port, module, weights.table), whole)
    check, fault = _of_weights(weights, comparison.clean, places)
    checks = [check]
    tensors = ((key, weights.named[key]) for keys in weights.keys.values() for key in keys)
    problems = [one.words for one in not_finite(tensors)]
    if weights.untied:
        problems.append(own := f"{weights.untied}: in yours the head has weights of its own; {against} ties it")
        [untied] = [one for one in faults_for(against) if one.name == "head untied"]
        fault = Diagnosis(weights.untied, untied, own)
    weights.port.to(device)
    code = Code(module, forward, weights, comparison.ids)
    not_run = ["train mode, in which it was handed over"] if module.training else []
    try:
        lines = list(code.lines())
        place = unsteady(code, lines[0].ids)
        lines, behind = _with_cause(code, lines, places, against) if place is None else (lines, None)
        checks += [line.check for line in lines] + _of_both(lines, comparison)
        rounded = _of_rounding(code, lines, comparison, place is None)
        checks += [rounded] if rounded else []
        if any(line.theirs.shape[1] < line.ids.shape[1] for line in lines):
            not_run.append("logits of tokens before the last, which it does not give")
        if place is not None:
            problems.append(noise := f"{place or whole} {NOISE}")
            fault = Diagnosis(place or whole, None, noise)
        elif behind is not None:
            problems += [fault.words] if fault and behind.fault is not None else []
            fault = behind if fault is None or behind.fault is not None else fault
        else:
            last, why_not = _of_gradients(code, lines[0])
            checks += [last] if last else []
            not_run += [why_not] if why_not else []
            if rounded and not rounded.ok:
                fault = fault or _rounding_too_far(code, lines, rounded, whole)
            fault = fault or (_detached(last.part) if last and not last.ok else None)
            fault = fault or (_of_dtype(code, comparison, whole) if not all(check.ok for check in checks) else None)
    except RaisedError as error:
        problems.append(str(error))
        fault = Diagnosis(error.where, None, f"{error}, so nothing after it was run")
    notes: list[str] = []
    if problems or not all(check.ok for check in checks):  # where all agrees, they do nothing
        problems += [f"{name}: no row takes it" for name in weights.extra if weights.named[name].any()]
    elif weights.extra:
        notes.append(f"{len(weights.extra)} parameters that no row takes, as {weights.extra[0]}")
    return Report(
        whole,
        comparison.described,
        dtype_name(comparison.dtype),
        tuple(checks),
        fault,
        tuple(problems),
        not_run=(*code.not_run, *not_run, *NOT_RUN),
        notes=tuple(notes),
    )


def _of_weights(weights: Weights, clean: Decoder, places: Places) -> tuple[Check, Diagnosis | None]:
    """How many tensors are not the checkpoint's, and what became of them."""
    differ = {one.key: one for one in differences(weights, clean)}
    count = len({key for keys in weights.keys.values() for key in keys})
    note = f"{count} tensors, " + (f"{len(differ)} of them different" if differ else "the checkpoint's")
    check = Check("weights", float(len(differ)), 0.0, 0.0, next(iter(differ), ""), note)
    if not differ:
        return check, None
    names = [name for name, keys in weights.keys.items() if differ.keys() & set(keys)]
    named = explained_weights(clean, lambda guess: not any(differences(weights, guess)), names)
    if named is not None:
        return check, in_their_words([named], places, "the checkpoint")
    words = "; ".join(f"{one.key} {one.words}" for one in [*differ.values()][:SHOWN])
    more = f"; and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
    return check, Diagnosis(next(iter(differ)), None, f"weights: {words}{more}")


def _with_cause(code: Code, lines: list[Line], places: Places, against: str) -> tuple[list[Line], Diagnosis | None]:
    """The lines, and what is behind those that are off.

    Where nothing that is known is and float32 could not tell, a constant has not all its digits: that is no difference.
    """
    off = [line for line in lines if not line.check.ok]
    if not off:
        return lines, None
    behind = cause(code, off[0], places, against)
    if behind.fault is None and all(line.error <= EPS for line in off):
        return [replace(line, limit=max(line.limit, EPS)) for line in lines], None
    return lines, behind


def _of_gradients(code: Code, line: Line) -> tuple[Check | None, str]:
    """The line of gradients, or why there is none: a module that only goes forward is no other model."""
    try:
        check = gradients(code, line)
    except RaisedError as error:
        return None, f"gradients, as {error}"
    return check, "" if check else "gradients, of which its logits carry none"


def _of_rounding(code: Code, lines: list[Line], comparison: Comparison, steady: bool) -> Check | None:
    """How much their own dtype rounds, beside the reference in it; None where no number says how much it may."""
    if not steady or code.dtype == torch.float64 or (comparison.chooses and code.dtype != torch.float32):
        return None
    reference = comparison.reference
    if code.dtype != comparison.dtype:
        reference = with_parameters(reference, code.dtype)
    exact = with_parameters(comparison.reference, torch.float64)

    def off(ids: Tensor) -> float:
        return relative_error(logits(reference, ids), logits(exact, ids))

    return rounding(code, lines, off)


def _rounding_too_far(code: Code, lines: list[Line], check: Check, whole: str) -> Diagnosis:
    line = next(one for one in lines if one.on == check.part)
    place = rounds_in(code, line, check.budget) or whole
    off = f"{check.port_error:.1e} off its own float64 self, the reference {check.reference_error:.1e}"
    words = f"{place}: in {dtype_name(code.dtype)} it is {off}: it rounds further, or overflows, as half precision does"
    return Diagnosis(place, None, words)


def _of_dtype(code: Code, comparison: Comparison, whole: str) -> Diagnosis | None:
    """Its weights are the checkpoint's, rounded to its own dtype, which the comparison's is finer than."""
    if torch.finfo(code.dtype).eps <= torch.finfo(comparison.dtype).eps:
        return None
    own, asked = dtype_name(code.dtype), dtype_name(comparison.dtype)
    words = f"{whole}: its weights are {own}, and {asked} is asked for: dtype={own!r} allows what {own} rounds"
    return Diagnosis(whole, None, words)


def _detached(key: str) -> Diagnosis:
    words = f"{key}: its gradient is another, though all logits agree: something is detached, or computed without one"
    return Diagnosis(key, None, words)


def _of_both(lines: list[Line], comparison: Comparison) -> list[Check]:
    """Their logits in float64 against the reference's, held to its own error."""
    checks = []
    for line in lines:
        seq = line.theirs.shape[1]
        reference, exact = (logits(model, line.ids)[:, -seq:] for model in (comparison.reference, comparison.exact))
        checks.append(hold(f"logits, {line.on}", line.theirs, reference, exact, comparison.dtype))
    return checks

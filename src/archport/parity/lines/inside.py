"""Lines about what is inside: every module alone, own classes without rounding, and the residual stream."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import Decoder
from ...observing import hooked
from ..boundaries import with_boundaries_of
from ..budget import Check, by_severity, hold
from ..compare import Comparison
from ..counterparts import first_tensor
from ..locate import DECODER, EPS, Finding, Trace, findings
from ..outputs import outputs
from ..running import run
from ..widened import widened

OWN = "own classes, without rounding"


def modules(comparison: Comparison, port: Decoder) -> Check:
    """Each module alone, given the reference's own input."""
    reference = comparison.trace(port)
    compared = comparison.findings(port, reference)
    worst = max(compared, key=lambda finding: (finding.differs, finding.error / finding.limit))
    elsewhere = len(reference.another_boundary)
    note = f"{len(comparison.pairs)} fed the reference's input, float64"
    note += f"; {elsewhere} with another boundary" if elsewhere else ""
    return Check("modules, one by one", worst.error, 0.0, worst.limit, worst.module, note)


def own_classes(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    """Classes that the port has for itself beside archport's, in float64 throughout, where there are any.

    The reference drops to float32 in places, and so may they; their constants may not be off by more than that rounds.
    """
    own = comparison.own(port)
    if not own:
        return
    with widened():
        right = traced(comparison.clean, comparison.short)
        wide = copy.deepcopy(port).to(torch.float64)
        compared = findings(wide, with_boundaries_of(wide, right, comparison.short), comparison.short)
    held = [(finding, _limit(finding, own, port, comparison.short)) for finding in compared]
    rows = [
        Check(OWN, one.error, 0.0, limit, one.place, f"{len(own)} modules, float64") for one, limit in held if limit
    ]
    if wrong := [row for row in rows if not row.ok]:
        yield wrong[0]
    elif rows:
        yield max(rows, key=by_severity)


def _limit(finding: Finding, own: list[str], port: Decoder, ids: Tensor) -> float:
    """What numbers that are kept in float32 may be off by; angles that they are multiplied to, that many times more."""
    at = next((name for name in own if f"{finding.place}.".startswith(f"{name}.")), None)
    if at is None:
        return 0.0
    parts = list(port.get_submodule(at).modules())
    values = [value for part in parts for value in (*vars(part).values(), *vars(type(part)).values())]
    keeps = any(isinstance(value, Tensor) for value in values) or any(True for _ in port.get_submodule(at).buffers())
    return 2 * EPS * (ids.shape[-1] if keeps else 1)


@torch.no_grad()
def traced(model: Decoder, ids: Tensor) -> Trace:
    """What archport's own modules take and give."""
    inputs: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}

    def before(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[name] = _copy(first_tensor(args or kwargs))

    def after(name: str, _: nn.Module, __: Any, ___: Any, result: Any) -> None:
        if isinstance(result, Tensor):
            made[name] = result.clone()
        else:  # angles, which are no stream
            del inputs[name]

    with hooked({name: module for name, module in model.named_modules() if name}, before=before, after=after):
        made[DECODER] = run(model, ids)
    return Trace(inputs, made, {})


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def stream(comparison: Comparison, port: Decoder) -> Check:
    """The residual stream after every block."""
    elsewhere = comparison.short_trace.another_boundary
    blocks = [
        name
        for name in comparison.pairs
        if name.startswith("blocks.") and name.count(".") == 1 and name not in elsewhere
    ]
    paths = [comparison.pairs[name] for name in blocks]
    ours, exact = outputs(port, blocks, comparison.short), outputs(comparison.exact, paths, comparison.short)

    def line(reference: nn.Module) -> Check:
        rows = zip(blocks, ours, outputs(reference, paths, comparison.short), exact, strict=False)
        missing = [Check("residual stream", math.inf, 0.0, 0.0, name) for name in blocks[len(ours) :]]
        held = [hold("residual stream", a, b, c, comparison.dtype, name) for name, a, b, c in rows]
        return max([*missing, *held], key=by_severity)

    return comparison.held(line)

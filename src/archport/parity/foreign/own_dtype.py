"""A person's module in the dtype that it is in: does it make the same numbers again, and how far does it round?"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...config import dtype_name
from ...foreign.running import tensors_in
from ...observing import hooked
from ..budget import Check, by_severity
from ..locate import relative_error
from .code import Code, Line
from .locating import TIMES
from .passes import Passes, named


@torch.no_grad()
def unsteady(code: Code, ids: Tensor) -> str | None:
    """The first of their modules that makes other numbers in the next run of the same, if there is one."""
    (given, made), (given_again, made_again) = _ran(code.own, ids), _ran(code.own, ids)
    for name, result in made.items():
        if not _equal(given[name], given_again.get(name, [])):
            return name.rpartition(".")[0]
        if not _equal(result, made_again.get(name, [])):
            return name
    return None


def rounding(code: Code, lines: Sequence[Line], reference: Callable[[Tensor], float]) -> Check:
    """How far they are from their float64 selves in the dtype that they are in, relative, for the worst of lines.

    `reference` says how far off another module of that dtype is, on some ids.
    """
    checks = []
    for line in lines:
        theirs = reference(line.ids)
        limit = TIMES * (theirs + torch.finfo(code.dtype).eps)
        note = f"{dtype_name(code.dtype)}, against your float64"
        checks.append(Check("rounding", line.own, theirs, limit, line.on, note))
    return max(checks, key=by_severity)


@torch.no_grad()
def rounds_in(code: Code, line: Line, limit: float) -> str:
    """The first of their modules that makes other numbers in their own dtype than in float64, "" for the whole."""
    with line.mode():
        exact = _ran(code.theirs, line.ids)
    (given, made), (given_exactly, made_exactly) = _ran(code.own, line.ids), exact
    for name, ones in made.items():
        if not _error(ones, made_exactly.get(name, [])) <= limit:
            is_given_right = _error(given[name], given_exactly.get(name, [])) <= limit
            return name if is_given_right else name.rpartition(".")[0]
    return ""


def _ran(passes: Passes, ids: Tensor) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """What each of their modules is given and makes, in the order in which they are done."""
    given: dict[str, list[Tensor]] = {"": []}
    made: dict[str, list[Tensor]] = {}

    def before(name: str, _: nn.Module, args: object, kwargs: object) -> None:
        given[name] = [one.clone() for one in tensors_in((args, kwargs))]

    def after(name: str, _: nn.Module, __: object, ___: object, result: object) -> None:
        made[name] = [one.clone() for one in tensors_in(result)]

    with hooked(named(passes.module), before=before, after=after):
        made[""] = [passes.run(ids)]
    return given, made


def _error(some: list[Tensor], others: list[Tensor]) -> float:
    """How far apart two lists of tensors are; a NaN is infinitely far."""
    errors = [relative_error(one, other) for one, other in zip(some, others, strict=False)]
    return max((float("inf") if math.isnan(error) else error for error in errors), default=0.0)


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal; NaN equals itself."""
    pairs = zip(some, others, strict=False)
    return len(some) == len(others) and all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)

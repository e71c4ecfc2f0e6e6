"""Is the code the same? A person's module in float64 against our port of its own weights, as a whole, then by parts."""

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...config import dtype_name
from ...foreign.running import Forward, tensors_in
from ...layers import Decoder, Experts
from ...observing import hooked
from ..budget import Check, by_severity
from ..diagnose import Diagnosis
from ..locate import EPS, relative_error
from ..outputs import logits
from ..running import RaisedError
from ..widened import widened
from . import wording
from .locating import BLOCK, TIGHT, TIMES, Finding, compared, drawn_as_theirs, is_like_a_norm, limits, loosened, traced
from .naming import Named, explained, planted
from .passes import Passes, named, nudged
from .tapping import Trace
from .weights import Weights

Rounds = Callable[[Tensor], float]
Mode = Callable[[], AbstractContextManager[None]]
MODES: tuple[Mode, ...] = (nullcontext, widened)
SHORT = 24  # tokens that are looked at part by part
DEPTH = 3  # names of what is inside a part of a block
FEW = 8  # tokens, for a module that takes no more
SMALL, SMOOTH = 1e-13, 1e-9  # a change of a weight, relative, and what logits change by where nothing rounds
NOTE = "float64, against archport's port of your weights"


@dataclass(frozen=True)
class Line:
    """One set of ids: how far their logits are from ours, relative, what they may be, and how they were made."""

    on: str
    error: float
    limit: float
    mode: Mode
    own: float  # what their own dtype rounds
    theirs: Tensor
    ids: Tensor

    @property
    def check(self) -> Check:
        """The line of a report."""
        return Check(f"code, {self.on}", self.error, 0.0, self.limit, note=NOTE)


class Code:
    """A person's module beside our port of its weights, on sets of ids."""

    def __init__(self, module: nn.Module, forward: Forward | None, weights: Weights, ids: Mapping[str, Tensor]) -> None:
        vocab = weights.config.vocab_size
        self.weights, self.port, self.ids = weights, weights.port, ids
        self.theirs = Passes(module, forward, vocab, dtype=torch.float64, device=self.port.device)
        self.own = Passes(module, forward, vocab, device=self.port.device)
        kinds = {one.dtype for one in self.own.module.parameters() if one.is_floating_point()}
        self.dtype = max(kinds, key=lambda dtype: torch.finfo(dtype).eps)
        self.not_run: list[str] = []

    @torch.no_grad()
    def lines(self) -> Iterator[Line]:
        """One for each set of ids that they take; the ids that they refuse are in `not_run`. Raises: RaisedError."""
        refused: list[RaisedError] = []
        ran = False
        for name, ids in self.ids.items():
            line = self._taken(name, ids)
            if isinstance(line, RaisedError):
                refused.append(line)
                tried = (self._taken(name, part) for part in (ids[:1], ids[:, :FEW], ids[:1, :FEW]))
                part = next((one for one in tried if isinstance(one, Line)), None)
                self.not_run.append(f"{name}: {line}" + (f"; it was given {tuple(part.ids.shape)}" if part else ""))
                if part is None:
                    continue
                line = part
            yield line
            ran = True
        if not ran:
            raise refused[0]

    def _taken(self, name: str, ids: Tensor) -> Line | RaisedError:
        """A line, or what its code asserts of ids. Raises: RaisedError for all else."""
        try:
            return self._line(name, ids)
        except RaisedError as error:
            if not isinstance(error.__cause__, AssertionError):
                raise
            return error

    def _line(self, name: str, ids: Tensor) -> Line:
        rounded = self.own.run(ids)
        exact, limit, ours = self._ours(nullcontext, ids), TIGHT, Tensor()
        tried: list[Line] = []
        for mode in MODES:
            if mode is widened:  # which is only needed where the first does not agree
                ours = self._ours(widened, ids)
                limit = max(TIGHT, TIMES * relative_error(exact, ours))
            try:
                with mode():
                    theirs = self.theirs.run(ids)
            except RaisedError:  # it may need its own dtype
                continue
            error = relative_error(theirs, (exact if mode is nullcontext else ours)[:, -theirs.shape[1] :])
            own = relative_error(rounded, theirs)
            tried.append(Line(name, error, limit, mode, own, theirs, ids))
            if error <= limit:
                break
        best = min(tried, key=lambda line: line.error, default=None)
        if best is None:
            return self._in_their_dtype(name, ids, rounded, exact)
        best = replace(best, limit=limit)
        return best if best.check.ok else replace(best, limit=max(limit, self._rounding(best, ids)))

    def _rounding(self, line: Line, ids: Tensor) -> float:
        """What theirs may be off by, as it has constants in float32, or rounds inside where no cast is seen."""
        with line.mode(), nudged(self.theirs.module) as has_constants:
            by_constants = relative_error(self.theirs.run(ids), line.theirs) if has_constants else 0.0
        parameter = next(self.theirs.module.parameters())
        before = parameter.detach().clone()
        parameter.mul_(1 + SMALL)
        with line.mode():
            jump = relative_error(self.theirs.run(ids), line.theirs)
        parameter.copy_(before)
        return TIMES * max(by_constants, line.own if jump > SMOOTH else 0.0)

    def _ours(self, mode: Mode, ids: Tensor, model: Decoder | None = None) -> Tensor:
        with mode():
            return logits(model or self.port, ids)

    def _in_their_dtype(self, name: str, ids: Tensor, theirs: Tensor, exact: Tensor) -> Line:
        """For a module that does not run in float64: beside what its own dtype makes of ours."""
        rounding = relative_error(logits(copy.deepcopy(self.port).to(theirs.dtype), ids), exact)
        error = relative_error(theirs, exact[:, -theirs.shape[1] :])
        return Line(name, error, TIMES * max(EPS, rounding), nullcontext, error, theirs, ids)

    @torch.no_grad()
    def unsteady(self, ids: Tensor) -> str | None:
        """The first of their modules that makes other numbers in the next run of the same, if there is one."""
        (given, made), (given_again, made_again) = self._ran(self.own, ids), self._ran(self.own, ids)
        for name, result in made.items():
            if not _equal(given[name], given_again.get(name, [])):
                return name.rpartition(".")[0]
            if not _equal(result, made_again.get(name, [])):
                return name
        return None

    def _ran(self, passes: Passes, ids: Tensor) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
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

    def rounding(self, lines: Sequence[Line], reference: Rounds) -> Check:
        """How far they are from their float64 selves in the dtype that they are in, relative, for the worst of lines.

        `reference` says how far off another module of that dtype is, on some ids.
        """
        checks = []
        for line in lines:
            theirs = reference(line.ids)
            limit = TIMES * (theirs + torch.finfo(self.dtype).eps)
            note = f"{dtype_name(self.dtype)}, against your float64"
            checks.append(Check("rounding", line.own, theirs, limit, line.on, note))
        return max(checks, key=by_severity)

    @torch.no_grad()
    def rounds_in(self, line: Line, limit: float) -> str:
        """The first of their modules that makes other numbers in their own dtype than in float64, "" for the whole."""
        with line.mode():
            exact = self._ran(self.theirs, line.ids)
        (given, made), (given_exactly, made_exactly) = self._ran(self.own, line.ids), exact
        for name, ones in made.items():
            if not _error(ones, made_exactly.get(name, [])) <= limit:
                is_given_right = _error(given[name], given_exactly.get(name, [])) <= limit
                return name if is_given_right else name.rpartition(".")[0]
        return ""

    def cause(self, line: Line, places: wording.Places, against: str) -> Diagnosis:
        """Where the code differs and, if a known fault explains all of it, which that is. Raises: RaisedError."""
        ids = self._row(line)
        if ids is None:
            whole = places.whole
            return Diagnosis(whole, None, f"{whole}: each row alone agrees, but not {line.on}: rows of a batch meet")
        looked_at = {name: path for name, path in places.pairs.items() if _is_seen(name, self.port)}
        mode, trace = self._trace(looked_at, ids)
        runs = []
        for mode in MODES:
            with mode():
                runs.append(compared(self.port, trace, ids))
        allowed = limits(*runs)
        with torch.no_grad(), nudged(self.theirs.module) as has_constants:
            if has_constants:
                allowed = loosened(allowed, trace, self._trace(looked_at, ids)[1])

        def seen(trace: Trace) -> list[Finding]:
            with mode():
                return compared(self.port, trace, ids, allowed)

        trace = drawn_as_theirs(trace, seen(trace), seen)

        def compare(model: Decoder, may_differ: Collection[tuple[str, str]] | None = None) -> list[Finding]:
            with mode():
                return compared(model, trace, ids, allowed, may_differ)

        findings = compare(self.port)
        found, ruled_out = explained(self.port, compare, findings)
        if found and self._agrees(found, line):
            return wording.named(found, places, against)
        if (order := trace.order) != sorted(order):
            return wording.reordered(order, places, against)
        first = next((one for one in findings if one.differs), None)
        if first is None:
            words = f"{places.whole}: each part that was seen agrees, but not the logits: {line.on}"
            return Diagnosis(places.whole, None, words)
        return wording.unnamed(first, places, ruled_out)

    def _agrees(self, found: list[Named], line: Line) -> bool:
        """Whether ours with these faults makes their logits as a whole, too."""
        model = self.port
        for one in found:
            model = planted(model, one)
        ours = [self._ours(mode, line.ids, model)[:, -line.theirs.shape[1] :] for mode in MODES]
        limit = max(line.limit, TIMES * relative_error(*ours))
        return relative_error(line.theirs, ours[MODES.index(line.mode)]) <= limit

    def _trace(self, pairs: Mapping[str, str], ids: Tensor) -> tuple[Mode, Trace]:
        """What their parts take and make, with nothing rounded to float32 if they run that way."""
        try:
            with widened():
                return widened, traced(self.theirs, self.weights, pairs, ids)
        except RaisedError:
            return nullcontext, traced(self.theirs, self.weights, pairs, ids)

    def _row(self, line: Line) -> Tensor | None:
        """One row of ids on which they differ, short if that is enough; None where each row alone agrees."""
        rows = line.ids.split(1)
        for row in (*(row[:, :SHORT] for row in rows), *(row for row in rows if row.shape[-1] > SHORT)):
            with line.mode():
                error = relative_error(theirs := self.theirs.run(row), logits(self.port, row)[:, -theirs.shape[1] :])
            if not error <= line.limit:
                return row
        return None


def _is_seen(name: str, port: Decoder) -> bool:
    """Whether one of ours is looked at as a whole: a block, experts, which see not all tokens, a norm of the stream."""
    part = port.get_submodule(name)
    of_stream = name.count(".") < DEPTH
    return BLOCK.fullmatch(name) is not None or isinstance(part, Experts) or (of_stream and is_like_a_norm(part))


def _error(some: list[Tensor], others: list[Tensor]) -> float:
    """How far apart two lists of tensors are; a NaN is infinitely far."""
    errors = [relative_error(one, other) for one, other in zip(some, others, strict=False)]
    return max((float("inf") if math.isnan(error) else error for error in errors), default=0.0)


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal; NaN equals itself."""
    pairs = zip(some, others, strict=False)
    return len(some) == len(others) and all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)

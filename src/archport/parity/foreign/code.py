"""Is the code the same? A person's module in float64 against our port of its own weights, as a whole, then by parts."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...layers import Decoder
from ..budget import Check
from ..counterparts import counterparts
from ..diagnose import Diagnosis
from ..locate import EPS, relative_error
from ..outputs import logits
from ..running import RaisedError
from . import wording
from .locating import TIGHT, TIMES, Finding, compared, limits, traced
from .naming import explained
from .tapping import Trace
from .theirs import Forward, Theirs, widened
from .weights import Weights

Mode = Callable[[], AbstractContextManager[None]]
MODES: tuple[Mode, ...] = (nullcontext, widened)
SHORT = 24  # tokens that are looked at part by part
NOTE = "float64, against archport's port of your weights"


@dataclass(frozen=True)
class Line:
    """One set of ids: how far their logits are from ours, relative, what they may be, and how they were made."""

    on: str
    error: float
    limit: float
    mode: Mode
    own: float  # what their own dtype rounds

    @property
    def check(self) -> Check:
        """The line of a report."""
        return Check(f"code, {self.on}", self.error, 0.0, self.limit, note=NOTE)


class Code:
    """A person's module beside our port of its weights, on sets of ids."""

    def __init__(self, module: nn.Module, forward: Forward | None, weights: Weights, ids: Mapping[str, Tensor]) -> None:
        vocab = weights.config.vocab_size
        self.weights, self.port, self.ids = weights, weights.port, ids
        self.theirs = Theirs(module, forward, vocab, torch.float64)
        self.own = Theirs(module, forward, vocab, None)
        self.not_run: list[str] = []

    @torch.no_grad()
    def lines(self) -> Iterator[Line]:
        """One for each set of ids that they take; the ids that they refuse are in `not_run`. Raises: RaisedError."""
        refused: list[RaisedError] = []
        ran = False
        for name, ids in self.ids.items():
            try:
                yield self._line(name, ids)
                ran = True
            except RaisedError as error:
                if not isinstance(error.__cause__, AssertionError):
                    raise
                refused.append(error)
                self.not_run.append(f"{name}: {error}")
        if not ran:
            raise refused[0]

    def _line(self, name: str, ids: Tensor) -> Line:
        rounded = self.own.run(ids)
        both = [self._ours(mode, ids) for mode in MODES]
        limit = max(TIGHT, TIMES * relative_error(*both))
        tried: list[Line] = []
        raised: RaisedError | None = None
        for mode, ours in zip(MODES, both, strict=True):
            try:
                with mode():
                    theirs = self.theirs.run(ids)
            except RaisedError as error:  # it may need its own dtype
                raised = raised or error
                continue
            own = relative_error(rounded, theirs)
            tried.append(Line(name, relative_error(theirs, ours[:, -theirs.shape[1] :]), limit, mode, own))
            if tried[-1].error <= limit:
                break
        if not tried and raised is not None:
            return self._in_their_dtype(name, ids, rounded, both[0])
        return min(tried, key=lambda line: line.error)

    def _ours(self, mode: Mode, ids: Tensor) -> Tensor:
        with mode():
            return logits(self.port, ids)

    def _in_their_dtype(self, name: str, ids: Tensor, theirs: Tensor, exact: Tensor) -> Line:
        """For a module that does not run in float64: beside what its own dtype makes of ours."""
        rounding = relative_error(logits(copy.deepcopy(self.port).to(theirs.dtype), ids), exact)
        error = relative_error(theirs, exact[:, -theirs.shape[1] :])
        return Line(name, error, TIMES * max(EPS, rounding), nullcontext, error)

    def cause(self, line: Line, whole: str, against: str) -> Diagnosis | None:
        """Where the code differs and, if a known fault explains all of it, which that is.

        None where it is off by no more than its own dtype rounds, and no fault explains that. Raises: RaisedError.
        """
        ids = self._row(line)
        if ids is None:
            return Diagnosis(whole, None, f"{whole}: each row alone agrees, but not {line.on}: rows of a batch meet")
        pairs = counterparts(self.port, self.theirs.module, self.weights.table)
        looked_at = {name: path for name, path in pairs.items() if _is_seen(name)}
        mode, trace = self._trace(looked_at, ids)
        runs = []
        for mode in MODES:
            with mode():
                runs.append(compared(self.port, trace, ids))
        allowed = limits(*runs)

        def compare(model: Decoder) -> list[Finding]:
            with mode():
                return compared(model, trace, ids, allowed)

        findings = compare(self.port)
        places = wording.Places(self.weights, pairs, whole)
        found, ruled_out = explained(self.port, compare, findings)
        if found:
            return wording.named(found, places, against)
        first = next((one for one in findings if one.differs), None)
        return None if first is None else wording.unnamed(first, places, ruled_out)

    def _trace(self, pairs: Mapping[str, str], ids: Tensor) -> tuple[Mode, Trace]:
        """What their parts take and make, with nothing rounded to float32 if they run that way."""
        try:
            with widened():
                return widened, traced(self.theirs, self.weights, pairs, ids)
        except RaisedError:
            return nullcontext, traced(self.theirs, self.weights, pairs, ids)

    def _row(self, line: Line) -> Tensor | None:
        """One row of ids on which they differ, short if that is enough; None where each row alone agrees."""
        ids = self.ids[line.on]
        rows = ids.split(1)
        for row in (*(row[:, :SHORT] for row in rows), *(row for row in rows if row.shape[-1] > SHORT)):
            with line.mode():
                error = relative_error(theirs := self.theirs.run(row), logits(self.port, row)[:, -theirs.shape[1] :])
            if not error <= line.limit:
                return row
        return None


def _is_seen(name: str) -> bool:
    """Whether a module is looked at as a whole: a norm of the stream, or a block."""
    return name.rpartition(".")[2].startswith("norm") or name.count(".") == 1

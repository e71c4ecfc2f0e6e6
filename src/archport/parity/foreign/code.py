"""Is the code the same? A person's module in float64 against our port of its own weights, as a whole, then by parts."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...foreign.running import Forward
from ...layers import Decoder
from ..budget import Check
from ..locate import EPS, relative_error
from ..outputs import logits
from ..running import RaisedError
from ..widened import widened
from .locating import TIGHT, TIMES
from .passes import Passes, nudged
from .weights import Weights

Mode = Callable[[], AbstractContextManager[None]]
MODES: tuple[Mode, ...] = (nullcontext, widened)
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
        exact, limit, ours = self.ours(nullcontext, ids), TIGHT, Tensor()
        tried: list[Line] = []
        for mode in MODES:
            if mode is widened:  # which is only needed where the first does not agree
                ours = self.ours(widened, ids)
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

    def ours(self, mode: Mode, ids: Tensor, model: Decoder | None = None) -> Tensor:
        """Logits of our port of their weights, or of another model of ours."""
        with mode():
            return logits(model or self.port, ids)

    def _in_their_dtype(self, name: str, ids: Tensor, theirs: Tensor, exact: Tensor) -> Line:
        """For a module that does not run in float64: beside what its own dtype makes of ours."""
        rounding = relative_error(logits(copy.deepcopy(self.port).to(theirs.dtype), ids), exact)
        error = relative_error(theirs, exact[:, -theirs.shape[1] :])
        return Line(name, error, TIMES * max(EPS, rounding), nullcontext, error, theirs, ids)

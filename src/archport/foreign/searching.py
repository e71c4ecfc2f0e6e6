"""Searching for the rows with which a person's module has our logits, part by part, or those of a model with a bug."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, product
from typing import Any

from ..config import DecoderConfig
from ..errors import MappingError
from ..layers import Decoder
from ..registry import Architecture
from .assigning import assignments
from .rows import compact, in_python, table_of
from .running import CodeError
from .theirs import Theirs
from .trial import APART, Trial
from .way import Way

PASSES = 1500  # of a trial, in which one stage is looked for
KEPT = 6  # choices that a stage leaves to the whole
SHOWN = 4  # rows of a part in a line
NO_ROWS = "no rows were found"
DIFFERS = "its logits are not ours by any of these rows: its code may differ"

Bugs = Callable[[Decoder], Iterator[Decoder]]


class Search:
    """Looks for the choice of ways that makes a module the same function as ours, in stages.

    First all that is outside of blocks, with blocks that add nothing; then attention, then the rest of the blocks, each
    with the other silent; then all.
    """

    def __init__(
        self,
        ways: Sequence[Sequence[Way]],
        theirs: Theirs,
        arch: Architecture,
        cfg: DecoderConfig,
        forward: Any,
        bugs: Bugs | None,
    ) -> None:
        self.bugs = bugs
        self.ways, self.theirs, self.arch, self.cfg, self.forward = ways, theirs, arch, cfg, forward
        names = [next(iter(part[0].rows)) for part in ways]
        self.stages: list[list[int]] = [[], [], []]
        for at, name in enumerate(names):
            self.stages[_stage(name)].append(at)
        self.shared = [at for at in self.stages[1] if ".norm." in names[at]]
        self.trial: Trial | None = None
        self.nearest: dict[int, tuple[float, dict[int, Way]]] = {}  # of a stage, and how far its logits are from ours

    def settled(self, *, decided: bool) -> tuple[list[Way], list[str]]:
        """The ways that were chosen, and a line for each part of which others would do as well.

        Where values have `decided` on one way for each part, nothing is run.
        """
        choice = next(assignments(self.ways), None)
        if choice is None:
            fault = f"no choice of its tensors makes all those of {self.arch.name}: is it to be like another model?"
            raise MappingError([fault], self.theirs.name, NO_ROWS)
        if decided and all(len(part) == 1 for part in self.ways):
            return list(choice), []
        failed: CodeError | None = None
        for dtype in APART:  # some code refuses float64
            try:
                self.trial = Trial(self.theirs, self.arch, self.cfg, self.forward, dtype)
                proven, partial, likely = self._by_running()
                break
            except CodeError as error:
                failed = failed or error
        else:
            several = self._open(self.ways)
            return list(choice), [*several, f"not settled by running it: {failed}"] if several else []
        if proven is not None:
            return proven, []
        likely = self._with_a_bug() or likely
        whole = len(likely) == len(self.ways) and self._disjoint(likely)
        likeliest = likely if whole else next(assignments(partial), choice)
        return list(likeliest), [*self._open(partial), DIFFERS]

    def _with_a_bug(self) -> list[Way] | None:
        """The likeliest choice with which all logits are those of a model with one of the known bugs, if any."""
        right, proven = self.trial, list[list[Way]]()
        for port in self.bugs(right.port) if right and self.bugs else ():
            self.trial, self.nearest = right.beside(port), {}  # type: ignore[union-attr]
            with suppress(Exception):  # no model runs with every bug
                proven += [found for found in self._by_running()[:1] if found is not None]
        return min(proven, key=lambda ways: sum(way.unlikely for way in ways), default=None)

    def _by_running(self) -> tuple[list[Way] | None, list[list[Way]], list[Way]]:
        """The choice with which all logits are ours, if any; of each part the ways that are still open; the likeliest.

        Where no choice makes the logits of a stage, the likeliest is the one that comes nearest, as in code with a bug.
        """
        found = Kept(self._agreeing(0, {}), 1)
        outside = self._first(0, found)
        attention = Kept(self._agreeing(1, outside))
        first = self._first(1, attention)
        shared = {at: first[at] for at in self.shared if at in first}
        rest = Kept(self._agreeing(2, outside | shared))
        for several in (1, KEPT):  # what agrees alone seldom fails to agree together
            for one, other in product(islice(attention, several), islice(rest, several)):
                whole = self._in_order(outside | one | other)
                if any(found) and self._disjoint(whole) and self._agrees(whole):
                    return whole, [], []
        agreeing: dict[int, list[Way]] = {}
        for stage, kept in zip(self.stages, (found, attention, rest), strict=True):
            agreeing |= {at: [way for way in self.ways[at] if any(one[at] is way for one in kept)] for at in stage}
        likely = self._in_order(outside | first | self._first(2, rest))
        return None, [agreeing[at] or list(part) for at, part in enumerate(self.ways)], likely

    def _first(self, stage: int, kept: "Kept") -> dict[int, Way]:
        """The first choice for a stage that agrees, or of those that do not the nearest."""
        return next(iter(kept), None) or self.nearest.get(stage, (math.inf, {}))[1]

    @staticmethod
    def _in_order(ways: Mapping[int, Way]) -> list[Way]:
        return [ways[at] for at in sorted(ways)]

    def _agreeing(self, stage: int, others: Mapping[int, Way]) -> Iterator[dict[int, Way]]:
        """The choices for a stage with which logits are ours where only it and `others` are not silent."""
        taken = frozenset(name for way in others.values() for name in way.takes)
        parts = self.stages[stage]
        for choice in islice(assignments([self.ways[at] for at in parts], taken), PASSES):
            ways = dict(zip(parts, choice, strict=True))
            apart = self._apart([*others.values(), *choice])
            if apart < self.nearest.get(stage, (math.inf, {}))[0]:
                self.nearest[stage] = (apart, ways)
            if apart <= 1:
                yield ways

    def _agrees(self, ways: Sequence[Way]) -> bool:
        return self._apart(ways) <= 1

    def _apart(self, ways: Sequence[Way]) -> float:
        rows = [way.rows for way in ways]
        table = table_of(self.arch, {name: "" for one in rows for name in one})
        among = [name for name in self.trial.loud if table.rows(name, self.cfg)]  # type: ignore[union-attr]
        return self.trial.apart(rows, among)  # type: ignore[union-attr]

    @staticmethod
    def _disjoint(ways: Sequence[Way]) -> bool:
        return sum(len(way.takes) for way in ways) == len({name for way in ways for name in way.takes})

    @staticmethod
    def _open(ways: Sequence[Sequence[Way]]) -> list[str]:
        """A line for each part with several ways."""
        lines = []
        for part in ways:
            if len(part) > 1:
                shown = "; or ".join(", ".join(map(in_python, compact(way.rows).values())) for way in part[:SHOWN])
                more = f"; or one of {len(part) - SHOWN} more" if len(part) > SHOWN else ""
                lines.append(f"{', '.join(compact(part[0].rows))}: {shown}{more}")
        return lines


class Kept:
    """What an iterator has, up to a number, looked for once and only when asked for."""

    def __init__(self, source: Iterator[dict[int, Way]], most: int = KEPT) -> None:
        self.source, self.kept = islice(source, most), list[dict[int, Way]]()

    def __iter__(self) -> Iterator[dict[int, Way]]:
        yield from self.kept
        for one in self.source:
            self.kept.append(one)
            yield one


def _stage(name: str) -> int:
    """Where a part of ours is settled: outside of blocks, in attention, in the rest."""
    if "{n}" not in name:
        return 0
    return 1 if ".attn." in name or "norm_attn" in name or "{n}.norm." in name else 2

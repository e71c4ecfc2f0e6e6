"""Verify a model too large for memory: one block of the reference and one of ours at a time, on the same input.

Both models run as a whole, but the weights of each block are read from the file just before it runs and dropped right
after. While the reference runs, our block gets the reference's input beside it; at the end the logits are compared.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..building import parameters_on_meta
from ..config import dtype_name
from ..errors import SourceError
from ..load_plan import LoadPlan, settle_tie
from ..loading import own_weight
from ..observing import hooked
from ..port import plan
from ..registry import skeleton
from ..translate.tensors import export_tensors
from . import references
from .boundaries import STRUCTURAL
from .budget import Check, hold, precision
from .counterparts import canonical, counterparts, first_tensor
from .locate import LOOSE, converted, relative_error
from .report import Report
from .running import RaisedError, run
from .settings import not_finite

TOKENS = 256

Fill = Callable[[nn.Module, str], None]
Compare = Callable[[str, nn.Module, Any, Any, Any], None]


def verify_by_block(
    source: str | Path | None = None,
    *,
    dtype: torch.dtype | str = "float32",
    revision: str | None = None,
    offline: bool = False,
    variant: str | None = None,
    follow_links: bool = False,
) -> Report:
    """Compare embedding, every block, last norm and head, each alone, in the memory of a few blocks.

    Each is held to the reference's own block in float64, and the logits of our whole model to the reference's.
    Raises: as `verify` does.
    """
    target = precision(dtype)
    how: dict[str, Any] = {"offline": offline, "variant": variant, "follow_links": follow_links}
    planned = settle_tie(plan(source, dtype=target, revision=revision, headers_only=False, **how))
    if planned.checkpoint.origin.alone:
        raise SourceError(f"{planned.checkpoint.origin.name}: transformers reads no such file: verify it as a whole")
    comparison = _ByBlock(planned)
    problems: list[str] = []
    try:
        with torch.no_grad():
            comparison.run()
    except RaisedError as error:
        problems.append(str(error))
    checks = comparison.verdicts()
    if comparison.problems:  # which leave nothing to compare
        checks, problems = [], list(comparison.problems)
    name, against = planned.checkpoint.origin.name, "transformers (eager), block by block"
    return Report(name, against, dtype_name(planned.dtype), tuple(checks), problems=tuple(problems))


class _ByBlock:
    """Both models without weights, and hooks that read them from the file, compare and drop them."""

    def __init__(self, planned: LoadPlan) -> None:
        self.plan, self.dtype = planned, planned.dtype
        self.port = skeleton(planned.architecture, planned.config).eval()
        with parameters_on_meta():
            self.reference = references.of_config(dict(planned.checkpoint.origin.hf), planned.dtype)
        vocab, length = planned.config.vocab_size, min(TOKENS, planned.config.context)
        self.ids = torch.randint(vocab, (1, length), generator=torch.Generator().manual_seed(1))
        self.ids[0, :2] = torch.tensor([0, vocab - 1])[:length]
        self.checks: list[Check] = []
        self.errors: dict[str, float] = {}  # relative, of each unit in float64
        self.problems: dict[str, None] = {}
        table = planned.architecture.table
        self.theirs = {canonical(table, name): name for name in self.reference.state_dict()}
        self.keys = self._file_keys()
        self.pairs = counterparts(self.port, self.reference, table)

    def run(self) -> None:
        """Fill `checks`. Raises: RaisedError where our code raises."""
        with self._streamed(self.reference, self._theirs(self.dtype), self._compare):
            theirs = self.reference(self.ids, use_cache=False).logits  # blocks run twice
        with self._streamed(self.reference, self._theirs(torch.float64)):
            exact = self.reference(self.ids, use_cache=False).logits
        with self._streamed(self.port, self._ours):
            self.checks.append(hold("logits", run(self.port, self.ids), theirs, exact, self.dtype))

    def verdicts(self) -> list[Check]:
        """All lines; where logits agree, a unit that is far off has another boundary, and is left out."""
        right = any(check.ok for check in self.checks if check.name == "logits")
        elsewhere = [name for name, error in self.errors.items() if right and not error <= STRUCTURAL]
        checks = [check for check in self.checks if check.name not in elsewhere]
        held = {name: error for name, error in self.errors.items() if name not in elsewhere}
        part = max(held, key=lambda name: math.inf if math.isnan(held[name]) else held[name], default="")
        note = "relative, fed the reference's input, float64"
        note += f"; {len(elsewhere)} with another boundary" if elsewhere else ""
        return [*checks, Check("units, one by one", held.get(part, 0.0), 0.0, LOOSE, part, note)]

    @contextmanager
    def _streamed(self, model: nn.Module, fill: Fill, compare: Compare | None = None) -> Iterator[None]:
        """Fill each unit of a model before it runs, `compare` what it took and made, and drop its weights."""
        arguments: dict[str, Any] = {}

        def before(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
            fill(module, name)
            if compare:  # copies, for the reference may change its tensors in place
                arguments[name] = converted((args, kwargs), torch.float64)

        def after(name: str, module: nn.Module, _: Any, __: Any, result: Any) -> None:
            if compare:
                args, kwargs = arguments.pop(name)
                compare(name, module, args, kwargs, result)
            _drop(module)

        ours = model is self.port
        units = {name: model.get_submodule(name if ours else self.pairs[name]) for name in self._units()}
        with hooked(units, before=before, after=after):
            yield

    def _units(self) -> Iterator[str]:
        for name in self.pairs:
            if (
                name in ("norm", "head")
                or name.startswith("embed.")
                or (name.startswith("blocks.") and name.count(".") == 1)
            ):
                yield name

    def _file_keys(self) -> dict[str, str]:
        """The file's key of each of the reference's parameters it has; a tied head reads the embedding's."""
        table = self.plan.architecture.table
        keys = {
            self.theirs[meaning]: key
            for key in self.plan.checkpoint.headers
            for meaning in table.canonical(key)
            if meaning in self.theirs
        }
        for tied, source in table.tied.items():
            head, embedding = (self.theirs[table.row(name, self.plan.config).keys[0]] for name in (tied, source))
            keys.setdefault(embedding, keys.get(head, ""))  # a tied file may hold either
            keys.setdefault(head, keys[embedding])
        return keys

    def _theirs(self, dtype: torch.dtype) -> Fill:
        def fill(module: nn.Module, name: str) -> None:
            made: dict[str, Tensor] = {}
            for parameter, _ in list(module.named_parameters(remove_duplicate=False)):
                theirs = f"{self.pairs[name]}.{parameter}"
                if theirs in self.keys:
                    key = self.keys[theirs]
                    tensor = self.plan.checkpoint.read(key, own=True)
                    self.problems |= dict.fromkeys(one.words for one in not_finite([(key, tensor)]))
                else:
                    made = made or self._in_their_layout(name)
                    tensor = made[theirs]
                _put(module, parameter, tensor.to(dtype))

        return fill

    def _in_their_layout(self, name: str) -> dict[str, Tensor]:
        """A unit of ours under the keys that the reference has in memory, where the file has others, as for experts."""
        steps = [step for step in self.plan.mapped if step.name and step.name.startswith(name + ".")]
        ours = {str(step.name): own_weight(self.plan, step) for step in steps}
        table, config = self.plan.architecture.table, self.plan.config
        made = export_tensors(table, config, ours, present=self.theirs)
        return {self.theirs[key]: one.make() for key, one in made.items()}

    def _ours(self, module: nn.Module, name: str) -> None:
        for step in self.plan.mapped:
            if step.name and step.name.startswith(name + "."):
                _put(module, step.name.removeprefix(name + "."), own_weight(self.plan, step))
        if name == "head" and self.port.tied:
            embedding = next(step for step in self.plan.mapped if step.name == "embed.tokens.weight")
            _put(module, "weight", own_weight(self.plan, embedding))

    def _compare(self, name: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """Hold our unit to the reference's, which has just run, on the same input, given in float64."""
        taken, theirs = first_tensor(args or kwargs), first_tensor(result)
        if name.startswith("embed.") and taken.is_floating_point():
            return  # a table that is handed a mask and counts by itself: it shows in what the first block is fed
        self._theirs(torch.float64)(module, name)
        exact = first_tensor(module.forward(*converted(args, torch.float64), **converted(kwargs, torch.float64)))
        _drop(module)
        if name == "blocks.0":
            embedded = self._result("embed", self.ids, torch.arange(self.ids.shape[-1]))
            self.checks.append(hold("embed", embedded, taken.to(self.dtype), taken, self.dtype))
        for dtype in (self.dtype, torch.float64):
            more = [self.port.context(self.ids, dtype)] if name.startswith("blocks.") else []
            ours = self._result(name, *converted([taken], dtype), *more, dtype=dtype)
            if dtype == self.dtype:
                self.checks.append(hold(name, ours, theirs, exact, self.dtype))
            else:
                self.errors[name] = relative_error(ours, exact)

    def _result(self, name: str, *args: Any, dtype: torch.dtype | None = None) -> Tensor:
        """What a unit of ours makes, its weights read for this once. Raises: RaisedError."""
        unit = self.port.get_submodule(name)
        self._ours(unit, name)
        unit.to(dtype or self.dtype)
        try:
            result: Tensor = unit(*args)
        except Exception as error:
            raise RaisedError(name, error) from error
        _drop(unit)
        return result


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent)._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def _drop(module: nn.Module) -> None:
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        _put(module, name, parameter.to("meta"))

"""Verify a model too large for memory: one block of the reference and one of ours at a time, on the same input.

Both models run as a whole, but the weights of each block are read from the file just before it runs and dropped right
after. While the reference runs, our block gets the reference's input beside it; at the end the logits are compared.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..building import parameters_on_meta
from ..config import dtype_name
from ..loading import LoadPlan, own_weight, settle_tie
from ..observing import hooked
from ..port import plan
from ..registry import skeleton
from ..translate.tensors import Outgoing, TensorStep, export_tensors
from . import references
from .budget import Check, hold
from .counterparts import canonical, counterparts, first_tensor
from .locate import LOOSE, converted, relative_error
from .report import Report
from .running import RaisedError, run
from .settings import not_finite
from .verifying import precision

TOKENS = 256

Fill = Callable[[nn.Module, str], None]
Compare = Callable[[str, nn.Module, Any, Any, Any], None]


def verify_by_block(
    source: str | Path | None = None,
    *,
    dtype: torch.dtype | str = "float32",
    revision: str | None = None,
    offline: bool = False,
) -> Report:
    """Compare embedding, every block, last norm and head, each alone, in the memory of a few blocks.

    Each is held to the reference's own block in float64, and the logits of our whole model to the reference's.
    Raises: as `verify` does.
    """
    target = precision(dtype)
    planned = settle_tie(plan(source, dtype=target, revision=revision, offline=offline, headers_only=False))
    comparison = _ByBlock(planned)
    problems: list[str] = []
    try:
        with torch.no_grad():
            comparison.run()
    except RaisedError as error:
        problems.append(str(error))
    checks = [*comparison.checks, comparison.worst]
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
        self.worst = Check("units, one by one", 0.0, 0.0, LOOSE, "", "relative, fed the reference's input, float64")
        self.problems: dict[str, None] = {}
        self.keys = self._file_keys()
        self.pairs = counterparts(self.port, self.reference, planned.architecture.table)

    def run(self) -> None:
        """Fill `checks`. Raises: RaisedError where our code raises."""
        with self._streamed(self.reference, self._theirs(self.dtype), self._compare):
            theirs = self.reference(self.ids, use_cache=False).logits  # blocks run twice
        with self._streamed(self.reference, self._theirs(torch.float64)):
            exact = self.reference(self.ids, use_cache=False).logits
        with self._streamed(self.port, self._ours):
            self.checks.append(hold("logits", run(self.port, self.ids), theirs, exact, self.dtype))

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
        """The file's key of each of the reference's parameters; a tied head reads the embedding's."""
        table = self.plan.architecture.table
        theirs = {canonical(table, name): name for name in self.reference.state_dict()}
        keys = {
            theirs[meaning]: key
            for key in self.plan.checkpoint.headers
            for meaning in table.canonical(key)
            if meaning in theirs
        }
        for tied, source in table.tied.items():
            head, embedding = (theirs[table.row(name, self.plan.config).keys[0]] for name in (tied, source))
            keys.setdefault(head, keys[embedding])
        return keys

    def _theirs(self, dtype: torch.dtype) -> Fill:
        def fill(module: nn.Module, name: str) -> None:
            parameters = [parameter for parameter, _ in module.named_parameters(remove_duplicate=False)]
            paths = {f"{self.pairs[name]}.{parameter}": parameter for parameter in parameters}
            for path, tensor in self._read(name, paths):
                self.problems |= dict.fromkeys(not_finite([(self.keys.get(path, path), tensor)]))
                _put(module, paths[path], tensor.to(dtype))

        return fill

    def _read(self, unit: str, paths: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The reference's parameters of a unit; those that lie apart in the file are put together by the key table."""
        table = self.plan.architecture.table
        together: dict[str, Outgoing] = {}
        if not all(path in self.keys for path in paths):
            own = {step.name: own_weight(self.plan, step) for step in self._steps(unit) if step.name}
            present = [canonical(table, name) for name in self.reference.state_dict()]
            together = export_tensors(table, self.plan.config, own, present=present)
        for path in paths:
            if path in self.keys:
                yield path, self.plan.checkpoint.read(self.keys[path], own=True)
            else:
                yield path, together[canonical(table, path)].make()

    def _steps(self, unit: str) -> Iterator[TensorStep]:
        """What makes our parameters of a unit."""
        yield from (step for step in self.plan.mapped if step.name and step.name.startswith(unit + "."))

    def _ours(self, module: nn.Module, name: str) -> None:
        for step in self._steps(name):
            _put(module, (step.name or "").removeprefix(name + "."), own_weight(self.plan, step))
        if name == "head" and self.port.tied:
            embedding = next(step for step in self.plan.mapped if step.name == "embed.tokens.weight")
            _put(module, "weight", own_weight(self.plan, embedding))

    def _compare(self, name: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """Hold our unit to the reference's, which has just run, on the same input, given in float64."""
        taken, theirs = first_tensor(args or kwargs), first_tensor(result)
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
                error = relative_error(ours, exact)
                self.worst = max(self.worst, replace(self.worst, port_error=error, part=name), key=_error)

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


def _error(one: Check) -> float:
    return math.inf if math.isnan(one.port_error) else one.port_error


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent)._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def _drop(module: nn.Module) -> None:
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        _put(module, name, parameter.to("meta"))

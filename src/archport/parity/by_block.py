"""Verify a model too large for memory: one block of the reference and one of ours at a time, on the same input.

The reference runs as a whole, but its weights are read from the file just before a block needs them and dropped right
after; then our block gets the same input, with its own weights read and dropped in turn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..port import LoadPlan, own_weight, plan, settle_tie
from ..registry import skeleton, without_drawing
from . import references
from .compare import Check, check
from .counterparts import canonical, counterparts, first_tensor
from .locate import converted
from .report import Report

TOKENS = 32


def verify_by_block(
    source: str | Path | None = None,
    *,
    dtype: torch.dtype | str = "float32",
    revision: str | None = None,
    offline: bool = False,
) -> Report:
    """Compare embedding, every block, last norm and head, each alone, in the memory of a few blocks.

    Each is held to the reference's own block in float64. Raises: as `verify` does.
    """
    planned = settle_tie(plan(source, dtype=dtype, revision=revision, offline=offline, headers_only=False))
    comparison = _ByBlock(planned)
    with torch.no_grad():
        comparison.reference(comparison.ids, use_cache=False)  # blocks run twice
    name = planned.checkpoint.origin.name
    plain = str(planned.dtype).removeprefix("torch.")
    return Report(name, "transformers (eager), block by block", plain, tuple(comparison.checks))


class _ByBlock:
    """Both models without weights, and hooks on the reference that read, compare and drop them."""

    def __init__(self, planned: LoadPlan) -> None:
        self.plan, self.dtype = planned, planned.dtype
        self.port = skeleton(planned.architecture, planned.config).eval()
        with _parameters_on_meta(), without_drawing():
            self.reference = references.of_config(dict(planned.checkpoint.origin.hf), planned.dtype)
        self.ids = torch.arange(min(TOKENS, planned.config.context))[None] % planned.config.vocab_size
        self.checks: list[Check] = []
        self.keys = self._file_keys()
        pairs = counterparts(self.port, self.reference, planned.architecture.table)
        modules = dict(self.reference.named_modules())
        for name in self._units(pairs):
            module = modules[pairs[name]]
            module.register_forward_pre_hook(lambda module, _, path=pairs[name]: self._fill(module, path, self.dtype))
            module.register_forward_hook(
                lambda module, args, kwargs, result, name=name, path=pairs[name]: self._compare(
                    name, path, module, args, kwargs, result
                ),
                with_kwargs=True,
            )

    def _units(self, pairs: dict[str, str]) -> Iterator[str]:
        for name in pairs:
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
            head, embedding = (theirs[table.rows(name)[0].keys[0]] for name in (tied, source))
            keys.setdefault(head, keys[embedding])
        return keys

    def _fill(self, module: nn.Module, path: str, dtype: torch.dtype) -> None:
        for name, _ in list(module.named_parameters(remove_duplicate=False)):
            tensor = self.plan.checkpoint.read(self.keys[f"{path}.{name}"], own=True)
            _put(module, name, tensor.to(dtype))

    def _compare(self, name: str, path: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        taken, theirs = first_tensor(args or kwargs), first_tensor(result)
        self._fill(module, path, torch.float64)
        exact = first_tensor(module.forward(*converted(args, torch.float64), **converted(kwargs, torch.float64)))
        _drop(module)
        positions = torch.arange(self.ids.shape[-1])
        if name == "blocks.0":
            embedded = self._run("embed", self.ids, positions)
            self.checks.append(check("embed", embedded, taken, taken.double(), self.dtype))
        more = [self.port.step(positions, self.dtype)] if name.startswith("blocks.") else []
        self.checks.append(check(name, self._run(name, taken, *more), theirs, exact, self.dtype))

    def _run(self, name: str, *args: Any) -> Tensor:
        """What a module of ours makes, its weights read for this once."""
        unit = self.port.get_submodule(name)
        for step in self.plan.mapped:
            if step.name and step.name.startswith(name + "."):
                _put(unit, step.name.removeprefix(name + "."), own_weight(self.plan, step))
        if name == "head" and self.port.tied:
            embedding = next(step for step in self.plan.mapped if step.name == "embed.tokens.weight")
            _put(unit, "weight", own_weight(self.plan, embedding))
        made: Tensor = unit(*args)
        _drop(unit)
        return made


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent)._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def _drop(module: nn.Module) -> None:
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        _put(module, name, parameter.to("meta"))


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Build modules whose parameters have no memory, while their buffers, rotary tables among them, are real."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False))

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]

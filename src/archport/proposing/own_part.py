"""A part of one's own, tried where none of ours does what a module does: which tensors of the module are its own."""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import SourceError
from ..foreign.importing import imported
from ..layers.context import of_pass

TRIES = 5000  # of tensors for the parameters of a part
BESIDE = 4  # tensors of something else among those of a part, in the order of the module


@dataclass(frozen=True, eq=False)
class OwnPart:
    """A class of one's own that stands where an attention, an MLP or a norm does, and what it may be made with."""

    name: str
    kind: Any
    known: Mapping[str, Any]

    def settings(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """What it is called with. Raises: SourceError for what it asks for and a config has none of."""
        known = {**self.known, **changed}
        asked = inspect.signature(self.kind).parameters.values()
        needed = [one.name for one in asked if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
        if missing := [name for name in needed if name not in known]:
            raise SourceError(f"{self.name}: asks for {', '.join(missing)}, of which the config says nothing")
        return {one.name: known[one.name] for one in asked if one.name in known}

    @property
    def file(self) -> Path | None:
        """Where its code is, if that is a file of its own."""
        module = self.name.rpartition(":")[0]
        return Path(module) if module.endswith(".py") else None


def own_part(name: str, known: Mapping[str, Any]) -> OwnPart:
    """A part by FILE.py:CLASS. Raises: SourceError where it is no class of a part, CodeError."""
    kind = imported(name)
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
        raise SourceError(f"{name}: found a {type(kind).__name__}, expected a class of torch.nn.Module")
    part = OwnPart(name, kind, known)
    part.settings({})
    if part.file is not None:  # as the files of a proposal import it
        sys.modules[part.file.stem] = sys.modules[kind.__module__]
        kind.__module__ = part.file.stem
    return part


def run_part(part: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """What a part with these weights makes of the stream (batch, seq, width), in a pass of its own."""
    context = of_pass(x.shape[0], x.shape[1], x.device, positions=None, mask=None, cache=None)
    takes = len(inspect.signature(part.forward).parameters) > 1
    more = tuple(context.for_layers(x.dtype, None, 1)) if takes else ()
    made: Tensor = functional_call(part, dict(weights), (x, *more))
    return made


def assignments(parameters: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[dict[str, tuple[str, Tensor]]]:
    """Which of a module's parameters those of a part may be, by shape: such as lie near each other, in order first."""
    names = list(parameters)
    span = 2 * len(own) + BESIDE
    for start in range(len(names)):
        near = names[start : start + span]
        ways = [list(_ways(near, parameters, one)) for one in own.values()]
        for chosen in islice(product(*ways), TRIES):
            taken = [name for name, _ in chosen]
            if names[start] in taken and len(set(taken)) == len(taken):
                yield dict(zip(own, chosen, strict=True))


def _ways(near: Sequence[str], parameters: Mapping[str, Tensor], own: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each of some parameters that has the shape of one's own, as it is or transposed."""
    for name in near:
        one = parameters[name]
        if one.shape == own.shape:
            yield name, one
        if one.ndim == 2 and one.T.shape == own.shape:
            yield name, one.T


@torch.no_grad()
def made_at(part: OwnPart, changed: Mapping[str, Any]) -> tuple[dict[str, Any], nn.Module]:
    """What it is called with, and the part itself, in float64."""
    settings = part.settings(changed)
    module: nn.Module = part.kind(**settings)
    return settings, module.double().eval()

"""What is known of a module while it is read: its pass, its parameters, its constants."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .own_part import OwnPart
from .tracing import CLOSE, Trace

EPS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-7, torch.finfo(torch.float32).eps)  # of norms, where a config does not say


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear map that the module applies: y = x weight^T + bias, whatever way its weight lies."""

    weight: Tensor  # (out, in)
    bias: Tensor | None
    value: Tensor  # (batch, seq, out)
    takes: frozenset[str]


@dataclass(frozen=True, eq=False)
class Seen:
    """A pass of a module, and its parameters and constants by their names."""

    trace: Trace
    parameters: Mapping[str, Tensor]
    constants: Mapping[str, float]
    untrained: Mapping[str, int] = field(default_factory=dict)  # the row of a table that gets no gradient
    parts: tuple[OwnPart, ...] = ()  # of one's own
    fields: Mapping[str, Any] = field(default_factory=dict)  # of the config that were changed
    _once: dict[tuple[Any, int], tuple[Tensor, Any]] = field(default_factory=dict)

    def of_shape(self, *shape: int) -> list[tuple[str, Tensor]]:
        """Parameters of one shape."""
        return [(name, one) for name, one in self.parameters.items() if tuple(one.shape) == shape]

    def constant(self, *words: str) -> list[float]:
        """The constants with one of some words in their names, each number once."""
        named = [value for name, value in self.constants.items() if any(word in name for word in words)]
        return list(dict.fromkeys(named))

    @property
    def eps(self) -> list[float]:
        """What a norm may add to the mean square."""
        return list(dict.fromkeys([*(one for one in self.constant("eps") if one < 0.1), *EPS]))

    def linears(self, x: Tensor) -> list[Linear]:
        """Every linear map that the module applies to x (batch, seq, in)."""
        found: list[Linear] = self.once(lambda seen, value: list(seen._found(value)), x)
        return found

    def once(self, search: Callable[["Seen", Tensor], Any], x: Tensor) -> Any:
        """What a search finds for a tensor, looked for the first time only."""
        at = search.__code__, id(x)
        if at not in self._once:
            self._once[at] = x, search(self, x)
        return self._once[at][1]

    def _found(self, x: Tensor) -> Iterator[Linear]:
        rows = x.flatten(0, -2)
        for name, weight in self.parameters.items():
            for way in (weight, weight.T) if weight.ndim == 2 else ():
                if way.shape[1] != x.shape[-1]:
                    continue
                y = rows @ way.T
                for bias in self._added(y):
                    value = (y if bias is None else y + self.parameters[bias]).view(*x.shape[:-1], -1)
                    yield Linear(
                        way,
                        None if bias is None else self.parameters[bias],
                        value,
                        frozenset((name,) if bias is None else (name, bias)),
                    )
                if weight.shape[0] == weight.shape[1] and weight.equal(weight.T):
                    break

    def _added(self, y: Tensor) -> list[str | None]:
        """Which biases the module adds to y (rows, out), by their names; None where it has y as it is."""
        known = self.trace.flat(y.numel()).view(-1, *y.shape)
        rest = known - y
        largest = y.abs().max()
        constant = (rest - rest[:, :1]).abs().amax((1, 2)) < CLOSE * largest
        biases = torch.unique(rest[constant, 0], dim=0)
        found: list[str | None] = [
            name
            for bias in biases
            for name, one in self.of_shape(y.shape[1])
            if (one - bias).abs().max() < CLOSE * largest
        ]
        if not found and self.trace.has(y):
            found = [None]
        return found

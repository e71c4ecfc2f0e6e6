"""Parameters that no pass of a module reads, as those of a cross attention whose encoder nobody gives."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class _Read(TorchFunctionMode):
    """Keeps which tensors go into any function of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read |= {id(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def unread(module: nn.Module, passes: Iterable[Callable[[], object]]) -> frozenset[str]:
    """The names of the parameters that go into nothing in any of the passes."""
    with _Read() as reading:
        for one in passes:
            one()
    return frozenset(name for name, one in module.named_parameters() if id(one) not in reading.read)


def in_any_layer(names: Iterable[str]) -> list[str]:
    """Names of parameters as a key table writes them: of any layer, and weight and bias in one."""
    general = dict.fromkeys(re.sub(r"\.\d+\.", ".{n}.", name, count=1) for name in sorted(names))
    found: dict[str, None] = {}
    for name in general:
        place, _, leaf = name.rpartition(".")
        other = {"weight": "bias", "bias": "weight"}.get(leaf)
        found[f"{place}.*" if f"{place}.{other}" in general else name] = None
    return list(found)

"""The tensors of a person's own module: each once, under its first name; buffers only where a row names them."""

from collections.abc import Container, Iterable, Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SourceError
from ..files.header import Header

WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


class Theirs:
    """The tensors of a module, without what torch has wrapped it in.

    `parameters` and `buffers` have each tensor under its first name; `aliases` leads from other names to that one.

    Raises: SourceError for what is no module, or has no parameters.
    """

    def __init__(self, module: Any) -> None:
        self.module = unwrapped(module)
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.aliases: dict[str, str] = {}
        first: dict[Any, str] = {}
        self._add(self.parameters, self.module.named_parameters(remove_duplicate=False), first)
        self._add(self.buffers, self.module.named_buffers(remove_duplicate=False), first)
        if not self.parameters:
            raise SourceError(f"{self.name}: has no parameters, expected a module with weights")

    def _add(self, group: dict[str, Tensor], named: Iterable[tuple[str, Tensor]], first: dict[Any, str]) -> None:
        for name, tensor in named:
            same = first.setdefault(_memory(tensor), name)
            if same == name:
                group[name] = tensor.detach()
            else:
                self.aliases[name] = same

    @property
    def name(self) -> str:
        """What messages call the module."""
        return type(self.module).__name__

    @property
    def dtype(self) -> torch.dtype:
        """The type that holds all numbers of its parameters."""
        types = [one.dtype for one in self.parameters.values() if one.is_floating_point()]
        return reduce(torch.promote_types, types or [torch.float32])

    def first(self, name: str) -> str:
        """The first name of a tensor that may have several."""
        return self.aliases.get(name, name)

    def __contains__(self, name: object) -> bool:
        first = self.first(str(name))
        return first in self.parameters or first in self.buffers

    def __getitem__(self, name: str) -> Tensor:
        first = self.first(name)
        return self.parameters[first] if first in self.parameters else self.buffers[first]

    def headers(self, named: Iterable[str]) -> dict[str, Header]:
        """Shape and type of every parameter and of the buffers `named`, under the names that are used there."""
        used = [name for name in dict.fromkeys(named) if name in self]
        taken = {self.first(name) for name in used}
        names = [*(name for name in self.parameters if name not in taken), *used]
        return {name: Header(tuple(self[name].shape), self[name].dtype) for name in names}

    def left_empty(self, named: Container[str]) -> Iterator[str]:
        """Buffers on meta that nothing is going to fill."""
        return (name for name, buffer in self.buffers.items() if buffer.is_meta and name not in named)

    def put(self, name: str, values: Tensor) -> None:
        """Give a tensor its values; one on meta is made anew, under all of its names."""
        target = self[name]
        if not target.is_meta:
            target.copy_(values)
            return
        first, made = self.first(name), values.to(target.dtype, copy=True)
        (self.parameters if first in self.parameters else self.buffers)[first] = made
        parameter: nn.Parameter | None = None
        for one in (first, *(other for other, leads in self.aliases.items() if leads == first)):
            path, _, leaf = one.rpartition(".")
            owner = self.module.get_submodule(path)
            if leaf in owner._buffers:
                owner._buffers[leaf] = made
            else:
                if parameter is None:
                    parameter = nn.Parameter(made, owner.get_parameter(leaf).requires_grad)
                owner._parameters[leaf] = parameter


def unwrapped(module: Any) -> nn.Module:
    """What torch.compile or torch's parallel training has wrapped. Raises: SourceError for what is no module."""
    while type(module).__name__ in WRAPPERS:
        module = getattr(module, WRAPPERS[type(module).__name__])
    if not isinstance(module, nn.Module):
        raise SourceError(f"found a {type(module).__name__}, expected a torch.nn.Module of your own")
    return module


def _memory(tensor: Tensor) -> Any:
    """What two names of one tensor have in common."""
    if tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.device

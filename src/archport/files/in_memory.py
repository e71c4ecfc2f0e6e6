"""Tensors in memory as a weights file."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .header import Header


class InMemory:
    """A state_dict as a weights file, whose tensors are shared."""

    mapped = False
    path = Path()
    notes: tuple[str, ...] = ()

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        self._tensors = state_dict
        self.headers = {key: Header(tuple(tensor.shape), tensor.dtype) for key, tensor in state_dict.items()}

    def tensor(self, key: str, *, own: bool = False) -> Tensor:  # noqa: ARG002
        """A tensor by its key."""
        return self._tensors[key].detach()

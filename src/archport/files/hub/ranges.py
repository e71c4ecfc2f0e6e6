"""Single tensors of a safetensors file on the Hub, asked for by the bytes they take; nothing else is fetched."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..header import Header
from ..safetensors_file import MAX_HEADER


@dataclass
class RemoteFile:
    """A file of which `ask(begin, end)` gets bytes; `places` says where tensors lie behind the header."""

    path: Path
    headers: dict[str, Header]
    places: Mapping[str, tuple[int, int]]
    ask: Callable[[int, int], bytes] = field(repr=False)
    mapped: bool = False
    notes: Sequence[str] = ()

    def tensor(self, key: str, *, own: bool = False) -> Tensor:  # noqa: ARG002  # it always has memory of its own
        """A tensor by its key. Raises: SourceError when the server does not send its bytes."""
        begin, end = self.places[key]
        header = self.headers[key]
        if begin == end:
            return torch.empty(header.shape, dtype=header.dtype)
        start = 8 + min(int.from_bytes(self.ask(0, 8), "little"), MAX_HEADER)
        raw = self.ask(start + begin, start + end)
        return torch.frombuffer(bytearray(raw), dtype=header.dtype).reshape(header.shape)

"""What a file says of one tensor."""

from typing import NamedTuple

import torch


class Header(NamedTuple):
    """What a file's header says of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

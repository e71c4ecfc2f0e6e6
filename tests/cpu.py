"""What the CPU at hand can do, by the library's own word; where it cannot, a test holds the fallback to its promise."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from archport.fast.linears import stand_in_for

CPU = torch.device("cpu")


def refusal(kind: str, dtype: torch.dtype = torch.float32) -> str | None:
    """The warning with which swap leaves a model of a dtype as it is; None where it swaps."""
    found = stand_in_for(kind, dtype, CPU)
    return f"the linear maps stay as they are: {found}" if isinstance(found, str) else None


@contextmanager
def swapping(kind: str, dtype: torch.dtype = torch.float32) -> Iterator[bool]:
    """Whether models of a dtype are swapped in this block; where they are not, it has to warn in just those words."""
    message = refusal(kind, dtype)
    if message is None:
        yield True
        return
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        yield False

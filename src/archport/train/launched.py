"""Whether torchrun started this process, among how many, and who goes first."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed


def processes() -> int:
    """How many take part."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def first_process_first() -> Iterator[None]:
    """The others do the same once the first has done it, and find what it wrote."""
    if not distributed.is_initialized():
        yield
        return
    if rank():
        distributed.barrier()
    try:
        yield
    finally:
        if not rank():
            distributed.barrier()

"""Blocks that keep nothing for the backward pass, which computes them again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from ..layers import Decoder


@contextmanager
def recomputed(decoder: Decoder, call: Callable[..., Any] | None = None) -> Iterator[None]:
    """For a while, `call(forward, ..)` stands for the forward pass of each block: torch's checkpoint unless given."""
    call = call or partial(checkpoint, use_reentrant=False)
    for block in decoder.blocks:
        block.forward = partial(call, block.forward)
    try:
        yield
    finally:
        for block in decoder.blocks:
            del block.forward

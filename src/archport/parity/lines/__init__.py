"""The lines of a report, each a function of a comparison and a port; which are drawn, and in which order."""

import math
from collections.abc import Iterator

import torch
from torch import nn

from ...layers import Decoder
from ..budget import Check
from ..compare import Comparison
from .caching import cached
from .exporting import exported
from .forward import embeddings, of_ids, train_mode
from .generating import greedy
from .inside import modules, stream
from .padding import padded
from .training import gradients, loss


def all_lines(comparison: Comparison, port: Decoder, *, quick: bool = False, packed: bool = False) -> Iterator[Check]:
    """All lines; a packed port goes forward only, in its own dtype, so those that need more are left out."""
    of_logits = list(of_ids(comparison, port))
    yield from of_logits
    yield embeddings(comparison, port)
    if quick or any(math.isinf(check.port_error) for check in of_logits):  # of another shape: no loss to speak of
        return
    several = comparison.short.shape[-1] > 1
    if several:
        yield cached(comparison, port)
        yield padded(comparison, port)
        yield greedy(comparison, port)
    if packed:
        yield stream(comparison, port)
        return
    yield train_mode(comparison, port)
    yield modules(comparison, port)
    yield stream(comparison, port)
    if several:
        yield loss(comparison, port)
        # In half precision a ReLU's input may round to either side of its kink and the gradient jumps: no budget holds.
        if comparison.dtype == torch.float32 or not any(isinstance(part, nn.ReLU) for part in port.modules()):
            yield gradients(comparison, port)
    yield exported(comparison, port)


def of_forward_passes(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    """The lines that together show what any fault of a forward pass does to it."""
    yield from of_ids(comparison, port)
    yield cached(comparison, port)
    yield padded(comparison, port)

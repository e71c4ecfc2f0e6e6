"""The lines of a report, each a function of a comparison and a port; which are drawn, and in which order."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ...layers import Decoder
from ..budget import Check
from ..compare import Comparison
from . import caching, calling, dropout, exporting, forward, generating, inside, padding, training


def all_lines(
    comparison: Comparison, port: Decoder, *, quick: bool = False, packed: bool = False, compiled: bool = False
) -> Iterator[Check]:
    """All lines; a packed port goes forward only, in its own dtype, so those that need more are left out.

    Steps are compiled only where that is asked for, as it takes longer than all the rest.
    """
    of_logits = list(forward.of_ids(comparison, port))
    yield from of_logits
    yield forward.embeddings(comparison, port)
    if quick or any(math.isinf(check.port_error) for check in of_logits):  # of another shape: no loss to speak of
        return
    several = comparison.short.shape[-1] > 1
    yield from _of_calls(comparison, port)
    if several:
        yield from _of_texts(comparison, port)
    if compiled:
        yield caching.compiled(comparison, port)
    if packed:
        yield inside.stream(comparison, port)
        return
    yield from calling.autocast(comparison, port)
    yield dropout.train_mode(comparison, port)
    yield from dropout.dropped(comparison, port)
    yield inside.modules(comparison, port)
    yield from inside.own_classes(comparison, port)
    yield inside.stream(comparison, port)
    yield training.trained(comparison, port)
    if several:
        yield training.loss(comparison, port)
        # In half precision a ReLU's input may round to either side of its kink and the gradient jumps: no budget holds.
        if comparison.dtype == torch.float32 or not any(isinstance(part, nn.ReLU) for part in port.modules()):
            yield training.gradients(comparison, port)
    yield training.every_token(comparison, port)
    yield exporting.exported(comparison, port)
    yield exporting.config(comparison, port)
    if comparison.source is not None:
        yield exporting.of_source(port, comparison.source)


def _of_calls(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    yield calling.int32_ids(comparison, port)
    yield calling.again(comparison, port)
    yield from calling.positions_given(comparison, port)


def _of_texts(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    """Lines about texts of several tokens, whole, padded, in pieces and continued."""
    yield caching.cached(comparison, port)
    yield padding.padded(comparison, port)
    yield padding.right_padded(comparison, port)
    yield caching.cached_padded(comparison, port)
    if comparison.longest != comparison.first:
        yield caching.cached_far(comparison, port)
    yield calling.next_tokens(comparison, port)
    yield caching.static(comparison, port)
    yield generating.greedy(comparison, port)
    yield generating.chosen(comparison)
    yield from generating.sampled(comparison, port)
    yield generating.ended(comparison, port)


def of_forward_passes(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    """The lines that together show what any fault of a forward pass does to it."""
    yield from forward.of_ids(comparison, port)
    yield caching.cached(comparison, port)
    yield padding.padded(comparison, port)


BY_NAME: dict[str, Callable[[Comparison, Decoder], Check | Iterator[Check]]] = {
    caching.CACHED_FAR: caching.cached_far,
    caching.CACHED_PADDED: caching.cached_padded,
    caching.STATIC: caching.static,
    padding.RIGHT_PADDED: padding.right_padded,
    calling.INT32: calling.int32_ids,
    calling.POSITIONS: calling.positions_given,
    calling.NEXT: calling.next_tokens,
    calling.AUTOCAST: calling.autocast,
    calling.AGAIN: calling.again,
    dropout.DROPPED: dropout.dropped,
    inside.OWN: inside.own_classes,
    training.EVERY_TOKEN: training.every_token,
    training.TRAINED: training.trained,
    generating.CHOSEN: lambda comparison, _: generating.chosen(comparison),
    generating.ENDED: generating.ended,
    exporting.EXPORTED: exporting.exported,
    exporting.CONFIG: exporting.config,
}


def line(name: str, comparison: Comparison, port: Decoder) -> list[Check]:
    """One line by its name, or none where it does not apply; those of forward passes are drawn anyway."""
    if name not in BY_NAME:
        return []
    made = BY_NAME[name](comparison, port)
    return [made] if isinstance(made, Check) else list(made)

"""Other ways to run a model, ours or theirs: in pieces, padded, step by step, with positions, under autocast."""

from collections.abc import Sequence
from contextlib import nullcontext
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..fast.compiled import CompiledStep
from ..generation.cache import KVCache, StaticCache
from ..layers import Decoder
from .references import empty_cache
from .running import RaisedError, run

PADS = 5  # tokens of padding
STEPS = 3  # tokens that are added one by one


def pieces(length: int) -> list[int]:
    """Where to cut a text for a cache: one token, 7, the rest but 4, and these one by one."""
    return _cut(length, (1, 8, length - 4, length - 3, length - 2, length - 1))


def long_pieces(length: int) -> list[int]:
    """Where to cut a long text for a cache: in the middle, and before its last token."""
    return _cut(length, (length // 2, length - 1))


def padded_pieces(length: int) -> list[int]:
    """Where to cut a text with padding before it for a cache: soon after the padding, and before its last tokens."""
    return _cut(length, (PADS + 2, length - 2, length - 1))


def step_pieces(length: int) -> list[int]:
    """Where to cut a text whose last tokens are added one by one."""
    return _cut(length, range(max(1, length - STEPS), length))


def _cut(length: int, inner: Sequence[int]) -> list[int]:
    return sorted({0, *(at for at in inner if 0 < at < length), length})


@torch.no_grad()
def cached_logits(
    model: nn.Module, ids: Tensor, bounds: Sequence[int] | None = None, mask: Tensor | None = None
) -> Tensor:
    """Logits of ids that go through a cache in pieces, by ours or by theirs; `mask` is false for padding."""
    if isinstance(model, Decoder):
        cache: dict[str, Any] = {"cache": KVCache(model, batch=len(ids), capacity=ids.shape[-1])}
    else:
        name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"  # as it was till 5.23
        cache = {name: empty_cache(), "use_cache": True}
    ends = pairwise(bounds or pieces(ids.shape[-1]))
    made = [run(model, ids[:, start:end], **cache, **_masked(model, mask, start, end)) for start, end in ends]
    return torch.cat(made, dim=1)


@torch.no_grad()
def padded_logits(model: nn.Module, ids: Tensor, side: str = "left", bounds: Sequence[int] | None = None) -> Tensor:
    """Logits of the first row of some ids and of a shorter one padded to its length, padding left out: (1, tokens, ..).

    With `bounds` they go through a cache in pieces.
    """
    batch, mask = padded_rows(ids, side)
    with nullcontext() if isinstance(model, Decoder) else _sees_nothing():
        if bounds is not None:
            return cached_logits(model, batch, bounds, mask)[mask][None]
        return run(model, batch, **_masked(model, mask, 0, batch.shape[-1]))[mask][None]


class _sees_nothing(TorchFunctionMode):
    """Lets a query of padding, of which the reference hides all keys, see none, where in float64 it makes a NaN."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made.nan_to_num() if func in (F.softmax, torch.softmax, Tensor.softmax) else made


def padded_row(ids: Tensor) -> Tensor:
    """The tokens of the row that is padded."""
    return ids[-1:, min(PADS, ids.shape[-1] - 1) :]


def padded_rows(ids: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """Two rows, the second with padding on the left or on the right, and the mask of both: (2, tokens) each."""
    alone = padded_row(ids)
    pads = ids.shape[-1] - alone.shape[-1]
    widths = (pads, 0) if side == "left" else (0, pads)
    batch = torch.cat((ids[:1], F.pad(alone, widths)))
    mask = torch.ones_like(batch, dtype=torch.bool)
    mask[1] = F.pad(torch.ones_like(alone[0], dtype=torch.bool), widths)
    return batch, mask


def _masked(model: nn.Module, mask: Tensor | None, start: int, end: int) -> dict[str, Tensor]:
    """What a pass over some tokens is told of padding, of those before too: ours counts positions for itself."""
    if mask is None:
        return {}
    if isinstance(model, Decoder):
        return {"mask": mask[:, :end]}
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return {"attention_mask": mask[:, :end].long(), "position_ids": positions[:, start:end]}


@torch.no_grad()
def stepped_logits(port: Decoder, ids: Tensor, mask: Tensor | None = None, *, compiled: bool = False) -> Tensor:
    """The next tokens' logits where the last ids are added to a static cache, one by one: (batch, steps + 1, vocab).

    Raises: RaisedError.
    """
    length, start = ids.shape[-1], step_pieces(ids.shape[-1])[1]
    room = min(length + STEPS, max(length, port.config.context))  # some of it stays empty
    before = None if mask is None else mask[:, :start]
    try:
        cache = KVCache(port, batch=len(ids), capacity=room)
        made = [port.next_logits(ids[:, :start], mask=before, cache=cache)]
        static = StaticCache(cache)
        full = None if before is None else F.pad(before, (0, room - start), value=True)
        step = CompiledStep(port, static, before) if compiled else None
        for token in ids[:, start:].split(1, dim=1):
            made.append(port.next_logits(token, mask=full, cache=static) if step is None else step(token).clone())
    except Exception as error:
        raise RaisedError("a step with a static cache", error) from error
    return torch.stack(made, dim=1)


def takes_positions(reference: nn.Module) -> bool:
    """Whether positions can be given to the reference."""
    return "position_ids" in signature(reference.forward).parameters


@torch.no_grad()
def positioned_logits(model: nn.Module, ids: Tensor, first: int = 0) -> Tensor:
    """Logits where positions are given: in the first row they count backwards, in the others as ever.

    The reference calls the first position `first`.
    """
    positions = torch.arange(ids.shape[-1], device=ids.device).repeat(len(ids), 1)
    positions[0] = positions[0].flip(0)
    if isinstance(model, Decoder):
        return run(model, ids, positions=positions)
    # Without a mask, positions that fall are taken for texts that are packed into one row.
    return run(model, ids, position_ids=positions + first, attention_mask=torch.ones_like(ids), use_cache=False)


@torch.no_grad()
def autocast_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits of a float32 model whose linear maps run in bfloat16."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        return run(model, ids)


@torch.no_grad()
def next_logits(port: Decoder, ids: Tensor) -> Tensor:
    """What `next_logits` says of the token after each of two rows, of which one is padded: (2, 1, vocab).

    Raises: RaisedError.
    """
    batch, mask = padded_rows(ids, "left")
    try:
        return port.next_logits(batch, mask=mask)[:, None]
    except Exception as error:
        raise RaisedError("next_logits", error) from error

"""The key-value cache: what attention made of the tokens so far, allocated once and written in place."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config import dtype_name
from .layers import Decoder, PositionedEmbed


@dataclass
class LayerCache:
    """Keys and values of one layer, and a view of the cache they are part of."""

    keys: Tensor  # (batch, heads, capacity, head_width)
    values: Tensor
    cache: "KVCache"

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (batch, heads, seq, head_width) of each after what is there; return all so far. Raises: ValueError."""
        if torch.is_grad_enabled() and k.requires_grad:
            raise ValueError("a cache keeps no gradients: use it inside torch.no_grad() or torch.inference_mode()")
        start, end = self.cache.length, self.cache.length + k.shape[-2]
        if (k.shape[1], k.shape[3], k.dtype) != (self.keys.shape[1], self.keys.shape[3], self.keys.dtype):
            made, given = (f"{t.shape[1]} heads of {t.shape[3]} in {dtype_name(t.dtype)}" for t in (self.keys, k))
            raise ValueError(f"{given} do not fit into a cache made for {made}")
        if end > self.cache.capacity or len(k) != self.cache.batch:
            given = f"{len(k)} rows and {end} tokens"
            raise ValueError(
                f"{given} do not fit into a cache of {self.cache.batch} rows and {self.cache.capacity} tokens"
            )
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Room for `capacity` tokens of `batch` rows; `length` of them are filled. Raises: ValueError.

    Hand it to `Decoder.forward`, which reads and fills it. `crop` forgets the last tokens, `fork` copies rows.
    """

    def __init__(self, model: Decoder, *, batch: int = 1, capacity: int | None = None) -> None:
        context = model.config.context
        capacity = context if capacity is None else capacity
        _counted(batch=batch, capacity=capacity)
        if isinstance(model.embed, PositionedEmbed) and capacity > context:
            raise ValueError(f"a cache of {capacity} tokens, but this model has learned {context} positions")
        attention: Any = model.blocks[0].attn
        weight = model.norm.weight
        shape = (2, len(model.blocks), batch, attention.heads, capacity, attention.head_width)
        self._fill(torch.empty(shape, dtype=weight.dtype, device=weight.device), length=0)

    def _fill(self, held: Tensor, length: int) -> None:
        self._held, self.length = held, length  # (2, layers, batch, heads, capacity, head_width)
        self.layers = [LayerCache(k, v, self) for k, v in zip(*held, strict=True)]

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self._held.shape[2]

    @property
    def capacity(self) -> int:
        """Number of tokens there is room for."""
        return self._held.shape[4]

    @property
    def bytes(self) -> int:
        """Memory it takes, filled or not."""
        return self._held.nbytes

    def keys(self, seq: int) -> int:
        """How many keys a layer gives back when it adds `seq` tokens."""
        return self.length + seq

    def advance(self, seq: int) -> None:
        """Count tokens that every layer has added."""
        self.length += seq

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens. Raises: ValueError when there are fewer."""
        if type(length) is not int or not 0 <= length <= self.length:
            raise ValueError(f"{length} tokens to keep, expected 0 to {self.length}")
        self.length = length

    def fork(self, copies: int) -> "KVCache":
        """A cache with each row `copies` times, one after another, of the same capacity; the two share nothing."""
        _counted(copies=copies)
        made = object.__new__(KVCache)
        first, layers, batch, *rest = self._held.shape
        held = self._held.new_empty(first, layers, batch * copies, *rest)
        held[..., : self.length, :] = self._held[..., : self.length, :].repeat_interleave(copies, dim=2)
        made._fill(held, self.length)
        return made

    def __repr__(self) -> str:
        return f"KVCache({self.length} of {self.capacity} tokens, {self.batch} rows, {self.bytes:,} bytes)"


def _counted(**numbers: int) -> None:
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}: found {value!r}, expected a whole number from 1")

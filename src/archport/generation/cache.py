"""The key-value cache: what attention made of the tokens so far, allocated once and written in place."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import dtype_name
from ..keywords import strict_keywords
from ..layers import Decoder, PositionedEmbed


class NoRoom(ValueError):
    """A cache is larger than the memory that can be had; `of_row` is what a row of it takes, in bytes."""

    def __init__(self, cache: "KVCache", of_row: int) -> None:
        sizes = f"{cache.batch} rows and {cache.capacity:,} tokens"
        super().__init__(f"a cache of {sizes} would take {cache.batch * of_row:,} bytes, more than can be had here")
        self.of_row = of_row


class LayerCache:
    """Keys and values of one layer of a KVCache; there is room for them from the first on, of their sizes and dtype."""

    def __init__(self, cache: "KVCache") -> None:
        self.cache = cache
        self.keys: Tensor | None = None  # (batch, kv_heads, capacity, head_width)
        self.values: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (batch, kv_heads, seq, head_width) of each, and return all so far. Raises: ValueError."""
        if torch.is_grad_enabled() and k.requires_grad:
            raise ValueError("a cache keeps no gradients: use it inside torch.no_grad() or torch.inference_mode()")
        start, end = self.cache.length, self.cache.length + k.shape[-2]
        if end > self.cache.capacity or len(k) != self.cache.batch:
            given = f"{len(k)} rows and {end} tokens"
            expected = f"{self.cache.batch} rows and {self.cache.capacity} tokens"
            raise ValueError(f"{given} do not fit into a cache of {expected}")
        if self.keys is None or self.values is None:
            self.keys, self.values = (self._room(tensor) for tensor in (k, v))
        if _sizes(k) != _sizes(self.keys):
            raise ValueError(f"{_in_words(k)} do not fit into a cache made for {_in_words(self.keys)}")
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _room(self, like: Tensor) -> Tensor:
        return self.cache.room(like, len(like))


class KVCache:
    """Room for `capacity` tokens of `batch` rows; `length` of them are filled. Raises: ValueError.

    Hand it to `Decoder.forward`, which reads and fills it. `crop` forgets the last tokens, `fork` copies rows. Each
    layer takes its sizes and dtype from the first keys that it is given.
    """

    @strict_keywords
    def __init__(self, model: Decoder, *, batch: int = 1, capacity: int | None = None) -> None:
        if not isinstance(model, Decoder):
            raise ValueError(f"found a {type(model).__name__} for a model, expected a Decoder of archport")
        context = model.config.context
        capacity = context if capacity is None else capacity
        _counted(batch=batch, capacity=capacity)
        if isinstance(model.embed, PositionedEmbed) and capacity > context:
            raise ValueError(f"a cache of {capacity} tokens, but this model has learned {context} positions")
        self.batch, self.capacity, self.length = batch, capacity, 0
        self.layers = [LayerCache(self) for _ in model.blocks]

    @property
    def bytes(self) -> int:
        """Memory it takes, filled or not."""
        tensors = (tensor for layer in self.layers for tensor in (layer.keys, layer.values) if tensor is not None)
        return sum(tensor.nbytes for tensor in tensors)

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
        fork = object.__new__(KVCache)
        fork.batch, fork.capacity, fork.length = self.batch * copies, self.capacity, self.length
        fork.layers = [LayerCache(fork) for _ in self.layers]
        for layer, own in zip(fork.layers, self.layers, strict=True):
            if own.keys is not None and own.values is not None:
                layer.keys, layer.values = (self._repeated(tensor, copies) for tensor in (own.keys, own.values))
        return fork

    def room(self, like: Tensor, rows: int) -> Tensor:
        """Memory for the keys or values of a layer, as these are. Raises: NoRoom."""
        sizes = rows, like.shape[1], self.capacity, like.shape[3]
        try:
            with torch.inference_mode(False):  # or it could not be written to outside of it
                return like.new_empty(sizes)
        except (RuntimeError, TypeError):  # too large for the memory, or for torch to count
            raise NoRoom(self, 2 * len(self.layers) * math.prod(sizes[1:]) * like.element_size()) from None

    def _repeated(self, held: Tensor, copies: int) -> Tensor:
        room = self.room(held, len(held) * copies)
        room[:, :, : self.length] = held[:, :, : self.length].repeat_interleave(copies, dim=0)
        return room

    def __repr__(self) -> str:
        return f"KVCache({self.length} of {self.capacity} tokens, {self.batch} rows, {self.bytes:,} bytes)"


@dataclass
class _StaticLayer:
    """One layer of a cache that gives all of its room back; what is not filled yet, a mask leaves out."""

    keys: Tensor  # (batch, kv_heads, capacity, head_width)
    values: Tensor
    length: Tensor

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (batch, kv_heads, 1, head_width) of each after what is there."""
        self.keys.index_copy_(2, self.length, k)
        self.values.index_copy_(2, self.length, v)
        return self.keys, self.values


class StaticCache:
    """A filled KVCache, its memory and all, whose length is a tensor (1): no shape depends on it."""

    def __init__(self, cache: KVCache) -> None:
        self.batch, self.capacity = cache.batch, cache.capacity
        filled = [(one.keys, one.values) for one in cache.layers if one.keys is not None and one.values is not None]
        self.length = torch.tensor([cache.length], device=filled[0][0].device)
        self.layers = [_StaticLayer(keys, values, self.length) for keys, values in filled]
        for layer in self.layers:  # what is masked counts 0 times, and 0 times NaN would be NaN
            layer.keys[:, :, cache.length :] = 0
            layer.values[:, :, cache.length :] = 0

    def keys(self, seq: int) -> int:  # noqa: ARG002  # however many are added
        """How many keys a layer gives back."""
        return self.capacity

    def advance(self, seq: int) -> None:
        """Count tokens that were added."""
        self.length.add_(seq)


def _sizes(k: Tensor) -> tuple[int, int, torch.dtype]:
    return k.shape[1], k.shape[3], k.dtype


def _in_words(k: Tensor) -> str:
    return f"{k.shape[1]} heads of {k.shape[3]} in {dtype_name(k.dtype)}"


def _counted(**numbers: int) -> None:
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}: found {value!r}, expected a whole number from 1")

"""What attention needs to know of one forward pass: where each token stands, what it may see, what is cached."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from .rotary import Rotary, Rotation


class LayerCache(Protocol):
    """The keys and values that one layer has made so far."""

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (batch, kv_heads, seq, head_width) of each, and return all of them."""


class Cache(Protocol):
    """A cache for each layer, of the `length` tokens before; a tensor where no shape may depend on it."""

    @property
    def length(self) -> int | Tensor:
        """How many there were."""

    @property
    def layers(self) -> Sequence[LayerCache]:
        """One for each block."""

    def keys(self, seq: int) -> int:
        """How many keys a layer gets back when it adds `seq` more."""

    def advance(self, seq: int) -> None:
        """Count tokens that every layer has added."""


@dataclass(frozen=True)
class AttentionContext:
    """What one block needs to know of a forward pass; worked out once a pass, and shared by the layers.

    `positions` count the tokens of each text; `places` are the indices of the queries' own tokens among all `keys`.
    `mask` is true where a query may look. Without one, each sees itself and the tokens before it where `causal`, and
    else all keys. `rotations` and `masks` are what layers share: made by the first of them.
    """

    positions: Tensor  # (seq) or (batch, seq)
    places: Tensor  # (seq)
    keys: int
    key_positions: Tensor  # (batch or 1, keys)
    mask: Tensor | None = None  # (batch or 1, 1, seq, keys)
    causal: bool = True
    dtype: torch.dtype = torch.float32  # of the stream
    cache: LayerCache | None = None
    rotations: dict[Rotary, Rotation] = field(default_factory=dict)
    masks: dict[nn.Module, tuple[Tensor | None, bool]] = field(default_factory=dict)

    @property
    def visible(self) -> Tensor:  # (batch or 1, 1, seq, keys)
        """Which keys each query may see, written out."""
        if self.mask is None:
            shape = (1, 1, len(self.places), self.keys)
            everything = torch.ones(shape, dtype=torch.bool, device=self.places.device)
            return visible(None, self.places, self.keys) if self.causal else everything
        return self.mask

    def rotated(self, x: Tensor, rotary: Rotary | None) -> Tensor:  # (batch, heads, seq, head_width), same out
        """Queries or keys turned by their positions; the angles are computed once for all layers that share them."""
        if rotary is None:
            return x
        if rotary not in self.rotations:
            positions = self.positions if self.positions.ndim == 1 else self.positions[:, None]
            self.rotations[rotary] = rotary(positions, self.dtype)
        return self.rotations[rotary](x)

    def masked(self, narrower: nn.Module | None) -> tuple[Tensor | None, bool]:  # (batch or 1, 1 or heads, seq, keys)
        """The mask, and whether it is the causal one that need not be written out; narrowed by a part that does so."""
        if narrower is None:
            return self.mask, self.causal
        if narrower not in self.masks:
            mask = narrower(self)
            self.masks[narrower] = (self.mask, self.causal) if mask is None else (mask, False)
        return self.masks[narrower]

    def hidden(self, scores: Tensor, narrower: nn.Module | None) -> Tensor:  # (batch, heads, seq, keys), same out
        """Scores that are minus infinity where a query may not look, plus what the mask adds elsewhere."""
        mask, causal = self.masked(narrower)
        mask = self.visible if mask is None and causal else mask
        if mask is None:
            return scores
        return scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, -torch.inf)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # (batch, kv_heads, seq, ..) -> (.., keys, ..)
        """Put keys and values after those of the tokens before."""
        return (k, v) if self.cache is None else self.cache.extend(k, v)

    def for_layers(self, dtype: torch.dtype, cache: Cache | None, count: int) -> Iterator["AttentionContext"]:
        """A context for each of the first blocks, for a stream of this dtype."""
        for number in range(count):
            yield replace(self, dtype=dtype, cache=cache.layers[number] if cache else None)


def of_pass(
    batch: int, seq: int, device: torch.device, *, positions: Tensor | None, mask: Tensor | None, cache: Cache | None
) -> AttentionContext:
    """Where `seq` tokens of each row stand and what they may see, alone or after those in a cache.

    Raises: ValueError for a mask or positions of another shape, or that are no tensors.
    """
    past, keys = (cache.length, cache.keys(seq)) if cache else (0, seq)
    if not isinstance(mask, Tensor | None):
        raise ValueError(f"mask: found a {type(mask).__name__}, expected a tensor (batch, cached + seq)")
    if not isinstance(positions, Tensor | None):
        raise ValueError(f"positions: found a {type(positions).__name__}, expected a tensor (seq) or (batch, seq)")
    if mask is not None and mask.shape != (batch, keys):
        raise ValueError(f"a mask of shape {tuple(mask.shape)}, expected {(batch, keys)}")
    if mask is not None and mask.is_floating_point():
        raise ValueError("a mask of floating-point numbers, expected true for tokens and false for padding")
    if positions is not None and positions.shape not in ((seq,), (batch, seq), (1, seq)):
        raise ValueError(f"positions of shape {tuple(positions.shape)}, expected {(seq,)} or {(batch, seq)}")
    places = torch.arange(seq, device=device) + past
    counted = torch.arange(keys, device=device)[None] if mask is None else (mask.long().cumsum(-1) - 1).clamp(min=0)
    if positions is None:
        positions = places if mask is None else counted[:, places]
    if mask is not None or (keys > seq and (seq > 1 or isinstance(past, Tensor))):
        return AttentionContext(positions, places, keys, counted, visible(mask, places, keys), causal=False)
    # One token alone sees all that there is; several without a cache see those before them.
    return AttentionContext(positions, places, keys, counted, causal=keys == seq)


def visible(mask: Tensor | None, places: Tensor, keys: int) -> Tensor:  # (batch or 1, 1, seq, keys)
    """Which of the keys the queries at some places (seq) may see: not those ahead, and of padding only their own."""
    key = torch.arange(keys, device=places.device)
    earlier = key <= places[:, None]
    if mask is None:
        return earlier[None, None]
    own = key == places[:, None]  # or padding would see nothing, and a softmax over nothing is NaN, which spreads
    return earlier & mask[:, None, None].bool() | own

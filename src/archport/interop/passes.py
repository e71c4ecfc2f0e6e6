"""What a forward pass of transformers is given, as ours takes it: its cache, and texts that are one a row."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache, cache_utils
from transformers.cache_utils import Cache

from ..layers import LayerCache

# One layer of a dynamic cache; before transformers 4.54 there were none, and such a cache kept all tokens.
DynamicLayer: Any = getattr(cache_utils, "DynamicLayer", ())


class _PastLayer:
    """One layer of a transformers cache as one of ours."""

    def __init__(self, cache: Cache, number: int) -> None:
        self.cache, self.number = cache, number

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (batch, kv_heads, seq, head_width) of each, and return all so far."""
        k, v = self.cache.update(k, v, self.number)
        return k, v


class Past:
    """A dynamic cache of transformers as one of ours. Raises: ValueError for one of another kind."""

    def __init__(self, cache: Cache, layers: int) -> None:
        held = getattr(cache, "layers", [])
        if not (all(isinstance(layer, DynamicLayer) for layer in held) and (held or isinstance(cache, DynamicCache))):
            raise ValueError(f"found a {type(cache).__name__}, expected a DynamicCache: leave cache_implementation out")
        self.length = int(cache.get_seq_length())  # before this pass, in which layers fill one after another
        sliding = [getattr(layer, "is_sliding", False) for layer in held]
        if any(sliding) and not self.length:  # they would drop tokens, which our masks hide instead
            cache.layers = [DynamicLayer() if one else layer for one, layer in zip(sliding, held, strict=True)]
        elif any(sliding):
            raise ValueError("found a cache that drops tokens, expected one that this model has filled from the start")
        self.layers: Sequence[LayerCache] = [_PastLayer(cache, number) for number in range(layers)]

    def keys(self, seq: int) -> int:
        """How many keys a layer gives back when it adds `seq` tokens."""
        return self.length + seq

    def advance(self, seq: int) -> None:
        """Nothing: it counts what its layers hold."""


def require_one_text(positions: Tensor | None, mask: Tensor | None, cached: bool) -> None:
    """Refuse rows of several texts, which transformers knows by positions that start again. Raises: ValueError."""
    alone = positions is not None and mask is None and not cached
    if alone and positions is not None and bool((positions.diff(dim=-1) != 1).any()):
        raise ValueError("position_ids that start again: several texts in a row would see each other: pad them instead")

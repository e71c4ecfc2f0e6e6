"""What the blocks of a Decoder share during one forward pass: positions, what may be seen, what went before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .rotary import Rotation


class Memory(Protocol):
    """The keys and values that one layer has made so far."""

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (batch, heads, seq, head_width) of each, and return all of them."""


class Memories(Protocol):
    """The memory of each layer, for the `length` tokens that went before; a tensor where no shape may depend on it."""

    @property
    def length(self) -> int | Tensor:
        """How many there were."""

    @property
    def layers(self) -> Sequence[Memory]:
        """One for each block."""

    def keys(self, seq: int) -> int:
        """How many keys a layer gets back when it adds `seq` more."""

    def advance(self, seq: int) -> None:
        """Count tokens that every layer has added."""


@dataclass(frozen=True)
class Step:
    """What every block needs to know of one forward pass besides the stream itself; made once by the Decoder.

    `mask` is true where a query may look, for passes that `causal`, every token at those before it, does not describe.
    """

    rotation: Rotation | None
    mask: Tensor | None = None  # (batch or 1, 1, seq, keys)
    causal: bool = True
    memory: Memory | None = None

    def rotate(self, x: Tensor) -> Tensor:  # (batch, heads, seq, head_width), same out
        """Give queries or keys their positions, in models that do so here."""
        return x if self.rotation is None else self.rotation(x)

    def remember(
        self, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:  # (batch, heads, seq, head_width), (.., keys, ..)
        """Put keys and values after those of the tokens before."""
        return (k, v) if self.memory is None else self.memory.extend(k, v)


def visible(mask: Tensor | None, places: Tensor, keys: int) -> Tensor:  # (batch or 1, 1, seq, keys)
    """Which of the keys the queries at some places (seq) may see: not those ahead, and of padding only their own."""
    key = torch.arange(keys, device=places.device)
    earlier = key <= places[:, None]
    if mask is None:
        return earlier[None, None]
    own = key == places[:, None]  # or padding would see nothing and become NaN
    return earlier & mask[:, None, None].bool() | own

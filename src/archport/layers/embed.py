"""Token ids to vectors, with or without learned positions."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sharding import WHOLE, Cut, Sharding


class Embed(nn.Module):
    """Token ids to vectors, times `scale` and normed by `norm` where given; row `padding` gets no gradient."""

    sharding: ClassVar = Sharding({"tokens": Cut.ROWS})

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        padding: int | None = None,
        scale: float | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=padding)
        self.scale, self.norm = scale, norm
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:  # (batch, seq), (seq) -> (batch, seq, width)
        """Look the tokens up and place them. Raises: ValueError for an id outside the vocabulary."""
        return self.place(look_up(self.tokens, ids, "token"), positions)

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002  # (batch, seq, width), (seq)
        """What becomes of token vectors before the first block; positions come later, inside attention."""
        return self.dropout(self.scaled(vectors))

    def scaled(self, vectors: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Token vectors times the scale, and normed, in models that do."""
        vectors = vectors if self.scale is None else vectors * self.scale
        return vectors if self.norm is None else self.norm(vectors)

    def extra_repr(self) -> str:
        """The settings, for print."""
        return "" if self.scale is None else f"scale={self.scale:g}"


class PositionedEmbed(Embed):
    """Token ids to vectors, plus a learned vector for each position up to `context`, which lie from row `offset` on.

    Source: GPT-2, Radford et al. 2019; the offset: `OPTLearnedPositionalEmbedding`.
    """

    sharding: ClassVar = Embed.sharding

    def __init__(self, vocab_size: int, width: int, *, context: int, offset: int = 0, **more: Any) -> None:
        super().__init__(vocab_size, width, **more)
        self.offset = offset
        self.positions = nn.Embedding(context + offset, width)

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:  # (batch, seq, width), (seq) or (batch, seq)
        """Add the learned positions. Raises: ValueError past the last of them."""
        return self.dropout(self.placed(vectors, positions))

    def placed(self, vectors: Tensor, positions: Tensor) -> Tensor:  # (batch, seq, width), (seq) or (batch, seq)
        """Token vectors plus those of their positions."""
        learned = self.positions.num_embeddings - self.offset
        if positions.shape[-1] > learned:
            raise ValueError(f"{positions.shape[-1]} tokens, but this model has learned {learned} positions")
        return self.scaled(vectors) + look_up(self.positions, positions + self.offset, "position")


class SummedEmbed(PositionedEmbed):
    """Token ids to vectors, plus that of the first of `segments`, plus learned positions; `last` norms the sum.

    Source: `BertEmbeddings`.
    """

    sharding: ClassVar = Embed.sharding

    def __init__(
        self, vocab_size: int, width: int, *, segments: int = 0, last: nn.Module | None = None, **more: Any
    ) -> None:
        super().__init__(vocab_size, width, **more)
        self.segments = nn.Embedding(segments, width) if segments else None
        self.last = last

    def scaled(self, vectors: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Token vectors as those of one text, which has no second segment."""
        vectors = super().scaled(vectors)
        return vectors if self.segments is None else vectors + self.segments.weight[0]

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:  # (batch, seq, width), (seq) or (batch, seq)
        """Add the learned positions, norm. Raises: ValueError past the last of them."""
        placed = self.placed(vectors, positions)
        return self.dropout(placed if self.last is None else self.last(placed))


class CountedEmbed(SummedEmbed):
    """Token ids to vectors, whose positions count the tokens that are not `padding`, which has a row of its own.

    Rows of positions lie from `padding` + 1 on, where a text has no padding. Source: `RobertaEmbeddings`.
    """

    sharding: ClassVar = Embed.sharding

    def __init__(self, vocab_size: int, width: int, *, context: int, padding: int, **more: Any) -> None:
        super().__init__(vocab_size, width, context=context, offset=padding + 1, padding=padding, **more)
        self.padding = padding
        self.positions = nn.Embedding(context + self.offset, width, padding_idx=padding)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:  # (batch, seq), (seq) or (batch, seq)
        """Look the tokens up and place them. Raises: ValueError for an id outside the vocabulary."""
        skipped = ids.eq(self.padding)
        if positions.ndim > 1:  # of rows whose texts begin at the last 0
            before = positions.eq(0) & F.pad(positions[..., 1:], (0, 1)).eq(0)
            skipped = skipped & ~before
        counted = positions - skipped.cumsum(-1)
        return self.place(look_up(self.tokens, ids, "token"), counted.where(ids.ne(self.padding), -1))


class ProjectedEmbed(PositionedEmbed):
    """Token vectors of their own width, projected to the stream's before they are placed. Source: `OPTDecoder`."""

    sharding: ClassVar = Embed.sharding

    def __init__(
        self, vocab_size: int, width: int, *, token_width: int, padding: int | None = None, **more: Any
    ) -> None:
        super().__init__(vocab_size, width, **more)
        self.tokens = nn.Embedding(vocab_size, token_width, padding_idx=padding)
        self.project = nn.Linear(token_width, width, bias=False)

    def scaled(self, vectors: Tensor) -> Tensor:  # (batch, seq, token_width) -> (batch, seq, width)
        """Token vectors as wide as the stream."""
        return self.project(super().scaled(vectors))


class ScaledEmbedding(nn.Embedding):
    """A table whose rows come out times `scale`, which is rounded to their precision. Source: `Gemma3TextModel`."""

    sharding: ClassVar = WHOLE

    def __init__(self, rows: int, width: int, *, scale: float, padding: int | None = None) -> None:
        super().__init__(rows, width, padding_idx=padding)
        self.scale = scale

    def forward(self, indices: Tensor) -> Tensor:  # (..) -> (.., width)
        """Look up and scale."""
        return super().forward(indices) * torch.tensor(self.scale, dtype=self.weight.dtype)

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"{super().extra_repr()}, scale={self.scale:g}"


class ScaledEmbed(Embed):
    """Token ids to vectors that are scaled inside the lookup, so that vectors in the place of ids are not."""

    def __init__(self, vocab_size: int, width: int, *, scale: float, padding: int | None = None, **more: Any) -> None:
        super().__init__(vocab_size, width, **more)
        self.tokens = ScaledEmbedding(vocab_size, width, scale=scale, padding=padding)


def look_up(table: nn.Embedding, indices: Tensor, what: str) -> Tensor:  # (..) -> (.., width)
    """Rows of a table by their indices. Raises: ValueError naming the first index that the table does not have."""
    try:
        rows: Tensor = table(indices)
    except IndexError:
        size = table.num_embeddings
        outside = indices[(indices < 0) | (indices >= size)]
        raise ValueError(f"{what} {int(outside[0])}, but this model has learned {size}, from 0 on") from None
    return rows

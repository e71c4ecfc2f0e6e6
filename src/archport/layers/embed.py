"""Token ids to vectors, with or without learned positions."""

from torch import Tensor, nn


class Embed(nn.Module):
    """Token ids to vectors."""

    def __init__(self, vocab_size: int, width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:  # (batch, seq), (seq) -> (batch, seq, width)
        """Look the tokens up and place them. Raises: ValueError for an id outside the vocabulary."""
        return self.place(look_up(self.tokens, ids, "token"), positions)

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002  # (batch, seq, width), (seq)
        """What becomes of token vectors before the first block; positions come later, inside attention."""
        return self.dropout(vectors)


class PositionedEmbed(Embed):
    """Token ids to vectors, plus a learned vector for each position up to `context`.

    Source: GPT-2, Radford et al. 2019.
    """

    def __init__(self, vocab_size: int, width: int, *, context: int, dropout: float = 0.0) -> None:
        super().__init__(vocab_size, width, dropout=dropout)
        self.positions = nn.Embedding(context, width)

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:  # (batch, seq, width), (seq) or (batch, seq)
        """Add the learned positions. Raises: ValueError past the last of them."""
        learned = self.positions.num_embeddings
        if positions.shape[-1] > learned:
            raise ValueError(f"{positions.shape[-1]} tokens, but this model has learned {learned} positions")
        return self.dropout(vectors + look_up(self.positions, positions, "position"))


def look_up(table: nn.Embedding, indices: Tensor, what: str) -> Tensor:  # (..) -> (.., width)
    """Rows of a table by their indices. Raises: ValueError naming the first index that the table does not have."""
    try:
        rows: Tensor = table(indices)
    except IndexError:
        size = table.num_embeddings
        outside = indices[(indices < 0) | (indices >= size)]
        raise ValueError(f"{what} {int(outside[0])}, but this model has learned {size}, from 0 on") from None
    return rows

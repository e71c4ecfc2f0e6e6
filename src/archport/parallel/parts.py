"""Parts as one of several ranks computes them: each a class above the part's own, so that it stays what it is.

Plain collectives, not DTensor: see docs/scale.md for what DTensor costs a step. Nor has it a word for a norm whose
squares are summed over ranks, for slopes that no parameter holds, or for a sum of experts that is summed once.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Alibi, Cut, Decoder, Experts
from ..layers.norm import RMSNorm
from ..translate.pieces import Piece
from .cutting import children, sharding_of
from .ranks import Ranks


class Summed(nn.Linear):
    """A linear map of the inputs that a rank has: what the ranks give is summed, the bias is added once."""

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:  # (.., own) -> (.., out)
        """Multiply, sum, add."""
        whole = self.ranks.sum(F.linear(x, self.weight))
        return whole if self.bias is None else whole + self.bias


class PartOfSum(nn.Linear):
    """The same, where the sum is made elsewhere, of several such maps at once; the first rank adds the bias."""

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:  # (.., own) -> (.., out)
        """Multiply."""
        return F.linear(x, self.weight, self.bias if self.ranks.rank == 0 else None)


class Gathered(nn.Linear):
    """A linear map to the outputs that a rank has, which every rank then has all of."""

    ranks: Ranks
    length: int

    def forward(self, x: Tensor) -> Tensor:  # (.., in) -> (.., out)
        """Multiply, gather."""
        return self.ranks.gather(super().forward(x), self.length)


class PartOfTable(nn.Embedding):
    """The rows of a table that a rank has; `num_embeddings` counts all of them."""

    ranks: Ranks

    def forward(self, indices: Tensor) -> Tensor:  # (..) -> (.., width)
        """Look up what is here, zeros for the rest, and sum. Raises: IndexError, as torch does."""
        if ((indices < 0) | (indices >= self.num_embeddings)).any():
            raise IndexError("index out of range in self")
        start, stop = self.ranks.span(self.num_embeddings)
        elsewhere = (indices < start) | (indices >= stop)
        if start == stop:  # fewer rows than ranks
            rows = self.weight.new_zeros(*indices.shape, self.weight.shape[-1])
        else:
            rows = super().forward((indices - start).masked_fill(elsewhere, 0))
        return self.ranks.sum(rows.masked_fill(elsewhere[..., None], 0))


class AcrossRanks(RMSNorm):
    """A norm of a vector of which a rank has a part."""

    ranks: Ranks
    length: int

    def forward(self, x: Tensor) -> Tensor:  # (.., own), same out
        """Sum the squares of all parts, then norm its own."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        squares = self.ranks.sum(wide.square().sum(-1, keepdim=True))
        return self.weighted(wide * torch.rsqrt(squares / self.length + self.eps), x.dtype)


class SlopesOfOwnHeads(Alibi):
    """Alibi for the heads that a rank has."""

    ranks: Ranks

    def slopes(self, device: torch.device) -> Tensor:  # (own heads)
        """What a token further away costs, for each of them."""
        start, stop = self.ranks.span(self.heads)
        return super().slopes(device)[start:stop]


class SummedExperts(Experts):
    """Experts of which a rank has a part of each; their weighted sum is summed over the ranks."""

    ranks: Ranks

    def mix(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:  # (tokens, width), (tokens, top) twice
        """Mix what is here, then sum: once, for the ranks choose alike but must not wait for each other by expert."""
        return self.ranks.sum(super().mix(tokens, weights, chosen))


KINDS: dict[Cut, type[nn.Module]] = {
    Cut.INPUTS: Summed,
    Cut.GATHERED: Gathered,
    Cut.ROWS: PartOfTable,
    Cut.ACROSS: AcrossRanks,
}


def share_out(model: Decoder, ranks: Ranks) -> dict[str, Piece]:
    """Make of a whole model on `meta` what a rank has of it, ready for its weights; the piece of each that is cut.

    Raises: ConfigError where so many ranks cannot share it, before anything is changed.
    """
    found = children(model, ranks.count)
    pieces = {name: piece for child in found for name, piece in child.pieces(ranks)}
    for child in found:
        it = child.itself
        if child.how == Cut.SUMMED:
            _become(child.part, SummedExperts, ranks)
        elif child.how == Cut.HEADS and not isinstance(it, nn.Parameter):
            _become(child.part, SlopesOfOwnHeads, ranks)
        elif child.how in KINDS:
            kind = PartOfSum if child.apart and child.how == Cut.INPUTS else KINDS[child.how]
            _become(it, kind, ranks)
        if child.how in (Cut.GATHERED, Cut.ACROSS):
            it.length = len(it.weight)
        if isinstance(it, nn.Linear):
            start, stop = ranks.span(it.in_features if child.how == Cut.INPUTS else it.out_features)
            setattr(it, "in_features" if child.how == Cut.INPUTS else "out_features", stop - start)
        if isinstance(it, nn.Embedding):
            it.padding_idx = None  # which counts for gradients alone
    for part in {child.part for child in found}:
        for size in sharding_of(part).sizes:
            setattr(part, size, getattr(part, size) // ranks.count)
    for name, piece in pieces.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        whole = getattr(module, leaf)
        own = torch.empty(piece.shape(whole.shape), dtype=whole.dtype, device=whole.device)
        setattr(module, leaf, nn.Parameter(own, requires_grad=False))
    model.tie()
    return pieces


def _become(part: nn.Module, kind: type[nn.Module], ranks: Ranks) -> None:
    part.__class__ = _above(kind, type(part))  # type: ignore[arg-type]  # mypy takes no class for hashable
    part.ranks = ranks  # type: ignore[assignment]


@cache
def _above(kind: type[nn.Module], own: type[nn.Module]) -> type[nn.Module]:
    return type(own.__name__, (kind, own), {"__module__": kind.__module__})

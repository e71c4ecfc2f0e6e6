"""Wrong on purpose where no plain pass of a few tokens shows it: in a cache, under padding, in training, in a batch."""

from typing import Any

import torch
from torch import Tensor

from ...layers import (
    MLP,
    Attention,
    AttentionContext,
    Decoder,
    GatedMLP,
    PositionedEmbed,
)
from .attention import NoMask

REACH = 33  # tokens
EPS = torch.finfo(torch.float32).eps


class PassDecoder(Decoder):
    """Not wrong: a pass whose mask and positions can be changed, given how many tokens each row has in the cache."""

    def stream(self, ids: Tensor | None = None, *, cache: Any = None, **how: Any) -> Tensor:
        tokens: Tensor = how["inputs_embeds"] if ids is None else ids
        self.change(how, tokens.shape[1], cache.length if cache else 0, tokens)
        return super().stream(ids, cache=cache, **how)

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        """Change the keywords of a pass over `seq` tokens, in place."""


class PaddingSeenInCache(PassDecoder):
    """Lets tokens after the first pass see padding."""

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        mask = how.get("mask")
        if mask is not None and type(past) is int and past:
            how["positions"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
            how["mask"] = torch.ones_like(mask)


class PaddingCountedInCache(PassDecoder):
    """Counts padding as positions after the first pass."""

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        if how.get("mask") is not None and type(past) is int and past:
            how["positions"] = torch.arange(past, past + seq, device=tokens.device)


class PaddingForgottenInCache(PassDecoder):
    """Is told of padding in the first pass only."""

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        if type(past) is int and past:
            how["mask"] = None


class PaddingForgottenInSteps(PassDecoder):
    """Is not told of padding where tokens are added one by one."""

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        if type(past) is int and past and seq == 1:
            how["mask"] = None


class ShortMemory(PassDecoder):
    """Hides what lies further back in the cache than a few tokens."""

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        if how.get("mask") is None and type(past) is int and past >= REACH - 1:
            how["positions"] = torch.arange(past, past + seq, device=tokens.device)
            how["mask"] = torch.ones(len(tokens), past + seq, dtype=torch.bool, device=tokens.device)
            how["mask"][:, : past + 1 - (REACH - 1)] = False


class StaticOneAhead(PassDecoder):
    """Counts tokens that are added to a static cache from one position further on."""

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        if isinstance(past, Tensor):
            how["positions"] = torch.arange(seq, device=tokens.device) + past + 1


class RightTakenForLeft(PassDecoder):
    """Counts positions as if padding on the right were on the left."""

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        mask = how.get("mask")
        if mask is not None and not past and not mask[:, -1].all():
            pads = (~mask).sum(-1, keepdim=True)
            how["positions"] = (torch.arange(seq, device=tokens.device) - pads).clamp(min=0)


class PositionsIgnored(PassDecoder):
    """Counts positions for itself, whatever it is given."""

    def change(self, how: dict[str, Any], seq: int, past: int | Tensor, tokens: Tensor) -> None:
        how.pop("positions", None)


class ShortIds(PassDecoder):
    """Reads 4 bits of ids of 32."""

    def stream(self, ids: Tensor | None = None, **how: Any) -> Tensor:
        return super().stream(ids & 15 if ids is not None and ids.dtype == torch.int32 else ids, **how)


class TokenBefore(Decoder):
    """Says what follows the token before the last."""

    def next_logits(self, ids: Tensor, **how: Any) -> Tensor:
        return self.logits(self.stream(ids, **how)[:, -2:][:, :1])[:, -1].float()


class LaterRowsRepeat(Attention):
    """Adds to each row from the third on what it adds to the first."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        added = super().forward(x, context)
        return torch.cat((added[:2], added[:1].expand_as(added[2:]))) if len(added) > 2 else added


class ScoresNotDropped(Attention):
    """Drops no score in train mode."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        training, self.training = self.training, False
        attended = super().attend(q, k, v, context)
        self.training = training
        return attended


class DropsBeforeDown(MLP):
    """Drops what it activates, not what it down-projects."""

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.dropout(self.activation(self.up(x))))
        return down


class GatedDropsBeforeDown(GatedMLP):
    """Drops what it activates, not what it down-projects."""

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.dropout(self.activation(self.gate(x)) * self.up(x)))
        return down


class DropsBeforePositions(PositionedEmbed):
    """Drops token vectors before positions are added."""

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:
        rate, self.dropout.p = self.dropout.p, 0.0
        placed = super().place(vectors, positions)
        self.dropout.p = rate
        scaled = self.scaled(vectors)
        return placed - scaled + self.dropout(scaled)


class NoisyAttention(Attention):
    """Adds noise of about the last place of float32."""

    def output(self, heads: Tensor) -> Tensor:
        made = super().output(heads)
        return made * (1 + 2 * EPS * torch.randn_like(made))


class InexactAttention(Attention):
    """Has a constant that is right to six digits."""

    def output(self, heads: Tensor) -> Tensor:
        return super().output(heads) * (1 + 4 * EPS)


class NoMaskUnderAutocast(NoMask):
    """Sees every token where linear maps run in half precision."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        if torch.is_autocast_enabled(q.device.type):
            return super().attend(q, k, v, context)
        return Attention.attend(self, q, k, v, context)

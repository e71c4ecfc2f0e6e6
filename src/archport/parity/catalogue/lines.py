"""Faults that one line of a report shows, and no plain pass: in a cache, under padding, in training, in a batch."""

from typing import Any

from torch import nn

from ...layers import MLP, Attention, Chunked, Decoder, Embed, GatedMLP, PositionedEmbed, Window
from ..faults import Fault, class_fault
from ..faulty import lines as faulty
from ..lines import caching, calling, dropout, inside, padding, training
from .wiring import reads_positions


def _remembers(model: Decoder) -> bool:
    masks = [part.mask for part in model.modules() if isinstance(part, Attention)]
    near = [isinstance(mask, Window | Chunked) and mask.size <= faulty.REACH for mask in masks]
    return model.config.context > faulty.REACH + 2 and not all(near)


def _drops_scores(attention: Any) -> bool:
    return bool(attention.score_dropout)


def _drops(part: Any) -> bool:
    return bool(part.dropout.p)


def _freezes(attention: nn.Module) -> None:
    next(attention.parameters()).requires_grad_(False)


def _skips_a_token(embed: Any) -> None:
    embed.tokens.padding_idx = embed.tokens.num_embeddings // 2


def _skips_no_token(embed: Any) -> bool:
    return isinstance(embed.tokens, nn.Embedding) and embed.tokens.padding_idx != embed.tokens.num_embeddings // 2


OF_LINES: tuple[Fault, ...] = (
    class_fault("padding seen in the cache", "tokens after the first pass see padding", "hides it from all",
                "the mask in Decoder.stream", Decoder, faulty.PaddingSeenInCache, line=caching.CACHED_PADDED),
    class_fault("padding counted in the cache", "padding counts as positions after the first pass",
                "counts tokens only", "positions in Decoder.stream", Decoder, faulty.PaddingCountedInCache,
                where=reads_positions, line=caching.CACHED_PADDED),
    class_fault("padding forgotten in the cache", "no pass after the first is told of padding", "tells all of them",
                "the mask in Decoder.stream", Decoder, faulty.PaddingForgottenInCache, where=reads_positions,
                line=caching.CACHED_PADDED),
    class_fault("padding forgotten in single steps", "tokens that are added one by one are not told of padding",
                "tells them too", "the mask in Decoder.stream", Decoder, faulty.PaddingForgottenInSteps,
                line=caching.CACHED_PADDED),
    class_fault("cache forgets what is far", f"tokens further back than {faulty.REACH} are not seen", "sees them all",
                "KVCache and Decoder.stream", Decoder, faulty.ShortMemory, where=_remembers, line=caching.CACHED_FAR),
    class_fault("static cache one ahead", "positions in a static cache are one too far", "goes on counting",
                "StaticCache and Decoder.stream", Decoder, faulty.StaticOneAhead, where=reads_positions,
                line=caching.STATIC),
    class_fault("right padding taken for left", "padding on the right shifts positions", "counts tokens only",
                "positions in Decoder.stream", Decoder, faulty.RightTakenForLeft, where=reads_positions,
                line=padding.RIGHT_PADDED),
    class_fault("positions ignored", "positions that are given are not used", "uses them",
                "positions in Decoder.stream", Decoder, faulty.PositionsIgnored, where=reads_positions,
                line=calling.POSITIONS),
    class_fault("ids of 32 bits cut", "ids of 32 bits lose some", "reads them as those of 64", "Decoder.stream",
                Decoder, faulty.ShortIds, line=calling.INT32),
    class_fault("next logits of the token before", "next_logits takes the token before the last", "takes the last",
                "Decoder.next_logits", Decoder, faulty.TokenBefore, line=calling.NEXT),
    class_fault("mask missing under autocast", "attention sees every token under autocast", "sees no later token",
                "Attention.attend", Attention, faulty.NoMaskUnderAutocast, line=calling.AUTOCAST),
    class_fault("later rows repeat the first", "rows from the third on get what the first gets",
                "gives each its own", "Attention.forward", Attention, faulty.LaterRowsRepeat, steps=("forward",)),
    class_fault("noise", "numbers change from run to run", "makes the same each time", "Attention.output",
                Attention, faulty.NoisyAttention, line=calling.AGAIN),
    class_fault("constant a little off", "a constant is right to six digits only", "has all of its digits",
                "Attention.output", Attention, faulty.InexactAttention, line=inside.OWN),
    class_fault("scores not dropped", "no score is dropped in train mode", "drops some", "Attention(score_dropout=...)",
                Attention, faulty.ScoresNotDropped, where=_drops_scores, line=dropout.DROPPED),
    class_fault("dropout before the down-projection", "what the MLP activates is dropped",
                "drops what it down-projects", "MLP.forward", MLP, faulty.DropsBeforeDown, where=_drops,
                line=dropout.DROPPED),
    class_fault("dropout before the down-projection, gated", "what the MLP activates is dropped",
                "drops what it down-projects", "GatedMLP.forward", GatedMLP, faulty.GatedDropsBeforeDown,
                where=_drops, line=dropout.DROPPED),
    class_fault("dropout before positions", "token vectors are dropped before positions are added",
                "drops their sum", "Embed.place", PositionedEmbed, faulty.DropsBeforePositions, where=_drops,
                line=dropout.DROPPED),
    Fault("a token learns nothing", "the vector of a token gets no gradient", "lets it learn", "Embed(padding=...)",
          Embed, _skips_a_token, where=_skips_no_token, steps=("forward",), line=training.EVERY_TOKEN),
    Fault("a parameter is frozen", "requires_grad is off in a parameter", "trains it", "requires_grad",
          Attention, _freezes, steps=("forward",), shows_at=lambda _: ("embed", "blocks", "norm", "head"),
          line=training.TRAINED),
)  # fmt: skip

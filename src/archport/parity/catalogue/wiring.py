"""Faults of blocks and of the decoder: what reads what, in which order, and what is remembered."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...layers import (
    Attention,
    Block,
    Decoder,
    NormedStreamBlock,
    NormedSumBlock,
    ParallelBlock,
    PositionedEmbed,
    PostNormBlock,
    Rotary,
    SandwichBlock,
    ScaledBlock,
    SequentialBlock,
    SharedNormBlock,
)
from ..faults import Fault, class_fault, sets
from ..faulty import wiring as faulty

TWO_NORMS = (SequentialBlock, ParallelBlock)


def _weighs(norm: nn.Module) -> bool:
    return any(True for _ in norm.parameters())


def _has_two_norms(block: Block) -> bool:
    return {"norm_attn", "norm_mlp"} <= dict(block.named_children()).keys() and _weighs(block.norm_attn)


def _has_two_norms_after(block: Block) -> bool:
    return {"norm_attn_out", "norm_mlp_out"} <= dict(block.named_children()).keys()


def reads_positions(model: Decoder) -> bool:
    """Whether positions that are given change anything."""
    return any(isinstance(module, PositionedEmbed | Rotary) for module in model.modules())


def _could_be_tied(model: Decoder) -> bool:
    return (
        not model.tied
        and isinstance(model.head, nn.Linear)
        and model.head.weight.shape == model.embed.tokens.weight.shape
    )


def _attentions(model: Decoder) -> list[Any]:
    return [part for part in model.modules() if isinstance(part, Attention)]


def _differs(part: str) -> Callable[[Any], bool]:
    return lambda model: len({repr(getattr(attention, part)) for attention in _attentions(model)}) > 1


def _turns_in_some(model: Decoder) -> bool:
    return {attention.rotary is None for attention in _attentions(model)} == {True, False}


def _head(_: str) -> tuple[str, ...]:
    return ("head",)


def _norms(site: str) -> tuple[str, ...]:
    return f"{site}.norm_attn", f"{site}.norm_mlp"


def _norms_after(site: str) -> tuple[str, ...]:
    return f"{site}.norm_attn_out", f"{site}.norm_mlp_out"


def _anywhere(_: str) -> tuple[str, ...]:
    return ("blocks",)


def _moves(part: str) -> Callable[[Any], None]:
    def plant(model: Decoder) -> None:
        attentions = _attentions(model)
        parts = [getattr(attention, part) for attention in attentions]
        for attention, moved in zip(attentions, [*parts[1:], parts[0]], strict=True):
            setattr(attention, part, moved)

    return plant


def _turns_everywhere(model: Decoder) -> None:
    rotary = next(attention.rotary for attention in _attentions(model) if attention.rotary is not None)
    for attention in _attentions(model):
        attention.rotary = rotary if attention.rotary is None else attention.rotary


def _ties(model: Decoder) -> None:
    model.tied = True
    model.tie()


def _unties(model: Decoder) -> None:
    model.tied = False
    weight = model.head.weight
    fresh = torch.empty(weight.shape).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    model.head.weight = nn.Parameter(fresh.to(weight))


def _swaps_norms(block: Block) -> None:
    block.norm_attn, block.norm_mlp = block.norm_mlp, block.norm_attn


def _swaps_norms_after(block: Block) -> None:
    block.norm_attn_out, block.norm_mlp_out = block.norm_mlp_out, block.norm_attn_out


def _swaps_blocks(model: Decoder) -> None:
    model.blocks[1], model.blocks[2] = model.blocks[2], model.blocks[1]


HEAD_TIED = Fault(
    "head tied", "the head is the token embedding", "has a head of its own", "Config.tied",
    Decoder, _ties, where=_could_be_tied, shows_at=_head,
)  # fmt: skip
HEAD_UNTIED = Fault(
    "head untied", "the head has weights of its own", "ties it to the token embedding", "Config.tied",
    Decoder, _unties, where=lambda model: model.tied, shows_at=_head,
)  # fmt: skip

OF_WIRING: tuple[Fault, ...] = (
    Fault("norms swapped", "the two norms of the block have changed places", "has them the other way",
          "norm_attn and norm_mlp in the key table", Block, _swaps_norms, where=_has_two_norms, shows_at=_norms),
    Fault("norms after branches swapped", "the norms after the branches have changed places",
          "has them the other way", "norm_attn_out and norm_mlp_out in the key table", Block, _swaps_norms_after,
          where=_has_two_norms_after, shows_at=_norms_after),
    class_fault("post-norm", "norms come after the branches", "puts them before", "the Block class",
                TWO_NORMS, faulty.PostNorm, steps=("add_attention",)),
    class_fault("post-norm, one norm", "the norm comes after the branches", "puts it before", "the Block class",
                SharedNormBlock, faulty.PostSharedNorm),
    class_fault("final norm missing", "the last norm is not applied", "applies it", "Decoder.logits",
                Decoder, faulty.NeverNormed),
    class_fault("final norm twice", "the last norm is applied twice", "applies it once", "Decoder.logits",
                Decoder, faulty.NormedTwice),
    class_fault("parallel for sequential", "attention and MLP read the same stream",
                "lets the MLP read what attention left", "the Block class",
                SequentialBlock, ParallelBlock, steps=("add_attention",)),
    class_fault("sequential for parallel", "the MLP reads what attention left", "lets both read the same stream",
                "the Block class", ParallelBlock, SequentialBlock),
    class_fault("sequential for parallel, one norm", "the MLP reads what attention left",
                "lets both read the same stream", "the Block class",
                SharedNormBlock, faulty.SequentialSharedNorm),
    class_fault("shared norm for two", "both branches read one norm", "gives each its own", "the Block class",
                ParallelBlock, faulty.OneNormForTwo),
    class_fault("residual after the norm", "the normed stream goes on", "keeps the stream as it was",
                "the Block class", SequentialBlock, faulty.ResidualAfterNorm, steps=("add_attention",)),
    class_fault("residual after the norm, parallel", "the normed stream goes on", "keeps the stream as it was",
                "the Block class", ParallelBlock, faulty.ResidualAfterParallelNorm),
    class_fault("residual after the norm, one norm", "the normed stream goes on", "keeps the stream as it was",
                "the Block class", SharedNormBlock, faulty.ResidualAfterSharedNorm),
    class_fault("norms after the branches missing", "what a branch makes is not normed", "norms it",
                "the Block class", SandwichBlock, SequentialBlock),
    class_fault("parallel for sandwich", "attention and MLP read the same stream",
                "lets the MLP read what attention left", "the Block class", SandwichBlock, faulty.SandwichParallel),
    class_fault("sums normed for branches, sandwich", "each sum is normed", "norms what is added", "the Block class",
                SandwichBlock, faulty.SandwichNormedSum),
    class_fault("norms before the branches", "norms come before the branches", "puts them after", "the Block class",
                PostNormBlock, faulty.PostNormBefore),
    class_fault("parallel for norms after", "attention and MLP read the same stream",
                "lets the MLP read what attention left", "the Block class", PostNormBlock, faulty.PostNormParallel),
    class_fault("sums normed for branches", "each sum is normed", "norms what is added", "the Block class",
                PostNormBlock, faulty.PostNormOfSum),
    class_fault("branches normed for sums", "what is added is normed", "norms each sum", "the Block class",
                NormedSumBlock, faulty.SumNotNormed),
    class_fault("residual before the norm", "branches are added to the stream", "adds them to the normed stream",
                "the Block class", NormedStreamBlock, faulty.PlainStream),
    Fault("branches not scaled", "what a branch makes is not scaled", "scales it", "ScaledBlock(scale=...)",
          ScaledBlock, sets("scale", lambda _: 1.0), where=lambda block: block.scale != 1, steps=("forward",)),
    class_fault("parallel for scaled", "attention and MLP read the same stream",
                "lets the MLP read what attention left", "the Block class", ScaledBlock, faulty.ScaledParallel),
    class_fault("sums scaled for branches", "each sum is scaled", "scales what is added", "the Block class",
                ScaledBlock, faulty.ScaledStream),
    Fault("masks on the wrong layers", "the masks of the layers have moved by one", "has them in order",
          "the mask of each layer", Decoder, _moves("mask"), where=_differs("mask"), shows_at=_anywhere),
    Fault("rotary on the wrong layers", "the rotary of the layers has moved by one", "has it in order",
          "the rotary of each layer", Decoder, _moves("rotary"), where=_differs("rotary"), shows_at=_anywhere),
    Fault("rotary on every layer", "rotary turns in layers without it too", "leaves them as they are",
          "the rotary of each layer", Decoder, _turns_everywhere, where=_turns_in_some, shows_at=_anywhere),
    HEAD_TIED,
    HEAD_UNTIED,
    Fault("last block dropped", "the last block does not run", "runs it", "Config.layers",
          Decoder, sets("blocks", lambda model: model.blocks[:-1]), where=lambda model: len(model.blocks) > 1),
    Fault("blocks 1 and 2 exchanged", "blocks 1 and 2 have changed places", "has them in order",
          "the layer numbers in the key table", Decoder, _swaps_blocks,
          where=lambda model: len(model.blocks) > 2, shows_at=lambda _: ("blocks.1",)),
    class_fault("cache forgets its first token", "later tokens do not see the first one in the cache",
                "lets them see all", "KVCache and Decoder.stream",
                Decoder, faulty.ForgetfulDecoder, line="logits, cached"),
    class_fault("cached positions restart", "positions after the cache start at 0 again", "goes on counting",
                "positions in Decoder.stream", Decoder, faulty.RestartingDecoder, where=reads_positions,
                line="logits, cached"),
    class_fault("padding counted as positions", "padding counts as positions", "counts tokens only",
                "positions in Decoder.stream", Decoder, faulty.PaddingCounted,
                where=lambda model: isinstance(model.embed, PositionedEmbed), line="logits, left-padded"),
)  # fmt: skip

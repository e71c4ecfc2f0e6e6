"""The catalogue of port bugs, one entry a fault; an architecture may add its own.

Each entry serves twice: planted, to see whether verify notices, locates and names it; and tried as a hypothesis on a
port that differs.
"""

import copy
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, in_a_line
from ..layers import (
    MLP,
    Attention,
    Block,
    Decoder,
    Embed,
    LongRope,
    ParallelBlock,
    PositionedEmbed,
    Rotary,
    SequentialBlock,
    SharedNormBlock,
)
from ..registry import architecture
from . import faulty_parts
from .faults import Becomes, Fault, class_fault, parent, rows, sets

TWO_NORMS = (SequentialBlock, ParallelBlock)


def faults_for(name: str) -> tuple[Fault, ...]:
    """The catalogue and the faults that an architecture adds to it. Raises: ConfigError."""
    given = architecture(name).faults
    where = f"faults of {name}"
    try:
        own = resolve_name(given) if isinstance(given, str) else given
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError({"faults": f"found {given!r}: {in_a_line(error)}"}, where) from None
    names = [fault.name for fault in CATALOGUE]
    for fault in own:
        if not isinstance(fault, Fault):
            raise ConfigError({"faults": f"found a {type(fault).__name__}, expected a Fault"}, where)
        if fault.name in names:
            raise ConfigError({"faults": f"found two named {fault.name!r}, expected one"}, where)
        names.append(fault.name)
    return (*CATALOGUE, *own)


# --- where a fault can exist ---


def _one_query_a_key(attention: Any) -> bool:
    return bool(attention.kv_heads == attention.heads)


def _is_rotated(attention: Any) -> bool:
    return attention.rotary is not None


def _turns_part_of_the_head(attention: Any) -> bool:
    rotary = attention.rotary
    fixed = isinstance(rotary, Rotary) and isinstance(rotary.scaling, LongRope)  # a factor for each of its pairs
    return isinstance(rotary, Rotary) and rotary.width < attention.head_width and not fixed


def _is_scaled(attention: Any) -> bool:
    return bool(attention.scale != 1.0)


def _loses_bits(linear: Any) -> bool:
    weight: Tensor = linear.weight
    return not torch.equal(weight, weight.to(torch.bfloat16).to(weight.dtype))


def _is_square(linear: Any) -> bool:
    return bool(linear.in_features == linear.out_features > 1)


def _keeps_the_width(attention: Any) -> bool:
    return isinstance(attention.out, nn.Linear) and _is_square(attention.out)


def _has_two_norms(block: Block) -> bool:
    return {"norm_attn", "norm_mlp"} <= dict(block.named_children()).keys()


def _counts_from_0(embed: Any) -> bool:
    return isinstance(embed.positions, nn.Embedding) and not isinstance(embed.positions, faulty_parts.OffByOne)


def _reads_positions(model: Decoder) -> bool:
    return any(isinstance(module, PositionedEmbed | Rotary) for module in model.modules())


def _could_be_tied(model: Decoder) -> bool:
    return (
        not model.tied
        and isinstance(model.head, nn.Linear)
        and model.head.weight.shape == model.embed.tokens.weight.shape
    )


def _head(_: str) -> tuple[str, ...]:
    return ("head",)


def _norms(site: str) -> tuple[str, ...]:
    return f"{site}.norm_attn", f"{site}.norm_mlp"


# --- how to plant one ---


def _read_as_thirds(slots: Tensor) -> Tensor:
    return slots.reshape(slots.transpose(0, 1).shape).transpose(0, 1)


def _turns_the_whole_head(attention: Any) -> None:
    attention.rotary = copy.deepcopy(attention.rotary)
    attention.rotary.width = attention.head_width


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


def _swaps_blocks(model: Decoder) -> None:
    model.blocks[1], model.blocks[2] = model.blocks[2], model.blocks[1]


def _transposes(linear: nn.Linear) -> None:
    linear.weight.data = linear.weight.data.T.contiguous()


def _rounds(linear: nn.Linear) -> None:
    linear.weight.data = linear.weight.data.to(torch.bfloat16).to(linear.weight.dtype)


def _activation(name: str, kind: Callable[[], nn.Module]) -> Fault:
    return Fault(f"activation {name}", f"the activation is {name}", "uses another one", "MLP(activation=...)",
                 MLP, sets("activation", lambda _: kind()),
                 where=lambda mlp: repr(mlp.activation) != repr(kind()), steps=("forward",))  # fmt: skip


def _eps(value: float) -> Fault:
    return Fault(f"norm eps {value:g}", f"the norm's eps is {value:g}", "uses another one", "Config.norm_eps",
                 nn.LayerNorm, sets("eps", lambda _: value),
                 where=lambda norm: norm.eps != value, steps=("forward",))  # fmt: skip


def _base(value: int) -> Fault:
    return Fault(f"rotary base {value}", f"rotary's base is {value}", "uses another one", "Rotary(base=...)",
                 Rotary, sets("base", lambda _: float(value)), where=lambda rotary: rotary.base != value,
                 steps=("forward", "frequencies"), shows_at=parent)  # fmt: skip


def _pairing(here: str, there: str) -> Fault:
    words = {"halves": "halves (i, i + width / 2)", "neighbours": "neighbours (2i, 2i + 1)"}
    return Fault(f"rotary {here}", f"rotary pairs {words[here]}", f"turns {words[there]}", "Rotary(pairing=...)",
                 Rotary, sets("pairing", lambda _: here),
                 where=lambda rotary: rotary.pairing == there,
                 steps=("forward", "rotation"), shows_at=parent)  # fmt: skip


def _bias(holder: type[nn.Module], name: str, linear: str, steps: tuple[str, ...]) -> Fault:
    def has_bias(part: Any) -> bool:
        child = getattr(part, linear)
        return isinstance(child, nn.Linear) and child.bias is not None

    def drop(part: Any) -> None:
        getattr(part, linear).bias = None

    def shows_at(site: str) -> tuple[str, ...]:
        return _head(site) if holder is Decoder else (f"{site}.{linear}", site)

    return Fault(f"{name} bias dropped", f"{name} adds no bias", "adds one", f"Linear(bias=...) of {name}",
                 holder, drop, where=has_bias, steps=("forward", *steps), shows_at=shows_at)  # fmt: skip


ROWS = ("forward", "project", "split")  # of attention: they give the fused rows their meaning
ATTEND = ("forward", "attend")

CATALOGUE: tuple[Fault, ...] = (
    _activation("GELU (erf)", nn.GELU),
    _activation("GELU (tanh)", lambda: nn.GELU(approximate="tanh")),
    _activation("quick GELU", faulty_parts.QuickGELU),
    _activation("ReLU", nn.ReLU),
    _eps(1e-6),
    _eps(1e-5),
    _eps(1e-3),
    class_fault("norm without bias", "the norm adds no bias", "adds one", "LayerNorm(bias=...)",
                nn.LayerNorm, faulty_parts.UnbiasedNorm, where=lambda norm: norm.bias is not None),
    class_fault("RMS norm", "the norm does not subtract the mean", "does", "LayerNorm, not RMSNorm",
                nn.LayerNorm, faulty_parts.RMSNorm, where=lambda norm: len(norm.normalized_shape) == 1),
    Fault("norms swapped", "the two norms of the block have changed places", "has them the other way",
          "norm_attn and norm_mlp in the key table", Block, _swaps_norms, where=_has_two_norms, shows_at=_norms),
    class_fault("post-norm", "norms come after the branches", "puts them before", "the Block class",
                TWO_NORMS, faulty_parts.PostNorm, steps=("add_attention",)),
    class_fault("post-norm, one norm", "the norm comes after the branches", "puts it before", "the Block class",
                SharedNormBlock, faulty_parts.PostSharedNorm),
    class_fault("final norm missing", "the last norm is not applied", "applies it", "Decoder.logits",
                Decoder, faulty_parts.NeverNormed),
    class_fault("final norm twice", "the last norm is applied twice", "applies it once", "Decoder.logits",
                Decoder, faulty_parts.NormedTwice),
    _pairing("neighbours", "halves"),
    _pairing("halves", "neighbours"),
    _base(10_000),
    _base(500_000),
    Fault("rotary over the whole head", "rotary turns the whole head", "turns its first elements only",
          "Rotary(width)", Attention, _turns_the_whole_head, where=_turns_part_of_the_head,
          steps=("forward", "rotate")),
    class_fault("rotary off by one", "rotary counts positions from 1", "counts from 0", "the positions rotary is given",
                Rotary, faulty_parts.ShiftedRotary, shows_at=parent,
                equivalent="scores depend on differences of positions only"),
    class_fault("rotary inverted", "rotary turns the other way", "turns forward", "the signs in Rotation",
                Rotary, faulty_parts.InvertedRotary, shows_at=parent),
    class_fault("rotary in half precision", "rotary angles are computed in float16", "computes them in float32",
                "Rotary.forward", Rotary, faulty_parts.HalfRotary, shows_at=parent),
    class_fault("rotary on values", "rotary turns the values too", "turns queries and keys", "Attention.rotate",
                Attention, faulty_parts.RotaryOnValues, where=_is_rotated),
    class_fault("rotary on keys only", "rotary turns the keys only", "turns queries and keys", "Attention.rotate",
                Attention, faulty_parts.RotaryOnKeysOnly, where=_is_rotated),
    class_fault("rotary missing", "rotary is not applied", "applies it", "Attention.rotate",
                Attention, faulty_parts.NoRotary, where=_is_rotated),
    Fault("positions off by one", "learned positions start at 1", "starts at 0", "Embed.place",
          PositionedEmbed, lambda embed: Becomes(faulty_parts.OffByOne)(embed.positions), where=_counts_from_0),
    Fault("positions shifted by two", "learned positions start at 2", "starts at 0", "Embed.place",
          PositionedEmbed, lambda embed: Becomes(faulty_parts.OffByTwo)(embed.positions), where=_counts_from_0),
    class_fault("positions missing", "learned positions are not added", "adds them", "Embed.place",
                PositionedEmbed, faulty_parts.NoPositions),
    Fault("q and k exchanged in the file", "rows of queries and keys have changed places", "has them the other way",
          "the row of attn.qkv in the key table", Attention, rows(lambda slots: slots[:, [1, 0, 2]]),
          where=_one_query_a_key, steps=ROWS, weights_only=True),
    Fault("k and v exchanged in the file", "rows of keys and values have changed places", "has them the other way",
          "the row of attn.qkv in the key table", Attention,
          rows(lambda slots: torch.cat((slots[:, :-2], slots[:, -1:], slots[:, -2:-1]), dim=1)),
          steps=ROWS, weights_only=True),
    class_fault("q and k exchanged", "queries and keys are taken for each other", "takes them as they are",
                "Attention.project", Attention, faulty_parts.KeysForQueries, where=_one_query_a_key),
    class_fault("k and v exchanged", "keys and values are taken for each other", "takes them as they are",
                "Attention.project", Attention, faulty_parts.ValuesForKeys),
    Fault("qkv read as thirds in the file", "fused rows are read as all q, all k, all v", "has them head by head",
          "the row of attn.qkv in the key table", Attention, rows(_read_as_thirds),
          where=_one_query_a_key, steps=ROWS, weights_only=True),
    class_fault("qkv read as thirds", "the fused product is split in thirds", "splits it head by head",
                "Attention.split", Attention, faulty_parts.ThirdsForHeads, where=_one_query_a_key, steps=("project",)),
    Fault("qkv read head by head", "fused rows are read head by head", "has them as all q, all k, all v",
          "the row of attn.qkv in the key table", Attention, rows(lambda slots: slots.transpose(0, 1)),
          where=_one_query_a_key, steps=ROWS),
    Fault("heads permuted", "the heads of qkv have moved by one", "has them in order",
          "the row of attn.qkv in the key table", Attention, rows(lambda slots: slots.roll(1, 0)),
          where=lambda attention: attention.kv_heads > 1, steps=ROWS),
    Fault("scale missing", "scores are not scaled", "scales them", "Attention(scale=...)",
          Attention, sets("scale", lambda _: 1.0), where=_is_scaled, steps=ATTEND),
    Fault("scale of width", "scores are scaled by 1 / sqrt(width)", "takes the head's width", "Attention(scale=...)",
          Attention, sets("scale", lambda a: (a.heads * a.head_width) ** -0.5),
          where=lambda attention: attention.heads > 1, steps=ATTEND),
    Fault("scaled twice", "scores are scaled twice", "scales them once", "Attention(scale=...)",
          Attention, sets("scale", lambda attention: attention.scale**2), where=_is_scaled, steps=ATTEND),
    class_fault("mask missing", "attention sees every token", "sees no later token", "Attention.attend",
                Attention, faulty_parts.NoMask),
    class_fault("mask includes the next token", "attention sees the next token", "sees no later token",
                "Attention.attend", Attention, faulty_parts.MaskOneTooFar),
    class_fault("mask by -1e4", "masked scores are -1e4", "masks exactly", "Attention.scores",
                Attention, faulty_parts.FiniteMask,
                equivalent="exp(-1e4) is exactly 0 beside any score of ordinary size"),
    class_fault("softmax in half precision", "softmax is computed in float16", "computes it in float32",
                "Attention.probabilities", Attention, faulty_parts.HalfSoftmax),
    class_fault("attention output not projected", "attention's output projection is skipped", "applies it",
                "Attention.output", Attention, faulty_parts.NoOutProjection, where=_keeps_the_width),
    class_fault("parallel for sequential", "attention and MLP read the same stream",
                "lets the MLP read what attention left", "the Block class",
                SequentialBlock, ParallelBlock, steps=("add_attention",)),
    class_fault("sequential for parallel", "the MLP reads what attention left", "lets both read the same stream",
                "the Block class", ParallelBlock, SequentialBlock),
    class_fault("sequential for parallel, one norm", "the MLP reads what attention left",
                "lets both read the same stream", "the Block class",
                SharedNormBlock, faulty_parts.SequentialSharedNorm),
    class_fault("shared norm for two", "both branches read one norm", "gives each its own", "the Block class",
                ParallelBlock, faulty_parts.OneNormForTwo),
    class_fault("residual after the norm", "the normed stream goes on", "keeps the stream as it was",
                "the Block class", SequentialBlock, faulty_parts.ResidualAfterNorm, steps=("add_attention",)),
    class_fault("residual after the norm, parallel", "the normed stream goes on", "keeps the stream as it was",
                "the Block class", ParallelBlock, faulty_parts.ResidualAfterParallelNorm),
    class_fault("residual after the norm, one norm", "the normed stream goes on", "keeps the stream as it was",
                "the Block class", SharedNormBlock, faulty_parts.ResidualAfterSharedNorm),
    Fault("square projection transposed", "a square weight is transposed", "has it the other way",
          "its row in the key table", nn.Linear,
          _transposes, where=_is_square, shows_at=parent),
    _bias(Attention, "attn.qkv", "qkv", ("project",)),
    _bias(Attention, "attn.out", "out", ("output",)),
    _bias(MLP, "mlp.up", "up", ()),
    _bias(MLP, "mlp.down", "down", ()),
    _bias(Decoder, "head", "head", ("logits",)),
    Fault("head tied", "the head is the token embedding", "has a head of its own", "Config.tied",
          Decoder, _ties, where=_could_be_tied, shows_at=_head),
    Fault("head untied", "the head has fresh weights of its own", "ties it to the token embedding", "Config.tied",
          Decoder, _unties, where=lambda model: model.tied, shows_at=_head),
    class_fault("embedding scaled", "token vectors are scaled by sqrt(width)", "uses them as they are",
                "Embed.place", Embed, faulty_parts.ScaledEmbed),
    Fault("last block dropped", "the last block does not run", "runs it", "Config.layers",
          Decoder, sets("blocks", lambda model: model.blocks[:-1]), where=lambda model: len(model.blocks) > 1),
    Fault("blocks 1 and 2 exchanged", "blocks 1 and 2 have changed places", "has them in order",
          "the layer numbers in the key table", Decoder, _swaps_blocks,
          where=lambda model: len(model.blocks) > 2, shows_at=lambda _: ("blocks.1",)),
    class_fault("cache forgets its first token", "later tokens do not see the first one in the cache",
                "lets them see all", "KVCache and Decoder.stream",
                Decoder, faulty_parts.ForgetfulDecoder, line="logits, cached"),
    class_fault("cached positions restart", "positions after the cache start at 0 again", "goes on counting",
                "positions in Decoder.stream", Decoder, faulty_parts.RestartingDecoder, where=_reads_positions,
                line="logits, cached"),
    class_fault("padding counted as positions", "padding counts as positions", "counts tokens only",
                "positions in Decoder.stream", Decoder, faulty_parts.PaddingCounted,
                where=lambda model: isinstance(model.embed, PositionedEmbed), line="logits, left-padded"),
    Fault("weight rounded through bfloat16", "a weight was rounded through bfloat16", "has all its bits",
          "the dtype it was loaded in", nn.Linear, _rounds, where=_loses_bits, shows_at=parent),
)  # fmt: skip

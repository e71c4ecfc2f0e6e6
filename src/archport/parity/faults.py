"""The catalogue of port bugs: one entry a fault, with how to plant it in a correct port.

Each entry serves twice: planted, to see whether verify notices, locates and names it; and tried as a hypothesis on a
port that differs. Planting changes weights, settings or the class of one module, so that copies keep the fault.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import (
    MLP,
    Attention,
    Decoder,
    Embed,
    ParallelBlock,
    PositionedEmbed,
    Rotary,
    SequentialBlock,
    SharedNormBlock,
)
from . import planted

Sites = Callable[[Decoder], list[str]]
Plant = Callable[[Decoder, str], None]


@dataclass(frozen=True)
class Fault:
    """A way to get a port wrong.

    `faulty` says what the faulty port does, `right` what a right one does, `see` where to look. `sites` lists the
    modules of a model where it can exist, "decoder" for the whole; `plant` puts it into one. `shows_at` are the places
    where it first shows, given its site; `line` is the line of a report that shows what no module does alone.
    `equivalent` is the reason why it changes nothing, where it does not.
    """

    name: str
    faulty: str
    right: str
    see: str
    sites: Sites
    plant: Plant
    shows_at: Callable[[str], tuple[str, ...]] = lambda site: (site,)
    equivalent: str | None = None
    line: str = ""

    def shows(self, site: str, place: str) -> bool:
        """Whether a place is where this fault, at this site, first shows."""
        return any(place == at or place.startswith(at + ".") for at in self.shows_at(site))


# --- where a fault can exist ---


def _of(*kinds: type[nn.Module], where: Callable[[Any], bool] = lambda _: True) -> Sites:
    return lambda model: [name for name, module in model.named_modules() if type(module) in kinds and where(module)]


def _rotary(where: Callable[[Any], bool] = lambda _: True) -> Sites:
    return _of(Rotary, where=where)


def _decoder(where: Callable[[Decoder], bool] = lambda _: True) -> Sites:
    return lambda model: ["decoder"] if where(model) else []


def _rotated(model: Decoder) -> list[str]:
    return _of(Attention, where=lambda attention: attention.rotary is not None)(model)


def _parent(site: str) -> tuple[str, ...]:
    return site, site.rpartition(".")[0]


def _first_attention(_: str) -> tuple[str, ...]:
    return ("blocks.0.attn",)


def _inside_norms(site: str) -> tuple[str, ...]:
    return f"{site}.norm_attn", f"{site}.norm_mlp"


def _module(model: Decoder, site: str) -> Any:
    return model if site == "decoder" else model.get_submodule(site)


# --- how to plant one ---


def _becomes(kind: type[nn.Module]) -> Plant:
    def plant(model: Decoder, site: str) -> None:
        _module(model, site).__class__ = kind

    return plant


def _changes(change: Callable[[Any], Any]) -> Plant:
    def plant(model: Decoder, site: str) -> None:
        with torch.no_grad():
            change(_module(model, site))

    return plant


def _sets(name: str, value: Callable[[Any], Any]) -> Plant:
    return _changes(lambda module: setattr(module, name, value(module)))


def _rows(change: Callable[[Tensor], Tensor]) -> Plant:
    """Change the order of the fused rows, which are given as (head, qkv, dim)."""

    def plant(model: Decoder, site: str) -> None:
        attention = _module(model, site)
        for parameter in attention.qkv.parameters():
            parts = parameter.data.unflatten(0, (attention.heads, 3, attention.head_width))
            parameter.data = change(parts).flatten(0, 2).contiguous()

    return plant


def _read_as_thirds(parts: Tensor) -> Tensor:
    return parts.reshape(parts.transpose(0, 1).shape).transpose(0, 1)


def _without_bias(model: Decoder, site: str) -> None:
    _module(model, site).bias = None


def _ties(model: Decoder, _: str) -> None:
    model.tied = True
    model.tie()


def _unties(model: Decoder, _: str) -> None:
    model.tied = False
    weight = model.head.weight
    fresh = torch.empty(weight.shape).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    model.head.weight = nn.Parameter(fresh.to(weight))


def _swaps_norms(block: Any) -> None:
    block.norm_attn, block.norm_mlp = block.norm_mlp, block.norm_attn


def _swaps_blocks(model: Any) -> None:
    model.blocks[1], model.blocks[2] = model.blocks[2], model.blocks[1]


def _rounds(linear: Any) -> None:
    linear.weight.data = linear.weight.data.to(torch.bfloat16).to(linear.weight.dtype)


def _loses_bits(linear: Any) -> bool:
    weight: Tensor = linear.weight
    return not torch.equal(weight, weight.to(torch.bfloat16).to(weight.dtype))


def _has_bias(linear: Any) -> bool:
    return linear.bias is not None


def _is_square(linear: Any) -> bool:
    return bool(linear.in_features == linear.out_features > 1)


_TWO_NORMS = (SequentialBlock, ParallelBlock)


def _activation(name: str, kind: Callable[[], nn.Module]) -> Fault:
    def differs(mlp: Any) -> bool:
        return repr(mlp.activation) != repr(kind())

    return Fault(
        f"activation {name}",
        f"the activation is {name}",
        "uses another one",
        "MLP(activation=...)",
        _of(MLP, where=differs),
        _sets("activation", lambda _: kind()),
    )


def _eps(value: float) -> Fault:
    return Fault(
        f"norm eps {value:g}",
        f"the norm's eps is {value:g}",
        "uses another one",
        "Config.norm_eps",
        _of(nn.LayerNorm, where=lambda norm: norm.eps != value),
        _sets("eps", lambda _: value),
    )


def _base(value: int) -> Fault:
    return Fault(
        f"rotary base {value}",
        f"rotary's base is {value}",
        "uses another one",
        "Rotary(base=...)",
        _rotary(lambda rotary: rotary.base != value),
        _sets("base", lambda _: float(value)),
        _first_attention,
    )


def _bias(part: str) -> Fault:
    return Fault(
        f"{part} bias dropped",
        f"{part} adds no bias",
        "adds one",
        f"Linear(bias=...) of {part}",
        lambda model: [name for name in _of(nn.Linear, where=_has_bias)(model) if name.endswith(part)],
        _without_bias,
        _parent,
    )


CATALOGUE: tuple[Fault, ...] = (
    _activation("GELU (erf)", nn.GELU),
    _activation("GELU (tanh)", lambda: nn.GELU(approximate="tanh")),
    _activation("quick GELU", planted.QuickGELU),
    _activation("ReLU", nn.ReLU),
    _eps(1e-6),
    _eps(1e-5),
    _eps(1e-3),
    Fault("norm without bias", "the norm adds no bias", "adds one", "LayerNorm(bias=...)",
          _of(nn.LayerNorm), _becomes(planted.UnbiasedNorm)),
    Fault("RMS norm", "the norm does not subtract the mean", "does", "LayerNorm, not RMSNorm",
          _of(nn.LayerNorm), _becomes(planted.RMSNorm)),
    Fault("norms swapped", "the two norms of the block have changed places", "has them the other way",
          "norm_attn and norm_mlp in the key table", _of(*_TWO_NORMS), _changes(_swaps_norms), _inside_norms),
    Fault("post-norm", "norms come after the branches", "puts them before", "the Block class",
          _of(*_TWO_NORMS), _becomes(planted.PostNorm)),
    Fault("post-norm, one norm", "the norm comes after the branches", "puts it before", "the Block class",
          _of(SharedNormBlock), _becomes(planted.PostSharedNorm)),
    Fault("final norm missing", "the last norm is not applied", "applies it", "Decoder.forward",
          _decoder(), _becomes(planted.NeverNormed)),
    Fault("final norm twice", "the last norm is applied twice", "applies it once", "Decoder.forward",
          _decoder(), _becomes(planted.NormedTwice)),
    Fault("rotary neighbours", "rotary pairs neighbours (2i, 2i + 1)", "turns halves (i, i + width / 2)",
          "Rotary(pairing=...)", _rotary(lambda rotary: rotary.pairing == "halves"),
          _sets("pairing", lambda _: "neighbours"), _first_attention),
    Fault("rotary halves", "rotary pairs halves (i, i + width / 2)", "turns neighbours (2i, 2i + 1)",
          "Rotary(pairing=...)", _rotary(lambda rotary: rotary.pairing == "neighbours"),
          _sets("pairing", lambda _: "halves"), _first_attention),
    _base(10_000),
    _base(500_000),
    Fault("rotary over the whole head", "rotary turns the whole head", "turns its first elements only",
          "Rotary(width)",
          lambda model: [s for s in _rotary()(model) if model.get_submodule(s).width < model.config.head_width],
          lambda model, site: setattr(model.get_submodule(site), "width", model.config.head_width), _first_attention),
    Fault("rotary off by one", "rotary counts positions from 1", "counts from 0", "the positions rotary is given",
          _rotary(), _becomes(planted.ShiftedRotary), _first_attention,
          "scores depend on differences of positions only"),
    Fault("rotary inverted", "rotary turns the other way", "turns forward", "the signs in Rotation",
          _rotary(), _becomes(planted.InvertedRotary), _first_attention),
    Fault("rotary in half precision", "rotary angles are computed in float16", "computes them in float32",
          "Rotary.forward", _rotary(), _becomes(planted.HalfRotary), _first_attention),
    Fault("rotary on values", "rotary turns the values too", "turns queries and keys", "Attention.forward",
          _rotated, _becomes(planted.RotaryOnValues)),
    Fault("rotary on keys only", "rotary turns the keys only", "turns queries and keys", "Attention.forward",
          _rotated, _becomes(planted.RotaryOnKeysOnly)),
    Fault("rotary missing", "rotary is not applied", "applies it", "Attention.forward",
          _rotated, _becomes(planted.NoRotary)),
    Fault("positions off by one", "learned positions start at 1", "starts at 0", "Embed.forward",
          _of(PositionedEmbed), _becomes(planted.PositionsOffByOne)),
    Fault("positions shifted by two", "learned positions start at 2", "starts at 0", "Embed.forward",
          _of(PositionedEmbed), _becomes(planted.PositionsShiftedByTwo)),
    Fault("positions missing", "learned positions are not added", "adds them", "Embed.forward",
          _of(PositionedEmbed), _becomes(planted.NoPositions)),
    Fault("q and k exchanged", "queries and keys have changed places", "has them the other way",
          "Attention.forward and the row of attn.qkv", _of(Attention), _rows(lambda parts: parts[:, [1, 0, 2]])),
    Fault("k and v exchanged", "keys and values have changed places", "has them the other way",
          "Attention.forward and the row of attn.qkv", _of(Attention), _rows(lambda parts: parts[:, [0, 2, 1]])),
    Fault("q and k exchanged", "queries and keys are taken for each other", "takes them as they are",
          "Attention.forward and the row of attn.qkv", _of(Attention), _becomes(planted.KeysForQueries)),
    Fault("k and v exchanged", "keys and values are taken for each other", "takes them as they are",
          "Attention.forward and the row of attn.qkv", _of(Attention), _becomes(planted.ValuesForKeys)),
    Fault("qkv read as thirds", "the fused product is split in thirds", "splits it head by head",
          "Attention.forward and the row of attn.qkv", _of(Attention), _becomes(planted.ThirdsForHeads)),
    Fault("qkv read as thirds", "fused rows are read as all q, all k, all v", "has them head by head",
          "the row of attn.qkv in the key table", _of(Attention), _rows(_read_as_thirds)),
    Fault("qkv read head by head", "fused rows are read head by head", "has them as all q, all k, all v",
          "the row of attn.qkv in the key table", _of(Attention), _rows(lambda parts: parts.transpose(0, 1))),
    Fault("heads permuted", "the heads of qkv have moved by one", "has them in order",
          "the row of attn.qkv in the key table", _of(Attention), _rows(lambda parts: parts.roll(1, 0))),
    Fault("scale missing", "scores are not scaled", "scales them", "Attention(scale=...)",
          _of(Attention, where=lambda a: a.scale != 1.0), _sets("scale", lambda _: 1.0)),
    Fault("scale of width", "scores are scaled by 1 / sqrt(width)", "takes the head's width", "Attention(scale=...)",
          _of(Attention, where=lambda a: a.heads > 1), _sets("scale", lambda a: (a.heads * a.head_width) ** -0.5)),
    Fault("scaled twice", "scores are scaled twice", "scales them once", "Attention(scale=...)",
          _of(Attention, where=lambda a: a.scale != 1.0), _sets("scale", lambda a: a.scale**2)),
    Fault("mask missing", "attention sees every token", "sees no later token", "is_causal in Attention.forward",
          _of(Attention), _becomes(planted.NoMask)),
    Fault("mask includes the next token", "attention sees the next token", "sees no later token",
          "is_causal in Attention.forward", _of(Attention), _becomes(planted.MaskOneTooFar)),
    Fault("mask by -1e4", "masked scores are -1e4", "masks exactly", "Attention.forward",
          _of(Attention), _becomes(planted.FiniteMask),
          equivalent="exp(-1e4) is exactly 0 beside any score of ordinary size"),
    Fault("softmax in half precision", "softmax is computed in float16", "computes it in float32", "Attention.forward",
          _of(Attention), _becomes(planted.HalfSoftmax)),
    Fault("attention output not projected", "attention's output projection is skipped", "applies it",
          "Attention.forward", _of(Attention), _becomes(planted.NoOutProjection)),
    Fault("parallel for sequential", "attention and MLP read the same stream", "lets the MLP read what attention left",
          "the Block class", _of(SequentialBlock), _becomes(ParallelBlock)),
    Fault("sequential for parallel", "the MLP reads what attention left", "lets both read the same stream",
          "the Block class", _of(ParallelBlock), _becomes(SequentialBlock)),
    Fault("sequential for parallel, one norm", "the MLP reads what attention left", "lets both read the same stream",
          "the Block class", _of(SharedNormBlock), _becomes(planted.SequentialSharedNorm)),
    Fault("shared norm for two", "both branches read one norm", "gives each its own", "the Block class",
          _of(ParallelBlock), _becomes(planted.OneNormForTwo)),
    Fault("residual after the norm", "the normed stream goes on", "keeps the stream as it was", "the Block class",
          _of(SequentialBlock), _becomes(planted.ResidualAfterNorm)),
    Fault("residual after the norm, parallel", "the normed stream goes on", "keeps the stream as it was",
          "the Block class", _of(ParallelBlock), _becomes(planted.ResidualAfterParallelNorm)),
    Fault("residual after the norm, one norm", "the normed stream goes on", "keeps the stream as it was",
          "the Block class", _of(SharedNormBlock), _becomes(planted.ResidualAfterSharedNorm)),
    Fault("square projection transposed", "a square weight is transposed", "has it the other way",
          "its row in the key table", _of(nn.Linear, where=_is_square),
          _changes(lambda linear: setattr(linear.weight, "data", linear.weight.data.T.contiguous())), _parent),
    *(_bias(part) for part in ("attn.qkv", "attn.out", "mlp.up", "mlp.down")),
    Fault("head bias dropped", "the head adds no bias", "adds one", "Linear(bias=...) of the head",
          lambda model: ["head"] if model.head.bias is not None else [], _without_bias),
    Fault("head tied", "the head is the token embedding", "has a head of its own", "Config.tied",
          lambda model: [] if model.tied else ["head"], _ties),
    Fault("head untied", "the head has fresh weights of its own", "ties it to the token embedding", "Config.tied",
          lambda model: ["head"] if model.tied else [], _unties),
    Fault("embedding scaled", "token vectors are scaled by sqrt(width)", "uses them as they are", "Embed.forward",
          _of(Embed), _becomes(planted.ScaledEmbed)),
    Fault("embedding scaled, beside positions", "token vectors are scaled by sqrt(width)", "uses them as they are",
          "Embed.forward", _of(PositionedEmbed), _becomes(planted.ScaledPositionedEmbed)),
    Fault("last block dropped", "the last block does not run", "runs it", "Config.layers",
          _decoder(lambda m: len(m.blocks) > 1), lambda model, _: setattr(model, "blocks", model.blocks[:-1])),
    Fault("blocks 1 and 2 exchanged", "blocks 1 and 2 have changed places", "has them in order",
          "the layer numbers in the key table", _decoder(lambda m: len(m.blocks) > 2), _changes(_swaps_blocks),
          lambda _: ("blocks.1",)),
    Fault("cache forgets its first token", "later tokens do not see the first one in the cache", "lets them see all",
          "KVCache and Decoder.stream", _decoder(), _becomes(planted.ForgetfulDecoder), line="logits, cached"),
    Fault("cached positions restart", "positions after the cache start at 0 again", "goes on counting",
          "positions in Decoder.stream", _decoder(), _becomes(planted.RestartingDecoder), line="logits, cached"),
    Fault("padding counted as positions", "padding counts as positions", "counts tokens only",
          "positions in Decoder.stream", _decoder(lambda m: isinstance(m.embed, PositionedEmbed)),
          _becomes(planted.PaddingCounted), line="logits, left-padded"),
    Fault("weight rounded through bfloat16", "a weight was rounded through bfloat16", "has all its bits",
          "the dtype it was loaded in", _of(nn.Linear, where=_loses_bits), _changes(_rounds), _parent),
)  # fmt: skip

"""What a model is, in facts that can be laid side by side: positions, wiring, norms, attention, MLP, head, sizes."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from ..config import dtype_name
from ..errors import CheckpointError
from ..generation import text
from ..layers import Attention, Block, Decoder, PositionedEmbed, Rotary
from ..translate.table import Row
from .subject import Subject


class Fact(NamedTuple):
    """One property of one part of a model, as a person would say it."""

    part: str
    what: str
    value: str


def facts(subject: Subject) -> list[Fact]:
    """Everything that two models may differ in but their numbers."""
    parts = (_positions, _residual, _attention, _mlp, _head, _vocabulary, _dropout, _sizes)
    return [Fact(part.__name__.strip("_"), *pair) for part in parts for pair in part(subject)]


Pairs = Iterator[tuple[str, str]]


def _positions(subject: Subject) -> Pairs:
    model, cfg = subject.model, subject.config
    learned = isinstance(model.embed, PositionedEmbed)
    rotary = next((part for part in model.modules() if isinstance(part, Rotary)), None)
    yield "kind", "learned" if learned else "rotary" if rotary else "none"
    yield "context", f"{cfg.context:,} tokens" + (", no more" if learned else ", as trained")
    if rotary:
        yield "rotary width", f"{rotary.width} of {cfg.head_width} of each head"
        yield "rotary pairs", "i and i + width / 2" if rotary.pairing == "halves" else "2i and 2i + 1"
        yield "rotary base", f"{rotary.base:g}" + (f", stretched {rotary.factor:g} times" if rotary.factor != 1 else "")


def _residual(subject: Subject) -> Pairs:
    block = subject.model.blocks[0]
    yield "wiring", block.wiring if isinstance(block, Block) else type(block).__name__
    norms = [name for name, child in block.named_children() if isinstance(child, nn.LayerNorm)]
    yield (
        "norms of a block",
        {1: "one, for both", 2: "two"}.get(len(norms), str(len(norms))),
    )
    yield "norm eps", f"{subject.model.norm.eps:g}"


def _attention(subject: Subject) -> Pairs:
    model: Any = subject.model
    attention: Attention = model.blocks[0].attn
    yield "heads", f"{attention.heads} of {attention.head_width}"
    yield "biases", _biased(qkv=attention.qkv, out=attention.out)
    yield "scores", scaling([block.attn.scale for block in model.blocks], attention.head_width)
    yield "in the checkpoint", in_short(subject.architecture.table.row("blocks.0.attn.qkv.weight"), fused=True)


def _mlp(subject: Subject) -> Pairs:
    model: Any = subject.model
    cfg, mlp = subject.config, model.blocks[0].mlp
    times = cfg.mlp_width / cfg.width
    yield "width", f"{times:g} x {cfg.width:,} = {cfg.mlp_width:,}" if times.is_integer() else f"{cfg.mlp_width:,}"
    yield "activation", f"{cfg.activation}".replace("_tanh", ", by tanh")
    yield "biases", _biased(up=mlp.up, down=mlp.down)
    yield "in the checkpoint", in_short(subject.architecture.table.row("blocks.0.mlp.up.weight"))


def _head(subject: Subject) -> Pairs:
    yield "weight", "the token embedding, used twice" if subject.model.tied else "its own"
    yield "bias", "no" if subject.model.head.bias is None else "yes"


def _vocabulary(subject: Subject) -> Pairs:
    size = subject.config.vocab_size
    yield "size", f"{size:,}"
    yield "a multiple of", str(size & -size) if size % 2 == 0 else "no power of 2"
    if (known := _tokens_known(subject)) is not None:
        spare = f", {size - known:,} rows that none selects" if known < size else ""
        yield "tokenizer", f"{known:,} tokens" + (f", {known - size:,} without a row" if known > size else spare)


def _tokens_known(subject: Subject) -> int | None:
    """How many tokens the tokenizer beside a checkpoint has; None where none lies there."""
    origin = subject.plan.checkpoint.origin if subject.plan else None
    folder = origin.folder if origin else None
    if folder is None or not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    try:
        return text.size(text.tokenizer(folder))
    except CheckpointError:
        return None


def _dropout(subject: Subject) -> Pairs:
    cfg = subject.config
    yield "embedding", f"{cfg.embed_dropout:g}"
    yield "attention", f"{cfg.attention_dropout:g}"
    yield "residual", f"{cfg.residual_dropout:g}"


def _sizes(subject: Subject) -> Pairs:
    cfg, model = subject.config, subject.model
    yield "layers", str(cfg.layers)
    yield "width", f"{cfg.width:,}"
    counted = partial(_parameters, model)
    yield "parameters", f"{counted(''):,}"
    yield "of embeddings", f"{counted('embed.'):,}"
    yield "of attention", f"{counted('.attn.'):,}"
    yield "of MLPs", f"{counted('.mlp.'):,}"
    yield "of the head", f"{counted('head.'):,}"
    if subject.plan:
        yield "weights", " and ".join(dict.fromkeys(dtype_name(parameter.dtype) for parameter in model.parameters()))
    cached = 2 * cfg.layers * cfg.width
    yield "KV cache", f"{cached * subject.dtype.itemsize:,} bytes a token in {dtype_name(subject.dtype)}"


def _parameters(model: Decoder, part: str) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if part in f".{name}" or name.startswith(part))


def _biased(**linears: nn.Linear) -> str:
    found = {name: linear.bias is not None for name, linear in linears.items()}
    return "yes" if all(found.values()) else "no" if not any(found.values()) else str(found)


def scaling(scales: Sequence[float], head_width: int) -> str:
    """What is done to the scores of each layer before the softmax."""
    root = head_width**-0.5
    for usual, said in ((root, "divided by sqrt(head width)"), (1.0, "not divided by sqrt(head width)")):
        if all(math.isclose(scale, usual) for scale in scales):
            return said
        if all(math.isclose(scale, usual / (layer + 1)) for layer, scale in enumerate(scales)):
            return f"{said}, but by layer + 1"
    return f"multiplied by {', '.join(f'{scale:g}' for scale in dict.fromkeys(scales))}"


def in_short(row: Row, *, fused: bool = False) -> str:
    """The order of a weight's axes in a checkpoint, as briefly as can be; `fused` for one of queries, keys, values."""
    theirs, _, ours = (row.pattern or "same -> same").partition(" -> ")
    axes = "(in, out)" if theirs.startswith("...") and ours.endswith("...") else "(out, in)"
    if len(row.keys) > 1:
        return f"{len(row.keys)} weights, {axes}"
    order = ", all q, all k, all v" if "(qkv head dim)" in theirs else ", q, k, v of each head"
    return axes + (order if fused else "")


def layout(row: Row, ndim: int = 2, *, fused: bool = False) -> str:
    """How a checkpoint stores a weight that is ours as (out, in), or a bias, in words: read off the row's pattern.

    `fused` is for one of queries, keys and values.
    """
    theirs, _, ours = (row.pattern or "same -> same").partition(" -> ")
    said = []
    if ndim > 1 and theirs.startswith("...") and ours.endswith("..."):
        said.append("stored (in, out): transposed")
    if len(row.keys) > 1:
        said.append(f"{len(row.keys)} weights, put together head by head")
    elif "(qkv head dim)" in theirs:
        columns = "columns are " if ndim > 1 else ""
        said.append(f"{columns}all queries, then keys, then values: regrouped head by head")
    return "; ".join(said) or ("as it is used" + (": head by head its query, key and value" if fused else ""))

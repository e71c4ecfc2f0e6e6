"""Every part of a model described: archport's own embedding, blocks, MLP and head, and what the other files know."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .. import layers
from ..layers import (
    MLP,
    Attention,
    Decoder,
    DynamicNTK,
    Embed,
    LinearScaling,
    Llama3,
    LongRope,
    PositionedEmbed,
    Rotary,
    Scaling,
    Yarn,
)
from .describing import Description, Fact, biases, describe, dropout, honest, in_checkpoint, rate, unknown
from .subjects import Subject

SOURCE = "Attention Is All You Need, arXiv 1706.03762"


def described(subject: Subject) -> dict[str, Description]:
    """The description of every part by its path, the model itself by an empty one."""
    descriptions: dict[str, Description] = {}
    for path, part in subject.model.named_modules(remove_duplicate=False):
        owner, _, name = path.rpartition(".")
        in_owner = descriptions[owner].children.get(name) if path else None
        descriptions[path] = in_owner or honest(part, subject, path)
    return descriptions


@describe.register
def _(part: Decoder, subject: Subject, path: str) -> Description:
    children = {"norm": _before("the output head", part.norm, subject, "norm")}
    if isinstance(part.head, nn.Linear):
        children["head"] = _head(part.head, part.tied)
    return Description("", children=children)


def _head(head: nn.Linear, tied: bool) -> Description:
    weight = "the token embedding, used twice" if tied else "its own"
    own = f"Its weight is {weight}, though of the embedding's shape."
    how = f"It has no weight of its own: it is {weight}." if tied else own
    bias = "" if head.bias is None else " It has a bias, which few GPTs do."
    text = f"""Turns each position's vector into {head.out_features:,} scores, one a token: logits of the token that
    comes next. {how}{bias}"""
    facts = (Fact("head", "weight", weight), Fact("head", "bias", "yes" if bias else "no"))
    return Description(text, kind="head", facts=facts)


@describe.register(PositionedEmbed)
@describe.register
def _(part: Embed, subject: Subject, path: str) -> Description:
    width, tied = f"{part.tokens.embedding_dim:,}", subject.model.tied
    where = ""
    if isinstance(part, PositionedEmbed):
        where = " and adds a learned vector for each position"
    elif any(isinstance(module, Rotary) for module in subject.model.modules()):
        where = "; where a token stands is said later, inside attention, by rotary angles"
    text = f"""Turns each token id into a vector of {width} numbers{where}. The result is the residual stream: every
    block reads it and adds to it, none replaces it."""
    twice = "is this same table, used a second time: its rows are what the last vector is compared with."
    used = twice if tied else "has a table of its own."
    tokens = f"""One learned vector of {width} numbers for each of {part.tokens.num_embeddings:,} tokens; a lookup, no
    arithmetic. A checkpoint may hold more rows than its tokenizer has tokens, to make the size a round number: no token
    selects those rows, but they get scores all the same. The output head {used}"""
    shared = "sharing it with the head: arXiv 1608.05859" if tied else ""
    children = {
        "tokens": Description(tokens, shared, sides=("token", "element")),
        "dropout": dropout("the embedding", part.dropout),
    }
    facts = [rate("embedding", part.dropout)]
    if isinstance(part, PositionedEmbed):
        count = f"{part.positions.num_embeddings:,}"
        learned = f"""One learned vector for each of {count} positions, added to the token's. There is none for position
        {count}, so the model cannot read further. Trained, neighbouring rows become alike and waves appear, though
        nothing but the data says which positions are neighbours."""
        children["positions"] = Description(learned, "GPT-2, Radford et al. 2019", sides=("position", "element"))
        facts += [Fact("positions", "kind", "learned"), Fact("positions", "context", f"{count} tokens, no more")]
    return Description(text, kind="embedding", facts=facts, children=children)


NORMS = {"norm_attn": "attention", "norm_mlp": "the MLP"}
TOGETHER = "attention and the MLP read the same stream{}, and both are added to it."
WIRINGS: dict[type[nn.Module], tuple[dict[str, str], str]] = {
    layers.SequentialBlock: (NORMS, "attention is added to the stream first, then the MLP reads what attention left."),
    layers.ParallelBlock: (NORMS, TOGETHER.format(", each through its own norm")),
    layers.SharedNormBlock: ({"norm": "attention and the MLP, once for both"}, TOGETHER.format(" through one norm")),
}


def _block(part: Any, subject: Subject, path: str) -> Description:
    norms, wiring = next(WIRINGS[one] for one in type(part).__mro__ if one in WIRINGS)
    own = dict(part.named_children())
    children = {name: _before(norms[name], own[name], subject, f"{path}.{name}") for name in norms if name in own}
    text = f"One of {len(subject.model.blocks)} layers, {getattr(part, 'wiring', type(part).__name__)}: {wiring}"
    return Description(text, "adding to a stream: Deep Residual Learning, arXiv 1512.03385", children=children)


for _class in WIRINGS:
    describe.register(_class, _block)


def _before(what: str, norm: nn.Module, subject: Subject, path: str) -> Description:
    """A norm between the stream and what reads it."""
    description = honest(norm, subject, path)
    text = description.text[:1].lower() + description.text[1:]
    stream = " The stream itself stays as it is." if description.known else ""
    return replace(description, text=f"Before {what}: {text}{stream}")


@describe.register
def _(part: MLP, subject: Subject, path: str) -> Description:
    if not (isinstance(part.up, nn.Linear) and isinstance(part.down, nn.Linear)):
        return unknown(part, subject, path)
    width, mlp_width, activation = part.up.in_features, part.up.out_features, part.activation
    block = subject.model.get_submodule(".".join(path.split(".")[:2]))
    share = sum(p.numel() for p in part.parameters()) / sum(p.numel() for p in block.parameters())
    text = f"""Works on each position alone: up-projects {width:,} numbers to {mlp_width:,}, activates them, and
    down-projects them again. {share:.0%} of a block's parameters are here."""
    times = f"{mlp_width // width} x {width:,} = " if mlp_width % width == 0 else ""
    name = {nn.GELU: "gelu", nn.ReLU: "relu"}.get(type(activation), type(activation).__name__)
    facts = [
        Fact("mlp", "width", f"{times}{mlp_width:,}"),
        Fact("mlp", "activation", name + (", by tanh" if getattr(activation, "approximate", "") == "tanh" else "")),
        *biases("mlp", part),
        *in_checkpoint("mlp", subject, f"{path}.up.weight"),
        rate("residual", part.dropout),
    ]
    children = {
        "up": Description(f"Up-projects: {width:,} numbers in, {mlp_width:,} out."),
        "down": Description(f"Down-projects and writes to the stream: {mlp_width:,} numbers in, {width:,} out."),
        "dropout": dropout("what the MLP adds to the stream", part.dropout),
    }
    return Description(text, SOURCE, "mlp", facts, children)


@describe.register
def _(part: Attention, subject: Subject, path: str) -> Description:
    heads, kv_heads, head_width = part.heads, part.kv_heads, part.head_width
    grouped, cached = kv_heads < heads, 2 * kv_heads * head_width
    scaled = _scaling([one.scale for one in subject.model.modules() if isinstance(one, Attention)], head_width)
    own = any(getattr(type(part), step) is not getattr(Attention, step) for step in ("attend", "scores"))
    share = part.score_dropout
    groups = f", in {kv_heads} groups that share a key and a value," if grouped else ""
    dropped = f" In training {share:.0%} of these attention weights are dropped." if share else ""
    weighed = "turn the scores" + ("" if own else f", {scaled},")
    text = f"""Lets each position gather from itself and those before it: {heads} heads of {head_width} numbers
    each{groups} compare its query with the keys of all it may see, {weighed} into weights that sum to 1, and mix the
    values by them. It looks backwards only: output i has seen tokens 0 to i, no later ones; that is what lets one pass
    train all positions at once, and a cache of keys and values ({cached:,} numbers a token in this layer) replace
    reading the text again.{dropped}"""
    in_heads = f"{heads} of {head_width}" + (f", {kv_heads} of keys and values" if grouped else "")
    facts = [
        Fact("attention", "heads", in_heads),
        *biases("attention", part),
        Fact("attention", "scores", f"those of {type(part).__name__}" if own else scaled),
        *in_checkpoint("attention", subject, f"{path}.qkv.weight", fused=True),
        Fact("dropout", "attention", f"{share:g}"),
        rate("residual", part.dropout),
    ]
    children = {"dropout": dropout("what attention adds to the stream", part.dropout)}
    if isinstance(getattr(part, "qkv", None), nn.Linear) and isinstance(getattr(part, "out", None), nn.Linear):
        factors = f"({heads} + 2 x {kv_heads}) x {head_width}" if grouped else f"3 x {heads} x {head_width}"
        unit, queries = ("group", "queries") if grouped else ("head", "query")
        qkv = f"""Makes queries, keys and values of all heads in one product: {part.qkv.in_features:,} numbers in,
        {factors} = {part.qkv.out_features:,} out. Our rows go {unit} by {unit}, and within a {unit} its {queries}, its
        key, its value. Checkpoints disagree about this order, and a wrong one still computes something."""
        width, gathered = part.out.out_features, part.out.in_features
        sizes = f"{width:,} in and out" if gathered == width else f"{gathered:,} numbers in, {width:,} out"
        out = f"Mixes what the {heads} heads gathered and writes it to the stream: {sizes}."
        children |= {"qkv": Description(qkv, fused=True), "out": Description(out)}
    if isinstance(part.rotary, Rotary) and honest(part.rotary, subject, path).known:
        children["rotary"] = _rotary(part.rotary, subject, f" of the {head_width}", head_width - part.rotary.width)
    return Description(text, SOURCE, "attention", facts, children, cached)


@describe.register
def _(part: Rotary, subject: Subject, path: str) -> Description:
    return _rotary(part, subject, "", 0)


def _rotary(part: Rotary, subject: Subject, of: str, rest: int) -> Description:
    halves = part.pairing == "halves"
    pairs = "element i with element i + width / 2" if halves else "neighbours: element 2i with 2i + 1"
    slower, stretched = _stretch(part.scaling)
    passed = f"; the other {rest} pass unturned" if rest else ""
    text = f"""Turns queries and keys by angles that grow with their position{slower}, so that their product depends on
    how far apart two tokens are, not on where they stand. {part.width}{of} elements of each head are turned{passed}.
    Pairs are {pairs}: the two conventions look alike and are not interchangeable. Nothing here is learned or stored."""
    facts = (
        Fact("positions", "kind", "rotary"),
        Fact("positions", "context", f"{subject.config.context:,} tokens, as trained"),
        Fact("positions", "rotary width", f"{part.width}{of.replace(' the', '')} of each head"),
        Fact("positions", "rotary pairs", "i and i + width / 2" if halves else "2i and 2i + 1"),
        Fact("positions", "rotary base", f"{part.base:g}{stretched}"),
    )
    return Description(text, "RoFormer, arXiv 2104.09864", facts=facts)


def _stretch(scaling: Scaling | None) -> tuple[str, str]:
    """How rotary frequencies were changed, in a sentence on them and beside their base."""
    match scaling:
        case None:
            return "", ""
        case LinearScaling(factor):
            slower, how = f"{factor:g} times slower than trained at first", f"stretched {factor:g} times"
        case DynamicNTK(factor, context):
            slower = f"slower the longer a text is past {context:,} tokens"
            how = f"raised past {context:,} tokens (dynamic NTK, factor {factor:g})"
        case Llama3(factor, _, _, context) | Yarn(factor, context):
            slower = f"in slow pairs up to {factor:g} times slower than trained at first on {context:,} tokens"
            how = f"slow pairs stretched {factor:g} times from {context:,} tokens ({type(scaling).__name__})"
        case LongRope(context=context):
            slower = f"in each pair slower by factors of its own, others for texts past {context:,} tokens"
            how = f"each pair stretched by its own factor, by another past {context:,} tokens (LongRope)"
        case _:
            return f", changed by {scaling!r}", f", changed by {scaling!r}"
    return f", {slower}, to reach further", f", {how}"


def _scaling(scales: Sequence[float], head_width: int) -> str:
    for usual, phrase, joint in ((head_width**-0.5, "divided", " and"), (1.0, "not divided", ", but")):
        if all(math.isclose(scale, usual) for scale in scales):
            return f"{phrase} by sqrt(head width)"
        if all(math.isclose(scale, usual / (layer + 1)) for layer, scale in enumerate(scales)):
            return f"{phrase} by sqrt(head width){joint} by layer + 1"
    return f"multiplied by {', '.join(f'{scale:g}' for scale in dict.fromkeys(scales))}"

"""What attention does, and how it is told the positions of its tokens."""

import math
from collections.abc import Sequence

from torch import nn

from ..layers import Attention, Rotary
from .describing import Description, Fact, biases, describe, dropout, honest, in_checkpoint, rate
from .subjects import Subject

SOURCE = "Attention Is All You Need, arXiv 1706.03762"


@describe.register
def _(part: Attention, subject: Subject, path: str) -> Description:
    heads, kv_heads, head_width = part.heads, part.kv_heads, part.head_width
    grouped, cached = kv_heads < heads, 2 * kv_heads * head_width
    scaled = _scaling([one.scale for one in subject.model.modules() if isinstance(one, Attention)], head_width)
    share = part.score_dropout
    groups = f", in {kv_heads} groups that share a key and a value," if grouped else ""
    dropped = f" In training {share:.0%} of these attention weights are dropped." if share else ""
    text = f"""Lets each position gather from itself and those before it: {heads} heads of {head_width} numbers
    each{groups} compare its query with the keys of all it may see, turn the scores, {scaled}, into weights that sum to
    1, and mix the values by them. It looks backwards only: output i has seen tokens 0 to i, no later ones; that is what
    lets one pass train all positions at once, and a cache of keys and values ({cached:,} numbers a token in this layer)
    replace reading the text again.{dropped}"""
    in_heads = f"{heads} of {head_width}" + (f", {kv_heads} of keys and values" if grouped else "")
    facts = [
        Fact("attention", "heads", in_heads),
        *biases("attention", part),
        Fact("attention", "scores", scaled),
        *in_checkpoint("attention", subject, f"{path}.qkv.weight", fused=True),
        Fact("dropout", "attention", f"{share:g}"),
        rate("residual", part.dropout),
    ]
    children = {"dropout": dropout("what attention adds to the stream", part.dropout)}
    if isinstance(part.qkv, nn.Linear) and isinstance(part.out, nn.Linear):
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
    slower = f", {part.factor:g} times slower than trained at first, to reach further" if part.factor != 1 else ""
    stretched = f", stretched {part.factor:g} times" if part.factor != 1 else ""
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


def _scaling(scales: Sequence[float], head_width: int) -> str:
    for usual, phrase, joint in ((head_width**-0.5, "divided", " and"), (1.0, "not divided", ", but")):
        if all(math.isclose(scale, usual) for scale in scales):
            return f"{phrase} by sqrt(head width)"
        if all(math.isclose(scale, usual / (layer + 1)) for layer, scale in enumerate(scales)):
            return f"{phrase} by sqrt(head width){joint} by layer + 1"
    return f"multiplied by {', '.join(f'{scale:g}' for scale in dict.fromkeys(scales))}"

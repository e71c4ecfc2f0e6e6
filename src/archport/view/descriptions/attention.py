"""What is said of attention."""

import math
from collections.abc import Sequence

from torch import nn

from ...layers import Attention, Chunked, NormedLastAttention, Rotary, Window
from ..describing import Description, Fact, biases, describe, dropout, honest, in_checkpoint, rate
from ..subjects import Subject
from . import norms
from .positions import rotary, sight

SOURCE = "Attention Is All You Need, arXiv 1706.03762"


@describe.register(NormedLastAttention)
@describe.register
def _(part: Attention, subject: Subject, path: str) -> Description:
    heads, head_width, cached = part.heads, part.head_width, 2 * part.kv_heads * part.head_width
    text = f"""Lets each position gather from itself and those before it: {heads} heads of {head_width} numbers
    each{_groups(part)} compare its query with the keys of all it may see, {_weighed(part, subject)} into weights that
    sum to 1{_lost(part)}, and mix the values by them. It looks backwards only: output i has seen tokens 0 to i, no
    later ones; that is what lets one pass train all positions at once, and a cache of keys and values ({cached:,}
    numbers a token in this layer) replace reading the text again.{"".join(_more(part, subject))}"""
    reach = part.mask.size if isinstance(part.mask, Window | Chunked) else None
    unit = "group" if part.kv_heads < heads else "head"
    children = {"dropout": dropout("what attention adds to the stream", part.dropout)}
    children |= _maps(part, unit)
    if isinstance(part.rotary, Rotary) and honest(part.rotary, subject, path).known:
        children["rotary"] = rotary(part.rotary, subject, head_width)
    for name, what in (("q_norm", "queries"), ("k_norm", "keys")):
        if (norm := getattr(part, name)) is not None:
            children[name] = norms.of_heads(what, norm, subject, f"{path}.{name}")
    if part.sinks is not None:
        children["sinks"] = Description(f"A learned score for each of {heads} heads that no token has.")
    return Description(text, SOURCE, "attention", _facts(part, subject, path, unit), children, cached, reach)


def _facts(part: Attention, subject: Subject, path: str, unit: str) -> list[Fact]:
    kv = f", {part.kv_heads} of keys and values" if part.kv_heads < part.heads else ""
    scores = f"those of {type(part).__name__}" if _own_scores(part) else _scaling(part, subject) + _capped(part)
    normed = " / ".join(dict.fromkeys((norms.of_each(part.q_norm), norms.of_each(part.k_norm))))
    last = ", after rotary" if isinstance(part, NormedLastAttention) and part.q_norm is not None else ""
    return [
        Fact("attention", "heads", f"{part.heads} of {part.head_width}{kv}"),
        Fact("attention", "sees", sight(part.mask)),
        Fact("attention", "norms of q and k", normed + last),
        *biases("attention", part),
        Fact("attention", "clip", "no" if part.clip is None else f"{part.clip:g}"),
        Fact("attention", "scores", scores),
        Fact("attention", "sinks", "no" if part.sinks is None else "one a head"),
        *in_checkpoint("attention", subject, f"{path}.qkv.weight", fused=unit),
        Fact("dropout", "attention", f"{part.score_dropout:g}"),
        rate("residual", part.dropout),
    ]


def _maps(part: Attention, unit: str) -> dict[str, Description]:
    """Its two linear maps, where they are what they were built as."""
    qkv, out = getattr(part, "qkv", None), getattr(part, "out", None)
    if not (isinstance(qkv, nn.Linear) and isinstance(out, nn.Linear)):
        return {}
    heads, kv_heads, head_width = part.heads, part.kv_heads, part.head_width
    factors = f"({heads} + 2 x {kv_heads}) x {head_width}" if kv_heads < heads else f"3 x {heads} x {head_width}"
    made = f"""Makes queries, keys and values of all heads in one product: {qkv.in_features:,} numbers in, {factors} =
    {qkv.out_features:,} out. Our rows go {unit} by {unit}, and within a {unit} its {
        "queries" if unit == "group" else "query"
    }, its key, its value. Checkpoints disagree about this order, and a wrong one still computes something."""
    width, gathered = out.out_features, out.in_features
    sizes = f"{width:,} in and out" if gathered == width else f"{gathered:,} numbers in, {width:,} out"
    mixed = f"Mixes what the {heads} heads gathered and writes it to the stream: {sizes}."
    return {"qkv": Description(made, fused=unit), "out": Description(mixed)}


def _groups(part: Attention) -> str:
    if part.kv_heads == part.heads:
        return ""
    if part.kv_heads == 1:
        return ", all with the same keys and values,"
    return f", in {part.kv_heads} groups that share a key and a value,"


def _weighed(part: Attention, subject: Subject) -> str:
    return "turn the scores" + ("" if _own_scores(part) else f", {_scaling(part, subject)}{_capped(part)},")


def _capped(part: Attention) -> str:
    return "" if part.softcap is None else f", bent so that none passes {part.softcap:g}"


def _lost(part: Attention) -> str:
    return "" if part.sinks is None else ", of which a sink, a learned score of each head, takes a part for nothing"


def _more(part: Attention, subject: Subject) -> list[str]:
    """Further sentences, each with a space before it."""
    said = []
    elsewhere = any(isinstance(one, Rotary) for one in subject.modules)
    if part.rotary is None and elsewhere and not _own_scores(part):
        said.append(" Here queries and keys are not turned: no angle tells positions apart.")
    if isinstance(part.mask, Window | Chunked):
        said.append(f" Here a query sees {sight(part.mask)} tokens.")
    if part.q_norm is not None or part.k_norm is not None:
        when = "after they are turned" if isinstance(part, NormedLastAttention) else "first"
        said.append(f" Queries and keys are normed {when}.")
    if part.clip is not None:
        said.append(f" What is projected is kept between {-part.clip:g} and {part.clip:g}.")
    if part.score_dropout:
        said.append(f" In training {part.score_dropout:.0%} of these attention weights are dropped.")
    return said


def _own_scores(part: Attention) -> bool:
    return any(getattr(type(part), step) is not getattr(Attention, step) for step in ("attend", "scores"))


def _scaling(part: Attention, subject: Subject) -> str:
    """How the scores of all layers are scaled, in a phrase."""
    scales: Sequence[float] = [one.scale for one in subject.modules if isinstance(one, Attention)]
    for usual, phrase, joint in ((part.head_width**-0.5, "divided", " and"), (1.0, "not divided", ", but")):
        if all(math.isclose(scale, usual) for scale in scales):
            return f"{phrase} by sqrt(head width)"
        if all(math.isclose(scale, usual / (layer + 1)) for layer, scale in enumerate(scales)):
            return f"{phrase} by sqrt(head width){joint} by layer + 1"
    return f"multiplied by {', '.join(f'{scale:g}' for scale in dict.fromkeys(scales))}"

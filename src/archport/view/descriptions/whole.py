"""What is said of a model's two ends: the embedding, the head, and what comes after it."""

from dataclasses import replace

from torch import nn

from ...layers import (
    Alibi,
    CountedEmbed,
    Decoder,
    Embed,
    LogitScale,
    PositionedEmbed,
    ProjectedEmbed,
    Rotary,
    ScaledEmbed,
    SoftCap,
    SummedEmbed,
)
from ..describing import NOT_KNOWN, Description, Fact, describe, dropout, honest, rate
from ..subjects import Subject
from . import norms


@describe.register
def _(part: Decoder, subject: Subject, path: str) -> Description:
    children = {"norm": norms.in_stream("Before the output head", part.norm, subject, "norm")}
    if isinstance(part.head, nn.Linear):
        children["head"] = _head(part.head, part.tied)
    finished = "as they are" if part.finish is None else _finish(part.finish)
    return Description("", facts=(Fact("head", "logits", finished),), children=children)


def _head(head: nn.Linear, tied: bool) -> Description:
    weight = "the token embedding, used twice" if tied else "its own"
    own = f"Its weight is {weight}, though of the embedding's shape."
    how = f"It has no weight of its own: it is {weight}." if tied else own
    bias = "" if head.bias is None else " It has a bias, which few GPTs do."
    text = f"""Turns each position's vector into {head.out_features:,} scores, one a token: logits of the token that
    comes next. {how}{bias}"""
    facts = (Fact("head", "weight", weight), Fact("head", "bias", "yes" if bias else "no"))
    return Description(text, kind="head", facts=facts)


def _finish(part: nn.Module) -> str:
    """What is done to logits, in short."""
    match part:
        case LogitScale():
            return f"times {part.scale:g}"
        case SoftCap():
            return f"bent to stay within {part.cap:g}"
    return NOT_KNOWN


@describe.register
def _(part: LogitScale, subject: Subject, path: str) -> Description:
    return Description(f"Multiplies the logits by {part.scale:g}.", "CohereForCausalLM")


@describe.register
def _(part: SoftCap, subject: Subject, path: str) -> Description:
    text = f"""Bends the logits so that none passes {part.cap:g} on either side: {part.cap:g} x tanh(logit /
    {part.cap:g}). Small ones stay nearly as they are, and their order stays."""
    return Description(text, "Gemma 2, arXiv 2408.00118")


@describe.register(ProjectedEmbed)
@describe.register(CountedEmbed)
@describe.register(SummedEmbed)
@describe.register(ScaledEmbed)
@describe.register(PositionedEmbed)
@describe.register
def _(part: Embed, subject: Subject, path: str) -> Description:
    width, tied = f"{part.tokens.embedding_dim:,}", subject.model.tied
    projected = f", projected to {part.project.out_features:,}" if isinstance(part, ProjectedEmbed) else ""
    scale = part.tokens.scale if isinstance(part, ScaledEmbed) else part.scale
    changed = "" if scale is None else f", times {scale:g}"
    changed += ("" if part.norm is None else ", normed") + projected
    where = ""
    if isinstance(part, PositionedEmbed):
        where = " and adds a learned vector for each position"
    elif any(isinstance(module, Rotary) for module in subject.modules):
        where = "; where a token stands is said later, inside attention, by rotary angles"
    elif any(isinstance(module, Alibi) for module in subject.modules):
        where = "; how far tokens are apart is said later, inside attention, by a price on distance"
    text = f"""Turns each token id into a vector of {width} numbers{changed}{where}. The result is the residual stream:
    every block reads it and adds to it, none replaces it."""
    twice = "is this same table, used a second time: its rows are what the last vector is compared with."
    used = twice if tied else "has a table of its own."
    arithmetic = f"times {scale:g} as it is looked up." if isinstance(part, ScaledEmbed) else "no arithmetic."
    tokens = f"""One learned vector of {width} numbers for each of {part.tokens.num_embeddings:,} tokens; a lookup,
    {arithmetic} A checkpoint may hold more rows than its tokenizer has tokens, to make the size a round number: no
    token selects those rows, but they get scores all the same. The output head {used}"""
    shared = "sharing it with the head: arXiv 1608.05859" if tied else ""
    children = {
        "tokens": Description(tokens, shared, sides=("token", "element")),
        "dropout": dropout("the embedding", part.dropout),
    }
    if isinstance(part, ProjectedEmbed):
        children["project"] = Description(f"Makes token vectors as wide as the stream: {width} numbers in.")
    facts = [Fact("embedding", "token vectors", changed.removeprefix(", ") or "as they are")]
    facts += [rate("embedding", part.dropout)]
    if part.norm is not None:
        norm = honest(part.norm, subject, f"{path}.norm")
        children["norm"] = replace(norm, text=f"Of the token vectors: {norms.lowered(norm.text)}", kind="", facts=())
    if isinstance(part, PositionedEmbed):
        count = f"{part.positions.num_embeddings - part.offset:,}"
        before = f" The table has {part.offset} rows more in front, which no position selects." if part.offset else ""
        learned = f"""One learned vector for each of {count} positions, added to the token's. There is none for position
        {count}, so the model cannot read further. Trained, neighbouring rows become alike and waves appear, though
        nothing but the data says which positions are neighbours.{before}"""
        children["positions"] = Description(learned, "GPT-2, Radford et al. 2019", sides=("position", "element"))
        if isinstance(part, SummedEmbed) and part.last is not None:
            last = honest(part.last, subject, f"{path}.last")
            children["last"] = replace(last, text=f"Of the sum: {norms.lowered(last.text)}", kind="", facts=())
            facts += [Fact("embedding", "sum", "normed")]
        if isinstance(part, SummedEmbed) and part.segments is not None:
            first = "One learned vector for each segment of a text, of which the first is added to every token's."
            children["segments"] = Description(first, "BertEmbeddings", sides=("segment", "element"))
            facts += [Fact("embedding", "segments", "that of the first is added")]
        kind = "learned, of the tokens that are not padding" if isinstance(part, CountedEmbed) else "learned"
        facts += [Fact("positions", "kind", kind), Fact("positions", "context", f"{count} tokens, no more")]
    return Description(text, kind="embedding", facts=facts, children=children)

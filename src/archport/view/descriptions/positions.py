"""What is said of rotary positions and of masks."""

import torch
from torch import nn

from ...layers import (
    Alibi,
    Chunked,
    DynamicNTK,
    LinearScaling,
    Llama3,
    LongRope,
    Rotary,
    RoundedAlibi,
    Scaling,
    SlotAlibi,
    WideRotary,
    Window,
    Yarn,
)
from ..describing import Description, Fact, describe
from ..subjects import Subject

ROUNDED = """The product is rounded to bfloat16. To count from the first token rather than back from the query shifts
all scores of a query alike, which a softmax does not see. """
SLOTS = "In how far back it lies, padding between two tokens counts too. "
BEYOND = "What lies further back reaches it only through what other layers have gathered."


@describe.register(WideRotary)
@describe.register
def _(part: Rotary, subject: Subject, path: str) -> Description:
    return rotary(part, subject)


def rotary(part: Rotary, subject: Subject, head_width: int | None = None) -> Description:
    """Rotary positions, in heads of a known width or of any."""
    halves = part.pairing == "halves"
    pairs = "element i with element i + width / 2" if halves else "neighbours: element 2i with 2i + 1"
    slower, stretched = _stretch(part.scaling)
    factor = 1.0 if part.scaling is None else part.scaling.attention_factor
    raised = "" if factor == 1 else f" Cos and sin are multiplied by {factor:.6g}, so what is turned grows by that."
    times = "" if factor == 1 else f", cos and sin times {factor:.6g}"
    wide = " It is computed in float32, whatever the model's precision." if isinstance(part, WideRotary) else ""
    rest = (head_width or part.width) - part.width
    passed = f"; the other {rest} pass unturned" if rest else ""
    of = f" of the {head_width}" if head_width else ""
    text = f"""Turns queries and keys by angles that grow with their position{slower}, so that their product depends on
    how far apart two tokens are, not on where they stand. {part.width}{of} elements of each head are turned{passed}.
    {raised} Pairs are {pairs}: the two conventions look alike and are not interchangeable.{wide} Nothing here is
    learned or stored."""
    facts = (
        Fact("positions", "kind", "rotary"),
        Fact("positions", "context", f"{subject.config.context:,} tokens, as trained"),
        Fact("positions", "rotary width", f"{part.width}{of.replace(' the', '')} of each head"),
        Fact("positions", "rotary pairs", "i and i + width / 2" if halves else "2i and 2i + 1"),
        Fact("positions", "rotary base", f"{part.base:.12g}{stretched}{times}"),
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


def sight(mask: nn.Module | None) -> str:
    """Which tokens a query sees, in short."""
    match mask:
        case None | Alibi():
            return "all before it"
        case Window():
            return f"the last {mask.size:,}"
        case Chunked():
            return f"those of its chunk of {mask.size:,}"
    return f"what {type(mask).__name__} leaves"


@describe.register
def _(part: Window, subject: Subject, path: str) -> Description:
    text = f"Each query sees the last {part.size:,} tokens, its own among them. {BEYOND}"
    return Description(text, "Longformer, arXiv 2004.05150")


@describe.register
def _(part: Chunked, subject: Subject, path: str) -> Description:
    text = f"""The text is cut into chunks of {part.size:,} tokens; each query sees its own chunk, up to itself.
    {BEYOND}"""
    return Description(text, "Llama4TextModel")


@describe.register(RoundedAlibi)
@describe.register(SlotAlibi)
@describe.register
def _(part: Alibi, subject: Subject, path: str) -> Description:
    slopes = sorted(part.slopes(torch.device("cpu")).mul(part.factor).tolist())
    rounded = isinstance(part, RoundedAlibi)
    priced = (
        "Raises each score by how far the key is from the first token"
        if rounded
        else ("Lowers each score by how far back the key lies")
    )
    text = f"""{priced}, times a slope that each of the {part.heads} heads has of its own,
    from {slopes[0]:.3g} to {slopes[-1]:.3g}: steep heads look near, flat ones far.
    {ROUNDED * rounded}{SLOTS * isinstance(part, SlotAlibi)}
    This is all that tells positions apart. Nothing here is learned or stored."""
    facts = (
        Fact("positions", "kind", "ALiBi, rounded to bfloat16" if rounded else "ALiBi"),
        Fact("positions", "context", f"{subject.config.context:,} tokens, as trained"),
        Fact("positions", "slopes", f"{slopes[0]:.3g} to {slopes[-1]:.3g}"),
    )
    return Description(text, "ALiBi, arXiv 2108.12409", facts=facts)

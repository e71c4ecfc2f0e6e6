"""What is said of norms, wherever they stand."""

from dataclasses import replace

from torch import nn

from ...layers import (
    AcrossHeads,
    LateRMSNorm,
    LayerNormByHead,
    OffsetLayerNorm,
    OffsetRMSNorm,
    ProjectedNorm,
    RMSNorm,
    TransformedNorm,
)
from ..describing import Description, Fact, describe, honest
from ..subjects import Subject

LAYER_NORM = "Layer Normalization, arXiv 1607.06450"
RMS_NORM = "RMSNorm, arXiv 1910.07467"
WHOSE = "each position's"


def in_stream(where: str, norm: nn.Module, subject: Subject, path: str, *, stays: bool = True) -> Description:
    """A norm between the stream and what reads it, or of the stream itself."""
    description = honest(norm, subject, path)
    stream = f" The stream itself {'stays as it is' if stays else 'is what this gives'}." if description.known else ""
    return replace(description, text=f"{where}: {lowered(description.text)}{stream}")


def after(what: str, norm: nn.Module, subject: Subject, path: str, *, summed: bool = False) -> Description:
    """A norm of what a branch gives, before that is added to the stream, or of the sum."""
    description = honest(norm, subject, path)
    where = f"Of the stream with what {what} added" if summed else f"After {what}, before it is added to the stream"
    return replace(description, text=f"{where}: {lowered(description.text)}")


def of_heads(what: str, norm: nn.Module, subject: Subject, path: str) -> Description:
    """A norm of queries or keys, which is none of the stream."""
    description = honest(norm, subject, path)
    text = lowered(description.text).replace(WHOSE, "each head's")
    return replace(description, text=f"Of {what}: {text}", facts=(), kind="")


def of_each(norm: nn.Module | None) -> str:
    """What a norm of queries or keys is."""
    match norm:
        case None:
            return "no"
        case AcrossHeads():
            return f"{_kind(norm.norm)} of all heads together"
        case LayerNormByHead():
            return "LayerNorm of each head, with gains of its own"
    return f"{_kind(norm)} of each head"


def lowered(text: str) -> str:
    """A sentence after a colon."""
    return text[:1].lower() + text[1:]


def _kind(part: nn.Module) -> str:
    match part:
        case OffsetLayerNorm():
            return "LayerNorm, times 1 + gain"
        case nn.LayerNorm():
            lacking = "" if part.bias is not None else ", no bias" if part.elementwise_affine else ", no gain or bias"
            return f"LayerNorm{lacking}"
        case OffsetRMSNorm():
            return "RMSNorm, times 1 + gain"
        case LateRMSNorm():
            return "RMSNorm, rounded last"
        case RMSNorm():
            return "RMSNorm"
    return type(part).__name__


@describe.register(OffsetLayerNorm)
@describe.register
def _(part: nn.LayerNorm, subject: Subject, path: str) -> Description:
    bias = " and adds a learned bias" if getattr(part, "bias", None) is not None else ""
    gain = "learned gain" + (", which is kept as its distance from 1," if isinstance(part, OffsetLayerNorm) else "")
    learned = f", then multiplies by a {gain}{bias}" if part.elementwise_affine else ""
    text = f"""Shifts and scales {WHOSE} {part.normalized_shape[-1]:,} numbers to mean 0 and variance 1, adding
    {part.eps:g} to the variance so that nothing divides by zero{learned}."""
    facts = (Fact("residual", "norm", _kind(part)), Fact("residual", "norm eps", f"{part.eps:g}"))
    return Description(text, LAYER_NORM, "norm", facts)


@describe.register(LateRMSNorm)
@describe.register(OffsetRMSNorm)
@describe.register
def _(part: RMSNorm, subject: Subject, path: str) -> Description:
    gain = "learned gain" + (", which is kept as its distance from 1" if isinstance(part, OffsetRMSNorm) else "")
    late = isinstance(part, OffsetRMSNorm | LateRMSNorm)
    text = f"""Divides {WHOSE} {len(part.weight):,} numbers by the root of their mean square plus {part.eps:g}, which
    keeps it from dividing by zero, and multiplies by a {gain}. No mean is taken away and no bias added. All this is
    in float32; the result is rounded to the stream's type {"after" if late else "before"} the gain."""
    facts = (Fact("residual", "norm", _kind(part)), Fact("residual", "norm eps", f"{part.eps:g}"))
    return Description(text, RMS_NORM, "norm", facts)


@describe.register
def _(part: AcrossHeads, subject: Subject, path: str) -> Description:
    inner = honest(part.norm, subject, f"{path}.norm")
    together = replace(inner, text=inner.text.replace(WHOSE, "all heads'"), facts=(), kind="")
    text = "Takes all heads of a position as one vector for the norm inside, so that each is scaled alike."
    return Description(text, "Olmo2Attention", children={"norm": together})


@describe.register
def _(part: LayerNormByHead, subject: Subject, path: str) -> Description:
    heads, head_width = part.weight.shape
    text = f"""Shifts and scales {WHOSE} {head_width} numbers to mean 0 and variance 1, adding {part.eps:g} to the
    variance so that nothing divides by zero, then multiplies by gains that each of the {heads} heads has of its own."""
    return Description(text, LAYER_NORM)


@describe.register
def _(part: ProjectedNorm, subject: Subject, path: str) -> Description:
    inner, out = honest(part.norm, subject, f"{path}.norm"), part.project.out_features
    project = f"Makes vectors as wide as those of tokens: {part.project.in_features:,} numbers in, {out:,} out."
    children = {"norm": inner, "project": Description(project)}
    return Description("Norms, then projects to the width of token vectors.", "OPTDecoder", "norm", children=children)


@describe.register
def _(part: TransformedNorm, subject: Subject, path: str) -> Description:
    first, last = honest(part.norm, subject, f"{path}.norm"), honest(part.last, subject, f"{path}.last")
    activation = honest(part.activation, subject, f"{path}.activation")
    children = {"norm": first, "activation": activation, "last": replace(last, facts=(), kind="")}
    children["dense"] = Description(f"A linear map of {part.dense.in_features:,} numbers to as many, with a bias.")
    facts = (*first.facts, Fact("residual", "before the head", "mapped, activated and normed once more"))
    text = "Norms the stream, then maps, activates and norms it once more for the head."
    return Description(text, "BertPredictionHeadTransform", "norm", facts, children=children)


@describe.register
def _(part: nn.Identity, subject: Subject, path: str) -> Description:
    return Description("Nothing: what it is given comes out.", kind="norm")

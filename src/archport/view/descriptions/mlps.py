"""What is said of what happens at each position alone: MLPs and their activations."""

from torch import nn

from ...layers import MLP, GatedMLP, QuickGELU, ReLUSquared
from ...layers.experts import ClampedGatedMLP
from ..describing import Description, Fact, biases, describe, dropout, in_checkpoint, rate, unknown
from ..subjects import Subject
from .attention import SOURCE

NONLINEAR = "Without a nonlinearity, two linear maps would be one."
GATED = "GLU Variants Improve Transformer, arXiv 2002.05202"
ACTIVATIONS = {nn.GELU: "gelu", nn.ReLU: "relu", nn.SiLU: "silu", QuickGELU: "gelu, by a sigmoid"}
ACTIVATIONS |= {ReLUSquared: "relu squared"}


@describe.register(ClampedGatedMLP)
@describe.register(GatedMLP)
@describe.register
def _(part: MLP | GatedMLP, subject: Subject, path: str) -> Description:
    gated = isinstance(part, GatedMLP)
    maps = (part.up, part.down, part.gate) if isinstance(part, GatedMLP) else (part.up, part.down)
    if not all(isinstance(one, nn.Linear) for one in maps):
        return unknown(part, subject, path)
    width, mlp_width = part.up.in_features, part.up.out_features
    how = "activates them, and down-projects them again"
    if gated:
        how = "a second time to as many, the gate, activates that, multiplies both, and down-projects the product"
    text = f"""Works on each position alone: up-projects {width:,} numbers to {mlp_width:,}, {how}.{_clamped(part)}
    {share(part, subject, path):.0%} of a block's parameters are here."""
    times = f"{mlp_width // width} x {width:,} = " if mlp_width % width == 0 else ""
    facts = [
        Fact("mlp", "kind", ("gated" if gated else "up and down") + (", clamped" if _clamped(part) else "")),
        Fact("mlp", "width", f"{times}{mlp_width:,}"),
        Fact("mlp", "activation", _activation(part.activation)),
        *biases("mlp", part),
        *in_checkpoint("mlp", subject, f"{path}.up.weight"),
        rate("residual", part.dropout),
    ]
    times_gate = " These are multiplied by the activated gate." if gated else ""
    children = {
        "gate": Description(f"Makes the gate: {width:,} numbers in, {mlp_width:,} out, which are activated."),
        "up": Description(f"Up-projects: {width:,} numbers in, {mlp_width:,} out.{times_gate}"),
        "down": Description(f"Down-projects and writes to the stream: {mlp_width:,} numbers in, {width:,} out."),
        "dropout": dropout("what the MLP adds to the stream", part.dropout),
    }
    return Description(text, GATED if gated else SOURCE, "mlp", facts, children)


def _clamped(part: nn.Module) -> str:
    if not isinstance(part, ClampedGatedMLP):
        return ""
    between = f"between {-part.limit:g} and {part.limit:g} and raised by 1"
    return f" The gate is kept below {part.limit:g}, the up-projection {between}."


def share(part: nn.Module, subject: Subject, path: str) -> float:
    """How much of a block's parameters a part of it has."""
    block = subject.model.get_submodule(".".join(path.split(".")[:2]))
    return sum(p.numel() for p in part.parameters()) / sum(p.numel() for p in block.parameters())


def _activation(part: nn.Module) -> str:
    name = ACTIVATIONS.get(type(part), type(part).__name__)
    return name + (", by tanh" if getattr(part, "approximate", "") == "tanh" else "")


@describe.register
def _(part: QuickGELU, subject: Subject, path: str) -> Description:
    text = f"GELU by a sigmoid: x times the sigmoid of {part.alpha:g} x."
    return Description(f"{text} {NONLINEAR}", "GELU, arXiv 1606.08415")


@describe.register
def _(part: nn.GELU, subject: Subject, path: str) -> Description:
    tanh = "GELU by its tanh approximation, which differs from the exact one by less than 0.0005."
    exact = "GELU, exact: x times the normal distribution's share below x."
    return Description(f"{tanh if part.approximate == 'tanh' else exact} {NONLINEAR}", "GELU, arXiv 1606.08415")


for _class, _text, _source in (
    (nn.ReLU, "ReLU: negative numbers become 0.", "ReLU, Nair and Hinton 2010"),
    (nn.SiLU, "SiLU: x times its sigmoid.", "Swish, arXiv 1710.05941"),
    (ReLUSquared, "The square of what is positive, and 0 for the rest.", "Primer, arXiv 2109.08668"),
):
    describe.register(_class, lambda _, __, ___, text=_text, source=_source: Description(f"{text} {NONLINEAR}", source))

"""How a part of a model is described: by its class, subclasses included; and what is said of torch's own modules.

A class of your own: `describe.register(Memory, lambda part, subject, path: Description("Adds what came before."))`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import NamedTuple

from torch import nn

from .layouts import axes
from .subjects import Subject

NOT_KNOWN = "not known"


class Fact(NamedTuple):
    """One property of one part of a model, as a person would say it."""

    part: str
    what: str
    value: str


@dataclass(frozen=True)
class Description:
    """What is said of one part: in a text, with its `source`, and in `facts` to compare with another model's.

    `kind` is what its parameters count as: embedding, attention, mlp, norm or head. `children` are its own parts, by
    name. `cached` is how many numbers a token it keeps, and `reach` for how many tokens at most; `idle` is how
    many of its parameters do nothing for a token. `sides` is what lies
    along its weight's axes; `fused` if those are q, k and v at once, then what they are put together by: head or group.
    """

    text: str
    source: str = ""
    kind: str = ""
    facts: Sequence[Fact] = ()
    children: Mapping[str, "Description"] = field(default_factory=dict)
    cached: int | None = None
    reach: int | None = None
    idle: int = 0
    sides: tuple[str, str] = ("out", "in")
    fused: str = ""
    known: bool = True
    complete: bool = True  # not where a subclass has steps of its own


@singledispatch
def describe(part: nn.Module, subject: Subject, path: str) -> Description:
    """What one part of a model is and does, by its class."""
    return Description(f"no description of {type(part).__name__} yet", sides=("row", "column"), known=False)


unknown: Callable[..., Description] = describe.dispatch(object)


def honest(part: nn.Module, subject: Subject, path: str) -> Description:
    """What the class of a part says, unless a subclass computes something else."""
    description, classes = describe(part, subject, path), type(part).__mro__
    own = classes[: next(at for at, one in enumerate(classes) if one in describe.registry)]
    changed = sorted({name for one in own for name in vars(one) if not name.startswith("_")} - {"extra_repr", "wiring"})
    if "forward" in changed:
        return replace(unknown(part, subject, path), kind=description.kind)
    if changed and description.known:
        note = f"{type(part).__name__} has its own {', '.join(changed)}, of which there is no description yet."
        return replace(description, text=f"{description.text} {note}", complete=False)
    return description


def biases(kind: str, part: nn.Module) -> list[Fact]:
    """Which linear maps of a part have a bias."""
    linears = [name for name, module in part.named_modules() if isinstance(module, nn.Linear)]
    without = [name for name in linears if part.get_submodule(name).bias is None]
    value = "yes" if not without else "no" if len(without) == len(linears) else f"yes, but not in {', '.join(without)}"
    return [Fact(kind, "biases", value)] if linears else []


def in_checkpoint(kind: str, subject: Subject, name: str, *, fused: str = "") -> list[Fact]:
    """The layout of a weight in the files, where a row of the key table says it."""
    rows = subject.architecture.table.rows(name, subject.config)
    return [Fact(kind, "in the checkpoint", axes(row, fused=fused)) for row in rows[:1]]


@describe.register
def _(part: nn.Dropout, subject: Subject, path: str) -> Description:
    return dropout("what it is given", part)


def dropout(what: str, part: nn.Module) -> Description:
    """A dropout, and what it drops."""
    if not isinstance(part, nn.Dropout):
        return unknown(part, None, "")
    text = f"Would set numbers of {what} to 0 at random in training; its rate here is 0, so it does nothing."
    if part.p:
        text = f"""In training sets each number of {what} to 0 with probability {part.p:g}, and multiplies the others so
        that the mean stays what it was; in eval mode does nothing. It has no weights."""
    return Description(text, "Dropout, Srivastava et al. 2014")


def rate(of: str, part: nn.Module) -> Fact:
    """The rate of a dropout."""
    return Fact("dropout", of, f"{part.p:g}" if isinstance(part, nn.Dropout) else NOT_KNOWN)


@describe.register
def _(part: nn.Linear, subject: Subject, path: str) -> Description:
    return Description(f"A linear map: {part.in_features:,} numbers in, {part.out_features:,} out.")


@describe.register
def _(part: nn.Embedding, subject: Subject, path: str) -> Description:
    return Description(
        f"One learned vector of {part.embedding_dim:,} numbers for each of {part.num_embeddings:,} indices."
    )


@describe.register
def _(part: nn.ModuleList, subject: Subject, path: str) -> Description:
    return Description("")

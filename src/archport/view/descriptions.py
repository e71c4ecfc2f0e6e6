"""What a part is and does, with this model's numbers: one description a class, subclasses included.

A class of your own: `describe.register(GatedMLP, lambda part, subject, path: Description("Up-projects twice ..."))`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any, NamedTuple

from torch import nn

from .. import layers
from ..layers import MLP, Attention, Decoder, Embed, PositionedEmbed, Rotary
from .layouts import in_short
from .subjects import Subject

TRANSFORMER = "Attention Is All You Need, arXiv 1706.03762"
NONLINEAR = "Without a nonlinearity, two linear maps would be one."


class Fact(NamedTuple):
    """One property of one part of a model, as a person would say it."""

    part: str
    what: str
    value: str


@dataclass(frozen=True)
class Description:
    """What is said of one part: in a text, with its `source`, and in `facts` to compare with another model's.

    `kind` is what its parameters are counted as: embedding, attention, mlp, norm or head. `children` describe parts
    that mean something only where they stand, by their names in this one. `cached` is how many numbers a token an
    attention keeps, `sides` what lies along the axes of its weight, `fused` whether that makes q, k and v at once.
    """

    text: str
    source: str = ""
    kind: str = ""
    facts: Sequence[Fact] = ()
    children: Mapping[str, "Description"] = field(default_factory=dict)
    cached: int | None = None
    sides: tuple[str, str] = ("out", "in")
    fused: bool = False
    known: bool = True


@singledispatch
def describe(part: nn.Module, subject: Subject, path: str) -> Description:  # noqa: ARG001
    """What one part of a model is and does, by its class."""
    return Description(f"no description of {type(part).__name__} yet", sides=("row", "column"), known=False)


_unknown: Callable[..., Description] = describe.dispatch(object)


def described(subject: Subject) -> dict[str, Description]:
    """The description of every part by its path, the model itself by an empty one."""
    descriptions: dict[str, Description] = {}
    for path, part in subject.model.named_modules(remove_duplicate=False):
        owner, _, name = path.rpartition(".")
        in_owner = descriptions[owner].children.get(name) if path else None
        descriptions[path] = in_owner or _honest(part, subject, path)
    return descriptions


def _honest(part: nn.Module, subject: Subject, path: str) -> Description:
    """What the class of a part says, unless a subclass computes something else."""
    description, classes = describe(part, subject, path), type(part).__mro__
    own = classes[: next(at for at, one in enumerate(classes) if one in describe.registry)]
    changed = sorted({name for one in own for name in vars(one) if not name.startswith("_")} - {"extra_repr", "wiring"})
    if "forward" in changed:
        return replace(_unknown(part, subject, path), kind=description.kind)
    if changed and description.known:
        note = f"{type(part).__name__} has its own {', '.join(changed)}, of which there is no description yet."
        return replace(description, text=f"{description.text} {note}")
    return description


# --- the decoder, its embedding and its head ---


@describe.register
def _(part: Decoder, subject: Subject, path: str) -> Description:  # noqa: ARG001
    children = {"norm": _before("the output head", part.norm, subject, "norm")}
    if isinstance(part.head, nn.Linear):
        children["head"] = _head(part.head, part.tied)
    return Description("", children=children)


def _head(head: nn.Linear, tied: bool) -> Description:
    own = "Its weight is its own, though of the embedding's shape."
    how = "It has no weight of its own: it is the token embedding, used twice." if tied else own
    bias = "" if head.bias is None else " It has a bias, which few GPTs do."
    text = f"""Turns each position's vector into {head.out_features:,} scores, one a token: logits of the token that
    comes next. {how}{bias}"""
    weight = Fact("head", "weight", "the token embedding, used twice" if tied else "its own")
    return Description(text, kind="head", facts=(weight, Fact("head", "bias", "yes" if bias else "no")))


@describe.register(PositionedEmbed)
@describe.register
def _(part: Embed, subject: Subject, path: str) -> Description:  # noqa: ARG001
    width, tied = f"{part.tokens.embedding_dim:,}", subject.model.tied
    where = ""
    if isinstance(part, PositionedEmbed):
        where = " and adds a learned vector for each position"
    elif any(isinstance(module, Rotary) for module in subject.model.modules()):
        where = "; where a token stands is said later, inside attention, by rotary angles"
    text = f"""Turns each token id into a vector of {width} numbers{where}. The result is the residual stream: every
    block reads it and adds to it, none replaces it."""
    used = "is this same table, used a second time: its rows are what the last vector is compared with."
    used = used if tied else "has a table of its own."
    tokens = f"""One learned vector of {width} numbers for each of {part.tokens.num_embeddings:,} tokens; a lookup, no
    arithmetic. A checkpoint may hold more rows than its tokenizer has tokens, to make the size a round number: no token
    selects those rows, but they get scores all the same. The output head {used}"""
    shared = "sharing it with the head: arXiv 1608.05859" if tied else ""
    children = {
        "tokens": Description(tokens, shared, sides=("token", "element")),
        "dropout": _dropout("the embedding", part.dropout),
    }
    facts = [Fact("dropout", "embedding", _rate(part.dropout))]
    if isinstance(part, PositionedEmbed):
        count = f"{part.positions.num_embeddings:,}"
        learned = f"""One learned vector for each of {count} positions, added to the token's. There is none for position
        {count}, so the model cannot read further. Trained, neighbouring rows become alike and waves appear, though
        nothing but the data says which positions are neighbours."""
        children["positions"] = Description(learned, "GPT-2, Radford et al. 2019", sides=("position", "element"))
        facts += [Fact("positions", "kind", "learned"), Fact("positions", "context", f"{count} tokens, no more")]
    return Description(text, kind="embedding", facts=facts, children=children)


# --- blocks and norms ---

BRANCHES = {"norm_attn": "attention", "norm_mlp": "the MLP"}
WIRINGS: dict[type[nn.Module], tuple[dict[str, str], str]] = {
    layers.SequentialBlock: (
        BRANCHES,
        "attention is added to the stream first, then the MLP reads what attention left.",
    ),
    layers.ParallelBlock: (
        BRANCHES,
        "attention and the MLP read the same stream, each through its own norm, and both are added to it.",
    ),
    layers.SharedNormBlock: (
        {"norm": "attention and the MLP, once for both"},
        "attention and the MLP read the same stream through one norm, and both are added to it.",
    ),
}


def _block(part: Any, subject: Subject, path: str) -> Description:
    norms, wiring = next(WIRINGS[one] for one in type(part).__mro__ if one in WIRINGS)
    own = dict(part.named_children())
    children = {
        name: _before(branch, own[name], subject, f"{path}.{name}") for name, branch in norms.items() if name in own
    }
    text = f"One of {len(subject.model.blocks)} layers, {getattr(part, 'wiring', type(part).__name__)}: {wiring}"
    return Description(text, "adding to a stream: Deep Residual Learning, arXiv 1512.03385", children=children)


for _class in WIRINGS:
    describe.register(_class, _block)


def _before(what: str, norm: nn.Module, subject: Subject, path: str) -> Description:
    """A norm between the stream and what reads it."""
    description = _honest(norm, subject, path)
    text = description.text[:1].lower() + description.text[1:]
    stream = " The stream itself stays as it is." if description.known else ""
    return replace(description, text=f"Before {what}: {text}{stream}")


@describe.register
def _(part: nn.LayerNorm, subject: Subject, path: str) -> Description:  # noqa: ARG001
    bias = " and adds a learned bias" if getattr(part, "bias", None) is not None else ""
    learned = f", then multiplies by a learned gain{bias}" if part.elementwise_affine else ""
    text = f"""Shifts and scales each position's {part.normalized_shape[-1]:,} numbers to mean 0 and variance 1, adding
    {part.eps:g} to the variance so that nothing divides by zero{learned}."""
    facts = (Fact("residual", "norm eps", f"{part.eps:g}"),)
    return Description(text, "Layer Normalization, arXiv 1607.06450", "norm", facts)


# --- attention and its positions ---


@describe.register
def _(part: Attention, subject: Subject, path: str) -> Description:
    heads, kv_heads, head_width = part.heads, part.kv_heads, part.head_width
    grouped, cached = kv_heads < heads, 2 * kv_heads * head_width
    scaled = _scaling([one.scale for one in subject.model.modules() if isinstance(one, Attention)], head_width)
    rate = part.score_dropout
    groups = f", in {kv_heads} groups that share a key and a value," if grouped else ""
    dropped = f" In training {rate:.0%} of these attention weights are dropped." if rate else ""
    text = f"""Lets each position gather from itself and those before it: {heads} heads of {head_width} numbers
    each{groups} compare its query with the keys of all it may see, turn the scores, {scaled}, into weights that sum to 1, and mix
    the values by them. It looks backwards only: output i has seen tokens 0 to i, no later ones; that is what lets one
    pass train all positions at once, and a cache of keys and values ({cached:,} numbers a token in this layer) replace
    reading the text again.{dropped}"""
    facts = [
        Fact(
            "attention", "heads", f"{heads} of {head_width}" + (f", {kv_heads} of keys and values" if grouped else "")
        ),
        *_biases("attention", part),
        Fact("attention", "scores", scaled),
        *_in_checkpoint("attention", subject, f"{path}.qkv.weight", fused=True),
        Fact("dropout", "attention", f"{rate:g}"),
        Fact("dropout", "residual", _rate(part.dropout)),
    ]
    children = {"dropout": _dropout("what attention adds to the stream", part.dropout)}
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
    if isinstance(part.rotary, Rotary) and _honest(part.rotary, subject, path).known:
        children["rotary"] = _rotary(part.rotary, subject, f" of the {head_width}", head_width - part.rotary.width)
    return Description(text, TRANSFORMER, "attention", facts, children, cached)


@describe.register
def _(part: Rotary, subject: Subject, path: str) -> Description:  # noqa: ARG001
    return _rotary(part, subject, "", 0)


def _rotary(part: Rotary, subject: Subject, of: str, rest: int) -> Description:
    halves = part.pairing == "halves"
    pairs = "element i with element i + width / 2" if halves else "neighbours: element 2i with 2i + 1"
    slower = f", {part.factor:g} times slower than trained at first, to reach further" if part.factor != 1 else ""
    passed = f"; the other {rest} pass unturned" if rest else ""
    text = f"""Turns queries and keys by angles that grow with their position{slower}, so that their product depends on
    how far apart two tokens are, not on where they stand. {part.width}{of} elements of each head are turned{passed}.
    Pairs are {pairs}: the two conventions look alike and are not interchangeable. Nothing here is learned or stored."""
    facts = {
        "kind": "rotary",
        "context": f"{subject.config.context:,} tokens, as trained",
        "rotary width": f"{part.width}{of.replace(' the', '')} of each head",
        "rotary pairs": "i and i + width / 2" if halves else "2i and 2i + 1",
        "rotary base": f"{part.base:g}" + (f", stretched {part.factor:g} times" if part.factor != 1 else ""),
    }
    of_positions = [Fact("positions", what, value) for what, value in facts.items()]
    return Description(text, "RoFormer, arXiv 2104.09864", facts=of_positions)


def _scaling(scales: Sequence[float], head_width: int) -> str:
    """What is done to the scores of each layer before the softmax."""
    for usual, phrase, joint in ((head_width**-0.5, "divided", " and"), (1.0, "not divided", ", but")):
        if all(math.isclose(scale, usual) for scale in scales):
            return f"{phrase} by sqrt(head width)"
        if all(math.isclose(scale, usual / (layer + 1)) for layer, scale in enumerate(scales)):
            return f"{phrase} by sqrt(head width){joint} by layer + 1"
    return f"multiplied by {', '.join(f'{scale:g}' for scale in dict.fromkeys(scales))}"


# --- the MLP ---


@describe.register
def _(part: MLP, subject: Subject, path: str) -> Description:
    if not (isinstance(part.up, nn.Linear) and isinstance(part.down, nn.Linear)):
        return _unknown(part, subject, path)
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
        *_biases("mlp", part),
        *_in_checkpoint("mlp", subject, f"{path}.up.weight"),
        Fact("dropout", "residual", _rate(part.dropout)),
    ]
    children = {
        "up": Description(f"Up-projects: {width:,} numbers in, {mlp_width:,} out."),
        "down": Description(f"Down-projects and writes to the stream: {mlp_width:,} numbers in, {width:,} out."),
        "dropout": _dropout("what the MLP adds to the stream", part.dropout),
    }
    return Description(text, TRANSFORMER, "mlp", facts, children)


def _biases(kind: str, part: nn.Module) -> list[Fact]:
    """Which linear maps of a part have a bias."""
    linears = {name: module for name, module in part.named_modules() if isinstance(module, nn.Linear)}
    without = [name for name, linear in linears.items() if linear.bias is None]
    value = "yes" if not without else "no" if len(without) == len(linears) else f"yes, but not in {', '.join(without)}"
    return [Fact(kind, "biases", value)] if linears else []


def _in_checkpoint(kind: str, subject: Subject, name: str, *, fused: bool = False) -> list[Fact]:
    """The layout of a weight in the files, where a row of the key table says it."""
    rows = subject.architecture.table.rows(name)
    return [Fact(kind, "in the checkpoint", in_short(row, fused=fused)) for row in rows[:1]]


# --- torch's own, wherever they stand ---


@describe.register
def _(part: nn.Dropout, subject: Subject, path: str) -> Description:  # noqa: ARG001
    return _dropout("what it is given", part)


def _dropout(what: str, part: nn.Module) -> Description:
    if not isinstance(part, nn.Dropout):
        return _unknown(part, None, "")
    text = f"Would set numbers of {what} to 0 at random in training; its rate here is 0, so it does nothing."
    if part.p:
        text = f"""In training sets each number of {what} to 0 with probability {part.p:g}, and multiplies the others so
        that the mean stays what it was; in eval mode does nothing. It has no weights."""
    return Description(text, "Dropout, Srivastava et al. 2014")


def _rate(part: nn.Module) -> str:
    return f"{part.p:g}" if isinstance(part, nn.Dropout) else "not known"


def _gelu(part: Any) -> str:
    tanh = "GELU by its tanh approximation, which differs from the exact one by less than 0.0005."
    exact = "GELU, exact: x times the normal distribution's share below x."
    return f"{tanh if part.approximate == 'tanh' else exact} {NONLINEAR}"


TEXTS: dict[type[nn.Module], tuple[Callable[[Any], str], str]] = {
    nn.ModuleList: (lambda _: "", ""),
    nn.GELU: (_gelu, "GELU, arXiv 1606.08415"),
    nn.ReLU: (lambda _: f"ReLU: negative numbers become 0. {NONLINEAR}", "ReLU, Nair and Hinton 2010"),
    nn.Linear: (lambda one: f"A linear map: {one.in_features:,} numbers in, {one.out_features:,} out.", ""),
    nn.Embedding: (
        lambda one: f"One learned vector of {one.embedding_dim:,} numbers for each of {one.num_embeddings:,} indices.",
        "",
    ),
}
for _class, (_text, _source) in TEXTS.items():
    describe.register(_class, lambda part, _, __, text=_text, source=_source: Description(text(part), source))

"""The places of a forward pass that can be observed, described by the class of the part that computes there."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import singledispatch

from torch import nn

from ..errors import SourceError
from ..keywords import strict_keywords
from ..layers import (
    MLP,
    Alibi,
    Attention,
    Block,
    Chunked,
    Decoder,
    Embed,
    GatedMLP,
    PositionedEmbed,
    PostNormBlock,
    RMSNorm,
    Rotary,
    SandwichBlock,
    ScaledBlock,
    SequentialBlock,
    Window,
)
from ..layers.experts import Experts, Router, SharedExpert

STREAM = "(batch, seq, width)"
HEADS = "(batch, seq, heads, head_width)"
KV_HEADS = "(batch, seq, kv_heads, head_width)"
WIDE = "(batch, seq, mlp_width)"
OUT = {"norm_attn_out": "attention", "norm_mlp_out": "the MLP"}
SCORES = "(batch, heads, seq, keys)"


@dataclass(frozen=True)
class Site:
    """A place inside a forward pass: its name, the shape of its values, what they mean, and where they are computed.

    A value is the result of `step`, a method of the module `part`, or the first argument of its forward pass where
    `before`; of several results the one at `index`. `by_head` is for a step whose results have the heads before the
    sequence, where the site has them after it. While a site is observed, the method of the part that `instead` names
    first is replaced by the one it names second, which computes the same in more steps. In a shape, `..` is any number
    of axes; it is empty where the part is not described.
    """

    name: str
    shape: str
    meaning: str
    part: str = ""
    step: str = "forward"
    before: bool = False
    index: int | None = None
    by_head: bool = False
    instead: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.shape}".rstrip() + f": {self.meaning}"


@strict_keywords
def sites(model: Decoder) -> list[Site]:
    """Every place of a model that `observe` can see and change, what a module is made of before its result.

    Raises: SourceError.
    """
    if not isinstance(model, Decoder):
        raise SourceError(f"found a {type(model).__name__}, expected a Decoder of archport")
    if model.is_part:  # of whose heads a site has some, and of whose sums a term
        raise SourceError("found a part of the model in this process, the rest in others: observe it as loaded in one")
    blocks = {f"blocks.{number}": number for number in range(len(model.blocks))}
    known: dict[str, Site] = {}
    for path, module in model.named_modules():
        own = list(sites_of(module))
        if path in blocks:
            before = Site("", STREAM, f"the residual stream before block {blocks[path]}", before=True)
            after = Site("after", STREAM, f"the residual stream after block {blocks[path]}")
            own = [before, *(site for site in own if site.name), after]  # whatever class the block has
        for site in own:
            name = f"{path}.{site.name}".strip(".")
            # What a part says of a module inside it comes first, and holds.
            known.setdefault(name, replace(site, name=name, part=f"{path}.{site.part}".strip(".")))
    of_part: dict[str, list[Site]] = defaultdict(list)
    for site in known.values():
        of_part[site.part].append(site)

    def in_order(path: str, module: nn.Module) -> Iterator[Site]:
        yield from (site for site in of_part[path] if site.before)
        for name, child in module.named_children():
            yield from in_order(f"{path}.{name}".strip("."), child)
        yield from (site for site in of_part[path] if not site.before)

    return list(in_order("", model))


@singledispatch
def sites_of(part: nn.Module) -> Iterable[Site]:
    """The sites of one part, their names relative to its own; a part that is not described has its result.

    `sites_of.register` describes a class, and its subclasses with it.
    """
    return [Site("", "", _result(part))]


@sites_of.register(nn.ModuleList)
@sites_of.register(nn.ModuleDict)
@sites_of.register(nn.Dropout)
@sites_of.register(Rotary)  # these run once a pass, for all layers that share them
@sites_of.register(Window)
@sites_of.register(Chunked)
@sites_of.register(Alibi)
def _(part: nn.Module) -> Iterable[Site]:  # noqa: ARG001
    return []


@sites_of.register
def _(part: nn.Linear) -> Iterable[Site]:
    return [Site("", f"(.., {part.out_features})", _result(part))]


@sites_of.register
def _(part: nn.Embedding) -> Iterable[Site]:
    return [Site("", f"(.., {part.embedding_dim})", _result(part))]


@sites_of.register
def _(part: Decoder) -> Iterable[Site]:
    yield from _norms(part)
    yield Site("logits", "(batch, seq, vocab_size)", "the scores of the next token", step="logits")


@sites_of.register
def _(part: Embed) -> Iterable[Site]:
    yield Site("tokens", STREAM, "token vectors", part="tokens")
    if isinstance(part, PositionedEmbed):
        meaning = "learned positions, for all rows at once where none is padded"
        yield Site("positions", "(.., seq, width)", meaning, part="positions")
    yield from _norms(part)
    yield Site("", STREAM, "what enters the first block", step="place")


@sites_of.register
def _(part: Block) -> Iterable[Site]:
    yield from _norms(part)
    if isinstance(part, SandwichBlock | PostNormBlock | ScaledBlock):
        until = "scaled" if isinstance(part, ScaledBlock) else "normed"
        yield Site("attn", STREAM, f"what attention gives, before it is {until} and added to the stream", part="attn")
        yield Site("mlp", STREAM, f"what the MLP gives, before it is {until} and added to the stream", part="mlp")
    if isinstance(part, SequentialBlock) and type(part).forward is SequentialBlock.forward:
        yield Site("between", STREAM, "the residual stream between attention and MLP", step="add_attention")


@sites_of.register
def _(part: Attention) -> Iterable[Site]:
    if type(part).forward is not Attention.forward:  # its steps may not be run
        yield Site("", "", _result(part))
        return
    yield Site("q", HEADS, "queries", step="project", index=0, by_head=True)
    yield Site("k", KV_HEADS, "keys", step="project", index=1, by_head=True)
    yield Site("v", KV_HEADS, "values", step="project", index=2, by_head=True)
    if part.q_norm is not None:
        yield Site("q_norm", HEADS, "queries after their norm", step="norm", index=0, by_head=True)
    if part.k_norm is not None:
        yield Site("k_norm", KV_HEADS, "keys after their norm", step="norm", index=1, by_head=True)
    if part.rotary is not None:
        yield Site("q_rotated", HEADS, "queries after rotary", step="rotate", index=0, by_head=True)
        yield Site("k_rotated", KV_HEADS, "keys after rotary", step="rotate", index=1, by_head=True)
    if _alike(part, "attend", "attend_eagerly", "scores", "probabilities"):
        eager = ("attend", "attend_eagerly")
        meaning = "how well each query matches each key, minus infinity where it may not look"
        yield Site("scores", SCORES, meaning, step="scores", instead=eager)
        meaning = "how much each query takes of each value"
        yield Site("probabilities", SCORES, meaning, step="probabilities", instead=eager)
    yield Site("heads", HEADS, "what each head has gathered", step="attend", by_head=True)
    if isinstance(part.out, nn.Linear) and _alike(part, "output", "output_by_head", "project_heads"):
        by_head = ("output", "output_by_head")
        meaning = "what each head adds to the stream, before a bias of the output"
        yield Site("projected_heads", "(batch, seq, heads, width)", meaning, step="project_heads", instead=by_head)
    yield Site("out", STREAM, "what all heads add to the stream", step="output")
    yield Site("", STREAM, "what attention adds to the stream")


@sites_of.register(GatedMLP)
@sites_of.register
def _(part: MLP | GatedMLP) -> Iterable[Site]:
    if type(part).forward not in (MLP.forward, GatedMLP.forward):
        yield Site("", "", _result(part))
        return
    if isinstance(part, GatedMLP):
        yield Site("gate", WIDE, "the gate, before its activation", part="gate")
    yield Site("up", WIDE, "up-projected", part="up")
    yield Site("activation", WIDE, "after the activation", part="activation")
    if isinstance(part, GatedMLP):
        yield Site("product", WIDE, "the activated gate times what is up-projected", part="down", before=True)
    yield Site("down", STREAM, "down-projected", part="down")
    yield Site("", STREAM, "what the MLP adds to the stream")


@sites_of.register
def _(part: Experts) -> Iterable[Site]:
    if type(part).forward is Experts.forward and isinstance(part.router, Router):
        meaning = "how much of each chosen expert a token takes"
        yield Site("weights", "(batch * seq, top)", meaning, part="router", index=0)
        yield Site(
            "chosen", "(batch * seq, top)", "the numbers of the experts that a token goes to", part="router", index=1
        )
    for number, expert in enumerate(part.experts):
        for site in sites_of(expert):
            name, inside = (f"experts.{number}.{one}".strip(".") for one in (site.name, site.part))
            meaning = f"{site.meaning.replace('adds to the stream', 'gives')}, for the tokens that go to this expert"
            shape = site.shape.replace("batch, seq", "tokens")
            yield replace(site, name=name, part=inside, shape=shape, meaning=meaning)
    if part.shared is not None:
        yield Site("shared", STREAM, "what the shared expert gives", part="shared")
    yield Site("", STREAM, "what the experts together add to the stream")


@sites_of.register(Router)
@sites_of.register(SharedExpert)
def _(part: nn.Module) -> Iterable[Site]:  # noqa: ARG001  # what is outside of it says what it gives
    return []


@sites_of.register
def _(part: RMSNorm) -> Iterable[Site]:
    return [Site("", f"(.., {len(part.weight)})", _result(part))]


def _norms(part: nn.Module) -> Iterator[Site]:
    """The norms that stand in the stream, not in a head."""
    for name, child in part.named_children():
        if isinstance(child, nn.LayerNorm | nn.RMSNorm | RMSNorm):
            branch = OUT.get(name)
            meaning = f"what {branch} adds to the stream, normed" if branch else "after this norm"
            yield Site(name, STREAM, meaning, part=name)


def _result(part: nn.Module) -> str:
    return f"the result of this {type(part).__name__}"


def _alike(part: nn.Module, step: str, *in_steps: str) -> bool:
    """Whether `in_steps` compute the same as `step`: not where a subclass overrides it, and none of them."""
    for cls in type(part).__mro__:
        if any(name in vars(cls) for name in in_steps):
            return True
        if step in vars(cls):
            break
    return False

"""What is said of mixtures of experts and their routers."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from ...layers.experts import (
    ChosenSoftmaxRouter,
    Experts,
    FloatLinear,
    NormalisedRouter,
    Router,
    SharedExpert,
    SigmoidRouter,
    SoftmaxRouter,
    UncastNormalisedRouter,
)
from ..describing import NOT_KNOWN, Description, Fact, describe, honest
from ..subjects import Subject
from .mlps import share

SOURCE = "Outrageously Large Neural Networks, arXiv 1701.06538"


@describe.register
def _(part: Experts, subject: Subject, path: str) -> Description:
    count, top = len(part.experts), part.router.top if isinstance(part.router, Router) else None
    idle = sum(p.numel() for p in part.experts.parameters()) * (count - (top or count)) // count
    shared = "" if part.shared is None else ", and through a shared one"
    chosen = "some" if top is None else f"{top:,}"
    text = f"""Works on each position alone: a router chooses {chosen} of {count} experts for each token, which goes
    through these{shared}; what they give is added, each times the router's weight.
    {share(part, subject, path):.0%} of a block's parameters are here."""
    if idle:
        text += f" {idle:,} of them, those of experts that are not chosen, do nothing for a token."
    experts = _alike(part.experts, subject, f"{path}.experts")
    kinds = {fact.value for one in experts.values() for fact in one.facts if fact[:2] == ("mlp", "kind")}
    one_shared = "" if part.shared is None else ", and a shared one"
    facts = (
        Fact("mlp", "kind", f"experts, {' / '.join(kinds) or NOT_KNOWN}"),
        Fact("mlp", "experts", f"{count}, {top or NOT_KNOWN} of them a token{one_shared}"),
    )
    children = {"experts": Description("", children={name: _inside(one) for name, one in experts.items()})}
    if part.shared is not None:
        children["shared"] = _inside(honest(part.shared, subject, f"{path}.shared"))
    return Description(text, SOURCE, "mlp", facts, children, idle=idle)


def _alike(experts: nn.ModuleList, subject: Subject, path: str) -> Mapping[str, Description]:
    """The description of each expert; of those of a class and of the same shapes, one."""
    of_kind: dict[object, Description] = {}
    for number, expert in enumerate(experts):
        kind = type(expert), tuple(parameter.shape for parameter in expert.parameters())
        of_kind.setdefault(kind, honest(expert, subject, f"{path}.{number}"))
    kinds = [(type(expert), tuple(parameter.shape for parameter in expert.parameters())) for expert in experts]
    return {str(number): of_kind[kind] for number, kind in enumerate(kinds)}


def _inside(one: Description) -> Description:
    """An expert, which writes to the stream by way of the router's weight only."""
    children = dict(one.children)
    if "down" in children:
        text = children["down"].text.replace(" and writes to the stream", "")
        children["down"] = replace(children["down"], text=text)
    return replace(one, facts=[fact for fact in one.facts if fact.what != "kind"], children=children)


@describe.register
def _(part: SharedExpert, subject: Subject, path: str) -> Description:
    text = "An expert that every token goes through, times a gate: a number between 0 and 1 that each token has."
    gate = "Makes the gate's number of each token, before its sigmoid."
    children = {"mlp": _inside(honest(part.mlp, subject, f"{path}.mlp")), "gate": Description(gate)}
    return Description(text, "Qwen2MoeSparseMoeBlock", children=children)


LARGEST = "a softmax over all of them, of which the largest {0.top} are taken"
ROUTERS = {  # the weights that each gives, and its source
    SoftmaxRouter: (LARGEST, "OlmoeTopKRouter"),
    NormalisedRouter: (f"{LARGEST}, divided by their sum", "Qwen3MoeTopKRouter"),
    UncastNormalisedRouter: (f"{LARGEST}, divided by their sum and left in float32", "MixtralTopKRouter"),
    ChosenSoftmaxRouter: ("a softmax over the largest {0.top} alone", "GptOssTopKRouter"),
    SigmoidRouter: ("a sigmoid of each, of which {0.top} are taken{1}", "arXiv 2412.19437"),
}


def _router(part: Router, subject: Subject, path: str) -> Description:
    weights, source = next(ROUTERS[one] for one in type(part).__mro__ if one in ROUTERS)
    then = ""
    if isinstance(part, SigmoidRouter):
        then = ", divided by their sum" if part.normalised else ", as they are"
        then += f", times {part.scale:g}" if part.scale != 1 else ""
    how = weights.format(part, then)
    text = f"Scores the experts for each token by a linear map. The weights are {how}."
    if isinstance(part, SigmoidRouter):
        text += " A learned preference for each expert is added for the choice, and left out of the weights."
        if part.top_groups < part.groups:
            text += f" The experts lie in {part.groups} groups, of which the best {part.top_groups} are chosen from."
    score = f"Scores {part.score.out_features} experts by {part.score.in_features:,} numbers."
    return Description(text, source, facts=(Fact("mlp", "router", how),), children={"score": Description(score)})


for _class in ROUTERS:
    describe.register(_class, _router)


@describe.register
def _(part: FloatLinear, subject: Subject, path: str) -> Description:
    return Description(f"A linear map in float32: {part.in_features:,} numbers in, {part.out_features:,} out.")

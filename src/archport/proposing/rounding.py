"""Which of the parts that make the same numbers rounds as the module does, in half precision."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from ..layers import (
    Attention,
    ChosenSoftmaxRouter,
    Embed,
    LateRMSNorm,
    NormalisedRouter,
    RMSNorm,
    Rotary,
    ScaledEmbed,
    UncastNormalisedRouter,
    WideRotary,
)
from ..parity.outputs import with_parameters
from .part import Each, Part, Program
from .subject import Subject, ids_of, run, vocab_of
from .tracing import numbers
from .varying import Reading

# Parts that differ in rounding alone.
ALIKE = (
    (RMSNorm, LateRMSNorm),
    (Rotary, WideRotary),
    (Embed, ScaledEmbed),
    (ChosenSoftmaxRouter, NormalisedRouter, UncastNormalisedRouter),
)


@torch.no_grad()
def rounding_as(subject: Subject, found: Reading) -> Callable[[Program], Program]:
    """What gives a program those parts that make most of the numbers of the module in bfloat16, to the last bit."""
    groups = [group for group in ALIKE if any(_has(found.program, kind) for kind in group)]
    if not groups:
        return lambda program: program
    ids = ids_of(vocab_of(found.module))
    module = with_parameters(subject.module(), torch.bfloat16)  # not its buffers, which transformers keeps as they are
    try:
        theirs, logits = numbers(lambda: run(module, ids)), run(module, ids)
    except RuntimeError:  # it multiplies the two dtypes by each other
        return lambda program: program

    def alike(program: Program) -> tuple[int, float]:
        model = program.make().to(torch.bfloat16)
        for part in model.modules():
            if isinstance(part, Attention):
                part.attend = part.attend_eagerly  # type: ignore[method-assign]  # in steps, as the module does
        return len(theirs & numbers(lambda: model(ids))), -float((model(ids) - logits).double().abs().mean())

    ways = [
        {other: kind for group, kind in zip(groups, chosen, strict=True) for other in group}
        for chosen in product(*groups)
    ]
    best = max(ways, key=lambda way: alike(_with(found.program, way)))
    return lambda program: _with(program, best)


def _has(program: Program, kind: type) -> bool:
    return any(
        value is kind and (kind not in (Embed, ScaledEmbed) or "embed.scale" in program.settings())
        for value in program.settings().values()
    )


def _with(program: Program, kinds: dict[Any, Any]) -> Program:
    """The program with other classes for some."""

    def other(part: Part) -> Part:
        settings = {name: inside(one) for name, one in part.settings.items()}
        return replace(part, kind=kinds.get(part.kind, part.kind), settings=settings)

    def inside(setting: Any) -> Any:
        if isinstance(setting, Each):
            return Each(tuple(map(other, setting.parts)))
        return other(setting) if isinstance(setting, Part) else setting

    parts: dict[str, Any] = {"embed": other(program.embed), "norm": other(program.norm), "head": other(program.head)}
    return replace(program, **parts, blocks=tuple(map(other, program.blocks)))

"""Which of the parts that make the same numbers rounds as the module does, in half precision."""

from dataclasses import replace
from itertools import product
from typing import Any

import torch

from ..layers import (
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
from .part import Each, Part, Program
from .subject import Subject, ids_of, run, vocab_of
from .varying import Reading

# Parts that differ in rounding alone.
ALIKE = (
    (RMSNorm, LateRMSNorm),
    (Rotary, WideRotary),
    (Embed, ScaledEmbed),
    (ChosenSoftmaxRouter, NormalisedRouter, UncastNormalisedRouter),
)


@torch.no_grad()
def rounding_as(subject: Subject, found: Reading) -> Reading:
    """The reading with the parts whose logits in bfloat16 are the nearest to the module's."""
    groups = [group for group in ALIKE if any(_has(found.program, kind) for kind in group)]
    ids = ids_of(vocab_of(found.module))
    module = subject.module().to(torch.bfloat16)
    theirs = run(module, ids).double()

    def apart(program: Program) -> float:
        model = program.make().to(torch.bfloat16)
        return float((model(ids).double() - theirs).square().mean())

    ways = [
        {other: kind for group, kind in zip(groups, chosen, strict=True) for other in group}
        for chosen in product(*groups)
    ]
    programs = [_with(found.program, way) for way in ways]
    return replace(found, program=min(programs, key=apart))


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

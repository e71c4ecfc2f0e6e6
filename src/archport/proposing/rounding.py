"""Which of the parts that make the same numbers rounds as the module does, in half precision."""

from dataclasses import replace
from itertools import product
from typing import Any

import torch

from ..layers import Embed, LateRMSNorm, RMSNorm, Rotary, ScaledEmbed, WideRotary
from .part import Part, Program
from .subject import Subject, ids_of, run, vocab_of
from .varying import Reading

# A part, and those that differ from it in rounding alone.
ALIKE = {RMSNorm: (LateRMSNorm,), Rotary: (WideRotary,), Embed: (ScaledEmbed,)}


@torch.no_grad()
def rounding_as(subject: Subject, found: Reading) -> Reading:
    """The reading with the parts whose logits in bfloat16 are the nearest to the module's."""
    kinds = [kind for kind in ALIKE if _has(found.program, kind)]
    ids = ids_of(vocab_of(found.module))
    module = subject.module().to(torch.bfloat16)
    theirs = run(module, ids).double()

    def apart(program: Program) -> float:
        model = program.make().to(torch.bfloat16)
        return float((model(ids).double() - theirs).square().mean())

    ways = [dict(zip(kinds, one, strict=True)) for one in product(*((kind, *ALIKE[kind]) for kind in kinds))]
    programs = [_with(found.program, way) for way in ways]
    return replace(found, program=min(programs, key=apart))


def _has(program: Program, kind: type) -> bool:
    return any(
        value is kind and (kind is not Embed or "embed.scale" in program.settings())
        for value in program.settings().values()
    )


def _with(program: Program, kinds: dict[Any, Any]) -> Program:
    """The program with other classes for some."""

    def other(part: Part) -> Part:
        settings = {name: other(one) if isinstance(one, Part) else one for name, one in part.settings.items()}
        return replace(part, kind=kinds.get(part.kind, part.kind), settings=settings)

    parts: dict[str, Any] = {"embed": other(program.embed), "norm": other(program.norm), "head": other(program.head)}
    return replace(program, **parts, blocks=tuple(map(other, program.blocks)))

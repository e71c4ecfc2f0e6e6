"""How far two checkpoints of one architecture are apart, tensor by tensor."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..files.values import same_bytes
from ..load_plan import LoadPlan, made
from ..translate.steps import TensorStep
from .subjects import Subject

RELATIVE = "the root mean square of the differences over that of the first's numbers"
PIECE = 1 << 18  # numbers that are compared at a time, so that they stay near the processor


def tensors(one: Subject, other: Subject) -> Iterator[dict[str, Any]]:
    """How far each parameter of two checkpoints of one architecture that are at hand is apart, one pair at a time.

    `largest` and `relative` are None where they are not finite, the shapes differ or only one has the tensor.
    """
    if not (
        one.at_hand and other.at_hand and one.plan and other.plan and one.architecture.name == other.architecture.name
    ):
        return
    files, others = one.plan.checkpoint, other.plan.checkpoint
    ours, theirs = ({step.name: step for step in plan.mapped} for plan in (one.plan, other.plan))
    for name in dict.fromkeys((*ours, *theirs)):
        a, b = ours.get(name), theirs.get(name)
        row: dict[str, Any] = {"tensor": name, "shapes": [list(step.shape) if step else None for step in (a, b)]}
        if a is None or b is None or a.shape != b.shape:
            yield row | {"same": False, "largest": None, "relative": None}
            continue
        # Where both lie alike in their files, numbers are compared there; files of two formats may differ.
        alike = _layout(one, a) == _layout(other, b)
        if alike:
            pairs = [(files.read(key), others.read(same)) for key, same in zip(a.keys, b.keys, strict=True)]
        else:
            pairs = [(_as_filed(one.plan, a), _as_filed(other.plan, b))]
        if all(same_bytes(first, second) for first, second in pairs):
            yield row | {"same": True, "largest": 0.0, "relative": 0.0}
        else:
            yield row | _apart(pairs)
        for first, second in pairs if alike else ():
            files.release(first)
            others.release(second)


def _as_filed(plan: LoadPlan, step: TensorStep) -> Tensor:
    """A parameter in our layout, of the type that the file holds."""
    return made(plan, replace(step, dtype=step.file_dtype))


def _layout(subject: Subject, step: TensorStep) -> tuple[object, ...]:
    """What makes numbers lie where they do: how many tensors of the file there are, and how they are rearranged."""
    return len(step.keys), step.pattern, step.pattern and subject.config.axes


def _apart(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    largest, numbers, apart = 0.0, 0.0, 0.0
    for first, second in pairs:
        wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
        for a, b in zip(*(torch.split(one.flatten(), PIECE) for one in (first, second)), strict=True):
            difference = a.to(wide) - b.to(wide)
            numbers += a.to(wide).norm().item() ** 2
            apart += difference.norm().item() ** 2
            largest = max(largest, difference.abs_().max().item(), key=lambda number: (math.isnan(number), number))
    relative = (math.sqrt(apart / numbers) if numbers else math.inf) if largest else 0.0
    values = {"largest": largest, "relative": relative}
    return {"same": largest == 0} | {key: one if math.isfinite(one) else None for key, one in values.items()}


def as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row of `tensors` as people read it."""
    first, second = (tuple(shape) if shape else None for shape in row["shapes"])
    lacking = "not finite" if first == second else "other shapes" if first and second else "in one alone"
    relative = lacking if row["largest"] is None else "the first is 0"
    return {
        "tensor": row["tensor"],
        "shape": str(first) if first == second else f"{first or '-'} / {second or '-'}",
        "largest difference": lacking if row["largest"] is None else f"{row['largest']:.3g}",
        "relative": relative if row["relative"] is None else f"{row['relative']:.2%}",
    }

"""What differs between models: facts side by side, and for checkpoints of one architecture tensor by tensor."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SourceError
from ..files.values import same_bytes
from .facts import facts
from .subject import Subject

RELATIVE = "the root mean square of the differences over that of the first's numbers"
PIECE = 1 << 18  # numbers that are compared at a time, so that they stay near the processor


def diff(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """A row a fact: its part, what it is, the value in each model, and whether it is the same in all.

    Raises: SourceError for fewer than two.
    """
    if len(subjects) < 2:
        raise SourceError(f"found {len(subjects)} model, expected two or more to compare")
    found = [{(fact.part, fact.what): fact.value for fact in facts(subject)} for subject in subjects]
    order = dict.fromkeys(key for one in (max(found, key=len), *found) for key in one)
    parts = list(dict.fromkeys(part for part, _ in order))
    rows = []
    for part, what in sorted(order, key=lambda key: parts.index(key[0])):
        values = [one.get((part, what), "-") for one in found]
        rows.append({"part": part, "what": what, "values": values, "same": len(set(values)) == 1})
    return rows


def columns(subjects: Sequence[Subject]) -> list[str]:
    """A name for each model, also where two have the same."""
    names = [subject.name for subject in subjects]
    numbers = [names[: at + 1].count(name) for at, name in enumerate(names)]
    return [f"{name} ({number})" if number > 1 else name for name, number in zip(names, numbers, strict=True)]


def side_by_side(subjects: Sequence[Subject], rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of `diff` with a column for each model."""
    names = columns(subjects)
    return [{"part": row["part"], "what": row["what"]} | dict(zip(names, row["values"], strict=True)) for row in rows]


def tensors(one: Subject, other: Subject) -> Iterator[dict[str, Any]]:
    """How far each parameter of two checkpoints is apart, a piece of one pair in memory at a time.

    There are no rows unless both are of one architecture and their weights at hand.
    `largest` is the largest difference, `relative` is what RELATIVE says; None where it is not finite, the shapes
    differ or only one has the tensor.
    """
    if one.plan is None or other.plan is None or one.architecture != other.architecture:
        return
    if not (one.at_hand and other.at_hand):
        return
    theirs = {step.name: step for step in other.plan.mapped}
    ours = {step.name: step for step in one.plan.mapped}
    for name in dict.fromkeys((*ours, *theirs)):
        a, b = ours.get(name), theirs.get(name)
        row: dict[str, Any] = {"tensor": name, "shapes": [list(step.shape) if step else None for step in (a, b)]}
        if a is None or b is None or a.shape != b.shape:
            yield row | {"same": False, "largest": None, "relative": None}
            continue
        # A row rearranges both in the same way, so numbers are compared where they lie in the files.
        pairs = [
            (one.plan.checkpoint.read(key), other.plan.checkpoint.read(same))
            for key, same in zip(a.keys, b.keys, strict=True)
        ]
        if all(same_bytes(first, second) for first, second in pairs):
            yield row | {"same": True, "largest": 0.0, "relative": 0.0}
        else:
            yield row | _apart(pairs)
        for first, second in pairs:
            one.plan.checkpoint.release(first)
            other.plan.checkpoint.release(second)


def _apart(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    largest, numbers, apart = 0.0, 0.0, 0.0
    for first, second in pairs:
        wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
        for a, b in zip(*(torch.split(one.flatten(), PIECE) for one in (first, second)), strict=True):
            difference = a.to(wide) - b.to(wide)
            numbers += a.to(wide).norm().item() ** 2
            apart += difference.norm().item() ** 2
            largest = max(largest, difference.abs_().max().item(), key=lambda number: (math.isnan(number), number))
    relative = math.sqrt(apart / numbers) if numbers else math.inf
    return {"same": largest == 0, "largest": _finite(largest), "relative": _finite(relative) if largest else 0.0}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def shown(row: dict[str, Any]) -> dict[str, str]:
    """A row of `tensors` as people read it."""
    first, second = (tuple(shape) if shape else None for shape in row["shapes"])
    lacking = "not finite" if first == second else "other shapes" if first and second else "in one alone"
    return {
        "tensor": row["tensor"],
        "shape": str(first) if first == second else f"{first or '-'} / {second or '-'}",
        "largest difference": lacking if row["largest"] is None else f"{row['largest']:.3g}",
        "relative": (lacking if row["largest"] is None else "the first is 0")
        if row["relative"] is None
        else f"{row['relative']:.2%}",
    }

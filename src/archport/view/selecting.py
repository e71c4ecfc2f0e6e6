"""A tensor selected by our name or the checkpoint's, whole or a block of it; and the names nearest to a wrong one."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from ..errors import ConfigError
from ..loading import LoadPlan, settle_tie
from ..translate.pattern import regroups
from ..translate.steps import TensorStep


def tensor(plan: LoadPlan, text: str | None) -> tuple[TensorStep, list[slice]]:
    """The step of a tensor, by our name or its key, as `blocks.0.attn.qkv.weight[0:64, 0:64]`, and a range an axis."""
    if not text:
        raise fault("weights", "found no name, expected that of a tensor, as embed.tokens.weight")
    name, bracket, block = text.partition("[")
    names = _names(plan)
    spellings = {name, *plan.architecture.table.canonical(name)}
    matching = [name] if name in names else [ours for ours, keys in names.items() if spellings & set(keys)]
    if not matching:
        near = ", ".join(nearest_names(name, names))
        raise fault("weights", f"found {name!r}, expected the name of a tensor; the nearest are {near}")
    if len(matching) > 1:
        raise fault("weights", f"found {name!r}, which is a part of several: expected one of {', '.join(matching)}")
    step = _step(plan, matching[0])
    if step is None:
        tied = plan.architecture.table.tied[matching[0]]
        raise fault("weights", f"found {name!r}, which is tied: expected {tied}, which it is")
    if name not in names and len(step.keys) > 1:
        raise fault("weights", f"found {name!r}, which is a part of {step.name}: expected that")
    if name not in names and bracket and step.pattern and (len(step.shape) > 1 or regroups(step.pattern)):
        raise fault("weights", f"found a block of {name!r}, which lies in another order: expected one of {step.name}")
    return step, _ranges(block, step.shape) if bracket else [slice(0, size) for size in step.shape]


def _step(plan: LoadPlan, name: str) -> TensorStep | None:
    """The step of one of ours; none where it is another's weight. Headers alone cannot tell if a file's head is."""
    steps = {step.name: step for step in plan.steps}
    if name in steps and steps[name].kind == "tied" and plan.checkpoint.files:
        steps = {step.name: step for step in settle_tie(plan).mapped}
    return steps.get(name)


def _names(plan: LoadPlan) -> dict[str, tuple[str, ...]]:
    """Our tensors, what is tied too, each with its keys: those in the file and those of an exported one."""
    table = plan.architecture.table
    in_file = {step.name: step.keys for step in plan.steps if step.name}
    return {name: (*in_file.get(name, ()), *table.row(name, plan.config).keys) for name in (*in_file, *table.tied)}


def nearest_names(text: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """The three names, each with other spellings, that are likest to the last two parts of one that is none."""
    text = text[-100:].lower()
    words = text.split(".")[-2:]

    def alike(name: str) -> tuple[float, float]:
        parts = [part for spelling in (name, *names[name]) for part in _parts(spelling, len(words))]
        return max(_ratio(".".join(words), part) for part in parts), _ratio(text, name)

    return sorted(names, key=alike, reverse=True)[:3]


def _parts(name: str, count: int) -> list[str]:
    words = name.lower().split(".")
    return [".".join(words[at : at + count]) for at in range(max(1, len(words) - count + 1))]


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _ranges(block: str, shape: Sequence[int]) -> list[slice]:
    """`0:64, 128:` of the text `0:64, 128:]`, one for each axis."""
    parts = [re.fullmatch(r"\s*(\d{0,9})\s*:\s*(\d{0,9})\s*", part) for part in block.removesuffix("]").split(",")]
    full = [(int(part[1] or 0), int(part[2] or size)) for part, size in zip(parts, shape, strict=False) if part]
    if len(parts) == len(full) == len(shape) and all(a < b <= size for (a, b), size in zip(full, shape, strict=True)):
        return [slice(*bounds) for bounds in full]
    wanted = ", ".join(f"0:{size}" for size in shape)
    raise fault("weights", f"found the block [{block}, expected one within [{wanted}]")


def fault(field: str, what: str) -> ConfigError:
    """What is wrong with an argument of `plot`."""
    return ConfigError({field: what}, "plot")

"""A tensor selected by our name or by the checkpoint's key, whole or a block; and the names nearest to a wrong one."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from torch import Tensor

from ..errors import ConfigError
from ..load_plan import LoadPlan, settle_tie
from ..loading import own_weight
from ..translate.steps import TensorStep


class Selected(NamedTuple):
    """A tensor, and a range an axis of it: one of ours, which `step` makes, or one of the file's as it lies there."""

    name: str
    shape: tuple[int, ...]
    ranges: tuple[slice, ...]
    step: TensorStep | None

    def read(self, plan: LoadPlan) -> Tensor:
        """Its numbers, in memory of their own."""
        weight = own_weight(plan, self.step) if self.step else plan.checkpoint.read(self.name, own=True)
        return weight.float()[self.ranges]

    @property
    def title(self) -> str:
        """Its name, and where it is not the whole tensor the ranges."""
        whole = all(part == slice(0, size) for part, size in zip(self.ranges, self.shape, strict=True))
        return self.name if whole else f"{self.name}[{', '.join(f'{part.start}:{part.stop}' for part in self.ranges)}]"


def tensor(plan: LoadPlan, text: str | None) -> Selected:
    """A tensor by our name or its key, as `blocks.0.attn.qkv.weight[0:64, :]` or `h.0.attn.c_attn.weight[:64, :]`.

    Raises: ConfigError.
    """
    if not text:
        raise fault("weights", "found no name, expected that of a tensor, as embed.tokens.weight")
    name, bracket, block = text.partition("[")
    names = _names(plan)
    step = _step(plan, name)
    key = None if name in names else _key(plan, name)
    if step is None and key is None:
        raise fault("weights", f"found {name!r}, {_instead(plan, name, names)}")
    shape = step.shape if step else plan.checkpoint.headers[str(key)].shape
    ranges = _ranges(block, shape) if bracket else tuple(slice(0, size) for size in shape)
    return Selected(str(key or name), shape, ranges, step)


def _key(plan: LoadPlan, name: str) -> str | None:
    """The key of the file that a name means: itself, or with or without the prefix, or by an alias."""
    headers, canonical = plan.checkpoint.headers, plan.architecture.table.canonical
    meant = {name, *canonical(name)}
    return name if name in headers else next((key for key in headers if meant.intersection(canonical(key))), None)


def _step(plan: LoadPlan, name: str) -> TensorStep | None:
    """The step of one of ours; none where it is another's weight. Headers alone cannot tell if a file's head is."""
    steps = {step.name: step for step in plan.steps}
    if name in steps and steps[name].kind == "tied" and plan.checkpoint.files:
        steps = {step.name: step for step in settle_tie(plan).mapped}
    return steps.get(name)


def _instead(plan: LoadPlan, name: str, names: Mapping[str, Sequence[str]]) -> str:
    """What to say of a name that neither is one of ours nor a key of this file."""
    tied, spellings = plan.architecture.table.tied, {name, *plan.architecture.table.canonical(name)}
    meant = [ours for ours, keys in names.items() if ours == name or spellings.intersection(keys)]
    if meant and meant[0] in tied:
        return f"which is tied: expected {tied[meant[0]]}, which it is"
    if meant:
        return f"which is not in the file: expected {', '.join(meant[:3])}"
    return f"expected the name of a tensor; the nearest are {', '.join(nearest_names(name, names))}"


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


def _ranges(block: str, shape: Sequence[int]) -> tuple[slice, ...]:
    """`0:64, 128:` of the text `0:64, 128:]`, one for each axis."""
    parts = [re.fullmatch(r"\s*(\d{0,9})\s*:\s*(\d{0,9})\s*", part) for part in block.removesuffix("]").split(",")]
    full = [(int(part[1] or 0), int(part[2] or size)) for part, size in zip(parts, shape, strict=False) if part]
    if len(parts) == len(full) == len(shape) and all(a < b <= size for (a, b), size in zip(full, shape, strict=True)):
        return tuple(slice(*bounds) for bounds in full)
    wanted = ", ".join(f"0:{size}" for size in shape)
    raise fault("weights", f"found the block [{block}, expected one within [{wanted}]")


def fault(field: str, what: str) -> ConfigError:
    """What is wrong with an argument of `plot`."""
    return ConfigError({field: what}, "plot")

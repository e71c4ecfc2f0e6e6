"""The tree of a model's modules, blocks of a kind folded."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..config import dtype_name

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
RUNS = 3  # of numbers that are listed, of more the first two and the last


@dataclass(frozen=True)
class Line:
    """A module that `path` names, or `count` alike of which it names the first.

    `numbers` are those that stand for each number in the path: of the layers that are alike, of the experts in each.
    """

    path: str
    label: str
    depth: int
    kind: str
    shape: str
    parameters: int
    dtype: str = ""
    numbers: tuple[tuple[int, ...], ...] = ()

    @property
    def count(self) -> int:
        """How many are alike."""
        return math.prod(map(len, self.numbers))

    @property
    def paths(self) -> Iterator[str]:
        """The names of all that are alike, in order."""
        texts = NUMBER.split(self.path, maxsplit=len(self.numbers))
        for numbers in product(*self.numbers):
            yield "".join(text + str(number) for text, number in zip(texts, (*numbers, ""), strict=True))

    @property
    def ranged(self) -> str:
        """The name of all that are alike: `layers.0-11.mlp`, `layers.0, 2, .., 22.mlp`."""
        texts = NUMBER.split(self.path, maxsplit=len(self.numbers))
        return "".join(map("".join, zip(texts, (*map(in_ranges, self.numbers), ""), strict=True)))


class _Shared(NamedTuple):
    """Of each parameter, by its id, the first name it has; of each module how often it is used."""

    owners: Mapping[int, str]
    uses: Mapping[int, int]


def parameter_count(model: nn.Module) -> int:
    """How many numbers a model has, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def every(path: str) -> str:
    """A module or a key as it is called in every layer and every expert: `blocks.{n}.mlp.experts.{e}.up`."""
    marks = iter(("{n}", "{e}"))
    return NUMBER.sub(lambda _: next(marks), path, count=2)


def in_ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in short: `0-11`, `0, 2, .., 22`, `0-4, 6-10, .., 24-25`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(words if len(words) <= RUNS else (*words[:2], "..", words[-1]))


def tree(model: nn.Module, *, depth: int | None = None) -> list[dict[str, Any]]:
    """A row a module: name, kind, shape, parameters, their share of the whole, dtype; `depth` levels of it."""
    total = parameter_count(model)
    rows = [
        {key: value for key, value in vars(line).items() if key not in ("label", "numbers")}
        | {"count": line.count, "module": line.label, "share": line.parameters / total if total else 0.0}
        for line in folded(model)
    ]
    return [row for row in rows if depth is None or row["depth"] <= depth]


def as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row as people read it: the module by its depth, numbers with separators and units."""
    count = row["parameters"]
    cells = {"module": "  " * (row["depth"] - 1) + row["module"], "kind": row["kind"], "shape": row["shape"]}
    cells |= {"parameters": f"{count:,}" if count else "", "share": f"{row['share']:.1%}" if count else ""}
    return cells | {"dtype": row["dtype"]}


def folded(model: nn.Module) -> Iterator[Line]:
    """Every module below a model, blocks with the same insides as one; shared parameters count once."""
    owners = {id(parameter): name for name, parameter in model.named_parameters()}
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return _below(model, "", 1, _Shared(owners, uses))


def _below(module: nn.Module, prefix: str, depth: int, shared: _Shared) -> Iterator[Line]:
    if not isinstance(module, nn.ModuleList):
        for name, child in module.named_children():
            path = prefix + name
            is_list = isinstance(child, nn.ModuleList)
            if not is_list:
                yield _line(path, child, depth, shared)
            yield from _below(child, f"{path}.", depth if is_list else depth + 1, shared)
        return
    kinds: dict[object, list[tuple[int, list[Line]]]] = {}
    for name, child in module.named_children():
        path = prefix + name
        lines = [_line(path, child, depth, shared), *_below(child, f"{path}.", depth + 1, shared)]
        kinds.setdefault(_inside(lines), []).append((int(name), lines))
    for alike in kinds.values():
        numbers, (first, *rest) = tuple(number for number, _ in alike), alike[0][1]
        label = f"{prefix.split('.')[-2]}.{in_ranges(numbers)}"
        kind = f"{len(alike)} x {first.kind}" if len(alike) > 1 else first.kind
        for line in (replace(first, label=label, kind=kind), *rest):
            parameters = line.parameters * len(alike)
            yield replace(line, numbers=(numbers, *line.numbers), parameters=parameters)


def _inside(lines: list[Line]) -> tuple[object, ...]:
    """What makes blocks alike: all about their lines but the number."""
    start = len(lines[0].path)
    return tuple(
        (line.path[start:], line.kind, line.shape, line.parameters, line.dtype, line.numbers) for line in lines
    )


def _line(path: str, module: nn.Module, depth: int, shared: _Shared) -> Line:
    owners, uses = shared.owners, shared.uses[id(module)]
    own = [parameter for parameter in module.parameters() if owners[id(parameter)].startswith(f"{path}.")]
    weight, shape, kind = getattr(module, "weight", None), "", type(module).__name__
    if isinstance(weight, Tensor):
        # transformers' Conv1D is a linear map that stores (in, out).
        sizes = weight.shape[::-1] if isinstance(module, nn.Linear) else weight.shape
        linear = isinstance(module, nn.Linear) or kind == "Conv1D"
        shape = (" -> " if linear else " x ").join(f"{size:,}" for size in sizes)
    if isinstance(weight, nn.Parameter) and not owners[id(weight)].startswith(f"{path}."):
        kind += f", the weight of {owners[id(weight)].removesuffix('.weight')}"
    elif not own and (settings := module.extra_repr().replace(", inplace=False", "")):
        kind += f"({settings})"
    if uses > 1:
        kind += f", used {uses} times"
    dtypes = dict.fromkeys(dtype_name(parameter.dtype) for parameter in own)
    count = sum(parameter.numel() for parameter in own)
    return Line(path, path.rpartition(".")[2], depth, kind, shape, count, " + ".join(dtypes))

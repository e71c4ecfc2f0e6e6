"""The tree of a model's modules, repeated blocks folded."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..config import dtype_name


@dataclass(frozen=True)
class Line:
    """A module that `path` names, or `count` alike of which it names the first; several parts use a `shared` one.

    `repeats` are how many there are by each number in the path: so many layers, so many experts in each.
    """

    path: str
    label: str
    depth: int
    kind: str
    shape: str
    parameters: int
    dtype: str = ""
    repeats: tuple[int, ...] = ()
    shared: bool = False

    @property
    def count(self) -> int:
        """How many are alike."""
        return math.prod(self.repeats)

    @property
    def paths(self) -> Iterator[str]:
        """The names of all that are alike, in order."""
        if not self.repeats:
            yield self.path
            return
        parts = re.split(r"(?<=\.)(\d+)(?=\.|$)", self.path, maxsplit=len(self.repeats))
        starts = map(int, parts[1::2])
        ranges = (range(start, start + more) for start, more in zip(starts, self.repeats, strict=True))
        for numbers in product(*ranges):
            yield "".join(text + str(number) for text, number in zip(parts[::2], (*numbers, ""), strict=True))


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
    return re.sub(r"(?<=\.)\d+(?=\.|$)", lambda _: next(marks), path, count=2)


def tree(model: nn.Module, *, depth: int | None = None) -> list[dict[str, Any]]:
    """A row a module: name, kind, shape, parameters, their share of the whole, dtype; `depth` levels of it."""
    total = parameter_count(model)
    rows = [
        {key: value for key, value in vars(line).items() if key not in ("label", "shared", "repeats")}
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
    """Every module below a model, runs of blocks with the same insides as one; shared parameters count once."""
    owners = {id(parameter): name for name, parameter in model.named_parameters()}
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return _below(model, "", 1, _Shared(owners, uses))


def _below(module: nn.Module, prefix: str, depth: int, shared: _Shared) -> Iterator[Line]:
    children = [(prefix + name, child) for name, child in module.named_children()]
    if not isinstance(module, nn.ModuleList):
        for path, child in children:
            is_list = isinstance(child, nn.ModuleList)
            if not is_list:
                yield _line(path, child, depth, shared)
            yield from _below(child, f"{path}.", depth if is_list else depth + 1, shared)
        return
    insides = (
        [_line(path, child, depth, shared), *_below(child, f"{path}.", depth + 1, shared)] for path, child in children
    )
    end = 0
    for _, alike in groupby(insides, _inside):
        (first, *rest), *others = alike
        count = 1 + len(others)
        end += count
        label = ".".join(first.path.split(".")[-2:])
        if others:
            label, first = f"{label}-{end - 1}", replace(first, kind=f"{count} x {first.kind}")
        for line in (replace(first, label=label), *rest):
            yield replace(line, repeats=(count, *line.repeats), parameters=line.parameters * count)


def _inside(lines: list[Line]) -> list[tuple[object, ...]]:
    """What makes blocks alike: all about their lines but the number."""
    start = len(lines[0].path)
    return [(line.path[start:], line.kind, line.shape, line.parameters, line.dtype) for line in lines]


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
    return Line(path, path.rpartition(".")[2], depth, kind, shape, count, " + ".join(dtypes), shared=uses > 1)

"""The tree of a model's modules, repeated blocks folded."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..config import dtype_name


@dataclass(frozen=True)
class Line:
    """One module, or several alike: `path` names the first, `count` says how many there are.

    A `shared` one is a single module that several parts use.
    """

    path: str
    label: str
    depth: int
    kind: str
    shape: str
    parameters: int
    dtype: str = ""
    count: int = 1
    shared: bool = False


@dataclass(frozen=True)
class _Shared:
    """Of each parameter, by its id, the first name it has; of each module how often it is used."""

    owners: Mapping[int, str]
    uses: Mapping[int, int]


def tree(model: nn.Module, *, depth: int | None = None) -> list[dict[str, Any]]:
    """A row a module: name, kind, shape, parameters, their share of the whole, dtype; `depth` levels of it."""
    total = sum(parameter.numel() for parameter in model.parameters())
    rows = [_row(line, total) for line in folded(model)]
    return [row for row in rows if depth is None or row["depth"] <= depth]


def as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row as people read it: the module by its depth, numbers with separators and units."""
    parameters = row["parameters"]
    return {
        "module": "  " * (row["depth"] - 1) + row["module"],
        "kind": row["kind"],
        "shape": row["shape"],
        "parameters": f"{parameters:,}" if parameters else "",
        "share": f"{row['share']:.1%}" if parameters else "",
        "dtype": row["dtype"],
    }


def folded(model: nn.Module) -> Iterator[Line]:
    """Every module below a model, in order; runs of blocks with the same insides become one.

    A parameter that several modules share is counted where it comes first.
    """
    owners = {id(parameter): name for name, parameter in model.named_parameters()}
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    yield from _below(model, "", 1, _Shared(owners, uses))


def _below(module: nn.Module, prefix: str, depth: int, shared: _Shared) -> Iterator[Line]:
    children = [(prefix + name, child) for name, child in module.named_children()]
    if isinstance(module, nn.ModuleList):
        insides = [
            [_line(path, child, depth, shared), *_below(child, f"{path}.", depth + 1, shared)]
            for path, child in children
        ]
        start = 0
        while start < len(insides):
            end = start + 1
            while end < len(insides) and _inside(insides[start]) == _inside(insides[end]):
                end += 1
            yield from _repeated(insides[start], start, end)
            start = end
        return
    for path, child in children:
        if not isinstance(child, nn.ModuleList):
            yield _line(path, child, depth, shared)
        yield from _below(child, f"{path}.", depth if isinstance(child, nn.ModuleList) else depth + 1, shared)


def _inside(lines: list[Line]) -> list[tuple[object, ...]]:
    """What makes blocks alike: all about their lines but the number."""
    start = len(lines[0].path)
    return [(line.path[start:], line.kind, line.shape, line.parameters, line.dtype) for line in lines]


def _repeated(lines: list[Line], start: int, end: int) -> Iterator[Line]:
    first, *rest = lines
    several = end - start > 1
    label = ".".join(first.path.split(".")[-2:]) + (f"-{end - 1}" if several else "")
    kind = f"{end - start} x {first.kind}" if several else first.kind
    for line in (replace(first, label=label, kind=kind), *rest):
        yield replace(line, count=end - start, parameters=line.parameters * (end - start))


def _line(path: str, module: nn.Module, depth: int, shared: _Shared) -> Line:
    owners, uses = shared.owners, shared.uses[id(module)]
    own = [parameter for parameter in module.parameters() if owners[id(parameter)].startswith(f"{path}.")]
    weight = getattr(module, "weight", None)
    shape = ""
    if isinstance(weight, Tensor):
        # transformers' Conv1D is a linear map that stores (in, out).
        linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        sizes = weight.shape[::-1] if isinstance(module, nn.Linear) else weight.shape
        shape = (" -> " if linear else " x ").join(f"{size:,}" for size in sizes)
    kind = type(module).__name__
    if isinstance(weight, nn.Parameter) and not owners[id(weight)].startswith(f"{path}."):
        kind += f", the weight of {owners[id(weight)].removesuffix('.weight')}"
    elif not own and (settings := module.extra_repr().replace(", inplace=False", "")):
        kind += f"({settings})"
    if uses > 1:
        kind += f", used {uses} times"
    dtypes = dict.fromkeys(dtype_name(parameter.dtype) for parameter in own)
    count = sum(parameter.numel() for parameter in own)
    name = path.rpartition(".")[2]
    return Line(path, name, depth, kind, shape, count, " + ".join(dtypes), shared=uses > 1)


def _row(line: Line, total: int) -> dict[str, Any]:
    row = {key: value for key, value in vars(line).items() if key not in ("label", "shared")}
    return row | {"module": line.label, "share": line.parameters / total if total else 0.0}

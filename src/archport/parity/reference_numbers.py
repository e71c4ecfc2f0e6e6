"""The numbers that a reference has: in its config and in the modules that answer to a part of ours."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from .compare import Comparison


def numbers_of(comparison: Comparison, site: str, part: nn.Module) -> dict[str, float]:
    """Those that may be behind a setting of a part, each by where it is from."""
    theirs = comparison.theirs(site)
    near = {} if theirs is None else {f"the reference's {name}": one for name, one in _of_module(theirs)}
    config = {f"the reference's config.{name}": one for name, one in _of_mapping(comparison.config)}
    return near | config | {f"its own {name}": one for name, one in _of_module(part)}


def forms(found: Mapping[str, float], value: float | None) -> dict[float, str]:
    """Values to try in the place of one, the plainest first, each with its source."""
    tried: dict[float, str] = {}
    whole = isinstance(value, int)
    for word, form in (WHOLE if whole else REAL).items():
        for source, number in found.items():
            made = form(number)
            if made is not None and made != value and (not whole or made > 0):
                tried.setdefault(int(made) if whole else made, word.format(source))
    return tried


def _positive(form: Any) -> Any:
    return lambda number: form(number) if number > 0 else None


WHOLE = {
    "{}": lambda number: number if number == int(number) else None,
    "{} + 1": lambda number: number + 1 if number == int(number) else None,
    "{} - 1": lambda number: number - 1 if number == int(number) else None,
}
REAL = {
    "{}": float,
    "1 / sqrt({})": _positive(lambda number: number**-0.5),
    "1 / {}": _positive(lambda number: 1 / number),
    "sqrt({})": _positive(lambda number: number**0.5),
}


def _of_module(module: nn.Module) -> Iterator[tuple[str, float]]:
    """Of a module and of those in it that have no weights."""
    for name, inner in (("", module), *module.named_children()):
        if inner is not module and any(True for _ in inner.parameters()):
            continue
        prefix = f"{name}." if name else ""
        buffers = {key: one.item() for key, one in inner.named_buffers(recurse=False) if one.ndim == 0}
        yield from ((prefix + key, one) for key, one in _of_mapping({**vars(inner), **buffers}))


def _of_mapping(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and not key.startswith("_"):
            yield from ((f"{key}.{name}", one) for name, one in _of_mapping(value))
        elif isinstance(value, int | float) and not isinstance(value, bool) and not key.startswith("_"):
            yield key, value

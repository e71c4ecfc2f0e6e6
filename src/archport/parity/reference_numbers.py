"""The numbers that a reference has: in its config and in the modules that answer to a part of ours."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from .compare import Comparison


def numbers_of(comparison: Comparison, site: str, part: nn.Module) -> dict[str, float]:
    """Those that may be behind a setting of a part, each by where it is from."""
    theirs = comparison.theirs(site)
    near = {} if theirs is None else {f"the reference's {name}": one for name, one in _of_module(theirs)}
    config = {f"the reference's config.{name}": one for name, one in _of_mapping(comparison.config)}
    width = comparison.clean.config.head_width
    config |= {f"{name} of a head": one * width for name, one in config.items() if 0 < one < 1}
    return near | config | {f"its own {name}": one for name, one in _of_module(part)}


def in_form(form: str, found: Mapping[str, float], like: float | None) -> dict[float, str]:
    """Values to try in the place of one, each with its source."""
    tried: dict[float, str] = {}
    for source, number in found.items():
        if number > 0 and (form in EXACT or not isinstance(like, int)):
            made = FORMS[form](number)
            whole = made == int(made)
            if made != like and (whole or not isinstance(like, int)):
                tried.setdefault(int(made) if isinstance(like, int) else made, form.format(source))
    return tried


def is_number(value: object) -> bool:
    """Whether a setting is one, and no flag."""
    return isinstance(value, int | float) and not isinstance(value, bool)


FORMS: dict[str, Callable[[float], float]] = {
    "{}": lambda number: number,
    "1 / sqrt({})": lambda number: number**-0.5,
    "1 / {}": lambda number: 1 / number,
    "sqrt({})": lambda number: number**0.5,
    "{} + 1": lambda number: number + 1,
    "{} - 1": lambda number: number - 1,
}
EXACT = ("{}", "{} + 1", "{} - 1")  # for whole numbers


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
        elif is_number(value) and not key.startswith("_"):
            yield key, value

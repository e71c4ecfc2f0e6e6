"""Other values to try a field of a config at."""

from collections.abc import Iterator
from typing import Any

from ..mappings import ACTIVATIONS

SLIDING = ("sliding_attention", "full_attention")
PAIRS = (SLIDING, ("dense", "sparse"))  # of types of layers


def other_values(value: Any) -> Iterator[Any]:
    """Other values to try a field at."""
    if isinstance(value, list):
        yield from _other_lists(value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, str):
        yield from (one for one in ("gelu", "relu") if value in ACTIVATIONS and one != value)
    elif isinstance(value, int):
        yield value + 2
        yield value + 1
    elif isinstance(value, float):
        yield 0.3 if value == 0 else 3e-3 if value < 1e-3 else 0.5 if value == 1 else float(f"{value * 1.5:.4g}")
    elif value is None:
        yield from (3, 0.5, True)


def _other_lists(value: list[Any]) -> Iterator[list[Any]]:
    """Lists with something else for a layer."""
    if not value:
        yield [0]
    elif all(isinstance(one, str) for one in value):
        if len(set(value)) > 1:
            yield value[::-1]
        for pair in PAIRS:
            if {*value} < {*pair}:
                yield [next(one for one in pair if one != value[0]), *value[1:]]
    elif all(one in (0, 1) for one in value):
        yield [type(value[0])(1 - value[0]), *value[1:]]

"""One block for all layers of an architecture, from all the models of it that were read."""

from collections.abc import Callable, Mapping
from typing import Any

from .part import Part, Program
from .schedule import Choice, Layer, Unwritten, merged
from .subject import Subject
from .tiny_config import flat
from .varying import Fields, Reading


def block_of(
    subject: Subject, base: Reading, fields: Fields, rounded: Callable[[Program], Program], alone: frozenset[str]
) -> tuple[Part, list[Choice], set[str]]:
    """One block for all layers, what is chosen in it, and the fields that it is right at other values of.

    Nothing is chosen at the places that stand `alone`. Raises: Unwritten.
    """
    layers = _layers(base, subject.config, rounded)
    ordered: set[str] = set()
    found: tuple[Part, list[Choice]] | Unwritten
    try:
        found = merged(layers, alone)
    except Unwritten as error:
        found = error
    for theirs, order in fields.orders.items():
        more = _layers(order.again, {**subject.config, theirs: order.tried}, rounded)
        try:
            found = merged([*layers, *more], alone)
        except Unwritten:  # another field says it, or two together
            continue
        layers += more
        ordered.add(theirs)
    if isinstance(found, Unwritten):
        raise found
    return *found, ordered


def _layers(reading: Reading, config: Mapping[str, Any], rounded: Callable[[Program], Program]) -> list[Layer]:
    own: Any = getattr(reading.module, "config", None)
    said = flat(own.to_dict()) if hasattr(own, "to_dict") else config
    return [Layer(block, number, said) for number, block in enumerate(rounded(reading.program).blocks)]

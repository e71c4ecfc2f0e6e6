"""Layers that differ: where in a block they do, and which field of the config says which of them is what."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..errors import ArchportError
from .part import Each, Part


class Unwritten(ArchportError):
    """What of a program has no place in a file."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A block that was read, its number, and the config of the model that it was in."""

    block: Part
    number: int
    config: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Choice:
    """What stands at a place of a block: one thing in the layers that a rule holds for, and another in the others."""

    rule: str  # as code, of `layer` and `cfg`
    field: str
    then: Any
    otherwise: Any


# What a number, a list of numbers and one of flags can say of a layer.
OF_NUMBERS: dict[str, Callable[[Any, int], bool]] = {
    "layer < cfg.{}": lambda value, layer: layer < value,
    "(layer + 1) % cfg.{} == 0": lambda value, layer: value > 0 and (layer + 1) % value == 0,
    "layer % cfg.{} == 0": lambda value, layer: value > 0 and layer % value == 0,
}
OF_LISTS: dict[str, Callable[[Any, int], bool]] = {
    "cfg.{}[layer]": lambda value, layer: bool(value[layer]),
    "layer in cfg.{}": lambda value, layer: layer in value,
}


def merged(layers: Sequence[Layer], aside: frozenset[str]) -> tuple[Part, list[Choice]]:
    """One block that all layers are, and the choices in it; nothing is chosen at the places set `aside`.

    Raises: Unwritten where no field says which layer is what.
    """
    choices: list[Choice] = []

    def one(path: str, values: Sequence[Any]) -> Any:
        if path in aside or len({_key(value) for value in values}) == 1:
            return values[0]
        if all(isinstance(value, Part) and value.kind is values[0].kind for value in values):
            names = dict.fromkeys(name for value in values for name in value.settings)
            inner = {name: one(f"{path}.{name}", [value.settings.get(name) for value in values]) for name in names}
            return replace(values[0], settings=inner)
        choices.append(_choice(path, values, layers))
        return choices[-1]

    block: Part = one("blocks", [layer.block for layer in layers])
    return block, choices


def _key(value: Any) -> Any:
    """Equal for values that are the same but for their weights."""
    if isinstance(value, Each):
        return len(value.parts), _key(value.parts[0])
    return tuple(sorted(value.flat(""), key=str)) if isinstance(value, Part) else value


def _choice(path: str, values: Sequence[Any], layers: Sequence[Layer]) -> Choice:
    keys = [_key(value) for value in values]
    then = keys[0]
    otherwise = next(value for value, key in zip(values, keys, strict=True) if key != then)
    if len(set(keys)) == 2:
        wanted = [key == then for key in keys]
        for field, rule, holds in _rules(layers):
            if holds == wanted:
                return Choice(rule, field, values[0], otherwise)
            if holds == [not one for one in wanted]:
                return Choice(rule, field, otherwise, values[0])
    at = layers[keys.index(_key(otherwise))].number
    shown = f"is {_shown(values[0])} in layer {layers[0].number}, {_shown(otherwise)} in layer {at}"
    raise Unwritten(f"{path}: {shown}, and no field of the config says so")


def _rules(layers: Sequence[Layer]) -> Iterator[tuple[str, str, list[bool]]]:
    """Each rule by a field, and the layers that it holds for; those of fields that were seen to decide come first."""
    fields = [name for name in layers[0].config if all(name in layer.config for layer in layers)]
    varied = {name: len({repr(layer.config[name]) for layer in layers}) > 1 for name in fields}
    for name in sorted(fields, key=lambda field: not varied[field]):
        values = [layer.config[name] for layer in layers]
        for code, holds in _of(values, varied[name]):
            try:
                yield name, code, [holds(layer.config[name], layer.number) for layer in layers]
            except (IndexError, TypeError):
                continue


def _of(values: Sequence[Any], varied: bool) -> Iterator[tuple[str, Callable[[Any, int], bool]]]:
    if all(type(value) is int for value in values):
        yield from OF_NUMBERS.items() if varied else ()
    elif all(isinstance(value, list | tuple) for value in values):
        words = [one for value in values for one in value]
        if words and all(isinstance(one, str) for one in words):
            for word in sorted(set(words)):
                yield f'cfg.{{}}[layer] == "{word}"', partial(_is, word)
        elif all(isinstance(one, int) for one in words):
            yield from OF_LISTS.items()


def _is(word: str, value: Any, layer: int) -> bool:
    return bool(value[layer] == word)


def _shown(value: Any) -> str:
    if isinstance(value, Part):
        return str(value.kind.__name__)
    return repr(value)

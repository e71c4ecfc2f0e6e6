"""Names of tensors with their layer and expert left out: whatever a model calls them, each layer has the same."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NUMBER = re.compile(r"(?<!\d)(?:0|[1-9]\d*)(?!\d)")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """A tensor of every layer: its name with `{n}`, and with `{e}` where every expert has one; its shape in each.

    `place` counts the tensors of the model in their order; `kind` is the class of torch's that the module is
    that has it, if it is one of those whose tensors can only be one thing.
    """

    name: str
    shape: Shape
    place: int
    kind: str = ""

    @property
    def owner(self) -> str:
        """The name of the module that has it."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """Its name in that module."""
        return self.name.rpartition(".")[2]


def templates(
    shapes: Mapping[str, Shape], layers: int, experts: int | None = None, kinds: Mapping[str, str] | None = None
) -> list[Template]:
    """Named tensors by template, in their order.

    A number in names counts layers where it goes from 0 to the last and all else is the same in each.
    """
    names = {name: name for name in shapes}  # of each tensor, its template
    for mark, count in (("{n}", layers), ("{e}", experts)):
        if count:
            names = _marked(names, shapes, mark, count)
    kinds = kinds or {}
    first: dict[str, Template] = {}
    for name, template in names.items():
        first.setdefault(template, Template(template, shapes[name], len(first), kinds.get(name, "")))
    return list(first.values())


def _marked(names: Mapping[str, str], shapes: Mapping[str, Shape], mark: str, count: int) -> dict[str, str]:
    """The templates with a mark in the place of the first number that counts."""
    inside: dict[str, dict[int, dict[str, Shape]]] = {}  # what there is behind a beginning and a number
    for name, template in names.items():
        for number in NUMBER.finditer(template):
            rest = inside.setdefault(template[: number.start()], {}).setdefault(int(number[0]), {})
            rest[template[number.end() :]] = shapes[name]
    counting = {
        beginning
        for beginning, numbers in inside.items()
        if sorted(numbers) == list(range(count)) and all(one == numbers[0] for one in numbers.values())
    }
    return {name: _with_mark(template, mark, counting) for name, template in names.items()}


def _with_mark(template: str, mark: str, counting: Iterable[str]) -> str:
    for number in NUMBER.finditer(template):
        if template[: number.start()] in counting:
            return f"{template[: number.start()]}{mark}{template[number.end() :]}"
    return template

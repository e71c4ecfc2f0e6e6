"""Names of tensors with their layer and expert left out: whatever a model calls them, each layer has the same."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NUMBER = re.compile(r"(?<!\d)(?:0|[1-9]\d*)(?!\d)")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """A tensor of some or all layers: its name with `{n}`, and `{e}` where every expert has one, and its shape in each.

    `place` counts the tensors of the model in their order, `layers` are those that have it. `kind` is the class of
    torch's that the module is that has it, if it is one of those whose tensors can only be one thing.
    """

    name: str
    shape: Shape
    place: int
    layers: frozenset[int] = frozenset()
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

    A number in names counts layers where it goes from 0 to the last, for tensors that have one shape in all layers.
    """
    names = {name: name for name in shapes}  # of each tensor, its template
    for mark, count in (("{n}", layers), ("{e}", experts)):
        if count:
            names = _marked(names, shapes, mark, count)
    kinds = kinds or {}
    alike: dict[str, list[str]] = {}
    for name, template in names.items():
        alike.setdefault(template, []).append(name)
    return [
        Template(template, shapes[of[0]], place, _numbers(template, of), kinds.get(of[0], ""))
        for place, (template, of) in enumerate(alike.items())
    ]


def _numbers(template: str, names: Iterable[str]) -> frozenset[int]:
    """The layers that a template stands for."""
    beginning, mark, _ = template.partition("{n}")
    numbers = (NUMBER.match(name, len(beginning)) for name in names) if mark else ()
    return frozenset(int(number[0]) for number in numbers if number)


def _marked(names: Mapping[str, str], shapes: Mapping[str, Shape], mark: str, count: int) -> dict[str, str]:
    """The templates with a mark in the place of the first number that counts."""
    numbers: dict[str, set[int]] = {}  # behind a beginning
    alike: dict[tuple[str, str], set[Shape]] = {}  # of one beginning and end
    for name, template in names.items():
        for number in NUMBER.finditer(template):
            beginning, end = template[: number.start()], template[number.end() :]
            numbers.setdefault(beginning, set()).add(int(number[0]))
            alike.setdefault((beginning, end), set()).add(shapes[name])

    def with_mark(template: str) -> str:
        for number in NUMBER.finditer(template):
            beginning, end = template[: number.start()], template[number.end() :]
            if numbers[beginning] == set(range(count)) and len(alike[beginning, end]) == 1:
                return f"{beginning}{mark}{end}"
        return template

    return {name: with_mark(template) for name, template in names.items()}

"""Python source laid out as a formatter would leave it: on a line where it fits, else an item a line."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LINE = 120


@dataclass(frozen=True)
class Group:
    """Items between brackets, each behind a name or a key, if it has one."""

    opening: str
    items: tuple[tuple[str, "Group | str"], ...]
    closing: str
    joined: tuple[str, ...] = ()  # what stands before it, each with an `|` behind
    repeated: str = ""  # of a comprehension: what its one item is made for


def call(name: str, arguments: Iterable[tuple[str, Group | str]]) -> Group:
    """A call; an argument without a name has an empty one."""
    return Group(f"{name}(", tuple((f"{key}=" if key else "", value) for key, value in arguments), ")")


def listed(opening: str, values: Iterable[Group | str], closing: str) -> Group:
    """Values between brackets."""
    return Group(opening, tuple(("", value) for value in values), closing)


def mapping(items: Iterable[tuple[str, Group | str]]) -> Group:
    """A dictionary; an item without a key is written as it is."""
    return Group("{", tuple((f"{json.dumps(key)}: " if key else "", value) for key, value in items), "}")


def laid_out(node: Group | str, indent: int = 0, before: str = "", after: str = "") -> str:
    """A statement, indented, between what stands before and behind it."""
    line = f"{' ' * indent}{before}{in_a_line(node)}{after}"
    if isinstance(node, str) or len(line) <= LINE or not node.items:
        return line
    comma = "" if node.repeated else ","
    inner = [laid_out(item, indent + 4, key, comma) for key, item in node.items]
    inner += [f"{' ' * (indent + 4)}{node.repeated}"] if node.repeated else []
    *first, opening = (*node.joined, node.opening)
    heads = [f"{'| ' if at else before}{one}" for at, one in enumerate((*first, opening))]
    return "\n".join((*(f"{' ' * indent}{one}" for one in heads), *inner, f"{' ' * indent}{node.closing}{after}"))


def in_a_line(node: Group | str) -> str:
    """The same, however long."""
    if isinstance(node, str):
        return node
    inside = ", ".join(f"{key}{in_a_line(item)}" for key, item in node.items)
    inside += f" {node.repeated}" if node.repeated else ""
    one = node.opening.endswith("(") and node.closing == ")" and node.opening == "(" and len(node.items) == 1
    return f"{''.join(f'{name} | ' for name in node.joined)}{node.opening}{inside}{',' if one else ''}{node.closing}"


def literal(value: Any) -> str:
    """A value of a config as one writes it."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return in_a_line(listed("(", map(literal, value), ")"))
    return repr(value)


def imported(module: str, names: Iterable[str]) -> Group | str:
    """An import, its names in the order of a formatter: constants, classes, functions."""
    ordered = sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    line = f"from {module} import {', '.join(ordered)}"
    return line if len(line) <= LINE else listed(f"from {module} import (", ordered, ")")


class Imports:
    """What a file imports, gathered while it is written."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def named(self, module: str, name: str) -> str:
        """A name that the file uses, and has to import."""
        self._names.setdefault(module, set()).add(name)
        return name

    def groups(self) -> list[str]:
        """The imports of the standard library, of others, and ours."""
        lines: list[list[str]] = [[], [], []]
        for module, names in sorted(self._names.items()):
            top = module.partition(".")[0]
            group = 0 if top in sys.stdlib_module_names else 2 if top == "archport" else 1
            lines[group].append(laid_out(imported(module, names)))
        return ["\n".join(group) for group in lines if group]

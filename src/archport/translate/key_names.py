"""What a file's names of tensors have around the format's own: wrappers of modules, and a prefix of all."""

import re
from collections.abc import Collection

from ..errors import MappingError
from .table import Table

# What torch puts into names wherever a module is compiled or sharded.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def unwrapped(table: Table, keys: Collection[str], where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The file's name of each tensor, by its name without what is around it, and what that is.

    A prefix is taken off only where it is the same for all names of the model.

    Raises: MappingError where there are several models, or where two names become one.
    """
    inner = {key: WRAPPERS.sub("", key) for key in keys}
    prefix = _prefix(table, inner.values(), where)
    names: dict[str, str] = {}
    for key, name in inner.items():
        bare = name.removeprefix(prefix)
        if bare in names:
            raise MappingError([f"{key}: found beside {names[bare]}, which means the same"], where)
        names[bare] = key
    wrappers = {wrapper[0] for key in keys for wrapper in WRAPPERS.finditer(key)}
    return names, (*sorted(wrappers), *([prefix] if prefix else []))


def _prefix(table: Table, names: Collection[str], where: str) -> str:
    """What the names of a model begin with, beyond those of the table.

    Of all that go for each name it may know: what leaves the fewest others inside of the model, and the shortest.
    """
    if all(map(table.means, names)):
        return ""
    known = {name: beginnings for name in names if (beginnings := _beginnings(table, name))}
    ways = [*known.values()]
    if common := set(ways[0]).intersection(*ways) if ways else set():
        others = [name for name in names if name not in known]
        return min(
            common, key=lambda prefix: (sum(table.within(name.removeprefix(prefix)) for name in others), len(prefix))
        )
    if ways and not any("" in beginnings for beginnings in ways):
        several = ", ".join(dict.fromkeys(beginnings[0] for beginnings in ways))
        raise MappingError([f"found a model below each of {several}; expected one"], where)
    return ""


def _beginnings(table: Table, name: str) -> list[str]:
    """What may be taken off a name so that the table knows it, the shortest first."""
    ends = (0, *(dot.end() for dot in re.finditer(r"\.", name)))
    return [name[:end] for end in ends if table.means(name[end:])]

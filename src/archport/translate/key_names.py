"""What a file's names of tensors have around the format's own: wrappers of modules, and a prefix of all."""

import re
from collections.abc import Collection

from ..errors import MappingError
from .table import Table

# What torch puts into names wherever a module is compiled or sharded.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def unwrapped(table: Table, keys: Collection[str], where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The file's name of each tensor, by its name without what is around it, and what that is.

    A prefix is taken off only where no name means anything with it, and all that do without it have the same.

    Raises: MappingError where there are several, or where two names become one.
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
    """What the names of a model begin with, beyond those of the table."""
    if any(map(table.means, names)):
        return ""
    found = dict.fromkeys(prefix for prefix in (_before(table, name) for name in names) if prefix)
    if len(found) > 1:
        raise MappingError([f"found a model below each of {', '.join(found)}; expected one"], where)
    return next(iter(found), "")


def _before(table: Table, name: str) -> str:
    """The shortest beginning of a name without which the table knows it; empty where there is none."""
    ends = (dot.end() for dot in re.finditer(r"\.", name))
    return next((name[:end] for end in ends if table.means(name[end:])), "")

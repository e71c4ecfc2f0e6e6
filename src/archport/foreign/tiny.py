"""A person's own class at tiny sizes, for a look at its code where there is no checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from torch import nn

from ..config import DecoderConfig, required
from ..errors import ArchportError, ConfigError, MappingError
from ..registry import Architecture
from ..translate.table import Cell
from .filling import matched
from .finding import differing, rows_like
from .importing import made
from .rows import Rows
from .running import Forward
from .sizes import Sizes
from .theirs import Theirs


class Tiny(NamedTuple):
    """A module of tiny sizes, and its rows."""

    config: DecoderConfig
    module: nn.Module
    rows: Rows


def tiny(name: str, arch: Architecture, forward: Forward | None = None, rows: Mapping[str, Cell] | None = None) -> Tiny:
    """A module at the sizes that the architecture is tested at, or at plain ones if only these make it like ours.

    `rows` are its own, where they are known. Code need not ask for each size: where it has 4 * width, or an epsilon, of
    its own, only plain ones are right.

    Raises: ConfigError for an architecture without sizes, MappingError where no sizes give rows, and what `made` does.
    """
    if not arch.sizes:
        wanted = "found none, expected those of a tiny model: SIZES of its module or register(sizes=...)"
        raise ConfigError({"sizes": wanted}, f"architecture {arch.name}")
    first: ArchportError | None = None
    best: Tiny | None = None
    for config in _configs(arch):
        module = made(name, Sizes(arch, config))
        try:
            theirs = Theirs(module)
            if rows is None:
                found = rows_like(theirs, arch, config, forward)
            else:
                matched(theirs, arch, config, rows)
                found = Rows(rows, differing(theirs, arch, config, Rows(rows), forward))
        except MappingError as error:
            first = first or error
            continue
        best = Tiny(config, module, found)
        if not found.unsettled:
            return best
    if best is None and first is not None:
        raise first
    return best  # type: ignore[return-value]  # there is at least one config


def _configs(arch: Architecture) -> Iterator[DecoderConfig]:
    """The sizes of its tests, then with as many fields as can be at their default."""
    yield arch.config_class(**arch.sizes)
    plain: dict[str, Any] = dict(arch.sizes)
    needed = required(arch.config_class)
    for field in fields(arch.config_class):
        if field.name in plain and field.name not in needed:
            fewer = {name: value for name, value in plain.items() if name != field.name}
            try:
                arch.config_class(**fewer)
            except ConfigError:
                continue
            plain = fewer
    yield arch.config_class(**plain)

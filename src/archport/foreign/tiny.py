"""A person's own class at tiny sizes, for a look at its code where there is no checkpoint."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn

from ..config import DecoderConfig, required
from ..errors import ConfigError, MappingError, SourceError, in_a_line
from ..registry import Architecture
from ..translate.table import Cell
from .filling import matched
from .finding import differing, rows_like
from .importing import made
from .rows import Rows
from .running import CodeError, Forward, logits_of
from .searching import Bugs
from .sizes import Sizes
from .theirs import Theirs

DECIDING = ("vocab_size", "width", "layers")  # of the sizes, those that no code can have a default for


class Tiny(NamedTuple):
    """A module of tiny sizes, and its rows.

    `fixed` are the fields that its code has values of its own for, `refused` is what is wrong with it at the sizes that
    it asks for, where only plainer ones give rows.
    """

    config: DecoderConfig
    module: nn.Module
    rows: Rows
    fixed: tuple[str, ...] = ()
    refused: str = ""


def tiny(
    name: str,
    arch: Architecture,
    forward: Forward | None = None,
    rows: Mapping[str, Cell] | None = None,
    bugs: Bugs | None = None,
) -> Tiny:
    """A module at the sizes that the architecture is tested at, with the default of each that its code never asks for.

    `rows` are its own, where they are known. Code need not ask for each size: it may have 4 * width, or an epsilon, of
    its own. Where no rows are found at the sizes that it does ask for, plainer ones are tried, and that is said.

    Raises: ConfigError for an architecture without sizes, MappingError where no sizes give rows, and what `made` does.
    """
    if not arch.sizes:
        wanted = "found none, expected those of a tiny model: SIZES of its module or register(sizes=...)"
        raise ConfigError({"sizes": wanted}, f"architecture {arch.name}")
    asked, never = _asked(name, arch, forward)
    first: MappingError | CodeError | None = None
    for sizes in _plainer(arch, asked):
        config = arch.config_class(**sizes)
        try:
            module = made(name, Sizes(arch, config))
            theirs = Theirs(module)
            if rows is None:
                found = rows_like(theirs, arch, config, forward, bugs=bugs)
            else:
                matched(theirs, arch, config, rows)
                found = Rows(rows, differing(theirs, arch, config, Rows(rows), forward))
        except (MappingError, CodeError) as error:
            first = first or error
            continue
        fixed = tuple(field for field in arch.sizes if sizes.get(field) != arch.sizes[field])
        return Tiny(config, module, found, fixed, "" if first is None else in_a_line(first))
    if isinstance(first, MappingError) and never:
        raise SourceError(f"{name}: never asks for {', '.join(never)}, so give a SOURCE of the sizes that it has")
    raise first  # type: ignore[misc]  # there is at least one config


def _asked(name: str, arch: Architecture, forward: Forward | None) -> tuple[dict[str, Any], list[str]]:
    """The tested sizes, with the default of each that code never asks for, and which of DECIDING it never asks for.

    What it asks for when it is run counts, too.
    """
    tested = arch.sizes
    config = arch.config_class(**tested)
    given = Sizes(arch, config)
    with suppress(CodeError), torch.no_grad():  # it raises the same again
        logits_of(made(name, given).eval(), torch.zeros(1, 2, dtype=torch.long), config.vocab_size, forward)

    def unread(other: DecoderConfig | None) -> bool:
        return other is not None and not given.differs(Sizes(arch, other))

    never = [one for one in DECIDING if unread(arch.config_class(**{**tested, one: 2 * tested[one]}))]
    return _fewer(arch, tested, [one for one in tested if unread(_without(arch, tested, one))]), never


def _plainer(arch: Architecture, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The sizes that code asks for, then all at their defaults, heads of keys and values last."""
    kept = _fewer(arch, asked, [field for field in asked if field != "kv_heads"])
    tried = (asked, kept, _fewer(arch, kept, ["kv_heads"]))
    yield from (sizes for at, sizes in enumerate(tried) if sizes not in tried[:at])


def _fewer(arch: Architecture, sizes: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Sizes without as many fields as they can be without."""
    left = dict(sizes)
    for field in fields:
        if field in left and _without(arch, left, field) is not None:
            del left[field]
    return left


def _without(arch: Architecture, sizes: Mapping[str, Any], field: str) -> DecoderConfig | None:
    """The config of sizes with the default of a field, if it has one and that goes together with the others."""
    if field not in required(arch.config_class):
        with suppress(ConfigError):
            return arch.config_class(**{name: value for name, value in sizes.items() if name != field})
    return None

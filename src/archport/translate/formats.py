"""Formats of other libraries: the tables of each, by architecture, and a config as such a library writes it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checking import shown, thawed
from ..config import DecoderConfig
from ..errors import ConfigError
from .fields import put, read_config, require_writable
from .table import Table


@dataclass(frozen=True, kw_only=True)
class Format:
    """How another library writes models: its name, and tables by the model_type that they are for, likeliest first.

    An architecture may have several tables, each for some values of its fields. `defaults` are what the library takes
    for a field that its config does not say, `unlike` is what makes its tensors unlike transformers', in words. A file
    has the tensors and the config under these keys, with `others`; where there is none for the config, it is a file of
    YAML beside it.
    """

    title: str
    tables: tuple[tuple[str, Table], ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    unlike: str = "other names"
    tensors_key: str | None = None
    settings_key: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def tables_of(self, architecture: str) -> list[Table]:
        """The tables of one architecture."""
        return [table for name, table in self.tables if name == architecture]


def settings_of(table: Table, cfg: DecoderConfig, where: str) -> dict[str, Any]:
    """A config as the library of a table writes it. Raises: ConfigError for one that its files cannot say."""
    require_writable(table, cfg, where)
    settings: dict[str, Any] = dict(table.written)
    settings |= {spelling: thawed(getattr(cfg, name)) for spelling, name in table.must_agree.items()}
    for name, allowed in table.requires.items():
        put(settings, name, thawed(allowed[0]) if allowed else None)
    for name in table.config:
        value = _theirs(table, name, cfg)
        for spelling in table.field(name).spellings:
            if value is not None or "." not in spelling:
                put(settings, spelling, value)
    again = read_config(table, type(cfg), settings, where)[0]
    faults = {
        name: f"found {shown(getattr(cfg, name))}, but another field has the same key"
        for name in table.config
        if name not in table.lost and _theirs(table, name, again) != _theirs(table, name, cfg)
    }
    if faults:
        raise ConfigError(faults, where)
    return settings


def same_there(table: Table, one: DecoderConfig, other: DecoderConfig) -> bool:
    """Whether two configs are the same in the files of a format."""
    return all(_theirs(table, name, one) == _theirs(table, name, other) for name in table.config)


def _theirs(table: Table, name: str, cfg: DecoderConfig) -> Any:
    cell, value = table.field(name), getattr(cfg, name)
    return thawed(cell.theirs(value if cell.of is None else int(getattr(cfg, cell.of) * value)))


def said_otherwise(table: Table, cfg: DecoderConfig) -> Iterator[tuple[str, object, object]]:
    """Fields of ours that the files of a format do not keep as they are, with their values here and there."""
    for name, allowed in table.fixed.items():
        if getattr(cfg, name) != allowed[0]:
            yield name, getattr(cfg, name), allowed[0]

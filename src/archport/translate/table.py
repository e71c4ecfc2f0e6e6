"""The key table: what one architecture's checkpoints are called, field by field and tensor by tensor, as literal data.

A weights row is an equation between two layouts. Its pattern, in einops notation, reads from theirs to ours; read
backwards, the same row exports.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from ..errors import MappingError


class Field(NamedTuple):
    """A config cell: where HF keeps a field, and what its values there mean here."""

    spellings: tuple[str, ...]
    values: Mapping[str, str]


class Row(NamedTuple):
    """A weights cell: the checkpoint's keys, and an einops pattern from their layout to ours (None: the same)."""

    keys: tuple[str, ...]
    pattern: str | None


def spelt(*spellings: str, values: Mapping[str, str] | None = None) -> Field:
    """A config field under any of its spellings, the first written from scratch; `a.b` is field b of the object a."""
    return Field(spellings, values or {})


def rearranged(keys: str | tuple[str, ...], pattern: str) -> Row:
    """One key, or several that lie along the pattern's first axis, in another layout."""
    return Row((keys,) if isinstance(keys, str) else keys, pattern)


@dataclass(frozen=True, kw_only=True)
class Table:
    """How one architecture's checkpoints are spelt.

    In names and keys `{n}` is a layer and `*` stands for weight or bias. Keys are written as they are exported; a
    file may lack their `prefix`, or use one of the `aliases`. `classes` are the HF classes whose files these are, the
    exported one first. `requires` lists the values a field may have, `echoes` the fields that repeat one of ours,
    `overrides` an object that, where given, makes transformers ignore another; `nullable` ours that HF too may null;
    `tied` the parameters that share another's weight where the config says so, `ignored` the reason for each key
    that is not used. `modules` pairs what has no weights with the reference's module that does the same.
    """

    classes: tuple[str, ...]
    prefix: str
    config: Mapping[str, str | Field]
    requires: Mapping[str, tuple[object, ...]]
    harmless: frozenset[str]
    weights: Mapping[str, str | Row]
    echoes: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    nullable: frozenset[str] = frozenset({"mlp_width"})
    aliases: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)

    def field(self, name: str) -> Field:
        """The config cell of one of our fields, in its full form."""
        cell = self.config[name]
        return Field((cell,), {}) if isinstance(cell, str) else cell

    @property
    def known_fields(self) -> frozenset[str]:
        """Every config field this table classifies."""
        used = (spelling for name in self.config for spelling in self.field(name).spellings)
        return frozenset((*used, *self.requires, *self.harmless, *self.echoes, "architectures", "model_type"))

    def rows(self, name: str) -> list[Row]:
        """The rows that make one of our parameters, its layer and weight or bias filled in; one, in a right table."""
        found = []
        for template, cell in self.weights.items():
            if match := _regex(template).fullmatch(name):
                row = Row((cell,), None) if isinstance(cell, str) else cell
                found.append(Row(tuple(_filled(key, match.groupdict()) for key in row.keys), row.pattern))
        return found

    def row(self, name: str) -> Row:
        """The only row that makes one of our parameters. Raises: MappingError."""
        found = self.rows(name)
        if len(found) != 1:
            raise MappingError([f"{name}: {len(found) or 'no'} rows in the key table, expected one"], "key table")
        return found[0]

    def module(self, name: str) -> str | None:
        """The reference's module that does what one of ours without weights does; None where it has none."""
        for template, theirs in self.modules.items():
            if match := _regex(template).fullmatch(name):
                return _filled(theirs, match.groupdict())
        return None

    def reason(self, key: str) -> str | None:
        """Why a key is ignored; None when it is not."""
        return next((why for template, why in self.ignored.items() if _regex(template).fullmatch(key)), None)

    def canonical(self, key: str) -> list[str]:
        """What a file's key may mean: itself, with the prefix, or by an alias."""
        candidates = [key, self.prefix + key]
        return candidates + [self.aliases[c] for c in candidates if c in self.aliases]


@cache
def _regex(template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\*", r"(?P<star>weight|bias)")
    return re.compile(pattern)


def _filled(template: str, found: Mapping[str, str]) -> str:
    return template.replace("{n}", found.get("n", "{n}")).replace("*", found.get("star", "*"))

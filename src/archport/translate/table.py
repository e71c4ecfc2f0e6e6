"""The key table: what one architecture's checkpoints are called, field by field and tensor by tensor, as literal data.

A weights row is an equation between two layouts. Its pattern, in einops notation, reads from theirs to ours; read
backwards, the same row exports.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from ..checking import frozen
from ..errors import MappingError


class Field(NamedTuple):
    """A config cell: where HF keeps a field, and what its values there mean here."""

    spellings: tuple[str, ...]
    values: Mapping[Any, Any]

    def ours(self, value: object) -> Any:
        """What a value of theirs means here. Raises: KeyError."""
        return _looked_up(self.values.items(), value) if self.values else value

    def theirs(self, value: object) -> Any:
        """The first value of theirs that means one of ours. Raises: KeyError."""
        return _looked_up(((ours, theirs) for theirs, ours in self.values.items()), value) if self.values else value


def _looked_up(pairs: Iterable[tuple[Any, Any]], value: object) -> Any:
    """The partner of a value, which may be a list; True is not 1, None stays None. Raises: KeyError."""
    value = frozen(value)
    for key, partner in pairs:
        if type(frozen(key)) is type(value) and frozen(key) == value:
            return partner
    if value is not None:
        raise KeyError(value)
    return None


class Row(NamedTuple):
    """A weights cell: the checkpoint's keys, and an einops pattern from their layout to ours (None: the same)."""

    keys: tuple[str, ...]
    pattern: str | None


def config_field(*spellings: str, values: Mapping[Any, Any] | None = None) -> Field:
    """A config field under any of its spellings, the first written from scratch; `a.b` is field b of the object a."""
    return Field(spellings, values or {})


def rearranged(keys: str | tuple[str, ...], pattern: str) -> Row:
    """One key, or several that lie along the pattern's first axis, in another layout."""
    return Row((keys,) if isinstance(keys, str) else keys, pattern)


@dataclass(frozen=True, kw_only=True)
class Table:
    """The names that one architecture's checkpoints give to fields and tensors.

    In names and keys `{n}` is a layer and `*` stands for weight or bias. Keys are written as they are exported; a
    file may lack their `prefix`, or use one of the `aliases`. `classes` are the HF classes whose files these are, the
    exported one first. `requires` lists the values a field may have, `must_agree` the fields that repeat one of
    ours, `supersedes` an object that, where given, makes transformers ignore another; `nullable` ours that HF too may
    null; `tied` the parameters that share another's weight where the config says so, `ignored` the reason for each
    key that is not used. `modules` pairs what has no weights with the reference's module that does the same.
    """

    classes: tuple[str, ...]
    prefix: str
    config: Mapping[str, str | Field]
    requires: Mapping[str, tuple[object, ...]]
    harmless: frozenset[str]
    weights: Mapping[str, str | Row]
    must_agree: Mapping[str, str] = field(default_factory=dict)
    supersedes: Mapping[str, str] = field(default_factory=dict)
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
        return frozenset((*used, *self.requires, *self.harmless, *self.must_agree, "architectures", "model_type"))

    def rows(self, name: str) -> list[Row]:
        """The rows that make one of our parameters, its layer and weight or bias filled in; one, in a right table."""
        rows = []
        for template, cell in self.weights.items():
            if match := _regex(template).fullmatch(name):
                row = Row((cell,), None) if isinstance(cell, str) else cell
                rows.append(Row(tuple(_filled(key, match.groupdict()) for key in row.keys), row.pattern))
        return rows

    def rows_of(self, names: Iterable[str]) -> tuple[dict[str, Row], list[str]]:
        """The row of each parameter, and the faults: a parameter without its one row, a key in the rows of two."""
        rows: dict[str, Row] = {}
        owners: dict[str, str] = {}
        faults = []
        for name in names:
            candidates = self.rows(name)
            if len(candidates) != 1:
                faults.append(f"{name}: {len(candidates) or 'no'} rows in the key table, expected one")
                continue
            rows[name] = candidates[0]
            for key in candidates[0].keys:
                if key in owners:
                    faults.append(f"{key}: two rows of the key table name it, of {owners[key]} and of {name}")
                owners.setdefault(key, name)
        return rows, faults

    def row(self, name: str) -> Row:
        """The only row that makes one of our parameters. Raises: MappingError."""
        rows, faults = self.rows_of([name])
        if faults:
            raise MappingError(faults, "key table")
        return rows[name]

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


def _filled(template: str, parts: Mapping[str, str]) -> str:
    return template.replace("{n}", parts.get("n", "{n}")).replace("*", parts.get("star", "*"))

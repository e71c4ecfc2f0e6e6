"""The key table: what one architecture's checkpoints are called, field by field and tensor by tensor, as literal data.

A weights row is an equation between two layouts. Its pattern, in einops notation, reads from theirs to ours; read
backwards, the same row exports.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cache, cached_property
from typing import Any, NamedTuple

from ..checking import frozen
from ..config import DecoderConfig
from ..errors import MappingError
from .pattern import BRACKETS, Layout, Row


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


def config_field(*spellings: str, values: Mapping[Any, Any] | None = None) -> Field:
    """A config field under any of its spellings, the first written from scratch; `a.b` is field b of the object a."""
    return Field(spellings, values or {})


def rearranged(keys: str | tuple[str, ...], pattern: str) -> Row:
    """One key, or several that fill a slot each or lie along the pattern's first axis, in another layout.

    `"(kv [group k v] dim) ... -> ..."` names the slots of an axis; where ours has only some of theirs, other rows take
    the others. A pattern that starts with `{e}` takes one expert out of the first axis of a tensor of all.
    """
    return Row((keys,) if isinstance(keys, str) else keys, pattern)


def sections(key: str, pattern: str) -> Row:
    """One key, cut along its first axis into a section for each slot, each as if it were a key of its own."""
    slots = BRACKETS.search(pattern)
    return Row((key,) * len(slots[1].split() if slots else ()), pattern)


def only(cell: str | Row, **fields: Any) -> Row:
    """A row that counts only where our config has these values."""
    row = Row((cell,), None) if isinstance(cell, str) else cell
    return row._replace(only=tuple(fields.items()))


Cell = str | Row | tuple[str | Row, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The names that one architecture's checkpoints give to fields and tensors.

    In names and keys `{n}` is a layer, `{e}` an expert and `*` stands for weight or bias; a key with `{e}` for a name
    without is as many keys as the first axis of the pattern is long. A cell of `weights` may be several rows: the first
    that the config allows is exported, any of them is read. Keys are written as they are exported; a file may lack
    their `prefix`, or use one of the `aliases`. In `harmless`, `*` stands for anything. `classes` are the HF classes
    whose files these are, the exported one first. `requires` lists the values a field may have, `must_agree` the fields
    that repeat one of ours, `supersedes` an object that, where given, makes transformers ignore another; `nullable`
    ours that HF too may null; `tied` the parameters that share another's weight where the config says so, `ignored` the
    reason for each key that is not used. `modules` pairs what has no weights with the reference's module that does the
    same.
    """

    classes: tuple[str, ...]
    prefix: str
    config: Mapping[str, str | Field]
    requires: Mapping[str, tuple[object, ...]]
    harmless: frozenset[str]
    weights: Mapping[str, Cell]
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

    @cached_property
    def fields(self) -> frozenset[str]:
        """Every config field this table classifies, and globs of some."""
        used = (spelling for name in self.config for spelling in self.field(name).spellings)
        return frozenset((*used, *self.requires, *self.harmless, *self.must_agree, "architectures", "model_type"))

    @cached_property
    def _globs(self) -> re.Pattern[str]:
        return re.compile("|".join(translate(name) for name in self.harmless if "*" in name) or r"(?!)")

    def knows(self, name: str) -> bool:
        """Whether a config field is classified."""
        return name in self.fields or self._globs.match(name) is not None

    def rows(self, name: str, cfg: DecoderConfig, present: Container[str] | None = None) -> list[Row]:
        """The rows that make one of our parameters, its layer and weight or bias filled in; one, in a right table.

        Of alternatives, the first whose keys are all `present`, or the first of all.
        """
        rows = []
        for template, cell in self.weights.items():
            if match := _regex(template).fullmatch(name):
                cells = cell if isinstance(cell, tuple) and not isinstance(cell, Row) else (cell,)
                ways = [_filled_row(one, match.groupdict(), cfg) for one in cells if _counts(one, cfg)]
                there = [one for one in ways if present is not None and all(key in present for key in one.keys)]
                rows += (there or ways)[:1]
        return rows

    def rows_of(
        self, names: Iterable[str], cfg: DecoderConfig, present: Container[str] | None = None
    ) -> tuple[dict[str, Row], list[str]]:
        """The row of each parameter, and the faults: a parameter without its one row, a key in the rows of two."""
        rows: dict[str, Row] = {}
        owners: dict[tuple[str, Any], str] = {}
        faults = []
        for name in names:
            candidates = self.rows(name, cfg, present)
            if len(candidates) != 1:
                faults.append(f"{name}: {len(candidates) or 'no'} rows in the key table, expected one")
                continue
            rows[name] = row = candidates[0]
            pieces = Layout(row, cfg.axes).pieces() if row.pattern else {(None, None)}
            keys = dict.fromkeys(row.keys) if len(set(row.keys)) == 1 else row.keys  # sections are no repetition
            for piece in ((key, piece) for key in keys for piece in pieces):
                if piece in owners:
                    faults.append(f"{piece[0]}: two rows of the key table name it, of {owners[piece]} and of {name}")
                owners.setdefault(piece, name)
        return rows, faults

    def row(self, name: str, cfg: DecoderConfig) -> Row:
        """The only row that makes one of our parameters. Raises: MappingError."""
        rows, faults = self.rows_of([name], cfg)
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


def left_over(rows: Mapping[str, Row], axes: Mapping[str, int]) -> list[str]:
    """A line for each key of which the rows take some parts and leave others."""
    taken: dict[str, set[Any]] = {}
    wanted: dict[str, set[Any]] = {}
    for row in rows.values():
        if row.pattern and ("[" in row.pattern or row.pattern[0].isdigit()):
            layout = Layout(row, axes)
            for key in row.keys:
                taken[key] = taken.get(key, set()) | layout.pieces()
                wanted[key] = wanted.get(key, set()) | layout.all_pieces()
    missing = {key: sorted(map(str, wanted[key] - taken[key])) for key in taken}
    return [f"{key}: no row of the key table takes {', '.join(parts)}" for key, parts in missing.items() if parts]


def _counts(cell: str | Row, cfg: DecoderConfig) -> bool:
    return isinstance(cell, str) or all(getattr(cfg, name) == value for name, value in cell.only)


def _filled_row(cell: str | Row, parts: Mapping[str, str], cfg: DecoderConfig) -> Row:
    row = Row((cell,), None) if isinstance(cell, str) else cell
    keys = [_filled(key, parts) for key in row.keys]
    pattern = row.pattern and row.pattern.replace("{e}", parts.get("e", "{e}"))
    if pattern and any("{e}" in key for key in keys):
        count = cfg.axes.get(pattern.partition(" ")[0], 0)
        keys = [key.replace("{e}", str(number)) for key in keys for number in range(count)]
    return Row(tuple(keys), pattern, row.only)


@cache
def _regex(template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    return re.compile(pattern.replace(r"\*", r"(?P<star>weight|bias)"))


def _filled(template: str, parts: Mapping[str, str]) -> str:
    for mark, part in (("{n}", "n"), ("{e}", "e"), ("*", "star")):
        template = template.replace(mark, parts.get(part, mark))
    return template

"""The key table: what one architecture's checkpoints are called, field by field and tensor by tensor, as literal data.

A weights row is an equation between two layouts. Its pattern, in einops notation, reads from theirs to ours; read
backwards, the same row exports.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property
from itertools import groupby, product
from typing import Any

from ..config import DecoderConfig
from ..errors import MappingError
from .cells import Cell as Cell
from .cells import Field as Field
from .cells import config_field as config_field
from .cells import only as only
from .cells import rearranged as rearranged
from .cells import sections as sections
from .layout import Layout
from .pattern import Row as Row
from .templates import counts, filled_name, filled_row, template_regex


@dataclass(frozen=True, kw_only=True)
class Table:
    """The names that one architecture's checkpoints give to fields and tensors.

    In names and keys `{n}` is a layer, `{e}` an expert and `*` stands for weight or bias. A cell of `weights` may be
    several rows: the first that the config allows is exported, any of them is read. Keys are written as they are
    exported; a file may lack their `prefix`, or use one of the `aliases`. In `harmless`, `*` stands for anything.
    `classes` are the HF classes whose files these are, the exported one first. `requires` lists the values a field may
    have, `must_agree` the fields that repeat one of ours, `unread` those of them that transformers does not read, so
    that they may differ, `supersedes` an object that, where given, makes transformers ignore another; `nullable` ours
    that HF too may null; `tied` the parameters that share another's weight where the config says so, `ignored` the
    reason for each key that is not used. `modules` pairs what has no weights with the reference's module that does the
    same. `written` are fields of theirs that are written so where no origin says them, and read as they may be.

    The rest is for formats of other libraries. `fixed` are our fields that their configs do not say, and the values
    that the format has: the first is the one it computes, any other is written with a note. `lost` are those that are
    not kept and change no logits, and what they are read as. `zeros` are parameters of ours that the format always has,
    as zeros where a model has none; `repeats` are those that repeat another. Where their `bias_field` is false, the
    file has no biases.
    """

    classes: tuple[str, ...]
    prefix: str
    config: Mapping[str, str | Field]
    requires: Mapping[str, tuple[object, ...]]
    harmless: frozenset[str]
    weights: Mapping[str, Cell]
    must_agree: Mapping[str, str] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    supersedes: Mapping[str, str] = field(default_factory=dict)
    nullable: frozenset[str] = frozenset({"mlp_width"})
    aliases: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    lost: Mapping[str, object] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()
    repeats: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, object] = field(default_factory=dict)
    bias_field: str | None = None

    def field(self, name: str) -> Field:
        """The config cell of one of our fields, in its full form."""
        cell = self.config[name]
        return Field((cell,), {}) if isinstance(cell, str) else cell

    @cached_property
    def fields(self) -> frozenset[str]:
        """Every config field this table classifies, and globs of some."""
        cells = [self.field(name) for name in self.config]
        used = (name for cell in cells for name in (*cell.spellings, cell.otherwise) if name is not None)
        return frozenset((*used, *self.requires, *self.harmless, *self.must_agree, "architectures", "model_type"))

    @cached_property
    def _globs(self) -> re.Pattern[str]:
        return re.compile("|".join(translate(name) for name in self.harmless if "*" in name) or r"(?!)")

    def knows(self, name: str) -> bool:
        """Whether a config field is classified."""
        return name in self.fields or self._globs.match(name) is not None

    def decides(self, name: str) -> bool:
        """Whether a config field, or one inside it, says what the model is: known, and not harmless."""
        inside = any(field.startswith(f"{name}.") for field in self.fields)
        return inside or (name in self.fields and name not in self.harmless)

    def rows(self, name: str, cfg: DecoderConfig, present: Container[str] | None = None) -> list[Row]:
        """The rows that make one of our parameters, its layer and weight or bias filled in; one, in a right table.

        Of alternatives, the first whose keys are all `present`, or the first of all. Raises: MappingError for a row
        that makes no sense.
        """
        rows = []
        for template, cell in self.weights.items():
            if match := template_regex(template).fullmatch(name):
                cells = cell if isinstance(cell, tuple) else (cell,)
                try:
                    ways = [filled_row(one, match.groupdict(), cfg.axes) for one in cells if counts(one, cfg)]
                except MappingError as error:
                    raise MappingError([f"{template}: {fault}" for fault in error.faults], "key table") from None
                there = [one for one in ways if present is not None and all(key in present for key in one.keys)]
                rows += (there or ways)[:1]
        return rows

    def rows_of(
        self, names: Iterable[str], cfg: DecoderConfig, present: Container[str] | None = None
    ) -> tuple[dict[str, Row], list[str]]:
        """The row of each parameter, and the faults: a parameter without its one row, a key in the rows of two.

        Raises: MappingError with every row that makes no sense.
        """
        rows: dict[str, Row] = {}
        owners: dict[tuple[str, Any], str] = {}
        faults: list[str] = []
        senseless: dict[str, None] = {}
        for name in names:
            try:
                candidates = self.rows(name, cfg, present)
            except MappingError as error:
                senseless |= dict.fromkeys(error.faults)
                continue
            if len(candidates) != 1:
                faults.append(f"{name}: {len(candidates) or 'no'} rows in the key table, expected one")
                continue
            rows[name] = row = candidates[0]
            pieces = Layout(row, cfg.axes).pieces() if row.pattern else {(None, None)}
            keys = [key for key, _ in groupby(row.keys)]  # one several times on end is cut in sections
            for piece in product(keys, pieces):
                if piece in owners:
                    faults.append(f"{piece[0]}: two rows of the key table name it, of {owners[piece]} and of {name}")
                owners.setdefault(piece, name)
        if senseless:
            raise MappingError([*senseless], "key table")
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
            if match := template_regex(template).fullmatch(name):
                return filled_name(theirs, match.groupdict())
        return None

    def repeated(self, name: str) -> str | None:
        """The parameter of ours that another, which a model of ours has not, repeats in this format."""
        for template, other in self.repeats.items():
            if match := template_regex(template).fullmatch(name):
                return filled_name(other, match.groupdict())
        return None

    def beside(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Parameters that this format has beside a model's own, whose shapes are given, and their shapes."""
        biases = {f"{name.removesuffix('weight')}bias": shape[:1] for name, shape in shapes.items()}
        found = {
            name: shape for name, shape in biases.items() if any(template_regex(t).fullmatch(name) for t in self.zeros)
        }
        for template, other in self.repeats.items():
            for name, shape in shapes.items():
                if match := template_regex(other).fullmatch(name):
                    found[filled_name(template, match.groupdict())] = shape
        return {name: shape for name, shape in found.items() if name not in shapes}

    def reason(self, key: str) -> str | None:
        """Why a key is ignored; None when it is not."""
        return next((why for template, why in self.ignored.items() if template_regex(template).fullmatch(key)), None)

    @cached_property
    def _templates(self) -> list[str]:
        """Every name of a tensor."""
        cells = (cell if isinstance(cell, tuple) else (cell,) for cell in self.weights.values())
        rows = [(one,) if isinstance(one, str) else one.keys for ways in cells for one in ways]
        return [*(key for keys in rows for key in keys), *self.ignored, *self.aliases]

    @cached_property
    def _names(self) -> re.Pattern[str]:
        numbered = (re.sub(r"\\{\w\\}", r"\\d+", re.escape(template)) for template in self._templates)
        return re.compile("|".join(name.replace(r"\*", "(?:weight|bias)") for name in numbered))

    @cached_property
    def roots(self) -> frozenset[str]:
        """The modules at the top of a model, with and without the prefix."""
        bare = (template.removeprefix(self.prefix) for template in self._templates)
        return frozenset(name.partition(".")[0] for name in (*self._templates, *bare))

    def within(self, key: str) -> bool:
        """Whether a file's key, known or not, lies in one of the modules at the top of a model."""
        return key.partition(".")[0] in self.roots

    def means(self, key: str) -> bool:
        """Whether a file's key may be one of this format, in a model of any size."""
        return any(map(self._names.fullmatch, self.canonical(key)))

    def canonical(self, key: str) -> list[str]:
        """What a file's key may mean: itself, with the prefix, or by an alias."""
        candidates = [key, self.prefix + key]
        return candidates + [self.aliases[c] for c in candidates if c in self.aliases]

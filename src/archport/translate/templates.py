"""Rows whose layer, expert and leaf are filled in, as a name of ours has them; `{n}`, `{e}` and `*` stand for these."""

import re
from collections.abc import Iterator, Mapping
from functools import cache

from ..config import DecoderConfig
from ..errors import MappingError
from .layout import Layout
from .pattern import Row, parsed


def counts(cell: str | Row, cfg: DecoderConfig) -> bool:
    """Whether a row is for a config of these values. Raises: MappingError for fields that there are none of."""
    wanted = {} if isinstance(cell, str) else dict(cell.only)
    if unknown := [name for name in wanted if not hasattr(cfg, name)]:
        raise MappingError([f"only for {', '.join(unknown)}, expected fields of Config"], "key table")
    return all(getattr(cfg, name) == value for name, value in wanted.items())


def filled_row(cell: str | Row, parts: Mapping[str, str], axes: Mapping[str, int]) -> Row:
    """A row with its layer, expert and leaf. Raises: MappingError for one that makes no sense."""
    row = Row((cell,), None) if isinstance(cell, str) else cell
    keys = tuple(filled_name(key, parts) for key in row.keys)
    pattern = row.pattern
    for mark in ("e", "n"):
        if pattern and mark in parts:
            pattern = pattern.replace(f"{{{mark}}}", f"{mark}={parts[mark]}")
    if any("{i}" in key for key in keys):
        keys = tuple(_a_key_a_row(keys, pattern or "... -> ...", axes))
    filled = Row(keys, pattern, row.only)
    Layout(filled, axes)
    for template, key in zip(row.keys, keys, strict=False):
        if left := re.findall(r"\{\w*\}|\*", key):
            raise MappingError([f"{template}: found {left[0]}, which the name of ours has not"], "key table")
    return filled


def _a_key_a_row(keys: tuple[str, ...], pattern: str, axes: Mapping[str, int]) -> Iterator[str]:
    """Keys with those that have an `{i}` for each row of the slot that they fill."""
    slots = parsed(pattern).slots
    if len(slots) != len(keys) or not all(slot in axes for slot, key in zip(slots, keys, strict=True) if "{i}" in key):
        found, known = ", ".join(slots) or "none", ", ".join(axes)
        fault = f"{pattern!r}: found slots {found}, expected one a key, and for {{i}} one of {known}"
        raise MappingError([fault], "key table")
    for slot, key in zip(slots, keys, strict=True):
        yield from (key.replace("{i}", str(row)) for row in range(axes[slot] if "{i}" in key else 1))


@cache
def template_regex(template: str) -> re.Pattern[str]:
    """What matches the names that a template stands for, in groups n, e and star."""
    pattern = re.escape(template).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    return re.compile(pattern.replace(r"\*", r"(?P<star>weight|bias)"))


def filled_name(template: str, parts: Mapping[str, str]) -> str:
    """A template with a layer, an expert and a leaf."""
    for mark, part in (("{n}", "n"), ("{e}", "e"), ("*", "star")):
        template = template.replace(mark, parts.get(part, mark))
    return template

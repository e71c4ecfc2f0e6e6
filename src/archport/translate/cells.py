"""What one cell of a key table says: where a config field is kept, or which keys make a parameter and how."""

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..checking import frozen
from ..keywords import strict_keywords
from .pattern import BRACKETS, Row


class Field(NamedTuple):
    """A config cell: where HF keeps a field, and what its values there mean here.

    The spelling `otherwise` counts only where none of the others is given. With `each`, values are lists, and it is
    their elements that mean something. Ours may be a share `of` another field of ours, of which theirs is a count.
    """

    spellings: tuple[str, ...]
    values: Mapping[Any, Any]
    otherwise: str | None = None
    each: bool = False
    of: str | None = None

    def given(self, fields: Container[str]) -> list[str]:
        """Its spellings among the fields of a config."""
        found = [spelling for spelling in self.spellings if spelling in fields]
        return found or ([self.otherwise] if self.otherwise and self.otherwise in fields else [])

    def ours(self, value: object) -> Any:
        """What a value of theirs means here. Raises: KeyError."""
        if self.each and isinstance(value, list | tuple):
            return tuple(_looked_up(self.values.items(), one) for one in value)
        return _looked_up(self.values.items(), value) if self.values else value

    def share(self, count: Any, whole: Any) -> Any:
        """The share of a whole of which their count is the whole number."""
        if type(count) is not int or type(whole) is not int or whole < 1:
            return count  # which is refused
        share = count / whole
        return share if int(whole * share) == count else math.nextafter(share, math.inf)

    def theirs(self, value: object) -> Any:
        """The first value of theirs that means one of ours. Raises: KeyError."""
        pairs = [(ours, theirs) for theirs, ours in self.values.items()]
        if self.each and isinstance(value, list | tuple):
            return tuple(_looked_up(pairs, one) for one in value)
        return _looked_up(pairs, value) if self.values else value


def _looked_up(pairs: Iterable[tuple[Any, Any]], value: object) -> Any:
    """The partner of a value, which may be a list; True is not 1, None stays None. Raises: KeyError."""
    value = frozen(value)
    for key, partner in pairs:
        if type(frozen(key)) is type(value) and frozen(key) == value:
            return partner
    if value is not None:
        raise KeyError(value)
    return None


def config_field(
    *spellings: str,
    values: Mapping[Any, Any] | None = None,
    otherwise: str | None = None,
    each: bool = False,
    of: str | None = None,
) -> Field:
    """A config field under any of its spellings, the first written from scratch; `a.b` is field b of the object a."""
    return Field(spellings, values or {}, otherwise, each, of)


@strict_keywords
def rearranged(keys: str | tuple[str, ...], pattern: str) -> Row:
    """One key, or several that fill a slot each, in another layout.

    `"(kv [group k v] dim) ... -> ..."` names the slots of an axis; where ours has only some of theirs, other rows take
    the others. Where theirs has the brackets as an axis by itself, as in `"[gate up] mlp ... -> ([gate up] mlp) ..."`,
    a key of several is one row of that axis, and is without it; with `{i}`, a key is as many as its slot has rows. A
    pattern that starts with `{e}` takes one expert out of the first axis of a tensor of all, one with `{n}` one layer;
    an axis `1` has that length. After a semicolon stand slots whose rotary elements lie otherwise: `group k: (pair
    side) -> (side pair)` for q and k with each pair together in theirs and by halves in ours.
    """
    return Row((keys,) if isinstance(keys, str) else keys, " ".join(pattern.split()))


@strict_keywords
def sections(key: str, pattern: str) -> Row:
    """One key, cut along its first axis into a section for each slot, each as if it were a key of its own."""
    slots = BRACKETS.search(pattern)
    return Row((key,) * len(slots[1].split() if slots else ()), pattern)


def only(cell: str | Row, **fields: Any) -> Row:
    """A row that counts only where our config has these values."""
    row = Row((cell,), None) if isinstance(cell, str) else cell
    return replace(row, only=tuple(fields.items()))


Cell = str | Row | tuple[str | Row, ...]

"""What a row of a key table says of a tensor: its keys and, in einops notation, a pattern from their layout to ours.

An axis in brackets is made of named slots, of the length that the config gives the name, else 1: keys fill one each, or
one key fills all.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import MappingError

BRACKETS = re.compile(r"\[(.*?)\]")
SLOT = "slot"
_AXIS = r"(?:\w+|\.\.\.|\[\w+(?: \w+)*\])"
_GROUP = rf"(?:{_AXIS}|\({_AXIS}(?: {_AXIS})*\))"
INDEX = re.compile(r"\{[en]\}|[en]=\d+")  # of an expert or a layer, before and after it is known
TURNS = ("(pair side) -> (side pair)", "(side pair) -> (pair side)")  # of neighbours to halves, of halves to neighbours
_SIDE = re.compile(rf"{_GROUP}(?: {_GROUP})*")


@dataclass(frozen=True)
class Row:
    """A weights cell: the checkpoint's keys, and a pattern from their layout to ours (None: the same).

    A key given several times is cut along its first axis, in sections one after another. `only` are values of our
    config fields without which the row does not count.
    """

    keys: tuple[str, ...]
    pattern: str | None
    only: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Pattern:
    """A pattern, parsed: both sides with one axis `slot` in place of the brackets, and what is in the brackets of each.

    `index` says which expert or layer is ours, as `e=3`, where their first axis counts them; `{e}` until it is known.
    In the slots `turned` the rotary elements of `dim` go otherwise: pair by pair in theirs where `pairs_first`, in ours
    where not, and by halves on the other side.
    """

    text: str
    index: str | None
    theirs: str
    ours: str
    slots: tuple[str, ...]
    our_slots: tuple[str, ...]
    turned: tuple[str, ...] = ()
    pairs_first: bool = False

    @property
    def apart(self) -> bool:
        """Whether theirs has the axis in brackets by itself, not as a part of a longer one."""
        return SLOT in groups(self.theirs)


@cache
def parsed(text: str) -> Pattern:
    """A pattern's parts. Raises: MappingError for what is none."""
    layout, _, clause = text.partition("; ")
    theirs, arrow, ours = layout.partition(" -> ")
    if not arrow:
        raise malformed(text, "is no pattern, expected theirs -> ours")
    first, _, rest = theirs.partition(" ")
    index = first if INDEX.fullmatch(first) else None
    theirs = theirs if index is None else rest
    for side in (theirs, ours):
        if not _SIDE.fullmatch(side):
            raise malformed(text, f"is no pattern, found the side {side!r}, expected axes, parentheses not nested")
        if side.count("[") > 1:
            raise malformed(text, f"found {side.count('[')} brackets on a side, expected at most one")
        names = re.findall(r"\w+", side)
        if twice := sorted({name for name in names if names.count(name) > 1 and name != "1"}):
            raise malformed(text, f"found {', '.join(twice)} twice on a side, expected once")
    slots, our_slots = (tuple("".join(BRACKETS.findall(side)).split()) for side in (theirs, ours))
    theirs, ours = BRACKETS.sub(SLOT, theirs), BRACKETS.sub(SLOT, ours)
    if odd := (set(single(theirs)) ^ set(single(ours))) - {"1"}:
        found = ", ".join(sorted("[..]" if axis == SLOT else axis for axis in odd))
        raise malformed(text, f"the two sides do not have the same axes, found {found} on one only")
    if unknown := [slot for slot in our_slots if slot not in slots]:
        raise malformed(text, f"found slot {', '.join(unknown)}, expected some of {', '.join(slots)}")
    turned, _, turn = clause.partition(": ")
    which = tuple(turned.split())
    if clause and (turn not in TURNS or not which or set(which) - set(slots) or "dim" not in single(theirs)):
        expected = f"expected slots of {', '.join(slots) or 'some'} with dim: {' or '.join(TURNS)}"
        raise malformed(text, f"found {clause!r}, {expected}")
    return Pattern(text, index, theirs, ours, slots, our_slots, which, turn == TURNS[0])


def malformed(text: str, fault: str) -> MappingError:
    """What to raise for a pattern, or a row with it, that makes no sense."""
    text = re.sub(r"^([en])=\d+ ", r"{\1} ", text)  # so that a row is faulty once, not once an expert
    return MappingError([f"{text!r}{'' if fault.startswith('is ') else ':'} {fault}"], "key table")


def groups(side: str) -> list[str]:
    """The axes of a side, those in parentheses as one."""
    return re.findall(r"\(.*?\)|\S+", side)


def single(side: str) -> list[str]:
    """The single axes of a side, in their order."""
    return side.replace("(", "").replace(")", "").split()


def regroups(text: str | None) -> bool:
    """Whether a pattern does more than permute whole axes."""
    return text is not None and ("(" in text or parsed(text).slots != parsed(text).our_slots)

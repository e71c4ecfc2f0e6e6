"""What a config says of rotary positions: the share of a head that is turned, and the scalings that it takes."""

from collections.abc import Mapping
from typing import Any

from ..errors import SourceError
from ..mappings import FRACTIONS, ROTARY, ROTARY_OBJECTS
from ..models import rotary_variants
from ..translate.cells import Field
from .part import Part
from .schedule import Unwritten
from .subject import Subject
from .tiny_config import flat
from .varying import Reading

SHARES = ("rotary_pct", "rotary_percentage")  # what else configs call the share of a head that is turned
TRIED = 0.3
CONTEXT = 11  # tokens, from which on rotary positions of the tests are scaled


def fraction_named(subject: Subject, rotary: Part, sizes: Mapping[str, int]) -> str | None:
    """What the config calls the share of a head that is turned. Raises: Unwritten."""
    turned, width = rotary.settings["width"], sizes["head_width"]
    if turned == width:
        return None
    for name, value in subject.config.items():
        named = any(word in name for word in ("partial", "pct", "fraction"))
        if named and isinstance(value, float) and int(width * value) == turned:
            return name
    raise Unwritten(f"blocks.attn.rotary.width: is {turned} of {width}, and no field of the config says so")


def fraction_spelt(base: Reading, fraction: str) -> tuple[str, ...]:
    """The names by which a config takes the share of a head that is turned, one outside of any object first."""
    kind: Any = type(base.module.config)
    for name in (FRACTIONS[0], *SHARES):
        if flat(kind(**{name: TRIED}).to_dict()).get(fraction) == TRIED:
            return (name, *FRACTIONS[1:])
    return (fraction,)


def scalings(subject: Subject, pairs: int) -> tuple[str, ...] | None:
    """The scalings that a config takes, for so many pairs of rotary positions; None where it takes all.

    Some classes check, and take one alone.
    """
    variants = rotary_variants(pairs, CONTEXT).values()
    named = list(dict.fromkeys(str(one["rotary_scaling"]) for one in variants))
    refused = {str(one["rotary_scaling"]) for one in variants if not _takes(subject, one)}
    return tuple(one for one in named if one not in refused) if refused else None


def _takes(subject: Subject, variant: dict[str, object]) -> bool:
    settings = {}
    for name, value in variant.items():
        if isinstance(cell := ROTARY.get(name), Field):
            theirs = next(one for one in cell.spellings if one.startswith(f"{ROTARY_OBJECTS[-1]}."))
            settings[theirs] = list(value) if isinstance(value, tuple) else value
    try:
        subject.make(settings)
    except SourceError:
        return False
    return True

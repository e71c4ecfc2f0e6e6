"""Which scalings of rotary positions a class of transformers takes: some check their config, and take one alone."""

from ..errors import SourceError
from ..mappings import ROTARY, ROTARY_OBJECTS
from ..models import rotary_variants
from ..translate.cells import Field
from .subject import Subject

CONTEXT = 11  # tokens, from which on rotary positions of the tests are scaled


def scalings(subject: Subject, pairs: int) -> tuple[str, ...] | None:
    """Those that its config takes, for so many pairs of rotary positions; None where it takes all."""
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

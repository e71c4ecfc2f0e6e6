"""The catalogue of port bugs, one entry a fault; an architecture may add its own.

Each entry serves twice: planted, to see whether verify notices, locates and names it; and tried as a hypothesis on a
port that differs.
"""

from pkgutil import resolve_name

from ...errors import ConfigError, in_a_line
from ...registry import architecture
from ..faults import Fault
from .attention import OF_ATTENTION
from .experts import OF_EXPERTS
from .heads import OF_HEADS
from .lines import OF_LINES
from .parts import OF_PARTS
from .streams import OF_STREAMS
from .weights import OF_WEIGHTS
from .wiring import HEAD_TIED, HEAD_UNTIED, OF_WIRING

__all__ = ["CATALOGUE", "HEAD_TIED", "HEAD_UNTIED", "faults_for", "own_faults"]

CATALOGUE: tuple[Fault, ...] = (
    *OF_PARTS,
    *OF_ATTENTION,
    *OF_EXPERTS,
    *OF_WIRING,
    *OF_LINES,
    *OF_WEIGHTS,  # before the same mistakes in code, which explain as much
    *OF_HEADS,
    *OF_STREAMS,
)


def faults_for(name: str) -> tuple[Fault, ...]:
    """The catalogue and the faults that an architecture adds to it. Raises: ConfigError."""
    return (*CATALOGUE, *own_faults(name))


def own_faults(name: str) -> tuple[Fault, ...]:
    """The faults that an architecture adds to the catalogue. Raises: ConfigError."""
    given = architecture(name).faults
    where = f"faults of {name}"
    try:
        own = resolve_name(given) if isinstance(given, str) else given
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError({"faults": f"found {given!r}: {in_a_line(error)}"}, where) from None
    names = [fault.name for fault in CATALOGUE]
    for fault in own:
        if not isinstance(fault, Fault):
            raise ConfigError({"faults": f"found a {type(fault).__name__}, expected a Fault"}, where)
        if fault.name in names:
            raise ConfigError({"faults": f"found two named {fault.name!r}, expected one"}, where)
        names.append(fault.name)
    return tuple(own)

"""A port held against its reference: all lines, and where one fails, the place and the cause."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..config import dtype_name
from ..errors import MappingError, in_a_line
from ..layers import Decoder
from .budget import Check
from .cause import find_cause, known
from .compare import Comparison
from .lines import all_lines
from .locate import DECODER
from .report import Report
from .running import RaisedError
from .settings import Problem, notes_on, unlike


def compare(
    port: Decoder,
    comparison: Comparison,
    name: str,
    *,
    quick: bool = False,
    packed: bool = False,
    compiled: bool = False,
) -> Report:
    """Hold a port against a reference: all lines, and where one fails, the place and the cause."""
    problems = [*unlike(port, comparison.clean)]
    notes = tuple(notes_on(port, comparison.clean))
    checks: list[Check] = []
    fault = None
    with _told(problems, port):
        for check in all_lines(comparison, port, quick=quick, packed=packed, compiled=compiled):
            checks.append(check)
    with _told(problems, port):
        if not packed and not all(check.ok for check in checks):
            fault = find_cause(comparison, port, checks)
    dtype, words = dtype_name(comparison.dtype), tuple(one.words for one in problems)
    return Report(name, comparison.described, dtype, tuple(checks), known(fault, problems), words, notes=notes)


@contextmanager
def _told(problems: list[Problem], port: Decoder) -> Iterator[None]:
    """Keep for the report that a port raises, or has parameters that its table does not know."""
    try:
        yield
    except (RaisedError, MappingError) as error:
        where = getattr(error, "where", "")  # a module, or what else was asked of the port
        place = where if where == DECODER or where in dict(port.named_modules()) else ""
        problem = Problem(place, in_a_line(error))
        if problem not in problems:
            problems.append(problem)

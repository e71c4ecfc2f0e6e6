"""Our model with each bug of the catalogue: what a person's module, which is not ours by any rows, may be instead."""

from collections.abc import Iterator

from ...layers import Decoder
from ..catalogue import faults_for
from .naming import Named, planted
from .numbers import number_faults


def with_bugs(port: Decoder) -> Iterator[Decoder]:
    """A copy for each bug that code can have, at all places where it can be."""
    for fault in (*faults_for(port.architecture), *number_faults(port)):
        sites = tuple(fault.sites(port))
        if not sites or fault.equivalent or fault.line or fault.weights_only:
            continue
        try:
            faulty = planted(port, Named(fault, sites))
        except Exception:  # it is for other settings
            continue
        yield faulty

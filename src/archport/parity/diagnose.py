"""What is wrong there? Every fault of the catalogue that can show at a place is tried as a hypothesis.

archport's own port of the reference, with one fault planted, is run up to the place. If it makes there what the port
makes, the port has that fault. If it makes what the reference makes, archport's port lacks what the reference does.
"""

import copy
from dataclasses import dataclass

from torch import Tensor

from ..layers import Decoder
from .faults import CATALOGUE, Fault
from .locate import Finding, Trace, findings, relative_error


@dataclass(frozen=True)
class Diagnosis:
    """The place where a port first differs and, if the catalogue explains it, the fault; `words` say it in a line."""

    place: str
    fault: Fault | None
    words: str
    ruled_out: tuple[str, ...] = ()


def diagnose(finding: Finding, clean: Decoder, reference: Trace, ids: Tensor) -> Diagnosis:
    """Name the fault behind a finding, given a clean port of the same reference in float64."""
    place = finding.place

    def there(port: Decoder) -> Finding | None:
        """What a port makes at the place; None when it differs before, or never gets there."""
        made = findings(
            port, reference, ids, until=lambda one: one.at == finding.at or (clean_is_right and one.differs)
        )
        return made[-1] if made and made[-1].at == finding.at else None

    clean_is_right = not any(one.differs and one.at == finding.at for one in findings(clean, reference, ids))
    ruled_out: dict[str, None] = {}
    for fault in CATALOGUE:
        for site in fault.sites(clean):
            if fault.equivalent or not fault.shows(site, place):
                continue
            guess = copy.deepcopy(clean)
            fault.plant(guess, site)
            made = there(guess)
            if made and clean_is_right and relative_error(made.ours, finding.ours) <= finding.limit:
                words = f"{fault.faulty}; the reference {fault.right}: see {fault.see}"
                return Diagnosis(place, fault, f"{place}: {words}")
            if made and not clean_is_right and not made.differs:
                return Diagnosis(
                    place, fault, f"{place}: unlike here, in the reference {fault.faulty}: see {fault.see}"
                )
            ruled_out[fault.name] = None
    shape = tuple(finding.theirs.shape)
    what = "what it makes" if finding.side == "output" else f"what it feeds {finding.module}"
    words = f"{what} {shape} differs by {finding.error:.1e} of the largest element; no known fault explains it"
    return Diagnosis(place, None, f"{place}: {words}, ruled out: {', '.join(ruled_out) or 'none'}", tuple(ruled_out))

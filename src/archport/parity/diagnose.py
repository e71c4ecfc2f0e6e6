"""What is wrong there? Every fault of the catalogue that can show at a place is tried as a hypothesis.

archport's own port of the reference, with one fault planted, is run beside it. If it first differs where the port does,
makes there what the port makes, and nowhere differs where the port agrees, the port has that fault. If it makes what
the reference makes and archport's own port does not, that one lacks what the reference does.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import Decoder
from .compare import CACHED, PADDED
from .faults import CATALOGUE, Fault
from .locate import DECODER, Finding, Trace, findings, relative_error
from .passes import cached_logits, padded_logits


@dataclass(frozen=True)
class Diagnosis:
    """The place where a port first differs and, if the catalogue explains it, the fault; `words` say it in a line."""

    place: str
    fault: Fault | None
    words: str
    ruled_out: tuple[str, ...] = ()


def diagnose(found: Sequence[Finding], clean: Decoder, reference: Trace, ids: Tensor) -> Diagnosis:
    """Name the fault behind the first finding that differs, given a clean port of the same reference in float64."""
    finding = next(one for one in found if one.differs)
    place = finding.place
    differing = {one.at for one in found if one.differs}
    made_right = {one.at: one for one in findings(clean, reference, ids)}
    clean_is_right = finding.at not in made_right or not made_right[finding.at].differs
    ruled_out: dict[str, None] = {}
    for fault in CATALOGUE:
        for site in fault.sites(clean):
            if fault.equivalent or fault.line or not fault.shows(site, place):
                continue
            guess = copy.deepcopy(clean)
            fault.plant(guess, site)
            guessed = findings(guess, reference, ids)
            made = next((one for one in guessed if one.at == finding.at), None)
            first = next((one for one in guessed if one.differs), None)
            contradicted = any(one.differs and one.at not in differing for one in guessed)
            if made and clean_is_right and made is first and not contradicted and _explains(made, finding):
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


# How a line's logits are made, for those that show what no module does alone.
MADE: dict[str, Callable[[Decoder, Tensor], Tensor]] = {
    CACHED: cached_logits,
    PADDED: lambda port, ids: padded_logits(port, ids)[0],
}


def diagnose_line(line: str, clean: Decoder, port: Decoder, ids: Tensor) -> Diagnosis:
    """Name the fault behind a line about cache or padding, while every module agrees."""
    port = copy.deepcopy(port).to(torch.float64)
    made, right = (MADE[line](model, ids) for model in (port, clean))
    ruled_out: dict[str, None] = {}
    for fault in CATALOGUE:
        for site in fault.sites(clean) if fault.line == line else ():
            guess = copy.deepcopy(clean)
            fault.plant(guess, site)
            if relative_error(MADE[line](guess, ids), made) <= relative_error(right, made) / 10:
                words = f"{fault.faulty}; the reference {fault.right}: see {fault.see}"
                return Diagnosis(DECODER, fault, f"{DECODER}: {words}")
            ruled_out[fault.name] = None
    words = f"every module agrees, but not the line: {line}; ruled out: {', '.join(ruled_out) or 'none'}"
    return Diagnosis(DECODER, None, f"{DECODER}: {words}", tuple(ruled_out))


def _explains(made: Finding, finding: Finding) -> bool:
    """Whether a fault makes what the port makes: not merely as near to it as the reference is."""
    return relative_error(made.ours, finding.ours) <= min(finding.limit, finding.error / 10)

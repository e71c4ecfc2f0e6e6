"""What is wrong there? Every fault of the catalogue that can show at a place is tried as a hypothesis.

A right port of the reference, with one fault planted, is run beside it. If it first differs where the port does, makes
there and wherever else it differs what the port makes, and leaves nothing unexplained at that place, the port has that
fault; of several, it is the one that explains most.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import Decoder
from .catalogue import faults_for
from .copying import copied
from .faults import Fault
from .locate import Finding, Trace, findings, relative_error


@dataclass(frozen=True)
class Diagnosis:
    """The place where a port first differs and, if the catalogue explains it, the fault; `words` say it in a line."""

    place: str
    fault: Fault | None
    words: str
    ruled_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """A right port with one fault planted at some sites."""

    fault: Fault
    sites: tuple[str, ...]
    model: Decoder

    @classmethod
    def of(cls, fault: Fault, sites: Sequence[str], clean: Decoder) -> "Hypothesis":
        """Plant a fault in a copy of a right port."""
        model = copied(clean)
        for site in sites:
            fault.plant_at(model, site)
        return cls(fault, tuple(sites), model)


def diagnose(differences: Sequence[Finding], port: Decoder, clean: Decoder, reference: Trace, ids: Tensor) -> Diagnosis:
    """Name the fault behind the first finding that differs, given a right port of the same reference in float64."""
    wrong = [finding for finding in differences if finding.differs]
    first, most, best = wrong[0], 0, None
    ruled_out: dict[str, None] = {}
    own = [finding.at for finding in findings(clean, reference, ids) if finding.differs]
    # Where the port taken for right differs too, it is none: whatever changes nothing would explain all.
    for hypothesis in _hypotheses(port, clean, wrong) if first.at not in own else ():
        ruled_out[hypothesis.fault.name] = None
        explained = _explained(hypothesis.model, reference, ids, wrong)
        if explained > most and _weights_agree(hypothesis, port, clean):
            most, best = explained, hypothesis.fault
        if most == len(wrong):
            break
    if best is not None:
        return named(first.place, best)
    shape = tuple(first.theirs.shape)
    what = "what it makes" if first.side == "output" else f"what it feeds {first.module}"
    words = f"{what} {shape} differs by {first.error:.1e} of the largest element; no known fault explains it"
    return _unnamed(first.place, f"{words}, ruled out", ruled_out)


def _hypotheses(port: Decoder, clean: Decoder, wrong: Sequence[Finding]) -> Iterator[Hypothesis]:
    """Each fault where it can show at the first place that differs, then wherever something differs."""
    known = [fault for fault in faults_for(clean.architecture) if not fault.line and not fault.equivalent]
    for fault in (one if one.read is None else one.read(port, clean) for one in known):
        if fault is None:
            continue
        sites = fault.sites(clean)
        near = [(site,) for site in sites if fault.shows(site, wrong[0].place)]
        everywhere = tuple(site for site in sites if any(fault.shows(site, finding.place) for finding in wrong))
        for some in dict.fromkeys([*near, everywhere] if near else []):
            yield Hypothesis.of(fault, some, clean)


def _explained(guess: Decoder, reference: Trace, ids: Tensor, wrong: Sequence[Finding]) -> int:
    """How many of the findings are those of a hypothesis; 0 if it makes others, or leaves one at the first's place.

    The pass ends where that shows.
    """
    place, ours = wrong[0].place, {finding.at: finding for finding in wrong}
    at_place = {finding.at for finding in wrong if f"{finding.place}.".startswith(f"{place}.")}

    def contradicts(made: Finding) -> bool:
        if not made.differs or made.at not in ours:
            return made.differs or made.at in at_place
        found = ours[made.at]  # which must be the same, not merely as near to it as the reference is
        return not relative_error(made.ours, found.ours) <= min(found.limit, found.error / 10)

    made = findings(guess, reference, ids, until=contradicts)
    if contradicts(made[-1]) or not at_place <= {one.at for one in made}:
        return 0
    return sum(one.differs for one in made)


def _weights_agree(hypothesis: Hypothesis, port: Decoder, clean: Decoder) -> bool:
    """Whether weights that a fault of weights changes differ from the reference's in the port too."""
    if not hypothesis.fault.weights_only:
        return True
    right, own = (dict(m.named_parameters(remove_duplicate=False)) for m in (clean, port))
    changed = [
        name
        for name, parameter in hypothesis.model.named_parameters(remove_duplicate=False)
        if name in own and not torch.equal(parameter, right[name])
    ]
    return not changed or any(not torch.equal(own[name].to(right[name]), right[name]) for name in changed)


def named(place: str, fault: Fault) -> Diagnosis:
    """A place that has a fault of the catalogue."""
    return Diagnosis(place, fault, f"{place}: {fault.faulty}; the reference {fault.right}: see {fault.see}")


def _unnamed(place: str, words: str, ruled_out: dict[str, None]) -> Diagnosis:
    return Diagnosis(place, None, f"{place}: {words}: {', '.join(ruled_out) or 'none'}", tuple(ruled_out))

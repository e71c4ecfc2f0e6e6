"""What is wrong there? Every fault of the catalogue that can show at a place is tried as a hypothesis.

archport's own port of the reference, with one fault planted, is run beside it. If it first differs where the port does,
makes there what the port makes, and nowhere differs where the port agrees, the port has that fault. If it makes what
the reference makes and archport's own port does not, that one lacks what the reference does.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import Decoder
from .catalogue import faults_for
from .faults import Fault
from .lines.caching import CACHED
from .lines.padding import PADDED
from .locate import DECODER, Finding, Trace, findings, relative_error
from .passes import cached_logits, padded_logits


@dataclass(frozen=True)
class Diagnosis:
    """The place where a port first differs and, if the catalogue explains it, the fault; `words` say it in a line."""

    place: str
    fault: Fault | None
    words: str
    ruled_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """A correct port with one fault planted at a site."""

    fault: Fault
    site: str
    model: Decoder


def diagnose(differences: Sequence[Finding], port: Decoder, clean: Decoder, reference: Trace, ids: Tensor) -> Diagnosis:
    """Name the fault behind the first finding that differs, given a clean port of the same reference in float64."""
    first = next(finding for finding in differences if finding.differs)
    clean_finding = _at(first, findings(clean, reference, ids))
    clean_is_right = clean_finding is None or not clean_finding.differs
    ruled_out: dict[str, None] = {}
    for hypothesis in _hypotheses(clean, lambda fault, site: not fault.line and fault.shows(site, first.place)):
        fault, guessed = hypothesis.fault, findings(hypothesis.model, reference, ids)
        if clean_is_right and _is_that(guessed, differences, first) and _weights_agree(hypothesis, port, clean):
            return _named(first.place, fault)
        same_place = _at(first, guessed)
        if not clean_is_right and same_place is not None and not same_place.differs:
            words = f"{first.place}: unlike here, in the reference {fault.faulty}: see {fault.see}"
            return Diagnosis(first.place, fault, words)
        ruled_out[fault.name] = None
    shape = tuple(first.theirs.shape)
    what = "what it makes" if first.side == "output" else f"what it feeds {first.module}"
    words = f"{what} {shape} differs by {first.error:.1e} of the largest element; no known fault explains it"
    return _unnamed(first.place, f"{words}, ruled out", ruled_out)


# How a line's logits are made, for those that show what no module does alone.
LINES: dict[str, Callable[[Decoder, Tensor], Tensor]] = {
    CACHED: cached_logits,
    PADDED: padded_logits,
}


def diagnose_line(line: str, port: Decoder, clean: Decoder, ids: Tensor) -> Diagnosis:
    """Name the fault behind a line about cache or padding, while every module agrees."""
    port = copy.deepcopy(port).to(torch.float64)
    logits, right = (LINES[line](model, ids) for model in (port, clean))
    ruled_out: dict[str, None] = {}
    for hypothesis in _hypotheses(clean, lambda fault, _: fault.line == line):
        if relative_error(LINES[line](hypothesis.model, ids), logits) <= relative_error(right, logits) / 10:
            return _named(DECODER, hypothesis.fault)
        ruled_out[hypothesis.fault.name] = None
    return _unnamed(DECODER, f"every module agrees, but not the line: {line}; ruled out", ruled_out)


def _hypotheses(clean: Decoder, may_show: Callable[[Fault, str], bool]) -> Iterator[Hypothesis]:
    for fault in faults_for(clean.architecture):
        for site in fault.sites(clean):
            if not fault.equivalent and may_show(fault, site):
                guess = copy.deepcopy(clean)
                fault.plant_at(guess, site)
                yield Hypothesis(fault, site, guess)


def _is_that(guessed: Sequence[Finding], differences: Sequence[Finding], first: Finding) -> bool:
    """Whether a fault first shows where the port does, makes there what the port makes, and nothing more differs."""
    guess = next((finding for finding in guessed if finding.differs), None)
    differing = {finding.at for finding in differences if finding.differs}
    if guess is None or guess.at != first.at or any(one.differs and one.at not in differing for one in guessed):
        return False
    # Not merely as near to it as the reference is.
    return relative_error(guess.ours, first.ours) <= min(first.limit, first.error / 10)


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


def _at(finding: Finding, others: Sequence[Finding]) -> Finding | None:
    """What another port makes at the same place."""
    return next((other for other in others if other.at == finding.at), None)


def _named(place: str, fault: Fault) -> Diagnosis:
    return Diagnosis(place, fault, f"{place}: {fault.faulty}; the reference {fault.right}: see {fault.see}")


def _unnamed(place: str, words: str, ruled_out: dict[str, None]) -> Diagnosis:
    return Diagnosis(place, None, f"{place}: {words}: {', '.join(ruled_out) or 'none'}", tuple(ruled_out))

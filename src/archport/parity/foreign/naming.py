"""What does a person's module do there that ours does not? Every fault of the catalogue, planted into ours, is tried.

The one under which all of ours agrees with theirs, part by part and as a whole, is what theirs does.
"""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...layers import Decoder
from ..catalogue import faults_for
from ..faults import Fault
from ..locate import DECODER
from .locating import Finding

Compare = Callable[[Decoder], list[Finding]]
AT_ONCE = 3  # bugs that are told apart in one module


@dataclass(frozen=True)
class Named:
    """A fault of ours that makes what theirs makes, and our parts in which it does."""

    fault: Fault
    sites: tuple[str, ...]


def explained(clean: Decoder, compare: Compare, findings: Sequence[Finding]) -> tuple[list[Named], list[str]]:
    """The faults that together explain every finding, none if they do not, and the names of those ruled out."""
    model, found, ruled_out = clean, list[Named](), dict[str, None]()
    for _ in range(AT_ONCE):
        left = {one.at for one in findings if one.differs}
        best: tuple[int, Named, Decoder, list[Finding]] | None = None
        for named in _hypotheses(model, [one for one in findings if one.differs]):
            guess = planted(model, named)
            again = _quietly(compare, guess)
            still = {one.at for one in again or () if one.differs}
            if again is None or not still < left:
                ruled_out[named.fault.name] = None
            elif best is None or len(still) < best[0]:
                best = len(still), named, guess, again
            if best is not None and not best[0]:
                break
        if best is None:
            return [], [*ruled_out]
        remaining, named, model, findings = best
        found.append(named)
        if not remaining:
            return found, [*ruled_out]
    return [], [*ruled_out]


def planted(model: Decoder, named: Named) -> Decoder:
    """A copy with the fault, which shares the weights of all other parts."""
    own = {id(one) for site in named.sites if site != DECODER for one in model.get_submodule(site).parameters()}
    guess = copy.deepcopy(model, {id(one): one for one in model.parameters() if id(one) not in own})
    for site in named.sites:
        named.fault.plant_at(guess, site)
    return guess


def _quietly(compare: Compare, guess: Decoder) -> list[Finding] | None:
    try:
        return compare(guess)
    except Exception:  # a fault that this model cannot run with
        return None


def _hypotheses(model: Decoder, differing: Sequence[Finding]) -> Iterator[Named]:
    """Each fault at all places that differ, and at those of one kind."""
    suspects = {suspect for one in differing for suspect in one.suspects}
    for fault in faults_for(model.architecture):
        if fault.equivalent or fault.line or fault.weights_only:
            continue
        sites = tuple(site for site in fault.sites(model) if any(_shows(fault, site, one) for one in suspects))
        kinds: dict[str, list[str]] = {}
        for site in sites:
            kinds.setdefault(re.sub(r"\d+", "{n}", site), []).append(site)
        for some in dict.fromkeys([sites, *map(tuple, kinds.values()), *((site,) for site in sites)]):
            if some:
                yield Named(fault, some)


def _shows(fault: Fault, site: str, suspect: str) -> bool:
    """Whether a fault there may be why a part is suspected: it shows there, or the part holds it."""
    return suspect == DECODER == site or fault.shows(site, suspect) or site.startswith(suspect + ".")

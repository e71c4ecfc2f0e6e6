"""What does a person's module do there that ours does not? Every fault of the catalogue, planted into ours, is tried.

The one under which all of ours agrees with theirs, part by part and as a whole, is what theirs does.
"""

import copy
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ...errors import ArchportError
from ...layers import Decoder
from ..catalogue import faults_for
from ..faults import Becomes, Fault
from ..locate import DECODER
from .locating import Finding
from .numbers import number_faults

Place = tuple[str, str]
Compare = Callable[[Decoder, Collection[Place]], list[Finding]]
AT_ONCE = 3  # bugs that are told apart in one module


@dataclass(frozen=True)
class Named:
    """A fault of ours that makes what theirs makes, and our parts in which it does."""

    fault: Fault
    sites: tuple[str, ...]


def explained(clean: Decoder, compare: Compare, findings: Sequence[Finding]) -> tuple[list[Named], list[str]]:
    """The faults that together explain every finding, none if they do not, and the names of those ruled out.

    Each must mend the first place that differs and spoil none. `compare` may stop at one that differs and is not among
    those it is given.
    """
    model, found, ruled_out = clean, list[Named](), dict[str, None]()
    for _ in range(AT_ONCE):
        differing = [one for one in findings if one.differs]
        if not differing:
            return found, [*ruled_out]
        best: tuple[int, Named, Decoder, list[Finding]] | None = None
        for named in _hypotheses(model, differing):
            guess = planted(model, named)
            again = _quietly(compare, guess, [one.at for one in differing[1:]])
            if again is None:
                ruled_out[named.fault.name] = None
            elif best is None or sum(one.differs for one in again) < best[0]:
                best = sum(one.differs for one in again), named, guess, again
            if best is not None and not best[0]:
                break
        if best is None:
            return [], [*ruled_out]
        _, named, model, findings = best
        found.append(named)
    return ([], [*ruled_out]) if any(one.differs for one in findings) else (found, [*ruled_out])


def explained_weights(clean: Decoder, agrees: Callable[[Decoder], bool], names: Iterable[str]) -> Named | None:
    """The fault that makes theirs of the checkpoint's weights, given our parameters that differ."""
    holders = {name.rpartition(".")[0] for name in names}
    for fault in faults_for(clean.architecture):
        if isinstance(fault.plant, Becomes) or fault.equivalent or fault.line:
            continue
        sites = tuple(site for site in fault.sites(clean) if any(f"{one}.".startswith(f"{site}.") for one in holders))
        with suppress(ArchportError, RuntimeError, AttributeError):  # a fault of other things than weights
            if sites and agrees(planted(clean, named := Named(fault, sites))):
                return named
    return None


def planted(model: Decoder, named: Named) -> Decoder:
    """A copy with the fault, which shares the weights that it cannot change."""
    holders = (
        [] if isinstance(named.fault.plant, Becomes) else ["" if site == DECODER else site for site in named.sites]
    )
    own = {id(one) for holder in holders for one in model.get_submodule(holder).parameters()}
    guess = copy.deepcopy(model, {id(one): one for one in model.parameters() if id(one) not in own})
    for site in named.sites:
        _unshare(guess, site)
        named.fault.plant_at(guess, site)
    return guess


def _unshare(model: Decoder, site: str) -> None:
    """Give a place a part of its own, where others have the same one, as layers have their rotary."""
    holder, _, leaf = site.rpartition(".")
    if holder and not any(True for _ in model.get_submodule(site).parameters()):
        setattr(model.get_submodule(holder), leaf, copy.deepcopy(model.get_submodule(site)))


def _sites(fault: Fault, model: Decoder) -> list[str]:
    """Where a fault can exist, in each place of a part that several have."""
    modules = model.named_modules(remove_duplicate=False)
    return [name or DECODER for name, module in modules if fault.can_exist_in(module)]


def _quietly(compare: Compare, guess: Decoder, may_differ: Collection[Place]) -> list[Finding] | None:
    try:
        return compare(guess, may_differ)
    except Exception:  # it differs elsewhere, or is a fault that this model cannot run with
        return None


def _hypotheses(model: Decoder, differing: Sequence[Finding]) -> list[Named]:
    """Each fault at all places that differ; then at those of one kind, as all norms before attention; then at each."""
    suspects = {suspect for one in differing for suspect in one.suspects}
    together, by_kind, alone = [], [], []
    first = differing[0].suspects
    for fault in (*faults_for(model.architecture), *number_faults(model)):
        if fault.equivalent or fault.line or fault.weights_only:
            continue
        sites = tuple(site for site in _sites(fault, model) if any(_shows(fault, site, one) for one in suspects))
        if not any(_shows(fault, site, one) for site in sites for one in first):
            continue
        kinds: dict[str, list[str]] = {}
        for site in sites:
            kinds.setdefault(re.sub(r"\d+", "{n}", site), []).append(site)
        together.append(Named(fault, sites))
        by_kind += [Named(fault, tuple(some)) for some in kinds.values() if len(kinds) > 1]
        alone += [Named(fault, (site,)) for site in sites if len(sites) > len(kinds)]
    return [*together, *by_kind, *alone]


def _shows(fault: Fault, site: str, suspect: str) -> bool:
    """Whether a fault there may be why a part is suspected: it shows there, or the part holds it."""
    return suspect == DECODER == site or fault.shows(site, suspect) or site.startswith(suspect + ".")

"""What would put archport's own port right? One kind of part after another, with another class or another setting.

A bug in an architecture's own code is in every port that the code makes: there is no right one to plant faults in. So
parts are exchanged where the port differs, in each layer that does, for archport's own classes, for what the catalogue
knows, for the parts of other layers and for the reference's own numbers, until nothing differs any more.
"""

import copy
import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ..layers import Decoder
from .boundaries import is_sum_or_multiple
from .compare import Comparison
from .diagnose import Diagnosis
from .exchanges import OURS, Repair, in_layer, layer_number, of_class, part_at, repairs_at
from .locate import DECODER, LOOSE, Finding, Trace, findings, holds, relative_error
from .running import RaisedError, run

STEPS = 4  # kinds of parts to exchange, each in as many layers as need it
SURE = 0.25  # of what rounding is allowed: no other number comes as near


def repaired(comparison: Comparison, ids: Tensor) -> tuple[Comparison, list[Repair]] | None:
    """The comparison with a right port, and what put it right; None where nothing that is tried does."""
    steps: list[Repair] = []
    original = comparison.clean
    while True:
        model = comparison.clean
        reference = comparison.trace(model, ids).of_reference()
        reference = reference.loosened(reference.inputs)  # what is loose shows in a right port only
        wrong = [one for one in findings(model, reference, ids) if one.differs]
        if not wrong:
            return (comparison, steps) if steps and _is_right(comparison, ids) else None
        better = _best(comparison, original, reference, ids, wrong) if len(steps) < STEPS else None
        if better is None:
            return None
        comparison = comparison.beside(better[1])
        steps.append(better[0])


def _is_right(comparison: Comparison, ids: Tensor) -> bool:
    reference = comparison.trace(comparison.clean, ids)
    agree = not any(one.differs for one in findings(comparison.clean, reference, ids))
    return agree and relative_error(run(comparison.clean, ids), reference.outputs[DECODER]) <= LOOSE


def with_own_classes(model: Decoder) -> Iterator[Decoder]:
    """The model with every part of one class after another of archport's own class, where it is of one above that."""
    sites: dict[type[nn.Module], list[str]] = {}
    for name, part in model.named_modules():
        if type(part) not in OURS and not type(part).__module__.startswith("torch."):
            sites.setdefault(type(part), []).append(name or DECODER)
    for own, some in sites.items():
        for repair in of_class(model, some[0]):
            if repair.kind is not None and issubclass(own, repair.kind):
                yield repair.made(model, some)


def with_their_padding(model: Decoder, theirs: nn.Module | None) -> Iterator[Decoder]:
    """The model with the reference's token whose vector gets no gradient, where it has another."""
    ours = model.embed.tokens
    if isinstance(theirs, nn.Embedding) and isinstance(ours, nn.Embedding) and theirs.padding_idx != ours.padding_idx:
        other = copy.deepcopy(model)
        other.embed.tokens.padding_idx = theirs.padding_idx
        yield other


def mended_by(place: str, repairs: Sequence[Repair]) -> Diagnosis:
    """What is wrong at a place, said by what puts it right."""
    known = repairs[0].fault
    if known is not None:
        return Diagnosis(place, known, f"{place}: unlike here, in the reference {known.faulty}: see {known.see}")
    words = "; ".join(f"{repair.site}: {repair.words}" for repair in repairs)
    return Diagnosis(place, None, f"{place}: the reference's logits come out with {words}")


def _best(
    comparison: Comparison, original: Decoder, reference: Trace, ids: Tensor, wrong: Sequence[Finding]
) -> tuple[Repair, Decoder] | None:
    """The repair after which the first difference is gone and the fewest are left, none of them new."""
    for some in repairs_at(comparison, wrong[0], original):
        least, best = (len(wrong), 0.0), None
        for repair in some:
            for guess, off in _attempts(comparison.clean, repair, reference, ids, wrong):
                if off < least:
                    least, best = off, (repair, guess)
            if least <= (0, SURE):
                break
        if best is not None:
            return best
    return None


def _attempts(
    model: Decoder, repair: Repair, reference: Trace, ids: Tensor, wrong: Sequence[Finding]
) -> Iterator[tuple[Decoder, tuple[int, float]]]:
    """Models with a repair in ever more places, how many differences each leaves, and how far off the others are."""
    first, ats = wrong[0], {one.at for one in wrong}
    for sites in _sites(model, repair.site, wrong):
        try:
            guess = repair.made(model, sites)
            compared = _compared(guess, reference, ids, first)
        except (RaisedError, AttributeError, TypeError, RuntimeError):  # a class or number that does not fit there
            return
        left = {one.at for one in compared if one.differs}
        if first.at in left or not left < ats:
            return
        off = max((one.error / one.limit for one in compared if one.at in ats - left), default=0.0)
        yield guess, (len(left), off)
        if not left:
            return


def _compared(guess: Decoder, reference: Trace, ids: Tensor, first: Finding) -> list[Finding]:
    """What differs after a repair; no more than the first difference where that is as it was, or new.

    Where the reference draws another boundary there, a right port differs, too, but its logits do not.
    """
    compared = findings(guess, reference, ids, until=lambda one: one.differs)
    last = compared[-1]
    if last.differs and last.at == first.at and is_sum_or_multiple(last, reference):
        right = relative_error(run(guess, ids), reference.outputs[DECODER]) <= LOOSE
        return [] if right else compared
    return findings(guess, reference, ids) if last.differs and last.at != first.at else compared


def _sites(model: Decoder, site: str, wrong: Sequence[Finding]) -> list[list[str]]:
    """The same part in each layer that differs in the same place; then every part of its class where any does."""
    first, kind = wrong[0], type(part_at(model, site))
    parts = {name or DECODER: part for name, part in model.named_modules(remove_duplicate=False)}
    layer = layer_number(first.module)
    same = {layer_number(one.module) for one in wrong if (in_layer(one.module, layer), *one.at[1:]) == first.at}
    near = [name for name in parts if _in_any(name) == _in_any(site) and layer_number(name) in same]
    places = {one.place for one in wrong}
    alike = [name for name in parts if any(holds(name, place) or holds(place, name) for place in places)]
    return [near or [site], [name for name in alike if type(parts[name]) is kind]]


def _in_any(module: str) -> str:
    """The same module in any layer, and of any of several alike."""
    return re.sub(r"\.\d+(?=\.|$)", ".{n}", module)

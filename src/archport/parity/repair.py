"""What would put archport's own port right? One kind of part after another, with another class or another setting.

A bug in an architecture's own code is in every port that the code makes: there is no right one to plant faults in. So
parts are exchanged where the port differs, in each layer that does, for archport's own classes, for what the catalogue
knows, for the parts of other layers and for the reference's own numbers, until nothing differs any more.
"""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .. import layers
from ..layers import Decoder
from .boundaries import is_sum_or_multiple
from .catalogue import faults_for
from .compare import Comparison
from .diagnose import Diagnosis
from .faults import Fault
from .locate import DECODER, LOOSE, Finding, Trace, findings, relative_error
from .reference_numbers import FORMS, in_form, is_number, numbers_of
from .running import RaisedError, run

STEPS = 4  # kinds of parts to exchange, each in as many layers as need it
SURE = 0.25  # of what rounding is allowed: no other number comes as near
OURS = [kind for kind in vars(layers).values() if isinstance(kind, type) and issubclass(kind, nn.Module)]
STRUCTURE = (nn.Linear, nn.Embedding, nn.Dropout, nn.ModuleList)  # their settings are the shapes of weights


@dataclass(frozen=True)
class Repair:
    """One part of a port exchanged at `site`, and at the same one of other layers; `words` say for what.

    `fault` is that of the catalogue which, planted, makes what the reference makes; `kind` is the class it gets.
    """

    site: str
    words: str
    change: Callable[[Any], object]
    fault: Fault | None = None
    kind: type[nn.Module] | None = None

    def made(self, model: Decoder, sites: Sequence[str]) -> Decoder:
        """A copy of a model with the part exchanged at some sites, sharing what it does not change."""
        repaired = copy.deepcopy(model, {} if self.fault else {id(one): one for one in model.parameters()})
        for part in {id(part): part for part in (_part(repaired, site) for site in sites)}.values():  # each once
            if self.fault is None or self.fault.can_exist_in(part):
                self.change(part)
        return repaired


def repaired(comparison: Comparison, ids: Tensor) -> tuple[Comparison, list[Repair]] | None:
    """The comparison with a right port, and what put it right; None where nothing that is tried does."""
    steps: list[Repair] = []
    original = comparison.clean
    while True:
        model = comparison.clean
        reference = comparison.trace(model, ids)
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
        for repair in _of_class(model, some[0]):
            if repair.kind is not None and issubclass(own, repair.kind):
                yield repair.made(model, some)


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
    for some in _repairs(comparison, wrong[0], original):
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
    first, kind = wrong[0], type(_part(model, site))
    parts = {name or DECODER: part for name, part in model.named_modules(remove_duplicate=False)}
    layer = _number(first.module)
    same = {_number(one.module) for one in wrong if (_in_layer(one.module, layer), *one.at[1:]) == first.at}
    near = [name for name in parts if _in_any(name) == _in_any(site) and _number(name) in same]
    places = {one.place for one in wrong}
    alike = [name for name in parts if any(_holds(name, place) or _holds(place, name) for place in places)]
    return [near or [site], [name for name in alike if type(parts[name]) is kind]]


def _in_any(module: str) -> str:
    """The same module in any layer, and of any of several alike."""
    return re.sub(r"\.\d+(?=\.|$)", ".{n}", module)


def _holds(holder: str, module: str) -> bool:
    return f"{module}.".startswith(f"{holder}.")


def _repairs(comparison: Comparison, first: Finding, original: Decoder) -> Iterator[Iterator[Repair]]:
    """What can be exchanged at a place, or in what it holds; the likelier kinds of repairs first."""
    model, place = comparison.clean, first.place
    top = "" if place == DECODER else place
    held = [name for name, _ in model.named_modules() if name == top or name.startswith(f"{top}.")]
    sites = [place, *(["finish"] if model.finish is not None else [])] if place == DECODER else held
    yield (repair for site in sites for repair in _of_class(model, site))
    yield _of_catalogue(model, place)
    yield (repair for site in sites for repair in _of_other_layers(original, site))
    for form in FORMS:
        yield (repair for site in sites for repair in _of_numbers(comparison, site, form))


def _of_catalogue(model: Decoder, place: str) -> Iterator[Repair]:
    """Faults: what is one in other models may be right in this one."""
    for fault in faults_for(model.architecture):
        if not fault.line and not fault.equivalent:
            for site in fault.sites(model):
                if fault.shows(site, place) and _number(site) in ("", _number(place)):
                    yield Repair(site, fault.faulty, fault.plant, fault)


def _of_class(model: Decoder, site: str) -> Iterator[Repair]:
    """The classes that a part's own is made of, the nearest first, then archport's others of that kind."""
    own = type(_part(model, site))
    family = [kind for kind in own.__mro__[1:] if issubclass(kind, nn.Module) and kind not in (nn.Module, layers.Block)]
    family = [kind for kind in family if not kind.__name__.startswith("_")]
    root = layers.Block if issubclass(own, layers.Block) else [own, *family][-1]
    others = [kind for kind in OURS if issubclass(kind, root) and kind is not layers.Block]
    for kind in dict.fromkeys([*family, *others]):
        if kind is not own:
            yield Repair(site, f"{kind.__name__} in the place of {own.__name__}", _becomes(kind), kind=kind)


def _becomes(kind: type[nn.Module]) -> Callable[[nn.Module], None]:
    def change(part: nn.Module) -> None:
        part.__class__ = kind

    return change


def _of_other_layers(model: Decoder, site: str) -> Iterator[Repair]:
    """Parts without weights, such as masks and rotary, that another layer has there: all of them, or one, or none."""
    every = dict(model.named_modules(remove_duplicate=False))
    layers = {number: every.get(_in_layer(site, number)) for number in map(str, range(len(model.blocks)))}
    if not _number(site):
        return
    there = {number: layer for number, layer in layers.items() if layer is not None}
    children = [child for layer in there.values() for child in layer.named_children()]
    names = list(dict.fromkeys(name for name, part in children if not _has_weights(part)))
    for number, layer in there.items():
        for some in dict.fromkeys([tuple(names), *((name,) for name in names)]):
            words = f"{' and '.join(some)} as in layer {number}"
            yield Repair(site, words, _sets(**{name: getattr(layer, name, None) for name in some}))
    yield from (Repair(site, f"no {name}", _sets(**{name: None})) for name in names)


def _has_weights(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())


def _of_numbers(comparison: Comparison, site: str, form: str) -> Iterator[Repair]:
    """Numbers of the reference, in one form of those that ports give them, for each number that the part has."""
    part = _part(comparison.clean, site)
    if type(part) in STRUCTURE:
        return
    found = numbers_of(comparison, site, part)
    for name, value in vars(part).items():
        plain = not name.startswith("_") and "dropout" not in name and name not in nn.Embedding.__constants__
        if plain and (value is None or is_number(value)):
            for number, source in in_form(form, found, like=value).items():
                words = f"{type(part).__name__}.{name} {number:.6g}, {source}, in the place of {value}"
                yield Repair(site, words, _sets(**{name: number}))


def _sets(**settings: object) -> Callable[[nn.Module], None]:
    def change(part: nn.Module) -> None:
        for name, value in settings.items():
            setattr(part, name, value)

    return change


def _part(model: Decoder, site: str) -> nn.Module:
    return model if site == DECODER else model.get_submodule(site)


def _number(module: str) -> str:
    """The number of the layer that a module is in; none outside of the blocks."""
    path = module.split(".")
    return path[1] if path[0] == "blocks" and len(path) > 1 else ""


def _in_layer(module: str, number: str) -> str:
    """The same module in another layer."""
    path = module.split(".")
    return ".".join([path[0], number, *path[2:]]) if _number(module) and number else module

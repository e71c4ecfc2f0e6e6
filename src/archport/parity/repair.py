"""What would put archport's own port right? One kind of part after another, with another class or another setting.

A bug in an architecture's own code is in every port that the code makes: there is no right one to plant faults in. So
parts are exchanged where the port differs, in each layer that does, for archport's own classes, for what the catalogue
knows, for the parts of other layers and for the reference's own numbers, until nothing differs any more.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .. import layers
from ..layers import Decoder
from .catalogue import faults_for
from .compare import Comparison
from .diagnose import Diagnosis
from .faults import Fault
from .locate import DECODER, LOOSE, Finding, Trace, findings, relative_error
from .reference_numbers import forms, numbers_of
from .running import RaisedError, run

STEPS = 4  # kinds of parts to exchange, each in as many layers as need it
STRUCTURE = (nn.Linear, nn.Embedding, nn.Dropout, nn.ModuleList)  # their settings are the shapes of weights


@dataclass(frozen=True)
class Repair:
    """One part of a port exchanged at `site`, and at the same one of other layers; `words` say for what.

    `fault` is that of the catalogue which, planted, makes what the reference makes.
    """

    site: str
    words: str
    change: Callable[[nn.Module], None]
    fault: Fault | None = None

    def made(self, model: Decoder, numbers: Sequence[str]) -> Decoder:
        """A copy of a model with the part exchanged in the layers of these numbers, sharing what it does not change."""
        shared = {} if self.fault else {id(one): one for one in model.parameters()}
        repaired = copy.deepcopy(model, shared)
        parts = {id(part): part for part in (_part(repaired, _in_layer(self.site, number)) for number in numbers)}
        for part in parts.values():  # each once, where layers share one
            if self.fault is None or self.fault.can_exist_in(part):
                self.change(part)
        return repaired


def repaired(comparison: Comparison, ids: Tensor) -> tuple[Comparison, list[Repair]] | None:
    """The comparison with a right port, and what put it right; None where nothing that is tried does."""
    steps: list[Repair] = []
    while True:
        model = comparison.clean
        reference = comparison.trace(model, ids)
        wrong = [one for one in findings(model, reference, ids) if one.differs]
        if not wrong:
            right = relative_error(run(model, ids), reference.outputs[DECODER]) <= LOOSE
            return (comparison, steps) if steps and right else None
        better = _best(comparison, reference, ids, wrong) if len(steps) < STEPS else None
        if better is None:
            return None
        comparison = comparison.beside(better[1])
        steps.append(better[0])


def mended_by(place: str, repairs: Sequence[Repair]) -> Diagnosis:
    """What is wrong at a place, said by what puts it right."""
    known = repairs[0].fault
    if known is not None:
        return Diagnosis(place, known, f"{place}: unlike here, in the reference {known.faulty}: see {known.see}")
    words = "; ".join(f"{repair.site}: {repair.words}" for repair in repairs)
    return Diagnosis(place, None, f"{place}: the reference's logits come out with {words}")


def _best(
    comparison: Comparison, reference: Trace, ids: Tensor, wrong: Sequence[Finding]
) -> tuple[Repair, Decoder] | None:
    """The repair after which the first difference is gone and the fewest are left, none of them new."""
    model, first = comparison.clean, wrong[0]
    ats = [one.at for one in wrong]
    layer = _number(first.module)
    numbers = [_number(one.module) for one in wrong if (_in_layer(one.module, layer), *one.at[1:]) == first.at]
    fewest, best = len(wrong), None
    for repair in _repairs(comparison, first):
        try:
            guess = repair.made(model, numbers)
            at = [one.at for one in findings(guess, reference, ids, until=lambda one: one.differs) if one.differs]
            if at and at[0] in ats[1:]:
                at = [one.at for one in findings(guess, reference, ids) if one.differs]
        except (RaisedError, AttributeError, TypeError, RuntimeError):  # a class or number that does not fit there
            continue
        if not at:
            return repair, guess
        if first.at not in at and set(at) < set(ats) and len(at) < fewest:
            fewest, best = len(at), (repair, guess)
    return best


def _repairs(comparison: Comparison, first: Finding) -> Iterator[Repair]:
    """What can be exchanged at a place, or in what it holds."""
    model, place = comparison.clean, first.place
    top = "" if place == DECODER else place
    held = [name for name, _ in model.named_modules() if name == top or name.startswith(f"{top}.")]
    sites = [place, *(["finish"] if model.finish is not None else [])] if place == DECODER else held
    for site in sites:
        yield from _of_class(model, site)
    for fault in faults_for(model.architecture):
        if not fault.line and not fault.equivalent:
            for site in fault.sites(model):
                if fault.shows(site, place) and _number(site) in ("", _number(place)):
                    yield Repair(site, fault.faulty, fault.plant, fault)
    for site in sites:
        yield from _of_other_layers(model, site)
    for site in sites:
        yield from _of_numbers(comparison, site)


def _of_class(model: Decoder, site: str) -> Iterator[Repair]:
    """archport's own classes of this kind, or torch's, the nearest ancestors first."""
    own = type(_part(model, site))
    ours = [kind for name in layers.__all__ if isinstance(kind := getattr(layers, name), type)]
    family = [kind for kind in own.__mro__[1:] if kind in ours or kind.__module__.startswith("torch.nn.modules.")]
    family = [kind for kind in family if kind not in (nn.Module, layers.Block)]
    roots = (family[-1] if family else own, layers.Block) if issubclass(own, layers.Block) else tuple(family[-1:] or [own])
    for kind in dict.fromkeys([*family, *(kind for kind in ours if issubclass(kind, roots) and kind not in roots)]):
        if kind is not own:
            yield Repair(site, f"{kind.__name__} in the place of {own.__name__}", _becomes(kind))


def _becomes(kind: type[nn.Module]) -> Callable[[nn.Module], None]:
    def change(part: nn.Module) -> None:
        part.__class__ = kind

    return change


def _of_other_layers(model: Decoder, site: str) -> Iterator[Repair]:
    """Parts without weights that another layer has there, or none."""
    number = _number(site)
    if not number:
        return
    for name, part in _part(model, site)._modules.items():
        if part is not None and any(True for _ in part.parameters()):
            continue
        others = [_part(model, _in_layer(site, str(other)))._modules.get(name) for other in range(len(model.blocks))]
        for other in {id(one): one for one in [*others, None]}.values():
            if other is not part:
                yield Repair(site, f"{name} {other or 'none'} in the place of {part or 'none'}", _sets(name, other))


def _of_numbers(comparison: Comparison, site: str) -> Iterator[Repair]:
    """Numbers of the reference, in every form that ports give them, for each number that the part has."""
    part = _part(comparison.clean, site)
    if isinstance(part, STRUCTURE):
        return
    found = numbers_of(comparison, site, part)
    for name, value in vars(part).items():
        plain = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        if name.startswith("_") or not plain or "dropout" in name:
            continue
        for number, source in forms(found, value).items():
            words = f"{type(part).__name__}.{name} {number:.6g}, {source}, in the place of {value}"
            yield Repair(site, words, _sets(name, number))


def _sets(name: str, value: object) -> Callable[[nn.Module], None]:
    return lambda part: setattr(part, name, value)


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

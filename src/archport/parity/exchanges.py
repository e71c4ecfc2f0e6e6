"""What of a port can be exchanged at a place: classes, known faults, parts of other layers, the reference's numbers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .. import layers
from ..layers import Decoder
from .catalogue import CATALOGUE, own_faults
from .compare import Comparison
from .copying import copied
from .faults import Fault
from .locate import DECODER, Finding
from .reference_numbers import FORMS, in_form, is_number, numbers_of

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
        repaired = copied(model, () if self.fault else model.parameters())
        for part in {id(part): part for part in (part_at(repaired, site) for site in sites)}.values():  # each once
            if self.fault is None or self.fault.can_exist_in(part):
                self.change(part)
        return repaired


def repairs_at(comparison: Comparison, first: Finding, original: Decoder) -> Iterator[Iterator[Repair]]:
    """What can be exchanged at a place, or in what it holds; the likelier kinds of repairs first."""
    model, place = comparison.clean, first.place
    top = "" if place == DECODER else place
    held = [name for name, _ in model.named_modules() if name == top or name.startswith(f"{top}.")]
    sites = [place, *(["finish"] if model.finish is not None else [])] if place == DECODER else held
    # Where the reference adds the stream inside a branch, what is wrong with a block shows there.
    block = [f"blocks.{layer_number(place)}"] if place.count(".") > 1 and layer_number(place) else []
    yield _of_faults(own_faults(model.architecture), model, place)  # whose words are of this architecture
    yield (repair for site in (*sites, *block) for repair in of_class(model, site))
    yield _of_faults(CATALOGUE, model, place)
    yield (repair for site in sites for repair in _of_other_layers(original, site))
    for form in FORMS:
        yield (repair for site in sites for repair in _of_numbers(comparison, site, form))


def _of_faults(known: Iterable[Fault], model: Decoder, place: str) -> Iterator[Repair]:
    """Faults: what is one in other models may be right in this one."""
    for fault in known:
        if not fault.line and not fault.equivalent:
            for site in fault.sites(model):
                if fault.shows(site, place) and layer_number(site) in ("", layer_number(place)):
                    yield Repair(site, fault.faulty, fault.plant, fault)


def of_class(model: Decoder, site: str) -> Iterator[Repair]:
    """The classes that a part's own is made of, archport's first, of which faults are known, then its others."""
    own = type(part_at(model, site))
    family = [kind for kind in own.__mro__[1:] if issubclass(kind, nn.Module) and kind not in (nn.Module, layers.Block)]
    family = [kind for kind in family if not kind.__name__.startswith("_")]
    root = layers.Block if issubclass(own, layers.Block) else [own, *family][-1]
    family.sort(key=lambda kind: kind not in OURS)
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
    layers = {number: every.get(in_layer(site, number)) for number in map(str, range(len(model.blocks)))}
    if not layer_number(site):
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
    part = part_at(comparison.clean, site)
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


def part_at(model: Decoder, site: str) -> nn.Module:
    """The module at a site."""
    return model if site == DECODER else model.get_submodule(site)


def layer_number(module: str) -> str:
    """The number of the layer that a module is in; none outside of the blocks."""
    path = module.split(".")
    return path[1] if path[0] == "blocks" and len(path) > 1 else ""


def in_layer(module: str, number: str) -> str:
    """The same module in another layer."""
    path = module.split(".")
    return ".".join([path[0], number, *path[2:]]) if layer_number(module) and number else module

"""The kill table: every fault of the catalogue planted in a correct port: is it noticed, located, named?"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import isfunction

import torch
from torch import nn

from ..errors import MappingError, SourceError
from ..layers import Decoder
from ..port import DEMO, load
from ..registry import architecture, skeleton, under_its_model_type
from . import references
from .budget import Check
from .catalogue import faults_for
from .cause import find_cause
from .compare import Comparison
from .faults import Fault
from .ids import ids_for
from .lines import line, of_forward_passes
from .mistakes import MISTAKES
from .planting import planted_in_build, planted_in_port
from .tiny_models import loud_comparison

BUNDLED = "bundled"
Planted = Callable[[Fault, list[str], Decoder, Comparison], tuple[Decoder, list[str], Comparison] | None]
# They change nothing in a forward pass, or their settings are compared as they stand.
NO_PARTS = (nn.ModuleList, nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Kill:
    """What became of one fault at some sites of one model; `named` is the fault that verify named.

    One that was `refused` takes away a tensor, so that a checkpoint cannot be loaded: why, in a line.
    """

    fault: Fault
    model: str
    sites: tuple[str, ...]
    noticed: bool
    place: str | None = None
    named: str | None = None
    refused: str = ""

    @property
    def located(self) -> bool:
        """Whether verify pointed at a place where this fault shows."""
        return self.place is not None and any(self.fault.shows(site, self.place) for site in self.sites)

    @property
    def counts(self) -> bool:
        """Whether it is one to notice, locate and name."""
        return not self.fault.equivalent and not self.refused

    @property
    def right_name(self) -> bool:
        """Whether it was called by its name."""
        return self.named == self.fault.name


@dataclass(frozen=True)
class Coverage:
    """How many faults of a catalogue can exist in a model, and the parts that none of them touches, by their class."""

    model: str
    possible: int
    catalogue: int
    uncovered: tuple[str, ...]

    def __str__(self) -> str:
        parts = f"no fault covers: {', '.join(self.uncovered)}" if self.uncovered else "each part is covered by a fault"
        return f"{self.model}: {self.possible} of {self.catalogue} faults can exist here; {parts}"


@dataclass(frozen=True)
class KillTable:
    """What became of every fault that can exist in a model, and what they cover of it."""

    kills: tuple[Kill, ...]
    coverage: Coverage


def kill_table(model: str, *, in_build: bool = False) -> KillTable:
    """Plant every fault that can exist in a model: an architecture's tiny loud one, or the bundled checkpoint.

    A fault that only a variant of an architecture can have is planted in the first that can. With `in_build` it is
    planted in the architecture's own code, so that every port which that makes has it; faults of weights cannot be.
    """
    if model == BUNDLED:
        return _table(model, bundled_comparison(), in_build=in_build)
    with under_its_model_type(architecture(model)) as known:
        return _table(known, _tiny_comparison(known), in_build=in_build)


def _table(model: str, comparison: Comparison, *, in_build: bool) -> KillTable:
    """The kill table of a model, the bundled checkpoint or an architecture's tiny loud one."""
    port = _right_port(model, comparison)
    faults = faults_for(port.architecture)
    plant = planted_in_build if in_build else planted_in_port
    kills = list(_kills(model, port, faults, comparison, plant))
    beside = [] if in_build else list(_kills_beside(model, port, comparison))
    arch = architecture(port.architecture)
    tried = {fault.name for fault in faults if fault.sites(port)}
    for variant, sizes in {} if model == BUNDLED else references.variants(arch).items():
        shape = skeleton(arch, arch.config_class(**sizes))
        if left := [fault for fault in faults if fault.name not in tried and fault.sites(shape)]:
            tried |= {fault.name for fault in left}
            comparison = loud_comparison(arch.name, sizes)
            kills += _kills(variant, _right_port(variant, comparison), left, comparison, plant)
    covered = replace(coverage(model, port, faults), possible=len(kills))
    return KillTable((*kills, *beside), covered)


def _right_port(name: str, comparison: Comparison) -> Decoder:
    port = comparison.port_of(comparison.reference)
    checks = list(of_forward_passes(comparison, port))
    if (wrong := find_cause(comparison, port, checks)) or not all(check.ok for check in checks):
        words = f": {wrong.words}" if wrong else ""
        raise SourceError(f"{name}: the port differs from the reference before a fault is planted: verify it{words}")
    return port


def _kills(
    model: str, port: Decoder, faults: Sequence[Fault], comparison: Comparison, planted: Planted
) -> Iterator[Kill]:
    for fault in faults:
        sites = fault.sites(port)
        if not sites:
            continue
        try:
            made = planted(fault, sites, port, comparison)
        except MappingError as error:
            yield Kill(fault, model, tuple(sites), noticed=True, refused=error.faults[0])
            continue
        if made is None:
            continue
        faulty, sites, held = made
        checks = [*of_forward_passes(held, faulty), *line(fault.line, held, faulty)]
        if not fault.line or any(check.name == fault.line for check in checks):  # else nothing here can show it
            yield _kill(fault, model, tuple(sites), held, faulty, checks)


def _kills_beside(model: str, port: Decoder, comparison: Comparison) -> Iterator[Kill]:
    """What becomes of mistakes in archport's code beside the model."""
    for mistake in MISTAKES:
        with mistake.made():
            checks = line(mistake.fault.line, comparison, port)
            yield _kill(mistake.fault, model, (mistake.place,), comparison, port, checks)


def _kill(
    fault: Fault, model: str, sites: tuple[str, ...], held: Comparison, faulty: Decoder, checks: Sequence[Check]
) -> Kill:
    diagnosis = find_cause(held, faulty, checks)
    noticed = diagnosis is not None or not all(check.ok for check in checks)
    place = diagnosis.place if diagnosis else None
    name = diagnosis.fault.name if diagnosis and diagnosis.fault else None
    return Kill(fault, model, sites, noticed, place, name)


def coverage(name: str, port: Decoder, faults: Sequence[Fault]) -> Coverage:
    """Which faults can exist in a port, and which of its parts have none.

    What torch provides, as an activation, is covered with the part of archport's that holds it.
    """
    possible = [(fault, sites) for fault in faults if (sites := fault.sites(port))]
    covered = {site for fault, sites in possible if not fault.equivalent for site in sites} | {"", "blocks"}
    own_kinds = {kind for fault, _ in possible for kind in fault.classes}
    uncovered: dict[str, list[str]] = {}
    for path, module in port.named_modules():
        if path in covered and type(module) not in own_kinds and (steps := _own_steps(type(module))):
            uncovered.setdefault(f"{type(module).__name__}'s own {', '.join(steps)}", []).append(path)
        of_torch = type(module).__module__.startswith("torch.")
        holder = path.rpartition(".")[0]
        if path in covered or isinstance(module, NO_PARTS) or (of_torch and holder in covered and holder):
            continue
        uncovered.setdefault(type(module).__name__, []).append(path)
    return Coverage(name, len(possible), len(faults), tuple(_in_short(*one) for one in uncovered.items()))


def _own_steps(kind: type[nn.Module]) -> list[str]:
    """The methods of a class, and of those between it and archport's or torch's, that no fault knows."""
    known = next(at for at, one in enumerate(kind.__mro__) if one.__module__.partition(".")[0] in ("archport", "torch"))
    methods = {name for one in kind.__mro__[:known] for name, value in vars(one).items() if isfunction(value)}
    return sorted(name for name in methods if not name.startswith("_") and name != "extra_repr")


def _in_any_layer(path: str) -> str:
    return re.sub(r"\.\d+\.", ".{n}.", f".{path}.").strip(".")


def _in_short(kind: str, paths: list[str]) -> str:
    """A class and where it is: in every layer, or how often."""
    places = dict.fromkeys(map(_in_any_layer, paths))
    return f"{kind} ({next(iter(places))})" if len(places) == 1 else f"{kind} ({len(paths)} of them)"


def bundled_comparison() -> Comparison:
    """The bundled checkpoint in float32."""
    port = load(dtype=torch.float32)
    return Comparison(references.of_folder(DEMO, torch.float32, "eager"), ids_for(port, DEMO))


def _tiny_comparison(name: str) -> Comparison:
    arch = architecture(name)
    return loud_comparison(arch.name, references.variants(arch)[arch.name])


def kill_counts(*tables: KillTable) -> dict[str, int]:
    """How many faults were planted, without equivalent ones, and how many of these were noticed, located and named."""
    kills = [kill for table in tables for kill in table.kills if kill.counts]
    return {
        "planted": len(kills),
        "noticed": sum(kill.noticed for kill in kills),
        "located": sum(kill.located for kill in kills),
        "named": sum(kill.right_name for kill in kills),
    }


def kill_score(tables: Sequence[KillTable]) -> str:
    """The sums in a line, without equivalent faults, then how much of each model they speak of."""
    planted, *good = kill_counts(*tables).items()
    total = planted[1]
    shares = [f"{count} of {total} {word} ({count / max(1, total):.1%})" for word, count in good]
    kills = [kill for table in tables for kill in table.kills]
    others = {
        "equivalent": sum(bool(kill.fault.equivalent) for kill in kills),
        "refused when a checkpoint is loaded": sum(bool(kill.refused) for kill in kills),
    }
    sums = ", ".join(shares) + "".join(f"; {count} {word}" for word, count in others.items() if count)
    return "\n".join([sums, *(str(table.coverage) for table in tables)])


def _site(kill: Kill) -> str:
    """Where it was planted: the site, or the sites of all layers in one."""
    places = dict.fromkeys(_in_any_layer(site) for site in kill.sites)
    return kill.sites[0] if len(kill.sites) == 1 else ", ".join(places)


def row(kill: Kill) -> dict[str, str]:
    """One line of the table."""
    yes = {True: "yes", False: "NO"}
    if kill.refused:
        verdict = {"noticed": "refused", "located": "-", "named": kill.refused}
    elif kill.fault.equivalent:
        verdict = {"noticed": "equivalent", "located": "-", "named": kill.fault.equivalent}
    else:
        named = "yes" if kill.right_name else f"NO: {kill.named}"
        verdict = {"noticed": yes[kill.noticed], "located": yes[kill.located], "named": named}
    planted = {"planted in": _site(kill), "part": " or ".join(kind.__name__ for kind in kill.fault.classes)}
    return {"fault": kill.fault.name, "model": kill.model} | planted | verdict

"""The kill table: every fault of the catalogue planted in a correct port: is it noticed, located, named?"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..port import DEMO, load
from . import references
from .compare import Comparison
from .faults import CATALOGUE, Fault
from .verifying import explain, ids_for, loud_comparison

BUNDLED = "bundled"


@dataclass(frozen=True)
class Kill:
    """What became of one fault in one model; `named` is the fault that verify named."""

    fault: Fault
    model: str
    site: str
    noticed: bool
    place: str | None
    named: str | None

    @property
    def located(self) -> bool:
        """Whether verify pointed at a place where this fault shows."""
        return self.place is not None and self.fault.shows(self.site, self.place)

    @property
    def right_name(self) -> bool:
        """Whether it was called by its name."""
        return self.named == self.fault.name


def kill_table(model: str) -> Iterator[Kill]:
    """Plant every fault that can exist in a model: an architecture's tiny loud one, or the bundled checkpoint."""
    comparison = (
        bundled_comparison() if model == BUNDLED else loud_comparison(model, next(references.variants(model))[1])
    )
    port = comparison.port_of(comparison.reference)
    for fault in CATALOGUE:
        sites = fault.sites(port)
        if not sites:
            continue
        site = sites[len(sites) // 2]
        faulty = copy.deepcopy(port)
        fault.plant(faulty, site)
        checks = [*comparison.logits(faulty), comparison.cached(faulty), comparison.padded(faulty)]
        said = explain(comparison, faulty, checks)
        noticed = said is not None or not all(check.ok for check in checks)
        place, name = (said.place, said.fault.name if said.fault else None) if said else (None, None)
        yield Kill(fault, model, site, noticed, place, name)


def bundled_comparison() -> Comparison:
    """The bundled checkpoint in float32."""
    port = load(dtype=torch.float32)
    return Comparison(references.of_folder(DEMO, torch.float32, "eager"), ids_for(port, DEMO))


def score(kills: list[Kill]) -> str:
    """The sums in a line: equivalent faults are not counted."""
    counted = [kill for kill in kills if not kill.fault.equivalent]
    shares = [
        f"{sum(good)} of {len(counted)} {word} ({sum(good) / len(counted):.1%})"
        for word, good in (
            ("noticed", [kill.noticed for kill in counted]),
            ("located", [kill.located for kill in counted]),
            ("named", [kill.right_name for kill in counted]),
        )
    ]
    same = len(kills) - len(counted)
    return ", ".join(shares) + (f"; {same} equivalent" if same else "")


def row(kill: Kill) -> dict[str, str]:
    """One line of the table."""
    yes = {True: "yes", False: "NO"}
    if kill.fault.equivalent:
        verdict = {"noticed": "equivalent", "located": "-", "named": kill.fault.equivalent}
    else:
        named = "yes" if kill.right_name else f"NO: {kill.named}"
        verdict = {"noticed": yes[kill.noticed], "located": yes[kill.located], "named": named}
    return {"fault": kill.fault.name, "model": kill.model, "planted in": kill.site} | verdict

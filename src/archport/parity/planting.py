"""Planting a fault: in one part of a right port, or in the code that makes ports, so that all of them have it."""

import copy
from dataclasses import replace

import torch

from ..layers import Decoder
from ..registry import architecture, standing_in
from .compare import Comparison
from .faults import Fault


def planted_in_port(
    fault: Fault, sites: list[str], port: Decoder, comparison: Comparison
) -> tuple[Decoder, list[str], Comparison]:
    """A port with a fault at one of the sites, and which that is."""
    site = sites[0 if fault.early else len(sites) // 2]
    faulty = copy.deepcopy(port)
    fault.plant_at(faulty, site)
    return faulty, [site], comparison


def planted_in_build(
    fault: Fault, sites: list[str], port: Decoder, comparison: Comparison
) -> tuple[Decoder, list[str], Comparison] | None:
    """A port whose architecture's `build` has the fault at all sites, beside a port that the same code makes.

    None for a fault of weights, which come from the checkpoint. Raises: MappingError where there is no loading it.
    """
    if changes_weights(fault, sites, port):
        return None
    right = architecture(port.architecture)

    def build(config: object) -> Decoder:
        model = right.build(config)
        for site in sites:
            fault.plant_at(model, site)
        return model

    with standing_in(replace(right, build=build)):
        faulty = comparison.port_of(comparison.reference)
    return faulty, sites, comparison.beside(copy.deepcopy(faulty).to(torch.float64))


def changes_weights(fault: Fault, sites: list[str], port: Decoder) -> bool:
    """Whether planting it gives any parameter other values, or its name to another, or freezes one."""
    faulty = copy.deepcopy(port)
    for site in sites:
        fault.plant_at(faulty, site)
    right = dict(port.named_parameters(remove_duplicate=False))
    own = dict(faulty.named_parameters(remove_duplicate=False))
    return any(
        name not in right or one.requires_grad != right[name].requires_grad or not torch.equal(one, right[name])
        for name, one in own.items()
    )

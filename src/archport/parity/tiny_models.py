"""Tiny loud models of every variant of an architecture, and whether its ports are the same models."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from ..errors import SourceError
from ..loading import to_device
from ..registry import Architecture, architecture, skeleton, under_its_model_type
from . import references
from .budget import precision
from .compare import Comparison
from .ids import ids_for
from .judging import compare
from .report import Report


def verify_architecture(
    name: str,
    *,
    dtype: torch.dtype | str = "float32",
    against: str = "eager",
    device: str | torch.device = "cpu",
    quick: bool = False,
) -> list[Report]:
    """Verify tiny loud models of every variant of an architecture. Raises: ConfigError, SourceError."""
    arch = architecture(name)
    unseen = tuple(references.never_varied(arch))
    reports = []
    with under_its_model_type(arch) as known:
        for variant, sizes in references.variants(arch).items():
            comparison = loud_comparison(
                known, sizes, dtype=precision(dtype), against=against, device=to_device(device)
            )
            report = compare(comparison.port_of(comparison.reference), comparison, variant, quick=quick)
            reports.append(replace(report, never_varied=unseen))
    return reports


def loud_comparison(
    name: str,
    sizes: dict[str, object],
    *,
    dtype: torch.dtype = torch.float32,
    against: str = "eager",
    device: torch.device | str = "cpu",
) -> Comparison:
    """A tiny loud reference of these sizes, with dropout where it has any, ready to compare ports with."""
    arch = architecture(name)
    for given in references.with_dropout(arch, sizes):
        with suppress(SourceError):  # transformers takes no such rates for some
            return _loud(arch, given, dtype, against, device)
    return _loud(arch, sizes, dtype, against, device)


def _loud(
    arch: Architecture, sizes: dict[str, Any], dtype: torch.dtype, against: str, device: torch.device | str
) -> Comparison:
    port = skeleton(arch, arch.config_class(**sizes))
    reference = references.loud(arch, sizes, against).to(device)
    return Comparison(reference, ids_for(port, None, device), dtype)

"""A person's own module against a source or a transformers model, its rows given or found."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...config import dtype_name
from ...errors import MappingError, SourceError
from ...files.hub.access import HubAccess
from ...foreign.finding import found
from ...foreign.rows import Rows, unused
from ...foreign.running import Forward, require_forward
from ...foreign.searching import NO_ROWS
from ...foreign.sources import plan_of
from ...foreign.theirs import Theirs, unwrapped
from ...port import load
from ...registry import architecture
from ...translate.table import Cell
from .. import references
from ..compare import Comparison
from ..ids import ids_for
from ..report import Report
from .bugs import with_bugs
from .verifying import verify_module


def verify_own_module(
    module: nn.Module,
    reference: nn.Module | str | Path | None,
    rows: Mapping[str, Cell] | None,
    forward: Forward | None,
    *,
    dtype: torch.dtype,
    against: str,
    device: torch.device,
    how: dict[str, Any],
) -> Report:
    """Compare it by these rows, or by those that are found; `how` says how a source is opened.

    Raises: SourceError, MappingError.
    """
    require_forward(forward)
    name = type(unwrapped(module)).__name__
    comparison = _comparison(reference, dtype, against, device, how)
    if rows is None:
        planned = plan_of(reference, "auto", access=HubAccess(None, None, None), **how)
        try:
            rows = found(Theirs(module), planned, forward, bugs=with_bugs, spare=True)
        except MappingError as error:
            return Report(name, comparison.described, dtype_name(dtype), (), problems=(NO_ROWS, *error.faults))
    rows = rows if isinstance(rows, Rows) else Rows(rows)
    clean, arch = comparison.clean, architecture(comparison.clean.architecture)
    names = [name for name, _ in clean.named_parameters(remove_duplicate=False)]
    if extra := [*unused(rows, [*names, *arch.table.tied], arch, clean.config)]:
        raise MappingError(extra, f"rows of {name}", "nothing was compared")
    return verify_module(module, comparison, rows, forward)


def _comparison(
    reference: nn.Module | str | Path | None,
    dtype: torch.dtype,
    against: str,
    device: torch.device,
    how: dict[str, Any],
) -> Comparison:
    """A reference to hold a person's module against: a source, or a transformers model. Raises: SourceError."""
    if reference is None:
        raise SourceError("found no reference, expected the checkpoint or the transformers model that yours is to be")
    if isinstance(reference, nn.Module):
        references.require_reference(reference)
        port, folder = None, None
    else:
        port = load(reference, **how)
        folder, variant = (port.origin.folder, port.origin.variant) if port.origin else (None, None)
        if folder is None or (port.origin is not None and port.origin.alone):
            reference = references.of_tensors(port, dtype, against)
        else:
            reference = references.of_folder(folder, dtype, against, variant)
    comparison = Comparison(copy.deepcopy(reference).to(device), {"": torch.zeros(1, 1, dtype=torch.long)}, dtype)
    comparison.ids = ids_for(port or comparison.clean, folder, device)
    return comparison

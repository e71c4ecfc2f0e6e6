"""Verify a person's own class by its name: made at the right sizes, filled where it holds nothing, then compared."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ..config import DecoderConfig, dtype_name
from ..dtypes import to_dtype
from ..errors import ConfigError, MappingError
from ..files.hub.access import HubAccess
from ..foreign.filling import fill
from ..foreign.finding import found, holds
from ..foreign.importing import made
from ..foreign.rows import Rows
from ..foreign.running import Forward, require_forward
from ..foreign.searching import NO_ROWS
from ..foreign.sizes import Sizes
from ..foreign.sources import plan_of
from ..foreign.theirs import Theirs
from ..foreign.tiny import tiny
from ..keywords import strict_keywords
from ..registry import Architecture, architecture
from ..translate.table import Cell
from . import references
from .foreign.bugs import with_bugs
from .report import Report
from .verifying import verify

LOADING = "your own loading of weights, as the module held none of the checkpoint's and was filled by its rows"


@strict_keywords
def verify_by_name(
    name: str,
    source: str | Path | None = None,
    *,
    like: str | None = None,
    rows: Mapping[str, Cell] | None = None,
    forward: Forward | None = None,
    dtype: torch.dtype | str = "float32",
    against: str = "eager",
    device: str | torch.device = "cpu",
    **options: Any,
) -> Report:
    """Verify what a class or function makes, as my_model.py:GPT, against a checkpoint, or a tiny loud model.

    It is made at the sizes of `source`, and filled where it holds none of its weights. Without a source it is held
    against a model like the architecture `like`, of the sizes that are tested there. `options` are `load`'s.

    Raises: ConfigError where `like` is missing or another architecture than the source's, and what `verify` and `fill`
    raise.
    """
    require_forward(forward)
    rows = None if rows is None else Rows(rows)
    how: dict[str, Any] = {"forward": forward, "dtype": dtype, "against": against, "device": device}
    try:
        if source is None:
            return _of_architecture(name, architecture(str(like)), rows, how)
        return _of_source(name, source, like, rows, how, options)
    except MappingError as error:
        if rows is not None:
            raise
        return Report(name, "transformers", dtype_name(to_dtype(dtype)), (), problems=(NO_ROWS, *error.faults))


def _of_source(
    name: str, source: str | Path, like: str | None, rows: Rows | None, how: dict[str, Any], options: dict[str, Any]
) -> Report:
    """Against a checkpoint, at its sizes."""
    opened: dict[str, Any] = {"revision": None, "offline": False} | options
    planned = plan_of(source, "auto", access=HubAccess(None, None, None), **opened)
    arch = planned.architecture
    if like is not None and architecture(like).name != arch.name:
        raise ConfigError({"model_type": f"found {arch.name!r}, expected {architecture(like).name!r}"}, str(source))
    module = made(name, Sizes(arch, planned.config)).eval()
    chosen = rows if rows is not None else found(Theirs(module), planned, how["forward"], bugs=with_bugs)
    held = holds(Theirs(module), planned, chosen)
    if not held:
        fill(module, source, dict(chosen), **options)
    report = verify(module, source, rows=chosen, **how, **options)
    return _with_doubts(report if held else replace(report, not_run=(*report.not_run, LOADING)), chosen)


def _of_architecture(name: str, arch: Architecture, rows: Mapping[str, Cell] | None, how: dict[str, Any]) -> Report:
    """Against a tiny loud model, at the sizes of the tests; those that its code never asks for are in the verdict."""
    one = tiny(name, arch, how["forward"], rows, with_bugs)
    reference = references.loud(arch, _given(one.config), how["against"])
    fill(one.module, reference, dict(one.rows))
    report = verify(one.module.eval(), reference, rows=one.rows, **how)
    own = {field: getattr(one.config, field) for field in one.fixed}
    where = tuple(f"{field} is {value}" for field, value in own.items() if value is not None)
    if one.refused:
        refused = f"at the sizes that it asks for it has no rows, these lines are of plainer ones: {one.refused}"
        report = replace(report, problems=(*report.problems, refused))
    return _with_doubts(replace(report, never_varied=one.fixed, where=where), one.rows)


def _with_doubts(report: Report, rows: Mapping[str, Cell]) -> Report:
    """The report, which says of which parts the rows are only the likeliest, unless its logits have proven them."""
    parts = [line.partition(":")[0] for line in getattr(rows, "unsettled", ()) if line.startswith(("blocks", "embed"))]
    if report.ok or not parts:
        return report
    doubt = f"other rows than the likeliest for {', '.join(parts)} (archport rows prints what else fits)"
    return replace(report, not_run=(*report.not_run, doubt))


def _given(config: DecoderConfig) -> dict[str, Any]:
    """The fields of a config that do not follow the others."""
    return {one.name: getattr(config, one.name) for one in fields(config) if one.init and not config.follows(one.name)}

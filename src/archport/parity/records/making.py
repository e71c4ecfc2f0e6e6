"""Verify, and say in a record what the verdict rests on."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from inspect import getattr_static
from pathlib import Path
from typing import Any

from ...config import DecoderConfig, Derived
from ...port import plan
from ...registry import Architecture, architecture
from ..by_block import verify_by_block
from ..references import left_at_default, never_varied
from ..report import Report
from ..tiny_models import verify_architecture
from ..verifying import verify
from . import fingerprints
from .record import Record

LIBRARIES = ("archport", "torch", "transformers")


def verified(
    source: str | Path | None, settings: Mapping[str, Any], *, of_architecture: bool = False, **options: Any
) -> list[Report]:
    """The reports of a checkpoint opened with `load`'s options, or of every variant of an architecture.

    `settings` are a record's. Raises: as `verify` does.
    """
    how = dict(settings)
    packed, by_block = how.pop("packed", False), how.pop("by_block", False)
    if of_architecture:
        return verify_architecture(str(source), **how)
    if by_block:
        return [verify_by_block(source, dtype=how["dtype"], **options)]
    return [verify(source, packed=packed, **how, **options)]


def made(
    source: str | Path | None,
    settings: Mapping[str, Any],
    reports: Sequence[Report],
    *,
    of_architecture: bool = False,
    **options: Any,
) -> Record:
    """The record of what `verified` gave for the same arguments. Raises: as `plan` does."""
    if of_architecture:
        arch = architecture(str(source))
        named: dict[str, Any] = {"name": arch.name}
        files: dict[str, str] = {}
        not_varied = never_varied(arch)
    else:
        planned = plan(source, headers_only=False, **{**options, "offline": True})  # what verify has just read
        arch, origin = architecture(planned.architecture.name), planned.checkpoint.origin
        named = {"name": origin.name, "revision": origin.revision, "commit": origin.commit, **origin.how}
        files = fingerprints.of_files(planned.checkpoint)
        not_varied = left_at_default(arch, [_given(planned.config)])
    return Record(
        of="architecture" if of_architecture else "checkpoint",
        source=named,
        architecture=arch.name,
        files=files,
        code=code_of(arch, sizes=of_architecture),
        versions=versions(),
        settings=dict(settings),
        not_varied=not_varied,
        reports=[report.to_dict() for report in reports],
    )


def code_of(arch: Architecture, *, sizes: bool) -> dict[str, str]:
    """The hashes of what of our code a record speaks of."""
    of = {"table": fingerprints.of_table(arch), "model": fingerprints.of_code(arch)}
    return of | ({"sizes": fingerprints.of_sizes(arch)} if sizes else {})


def versions() -> dict[str, str]:
    """The releases at hand, whatever they are built for."""
    return {"python": platform.python_version(), **{name: version(name).partition("+")[0] for name in LIBRARIES}}


def _given(config: DecoderConfig) -> dict[str, Any]:
    """The fields of a config but those that follow from the others."""
    values = {one.name: getattr(config, one.name) for one in fields(config)}
    rules = {name: getattr_static(type(config), name, None) for name in values}
    return {
        name: value
        for name, value in values.items()
        if not (isinstance(rule := rules[name], Derived) and rule.rule(config) == value)
    }

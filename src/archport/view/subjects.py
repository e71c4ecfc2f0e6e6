"""What is looked at: an architecture at the sizes of an example, or a checkpoint by its config and headers alone."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import port
from ..config import DecoderConfig
from ..errors import AsideWarning, SourceError
from ..files.source import is_folder, source_named
from ..layers import Decoder
from ..load_plan import LoadPlan
from ..registry import Architecture, architecture, architectures, is_architecture, skeleton


@dataclass(frozen=True)
class Subject:
    """A model without its weights: of a checkpoint, which `plan` says how to read, or at the sizes of `like`."""

    name: str
    architecture: Architecture
    config: DecoderConfig
    plan: LoadPlan | None = None
    like: str | None = None

    @cached_property
    def model(self) -> Decoder:
        """Its modules on `meta`, each parameter of the type that the file holds."""
        model = skeleton(self.architecture, self.config)
        for step in self.plan.mapped if self.plan else ():
            parameter = model.get_parameter(step.name or "")
            parameter.data = parameter.data.to(step.file_dtype)
        return model

    @cached_property
    def modules(self) -> list[nn.Module]:
        """All of them, listed once: a description of each asks what there is elsewhere."""
        return [*self.model.modules()]

    @property
    def at_hand(self) -> bool:
        """Whether its weights are on this machine, to be read."""
        return self.plan is not None and bool(self.plan.checkpoint.files)

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are, or would be."""
        return self.plan.dtype if self.plan else torch.float32


def names_architecture(source: str | Path | None) -> bool:
    """Whether a source is taken for an architecture: by its name, where no folder has that; where one has, says so."""
    if not isinstance(source, str) or not is_architecture(source):
        return False
    if is_folder(source):
        warnings.warn(AsideWarning(f"{source}: took the folder here, not the architecture of that name"), stacklevel=3)
        return False
    return True


def subject(
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    offline: bool = False,
    headers_only: bool = True,
    variant: str | None = None,
    follow_links: bool = False,
) -> Subject:
    """A folder, a Hub id, as NAME or NAME@step3000, or an architecture; without one, what ships with archport."""
    named = isinstance(source, str) and not is_folder(source)
    if names_architecture(source):
        arch = architecture(str(source))
        like, sizes = arch.example()
        return Subject(arch.name, arch, arch.config_class(**sizes), like=like)
    source = source_named(source)
    if named and source is not None and revision is None:
        source, _, at = str(source).partition("@")
        revision = at or None
    try:
        how: dict[str, Any] = {"offline": offline, "variant": variant, "follow_links": follow_links}
        plan = port.plan(source, revision=revision, headers_only=headers_only, **how)
    except SourceError as error:
        if not isinstance(source, str) or "/" in source:
            raise
        known = ", ".join(architectures())
        raise SourceError(f"{error}; {source} is no architecture either: these are {known}") from None
    origin = plan.checkpoint.origin
    name = f"{origin.name}@{origin.revision}" if origin.revision else origin.name
    return Subject(name, plan.architecture, plan.config, plan)

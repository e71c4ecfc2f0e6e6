"""Which architecture a checkpoint without a model_type is of: the only one that its config and its tensors fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from .errors import ArchportError, ConfigError, MappingError
from .files.checkpoint import Checkpoint
from .registry import architecture, architectures

P = TypeVar("P")


def recognised(checkpoint: Checkpoint, plan: Callable[[Checkpoint], P]) -> P:
    """The plan of a checkpoint as the one architecture that it can be, which a note says.

    Among several, the one whose class the config names. Raises: ConfigError.
    """
    where = checkpoint.config_name
    listed = checkpoint.origin.hf.get("architectures")
    classes = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    fits: dict[str, P] = {}
    named: list[str] = []
    why = "fields and tensors fit none that archport builds"
    for name in architectures():
        hf = {**checkpoint.origin.hf, "model_type": name}
        note = f"{where}: model_type: missing, taken for {name}, which fields and tensors fit"
        origin = replace(checkpoint.origin, hf=hf)
        by_class = bool(classes & set(architecture(name).table.classes))
        try:
            fits[name] = plan(replace(checkpoint, origin=origin, notes=(*checkpoint.notes, note)))
        except ArchportError as error:
            why = f"as {name}, which architectures names: {_first(error)}" if by_class else why
        else:
            named += [name] if by_class else []
    if len(chosen := named or [*fits]) != 1:
        several = f"fields and tensors fit {', '.join(fits)}: add the right one"
        raise ConfigError({"model_type": f"missing, and {several if fits else why}"}, where)
    return fits[chosen[0]]


def _first(error: ArchportError) -> str:
    """The first of an error's faults."""
    if isinstance(error, ConfigError):
        return ": ".join(next(iter(error.faults.items())))
    return error.faults[0] if isinstance(error, MappingError) else str(error)

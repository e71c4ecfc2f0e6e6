"""Which architecture a checkpoint without a model_type is of: the only one that its config and its tensors fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from .errors import ArchportError, ConfigError
from .files.checkpoint import Checkpoint
from .registry import architecture, architectures

P = TypeVar("P")


def recognised(checkpoint: Checkpoint, plan: Callable[[Checkpoint], P]) -> P:
    """The plan of a checkpoint as the one architecture that it can be, which a note says.

    Among several, the one whose class the config names. Raises: ConfigError.
    """
    where = f"{checkpoint.origin.name}/config.json"
    fits: dict[str, P] = {}
    for name in architectures():
        hf = {**checkpoint.origin.hf, "model_type": name}
        note = f"{where}: model_type: missing, taken for {name}, which fields and tensors fit"
        origin = replace(checkpoint.origin, hf=hf)
        try:
            fits[name] = plan(replace(checkpoint, origin=origin, notes=(*checkpoint.notes, note)))
        except ArchportError:
            continue
    classes = checkpoint.origin.hf.get("architectures") or []
    named = [name for name in fits if set(classes) & set(architecture(name).table.classes)]
    if len(chosen := named or [*fits]) != 1:
        fit = (
            f"fields and tensors fit {', '.join(fits)}" if fits else "fields and tensors fit none that archport builds"
        )
        raise ConfigError({"model_type": f"missing, and {fit}: add the right one"}, where)
    return fits[chosen[0]]

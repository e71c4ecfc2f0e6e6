"""What a person's own module is filled with: a folder, a Hub id, or a transformers model in memory, planned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Origin
from ..errors import SourceError
from ..files.checkpoint import Checkpoint
from ..files.in_memory import InMemory
from ..files.source import open_source
from ..load_plan import LoadPlan, plan_checkpoint, settle_tie
from ..translate.tensors import import_tensor


def plan_of(
    source: str | Path | nn.Module | None, dtype: torch.dtype | str, *, revision: str | None, **options: Any
) -> LoadPlan:
    """What loading a source would do, with its head compared with its embedding where they are tied.

    `options` are those of `open_source`. Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    if isinstance(source, nn.Module):
        return settle_tie(plan_checkpoint(_in_memory(source), dtype))
    return settle_tie(plan_checkpoint(open_source(source, revision, headers_only=False, **options), dtype))


def weights_of(planned: LoadPlan) -> Callable[[str], Tensor]:
    """What reads our parameters of a plan one by one, where they lie in the file if they can be used there."""
    steps = {str(step.name): step for step in planned.mapped}
    tied, checkpoint = planned.architecture.table.tied, planned.checkpoint

    def weight(name: str) -> Tensor:
        step = steps[name if name in steps else tied[name]]
        ours, copies = import_tensor(step, planned.tensors.axes, checkpoint.read)
        for copy in copies:
            copy.target.copy_(copy.source)
        for copy in copies:  # of which some lie between others
            checkpoint.release(copy.source)
        return ours

    return weight


def _in_memory(model: Any) -> Checkpoint:
    """A transformers model as a checkpoint. Raises: SourceError for another module."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict") or not hasattr(config, "model_type"):
        kind = type(model).__name__
        raise SourceError(f"found a {kind} for a source, expected a folder, a Hub id or a transformers model")
    memory = InMemory(model.state_dict())
    origin = Origin(type(model).__name__, config.to_dict())
    return Checkpoint(origin, memory.headers, (), 0, dict.fromkeys(memory.headers, memory))

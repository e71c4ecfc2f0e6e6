"""What a load will do, known before any weight is read: from the config and the headers of the files."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from .config import DecoderConfig
from .dtypes import chosen, several
from .errors import UnsupportedError
from .files.checkpoint import Checkpoint
from .files.values import same_values
from .recognising import recognised
from .registry import Architecture, architecture, skeleton
from .translate.fields import config_notes, read_config, remote_code, require_language_model
from .translate.key_names import unwrapped
from .translate.planning import plan as plan_tensors
from .translate.quantised import require_plain
from .translate.steps import Plan, StepKind, TensorStep
from .translate.table import Table


@dataclass(frozen=True)
class LoadPlan:
    """What loading a source does, known before any weight is read.

    `tensors` says what happens to each tensor; its properties are this plan's too. `notes` are lines on what was left
    aside or taken for something else. `settled` says that a tied head has been compared with its embedding.
    """

    tensors: Plan
    architecture: Architecture
    config: DecoderConfig
    checkpoint: Checkpoint
    unknown_fields: tuple[str, ...]
    settled: bool = False
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[TensorStep, ...]:
        """One step a tensor."""
        return self.tensors.steps

    @property
    def mapped(self) -> list[TensorStep]:
        """The steps that make a parameter."""
        return self.tensors.mapped

    def of_kind(self, kind: StepKind | str) -> list[TensorStep]:
        """The steps of one kind."""
        return self.tensors.of_kind(kind)

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters become."""
        return self.tensors.dtype

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied head counted once."""
        return self.tensors.parameters

    @property
    def bytes_in_place(self) -> int:
        """Bytes used where they lie in the file, never copied."""
        return self.tensors.bytes_in_place

    @property
    def bytes_copied(self) -> int:
        """Bytes of parameters that get memory of their own."""
        return self.tensors.bytes_copied

    @property
    def peak_bytes(self) -> int:
        """The most memory that weights take at once, on one core."""
        return self.tensors.peak_bytes

    @property
    def key_table(self) -> list[dict[str, str]]:
        """A row a tensor: ours, its shape, theirs, how one becomes the other."""
        return self.tensors.key_table


def plan_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype | str, *, tied: bool | None = None) -> LoadPlan:
    """Read the config, build on meta, match the headers. `tied` goes before what the config says of the head."""
    if checkpoint.origin.hf.get("model_type") is None:
        return recognised(checkpoint, partial(plan_checkpoint, dtype=dtype, tied=tied))
    origin, hf = checkpoint.origin, checkpoint.origin.hf
    where = f"{origin.name}/config.json"
    try:
        arch = architecture(hf["model_type"])
    except UnsupportedError as error:
        raise UnsupportedError(error.faults | remote_code(hf), where) from None
    config, unknown = read_config(arch.table, arch.config_class, hf, where)
    require_plain(checkpoint.headers, checkpoint.weights_name)
    if tied is not None:
        config = replace(config, tied=tied)
    checkpoint = _unwrapped(checkpoint, arch.table)
    model = skeleton(arch, config)
    target = chosen(dtype, checkpoint)
    tensors = plan_tensors(arch.table, config, model, checkpoint.headers, dtype=target, where=origin.name)
    if not tensors.has_head:
        require_language_model(arch.table, hf, where)
    notes = [f"{where}: {note}" for note in config_notes(arch.table, config, hf)]
    notes += [f"{checkpoint.weights_name}: {note}" for note in (*tensors.notes, *several(tensors, checkpoint, dtype))]
    return LoadPlan(tensors, arch, config, checkpoint, unknown, notes=(*checkpoint.notes, *notes))


def _unwrapped(checkpoint: Checkpoint, table: Table) -> Checkpoint:
    """The checkpoint without what is around all names of its tensors."""
    names, taken_off = unwrapped(table, checkpoint.headers, checkpoint.origin.name)
    if not taken_off:
        return checkpoint
    said = " and ".join(map(repr, taken_off))
    return checkpoint.renamed(names, f"{checkpoint.weights_name}: {said} taken off the names of its tensors")


def settle_tie(plan: LoadPlan) -> LoadPlan:
    """The plan, for an untied model where the file holds a head of its own beside the embedding it should equal.

    Reads both and compares them, once: a settled plan is returned as it is.
    """
    read = plan.checkpoint.read
    for step in [] if plan.settled else plan.of_kind(StepKind.TIED):
        head = step.keys[0]
        embedding = next(s.keys[0] for s in plan.mapped if s.name == plan.architecture.table.tied[step.name or ""])
        if not same_values(read(head), read(embedding), plan.dtype):
            untied = plan_checkpoint(plan.checkpoint, plan.dtype, tied=False)
            said = f"config.json ties {head} to {embedding}, but they differ: loaded untied, as transformers 5 does"
            note = f"{plan.checkpoint.weights_name}: {said}"
            return replace(untied, settled=True, notes=(*plan.notes, note))
    return replace(plan, settled=True)

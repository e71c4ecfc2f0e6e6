"""What a load will do, known before any weight is read: from the config and the headers of the files."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .config import DecoderConfig
from .dtypes import chosen, several
from .errors import ConfigError, MappingError, UnsupportedError
from .files.checkpoint import Checkpoint
from .files.values import same_values
from .formats import Reading, in_another_format, in_another_library_s_names, readings
from .recognising import recognised
from .registry import Architecture, architecture, skeleton
from .translate.fields import config_notes, read_config, remote_code, require_language_model
from .translate.key_names import unwrapped
from .translate.layout import Layout
from .translate.planning import plan as plan_tensors
from .translate.quantised import require_plain
from .translate.steps import Plan, StepKind, TensorStep
from .translate.table import Table
from .translate.tensors import import_tensor


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
    if checkpoint.format is not None:
        return _of_format(checkpoint, dtype, tied)
    if checkpoint.origin.hf.get("model_type") is None:
        try:
            return recognised(checkpoint, partial(plan_checkpoint, dtype=dtype, tied=tied))
        except ConfigError as error:
            raise in_another_library_s_names(error, checkpoint) from None
    hf, where = checkpoint.origin.hf, checkpoint.config_name
    try:
        arch = architecture(hf["model_type"])
    except UnsupportedError as error:
        raise UnsupportedError(error.faults | remote_code(hf), where) from None
    config, unknown = read_config(arch.table, arch.config_class, hf, where)
    if tied is not None:
        config = replace(config, tied=tied)
    try:
        plan = _planned(checkpoint, arch, config, dtype)
    except MappingError as error:
        raise in_another_format(error, checkpoint, arch, config) from None
    if not plan.tensors.has_head:
        require_language_model(arch.table, hf, where)
    notes = [f"{where}: {note}" for note in config_notes(arch.table, config, hf)]
    return replace(plan, unknown_fields=unknown, notes=(*plan.checkpoint.notes, *notes, *plan.notes))


def _planned(
    checkpoint: Checkpoint, arch: Architecture, config: DecoderConfig, dtype: torch.dtype | str, **options: bool
) -> LoadPlan:
    """The plan for a config that is known. Its notes are those on the tensors."""
    require_plain(checkpoint.headers, checkpoint.weights_name)
    checkpoint = _unwrapped(checkpoint, arch.table)
    model, where = skeleton(arch, config), checkpoint.origin.name
    target = chosen(dtype, checkpoint)
    tensors = plan_tensors(arch.table, config, model, checkpoint.headers, dtype=target, where=where, **options)
    notes = (f"{checkpoint.weights_name}: {note}" for note in (*tensors.notes, *several(tensors, checkpoint, dtype)))
    return LoadPlan(tensors, arch, config, checkpoint, (), notes=tuple(notes))


def _of_format(checkpoint: Checkpoint, dtype: torch.dtype | str, tied: bool | None) -> LoadPlan:
    """The plan of a file in another library's format, as the first architecture that config and tensors fit."""
    errors: list[ConfigError | MappingError] = []
    for reading in readings(checkpoint, tied):
        if isinstance(reading, Reading):
            own = replace(checkpoint, origin=replace(checkpoint.origin, hf=reading.hf))
            try:
                plan = _planned(own, reading.architecture, reading.config, dtype, **reading.options)
            except ConfigError as error:
                errors.append(error)
            except MappingError as error:
                errors.append(_without_biases(own, reading, dtype) or error)
            else:
                return replace(
                    plan, unknown_fields=reading.unknown, notes=(*checkpoint.notes, *reading.notes, *plan.notes)
                )
        else:
            errors.append(reading)
    raise min(errors, key=lambda error: (isinstance(error, ConfigError), len(error.faults)))


def _without_biases(checkpoint: Checkpoint, reading: Reading, dtype: torch.dtype | str) -> MappingError | None:
    """The error for a file that has none of the biases that its config says, and all else."""
    field = reading.architecture.table.bias_field
    if field is None:
        return None
    try:
        plan = _planned(checkpoint, reading.architecture, reading.config, dtype, without_biases=True)
    except (ConfigError, MappingError):
        return None
    if any((step.name or "").endswith(".bias") and step.keys for step in plan.mapped):
        return None
    return MappingError([f"{field}: found True in its config and no biases: say False there"], checkpoint.origin.name)


def _unwrapped(checkpoint: Checkpoint, table: Table) -> Checkpoint:
    """The checkpoint without what is around all names of its tensors."""
    names, taken_off = unwrapped(table, checkpoint.headers, checkpoint.origin.name)
    if not taken_off:
        return checkpoint
    said = " and ".join(map(repr, taken_off))
    return checkpoint.renamed(names, f"{checkpoint.weights_name}: {said} taken off the names of its tensors")


def settle_tie(plan: LoadPlan) -> LoadPlan:
    """The plan, for an untied model where the file holds a head of its own beside the embedding it should equal.

    Reads both and compares them, once: a settled plan is returned as it is. Raises: MappingError for what a format has
    beside our parameters and that is not what it should be.
    """
    if not plan.settled:
        _check_spare(plan)
    for step in [] if plan.settled else plan.of_kind(StepKind.TIED):
        source = _step_of(plan, plan.architecture.table.tied[step.name or ""])
        head, embedding = step.keys[0], source.keys[0]
        if not _equal(plan, step, source):
            if step.name == "head.weight" and "tied" in plan.architecture.table.fixed:
                fault = f"{head}: found other numbers than in {embedding}, which this format ties it to"
                raise MappingError([fault], plan.checkpoint.origin.name)
            untied = plan_checkpoint(plan.checkpoint, plan.dtype, tied=False)
            if plan.checkpoint.format is not None:  # which has no field for it
                return replace(untied, settled=True)
            said = f"the config ties {head} to {embedding}, but they differ: loaded untied, as transformers 5 does"
            note = f"{plan.checkpoint.weights_name}: {said}"
            return replace(untied, settled=True, notes=(*plan.notes, note))
    return replace(plan, settled=True)


def _step_of(plan: LoadPlan, name: str) -> TensorStep:
    return next(step for step in plan.mapped if step.name == name)


def _equal(plan: LoadPlan, head: TensorStep, embedding: TensorStep) -> bool:
    """Whether a head that is not used equals the embedding, in our layout."""
    read, row = plan.checkpoint.read, plan.architecture.table.row(head.name or "", plan.config)
    if row.pattern is None:
        return same_values(read(head.keys[0]), read(embedding.keys[0]), plan.dtype)
    step = replace(head, shape=embedding.shape, dtype=plan.dtype, pattern=row.pattern)
    right = Layout(row, plan.tensors.axes).their_shape(head.keys[0], step.shape) == head.shape
    return right and same_values(made(plan, step), made(plan, embedding), plan.dtype)


def _check_spare(plan: LoadPlan) -> None:
    """Tensors that a model of ours has no place for are zeros, or repeat another. Raises: MappingError."""
    faults = []
    for step in plan.of_kind(StepKind.SPARE):
        other = plan.architecture.table.repeated(step.name or "")
        found = made(plan, step)
        if other is None and found.any():
            faults.append(
                f"{' and '.join(step.keys)}: found numbers, expected zeros: {plan.architecture.name} has none"
            )
        elif other is not None and not torch.equal(found, made(plan, (same := _step_of(plan, other)))):
            faults.append(f"{step.keys[0]}: found other numbers than in {same.keys[0]}, which it should repeat")
    if faults:
        raise MappingError(faults, plan.checkpoint.origin.name)


def made(plan: LoadPlan, step: TensorStep) -> Tensor:
    """The tensor that a step of a plan describes."""
    tensor, copies = import_tensor(step, plan.tensors.axes, plan.checkpoint.read)
    for copy in copies:
        copy.target.copy_(copy.source)
    return tensor

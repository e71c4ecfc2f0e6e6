"""What a load does: planned from config and headers, then executed, copying what must be copied on all cores."""

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .config import DecoderConfig
from .dtypes import chosen, several
from .dtypes import to_dtype as to_dtype
from .errors import AsideWarning, ConfigError, MappingError, NotFiniteWarning, UnsupportedError
from .fast.linears import swap
from .files.checkpoint import Checkpoint
from .files.memory import trim
from .files.values import is_finite, same_values
from .layers import Decoder
from .recognising import recognised
from .registry import Architecture, architecture, skeleton
from .translate.fields import config_notes, read_config, remote_code, require_language_model
from .translate.key_names import unwrapped
from .translate.planning import plan as plan_tensors
from .translate.quantised import require_plain
from .translate.steps import Plan, StepKind, TensorStep
from .translate.table import Table
from .translate.tensors import Copy, import_tensor


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


def execute(
    plan: LoadPlan,
    device: str | torch.device = "cpu",
    *,
    check_finite: bool = False,
    linears: str | None = None,
    progress: Callable[[Sequence[Copy]], Iterable[Copy]] = iter,
) -> Decoder:
    """Make the model that a plan describes, in eval mode; `progress` may watch the copies go by."""
    plan = settle_tie(plan)
    for note in plan.notes:
        warnings.warn(AsideWarning(note), stacklevel=3)
    model = _filled(plan, to_device(device), check_finite, progress)
    if linears is not None:
        in_file = {model.get_parameter(step.name or "").data_ptr() for step in plan.mapped if step.in_place}

        def release(weight: Tensor) -> None:
            if weight.data_ptr() in in_file:
                plan.checkpoint.release(weight)
            else:
                trim()

        swap(model, linears, release=release)
        trim()
    return model.eval()


def _filled(
    plan: LoadPlan,
    device: torch.device,
    check_finite: bool,
    progress: Callable[[Sequence[Copy]], Iterable[Copy]],
) -> Decoder:
    """The model with its weights."""
    where = plan.checkpoint.origin.name
    model = skeleton(plan.architecture, plan.config)
    with _without_garbage_collection():
        tensors, not_finite = _weights(plan, progress)
    if check_finite:
        not_finite |= {name: None for name, tensor in tensors.items() if not is_finite(tensor)}
    if not_finite:
        warnings.warn(NotFiniteWarning([name for name in tensors if name in not_finite], where), stacklevel=3)
    weights: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        # Two keys of a pickle may share memory; two parameters must not.
        weights[name] = tensor.to(device, copy=tensor.data_ptr() in addresses)
        addresses.add(tensor.data_ptr())
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie()
    values = [*model.named_parameters(), *model.named_buffers()]
    empty = [name for name, tensor in values if tensor.is_meta]
    if empty and device.type != "meta":
        raise MappingError([f"{name}: on meta, neither the file nor build gives it values" for name in empty], where)
    if any(buffer.device != device for buffer in model.buffers()):
        model.to(device)
    model.origin = plan.checkpoint.origin
    return model


def own_weight(plan: LoadPlan, step: TensorStep) -> Tensor:
    """The one parameter that a step of a plan describes, in memory of its own."""
    tensor, copies = import_tensor(step, plan.tensors.axes, partial(plan.checkpoint.read, own=True))
    for copy in copies:
        copy.target.copy_(copy.source)
    return tensor


def _weights(
    plan: LoadPlan, progress: Callable[[Sequence[Copy]], Iterable[Copy]]
) -> tuple[dict[str, Tensor], dict[str, None]]:
    """Every parameter by its name, and the names of those that were copied and are not finite."""
    tensors: dict[str, Tensor] = {}
    not_finite: dict[str, None] = {}
    # What is mapped can all be opened at once; of what is not, one tensor is read at a time.
    for steps in [plan.mapped] if plan.checkpoint.mapped else [[step] for step in plan.mapped]:
        copies: list[Copy] = []
        for step in steps:
            tensors[step.name or ""], pieces = import_tensor(step, plan.tensors.axes, plan.checkpoint.read)
            copies += pieces
        not_finite |= _copy_all(plan.checkpoint, copies, progress if plan.checkpoint.mapped else iter)
    return tensors, not_finite


def _copy_all(
    checkpoint: Checkpoint, copies: Sequence[Copy], progress: Callable[[Sequence[Copy]], Iterable[Copy]]
) -> dict[str, None]:
    """Make all copies on all cores, a piece each, and let each source go when its piece is copied.

    Returns the names of the parameters that are not finite.
    """
    inference = torch.is_inference_mode_enabled()  # each thread has a mode of its own

    def make(copy: Copy) -> bool:
        with torch.inference_mode(inference):
            copy.target.copy_(copy.source)
        checkpoint.release(copy.source)
        return is_finite(copy.target)

    if not copies:
        return {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        finite = [good for _, good in zip(progress(copies), pool.map(make, copies), strict=True)]
    return {copy.name or "": None for copy, good in zip(copies, finite, strict=True) if not good}


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Many tensors are made and none is garbage; searching through all of them again and again takes longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def to_device(name: str | torch.device) -> torch.device:
    """A device that can be used here. Raises: ConfigError."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError({"device": f"found {str(name)!r}, which cannot be used here: {reason}"}) from None

"""Making the model that a plan describes, copying what must be copied on all cores."""

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from .errors import AsideWarning, ConfigError, MappingError, NotFiniteWarning
from .fast.cpu import cores
from .fast.linears import swap
from .files.checkpoint import Checkpoint
from .files.memory import span, trim
from .files.values import is_finite
from .layers import Decoder
from .load_plan import LoadPlan, settle_tie
from .registry import skeleton
from .translate.steps import TensorStep
from .translate.tensors import Copy, import_tensor


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
    """Make all copies on all cores, a piece each, and let each source go when it is copied.

    Pieces that lie between others, as those of a head in rows of all heads, go with the last of their parameter.
    Returns the names of the parameters that are not finite.
    """
    inference = torch.is_inference_mode_enabled()  # each thread has a mode of its own
    between: dict[str | None, list[Tensor]] = {}
    for copy in copies:
        if span(copy.source) != copy.source.nbytes:
            between.setdefault(copy.name, []).append(copy.source)
    left, lock = {name: len(sources) for name, sources in between.items()}, Lock()

    def release(copy: Copy) -> None:
        if span(copy.source) == copy.source.nbytes:
            checkpoint.release(copy.source)
            return
        with lock:
            left[copy.name] -= 1
            last = not left[copy.name]
        for source in between[copy.name] if last else ():
            checkpoint.release(source)

    def make(copy: Copy) -> bool:
        with torch.inference_mode(inference):
            copy.target.copy_(copy.source.float() if _between_halves(copy) else copy.source)
        release(copy)
        return is_finite(copy.target)

    if not copies:
        return {}
    with ThreadPoolExecutor(max(cores(), torch.get_num_threads())) as pool:
        finite = [good for _, good in zip(progress(copies), pool.map(make, copies), strict=True)]
    return {copy.name or "": None for copy, good in zip(copies, finite, strict=True) if not good}


def _between_halves(copy: Copy) -> bool:
    """Whether it casts one half precision to the other, which torch does faster, and no differently, by float32."""
    return {copy.target.dtype, copy.source.dtype} == {torch.float16, torch.bfloat16}


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

"""What a load does: planned from config and headers, then carried out, copying what must be copied on all cores."""

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .config import DecoderConfig, dtype_name
from .errors import ConfigError, NotFiniteWarning, UnsupportedError
from .fast.linears import swap
from .files.checkpoint import Checkpoint
from .files.memory import trim
from .files.values import is_finite, same_bytes
from .layers import Decoder
from .registry import Architecture, architecture, skeleton
from .translate.fields import read_config
from .translate.tensors import Copy, Plan, TensorStep, import_tensor
from .translate.tensors import plan as plan_tensors

DTYPES = {dtype_name(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}


@dataclass(frozen=True)
class LoadPlan(Plan):
    """What loading a source does, known before any weight is read."""

    architecture: Architecture
    config: DecoderConfig
    checkpoint: Checkpoint
    unknown_fields: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied head counted once."""
        return sum(torch.Size(step.shape).numel() for step in self.mapped)


def plan_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype | str, *, tied: bool | None = None) -> LoadPlan:
    """Read the config, build on meta, match the headers. `tied` overrides what the config says of the head."""
    origin = checkpoint.origin
    if "model_type" not in origin.hf:
        raise ConfigError({"model_type": "missing"}, f"{origin.name}/config.json")
    where = f"{origin.name}/config.json"
    try:
        arch = architecture(origin.hf["model_type"])
    except UnsupportedError as error:
        raise UnsupportedError(error.faults, where) from None
    config, unknown = read_config(arch.table, arch.config_class, origin.hf, where)
    if tied is not None:
        config = replace(config, tied=tied)
    model = skeleton(arch, config)
    target = _dtype(dtype, checkpoint)
    tensors = plan_tensors(arch.table, config, model, checkpoint.headers, dtype=target, where=origin.name)
    return LoadPlan(tensors.steps, tensors.axes, target, arch, config, checkpoint, unknown)


def settle_tie(plan: LoadPlan) -> LoadPlan:
    """The plan, for an untied model where the file holds a head of its own beside the embedding it should equal."""
    read = plan.checkpoint.read
    for step in plan.of_kind("tied"):
        embedding = next(s.keys[0] for s in plan.mapped if s.name == plan.architecture.table.tied[step.name or ""])
        if not same_bytes(read(step.keys[0]), read(embedding)):
            return plan_checkpoint(plan.checkpoint, plan.dtype, tied=False)
    return plan


def carry_out(
    plan: LoadPlan,
    device: str | torch.device = "cpu",
    *,
    check_finite: bool = False,
    linears: str | None = None,
    progress: Callable[[Sequence[Copy]], Iterable[Copy]] = iter,
) -> Decoder:
    """Make the model that a plan describes, in eval mode; `progress` may watch the copies go by."""
    plan = settle_tie(plan)
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
    model = skeleton(plan.architecture, plan.config)
    with _without_garbage_collection():
        made, odd = _weights(plan, progress)
    if check_finite:
        odd |= {name: None for name, tensor in made.items() if not is_finite(tensor)}
    if odd:
        warnings.warn(
            NotFiniteWarning([name for name in made if name in odd], plan.checkpoint.origin.name), stacklevel=3
        )
    weights: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in made.items():
        # Two keys of a pickle may share memory; two parameters must not.
        weights[name] = tensor.to(device, copy=tensor.data_ptr() in addresses)
        addresses.add(tensor.data_ptr())
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie()
    model.origin = plan.checkpoint.origin
    return model


def own_weight(plan: LoadPlan, step: TensorStep) -> Tensor:
    """The one parameter that a step of a plan describes, in memory of its own."""
    tensor, copies = import_tensor(step, plan.axes, partial(plan.checkpoint.read, own=True))
    for copy in copies:
        copy.target.copy_(copy.source)
    return tensor


def _weights(
    plan: LoadPlan, progress: Callable[[Sequence[Copy]], Iterable[Copy]]
) -> tuple[dict[str, Tensor], dict[str, None]]:
    """Every parameter by its name, and the names of those that were copied and are not finite."""
    made: dict[str, Tensor] = {}
    odd: dict[str, None] = {}
    # What is mapped can all be opened at once; of what is not, one tensor is read at a time.
    for steps in [plan.mapped] if plan.checkpoint.mapped else [[step] for step in plan.mapped]:
        copies: list[Copy] = []
        for step in steps:
            made[step.name or ""], pieces = import_tensor(step, plan.axes, plan.checkpoint.read)
            copies += pieces
        odd |= _copy_all(plan.checkpoint, copies, progress if plan.checkpoint.mapped else iter)
    return made, odd


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


def _dtype(asked: torch.dtype | str, checkpoint: Checkpoint) -> torch.dtype:
    """What the weights become: what is asked for, else what the config says, else what most bytes of the file are."""
    hf = checkpoint.origin.hf
    said: torch.dtype | str | None = (hf.get("dtype") or hf.get("torch_dtype")) if asked == "auto" else asked
    if said is None:
        amounts: Counter[torch.dtype] = Counter()
        for header in checkpoint.headers.values():
            if header.dtype.is_floating_point:
                amounts[header.dtype] += header.bytes
        return amounts.most_common(1)[0][0] if amounts else torch.float32
    return to_dtype(said)


def to_dtype(name: torch.dtype | str) -> torch.dtype:
    """A floating-point type by its name. Raises: ConfigError."""
    dtype = name if isinstance(name, torch.dtype) else DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None or dtype not in DTYPES.values():
        raise ConfigError({"dtype": f"found {name!r}, expected {', '.join(DTYPES)}"})
    return dtype


def to_device(asked: str | torch.device) -> torch.device:
    """A device that can be used here. Raises: ConfigError."""
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError({"device": f"found {str(asked)!r}, which cannot be used here: {reason}"}) from None

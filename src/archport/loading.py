"""Making the model that a plan describes, copying what must be copied on all cores."""

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import torch
from torch import Tensor, nn

from .errors import AsideWarning, ConfigError, MappingError, NotFiniteWarning
from .fast.cpu import cores
from .fast.linears import linear_maps, stand_in_for, swap
from .files.checkpoint import Checkpoint
from .files.memory import span, trim
from .files.values import is_finite
from .layers import Decoder
from .load_plan import LoadPlan, settle_tie
from .registry import skeleton
from .translate.pieces import Piece, import_piece
from .translate.steps import TensorStep
from .translate.tensors import Copy, import_tensor

ROOM = 1 << 25  # bytes that may be freed before they are given back to the system, which takes its time


def execute(
    plan: LoadPlan,
    device: str | torch.device = "cpu",
    *,
    check_finite: bool = False,
    linears: str | None = None,
    progress: Callable[[Sequence[Copy]], Iterable[Copy]] = iter,
    cut: Callable[[Decoder], Mapping[str, Piece]] | None = None,
) -> Decoder:
    """Make the model that a plan describes, in eval mode; `progress` may watch the copies go by.

    `cut` makes of it, before it has weights, the part that this process is to have, and says which piece of each
    parameter that takes: no more is read.
    """
    plan, device = settle_tie(plan), to_device(device)
    for note in plan.notes:
        warnings.warn(AsideWarning(note), stacklevel=3)
    model = skeleton(plan.architecture, plan.config)
    pieces = {} if cut is None else cut(model)
    weights = _Weights(plan, check_finite, _taken_over(plan, model, linears, device), pieces)
    with _without_garbage_collection():
        _fill(model, weights.all(progress), device)
    later = {linear.weight for linear in weights.later}
    values = [*model.named_parameters(), *model.named_buffers()]
    if device.type != "meta":
        _require_values([name for name, value in values if value.is_meta and value not in later], plan)
    if any(buffer.device != device for buffer in model.buffers()):
        model.to(device)
    model.origin = plan.checkpoint.origin
    if linears is not None:
        swap(model, linears, held=weights.held)
        trim()
    if weights.not_finite:
        found = [step.name for step in plan.mapped if step.name in weights.not_finite]
        warnings.warn(NotFiniteWarning(found, plan.checkpoint.origin.name), stacklevel=3)
    return model.eval()


def _taken_over(
    plan: LoadPlan, model: Decoder, linears: str | None, device: torch.device
) -> dict[nn.Linear, TensorStep]:
    """Linear maps whose weights stand-ins will hold in a form of their own, and the step by which each is made then."""
    stand_in = stand_in_for(linears, plan.dtype, device) if linears is not None else ""
    if isinstance(stand_in, str) or not stand_in.copies:
        return {}
    steps = {step.name: step for step in plan.mapped}
    maps = linear_maps(model).items()
    return {linear: steps[f"{name}.weight"] for linear, names in maps for name in names if f"{name}.weight" in steps}


def _require_values(empty: Sequence[str], plan: LoadPlan) -> None:
    """Raises: MappingError where something stayed on meta."""
    if empty:
        words = [f"{name}: on meta, neither the file nor build gives it values" for name in empty]
        raise MappingError(words, plan.checkpoint.origin.name)


def _fill(model: Decoder, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Give a model its weights."""
    weights: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        # Two keys of a pickle may share memory; two parameters must not.
        weights[name] = tensor.to(device, copy=tensor.data_ptr() in addresses)
        addresses.add(tensor.data_ptr())
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie()


@dataclass
class _Weights:
    """The weights that a plan describes: all at once, but for those that are made later, one at a time."""

    plan: LoadPlan
    check_finite: bool
    later: dict[nn.Linear, TensorStep]
    cut: Mapping[str, Piece]
    not_finite: set[str] = field(default_factory=set)
    in_file: set[int] = field(default_factory=set)  # addresses
    freed: int = 0  # bytes since memory was given back to the system

    def all(self, progress: Callable[[Sequence[Copy]], Iterable[Copy]]) -> dict[str, Tensor]:
        """Every parameter by its name."""
        later = {step.name for step in self.later.values()}
        steps = [step for step in self.plan.mapped if step.name not in later]
        tensors: dict[str, Tensor] = {}
        # What is mapped can all be opened at once; of what is not, one tensor is read at a time.
        for some in [steps] if self.plan.checkpoint.mapped else [[step] for step in steps]:
            tensors |= self._made(some, progress if self.plan.checkpoint.mapped else iter)
        return tensors

    @contextmanager
    def held(self, linear: nn.Linear) -> Iterator[None]:
        """Give a linear map its weight, if that is made now, for as long as something takes it over."""
        if step := self.later.pop(linear, None):  # or the map would be kept, and with it the weight
            [weight] = self._made([step], iter).values()
            linear.weight = nn.Parameter(weight, requires_grad=False)
        weight = linear.weight.detach()
        yield
        if weight.data_ptr() in self.in_file:
            self.plan.checkpoint.release(weight)
        self.freed += weight.nbytes
        del weight
        if self.freed > ROOM:
            trim()
            self.freed = 0

    def _made(
        self, steps: Sequence[TensorStep], progress: Callable[[Sequence[Copy]], Iterable[Copy]]
    ) -> dict[str, Tensor]:
        """Some parameters; those that are not finite are remembered."""
        tensors: dict[str, Tensor] = {}
        copies: list[Copy] = []
        for step in steps:
            name = step.name or ""
            how = step, self.plan.tensors.axes, self.plan.checkpoint.read
            tensors[name], pieces = import_piece(*how, self.cut[name]) if name in self.cut else import_tensor(*how)
            copies += pieces
            if step.in_place and not pieces:
                self.in_file.add(tensors[name].data_ptr())
        self.not_finite |= _copy_all(self.plan.checkpoint, copies, progress)
        if self.check_finite:
            self.not_finite |= {name for name, tensor in tensors.items() if not is_finite(tensor)}
        return tensors


def own_weight(plan: LoadPlan, step: TensorStep) -> Tensor:
    """The one parameter that a step of a plan describes, in memory of its own."""
    tensor, copies = import_tensor(step, plan.tensors.axes, partial(plan.checkpoint.read, own=True))
    for copy in copies:
        copy.target.copy_(copy.source)
    return tensor


def _copy_all(
    checkpoint: Checkpoint, copies: Sequence[Copy], progress: Callable[[Sequence[Copy]], Iterable[Copy]]
) -> set[str]:
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
        return set()
    with ThreadPoolExecutor(max(cores(), torch.get_num_threads())) as pool:
        finite = [good for _, good in zip(progress(copies), pool.map(make, copies), strict=True)]
    return {copy.name or "" for copy, good in zip(copies, finite, strict=True) if not good}


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

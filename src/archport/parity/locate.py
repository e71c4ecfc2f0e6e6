"""Where do two models part? Each of our modules is fed the reference's input to its counterpart, and compared alone.

One forward pass of ours tells everything: before a module runs, what we would feed it is compared with what the
reference fed its counterpart, which shows faults of wiring; then it gets the reference's input, and its output is
compared, which shows faults of the module; then the reference's output goes on, so no fault hides behind another.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Decoder
from ..observing import hooked
from .counterparts import first_tensor, with_first_tensor
from .running import Stop, run

# Inside a float64 run the reference drops to float32 in places: for rotary tables, in some families for scores and
# softmax, in others for norms; and a port may. There it is allowed what the reference's own float32 is off by.
TIGHT, LOOSE, ALLOWANCE = 1e-10, 1e-5, 8
EPS = torch.finfo(torch.float32).eps
DECODER = "decoder"  # the model as a whole


@dataclass(frozen=True)
class Trace:
    """What went into and came out of each of the reference's modules in float64, by our name of it.

    `rounding` is how far each module in float32 is from that, given the same input, relative to its largest element;
    `attention` is always allowed a multiple of it, other modules where they are `loose`. Where the reference has
    `another_boundary`, its tensor is replaced by what a right port makes.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    rounding: Mapping[str, float]
    loose: frozenset[str] = frozenset()
    attention: frozenset[str] = frozenset()
    another_boundary: frozenset[str] = frozenset()

    def bound(self, module: str) -> float:
        """The relative error allowed to a module of ours."""
        attention = next((holder for holder in modules_around(module) if holder in self.attention), None)
        if attention is not None and attention in self.rounding:
            return max(LOOSE, ALLOWANCE * self.rounding[attention])
        # Where a weight is 1, float32 and what drops to it inside float64 are the same, and differ by nothing.
        return ALLOWANCE * max(EPS, self.rounding.get(module, 0.0)) if module in self.loose else TIGHT

    def loosened(self, modules: Iterable[str]) -> "Trace":
        """The same, with more modules allowed to drop to float32, and those that hold them."""
        more = {holder for module in modules for holder in modules_around(module)}
        return replace(self, loose=self.loose | more)

    def replaced(self, places: Iterable["Finding"]) -> "Trace":
        """The same, with what a port of ours is given and makes at some places."""
        changed: dict[str, dict[str, Tensor]] = {"input": {}, "output": {}}
        for place in places:
            changed[place.side][place.module] = place.ours
        inputs, outputs = {**self.inputs, **changed["input"]}, {**self.outputs, **changed["output"]}
        modules = self.another_boundary.union(*changed.values())
        return replace(self, inputs=inputs, outputs=outputs, another_boundary=modules)

    def of_reference(self) -> "Trace":
        """The same without those numbers that a port of ours made, which another port need not make."""
        inputs, outputs = (
            {name: one for name, one in kept.items() if name not in self.another_boundary}
            for kept in (self.inputs, self.outputs)
        )
        return replace(self, inputs=inputs, outputs=outputs)


@dataclass(frozen=True)
class Finding:
    """One place where ours was compared with the reference, everything before being the reference's own.

    `side` is input (what the module is fed: wiring) or output (what it makes of it), `call` counts how often it had
    run before; `error` is relative to the largest element of the reference's tensor.
    """

    module: str
    side: str
    call: int
    ours: Tensor
    theirs: Tensor
    error: float
    limit: float

    @property
    def differs(self) -> bool:
        """Whether it is further off than rounding explains; a NaN is."""
        return not self.error <= self.limit

    @property
    def at(self) -> tuple[str, str, int]:
        """Where it is, without the numbers."""
        return self.module, self.side, self.call

    @property
    def place(self) -> str:
        """The module whose code or weights are to blame: for a wrong input, the one that feeds it."""
        if self.side == "output":
            return self.module
        parent = self.module.rpartition(".")[0]
        return "embed" if self.module == "blocks.0" else DECODER if parent in ("", "blocks") else parent


@torch.no_grad()
def trace(reference: nn.Module, single: nn.Module, pairs: Mapping[str, str], ids: Tensor) -> Trace:
    """Run the reference and keep copies of what its modules took and gave, for it may change its tensors in place.

    `single` is the same model in float32.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    rounding: dict[str, float] = {}
    arguments: dict[str, Any] = {}
    modules, in_single = dict(reference.named_modules()), dict(single.named_modules())

    def before(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[name] = _copy(first_tensor(args or kwargs))
        arguments[name] = converted((args, kwargs), torch.float32)

    def after(name: str, _: nn.Module, __: Any, ___: Any, result: Any) -> None:
        outputs[name] = _copy(first_tensor(result))
        args, kwargs = arguments.pop(name)
        if _is_stream(outputs[name]):
            rounded = in_single[pairs[name]](*args, **kwargs)
            rounding[name] = relative_error(first_tensor(rounded), outputs[name])

    with hooked({name: modules[path] for name, path in pairs.items()}, before=before, after=after):
        outputs[DECODER] = reference(ids, use_cache=False).logits  # a cache would be filled twice
    return Trace(inputs, outputs, rounding)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _is_stream(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def modules_around(module: str) -> list[str]:
    """The modules that hold one, from the outermost on, and itself."""
    path = module.split(".")
    return [".".join(path[:length]) for length in range(1, len(path) + 1)]


def holds(holder: str, module: str) -> bool:
    """Whether a module is in another, or is that one."""
    return f"{module}.".startswith(f"{holder}.")


def converted(values: Any, dtype: torch.dtype) -> Any:
    """The same arguments of a call, with copies of floating-point tensors in another dtype."""
    if isinstance(values, Tensor):
        return values.to(dtype, copy=True) if values.is_floating_point() else values
    if isinstance(values, dict):
        return {key: converted(value, dtype) for key, value in values.items()}
    if isinstance(values, tuple | list):
        return type(values)(converted(value, dtype) for value in values)
    return values


@torch.no_grad()
def findings(
    model: Decoder, reference: Trace, ids: Tensor, until: Callable[[Finding], bool] = lambda _: False
) -> list[Finding]:
    """Compare module by module, in the order they run; what ours is given and makes is copied, as in `trace`.

    `until` says of a finding whether it is the last of interest: the rest of the pass is not run.
    """
    compared: list[Finding] = []
    calls: Counter[str] = Counter()

    def compare(name: str, side: str, ours: Any, theirs: Tensor) -> None:
        error = relative_error(ours, theirs)
        limit = max(reference.bound(at) for at in ((name,) if side == "output" else (name, name.rpartition(".")[0])))
        compared.append(Finding(name, side, calls[name], ours.detach().clone(), theirs, error, limit))
        if until(compared[-1]):
            raise Stop

    def before(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        taken = first_tensor(args or kwargs)
        if not _is_stream(taken) or not _is_stream(reference.inputs[name]):
            return None  # ids or positions, which each side may pass on in its own way
        compare(name, "input", taken, reference.inputs[name])
        given = in_place_of(taken, reference.inputs[name])
        return (with_first_tensor(args, given), kwargs) if args else (args, with_first_tensor(kwargs, given))

    def after(name: str, _: nn.Module, __: Any, ___: Any, result: Any) -> Any:
        ours = first_tensor(result)
        if not _is_stream(ours):
            return None
        compare(name, "output", ours, reference.outputs[name])
        calls[name] += 1
        return with_first_tensor(result, in_place_of(ours, reference.outputs[name]))

    modules = {name: module for name, module in model.named_modules() if name in reference.inputs}
    with suppress(Stop), hooked(modules, before=before, after=after):
        compare(DECODER, "output", run(model, ids), reference.outputs[DECODER])
    return compared


def relative_error(ours: Any, theirs: Tensor) -> float:
    """Largest difference over the largest element of the reference; infinite where shapes do not fit."""
    try:
        ours, theirs = torch.broadcast_tensors(fitted(ours, theirs).double(), theirs.double())
    except RuntimeError:
        return float("inf")
    return (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-30)


def in_place_of(ours: Tensor, theirs: Tensor) -> Tensor:
    """A copy of the reference's tensor, or ours where they do not even fit in shape."""
    fitting = fitted(theirs, ours)
    return fitting.clone() if fitting.shape == ours.shape else ours


def fitted(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor in the dtype of another, and in its shape where only axes of length one differ.

    Heads may come before the sequence in one and after it in the other, as where a norm of each head is applied, or
    side by side in one axis, as where a norm goes across them.
    """
    if tensor.ndim == 4 and tensor.shape != like.shape:
        swapped = tensor.transpose(1, 2)
        tensor = swapped if like.shape in (swapped.shape, swapped.flatten(2).shape) else tensor
    elif tensor.ndim == 3 and like.ndim == 4 and like.transpose(1, 2).flatten(2).shape == tensor.shape:
        tensor = tensor.unflatten(2, (like.shape[1], like.shape[3])).transpose(1, 2)
    return (tensor.reshape(like.shape) if tensor.numel() == like.numel() else tensor).to(like.dtype)

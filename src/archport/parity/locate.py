"""Where do two models part? Each of our modules is fed the reference's input to its counterpart, and compared alone.

One forward pass of ours tells everything: before a module runs, what we would feed it is compared with what the
reference fed its counterpart, which shows faults of wiring; then it gets the reference's input, and its output is
compared, which shows faults of the module; then the reference's output goes on, so no fault hides behind another.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Decoder
from .counterparts import first_tensor
from .running import Stop, run

# Inside a float64 run the reference drops to float32 in places: for rotary tables, in some families for scores and
# softmax, in others for norms; and a port may. There it is allowed what the reference's own float32 is off by.
TIGHT, LOOSE, ALLOWANCE = 1e-10, 1e-5, 8
DECODER = "decoder"  # the model as a whole


@dataclass(frozen=True)
class Trace:
    """What went into and came out of each of the reference's modules in float64, by our name of it.

    `rounding` is how far each module in float32 is from that, given the same input, relative to its largest element;
    attention is always allowed a multiple of it, other modules where they are `loose`.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    rounding: Mapping[str, float]
    loose: frozenset[str] = frozenset()

    def bound(self, module: str) -> float:
        """The relative error allowed to a module of ours."""
        attention = module.partition(".attn")[0] + ".attn"
        if attention in self.rounding and (module + ".").startswith(attention + "."):
            return max(LOOSE, ALLOWANCE * self.rounding[attention])
        return max(TIGHT, ALLOWANCE * self.rounding.get(module, 0.0)) if module in self.loose else TIGHT

    def loosened(self, modules: Iterable[str]) -> "Trace":
        """The same, with more modules allowed to drop to float32, and those that hold them."""
        parts = [module.split(".") for module in modules]
        more = {".".join(path[:length]) for path in parts for length in range(1, len(path) + 1)}
        return replace(self, loose=self.loose | more)


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
    """Run the reference and keep what its modules took and gave; `single` is the same model in float32."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    rounding: dict[str, float] = {}
    modules, in_single = dict(reference.named_modules()), dict(single.named_modules())

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            inputs[name] = first_tensor(args if args else kwargs)
            outputs[name] = first_tensor(result)
            if outputs[name].is_floating_point():
                rounded = in_single[pairs[name]](*converted(args, torch.float32), **converted(kwargs, torch.float32))
                rounding[name] = relative_error(first_tensor(rounded), outputs[name])

        return hook

    handles = [modules[path].register_forward_hook(keep(name), with_kwargs=True) for name, path in pairs.items()]
    try:
        outputs[DECODER] = reference(ids, use_cache=False).logits  # a cache would be filled twice
    finally:
        for handle in handles:
            handle.remove()
    return Trace(inputs, outputs, rounding)


def converted(values: Any, dtype: torch.dtype) -> Any:
    """The same arguments of a call, floating-point tensors in another dtype."""
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() else values
    if isinstance(values, dict):
        return {key: converted(value, dtype) for key, value in values.items()}
    if isinstance(values, tuple | list):
        return type(values)(converted(value, dtype) for value in values)
    return values


@torch.no_grad()
def findings(
    model: Decoder, reference: Trace, ids: Tensor, *, until: Callable[[Finding], bool] = lambda _: False
) -> list[Finding]:
    """Compare module by module, in the order they run, to the end or `until` a finding."""
    found: list[Finding] = []
    calls: Counter[str] = Counter()

    def compare(name: str, side: str, ours: Any, theirs: Tensor) -> None:
        error = relative_error(ours, theirs)
        limit = max(reference.bound(at) for at in ((name,) if side == "output" else (name, name.rpartition(".")[0])))
        found.append(Finding(name, side, calls[name], ours.detach(), theirs, error, limit))
        if until(found[-1]):
            raise Stop

    def before(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            taken = first_tensor(args or kwargs)
            if not taken.is_floating_point():
                return None  # ids or positions, which each side may pass on in its own way
            compare(name, "input", taken, reference.inputs[name])
            given = fitted(reference.inputs[name], taken)
            return ((given, *args[1:]), kwargs) if args else (args, kwargs | {next(iter(kwargs)): given})

        return hook

    def after(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, result: Tensor) -> Tensor:
            compare(name, "output", result, reference.outputs[name])
            calls[name] += 1
            return fitted(reference.outputs[name], result)

        return hook

    handles = []
    for name, module in model.named_modules():
        if name in reference.outputs:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
    try:
        compare(DECODER, "output", run(model, ids), reference.outputs[DECODER])
    except Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def relative_error(ours: Any, theirs: Tensor) -> float:
    """Largest difference over the largest element of the reference; infinite where shapes do not fit."""
    try:
        ours, theirs = torch.broadcast_tensors(fitted(ours, theirs).double(), theirs.double())
    except RuntimeError:
        return float("inf")
    return (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-30)


def fitted(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor in the dtype of another, and in its shape where only axes of length one differ."""
    return (tensor.reshape(like.shape) if tensor.numel() == like.numel() else tensor).to(like.dtype)

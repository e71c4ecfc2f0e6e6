"""Stand-ins for nn.Linear that only go forward, faster on a CPU: as it lies, reordered, or held in fewer bits.

They stand on operators that torch keeps private, and on a CPU that can: of each kind the first that works here is
taken, and where none does, the model stays as it is and says so.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ..config import dtype_name
from ..errors import ConfigError
from ..layers import Decoder, Router
from .direct import DirectLinear, WideLinear
from .few_bits import Int4InHalf, Int4Linear, Int8InHalf, Int8Linear, Quantized
from .half import HalfLinear
from .packed import PackedLinear
from .stand_in import StandIn

KINDS: dict[str, tuple[type[StandIn], ...]] = {
    "direct": (DirectLinear, WideLinear),
    "packed": (PackedLinear, HalfLinear),
    "int8": (Int8Linear, Int8InHalf),
    "int4": (Int4Linear, Int4InHalf),
}


def swap(
    model: Decoder,
    kind: str = "packed",
    *,
    held: Callable[[nn.Linear], AbstractContextManager[Any]] = nullcontext,
) -> Decoder:
    """Put stand-ins in the place of a model's linear maps, in place: for inference on a CPU only.

    Those of a router stay, or rounding would choose other experts, and so do those that compute in a way of their own.
    `direct` and `packed` compute the same in the same dtype, the first from the weights as they lie; `int8` and `int4`
    round the weights and make the model bfloat16 where the CPU computes in that. The model is returned; where torch
    lacks the operators or the CPU the instructions, it stays as it is and a warning says so. `held` is entered with
    each map while this is taken over, to make its weight then, or to let the memory go. Raises: ConfigError.
    """
    if is_swapped(model):
        raise ConfigError({"model": "its linear maps are direct, packed or quantised already"}, "linears")
    weight = next(model.parameters())
    stand_in = stand_in_for(kind, weight.dtype, weight.device)
    if isinstance(stand_in, str):
        warnings.warn(f"the linear maps stay as they are: {stand_in}", stacklevel=2)
        return model
    # The largest first: while it is taken over it is there twice, and those that `held` makes are not there yet.
    left = sorted(linear_maps(model).items(), key=lambda item: item[0].weight.numel())
    staying = _staying(model)
    while left:
        linear, names = left.pop()
        taken_over = 0 if linear.weight in staying else linear.weight.numel()
        with held(linear):
            if stand_in.takes(linear.weight):
                faster = stand_in(linear)
                faster.taken_over = taken_over
                for name in names:
                    model.set_submodule(name, faster)
    if issubclass(stand_in, Quantized):
        model.to(torch.bfloat16)
    return model.requires_grad_(False)


def linear_maps(model: nn.Module) -> dict[nn.Linear, list[str]]:
    """Those that stand-ins can take over, with all names of each."""
    modules = list(model.named_modules(remove_duplicate=False))
    routers = tuple(f"{name}." for name, module in modules if isinstance(module, Router))
    maps: dict[nn.Linear, list[str]] = {}
    for name, module in modules:
        if type(module) is nn.Linear and not name.startswith(routers):
            maps.setdefault(module, []).append(name)
    return maps


def _staying(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of all else, the weight of a tied head among them."""
    maps = linear_maps(model)
    return {one for module in model.modules() if module not in maps for one in module.parameters(recurse=False)}


def is_swapped(model: nn.Module) -> bool:
    """Whether a model has stand-ins, so that it only goes forward."""
    return any(isinstance(module, StandIn) for module in model.modules())


def stand_in_for(kind: str, dtype: torch.dtype, device: torch.device) -> type[StandIn] | str:
    """The class that takes linear maps of a dtype over on a device, or why none can. Raises: ConfigError."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError({"kind": f"found {kind!r}, expected {', '.join(KINDS)}"}, "linears")
    reasons = {stand_in: _why_not(stand_in, dtype, device) for stand_in in KINDS[kind]}
    able = (stand_in for stand_in, reason in reasons.items() if reason is None)
    return next(able, reasons[KINDS[kind][0]] or "")


def _why_not(stand_in: type[StandIn], dtype: torch.dtype, device: torch.device) -> str | None:
    """What is missing for it here, found by trying; None when nothing is."""
    missing = next((name for name in stand_in.operators if not _has(name)), None)
    if missing or device.type != "cpu":
        return f"torch {torch.__version__} has no {missing}" if missing else "the model is not on a CPU"
    dtype = torch.bfloat16 if issubclass(stand_in, Quantized) else dtype
    try:
        with torch.inference_mode():
            linear = stand_in(nn.Linear(32, 16, dtype=dtype))
            for rows in (1, 32):
                linear(torch.zeros(rows, 32, dtype=dtype))
    except RuntimeError as error:  # not every CPU has instructions for every dtype
        return f"{dtype_name(dtype)} on this CPU: {str(error).splitlines()[0]}"
    return None


def _has(operator: str) -> bool:
    space, name = operator.split(".")
    operators: Any = getattr(torch.ops, space)
    return hasattr(operators, name) and (space != "mkldnn" or bool(torch._C._has_mkldnn))

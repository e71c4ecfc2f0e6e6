"""Stand-ins for nn.Linear that only go forward, faster on a CPU: reordered for oneDNN, or in 8 or 4 bits.

They stand on operators that torch keeps private, and on a CPU that can: where either is missing, the model stays as it
is and says so.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import dtype_name
from ..errors import ConfigError
from ..layers import Decoder, Router

ROWS = 8  # the order that is best for so many rows is as good for one, and better than one's for many
LEAST = 4  # rows: the operator reads a weight faster for so many than for one
GROUP = 32  # elements of a row that share a scale in 4 bits
FORWARD_ONLY = "packed or quantised linear maps cannot be copied or saved: take the model as it was loaded without them"
MULTIPLE = GROUP  # the 8-bit operator, too, reads past the end of rows that are not a multiple of it


class StandIn(nn.Module, ABC):
    """A linear map whose weight is held in a form that only its own operator reads: (.., in) -> (.., out)."""

    operators: ClassVar[tuple[str, ...]]
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.dtype = linear.weight.dtype  # of what goes in and comes out
        self.pack(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:  # (.., in) -> (.., out)
        """Multiply and add. Raises: ValueError where a gradient is wanted, or for another dtype."""
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "packed or quantised linear maps only go forward: use torch.no_grad(), or load without them"
            )
        if x.dtype != self.dtype:
            given, packed = dtype_name(x.dtype), dtype_name(self.dtype)
            raise ValueError(
                f"found {given}, expected {packed}, in which these linear maps were packed: load them anew"
            )
        return self.multiply(x)

    @abstractmethod
    def multiply(self, x: Tensor) -> Tensor:  # (.., in) -> (.., out)
        """Multiply and add."""

    def __reduce_ex__(self, protocol: Any) -> Any:  # by which copy and pickle go
        raise TypeError(FORWARD_ONLY)

    def _save_to_state_dict(self, *_: Any) -> None:
        raise TypeError(FORWARD_ONLY)

    @abstractmethod
    def pack(self, weight: Tensor) -> None:
        """Take a weight (out, in) over."""

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class PackedLinear(StandIn):
    """The same numbers, in the order in which oneDNN reads them."""

    operators = ("mkldnn._reorder_linear_weight", "mkldnn._linear_pointwise")

    def pack(self, weight: Tensor) -> None:
        """Reorder it."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply and add."""
        rows = x.numel() // self.in_features
        if rows < LEAST:
            filled = F.pad(x.reshape(rows, self.in_features), (0, 0, 0, LEAST - rows))
            return self.product(filled)[:rows].view(*x.shape[:-1], self.out_features)
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """In one operator."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return product


class Quantized(StandIn):
    """A weight in few bits for a few rows, and the same rounded weight in packed bfloat16 for more."""

    few: ClassVar[int]  # rows up to which it is faster to read fewer bits

    def pack(self, weight: Tensor) -> None:
        """Round it, and keep what it was rounded to."""
        rounded = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        rounded.weight = nn.Parameter(self.round(weight.float()).bfloat16(), requires_grad=False)
        self.bias = None if self.bias is None else nn.Parameter(self.bias.detach().bfloat16())
        self.many = PackedLinear(rounded)
        self.dtype = torch.bfloat16

    @abstractmethod
    def round(self, weight: Tensor) -> Tensor:  # (out, in), same out
        """Keep the weight in few bits; return the numbers that these stand for."""

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply and add."""
        rows = x.flatten(0, -2)
        product: Tensor = self.product(rows) if len(rows) <= self.few else self.many.multiply(rows)
        product = product if self.bias is None else product + self.bias
        return product.reshape(*x.shape[:-1], self.out_features)

    def filled(self, rows: Tensor) -> Tensor:  # (rows, in) -> (rows, in rounded up)
        """Rows as long as the operator wants them, filled with zeros."""
        missing = -self.in_features % MULTIPLE
        return F.pad(rows, (0, missing)) if missing else rows.contiguous()

    @abstractmethod
    def product(self, rows: Tensor) -> Tensor:  # (rows, in) -> (rows, out)
        """The product with the weight as it is held, in one operator."""


class Int8Linear(Quantized):
    """8 bits with one scale a row."""

    operators = ("aten._weight_int8pack_mm", *PackedLinear.operators)
    few = 3

    def round(self, weight: Tensor) -> Tensor:
        """To 255 steps of the row's largest."""
        filled = self.filled(weight)
        self.scale = (filled.abs().amax(1).clamp(min=1e-12) / 127).bfloat16()
        self.packed = (filled / self.scale[:, None].float()).round().clamp(-127, 127).to(torch.int8)
        return (self.packed * self.scale[:, None].float())[:, : self.in_features]

    def product(self, rows: Tensor) -> Tensor:
        """In one operator."""
        product: Tensor = torch.ops.aten._weight_int8pack_mm(self.filled(rows), self.packed, self.scale)
        return product


class Int4Linear(Quantized):
    """4 bits with a scale and a zero for every GROUP elements of a row; rows are filled up to a multiple of 16."""

    operators = (
        "aten._convert_weight_to_int4pack_for_cpu",
        "aten._weight_int4pack_mm_for_cpu",
        *PackedLinear.operators,
    )
    few = 7

    def round(self, weight: Tensor) -> Tensor:
        """To 16 steps between the smallest and the largest of each group."""
        filled = F.pad(self.filled(weight), (0, 0, 0, -self.out_features % 16))
        groups = filled.reshape(len(filled), -1, GROUP)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-12).bfloat16()
        zero = (low + 8 * scale.float()).bfloat16()
        steps = ((groups - zero.float()) / scale.float() + 8).round().clamp(0, 15)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps.to(torch.int32).flatten(1), 2)
        self.scales = torch.cat((scale, zero), -1).transpose(0, 1).contiguous()
        rounded = (steps - 8) * scale.float() + zero.float()
        return rounded.flatten(1)[: self.out_features, : self.in_features]

    def product(self, rows: Tensor) -> Tensor:
        """In one operator."""
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(self.filled(rows), self.packed, GROUP, self.scales)
        return product[:, : self.out_features]


KINDS: dict[str, type[StandIn]] = {"packed": PackedLinear, "int8": Int8Linear, "int4": Int4Linear}


def swap(model: Decoder, kind: str = "packed", *, release: Callable[[Tensor], None] | None = None) -> Decoder:
    """Put stand-ins in the place of a model's linear maps, in place: for inference on a CPU only.

    Those of a router stay, or rounding would choose other experts, and so do those that compute in a way of their own.
    `packed` computes the same in the same dtype; `int8` and `int4` round the weights and make the model bfloat16. The
    model is returned; where torch lacks the operators or the CPU the instructions, it stays as it is and a warning says
    so. `release` is told of each weight that has been taken over, to let its memory go. Raises: ConfigError.
    """
    if is_swapped(model):
        raise ConfigError({"model": "its linear maps are packed or quantised already"}, "linears")
    weight = next(model.parameters())
    reason = why_not(kind, weight.dtype, weight.device)
    if reason:
        warnings.warn(f"the linear maps stay as they are: {reason}", stacklevel=2)
        return model
    for module in [module for module in model.modules() if not isinstance(module, Router)]:
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, KINDS[kind](child))
                if release is not None:
                    release(child.weight)
    if issubclass(KINDS[kind], Quantized):
        model.to(torch.bfloat16)
    return model.requires_grad_(False)


def is_swapped(model: nn.Module) -> bool:
    """Whether a model has stand-ins, so that it only goes forward."""
    return any(isinstance(module, StandIn) for module in model.modules())


def why_not(kind: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why linear maps of a dtype on a device cannot be swapped; None when they can. Raises: ConfigError."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError({"kind": f"found {kind!r}, expected {', '.join(KINDS)}"}, "linears")
    stand_in = KINDS[kind]
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

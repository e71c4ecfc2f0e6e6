"""Stand-ins for nn.Linear that only go forward, faster on a CPU: reordered for oneDNN, or in 8 or 4 bits.

They stand on operators that torch keeps private; where one is missing, the model stays as it is and says so.
"""

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ConfigError
from .layers import Decoder

FEW = 16  # rows from which on it is faster to unpack the weight and multiply as usual
LANES = 32  # the 8-bit operator reads past the end of rows that are not a multiple of it
GROUP = 32  # elements of a row that share a scale in 4 bits


class StandIn(nn.Module):
    """A linear map whose weight is held in a form that only its own operator reads: (.., in) -> (.., out)."""

    operators: ClassVar[tuple[str, ...]]
    weight_bits: ClassVar[int | None] = None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.pack(linear.weight.detach())

    def pack(self, weight: Tensor) -> None:
        """Take a weight (out, in) over."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class PackedLinear(StandIn):
    """The same numbers, in the order in which oneDNN reads them."""

    operators = ("mkldnn._reorder_linear_weight", "mkldnn._linear_pointwise")

    def pack(self, weight: Tensor) -> None:
        """Reorder it."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)

    def forward(self, x: Tensor) -> Tensor:  # (.., in) -> (.., out)
        """Multiply and add."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return made


class Quantized(StandIn):
    """A weight in few bits, multiplied as it is for few rows, unpacked for many; bfloat16 in and out."""

    def forward(self, x: Tensor) -> Tensor:  # (.., in) -> (.., out)
        """Multiply and add."""
        rows = x.flatten(0, -2)
        made = self.product(rows) if len(rows) <= FEW else F.linear(rows, self.unpacked())
        made = made if self.bias is None else made + self.bias
        return made.reshape(*x.shape[:-1], self.out_features)

    def product(self, rows: Tensor) -> Tensor:  # (rows, in) -> (rows, out)
        """The product with the weight as it is held."""
        raise NotImplementedError

    def unpacked(self) -> Tensor:  # (out, in)
        """The weight in bfloat16."""
        raise NotImplementedError


class Int8Linear(Quantized):
    """8 bits with one scale a row."""

    operators = ("aten._weight_int8pack_mm",)

    def pack(self, weight: Tensor) -> None:
        """Round to 255 steps of the row's largest."""
        filled = F.pad(weight.float(), (0, -self.in_features % LANES)).contiguous()
        scale = filled.abs().amax(1).clamp(min=1e-12) / 127
        self.packed = (filled / scale[:, None]).round().to(torch.int8)
        self.scale = scale.bfloat16()

    def product(self, rows: Tensor) -> Tensor:
        """In one operator."""
        filled = F.pad(rows, (0, -self.in_features % LANES))
        made: Tensor = torch.ops.aten._weight_int8pack_mm(filled, self.packed, self.scale)
        return made

    def unpacked(self) -> Tensor:
        """Numbers times their row's scale."""
        return (self.packed.bfloat16() * self.scale[:, None])[:, : self.in_features]


class Int4Linear(Quantized):
    """4 bits with a scale and a zero for every GROUP elements of a row; rows are filled up to a multiple of 16."""

    operators = ("aten._convert_weight_to_int4pack_for_cpu", "aten._weight_int4pack_mm_for_cpu")

    def pack(self, weight: Tensor) -> None:
        """Round to 16 steps between the smallest and the largest of each group."""
        filled = F.pad(weight.float(), (0, -self.in_features % GROUP, 0, -self.out_features % 16)).contiguous()
        groups = filled.reshape(len(filled), -1, GROUP)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-12)
        steps = ((groups - low) / scale).round().clamp(0, 15).to(torch.int32).flatten(1)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 2)
        self.steps = steps.to(torch.uint8)[:, ::2] | steps.to(torch.uint8)[:, 1::2] << 4
        self.scales = torch.cat((scale, low + 8 * scale), -1).transpose(0, 1).contiguous().bfloat16()

    def product(self, rows: Tensor) -> Tensor:
        """In one operator."""
        filled = F.pad(rows, (0, -self.in_features % GROUP))
        made: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(filled, self.packed, GROUP, self.scales)
        return made[:, : self.out_features]

    def unpacked(self) -> Tensor:
        """Steps times their group's scale, from its zero."""
        steps = torch.stack((self.steps & 15, self.steps >> 4), -1).reshape(len(self.steps), -1, GROUP).bfloat16()
        scale, zero = self.scales.transpose(0, 1).unbind(-1)
        weight: Tensor = (steps - 8) * scale[..., None] + zero[..., None]
        return weight.flatten(1)[: self.out_features, : self.in_features]


KINDS: dict[str, type[StandIn]] = {"packed": PackedLinear, "int8": Int8Linear, "int4": Int4Linear}


def swap(model: Decoder, kind: str = "packed") -> Decoder:
    """Put stand-ins in the place of every linear map of a model, in place: for inference on a CPU only.

    `packed` computes the same in the same dtype; `int8` and `int4` round the weights and make the model bfloat16. The
    model is returned; a warning says so where torch lacks the operators. Raises: ConfigError.
    """
    reason = why_not(model, kind)
    if reason:
        warnings.warn(f"the linear maps stay as they are: {reason}", stacklevel=2)
        return model
    stand_in = KINDS[kind]
    if issubclass(stand_in, Quantized):
        model.to(torch.bfloat16)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, stand_in(child))
    return model.requires_grad_(False)


def why_not(model: Decoder, kind: str = "packed") -> str | None:
    """Why a model's linear maps cannot be swapped here; None when they can. Raises: ConfigError."""
    if kind not in KINDS:
        raise ConfigError({"kind": f"found {kind!r}, expected {', '.join(KINDS)}"}, "linears")
    stand_in, weight = KINDS[kind], model.norm.weight
    missing = next((name for name in stand_in.operators if not _has(name)), None)
    if missing or weight.device.type != "cpu":
        return f"torch {torch.__version__} has no {missing}" if missing else "the model is not on a CPU"
    dtype = torch.bfloat16 if issubclass(stand_in, Quantized) else weight.dtype
    try:
        with torch.inference_mode():
            stand_in(nn.Linear(32, 16, dtype=dtype))(torch.zeros(1, 32, dtype=dtype))
    except RuntimeError as error:  # not every CPU has instructions for every dtype
        return f"{str(dtype).removeprefix('torch.')} on this CPU: {str(error).splitlines()[0]}"
    return None


def _has(operator: str) -> bool:
    space, name = operator.split(".")
    found: Any = getattr(torch.ops, space)
    return hasattr(found, name) and (space != "mkldnn" or bool(torch._C._has_mkldnn))

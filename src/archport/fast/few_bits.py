"""Linear maps whose weights are rounded to 8 or 4 bits."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .half import HalfLinear
from .packed import PackedLinear
from .stand_in import StandIn

GROUP = 32  # elements of a row that share a scale in 4 bits
MULTIPLE = GROUP  # the 8-bit operator, too, reads past the end of rows that are not a multiple of it


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:  # (out, in) -> (out, in), (out)
    """255 steps of each row's largest, and their size."""
    scale = (weight.abs().amax(1).clamp(min=1e-12) / 127).bfloat16()
    return (weight / scale[:, None].float()).round().clamp(-127, 127).to(torch.int8), scale


def of_int8(steps: Tensor, scale: Tensor) -> Tensor:  # (out, in), (out) -> (out, in)
    """The numbers that they stand for."""
    return steps * scale[:, None].float()


def to_int4(
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # (out, groups, GROUP), same out and twice (out, groups, 1)
    """16 steps from the smallest to the largest of each group, their size, and what the eighth stands for."""
    low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-12).bfloat16()
    zero = (low + 8 * scale.float()).bfloat16()
    return ((weight - zero.float()) / scale.float() + 8).round().clamp(0, 15), scale, zero


def of_int4(steps: Tensor, scale: Tensor, zero: Tensor) -> Tensor:  # (out, groups, GROUP), .. -> same
    """The numbers that they stand for."""
    return (steps - 8) * scale.float() + zero.float()


def filled(rows: Tensor) -> Tensor:  # (rows, in) -> (rows, in rounded up)
    """Rows as long as the operators want them, filled with zeros."""
    missing = -rows.shape[-1] % MULTIPLE
    return F.pad(rows, (0, missing)) if missing else rows.contiguous()


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

    @abstractmethod
    def product(self, rows: Tensor) -> Tensor:  # (rows, in) -> (rows, out)
        """The product with the weight as it is held, in one operator."""


class Int8Linear(Quantized):
    """8 bits with one scale a row."""

    operators = ("aten._weight_int8pack_mm", *PackedLinear.operators)
    words = "8 bits for few rows, bfloat16 by oneDNN for more"
    few = 3

    def round(self, weight: Tensor) -> Tensor:
        """To 255 steps of the row's largest."""
        self.packed, self.scale = to_int8(filled(weight))
        return of_int8(self.packed, self.scale)[:, : self.in_features]

    def product(self, rows: Tensor) -> Tensor:
        """In one operator."""
        product: Tensor = torch.ops.aten._weight_int8pack_mm(filled(rows), self.packed, self.scale)
        return product


class Int4Linear(Quantized):
    """4 bits with a scale and a zero for every GROUP elements of a row; rows are filled up to a multiple of 16."""

    operators = (
        "aten._convert_weight_to_int4pack_for_cpu",
        "aten._weight_int4pack_mm_for_cpu",
        *PackedLinear.operators,
    )
    words = "4 bits for few rows, bfloat16 by oneDNN for more"
    few = 7

    def round(self, weight: Tensor) -> Tensor:
        """To 16 steps between the smallest and the largest of each group."""
        padded = F.pad(filled(weight), (0, 0, 0, -self.out_features % 16))
        groups = padded.reshape(len(padded), -1, GROUP)
        steps, scale, zero = to_int4(groups)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps.to(torch.int32).flatten(1), 2)
        self.scales = torch.cat((scale, zero), -1).transpose(0, 1).contiguous()
        return of_int4(steps, scale, zero).flatten(1)[: self.out_features, : self.in_features]

    def product(self, rows: Tensor) -> Tensor:
        """In one operator."""
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(filled(rows), self.packed, GROUP, self.scales)
        return product[:, : self.out_features]


class Int8InHalf(HalfLinear):
    """Rounded to 8 bits, for CPUs on which reading these is no faster than reading float16."""

    words = f"rounded to 8 bits, {HalfLinear.words}"

    def pack(self, weight: Tensor) -> None:
        """Round it, and hold what it was rounded to."""
        self.hold(of_int8(*to_int8(weight.float())))


class Int4InHalf(HalfLinear):
    """Rounded to 4 bits, for CPUs on which reading these is no faster than reading float16."""

    words = f"rounded to 4 bits, {HalfLinear.words}"

    def pack(self, weight: Tensor) -> None:
        """Round it, and hold what it was rounded to."""
        groups = filled(weight.float()).reshape(self.out_features, -1, GROUP)
        self.hold(of_int4(*to_int4(groups)).flatten(1)[:, : self.in_features])

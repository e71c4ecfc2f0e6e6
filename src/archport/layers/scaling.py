"""Rotary frequencies changed to reach past the length that a model was first trained on: one class a way to do it."""

import math
from dataclasses import dataclass, field, fields
from typing import Protocol

import torch
from torch import Tensor


class Scaling(Protocol):
    """A way to change the frequencies of rotary pairs; it has no state, and no value of a tensor decides its path."""

    @property
    def attention_factor(self) -> float:
        """What cos and sin are multiplied by, so that scores grow by its square."""

    def frequencies(self, plain: Tensor, width: int, base: float, length: Tensor) -> Tensor:  # (pairs) -> (pairs)
        """Radians a position, from the unscaled ones; `length` () is the largest position of this pass + 1."""


def positions_per_radian(width: int, base: float | Tensor, device: torch.device) -> Tensor:  # (pairs)
    """How many positions turn each pair by one radian: base ** (2i / width)."""
    return base ** (torch.arange(0, width, 2, device=device).float() / width)


@dataclass(frozen=True, repr=False)
class _Settings:
    """Shown by what is not as by default."""

    def __repr__(self) -> str:
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.repr}
        plain = {one.name: one.default for one in fields(self)}
        settings = (f"{name}={value!r}" for name, value in given.items() if value != plain[name])
        return f"{type(self).__name__}({', '.join(settings)})"


@dataclass(frozen=True, repr=False)
class LinearScaling(_Settings):
    """Every pair turns `factor` times slower. Source: position interpolation, arXiv 2306.15595."""

    factor: float
    attention_factor = 1.0

    def frequencies(self, plain: Tensor, width: int, base: float, length: Tensor) -> Tensor:  # (pairs) -> (pairs)
        """The unscaled ones over the factor."""
        return plain / self.factor


@dataclass(frozen=True, repr=False)
class DynamicNTK(_Settings):
    """The base grows with the length of the pass, once that is past `context` positions; widths from 3.

    Source: arXiv 2309.00071, section 3.3, and `_compute_dynamic_ntk_parameters`.
    """

    factor: float
    context: int
    attention_factor = 1.0

    def frequencies(self, plain: Tensor, width: int, base: float, length: Tensor) -> Tensor:  # (pairs) -> (pairs)
        """The unscaled ones up to `context`, those of a larger base after it."""
        stretch = self.factor * length / self.context - (self.factor - 1)
        grown = base * stretch ** (width / (width - 2))
        return torch.where(length > self.context, 1.0 / positions_per_radian(width, grown, plain.device), plain)


@dataclass(frozen=True, repr=False)
class Llama3(_Settings):
    """Pairs that turn more than `high` times in `context` positions stay; below `low` they turn `factor` times slower.

    Those between are mixed of both. Source: `_compute_llama3_parameters`.
    """

    factor: float
    low: float
    high: float
    context: int
    attention_factor = 1.0

    def frequencies(self, plain: Tensor, width: int, base: float, length: Tensor) -> Tensor:  # (pairs) -> (pairs)
        """By how often each pair turns in the trained context."""
        wavelengths = 2 * math.pi / plain
        kept = (self.context / wavelengths - self.low) / (self.high - self.low)
        mixed = (1 - kept) * plain / self.factor + kept * plain
        mixed = torch.where(wavelengths < self.context / self.high, plain, mixed)
        return torch.where(wavelengths > self.context / self.low, plain / self.factor, mixed)


@dataclass(frozen=True, repr=False)
class Yarn(_Settings):
    """Pairs that turn `beta_fast` times in `context` positions stay; at `beta_slow` they turn `factor` times slower.

    Between the two, by the number of the pair; `truncate` takes whole numbers for its ends. `magnitude` multiplies cos
    and sin. Unless given it is the paper's, or, where both are given and not 0, that of `mscale` over that of
    `mscale_all_dim`. Source: arXiv 2309.00071, and `_compute_yarn_parameters`.
    """

    factor: float
    context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    magnitude: float | None = None

    @property
    def attention_factor(self) -> float:
        """The given one, or the paper's."""
        if self.magnitude is not None:
            return self.magnitude
        if self.mscale and self.mscale_all_dim:
            return yarn_magnitude(self.factor, self.mscale) / yarn_magnitude(self.factor, self.mscale_all_dim)
        return yarn_magnitude(self.factor)

    def frequencies(self, plain: Tensor, width: int, base: float, length: Tensor) -> Tensor:  # (pairs) -> (pairs)
        """From the unscaled ones to those over the factor, along a ramp."""
        start, end = (self._pair(turns, width, base) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            start, end = math.floor(start), math.ceil(end)
        start, end = max(start, 0), min(end, width - 1)
        pairs = torch.arange(len(plain), device=plain.device).float()
        kept = 1 - ((pairs - start) / (end - start or 0.001)).clamp(0, 1)
        slow = 1.0 / (self.factor * positions_per_radian(width, base, plain.device))
        return slow * (1 - kept) + plain * kept

    def _pair(self, turns: float, width: int, base: float) -> float:
        """The number of the pair, with a fraction, that turns so often in the trained context."""
        return width * math.log(self.context / (turns * 2 * math.pi)) / (2 * math.log(base))


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """By how much YaRN raises the magnitude of queries and keys for a context `factor` times as long."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True, repr=False)
class LongRope(_Settings):
    """Each pair turns slower by a factor of its own: of `short`, or of `long` where a pass is past `context` positions.

    `magnitude` multiplies cos and sin; unless given it follows from `factor`, the whole length over `context`.
    Source: arXiv 2402.13753, and `_compute_longrope_parameters`.
    """

    factor: float
    context: int
    short: tuple[float, ...] = field(repr=False)  # one a pair
    long: tuple[float, ...] = field(repr=False)
    magnitude: float | None = None

    @property
    def attention_factor(self) -> float:
        """The given one, or the paper's."""
        if self.magnitude is not None:
            return self.magnitude
        return math.sqrt(1 + math.log(self.factor) / math.log(self.context)) if self.factor > 1 else 1.0

    def frequencies(self, plain: Tensor, width: int, base: float, length: Tensor) -> Tensor:  # (pairs) -> (pairs)
        """Those of the list that the length of the pass asks for."""
        short, long = (plain.new_tensor(factors) for factors in (self.short, self.long))
        factors = torch.where(length > self.context, long, short)
        return 1.0 / (factors * positions_per_radian(width, base, plain.device))

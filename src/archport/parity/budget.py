"""How far off may a line be? The reference also runs in higher precision, and its own error there sets the budget.

The port may be no further from that than 1.5 times what the reference is, plus a few units in the last place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dtypes import to_dtype
from ..errors import ConfigError

ALLOWANCE = 1.5  # times the reference's own error
ULPS = 8  # of the largest element, beside it
MEAN_ULPS = 0.5  # of the root mean square
MANY = 16  # tokens
ONCE = 0.29  # units in the last place, the root mean square of rounding to the nearest: 1 / sqrt(12)


@dataclass(frozen=True)
class Check:
    """One line of a report: errors against the reference in higher precision, and at which part they are largest.

    Errors are absolute but for gradients, where each is relative to its parameter's largest.
    """

    name: str
    port_error: float
    reference_error: float
    budget: float
    part: str = ""
    note: str = ""

    @property
    def detail(self) -> str:
        """What else there is to say."""
        return "; ".join(filter(None, (self.note, self.part and f"worst: {self.part}")))

    @property
    def ok(self) -> bool:
        """Whether the port is within its budget; a NaN is not."""
        return self.port_error <= self.budget

    @property
    def ratio(self) -> float:
        """The port's error as a multiple of the reference's own."""
        return self.port_error / self.reference_error if self.reference_error else float(self.port_error > 0)


def allowed(own: float, scale: float, dtype: torch.dtype, ulps: float = ULPS) -> float:
    """The budget that the reference's `own` error sets, for numbers of some scale."""
    return ALLOWANCE * own + ulps * torch.finfo(dtype).eps * scale


def hold(name: str, ours: Tensor, theirs: Tensor, exact: Tensor, dtype: torch.dtype, part: str = "") -> Check:
    """Hold one tensor of ours, computed in `dtype`, to the budget that the reference's own error sets.

    By its largest element and, over many tokens, by its root mean square, which is much less of an accident; the worse
    is returned.
    """
    if ours.shape != exact.shape:
        return Check(name, float("inf"), 0.0, 0.0, part, f"{tuple(ours.shape)}, expected {tuple(exact.shape)}")
    checks = []
    for size, ulps, note in ((largest, ULPS, ""), (_root_mean_square, MEAN_ULPS, "root mean square")):
        own, error, scale = size(theirs - exact), size(ours.to(exact.dtype) - exact), size(exact)
        # A reference that drops to float32 inside higher precision shows no error, though its result was rounded once.
        rounded = own or ONCE * torch.finfo(dtype).eps * scale
        checks.append(Check(name, error, own, allowed(rounded, scale, dtype, ulps), part, note))
    few = exact.numel() // exact.shape[-1] < MANY
    return checks[0] if few else max(checks, key=lambda one: (not one.ok, not one.note))


def largest(tensor: Tensor) -> float:
    """Its largest element, whatever its sign."""
    return tensor.abs().max().item()


def _root_mean_square(tensor: Tensor) -> float:
    return tensor.double().square().mean().sqrt().item()


def by_severity(one: Check) -> tuple[bool, float]:
    """Sort key: the worst line is one that fails, or comes nearest to it."""
    return not one.ok, one.port_error / (one.budget or 1.0)


def precision(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that can be held against a higher one. Raises: ConfigError."""
    allowed = (torch.float32, torch.float16, torch.bfloat16)
    if to_dtype(dtype) not in allowed:
        raise ConfigError(
            {"dtype": f"found {dtype}, expected float32, float16 or bfloat16: each is held to a higher one"}
        )
    return to_dtype(dtype)

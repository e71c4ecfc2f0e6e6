"""What a module computes, number by number: every tensor that it makes in a pass, found again by its values.

Values are looked for, never names: it makes no difference what a module calls its parts, or how it lays out what it
makes, as a lookup sorts the numbers first.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

CLOSE = 1e-6  # of the largest number: frequencies of rotary positions are held in float32
FAR = 1e-3  # what is further away than this is not looked at
SMALL = torch.float32, torch.float16, torch.bfloat16


class in_full(TorchDispatchMode):  # type: ignore[no-untyped-call]  # used as a function is
    """As long as this lasts, no operation falls back to fewer bits than float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") in SMALL:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what every operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor) and one.is_floating_point():
                self.values.append(one.detach().clone())
        return result


@contextmanager
def in_steps() -> Iterator[None]:
    """Attention as products and a softmax, which a fused one would hide."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def neat(value: float) -> float:
    """A number that was solved for, without its last digits, which are rounding and differ from layer to layer."""
    return float(f"{value:.10g}")


class Trace:
    """The numbers of one pass of a module over ids (batch, seq), in float64, each set of them once in a layout."""

    def __init__(self, module: nn.Module, run: Callable[[nn.Module, Tensor], Tensor], ids: Tensor) -> None:
        recording = _Recording()
        with torch.no_grad(), in_steps(), recording, in_full():  # type: ignore[no-untyped-call]
            logits = run(module, ids)
        self.ids, self.logits = ids, logits.detach().clone()
        self._values: dict[int, list[Tensor]] = {}
        for value in recording.values:
            known = self._values.setdefault(value.numel(), [])
            if value.isfinite().all() and not any(torch.equal(value.flatten(), one.flatten()) for one in known):
                known.append(value)
        self._flat: dict[int, Tensor] = {}
        self._sorted: dict[int, Tensor] = {}

    def of_size(self, count: int) -> list[Tensor]:
        """All values of so many numbers."""
        return self._values.get(count, [])

    def flat(self, count: int) -> Tensor:  # (values, count)
        """All values of so many numbers, as rows."""
        if count not in self._flat:
            rows = [one.double().flatten() for one in self.of_size(count)]
            self._flat[count] = torch.stack(rows) if rows else torch.zeros(0, count, dtype=torch.float64)
        return self._flat[count]

    def _ordered(self, count: int) -> Tensor:
        """Each set of so many numbers once, sorted, as rows."""
        if count not in self._sorted:
            self._sorted[count] = torch.unique(self.flat(count).sort(-1).values, dim=0)
        return self._sorted[count]

    def nearest(self, value: Tensor) -> tuple[float, Tensor]:
        """How far the nearest value of the pass is from one, in whatever layout, beside the largest number; and itself.

        It comes in the layout of the one.
        """
        known = self._ordered(value.numel())
        value = value.detach()
        low, high = value.aminmax()
        largest = max(abs(float(low)), abs(float(high)), 1e-300)
        known = known[(known[:, 0] - low).abs().maximum((known[:, -1] - high).abs()) < FAR * largest]
        if not len(known):
            return torch.inf, value
        ordered, places = value.flatten().double().sort()
        apart, at = (known - ordered).abs().amax(-1).min(0)
        return float(apart) / largest, torch.empty_like(ordered).scatter(0, places, known[at]).view(value.shape)

    def apart(self, value: Tensor) -> float:
        """How far the nearest value of the pass is from one, in whatever layout, beside the largest number."""
        return self.nearest(value)[0]

    def has(self, value: Tensor) -> bool:
        """Whether the pass made these numbers, in whatever layout."""
        return self.apart(value) < CLOSE


PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


class _Rounded(_Recording):  # type: ignore[no-untyped-call]
    """Rounds products once, in whatever pieces and order they are computed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            exact = super().__torch_dispatch__(func, types, [one.double() for one in args], kwargs)
            args, func, kwargs = (exact, args[0].dtype), torch.ops.prims.convert_element_type.default, None
        return super().__torch_dispatch__(func, types, args, kwargs)


@torch.no_grad()
def numbers(call: Callable[[], Tensor]) -> set[bytes]:
    """What every operation of a call makes, to the last bit, each set of numbers in order."""
    recording = _Rounded()
    with in_steps(), recording:
        call()
    return {one.double().flatten().sort().values.numpy().tobytes() for one in recording.values if one.numel() > 1}

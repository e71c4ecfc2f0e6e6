"""Which way to multiply pays on the machine at hand: found by trying it, on a weight too large for most caches."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..config import dtype_name
from .linears import stand_in_for
from .packed import ROWS
from .stand_in import StandIn

WIDTH, SIZE = 1024, 1 << 25  # of the weight: numbers that go in, and bytes
CPU = torch.device("cpu")
ROUNDS = 5  # of which the best counts
MARGIN = 0.95  # of nn.Linear's time: what takes more is not worth a copy of the weights
PROMPT = 64  # rows that stand for a prompt
ASKING = 4e9  # bytes of weights read, token by token: for fewer even asking takes longer than it could save


@dataclass(frozen=True)
class Path:
    """How linear maps of a dtype are multiplied: by a stand-in, or as they are and why.

    Seconds are those of one product by the number of its rows, `packing` those of taking the weight over once.
    """

    kind: str
    dtype: torch.dtype
    stand_in: type[StandIn] | None
    why: str = ""
    packing: float = 0.0
    plain: Mapping[int, float] = field(default_factory=dict)
    fast: Mapping[int, float] = field(default_factory=dict)

    def pays(self, prompt: int, tokens: int) -> bool:
        """Whether it saves more than packing takes, for a prompt and so many tokens after it, one at a time."""
        if self.stand_in is None:
            return False
        plain, fast = (times[1] * tokens + times[PROMPT] / PROMPT * prompt for times in (self.plain, self.fast))
        return self.packing + fast < MARGIN * plain

    def __str__(self) -> str:
        name = f"{dtype_name(self.dtype)}, {self.kind}"
        if self.stand_in is None:
            return f"{name}: nn.Linear as it is ({self.why})"
        times = ", ".join(
            f"{self.plain[rows] / self.fast[rows]:.2f} x for {rows} row{'s' if rows > 1 else ''}" for rows in self.plain
        )
        return f"{name}: {self.stand_in.words}: {times} as fast as nn.Linear; {self._break_even}"

    @property
    def _break_even(self) -> str:
        """From when on it pays, in words."""
        saved = {rows: (MARGIN * self.plain[rows] - self.fast[rows]) / rows for rows in (1, PROMPT)}
        needed = {rows: math.ceil(self.packing / one) for rows, one in saved.items() if one > 0}
        words = [f"{needed[1]} tokens"] if 1 in needed else []
        words += [f"a prompt of {needed[PROMPT]}"] if PROMPT in needed else []
        return f"packing is paid back by {' or '.join(words) or 'nothing'}"


def chosen(dtype: torch.dtype, device: torch.device, size: int, prompt: int, tokens: int) -> tuple[str | None, str]:
    """The kind of linear maps that is fastest for a prompt and so many tokens after it, None for plain, and why.

    `size` is that of all weights, in bytes.
    """
    if size * (tokens + prompt / ROWS) < ASKING:
        return None, f"nn.Linear as it is (packing cannot pay for {tokens} tokens of a model of {size:,} bytes)"
    path = measured("packed", dtype, device=device)
    if path.pays(prompt, tokens):
        return "packed", str(path)
    if path.stand_in is None:
        return None, str(path)
    return None, f"nn.Linear as it is, for {tokens} tokens after {prompt} ({path})"


@torch.inference_mode()
def measured(kind: str, dtype: torch.dtype, rows: Sequence[int] = (1, PROMPT), *, device: torch.device = CPU) -> Path:
    """How linear maps of a dtype are multiplied on a device, and what that takes. Raises: ConfigError."""
    stand_in = stand_in_for(kind, dtype, device)
    if isinstance(stand_in, str):
        return Path(kind, dtype, None, stand_in)
    out = SIZE // (WIDTH * dtype.itemsize)
    linear = nn.Linear(WIDTH, out, bias=False, device="meta", dtype=dtype)
    linear.weight = nn.Parameter(torch.full((out, WIDTH), 0.01, dtype=dtype), requires_grad=False)
    start = time.perf_counter()
    faster = stand_in(linear)
    packing = time.perf_counter() - start
    plain, fast = {}, {}
    for count in rows:
        x = torch.ones(count, WIDTH, dtype=dtype)
        plain[count], fast[count] = _in_turns(count, (linear, x), (faster, x.to(faster.dtype)))
    return Path(kind, dtype, stand_in, "", packing, plain, fast)


def _in_turns(rows: int, *calls: tuple[Callable[[Tensor], Tensor], Tensor]) -> list[float]:
    """The best seconds of each; once is enough for many rows."""
    best = [math.inf] * len(calls)
    for _ in range(ROUNDS if rows == 1 else 1):
        for at, (run, x) in enumerate(calls):
            start = time.perf_counter()
            run(x)
            best[at] = min(best[at], time.perf_counter() - start)
    return best

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
MARGIN = 0.95  # of the time of what is simpler: what takes more is not worth it
PROMPT = 64  # rows that stand for a prompt
# Kinds that compute what nn.Linear does, the simplest first, and bytes of weights, token by token, for fewer of which
# even asking takes longer than it could save.
ASKING = {"direct": 2e9, "packed": 8e9}


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

    def seconds(self, prompt: int, tokens: int, rows: int = 1) -> float:
        """What it takes for a prompt and so many tokens after it in each row, one at a time, packing included."""
        return self.packing + _total(self.fast, prompt, tokens, rows) if self.stand_in else math.inf

    def pays(self, prompt: int, tokens: int, rows: int = 1) -> bool:
        """Whether it saves more than packing takes."""
        plain = _total(self.plain, prompt, tokens, rows) if self.plain else 0.0
        return self.seconds(prompt, tokens, rows) < MARGIN * plain

    def __str__(self) -> str:
        name = f"{dtype_name(self.dtype)}, {self.kind}"
        if self.stand_in is None:
            return f"{name}: nn.Linear as it is ({self.why})"
        times = ", ".join(f"{self.plain[rows] / self.fast[rows]:.2f} x for {_counted(rows)}" for rows in self.plain)
        return f"{name}: {self.stand_in.words}: {times} as fast as nn.Linear; {self._break_even}"

    @property
    def _break_even(self) -> str:
        """From when on it pays, in words."""
        if self.stand_in and not self.stand_in.copies:
            return "there is nothing to pack"
        saved = {rows: MARGIN * self.plain[rows] - self.fast[rows] for rows in self.plain}
        few, words = min(saved), []
        if saved[few] > 0:
            words.append(_tokens(math.ceil(self.packing / saved[few]), few))
        if saved[PROMPT] > 0:
            words.append(f"a prompt of {math.ceil(self.packing / saved[PROMPT] * PROMPT)}")
        return f"packing is paid back by {' or '.join(words) or 'nothing'}"


def _total(seconds: Mapping[int, float], prompt: int, tokens: int, rows: int) -> float:
    """Of a prompt and so many tokens after it in each row; more rows than a prompt's take in proportion."""
    each = seconds[PROMPT] / PROMPT
    return (seconds[rows] if rows <= PROMPT else each * rows) * tokens + each * prompt


def _counted(rows: int) -> str:
    return f"{rows} row{'s' if rows > 1 else ''}"


def _tokens(tokens: int, rows: int) -> str:
    return f"{tokens} tokens{f' in each of {rows} rows' if rows > 1 else ''}"


def chosen(
    dtype: torch.dtype, device: torch.device, size: int, prompt: int, tokens: int, rows: int = 1
) -> tuple[str | None, str]:
    """The kind of linear maps that is fastest for a prompt and so many tokens after it, None for plain, and why.

    `size` is that of all weights, in bytes; `rows` continue the prompt together.
    """
    read = size * (tokens * max(1, rows / ROWS) + prompt / ROWS)
    asked = [kind for kind, least in ASKING.items() if read >= least]
    if not asked:
        return None, f"nn.Linear as it is (nothing can pay for {_tokens(tokens, rows)} of a model of {size:,} bytes)"
    paths = [measured(kind, dtype, rows=together(rows), device=device) for kind in asked]
    kind, least = None, math.inf
    for path in paths:
        seconds = path.seconds(prompt, tokens, rows)
        if path.pays(prompt, tokens, rows) and seconds < MARGIN * least:
            kind, least = path.kind, seconds
    what = f"{kind or 'nn.Linear as it is'}, for {_tokens(tokens, rows)} after {prompt}"
    return kind, "\n".join((what, *map(str, paths)))


def together(rows: int) -> tuple[int, ...]:
    """The numbers of rows to measure where so many continue a prompt."""
    return (rows, PROMPT) if rows < PROMPT else (PROMPT,)


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
    for _ in range(ROUNDS if rows < PROMPT else 1):
        for at, (run, x) in enumerate(calls):
            start = time.perf_counter()
            run(x)
            best[at] = min(best[at], time.perf_counter() - start)
    return best

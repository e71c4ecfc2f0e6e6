"""What the benchmarks that take turns with transformers in one process share: shapes, runs, clocks, and the table."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import wait, where

import archport

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-2-layers": ("gpt2", {"n_layer": 2}),
}
for _name, _width, _layers, _heads in (
    ("pythia-70m", 512, 6, 8),
    ("pythia-160m", 768, 12, 12),
    ("pythia-410m", 1024, 24, 16),
    ("pythia-1.4b", 2048, 24, 16),
):
    _sizes = {"hidden_size": _width, "num_hidden_layers": _layers, "num_attention_heads": _heads}
    SHAPES[_name] = "gpt_neox", _sizes | {"intermediate_size": 4 * _width, "vocab_size": 50304}
_llama = {"vocab_size": 32000, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_llama |= {"num_key_value_heads": 4, "intermediate_size": 3072, "max_position_embeddings": 2048}
SHAPES["llama-160m"] = "llama", _llama
SHAPES["llama-2-layers"] = "llama", _llama | {"num_hidden_layers": 2}
_experts = _llama | {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2}
_experts |= {"intermediate_size": 1024, "num_local_experts": 8, "num_experts_per_tok": 2}
SHAPES["mixtral-8x20m"] = "mixtral", _experts
SHAPES["neox-tiny"] = (
    "gpt_neox",
    {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "vocab_size": 32000,
    },
)
TOKENS = 32000  # that every vocabulary above has


@dataclass
class Case:
    """One thing that all do: `ours`, and the ways in which transformers can, of which the best counts."""

    what: str
    ours: Callable[[], Any]
    theirs: Sequence[Callable[[], Any]]
    goal: float | None = None
    steps: int = 1
    peers: dict[str, Callable[[], float]] = field(default_factory=dict)  # each returns its own seconds


@dataclass
class Line:
    """The seconds of each round of a case, a step."""

    what: str
    ours: list[float]
    theirs: list[float]
    goal: float | None = None
    peers: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times as fast as transformers archport is, by the medians."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    @property
    def best(self) -> float:
        """The same by the best rounds, which others on the machine disturbed least."""
        return min(self.theirs) / min(self.ours)

    def cells(self, peers: Sequence[str]) -> tuple[str, ...]:
        """The line as text."""
        goal = "" if self.goal is None else f"{self.goal:.3g} x: {'met' if self.ratio >= self.goal else 'missed'}"
        times = (f"{1e3 * statistics.median(samples):.1f} ms" for samples in (self.ours, self.theirs))
        against = (
            f"{statistics.median(self.theirs) / statistics.median(self.peers[peer]):.2f} x"
            if peer in self.peers
            else ""
            for peer in peers
        )
        return (self.what, *times, f"{self.ratio:.2f} x", f"{self.best:.2f} x", goal, *against)


def in_turns(cases: Sequence[Case], rounds: int) -> list[Line]:
    """Run each case of all libraries in turns, once for nothing and then a few rounds."""
    lines = []
    for case in cases:
        runs = [case.ours, *case.theirs]
        for run in (*runs, *case.peers.values()):
            run()
        samples: list[list[float]] = [[] for _ in runs]
        peers: dict[str, list[float]] = {name: [] for name in case.peers}
        for _ in range(rounds):
            for seconds, run in zip(samples, runs, strict=True):
                seconds.append(timed(run) / case.steps)
            for name, peer in case.peers.items():
                peers[name].append(peer() / case.steps)
        lines.append(Line(case.what, samples[0], min(samples[1:], key=statistics.median), case.goal, peers))
    return lines


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one run, from an idle GPU to the end of what it has to do for it."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def reference_of(shape: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A transformers model of random weights, drawn on its device."""
    torch.manual_seed(0)
    model_type, sizes = SHAPES[shape]
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).to(device).eval()


def ids(rows: int, length: int, device: str = "cpu") -> torch.Tensor:
    """The same random tokens every time."""
    return torch.randint(0, TOKENS, (rows, length), generator=torch.Generator().manual_seed(1)).to(device)


def go(model: Any, prompt: torch.Tensor, tokens: int, **more: Any) -> Callable[[], Any]:
    """Generation with archport."""
    return lambda: archport.generate(model, prompt, max_new_tokens=tokens, greedy=True, end=[], **more)


# The ways in which transformers generates; a GPU it compiles for by itself, where the cache is static.
DYNAMIC: dict[str, Any] = {}
COMPILED = {"cache_implementation": "static"}
STATIC = COMPILED | {"disable_compile": True}


def hf(model: Any, prompt: torch.Tensor, tokens: int, **more: Any) -> Callable[[], Any]:
    """Generation with transformers, in one of these ways."""
    options = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **more}
    return lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)


def forward(model: Any, prompt: torch.Tensor) -> Callable[[], Any]:
    """A forward pass of either library's model."""

    def run() -> Any:
        with torch.inference_mode():
            output = model(prompt)
            return getattr(output, "logits", output)

    return run


def limits(device: str = "cpu") -> tuple[float, float]:
    """What this machine can do at all: bytes read and float32 operations a second."""
    block, square = torch.ones(1 << 26, device=device), torch.ones(1024, 1024, device=device)
    read = min(timed(block.sum) for _ in range(5))
    multiply = min(timed(lambda: square @ square) for _ in range(5))
    return block.nbytes / read, 2 * 1024**3 / multiply


def rendered(lines: Sequence[Line], about: str, device: str = "cpu") -> str:
    """The table in Markdown, under what it was measured with."""
    read, multiply = limits(device)
    can = f"read {read / 1e9:.1f} GB/s, multiply {multiply / 1e9:.0f} GFLOP/s in float32"
    peers = list(dict.fromkeys(name for line in lines for name in line.peers))
    head = (
        "what",
        "archport",
        "transformers",
        "times as fast",
        "by the best rounds",
        "goal",
        *(f"{peer}, times as fast" for peer in peers),
    )
    rows = [dict(zip(head, line.cells(peers), strict=True)) for line in lines]
    return f"`python {' '.join(sys.argv)}`: {about}; {can}; {where()}.\n\n{table(rows)}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in Markdown, under all columns that any of them has."""
    head = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[in_cell(row.get(column, "")) for column in head] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *cells])


def in_cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def write(page: Path, mark: str, text: str) -> None:
    """Replace what stands between a page's markers."""
    begin, end = f"<!-- begin: {mark} -->", f"<!-- end: {mark} -->"
    before, rest = page.read_text("utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}", "utf-8")

"""What a run tells while it goes: one record a step, and a line of csv for each that is logged."""

import csv
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

SMOOTHED = 20  # steps over which the rate is counted
COLUMNS = ("step", "loss", "eval_loss", "learning_rate", "grad_norm")
LOG = "log.csv"


@dataclass(frozen=True)
class Progress:
    """Where a run is; losses in nats a token, memory is the most that the process has held, in bytes."""

    step: int
    steps: int
    loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    memory: int = 0
    seconds_left: float | None = None

    def __str__(self) -> str:
        shown = {"loss": (self.loss, "{:.4f}"), "validation": (self.validation_loss, "{:.4f}")}
        shown |= {"lr": (self.learning_rate, "{:.2e}"), "gradient": (self.gradient_norm, "{:.2f}")}
        parts = [f"{name} {form.format(value)}" for name, (value, form) in shown.items() if value is not None]
        if self.tokens_per_second is not None and self.seconds_left is not None:
            left = time.strftime("%H:%M:%S", time.gmtime(self.seconds_left))
            parts += [f"{self.tokens_per_second:,.0f} tokens/s", f"{self.memory / 1e9:.1f} GB", f"{left} left"]
        return f"step {self.step}/{self.steps}  " + "  ".join(parts)


def most_held(device: torch.device) -> int:
    """The most memory that was held so far, in bytes: on the device, or by the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Watcher(TrainerCallback):  # type: ignore[misc]  # of which mypy knows no types
    """Tells `told` where the run is after each step, and `evaluated` after each validation; writes the log."""

    def __init__(
        self, tokens: int, told: Callable[[Progress], None], evaluated: Callable[[Progress], None], log: Path | None
    ) -> None:
        self.tokens, self.told, self.evaluated, self.log = tokens, told, evaluated, log
        self.progress = Progress(0, 0)
        self.seconds: list[float] = []  # of the last steps
        self.begun = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Take up the log of a run that goes on."""
        self.progress = Progress(state.global_step, state.max_steps)
        if self.log is not None:
            write_log(self.log, state.log_history)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Start the clock, which stands still while the run is validated or saved."""
        self.begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Count, and have the last step validated."""
        self.seconds = [*self.seconds, time.perf_counter() - self.begun][-SMOOTHED:]
        each = sum(self.seconds) / len(self.seconds)
        left = each * (state.max_steps - state.global_step)
        self.progress = replace(
            self.progress,
            step=state.global_step,
            steps=state.max_steps,
            tokens_per_second=self.tokens / each,
            memory=most_held(args.device),
            seconds_left=left,
        )
        self.told(self.progress)
        if state.global_step >= state.max_steps:
            control.should_log = control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep what is logged."""
        names = {"loss": "loss", "eval_loss": "validation_loss", "learning_rate": "learning_rate"}
        names |= {"grad_norm": "gradient_norm"}
        known: dict[str, Any] = {ours: float(logs[theirs]) for theirs, ours in names.items() if theirs in logs}
        self.progress = replace(self.progress, step=state.global_step, steps=state.max_steps, **known)
        if self.log is not None and known:
            append_log(self.log, [{**logs, "step": state.global_step}])
        if "eval_loss" in logs:
            self.evaluated(self.progress)


def write_log(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """The log as a table, from its first line on."""
    path.write_text(",".join(COLUMNS) + "\n", "utf-8")
    append_log(path, [row for row in rows if row.keys() & {"loss", "eval_loss"}])


def append_log(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """More lines of it."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n").writerows(rows)

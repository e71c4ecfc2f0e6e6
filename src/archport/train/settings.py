"""What a run is told: every setting with its default, checked together before anything is read or written."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..checking import shown
from ..errors import CheckpointError, ConfigError
from ..files.strict_json import read_json
from ..files.write import whole_file

FILE = "training.json"
SCHEDULES = ("cosine", "linear", "constant")
DTYPES = ("float32", "bfloat16")
LOGS = ("csv", "tensorboard")
DEVICES = ("auto", "cpu")
# What a run is: with another it is another run.
FIXED = ("arch", "source", "sizes", "tokenizer", "context", "lora")
# What a run may be told otherwise when it goes on, for it changes no number of the training itself.
FREE = {"out", "eval_every", "save_every", "keep", "log_to", "sample", "device", "recompute", "recipe"}
LARGEST = 1 << 20  # bytes of the file
SEEDS = 1 << 32  # that numpy takes


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a run of `archport train`; `context` counts tokens, `eval_every` and `save_every` count steps.

    `arch` and `sizes` begin with fresh weights, `source` with those of a checkpoint. `batch` counts blocks of a step
    over all processes, before `accumulate`. `min_lr` is where the schedule ends, a tenth of `lr` unless given;
    `held_back` is the share of the data at its end that is for validation alone. Raises: ConfigError.
    """

    data: tuple[str, ...]
    out: str
    arch: str | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    tokenizer: str | None = None
    context: int = 256
    batch: int = 32
    accumulate: int = 1
    steps: int = 2000
    lr: float = 1e-3
    min_lr: float | None = None
    warmup: int = 100
    schedule: str = "cosine"
    weight_decay: float = 0.1
    beta2: float = 0.99
    clip: float = 1.0
    dropout: float | None = None
    dtype: str = "float32"
    eval_every: int = 250
    save_every: int = 500
    keep: int = 3
    seed: int = 0
    log_to: str = "csv"
    compile: bool = False
    recompute: bool = False
    lora: int = 0
    sample: str | None = None
    held_back: float = 0.1
    device: str = "auto"
    recipe: str | None = None

    def __post_init__(self) -> None:
        faults = dict(self._faults())
        if faults:
            raise ConfigError(faults, "train")

    def _faults(self) -> Iterator[tuple[str, str]]:
        least = {"context": 1, "batch": 1, "accumulate": 1, "steps": 1, "eval_every": 1, "save_every": 1, "keep": 1}
        for name, number in (least | {"warmup": 0, "lora": 0, "seed": 0}).items():
            found = getattr(self, name)
            if type(found) is not int or found < number:
                yield name, f"found {shown(found)}, expected a whole number from {number}"
        if type(self.seed) is int and self.seed >= SEEDS:
            yield "seed", f"found {shown(self.seed)}, expected a whole number below {SEEDS}"
        for name, (above, below) in {"lr": (0, 100), "beta2": (0, 1), "held_back": (0, 1)}.items():
            if not (_is_number(getattr(self, name)) and above < getattr(self, name) < below):
                yield name, f"found {shown(getattr(self, name))}, expected a number between {above} and {below}"
        for name in ("weight_decay", "clip", "min_lr"):
            found = getattr(self, name)
            if not (_is_number(found) and 0 <= found < float("inf")) and (name, found) != ("min_lr", None):
                yield name, f"found {shown(found)}, expected a number from 0"
        if isinstance(self.min_lr, int | float) and _is_number(self.lr) and self.min_lr > self.lr:
            yield "min_lr", f"found {self.min_lr}, expected no more than lr, {self.lr}"
        if self.sample == "":
            yield "sample", "found an empty text, expected one to continue"
        if self.dropout is not None and not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            yield "dropout", f"found {shown(self.dropout)}, expected a number from 0 to below 1"
        for name, known in {"schedule": SCHEDULES, "dtype": DTYPES, "log_to": LOGS, "device": DEVICES}.items():
            if getattr(self, name) not in known:
                yield name, f"found {shown(getattr(self, name))}, expected {' or '.join(known)}"
        if not self.data:
            yield "data", "found none, expected texts, folders of texts, or a file of archport tokens"
        if (self.arch is None) == (self.source is None):
            yield "arch", "expected --arch for fresh weights or --from for those of a checkpoint, one of both"
        if self.source is not None and self.sizes:
            yield "sizes", f"found {', '.join(self.sizes)}, but the sizes are those of --from {self.source}"
        if self.lora and self.source is None:
            yield "lora", "found no --from, expected a checkpoint to adapt"

    @property
    def last_lr(self) -> float:
        """Where the schedule ends."""
        return self.lr / 10 if self.min_lr is None else self.min_lr

    def save(self, folder: Path) -> None:
        """Write them into the folder of a run. Raises: ExportError."""
        whole_file(folder / FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())

    def unlike(self, folder: Path) -> dict[str, str]:
        """What a run that goes on there was told otherwise, a line each by its name. Raises: CheckpointError."""
        before = saved(folder)
        now = json.loads(json.dumps(asdict(self)))
        names = [one.name for one in fields(self) if one.name not in FREE]
        lines = ((name, before.get(name), now[name]) for name in names if before.get(name) != now[name])
        return {name: f"{name} was {shown(old)}, is {shown(new)}" for name, old, new in lines}


def saved(folder: Path) -> Mapping[str, Any]:
    """The settings in the folder of a run, by their names. Raises: CheckpointError."""
    path = folder / FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: found no {FILE}, expected the folder of a run to go on with")
    return read_json(path, LARGEST)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)

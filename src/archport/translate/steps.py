"""What a load does, one step a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch

from ..config import dtype_name
from ..files.header import Header

PIECE = 2 << 20  # bytes of a source that are copied at a time


class StepKind(str, Enum):
    """What happens to a tensor."""

    IN_PLACE = "in place"
    TRANSPOSED = "in place, transposed"
    REARRANGED = "rearranged"
    CAST = "cast"
    REARRANGED_CAST = "rearranged, cast"
    ABSENT = "zeros, as the file has none"
    TIED = "tied"
    SPARE = "held to what it should be, not used"
    IGNORED = "ignored"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class TensorStep:
    """What happens to one tensor of ours, or to one of theirs that we do not use.

    `keys` are in the file's own spelling; `shape` and `dtype` are those of the result, `file_dtype` that in the file.
    """

    kind: StepKind
    name: str | None
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    file_dtype: torch.dtype
    dtype: torch.dtype
    pattern: str | None = None
    why: str = ""

    @property
    def in_place(self) -> bool:
        """Whether the result is the file's own memory."""
        return self.kind in (StepKind.IN_PLACE, StepKind.TRANSPOSED)

    @property
    def bytes(self) -> int:
        """Size of the result in memory."""
        return Header(self.shape, self.dtype).bytes

    @property
    def how(self) -> str:
        """What happens, with the pattern it follows and the reason it is left out."""
        cast = f" {dtype_name(self.file_dtype)} to {dtype_name(self.dtype)}" if self.file_dtype != self.dtype else ""
        pattern = f": {self.pattern}" if self.pattern and len(self.shape) > 1 else ""
        why = f": {self.why}" if self.why else ""
        return f"{self.kind}{cast}{pattern}{why}"


@dataclass(frozen=True)
class Plan:
    """What a load does, one step a tensor: our parameters in their order, then what is tied or ignored.

    `has_head` says whether the file holds a head; `notes` are lines on what was left aside or stands for another.
    """

    steps: tuple[TensorStep, ...]
    axes: Mapping[str, int]
    dtype: torch.dtype
    has_head: bool = True
    notes: tuple[str, ...] = ()

    @property
    def mapped(self) -> list[TensorStep]:
        """The steps that make a parameter."""
        unused = StepKind.TIED, StepKind.SPARE, StepKind.IGNORED
        return [step for step in self.steps if step.kind not in unused]

    def of_kind(self, kind: StepKind | str) -> list[TensorStep]:
        """The steps of one kind."""
        return [step for step in self.steps if step.kind == kind]

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied head counted once."""
        return sum(torch.Size(step.shape).numel() for step in self.mapped)

    @property
    def bytes_in_place(self) -> int:
        """Bytes used where they lie in the file, never copied."""
        return sum(step.bytes for step in self.steps if step.in_place)

    @property
    def bytes_copied(self) -> int:
        """Bytes of parameters that get memory of their own."""
        return sum(step.bytes for step in self.mapped if not step.in_place)

    @property
    def key_table(self) -> list[dict[str, str]]:
        """A row a tensor: ours, its shape, theirs, how one becomes the other."""
        return [
            {
                "ours": step.name or "-",
                "shape": str(step.shape),
                "theirs": " + ".join(step.keys) or "-",
                "how": step.how,
            }
            for step in self.steps
        ]

    @property
    def peak_bytes(self) -> int:
        """The most memory that weights take at once, on one core: all parameters, and a piece of what is copied."""
        sources = (Header(step.shape, step.file_dtype).bytes for step in self.mapped if not step.in_place)
        return self.bytes_in_place + self.bytes_copied + min(max(sources, default=0), PIECE)

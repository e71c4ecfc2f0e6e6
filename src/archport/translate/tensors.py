"""What a key table does: tensors of a file to our parameters and back, planned from headers before a byte is read."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from functools import partial
from typing import NamedTuple

import torch
from einops import EinopsError, rearrange
from torch import Tensor, nn

from ..config import DecoderConfig, dtype_name
from ..errors import MappingError
from ..files.header import Header
from .pattern import Layout, regroups
from .table import Table

MAX_PAIRS = 100_000  # of unknown and missing keys that are compared for hints
PIECE = 2 << 20  # bytes of a source that are copied at a time


class StepKind(str, Enum):
    """What happens to a tensor."""

    IN_PLACE = "in place"
    TRANSPOSED = "in place, transposed"
    REARRANGED = "rearranged"
    CAST = "cast"
    REARRANGED_CAST = "rearranged, cast"
    TIED = "tied"
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
    """What a load does, one step a tensor: our parameters in their order, then what is tied or ignored."""

    steps: tuple[TensorStep, ...]
    axes: Mapping[str, int]
    dtype: torch.dtype

    @property
    def mapped(self) -> list[TensorStep]:
        """The steps that make a parameter."""
        return [step for step in self.steps if step.kind not in (StepKind.TIED, StepKind.IGNORED)]

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
            {"ours": step.name or "-", "shape": str(step.shape), "theirs": " + ".join(step.keys), "how": step.how}
            for step in self.steps
        ]

    @property
    def peak_bytes(self) -> int:
        """The most memory that weights take at once, on one core: all parameters, and a piece of what is copied."""
        sources = (Header(step.shape, step.file_dtype).bytes for step in self.mapped if not step.in_place)
        return self.bytes_in_place + self.bytes_copied + min(max(sources, default=0), PIECE)


def plan(
    table: Table, cfg: DecoderConfig, model: nn.Module, headers: Mapping[str, Header], *, dtype: torch.dtype, where: str
) -> Plan:
    """Match a checkpoint's headers with a model's parameters, which may be on `meta`.

    Raises: MappingError with every fault, unless each parameter is made exactly once and each key is explained.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    rows, faults = table.rows_of([*shapes, *(name for name in table.tied if name not in shapes and table.rows(name))])
    wanted = {key for name in shapes if name in rows for key in rows[name].keys}
    ties = {rows[name].keys[0]: name for name in table.tied if name not in shapes and name in rows}
    spellings = _spellings(table, wanted | ties.keys(), headers, faults)
    unclaimed = [theirs for key, theirs in spellings.items() if key not in wanted]
    absent = [key for key in wanted if key not in spellings]
    if len(unclaimed) * len(absent) > MAX_PAIRS:
        unclaimed, absent = [], []

    steps: list[TensorStep] = []
    for name, shape in shapes.items():
        if name not in rows:
            continue
        keys, pattern = rows[name]
        missing = [key for key in keys if key not in spellings]
        faults += [f"{key}: missing, expected for {name} {shape}{nearest(key, unclaimed)}" for key in missing]
        if not missing:
            theirs = {spellings[key]: headers[spellings[key]] for key in keys}
            faults += _header_faults(name, shape, theirs, Layout(pattern, len(keys), cfg.axes))
            kind = _kind(pattern, shape, casts=any(header.dtype != dtype for header in theirs.values()))
            file_dtype = headers[spellings[keys[0]]].dtype
            steps.append(TensorStep(kind, name, tuple(theirs), shape, file_dtype, dtype, pattern))
    unused = {key: theirs for key, theirs in spellings.items() if key not in wanted}
    steps += _unused(table, ties, unused, headers, dtype, absent, faults)
    if faults:
        raise MappingError(sorted(faults, key=_natural), where)
    return Plan(tuple(steps), cfg.axes, dtype)


def _unused(
    table: Table,
    ties: Mapping[str, str],
    unused: Mapping[str, str],
    headers: Mapping[str, Header],
    dtype: torch.dtype,
    absent: Sequence[str],
    faults: list[str],
) -> Iterator[TensorStep]:
    """The steps of tensors that make no parameter: tied, ignored for a reason, or else a fault."""
    for key, theirs in unused.items():
        header, why = headers[theirs], table.reason(key)
        if key in ties:
            why = "if it equals the embedding, else the model is untied"
            yield TensorStep(StepKind.TIED, ties[key], (theirs,), *header, dtype, why=why)
        elif why is not None:
            yield TensorStep(StepKind.IGNORED, None, (theirs,), *header, header.dtype, why=why)
        else:
            faults.append(f"{theirs}: found {header.shape}, but no parameter takes it{nearest(key, absent)}")


class Copy(NamedTuple):
    """A piece of a source that goes into a piece of a parameter, perhaps in another dtype."""

    target: Tensor
    source: Tensor
    name: str | None


def import_tensor(
    step: TensorStep, axes: Mapping[str, int], read: Callable[[str], Tensor]
) -> tuple[Tensor, list[Copy]]:
    """One parameter, and the copies that fill it: none where it is the file's own memory."""
    if not regroups(step.pattern):
        source = read(step.keys[0])
        same = source.dtype == step.dtype
        tensor = source if same else torch.empty(source.shape, dtype=step.dtype)
        copies = [] if same else _pieces(tensor, source, step.name)
        return tensor if step.pattern is None else rearrange(tensor, step.pattern), copies
    ours = torch.empty(step.shape, dtype=step.dtype)
    layout = Layout(step.pattern, len(step.keys), axes)
    parts = zip(step.keys, layout.parts(ours), strict=True)
    return ours, [piece for key, part in parts for piece in _pieces(part, layout.split(read(key)), step.name)]


def _pieces(target: Tensor, source: Tensor, name: str | None) -> list[Copy]:
    """A copy in pieces of a few megabytes, so that cores share it and little of the source is in memory at a time."""
    rows = max(1, PIECE * len(source) // max(1, source.nbytes)) if source.ndim else 1
    if source.ndim == 0:
        return [Copy(target, source, name)]
    return [Copy(*pair, name) for pair in zip(torch.split(target, rows), torch.split(source, rows), strict=True)]


class Outgoing(NamedTuple):
    """A tensor to export: what its header will say, and how to make it."""

    header: Header
    make: Callable[[], Tensor]


def export_tensors(
    table: Table, cfg: DecoderConfig, parameters: Mapping[str, Tensor], *, dtype: torch.dtype | None = None
) -> dict[str, Outgoing]:
    """Every tensor of an exported checkpoint under its key; each is made, contiguous, only when asked for.

    Raises: MappingError for a parameter without its one row, and for a key that two rows name.
    """
    rows, faults = table.rows_of(parameters)
    if faults:
        raise MappingError(faults, "key table", "nothing was written")
    outgoing: dict[str, Outgoing] = {}
    for name, parameter in parameters.items():
        keys, pattern = rows[name]
        layout = Layout(pattern, len(keys), cfg.axes)
        header = Header(layout.their_shape(tuple(parameter.shape)), dtype or parameter.dtype)
        for key, part in zip(keys, layout.parts(parameter.detach()), strict=True):
            outgoing[key] = Outgoing(header, partial(_export_tensor, layout, header, part))
    return outgoing


def _export_tensor(layout: Layout, header: Header, part: Tensor) -> Tensor:
    if part.shape == header.shape and part.is_contiguous() and part.dtype == header.dtype:
        return part
    theirs = torch.empty(header.shape, dtype=header.dtype, device=part.device)
    layout.split(theirs).copy_(part)
    return theirs


def _kind(pattern: str | None, shape: tuple[int, ...], *, casts: bool) -> StepKind:
    if regroups(pattern):
        return StepKind.REARRANGED_CAST if casts else StepKind.REARRANGED
    if casts:
        return StepKind.CAST
    return StepKind.IN_PLACE if pattern is None or len(shape) == 1 else StepKind.TRANSPOSED


def _spellings(table: Table, known: Collection[str], keys: Iterable[str], faults: list[str]) -> dict[str, str]:
    """Each canonical key with the file's own spelling of it; an unknown key stands for itself."""
    spellings: dict[str, str] = {}
    for key in keys:
        meanings = [c for c in table.canonical(key) if c in known or table.reason(c) is not None]
        canonical = meanings[0] if meanings else key
        if canonical in spellings:
            faults.append(f"{key}: found beside {spellings[canonical]}, which means the same")
        else:
            spellings[canonical] = key
    return spellings


def _header_faults(name: str, shape: tuple[int, ...], headers: Mapping[str, Header], layout: Layout) -> Iterator[str]:
    try:
        expected = layout.their_shape(shape)
    except EinopsError:
        yield f"{name}: the key table's pattern {layout.theirs} -> {layout.ours} does not fit shape {shape}"
        return
    for key, header in headers.items():
        if header.shape != expected:
            yield f"{key}: found {header.shape}, expected {expected} for {name} {shape}"
        if not header.dtype.is_floating_point:
            yield f"{key}: found {header.dtype}, expected a floating-point type for {name}"


def nearest(key: str, candidates: Iterable[str]) -> str:
    """The likeliest misspelling of a name among those of the same layer, as a hint; empty when none is close."""
    layer = re.findall(r"\d+", key)
    close = get_close_matches(key, [other for other in candidates if re.findall(r"\d+", other) == layer], n=1)
    return f"; nearest: {close[0]}" if close else ""


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]

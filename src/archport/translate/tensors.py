"""What a key table does: tensors of a file to our parameters and back, planned from headers before a byte is read."""

import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import DecoderConfig, dtype_name
from ..errors import MappingError
from ..files.header import Header
from .pattern import Layout, Row
from .table import Table, left_over

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
    present = {meaning for key in headers for meaning in table.canonical(key)}
    tied = [name for name in table.tied if name not in shapes and table.rows(name, cfg)]
    rows, faults = table.rows_of([*shapes, *tied], cfg, present)
    faults += left_over(rows, cfg.axes)
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
        row = rows[name]
        keys = tuple(dict.fromkeys(row.keys))
        missing = [key for key in keys if key not in spellings]
        faults += [f"{key}: missing, expected for {name} {shape}{nearest(key, unclaimed)}" for key in missing]
        if not missing:
            step_keys = tuple(spellings[key] for key in row.keys)
            theirs = {key: headers[key] for key in step_keys}
            own = list(_header_faults(name, shape, theirs, replace(row, keys=step_keys), cfg.axes))
            faults += own
            casts = any(header.dtype != dtype for header in theirs.values())
            kind = _kind(row, shape, tuple(cfg.axes.items()), casts=casts) if not own else StepKind.CAST
            steps.append(TensorStep(kind, name, step_keys, shape, headers[step_keys[0]].dtype, dtype, row.pattern))
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
    if step.pattern is None:
        source = read(step.keys[0])
        if source.dtype == step.dtype:
            return source, []
        ours = torch.empty(source.shape, dtype=step.dtype)
        return ours, list(_pieces(ours, source, step.name))
    layout = Layout(Row(step.keys, step.pattern), axes)
    if step.in_place and (view := layout.view(read(step.keys[0]), step.shape)) is not None:
        return view, []
    ours = _like_the_view(layout, step) if step.kind == StepKind.CAST else torch.empty(step.shape, dtype=step.dtype)
    pairs = (pair for key in dict.fromkeys(step.keys) for pair in layout.pairs(key, ours, read(key)))
    return ours, [piece for pair in pairs for piece in _pieces(*pair, step.name)]


def _like_the_view(layout: Layout, step: TensorStep) -> Tensor:
    """A parameter whose memory is in the order of the file's, so that a cast goes through both from end to end."""
    source = torch.empty(layout.their_shape(step.keys[0], step.shape), device="meta")
    view = layout.view(source, step.shape)
    strided = view is not None and not view.is_contiguous() and view.numel() == source.numel()
    return torch.empty(step.shape[::-1], dtype=step.dtype).T if strided else torch.empty(step.shape, dtype=step.dtype)


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
    table: Table,
    cfg: DecoderConfig,
    parameters: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    present: Container[str] | None = None,
) -> dict[str, Outgoing]:
    """Every tensor of an exported checkpoint under its key; each is made, contiguous, only when asked for.

    Of alternative rows, those whose keys are all `present` are written, or the first.

    Raises: MappingError for a parameter without its one row, and for a key that two rows name.
    """
    try:
        rows, faults = table.rows_of(parameters, cfg, present)
        if faults := faults + left_over(rows, cfg.axes):
            raise MappingError(faults, "key table")
        return _outgoing(rows, cfg.axes, parameters, dtype)
    except MappingError as error:
        raise MappingError(error.faults, "key table", "nothing was written") from None


def _outgoing(
    rows: Mapping[str, Row], axes: Mapping[str, int], parameters: Mapping[str, Tensor], dtype: torch.dtype | None
) -> dict[str, Outgoing]:
    sources: dict[str, list[tuple[Layout, Tensor]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    faults: list[str] = []
    for name, parameter in parameters.items():
        layout = Layout(rows[name], axes)
        for key in dict.fromkeys(layout.keys):
            sources.setdefault(key, []).append((layout, parameter.detach()))
            try:
                shapes.setdefault(key, layout.their_shape(key, tuple(parameter.shape)))
            except MappingError as error:
                faults.append(f"{name}: {error.faults[0]}")
    if faults:
        raise MappingError(faults, "key table")
    headers = {key: Header(shapes[key], dtype or parts[0][1].dtype) for key, parts in sources.items()}
    return {key: Outgoing(headers[key], partial(_export_tensor, key, headers[key], sources[key])) for key in sources}


def _export_tensor(key: str, header: Header, parts: Sequence[tuple[Layout, Tensor]]) -> Tensor:
    layout, ours = parts[0]
    if layout.pattern is None and ours.is_contiguous() and ours.dtype == header.dtype:
        return ours
    theirs = torch.empty(header.shape, dtype=header.dtype, device=ours.device)
    for layout, ours in parts:
        for part, target in layout.pairs(key, ours, theirs):
            target.copy_(part)
    return theirs


@cache
def _kind(row: Row, shape: tuple[int, ...], axes: tuple[tuple[str, int], ...], *, casts: bool) -> StepKind:
    if row.pattern is None:
        return StepKind.CAST if casts else StepKind.IN_PLACE
    layout = Layout(row, dict(axes))
    theirs = torch.empty(layout.their_shape(row.keys[0], shape), device="meta")
    view = layout.view(theirs, shape)
    if view is None:
        return StepKind.REARRANGED_CAST if casts else StepKind.REARRANGED
    if casts:
        return StepKind.CAST
    return StepKind.IN_PLACE if view.is_contiguous() else StepKind.TRANSPOSED


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


def _header_faults(
    name: str, shape: tuple[int, ...], headers: Mapping[str, Header], row: Row, axes: Mapping[str, int]
) -> Iterator[str]:
    layout = Layout(row, axes)
    for key, header in headers.items():
        try:
            expected = layout.their_shape(key, shape) if row.pattern else shape
        except MappingError as error:
            yield f"{name}: {error.faults[0]}"
            return
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

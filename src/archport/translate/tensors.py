"""What a key table does: tensors of a file to our parameters and back."""

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import DecoderConfig
from ..errors import MappingError
from ..files.header import Header
from .layout import Layout
from .leftovers import left_over
from .pattern import Row
from .steps import PIECE, StepKind, TensorStep
from .table import Table


class Copy(NamedTuple):
    """A piece of a source that goes into a piece of a parameter, perhaps in another dtype."""

    target: Tensor
    source: Tensor
    name: str | None


def import_tensor(
    step: TensorStep, axes: Mapping[str, int], read: Callable[[str], Tensor]
) -> tuple[Tensor, list[Copy]]:
    """One parameter, and the copies that fill it: none where it is the file's own memory."""
    if not step.keys:
        return torch.zeros(step.shape, dtype=step.dtype), []
    if step.pattern is None:
        source = read(step.keys[0])
        if source.dtype == step.dtype:
            return source, []
        ours = torch.empty(source.shape, dtype=step.dtype)
        return ours, list(pieces(ours, source, step.name))
    layout = Layout(Row(step.keys, step.pattern), axes)
    if step.in_place and (view := layout.view(read(step.keys[0]), step.shape)) is not None:
        return view, []
    ours = _like_the_view(layout, step) if step.kind == StepKind.CAST else torch.empty(step.shape, dtype=step.dtype)
    pairs = (pair for key in dict.fromkeys(step.keys) for pair in layout.pairs(key, ours, read(key)))
    return ours, [piece for pair in pairs for piece in pieces(*pair, step.name)]


def _like_the_view(layout: Layout, step: TensorStep) -> Tensor:
    """A parameter whose memory is in the order of the file's, so that a cast goes through both from end to end."""
    source = torch.empty(layout.their_shape(step.keys[0], step.shape), device="meta")
    view = layout.view(source, step.shape)
    strided = view is not None and not view.is_contiguous() and view.numel() == source.numel()
    return torch.empty(step.shape[::-1], dtype=step.dtype).T if strided else torch.empty(step.shape, dtype=step.dtype)


def pieces(target: Tensor, source: Tensor, name: str | None) -> list[Copy]:
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

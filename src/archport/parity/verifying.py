"""Verify a source, a model in memory, or a module of one's own."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import dtype_name
from ..errors import SourceError
from ..fast.linears import is_swapped, swap
from ..foreign.running import Forward
from ..keywords import strict_keywords
from ..layers import Decoder
from ..loading import to_device
from ..port import load, plan
from ..translate.table import Cell
from . import references
from .budget import precision
from .cause import known
from .compare import Comparison
from .foreign.own_module import verify_own_module
from .ids import ids_for
from .judging import compare
from .report import Report
from .settings import Problem, left_in_train_mode, mixed_dtypes, not_comparable, not_finite, require_port


@strict_keywords
@torch.inference_mode(False)
def verify(
    model: Decoder | nn.Module | str | Path | None = None,
    reference: nn.Module | str | Path | None = None,
    *,
    rows: Mapping[str, Cell] | None = None,
    forward: Forward | None = None,
    dtype: torch.dtype | str | None = None,
    against: str = "eager",
    device: str | torch.device = "cpu",
    quick: bool = False,
    packed: bool = False,
    compiled: bool = False,
    revision: str | None = None,
    offline: bool = False,
    variant: str | None = None,
    follow_links: bool = False,
) -> Report:
    """Compare a port with its reference: a Decoder, a folder, a Hub id, or by default the bundled checkpoint.

    `reference` may be any transformers model in memory; without one, transformers' own of the same checkpoint is
    built, with `against` as its attention. `dtype` is float32 for a source, and a model's own for a model. `quick`
    compares logits and embeddings only, `packed` what the port makes with its linear maps packed; `compiled` compiles
    steps of generation too. `revision` to `follow_links` are `load`'s. Neither model is changed.

    `model` may also be a module of your own, in any style; then `reference` may be a source too. `rows` say where its
    tensors are, as a key table does, and `forward(model, ids)` takes its logits where `model(ids)` is not enough.

    Raises: SourceError when there is no reference to be had, MappingError for rows that do not fit, and whatever `load`
    raises.
    """
    device = to_device(device)
    how: dict[str, Any] = {"revision": revision, "offline": offline, "variant": variant, "follow_links": follow_links}
    if isinstance(model, nn.Module) and not isinstance(model, Decoder):
        more: dict[str, Any] = {"dtype": precision(dtype or torch.float32), "against": against, "device": device}
        return verify_own_module(model, reference, rows, forward, how=how, **more)
    if rows is not None or forward is not None:
        raise SourceError(f"rows and forward are for a module of your own, found a {type(model).__name__}")
    if isinstance(reference, str | Path):
        raise SourceError(f"the reference is {str(reference)!r}, expected a transformers model, as GPT2LMHeadModel")
    port, problems = _port(model, how, mixed=dtype is not None)
    target = precision(dtype or (next(port.parameters()).dtype if isinstance(model, Decoder) else torch.float32))
    name = port.origin.name if port.origin else port.architecture
    folder = port.origin.folder if port.origin else None
    source = None
    if reference is None:
        alone = port.origin is not None and port.origin.alone
        if folder is None and not alone:
            raise SourceError(f"{name}: came from no checkpoint; give the transformers model to compare it with")
        if problems:
            return _kept_from(name, "transformers", target, problems)
        if alone or folder is None or port.origin is None:
            reference = references.of_tensors(port, target, against)
        else:
            of_origin: dict[str, Any] = {"variant": port.origin.variant, "follow_links": port.origin.follow_links}
            source = plan(folder, offline=True, headers_only=False, **of_origin)
            reference = references.of_folder(folder, target, against, port.origin.variant)
    else:
        references.require_reference(reference)
        off = not_finite(reference.named_parameters())
        problems += [Problem("", f"the reference's {one.words}") for one in off]
    comparison = Comparison(copy.deepcopy(reference).to(device), ids_for(port, folder, device), target)
    problems += not_comparable(port, comparison.clean)
    if problems:
        return _kept_from(name, comparison.described, target, problems)
    notes = tuple(left_in_train_mode(port))
    port = port.to(device, target).eval()
    comparison.reordered = packed
    comparison.source = source
    which: dict[str, bool] = {"quick": quick, "packed": packed, "compiled": compiled}
    report = compare(swap(port) if packed else port, comparison, name, **which)
    return replace(report, notes=(*notes, *report.notes))


def _kept_from(name: str, against: str, dtype: torch.dtype, problems: list[Problem]) -> Report:
    """The report of a port that cannot be compared."""
    words = tuple(one.words for one in problems)
    return Report(name, against, dtype_name(dtype), (), known(None, problems), words)


def _port(model: Decoder | str | Path | None, how: dict[str, Any], *, mixed: bool) -> tuple[Decoder, list[Problem]]:
    """A port that may be changed, loaded as `how` says, and what keeps it from being compared; dtypes may be `mixed`.

    Raises: SourceError.
    """
    problems: list[Problem] = []
    if isinstance(model, Decoder):
        if is_swapped(model):
            raise SourceError(
                "the model's linear maps are direct, packed or quantised: verify it as loaded, with packed=True"
            )
        if model.is_part:
            raise SourceError(
                "found a part of the model in this process, the rest in others: verify it as loaded in one"
            )
        require_port(model)
        port = copy.deepcopy(model)
        problems += [] if mixed else mixed_dtypes(port)
    elif model is None or isinstance(model, str | Path):
        port = load(model, **how)
    else:
        raise SourceError(f"found a {type(model).__name__}, expected a Decoder of archport, a folder or a Hub id")
    return port, [*problems, *not_finite(port.named_parameters())]

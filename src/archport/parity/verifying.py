"""Verify a source, a model in memory, or every variant of an architecture."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import dtype_name
from ..dtypes import to_dtype
from ..errors import ConfigError, MappingError, SourceError, in_a_line
from ..fast.linears import is_swapped, swap
from ..files.hub.access import HubAccess
from ..foreign.finding import found
from ..foreign.rows import Rows, unused
from ..foreign.running import Forward, require_forward
from ..foreign.searching import NO_ROWS
from ..foreign.sources import plan_of
from ..foreign.theirs import Theirs, unwrapped
from ..generation.text import encoded, tokenizer
from ..keywords import strict_keywords
from ..layers import Decoder, DynamicNTK, Rotary
from ..loading import to_device
from ..port import load, plan
from ..registry import Architecture, architecture, skeleton
from ..translate.table import Cell
from . import references
from .budget import Check
from .cause import find_cause, known
from .compare import Comparison
from .foreign.bugs import with_bugs
from .foreign.verifying import verify_module
from .lines import all_lines
from .locate import DECODER
from .report import Report
from .running import RaisedError
from .settings import (
    Problem,
    left_in_train_mode,
    mixed_dtypes,
    not_comparable,
    not_finite,
    notes_on,
    require_port,
    unlike,
)

LONGEST = 2048  # tokens; scores of a longer text, in float64, fill the memory
TEXT = "def __init__(self, name):\n    return 'Hello, I am a language model, and this text is for me to read'\n"


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
        require_forward(forward)
        rows = rows if rows is None or isinstance(rows, Rows) else Rows(rows)
        comparison = _comparison(reference, precision(dtype or torch.float32), against, device, how)
        if rows is None:
            planned = plan_of(reference, "auto", access=HubAccess(None, None, None), **how)
            try:
                rows = found(Theirs(model), planned, forward, bugs=with_bugs, spare=True)
            except MappingError as error:
                name, against = type(unwrapped(model)).__name__, comparison.described
                return Report(name, against, dtype_name(comparison.dtype), (), problems=(NO_ROWS, *error.faults))
        clean, arch = comparison.clean, architecture(comparison.clean.architecture)
        names = [name for name, _ in clean.named_parameters(remove_duplicate=False)]
        if extra := [*unused(rows, [*names, *arch.table.tied], arch, clean.config)]:
            raise MappingError(extra, f"rows of {type(unwrapped(model)).__name__}", "nothing was compared")
        return verify_module(model, comparison, rows, forward)
    if rows is not None or forward is not None:
        raise SourceError(f"rows and forward are for a module of your own, found {_kind(model)}")
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


def _comparison(
    reference: nn.Module | str | Path | None,
    dtype: torch.dtype,
    against: str,
    device: torch.device,
    how: dict[str, Any],
) -> Comparison:
    """A reference to hold a person's module against: a source, or a transformers model. Raises: SourceError."""
    if reference is None:
        raise SourceError("found no reference, expected the checkpoint or the transformers model that yours is to be")
    if isinstance(reference, nn.Module):
        references.require_reference(reference)
        port, folder = None, None
    else:
        port = load(reference, **how)
        folder, variant = (port.origin.folder, port.origin.variant) if port.origin else (None, None)
        if folder is None or (port.origin is not None and port.origin.alone):
            reference = references.of_tensors(port, dtype, against)
        else:
            reference = references.of_folder(folder, dtype, against, variant)
    comparison = Comparison(copy.deepcopy(reference).to(device), {"": torch.zeros(1, 1, dtype=torch.long)}, dtype)
    comparison.ids = ids_for(port or comparison.clean, folder, device)
    return comparison


def _kept_from(name: str, against: str, dtype: torch.dtype, problems: list[Problem]) -> Report:
    """The report of a port that cannot be compared."""
    words = tuple(one.words for one in problems)
    return Report(name, against, dtype_name(dtype), (), known(None, problems), words)


def _kind(model: object) -> str:
    return f"a {type(model).__name__}"


def _port(model: Decoder | str | Path | None, how: dict[str, Any], *, mixed: bool) -> tuple[Decoder, list[Problem]]:
    """A port that may be changed, loaded as `how` says, and what keeps it from being compared; dtypes may be `mixed`.

    Raises: SourceError.
    """
    problems: list[Problem] = []
    if isinstance(model, Decoder):
        if is_swapped(model):
            raise SourceError("the model's linear maps are packed or quantised: verify it as loaded, with packed=True")
        require_port(model)
        port = copy.deepcopy(model)
        problems += [] if mixed else mixed_dtypes(port)
    elif model is None or isinstance(model, str | Path):
        port = load(model, **how)
    else:
        raise SourceError(f"found a {type(model).__name__}, expected a Decoder of archport, a folder or a Hub id")
    return port, [*problems, *not_finite(port.named_parameters())]


def verify_architecture(
    name: str,
    *,
    dtype: torch.dtype | str = "float32",
    against: str = "eager",
    device: str | torch.device = "cpu",
    quick: bool = False,
) -> list[Report]:
    """Verify tiny loud models of every variant of an architecture. Raises: ConfigError, SourceError."""
    arch = architecture(name)
    unseen = tuple(references.never_varied(arch))
    reports = []
    for variant, sizes in references.variants(arch).items():
        comparison = loud_comparison(
            arch.name, sizes, dtype=precision(dtype), against=against, device=to_device(device)
        )
        report = compare(comparison.port_of(comparison.reference), comparison, variant, quick=quick)
        reports.append(replace(report, never_varied=unseen))
    return reports


def loud_comparison(
    name: str,
    sizes: dict[str, object],
    *,
    dtype: torch.dtype = torch.float32,
    against: str = "eager",
    device: torch.device | str = "cpu",
) -> Comparison:
    """A tiny loud reference of these sizes, with dropout where it has any, ready to compare ports with."""
    arch = architecture(name)
    for given in references.with_dropout(arch, sizes):
        with suppress(SourceError):  # transformers takes no such rates for some
            return _loud(arch, given, dtype, against, device)
    return _loud(arch, sizes, dtype, against, device)


def _loud(
    arch: Architecture, sizes: dict[str, Any], dtype: torch.dtype, against: str, device: torch.device | str
) -> Comparison:
    port = skeleton(arch, arch.config_class(**sizes))
    reference = references.loud(arch, sizes, against).to(device)
    return Comparison(reference, ids_for(port, None, device), dtype)


def compare(
    port: Decoder,
    comparison: Comparison,
    name: str,
    *,
    quick: bool = False,
    packed: bool = False,
    compiled: bool = False,
) -> Report:
    """Hold a port against a reference: all lines, and where one fails, the place and the cause."""
    problems = [*unlike(port, comparison.clean)]
    notes = tuple(notes_on(port, comparison.clean))
    checks: list[Check] = []
    fault = None
    with _told(problems, port):
        for check in all_lines(comparison, port, quick=quick, packed=packed, compiled=compiled):
            checks.append(check)
    with _told(problems, port):
        if not packed and not all(check.ok for check in checks):
            fault = find_cause(comparison, port, checks)
    dtype, words = dtype_name(comparison.dtype), tuple(one.words for one in problems)
    return Report(name, comparison.described, dtype, tuple(checks), known(fault, problems), words, notes=notes)


@contextmanager
def _told(problems: list[Problem], port: Decoder) -> Iterator[None]:
    """Keep for the report that a port raises, or has parameters that its table does not know."""
    try:
        yield
    except (RaisedError, MappingError) as error:
        where = getattr(error, "where", "")  # a module, or what else was asked of the port
        place = where if where == DECODER or where in dict(port.named_modules()) else ""
        problem = Problem(place, in_a_line(error))
        if problem not in problems:
            problems.append(problem)


def ids_for(port: Decoder, folder: Path | None, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The sets of ids to compare on; the first is also used module by module.

    Where frequencies are changed past the context, the first goes past it, if that is short.
    """
    vocab, context = port.config.vocab_size, port.config.context
    past = any(isinstance(part, Rotary) and isinstance(part.scaling, DynamicNTK) for part in port.modules())
    generator = torch.Generator().manual_seed(1)
    whole = "full context" if context <= LONGEST else f"{LONGEST} tokens"
    ids = {
        "random ids": torch.randint(vocab, (2, 32 if past else min(32, context)), generator=generator),
        "edge ids": torch.tensor([[0, vocab - 1, 0, 0, vocab - 1, vocab // 2][:context]]),
        "one token": torch.tensor([[vocab // 3]]),
        whole: torch.randint(vocab, (1, min(context, LONGEST)), generator=generator),
        "many rows": torch.randint(vocab, (9, min(5, context)), generator=generator),
    }
    if folder is not None and (folder / "tokenizer.json").is_file():
        follow_links = port.origin is not None and port.origin.follow_links
        text = encoded(tokenizer(folder, follow_links=follow_links), TEXT)
        ids |= {"text": torch.tensor([text[:context]]).clamp(max=vocab - 1)} if text else {}
    return {name: tokens.to(device) for name, tokens in ids.items()}


def precision(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that can be held against a higher one. Raises: ConfigError."""
    allowed = (torch.float32, torch.float16, torch.bfloat16)
    if to_dtype(dtype) not in allowed:
        raise ConfigError(
            {"dtype": f"found {dtype}, expected float32, float16 or bfloat16: each is held to a higher one"}
        )
    return to_dtype(dtype)

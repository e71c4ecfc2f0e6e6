"""Verify a source, a model in memory, or every variant of an architecture."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import dtype_name
from ..dtypes import to_dtype
from ..errors import ConfigError, SourceError
from ..fast.linears import is_swapped, swap
from ..generation.text import encoded, tokenizer
from ..keywords import strict_keywords
from ..layers import Decoder, DynamicNTK, Rotary
from ..loading import to_device
from ..port import load
from ..registry import architecture, skeleton
from ..translate.table import Cell
from . import references
from .budget import Check
from .compare import Comparison
from .diagnose import LINES, Diagnosis, diagnose, diagnose_line
from .foreign.theirs import Forward
from .foreign.verifying import verify_module
from .lines import all_lines
from .lines.forward import EMBEDDINGS
from .locate import Finding, Trace
from .repair import mended_by, repaired
from .report import Report
from .running import RaisedError
from .settings import mixed_dtypes, not_comparable, not_finite, require_port, unlike

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
    revision: str | None = None,
    offline: bool = False,
    variant: str | None = None,
    follow_links: bool = False,
) -> Report:
    """Compare a port with its reference: a Decoder, a folder, a Hub id, or by default the bundled checkpoint.

    `reference` may be any transformers model in memory; without one, transformers' own of the same checkpoint is
    built, with `against` as its attention. `dtype` is float32 for a source, and a model's own for a model. `quick`
    compares logits and embeddings only, `packed` what the port makes with its linear maps packed. `revision` to
    `follow_links` are `load`'s. Neither model is changed.

    `model` may also be a module of your own, in any style; then `reference` may be a source too. `rows` say where its
    tensors are, as a key table does, and `forward(model, ids)` takes its logits where `model(ids)` is not enough.

    Raises: SourceError when there is no reference to be had, MappingError for rows that do not fit, and whatever `load`
    raises.
    """
    device = to_device(device)
    how = {"revision": revision, "offline": offline, "variant": variant, "follow_links": follow_links}
    if isinstance(model, nn.Module) and not isinstance(model, Decoder):
        comparison = _comparison(reference, precision(dtype or torch.float32), against, device, how)
        return verify_module(model, comparison, rows, forward)
    if rows is not None or forward is not None:
        raise SourceError(f"rows and forward are for a module of your own, found {_kind(model)}")
    if isinstance(reference, str | Path):
        raise SourceError(f"the reference is {str(reference)!r}, expected a transformers model, as GPT2LMHeadModel")
    port, problems = _port(model, how, mixed=dtype is not None)
    target = precision(dtype or (next(port.parameters()).dtype if isinstance(model, Decoder) else torch.float32))
    name = port.origin.name if port.origin else port.architecture
    folder = port.origin.folder if port.origin else None
    if reference is None:
        if folder is None:
            raise SourceError(f"{name}: came from no checkpoint; give the transformers model to compare it with")
        if problems:
            return Report(name, "transformers", dtype_name(target), (), problems=tuple(problems))
        reference = references.of_folder(folder, target, against, port.origin.variant if port.origin else None)
    else:
        references.require_reference(reference)
        problems += not_finite(reference.named_parameters(), "the reference's ")
    comparison = Comparison(copy.deepcopy(reference).to(device), ids_for(port, folder, device), target)
    problems += not_comparable(port, comparison.clean)
    if problems:
        return Report(name, comparison.described, dtype_name(target), (), problems=tuple(problems))
    port = port.to(device, target).eval().requires_grad_(True)
    return compare(swap(port) if packed else port, comparison, name, quick=quick, packed=packed)


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
        if folder is None:
            raise SourceError(f"{reference}: transformers reads no such source; give its model")
        reference = references.of_folder(folder, dtype, against, variant)
    comparison = Comparison(copy.deepcopy(reference).to(device), {"": torch.zeros(1, 1, dtype=torch.long)}, dtype)
    comparison.ids = ids_for(port or comparison.clean, folder, device)
    return comparison


def _kind(model: object) -> str:
    return f"a {type(model).__name__}"


def _port(model: Decoder | str | Path | None, how: dict[str, Any], *, mixed: bool) -> tuple[Decoder, list[str]]:
    """A port that may be changed, loaded as `how` says, and what keeps it from being compared; dtypes may be `mixed`.

    Raises: SourceError.
    """
    problems: list[str] = []
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
    """A tiny loud reference of these sizes, ready to compare ports with."""
    arch = architecture(name)
    port = skeleton(arch, arch.config_class(**sizes))  # type: ignore[arg-type]
    reference = references.loud(arch, sizes, against).to(device)
    return Comparison(reference, ids_for(port, None, device), dtype)


def compare(port: Decoder, comparison: Comparison, name: str, *, quick: bool = False, packed: bool = False) -> Report:
    """Hold a port against a reference: all lines, and where one fails, the place and the cause."""
    problems = [*unlike(port, comparison.clean)]
    checks: list[Check] = []
    fault = None
    try:
        for check in all_lines(comparison, port, quick=quick, packed=packed):
            checks.append(check)
        if not packed and not all(check.ok for check in checks):
            fault = find_cause(comparison, port, checks)
    except RaisedError as error:
        problems.append(str(error))
    return Report(name, comparison.described, dtype_name(comparison.dtype), tuple(checks), fault, tuple(problems))


def find_cause(comparison: Comparison, port: Decoder, checks: Iterable[Check] = ()) -> Diagnosis | None:
    """The place and the cause of the first difference; a line that fails while modules agree gives its own place."""
    failed = [check for check in checks if not check.ok]
    compared, reference, ids = _compared(comparison, port, failed)
    first = next((finding for finding in compared if finding.differs), None)
    if first is None:
        return _of_lines(comparison, port, failed)
    if first.module == "head" and port.tied and any(check.name == EMBEDDINGS for check in failed):
        return Diagnosis("embed.tokens", None, f"embed.tokens: the head shares it; not the line: {EMBEDDINGS}")
    mended = repaired(comparison, ids)
    if mended is None:
        return diagnose(compared, port, comparison.clean, reference, ids)
    right, repairs = mended
    reference = right.trace(port, ids)
    compared = right.findings(port, reference, ids)
    if not any(finding.differs for finding in compared):
        return None
    diagnosis = diagnose(compared, port, right.clean, reference, ids)
    return diagnosis if diagnosis.fault else mended_by(diagnosis.place, repairs)


def _compared(comparison: Comparison, port: Decoder, failed: Iterable[Check]) -> tuple[list[Finding], Trace, Tensor]:
    """Module by module on a few tokens or, where these show nothing, on the ids of a line of logits that failed."""
    ids, reference = comparison.short, comparison.trace(port)
    compared = comparison.findings(port, reference)
    if not any(finding.differs for finding in compared):
        names = [check.name.removeprefix("logits, ") for check in failed]
        longer = next((name for name in names if name in comparison.ids), None)
        if longer is not None:
            ids = comparison.ids[longer]
            reference = comparison.trace(port, ids)
            compared = comparison.findings(port, reference, ids)
    return compared, reference, ids


def _of_lines(comparison: Comparison, port: Decoder, failed: Iterable[Check]) -> Diagnosis | None:
    for check in failed:
        if check.name in LINES:
            return diagnose_line(check.name, port, comparison.clean, comparison.short)
        if check.part:
            return Diagnosis(check.part, None, f"{check.part}: every module agrees, but not the line: {check.name}")
    return None


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

"""Verify a source, a model in memory, or every variant of an architecture."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import SourceError
from ..layers import Decoder
from ..port import load, to_dtype
from ..registry import architecture
from . import references
from .compare import Comparison
from .diagnose import Diagnosis, diagnose
from .locate import Finding
from .report import Report

TEXT = "def __init__(self, name):\n    return 'Hello, I am a language model, and this text is for me to read'\n"


def verify(
    model: Decoder | str | Path | None = None,
    reference: nn.Module | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    against: str = "eager",
    device: str | torch.device = "cpu",
    quick: bool = False,
    revision: str | None = None,
    offline: bool = False,
) -> Report:
    """Compare a port with its reference: a Decoder, a folder, a Hub id, or by default the bundled checkpoint.

    `reference` may be any transformers model in memory; without one, transformers' own of the same checkpoint is
    built, with `against` as its attention. `dtype` is float32 for a source, and a model's own for a model. `quick`
    compares logits only.

    Raises: SourceError when there is no reference to be had, and whatever `load` raises.
    """
    in_memory = isinstance(model, Decoder)
    port = copy.deepcopy(model) if isinstance(model, Decoder) else load(model, revision=revision, offline=offline)
    target = to_dtype(dtype) if dtype else port.norm.weight.dtype if in_memory else torch.float32
    name = port.origin.name if port.origin else port.architecture
    folder = port.origin.folder if port.origin else None
    infinite = tuple(f"{key} is not finite" for key, p in port.named_parameters() if not torch.isfinite(p).all())
    if infinite:
        return Report(name, "transformers", _plain(target), (), problems=infinite)
    if reference is None:
        if folder is None:
            raise SourceError(f"{name}: came from no checkpoint; give the transformers model to compare it with")
        reference = references.of_folder(folder, target, against)
    ids = {kind: tokens.to(device) for kind, tokens in ids_for(port, folder).items()}
    comparison = Comparison(reference.to(device), ids, target)
    return compare(port.to(device, target).eval().requires_grad_(True), comparison, name, quick=quick)


def verify_architecture(name: str, *, dtype: torch.dtype | str = "float32", against: str = "eager") -> list[Report]:
    """Verify tiny loud models of every variant of an architecture."""
    arch = architecture(name)
    reports = []
    for variant, sizes in references.variants(arch.name):
        comparison = loud_comparison(arch.name, sizes, dtype=to_dtype(dtype), against=against)
        reports.append(compare(comparison.port_of(comparison.reference), comparison, variant))
    return reports


def loud_comparison(
    name: str, sizes: dict[str, object], *, dtype: torch.dtype = torch.float32, against: str = "eager"
) -> Comparison:
    """A tiny loud reference of these sizes, ready to compare ports with."""
    arch = architecture(name)
    reference = references.loud(arch, sizes, against)
    with torch.device("meta"):
        port = arch.build(arch.config_class(**sizes))  # type: ignore[arg-type]
    port.config = arch.config_class(**sizes)  # type: ignore[arg-type]
    return Comparison(reference, ids_for(port, None), dtype)


def compare(port: Decoder, comparison: Comparison, name: str, *, quick: bool = False) -> Report:
    """Hold a port against a reference: all lines, and where one fails, the place and the cause."""
    checks = list(comparison.logits(port))
    found = []
    if not quick:
        found = comparison.findings(port)
        checks.append(comparison.modules(found))
        checks += [comparison.stream(port), comparison.loss(port)]
        # In half precision a ReLU's input may round to either side of its kink and the gradient jumps: no budget holds.
        if comparison.dtype == torch.float32 or port.config.activation != "relu":
            checks.append(comparison.gradients(port))
        checks.append(comparison.exported(port))
    elif not all(check.ok for check in checks):
        found = comparison.findings(port)
    fault = explain(comparison, found)
    return Report(name, comparison.described, _plain(comparison.dtype), tuple(checks), fault)


def explain(comparison: Comparison, found: list[Finding]) -> Diagnosis | None:
    """The place and the cause of the first finding that differs, if one does."""
    first = next((finding for finding in found if finding.differs), None)
    return None if first is None else diagnose(first, comparison.clean, comparison.trace, comparison.short)


def ids_for(port: Decoder, folder: Path | None) -> dict[str, Tensor]:
    """The sets of ids to compare on; the first is also used module by module."""
    vocab, context = port.config.vocab_size, port.config.context
    generator = torch.Generator().manual_seed(1)
    ids = {
        "random ids": torch.randint(vocab, (2, min(32, context)), generator=generator),
        "edge ids": torch.tensor([[0, vocab - 1, 0, 0, vocab - 1, vocab // 2][:context]]),
        "one token": torch.tensor([[vocab // 3]]),
        "full context": torch.randint(vocab, (1, context), generator=generator),
    }
    if folder is not None and (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        text = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
        ids["text"] = torch.tensor([text[:context]]).clamp(max=vocab - 1)
    return ids


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

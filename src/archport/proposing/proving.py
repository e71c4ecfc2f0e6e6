"""The proof of a proposal: other weights and ids, every variant, every planted bug; what was never seen is listed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..foreign.rows import Rows, table_of
from ..foreign.trial import views
from ..generation.cache import KVCache
from ..layers import Decoder
from ..parity import kill
from ..parity.budget import Check
from ..parity.report import Report
from ..parity.tiny_models import verify_architecture
from ..registry import Architecture, fresh, standing_in
from .abstract import Abstract
from .subject import Subject, ids_of, run, theirs_of, vocab_of
from .tracing import CLOSE, in_full
from .trials import resized, varied
from .unreached import unreached

SEEDS = (77, 78)
BOUND = 10 * CLOSE  # of the largest number; all is computed in float64, but for the frequencies of rotary positions


@dataclass(frozen=True)
class Proof:
    """What holds of a proposal: reports, bugs that were planted and named, and what no probe has seen.

    `dead` are parameters of the reference that no gradient reaches, `missed` its lines that never ran, `never_varied`
    fields of the config that are only read at one value.
    """

    reports: tuple[Report, ...]
    kills: tuple[int, int] | None = None  # named, of those that were planted
    dead: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    never_varied: tuple[str, ...] = ()
    broken: str = ""  # why one of the models could not be made

    @property
    def ok(self) -> bool:
        """Whether everything holds, and no parameter is dead."""
        return (
            bool(self.reports)
            and not self.broken
            and all(one.ok for one in self.reports)
            and not self.dead
            and (self.kills is None or self.kills[0] == self.kills[1])
        )

    @property
    def lines(self) -> list[str]:
        """What was proved, in lines."""
        if not self.ok:
            return [f"NOT proved: {one}" for one in self.faults]
        counted = "" if self.kills is None else f", kill table {self.kills[0]} of {self.kills[1]}"
        lines = [
            f"proved  {len(self.reports)} models by {sum(len(one.checks) for one in self.reports)} checks{counted}"
        ]
        lines += [f"        never varied: {', '.join(self.never_varied)}"] if self.never_varied else []
        return lines + [f"        never run: {one}" for one in self.missed]

    @property
    def faults(self) -> list[str]:
        """A line for each thing that does not hold."""
        lines = [self.broken] if self.broken else []
        lines += [one.verdict for one in self.reports if not one.ok]
        lines += [f"{name}: no gradient reaches it in any probe" for name in self.dead]
        if self.kills is not None and self.kills[0] < self.kills[1]:
            lines.append(f"kill table: {self.kills[0]} of {self.kills[1]} planted bugs are named")
        return lines


def proof_of(subject: Subject, whole: Abstract, arch: Architecture, rows: Rows, *, kills: bool) -> Proof:
    """Prove the architecture of a proposal at other weights, values of its fields, and sizes.

    The reference may refuse a size.

    With `kills`, every bug of the catalogue is planted in it, which takes minutes.
    """
    reports = []
    dead: set[str] | None = None
    missed: set[str] | None = None
    for name, (theirs, ours) in varied(whole).items():
        for seed in SEEDS:
            module = subject.module(theirs, seed)
            checks = tuple(_checks(module, arch, arch.config_class(**{**arch.sizes, **ours}), rows, seed))
            reports.append(Report(f"{arch.name}, {name}" if name else arch.name, subject.source, "float64", checks))
        of_this = set(_dead(module)) - whole.unread
        dead = of_this if dead is None else dead & of_this
        lines = set(unreached(module, partial(_probe, module)))
        missed = lines if missed is None else missed & lines
    unvaried = []
    for name, (theirs, ours) in resized(whole).items():
        try:
            module = subject.module(theirs)
            run(module, ids_of(vocab_of(module)))
        except Exception:  # it is somebody else's code, which need not take that size
            unvaried.append(name)
            continue
        checks = tuple(_checks(module, arch, arch.config_class(**{**arch.sizes, **ours}), rows, SEEDS[0]))
        reports.append(Report(f"{arch.name}, another {name}", subject.source, "float64", checks))
    counted = None
    if subject.model_type:
        with standing_in(arch):
            found = verify_architecture(arch.name)
            reports += found
            unvaried += found[0].never_varied
            if kills:
                counts = kill.kill_counts(kill.kill_table(arch.name))
                counted = counts["named"], counts["planted"]
    return Proof(
        tuple(reports), counted, tuple(sorted(dead or ())), tuple(sorted(missed or ())), tuple(dict.fromkeys(unvaried))
    )


def filled(arch: Architecture, config: Any, rows: Rows, module: nn.Module) -> Decoder:
    """Our decoder with the module's weights, by the rows, in float64."""
    model = fresh(arch, config, "cpu").double().eval()
    with torch.no_grad():
        for mine, theirs in _pairs(
            arch, config, rows, dict(model.named_parameters(remove_duplicate=False)), theirs_of(module)
        ):
            mine.copy_(theirs)
    return model


def _pairs(
    arch: Architecture, config: Any, rows: Rows, ours: Mapping[str, Tensor], theirs: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of ours and of theirs that mean the same."""
    table = table_of(arch, rows)
    names = [name for name in ours if table.rows(name, config)]
    return views(table, config, names, lambda name: ours[name].detach(), theirs)


def _checks(module: nn.Module, arch: Architecture, config: Any, rows: Rows, seed: int) -> Iterator[Check]:
    """Logits, with a cache too, and gradients, on ids that were not read with."""
    model = filled(arch, config, rows, module)
    for name, batch, seq in (("logits", 3, 26), ("logits of one token", 1, 1)):
        ids = ids_of(config.vocab_size, seed, batch, seq)
        with torch.no_grad(), in_full():  # type: ignore[no-untyped-call]
            theirs = run(module, ids)
            ours = model(ids)[:, -theirs.shape[1] :]
        yield _held(name, ours, theirs)
    module.requires_grad_(True)  # what it keeps from training is trained here, too
    ids = ids_of(config.vocab_size, seed + 1, 2, 19)
    padding = getattr(config, "padding", None)  # of which a cache may not say how many there were
    text = ids if padding is None else torch.where(ids == padding, (ids + 1) % config.vocab_size, ids)
    with torch.no_grad():
        whole, cache = model(text), KVCache(model, batch=2)
        parts = torch.cat([model(text[:, at : at + 1], cache=cache) for at in range(text.shape[1])], 1)
    yield _held("logits with a cache", parts, whole)
    with in_full():  # type: ignore[no-untyped-call]
        theirs, ours = run(module, ids), model(ids)
        weight = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        mine = _gradients(model, (ours[:, -theirs.shape[1] :] * weight).sum())
        own = theirs_of(module)
        own.parameters = {name: torch.zeros_like(one) for name, one in own.parameters.items()}
        own.parameters |= {own.first(name): one for name, one in _gradients(module, (theirs * weight).sum()).items()}
    pairs = list(_pairs(arch, config, rows, mine, own))
    largest = max(float(theirs.abs().max()) for _, theirs in pairs)
    # A bias of keys, which a softmax does not see, has a gradient of rounding alone.
    apart = [float((a - b).abs().max()) / max(float(b.abs().max()), CLOSE * largest) for a, b in pairs]
    yield Check("gradients", max(apart), 0.0, 10 * BOUND)


def _gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter, zeros where none reaches it."""
    named = dict(module.named_parameters())
    trained = {name: one for name, one in named.items() if one.requires_grad}
    found = dict(zip(trained, torch.autograd.grad(loss, list(trained.values()), allow_unused=True), strict=True))
    return {name: torch.zeros_like(one) if found.get(name) is None else found[name] for name, one in named.items()}


def _held(name: str, ours: Tensor, theirs: Tensor) -> Check:
    largest = float(theirs.abs().max())
    return Check(name, float((ours - theirs).abs().max()), 0.0, BOUND * largest)


def _probe(module: nn.Module) -> Tensor:
    return run(module, ids_of(vocab_of(module), 5, 2, 26))


def _dead(module: nn.Module) -> Iterator[str]:
    """Parameters that no gradient reaches."""
    logits = _probe(module)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = _gradients(module, (logits * weight).sum())
    return (name for name, one in module.named_parameters() if one.requires_grad and not found[name].any())

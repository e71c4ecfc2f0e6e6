"""Is it the same model? A port against its reference, line by line, each with a budget that the reference itself sets.

The reference also runs in higher precision; the port may be no further from that than 1.5 times what the reference
is, plus a few units in the last place.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Decoder
from ..port import from_state_dict
from ..registry import architecture
from ..translate import export_tensors, same_bytes
from .counterparts import canonical, counterparts, first_tensor, keeps_order
from .locate import Finding, findings, relative_error, trace

ALLOWANCE = 1.5  # times the reference's own error
ULPS = 8  # of the largest element, beside it


@dataclass(frozen=True)
class Check:
    """One line of a report: errors are absolute, against the reference in higher precision."""

    name: str
    port_error: float
    reference_error: float
    budget: float
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the port is within its budget; a NaN is not."""
        return self.port_error <= self.budget

    @property
    def ratio(self) -> float:
        """The port's error as a multiple of the reference's own."""
        return self.port_error / self.reference_error if self.reference_error else float(self.port_error > 0)


class Comparison:
    """A reference, in `dtype` and in higher precision, that any number of ports can be held against."""

    def __init__(self, reference: nn.Module, ids: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        self.ids, self.dtype = dict(ids), dtype
        self.reference = with_parameters(reference, dtype)
        self.described = f"transformers ({reference.config._attn_implementation})"  # type: ignore[union-attr]
        self.higher = torch.float64 if dtype == torch.float32 else torch.float32
        self.config = copy.deepcopy(reference.config.to_dict())  # type: ignore[operator, union-attr]
        self.exact = with_parameters(reference, self.higher)
        for module in self.exact.modules():
            module.reorder_and_upcast_attn = False  # type: ignore[assignment]  # it refuses float64
        self.short = next(iter(self.ids.values()))[:, :24]

    @cached_property
    def clean(self) -> Decoder:
        """archport's own port of the reference, in float64."""
        return self.port_of(with_parameters(self.reference, torch.float64))

    def port_of(self, reference: nn.Module) -> Decoder:
        """The reference's weights in our modules."""
        dtype = next(reference.parameters()).dtype
        return from_state_dict(self.config, reference.state_dict(), dtype=dtype)

    @cached_property
    def trace(self) -> Any:
        """What went into and came out of each of the reference's modules in float64."""
        exact = self.exact if self.higher == torch.float64 else with_parameters(self.reference, torch.float64)
        single = self.reference if self.dtype == torch.float32 else with_parameters(self.reference, torch.float32)
        return trace(exact, single, self._pairs, self.short)

    @cached_property
    def _pairs(self) -> dict[str, str]:
        table = architecture(self.clean.architecture).table
        pairs = counterparts(self.clean, self.reference, table)
        return {name: path for name, path in pairs.items() if not name.endswith("qkv") or keeps_order(table, name)}

    @cached_property
    def _logits(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (logits(self.reference, ids), logits(self.exact, ids)) for name, ids in self.ids.items()}

    def logits(self, port: Decoder) -> Iterable[Check]:
        """Logits on every set of ids."""
        for name, (theirs, exact) in self._logits.items():
            yield check(f"logits, {name}", logits(port, self.ids[name]), theirs, exact, self.dtype)

    def findings(self, port: Decoder) -> list[Finding]:
        """The port beside the reference in float64, module by module."""
        return findings(copy.deepcopy(port).to(torch.float64), self.trace, self.short)

    def modules(self, found: list[Finding]) -> Check:
        """Each module alone, given the reference's own input."""
        worst = max(found, key=lambda finding: (finding.differs, finding.error / finding.limit))
        detail = f"{len(self.trace.outputs)} fed the reference's input, float64; worst: {worst.module}"
        return Check("modules, one by one", worst.error, 0.0, worst.limit, detail)

    def stream(self, port: Decoder) -> Check:
        """The residual stream after every block."""
        blocks = [name for name in self._pairs if name.count(".") == 1 and name.startswith("blocks.")]
        ours = outputs(port, blocks, self.short)
        theirs, exact = (
            [*outputs(m, [self._pairs[b] for b in blocks], self.short)] for m in (self.reference, self.exact)
        )
        return self._worst("residual stream", zip(blocks, ours, theirs, exact, strict=False))

    def loss(self, port: Decoder) -> Check:
        """Next-token loss."""
        ours, theirs, exact = (loss(model, self.short)[None] for model in (port, self.reference, self.exact))
        return check("loss", ours.detach(), theirs.detach(), exact.detach(), self.dtype)

    def gradients(self, port: Decoder) -> Check:
        """The gradient of the loss by every parameter, the reference's mapped back through the key table."""
        ours = gradients(port, self.short)
        theirs, exact = (
            dict(self._mapped(gradients(model, self.short)).named_parameters())
            for model in (self.reference, self.exact)
        )
        names = [name for name in ours if name in theirs]
        # Each is a sum over the tokens, so it rounds that much more than one of its terms.
        ulps = ULPS * self.short.numel() ** 0.5
        return self._worst("gradients", ((name, ours[name], theirs[name], exact[name]) for name in names), ulps)

    def exported(self, port: Decoder) -> Check:
        """The port's tensors, exported: the reference's own bytes."""
        table = architecture(port.architecture).table
        state = {canonical(table, key): tensor for key, tensor in self.reference.state_dict().items()}
        made = export_tensors(table, port.config, dict(port.named_parameters()))
        differ = [key for key, tensor in made.items() if key not in state or not same_bytes(tensor.make(), state[key])]
        detail = f"{len(made)} tensors" + (f"; different: {', '.join(differ[:3])}" if differ else ", byte for byte")
        return Check("export", float(len(differ)), 0.0, 0.0, detail)

    def _mapped(self, tensors: dict[str, Tensor]) -> Decoder:
        return from_state_dict(self.config, tensors, dtype=next(iter(tensors.values())).dtype)

    def _worst(self, name: str, rows: Iterable[tuple[str, Tensor, Tensor, Tensor]], ulps: float = ULPS) -> Check:
        checks = [check(name, a, b, c, self.dtype, f"worst: {part}", ulps) for part, a, b, c in rows]
        return max(checks, key=lambda one: (not one.ok, one.port_error / (one.budget or 1.0)))


def check(
    name: str, ours: Tensor, theirs: Tensor, exact: Tensor, dtype: torch.dtype, detail: str = "", ulps: float = ULPS
) -> Check:
    """Hold one tensor of ours, computed in `dtype`, to the budget that the reference's own error sets."""
    scale = exact.abs().max().item()
    own = relative_error(theirs, exact) * scale
    budget = ALLOWANCE * own + ulps * torch.finfo(dtype).eps * scale
    return Check(name, relative_error(ours, exact) * scale, own, budget, detail)


def with_parameters(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a model with its parameters in another dtype; its buffers, such as rotary tables, stay as they are."""
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
        parameter.grad = None
        parameter.requires_grad_(True)
    return model


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits of ours or theirs, without gradients."""
    with torch.no_grad():
        return _logits(model, ids)


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    result = model(ids)
    return result if isinstance(result, Tensor) else result.logits


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean next-token cross-entropy, in nats."""
    return F.cross_entropy(_logits(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Gradient of the loss by every parameter; the model is left without any."""
    with torch.enable_grad():
        loss(model, ids).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@torch.no_grad()
def outputs(model: nn.Module, names: list[str], ids: Tensor) -> list[Tensor]:
    """What some modules make, in the order of their names; those that never run are left out."""
    made: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, __, result: made.update({name: first_tensor(result)})

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(keep(name)) for name in names if name in modules]
    model(ids)
    for handle in handles:
        handle.remove()
    return [made[name] for name in names if name in made]

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
from .locate import Finding, Trace, findings, relative_error, trace
from .references import of_config
from .running import Stop, backward, run
from .settings import without_dropout

ALLOWANCE = 1.5  # times the reference's own error
ULPS = 8  # of the largest element, beside it
CHUNK = 4096  # tokens looked up at once


@dataclass(frozen=True)
class Check:
    """One line of a report: errors against the reference in higher precision, and at which part they are largest.

    Errors are absolute but for gradients, where each is relative to its parameter's largest.
    """

    name: str
    port_error: float
    reference_error: float
    budget: float
    part: str = ""
    note: str = ""

    @property
    def detail(self) -> str:
        """What else there is to say."""
        return "; ".join([*([self.note] if self.note else []), *([f"worst: {self.part}"] if self.part else [])])

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
        self.described = f"transformers ({reference.config._attn_implementation})"  # type: ignore[union-attr]
        self.config = copy.deepcopy(reference.config.to_dict())  # type: ignore[operator, union-attr]
        if any(buffer.dtype in (torch.float16, torch.bfloat16) for buffer in reference.buffers()):
            reference = rebuilt(reference)
            self.described += " with its rounded buffers rebuilt"
        self.reference = with_parameters(reference, dtype)
        self.higher = torch.float64 if dtype == torch.float32 else torch.float32
        self.exact = with_parameters(reference, self.higher)
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
    def trace(self) -> Trace:
        """What went into and came out of each of the reference's modules in float64, on the short ids."""
        return self.trace_of(self.short)

    def trace_of(self, ids: Tensor) -> Trace:
        """The same on other ids."""
        exact = self.exact if self.higher == torch.float64 else with_parameters(self.reference, torch.float64)
        single = self.reference if self.dtype == torch.float32 else with_parameters(self.reference, torch.float32)
        return trace(exact, single, self._pairs, ids)

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

    def embeddings(self, port: Decoder) -> Check:
        """What every token of the vocabulary becomes before the first block."""
        first = "blocks.0"
        worst = Check("embeddings, every token", 0.0, 0.0, 0.0)
        for ids in torch.arange(port.config.vocab_size, device=self.short.device)[:, None].split(CHUNK):
            ours = fed(port, first, ids)
            theirs, exact = (fed(model, self._pairs[first], ids) for model in (self.reference, self.exact))
            worst = max(worst, check(worst.name, ours, theirs, exact, self.dtype), key=_by_severity)
        return worst

    def train_mode(self, port: Decoder) -> Check:
        """Logits in train mode, with all dropout rates at 0."""
        ids = next(iter(self.ids))
        made = logits(without_dropout(copy.deepcopy(port)), self.ids[ids])
        return check("logits, train mode", made, *self._logits[ids], self.dtype)

    def findings(self, port: Decoder, seen: Trace | None = None, ids: Tensor | None = None) -> list[Finding]:
        """The port beside the reference in float64, module by module."""
        port = copy.deepcopy(port).to(torch.float64)
        return findings(port, self.trace if seen is None else seen, self.short if ids is None else ids)

    def modules(self, found: list[Finding]) -> Check:
        """Each module alone, given the reference's own input."""
        worst = max(found, key=lambda finding: (finding.differs, finding.error / finding.limit))
        note = f"{len(self.trace.outputs)} fed the reference's input, float64"
        return Check("modules, one by one", worst.error, 0.0, worst.limit, worst.module, note)

    def stream(self, port: Decoder) -> Check:
        """The residual stream after every block."""
        blocks = [name for name in self._pairs if name.count(".") == 1 and name.startswith("blocks.")]
        ours = outputs(port, blocks, self.short)
        theirs, exact = (outputs(m, [self._pairs[b] for b in blocks], self.short) for m in (self.reference, self.exact))
        rows = zip(blocks, ours, theirs, exact, strict=False)
        missing = [Check("residual stream", float("inf"), 0.0, 0.0, name) for name in blocks[len(ours) :]]
        return max(
            [*missing, *(check("residual stream", a, b, c, self.dtype, name) for name, a, b, c in rows)],
            key=_by_severity,
        )

    def loss(self, port: Decoder) -> Check:
        """Next-token loss."""
        ours, theirs, exact = (loss(model, self.short)[None] for model in (port, self.reference, self.exact))
        return check("loss", ours.detach(), theirs.detach(), exact.detach(), self.dtype)

    def gradients(self, port: Decoder) -> Check:
        """The gradient of the loss by every parameter, the reference's mapped back through the key table.

        A small gradient is a difference of large ones, for both; so the budget is set by the reference's worst.
        """
        ours = gradients(port, self.short)
        theirs, exact = (
            dict(self._mapped(gradients(model, self.short)).named_parameters())
            for model in (self.reference, self.exact)
        )
        own = max(relative_error(theirs[name], exact[name]) for name in exact)
        # Each is a sum over the tokens, so it rounds that much more than one of its terms.
        budget = ALLOWANCE * own + ULPS * self.short.numel() ** 0.5 * torch.finfo(self.dtype).eps
        rows = [
            Check(
                "gradients",
                relative_error(ours[name], exact[name]) if name in ours.keys() & exact.keys() else float("inf"),
                own,
                budget,
                name,
            )
            for name in ours | exact
        ]
        return max(rows, key=_by_severity)

    def exported(self, port: Decoder) -> Check:
        """The port's tensors, exported: the reference's own bytes."""
        table = architecture(port.architecture).table
        state = {canonical(table, key): tensor for key, tensor in self.reference.state_dict().items()}
        made = export_tensors(table, port.config, dict(port.named_parameters()))
        differ = [key for key, tensor in made.items() if key not in state or not same_bytes(tensor.make(), state[key])]
        note = f"{len(made)} tensors, " + (f"{len(differ)} of them different" if differ else "byte for byte")
        return Check("export", float(len(differ)), 0.0, 0.0, differ[0] if differ else "", note)

    def _mapped(self, tensors: dict[str, Tensor]) -> Decoder:
        return from_state_dict(self.config, tensors, dtype=next(iter(tensors.values())).dtype)


def check(name: str, ours: Tensor, theirs: Tensor, exact: Tensor, dtype: torch.dtype, part: str = "") -> Check:
    """Hold one tensor of ours, computed in `dtype`, to the budget that the reference's own error sets."""
    scale = exact.abs().max().item()
    own = relative_error(theirs, exact) * scale
    budget = ALLOWANCE * own + ULPS * torch.finfo(dtype).eps * scale
    error = relative_error(ours, exact) * scale if ours.shape == exact.shape else float("inf")
    return Check(name, error, own, budget, part)


def _by_severity(one: Check) -> tuple[bool, float]:
    return not one.ok, one.port_error / (one.budget or 1.0)


def rebuilt(reference: nn.Module) -> nn.Module:
    """The same transformers model, its buffers made anew in float32: `half()` and the like round rotary tables."""
    config: Any = reference.config
    made = of_config(config.to_dict(), torch.float32, config._attn_implementation)
    parameters = {name: parameter.detach() for name, parameter in reference.named_parameters()}
    made.load_state_dict(parameters, strict=False, assign=True)
    made.tie_weights()  # type: ignore[operator]
    return made.to(next(reference.parameters()).device)


def with_parameters(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a model with its parameters in another dtype; its buffers, such as rotary tables, stay as they are."""
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
        parameter.grad = None
        parameter.requires_grad_(True)
    for module in model.modules():
        if dtype == torch.float64 and hasattr(module, "reorder_and_upcast_attn"):
            module.reorder_and_upcast_attn = False  # type: ignore[assignment]  # it refuses float64
    return model


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits of ours or theirs, without gradients."""
    with torch.no_grad():
        return run(model, ids)


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean next-token cross-entropy, in nats."""
    return F.cross_entropy(run(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Gradient of the loss by every parameter, zero where there is none; the model is left without any."""
    with torch.enable_grad():
        backward(loss(model, ids))
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
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
    run(model, ids)
    for handle in handles:
        handle.remove()
    return [made[name] for name in names if name in made]


@torch.no_grad()
def fed(model: nn.Module, name: str, ids: Tensor) -> Tensor:
    """What a module is fed in a forward pass; the rest of the pass is not run."""
    taken: list[Tensor] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        taken.append(first_tensor(args or kwargs))
        raise Stop

    handle = model.get_submodule(name).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run(model, ids)
    except Stop:
        pass
    finally:
        handle.remove()
    return taken[0] if taken else torch.empty(0)

"""Is it the same model? A port against its reference, line by line, each with a budget of its own."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ..errors import AsideWarning, MappingError, SourceError
from ..files.values import same_bytes
from ..layers import Attention, Decoder, Router
from ..port import from_state_dict
from ..registry import architecture
from ..translate.tensors import export_tensors
from .boundaries import with_boundaries_of
from .budget import ULPS, Check, allowed, by_severity, hold, largest
from .counterparts import canonical, counterparts, keeps_order
from .locate import Finding, Trace, findings, modules_around, relative_error, trace
from .outputs import (
    cached_logits,
    fed,
    follows_length,
    gradients,
    greedy_tokens,
    logits,
    loss,
    outputs,
    padded_logits,
    padded_row,
    with_exact_buffers,
    with_parameters,
)
from .settings import without_dropout

GRADIENT_ULPS = 4096  # for the fused attention's backward pass subtracts sums that nearly cancel, where eager does not
NUDGES = 4  # other runs of the reference when a line fails
EMBEDDINGS = "embeddings, every token"
CACHED, PADDED = "logits, cached", "logits, left-padded"
GREEDY = 8  # tokens
CHUNK = 4096  # tokens looked up at once


class Comparison:
    """A reference, in `dtype` and in higher precision, that any number of ports can be held against."""

    def __init__(self, reference: nn.Module, ids: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        self.ids, self.dtype = dict(ids), dtype
        self.described = f"transformers ({reference.config._attn_implementation})"  # type: ignore[union-attr]
        self.config = copy.deepcopy(reference.config.to_dict())  # type: ignore[operator, union-attr]
        if any(buffer.dtype in (torch.float16, torch.bfloat16) for buffer in reference.buffers()):
            reference = with_exact_buffers(reference)
            self.described += " with its rounded buffers rebuilt"
        self.reference = with_parameters(reference, dtype)
        self.higher = torch.float64 if dtype == torch.float32 else torch.float32
        self.exact = with_parameters(reference, self.higher)
        self._first, self._first_ids = next(iter(self.ids.items()))
        self.short = self._first_ids[:, :24]

    @cached_property
    def clean(self) -> Decoder:
        """archport's own port of the reference, in float64."""
        try:
            return self.port_of(with_parameters(self.reference, torch.float64))
        except MappingError as error:
            raise SourceError(
                f"the reference has other weights than the models that archport ports: {error.faults[0]}"
            ) from None

    def beside(self, clean: Decoder) -> "Comparison":
        """The same reference, with another port of it, in float64, taken for the right one."""
        other = copy.copy(self)
        for name in ("_short_trace", "_pairs", "_follows_length"):
            vars(other).pop(name, None)
        vars(other)["clean"] = clean
        return other

    def port_of(self, reference: nn.Module) -> Decoder:
        """The reference's weights in our modules."""
        some = next(reference.parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AsideWarning)  # of heads that the reference has for other tasks
            return from_state_dict(self.config, reference.state_dict(), dtype=some.dtype).to(some.device)

    @cached_property
    def _short_trace(self) -> Trace:
        return self._trace(self.short)

    def trace(self, port: Decoder, ids: Tensor | None = None) -> Trace:
        """What the reference's modules took and gave in float64, on the short ids or others, to hold a port against.

        A class that the port has for itself may drop to float32 inside, as the reference may, and may draw its
        boundaries elsewhere.
        """
        reference = self._short_trace if ids is None else self._trace(ids)
        right = dict(self.clean.named_modules())
        own = [name for name, module in port.named_modules() if type(module) is not type(right.get(name))]
        if not own:
            return reference
        port = copy.deepcopy(port).to(torch.float64)
        return with_boundaries_of(port, reference.loosened(own), self.short if ids is None else ids)

    def _trace(self, ids: Tensor) -> Trace:
        exact = self.exact if self.higher == torch.float64 else with_parameters(self.reference, torch.float64)
        single = self.reference if self.dtype == torch.float32 else with_parameters(self.reference, torch.float32)
        attention = frozenset(name for name, part in self.clean.named_modules() if isinstance(part, Attention))
        reference = replace(trace(exact, single, self._pairs, ids), attention=attention)
        reference = with_boundaries_of(self.clean, reference, ids)
        # Where archport's own port is off by no more than rounding, the reference drops to float32: in a module whose
        # output is off or, where it is an input, in the one around it.
        off = [finding for finding in findings(self.clean, reference, ids) if finding.differs]
        at = [(one.module if one.side == "output" else one.module.rpartition(".")[0], one.error) for one in off]
        return reference.loosened(name for name, error in at if error <= reference.loosened([name]).bound(name))

    @cached_property
    def _pairs(self) -> dict[str, str]:
        table = architecture(self.clean.architecture).table
        pairs = counterparts(self.clean, self.reference, table)
        return {name: path for name, path in pairs.items() if keeps_order(table, name, self.clean.config)}

    def theirs(self, name: str) -> nn.Module | None:
        """The reference's module that answers to one of ours, or to the one around it."""
        path = next((self._pairs[holder] for holder in reversed(modules_around(name)) if holder in self._pairs), None)
        return None if path is None else self.exact.get_submodule(path)

    @cached_property
    def _follows_length(self) -> bool:
        """Whether passes of other lengths make other numbers, so that each is compared with the reference's same."""
        return follows_length(self.clean)

    @cached_property
    def _logits(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (logits(self.reference, ids), logits(self.exact, ids)) for name, ids in self.ids.items()}

    def logits(self, port: Decoder) -> Iterable[Check]:
        """Logits on every set of ids."""
        for name, ids in self.ids.items():
            yield self._of_logits(f"logits, {name}", logits(port, ids), name)

    def _of_logits(self, name: str, ours: Tensor, on: str) -> Check:
        """Our logits, made in some way, on one set of ids."""
        theirs, exact = self._logits[on]

        def line(reference: nn.Module) -> Check:
            again = theirs if reference is self.reference else logits(reference, self.ids[on])
            return hold(name, ours, again, exact, self.dtype)

        return self._held(line)

    def _held(self, line: Callable[[nn.Module], Check]) -> Check:
        """A line of the report, for the reference and, where it fails, for the reference with its embeddings nudged.

        One run may happen to round well; what nudging them by a unit in the last place changes is rounding too. In half
        precision that is done only where rounding may choose another expert.
        """
        first = line(self.reference)
        unsteady = self.dtype == torch.float32 or any(isinstance(part, Router) for part in self.clean.modules())
        if first.ok or not math.isfinite(first.port_error) or not unsteady:
            return first
        return next((one for one in map(line, self._nudged()) if one.ok), first)

    def _nudged(self) -> Iterator[nn.Module]:
        for seed in range(NUDGES):
            model = with_parameters(self.reference, self.dtype)
            weight = model.get_input_embeddings().weight.data  # type: ignore[operator]
            signs = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)).sub(0.5).sign()
            weight.mul_(1 + signs.to(weight) * torch.finfo(self.dtype).eps)
            yield model

    def embeddings(self, port: Decoder) -> Check:
        """What every token of the vocabulary becomes before the first block."""
        first = "blocks.0"
        worst = Check(EMBEDDINGS, 0.0, 0.0, 0.0)
        for ids in torch.arange(port.config.vocab_size, device=self.short.device)[:, None].split(CHUNK):
            ours = fed(port, first, ids)
            theirs, exact = (fed(model, self._pairs[first], ids) for model in (self.reference, self.exact))
            worst = max(worst, hold(worst.name, ours, theirs, exact, self.dtype), key=by_severity)
        return worst

    def train_mode(self, port: Decoder) -> Check:
        """Logits in train mode, with all dropout rates at 0."""
        with without_dropout():
            in_train_mode = logits(copy.deepcopy(port).train(), self._first_ids)
        return self._of_logits("logits, train mode", in_train_mode, self._first)

    def cached(self, port: Decoder) -> Check:
        """Logits made through a cache: one token, several, and the last ones each alone."""
        ours = cached_logits(port, self._first_ids)
        if not self._follows_length:
            return self._of_logits(CACHED, ours, self._first)
        exact = cached_logits(self.exact, self._first_ids)
        return self._held(lambda model: hold(CACHED, ours, cached_logits(model, self._first_ids), exact, self.dtype))

    def padded(self, port: Decoder) -> Check:
        """Logits of a row that is padded on the left beside a longer one, against the reference of that row alone."""
        ours = padded_logits(port, self._first_ids)

        def of(reference: nn.Module) -> Tensor:
            if self._follows_length:
                return padded_logits(reference, self._first_ids)
            return logits(reference, padded_row(self._first_ids))

        exact = of(self.exact)
        return self._held(lambda model: hold(PADDED, ours, of(model), exact, self.dtype))

    def greedy(self, port: Decoder) -> Check:
        """Greedy tokens through the cache: how much likelier, by the reference, another token would have been."""
        context = self.clean.config.context
        prompt = self._first_ids[:1, : max(1, min(self._first_ids.shape[-1], context) // 2)]
        more = min(GREEDY, context - prompt.shape[-1])
        text = torch.tensor([greedy_tokens(port, prompt, more)], device=prompt.device)
        start = prompt.shape[-1] - 1
        chosen = text[0, start + 1 :, None]
        again = (
            partial(cached_logits, bounds=[0, *range(start + 1, text.shape[-1] + 1)])
            if self._follows_length
            else logits
        )
        theirs, exact = (again(model, text)[0, start:-1] for model in (self.reference, self.exact))
        lost = (exact.amax(-1, keepdim=True) - exact.gather(-1, chosen)).max().item()
        own = largest(theirs - exact)
        budget = 2 * allowed(own, largest(exact), self.dtype)  # two logits may each be off by as much
        return Check("greedy tokens", lost, own, budget, note=f"{more} tokens through the cache")

    def findings(self, port: Decoder, reference: Trace | None = None, ids: Tensor | None = None) -> list[Finding]:
        """The port beside the reference in float64, module by module."""
        port = copy.deepcopy(port).to(torch.float64)
        return findings(port, reference or self.trace(port), self.short if ids is None else ids)

    def modules(self, port: Decoder) -> Check:
        """Each module alone, given the reference's own input."""
        reference = self.trace(port)
        compared = self.findings(port, reference)
        worst = max(compared, key=lambda finding: (finding.differs, finding.error / finding.limit))
        elsewhere = len(reference.another_boundary)
        note = f"{len(self._pairs)} fed the reference's input, float64"
        note += f"; {elsewhere} with another boundary" if elsewhere else ""
        return Check("modules, one by one", worst.error, 0.0, worst.limit, worst.module, note)

    def stream(self, port: Decoder) -> Check:
        """The residual stream after every block."""
        elsewhere = self._short_trace.another_boundary
        blocks = [
            name
            for name in self._pairs
            if name.startswith("blocks.") and name.count(".") == 1 and name not in elsewhere
        ]
        paths = [self._pairs[name] for name in blocks]
        ours, exact = outputs(port, blocks, self.short), outputs(self.exact, paths, self.short)

        def line(reference: nn.Module) -> Check:
            rows = zip(blocks, ours, outputs(reference, paths, self.short), exact, strict=False)
            missing = [Check("residual stream", math.inf, 0.0, 0.0, name) for name in blocks[len(ours) :]]
            held = [hold("residual stream", a, b, c, self.dtype, name) for name, a, b, c in rows]
            return max([*missing, *held], key=by_severity)

        return self._held(line)

    def loss(self, port: Decoder) -> Check:
        """Next-token loss."""
        ours, exact = (loss(model, self.short).detach()[None] for model in (port, self.exact))
        return self._held(lambda model: hold("loss", ours, loss(model, self.short).detach()[None], exact, self.dtype))

    def gradients(self, port: Decoder) -> Check:
        """The gradient of the loss by every parameter, the reference's mapped back through the key table.

        A small gradient is a difference of large ones, for both; so the budget is set by the reference's worst.
        """
        ours = gradients(port, self.short)
        exact = self._mapped(gradients(self.exact, self.short))

        def line(reference: nn.Module) -> Check:
            theirs = self._mapped(gradients(reference, self.short))
            own = max(relative_error(theirs[name], exact[name]) for name in exact)
            # Each is a sum over the tokens, so it rounds that much more than one of its terms.
            ulps = GRADIENT_ULPS if self.dtype == torch.float32 else ULPS
            budget = allowed(own, self.short.numel() ** 0.5, self.dtype, ulps)
            both = ours.keys() & exact.keys()
            errors = {
                name: relative_error(ours[name], exact[name]) if name in both else math.inf for name in ours | exact
            }
            rows = [Check("gradients", error, own, budget, name) for name, error in errors.items()]
            return max(rows, key=by_severity)

        return self._held(line)

    def exported(self, port: Decoder) -> Check:
        """The port's tensors, exported: the reference's own bytes."""
        table = architecture(port.architecture).table
        state = {canonical(table, key): tensor for key, tensor in self.reference.state_dict().items()}
        tensors = export_tensors(table, port.config, dict(port.named_parameters()), present=state)
        differ = [key for key, one in tensors.items() if key not in state or not same_bytes(one.make(), state[key])]
        note = f"{len(tensors)} tensors, " + (f"{len(differ)} of them different" if differ else "byte for byte")
        return Check("export", float(len(differ)), 0.0, 0.0, differ[0] if differ else "", note)

    def _mapped(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the reference's under our names."""
        some = next(iter(tensors.values()))
        model = from_state_dict(self.config, tensors, dtype=some.dtype).to(some.device)
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

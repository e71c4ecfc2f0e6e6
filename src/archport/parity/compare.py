"""Is it the same model? A reference, in the dtype asked for and in higher precision, that ports are held against."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ..errors import AsideWarning, MappingError, SourceError
from ..layers import Attention, Decoder, Router
from ..port import from_state_dict
from ..registry import architecture
from .boundaries import with_boundaries_of
from .budget import Check, hold
from .counterparts import counterparts, keeps_order
from .locate import Finding, Trace, findings, modules_around, trace
from .outputs import follows_length, logits, with_exact_buffers, with_parameters

NUDGES = 4  # other runs of the reference when a line fails


class Comparison:
    """A reference, in `dtype` and in higher precision, that any number of ports can be held against.

    `first` names the ids that most lines use, `short` are a few of them; `pairs` are our modules with the reference's.
    """

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
        self.first, self.first_ids = next(iter(self.ids.items()))
        self.short = self.first_ids[:, :24]

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
        for name in ("_short_trace", "pairs", "follows_length"):
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
    def short_trace(self) -> Trace:
        """What the reference's modules took and gave on the short ids."""
        return self._trace(self.short)

    def trace(self, port: Decoder, ids: Tensor | None = None) -> Trace:
        """What the reference's modules took and gave in float64, on the short ids or others, to hold a port against.

        A class that the port has for itself may drop to float32 inside, as the reference may, and may draw its
        boundaries elsewhere.
        """
        reference = self.short_trace if ids is None else self._trace(ids)
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
        reference = replace(trace(exact, single, self.pairs, ids), attention=attention)
        reference = with_boundaries_of(self.clean, reference, ids)
        # Where archport's own port is off by no more than rounding, the reference drops to float32: in a module whose
        # output is off or, where it is an input, in the one around it.
        off = [finding for finding in findings(self.clean, reference, ids) if finding.differs]
        at = [(one.module if one.side == "output" else one.module.rpartition(".")[0], one.error) for one in off]
        return reference.loosened(name for name, error in at if error <= reference.loosened([name]).bound(name))

    @cached_property
    def pairs(self) -> dict[str, str]:
        """Our modules with the reference's, of those whose outputs are in one order."""
        table = architecture(self.clean.architecture).table
        pairs = counterparts(self.clean, self.reference, table)
        return {name: path for name, path in pairs.items() if keeps_order(table, name, self.clean.config)}

    def theirs(self, name: str) -> nn.Module | None:
        """The reference's module that answers to one of ours, or to the one around it."""
        path = next((self.pairs[holder] for holder in reversed(modules_around(name)) if holder in self.pairs), None)
        return None if path is None else self.exact.get_submodule(path)

    @cached_property
    def follows_length(self) -> bool:
        """Whether passes of other lengths make other numbers, so that each is compared with the reference's same."""
        return follows_length(self.clean)

    @cached_property
    def _logits(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (logits(self.reference, ids), logits(self.exact, ids)) for name, ids in self.ids.items()}

    def of_logits(self, name: str, ours: Tensor, on: str) -> Check:
        """Our logits, made in some way, on one set of ids."""
        theirs, exact = self._logits[on]

        def line(reference: nn.Module) -> Check:
            again = theirs if reference is self.reference else logits(reference, self.ids[on])
            return hold(name, ours, again, exact, self.dtype)

        return self.held(line)

    def held(self, line: Callable[[nn.Module], Check]) -> Check:
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

    def findings(self, port: Decoder, reference: Trace | None = None, ids: Tensor | None = None) -> list[Finding]:
        """The port beside the reference in float64, module by module."""
        port = copy.deepcopy(port).to(torch.float64)
        return findings(port, reference or self.trace(port), self.short if ids is None else ids)

    def mapped(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the reference's under our names."""
        some = next(iter(tensors.values()))
        model = from_state_dict(self.config, tensors, dtype=some.dtype).to(some.device)
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

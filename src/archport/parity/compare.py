"""Is it the same model? A reference, in the dtype asked for and in higher precision, that ports are held against."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ..errors import AsideWarning, MappingError, SourceError
from ..layers import Attention, CountedEmbed, Decoder, Router
from ..load_plan import LoadPlan
from ..port import from_state_dict
from ..registry import architecture
from .boundaries import with_boundaries_of
from .budget import Check, hold
from .counterparts import counterparts, keeps_order
from .locate import Finding, Trace, findings, modules_around, trace
from .outputs import follows_length, logits, with_exact_buffers, with_parameters
from .passes import padded_row
from .reordered import summed_in_pieces

NUDGES = 4  # other runs of the reference when a line fails
ORDERS = (2, 3, 5, 8, 16)  # pieces that its sums are made of in others


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
        self.source: LoadPlan | None = None  # of the files that ports come from
        self.reordered = False  # whether ports add in another order, as packed ones do
        self._rounding = ""  # the name of another way to round, while the reference rounds so
        self._made: dict[tuple[nn.Module, str, str], Tensor] = {}
        self._traced: dict[object, Trace] = {}  # the last one, for ports beside the same reference

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
        for name in ("short_trace", "pairs", "follows_length", "chooses"):
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

    def own(self, port: Decoder) -> list[str]:
        """The modules of a port that are of another class than archport's."""
        right = dict(self.clean.named_modules())
        return [name for name, module in port.named_modules() if type(module) is not type(right.get(name))]

    def trace(self, port: Decoder, ids: Tensor | None = None) -> Trace:
        """What the reference's modules took and gave in float64, on the short ids or others, to hold a port against.

        A class that the port has for itself may drop to float32 inside, as the reference may, and may draw its
        boundaries elsewhere.
        """
        reference = self.short_trace if ids is None else self._trace(ids)
        own = self.own(port)
        if not own:
            return reference
        port = copy.deepcopy(port).to(torch.float64)
        return with_boundaries_of(port, reference.loosened(own), self.short if ids is None else ids)

    def _trace(self, ids: Tensor) -> Trace:
        attention = frozenset(name for name, part in self.clean.named_modules() if isinstance(part, Attention))
        reference = replace(self._plain_trace(ids), attention=attention)
        reference = with_boundaries_of(self.clean, reference, ids)
        # Where archport's own port is off by no more than rounding, the reference drops to float32: in a module whose
        # output is off or, where it is an input, in the one around it.
        off = [finding for finding in findings(self.clean, reference, ids) if finding.differs]
        at = [(one.module if one.side == "output" else one.module.rpartition(".")[0], one.error) for one in off]
        return reference.loosened(name for name, error in at if error <= reference.loosened([name]).bound(name))

    def _plain_trace(self, ids: Tensor) -> Trace:
        key = str(ids.tolist()), tuple(self.pairs.items())
        if key not in self._traced:
            exact = self.exact if self.higher == torch.float64 else with_parameters(self.reference, torch.float64)
            single = self.reference if self.dtype == torch.float32 else with_parameters(self.reference, torch.float32)
            self._traced.clear()
            self._traced[key] = trace(exact, single, self.pairs, ids)
        return self._traced[key]

    @cached_property
    def pairs(self) -> dict[str, str]:
        """Our modules with the reference's, of those whose outputs are in one order."""
        table = architecture(self.clean.architecture).table
        pairs = counterparts(self.clean, self.reference, table)
        return {name: path for name, path in pairs.items() if keeps_order(table, name, self.clean.config)}

    @property
    def is_tied(self) -> bool:
        """Whether the reference's head is its token embedding."""
        embed, head = self.reference.get_input_embeddings(), self.reference.get_output_embeddings()  # type: ignore[operator]
        return embed.weight is head.weight

    def theirs(self, name: str) -> nn.Module | None:
        """The reference's module that answers to one of ours, or to the one around it."""
        path = next((self.pairs[holder] for holder in reversed(modules_around(name)) if holder in self.pairs), None)
        return None if path is None else self.exact.get_submodule(path)

    @cached_property
    def follows_length(self) -> bool:
        """Whether passes of other lengths make other numbers, so that each is compared with the reference's same."""
        return follows_length(self.clean)

    @property
    def first_position(self) -> int:
        """What the reference calls the first position of a text: a row, where its table has others before."""
        embed = self.clean.embed
        return embed.offset if isinstance(embed, CountedEmbed) else 0

    @cached_property
    def chooses(self) -> bool:
        """Whether rounding may choose another expert."""
        return any(isinstance(part, Router) for part in self.clean.modules())

    @property
    def first(self) -> str:
        """The name of the ids that most lines use."""
        return next(iter(self.ids))

    @property
    def first_ids(self) -> Tensor:
        """The ids that most lines use."""
        return self.ids[self.first]

    @property
    def short(self) -> Tensor:
        """A few of these, for what is compared module by module."""
        return self.first_ids[:, :24]

    @property
    def longest(self) -> str:
        """The name of the longest ids."""
        return max(self.ids, key=lambda name: self.ids[name].shape[-1])

    def logits(self, reference: nn.Module, on: str | None = None) -> Tensor:
        """Logits of the reference, or of it in another precision, on one set of ids, by default the first."""
        on = self.first if on is None else on
        return self._once(reference, on, lambda: logits(reference, self.ids[on]))

    def rows_alone(self, reference: nn.Module) -> Tensor:
        """The reference's logits of the first row, then of the row that is padded beside it: (1, tokens, vocab)."""
        rows = self.first_ids[:1], padded_row(self.first_ids)
        return self._once(reference, "rows alone", lambda: torch.cat([logits(reference, row) for row in rows], dim=1))

    def _once(self, reference: nn.Module, what: str, make: Callable[[], Tensor]) -> Tensor:
        """What was made already, by the same rounding."""
        key = reference, what, self._rounding
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def of_logits(self, name: str, ours: Tensor, on: str) -> Check:
        """Our logits, made in some way, on one set of ids."""
        exact = self.logits(self.exact, on)
        return self.held(lambda reference: hold(name, ours, self.logits(reference, on), exact, self.dtype))

    def held(self, line: Callable[[nn.Module], Check]) -> Check:
        """A line of the report, for the reference and, where it fails, for other roundings of the same reference.

        One run may happen to round well; what nudging the embeddings by a unit in the last place changes is rounding
        too, and so is, where the port adds in another order, what the order changes. In half precision that is done
        only where rounding may choose another expert.
        """
        first = line(self.reference)
        if first.ok or not math.isfinite(first.port_error):
            return first
        for name, rounding in self._roundings():
            self._rounding = name
            try:
                with rounding:
                    again = line(self.reference)
            finally:
                self._rounding = ""
            if again.ok:
                return again
        return first

    def _roundings(self) -> Iterator[tuple[str, AbstractContextManager[object]]]:
        """Other ways to round, each with its name."""
        for pieces in ORDERS if self.reordered else ():
            yield f"{pieces} pieces", summed_in_pieces(pieces)
        for seed in range(NUDGES) if self.dtype == torch.float32 or self.chooses else ():
            yield f"nudge {seed}", self._nudged(seed)

    @contextmanager
    def _nudged(self, seed: int) -> Iterator[None]:
        weight = self.reference.get_input_embeddings().weight.data  # type: ignore[operator]
        kept = weight.clone()
        signs = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)).sub(0.5).sign()
        weight.mul_(1 + signs.to(weight) * torch.finfo(self.dtype).eps)
        try:
            yield
        finally:
            weight.copy_(kept)

    def findings(self, port: Decoder, reference: Trace | None = None, ids: Tensor | None = None) -> list[Finding]:
        """The port beside the reference in float64, module by module."""
        port = copy.deepcopy(port).to(torch.float64)
        return findings(port, reference or self.trace(port), self.short if ids is None else ids)

    def mapped(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the reference's under our names."""
        some = next(iter(tensors.values()))
        model = from_state_dict(self.config, tensors, dtype=some.dtype).to(some.device)
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

"""Faults in archport's code beside the model: in what draws tokens and in what writes files.

They are planted in that code itself, for a while. A mistake in drawing is told by transformers' own steps with that
mistake made in them; in the others, the line that fails is the mistake's name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import exporting
from ..generation import decoding
from ..generation.sampling import Sampling
from ..layers import Decoder
from .budget import Check
from .compare import Comparison
from .faults import Fault
from .lines import exporting as export_lines
from .lines import generating
from .references import choices

GENERATE, EXPORT = "generate", "export"
Draw = Callable[[Sampling, Tensor, Tensor], Tensor]  # the probabilities of the next token


@dataclass(frozen=True)
class Mistake:
    """A fault of code: `wrong` makes a faulty function or method of the right one, which `owner` has under a name."""

    fault: Fault
    place: str
    owner: Any
    attribute: str
    wrong: Callable[[Any], Any]
    draws: Draw | None = None

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make it, for a while."""
        right = getattr(self.owner, self.attribute)
        setattr(self.owner, self.attribute, self.wrong(right))
        try:
            yield
        finally:
            setattr(self.owner, self.attribute, right)


def cause_beside(check: Check, comparison: Comparison) -> Mistake | None:
    """The mistake that explains a line about tokens that are drawn or files that are written."""
    of_line = [mistake for mistake in MISTAKES if mistake.fault.line == check.name]
    return next((one for one in of_line if one.draws is None or generating.draws_as(comparison, one.draws)), None)


def _fault(name: str, faulty: str, right: str, see: str, line: str) -> Fault:
    """A fault that no part of a model can have."""
    never: Any = {"where": lambda _: False, "shows_at": lambda site: (site,)}
    return Fault(name, faulty, right, see, Decoder, lambda _: None, line=line, **never)


def _one_more(how: Sampling) -> Sampling:
    return replace(how, top_k=how.top_k + 1) if how.top_k else how


def _temperature_last(how: Sampling, ids: Tensor, logits: Tensor) -> Tensor:
    kept = choices(replace(how, temperature=1.0), ids, logits).log()
    return (kept / how.temperature).softmax(-1)


def _calls_with_temperature_last(_: Any) -> Any:
    def call(how: Sampling, logits: Tensor, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if how.greedy or how.temperature == 0:
            return how._penalised(logits, ids).argmax(-1)
        kept = how._kept(how._penalised(logits, ids)) / how.temperature
        return torch.multinomial(kept.softmax(-1), 1, generator=generator).squeeze(-1)

    return call


def _without_last(export_tensors: Any) -> Any:
    def export(*args: Any, **how: Any) -> Any:
        made = export_tensors(*args, **how)
        return dict(list(made.items())[:-1])

    return export


def _with_a_wrong_field(write_config: Any) -> Any:
    def write(table: Any, config: Any, name: str, origin: Any) -> Any:
        hf = write_config(table, config, name, origin)
        named = [table.field(field).spellings[0] for field in ("norm_eps", "vocab_size") if field in table.config]
        key = next(name for name in named if isinstance(hf.get(name), int | float))
        return hf | {key: 2 * hf[key]}

    return write


MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        _fault("top-k off by one", "top-k keeps one token more", "keeps k", "Sampling._kept", generating.CHOSEN),
        GENERATE,
        Sampling,
        "_kept",
        lambda kept: lambda how, logits: kept(_one_more(how), logits),
        lambda how, ids, logits: choices(_one_more(how), ids, logits),
    ),
    Mistake(
        _fault("temperature last", "the temperature divides what is kept", "divides all logits before some are kept",
               "Sampling.__call__", generating.CHOSEN),
        GENERATE,
        Sampling,
        "__call__",
        _calls_with_temperature_last,
        _temperature_last,
    ),
    Mistake(
        _fault("penalty on the last ids", "the repetition penalty reads the last ids only", "reads them all",
               "Sampling._penalised", generating.CHOSEN),
        GENERATE,
        Sampling,
        "_penalised",
        lambda penalised: lambda how, logits, ids: penalised(how, logits, ids[:, -4:]),
        lambda how, ids, logits: choices(how, ids[:, -4:], logits),
    ),
    Mistake(
        _fault("end ids ignored", "texts go on after an id that ends them", "ends there", "token_rows",
               generating.ENDED),
        GENERATE,
        decoding,
        "token_rows",
        lambda rows: lambda model, prompts, how: rows(model, prompts, replace(how, end=[])),
    ),
    Mistake(
        _fault("tensor not exported", "a tensor is not written", "has it", "export_tensors", export_lines.EXPORTED),
        EXPORT,
        exporting,
        "export_tensors",
        _without_last,
    ),
    Mistake(
        _fault("config field wrong", "a field of config.json is wrong", "has another", "write_config",
               export_lines.CONFIG),
        EXPORT,
        exporting,
        "write_config",
        _with_a_wrong_field,
    ),
)  # fmt: skip

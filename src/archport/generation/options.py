"""How to continue prompts: how far, how often, and where rows end."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..checking import Rules, require
from .sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Generation(Sampling):
    """How to continue prompts, besides how each token is chosen; the options of `generate` and `stream`.

    `samples` rows of each prompt come one after another, each of at most `max_new_tokens`. `end` are the ids that end a
    row, the checkpoint's own unless given; it ends as well where `until` of its new tokens is true. Ids from
    `vocabulary` on are never chosen, nor those that `ban` gives for a row so far. `slide` drops the oldest tokens of
    all rows where the longest fills the context. `compiled` runs the steps through torch.compile, on a GPU as one
    captured graph: slow to start, fast from then on.

    Raises: ConfigError.
    """

    max_new_tokens: int = 30
    samples: int = 1
    seed: int | None = None
    end: Sequence[int] | None = None
    until: Callable[[Sequence[int]], bool] | None = None
    vocabulary: int | None = None
    ban: Callable[[Sequence[int]], Iterable[int]] | None = None
    slide: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()

        def counted(value: Any) -> bool:
            return type(value) is int and value >= 1

        rules: Rules = {
            "max_new_tokens": (counted, "a whole number from 1"),
            "samples": (counted, "a whole number from 1"),
            "seed": (lambda v: v is None or (type(v) is int and 0 <= v < 2**63), "a whole number from 0, below 2^63"),
            "end": (lambda v: v is None or all(type(token) is int for token in v), "a list of ids"),
            "until": (lambda v: v is None or callable(v), "a function of a row's new tokens"),
            "vocabulary": (lambda v: v is None or counted(v), "a whole number from 1"),
            "ban": (lambda v: v is None or callable(v), "a function of a row's tokens"),
            "slide": (lambda v: type(v) is bool, "true or false"),
            "compiled": (lambda v: type(v) is bool, "true or false"),
        }
        require(self, rules, "generate")

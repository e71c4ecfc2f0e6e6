"""From logits to the next token: greedy, or drawn after temperature, top-k, top-p, min-p and repetition penalty."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checking import Rules, require

LEAST = 1e-6  # by which logits may be divided: they stay finite


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; the order of the steps is transformers', so that one seed gives one text.

    `temperature` divides the logits, 0 is greedy; `top_k` keeps the likeliest, 0 all; `top_p` the likeliest that
    together reach a probability, `min_p` those that reach a part of the likeliest's. `repetition_penalty` divides
    logits of tokens that were there, or multiplies them where they are negative.

    Raises: ConfigError. Source: top-p arXiv 1904.09751, min-p arXiv 2407.01082, penalty arXiv 1909.05858.
    """

    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        rules: Rules = {
            "greedy": (lambda value: type(value) is bool, "true or false"),
            "temperature": (lambda value: value == 0 or LEAST <= value < math.inf, f"0 or a number from {LEAST:g}"),
            "top_k": (lambda value: type(value) is int and value >= 0, "a whole number from 0"),
            "top_p": (lambda value: 0.0 < value <= 1.0, "a number above 0, at most 1"),
            "min_p": (lambda value: 0.0 <= value <= 1.0, "a number from 0 to 1"),
            "repetition_penalty": (
                lambda value: LEAST <= value <= 1 / LEAST,
                f"a number from {LEAST:g} to {1 / LEAST:g}",
            ),
        }
        require(self, rules, "sampling")

    def __call__(self, logits: Tensor, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The next token of each row, (batch), from logits (batch, vocab_size) in float32 and its ids so far."""
        logits = self._penalised(logits, ids)
        if self.greedy or self.temperature == 0:
            return logits.argmax(-1)
        probabilities = self._kept(logits / self.temperature if self.temperature != 1 else logits).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)

    def _penalised(self, logits: Tensor, ids: Tensor) -> Tensor:
        if self.repetition_penalty == 1:
            return logits
        before = logits.gather(-1, ids)
        after = torch.where(before < 0, before * self.repetition_penalty, before / self.repetition_penalty)
        return logits.scatter(-1, ids, after)

    def _kept(self, logits: Tensor) -> Tensor:
        """Logits of the tokens that may be drawn; the others are minus infinity."""
        if 0 < self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[:, -1:], -math.inf)
        if self.top_p < 1:
            ascending, order = logits.sort()
            rare = ascending.softmax(-1).cumsum(-1) <= 1 - self.top_p
            rare[:, -1] = False
            logits = logits.masked_fill(rare.scatter(-1, order, rare), -math.inf)
        if self.min_p > 0:
            probabilities = logits.softmax(-1)
            logits = logits.masked_fill(probabilities < self.min_p * probabilities.amax(-1, keepdim=True), -math.inf)
        return logits

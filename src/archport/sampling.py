"""From logits to the next token: greedy, or drawn after temperature, top-k, top-p, min-p and repetition penalty."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ConfigError


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
        expected = {
            "temperature": (0.0 <= self.temperature < math.inf, "a finite number from 0"),
            "top_k": (isinstance(self.top_k, int) and self.top_k >= 0, "a whole number from 0"),
            "top_p": (0.0 < self.top_p <= 1.0, "a number above 0, at most 1"),
            "min_p": (0.0 <= self.min_p <= 1.0, "a number from 0 to 1"),
            "repetition_penalty": (0.0 < self.repetition_penalty < math.inf, "a finite number above 0"),
        }
        faults = {
            name: f"found {getattr(self, name)!r}, expected {what}"
            for name, (good, what) in expected.items()
            if not good
        }
        if faults:
            raise ConfigError(faults, "sampling")

    def __call__(self, logits: Tensor, seen: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The next token of each row, (batch), from logits (batch, vocab_size) in float32 and the ids seen so far."""
        logits = self._penalised(logits, seen)
        if self.greedy or self.temperature == 0:
            return logits.argmax(-1)
        probabilities = self._kept(logits / self.temperature if self.temperature != 1 else logits).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)

    def _penalised(self, logits: Tensor, seen: Tensor) -> Tensor:
        if self.repetition_penalty == 1:
            return logits
        had = logits.gather(-1, seen)
        return logits.scatter(
            -1, seen, torch.where(had < 0, had * self.repetition_penalty, had / self.repetition_penalty)
        )

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

"""How well a model predicts a text: loss, perplexity and bits per byte, in windows that overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, GenerationError
from ..keywords import strict_keywords
from ..layers import Decoder
from .inference import first_overflow, in_eval_mode
from .prompts import read_prompts


@dataclass(frozen=True, repr=False)
class Score:
    """The loss of each token after the first, in nats, given those before it in its window."""

    losses: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Score({len(self.losses):,} tokens: loss {self.loss:.4f}, perplexity {self.perplexity:.4f})"

    @property
    def loss(self) -> float:
        """Mean, in nats a token."""
        return sum(self.losses) / len(self.losses)

    @property
    def perplexity(self) -> float:
        """The number of tokens that would be as hard to choose from."""
        return math.exp(min(self.loss, 700.0))

    def bits_per_byte(self, size: int) -> float:
        """Bits that a text of `size` bytes takes, a byte; comparable between tokenizers."""
        return sum(self.losses) / math.log(2) / size


@strict_keywords
@torch.inference_mode()
def score(model: Decoder, ids: Tensor | Sequence[int], *, stride: int | None = None) -> Score:
    """Score one text of any length: a window of the model's context moves by `stride`, half of it unless given.

    Each token is scored once, with at least `context - stride` tokens before it after the first window.
    Raises: ConfigError, GenerationError.
    """
    [tokens, *more] = read_prompts(model, ids)
    context = model.config.context
    stride = max(1, context // 2) if stride is None else stride
    if type(stride) is not int or not 1 <= stride <= context:
        raise ConfigError({"stride": f"found {stride!r}, expected a whole number from 1 to {context}"}, "score")
    if more or len(tokens) < 2:
        raise GenerationError(f"found {1 + len(more)} text of {len(tokens)} token, expected one of at least 2")
    text = torch.tensor(tokens, device=model.device)
    losses: list[float] = []
    with in_eval_mode(model):
        for start in range(0, len(text) - 1, stride):
            window, following = text[:-1][start : start + context], text[1:][start : start + context]
            new = start + len(window) - len(losses)
            if new > 0:
                logits = model.logits(model.stream(window[None])[:, -new:])[0].float()
                if not torch.isfinite(logits).all():
                    raise GenerationError(first_overflow(model, window[None], None))
                losses += F.cross_entropy(logits, following[-new:], reduction="none").tolist()
    return Score(tuple(losses))

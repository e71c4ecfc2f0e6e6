"""Continuing prompts: token by token through the cache, for any number of prompts and samples at once."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import GenerationError
from ..fast.compiled import CompiledStep
from ..fast.linears import is_swapped
from ..keywords import strict_keywords
from ..layers import Decoder, PositionedEmbed
from ..observing import is_observed
from .cache import KVCache, NoRoom, StaticCache
from .inference import evaluating, first_overflow
from .options import Generation
from .prompts import Prompts, end_ids, read_prompts

ROOM = 256  # a cache for compiled steps has room for a multiple of so many tokens


@strict_keywords
def generate(
    model: Decoder,
    ids: Prompts,
    *,
    max_new_tokens: int = 30,
    samples: int = 1,
    greedy: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    end: Sequence[int] | None = None,
    until: Callable[[Sequence[int]], bool] | None = None,
    vocabulary: int | None = None,
    ban: Callable[[Sequence[int]], Iterable[int]] | None = None,
    slide: bool = False,
    compiled: bool = False,
) -> list[list[int]]:
    """Continue a prompt, or several of any length: each row is its prompt and what follows, to its end.

    `samples` rows of each prompt come one after another, each of at most `max_new_tokens` more. They end at an id of
    `end`, the checkpoint's own unless given, or where `until` of their new tokens is true. `temperature` divides the
    logits, 0 is `greedy`; `top_k` keeps the likeliest tokens, 0 all; `top_p` the likeliest that together reach a
    probability, `min_p` those that reach a part of the likeliest's; `repetition_penalty` above 1 repeats less. Ids from
    `vocabulary` on are never chosen, nor those that `ban` gives for a row so far. `slide` drops the oldest tokens of
    all rows where the longest fills the context; `compiled` runs the steps through torch.compile. With one `seed`,
    prompts of one length give the ids that transformers gives.

    Raises: GenerationError, ConfigError.
    """
    how = Generation(
        max_new_tokens=max_new_tokens,
        samples=samples,
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        end=end,
        until=until,
        vocabulary=vocabulary,
        ban=ban,
        slide=slide,
        compiled=compiled,
    )
    prompts = read_prompts(model, ids)
    rows = [list(prompt) for prompt in prompts for _ in range(how.samples)]
    for tokens in token_rows(model, prompts, how):
        for row, token in zip(rows, tokens, strict=True):
            row += [] if token is None else [token]
    return rows


@strict_keywords
def stream(
    model: Decoder,
    ids: Tensor | Sequence[int],
    *,
    max_new_tokens: int = 30,
    samples: int = 1,
    greedy: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    end: Sequence[int] | None = None,
    until: Callable[[Sequence[int]], bool] | None = None,
    vocabulary: int | None = None,
    ban: Callable[[Sequence[int]], Iterable[int]] | None = None,
    slide: bool = False,
    compiled: bool = False,
) -> Iterator[int]:
    """The tokens that follow one prompt, each as soon as it is chosen; options and errors are those of `generate`."""
    how = Generation(
        max_new_tokens=max_new_tokens,
        samples=samples,
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        end=end,
        until=until,
        vocabulary=vocabulary,
        ban=ban,
        slide=slide,
        compiled=compiled,
    )
    prompts = read_prompts(model, ids)
    if len(prompts) * how.samples != 1:
        raise GenerationError("a stream continues one prompt, once: use generate for more")
    return (token for [token] in token_rows(model, prompts, how) if token is not None)


def token_rows(model: Decoder, prompts: Sequence[Sequence[int]], how: Generation) -> Iterator[list[int | None]]:
    """One token for every row at a time, None for rows that have ended; stops when all have."""
    longest = max(map(len, prompts))
    _check_limits(model, longest, how)
    device = model.device
    generator = None if how.seed is None else torch.Generator(device).manual_seed(how.seed)
    ends = end_ids(model) if how.end is None else set(how.end)
    padded = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in prompts], device=device)
    run = _Run(model, padded, None if mask.all() else mask, how)

    def choose() -> Iterator[list[int | None]]:
        training = [module for module in model.modules() if module.training]  # between two tokens as it was
        rows: list[list[int]] = [[] for _ in range(len(prompts) * how.samples)]
        alive = [True] * len(rows)
        for number in range(how.max_new_tokens):
            with evaluating(training):
                logits = run.logits()
            if how.ban is not None:
                so_far = [[*prompts[at // how.samples], *row] for at, row in enumerate(rows)]
                banned = [how.ban(row) if going else () for row, going in zip(so_far, alive, strict=True)]
                logits = _without_banned(logits, banned)
            tokens = how(logits, run.own, generator)
            chosen = [token if going else None for token, going in zip(tokens.tolist(), alive, strict=True)]
            yield chosen
            for row, token in enumerate(chosen):
                if token is not None:
                    rows[row].append(token)
                    alive[row] = token not in ends and not (how.until and how.until(rows[row]))
            if number + 1 == how.max_new_tokens or not any(alive):
                return
            run.add(tokens)

    return choose()


def _without_banned(logits: Tensor, banned: Iterable[Iterable[int]]) -> Tensor:
    """The logits, minus infinity where a row may not go. Raises: GenerationError when it can go nowhere."""
    logits = logits.clone()  # they may be observed
    for row, tokens in zip(logits, banned, strict=True):
        row[[token for token in tokens if 0 <= token < len(row)]] = -torch.inf
        if row.max() == -torch.inf:
            raise GenerationError("no token may follow: all are banned")
    return logits


def _check_limits(model: Decoder, longest: int, how: Generation) -> None:
    """Whether these options can be had for this model. Raises: GenerationError."""
    context = model.config.context
    if how.compiled and is_observed(model):
        raise GenerationError("a compiled step cannot be observed: leave one of the two out")
    if how.compiled and model.is_part:
        raise GenerationError("a step that other processes share is not compiled: leave one of the two out")
    if how.compiled and is_swapped(model):
        raise GenerationError(
            "torch.compile cannot read direct, packed or quantised linear maps: leave one of the two out"
        )
    if longest + how.max_new_tokens > context and not how.slide:
        sizes = f"prompt {longest} + {how.max_new_tokens} new > context {context}"
        if isinstance(model.embed, PositionedEmbed):
            raise GenerationError(f"{sizes}, the positions this model has learned: shorten it, or slide")
        warnings.warn(f"{sizes}: past the length this model was trained on, texts get worse", stacklevel=5)


class _Run:
    """The rows so far, and the cache of all but the last token of each."""

    def __init__(self, model: Decoder, ids: Tensor, mask: Tensor | None, how: Generation) -> None:
        self.model, self.how = model, how
        capacity = ids.shape[-1] + how.max_new_tokens - 1
        self.capacity = min(capacity, model.config.context) if how.slide else capacity
        kept = slice(max(0, ids.shape[-1] - self.capacity), None)
        self.ids = ids[:, kept]  # (prompts, tokens) at first, then (rows, tokens)
        self.mask = mask if mask is None else mask[:, kept]
        self.rows = len(ids) * how.samples
        self.cache: KVCache | None = None
        self.compiled: CompiledStep | None = None

    @property
    def own(self) -> Tensor:
        """The tokens of each row, and in the place of padding its last."""
        return self.ids if self.mask is None else torch.where(self.mask, self.ids, self.ids[:, -1:])

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Logits of the next token of every row, in float32. Raises: GenerationError when they are not finite."""
        if self.cache is None:
            logits = self._read_rows()
        elif self.compiled is not None:
            logits = self.compiled(self.ids[:, -1:])
        else:
            logits = self.model.next_logits(self.ids[:, -1:], mask=self.mask, cache=self.cache)
        if not torch.isfinite(logits.sum()) and not torch.isfinite(logits).all():
            raise GenerationError(first_overflow(self.model, self.ids, self.mask))
        if self.how.vocabulary is not None:  # not in place: they may be observed
            allowed = logits[:, : self.how.vocabulary]
            logits = F.pad(allowed, (0, logits.shape[-1] - allowed.shape[-1]), value=-torch.inf)
        return logits

    def _read_rows(self) -> Tensor:
        """Fill a cache with the rows so far; at first each prompt once, however often it is continued."""
        copies = self.rows // len(self.ids)
        room = self.capacity
        if self.how.compiled:  # for many prompts alike, as each other size is compiled again
            room = max(room, min(-(-room // ROOM) * ROOM, self.model.config.context))
        cache = KVCache(self.model, batch=len(self.ids), capacity=room)
        try:
            logits = self.model.next_logits(self.ids, mask=self.mask, cache=cache)
            cache = cache.fork(copies) if copies > 1 else cache
        except NoRoom as error:
            needed = f"for which the cache would take {self.rows * error.of_row:,} bytes, more than can be had here"
            raise GenerationError(f"max_new_tokens: found {self.how.max_new_tokens}, {needed}") from None
        if copies > 1:
            self.ids, logits = (tensor.repeat_interleave(copies, 0) for tensor in (self.ids, logits))
            self.mask = None if self.mask is None else self.mask.repeat_interleave(copies, 0)
        self.cache = cache
        if self.how.compiled:
            self.compiled = CompiledStep(self.model, StaticCache(cache), self.mask)
        return logits

    def add(self, tokens: Tensor) -> None:
        """Put a token after each row; where the cache is full, forget the oldest quarter and read the rest again."""
        self.ids = torch.cat((self.ids, tokens[:, None]), dim=-1)
        if self.mask is not None:
            self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), dim=-1)
        if self.ids.shape[-1] > self.capacity:
            keep = max(1, 3 * self.capacity // 4)
            self.ids, self.cache = self.ids[:, -keep:], None
            self.mask = None if self.mask is None else self.mask[:, -keep:]

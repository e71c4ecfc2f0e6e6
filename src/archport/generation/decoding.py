"""Going on with a prompt: token by token through the cache, for any number of prompts and samples at once."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import dtype_name
from ..errors import GenerationError
from ..fast.compiled import CompiledStep
from ..fast.linears import is_swapped
from ..files.checkpoint import MAX_CONFIG, beside
from ..files.strict_json import read_json
from ..layers import Decoder, PositionedEmbed
from ..observing import hooked, is_observed
from .cache import KVCache, StaticCache
from .sampling import Sampling, check

ROOM = 256  # a cache for compiled steps has room for a multiple of so many tokens

Prompts = Tensor | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Generation(Sampling):
    """How to go on with prompts, besides how each token is chosen.

    `samples` rows of each prompt come one after another, each of at most `max_new_tokens`. `end` are the ids that end a
    row, the checkpoint's own unless given; it ends as well where `until` of its new tokens is true. Ids from
    `vocabulary` on are never chosen. `slide` drops the oldest tokens of all rows where the longest fills the context.
    `compiled` runs the steps through torch.compile, on a GPU as one captured graph: slow to start, fast from then on.

    Raises: ConfigError.
    """

    max_new_tokens: int = 30
    samples: int = 1
    seed: int | None = None
    end: Sequence[int] | None = None
    until: Callable[[Sequence[int]], bool] | None = None
    vocabulary: int | None = None
    slide: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()

        def counted(value: Any) -> bool:
            return type(value) is int and value >= 1

        expected = {
            "max_new_tokens": (counted, "a whole number from 1"),
            "samples": (counted, "a whole number from 1"),
            "seed": (lambda v: v is None or (type(v) is int and 0 <= v < 2**63), "a whole number from 0, below 2^63"),
            "end": (lambda v: v is None or all(type(token) is int for token in v), "a list of ids"),
            "until": (lambda v: v is None or callable(v), "a function of a row's new tokens"),
            "vocabulary": (lambda v: v is None or counted(v), "a whole number from 1"),
            "slide": (lambda v: type(v) is bool, "true or false"),
            "compiled": (lambda v: type(v) is bool, "true or false"),
        }
        check(self, expected, "generate")


def generate(model: Decoder, ids: Prompts, **options: Any) -> list[list[int]]:
    """Go on with a prompt, or with several of any length: each row is its prompt and what follows, to its end.

    `options` are the fields of `Generation` and `Sampling`. With one `seed`, prompts of one length give the ids that
    transformers gives.

    Raises: GenerationError, ConfigError.
    """
    how, asked = Generation(**options), prompts(ids, model)
    rows = [list(prompt) for prompt in asked for _ in range(how.samples)]
    for tokens in steps(model, asked, how):
        for row, token in zip(rows, tokens, strict=True):
            row += [] if token is None else [token]
    return rows


def stream(model: Decoder, ids: Tensor | Sequence[int], **options: Any) -> Iterator[int]:
    """The tokens that follow one prompt, each as soon as it is chosen; options and errors are those of `generate`."""
    how, asked = Generation(**options), prompts(ids, model)
    if len(asked) * how.samples != 1:
        raise GenerationError("a stream goes on with one prompt, once: use generate for more")
    return (token for [token] in steps(model, asked, how) if token is not None)


def steps(model: Decoder, prompts: Sequence[Sequence[int]], how: Generation) -> Iterator[list[int | None]]:
    """One token for every row at a time, None for rows that have ended; stops when all have."""
    longest = max(map(len, prompts))
    _check(model, longest, how)
    device = model.device
    generator = None if how.seed is None else torch.Generator(device).manual_seed(how.seed)
    ends = end_ids(model) if how.end is None else set(how.end)
    padded = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in prompts], device=device)
    run = _Run(model, padded, None if mask.all() else mask, how)

    def choose() -> Iterator[list[int | None]]:
        with in_eval_mode(model):
            rows: list[list[int]] = [[] for _ in range(len(prompts) * how.samples)]
            alive = [True] * len(rows)
            for number in range(how.max_new_tokens):
                tokens = how(run.logits(), run.own, generator)
                chosen = [token if going else None for token, going in zip(tokens.tolist(), alive, strict=True)]
                yield chosen
                for at, token in enumerate(chosen):
                    if token is not None:
                        rows[at].append(token)
                        alive[at] = token not in ends and not (how.until and how.until(rows[at]))
                if number + 1 == how.max_new_tokens or not any(alive):
                    return
                run.add(tokens)

    return choose()


@contextmanager
def in_eval_mode(model: Decoder) -> Iterator[None]:
    """Without dropout, and afterwards each module as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Run:
    """The rows so far, and the cache of all but the last token of each."""

    def __init__(self, model: Decoder, ids: Tensor, mask: Tensor | None, how: Generation) -> None:
        self.model, self.how = model, how
        capacity = ids.shape[-1] + how.max_new_tokens - 1
        self.capacity = min(capacity, model.config.context) if how.slide else capacity
        self.seen = ids[:, -self.capacity :]
        self.mask = mask if mask is None else mask[:, -self.capacity :]
        self.rows = len(ids) * how.samples
        self.cache: KVCache | None = None
        self.compiled: CompiledStep | None = None

    @property
    def own(self) -> Tensor:
        """The tokens of each row, and in the place of padding its last."""
        return self.seen if self.mask is None else torch.where(self.mask, self.seen, self.seen[:, -1:])

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Logits of the next token of every row, in float32. Raises: GenerationError when they are not finite."""
        if self.cache is None:
            logits = self._read_prompts()
        elif self.compiled is not None:
            logits = self.compiled(self.seen[:, -1:])
        else:
            logits = self.model.next_logits(self.seen[:, -1:], mask=self.mask, cache=self.cache)
        if not torch.isfinite(logits.sum()) and not torch.isfinite(logits).all():
            raise GenerationError(first_overflow(self.model, self.seen, self.mask))
        if self.how.vocabulary is not None:
            logits[:, self.how.vocabulary :] = -torch.inf
        return logits

    def _read_prompts(self) -> Tensor:
        """Fill a cache with the rows so far; at first each prompt once, however often it is gone on with."""
        copies = self.rows // len(self.seen)
        room = self.capacity
        if self.how.compiled:  # for many prompts alike, as each other size is compiled again
            room = max(room, min(-(-room // ROOM) * ROOM, self.model.config.context))
        cache = KVCache(self.model, batch=len(self.seen), capacity=room)
        logits = self.model.next_logits(self.seen, mask=self.mask, cache=cache)
        if copies > 1:
            cache = cache.fork(copies)
            self.seen, logits = (tensor.repeat_interleave(copies, 0) for tensor in (self.seen, logits))
            self.mask = None if self.mask is None else self.mask.repeat_interleave(copies, 0)
        self.cache = cache
        if self.how.compiled:
            self.compiled = CompiledStep(self.model, StaticCache(cache), self.mask)
        return logits

    def add(self, tokens: Tensor) -> None:
        """Put a token after each row; where the cache is full, forget the oldest quarter and read the rest again."""
        self.seen = torch.cat((self.seen, tokens[:, None]), dim=-1)
        if self.mask is not None:
            self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), dim=-1)
        if self.seen.shape[-1] > self.capacity:
            keep = max(1, 3 * self.capacity // 4)
            self.seen, self.cache = self.seen[:, -keep:], None
            self.mask = None if self.mask is None else self.mask[:, -keep:]


def end_ids(model: Decoder) -> set[int]:
    """The ids that end a text: from generation_config.json, else from the config; a number, a list or none."""
    origin = model.origin
    found = origin.hf.get("eos_token_id") if origin else None
    if origin and origin.folder and (origin.folder / "generation_config.json").is_file():
        found = read_json(beside(origin.folder, "generation_config.json"), MAX_CONFIG).get("eos_token_id", found)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    known = {token for token in ids if type(token) is int and 0 <= token < model.config.vocab_size}
    if strange := [token for token in ids if type(token) is not int]:
        warnings.warn(f"eos_token_id: found {strange!r:.60}, expected whole numbers: not used", stacklevel=3)
    return known


def prompts(ids: Prompts, model: Decoder) -> list[list[int]]:
    """One prompt or several as lists of ids that the model knows. Raises: GenerationError."""
    if model.device.type == "meta":
        raise GenerationError("the model is on meta and has no weights")
    given: Any = ids.tolist() if hasattr(ids, "tolist") else ids  # a tensor, or an array
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise GenerationError(f"found a {type(ids).__name__} of shape {tuple(getattr(ids, 'shape', ()))}, expected ids")
    given = [row.tolist() if hasattr(row, "tolist") else row for row in given]
    nested = bool(given) and all(isinstance(row, Sequence) for row in given)
    return [_prompt(row, number, model.config.vocab_size) for number, row in enumerate(given if nested else [given])]


def _prompt(row: Sequence[Any], number: int, vocab: int) -> list[int]:
    if not row:
        raise GenerationError(f"prompt {number} is empty, expected at least one token")
    for token in row:
        if isinstance(token, bool) or not hasattr(token, "__index__") or not 0 <= int(token) < vocab:
            raise GenerationError(f"prompt {number}: found token {token!r:.60}, expected ids from 0 to {vocab - 1}")
    return [int(token) for token in row]


def _check(model: Decoder, longest: int, how: Generation) -> None:
    context = model.config.context
    if how.compiled and is_observed(model):
        raise GenerationError("a compiled step cannot be observed: leave one of the two out")
    if how.compiled and is_swapped(model):
        raise GenerationError("torch.compile cannot read packed or quantised linear maps: leave one of the two out")
    if longest + how.max_new_tokens > context and not how.slide:
        sizes = f"prompt {longest} + {how.max_new_tokens} new > context {context}"
        if isinstance(model.embed, PositionedEmbed):
            raise GenerationError(f"{sizes}, the positions this model has learned: shorten it, or slide")
        warnings.warn(f"{sizes}: past the length this model was trained on, texts get worse", stacklevel=4)


@torch.inference_mode()
def first_overflow(model: Decoder, ids: Tensor, mask: Tensor | None) -> str:
    """Which module is the first to make something that is not finite, in words."""
    names: list[str] = []

    def watch(name: str, _: nn.Module, __: Any, ___: Any, result: Any) -> None:
        if isinstance(result, Tensor) and not torch.isfinite(result).all():
            names.append(name)

    with hooked({name: module for name, module in model.named_modules() if name}, after=watch):
        model(ids, mask=mask)
    where = names[0] if names else "the head"
    dtype = model.dtype
    small = dtype == torch.float16
    advice = "load it in bfloat16 or float32" if small else "its weights may not be finite either, see check_finite"
    return f"{where} makes numbers that are not finite in {dtype_name(dtype)}: {advice}"

"""Going on with a prompt: token by token through the cache, for any number of prompts and samples at once."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .cache import KVCache
from .checkpoint import MAX_CONFIG, beside
from .errors import ConfigError, GenerationError
from .layers import Decoder, PositionedEmbed
from .sampling import Sampling
from .strict_json import read_json

Prompts = Tensor | Sequence[int] | Sequence[Sequence[int]]


def generate(
    model: Decoder,
    ids: Prompts,
    *,
    max_new_tokens: int = 30,
    samples: int = 1,
    seed: int | None = None,
    end: Sequence[int] | None = None,
    vocabulary: int | None = None,
    slide: bool = False,
    **sampling: Any,
) -> list[list[int]]:
    """Go on with a prompt, or with several of any length: each row is its prompt and what follows, to its end.

    `samples` rows of each prompt come one after another. `end` are the ids that end a row, the checkpoint's own unless
    given; ids from `vocabulary` on are never chosen. `slide` drops the oldest tokens where the context is full. The
    rest is as in `Sampling`. With one `seed`, prompts of one length give the ids that transformers gives.

    Raises: GenerationError, ConfigError.
    """
    asked = prompts(ids, model)
    choices = steps(
        model,
        asked,
        max_new_tokens=max_new_tokens,
        samples=samples,
        seed=seed,
        end=end,
        vocabulary=vocabulary,
        slide=slide,
        sampling=Sampling(**sampling),
    )
    rows = [list(prompt) for prompt in asked for _ in range(samples)]
    for tokens in choices:
        for row, token in zip(rows, tokens, strict=True):
            row += [] if token is None else [token]
    return rows


def stream(model: Decoder, ids: Tensor | Sequence[int], **options: Any) -> Iterator[int]:
    """The tokens that follow one prompt, each as soon as it is chosen; options and errors are those of `generate`."""
    asked = prompts(ids, model)
    if len(asked) > 1 or options.pop("samples", 1) != 1:
        raise GenerationError("a stream goes on with one prompt, once: use generate for more")
    known = {"max_new_tokens", "seed", "end", "vocabulary", "slide"}
    sampling = Sampling(**{name: value for name, value in options.items() if name not in known})
    rest = {name: value for name, value in options.items() if name in known}
    rows = steps(model, asked, sampling=sampling, **rest)
    return (token for [token] in rows if token is not None)


def steps(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    max_new_tokens: int = 30,
    samples: int = 1,
    seed: int | None = None,
    end: Sequence[int] | None = None,
    vocabulary: int | None = None,
    slide: bool = False,
) -> Iterator[list[int | None]]:
    """One token for every row at a time, None for rows that have ended; stops when all have."""
    longest = max(map(len, prompts))
    _check(model, longest, max_new_tokens, samples, slide)
    device = model.norm.weight.device
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    ends = torch.tensor(sorted(end_ids(model) if end is None else set(end)), dtype=torch.long, device=device)
    padded = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in prompts], device=device)
    run = _Run(model, padded, None if mask.all() else mask, max_new_tokens, samples, slide)

    def choose() -> Iterator[list[int | None]]:
        training = model.training
        model.eval()
        try:
            alive = torch.ones(len(prompts) * samples, dtype=torch.bool, device=device)
            for number in range(max_new_tokens):
                tokens = sampling(run.logits(vocabulary), run.seen, generator)
                yield [token if going else None for token, going in zip(tokens.tolist(), alive.tolist(), strict=True)]
                alive &= ~torch.isin(tokens, ends)
                if number + 1 == max_new_tokens or not alive.any():
                    return
                run.add(tokens)
        finally:
            model.train(training)

    return choose()


class _Run:
    """The rows so far, and the cache of all but the last token of each."""

    def __init__(self, model: Decoder, ids: Tensor, mask: Tensor | None, more: int, samples: int, slide: bool) -> None:
        self.model, self.samples = model, samples
        self.seen, self.mask = ids, mask
        capacity = ids.shape[-1] + more - 1
        self.capacity = min(capacity, model.config.context) if slide else capacity
        self.seen = self.seen[:, -self.capacity :]
        self.mask = mask if mask is None else mask[:, -self.capacity :]
        self.cache: KVCache | None = None

    @torch.inference_mode()
    def logits(self, vocabulary: int | None) -> Tensor:
        """Logits of the next token of every row, in float32. Raises: GenerationError when they are not finite."""
        if self.cache is None:  # each prompt once, however often it is gone on with
            self.cache = KVCache(self.model, batch=len(self.seen), capacity=self.capacity)
            new = self.seen
        else:
            new = self.seen[:, -1:]
        stream = self.model.stream(new, mask=self.mask, cache=self.cache)
        logits: Tensor = self.model.head(self.model.norm(stream[:, -1:]))[:, -1].float()
        if not torch.isfinite(logits.sum()) and not torch.isfinite(logits).all():
            raise GenerationError(_first_overflow(self.model, self.seen, self.mask))
        if vocabulary is not None:
            logits[:, vocabulary:] = -torch.inf
        if self.samples > 1:
            self.cache = self.cache.fork(self.samples)
            self.seen, logits = (tensor.repeat_interleave(self.samples, 0) for tensor in (self.seen, logits))
            self.mask = None if self.mask is None else self.mask.repeat_interleave(self.samples, 0)
            self.samples = 1
        return logits

    def add(self, tokens: Tensor) -> None:
        """Put a token after each row; where the cache is full, forget the oldest quarter and read the rest again."""
        self.seen = torch.cat((self.seen, tokens[:, None]), dim=-1)
        if self.mask is not None:
            self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), dim=-1)
        if self.cache is not None and self.cache.length == self.cache.capacity:
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
    return {token for token in ids if type(token) is int and 0 <= token < model.config.vocab_size}


def prompts(ids: Prompts, model: Decoder) -> list[list[int]]:
    """One prompt or several as lists of ids that the model knows. Raises: GenerationError."""
    given: Any = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    rows = given if given and not isinstance(given[0], int) else [given]
    vocab = model.config.vocab_size
    made: list[list[int]] = [list(row) for row in rows]
    for number, prompt in enumerate(made):
        if not prompt:
            raise GenerationError(f"prompt {number} is empty, expected at least one token")
        wrong = next((token for token in prompt if type(token) is not int or not 0 <= token < vocab), None)
        if wrong is not None:
            raise GenerationError(f"prompt {number}: found token {wrong!r}, expected ids from 0 to {vocab - 1}")
    return made


def _check(model: Decoder, longest: int, new: int, samples: int, slide: bool) -> None:
    context = model.config.context
    faults = {
        name: f"found {value!r}, expected a whole number from 1"
        for name, value in (("max_new_tokens", new), ("samples", samples))
        if type(value) is not int or value < 1
    }
    if faults:
        raise ConfigError(faults, "generate")
    if longest + new > context and not slide:
        sizes = f"prompt {longest} + {new} new > context {context}"
        if isinstance(model.embed, PositionedEmbed):
            raise GenerationError(f"{sizes}, the positions this model has learned: shorten it, or slide")
        warnings.warn(f"{sizes}: past the length this model was trained on, texts get worse", stacklevel=4)


@torch.inference_mode()
def _first_overflow(model: Decoder, ids: Tensor, mask: Tensor | None) -> str:
    """Which module is the first to make something that is not finite, in words."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_: Any, __: Any, made: Any) -> None:
            if isinstance(made, Tensor) and not torch.isfinite(made).all():
                found.append(name)

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    model(ids, mask=mask)
    for handle in handles:
        handle.remove()
    where = found[0] if found else "the head"
    dtype = str(model.norm.weight.dtype).removeprefix("torch.")
    return f"{where} makes numbers that are not finite in {dtype}: load it in bfloat16 or float32"

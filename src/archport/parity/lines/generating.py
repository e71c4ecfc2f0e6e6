"""Lines about generated tokens: what follows must be as likely by the reference, and drawn as transformers draws it."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ...generation.prompts import end_ids
from ...generation.sampling import Sampling
from ...layers import Decoder
from ..budget import Check, allowed, largest
from ..compare import Comparison
from ..outputs import generated, logits
from ..passes import cached_logits
from ..references import choices, ends

GREEDY, CHOSEN, SAMPLED, ENDED = "greedy tokens", "draws from its logits", "sampled tokens", "ends of texts"
TOKENS, ROWS = 8, 3  # to generate
DRAWS = 64  # from logits that the reference made
SPREAD = 10  # likeliest tokens that a temperature makes about as likely
SEED, SEEDS = 0, 3


def greedy(comparison: Comparison, port: Decoder) -> Check:
    """Greedy tokens through the cache: how much likelier, by the reference, another token would have been."""
    prompt, more = _prompt(comparison)
    start = prompt.shape[-1] - 1
    text = torch.tensor(generated(port, prompt, more, greedy=True), device=prompt.device)
    theirs, exact = (one[0] for one in _again(comparison, text, start))
    lost = (exact.amax(-1, keepdim=True) - exact.gather(-1, text[0, start + 1 :, None])).max().item()
    own = largest(theirs - exact)
    budget = 2 * allowed(own, largest(exact), comparison.dtype)  # two logits may each be off by as much
    return Check(GREEDY, lost, own, budget, note=f"{more} tokens through the cache")


def chosen(comparison: Comparison) -> Check:
    """Tokens that are drawn from the reference's own logits, with one seed, by our steps and by transformers'."""
    rows, ids = _rows(comparison)
    ways = _ways(comparison)
    different = [name for name, how in ways.items() if not _drawn_alike(how, ids, rows, choices)]
    return Check(
        CHOSEN, float(len(different)), 0.0, 0.0, " and ".join(different), f"{len(rows)} draws in {len(ways)} ways"
    )


def draws_as(comparison: Comparison, probabilities: Callable[[Sampling, Tensor, Tensor], Tensor]) -> bool:
    """Whether our steps draw in every way as these probabilities do."""
    rows, ids = _rows(comparison)
    return all(_drawn_alike(how, ids, rows, probabilities) for how in _ways(comparison).values())


def _rows(comparison: Comparison) -> tuple[Tensor, Tensor]:
    """Logits that the reference made, (draws, vocab_size), and ids that come before each, likely ones first."""
    first = comparison.logits(comparison.reference).float()
    rows = first[:, -max(1, DRAWS // len(first)) :].flatten(0, 1)
    likely = rows.topk(min(SPREAD, rows.shape[-1])).indices[:, ::2]
    return rows, torch.cat((likely, comparison.first_ids.repeat_interleave(len(rows) // len(first), dim=0)), dim=1)


def _drawn_alike(
    how: Sampling, ids: Tensor, rows: Tensor, probabilities: Callable[[Sampling, Tensor, Tensor], Tensor]
) -> bool:
    """Whether one seed draws the same tokens by our steps and by some probabilities."""
    ours, theirs = (torch.Generator(rows.device).manual_seed(SEED) for _ in range(2))
    drawn = torch.multinomial(probabilities(how, ids, rows), 1, generator=theirs).squeeze(-1)
    return torch.equal(how(rows, ids, ours), drawn)


def sampled(comparison: Comparison, port: Decoder) -> Iterator[Check]:
    """Tokens that are sampled with a seed through the cache: how much likelier another draw was by the reference.

    A draw may fall where rounding decides what is kept, so one of several seeds must do; half precision does so often.
    """
    if comparison.dtype == torch.float32:
        checks = (_sampled(comparison, port, seed) for seed in range(SEEDS))
        first = next(checks)
        yield first if first.ok else next((one for one in checks if one.ok), first)


def _sampled(comparison: Comparison, port: Decoder, seed: int) -> Check:
    prompt, more = _prompt(comparison)
    start = prompt.shape[-1] - 1
    how = _all_at_once(comparison)
    rows = generated(port, prompt, more, samples=ROWS, seed=seed, **vars(how))
    text = torch.tensor(rows, device=prompt.device)
    theirs, exact = _again(comparison, text, start)
    own = largest(theirs - exact)
    lost = min(_lost(text, logits, start, how, seed).max().item() for logits in (theirs, exact))
    budget = 2 * allowed(own, largest(exact), comparison.dtype) / how.temperature
    return Check(SAMPLED, lost, own, budget, note=f"{ROWS} rows of {more} tokens, one seed")


def ended(comparison: Comparison, port: Decoder) -> Check:
    """Texts that end at an id, and the ids that end them where the port came from files."""
    prompt, more = _prompt(comparison)
    [text] = generated(port, prompt, more, greedy=True)
    end = text[(prompt.shape[-1] + len(text)) // 2]
    new = text[prompt.shape[-1] :]
    expected = text[: prompt.shape[-1] + new.index(end) + 1]
    wrong = generated(port, prompt, more, greedy=True, end=[end]) != [expected]
    from_files = port.origin is not None and port.origin.folder is not None
    other = from_files and end_ids(port) != ends(comparison.reference, port.config.vocab_size)
    note = "ends at other ids than the reference" if other else f"at id {end}"
    return Check(ENDED, float(wrong + other), 0.0, 0.0, "", note)


def _prompt(comparison: Comparison) -> tuple[Tensor, int]:
    """A few ids, and how many may follow."""
    context, length = comparison.clean.config.context, comparison.first_ids.shape[-1]
    prompt = comparison.first_ids[:1, : max(1, min(length, context) // 2)]
    return prompt, min(TOKENS, context - prompt.shape[-1])


def _again(comparison: Comparison, text: Tensor, start: int) -> list[Tensor]:
    """The reference's logits of each next token of a text from one place on, in both precisions."""
    bounds = [0, *range(start + 1, text.shape[-1] + 1)]
    run = partial(cached_logits, bounds=bounds) if comparison.follows_length else logits
    return [run(model, text)[:, start:-1] for model in (comparison.reference, comparison.exact)]


def _ways(comparison: Comparison) -> dict[str, Sampling]:
    """Ways to choose a token in which each step shows: a temperature makes some tokens about as likely."""
    flat = _flat(comparison)
    return {
        "temperature and top-k": Sampling(temperature=flat, top_k=4),
        "temperature and top-p": Sampling(temperature=flat, top_k=0, top_p=0.7),
        "temperature and min-p": Sampling(temperature=flat, top_k=0, min_p=0.5),
        "repetition penalty": Sampling(temperature=flat, top_k=SPREAD, repetition_penalty=1.5),
    }


def _all_at_once(comparison: Comparison) -> Sampling:
    return Sampling(temperature=_flat(comparison), top_k=SPREAD, top_p=0.95, repetition_penalty=1.3)


def _flat(comparison: Comparison) -> float:
    """A temperature at which the likeliest tokens are about as likely."""
    rows = comparison.logits(comparison.reference).float()
    top = rows.topk(min(SPREAD, rows.shape[-1])).values
    return max(1e-3, (top[..., 0] - top[..., -1]).mean().item())


def _lost(text: Tensor, rows: Tensor, start: int, how: Sampling, seed: int) -> Tensor:
    """By how much another token won each draw, in nats: 0 where the text has the one that was drawn.

    What is drawn is the likeliest once each probability is divided by a number of its own, as in `torch.multinomial`.
    """
    generator = torch.Generator(text.device).manual_seed(seed)
    lost = []
    for at in range(rows.shape[1]):
        probabilities = choices(how, text[:, : start + 1 + at], rows[:, at].float())
        divided = probabilities / torch.empty_like(probabilities).exponential_(generator=generator)
        token = text[:, start + 1 + at, None]
        lost.append(divided.amax(-1).log() - divided.gather(-1, token).squeeze(-1).log())
    return torch.stack(lost)

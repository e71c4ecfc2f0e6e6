"""What is computed to be drawn: attention probabilities and norms of the stream for a text, singular values."""

import torch
from torch import Tensor

from ..generation import text
from ..layers import Attention, Decoder
from ..load_plan import LoadPlan
from ..loading import own_weight
from ..observing import observe, sites
from ..registry import skeleton
from .drawing import Spectrum, not_finite
from .selecting import fault
from .subjects import Subject


def tokens(subject: Subject, plan: LoadPlan, prompt: str) -> tuple[Tensor, list[str]]:  # -> (1, seq), a word a token
    """A text as ids and as words; a piece of a character is written as in the vocabulary."""
    model = skeleton(subject.architecture, subject.config)
    model.origin = plan.checkpoint.origin
    tokenizer = text.tokenizer(model)
    ids, most = text.encoded(tokenizer, prompt, model.config.vocab_size), subject.config.context
    if len(ids) < 2:
        raise fault("prompt", f"found {len(ids)} tokens, expected at least 2")
    if len(ids) > most:
        raise fault("prompt", f"found {len(ids):,} tokens, expected at most {most:,}")
    words = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
    for at, word in enumerate(words):
        if not word or "\N{REPLACEMENT CHARACTER}" in word:
            words[at] = str(tokenizer.id_to_token(ids[at]))
    return torch.tensor([ids]), words


def probabilities_site(model: Decoder, layer: int) -> str:
    """The site of a layer's attention probabilities. Raises: ConfigError where its attention has none."""
    for site in sites(model):
        if site.name.startswith(f"blocks.{layer}.") and site.name.endswith(".probabilities"):
            return site.name
    parts = ", ".join(type(part).__name__ for part in model.blocks[layer].children())
    message = f"layer {layer} has no attention probabilities to observe, as {Attention.__name__} has: found {parts}"
    raise fault("attention", message)


@torch.no_grad()
def probabilities(model: Decoder, ids: Tensor, layer: int) -> Tensor:  # (1, seq) -> (heads, seq, seq)
    """How much each token of one text looks at each, in every head of a layer."""
    name = probabilities_site(model, layer)
    with observe(model, name) as values:
        model(ids)
    return values[name][0]


@torch.no_grad()
def stream_norms(model: Decoder, ids: Tensor) -> Tensor:  # (1, seq) -> (layers + 1, seq)
    """The norm of each token's stream after the embedding and after every block."""
    names = ["embed", *(f"blocks.{layer}.after" for layer in range(len(model.blocks)))]
    with observe(model, *names) as values:
        model(ids)
    return torch.stack([values[name][0].norm(dim=-1) for name in names])


def spectra(plan: LoadPlan) -> dict[str, list[Spectrum]]:
    """The singular values of each matrix of a block, by its name within one, in every layer that has it.

    Raises: ConfigError.
    """
    spectra: dict[str, list[Spectrum]] = {}
    for step in plan.mapped:
        if not str(step.name).startswith("blocks.") or len(step.shape) != 2:
            continue
        _, layer, matrix = str(step.name).split(".", 2)
        weight = own_weight(plan, step).float()
        if odd := not_finite(weight):
            numbers = f"{odd:,} of {weight.numel():,} numbers not finite"
            raise fault("spectrum", f"{step.name}: found {numbers}, expected none")
        spectrum = Spectrum(int(layer), step.shape, torch.linalg.svdvals(weight))
        spectra.setdefault(matrix.removesuffix(".weight"), []).append(spectrum)
    if not spectra:
        raise fault("spectrum", "found no matrices in the blocks, expected some")
    return spectra

"""A module where it was not read: on every id, in long texts, with louder weights; what is read is held to that."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from .part import Program
from .reading import Hole
from .subject import SEQ, TINY, run, spellings, vocab_of
from .tracing import in_full

LOUDER = (1, 2)  # times all weights: there limits show, as of an expert, that are not reached else
SAME = 1e-4  # of the largest logit: what is louder is more sensitive, too
SHORTER = (90, 48, 24, SEQ)  # texts, where a module takes none as long as the context
Elsewhere = tuple[tuple[Tensor, Tensor], ...]  # ids and logits, for each of `LOUDER`


@torch.no_grad()
def elsewhere(make: Callable[[], nn.Module], config: Mapping[str, Any]) -> Elsewhere:
    """What the module that `make` gives makes of every id but that of padding, which no text has.

    Raises: Hole where it does not run.
    """
    named = [config.get(name) for name in sorted(spellings()["context"])]
    context = min([TINY["context"], *(one for one in named if type(one) is int and one > 0)])
    found = []
    for times in LOUDER:
        module = make()
        _louder(module, times)
        found.append(_longest(module, context, config.get("pad_token_id")))
    return tuple(found)


def _longest(module: nn.Module, context: int, padding: int | None) -> tuple[Tensor, Tensor]:
    for seq in (context, *(one for one in SHORTER if one < context)):
        ids = _every_id(vocab_of(module), seq)
        if padding is not None:
            ids[ids == padding] += 1 if padding == 0 else -1
        with suppress(Exception), in_full():  # type: ignore[no-untyped-call]  # it is somebody else's code
            return ids, run(module, ids)
    raise Hole("logits: the module does not run on other ids")


@torch.no_grad()
def require_same(program: Program, theirs: Elsewhere) -> None:
    """Raises: Hole where a program makes other numbers than its module made elsewhere."""
    for times, (ids, logits) in zip(LOUDER, theirs, strict=True):
        model = program.make()
        _louder(model, times)
        learned = program.embed.settings.get("context", ids.shape[1])
        with in_full():  # type: ignore[no-untyped-call]
            same = learned >= ids.shape[1] and _close(model(ids)[:, -logits.shape[1] :], logits)
        if not same:
            text = f"texts of {ids.shape[1]} tokens" + (f", all weights times {times}" if times > 1 else "")
            raise Hole(f"logits: in {text}, the module makes others than the parts that explain {SEQ} tokens")


def same_elsewhere(one: Elsewhere, other: Elsewhere) -> bool:
    """Whether two modules make the same of the same ids."""
    return all(a.equal(b) and _close(c, d) for (a, c), (b, d) in zip(one, other, strict=True))


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() < SAME * other.abs().max())


def _louder(module: nn.Module, times: int) -> None:
    """Multiply the parameters, and what a file holds of the buffers."""
    state = module.state_dict()
    buffers = [one for name, one in module.named_buffers() if name in state and one.is_floating_point()]
    for one in (*module.parameters(), *buffers):
        one.mul_(times)


def _every_id(vocab: int, seq: int) -> Tensor:
    """As many texts (batch, seq) as have every id."""
    batch = min(-(-vocab // seq), 8)
    return torch.randperm(batch * seq, generator=torch.Generator().manual_seed(3)).view(batch, seq) % vocab

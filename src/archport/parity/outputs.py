"""What a model makes, ours or theirs: logits in every way they can be made, loss, gradients, what modules are fed."""

import copy
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArchportError
from ..generation.cache import KVCache
from ..generation.decoding import generate
from ..layers import Decoder
from ..observing import hooked
from .counterparts import first_tensor
from .references import of_config
from .running import RaisedError, Stop, backward, run

PADS = 5  # tokens of padding


def with_exact_buffers(reference: nn.Module) -> nn.Module:
    """A copy with its buffers made anew in float32: `half()` and the like round rotary tables."""
    config: Any = reference.config
    fresh = of_config(config.to_dict(), torch.float32, config._attn_implementation)
    exact = copy.deepcopy(reference)
    for name, buffer in fresh.named_buffers():
        parent, _, leaf = name.rpartition(".")
        module = exact.get_submodule(parent)
        if leaf in module._buffers:
            module._buffers[leaf] = buffer.to(next(reference.parameters()).device)
    return exact


def with_parameters(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a model with its parameters in another dtype; its buffers, such as rotary tables, stay as they are."""
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
        parameter.grad = None
        parameter.requires_grad_(True)
    for module in model.modules():
        if dtype == torch.float64 and hasattr(module, "reorder_and_upcast_attn"):
            module.reorder_and_upcast_attn = False  # type: ignore[assignment]  # it refuses float64
    return model


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits of ours or theirs, without gradients."""
    with torch.no_grad():
        return run(model, ids)


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean next-token cross-entropy, in nats."""
    return F.cross_entropy(run(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Gradient of the loss by every parameter, zero where there is none; the model is left without any."""
    with torch.enable_grad():
        backward(loss(model, ids))
    by_name = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return by_name


@torch.no_grad()
def outputs(model: nn.Module, names: list[str], ids: Tensor) -> list[Tensor]:
    """What some modules make, in the order of their names; those that never run are left out."""
    results: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: Any, ___: Any, result: Any) -> None:
        results[name] = first_tensor(result).clone()  # which may be changed in place afterwards

    modules = dict(model.named_modules())
    with hooked({name: modules[name] for name in names if name in modules}, after=keep):
        run(model, ids)
    return [results[name] for name in names if name in results]


@torch.no_grad()
def cached_logits(port: Decoder, ids: Tensor) -> Tensor:
    """Logits of ids that go through a cache in pieces: 1, 7, the rest but 4, and these one by one."""
    length = ids.shape[-1]
    bounds = sorted({0, *(n for n in (1, 8, length - 4, length - 3, length - 2, length - 1) if 0 < n < length), length})
    cache = KVCache(port, batch=len(ids), capacity=length)
    return torch.cat([run(port, ids[:, start:end], cache=cache) for start, end in pairwise(bounds)], dim=1)


@torch.no_grad()
def padded_logits(port: Decoder, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of a row padded on the left beside a longer one, and the ids of that row alone."""
    pads = min(PADS, ids.shape[-1] - 1)
    alone = ids[-1:, pads:]
    batch = torch.cat((ids[:1], torch.cat((torch.zeros_like(ids[:1, :pads]), alone), dim=1)))
    mask = torch.ones_like(batch, dtype=torch.bool)
    mask[1, :pads] = False
    return run(port, batch, mask=mask)[1:, pads:], alone


def greedy_tokens(port: Decoder, prompt: Tensor, more: int) -> list[int]:
    """A prompt and what follows it. Raises: RaisedError."""
    try:
        [row] = generate(port, prompt, max_new_tokens=more, greedy=True, end=[])
        return row
    except ArchportError:
        raise
    except Exception as error:
        raise RaisedError("generate", error) from error


@torch.no_grad()
def fed(model: nn.Module, name: str, ids: Tensor) -> Tensor:
    """What a module is fed in a forward pass; the rest of the pass is not run."""
    taken: list[Tensor] = []

    def stop(_: str, __: nn.Module, args: Any, kwargs: Any) -> None:
        taken.append(first_tensor(args or kwargs))
        raise Stop

    with suppress(Stop), hooked({name: model.get_submodule(name)}, before=stop):
        run(model, ids)
    return taken[0] if taken else torch.empty(0)

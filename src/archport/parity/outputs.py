"""What a model makes, ours or theirs: logits in every way they can be made, loss, gradients, what modules are fed."""

import copy
from collections.abc import Sequence
from contextlib import suppress
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArchportError
from ..generation.cache import KVCache
from ..generation.decoding import generate
from ..layers import Decoder, DynamicNTK, LongRope, Rotary
from ..observing import hooked
from .counterparts import first_tensor
from .references import empty_cache, of_config, saved_buffers, with_plain_experts
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
        if getattr(module, "rope_type", "") == "dynamic" and not isinstance(module, _Forgetful):
            module.__class__ = type(type(module).__name__, (_Forgetful, type(module)), {})
    return with_plain_experts(model)


class _Forgetful(nn.Module):
    """A rotary table of the reference, whose dynamic frequencies would else be those of the longest pass so far."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.max_seq_len_cached, self.inv_freq = self.original_max_seq_len, self.original_inv_freq
        return super().forward(*args, **kwargs)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits of ours or theirs, without gradients."""
    with torch.no_grad():
        return run(model, ids)


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean next-token cross-entropy, in nats."""
    return F.cross_entropy(run(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Gradient of the loss by every weight, zero where there is none; the model is left without any."""
    with torch.enable_grad():
        backward(loss(model, ids))
    weights = {**dict(model.named_parameters()), **saved_buffers(model)}
    by_name = {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in weights.items()}
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


def follows_length(model: nn.Module) -> bool:
    """Whether rotary frequencies depend on how long a pass is, so that a cached one is another than the whole."""
    return any(isinstance(part, Rotary) and isinstance(part.scaling, DynamicNTK | LongRope) for part in model.modules())


def pieces(length: int) -> list[int]:
    """Where to cut a text for a cache: one token, 7, the rest but 4, and these one by one."""
    inner = (1, 8, length - 4, length - 3, length - 2, length - 1)
    return sorted({0, *(n for n in inner if 0 < n < length), length})


@torch.no_grad()
def cached_logits(model: nn.Module, ids: Tensor, bounds: Sequence[int] | None = None) -> Tensor:
    """Logits of ids that go through a cache in pieces, by ours or by theirs."""
    bounds = bounds or pieces(ids.shape[-1])
    if isinstance(model, Decoder):
        cache: dict[str, Any] = {"cache": KVCache(model, batch=len(ids), capacity=ids.shape[-1])}
    else:
        name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"  # as it was till 5.23
        cache = {name: empty_cache(), "use_cache": True}
    return torch.cat([run(model, ids[:, start:end], **cache) for start, end in pairwise(bounds)], dim=1)


@torch.no_grad()
def padded_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits of a row that is shorter than the one beside it: padded on the left by ours, on the right by theirs."""
    alone = padded_row(ids)
    pads = torch.zeros_like(ids[:1, alone.shape[-1] :])
    if not isinstance(model, Decoder):
        return run(model, torch.cat((ids[:1], torch.cat((alone, pads), dim=1))))[1:, : alone.shape[-1]]
    batch = torch.cat((ids[:1], torch.cat((pads, alone), dim=1)))
    mask = torch.ones_like(batch, dtype=torch.bool)
    mask[1, : pads.shape[-1]] = False
    return run(model, batch, mask=mask)[1:, pads.shape[-1] :]


def padded_row(ids: Tensor) -> Tensor:
    """The tokens of the row that is padded."""
    return ids[-1:, min(PADS, ids.shape[-1] - 1) :]


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

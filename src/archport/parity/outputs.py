"""What a model makes, ours or theirs: logits in every way they can be made, loss, gradients, what modules are fed."""

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArchportError
from ..generation.decoding import generate
from ..layers import Decoder, DynamicNTK, LongRope, Rotary
from ..observing import hooked
from .counterparts import first_tensor
from .references import of_config, saved_buffers, with_plain_experts
from .running import RaisedError, Stop, backward, run

CHUNK = 4096  # tokens looked up at once


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


def generated(port: Decoder, prompt: Tensor, more: int, end: Sequence[int] = (), **how: Any) -> list[list[int]]:
    """A prompt and what follows it, a row a sample. Raises: RaisedError."""
    try:
        return generate(port, prompt, max_new_tokens=more, end=end, **how)
    except ArchportError:
        raise
    except Exception as error:
        raise RaisedError("generate", error) from error


@torch.no_grad()
def fed(model: nn.Module, name: str, ids: Tensor) -> Tensor:
    """What a module is fed in a forward pass; the rest of the pass is not run."""
    return _fed(model, name, ids)


def _fed(model: nn.Module, name: str, ids: Tensor) -> Tensor:
    taken: list[Tensor] = []

    def stop(_: str, __: nn.Module, args: Any, kwargs: Any) -> None:
        taken.append(first_tensor(args or kwargs))
        raise Stop

    with suppress(Stop), hooked({name: model.get_submodule(name)}, before=stop):
        run(model, ids)
    return taken[0] if taken else torch.empty(0)


def embedding_gradients(model: nn.Module, reader: str, names: Sequence[str], ids: Tensor) -> list[Tensor]:
    """Gradients of the weights of some embeddings, by a fixed gradient of what a module after them reads."""
    with torch.enable_grad():
        for number, rows in enumerate(ids.split(max(1, CHUNK // ids.shape[-1]))):
            read = _fed(model, reader, rows)
            generator = torch.Generator().manual_seed(number)
            backward((read * torch.randn(read.shape, generator=generator).to(read)).sum())
    weights = [model.get_parameter(f"{name}.weight") for name in names]
    made = [torch.zeros_like(w) if w.grad is None else w.grad.to_dense() for w in weights]
    model.zero_grad(set_to_none=True)
    return made

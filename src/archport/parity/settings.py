"""What a port and its reference must agree on before anything runs, and what no forward pass in eval mode shows."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..config import DecoderConfig
from ..errors import SourceError
from ..fast.linears import is_swapped
from ..files.values import is_finite
from ..layers import Decoder, Embed
from ..observing import is_observed
from .locate import DECODER

DRAWN = "init_std"  # the config field that acts on fresh weights only


class Problem(NamedTuple):
    """What keeps two models from being the same before any number is compared; `place` is in the port, or empty."""

    place: str
    words: str


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Problem]:
    """Each tensor with a NaN or an infinity in it."""
    yield from (Problem(name, f"{name} is not finite") for name, tensor in tensors if not is_finite(tensor))


def require_port(port: Decoder) -> None:
    """Take a Decoder that knows what it is, has values and is not observed. Raises: SourceError."""
    if is_observed(port):
        raise SourceError("the model is observed right now: verify it outside of `with observe(...)`")
    if not isinstance(getattr(port, "config", None), DecoderConfig) or not hasattr(port, "architecture"):
        raise SourceError("the model has no config or architecture: make it with archport.build or from_state_dict")
    empty = next((name for name, tensor in port.named_parameters() if tensor.is_meta), None)
    if empty:
        raise SourceError(f"{port.architecture}: {empty} is on meta and has no values")
    for name, module in port.named_modules():
        own = [key for key, value in vars(module).items() if callable(value) and hasattr(type(module), key)]
        if own:
            whose = name or port.architecture
            raise SourceError(f"{whose} has a {own[0]} of its own set on the instance: make it a class")


def not_comparable(port: Decoder, clean: Decoder) -> list[Problem]:
    """Each reason why two models cannot be run side by side: another architecture, other shapes."""
    if port.architecture != clean.architecture:
        return [Problem(DECODER, f"it is a {port.architecture}, the reference a {clean.architecture}")]
    if not len(port.blocks):
        return [Problem("blocks", "it has no blocks")]
    if not isinstance(port.embed, Embed):
        return [Problem("embed", f"embed is a {type(port.embed).__name__}, expected an Embed")]
    right = dict(clean.named_parameters(remove_duplicate=False))
    return [
        Problem(name, f"{name} is {tuple(parameter.shape)}, the reference's {tuple(right[name].shape)}")
        for name, parameter in port.named_parameters(remove_duplicate=False)
        if name in right and parameter.shape != right[name].shape
    ]


def unlike(port: Decoder, clean: Decoder) -> Iterator[Problem]:
    """Each setting that differs from archport's port of the reference: config, blocks, modules, dropout."""
    for field in fields(clean.config):
        ours, theirs = getattr(port.config, field.name, None), getattr(clean.config, field.name)
        if ours != theirs and field.name != DRAWN:
            words = f"config.{field.name} is {ours!r}, the reference's {theirs!r}"
            yield Problem(f"config.{field.name}", words)
    if len(port.blocks) != len(clean.blocks):
        yield Problem("blocks", f"it has {len(port.blocks)} blocks, the reference {len(clean.blocks)}")
    if not is_swapped(port):  # which keeps its weights elsewhere
        yield from _unlike_parameters(port, clean)
    right = dict(clean.named_modules())
    for name, module in port.named_modules():
        other = right.get(name)
        if other is not None and type(module) is type(other) and module.extra_repr() != other.extra_repr():
            yield Problem(name, f"{name} is {module.extra_repr()}, the reference's {other.extra_repr()}")
    dropped = {name: module.p for name, module in right.items() if isinstance(module, nn.Dropout)}
    for name, module in port.named_modules():
        if isinstance(module, nn.Dropout) and dropped.pop(name, 0.0) == 0 < module.p:
            yield Problem(name, f"{name} drops {module.p:g} in train mode, the reference nothing")
    gone = {name: rate for name, rate in dropped.items() if rate}
    yield from (Problem(name, f"{name} is missing, the reference's drops {rate:g}") for name, rate in gone.items())


def notes_on(port: Decoder, clean: Decoder) -> Iterator[str]:
    """A line for each thing that is unlike the reference and makes no other model."""
    ours, theirs = getattr(port.config, DRAWN), getattr(clean.config, DRAWN)
    if ours != theirs:
        yield f"config.{DRAWN} is {ours!r}, the reference's {theirs!r}: it acts on fresh weights only"
    if is_swapped(port):  # which keeps its weights in buffers
        return
    held = port.state_dict().keys() - clean.state_dict().keys()
    if more := [name for name, _ in port.named_buffers() if name in held]:
        many = f"{more[0]} is a buffer" if len(more) == 1 else f"{more[0]} and {len(more) - 1} more are buffers"
        yield f"{many} that the reference lacks and no export keeps"


def left_in_train_mode(port: Decoder) -> Iterator[str]:
    """A line where a port is handed over in train mode, and one more where it drops something there."""
    training = [module for module in port.modules() if module.training]
    if training:
        drops = any(getattr(module, "p", 0) or getattr(module, "score_dropout", 0) for module in training)
        yield f"handed over in train mode{', where it drops numbers' if drops else ''}: compared in eval mode"


def _unlike_parameters(port: Decoder, clean: Decoder) -> Iterator[Problem]:
    """Each parameter that only one of them has, or has apart from another."""
    ours, theirs = ({name for name, _ in model.named_parameters()} for model in (port, clean))
    shared, elsewhere = (
        {name for name, _ in model.named_parameters(remove_duplicate=False)} - own
        for model, own in ((port, ours), (clean, theirs))
    )
    words = dict.fromkeys(sorted(ours - theirs - elsewhere), "is a parameter that the reference lacks")
    words |= dict.fromkeys(sorted(theirs - ours - shared), "is missing")
    words |= dict.fromkeys(sorted(ours & elsewhere), "is a parameter of its own, the reference's is shared")
    yield from (Problem(name, f"{name} {what}") for name, what in words.items())


def mixed_dtypes(port: Decoder) -> Iterator[Problem]:
    """The first parameter of each dtype of the parameters beside the most frequent one."""
    names: dict[torch.dtype, list[str]] = {}
    for name, parameter in port.named_parameters():
        names.setdefault(parameter.dtype, []).append(name)
    usual = max(names, key=lambda dtype: len(names[dtype]))
    for dtype, some in names.items():
        if dtype != usual:
            yield Problem(some[0], f"{some[0]} is {dtype}, most are {usual}")


class without_dropout(TorchFunctionMode):
    """Drops nothing in train mode, whichever module asks for it and wherever it keeps its rate."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = kwargs | {"dropout_p": 0.0} if "dropout_p" in kwargs else kwargs
        elif "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)

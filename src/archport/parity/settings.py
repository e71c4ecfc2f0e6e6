"""What a port and its reference must agree on before anything runs, and what no forward pass in eval mode shows."""

from collections.abc import Iterable, Iterator
from dataclasses import fields

import torch
from torch import Tensor, nn

from ..layers import Attention, Decoder
from ..translate import is_finite


def not_finite(tensors: Iterable[tuple[str, Tensor]], whose: str = "") -> tuple[str, ...]:
    """A line for each tensor with a NaN or an infinity in it."""
    return tuple(f"{whose}{name} is not finite" for name, tensor in tensors if not is_finite(tensor))


def not_comparable(port: Decoder, clean: Decoder) -> tuple[str, ...]:
    """A line for each reason why two models cannot be run side by side: another architecture, other shapes."""
    if port.architecture != clean.architecture:
        return (f"it is a {port.architecture}, the reference a {clean.architecture}",)
    if not len(port.blocks):
        return ("it has no blocks",)
    right = dict(clean.named_parameters(remove_duplicate=False))
    return tuple(
        f"{name} is {tuple(parameter.shape)}, the reference's {tuple(right[name].shape)}"
        for name, parameter in port.named_parameters(remove_duplicate=False)
        if name in right and parameter.shape != right[name].shape
    )


def unlike(port: Decoder, clean: Decoder) -> Iterator[str]:
    """A line for each config field and dropout rate that differs from those of archport's port of the reference."""
    for field in fields(clean.config):
        ours, theirs = getattr(port.config, field.name, None), getattr(clean.config, field.name)
        if ours != theirs:
            yield f"config.{field.name} is {ours!r}, the reference's {theirs!r}"
    ours_at, theirs_at = dict(dropout_rates(port)), dict(dropout_rates(clean))
    for name in theirs_at | ours_at:
        ours, theirs = ours_at.get(name, 0.0), theirs_at.get(name, 0.0)
        if ours != theirs:
            yield f"{name} is {ours:g}, the reference's {theirs:g}"


def mixed_dtypes(port: Decoder) -> Iterator[str]:
    """A line for each dtype of the parameters beside the most frequent one."""
    names: dict[torch.dtype, list[str]] = {}
    for name, parameter in port.named_parameters():
        names.setdefault(parameter.dtype, []).append(name)
    usual = max(names, key=lambda dtype: len(names[dtype]))
    yield from (f"{some[0]} is {dtype}, most are {usual}" for dtype, some in names.items() if dtype != usual)


def dropout_rates(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Each place that drops something in train mode, with its probability."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            yield f"{name}.p", module.p
        elif isinstance(module, Attention):
            yield f"{name}.score_dropout", module.score_dropout


def without_dropout(model: nn.Module) -> nn.Module:
    """The same model, in place, in train mode and dropping nothing."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, Attention):
            module.score_dropout = 0.0
    return model.train()

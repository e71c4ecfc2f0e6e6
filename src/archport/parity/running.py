"""Run a port and, where it raises, say in which module."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import in_a_line
from ..layers import Decoder
from ..observing import hooked


class RaisedError(Exception):
    """A port's forward or backward pass raised; the text says where and what."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__(f"{where} raises {type(error).__name__}: {in_a_line(error)}")
        self.where = where


class Stop(Exception):
    """Ends a forward pass whose rest is of no interest."""


def run(model: nn.Module, ids: Tensor, **how: Any) -> Tensor:
    """Logits of a model, ours or theirs. Raises: RaisedError."""
    try:
        result = model(ids, **how)
        return result if isinstance(result, Tensor) else result.logits
    except Stop:
        raise
    except Exception as error:
        whose = "" if isinstance(model, Decoder) else "the reference's "
        raise RaisedError(f"{whose}{_where(model, ids, how)}", error) from error


def backward(loss: Tensor) -> None:
    """Gradients of a loss. Raises: RaisedError."""
    try:
        loss.backward()
    except RuntimeError as error:
        raise RaisedError("the backward pass", error) from error


def _where(model: nn.Module, ids: Tensor, how: dict[str, Any]) -> str:
    """The innermost module that is running when the model raises."""
    inside: list[str] = []

    def enter(name: str, _: nn.Module, __: Any, ___: Any) -> None:
        inside.append(name)

    def leave(_: str, __: nn.Module, ___: Any, ____: Any, _____: Any) -> None:
        inside.pop()

    with suppress(Exception), torch.no_grad(), hooked(dict(model.named_modules()), before=enter, after=leave):
        model(ids, **how)
    return (inside and inside[-1]) or "decoder"

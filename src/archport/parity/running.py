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
        what = error if isinstance(error, NoLogitsError) else f"raises {type(error).__name__}: {in_a_line(error)}"
        super().__init__(f"{where} {what}")
        self.where = where


class NoLogitsError(Exception):
    """A model returns something else; the text says what."""


class Stop(Exception):
    """Ends a forward pass whose rest is of no interest."""


def run(model: nn.Module, ids: Tensor, **how: Any) -> Tensor:
    """Logits of a model, ours or theirs. Raises: RaisedError."""
    try:
        result = model(ids, **how)
        made = getattr(result, "logits", result)
        if not isinstance(made, Tensor):
            raise NoLogitsError(f"returns a {type(made).__name__}, expected logits")
        return made
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

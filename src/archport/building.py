"""Where parameters go while a model is built: on meta if a file is to fill them, drawn if nothing else will."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

LARGE = 1 << 20  # bytes of an empty tensor that must be a weight


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules get parameters without memory, while all else, such as their buffers, is real."""
    on_meta = WeakTensorKeyDictionary()  # a parameter of two modules stays one

    def move(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:  # noqa: ARG001
        if parameter.is_meta:
            return None
        if parameter not in on_meta:
            on_meta[parameter] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        moved: nn.Parameter = on_meta[parameter]
        return moved

    with _registering(move), _large_weights_on_meta():
        yield


@contextmanager
def known_drawn_later() -> Iterator[None]:
    """Modules draw their own parameters, but for those that `layers.initialise` draws."""
    known = WeakTensorKeyDictionary()

    def remember(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm) and name in ("weight", "bias"):
            known[parameter] = True

    with _registering(remember), without_drawing(known.__contains__):
        yield


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or tensor.is_meta


class without_drawing(TorchFunctionMode):
    """Skips torch's own initialisation of the tensors that `skipped` names, all parameters by default."""

    def __init__(self, skipped: Callable[[Tensor], bool] = _is_parameter) -> None:
        super().__init__()
        self.skipped = skipped

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            tensor = kwargs["tensor"] if kwargs else args[0]
            if self.skipped(tensor):
                return tensor
        return func(*args, **(kwargs or {}))


class _large_weights_on_meta(without_drawing):
    """Large weights get no memory, not even for a moment; what is small may be filled and read by who makes it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and "out" not in kwargs:
            on_meta = torch.empty(*args, **kwargs | {"device": "meta"})
            if on_meta.nbytes > LARGE:
                return on_meta
        return super().__torch_function__(func, types, args, kwargs)


@contextmanager
def _registering(hook: Callable[[nn.Module, str, nn.Parameter], nn.Parameter | None]) -> Iterator[None]:
    """A hook sees each parameter that this thread gives to a module, and may put another in its place."""
    thread = get_ident()

    def in_this_thread(module: nn.Module, name: str, parameter: nn.Parameter) -> Any:
        return hook(module, name, parameter) if get_ident() == thread else None

    handle = register_module_parameter_registration_hook(in_this_thread)
    try:
        yield
    finally:
        handle.remove()

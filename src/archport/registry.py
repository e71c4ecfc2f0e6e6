"""Which architectures there are: the file name is the registry, and here models and mappings meet."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from . import models
from .config import DecoderConfig
from .errors import UnsupportedError
from .layers import Decoder
from .table import Table


@dataclass(frozen=True)
class Architecture:
    """One file of models/ and one of mappings/, under the model_type they share."""

    name: str
    config_class: type[DecoderConfig]
    build: Callable[[Any], Decoder]
    table: Table


def architectures() -> tuple[str, ...]:
    """The model_type of every architecture archport builds."""
    return tuple(module.name for module in iter_modules(models.__path__))


@cache
def architecture(name: str) -> Architecture:
    """An architecture by its model_type, with or without hyphens and underscores.

    Raises: UnsupportedError, listing what there is.
    """
    plain = {known.replace("_", ""): known for known in architectures()}
    known = plain.get(str(name).lower().replace("_", "").replace("-", ""))
    if known is None:
        raise UnsupportedError({"model_type": f"found {name!r}, archport builds {', '.join(architectures())}"})
    model, mapping = import_module(f".models.{known}", __package__), import_module(f".mappings.{known}", __package__)
    return Architecture(known, model.Config, model.build, mapping.TABLE)


class _NoDraw(TorchFunctionMode):
    """Skips torch's own initialisation: these weights are about to be replaced, and on meta there are none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if kwargs else args[0]
        return func(*args, **(kwargs or {}))


def skeleton(arch: Architecture, config: DecoderConfig, device: str | torch.device = "meta") -> Decoder:
    """The model before its weights: on `meta` with no memory, elsewhere with whatever its memory holds."""
    with torch.device(device), _NoDraw():
        model = arch.build(config)
    model.config, model.architecture = config, arch.name
    return model

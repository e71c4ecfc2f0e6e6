"""A person's own module by its name, as my_model.py:GPT: imported, and made at the sizes of a model."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import SourceError
from ..translate.planning import nearest
from .running import CodeError, raised
from .sizes import Sizes

CONFIGS = ("config", "cfg", "args", "sizes", "params", "hparams", "conf")


def imported(name: str) -> Any:
    """A class or function, by `FILE.py:NAME` or `package.module:NAME`.

    Raises: SourceError where there is none, CodeError where importing it raises.
    """
    module, colon, attribute = name.rpartition(":")
    if not colon or not module or not attribute:
        raise SourceError(f"{name}: expected a class or function of a module, as my_model.py:GPT or package.module:GPT")
    if Path(module).is_dir():
        raise SourceError(f"{module}: is a folder, expected a file of Python in it, as {Path(module) / 'my_model.py'}")
    with _code(module):
        loaded = _file(Path(module)) if module.endswith(".py") else _module(module)
    if not hasattr(loaded, attribute):
        raise SourceError(f"{module}: has no {attribute}{nearest(attribute, vars(loaded))}")
    return getattr(loaded, attribute)


def made(name: str, sizes: Sizes) -> nn.Module:
    """The module that a class or function makes of these sizes.

    It is given the sizes that its parameters are named by, and all of them as a config where it asks for one.

    Raises: SourceError, CodeError.
    """
    factory = imported(name)
    if not callable(factory):
        raise SourceError(f"{name}: found a {type(factory).__name__}, expected a class or function that makes a module")
    if isinstance(factory, nn.Module):
        return factory
    arguments, named = _arguments(name, factory, sizes)
    with _code(name):
        module = factory(*arguments, **named)
    if not isinstance(module, nn.Module):
        raise SourceError(f"{name}: made a {type(module).__name__}, expected a torch.nn.Module")
    return module


def _arguments(name: str, factory: Any, sizes: Sizes) -> tuple[list[Any], dict[str, Any]]:
    """What to call a class or function with. Raises: SourceError where it asks for what is no size."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # Python cannot tell
        return [sizes], {}
    asked = [one for one in parameters if one.kind in kinds]
    named = {one.name: sizes[one.name] for one in asked if one.name in sizes and one.name not in CONFIGS}
    others = [one for one in asked if one.name not in named]
    config = next((one for one in others if one.name in CONFIGS), None)
    needed = [one for one in others if one.default is inspect.Parameter.empty]
    if config is None and len(needed) == 1 and not named:
        config = needed[0]
    if config is not None:
        named[config.name] = sizes
    if unknown := [f"{one.name}{nearest(one.name, sizes)}" for one in needed if one is not config]:
        known = "of which the sizes of a model have none: give each a default, or take a config"
        raise SourceError(f"{name}: asks for {', '.join(unknown)}, {known}")
    positional = [one for one in parameters if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    return [sizes] * sum(one.default is inspect.Parameter.empty for one in positional[:1]), named


@contextmanager
def _code(name: str) -> Iterator[None]:
    """Say in one line what somebody else's code raises."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SourceError):
            raise
        raise CodeError(f"{name}: {raised(error)}") from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    spec = spec_from_file_location(f"archport_foreign_{path.stem}", path)
    module = module_from_spec(spec)  # type: ignore[arg-type]  # a file that ends in .py has one
    sys.modules[module.__name__] = module
    with _found_from(path.resolve().parent):
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _module(name: str) -> ModuleType:
    with _found_from(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _found_from(folder: Path) -> Iterator[None]:
    """Python looks into a folder first."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))

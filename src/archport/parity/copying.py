"""A copy of a model many times as fast as `copy.deepcopy`, for there are hundreds of guesses at what is wrong."""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
PLAIN = (type(None), bool, int, float, str)  # nothing in them can change


def copied(model: Module, shared: Iterable[object] = ()) -> Module:
    """A copy that shares nothing with the model, or only what is given."""
    return _copied(model, {id(one): one for one in shared})


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    if id(module) in memo:
        return memo[id(module)]
    if hasattr(type(module), "__deepcopy__"):
        return copy.deepcopy(module, memo)
    kind: Any = type(module)
    made = memo[id(module)] = kind.__new__(kind)
    # Parts first, so that whatever else refers to one finds its copy.
    parts = {name: part if part is None else _copied(part, memo) for name, part in module._modules.items()}
    own = {name: _of_value(value, memo) for name, value in vars(module).items() if name != "_modules"}
    vars(made).update(own | {"_modules": parts})
    return made


def _of_value(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, dict | set) and not value:
        return value.copy()
    if type(value) is dict and all(isinstance(one, Tensor | None) for one in value.values()):
        return {name: one if one is None else copy.deepcopy(one, memo) for name, one in value.items()}
    return copy.deepcopy(value, memo)

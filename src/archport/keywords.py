"""Keywords of public functions: one that is unknown is an error that names the nearest known one."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def strict_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose TypeError for an unknown keyword says which was meant."""
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    parameters = signature(function).parameters.items()
    known = [name for name, parameter in parameters if parameter.kind in kinds and name != "self"]

    if any(parameter.kind is Parameter.VAR_KEYWORD for _, parameter in parameters):
        return function  # whose others are known to what they are handed on to

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f". Did you mean {near[0]!r}?" if near else f", expected {', '.join(known) or 'none'}"
                raise TypeError(f"{function.__qualname__}() got an unexpected keyword argument {name!r}{hint}")
        return function(*args, **kwargs)

    return checked

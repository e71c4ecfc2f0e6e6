"""Lines of a module's forward that a probe never ran: what they would do, no proof has seen."""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

# What a pass over ids alone does not come to, and what a port does in a way of its own or not at all.
ASIDE = (
    "cache",
    "past_key",
    "raise",
    "logger",
    "warn",
    "loss",
    "labels",
    "return_dict",
    "output_",
    "inputs_embeds",
    "training",
)


def unreached(module: nn.Module, probes: Callable[[], Any]) -> list[str]:
    """The statements in methods of the classes of a module that no probe ran, as `Class.method: statement`."""
    methods = {code: name for kind in {type(one) for one in module.modules()} for name, code in _methods(kind)}
    ran: dict[Any, set[int]] = {code: set() for code in methods}

    def calls(frame: FrameType, *_: Any) -> Any:
        return lines if frame.f_code in ran else None

    def lines(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            ran[frame.f_code].add(frame.f_lineno)
        return lines

    before = sys.gettrace()
    sys.settrace(calls)
    try:
        probes()
    finally:
        sys.settrace(before)
    return [line for code, name in methods.items() if ran[code] for line in _missed(code, name, ran[code])]


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The code of the methods that a class of somebody's own has."""
    for owner in kind.__mro__:
        if owner.__module__.startswith("torch.") or owner is object:
            break
        for name, method in vars(owner).items():
            function = inspect.unwrap(method) if callable(method) else method
            if inspect.isfunction(function) and name != "__init__":
                yield f"{owner.__name__}.{name}", function.__code__


def _missed(code: Any, name: str, ran: set[int]) -> Iterator[str]:
    """Each simple statement of a method that was not run."""
    with suppress(OSError, SyntaxError):
        source = Path(code.co_filename).read_text().split("\n")
        tree = ast.parse("\n".join(source))
        found = (
            one
            for one in ast.walk(tree)
            if isinstance(one, ast.FunctionDef)
            and one.name == code.co_name  # which need not be that of the method
            and one.lineno <= code.co_firstlineno + len(one.decorator_list)
            and one.end_lineno
            and one.end_lineno >= max(ran)
        )
        method = next(found, None)  # of a lambda there is none
        for one in () if method is None else ast.walk(method):
            if not isinstance(one, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Return | ast.Expr):
                continue
            end = one.end_lineno or one.lineno
            text = " ".join(line.strip() for line in source[one.lineno - 1 : end])
            doc = isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
            if not doc and not ran & {*range(one.lineno, end + 1)} and not any(word in text for word in ASIDE):
                yield f"{name}: {text:.80}"

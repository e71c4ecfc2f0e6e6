"""Running a person's own module: its logits, in whatever they come, and what it raises, said in one line."""

import copy
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArchportError, SourceError, in_a_line

Forward = Callable[[Any, Tensor], Any]
TARGETS = ("targets", "labels")  # that some models want before they make logits of every token
DEPTH = 3  # of results within results
NOT_THEIRS = (
    *(str(Path(file).parent) for file in (traceback.__file__, torch.__file__)),
    str(Path(__file__).parents[1]),
    "<",
)


class CodeError(ArchportError):
    """What a person's own code raised, in one line."""


def logits_of(module: nn.Module, ids: Tensor, vocab: int, forward: Forward | None = None) -> Tensor:
    """The logits (batch, seq, vocab) of a module, or (batch, 1, vocab) where it makes only those of the last token.

    Raises: CodeError where its code raises, or gives no logits.
    """
    logits = _found(module, ids, vocab, forward)
    if logits.shape[1] < ids.shape[1] and forward is None and (name := _targets(module)):
        logits = _found(module, ids, vocab, lambda one, tokens: one(tokens, **{name: tokens}))
    return logits


def _found(module: nn.Module, ids: Tensor, vocab: int, forward: Forward | None) -> Tensor:
    name, (batch, seq) = type(module).__name__, ids.shape
    try:
        result = module(ids) if forward is None else forward(module, ids)
    except Exception as error:  # it is somebody else's code
        raise CodeError(f"{name}: {raised(error)}") from error
    tensors = list(tensors_in(result))
    for tensor in tensors:
        if tensor.shape in ((batch, seq, vocab), (batch, 1, vocab)):
            return tensor
        if tensor.shape == (batch, vocab):
            return tensor[:, None]
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:5]) or f"a {type(result).__name__}"
    wanted = f"expected logits {(batch, seq, vocab)}: forward=lambda module, ids: ... says where"
    raise CodeError(f"{name}: gives back {shapes}, {wanted}")


def _targets(module: nn.Module) -> str | None:
    with suppress(TypeError, ValueError):
        return next((name for name in signature(module.forward).parameters if name in TARGETS), None)
    return None


def tensors_in(result: Any, depth: int = DEPTH) -> Iterator[Tensor]:
    """Floating-point tensors in a result, whatever it is packed in; `logits` first, where it has them."""
    if isinstance(result, Tensor):
        yield from [result] if result.is_floating_point() else []
        return
    if isinstance(result, tuple | list):
        values = list(result)
    elif isinstance(result, Mapping) or (hasattr(result, "__dict__") and not isinstance(result, nn.Module | type)):
        named = result if isinstance(result, Mapping) else vars(result)
        values = [named[key] for key in sorted(named, key=lambda key: key != "logits")]
    else:
        return
    for value in values if depth else ():
        yield from tensors_in(value, depth - 1)


def raised(error: BaseException) -> str:
    """What somebody else's code raised, and in which line of which file."""
    line = line_of(error)
    return f"{type(error).__name__}: {in_a_line(error) or 'no message'}{line and f', in {line}'}"


def require_forward(forward: object) -> None:
    """Raises: SourceError for what cannot be called with a module and ids."""
    if forward is None:
        return
    try:
        signature(forward).bind(None, None)  # type: ignore[arg-type]  # anything may have been given
    except ValueError:  # it has no signature that Python knows
        return
    except TypeError as error:
        found = f"a {type(forward).__name__}" if not callable(forward) else f"one that is not ({in_a_line(error)})"
        raise SourceError(f"forward: found {found}, expected a function of the module and ids") from None


def line_of(error: BaseException) -> str:
    """The line of a person's file that an error came from, if any: the innermost not of Python, torch or ours."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(NOT_THEIRS)]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module; whatever it holds that cannot be copied is shared."""
    try:
        return copy.deepcopy(module)
    except Exception:  # it is somebody else's, and may hold anything
        memo: dict[int, Any] = {}
        for part in module.modules():
            for name, value in vars(part).items():
                if name in ("_modules", "_parameters", "_buffers"):
                    continue
                try:
                    copy.deepcopy(value)
                except Exception:  # locks, files, tensors amid a graph
                    memo[id(value)] = value.detach().clone() if isinstance(value, Tensor) else value
        return copy.deepcopy(module, memo)

"""Running a person's own module: its logits, in whatever they come, and what it raises, said in one line."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import ArchportError, in_a_line

Forward = Callable[[Any, Tensor], Any]


class CodeError(ArchportError):
    """What a person's own code raised."""


def logits_of(module: nn.Module, ids: Tensor, vocab: int, forward: Forward | None = None) -> Tensor:
    """The logits (batch, seq, vocab) of a module, alone or first of their shape in a tuple, a dict or an object.

    Raises: CodeError where its code does, or gives no logits.
    """
    name = type(module).__name__
    try:
        result = module(ids) if forward is None else forward(module, ids)
    except Exception as error:  # it is somebody else's code
        raise CodeError(f"{name}: {where(error)}") from error
    shape = (*ids.shape, vocab)
    tensors = list(_tensors(result))
    for tensor in tensors:
        if tuple(tensor.shape) == shape and tensor.is_floating_point():
            return tensor
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or f"a {type(result).__name__}"
    say = "say by forward= which are its logits"
    raise CodeError(f"{name}: gave {shapes[:200]}, expected logits {shape}: {say}")


def _tensors(result: Any, depth: int = 3) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif depth and isinstance(result, Mapping):
        for one in result.values():
            yield from _tensors(one, depth - 1)
    elif depth and isinstance(result, tuple | list):
        for one in result:
            yield from _tensors(one, depth - 1)
    elif depth and hasattr(result, "__dict__"):
        yield from _tensors(vars(result), depth - 1)


def where(error: BaseException) -> str:
    """What somebody else's code raised, and in which line of their file."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [one for one in frames if "site-packages" not in one.filename and not _is_ours(one.filename)]
    at = f", in {inside[-1].filename}, line {inside[-1].lineno}" if inside else ""
    return f"{type(error).__name__}: {in_a_line(error) or 'no message'}{at}"


def _is_ours(file: str) -> bool:
    path = Path(file)
    return file.startswith("<frozen") or Path(__file__).parents[1] in path.parents or "lib/python" in file

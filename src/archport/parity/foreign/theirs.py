"""A person's module as a function of ids that makes logits, whatever it is called with and whatever it returns."""

import copy
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import SourceError
from ...observing import hooked
from ..running import RaisedError

Forward = Callable[[nn.Module, Tensor], Any]
WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
TARGETS = ("targets", "labels")  # that some models want before they make logits of every token
DEPTH = 3  # of results within results


class Theirs:
    """A module of a person's in a dtype of ours: a copy in eval mode, which they keep as it was.

    `vocab_size` is how logits are known. `last_only` says that it makes those of the last token alone.
    """

    def __init__(self, module: nn.Module, forward: Forward | None, vocab_size: int, dtype: torch.dtype | None) -> None:
        self.module = copied(module).eval()
        if dtype is not None:
            self.module.to(dtype)
        self.forward, self.vocab_size = forward, vocab_size
        self.last_only = False

    def run(self, ids: Tensor) -> Tensor:  # (batch, seq) -> (batch, seq or 1, vocab_size)
        """Its logits. Raises: RaisedError, which says where in their code, SourceError."""
        logits = self._logits(self._call(ids), ids)
        if logits.shape[1] < ids.shape[1] and self.forward is None and (name := self._targets()):
            logits = self._logits(self._call(ids, **{name: ids}), ids)
        self.last_only = logits.shape[1] < ids.shape[1]
        return logits

    def _call(self, ids: Tensor, **more: Any) -> Any:
        try:
            return self.module(ids, **more) if self.forward is None else self.forward(self.module, ids)
        except Exception as error:  # it is their code
            raise RaisedError(f"{self._inside(ids)} ({line_of(error)})", error) from error

    def _logits(self, result: Any, ids: Tensor) -> Tensor:
        """The logits in what came back. Raises: SourceError."""
        batch, seq = ids.shape
        for tensor in tensors_in(result):
            if tensor.shape in ((batch, seq, self.vocab_size), (batch, 1, self.vocab_size)):
                return tensor
            if tensor.shape == (batch, self.vocab_size):
                return tensor[:, None]
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(result)) or f"a {type(result).__name__}"
        wanted = f"expected logits {(batch, seq, self.vocab_size)}: forward=lambda module, ids: ... says where"
        raise SourceError(f"{type(self.module).__name__} gives back {shapes}, {wanted}")

    def _targets(self) -> str | None:
        with suppress(TypeError, ValueError):
            return next((name for name in signature(self.module.forward).parameters if name in TARGETS), None)
        return None

    def _inside(self, ids: Tensor) -> str:
        """The innermost of its modules that runs when it raises."""
        inside: list[str] = []

        def enter(name: str, _: nn.Module, __: Any, ___: Any) -> None:
            inside.append(name)

        def leave(_: str, __: nn.Module, ___: Any, ____: Any, _____: Any) -> None:
            inside.pop()

        with suppress(Exception), torch.no_grad(), hooked(named(self.module), before=enter, after=leave):
            self.module(ids) if self.forward is None else self.forward(self.module, ids)
        return (inside and inside[-1]) or type(self.module).__name__


def named(module: nn.Module) -> dict[str, nn.Module]:
    """The modules inside, and itself as ""."""
    return dict(module.named_modules())


def line_of(error: BaseException) -> str:
    """The line of a person's file that an error came from: the innermost that is neither torch's nor ours."""
    ours = str(Path(__file__).parents[2])
    torchs = str(Path(torch.__file__).parent)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith((ours, torchs))]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "outside of its file"


def tensors_in(result: Any, depth: int = DEPTH) -> Iterator[Tensor]:
    """Floating-point tensors in a result, whatever it is packed in; `logits` first, where it has them."""
    if isinstance(result, Tensor):
        if result.is_floating_point():
            yield result
        return
    if depth == 0 or result is None or isinstance(result, str | bytes | nn.Module | type):
        return
    if isinstance(result, Mapping):
        values = [result[key] for key in sorted(result, key=lambda key: key != "logits")]
    elif isinstance(result, tuple | list):
        values = list(result)
    elif is_dataclass(result) or hasattr(result, "__dict__"):
        values = [value for _, value in sorted(vars(result).items(), key=lambda item: item[0] != "logits")]
    else:
        return
    for value in values:
        yield from tensors_in(value, depth - 1)


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module; whatever it holds that cannot be copied is shared."""
    try:
        return copy.deepcopy(module)
    except Exception:
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


class _Widened(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {name: _wider(value) for name, value in (kwargs or {}).items()}
        if func is Tensor.float:
            return args[0].double()
        return func(*map(_wider, args), **kwargs)


def _wider(value: Any) -> Any:
    return WIDER.get(value, value) if isinstance(value, torch.dtype) else value


@contextmanager
def widened() -> Iterator[None]:
    """A run in float64 whose casts to float32 are casts to float64, so that no rounding hides a difference."""
    usual = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, usual)
        torch.set_default_dtype(torch.float64)
        stack.enter_context(_Widened())
        yield

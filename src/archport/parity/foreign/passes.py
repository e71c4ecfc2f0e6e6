"""A person's module as a function of ids that makes logits, in a dtype of our choice."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SourceError
from ...foreign.running import CodeError, Forward, copied, line_of, logits_of
from ...observing import hooked
from ..running import RaisedError

FEW = 3  # tokens
ROUNDED = 2.0**-24  # relative, by float32


class OtherShapeError(RaisedError):
    """Logits of another shape than asked for, by a module that gives the right one for other ids."""

    def __init__(self, where: str, ids: Tensor, error: CodeError) -> None:
        Exception.__init__(self, f"for ids {tuple(ids.shape)}, {str(error).partition(': forward=')[0]}")
        self.where = where


class Passes:
    """Passes of a module of a person's: of a copy in eval mode on a device, in another dtype where one is given.

    `vocab_size` is how logits are known.
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Forward | None,
        vocab_size: int,
        *,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.module = copied(module).eval()
        nn.Module.to(self.module, device=device, dtype=dtype)  # theirs may take other arguments
        self.forward, self.vocab_size = forward, vocab_size

    def run(self, ids: Tensor) -> Tensor:  # (batch, seq) -> (batch, seq or 1, vocab_size)
        """Its logits, or those of the last token. Raises: RaisedError where its code raises, SourceError."""
        try:
            return logits_of(self.module, ids, self.vocab_size, self.forward)
        except CodeError as error:
            if not isinstance(error.__cause__, Exception):
                if self._makes_logits(ids[:1, :FEW]):
                    raise OtherShapeError(type(self.module).__name__, ids, error) from None
                raise SourceError(str(error)) from None
            place = self._inside(ids)
            raised = RaisedError(f"{place} ({line_of(error.__cause__)})", error.__cause__)
            raised.where = place
            raise raised from error.__cause__

    def _makes_logits(self, ids: Tensor) -> bool:
        """Whether it does so for other ids, so that where they are found is not what is wrong."""
        with suppress(CodeError), torch.no_grad():
            logits_of(self.module, ids, self.vocab_size, self.forward)
            return True
        return False

    def _inside(self, ids: Tensor) -> str:
        """The innermost of its modules that runs when it raises."""
        inside: list[str] = []

        def enter(name: str, _: nn.Module, __: Any, ___: Any) -> None:
            inside.append(name)

        def leave(_: str, __: nn.Module, ___: Any, ____: Any, _____: Any) -> None:
            inside.pop()

        with suppress(Exception), torch.no_grad(), hooked(named(self.module), before=enter, after=leave):
            logits_of(self.module, ids, self.vocab_size, self.forward)
        return (inside and inside[-1]) or type(self.module).__name__


def constants(module: nn.Module) -> Iterator[Tensor]:
    """Numbers that a module was made with and that float32 has rounded: neither whole, nor trained."""
    for part in module.modules():
        held = {**part._buffers, **{name: one for name, one in vars(part).items() if isinstance(one, Tensor)}}
        for one in held.values():
            if one is not None and one.is_floating_point() and not torch.equal(one, one.round()):
                yield one


@contextmanager
def nudged(module: nn.Module) -> Iterator[bool]:
    """A module whose constants are all off by what float32 rounds; false where it has none."""
    kept = [(one, one.clone()) for one in constants(module)]
    try:
        for at, (one, before) in enumerate(kept):
            signs = torch.rand(one.shape, generator=torch.Generator().manual_seed(at)).sub(0.5).sign()
            one.copy_(torch.where(before == before.round(), before, before * (1 + ROUNDED * signs.to(one))))
        yield bool(kept)
    finally:
        for one, before in kept:
            one.copy_(before)


def named(module: nn.Module) -> dict[str, nn.Module]:
    """The modules inside, and itself as ""."""
    return dict(module.named_modules())

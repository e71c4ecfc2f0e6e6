"""How much each query takes of each value: the mask is read off its probabilities, the rest is solved for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..layers import Alibi, Sinks, Window
from .part import Part
from .seen import Seen
from .tracing import neat

SOLVED = 1e-5  # relative error of what is solved for
LEAST = 1e-200  # probabilities below have no logarithm to speak of


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Logarithms of probabilities (batch, heads, seq, keys) where they count, up to a number for each query."""

    value: Tensor
    counted: Tensor

    def centred(self, x: Tensor) -> Tensor:
        """x without its mean over the keys that count, and zero elsewhere."""
        weights = self.counted.double()
        x = torch.where(self.counted, x, 0)
        return (x - x.sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=1)) * weights

    @property
    def logs(self) -> Tensor:
        """Their logarithms, centred."""
        return self.centred(torch.where(self.counted, self.value, 1).log())

    def like(self, scores: Tensor) -> bool:
        """Whether a softmax of these scores is what they are."""
        return bool((self.centred(scores) - self.logs).abs().max() < SOLVED * self.logs.abs().max())

    def made_of(self, scores: Tensor) -> bool:
        """Whether a softmax of these scores is what they are, of each row and head, and zero where they are zero."""
        made = scores.softmax(-1)[..., : self.value.shape[-1]]
        hidden = (self.value == 0) & (made > LEAST)
        return not hidden.any() and bool((made - self.value).abs().max() < SOLVED)


def weighings(seen: Seen, queries: Tensor, keys: Tensor) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """The probabilities (batch, heads, seq, keys) that the module makes of these, and the settings that do so.

    With sinks they may be those of a softmax without, which are made smaller after it.
    """
    _, _, seq, width = queries.shape
    scores = queries @ keys.transpose(-1, -2)
    for one in seen.trace.of_size(scores.numel()):
        if not square(one, seq) or one.min() < 0 or one.sum(-1).max() > 1 + 1e-9:
            continue
        probabilities = one.view(scores.shape)
        masked = _mask(probabilities)
        if masked is None:
            continue
        settings, sees = masked
        found = Probabilities(probabilities, (probabilities > LEAST) & sees)
        for scaled, how in _scores(seen, scores, found, width):
            visible = scaled.masked_fill(~sees, -torch.inf)
            sinks = _sinks(seen, visible, probabilities)
            if sinks is None or not found.made_of(sinks["sinks"].make()(visible) if sinks else visible):
                continue
            yield settings | how | sinks, probabilities
            for name, weight in seen.of_shape(scores.shape[1]) if not sinks else ():
                smaller = (visible.logsumexp(-1) - weight[:, None]).sigmoid()[..., None]
                yield settings | how | _sunk(name, weight), probabilities * smaller


def square(value: Tensor, seq: int) -> bool:
    """Whether a tensor has a number for each query and key."""
    return value.ndim >= 3 and value.shape[-2:] == (seq, seq)


def _mask(probabilities: Tensor) -> tuple[dict[str, Any], Tensor] | None:
    """The mask by which a query takes something of just these keys, and what it sees (seq, keys)."""
    seq = probabilities.shape[-1]
    takes = (probabilities > 0).flatten(0, -3).any(0)
    sees = torch.ones(seq, seq, dtype=torch.bool).tril()
    size = int(takes.sum(-1).max())
    settings: dict[str, Any] = {}
    if size < seq:
        settings["mask"] = Part(Window, {"size": size})
        sees &= ~sees.tril(-size)
    # A probability may be too small for a number, but not many are in all heads and rows.
    alike = not (takes & ~sees).any() and (takes | ~sees).double().mean() > 0.98
    return (settings, sees) if alike else None


def _scores(seen: Seen, scores: Tensor, found: Probabilities, width: int) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Scores as they go into the softmax, and the settings for it: a scale, with a price of distance or a cap."""
    basis = found.centred(scores)
    scale = _ratio(basis, found.logs)
    if found.like(scores * scale):
        yield from _scaled(seen, scores, scale, width)
        return
    for cap in seen.constant("cap"):
        for known in _scales(seen, width):
            capped = (scores * known / cap).tanh() * cap
            if found.like(capped):
                yield capped, {"softcap": cap} | _scale(known, width)
                return
    heads, seq = scores.shape[1], scores.shape[-1]
    distance = (torch.arange(seq)[None] - torch.arange(seq)[:, None]).double()
    price = Alibi(heads).slopes(scores.device).double()[:, None, None] * distance
    both = torch.stack([basis.flatten(), found.centred(price.expand_as(scores)).flatten()], 1)
    scale, factor = torch.linalg.lstsq(both, found.logs.flatten()[:, None]).solution[:, 0].tolist()
    if found.like(scores * scale + price * factor):
        factor = _neat(factor, 1.0, scale)
        mask = Part(Alibi, {"heads": heads} | ({} if factor == 1 else {"factor": factor}))
        for scaled, how in _scaled(seen, scores, scale, width):
            yield scaled + price * factor, how | {"mask": mask}


def _ratio(basis: Tensor, target: Tensor) -> float:
    return float((basis * target).sum() / (basis * basis).sum().clamp(min=1e-300))


def _scaled(seen: Seen, scores: Tensor, scale: float, width: int) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    if scale > 0:
        scale = _neat(scale, *_scales(seen, width))
        yield scores * scale, _scale(scale, width)


def _scale(scale: float, width: int) -> dict[str, Any]:
    return {} if scale == width**-0.5 else {"scale": scale}


def _scales(seen: Seen, width: int) -> list[float]:
    """What scores may be multiplied by."""
    named = [one for one in seen.constant("scal", "multiplier") if one > 0]
    return [width**-0.5, 1.0, *named, *(one**-0.5 for one in named)]


def _neat(value: float, *known: float) -> float:
    """A number that was solved for as what it is near to."""
    return next((one for one in known if math.isclose(value, one, rel_tol=SOLVED)), neat(value))


def _sinks(seen: Seen, scores: Tensor, probabilities: Tensor) -> dict[str, Any] | None:
    """The sinks that take what is left of the probabilities, if anything is; None where no parameter does."""
    sums = probabilities.sum(-1)
    if (1 - sums).abs().max() < 1e-9:
        return {}
    heads = scores.shape[1]
    solved = ((1 - sums) / sums).log() + scores.logsumexp(-1)  # (batch, heads, seq)
    for name, one in seen.of_shape(heads):
        if (solved - one[:, None]).abs().max() < SOLVED * max(1.0, float(solved.abs().max())):
            return _sunk(name, one)
    return None


def _sunk(name: str, weight: Tensor) -> dict[str, Any]:
    return {"sinks": Part(Sinks, {"heads": len(weight)}, {"weight": weight}, frozenset((name,)))}

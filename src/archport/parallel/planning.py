"""How much memory a model takes of each of several processes, before a weight is read."""

from dataclasses import dataclass
from math import prod

import torch

from ..errors import ConfigError
from ..keywords import strict_keywords
from ..layers import Attention, Decoder
from ..load_plan import LoadPlan
from ..registry import skeleton
from .cutting import pieces
from .ranks import Ranks


@dataclass(frozen=True)
class Budget:
    """What the one of `ranks` processes that has most takes; `whole` is what each of them has alike.

    `cache` is what keys and values of one text of the model's whole context take beside the weights.
    """

    ranks: int
    weights: int
    whole: int
    cache: int

    @property
    def total(self) -> int:
        """Weights, keys and values; what a pass makes comes on top."""
        return self.weights + self.cache


@strict_keywords
def budget(plan: LoadPlan, ranks: int) -> Budget:
    """What each of so many processes takes of memory, in bytes, that load what a plan describes.

    Raises: ConfigError where so many cannot share the model.
    """
    if not isinstance(plan, LoadPlan):
        raise ConfigError({"plan": f"found a {type(plan).__name__}, expected what archport.plan gives"}, "budget")
    return of_model(skeleton(plan.architecture, plan.config), plan.dtype, ranks)


def of_model(model: Decoder, dtype: torch.dtype, ranks: int) -> Budget:
    """The same for a whole model, which may be on `meta`, once it is of that dtype."""
    if type(ranks) is not int or ranks < 1:
        raise ConfigError({"ranks": f"found {ranks!r}, expected a whole number from 1"}, "budget")
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    cut = [pieces(model, Ranks(rank, ranks)) for rank in range(ranks)]
    sizes = [
        sum(prod(own[name].shape(shape) if name in own else shape) for name, shape in shapes.items()) for own in cut
    ]
    whole = sum(prod(shape) for name, shape in shapes.items() if ranks == 1 or name not in cut[0])
    heads = [(part.kv_heads, part.head_width) for part in model.modules() if isinstance(part, Attention)]
    cache = sum(2 * (kv_heads // ranks) * head_width for kv_heads, head_width in heads) * model.config.context
    return Budget(ranks, *(count * dtype.itemsize for count in (max(sizes), whole, cache)))

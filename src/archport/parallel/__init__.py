"""One model on several processes, by torch.distributed: each has a part of it, to run it or to train it."""

from .budget import Budget, budget
from .inference import load
from .training import shard

__all__ = ["Budget", "budget", "load", "shard"]

"""One model on several processes, by torch.distributed: each has a part of it, to run it or to train it."""

from .inference import load
from .planning import Budget, budget
from .training import shard

__all__ = ["Budget", "budget", "load", "shard"]

"""Loading a model that several processes compute together, each with its own part of every layer."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .. import port
from ..keywords import strict_keywords
from ..layers import Decoder
from ..load_plan import LoadPlan
from ..loading import execute
from .parts import share_out
from .ranks import Ranks, ranks_of


@strict_keywords
def load(
    source: str | Path | None = None,
    *,
    mesh: Any = None,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device = "cpu",
    offline: bool = False,
    check_finite: bool = False,
    variant: str | None = None,
    follow_links: bool = False,
    adapter: str | Path | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> Decoder:
    """A model of which each process of a `mesh`, unless given of all that torchrun started, has and reads its own part.

    Every rank calls this, then does the same with what it gets, which only goes forward: `generate` gives each the same
    tokens, as torch's random numbers are seeded alike here. On `cuda` a rank takes the GPU of its number on its
    machine. The other options are those of `archport.load`.

    Raises: as `archport.load`, and ConfigError where so many ranks cannot share the model.
    """
    how: dict[str, Any] = {"revision": revision, "offline": offline, "variant": variant, "follow_links": follow_links}
    access: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "endpoint": endpoint}
    planned = port.plan(source, dtype=dtype, headers_only=False, adapter=adapter, **how, **access)
    ranks, own = ranks_of(mesh, device)
    return loaded(planned, ranks, own, check_finite=check_finite)


def loaded(plan: LoadPlan, ranks: Ranks, device: str | torch.device, *, check_finite: bool = False) -> Decoder:
    """The part of one rank of the model that a plan describes, ready to be used by all of them alike."""
    model = execute(plan, device, check_finite=check_finite, cut=partial(share_out, ranks=ranks))
    model.requires_grad_(False)
    model.ranks = ranks.count
    if ranks.count > 1:
        seed = torch.randint(1 << 62, (1,), device=model.device)
        dist.broadcast(seed, group=ranks.group, group_src=0)
        torch.manual_seed(int(seed))
    return model

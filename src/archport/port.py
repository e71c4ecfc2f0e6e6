"""From a name to a ready model: build, plan, load."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adapters import merged
from .config import Origin
from .dialects import as_dict, config_of
from .dtypes import to_dtype
from .errors import CheckpointError
from .files.checkpoint import Checkpoint, check_hashes
from .files.hub.access import HubAccess
from .files.in_memory import InMemory
from .files.source import BUNDLED as BUNDLED
from .files.source import DEMO as DEMO
from .files.source import open_adapter, open_source
from .files.state_dicts import wrapping
from .keywords import strict_keywords
from .layers import Decoder, initialise
from .load_plan import LoadPlan, plan_checkpoint
from .loading import execute, to_device
from .registry import architecture, fresh, skeleton


@strict_keywords
def build(
    name: str,
    cfg: Any,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    generator: torch.Generator | None = None,
) -> Decoder:
    """A model with fresh weights, drawn as its architecture does. On device `meta` nothing is allocated.

    `cfg` is the architecture's Config, a dict of its fields, a parsed config.json, with model_type or without, a
    transformers config, or a dict as another library writes it, as nanoGPT's `model_args`. The weights are drawn of a
    `generator`, torch's own unless given.

    Raises: ConfigError.
    """
    arch = architecture(name)
    config, origin = config_of(arch, cfg)
    device = to_device(device)
    model = skeleton(arch, config).to(device) if device.type == "meta" else fresh(arch, config, device)
    target = to_dtype(dtype or torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(target)
    if device.type != "meta":
        initialise(model, std=config.init_std, residual_std=config.residual_init_std, generator=generator)
    model.origin = origin
    return model


@strict_keywords
def load(
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device = "cpu",
    offline: bool = False,
    copy: bool = False,
    check_finite: bool = False,
    check_hash: bool = False,
    linears: str | None = None,
    variant: str | None = None,
    follow_links: bool = False,
    adapter: str | Path | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> Decoder:
    """A ready model, in eval mode, from a folder or a Hub id; without a source, the checkpoint that ships inside.

    `dtype` "auto" is what the config says, else what the first weights are. Tensors whose layout is ours already are
    used where they lie in the file, unless `copy` asks for memory of their own. Weights that are not finite are warned
    of, if they are copied or `check_finite` asks for all; `check_hash` compares files of the Hub's cache with their
    names. `adapter` is a folder or Hub id of one that PEFT saved, to merge into the weights; peft must be installed.
    `linears` "direct", "packed", "int8" or "int4" makes a model that only goes forward, faster on a CPU, as
    `linears.swap` does. `variant` is that of the weights, as "fp16" for model.fp16.safetensors; `follow_links` reads
    files of a folder that are links out of it. `token`, `cache_dir` and `endpoint` are for the Hub, where the
    environment does not say.

    What of the source is left aside or taken for something else is warned of as AsideWarning.

    Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    access = HubAccess(token, cache_dir, endpoint)
    how: dict[str, Any] = {"offline": offline, "variant": variant, "follow_links": follow_links}
    checkpoint = open_source(source, revision, headers_only=False, access=access, **how)
    planned = plan_checkpoint(replace(checkpoint, copied=copy), dtype)
    if check_hash:
        check_hashes(checkpoint)
    if adapter is not None:
        planned = merged(planned, open_adapter(adapter, offline=offline, access=access))
    return execute(planned, device, check_finite=check_finite, linears=linears)


@strict_keywords
def plan(
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    offline: bool = False,
    headers_only: bool = True,
    copy: bool = False,
    variant: str | None = None,
    follow_links: bool = False,
    adapter: str | Path | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> LoadPlan:
    """What `load` would do with the same arguments, one step a tensor.

    Of a Hub repository only config, index and headers are read, unless `headers_only` is false; with an `adapter` the
    weights are read and merged, too.

    Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    access = HubAccess(token, cache_dir, endpoint)
    how: dict[str, Any] = {"offline": offline, "variant": variant, "follow_links": follow_links}
    only = headers_only and adapter is None
    checkpoint = open_source(source, revision, headers_only=only, access=access, **how)
    planned = plan_checkpoint(replace(checkpoint, copied=copy), dtype)
    return planned if adapter is None else merged(planned, open_adapter(adapter, offline=offline, access=access))


@strict_keywords
def from_state_dict(
    hf_config: Mapping[str, Any] | Any,
    state_dict: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | str = "auto",
    format: str | None = None,
) -> Decoder:
    """A model from a parsed config.json (or a transformers config) and tensors in memory, which it shares if it can.

    `format` is that of the tensors, as "nanogpt", "litgpt" or "transformer_lens"; the config may be its own then.

    Raises: ConfigError, MappingError.
    """
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) and not tensor.is_meta for key, tensor in state_dict.items()
    ):
        key = wrapping(state_dict)
        inside = "" if key is None else f": pass what lies under {key!r}"
        raise CheckpointError(f"state_dict: expected a mapping of names to tensors that have values{inside}")
    memory = InMemory(state_dict)
    config = as_dict(hf_config)
    own = format is not None and config.get("model_type") is None
    origin = Origin("state_dict", {} if own else config)
    checkpoint = Checkpoint(origin, memory.headers, (), 0, dict.fromkeys(state_dict, memory), format=format)
    checkpoint = replace(checkpoint, settings=config if own else None)
    return execute(plan_checkpoint(checkpoint, dtype))

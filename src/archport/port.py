"""From a name to a ready model and back to files: build, plan, load, export."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import merged
from .config import DecoderConfig, Origin, dtype_name, required
from .errors import CheckpointError, ConfigError, ExportError
from .fast.linears import is_swapped
from .files.checkpoint import Checkpoint, check_hashes
from .files.checkpoint_writer import write_checkpoint
from .files.hub.access import HubAccess
from .files.in_memory import InMemory
from .files.source import BUNDLED as BUNDLED
from .files.source import DEMO as DEMO
from .files.source import open_adapter, open_source
from .files.values import same_bytes
from .keywords import strict_keywords
from .layers import Decoder, initialise
from .loading import LoadPlan, execute, plan_checkpoint, to_device, to_dtype
from .registry import Architecture, architecture, fresh, skeleton
from .translate.fields import read_config, write_config
from .translate.planning import nearest
from .translate.tensors import export_tensors


@strict_keywords
def build(
    name: str, cfg: Any, *, device: str | torch.device = "cpu", dtype: torch.dtype | str | None = None
) -> Decoder:
    """A model with fresh weights, drawn as its architecture does. On device `meta` nothing is allocated.

    `cfg` is the architecture's Config, a dict of its fields, a parsed config.json, or a transformers config.

    Raises: ConfigError.
    """
    arch = architecture(name)
    config, origin = _config(arch, cfg)
    device = to_device(device)
    model = skeleton(arch, config).to(device) if device.type == "meta" else fresh(arch, config, device)
    target = to_dtype(dtype or torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(target)
    if device.type != "meta":
        initialise(model, std=config.init_std, residual_std=config.residual_init_std)
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
    adapter: str | Path | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> Decoder:
    """A ready model, in eval mode, from a folder or a Hub id; without a source, the checkpoint that ships inside.

    `dtype` "auto" is what the config says, else what the weights are. Tensors whose layout is ours already are used
    where they lie in the file, unless `copy` asks for memory of their own. Weights that are not finite are warned of,
    if they are copied or `check_finite` asks for all; `check_hash` compares files of the Hub's cache with their names.
    `adapter` is a folder or Hub id of one that PEFT has saved, to merge into the weights; peft must be installed.
    `linears` "packed", "int8" or "int4" makes a model that only goes forward, faster on a CPU, as `linears.swap` does.
    `token`, `cache_dir` and `endpoint` are for the Hub, where the environment does not say.

    Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    access = HubAccess(token, cache_dir, endpoint)
    checkpoint = replace(open_source(source, revision, offline=offline, headers_only=False, access=access), copied=copy)
    planned = plan_checkpoint(checkpoint, dtype)
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
    only = headers_only and adapter is None
    checkpoint = open_source(source, revision, offline=offline, headers_only=only, access=access)
    planned = plan_checkpoint(replace(checkpoint, copied=copy), dtype)
    return planned if adapter is None else merged(planned, open_adapter(adapter, offline=offline, access=access))


@strict_keywords
def from_state_dict(
    hf_config: Mapping[str, Any] | Any, state_dict: Mapping[str, Tensor], *, dtype: torch.dtype | str = "auto"
) -> Decoder:
    """A model from a parsed config.json (or a transformers config) and tensors in memory, which it shares if it can.

    Raises: ConfigError, MappingError.
    """
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) and not tensor.is_meta for key, tensor in state_dict.items()
    ):
        raise CheckpointError("state_dict: expected a mapping of names to tensors that have values")
    memory = InMemory(state_dict)
    origin = Origin("state_dict", _as_dict(hf_config))
    checkpoint = Checkpoint(origin, memory.headers, (), 0, dict.fromkeys(state_dict, memory))
    return execute(plan_checkpoint(checkpoint, dtype))


@strict_keywords
def export(
    model: Decoder, folder: str | Path, *, dtype: torch.dtype | str | None = None, max_shard_size: int | str = "5GB"
) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, in `dtype` where given; the folder is returned.

    `model.config` is what is written: change it with the modules. The config fields we do not use,
    generation_config.json and the tokenizer's files come along from the origin.

    Raises: ExportError, and leaves the target as it was.
    """
    if not isinstance(model, Decoder) or not isinstance(folder, str | Path):
        types = f"{type(model).__name__} and {type(folder).__name__}"
        raise ExportError(f"found a {types}, expected a Decoder and a folder to export it to")
    if is_swapped(model):
        raise ExportError("the model's linear maps are packed or quantised: export it as loaded without them")
    arch = architecture(model.architecture)
    config, parameters = _exportable(model, arch)
    hf = write_config(arch.table, config, arch.name, model.origin.hf if model.origin else None)
    target = to_dtype(dtype) if dtype is not None else None
    widest = target or reduce(torch.promote_types, {parameter.dtype for parameter in parameters.values()})
    for field in [name for name in ("dtype", "torch_dtype") if name in hf] or ["torch_dtype"]:
        hf[field] = dtype_name(widest)
    tensors = export_tensors(arch.table, config, parameters, dtype=target)
    return write_checkpoint(Path(folder), hf, tensors, model.origin.folder if model.origin else None, max_shard_size)


def _exportable(model: Decoder, arch: Architecture) -> tuple[DecoderConfig, dict[str, nn.Parameter]]:
    """The config and the parameters to write, checked against each other; the head is left out where it is tied."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    right = skeleton(arch, model.config)
    expected = dict(right.named_parameters(remove_duplicate=False))
    faults = [f"{name} is missing" for name in expected if name not in parameters]
    faults += [f"{name} is not part of {arch.name}" for name in parameters if name not in expected]
    faults += [
        f"{name} is {tuple(parameters[name].shape)}, its config says {tuple(parameter.shape)}"
        for name, parameter in expected.items()
        if name in parameters and parameters[name].shape != parameter.shape
    ]
    faults += [f"{name} is on meta and has no values" for name, parameter in parameters.items() if parameter.is_meta]
    faults += [f"{name} is a buffer that has changed, and no key takes it" for name in _changed_buffers(model, right)]
    if faults:
        raise ExportError(f"the model is not what its config says: {'; '.join(faults[:5])}")
    head, embedding = parameters["head.weight"], parameters["embed.tokens.weight"]
    if model.config.tied and (head is embedding or same_bytes(head.detach(), embedding.detach())):
        del parameters["head.weight"]
        return model.config, parameters
    return replace(model.config, tied=False), parameters


def _changed_buffers(model: Decoder, right: Decoder) -> Iterator[str]:
    """The persistent buffers that are not what `build` makes: a file would lose them."""
    buffers, persistent = dict(model.named_buffers()), right.state_dict().keys()
    for name, buffer in right.named_buffers():
        if name in persistent and name in buffers and not torch.equal(buffers[name].to(buffer), buffer):
            yield name


def _config(arch: Architecture, cfg: Any) -> tuple[DecoderConfig, Origin | None]:
    """Our config from any of its forms, and the HF config it came from."""
    if isinstance(cfg, arch.config_class):
        return cfg, None
    values = _as_dict(cfg)
    if "model_type" in values:
        if architecture(values["model_type"]) != arch:
            raise ConfigError({"model_type": f"found {values['model_type']!r}, expected {arch.name!r}"})
        return read_config(arch.table, arch.config_class, values, "config")[0], Origin("config", values)
    names = [item.name for item in fields(arch.config_class) if item.init]
    faults = {str(name): f"no such field{nearest(str(name), names)}" for name in values if name not in names}
    faults |= {name: "missing" for name in required(arch.config_class) if name not in values}
    if faults:
        raise ConfigError(faults, f"config of {arch.name}")
    return arch.config_class(**values), None


def _as_dict(cfg: Any) -> Mapping[str, Any]:
    if isinstance(cfg, Mapping):
        return cfg
    if hasattr(cfg, "model_type") and hasattr(cfg, "to_dict"):
        return cfg.to_dict()  # type: ignore[no-any-return]
    kind = f"{type(cfg).__module__}.{type(cfg).__name__}"
    raise ConfigError(
        {"config": f"found a {kind}, expected the architecture's own Config, a dict or a transformers config"}
    )

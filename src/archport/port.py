"""From a name to a ready model and back to files: build, plan, load, export."""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from .config import DecoderConfig, Origin, dtype_name, required
from .errors import CheckpointError, ConfigError, ExportError, SourceError
from .fast.linears import is_swapped
from .files.checkpoint import Checkpoint, check_hashes, open_folder
from .files.header import Header
from .files.hub.repository import HubOptions, open_companions, open_headers, open_repository
from .files.values import same_bytes
from .files.write import write_checkpoint
from .layers import Decoder, initialise
from .loading import LoadPlan, execute, plan_checkpoint, to_device, to_dtype
from .registry import Architecture, architecture, fresh, skeleton
from .translate.fields import read_config, write_config
from .translate.tensors import export_tensors, nearest

DEMO = Path(__file__).parent / "demo"
BUNDLED = "the bundled demo"


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
    **hub: Unpack[HubOptions],
) -> Decoder:
    """A ready model, in eval mode, from a folder or a Hub id; without a source, the checkpoint that ships inside.

    `dtype` "auto" is what the config says, else what the weights are. Tensors whose layout is ours already are used
    where they lie in the file, unless `copy` asks for memory of their own. Weights that are not finite are warned of,
    if they are copied or `check_finite` asks for all; `check_hash` compares files of the Hub's cache with their names.
    `linears` "packed", "int8" or "int4" makes a model that only goes forward, faster on a CPU, as `linears.swap` does.

    Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    planned = plan(source, revision=revision, dtype=dtype, offline=offline, headers_only=False, copy=copy, **hub)
    if check_hash:
        check_hashes(planned.checkpoint)
    return execute(planned, device, check_finite=check_finite, linears=linears)


def plan(
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    offline: bool = False,
    headers_only: bool = True,
    copy: bool = False,
    **hub: Unpack[HubOptions],
) -> LoadPlan:
    """What `load` would do, one step a tensor. Of a Hub repository only config, index and headers are read.

    Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    return plan_checkpoint(replace(_open(source, revision, offline, headers_only, hub), copied=copy), dtype)


def from_state_dict(
    hf_config: Mapping[str, Any] | Any, state_dict: Mapping[str, Tensor], *, dtype: torch.dtype | str = "auto"
) -> Decoder:
    """A model from a parsed config.json (or a transformers config) and tensors in memory, which it shares if it can.

    Raises: ConfigError, MappingError.
    """
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(t, Tensor) and not t.is_meta for t in state_dict.values()
    ):
        raise CheckpointError("state_dict: expected a mapping of names to tensors that have values")
    memory = _InMemory(state_dict)
    origin = Origin("state_dict", _as_dict(hf_config))
    checkpoint = Checkpoint(origin, memory.headers, (), 0, dict.fromkeys(state_dict, memory))
    return execute(plan_checkpoint(checkpoint, dtype))


def export(
    model: Decoder, folder: str | Path, *, dtype: torch.dtype | str | None = None, max_shard_size: int | str = "5GB"
) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, in `dtype` where given; the folder is returned.

    `model.config` is what is written: change it with the modules. The config fields we do not use,
    generation_config.json and the tokenizer's files come along from the origin.

    Raises: ExportError, and leaves the target as it was.
    """
    if not isinstance(model, Decoder) or not isinstance(folder, str | Path):
        found = f"{type(model).__name__} and {type(folder).__name__}"
        raise ExportError(f"found a {found}, expected a Decoder and a folder to export it to")
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
    expected = dict(skeleton(arch, model.config).named_parameters(remove_duplicate=False))
    faults = [f"{name} is missing" for name in expected if name not in parameters]
    faults += [f"{name} is not part of {arch.name}" for name in parameters if name not in expected]
    faults += [
        f"{name} is {tuple(parameters[name].shape)}, its config says {tuple(parameter.shape)}"
        for name, parameter in expected.items()
        if name in parameters and parameters[name].shape != parameter.shape
    ]
    faults += [f"{name} is on meta and has no values" for name, parameter in parameters.items() if parameter.is_meta]
    if faults:
        raise ExportError(f"the model is not what its config says: {'; '.join(faults[:5])}")
    head, embedding = parameters["head.weight"], parameters["embed.tokens.weight"]
    if model.config.tied and (head is embedding or same_bytes(head.detach(), embedding.detach())):
        del parameters["head.weight"]
        return model.config, parameters
    return replace(model.config, tied=False), parameters


def companions(
    source: str | Path | None = None, *, revision: str | None = None, offline: bool = False, **hub: Unpack[HubOptions]
) -> Path:
    """The folder with the tokenizer's files of a source; of a Hub repository nothing else is fetched.

    Raises: SourceError, CheckpointError.
    """
    found = _folder_or_id(source, revision)
    return found if isinstance(found, Path) else open_companions(found, revision, offline=offline, options=hub)


def _open(
    source: str | Path | None, revision: str | None, offline: bool, headers_only: bool, hub: HubOptions
) -> Checkpoint:
    found = _folder_or_id(source, revision)
    if isinstance(found, Path):
        return open_folder(found, name=BUNDLED if source is None else str(source))
    if headers_only and not offline:
        return open_headers(found, revision, options=hub)
    return open_repository(found, revision, offline=offline, options=hub)


def _folder_or_id(source: str | Path | None, revision: str | None) -> Path | str:
    """A folder that is there, or what must be the id of a Hub repository. Raises: SourceError."""
    if source is not None and not isinstance(source, str | Path):
        raise SourceError(f"found a {type(source).__name__} for a source, expected a folder or a Hub id")
    if source is not None and not str(source).strip():
        raise SourceError("the source is empty, expected a folder or a Hub id")
    name = str(source)
    try:
        folder = DEMO if source is None else Path(source).expanduser()
        is_folder, is_there = folder.is_dir(), folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a home of nobody
        raise SourceError(f"{name[:100]}: {error}, expected a folder or a Hub id") from None
    if is_folder and revision is not None:
        raise SourceError(f"{source or BUNDLED} at {revision}: a folder has no revisions, only the Hub has")
    if is_folder:
        return folder
    if is_there or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SourceError(f"{name}: {'a file' if is_there else 'no such folder'}, expected a folder or a Hub id")
    return name


class _InMemory:
    """A state_dict as a weights file."""

    mapped = False
    path = Path()

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        self._tensors = state_dict
        self.headers = {key: Header(tuple(tensor.shape), tensor.dtype) for key, tensor in state_dict.items()}

    def tensor(self, key: str, *, own: bool = False) -> Tensor:  # noqa: ARG002
        return self._tensors[key].detach()


def _config(arch: Architecture, cfg: Any) -> tuple[DecoderConfig, Origin | None]:
    """Our config from any of its forms, and the HF config it came from."""
    if isinstance(cfg, arch.config_class):
        return cfg, None
    given = _as_dict(cfg)
    if "model_type" in given:
        if architecture(given["model_type"]) != arch:
            raise ConfigError({"model_type": f"found {given['model_type']!r}, expected {arch.name!r}"})
        return read_config(arch.table, arch.config_class, given, "config")[0], Origin("config", given)
    names = [item.name for item in fields(arch.config_class)]
    faults = {str(name): f"no such field{nearest(str(name), names)}" for name in given if name not in names}
    faults |= {name: "missing" for name in required(arch.config_class) if name not in given}
    if faults:
        raise ConfigError(faults, f"config of {arch.name}")
    return arch.config_class(**given), None


def _as_dict(cfg: Any) -> Mapping[str, Any]:
    if isinstance(cfg, Mapping):
        return cfg
    if hasattr(cfg, "model_type") and hasattr(cfg, "to_dict"):
        return cfg.to_dict()  # type: ignore[no-any-return]
    kind = f"{type(cfg).__module__}.{type(cfg).__name__}"
    raise ConfigError(
        {"config": f"found a {kind}, expected the architecture's own Config, a dict or a transformers config"}
    )

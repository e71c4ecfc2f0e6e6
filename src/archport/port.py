"""From a name to a ready model: build, plan, load, export."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from .checkpoint import Checkpoint, open_folder
from .config import DecoderConfig, Origin
from .errors import ConfigError, SourceError
from .export import write_checkpoint
from .fields import read_config, write_config
from .hub import HubOptions, open_headers, open_repository
from .layers import Decoder, initialise
from .registry import Architecture, architecture, skeleton
from .translate import IN_PLACE, Header, Plan, TensorStep, export_tensors, import_tensor, nearest
from .translate import plan as plan_tensors

DEMO = Path(__file__).parent / "demo"
BUNDLED = "the bundled demo"


@dataclass(frozen=True)
class LoadPlan(Plan):
    """What loading a source does, known before any weight is read."""

    architecture: Architecture
    config: DecoderConfig
    checkpoint: Checkpoint
    unknown_fields: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied head counted once."""
        return sum(torch.Size(step.shape).numel() for step in self.mapped)


def build(name: str, cfg: Any, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Decoder:
    """A model with fresh weights, drawn as its architecture does. On device `meta` nothing is allocated.

    `cfg` is the architecture's Config, a dict of its fields, a parsed config.json, or a transformers config.

    Raises: ConfigError.
    """
    arch = architecture(name)
    config, origin = _config(arch, cfg)
    device = _device(device)
    model = skeleton(arch, config, device).to(dtype=dtype)
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
    **hub: Unpack[HubOptions],
) -> Decoder:
    """A ready model, in eval mode, from a folder or a Hub id; without a source, the checkpoint that ships inside.

    `dtype` "auto" is what the config says, else what the weights are. Tensors whose layout is ours already are used
    where they lie in the file.

    Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    return carry_out(plan(source, revision=revision, dtype=dtype, offline=offline, headers_only=False, **hub), device)


def plan(
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    offline: bool = False,
    headers_only: bool = True,
    **hub: Unpack[HubOptions],
) -> LoadPlan:
    """What `load` would do, one step a tensor. Of a Hub repository only config, index and headers are read.

    Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    return plan_checkpoint(_open(source, revision, offline, headers_only, hub), dtype)


def from_state_dict(
    hf_config: Mapping[str, Any] | Any, state_dict: Mapping[str, Tensor], *, dtype: torch.dtype | str = "auto"
) -> Decoder:
    """A model from a parsed config.json (or a transformers config) and tensors in memory, which it shares if it can.

    Raises: ConfigError, MappingError.
    """
    memory = _InMemory(state_dict)
    origin = Origin("state_dict", _as_dict(hf_config))
    checkpoint = Checkpoint(origin, memory.headers, (), 0, dict.fromkeys(state_dict, memory))
    return carry_out(plan_checkpoint(checkpoint, dtype))


def plan_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype | str, *, tied: bool | None = None) -> LoadPlan:
    """Read the config, build on meta, match the headers. `tied` overrides what the config says of the head."""
    origin = checkpoint.origin
    if "model_type" not in origin.hf:
        raise ConfigError({"model_type": "missing"}, f"{origin.name}/config.json")
    arch = architecture(origin.hf["model_type"])
    config, unknown = read_config(arch.table, arch.config_class, origin.hf, f"{origin.name}/config.json")
    if tied is not None:
        config = replace(config, tied=tied)
    model = skeleton(arch, config)
    target = _dtype(dtype, checkpoint)
    tensors = plan_tensors(arch.table, config, model, checkpoint.headers, dtype=target, where=origin.name)
    return LoadPlan(tensors.steps, tensors.axes, target, arch, config, checkpoint, unknown)


def settle_tie(plan: LoadPlan) -> LoadPlan:
    """The plan, for an untied model where the file holds a head of its own beside the embedding it should equal."""
    read = plan.checkpoint.read
    for step in plan.of_kind("tied"):
        embedding = next(s.keys[0] for s in plan.mapped if s.name == plan.architecture.table.tied[step.name or ""])
        head, tokens = read(step.keys[0]), read(embedding)
        same = head.dtype == tokens.dtype and torch.equal(head.view(torch.uint8), tokens.view(torch.uint8))
        if not same:
            return plan_checkpoint(plan.checkpoint, plan.dtype, tied=False)
    return plan


def carry_out(
    plan: LoadPlan,
    device: str | torch.device = "cpu",
    *,
    progress: Callable[[Sequence[TensorStep]], Iterable[TensorStep]] = iter,
) -> Decoder:
    """Make the model that a plan describes, in eval mode; `progress` may watch the steps go by."""
    device = _device(device)
    plan = settle_tie(plan)
    model = skeleton(plan.architecture, plan.config)
    weights = {step.name or "": _weight(plan, step).to(device) for step in progress(plan.mapped)}
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie()
    model.origin = plan.checkpoint.origin
    return model.eval()


def export(
    model: Decoder, folder: str | Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str = "5GB"
) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, in `dtype` where given; the folder is returned.

    The config fields we do not use, generation_config.json and the tokenizer's files come along from the origin.

    Raises: ExportError, and leaves the target as it was.
    """
    arch = architecture(model.architecture)
    origin = model.origin
    hf = write_config(arch.table, model.config, arch.name, origin.hf if origin else None)
    target = dtype or next(model.parameters()).dtype
    for field in [name for name in ("dtype", "torch_dtype") if name in hf] or ["torch_dtype"]:
        hf[field] = str(target).removeprefix("torch.")

    tensors = export_tensors(arch.table, model.config, model, dtype=target)
    return write_checkpoint(Path(folder), hf, tensors, origin.folder if origin else None, max_shard_size)


def _open(
    source: str | Path | None, revision: str | None, offline: bool, headers_only: bool, hub: HubOptions
) -> Checkpoint:
    folder = DEMO if source is None else Path(source).expanduser()
    if folder.is_dir():
        return open_folder(folder, name=BUNDLED if source is None else str(source))
    name = str(source)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SourceError(f"{name}: {'a file' if folder.exists() else 'no such folder'}, expected a folder or a Hub id")
    if headers_only and not offline:
        return open_headers(name, revision, options=hub)
    return open_repository(name, revision, offline=offline, options=hub)


class _InMemory:
    """A state_dict as a weights file."""

    mapped = False
    path = Path()

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        self._tensors = state_dict
        self.headers = {key: Header(tuple(tensor.shape), tensor.dtype) for key, tensor in state_dict.items()}

    def tensor(self, key: str, *, copying: bool) -> Tensor:  # noqa: ARG002
        return self._tensors[key].detach()


def _weight(plan: LoadPlan, step: TensorStep) -> Tensor:
    copying = step.kind not in IN_PLACE
    return import_tensor(step, plan.axes, lambda key: plan.checkpoint.read(key, copying=copying))


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
    required = [item.name for item in fields(arch.config_class) if item.default is MISSING]
    faults = {name: f"no such field{nearest(name, names)}" for name in given if name not in names}
    faults |= {name: "missing" for name in required if name not in given}
    if faults:
        raise ConfigError(faults, f"config of {arch.name}")
    return arch.config_class(**given), None


def _as_dict(cfg: Any) -> Mapping[str, Any]:
    if isinstance(cfg, Mapping):
        return cfg
    if hasattr(cfg, "model_type") and hasattr(cfg, "to_dict"):
        return cfg.to_dict()  # type: ignore[no-any-return]
    raise ConfigError({"config": f"found {type(cfg).__name__}, expected a Config, a dict or a transformers config"})


def _device(asked: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError({"device": f"found {str(asked)!r}, which cannot be used here: {reason}"}) from None


def _dtype(asked: torch.dtype | str, checkpoint: Checkpoint) -> torch.dtype:
    """What the weights become: what is asked for, else what the config says, else what most bytes of the file are."""
    if isinstance(asked, torch.dtype):
        return asked
    hf = checkpoint.origin.hf
    said = (hf.get("dtype") or hf.get("torch_dtype")) if asked == "auto" else asked
    if said is None:
        amounts: Counter[torch.dtype] = Counter()
        for header in checkpoint.headers.values():
            if header.dtype.is_floating_point:
                amounts[header.dtype] += header.bytes
        return amounts.most_common(1)[0][0] if amounts else torch.float32
    dtype = getattr(torch, str(said).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError({"dtype": f"found {said!r}, expected float32, float16, bfloat16 or float64"})
    return dtype

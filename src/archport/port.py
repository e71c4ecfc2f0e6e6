"""From a name to a ready model: build, plan, load, export."""

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from .checkpoint import Checkpoint, check_hashes, open_folder
from .config import DecoderConfig, Origin
from .errors import CheckpointError, ConfigError, ExportError, NotFiniteWarning, SourceError, UnsupportedError
from .export import write_checkpoint
from .fields import read_config, write_config
from .hub import HubOptions, open_companions, open_headers, open_repository
from .layers import Decoder, initialise
from .registry import Architecture, architecture, skeleton
from .translate import Copy, Header, Plan, TensorStep, export_tensors, import_tensor, is_finite, nearest, same_bytes
from .translate import plan as plan_tensors

DEMO = Path(__file__).parent / "demo"
BUNDLED = "the bundled demo"
DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
}


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
    model = skeleton(arch, config, device).to(dtype=to_dtype(dtype or torch.float32))
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
    **hub: Unpack[HubOptions],
) -> Decoder:
    """A ready model, in eval mode, from a folder or a Hub id; without a source, the checkpoint that ships inside.

    `dtype` "auto" is what the config says, else what the weights are. Tensors whose layout is ours already are used
    where they lie in the file, unless `copy` asks for memory of their own. Weights that are not finite are warned of,
    if they are copied or `check_finite` asks for all; `check_hash` compares files of the Hub's cache with their names.

    Raises: SourceError, CheckpointError, ConfigError, MappingError.
    """
    planned = plan(source, revision=revision, dtype=dtype, offline=offline, headers_only=False, copy=copy, **hub)
    if check_hash:
        check_hashes(planned.checkpoint)
    return carry_out(planned, device, check_finite=check_finite)


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
    return carry_out(plan_checkpoint(checkpoint, dtype))


def plan_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype | str, *, tied: bool | None = None) -> LoadPlan:
    """Read the config, build on meta, match the headers. `tied` overrides what the config says of the head."""
    origin = checkpoint.origin
    if "model_type" not in origin.hf:
        raise ConfigError({"model_type": "missing"}, f"{origin.name}/config.json")
    where = f"{origin.name}/config.json"
    try:
        arch = architecture(origin.hf["model_type"])
    except UnsupportedError as error:
        raise UnsupportedError(error.faults, where) from None
    config, unknown = read_config(arch.table, arch.config_class, origin.hf, where)
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
        if not same_bytes(read(step.keys[0]), read(embedding)):
            return plan_checkpoint(plan.checkpoint, plan.dtype, tied=False)
    return plan


def carry_out(
    plan: LoadPlan,
    device: str | torch.device = "cpu",
    *,
    check_finite: bool = False,
    progress: Callable[[Sequence[Copy]], Iterable[Copy]] = iter,
) -> Decoder:
    """Make the model that a plan describes, in eval mode; `progress` may watch the copies go by."""
    device = to_device(device)
    plan = settle_tie(plan)
    model = skeleton(plan.architecture, plan.config)
    with _without_garbage_collection():
        made, odd = _weights(plan, progress)
    if check_finite:
        odd |= {name: None for name, tensor in made.items() if not is_finite(tensor)}
    if odd:
        warnings.warn(
            NotFiniteWarning([name for name in made if name in odd], plan.checkpoint.origin.name), stacklevel=2
        )
    weights: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in made.items():
        # Two keys of a pickle may share memory; two parameters must not.
        weights[name] = tensor.to(device, copy=tensor.data_ptr() in addresses)
        addresses.add(tensor.data_ptr())
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie()
    model.origin = plan.checkpoint.origin
    return model.eval()


def _weights(
    plan: LoadPlan, progress: Callable[[Sequence[Copy]], Iterable[Copy]]
) -> tuple[dict[str, Tensor], dict[str, None]]:
    """Every parameter by its name, and the names of those that were copied and are not finite."""
    made: dict[str, Tensor] = {}
    odd: dict[str, None] = {}
    # What is mapped can all be opened at once; of what is not, one tensor is read at a time.
    for steps in [plan.mapped] if plan.checkpoint.mapped else [[step] for step in plan.mapped]:
        copies: list[Copy] = []
        for step in steps:
            made[step.name or ""], pieces = import_tensor(step, plan.axes, plan.checkpoint.read)
            copies += pieces
        odd |= _copy_all(plan.checkpoint, copies, progress if plan.checkpoint.mapped else iter)
    return made, odd


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Many tensors are made and none is garbage; searching through all of them again and again takes longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
    arch = architecture(model.architecture)
    config, parameters = _exportable(model, arch)
    hf = write_config(arch.table, config, arch.name, model.origin.hf if model.origin else None)
    target = to_dtype(dtype) if dtype is not None else None
    widest = target or reduce(torch.promote_types, {parameter.dtype for parameter in parameters.values()})
    for field in [name for name in ("dtype", "torch_dtype") if name in hf] or ["torch_dtype"]:
        hf[field] = str(widest).removeprefix("torch.")
    tensors = export_tensors(arch.table, config, parameters, dtype=target)
    return write_checkpoint(Path(folder), hf, tensors, model.origin.folder if model.origin else None, max_shard_size)


def _exportable(model: Decoder, arch: Architecture) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """The config and the parameters to write, checked against each other; the head is left out where it is tied."""
    found = {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}
    expected = dict(skeleton(arch, model.config).named_parameters(remove_duplicate=False))
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is not part of {arch.name}" for name in found if name not in expected]
    faults += [
        f"{name} is {tuple(found[name].shape)}, its config says {tuple(parameter.shape)}"
        for name, parameter in expected.items()
        if name in found and found[name].shape != parameter.shape
    ]
    faults += [f"{name} is on meta and has no values" for name, parameter in found.items() if parameter.is_meta]
    if faults:
        raise ExportError(f"the model is not what its config says: {'; '.join(faults[:5])}")
    head, embedding = found["head.weight"], found["embed.tokens.weight"]
    if model.config.tied and (head is embedding or same_bytes(head, embedding)):
        del found["head.weight"]
        return model.config, found
    return replace(model.config, tied=False), found


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


def _copy_all(
    checkpoint: Checkpoint, copies: Sequence[Copy], progress: Callable[[Sequence[Copy]], Iterable[Copy]]
) -> dict[str, None]:
    """Make all copies on all cores, a piece each, and let each source go when its piece is copied.

    Returns the names of the parameters that are not finite.
    """
    inference = torch.is_inference_mode_enabled()  # each thread has a mode of its own

    def make(copy: Copy) -> bool:
        with torch.inference_mode(inference):
            copy.target.copy_(copy.source)
        checkpoint.release(copy.source)
        return is_finite(copy.target)

    if not copies:
        return {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        finite = [good for _, good in zip(progress(copies), pool.map(make, copies), strict=True)]
    return {copy.name or "": None for copy, good in zip(copies, finite, strict=True) if not good}


def own_weight(plan: LoadPlan, step: TensorStep) -> Tensor:
    """The one parameter that a step of a plan describes, in memory of its own."""
    tensor, copies = import_tensor(step, plan.axes, partial(plan.checkpoint.read, own=True))
    for copy in copies:
        copy.target.copy_(copy.source)
    return tensor


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
    faults = {str(name): f"no such field{nearest(str(name), names)}" for name in given if name not in names}
    faults |= {name: "missing" for name in required if name not in given}
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


def to_device(asked: str | torch.device) -> torch.device:
    """A device that can be used here. Raises: ConfigError."""
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError({"device": f"found {str(asked)!r}, which cannot be used here: {reason}"}) from None


def _dtype(asked: torch.dtype | str, checkpoint: Checkpoint) -> torch.dtype:
    """What the weights become: what is asked for, else what the config says, else what most bytes of the file are."""
    hf = checkpoint.origin.hf
    said: torch.dtype | str | None = (hf.get("dtype") or hf.get("torch_dtype")) if asked == "auto" else asked
    if said is None:
        amounts: Counter[torch.dtype] = Counter()
        for header in checkpoint.headers.values():
            if header.dtype.is_floating_point:
                amounts[header.dtype] += header.bytes
        return amounts.most_common(1)[0][0] if amounts else torch.float32
    return to_dtype(said)


def to_dtype(name: torch.dtype | str) -> torch.dtype:
    """A floating-point type by its name. Raises: ConfigError."""
    dtype = name if isinstance(name, torch.dtype) else DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None or dtype not in DTYPES.values():
        raise ConfigError({"dtype": f"found {name!r}, expected {', '.join(DTYPES)}"})
    return dtype

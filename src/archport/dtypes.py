"""Types of numbers: by their names, and which one the weights of a checkpoint become."""

from collections.abc import Iterator

import torch

from .checking import shown
from .config import dtype_name
from .errors import ConfigError
from .files.checkpoint import Checkpoint
from .translate.steps import Plan

DTYPES = {dtype_name(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}
DTYPES |= {"float": torch.float32, "half": torch.float16, "double": torch.float64}  # torch's other names
DTYPES |= {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}

DTYPE_FIELDS = ("dtype", "torch_dtype")  # of config.json, from transformers 5 on and before


def chosen(dtype: torch.dtype | str, checkpoint: Checkpoint) -> torch.dtype:
    """What the weights become: what is given, else what the config says, else what the first of them is."""
    if dtype != "auto":
        return to_dtype(dtype)
    for field in DTYPE_FIELDS:
        if name := checkpoint.origin.hf.get(field):
            return to_dtype(name, field, checkpoint.config_name)
    return _first_dtype(checkpoint)


def _first_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The type of the first weights of the first file, in the order in which transformers reads them."""
    files = checkpoint.files or checkpoint.remote
    first = next(iter(files.values()), None)
    keys = [key for key in checkpoint.headers if files.get(key) is first]
    if first is not None and first.path.suffix == ".safetensors":
        keys.sort(key=lambda key: checkpoint.own_names.get(key, key))
    floating = (checkpoint.headers[key].dtype for key in keys if checkpoint.headers[key].dtype.is_floating_point)
    return next(floating, torch.float32)


def several(tensors: Plan, checkpoint: Checkpoint, dtype: torch.dtype | str) -> Iterator[str]:
    """What becomes of weights of several types where neither config nor caller says it."""
    types = sorted({dtype_name(step.file_dtype) for step in tensors.mapped})
    said = dtype != "auto" or any(checkpoint.origin.hf.get(field) for field in DTYPE_FIELDS)
    if len(types) > 1 and not said:
        yield f"found {' and '.join(types)}, and no dtype in the config: all become {dtype_name(tensors.dtype)}"


def to_dtype(name: torch.dtype | str, field: str = "dtype", where: str = "config") -> torch.dtype:
    """A floating-point type by its name or a short one, as bf16. Raises: ConfigError."""
    dtype = name if isinstance(name, torch.dtype) else DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None or dtype not in DTYPES.values():
        expected = ", ".join(dict.fromkeys(map(dtype_name, DTYPES.values())))
        raise ConfigError({field: f"found {shown(name)}, expected {expected}"}, where)
    return dtype

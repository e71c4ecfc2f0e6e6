"""Lines about the way back: the tensors and the config that the port would write, beside the reference and a file."""

from collections.abc import Container, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from ...config import DecoderConfig, dtype_name
from ...errors import ArchportError, ConfigError, SourceError, in_a_line
from ...exporting import outgoing
from ...files.values import same_bytes
from ...layers import Decoder
from ...load_plan import LoadPlan
from ...registry import Architecture, architecture
from ...translate.fields import read_config
from ...translate.tensors import Outgoing
from ..budget import Check
from ..compare import Comparison
from ..counterparts import canonical
from ..references import config_as_read, saved_buffers
from ..running import RaisedError
from ..settings import DRAWN

EXPORTED, CONFIG, SOURCE = "export", "export, config", "export, source"
FREE = ("dtype", "torch_dtype", "architectures", "model_type", "transformers_version")  # not what the model is


def exported(comparison: Comparison, port: Decoder) -> Check:
    """The tensors that the port would write: the reference's own bytes, each but those that the table ignores."""
    table = architecture(port.architecture).table
    model = comparison.reference
    state = {canonical(table, key): tensor for key, tensor in model.state_dict().items()}
    _, tensors = _outgoing(port, state)
    differ = [key for key, one in tensors.items() if key not in state or not same_bytes(one.make(), state[key])]
    written = {state[key].data_ptr() for key in tensors if key in state}  # a tied one has two keys
    held = {**dict(model.named_parameters()), **saved_buffers(model)}
    missing = [canonical(table, key) for key, tensor in held.items() if tensor.data_ptr() not in written]
    ignored = [key for key in missing if table.reason(key) is not None]
    what = f"{len(tensors)} tensors" + (f" without {len(ignored)} that are ignored" if ignored else "")
    return _counted(EXPORTED, what, differ, [key for key in missing if key not in ignored])


def config(comparison: Comparison, port: Decoder) -> Check:
    """The config that the port would write, as transformers reads it: the reference's own, and the tensors' dtype."""
    hf, tensors = _outgoing(port)
    try:
        read = config_as_read(hf)
    except SourceError as error:
        raise RaisedError("transformers, given the config to export,", error) from error
    differ = _unlike(read, comparison.clean.config, architecture(port.architecture))
    said, held = read.get("dtype", read.get("torch_dtype")), {dtype_name(one.header.dtype) for one in tensors.values()}
    differ += [f"dtype is {said}, not {' or '.join(sorted(held))}"] if dtype_of(said) not in held else []
    return _counted(CONFIG, f"{len(fields(comparison.clean.config))} fields", differ, [])


def of_source(port: Decoder, source: LoadPlan) -> Check:
    """What the port would write beside the files that it came from: their keys, their bytes, their config."""
    table, files = source.architecture.table, source.checkpoint
    in_file = {meaning: key for key in files.headers for meaning in table.canonical(key)}
    hf, tensors = _outgoing(port, in_file)
    there = {key: in_file[key] for key in tensors if key in in_file}
    differ = [key for key, name in there.items() if not _alike(tensors[key].make(), files.read(name))]
    mapped = [key for step in source.mapped for key in step.keys]
    missing = [key for key in mapped if key not in there.values()]
    before = files.origin.hf
    differ += _unlike(hf, source.config, source.architecture)
    differ += [
        f"{name} is {hf.get(name)!r}, not {before[name]!r}"
        for name in before
        if name not in FREE and not table.decides(name) and hf.get(name) != before[name]
    ]
    return _counted(SOURCE, f"{len(tensors)} tensors and {len(before)} fields", differ, missing)


def _unlike(hf: dict[str, Any], right: DecoderConfig, arch: Architecture) -> list[str]:
    """The fields of a config.json that say another model; one meaning may be written in many ways."""
    try:
        ours, _ = read_config(arch.table, arch.config_class, hf, "config to export")
    except ConfigError as error:
        return [in_a_line(error)]
    pairs = {field.name: (getattr(ours, field.name), getattr(right, field.name, None)) for field in fields(ours)}
    return [
        f"{name} is {one!r}, not {other!r}" for name, (one, other) in pairs.items() if one != other and name != DRAWN
    ]


def dtype_of(said: Any) -> str:
    """A dtype as a config says it."""
    return str(said).removeprefix("torch.")


def _outgoing(port: Decoder, present: Container[str] | None = None) -> tuple[dict[str, Any], dict[str, Outgoing]]:
    """What the port would write. Raises: RaisedError."""
    try:
        return outgoing(port, present=present)
    except ArchportError as error:
        raise RaisedError("export", error) from error


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    """Whether a tensor is a file's, in the narrower of their dtypes."""
    narrow = min(ours.dtype, theirs.dtype, key=lambda dtype: dtype.itemsize)
    return same_bytes(ours.to(narrow), theirs.to(ours.device, narrow))


def _counted(name: str, what: str, differ: Sequence[str], missing: Sequence[str]) -> Check:
    """A line that counts what differs and what is missing, and says the first of them."""
    wrong = [*differ, *(f"{key} is missing" for key in missing)]
    note = f"{what}, {f'{len(wrong)} of them wrong' if wrong else 'all the same'}"
    return Check(name, float(len(wrong)), 0.0, 0.0, wrong[0] if wrong else "", note)

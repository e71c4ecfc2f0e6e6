"""A checkpoint folder as config, headers and lazily read tensors; nothing but headers is read until asked for."""

import ctypes
import json
import mmap
import pickle
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .config import Origin
from .errors import CheckpointError
from .translate import Header

CONFIG = "config.json"
# In the order of preference; an index names shards.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What a checkpoint carries besides config and weights; taken along on export.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
MAX_JSON = 64 << 20
MAX_HEADER = 100_000_000  # the format's own limit

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class WeightsFile(Protocol):
    """One file of tensors."""

    path: Path
    mapped: bool

    @property
    def headers(self) -> dict[str, Header]:
        """Shape and dtype of every tensor, without reading one."""

    def tensor(self, key: str, *, own: bool = False) -> Tensor:
        """A tensor: the mapped file itself, or memory of its own that goes when the tensor goes."""


@dataclass(frozen=True)
class Checkpoint:
    """A config, the headers of all tensors, and the files to read them from (none where only headers were fetched)."""

    origin: Origin
    headers: Mapping[str, Header]
    names: tuple[str, ...]
    file_bytes: int
    files: Mapping[str, WeightsFile]

    @property
    def mapped(self) -> bool:
        """Whether tensors are used where they lie on disk."""
        return all(file.mapped for file in self.files.values())

    def read(self, key: str, *, own: bool = False) -> Tensor:
        """One tensor by the file's own key, mapped where the file is, or in memory of its `own`."""
        return self.files[key].tensor(key, own=own)

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a contiguous piece go that was read and copied; the file still has it."""
        if self.mapped and tensor.is_contiguous():  # a strange stride may claim more bytes than the file has
            _drop_pages(tensor)


def open_folder(folder: Path, *, name: str, revision: str | None = None, commit: str | None = None) -> Checkpoint:
    """Read a folder's config and headers. Raises: CheckpointError when a file is missing or damaged."""
    hf = read_json(folder / CONFIG)
    weights = choose_weights([path.name for path in folder.iterdir()], name)
    shards = shard_names(read_json(folder / weights), folder / weights) if weights.endswith(".json") else [weights]
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise CheckpointError(f"{folder / weights}: names {len(absent)} files that are not there: {', '.join(absent)}")
    opened = [open_weights(folder / shard) for shard in shards]
    files = {key: file for file in opened for key in file.headers}
    headers = {key: header for file in opened for key, header in file.headers.items()}
    doubled = sum(len(file.headers) for file in opened) - len(files)
    if doubled:
        raise CheckpointError(f"{folder / weights}: {doubled} tensors lie in more than one file")
    size = sum(file.path.stat().st_size for file in opened)
    return Checkpoint(Origin(name, hf, folder, revision, commit), headers, tuple(shards), size, files)


def choose_weights(names: list[str], where: str) -> str:
    """The file to read weights from, or the index that names them, among the files of a folder or repository."""
    for name in WEIGHTS:
        if name in names:
            return name
    raise CheckpointError(f"{where}: no weights found, expected {' or '.join(WEIGHTS[:3])}")


def shard_names(index: Mapping[str, Any], path: Path) -> list[str]:
    """The shards an index names, in order; each must be the bare name of a file beside it."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map found, expected an index of shards")
    shards = sorted({str(shard) for shard in weight_map.values()})
    suffix = ".safetensors" if "safetensors" in path.name else ".bin"
    wrong = [shard for shard in shards if Path(shard).name != shard or not shard.endswith(suffix)]
    if wrong:
        raise CheckpointError(f"{path}: found shard {wrong[0]!r}, expected the bare name of a {suffix} file")
    return shards


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises: CheckpointError for anything else."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_JSON}")
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def open_weights(path: Path) -> WeightsFile:
    """A file of tensors by its ending."""
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PickleFile(path)


class SafetensorsFile:
    """A .safetensors file, mapped into memory."""

    mapped = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers = _safetensors_headers(path)

    def _open(self, backend: str) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.path, "pt", **({"backend": backend} if backend != "mmap" else {}))
        except SafetensorError as error:
            raise CheckpointError(f"{self.path}: not a valid safetensors file: {error}") from None

    @cached_property
    def _mapped(self) -> Any:
        return self._open("mmap")

    @cached_property
    def _unmapped(self) -> Any:
        # Older safetensors can only map.
        try:
            return self._open("pread")
        except TypeError:
            return self._mapped

    def tensor(self, key: str, *, own: bool = False) -> Tensor:
        """A tensor by its key."""
        return (self._unmapped if own else self._mapped).get_tensor(key)  # type: ignore[no-any-return]


def _safetensors_headers(path: Path) -> dict[str, Header]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise CheckpointError(f"{path}: found {_what_is(path)}, expected a safetensors file")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        unknown = [f"{key} is {entry['dtype']}" for key, entry in entries.items() if entry["dtype"] not in DTYPES]
        if end > size:
            raise CheckpointError(f"{path}: found {size} bytes, expected {end}: truncated, fetch it again")
        if unknown:
            raise CheckpointError(f"{path}: {unknown[0]}, a type archport does not know")
        return {key: Header(tuple(entry["shape"]), DTYPES[entry["dtype"]]) for key, entry in entries.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not that of a safetensors file: {error!r}") from None


def _what_is(path: Path) -> str:
    """What a file is that is not what its name says."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer (fetch the file itself with `git lfs pull`)"
    if start.lstrip()[:1] == b"<":
        return "a page of HTML or XML"
    return f"{path.stat().st_size} bytes of something else" if start else "an empty file"


class PickleFile:
    """A pytorch_model.bin: the zip container is mapped, the older plain pickle is read into memory as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.mapped = file.read(4) == b"PK\x03\x04"

    def _load(self, **options: Any) -> dict[str, Tensor]:
        try:
            state = torch.load(self.path, weights_only=True, **options)
        except Exception as error:  # a damaged pickle can raise nearly anything
            code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
            if code:
                raise CheckpointError(f"{self.path}: holds code ({code[1]}), refused; ask for safetensors") from None
            raise CheckpointError(f"{self.path}: found {_what_is(self.path)}, expected a PyTorch checkpoint") from None
        tensors = isinstance(state, dict) and all(
            isinstance(key, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided
            for key, tensor in state.items()
        )
        if not tensors:
            raise CheckpointError(f"{self.path}: found something else than a dictionary of names and dense tensors")
        return state  # type: ignore[no-any-return]

    @cached_property
    def headers(self) -> dict[str, Header]:
        """Shapes and dtypes, from the pickle alone."""
        return {key: Header(tuple(t.shape), t.dtype) for key, t in self._load(map_location="meta").items()}

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return self._load(map_location="cpu", mmap=self.mapped)

    def tensor(self, key: str, *, own: bool = False) -> Tensor:  # noqa: ARG002
        """A tensor by its key."""
        return self._tensors[key].detach()


def _drop_pages(tensor: Tensor) -> None:
    """Take the pages of a mapped tensor, which nobody has written to, out of this process's memory."""
    if sys.platform == "linux":
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = tensor.data_ptr() + tensor.nbytes - start
        if size >= mmap.PAGESIZE:
            size = size // mmap.PAGESIZE * mmap.PAGESIZE
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)

"""A .safetensors file: its header is checked before anything believes it, its tensors are mapped into memory."""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, in_a_line
from . import strict_json
from .header import Header
from .remedy import get_again

# Far above any published checkpoint, far below what would hang or fill the machine.
MAX_HEADER = 8 << 20  # bytes
MAX_TENSORS = 50_000
MAX_DIMS = 8
MAX_NAME = 500  # letters

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


class SafetensorsFile:
    """A .safetensors file, mapped into memory."""

    mapped = True
    notes: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers = read_headers(path)

    def _open(self, backend: str) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.path, "pt", **({"backend": backend} if backend != "mmap" else {}))
        except SafetensorError as error:
            raise CheckpointError(f"{self.path}: not a valid safetensors file: {error}") from None
        except RuntimeError as error:  # torch's, for a file larger than what the system lends
            raise CheckpointError(f"{self.path}: cannot be mapped into memory: {in_a_line(error)}") from None

    @cached_property
    def _mapped(self) -> Any:
        return self._open("mmap")

    @cached_property
    def _unmapped(self) -> Any:
        # Older safetensors can only map.
        try:
            return self._open("pread")
        except TypeError:
            return None

    def tensor(self, key: str, *, own: bool = False) -> Tensor:
        """A tensor by its key, where it lies in the file or in memory of its `own`."""
        if not own:
            return self._mapped.get_tensor(key)  # type: ignore[no-any-return]
        if self._unmapped is None:
            return self._mapped.get_tensor(key).clone()  # type: ignore[no-any-return]
        return self._unmapped.get_tensor(key)  # type: ignore[no-any-return]


def read_headers(path: Path) -> dict[str, Header]:
    """Shape and dtype of every tensor of a file. Raises: CheckpointError unless they account for every byte of it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{path}: found {what_is(path)}, expected a safetensors file")
        if length > MAX_HEADER:
            raise CheckpointError(f"{path}: found a header of {length} bytes, expected at most {MAX_HEADER}")
        raw = file.read(length)
    if raw.count(b"{") > MAX_TENSORS + 2:
        raise CheckpointError(f"{path}: found {raw.count(b'{') - 1} tensors, expected at most {MAX_TENSORS}")
    try:
        entries = strict_json.parse(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a safetensors header, found {error}: {get_again(path)}") from None
    return checked(entries, str(path), size - 8 - length)


def checked(entries: Any, where: str, data: int | None) -> dict[str, Header]:
    """The headers in a parsed header, which lie one after another in `data` bytes, if that is known.

    Raises: CheckpointError.
    """
    if not isinstance(entries, dict):
        raise CheckpointError(f"{where}: found a JSON {type(entries).__name__} for a header, expected an object")
    metadata = entries.pop("__metadata__", None)
    if metadata is not None and not (isinstance(metadata, dict) and all(type(v) is str for v in metadata.values())):
        raise CheckpointError(f"{where}: found metadata {str(metadata)[:60]}, expected names and texts")
    if len(entries) > MAX_TENSORS:
        raise CheckpointError(f"{where}: found {len(entries)} tensors, expected at most {MAX_TENSORS}")
    long = next((key for key in entries if len(key) > MAX_NAME), None)
    if long is not None:
        raise CheckpointError(f"{where}: found a name of {len(long)} letters, expected at most {MAX_NAME}")
    headers = {key: _header(key, entry, where) for key, entry in entries.items()}
    ranges = sorted(entry["data_offsets"] for entry in entries.values())
    if any(end != start for (_, end), (start, _) in pairwise([[0, 0], *ranges])):
        raise CheckpointError(f"{where}: found tensors that overlap or leave gaps, expected one right after another")
    end = ranges[-1][1] if ranges else 0
    if data is None:
        return headers
    if end != data:
        cut = "truncated, " if end > data else ""
        again = f"{cut}{get_again(Path(where))}"
        raise CheckpointError(f"{where}: found {data} bytes of tensors, expected {end}: {again}")
    return headers


def _header(key: str, entry: Any, where: str) -> Header:
    """What a header says of one tensor, its numbers consistent."""
    named = f"{where}: tensor {key[:100]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{named}: found {str(entry)[:60]}, expected its dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{named}: found dtype {str(dtype)[:40]!r}, expected {', '.join(DTYPES)}")
    if not _whole(shape) or len(shape) > MAX_DIMS:
        raise CheckpointError(f"{named}: found shape {str(shape)[:60]}, expected at most {MAX_DIMS} whole numbers")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if not _whole(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise CheckpointError(f"{named}: found bytes {str(offsets)[:60]}, expected {size} of them for {dtype} {shape}")
    return Header(tuple(shape), DTYPES[dtype])


def _whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def what_is(path: Path) -> str:
    """What a file is that is not what its name says."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer (fetch the file itself with `git lfs pull`)"
    if start.lstrip()[:1] == b"<":
        return "a page of HTML or XML (fetch the file itself)"
    return f"{path.stat().st_size} bytes of something else" if start else f"an empty file ({get_again(path)})"

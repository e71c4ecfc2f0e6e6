"""A pytorch_model.bin: checked before torch reads it; it can run nothing and claim no more than it holds."""

import mmap
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError, in_a_line
from .header import Header
from .pickle_scan import Keys, Name, Scan, scan
from .remedy import get_again
from .safetensors_file import MAX_HEADER, MAX_TENSORS, what_is
from .state_dicts import unwrapped

# What a state_dict needs to name, besides storages; torch's own list is longer.
NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
} | {f"torch {name}" for name in ("float64", "float32", "float16", "bfloat16")}
# Bytes of an element of each storage.
STORAGES = {
    f"torch {name}Storage": size
    for size, names in {
        1: "Byte Char Bool",
        2: "Half BFloat16 Short",
        4: "Float Int",
        8: "Double Long",
    }.items()
    for name in names.split()
} | {"torch.storage UntypedStorage": 1}
# A tensor with attributes, as FSDP gathers it: of no other class, and with no other attributes than its own.
WITH_ATTRIBUTES, TENSOR = "torch._tensor _rebuild_from_type_v2", "torch Tensor"
ATTRIBUTES = {"_has_been_cloned"}
LEGACY_PICKLES = 5  # magic number, protocol version, byte order, the state_dict, keys of its storages
END = b"PK\x05\x06"  # of a zip container without a comment: 22 bytes
LOCATOR, END64 = b"PK\x06\x07", b"PK\x06\x06"  # of its 64-bit form


class PickleFile:
    """A pytorch_model.bin: the zip container is mapped, the older plain pickle is read into memory as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: Sequence[str] = ()  # known with the headers
        self.settings: Mapping[str, Any] = {}  # of the model, by their names; these too
        with path.open("rb") as file:
            self.mapped = file.read(4) == b"PK\x03\x04"

    @cached_property
    def headers(self) -> dict[str, Header]:
        """Shapes and dtypes, from the pickle alone. Raises: CheckpointError."""
        try:
            if self.mapped:
                self._check(*_zipped(self.path))
            else:
                self._check(*_legacy(self.path))
        except CheckpointError:
            raise
        except Exception as error:  # a damaged container can raise nearly anything
            raise self._no_checkpoint(error) from None
        tensors, self.notes, self.settings = unwrapped(self._load(map_location="meta"), self.path)
        for key, tensor in tensors.items():
            held = tensor.untyped_storage().nbytes()
            if tensor.nbytes > held:
                claims = f"{tuple(tensor.shape)} of {tensor.nbytes} bytes"
                raise CheckpointError(f"{self.path}: {key[:100]}: found {held} bytes, expected {claims}")
        return {key: Header(tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}

    def tensor(self, key: str, *, own: bool = False) -> Tensor:
        """A tensor by its key, where it lies in the file or in memory of its `own`."""
        tensor = self._tensors[key].detach()
        return tensor.clone() if own else tensor

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return unwrapped(self._load(map_location="cpu", mmap=self.mapped), self.path)[0] if self.headers else {}

    def _load(self, **options: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about its own older formats
                return torch.load(self.path, weights_only=True, **options)
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise self._no_checkpoint(error) from None

    def _check(self, scanned: Scan, held: dict[str, int] | int) -> None:
        """Only dense tensors are named, and every storage is there: `held` are the bytes of each, or of all."""
        known = NAMES | STORAGES.keys()
        if all(map(_is_plain_tensor, scanned.calls)):
            known |= {WITH_ATTRIBUTES, TENSOR}
        foreign = sorted({name for name in scanned.names if name not in known})
        if foreign:
            call = repr(foreign[0].replace(" ", ".")[:100])[1:-1]
            only = "expected names and dense tensors only: it was not run; ask for safetensors"
            if any(name.startswith("numpy") for name in foreign):
                only = "expected no numbers of numpy: it was not run; save them as float(..) or torch.tensor(..)"
            raise CheckpointError(f"{self.path}: found a call of {call}, {only}")
        claimed: dict[str, int] = {}
        for persistent in scanned.persistent:
            storage = _storage(persistent)
            claimed[storage.key] = max(claimed.get(storage.key, 0), storage.bytes)
        if isinstance(held, int):
            if sum(claimed.values()) > held:
                raise CheckpointError(f"{self.path}: found {held} bytes, expected {sum(claimed.values())} of tensors")
            return
        for key, size in claimed.items():
            if held.get(key) != size:
                content = f"found {held.get(key, 'no')} bytes of storage {key[:40]!r}"
                raise CheckpointError(f"{self.path}: {content}, expected {size}: {get_again(self.path)}")

    def _no_checkpoint(self, error: Exception) -> CheckpointError:
        content = what_is(self.path)
        detail = re.search(r"WeightsUnpickler error: ([^\n]*)", str(error))
        reason = detail[1] if detail else "" if "weights_only" in str(error) else in_a_line(error)
        more = f" ({reason[:100]})" if reason and "something else" in content else ""
        return CheckpointError(f"{self.path}: found {content}, expected a PyTorch checkpoint{more}")


def beside_tensors(path: Path) -> dict[str, Any]:
    """What a file holds at its top that is no tensor, by its names; nothing where it is no checkpoint."""
    file = PickleFile(path)
    try:
        state = file._load(map_location="meta") if file.headers else {}
    except CheckpointError:
        return {}
    return {name: value for name, value in state.items() if not isinstance(value, Tensor) or value.numel() == 1}


def _is_plain_tensor(call: tuple[Name, Any]) -> bool:
    """Whether a call, if it is one for a tensor with attributes, makes nothing but a tensor."""
    function, arguments = call
    if function != WITH_ATTRIBUTES:
        return function != TENSOR
    match arguments:
        case ("torch._utils _rebuild_tensor_v2", "torch Tensor", tuple(), Keys() as attributes):
            return ATTRIBUTES.issuperset(attributes)
    return False


class _Storage(NamedTuple):
    key: str
    bytes: int


def _storage(persistent: Any) -> _Storage:
    """What one persistent id of a state_dict asks for. Raises: ValueError."""
    match persistent:
        case ("storage", Name() as kind, str() as key, str(), int() as count, *_) if kind in STORAGES and count >= 0:
            return _Storage(key, count * STORAGES[kind])
    raise ValueError("a storage that is none")


def _legacy(path: Path) -> tuple[Scan, int]:
    """The state_dict of an older container, and how many bytes are left for its storages."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        scans = [scan(raw) for _ in range(LEGACY_PICKLES)]
        if any(one.names for one in (*scans[:3], scans[4])):
            raise ValueError("names outside its state_dict")
        return scans[3], len(raw) - raw.tell()


def _zipped(path: Path) -> tuple[Scan, dict[str, int]]:
    """The state_dict of a zip container whose entries lie in the file as they are, and the bytes of each storage."""
    with path.open("rb") as file:
        _check_directory(file, path.stat().st_size)
    with zipfile.ZipFile(path) as container, path.open("rb") as file:
        entries = container.infolist()
        for entry in entries:
            if (
                entry.compress_type != zipfile.ZIP_STORED
                or entry.flag_bits & 1
                or entry.file_size != entry.compress_size
            ):
                packed = f"found {entry.filename[:100]!r} compressed or encrypted"
                raise CheckpointError(f"{path}: {packed}, expected it stored as it is")
        inside = {entry.filename.partition("/")[2]: entry for entry in entries}
        roots = {entry.filename.partition("/")[0] for entry in entries}
        # torch does not tell capitals from small letters here
        if len(entries) > MAX_TENSORS or len({name.lower() for name in inside}) < len(entries) or len(roots) > 1:
            raise ValueError(f"{len(entries)} entries, some of them twice or too many")
        if "data.pkl" not in inside or inside["data.pkl"].file_size > MAX_HEADER:
            raise ValueError("no data.pkl, or one that is too large")
        order = _content(file, inside["byteorder"]) if "byteorder" in inside else b"little"
        if order != b"little":
            raise CheckpointError(
                f"{path}: found byte order {order[:20]!r}, expected little: convert it to safetensors"
            )
        if ".storage_alignment" in inside and not re.fullmatch(
            rb"[1-9]\d{0,6}", _content(file, inside[".storage_alignment"])
        ):
            raise ValueError("a storage alignment that is none")
        held = {name[5:]: entry.file_size for name, entry in inside.items() if name.startswith("data/")}
        return scan(_content(file, inside["data.pkl"])), held


def _content(file: Any, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of a stored entry; torch may leave its checksum out."""
    file.seek(entry.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    file.seek(entry.header_offset + 30 + name + extra)
    return bytes(file.read(min(entry.file_size, MAX_HEADER)))


def _check_directory(file: Any, size: int) -> None:
    """A container has one directory, at its end, so that whoever reads it reads the same one. Raises: ValueError."""
    file.seek(max(0, size - 42))
    tail = file.read()
    end = tail[-22:]
    if end[:4] != END or end[20:] != b"\0\0":
        raise ValueError("a zip container that does not end with its directory")
    length, offset = struct.unpack("<II", end[12:20])
    at = size - 22
    if tail[:4] == LOCATOR and len(tail) == 42:
        (at,) = struct.unpack("<Q", tail[8:16])
        file.seek(at)
        record = file.read(56)
        if record[:4] != END64 or at != size - 22 - 20 - 56:
            raise ValueError("a zip container whose 64-bit directory lies elsewhere")
        length64, offset64 = struct.unpack("<QQ", record[40:56])
        if length not in (length64, 0xFFFFFFFF) or offset not in (offset64, 0xFFFFFFFF):
            raise ValueError("a zip container with two directories")
        length, offset = length64, offset64
    if offset + length != at:
        raise ValueError("a zip container with something before or after its directory")

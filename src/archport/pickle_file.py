"""A pytorch_model.bin: looked through before torch reads it; it can run nothing and claim no more than it holds."""

import mmap
import pickletools
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError
from .safetensors_file import MAX_HEADER, MAX_TENSORS, what_is
from .translate import Header

# What a state_dict needs to name; torch's own list is longer.
NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch.storage UntypedStorage",
}
MAX_OPCODES = 1_000_000
LEGACY_PICKLES = 5  # magic number, protocol version, byte order, the state_dict, keys of its storages


class PickleFile:
    """A pytorch_model.bin: the zip container is mapped, the older plain pickle is read into memory as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.mapped = file.read(4) == b"PK\x03\x04"

    @cached_property
    def headers(self) -> dict[str, Header]:
        """Shapes and dtypes, from the pickle alone. Raises: CheckpointError."""
        try:
            names = sorted(set(self._names()) - NAMES)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged container can raise nearly anything
            raise self._no_checkpoint(error) from None
        code = next((name for name in names if not _is_storage(name)), None)
        if code:
            raise CheckpointError(
                f"{self.path}: found a call of {code.replace(' ', '.')[:100]}, expected names and dense tensors only: "
                "it was not run; ask for safetensors"
            )
        tensors = self._load(map_location="meta")
        self._check_sizes(tensors)
        return {key: Header(tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}

    def tensor(self, key: str, *, own: bool = False) -> Tensor:
        """A tensor by its key, where it lies in the file or in memory of its `own`."""
        tensor = self._tensors[key].detach()
        return tensor.clone() if own else tensor

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return self._load(map_location="cpu", mmap=self.mapped) if self.headers else {}

    def _load(self, **options: Any) -> dict[str, Tensor]:
        try:
            state = torch.load(self.path, weights_only=True, **options)
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise self._no_checkpoint(error) from None
        tensors = isinstance(state, dict) and all(
            isinstance(key, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided
            for key, tensor in state.items()
        )
        if not tensors:
            raise CheckpointError(
                f"{self.path}: found something else, expected a dictionary of names and dense tensors"
            )
        return state  # type: ignore[no-any-return]

    def _check_sizes(self, tensors: dict[str, Tensor]) -> None:
        """Each storage must fit into the file and each tensor into its storage, so that shapes are backed by bytes."""
        size = self.path.stat().st_size
        for key, tensor in tensors.items():
            held = tensor.untyped_storage().nbytes()
            if held > size or tensor.nbytes > held:
                claims = f"{tuple(tensor.shape)} of {tensor.nbytes} bytes"
                raise CheckpointError(f"{self.path}: {key[:100]}: found {min(held, size)} bytes, expected {claims}")

    def _names(self) -> Iterator[str]:
        """Every function or class that the pickles of the file name, without running one."""
        if self.mapped:
            yield from _named(self._zipped_pickle())
            return
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            for _ in range(LEGACY_PICKLES):
                yield from _named(raw)

    def _zipped_pickle(self) -> bytes:
        """The one pickle of a zip container whose entries all lie in the file as they are."""
        with zipfile.ZipFile(self.path) as container:
            entries = container.infolist()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    packed = f"found {entry.filename[:100]!r} compressed or encrypted"
                    raise CheckpointError(f"{self.path}: {packed}, expected it stored as it is")
            pickles = [entry for entry in entries if entry.filename.split("/")[1:] == ["data.pkl"]]
            if len(pickles) != 1 or len(entries) > MAX_TENSORS:
                raise ValueError(f"{len(pickles)} times data.pkl among {len(entries)} entries")
            if pickles[0].file_size > MAX_HEADER:
                raise ValueError(f"a data.pkl of {pickles[0].file_size} bytes")
            return container.read(pickles[0])

    def _no_checkpoint(self, error: Exception) -> CheckpointError:
        found = what_is(self.path)
        reason = f" ({' '.join(str(error).split())[:100]})" if "something else" in found else ""
        return CheckpointError(f"{self.path}: found {found}, expected a PyTorch checkpoint{reason}")


def _named(stream: Any) -> Iterator[str]:
    """The names in one pickle. Raises: ValueError when it is damaged or uses what torch never writes."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name == "GLOBAL":
            yield str(argument)
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4") or count > MAX_OPCODES:
            raise ValueError(f"{opcode.name} after {count} steps of its pickle")


def _is_storage(name: str) -> bool:
    module, _, leaf = name.partition(" ")
    return module in ("torch", "torch.storage") and leaf.endswith("Storage") and leaf.isidentifier()

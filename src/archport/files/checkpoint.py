"""A checkpoint folder as config, headers and lazily read tensors; nothing but headers is read until asked for."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..config import Origin
from ..errors import CheckpointError
from .header import Header
from .memory import drop
from .pickle_file import PickleFile
from .safetensors_file import SafetensorsFile
from .strict_json import read_json, regular_file

CONFIG = "config.json"
GENERATION = "generation_config.json"
# In the order of preference; an index names shards.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What a checkpoint carries besides config and weights, as patterns; taken along on export, byte for byte.
TEMPLATES = "additional_chat_templates"
COMPANIONS = (
    GENERATION,
    "tokenizer*.json",  # and tokenizer_config.json
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.json",
    "encoder.json",
    "tekken.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "*.model",  # SentencePiece calls them tokenizer.model, spiece.model, sentencepiece.bpe.model
    "tokenizer.model.*",
    "*.tiktoken",
    "bpe.codes",
    "chat_template.jinja",
    "chat_template.json",
    f"{TEMPLATES}/*.jinja",
)
# Far above any published file, far below what would hang or fill the machine.
MAX_CONFIG = 1 << 20
MAX_INDEX = 16 << 20
SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")
SHOWN = 10  # faults of an index


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
    """A config, the headers of all tensors, and the files to read them from (none where only headers were fetched).

    `remote` are files of which single tensors can be asked for then. `copied` asks for memory of their own for all
    tensors, wherever files could be mapped. `notes` are lines on what was left aside or taken for something else.
    """

    origin: Origin
    headers: Mapping[str, Header]
    names: tuple[str, ...]
    file_bytes: int
    files: Mapping[str, WeightsFile]
    copied: bool = False
    remote: Mapping[str, WeightsFile] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def mapped(self) -> bool:
        """Whether tensors are used where they lie on disk."""
        return not self.copied and all(file.mapped for file in (self.files or self.remote).values())

    def read(self, key: str, *, own: bool = False) -> Tensor:
        """One tensor by the file's own key, mapped where the file is, or in memory of its `own`."""
        return (self.files or self.remote)[key].tensor(key, own=own or self.copied)

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a piece go that was read and copied; the file still has it."""
        # A stride that is neither of these may claim more bytes than the file has.
        if self.mapped and (tensor.is_contiguous() or tensor.transpose(0, -1).is_contiguous()):
            drop(tensor)


def open_folder(
    folder: Path, *, name: str, revision: str | None = None, commit: str | None = None, blobs: Path | None = None
) -> Checkpoint:
    """Read a folder's configs and headers; `blobs` is where files of the Hub's cache may lie.

    Raises: CheckpointError when a file is missing, damaged or lies elsewhere.
    """
    hf = read_json(companion(folder, CONFIG, blobs), MAX_CONFIG)
    present = [path.name for path in folder.iterdir()]
    generation = read_json(companion(folder, GENERATION, blobs), MAX_CONFIG) if GENERATION in present else None
    weights = companion(folder, choose_weights(present, name), blobs)
    index = None
    shards = [weights.name]
    if weights.suffix == ".json":
        index = read_index(weights)
        shards = [shard for shard in shard_names(index) if shard in present]
    opened = [open_weights(companion(folder, shard, blobs)) for shard in shards]
    if index is not None:
        held = {file.path.name: file.headers.keys() for file in opened}
        others = [file for file in present if SHARD.fullmatch(file) and file.endswith(_suffix(weights))]
        check_index(index, held, weights, others)
    files = {key: file for file in opened for key in file.headers}
    headers = {key: header for file in opened for key, header in file.headers.items()}
    size = sum(file.path.stat().st_size for file in opened)
    return Checkpoint(Origin(name, hf, folder, revision, commit, generation), headers, tuple(shards), size, files)


def companions_among(names: Iterable[str]) -> list[str]:
    """Those of the files of a folder or repository that are taken along on export."""
    here = (name for name in names if "/" not in name or name.startswith(f"{TEMPLATES}/"))
    return sorted(name for name in here if any(fnmatchcase(name, pattern) for pattern in COMPANIONS))


def companions_of(folder: Path) -> list[str]:
    """The names of the files in a folder that are taken along on export."""
    paths = [*folder.iterdir(), *(folder / TEMPLATES).glob("*.jinja")]
    return companions_among(path.relative_to(folder).as_posix() for path in paths)


def companion(folder: Path, name: str, blobs: Path | None = None) -> Path:
    """A file of a folder; links may lead out of it only into `blobs` of the Hub's cache. Raises: CheckpointError."""
    path = folder / name
    regular_file(path)
    real, home = path.resolve(), folder.resolve()
    if blobs is None:
        blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    if not (real.is_relative_to(home) or real.is_relative_to(blobs)):
        raise CheckpointError(f"{path}: found a link to {real}, expected a file inside its folder: copy it there")
    return path


def choose_weights(names: list[str], where: str) -> str:
    """The file to read weights from, or the index that names them, among the files of a folder or repository."""
    for name in WEIGHTS:
        if name in names:
            return name
    raise CheckpointError(f"{where}: no weights found, expected {' or '.join(WEIGHTS[:3])}")


def read_index(path: Path) -> dict[str, str]:
    """The shard that holds each tensor; each is the bare name of a file beside the index. Raises: CheckpointError."""
    entries = read_json(path, MAX_INDEX).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(f"{path}: no weight_map found, expected an index of shards")
    weight_map = {key: str(shard) for key, shard in entries.items()}
    suffix = _suffix(path)
    for shard in weight_map.values():
        if not re.fullmatch(r"[\w.-]+", shard) or not shard.endswith(suffix):
            raise CheckpointError(f"{path}: found shard {shard[:100]!r}, expected the bare name of a {suffix} file")
    return weight_map


def shard_names(weight_map: Mapping[str, str]) -> list[str]:
    """The shards an index names, in order."""
    return sorted(set(weight_map.values()))


def check_index(
    weight_map: Mapping[str, str], held: Mapping[str, Iterable[str]], path: Path, others: Iterable[str] = ()
) -> None:
    """Compare an index with what its shards hold, and with `others` that lie there. Raises: CheckpointError."""
    faults = [f"{shard} is missing" for shard in shard_names(weight_map) if shard not in held]
    faults += [f"{shard} is there, but not listed" for shard in sorted(set(others) - set(weight_map.values()))]
    places: dict[str, list[str]] = {}
    for shard, keys in held.items():
        for key in keys:
            places.setdefault(key, []).append(shard)
    for key, shards in places.items():
        if len(shards) > 1:
            faults.append(f"{key} is in {' and in '.join(shards)}")
        elif key not in weight_map:
            faults.append(f"{key} is in {shards[0]}, but not listed")
        elif weight_map[key] != shards[0]:
            faults.append(f"{key} is in {shards[0]}, but listed in {weight_map[key]}")
    faults += [f"{key} is in no file" for key, shard in weight_map.items() if key not in places and shard in held]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        listed = "; ".join(fault[:200] for fault in faults[:SHOWN])
        raise CheckpointError(f"{path}: expected shards as listed, found: {listed}{more}: fetch them again")


def _suffix(index: Path) -> str:
    return ".safetensors" if "safetensors" in index.name else ".bin"


def check_hashes(checkpoint: Checkpoint) -> None:
    """Compare the bytes of config and weights with the hashes that the Hub's cache names them by, offline.

    Raises: CheckpointError for a file that differs, or that lies in no cache.
    """
    folder = checkpoint.origin.folder or Path()
    for name in (CONFIG, *checkpoint.names):
        blob = (folder / name).resolve()
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            raise CheckpointError(f"{folder / name}: has no hash to compare with, expected a file of the Hub's cache")
        as_git_does = hashlib.sha1(b"blob %d\0" % blob.stat().st_size)  # for files outside of LFS
        digest = hashlib.sha256() if len(blob.name) == 64 else as_git_does
        with blob.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != blob.name:
            difference = f"found bytes that hash to {digest.hexdigest()}, expected {blob.name}"
            raise CheckpointError(f"{folder / name}: {difference}: delete it and fetch it again")


def open_weights(path: Path) -> WeightsFile:
    """A file of tensors by its ending."""
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PickleFile(path)

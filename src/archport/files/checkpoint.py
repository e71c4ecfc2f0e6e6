"""A checkpoint folder as config, headers and lazily read tensors; nothing but headers is read until asked for."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..config import Origin
from ..errors import CheckpointError
from .adapter import ADAPTER, adapter_notes, require_model
from .choosing import choose_weights, lying
from .header import Header
from .memory import drop
from .pickle_file import PickleFile
from .safetensors_file import SafetensorsFile
from .shards import check_index, read_index, shard_names
from .strict_json import read_json, regular_file
from .values import same_bytes

CONFIG = "config.json"
GENERATION = "generation_config.json"
LITGPT_CONFIG = "model_config.yaml"
MAX_CONFIG = 1 << 20  # far above any published file, far below what would hang or fill the machine


class WeightsFile(Protocol):
    """One file of tensors."""

    path: Path
    mapped: bool

    @property
    def notes(self) -> Sequence[str]:
        """Lines on what of it was left aside."""

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
    `own_names` are the files' names of tensors that are called something else here. In a `format` that is not
    transformers', `settings` are the config as that writes it, and the origin's, where it has one, is what a file of
    ours says beside them.
    """

    origin: Origin
    headers: Mapping[str, Header]
    names: tuple[str, ...]
    file_bytes: int
    files: Mapping[str, WeightsFile]
    copied: bool = False
    remote: Mapping[str, WeightsFile] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    own_names: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def weights_name(self) -> str:
        """What messages call its weights: their file, or the folder of several."""
        if len(self.names) != 1 or self.origin.name.endswith(self.names[0]):
            return self.origin.name
        return f"{self.origin.name}/{self.names[0]}"

    @property
    def config_name(self) -> str:
        """What messages call its config: the file, where it is one."""
        if not self.names or (self.origin.alone and (self.format is not None or self.origin.folder is None)):
            return f"config of {self.origin.name}"
        return (
            str(self.origin.folder / CONFIG)
            if self.origin.alone and self.origin.folder
            else f"{self.origin.name}/{CONFIG}"
        )

    @property
    def paths(self) -> dict[str, Path]:
        """The files that config and weights come from, by their names."""
        folder, weights = self.origin.folder, {file.path.name: file.path for file in self.files.values()}
        beside = [] if folder is None else [folder / name for name in (CONFIG, LITGPT_CONFIG)]
        return {path.name: path for path in beside if path.exists()} | weights

    @property
    def mapped(self) -> bool:
        """Whether tensors are used where they lie on disk."""
        return not self.copied and all(file.mapped for file in (self.files or self.remote).values())

    def read(self, key: str, *, own: bool = False) -> Tensor:
        """One tensor by its name here, mapped where the file is, or in memory of its `own`."""
        return (self.files or self.remote)[key].tensor(self.own_names.get(key, key), own=own or self.copied)

    def renamed(self, names: Mapping[str, str], note: str) -> "Checkpoint":
        """The same tensors, each under a new name that `names` maps to the one so far; the note says so."""
        return replace(
            self,
            headers={new: self.headers[old] for new, old in names.items()},
            files={new: self.files[old] for new, old in names.items() if old in self.files},
            remote={new: self.remote[old] for new, old in names.items() if old in self.remote},
            own_names={new: self.own_names.get(old, old) for new, old in names.items()},
            notes=(*self.notes, note),
        )

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a piece go that was read and copied, with what lies between; the file still has it."""
        if self.mapped:
            drop(tensor)


def open_folder(
    folder: Path,
    *,
    name: str,
    revision: str | None = None,
    commit: str | None = None,
    blobs: Path | None = None,
    variant: str | None = None,
    follow_links: bool = False,
) -> Checkpoint:
    """Read a folder's configs and headers; `blobs` is where files of the Hub's cache may lie.

    `variant` is that of the weights. Links that lead elsewhere are followed only if `follow_links` says so.

    Raises: CheckpointError when a file is missing, damaged or lies elsewhere.
    """

    def beside(file: str) -> Path:
        return companion(folder, file, blobs, follow_links=follow_links)

    present = [path.name for path in folder.iterdir()]
    alone = ADAPTER in present and CONFIG not in present
    base = read_json(beside(ADAPTER), MAX_CONFIG).get("base_model_name_or_path") if alone else None
    require_model(present, name, base)
    if CONFIG not in present:
        raise CheckpointError(f"{folder / CONFIG}: not found, expected a file{lying(present)}")
    hf = read_json(beside(CONFIG), MAX_CONFIG)
    generation = read_json(beside(GENERATION), MAX_CONFIG) if GENERATION in present else None
    weights = beside(choose_weights(present, name, hf, variant))
    index = read_index(weights) if weights.suffix == ".json" else None
    shards = [weights.name] if index is None else [shard for shard in shard_names(index) if shard in present]
    held = {shard: open_weights(beside(shard)) for shard in shards}
    of_shard = {shard: file.headers for shard, file in held.items()}
    notes = [note for file in held.values() for note in file.notes]  # which are known with the headers
    notes += adapter_notes(present, name)
    if index is not None:
        notes += check_index(index, of_shard, weights, present, same=partial(_same, held))
    files = {key: file for file in held.values() for key in file.headers}
    headers = {key: header for one in of_shard.values() for key, header in one.items()}
    size = sum(file.path.stat().st_size for file in held.values())
    origin = Origin(name, hf, folder, revision, commit, generation, variant, follow_links)
    return Checkpoint(origin, headers, tuple(held), size, files, notes=tuple(notes))


def _same(held: Mapping[str, WeightsFile], key: str, shards: Sequence[str]) -> bool:
    first, *others = (held[shard].tensor(key) for shard in shards)
    return all(same_bytes(first, other) for other in others)


def companion(folder: Path, name: str, blobs: Path | None = None, *, follow_links: bool = False) -> Path:
    """A file of a folder; links may lead out of it only into `blobs` of the Hub's cache, or where all are followed.

    Raises: CheckpointError.
    """
    path = folder / name
    regular_file(path)
    real, home = path.resolve(), folder.resolve()
    if blobs is None:
        blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    if not (follow_links or real.is_relative_to(home) or real.is_relative_to(blobs)):
        allow = "copy it there, or allow links out of it by --follow-links, follow_links=True"
        raise CheckpointError(f"{path}: found a link to {real}, expected a file inside its folder: {allow}")
    return path


def check_hashes(checkpoint: Checkpoint) -> None:
    """Compare the bytes of config and weights with the hashes that the Hub's cache names them by, offline.

    Raises: CheckpointError for a file that differs, or that lies in no cache.
    """
    folder = checkpoint.origin.folder or Path()
    if checkpoint.origin.alone:
        raise CheckpointError(
            f"{checkpoint.origin.name}: has no hash to compare with, expected a repository of the Hub"
        )
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

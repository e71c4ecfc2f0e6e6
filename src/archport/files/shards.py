"""An index and the shards it names, read as transformers reads them: every tensor of those shards, wherever listed."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import CheckpointError, plain
from .header import Header
from .remedy import get_again
from .strict_json import read_json

MAX_INDEX = 16 << 20  # far above any published file
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
SHOWN = 10  # names in a line


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
    weight_map: Mapping[str, str],
    held: Mapping[str, Mapping[str, Header]],
    path: Path,
    present: Iterable[str] = (),
    *,
    same: Callable[[str, Sequence[str]], bool] | None = None,
) -> list[str]:
    """Compare an index with the headers `held` by each shard that is there, and the names of files `present` beside it.

    What changes no tensor comes back as notes. `same` says whether a tensor has the same bytes in several shards;
    without it, only their headers are compared. Raises: CheckpointError for a shard or a choice that is missing.
    """
    missing = [shard for shard in shard_names(weight_map) if shard not in held]
    if missing:
        raise CheckpointError(f"{path}: expected shards as listed, {_some(missing)} missing: {get_again(path)}")
    places: dict[str, list[str]] = {}
    for shard, keys in held.items():
        for key in keys:
            places.setdefault(key, []).append(shard)
    twice = {key: shards for key, shards in places.items() if len(shards) > 1}
    for key, shards in twice.items():
        headers = {held[shard][key] for shard in shards}
        if len(headers) > 1 or (same is not None and not same(key, shards)):
            places_of_it = " and in ".join(shards)
            found = f"found {plain(key[:200])} in {places_of_it}, with other values, expected it in one"
            raise CheckpointError(f"{path}: {found}: {get_again(path)}")
    stale = [name for name in present if SHARD.fullmatch(name) and name.endswith(_suffix(path))]
    kinds = {
        "not listed, left aside": sorted(set(stale) - set(weight_map.values())),
        "listed, but in no shard": [key for key in weight_map if key not in places],
        "in two shards, with equal bytes" if same else "in two shards, with equal headers": list(twice),
        "not listed, read from the shard that has it": [key for key in places if key not in weight_map],
        "in another shard than listed, read from there": [
            key for key, shards in places.items() if weight_map.get(key, shards[0]) not in shards
        ],
    }
    return [f"{path}: {_some(names)} {kind}" for kind, names in kinds.items() if names]


def _some(names: Sequence[str]) -> str:
    """A few names, and how many more there are, with the verb."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(plain(name[:200]) for name in names[:SHOWN])}{more} {'are' if len(names) > 1 else 'is'}"


def _suffix(index: Path) -> str:
    return ".safetensors" if "safetensors" in index.name else ".bin"

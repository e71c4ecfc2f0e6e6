"""A repository of the Hugging Face Hub as a folder in the cache, or as headers alone."""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ...config import Origin
from ...errors import CheckpointError, SourceError
from ..adapter import ADAPTER, ADAPTER_WEIGHTS, adapter_notes, require_model
from ..checkpoint import CONFIG, MAX_CONFIG, Checkpoint, open_folder
from ..choosing import choose_weights, lying, of_variant
from ..companions import companions_among
from ..safetensors_file import checked
from ..shards import check_index, read_index, shard_names
from ..strict_json import read_json
from .access import HubAccess
from .answers import HostileAnswerError, answer, explanation, guard, once_online, told_to_stay_offline
from .ranges import RemoteFile

T = TypeVar("T")
TRIES = 3
PAUSE = 0.5  # seconds before the second try, doubled before the third
TIMEOUT = 10.0  # seconds without an answer


def open_repository(
    repo: str, revision: str | None, *, offline: bool, access: HubAccess, variant: str | None = None
) -> Checkpoint:
    """Download what is not in the cache yet, and open it. Raises: SourceError, CheckpointError."""
    folder, names, fetch = _snapshot(repo, revision, offline, access)
    if not any(name in names for name in of_variant(variant)) and (offline or told_to_stay_offline()):
        what = "its weights" if variant is None else f"weights of the variant {variant}"
        raise SourceError(f"{repo}: the cache holds its config but not {what}: {once_online()}")
    weights = choose_weights(names, repo, read_json(folder / CONFIG, MAX_CONFIG), variant)
    first = fetch(weights)
    wanted = shard_names(read_index(first)) if weights.endswith(".json") else []
    _fetch_all(fetch, [*wanted, *companions_among(names), *({ADAPTER} & {*names})])
    blobs = (folder.parents[1] / "blobs").resolve()  # which may be a link to another disk
    return open_folder(folder, name=repo, revision=revision, commit=folder.name, blobs=blobs, variant=variant)


def open_companions(repo: str, revision: str | None, *, offline: bool, access: HubAccess) -> Path:
    """The folder in the cache with config and tokenizer, fetched if need be. Raises: SourceError, CheckpointError."""
    folder, names, fetch = _snapshot(repo, revision, offline, access)
    _fetch_all(fetch, companions_among(names))
    return folder


def fetch_adapter(repo: str, *, offline: bool, access: HubAccess) -> Path:
    """The folder in the cache with an adapter's files, fetched if need be. Raises: SourceError, CheckpointError."""
    folder, names, fetch = _snapshot(repo, None, offline, access, needed=ADAPTER)
    _fetch_all(fetch, [name for name in ADAPTER_WEIGHTS if name in names][:1])
    return folder


def _snapshot(
    repo: str, revision: str | None, offline: bool, access: HubAccess, needed: str = CONFIG
) -> tuple[Path, list[str], Callable[[str], Path]]:
    """A commit's folder in the cache with the file that is `needed`, the names of its files, and how to fetch one."""
    offline = offline or told_to_stay_offline()
    names = [] if offline else _listing(repo, revision, access, needed)

    def fetch(name: str, at: str | None) -> Path:
        return _ask(repo, revision, lambda: _download(repo, name, at, access, local=offline))

    folder = fetch(needed, revision).parent
    if offline:
        names = [path.name for path in folder.iterdir()]
    # All other files are of this commit too, wherever the branch moves in the meantime.
    return folder, names, lambda name: fetch(name, folder.name)


def _fetch_all(fetch: Callable[[str], Path], names: Sequence[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, names))


def open_headers(repo: str, revision: str | None, *, access: HubAccess, variant: str | None = None) -> Checkpoint:
    """Read config, index and safetensors headers only. Raises: SourceError, CheckpointError."""
    if told_to_stay_offline():
        return open_repository(repo, revision, offline=True, access=access, variant=variant)
    names = _listing(repo, revision, access)
    config = _ask(repo, revision, lambda: _download(repo, CONFIG, revision, access))
    hf, commit = read_json(config, MAX_CONFIG), config.parent.name
    weights = choose_weights(names, repo, hf, variant)
    if "safetensors" not in weights:
        reason = "has no safetensors, and pickle files show their shapes only when downloaded"
        raise CheckpointError(f"{repo}: {reason}: load it once, then it can be looked at offline")
    shards, index = [weights], None
    if weights.endswith(".json"):
        index = _ask(repo, revision, lambda: _download(repo, weights, commit, access))
        shards = shard_names(read_index(index))

    def fetch(shard: str) -> RemoteFile:
        tensors = _ask(repo, revision, lambda: _header(repo, shard, commit, access))
        entries = {
            key: {"dtype": tensor.dtype, "shape": _listed(tensor.shape), "data_offsets": _listed(tensor.data_offsets)}
            for key, tensor in tensors.items()
        }
        headers = checked(entries, f"{repo}/{shard}", None)
        places = {key: tuple(entries[key]["data_offsets"]) for key in headers}
        return RemoteFile(Path(shard), headers, places, partial(_bytes, repo, revision, shard, commit, access))

    with ThreadPoolExecutor(8) as pool:
        held = dict(zip(shards, pool.map(fetch, shards), strict=True))
    of_shard = {shard: file.headers for shard, file in held.items()}
    notes = [] if index is None else check_index(read_index(index), of_shard, index)
    headers = {key: header for file in held.values() for key, header in file.headers.items()}
    remote = {key: file for file in held.values() for key in file.headers}
    size = sum(header.bytes for header in headers.values())
    notes += adapter_notes(names, repo)
    origin = Origin(repo, hf, None, revision, commit, variant=variant)
    return Checkpoint(origin, headers, tuple(shards), size, {}, remote=remote, notes=tuple(notes))


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _header(repo: str, name: str, commit: str, access: HubAccess) -> dict[str, Any]:
    from huggingface_hub import errors

    try:
        return _api(access).parse_safetensors_file_metadata(repo, name, revision=commit).tensors  # type: ignore[no-any-return]
    except (AttributeError, KeyError, TypeError) as error:  # JSON, but not that of a header
        raise errors.SafetensorsParsingError(f"{name}: {error!r}") from None


def _bytes(repo: str, revision: str | None, name: str, commit: str, access: HubAccess, begin: int, end: int) -> bytes:
    """Some bytes of a file. Raises: SourceError."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repo, name, revision=commit, endpoint=access.endpoint)
    wanted = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    headers = build_hf_headers(token=access.token) | wanted

    def get() -> bytes:
        response = get_session().get(url, headers=headers, timeout=TIMEOUT)
        response.raise_for_status()
        content: bytes = response.content
        place = response.headers.get("Content-Range", "").partition("/")[0]
        if (response.status_code, len(content), place) != (206, end - begin, f"bytes {begin}-{end - 1}"):
            received = f"{len(content)} bytes with status {response.status_code}, {place[:60] or 'of no place'}"
            raise HostileAnswerError(f"{received}, for {name}, expected bytes {begin}-{end - 1}")
        return content

    guard()
    return _ask(repo, revision, get)


def _api(access: HubAccess) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=access.endpoint, token=access.token)


def _listing(repo: str, revision: str | None, access: HubAccess, needed: str = CONFIG) -> list[str]:
    """The names of a repository's files, the one that is `needed` among them."""
    if isinstance(access.token, str) and not re.fullmatch("[!-~]*", access.token):
        raise SourceError(f"{repo}: the token holds a space, a line break or a letter that no token has: copy it again")
    guard()
    info = _ask(repo, revision, lambda: _api(access).model_info(repo, revision=revision, timeout=TIMEOUT))
    names = [sibling.rfilename for sibling in info.siblings or ()]
    if needed == CONFIG:
        require_model(names, repo)
    if needed not in names:
        what = "a checkpoint that transformers loads" if needed == CONFIG else "an adapter that PEFT has saved"
        raise CheckpointError(f"{repo}: no {needed} found, expected {what}{lying(names)}")
    return names


def _download(repo: str, name: str, revision: str | None, access: HubAccess, *, local: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    guard()
    path = hf_hub_download(
        repo,
        name,
        revision=revision,
        token=access.token,
        cache_dir=access.cache_dir,
        endpoint=access.endpoint,
        etag_timeout=TIMEOUT,
        local_files_only=local,
    )
    return Path(path)


def _ask(repo: str, revision: str | None, question: Callable[[], T]) -> T:
    """Put a question to the Hub, three times unless the answer is final."""
    from huggingface_hub import errors

    attempt = 0
    while True:
        attempt += 1
        try:
            return question()
        except Exception as error:  # huggingface_hub lets through what the HTTP library, Xet and json raise
            reason = explanation(error)
            if reason is None and attempt == TRIES:
                reason = f"tried {TRIES} times, {answer(error)}; try later, or --offline if it is in the cache"
            if reason:
                kind = CheckpointError if isinstance(error, errors.SafetensorsParsingError) else SourceError
                raise kind(f"{repo}{f' at {revision}' if revision else ''}: {reason}") from None
            time.sleep(PAUSE * 2 ** (attempt - 1))

"""A repository of the Hugging Face Hub as a folder in the cache, or as headers alone; failures in one line."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from .checkpoint import (
    COMPANIONS,
    CONFIG,
    DTYPES,
    Checkpoint,
    choose_weights,
    open_folder,
    read_json,
    shard_names,
)
from .config import Origin
from .errors import CheckpointError, SourceError
from .translate import Header

T = TypeVar("T")
TRIES = 3
PAUSE = 0.5  # seconds before the second try, doubled before the third
TIMEOUT = 10.0  # seconds without an answer


class HubOptions(TypedDict, total=False):
    """How to reach the Hub, where the environment (HF_TOKEN, HF_HOME, HF_ENDPOINT) does not say."""

    token: str | bool | None
    cache_dir: str | Path | None
    endpoint: str | None


def open_repository(repo: str, revision: str | None, *, offline: bool, options: HubOptions) -> Checkpoint:
    """Download what is not in the cache yet, and open it. Raises: SourceError, CheckpointError."""
    if offline:
        config = _ask(repo, revision, lambda: _download(repo, CONFIG, revision, options, local_files_only=True))
        return open_folder(config.parent, name=repo, revision=revision, commit=config.parent.name)
    info = _info(repo, revision, options)
    names = [sibling.rfilename for sibling in info.siblings or ()]

    def fetch(name: str) -> Path:
        return _ask(repo, revision, lambda: _download(repo, name, revision, options))

    config = fetch(CONFIG)
    weights = choose_weights(names, repo)
    first = fetch(weights)
    wanted = shard_names(read_json(first), first) if weights.endswith(".json") else []
    wanted += [name for name in COMPANIONS if name in names]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, wanted))
    return open_folder(config.parent, name=repo, revision=revision, commit=info.sha)


def open_headers(repo: str, revision: str | None, *, options: HubOptions) -> Checkpoint:
    """Read config, index and safetensors headers only. Raises: SourceError, CheckpointError."""
    info = _info(repo, revision, options)
    names = [sibling.rfilename for sibling in info.siblings or ()]
    if not choose_weights(names, repo).startswith("model.safetensors"):
        raise CheckpointError(f"{repo}: has no safetensors, and pickle files show their shapes only when downloaded")
    config = _ask(repo, revision, lambda: _download(repo, CONFIG, revision, options))
    found = _ask(repo, revision, lambda: _api(options).get_safetensors_metadata(repo, revision=info.sha))
    headers: dict[str, Header] = {}
    size = 0
    for file in found.files_metadata.values():
        for key, tensor in file.tensors.items():
            if tensor.dtype not in DTYPES:
                raise CheckpointError(f"{repo}: {key} is {tensor.dtype}, a type archport does not know")
            headers[key] = Header(tuple(tensor.shape), DTYPES[tensor.dtype])
            size = size + headers[key].bytes
    origin = Origin(repo, read_json(config), None, revision, info.sha)
    return Checkpoint(origin, headers, tuple(sorted(found.files_metadata)), size, {})


def _api(options: HubOptions) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=options.get("endpoint"), token=options.get("token"))


def _info(repo: str, revision: str | None, options: HubOptions) -> Any:
    return _ask(repo, revision, lambda: _api(options).model_info(repo, revision=revision, timeout=TIMEOUT))


def _download(repo: str, name: str, revision: str | None, options: HubOptions, **more: Any) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=TIMEOUT, **options, **more))


def _ask(repo: str, revision: str | None, question: Callable[[], T]) -> T:
    """Put a question to the Hub; transport errors and the server's own are tried three times."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    failures: tuple[type[Exception], ...] = (OSError, HFValidationError, *_transport_errors())
    for attempt in range(TRIES):
        try:
            return question()
        except failures as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            final = _explanation(error, status)
            if final:
                raise SourceError(f"{repo}{f' at {revision}' if revision else ''}: {final}") from None
            if attempt == TRIES - 1:
                answer = f"the server answers {status}" if status else f"the connection fails ({_first_line(error)})"
                raise SourceError(
                    f"{repo}: tried {TRIES} times, {answer}; try later, or --offline if it is in the cache"
                ) from None
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _explanation(error: BaseException, status: int | None) -> str | None:
    """What to tell the person about an answer that will not change; None when another try may help."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "gated: ask for access on its page, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository on the Hub, or it is private: check the name, or log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such branch, tag or commit"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return None if error.__cause__ else "not in the cache: run once without offline"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and the repository is not in the cache"
    if isinstance(error, errors.EntryNotFoundError):
        return f"a file is missing: {_first_line(error)}"
    if isinstance(error, errors.HFValidationError):
        return f"neither a folder nor a Hub id: {_first_line(error)}"
    if status == 429:
        return "the server asks to slow down (429): try again in some minutes, or log in"
    if status is not None and status < 500:
        return f"the server refuses ({status}): log in with `hf auth login` or set HF_TOKEN"
    return None


def _transport_errors() -> tuple[type[Exception], ...]:
    """The base error of whichever HTTP library huggingface_hub stands on."""
    bases = {"httpx2": "TransportError", "httpx": "TransportError", "requests": "RequestException"}
    return tuple(getattr(sys.modules[library], name) for library, name in bases.items() if library in sys.modules)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

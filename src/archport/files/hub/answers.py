"""What the Hub answers: what is refused before huggingface_hub believes it, and a failure in one line."""

import os
import re
from typing import Any
from urllib.parse import urlsplit

from ...errors import in_a_line
from ..checkpoint import CONFIG, MAX_CONFIG
from ..shards import MAX_INDEX

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
MAX_LISTING = 32 << 20  # bytes


class HostileAnswerError(Exception):
    """An answer that would make huggingface_hub write outside its cache, or take in more than it should."""


def guard() -> None:
    """Refuse answers that are too long, or whose ETag or commit, which become file names, lead out of the cache."""
    from huggingface_hub import get_session

    session: Any = get_session()
    hooks = session.event_hooks if hasattr(session, "event_hooks") else session.hooks  # httpx, or requests before it
    if _refuse not in hooks["response"]:
        hooks["response"].append(_refuse)


def _refuse(response: Any, *_: Any, **__: Any) -> None:
    for name in ("ETag", "X-Linked-ETag", "X-Repo-Commit"):
        value = response.headers.get(name, "").lstrip("W/").strip('"')  # as huggingface_hub does
        if re.search(r"[/\\\0]|^\.+$", value):
            raise HostileAnswerError(f"{name} {response.headers[name][:60]!r}, which leads out of the cache")
    path = urlsplit(str(response.url)).path
    limit = MAX_LISTING if path.startswith("/api/") else _limit(path.rpartition("/")[2])
    size = response.headers.get("Content-Length", "")
    # Of a part of a file no more than was asked for; what begins at 0 may be the whole of a small file.
    if part := re.fullmatch(r"bytes=([1-9]\d*)-(\d+)", response.request.headers.get("Range", "")):
        limit = int(part[2]) - int(part[1]) + 1
    if limit is not None and size.isdigit() and int(size) > limit:
        raise HostileAnswerError(f"{size} bytes for {path[:60]}, expected at most {limit}")


def _limit(name: str) -> int | None:
    """How large a file may be, by its name."""
    if name == CONFIG:
        return MAX_CONFIG
    return MAX_INDEX if ".index." in name and name.endswith(".json") else None


def told_to_stay_offline() -> bool:
    """Whether the environment keeps huggingface_hub, and so us, off the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def once_online() -> str:
    """What to do about something that is not in the cache."""
    told = [name for name in OFFLINE if told_to_stay_offline() and name in os.environ]
    return f"run once without {told[0]}, which is set" if told else "run once without offline"


def explanation(error: BaseException) -> str | None:
    """What to tell the person about an answer that will not change; None when another try may help."""
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, HostileAnswerError):
        return f"the server answers with {error}: do not trust it"
    if isinstance(error, errors.GatedRepoError):
        return "gated: ask for access on its page, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository on the Hub, or it is private: check the name, or log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such branch, tag or commit: check the revision on its page"
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__  # what kept huggingface_hub from the file, after retries of its own
        if cause is None:
            return f"not in the cache: {once_online()}"
        return explanation(cause) or f"{answer(cause)}; try later"
    if isinstance(error, errors.EntryNotFoundError):
        return f"a file is missing: {in_a_line(error)}"
    if isinstance(error, errors.HFValidationError):
        return f"neither a folder nor a Hub id: {in_a_line(error)}"
    if isinstance(error, errors.SafetensorsParsingError):
        return f"found a damaged file, expected safetensors: {in_a_line(error)}"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no token found: log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, TypeError | KeyError | AttributeError):  # JSON, but not the Hub's
        return "the answer is not the Hub's: check HF_ENDPOINT if you set it"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
        return f"the cache cannot be used: {in_a_line(error)}"
    if status == 429:
        return "the server asks to slow down (429): try again in some minutes, or log in"
    if status in (401, 403):
        return f"the server refuses ({status}): log in with `hf auth login` or set HF_TOKEN"
    if status is not None and status < 500:
        return f"{answer(error)}: check the name, and HF_ENDPOINT if you set it"
    return None


def _status(error: BaseException) -> int | None:
    """The HTTP status, when the error is the server's; whichever HTTP library huggingface_hub stands on."""
    return getattr(getattr(error, "response", None), "status_code", None)


def answer(error: BaseException) -> str:
    """What the server answered, or what kept it from answering."""
    status = _status(error)
    if status is not None:
        return f"the server answers {status}"
    return f"no usable answer ({type(error).__name__}: {in_a_line(error)})"

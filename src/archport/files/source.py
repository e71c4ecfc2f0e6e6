"""What a person names as a source: a folder, a file, a Hub repository, or the checkpoint that ships inside."""

from pathlib import Path

from ..errors import SourceError
from ..keywords import strict_keywords
from .checkpoint import Checkpoint, open_folder
from .choosing import ENDINGS, check_variant, is_whole, kind_of
from .hub.access import HubAccess
from .hub.repository import fetch_adapter, open_companions, open_headers, open_repository
from .one_file import file_of, open_file

DEMO = Path(__file__).parents[1] / "demo"
BUNDLED = "the bundled demo"
SHORT = "bundled"  # by which it is named where nothing cannot be


def open_source(
    source: str | Path | None,
    revision: str | None,
    *,
    offline: bool,
    headers_only: bool,
    access: HubAccess,
    variant: str | None = None,
    follow_links: bool = False,
) -> Checkpoint:
    """The checkpoint of a source; of a Hub repository only its headers where they are enough and can be asked for.

    `variant` is that of its weights, as fp16; `follow_links` reads files that are links out of a folder.

    Raises: SourceError, CheckpointError.
    """
    check_variant(variant)
    place = _folder_or_id(source, revision)
    if isinstance(place, Path):
        name = BUNDLED if source is None else str(source)
        file = file_of(place) if place.is_dir() else place
        if file is not None and variant is not None:
            raise SourceError(f"{name}: found variant {variant!r}, expected none: {file.name} has no variants")
        if file is not None:
            return open_file(file, name=name, follow_links=follow_links)
        return open_folder(place, name=name, variant=variant, follow_links=follow_links)
    if headers_only and not offline:
        return open_headers(place, revision, access=access, variant=variant)
    return open_repository(place, revision, offline=offline, access=access, variant=variant)


@strict_keywords
def companions(
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    offline: bool = False,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """The folder with the tokenizer's files of a source; of a Hub repository nothing else is fetched.

    Raises: SourceError, CheckpointError.
    """
    place = _folder_or_id(source, revision)
    access = HubAccess(token, cache_dir, endpoint)
    if isinstance(place, Path):
        return place if place.is_dir() else place.parent
    return open_companions(place, revision, offline=offline, access=access)


def open_adapter(adapter: str | Path, *, offline: bool, access: HubAccess) -> Path:
    """The folder of an adapter, from the Hub if need be. Raises: SourceError."""
    place = _folder_or_id(adapter, None)
    if isinstance(place, Path) and not place.is_dir():
        raise SourceError(f"{adapter}: found a file, expected the folder or the Hub id of an adapter")
    return place if isinstance(place, Path) else fetch_adapter(place, offline=offline, access=access)


def is_folder(source: str | Path) -> bool:
    """Whether a source is a folder that is there."""
    try:
        return Path(source).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # a name too long, a home of no user
        return False


def source_named(name: str | Path | None) -> str | Path | None:
    """The source that a name stands for: none, that is the one inside, for `bundled` where no folder is called that."""
    return None if name == SHORT and not is_folder(name) else name


def _folder_or_id(source: str | Path | None, revision: str | None) -> Path | str:
    """A folder or a file of weights that is there, or what must be the id of a repository. Raises: SourceError."""
    if source is not None and not isinstance(source, str | Path):
        raise SourceError(f"found a {type(source).__name__} for a source, expected a folder or a Hub id")
    if source is not None and not str(source).strip():
        raise SourceError("the source is empty, expected a folder or a Hub id")
    if revision is not None and not isinstance(revision, str):
        raise SourceError(f"{source or BUNDLED}: found revision {revision!r:.60}, expected a branch, tag or commit")
    name = str(source)
    try:
        folder = DEMO if source is None else Path(source).expanduser()
        is_folder, is_there = folder.is_dir(), folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a home of no user
        raise SourceError(f"{name[:100]}: {error}, expected a folder or a Hub id") from None
    is_file = is_there and folder.is_file() and is_whole(folder.name)
    if (is_folder or is_file) and revision is not None:
        kind = "folder" if is_folder else "file"
        raise SourceError(f"{source or BUNDLED} at {revision}: a {kind} has no revisions, only the Hub has")
    if is_folder or is_file:
        return folder
    misspelt = name.endswith(ENDINGS) and folder.parent.is_dir()  # which no repository is called like
    if is_there or misspelt or name.startswith((".", "/", "~")) or name.count("/") > 1:
        kind = f" ({what})" if (what := kind_of(folder.name)) else ""
        found = f"a file{kind}" if is_there else f"no such {'file' if name.endswith(ENDINGS) else 'folder'}"
        raise SourceError(f"{name}: {found}, expected a folder or a Hub id")
    return name

"""Does a record still hold for the code at hand, and for the files, where they are at hand too?"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ArchportError, CheckpointError, SourceError, in_a_line
from ...files.hub.access import HubAccess
from ...files.source import BUNDLED, is_folder, open_source
from ...registry import architecture
from . import fingerprints
from .making import code_of, verified, versions
from .record import Record

DECIDING = ("torch", "transformers")  # another release may make other numbers
WORDS = {"table": "key table", "model": "code of the model", "sizes": "sizes of the tiny models"}


@dataclass(frozen=True)
class Standing:
    """Whether a record holds here: none of the `reasons` speaks against it. `notes` say what else there is to know.

    `files_seen` is false where those of its checkpoint were not at hand, so that it may hold for the code alone.
    """

    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    files_seen: bool = True

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return not self.reasons

    def __str__(self) -> str:
        if not self.holds:
            return f"does NOT hold: {'; '.join(self.reasons)}"
        return "holds" if self.files_seen else "holds for the code; its files were not at hand"


def standing(
    record: Record, source: str | Path | None = None, *, again: bool = False, offline: bool = False
) -> Standing:
    """Compare a record with the code, the libraries and the files at hand; `again` verifies anew what it speaks of.

    `source` is where its checkpoint is, if not where the record says. Only `again` downloads. What verifies again does
    so in other releases of torch and transformers too, which then are notes.

    Raises: SourceError where a `source` that was given, or one to verify `again`, cannot be had.
    """
    reasons, notes = _verdicts(record.reports), list[str]()
    try:
        reasons += _of_code(record)
    except ArchportError as error:  # no such architecture here, or no code of it
        return Standing((*reasons, in_a_line(error)))
    (notes if again else reasons).extend(_of_releases(record))
    of_architecture, files_seen = record.of == "architecture", True
    how: dict[str, Any] = {"source": record.architecture}
    if not of_architecture:
        try:
            how = {**_opening(record, source), "offline": offline}
            reasons += _of_files(record, {**how, "offline": offline or not again})
        except SourceError as error:
            if again or source is not None:
                raise
            notes.append(f"its files are not at hand and were not looked at: {in_a_line(error)}")
            files_seen = False
    if again:
        reports = verified(settings=record.settings, of_architecture=of_architecture, **how)
        reasons += _of_lines(record.reports, [one.to_dict() for one in reports])
    return Standing(tuple(dict.fromkeys(reasons)), tuple(notes), files_seen)


def _opening(record: Record, source: str | Path | None) -> dict[str, Any]:
    """How the checkpoint is opened: on the Hub at the commit of the record.

    Raises: SourceError for a folder or a file that is not where the record says.
    """
    of = record.source
    if source is None and of["name"] != BUNDLED:
        source = str(of["name"])
        if not of.get("commit") and not Path(source).expanduser().exists():  # so that it was not from the Hub
            raise SourceError(f"{source}: no such folder or file from here: --source says where it is")
    fixed = source is None or is_folder(source)
    revision = None if fixed else of.get("commit") or of.get("revision")
    return {"source": source, "revision": revision} | {name: of.get(name) for name in ("variant", "follow_links")}


def _verdicts(reports: Iterable[Mapping[str, Any]]) -> list[str]:
    return [report["verdict"] for report in reports if not report["ok"]]


def _of_code(record: Record) -> Iterator[str]:
    arch = architecture(record.architecture)
    for name, digest in code_of(arch, sizes=record.of == "architecture").items():
        if digest != record.code.get(name):
            yield f"the {WORDS[name]} of {arch.name} changed since"


def _of_releases(record: Record) -> Iterator[str]:
    here = versions()
    for name in DECIDING:
        if here[name] != record.versions.get(name):
            yield f"{name} is {here[name]}, the record's {record.versions.get(name, 'not said')}"


def _of_files(record: Record, how: Mapping[str, Any]) -> Iterator[str]:
    access = HubAccess()
    try:
        files = fingerprints.of_files(open_source(**how, headers_only=False, access=access))
    except CheckpointError as error:
        yield in_a_line(error)
        return
    for name in sorted(files.keys() | record.files.keys()):
        if name not in record.files or name not in files:
            yield f"{name}: {'not there' if name not in files else 'not in the record'}"
        elif files[name] != record.files[name]:
            yield f"{name}: found bytes that hash to {files[name]}, expected {record.files[name]}"


def _of_lines(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What speaks against a record in the reports of today: verdicts, and lines that are not drawn any more."""
    yield from _verdicts(now)
    drawn = {(report["name"] if len(then) > 1 else "", check["name"]) for report in now for check in report["checks"]}
    for report in then:
        name = report["name"] if len(then) > 1 else ""  # the only one has another name where its source has
        if gone := [check["name"] for check in report["checks"] if (name, check["name"]) not in drawn]:
            yield f"{report['name']}: not compared any more: {', '.join(gone)}"

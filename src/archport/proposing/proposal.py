"""A proposal: the program of a decoder, its files, and their proof."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ArchportError, MappingError, SourceError, in_a_line
from ..files.checkpoint import MAX_CONFIG
from ..files.source import is_folder
from ..files.strict_json import read_json
from ..files.write import whole_file
from ..keywords import strict_keywords
from ..registry import Architecture
from .abstract import Abstract
from .layer_types import with_windows
from .own_class import of_class
from .own_part import own_part
from .part import Program
from .proving import Proof, proof_of
from .reading import Hole
from .schedule import Unwritten
from .subject import Subject, named_sizes
from .transformers_class import config_of, of_kind, of_transformers
from .varying import reading
from .writing import written

DRAFT = "DRAFT, not proved: "


@dataclass(frozen=True)
class Proposal:
    """The port of a decoder that nobody has written.

    `program` is what it does, step by step, in our parts; `files` the text of models/NAME.py and mappings/NAME.py;
    `proof` what holds of them, and `holes` the places that no part of ours explains.
    """

    name: str
    source: str
    program: Program | None = None
    abstract: Abstract | None = None
    files: tuple[tuple[str, str], ...] = ()
    proof: Proof | None = None
    holes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it is proved."""
        return self.proof is not None and self.proof.ok and not self.holes

    @property
    def parts(self) -> list[str]:
        """The classes of the parts that it is put together of, each once."""
        settings = {} if self.program is None else self.program.settings()
        return list(dict.fromkeys(kind.__name__ for kind in settings.values() if isinstance(kind, type)))

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.source}"]
        if self.abstract is not None:
            whole = self.abstract
            lines.append(f"parts   {', '.join(self.parts)}")
            fixed = f", {len(whole.required)} required" + (f" ({', '.join(whole.required)})" if whole.required else "")
            lines.append(f"fields  {whole.used} used{fixed}, {len(whole.harmless)} harmless")
        lines += [f"hole    {one}" for one in self.holes]
        lines += [] if self.proof is None else self.proof.lines
        return "\n".join([*lines, f"seconds {self.seconds:.0f}"])

    def values(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        settings = {} if self.program is None else self.program.settings()
        whole, proof = self.abstract, self.proof
        return {
            "name": self.name,
            "source": self.source,
            "proved": self.ok,
            "holes": [*self.holes],
            "program": {path: one.__name__ if isinstance(one, type) else one for path, one in settings.items()},
            "parts": self.parts,
            "fields": None
            if whole is None
            else {"used": whole.used, "required": whole.required, "harmless": sorted(whole.harmless)},
            "faults": [] if proof is None else proof.faults,
            "dead": [] if proof is None else [*proof.dead],
            "missed": [] if proof is None else [*proof.missed],
            "never_varied": [] if proof is None else [*proof.never_varied],
            "kills": None if proof is None or proof.kills is None else [*proof.kills],
            "seconds": round(self.seconds, 1),
            "lines": {path: len(text.splitlines()) for path, text in self.files},
            "files": dict(self.files),
        }

    def write(self, folder: str | Path, *, draft: bool = False) -> list[Path]:
        """Write the two files below a folder; what is not proved only as a `draft`, which its first line says.

        Raises: SourceError where there is nothing to write, or no proof of it, or a file is there already.
        """
        if not self.files or not (self.ok or draft):
            why = "; ".join(self.holes) or "; ".join(self.proof.faults if self.proof else ["it was not proved"])
            raise SourceError(f"{self.name}: not written: {why}")
        paths = [Path(folder) / name for name, _ in self.files]
        if there := [str(path) for path in paths if path.exists()]:
            raise SourceError(f"{there[0]}: is there already, expected a folder without it")
        for path, (_, text) in zip(paths, self.files, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            whole_file(path, (text if self.ok else text.replace('"""', f'"""{DRAFT}', 1)).encode())
        return paths


@strict_keywords
def propose(
    source: str | type,
    *,
    name: str | None = None,
    config: str | Path | None = None,
    parts: Sequence[str] = (),
    kills: bool = True,
    revision: str | None = None,
    offline: bool = False,
    told: Callable[[str], None] = lambda _: None,
) -> Proposal:
    """Propose the port of a decoder: a model_type of transformers, or a class of one's own, as my_model.py:GPT.

    A folder or a Hub id is the decoder of its config.json, with what that says but the sizes; no weights are read. A
    class of transformers, or one made of it, may be given itself. `config` is a config.json of tiny sizes. `parts` are
    parts of one's own, as my_parts.py:Gate, which are tried where none of ours does what the decoder does.

    It is run at tiny sizes, and for each step the part of ours is found that makes the same numbers. What comes out is
    proved on other weights and ids, and, with `kills`, by planting every known bug. `told` gets a line a stage.

    Raises: SourceError where there is no such decoder, or none can be made at tiny sizes.
    """
    begun = time.perf_counter()
    subject = subject_of(source, config=config, revision=revision, offline=offline)
    own = tuple(own_part(one, named_sizes(subject.config)) for one in parts)
    subject = replace(subject, parts=own)
    source = source if isinstance(source, str) else subject.source
    name = name or subject.name.lower().replace("-", "_")

    def ended(*holes: str, **more: Any) -> Proposal:
        return Proposal(name, source, holes=holes, seconds=time.perf_counter() - begun, **more)

    told(f"{name}: made {subject.source} at tiny sizes")
    try:
        plain = reading(subject)
        subject, base = with_windows(subject, plain)
        told(f"{name}: read {len(base.program.blocks)} blocks, {len(base.program.takes)} of {len(base.shapes)} tensors")
        if base.left:
            return ended(*(f"{one} {base.shapes[one]}: no part has it" for one in base.left), program=base.program)
        whole, files, rows, arch = written(subject, base, name)
    except (Hole, Unwritten, MappingError) as hole:
        return ended(in_a_line(hole))
    told(f"{name}: written, {len(whole.constants)} fields beside the sizes")
    files += tuple((one.file.name, one.file.read_text()) for one in own if one.file is not None)
    found = {"program": whole.program, "abstract": whole, "files": files}
    try:
        return ended(**found, proof=proof_of(subject, whole, arch, rows, kills=kills))
    except (ArchportError, RuntimeError) as error:  # one of the models that it should be cannot be made, or not run
        return ended(**found, proof=Proof((), broken=in_a_line(error, 300)))


def subject_of(
    source: str | type, *, config: str | Path | None = None, revision: str | None = None, offline: bool = False
) -> Subject:
    """Whatever is to be read: a class, MODULE:CLASS, a folder or a Hub id, or a model_type.

    Raises: SourceError and others.
    """
    tiny: dict[str, Any] = {} if config is None else read_json(Path(config), MAX_CONFIG)
    if not isinstance(source, str):
        return of_kind(source, source.__name__, tiny=tiny)
    if ":" in source:
        return of_class(source, tiny)
    if is_folder(source) or "/" in source:
        hf = config_of(source, revision=revision, offline=offline)
        return of_transformers(hf["model_type"], hf, tiny)
    return of_transformers(source, tiny=tiny)


def architecture_read(source: str) -> Architecture:
    """The architecture of a decoder that archport does not have, as it is read, and not proved.

    Raises: SourceError, Hole, Unwritten.
    """
    subject = subject_of(source)
    subject, base = with_windows(subject, reading(subject))
    return written(subject, base, subject.name.lower().replace("-", "_"))[3]

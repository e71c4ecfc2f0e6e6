"""What lies beside the weights of a checkpoint, most of all its tokenizer: taken along on export, byte for byte."""

import shutil
import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import AsideWarning
from .checkpoint import GENERATION, companion

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


def companions_among(names: Iterable[str]) -> list[str]:
    """Those of the files of a folder or repository that are taken along."""
    here = (name for name in names if "/" not in name or name.startswith(f"{TEMPLATES}/"))
    return sorted(name for name in here if any(fnmatchcase(name, pattern) for pattern in COMPANIONS))


def companions_of(folder: Path) -> list[str]:
    """The names of the files in a folder that are taken along; a folder that is gone has none, which is said."""
    if not folder.is_dir():
        warnings.warn(AsideWarning(f"{folder}: is gone, so that no tokenizer is taken along"), stacklevel=6)
        return []
    paths = [*folder.iterdir(), *(folder / TEMPLATES).glob("*.jinja")]
    return companions_among(path.relative_to(folder).as_posix() for path in paths)


def copy_companions(folder: Path, names: Iterable[str], new: Path, *, follow_links: bool = False) -> None:
    """Copy files of a folder into a new one. Raises: CheckpointError for a link out of it."""
    for name in names:
        (new / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(companion(folder, name, follow_links=follow_links), new / name)
